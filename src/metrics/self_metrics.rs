//! The instruments of the exporter's own numbers and of its runtime.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{Histogram, Meter};
use opentelemetry_sdk::metrics::{Instrument, Stream};
use tokio::runtime::RuntimeMetrics;

use super::process;
use super::registrar::{Registrar, SelfMetricsPart, most_points};
use super::views::{Rules, Stream as ViewedStream};
use crate::catalog::{self, Kind, Metric};
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

/// The parts that the exporter's own metrics are collected in: one, unless that could be more than `limit` data points.
///
/// `separate_histograms`: what is written to is a part of its own. The SDK's deltas of such a part begin at the last
/// collection, so it must not be collected while nothing has been written.
pub fn parts(rules: &Rules, room: usize, limit: usize, separate_histograms: bool) -> Vec<SelfMetricsPart> {
    let points = |is_histogram: bool| -> usize {
        let metrics = catalog::OWN.iter().filter(|metric| (metric.kind == Kind::Histogram) == is_histogram);
        metrics.map(|metric| rules.streams(metric).len() * most_points(metric, room)).sum()
    };
    let (observed, written) = (points(false), points(true));
    if !separate_histograms && observed + written <= limit {
        return vec![SelfMetricsPart::ALL];
    }
    let limit = limit.max(1);
    let mut parts: Vec<SelfMetricsPart> = (0..observed)
        .step_by(limit)
        .map(|first| SelfMetricsPart { observed: first..first + limit, histograms: false })
        .collect();
    parts.push(SelfMetricsPart { observed: 0..0, histograms: true });
    parts
}

/// Registers the instruments of a part of the exporter's own numbers, of its process and of its runtime. What is
/// returned is what writes to the histograms, for as long as it is kept.
#[must_use]
pub fn register(
    meter: &Meter,
    rules: &Rules,
    room: usize,
    part: &SelfMetricsPart,
    stats: &Arc<Stats>,
    runtime: &RuntimeMetrics,
) -> Arc<DurationSink> {
    let registrar = &Registrar::new(meter, rules, room, part.clone());
    register_stats(registrar, stats);
    process::register(registrar);
    register_runtime(registrar, runtime);
    event_apply(registrar, stats)
}

fn register_stats(registrar: &Registrar<'_>, stats: &Arc<Stats>) {
    let build_info = [
        KeyValue::new("version", crate::version::VERSION),
        KeyValue::new("revision", crate::version::REVISION),
        KeyValue::new("rustc", crate::version::RUSTC),
    ];
    registrar.gauge(&catalog::BUILD_INFO, move |o| o.observe(1.0, &build_info));
    let s = Arc::clone(stats);
    registrar.gauge(&catalog::CONTAINERS, move |o| o.observe(s.containers.get() as f64, &[]));
    let s = Arc::clone(stats);
    registrar.gauge(&catalog::LAST_SYNC, move |o| {
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
    registrar.counter(&catalog::EVENT_STREAMS, move |o| o.observe(s.event_streams.get() as f64, &[]));
    let s = Arc::clone(stats);
    registrar.counter(&catalog::EVENT_GAPS, move |o| o.observe(s.event_gaps.get() as f64, &[]));
    let s = Arc::clone(stats);
    registrar.counter(&catalog::EVENT_OVERFLOWS, move |o| o.observe(s.event_overflows.get() as f64, &[]));
    let s = Arc::clone(stats);
    registrar.counter(&catalog::UNREADABLE, move |o| o.observe(s.unreadable.get() as f64, &[]));
    let s = Arc::clone(stats);
    registrar.counter(&catalog::OTLP_EXPORTS, move |o| {
        for (endpoint, result, count) in s.otlp_exports() {
            let attributes = [KeyValue::new("endpoint", endpoint), KeyValue::new("result", result)];
            o.observe(count as f64, &attributes);
        }
    });
    let s = Arc::clone(stats);
    registrar.gauge(&catalog::UP, move |o| o.observe(f64::from(u8::from(s.is_up())), &[]));
}

/// What writes to the histograms of the events' times.
fn event_apply(registrar: &Registrar<'_>, stats: &Arc<Stats>) -> Arc<DurationSink> {
    let histograms: Vec<Histogram<f64>> = registrar
        .histogram_streams(&catalog::EVENT_APPLY)
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
    sink
}

fn register_runtime(registrar: &Registrar<'_>, runtime: &RuntimeMetrics) {
    let r = runtime.clone();
    registrar.gauge(&catalog::TOKIO_WORKERS, move |o| o.observe(r.num_workers() as f64, &[]));
    let r = runtime.clone();
    registrar.gauge(&catalog::TOKIO_ALIVE_TASKS, move |o| o.observe(r.num_alive_tasks() as f64, &[]));
    let r = runtime.clone();
    registrar.gauge(&catalog::TOKIO_QUEUE_DEPTH, move |o| o.observe(r.global_queue_depth() as f64, &[]));
    let r = runtime.clone();
    registrar.counter(&catalog::TOKIO_BUSY, move |o| {
        let busy: Duration = (0..r.num_workers()).map(|worker| r.worker_total_busy_duration(worker)).sum();
        o.observe(busy.as_secs_f64(), &[]);
    });
}

/// A counter with one series for each result.
fn results(
    registrar: &Registrar<'_>,
    metric: &'static Metric,
    stats: &Arc<Stats>,
    counters: fn(&Stats) -> Vec<(&'static str, &Counter)>,
) {
    let stats = Arc::clone(stats);
    registrar.counter(metric, move |o| {
        for (result, count) in counters(&stats) {
            o.observe(count.get() as f64, &[KeyValue::new("result", result)]);
        }
    });
}
