//! The instruments of the exporter's own numbers and of its runtime.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Histogram, Meter};
use opentelemetry_sdk::metrics::{Instrument, Stream};
use tokio::runtime::RuntimeMetrics;

use super::catalog::{self, Kind, Metric};
use super::merged::overflow;
use super::process;
use super::views::{Rules, Stream as ViewedStream};
use crate::stats::{Counter, DurationSink, Stats};

/// From a millisecond, which a good inspect takes, to ten seconds, which is no longer "at once".
const EVENT_APPLY_BUCKETS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The series that one of the exporter's own streams has at most: one for each result of each push reader.
pub fn room(push_readers: usize) -> usize {
    (3 * push_readers).max(16)
}

/// The view that gives the exporter's own streams room for so many series. Room for the 2,000 of the SDK's own limit
/// would be taken at once, for each instrument. A stream's own limit is kept to where it is observed.
pub fn view(rules: &Rules, room: usize) -> impl Fn(&Instrument) -> Option<Stream> + Send + Sync + 'static {
    let streams: Vec<ViewedStream> = catalog::OWN.iter().flat_map(|metric| rules.streams(metric)).collect();
    move |instrument| {
        let stream = streams.iter().find(|stream| stream.name == instrument.name());
        let builder = Stream::builder().with_cardinality_limit(room);
        match stream.and_then(ViewedStream::sdk_aggregation) {
            Some(aggregation) => builder.with_aggregation(aggregation).build().ok(),
            None => builder.build().ok(),
        }
    }
}

/// Instruments of one meter, as the rules have them.
pub(super) struct Registrar<'m> {
    meter: &'m Meter,
    rules: &'m Rules,
}

/// Registers the instruments of the exporter's own numbers, of its process and of its runtime. What is returned is
/// what writes to the histograms, for as long as it is kept.
#[must_use]
pub fn register(
    meter: &Meter,
    rules: &Rules,
    stats: &Arc<Stats>,
    runtime: &RuntimeMetrics,
) -> Arc<DurationSink> {
    let registrar = &Registrar { meter, rules };
    let sink = register_stats(registrar, stats);
    process::register(registrar);
    register_runtime(registrar, runtime);
    sink
}

fn register_stats(registrar: &Registrar<'_>, stats: &Arc<Stats>) -> Arc<DurationSink> {
    let build_info = [
        KeyValue::new("version", crate::version::VERSION),
        KeyValue::new("revision", crate::version::REVISION),
        KeyValue::new("rustc", crate::version::RUSTC),
    ];
    gauge(registrar, &catalog::BUILD_INFO, move |o| o.observe(1.0, &build_info));
    let s = Arc::clone(stats);
    gauge(registrar, &catalog::CONTAINERS, move |o| o.observe(s.containers.get() as f64, &[]));
    let s = Arc::clone(stats);
    gauge(registrar, &catalog::LAST_SYNC, move |o| {
        let since = s.last_sync().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        o.observe(since.unwrap_or_default().as_secs_f64(), &[]);
    });
    results(registrar, &catalog::SYNCS, stats, |s| vec![("ok", &s.syncs_ok), ("error", &s.syncs_error)]);
    results(registrar, &catalog::INSPECTS, stats, |s| {
        vec![("ok", &s.inspects_ok), ("gone", &s.inspects_gone), ("error", &s.inspects_error)]
    });
    results(registrar, &catalog::SCRAPES, stats, |s| {
        vec![("ok", &s.scrapes_ok), ("error", &s.scrapes_error)]
    });
    let s = Arc::clone(stats);
    counter(registrar, &catalog::EVENT_STREAMS, move |o| o.observe(s.event_streams.get() as f64, &[]));
    let s = Arc::clone(stats);
    counter(registrar, &catalog::EVENT_GAPS, move |o| o.observe(s.event_gaps.get() as f64, &[]));
    let s = Arc::clone(stats);
    counter(registrar, &catalog::EVENT_OVERFLOWS, move |o| o.observe(s.event_overflows.get() as f64, &[]));
    let s = Arc::clone(stats);
    counter(registrar, &catalog::UNREADABLE, move |o| o.observe(s.unreadable.get() as f64, &[]));
    let s = Arc::clone(stats);
    counter(registrar, &catalog::OTLP_EXPORTS, move |o| {
        for (endpoint, result, count) in s.otlp_exports() {
            let attributes = [KeyValue::new("endpoint", endpoint), KeyValue::new("result", result)];
            o.observe(count as f64, &attributes);
        }
    });
    let histograms: Vec<Histogram<f64>> = registrar
        .rules
        .streams(&catalog::EVENT_APPLY)
        .into_iter()
        .map(|stream| {
            registrar
                .meter
                .f64_histogram(stream.name)
                .with_unit(stream.metric.unit)
                .with_description(stream.description)
                .with_boundaries(EVENT_APPLY_BUCKETS.to_vec())
                .build()
        })
        .collect();
    let sink: Arc<DurationSink> = Arc::new(move |after| {
        histograms.iter().for_each(|histogram| histogram.record(after.as_secs_f64(), &[]))
    });
    stats.on_event_apply(Arc::downgrade(&sink));
    let s = Arc::clone(stats);
    gauge(registrar, &catalog::UP, move |o| o.observe(f64::from(u8::from(s.is_up())), &[]));
    sink
}

fn register_runtime(registrar: &Registrar<'_>, runtime: &RuntimeMetrics) {
    let r = runtime.clone();
    gauge(registrar, &catalog::TOKIO_WORKERS, move |o| o.observe(r.num_workers() as f64, &[]));
    let r = runtime.clone();
    gauge(registrar, &catalog::TOKIO_ALIVE_TASKS, move |o| o.observe(r.num_alive_tasks() as f64, &[]));
    let r = runtime.clone();
    gauge(registrar, &catalog::TOKIO_QUEUE_DEPTH, move |o| o.observe(r.global_queue_depth() as f64, &[]));
    let r = runtime.clone();
    counter(registrar, &catalog::TOKIO_BUSY, move |o| {
        let busy: Duration = (0..r.num_workers()).map(|worker| r.worker_total_busy_duration(worker)).sum();
        o.observe(busy.as_secs_f64(), &[]);
    });
}

pub(super) fn gauge(
    registrar: &Registrar<'_>,
    metric: &'static Metric,
    callback: impl Fn(&dyn AsyncInstrument<f64>) + Send + Sync + 'static,
) {
    let callback = Arc::new(callback);
    for stream in registrar.rules.streams(metric) {
        let (builder, callback) =
            (registrar.meter.f64_observable_gauge(stream.name.clone()), Arc::clone(&callback));
        builder
            .with_unit(metric.unit)
            .with_description(stream.description.clone())
            .with_callback(move |observer| observe_kept(&stream, observer, &*callback))
            .build();
    }
}

pub(super) fn counter(
    registrar: &Registrar<'_>,
    metric: &'static Metric,
    callback: impl Fn(&dyn AsyncInstrument<f64>) + Send + Sync + 'static,
) {
    let callback = Arc::new(callback);
    for stream in registrar.rules.streams(metric) {
        let (builder, callback) =
            (registrar.meter.f64_observable_counter(stream.name.clone()), Arc::clone(&callback));
        builder
            .with_unit(metric.unit)
            .with_description(stream.description.clone())
            .with_callback(move |observer| observe_kept(&stream, observer, &*callback))
            .build();
    }
}

/// Observes with the attributes that the stream keeps, as many series as it may have. The SDK would not add up counts
/// that become the same by that, and its limit leaves out the series that stands for all others.
fn observe_kept(
    stream: &ViewedStream,
    observer: &dyn AsyncInstrument<f64>,
    callback: &dyn Fn(&dyn AsyncInstrument<f64>),
) {
    if stream.keys.is_none() && stream.limit.is_none() {
        return callback(observer);
    }
    let observed = Observed::default();
    callback(&observed);
    let mut points: Vec<(Vec<KeyValue>, f64)> = Vec::new();
    for (attributes, value) in observed.0.into_inner().unwrap_or_else(PoisonError::into_inner) {
        let mut attributes: Vec<_> =
            attributes.into_iter().filter(|a| stream.keeps(a.key.as_str())).collect();
        // As in the SDK, the limit is not for what has no attributes.
        let is_new = !attributes.is_empty() && points.iter().all(|(known, _)| *known != attributes);
        if is_new && stream.limit.is_some_and(|limit| points.len() + 1 >= limit) {
            attributes = overflow();
        }
        match points.iter_mut().find(|(known, _)| *known == attributes) {
            Some((_, sum)) if stream.metric.kind == Kind::Counter => *sum += value,
            Some((_, last)) => *last = value,
            None => points.push((attributes, value)),
        }
    }
    for (attributes, value) in points {
        observer.observe(value, &attributes);
    }
}

/// What a callback has observed.
#[derive(Default)]
struct Observed(Mutex<Vec<(Vec<KeyValue>, f64)>>);

impl AsyncInstrument<f64> for Observed {
    fn observe(&self, value: f64, attributes: &[KeyValue]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((attributes.to_vec(), value));
    }
}

/// A counter with one series for each result.
fn results(
    registrar: &Registrar<'_>,
    metric: &'static Metric,
    stats: &Arc<Stats>,
    counters: fn(&Stats) -> Vec<(&'static str, &Counter)>,
) {
    let stats = Arc::clone(stats);
    counter(registrar, metric, move |o| {
        for (result, count) in counters(&stats) {
            o.observe(count.get() as f64, &[KeyValue::new("result", result)]);
        }
    });
}
