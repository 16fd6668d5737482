//! What the exporter counts about itself. Each part of the program counts its own work here; the metrics read it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, Weak};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The exporter's own numbers.
#[derive(Default)]
pub struct Stats {
    /// Whether the daemon is followed: its event stream is open, a list has come, and enough of it is known.
    up: Flag,
    /// Why the daemon is not followed.
    trouble: Mutex<Option<Arc<str>>>,
    /// Containers known.
    pub containers: Counter,
    /// Complete lists that the inventory has taken over.
    pub syncs_ok: Counter,
    /// Lists that failed.
    pub syncs_error: Counter,
    /// Inspects that were answered.
    pub inspects_ok: Counter,
    /// Inspects of containers that were gone.
    pub inspects_gone: Counter,
    /// Inspects that failed.
    pub inspects_error: Counter,
    /// Event streams that were opened.
    pub event_streams: Counter,
    /// Reconnects across which events may have been missed.
    pub event_gaps: Counter,
    /// Events beyond the limit of label sets, which are counted under one label set.
    pub event_overflows: Counter,
    /// Events, list entries and fields that could not be read.
    pub unreadable: Counter,
    /// Scrapes that were answered.
    pub scrapes_ok: Counter,
    /// Scrapes that were refused or failed.
    pub scrapes_error: Counter,
    /// Whether the last scrape was refused or failed.
    pub scrape_failed: Flag,
    /// When the last scrape was answered, in milliseconds since 1970.
    pub last_scrape: Counter,
    /// The time of the last complete list.
    last_sync: Mutex<Option<SystemTime>>,
    otlp_exports: Mutex<BTreeMap<(String, &'static str), Exports>>,
    event_apply: RwLock<Vec<Weak<DurationSink>>>,
}

/// How many exports ended with one result, and when the last one did.
type Exports = (u64, Option<SystemTime>);

/// Records durations.
pub type DurationSink = dyn Fn(Duration) + Send + Sync;

impl Stats {
    /// Whether the daemon is followed. Everything that reports whether all is well asks this.
    pub fn is_up(&self) -> bool {
        self.up.get()
    }

    /// Why the daemon is not followed, where that is known.
    pub fn trouble(&self) -> Option<Arc<str>> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Notes that the daemon is followed from now on.
    pub fn went_up(&self) {
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.up.set(true);
    }

    /// Notes that the daemon is not followed, and why.
    pub fn went_down(&self, why: &str) {
        self.up.set(false);
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = Some(why.into());
    }

    /// Notes that a complete list was taken over just now.
    pub fn synced(&self, now: SystemTime) {
        *self.last_sync.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
        self.syncs_ok.increment();
    }

    /// When the last complete list was taken over.
    pub fn last_sync(&self) -> Option<SystemTime> {
        *self.last_sync.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts an OTLP export to `endpoint` that ended with `result`.
    pub fn otlp_export(&self, endpoint: &str, result: &'static str) {
        let mut exports = self.otlp_exports.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, last) = exports.entry((endpoint.to_owned(), result)).or_default();
        *count += 1;
        *last = Some(SystemTime::now());
    }

    /// Adds an endpoint with 0 for each result, so that the first failure is seen as an increase.
    pub fn otlp_endpoint(&self, endpoint: &str, results: &[&'static str]) {
        let mut exports = self.otlp_exports.lock().unwrap_or_else(PoisonError::into_inner);
        for result in results {
            exports.entry((endpoint.to_owned(), result)).or_default();
        }
    }

    /// Forgets all endpoints but these.
    pub fn otlp_destinations(&self, endpoints: &[&str]) {
        let mut exports = self.otlp_exports.lock().unwrap_or_else(PoisonError::into_inner);
        exports.retain(|(endpoint, _), _| endpoints.contains(&&**endpoint));
    }

    /// The OTLP exports so far: endpoint, result, count.
    pub fn otlp_exports(&self) -> Vec<(String, &'static str, u64)> {
        let exports = self.otlp_exports.lock().unwrap_or_else(PoisonError::into_inner);
        exports.iter().map(|((endpoint, result), (count, _))| (endpoint.clone(), *result, *count)).collect()
    }

    /// The same with the time of the last export.
    pub fn otlp_outcomes(&self) -> Vec<(String, &'static str, u64, Option<SystemTime>)> {
        let exports = self.otlp_exports.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = |((endpoint, result), (count, last)): (&(String, &'static str), &Exports)| {
            (endpoint.clone(), *result, *count, *last)
        };
        exports.iter().map(outcome).collect()
    }

    /// Counts a scrape.
    pub fn scraped(&self, answered: bool) {
        self.scrape_failed.set(!answered);
        if !answered {
            self.scrapes_error.increment();
            return;
        }
        self.scrapes_ok.increment();
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.last_scrape.set(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
    }

    /// Adds a sink for the times from event to effect, for as long as it exists: one for each reader's histogram.
    pub fn on_event_apply(&self, sink: Weak<DurationSink>) {
        let mut sinks = self.event_apply.write().unwrap_or_else(PoisonError::into_inner);
        sinks.retain(|sink| sink.strong_count() > 0);
        sinks.push(sink);
    }

    /// Records the time from an event, by its timestamp, until its effect is visible.
    pub fn event_applied(&self, after: Duration) {
        for sink in self.event_apply.read().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(sink) = sink.upgrade() {
                sink(after);
            }
        }
    }
}

impl std::fmt::Debug for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stats").field("up", &self.is_up()).finish_non_exhaustive()
    }
}

/// A number that any thread may change.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds a number.
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    /// Sets the number.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A boolean that any thread may change.
#[derive(Debug, Default)]
pub struct Flag(AtomicBool);

impl Flag {
    /// Sets the value, and returns the previous one.
    pub fn set(&self, value: bool) -> bool {
        self.0.swap(value, Ordering::Relaxed)
    }

    /// The value.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
