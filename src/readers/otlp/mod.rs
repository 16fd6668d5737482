//! The push readers: at an interval, everything is collected and sent.
//!
//! A reader collects a page of the inventory at a time and sends it as one request. A Collector refuses
//! messages over 4 MiB, which is what 1,300 containers come to, and memory is needed for a page only. The SDK's
//! own periodic reader does neither, and starts with a whole interval of silence.

mod target;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use tokio::runtime::RuntimeMetrics;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::target::Target;
use super::{Manual, ReaderError};
use crate::config::{Config, Periodic};
use crate::inventory;
use crate::metrics::{self, Collection};
use crate::stats::Stats;

/// With delta temporality the SDK remembers what it has reported of each event label set, which pages would
/// make it forget. So all event counts go in one request then, and this is the most of them.
const MOST_DELTA_EVENTS: usize = 65_536;

/// Collects and sends at an interval.
pub struct PushReader {
    periodic: Periodic,
    inventory: inventory::Reader,
    stats: Arc<Stats>,
    target: Target,
    collection: Arc<Collection>,
    containers: Manual,
    events: Manual,
    own: Manual,
    /// Whether the last export went well; `None` before the first.
    well: Option<bool>,
}

impl PushReader {
    /// Makes the reader with its instruments. Must be called within a tokio runtime: the gRPC exporter panics
    /// outside of one.
    pub fn new(
        config: &Config,
        periodic: &Periodic,
        resource: &Resource,
        inventory: inventory::Reader,
        stats: &Arc<Stats>,
        runtime: &RuntimeMetrics,
    ) -> Result<Self, ReaderError> {
        let target = Target::new(&periodic.exporter)?;
        let temporality = target.temporality();
        let collection = Collection::new(config.containers.encoding);
        let page = periodic.max_export_batch_size;
        let events_room = if temporality == Temporality::Delta { MOST_DELTA_EVENTS } else { page };
        let containers = Manual::new(resource, temporality, |b| b.with_view(collection.view(page, 1)));
        metrics::register_containers(&containers.meter(), &collection);
        let events = Manual::new(resource, temporality, |b| b.with_view(collection.view(1, events_room)));
        metrics::register_events(&events.meter(), &collection);
        let own = Manual::new(resource, temporality, |b| b);
        metrics::register_own(&own.meter(), stats, runtime);
        stats.otlp_endpoint(&target.name, &["ok", "error"]);
        Ok(Self {
            periodic: periodic.clone(),
            inventory,
            stats: Arc::clone(stats),
            target,
            collection,
            containers,
            events,
            own,
            well: None,
        })
    }

    /// Exports at the interval until it is told to stop, and once more then, for so long as `flush` lasts.
    pub async fn run(mut self, shutdown: CancellationToken, flush: Duration) {
        self.wait_for_inventory(&shutdown).await;
        let mut ticks = tokio::time::interval(self.periodic.interval);
        // A slow destination gets its next export one interval later, and not several at once.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => {}
            }
            let timeout = self.periodic.timeout;
            tokio::select! {
                // An export that is under way when the program ends makes room for the last one.
                () = shutdown.cancelled() => break,
                () = self.export_all(timeout) => {}
            }
        }
        self.export_all(flush.min(self.periodic.timeout)).await;
    }

    /// The first export is due when there is something to tell, or after an interval when there is not: that the
    /// daemon is away is worth telling too.
    async fn wait_for_inventory(&self, shutdown: &CancellationToken) {
        let until = Instant::now() + self.periodic.interval;
        while !self.inventory.is_complete() && Instant::now() < until {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
    }

    async fn export_all(&mut self, timeout: Duration) {
        let sent = tokio::time::timeout(timeout, self.export_pages()).await;
        self.collection.clear();
        let result = sent.unwrap_or_else(|_| Err(format!("not done within {timeout:?}")));
        self.report(result);
    }

    async fn export_pages(&self) -> Result<(), String> {
        let snapshot = self.inventory.snapshot();
        let page = self.periodic.max_export_batch_size;
        let containers = (page / self.collection.points_per_container()).max(1);
        for range in pages(snapshot.containers.list.len(), containers) {
            self.collection.prepare(&snapshot, range, 0..0);
            self.send(&self.containers).await?;
        }
        let events = snapshot.events.list.len();
        let page = if self.target.temporality() == Temporality::Delta { events.max(1) } else { page };
        for range in pages(events, page) {
            self.collection.prepare(&snapshot, 0..0, range);
            self.send(&self.events).await?;
        }
        self.send(&self.own).await
    }

    async fn send(&self, source: &Manual) -> Result<(), String> {
        let mut metrics = ResourceMetrics::default();
        source.collect(&mut metrics).map_err(|error| error.to_string())?;
        let result = self.target.export(&metrics).await.map_err(|error| error.to_string());
        self.stats.otlp_export(&self.target.name, if result.is_ok() { "ok" } else { "error" });
        result
    }

    /// One line when a destination goes, and one when it comes back.
    fn report(&mut self, result: Result<(), String>) {
        let endpoint = &*self.target.name;
        match &result {
            Ok(()) if self.well == Some(false) => info!(endpoint, "exports arrive again"),
            Ok(()) if self.well.is_none() => info!(endpoint, "exporting"),
            Err(why) if self.well != Some(false) => warn!(endpoint, why, "an export failed; trying again"),
            _ => {}
        }
        self.well = Some(result.is_ok());
    }
}

/// The places of `count` things in pages of `size`.
fn pages(count: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(size.max(1)).map(move |start| start..(start + size.max(1)).min(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_cover_everything_once() {
        let all = |count, size| pages(count, size).collect::<Vec<_>>();
        assert!(all(0, 10).is_empty());
        assert_eq!(all(10, 5), [0..5, 5..10]);
        assert_eq!(all(11, 5), [0..5, 5..10, 10..11]);
        assert_eq!(all(2, 0), [0..1, 1..2]);
    }
}
