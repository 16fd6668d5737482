//! Registers instruments over the exporter's own numbers, as views have them, for one provider.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};

use super::merged::overflow;
use super::views::{Rules, Stream};
use crate::catalog::{self, Kind, Metric};

/// Which of the exporter's own data points a provider has.
#[derive(Debug, Clone)]
pub struct SelfMetricsPart {
    /// Of the points that are observed, in the order in which their instruments are registered.
    pub observed: Range<usize>,
    /// Whether it has what is written to.
    pub histograms: bool,
}

impl SelfMetricsPart {
    /// All of them.
    pub const ALL: Self = Self { observed: 0..usize::MAX, histograms: true };
}

/// The series that a stream of this metric has at most. `room`: those of the exports.
pub(super) fn most_points(metric: &Metric, room: usize) -> usize {
    match metric.labels {
        [] => 1,
        _ if metric.name == catalog::OTLP_EXPORTS.name => room,
        // One for each result.
        _ => 3,
    }
}

/// Instruments of one meter, as the rules have them.
pub(super) struct Registrar<'m> {
    pub(super) meter: &'m Meter,
    rules: &'m Rules,
    room: usize,
    part: SelfMetricsPart,
    /// The place of the next stream's first point.
    next: Cell<usize>,
}

impl<'m> Registrar<'m> {
    pub(super) fn new(meter: &'m Meter, rules: &'m Rules, room: usize, part: SelfMetricsPart) -> Self {
        Self { meter, rules, room, part, next: Cell::new(0) }
    }

    pub(super) fn gauge(
        &self,
        metric: &'static Metric,
        callback: impl Fn(&dyn AsyncInstrument<f64>) + Send + Sync + 'static,
    ) {
        let callback = Arc::new(callback);
        for (stream, points) in self.observed_streams(metric) {
            let callback = Arc::clone(&callback);
            self.meter
                .f64_observable_gauge(stream.name.clone())
                .with_unit(metric.unit)
                .with_description(stream.description.clone())
                .with_callback(move |observer| observe(&stream, &points, observer, &*callback))
                .build();
        }
    }

    pub(super) fn counter(
        &self,
        metric: &'static Metric,
        callback: impl Fn(&dyn AsyncInstrument<f64>) + Send + Sync + 'static,
    ) {
        let callback = Arc::new(callback);
        for (stream, points) in self.observed_streams(metric) {
            let callback = Arc::clone(&callback);
            self.meter
                .f64_observable_counter(stream.name.clone())
                .with_unit(metric.unit)
                .with_description(stream.description.clone())
                .with_callback(move |observer| observe(&stream, &points, observer, &*callback))
                .build();
        }
    }

    /// The streams of what is written to.
    pub(super) fn histogram_streams(&self, metric: &'static Metric) -> Vec<Stream> {
        if self.part.histograms { self.rules.streams(metric) } else { Vec::new() }
    }

    /// The streams of which this provider has points, and which of their points.
    fn observed_streams(&self, metric: &'static Metric) -> Vec<(Stream, Range<usize>)> {
        let most = most_points(metric, self.room);
        let Range { start, end } = self.part.observed;
        let streams = self.rules.streams(metric).into_iter().filter_map(|stream| {
            let first = self.next.get();
            let next = first + most;
            self.next.set(next);
            // More than are expected go with the last one.
            let end = if end >= next { usize::MAX } else { end.saturating_sub(first) };
            let points = start.saturating_sub(first)..end;
            (start < next && !points.is_empty()).then_some((stream, points))
        });
        streams.collect()
    }
}

/// Observes these of a stream's points, with the attributes that it keeps, as many series as it may have. The SDK would
/// not add up counts that become the same by that, and its limit leaves out the series that stands for all others.
fn observe(
    stream: &Stream,
    points: &Range<usize>,
    observer: &dyn AsyncInstrument<f64>,
    callback: &dyn Fn(&dyn AsyncInstrument<f64>),
) {
    let observer = &Selected { observer, points, next: AtomicUsize::new(0) };
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

/// Lets some of the observations pass, by their places.
struct Selected<'a> {
    observer: &'a dyn AsyncInstrument<f64>,
    points: &'a Range<usize>,
    next: AtomicUsize,
}

impl AsyncInstrument<f64> for Selected<'_> {
    fn observe(&self, value: f64, attributes: &[KeyValue]) {
        if self.points.contains(&self.next.fetch_add(1, Ordering::Relaxed)) {
            self.observer.observe(value, attributes);
        }
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
