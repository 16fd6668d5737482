//! The push readers: at an interval, everything is collected and sent.
//!
//! The SDK's own periodic reader sends everything as one message, which a Collector refuses above 4 MiB (1,300
//! containers come to that), begins with a whole interval of silence, and ends with a panic in a callback. A
//! reader here collects a page of the inventory at a time and sends it in requests of a bounded size, so it
//! needs memory for a page only.
//!
//! The messages are those of `opentelemetry-proto`, written of the SDK's data, sent with tonic and hyper. `opentelemetry-otlp` does the same with less of a say for its user. It takes headers and compression
//! from `OTEL_*` variables whoever has configured it, keeps a partial success and the destination's words to
//! itself, and sends what was collected as it is: it can neither be cut to size nor have deltas that survive a
//! failed export.
//!
//! | file | what it holds |
//! |---|---|
//! | `source.rs` | a meter provider that survives a panic |
//! | `attributes.rs` | what the numbers stand for that are observed in the place of attributes |
//! | `delta.rs` | delta temporality: what the destination has taken of each series |
//! | `points.rs` | data points as bytes |
//! | `request.rs` | requests of a bounded size, of points |
//! | `wire.rs` | the fields that both are made of |
//! | `target.rs` | where they go; `grpc.rs`, `http.rs`, `console.rs`: the ways there |
//! | `tasks.rs` | what a client runs beside its requests |
//! | `retry.rs` | attempts, failures, and what comes after them |

mod attributes;
mod console;
mod delta;
mod grpc;
mod http;
mod points;
mod request;
mod retry;
mod source;
mod target;
mod tasks;
mod wire;

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::FutureExt;
use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use tokio::time::{Instant, MissedTickBehavior, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::attributes::Table;
use self::delta::Deltas;
use self::points::Points;
use self::request::{Most, Request};
use self::retry::Again;
use self::source::Source;
use self::target::Target;
use super::{Manual, Observed, ReaderError};
use crate::config::{Config, Periodic, Temporality};
use crate::inventory::{self, EventCount, Snapshot};
use crate::metrics::catalog::ContainerValue;
use crate::metrics::views::Rules;
use crate::metrics::{self, Collection, Merged, Point};
use crate::stats::Stats;

/// Data points that are collected at once, about. With twice as many an export takes as much time and a mebibyte more.
const MOST_POINTS: usize = 1_000;

/// For attempts to send the last state. A destination that is away then, which is often because it ends too, must
/// not hold up the end of this program.
const LAST_ATTEMPTS: Duration = Duration::from_secs(1);

/// The longest pause before another export where the destination was away. Its own retries make pauses as long, so
/// it is found to be back within this time, however long the interval is. Only the first request of an export is
/// made for it: what cannot be sent is not collected.
const AWAY: Duration = Duration::from_secs(5);

/// How an export ended: the values of the label `result`.
const OK: &str = "ok";
const PARTIAL: &str = "partial";
const ERROR: &str = "error";

/// Collects and sends at an interval.
pub struct PushReader {
    periodic: Periodic,
    inventory: inventory::Reader,
    stats: Arc<Stats>,
    target: Target,
    collection: Arc<Collection>,
    /// The streams whose points have what `container.info` says.
    infos: Arc<[String]>,
    containers: Source,
    events: Source,
    /// The streams that views or limits make of everything together, if there are any.
    whole: Option<Whole>,
    own: Own,
    deltas: Deltas,
    pages: Pages,
    standing: Standing,
    /// Whether the next export is to come before an interval has passed, and when.
    soon: Option<Duration>,
}

/// What a reader that has ended leaves to the next one with the same destination: what that has taken, and the
/// instruments that are written to.
pub struct Ended {
    destination: String,
    temporality: Temporality,
    deltas: Deltas,
    own: Own,
}

/// What was collected at once.
struct Page {
    collected: ResourceMetrics,
    /// What its points' numbers stand for.
    table: Table,
    /// The moment of the snapshot that it is of, in Unix nanoseconds.
    at: Option<u64>,
}

/// Containers and event label sets that are collected at once.
#[derive(Debug, Clone, Copy)]
struct Pages {
    containers: usize,
    events: usize,
}

/// How the last export ended, which decides what is worth a line in the log.
#[derive(Debug, PartialEq)]
enum Standing {
    /// There was none yet.
    New,
    /// Everything was taken.
    Well,
    /// The destination complained of some of it, with these words.
    Partial(String),
    /// Something did not arrive.
    Failed,
}

/// What became of an export, request by request.
#[derive(Debug, Default)]
struct Outcome {
    /// The first failure.
    failure: Option<String>,
    /// Requests that were taken.
    taken: usize,
    /// Set where the destination was away or busy, so that another export may soon succeed: the pause that it asked
    /// for, if it did.
    away: Option<Option<Duration>>,
    /// Data points that the destination refused.
    rejected: i64,
    /// What it said of them, or of others.
    complaint: Option<String>,
}

impl PushReader {
    /// Makes the reader with its instruments. Must be called within a tokio runtime.
    pub fn new(
        config: &Config,
        periodic: &Periodic,
        resource: &Resource,
        observed: &Observed,
    ) -> Result<Self, ReaderError> {
        let Observed { inventory, stats, began, .. } = observed;
        let target = Target::new(&periodic.exporter, &observed.deflater)?;
        let rules = Rules::new(
            &config.views,
            periodic.cardinality_limits,
            periodic.default_histogram_aggregation.clone(),
        );
        let collection = Collection::new(config.containers.encoding, &rules);
        let most = periodic.max_export_batch_size.min(MOST_POINTS);
        let infos = collection.streams().containers.iter();
        let infos = infos.filter(|c| matches!(c.entry.value, ContainerValue::Info));
        let infos = infos.map(|c| c.stream.name.clone()).collect();
        let pages = Pages { containers: (most / collection.points_per_container()).max(1), events: most };
        Ok(Self {
            containers: containers(resource, &collection, pages),
            events: events(resource, &collection, pages),
            whole: Whole::new(resource, &collection, most),
            own: Own::new(resource, &rules, observed, metrics::own_room(config.readers.periodic.len())),
            deltas: Deltas::new(target.temporality, nanoseconds(*began)),
            periodic: periodic.clone(),
            inventory: inventory.clone(),
            stats: Arc::clone(stats),
            target,
            collection,
            infos,
            pages,
            standing: Standing::New,
            soon: None,
        })
    }

    /// What it is made by.
    pub fn periodic(&self) -> &Periodic {
        &self.periodic
    }

    /// Where it sends to, without what is secret.
    pub fn destination(&self) -> &str {
        &self.target.name
    }

    /// Goes on where a reader that has ended left off, if there is one among them with the same destination.
    pub fn resume(&mut self, ended: &mut Vec<Ended>) {
        let same = |ended: &Ended| {
            ended.destination == self.target.name && ended.temporality == self.target.temporality
        };
        if let Some(at) = ended.iter().position(same) {
            let Ended { deltas, own, .. } = ended.swap_remove(at);
            if self.own.is_as(&own) {
                (self.deltas, self.own) = (deltas, own);
            } else {
                // What has been written to the others since their last export is lost.
                self.deltas = deltas.for_others();
                self.own.source.begin_anew();
            }
        }
    }

    /// Exports at the interval until it is told to stop, and once more then, all of that within `flush`.
    pub async fn run(mut self, shutdown: CancellationToken, flush: Duration) -> Ended {
        self.stats.otlp_endpoint(&self.target.name, &[OK, PARTIAL, ERROR]);
        self.export_until(&shutdown, flush).await;
        let Self { target, deltas, own, .. } = self;
        Ended { destination: target.name, temporality: target.temporality, deltas, own }
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
            if let Some(pause) = self.soon.take() {
                ticks.reset_after(pause);
            }
        }
        self.export_last(flush).await;
    }

    async fn export_last(&mut self, limit: Duration) {
        self.target.patience = LAST_ATTEMPTS;
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
        while !self.inventory.is_complete() && Instant::now() < until {
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
        // A panic must not end the reader. What it may have left half-done is made anew: a source makes another
        // provider, a target another connection.
        let ended =
            AssertUnwindSafe(timeout_at(deadline, self.export_pages(&mut outcome))).catch_unwind().await;
        self.collection.clear();
        let failure = match ended {
            Ok(Ok(())) => None,
            Ok(Err(_)) => Some(format!("not done within {limit:?}")),
            Err(_) => Some("a defect of this program".to_owned()),
        };
        if let Some(failure) = failure {
            self.stats.otlp_export(&self.target.name, ERROR);
            outcome.failure.get_or_insert(failure);
            // Where some was taken the destination is there, and slow: more exports would make it slower.
            if outcome.taken == 0 {
                outcome.away = Some(None);
            }
        }
        self.soon = outcome.away.map(|asked| pause(asked, self.periodic.interval));
        self.report(outcome);
    }

    async fn export_pages(&mut self, outcome: &mut Outcome) {
        let at = now();
        self.deltas.begin(at);
        let snapshot = self.inventory.snapshot();
        for range in pages(snapshot.containers.list.len(), self.pages.containers) {
            let page = self.collect_containers(&snapshot, range, at);
            if !self.send(page, outcome).await {
                return;
            }
        }
        for events in request::by_identity(&snapshot.events.list).chunks(self.pages.events.max(1)) {
            let page = self.collect_events(events, at);
            if !self.send(page, outcome).await {
                return;
            }
        }
        if !self.export_whole(&snapshot, at, outcome).await {
            return;
        }
        let own = self.own.source.collect();
        let own = own.map(|collected| Page { collected, table: Table::EMPTY, at: None });
        if self.send(own, outcome).await {
            self.deltas.complete(outcome.failure.is_none());
        }
    }

    /// Exports what views and limits make of everything together. Says whether there is any use in sending more.
    async fn export_whole(&mut self, snapshot: &Snapshot, at: u64, outcome: &mut Outcome) -> bool {
        let Some(whole) = &mut self.whole else { return true };
        let streams = self.collection.merge(snapshot, &mut whole.merged);
        let longest = streams.iter().map(Vec::len).max().unwrap_or(0);
        for range in pages(longest, whole.points) {
            let Some(whole) = &mut self.whole else { return true };
            let part = |points: &Vec<Point>| {
                points.get(range.start..range.end.min(points.len())).unwrap_or_default().to_vec()
            };
            self.collection.prepare_merged(streams.iter().map(part).collect());
            let page = whole.source.collect();
            let page = page.map(|collected| Page { collected, table: Table::EMPTY, at: Some(at) });
            if !self.send(page, outcome).await {
                return false;
            }
        }
        true
    }

    fn collect_containers(
        &mut self,
        snapshot: &Snapshot,
        range: Range<usize>,
        at: u64,
    ) -> Result<Page, String> {
        let containers = snapshot.containers.list.get(range).unwrap_or_default();
        self.collection.prepare(containers, &[]);
        let collected = self.containers.collect()?;
        Ok(Page { collected, table: Table::of_containers(containers, &self.infos), at: Some(at) })
    }

    fn collect_events(&mut self, events: &[EventCount], at: u64) -> Result<Page, String> {
        self.collection.prepare(&[], events);
        Ok(Page { collected: self.events.collect()?, table: Table::of_events(events), at: Some(at) })
    }

    /// Sends what was collected. Says whether there is any use in sending more.
    async fn send(&mut self, collected: Result<Page, String>, outcome: &mut Outcome) -> bool {
        let Page { collected, table, at } = match collected {
            Ok(page) => page,
            Err(why) => {
                self.stats.otlp_export(&self.target.name, ERROR);
                outcome.failure.get_or_insert(why);
                return true;
            }
        };
        let points = Points::write(&collected, table, at, &mut self.deltas);
        drop(collected);
        // Waiting for an answer can take long, and needs no more than the messages.
        let most = Most::points(self.periodic.max_export_batch_size);
        for Request { message, offers } in points.into_requests(most, self.target.compresses()) {
            let result = match self.target.send(message).await {
                Ok(answer) => {
                    // What was refused is not to be sent again, so it counts as taken.
                    self.deltas.commit(offers);
                    outcome.taken += 1;
                    outcome.rejected += answer.rejected;
                    if answer.rejected > 0 || !answer.message.is_empty() {
                        outcome.complaint.get_or_insert(answer.message);
                    }
                    if answer.rejected > 0 { PARTIAL } else { OK }
                }
                Err(failure) => {
                    debug!(endpoint = self.target.name, why = failure.message, "a request failed");
                    outcome.failure.get_or_insert(failure.message);
                    outcome.away = match failure.again {
                        Again::Never => outcome.away,
                        Again::Later | Again::NextTime => Some(None),
                        Again::After(asked) => Some(Some(asked)),
                    };
                    if failure.again != Again::Never {
                        self.stats.otlp_export(&self.target.name, ERROR);
                        return false;
                    }
                    ERROR
                }
            };
            self.stats.otlp_export(&self.target.name, result);
        }
        true
    }

    /// One line when a destination goes, and one when it comes back.
    fn report(&mut self, outcome: Outcome) {
        let endpoint = &*self.target.name;
        let now = match outcome {
            Outcome { failure: Some(why), .. } => {
                if self.standing != Standing::Failed {
                    warn!(endpoint, why, "an export failed; the next one tries again");
                }
                Standing::Failed
            }
            Outcome { complaint: Some(why), rejected, .. } => {
                let now = Standing::Partial(why);
                if let (true, Standing::Partial(why)) = (self.standing != now, &now) {
                    warn!(endpoint, rejected, why, "the destination complains of what it gets");
                }
                now
            }
            Outcome { .. } => {
                match self.standing {
                    Standing::Well => {}
                    Standing::New => info!(endpoint, "exporting"),
                    Standing::Partial(_) | Standing::Failed => info!(endpoint, "exports arrive again"),
                }
                Standing::Well
            }
        };
        self.standing = now;
    }
}

/// The containers' instruments, with room for two pages of them: the SDK forgets a gauge's series when a
/// collection goes by without it, so those of the page before are still there.
fn containers(resource: &Resource, collection: &Arc<Collection>, pages: Pages) -> Source {
    let (resource, collection) = (resource.clone(), Arc::clone(collection));
    Source::new(move || {
        let manual = Manual::new(&resource, |b| b.with_view(collection.view(2 * pages.containers, 1)));
        metrics::register_containers(&manual.meter(), &collection);
        manual
    })
}

/// The events' instrument, with room for a page of label sets.
fn events(resource: &Resource, collection: &Arc<Collection>, pages: Pages) -> Source {
    let (resource, collection) = (resource.clone(), Arc::clone(collection));
    Source::new(move || {
        let manual = Manual::new(&resource, |b| b.with_view(collection.view(1, pages.events)));
        metrics::register_events(&manual.meter(), &collection);
        manual
    })
}

/// Streams that are merged from everything that there is.
struct Whole {
    source: Source,
    merged: Merged<Vec<KeyValue>>,
    /// Data points of each stream that are collected at once.
    points: usize,
}

impl Whole {
    /// `most`: data points that are collected at once, about.
    fn new(resource: &Resource, collection: &Arc<Collection>, most: usize) -> Option<Self> {
        let merged = collection.merged(&metrics::overflow());
        let streams = merged.containers.len() + merged.events.len();
        if streams == 0 {
            return None;
        }
        let points = (most / streams).max(1);
        let (resource, collection) = (resource.clone(), Arc::clone(collection));
        let source = Source::new(move || {
            // Two pages of a gauge, as of containers, and the point of what is beyond the limit.
            let manual = Manual::new(&resource, |b| b.with_view(collection.merged_view(2 * points + 1)));
            metrics::register_merged(&manual.meter(), &collection);
            manual
        });
        Some(Self { source, merged, points })
    }
}

/// The instruments of the exporter's own numbers, and what they are made by.
struct Own {
    source: Source,
    resource: Resource,
    rules: Rules,
    room: usize,
}

impl Own {
    fn new(resource: &Resource, rules: &Rules, observed: &Observed, room: usize) -> Self {
        let make = {
            let (resource, rules, observed) = (resource.clone(), rules.clone(), observed.clone());
            move || {
                let mut manual = Manual::new(&resource, |b| b.with_view(metrics::own_view(&rules, room)));
                let sink = metrics::register_own(&manual.meter(), &rules, &observed.stats, &observed.runtime);
                manual.sink = Some(sink);
                manual
            }
        };
        Self { source: Source::new(make), resource: resource.clone(), rules: rules.clone(), room }
    }

    /// Whether it is made by the same as another.
    fn is_as(&self, other: &Self) -> bool {
        (&self.resource, &self.rules, self.room) == (&other.resource, &other.rules, other.room)
    }
}

/// From an export that a destination was away for to the next one. Cut by up to a half, so that many exporters do
/// not come back at one moment; never longer than the interval, and not shorter than the destination asked for.
fn pause(asked: Option<Duration>, interval: Duration) -> Duration {
    let pause = AWAY.mul_f64(1.0 - fastrand::f64() / 2.0);
    asked.map_or(pause, |asked| asked.max(pause)).min(interval)
}

fn now() -> u64 {
    nanoseconds(SystemTime::now())
}

/// Unix time in nanoseconds.
fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

/// The places of `count` things in pages of `size`.
fn pages(count: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(size.max(1)).map(move |start| start..(start + size.max(1)).min(count))
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

    #[test]
    fn pages_cover_everything_once() {
        let all = |count, size| pages(count, size).collect::<Vec<_>>();
        assert!(all(0, 10).is_empty());
        assert_eq!(all(10, 5), [0..5, 5..10]);
        assert_eq!(all(11, 5), [0..5, 5..10, 10..11]);
        assert_eq!(all(2, 0), [0..1, 1..2]);
    }
}
