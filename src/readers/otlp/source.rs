//! What is collected for a push reader: a meter provider, and what was collected of it.

use opentelemetry_sdk::metrics::data::ResourceMetrics;

use crate::readers::Manual;

/// A meter provider with its instruments.
pub(super) struct Source {
    manual: Manual,
    /// Whether a collection counts from the one before, so that none may be lost.
    is_delta: bool,
    /// Whether it counts from what others have collected, and has to be primed with that.
    is_unprimed: bool,
    /// What was collected, and the destination has not taken yet, the oldest first.
    pending: Vec<ResourceMetrics>,
}

impl Source {
    pub(super) fn new(is_delta: bool, manual: Manual) -> Self {
        Self { manual, is_delta, is_unprimed: false, pending: Vec::new() }
    }

    /// A source that goes on counting where others have ended. It is primed at its first collection.
    pub(super) fn resuming(is_delta: bool, manual: Manual) -> Self {
        Self { is_unprimed: is_delta, ..Self::new(is_delta, manual) }
    }

    /// Whether a collection counts from the one before.
    pub(super) fn is_delta(&self) -> bool {
        self.is_delta
    }

    /// What was collected, and the destination has not taken yet.
    pub(super) fn pending(&self) -> &[ResourceMetrics] {
        &self.pending
    }

    /// The destination has taken the oldest of what is pending.
    pub(super) fn taken(&mut self) {
        if !self.pending.is_empty() {
            self.pending.remove(0);
        }
    }

    /// Forgets what is pending, unless it counts.
    pub(super) fn discard(&mut self) {
        if !self.is_delta {
            self.pending = Vec::new();
        }
    }

    /// Gives up what is pending.
    pub(super) fn into_pending(self) -> Vec<ResourceMetrics> {
        self.pending
    }

    /// Collects what is set out by `observe`. The first time, `prime` sets out what others have collected before, so that
    /// deltas count from there.
    pub(super) fn collect(&mut self, prime: &dyn Fn(), observe: &dyn Fn()) -> Result<(), String> {
        self.discard();
        if std::mem::take(&mut self.is_unprimed) {
            prime();
            self.collect_now()?;
        }
        observe();
        let collected = self.collect_now()?;
        if collected.scope_metrics().next().is_some() {
            self.pending.push(collected);
        }
        Ok(())
    }

    fn collect_now(&self) -> Result<ResourceMetrics, String> {
        let mut metrics = ResourceMetrics::default();
        self.manual.collect(&mut metrics).map_err(|error| error.to_string())?;
        Ok(metrics)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use opentelemetry::metrics::AsyncInstrument;
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::metrics::Temporality;
    use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData};

    use super::*;

    /// A provider with a counter of `value`.
    fn manual(temporality: Temporality, value: &Arc<AtomicU64>) -> Manual {
        let manual = Manual::new(&Resource::builder_empty().build(), temporality, |b| b);
        let value = Arc::clone(value);
        let observe = move |o: &dyn AsyncInstrument<u64>| o.observe(value.load(Ordering::Relaxed), &[]);
        manual.meter().u64_observable_counter("counter").with_callback(observe).build();
        manual
    }

    fn values(source: &Source) -> Vec<u64> {
        let metrics = source.pending().iter().flat_map(ResourceMetrics::scope_metrics);
        let values = metrics.flat_map(|scope| scope.metrics()).map(|metric| {
            let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() else { panic!("no sum") };
            sum.data_points().next().unwrap().value()
        });
        values.collect()
    }

    #[test]
    fn what_counts_is_kept_until_it_is_taken() {
        let value = Arc::new(AtomicU64::new(0));
        let set = |number: u64| {
            let value = Arc::clone(&value);
            move || value.store(number, Ordering::Relaxed)
        };
        let mut delta = Source::new(true, manual(Temporality::Delta, &value));
        let mut cumulative = Source::new(false, manual(Temporality::Cumulative, &value));
        for number in [5, 7] {
            delta.collect(&set(3), &set(number)).unwrap();
            cumulative.collect(&set(3), &set(number)).unwrap();
        }
        assert_eq!((values(&delta), values(&cumulative)), (vec![5, 2], vec![7]));
        delta.taken();
        assert_eq!(values(&delta), [2]);
    }

    #[test]
    fn what_resumes_counts_from_what_others_have_collected() {
        let value = Arc::new(AtomicU64::new(0));
        let set = |number: u64| {
            let value = Arc::clone(&value);
            move || value.store(number, Ordering::Relaxed)
        };
        let mut delta = Source::resuming(true, manual(Temporality::Delta, &value));
        let mut cumulative = Source::resuming(false, manual(Temporality::Cumulative, &value));
        for number in [5, 7] {
            delta.collect(&set(3), &set(number)).unwrap();
            cumulative.collect(&set(3), &set(number)).unwrap();
        }
        assert_eq!((values(&delta), values(&cumulative)), (vec![2, 2], vec![7]));
    }
}
