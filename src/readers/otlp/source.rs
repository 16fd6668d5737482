//! What is collected for a push reader: a meter provider, made anew after a panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use opentelemetry_sdk::metrics::data::ResourceMetrics;

use crate::readers::Manual;

/// A meter provider with its instruments, and the way to make another.
pub(super) struct Source {
    make: Box<dyn Fn() -> Manual + Send + Sync>,
    /// `None` after a panic, until it is needed again.
    manual: Option<Manual>,
}

impl Source {
    pub(super) fn new(make: impl Fn() -> Manual + Send + Sync + 'static) -> Self {
        Self { manual: Some(make()), make: Box::new(make) }
    }

    /// Takes another provider: what is written to counts from here.
    pub(super) fn begin_anew(&mut self) {
        self.manual = Some((self.make)());
    }

    /// Everything that the instruments say now.
    ///
    /// A panic in a callback or in the SDK poisons the SDK's locks, and from then on it would collect nothing and
    /// say so to nobody. So the provider is thrown away, and a new one is asked, once.
    pub(super) fn collect(&mut self) -> Result<ResourceMetrics, String> {
        self.try_collect()
            .or_else(|| self.try_collect())
            .unwrap_or_else(|| Err("a panic while collecting".into()))
    }

    fn try_collect(&mut self) -> Option<Result<ResourceMetrics, String>> {
        let Self { make, manual } = self;
        let collected = catch_unwind(AssertUnwindSafe(|| {
            let manual = manual.get_or_insert_with(make);
            let mut metrics = ResourceMetrics::default();
            manual.collect(&mut metrics).map_err(|error| error.to_string())?;
            Ok(metrics)
        }));
        if collected.is_err() {
            self.manual = None;
        }
        collected.ok()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use opentelemetry_sdk::Resource;

    use super::*;

    /// A source with two instruments, of which one panics in these of its collections.
    fn source(panics: fn(usize) -> bool) -> Source {
        let collections = Arc::new(AtomicUsize::new(0));
        Source::new(move || {
            let manual = Manual::new(&Resource::builder_empty().build(), |b| b);
            let meter = manual.meter();
            meter.u64_observable_counter("good").with_callback(|o| o.observe(7, &[])).build();
            let collections = Arc::clone(&collections);
            meter
                .u64_observable_counter("bad")
                .with_callback(move |o| {
                    let number = collections.fetch_add(1, Ordering::Relaxed);
                    assert!(!panics(number), "meant to panic");
                    o.observe(7, &[]);
                })
                .build();
            manual
        })
    }

    fn names(source: &mut Source) -> Result<Vec<String>, String> {
        let collected = source.collect()?;
        Ok(collected.scope_metrics().flat_map(|s| s.metrics()).map(|m| m.name().to_owned()).collect())
    }

    #[test]
    fn a_panic_costs_nothing_but_the_provider() {
        let mut source = source(|collection| collection == 1);
        for _ in 0..3 {
            assert_eq!(names(&mut source).unwrap(), ["good", "bad"]);
        }
    }

    #[test]
    fn panics_without_end_are_told_and_end_with_their_reason() {
        let mut source = source(|collection| (1..=4).contains(&collection));
        assert!(names(&mut source).is_ok());
        assert_eq!(names(&mut source), Err("a panic while collecting".into()));
        assert_eq!(names(&mut source), Err("a panic while collecting".into()));
        assert_eq!(names(&mut source).unwrap(), ["good", "bad"]);
    }
}
