//! The push readers: at an interval, everything is collected and sent.
//!
//! `opentelemetry-otlp` sends it. The SDK's own periodic reader would collect everything as one request, which a
//! Collector refuses above 4 MiB (1,300 containers come to that), and begin with a whole interval of silence. A reader
//! here collects a page of the inventory at a time, so it needs memory for a page only, and decides what becomes of a
//! page that was not taken.
//!
//! | file | what it holds |
//! |---|---|
//! | `pages.rs` | what an export consists of, a page at a time |
//! | `events.rs` | the counts of events: their pages, and deltas that survive a failed export |
//! | `limits.rs` | how large a page may be |
//! | `source.rs` | a meter provider, and what was collected of it |
//! | `sender.rs` | what is sent when, and the count of what was taken |
//! | `destination.rs` | where it goes: `grpc.rs`, `http.rs`, `console.rs`; `connection.rs` is what two of them share |
//! | `diagnostics.rs` | what `opentelemetry-otlp` tells of an export in its log only |
//! | `tasks.rs` | what a gRPC client runs beside its requests |

mod connection;
mod console;
mod destination;
mod diagnostics;
mod events;
mod grpc;
mod http;
mod limits;
mod pages;
mod sender;
mod source;
mod tasks;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::Temporality as SdkTemporality;
use tokio::time::{Instant, MissedTickBehavior, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::destination::Destination;
use self::pages::{PageConfig, Pages};
use self::sender::{ERROR, OK, Outcome, PARTIAL, Sender};
use super::{Observed, ReaderError};
use crate::config::{Config, Periodic, Temporality};
use crate::metrics;
use crate::metrics::views::Rules;

pub use self::diagnostics::diagnostics_layer;

/// For attempts to send the last state. A destination that is away then, which is often because it ends too, must
/// not hold up the end of this program.
const LAST_ATTEMPTS: Duration = Duration::from_secs(1);

/// The longest pause before another export where the destination was away. Its own retries make pauses as long, so
/// it is found to be back within this time, however long the interval is. Only the first request of an export is
/// made for it: what cannot be sent is not collected.
const AWAY: Duration = Duration::from_secs(5);

/// Collects and sends at an interval.
pub struct PushReader {
    periodic: Periodic,
    observed: Observed,
    sender: Sender,
    pages: Pages,
    status: ExportStatus,
    /// Whether the next export is to come before an interval has passed, and when.
    next_export: Option<Duration>,
}

/// What a reader that has ended leaves to the next one with the same destination: what that has been told, and the
/// instruments that are written to.
pub struct Ended {
    destination: String,
    temporality: Temporality,
    pages: Pages,
}

/// How the last export ended, which decides what is worth a line in the log.
#[derive(Debug, PartialEq)]
enum ExportStatus {
    /// There was none yet.
    New,
    /// Everything was taken.
    Taken,
    /// The destination complained of some of it, with these words.
    Partial(String),
    /// Something did not arrive.
    Failed,
}

impl PushReader {
    /// Makes the reader with its instruments. Must be called within a tokio runtime.
    pub fn new(
        config: &Config,
        periodic: &Periodic,
        resource: &Resource,
        observed: &Observed,
    ) -> Result<Self, ReaderError> {
        let destination = Destination::new(&periodic.exporter, &observed.deflater)?;
        let rules = Rules::new(
            &config.views,
            periodic.cardinality_limits,
            periodic.default_histogram_aggregation.clone(),
        );
        let pages = PageConfig {
            resource: resource.clone(),
            rules,
            encoding: config.containers.encoding,
            temporality: match destination.temporality {
                Temporality::Cumulative => SdkTemporality::Cumulative,
                Temporality::Delta => SdkTemporality::Delta,
                Temporality::LowMemory => SdkTemporality::LowMemory,
            },
            max_batch_size: periodic.max_export_batch_size,
            self_metrics_room: metrics::self_metrics_room(config.readers.periodic.len()),
        };
        Ok(Self {
            periodic: periodic.clone(),
            pages: Pages::new(pages, observed),
            observed: observed.clone(),
            sender: Sender { destination, stats: Arc::clone(&observed.stats) },
            status: ExportStatus::New,
            next_export: None,
        })
    }

    /// What it is made by.
    pub fn periodic(&self) -> &Periodic {
        &self.periodic
    }

    /// Where it sends to, without what is secret.
    pub fn destination(&self) -> &str {
        &self.sender.destination.name
    }

    /// Goes on where a reader that has ended left off, if there is one among them with the same destination.
    pub fn resume(&mut self, ended: &mut Vec<Ended>) {
        let Destination { name, temporality, .. } = &self.sender.destination;
        let is_same = |ended: &Ended| ended.destination == *name && ended.temporality == *temporality;
        if let Some(at) = ended.iter().position(is_same) {
            self.pages.resume(ended.swap_remove(at).pages, &self.observed);
        }
    }

    /// Exports at the interval until it is told to stop, and once more then, all of that within `flush`.
    pub async fn run(mut self, shutdown: CancellationToken, flush: Duration) -> Ended {
        self.observed.stats.otlp_endpoint(&self.sender.destination.name, &[OK, PARTIAL, ERROR]);
        self.export_until(&shutdown, flush).await;
        let Destination { name, temporality, .. } = self.sender.destination;
        Ended { destination: name, temporality, pages: self.pages }
    }

    async fn export_until(&mut self, shutdown: &CancellationToken, flush: Duration) {
        self.wait_for_inventory(shutdown).await;
        let mut ticks = tokio::time::interval(self.periodic.interval);
        // A slow destination gets its next export one interval later, and not several at once.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                _ = ticks.tick() => {}
            }
            if let Some(left) = self.export_or_end(shutdown, flush).await {
                return self.export_last(left).await;
            }
            if let Some(pause) = self.next_export.take() {
                ticks.reset_after(pause);
            }
        }
        self.export_last(flush).await;
    }

    async fn export_last(&mut self, limit: Duration) {
        self.sender.destination.retry_for(LAST_ATTEMPTS);
        self.export(limit.min(self.periodic.timeout)).await;
    }

    /// An export that leaves time for the last one if the program ends meanwhile. Returns that time then.
    async fn export_or_end(&mut self, shutdown: &CancellationToken, flush: Duration) -> Option<Duration> {
        let mut export = pin!(self.export(self.periodic.timeout));
        tokio::select! {
            () = &mut export => None,
            () = shutdown.cancelled() => {
                let ending = Instant::now();
                // Given up at once, it could have arrived all the same, and deltas would arrive twice.
                let _ = timeout(flush / 2, export).await;
                Some(flush.saturating_sub(ending.elapsed()))
            }
        }
    }

    /// The first export is due when there is something to tell, or after an interval when there is not: that the
    /// daemon is away is worth telling too.
    async fn wait_for_inventory(&self, shutdown: &CancellationToken) {
        let until = Instant::now() + self.periodic.interval;
        while !self.observed.inventory.is_complete() && Instant::now() < until {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(Duration::from_millis(50)) => {}
            }
        }
    }

    /// One export of everything, in as many requests as it takes.
    pub async fn export(&mut self, limit: Duration) {
        let mut outcome = Outcome::default();
        let deadline = Instant::now() + limit;
        let export = self.pages.export(&mut self.sender, &mut outcome);
        let is_done = timeout_at(deadline, export).await.is_ok();
        self.pages.clear();
        if !is_done {
            self.sender.count(ERROR);
            outcome.failure.get_or_insert_with(|| format!("not done within {limit:?}"));
            // Where some was taken the destination is there, and slow: more exports would make it slower.
            if outcome.taken == 0 {
                outcome.away = Some(None);
            }
        }
        self.next_export = outcome.away.map(|asked| pause(asked, self.periodic.interval));
        self.report(outcome);
    }

    /// One line when a destination goes, and one when it comes back.
    fn report(&mut self, outcome: Outcome) {
        let endpoint = &*self.sender.destination.name;
        let now = match outcome {
            Outcome { failure: Some(why), .. } => {
                if self.status != ExportStatus::Failed {
                    warn!(endpoint, why, "an export failed; the next one tries again");
                }
                ExportStatus::Failed
            }
            Outcome { complaint: Some(why), rejected, .. } => {
                let now = ExportStatus::Partial(why);
                if let (true, ExportStatus::Partial(why)) = (self.status != now, &now) {
                    warn!(endpoint, rejected, why, "the destination complains of what it gets");
                }
                now
            }
            Outcome { .. } => {
                match self.status {
                    ExportStatus::Taken => {}
                    ExportStatus::New => info!(endpoint, "exporting"),
                    ExportStatus::Partial(_) | ExportStatus::Failed => {
                        info!(endpoint, "exports arrive again");
                    }
                }
                ExportStatus::Taken
            }
        };
        self.status = now;
    }
}

/// From an export that a destination was away for to the next one. Cut by up to a half, so that many exporters do
/// not come back at one moment; never longer than the interval, and not shorter than the destination asked for.
fn pause(asked: Option<Duration>, interval: Duration) -> Duration {
    let pause = AWAY.mul_f64(1.0 - fastrand::f64() / 2.0);
    asked.map_or(pause, |asked| asked.max(pause)).min(interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_that_was_away_is_asked_again_soon() {
        let (second, hour) = (Duration::from_secs(1), Duration::from_secs(3600));
        for _ in 0..100 {
            assert!((AWAY / 2..=AWAY).contains(&pause(None, hour)));
            assert_eq!(pause(None, second), second);
            assert_eq!(pause(Some(10 * second), hour), 10 * second);
            assert!(pause(Some(second), hour) >= AWAY / 2);
        }
    }
}
