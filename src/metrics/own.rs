//! The instruments of the exporter's own numbers, of its process and of its runtime.

use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};
use opentelemetry_sdk::metrics::{Instrument, Stream};
use procfs::WithCurrentSystemInfo;
use procfs::process::{LimitValue, Process};
use tokio::runtime::RuntimeMetrics;

use super::catalog::{self, Metric};
use crate::stats::{Counter, DurationSink, Stats};

/// From a millisecond, which a good inspect takes, to ten seconds, which is no longer "at once".
const EVENT_APPLY_BUCKETS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The view that gives the exporter's own streams the room that they need: at most a series for each result of
/// each push reader. Room for the 2,000 of the SDK's own limit would be taken at once, for each instrument.
pub fn view(push_readers: usize) -> impl Fn(&Instrument) -> Option<Stream> + Send + Sync + 'static {
    let room = (3 * push_readers).max(16);
    move |_| Stream::builder().with_cardinality_limit(room).build().ok()
}

/// Registers the instruments of the exporter's own numbers, of its process and of its runtime.
pub fn register(meter: &Meter, stats: &Arc<Stats>, runtime: &RuntimeMetrics) {
    register_stats(meter, stats);
    register_process(meter);
    register_runtime(meter, runtime);
}

fn register_stats(meter: &Meter, stats: &Arc<Stats>) {
    let build_info = [
        KeyValue::new("version", crate::version::VERSION),
        KeyValue::new("revision", crate::version::REVISION),
        KeyValue::new("rustc", crate::version::RUSTC),
    ];
    gauge(meter, catalog::BUILD_INFO, move |o| o.observe(1.0, &build_info));
    let s = Arc::clone(stats);
    gauge(meter, catalog::CONTAINERS, move |o| o.observe(s.containers.get() as f64, &[]));
    let s = Arc::clone(stats);
    gauge(meter, catalog::LAST_SYNC, move |o| {
        let since = s.last_sync().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        o.observe(since.unwrap_or_default().as_secs_f64(), &[]);
    });
    results(meter, catalog::SYNCS, stats, |s| vec![("ok", &s.syncs_ok), ("error", &s.syncs_error)]);
    results(meter, catalog::INSPECTS, stats, |s| {
        vec![("ok", &s.inspects_ok), ("gone", &s.inspects_gone), ("error", &s.inspects_error)]
    });
    results(meter, catalog::SCRAPES, stats, |s| vec![("ok", &s.scrapes_ok), ("error", &s.scrapes_error)]);
    let s = Arc::clone(stats);
    counter(meter, catalog::EVENT_STREAMS, move |o| o.observe(s.event_streams.get() as f64, &[]));
    let s = Arc::clone(stats);
    counter(meter, catalog::EVENT_GAPS, move |o| o.observe(s.event_gaps.get() as f64, &[]));
    let s = Arc::clone(stats);
    counter(meter, catalog::UNREADABLE, move |o| o.observe(s.unreadable.get() as f64, &[]));
    let s = Arc::clone(stats);
    counter(meter, catalog::OTLP_EXPORTS, move |o| {
        for (endpoint, result, count) in s.otlp_exports() {
            let attributes = [KeyValue::new("endpoint", endpoint), KeyValue::new("result", result)];
            o.observe(count as f64, &attributes);
        }
    });
    let histogram = meter
        .f64_histogram(catalog::EVENT_APPLY.name)
        .with_unit(catalog::EVENT_APPLY.unit)
        .with_description(catalog::EVENT_APPLY.help)
        .with_boundaries(EVENT_APPLY_BUCKETS.to_vec())
        .build();
    let sink: Arc<DurationSink> = Arc::new(move |after| histogram.record(after.as_secs_f64(), &[]));
    stats.on_event_apply(Arc::downgrade(&sink));
    let s = Arc::clone(stats);
    gauge(meter, catalog::UP, move |o| {
        // The provider keeps this callback, and so the histogram is written to for as long as it can be read.
        let _ = &sink;
        o.observe(f64::from(u8::from(s.up.get())), &[]);
    });
}

/// What cannot be read from `/proc` is left out: it must not cost the rest of the scrape.
fn register_process(meter: &Meter) {
    counter(meter, catalog::PROCESS_CPU, |o| {
        let Some(stat) = Process::myself().and_then(|p| p.stat()).ok() else { return };
        o.observe((stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64, &[]);
    });
    gauge(meter, catalog::PROCESS_RESIDENT_MEMORY, |o| {
        let Some(stat) = Process::myself().and_then(|p| p.stat()).ok() else { return };
        o.observe(stat.rss_bytes().get() as f64, &[]);
    });
    gauge(meter, catalog::PROCESS_VIRTUAL_MEMORY, |o| {
        let Some(stat) = Process::myself().and_then(|p| p.stat()).ok() else { return };
        o.observe(stat.vsize as f64, &[]);
    });
    gauge(meter, catalog::PROCESS_THREADS, |o| {
        let Some(stat) = Process::myself().and_then(|p| p.stat()).ok() else { return };
        o.observe(stat.num_threads as f64, &[]);
    });
    gauge(meter, catalog::PROCESS_OPEN_FDS, |o| {
        let Some(count) = Process::myself().and_then(|p| p.fd_count()).ok() else { return };
        o.observe(count as f64, &[]);
    });
    gauge(meter, catalog::PROCESS_MAX_FDS, |o| {
        let Some(limits) = Process::myself().and_then(|p| p.limits()).ok() else { return };
        if let LimitValue::Value(max) = limits.max_open_files.soft_limit {
            o.observe(max as f64, &[]);
        }
    });
    gauge(meter, catalog::PROCESS_START_TIME, |o| {
        let Some(stat) = Process::myself().and_then(|p| p.stat()).ok() else { return };
        let Ok(boot) = procfs::boot_time_secs() else { return };
        o.observe(boot as f64 + stat.starttime as f64 / procfs::ticks_per_second() as f64, &[]);
    });
}

fn register_runtime(meter: &Meter, runtime: &RuntimeMetrics) {
    let r = runtime.clone();
    gauge(meter, catalog::TOKIO_WORKERS, move |o| o.observe(r.num_workers() as f64, &[]));
    let r = runtime.clone();
    gauge(meter, catalog::TOKIO_ALIVE_TASKS, move |o| o.observe(r.num_alive_tasks() as f64, &[]));
    let r = runtime.clone();
    gauge(meter, catalog::TOKIO_QUEUE_DEPTH, move |o| o.observe(r.global_queue_depth() as f64, &[]));
    let r = runtime.clone();
    counter(meter, catalog::TOKIO_BUSY, move |o| {
        let busy: Duration = (0..r.num_workers()).map(|worker| r.worker_total_busy_duration(worker)).sum();
        o.observe(busy.as_secs_f64(), &[]);
    });
}

fn gauge(
    meter: &Meter,
    metric: Metric,
    callback: impl Fn(&dyn AsyncInstrument<f64>) + Send + Sync + 'static,
) {
    meter
        .f64_observable_gauge(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .with_callback(callback)
        .build();
}

fn counter(
    meter: &Meter,
    metric: Metric,
    callback: impl Fn(&dyn AsyncInstrument<f64>) + Send + Sync + 'static,
) {
    meter
        .f64_observable_counter(metric.name)
        .with_unit(metric.unit)
        .with_description(metric.help)
        .with_callback(callback)
        .build();
}

/// A counter with one series for each result.
fn results(
    meter: &Meter,
    metric: Metric,
    stats: &Arc<Stats>,
    counters: fn(&Stats) -> Vec<(&'static str, &Counter)>,
) {
    let stats = Arc::clone(stats);
    counter(meter, metric, move |o| {
        for (result, count) in counters(&stats) {
            o.observe(count.get() as f64, &[KeyValue::new("result", result)]);
        }
    });
}
