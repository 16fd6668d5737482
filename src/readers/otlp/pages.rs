//! What an export consists of: containers, events, merged streams and the exporter's own metrics, a page at a time.
//!
//! What is collected at once is one request, so a page is cut by what a request may hold: so many containers, some of
//! the points of one that is very large, so many label sets of events.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;

use super::events::EventPages;
use super::limits::{RequestLimits, RequestSize};
use super::sender::{Outcome, Sender};
use super::source::Source;
use crate::catalog::{ContainerMetric, ContainerValue};
use crate::config::Encoding;
use crate::inventory::{self, Container, Text};
use crate::metrics::attributes::AttributeSets;
use crate::metrics::views::Rules;
use crate::metrics::{self, Collection, ContainerSeries, Merged, Page, Point};
use crate::readers::{Manual, Observed};
use crate::stats::DurationSink;

/// What pages are made by. Those that are made by the same can take each other's place.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct PageConfig {
    pub(super) resource: Resource,
    pub(super) rules: Rules,
    pub(super) encoding: Encoding,
    pub(super) temporality: Temporality,
    /// Data points in one request.
    pub(super) max_batch_size: usize,
    /// Series of the exporter's own metrics.
    pub(super) self_metrics_room: usize,
}

/// Everything that is exported, with what it is collected by.
pub(super) struct Pages {
    config: PageConfig,
    inventory: inventory::Reader,
    collection: Arc<Collection>,
    limits: RequestLimits,
    /// The metric of each point that a container has.
    container_points: Vec<&'static ContainerMetric>,
    containers: Source,
    events: EventPages,
    /// The streams of containers that views or limits make of everything together, if there are any.
    merged: Option<MergedContainers>,
    self_metrics: Vec<SelfMetrics>,
    /// What others have collected that these resume, and the destination has not taken yet.
    resumed: Vec<ResourceMetrics>,
}

/// Where the next page of containers begins: at this point of the container, or after it.
#[derive(Debug, PartialEq)]
struct Cursor {
    id: Text,
    point: usize,
}

/// Containers that are collected at once.
struct ContainerPage {
    series: Vec<ContainerSeries>,
    /// Which of their points.
    points: Range<usize>,
    next: Cursor,
}

struct MergedContainers {
    source: Source,
    merged: Merged<Vec<KeyValue>>,
}

/// A part of the exporter's own metrics.
struct SelfMetrics {
    source: Source,
    /// Where a collection while nothing has been written would leave a gap: whether something has been.
    written: Option<Written>,
}

struct Written {
    has_news: Arc<AtomicBool>,
    _sink: Arc<DurationSink>,
}

impl Pages {
    pub(super) fn new(config: PageConfig, observed: &Observed) -> Self {
        let PageConfig { resource, rules, encoding, temporality, max_batch_size, .. } = &config;
        let collection = Collection::new(*encoding, rules);
        let limits = RequestLimits::new(*max_batch_size, resource, collection.streams());
        let has_merged = !collection.streams().merged_containers.is_empty();
        Self {
            inventory: observed.inventory.clone(),
            limits,
            container_points: collection.container_points(),
            containers: containers(resource, &collection, limits),
            events: EventPages::new(&collection, resource, limits, *temporality),
            merged: has_merged.then(|| MergedContainers::new(resource, &collection, limits)),
            self_metrics: self_metrics(&config, observed, Source::new),
            resumed: Vec::new(),
            collection,
            config,
        }
    }

    /// Goes on where others have ended, without a gap where these are made by the same.
    pub(super) fn resume(&mut self, ended: Self, observed: &Observed) {
        if self.config == ended.config {
            *self = ended;
            return;
        }
        let (told, pending) = ended.events.into_told();
        self.events.resume(told);
        self.resumed = ended.resumed;
        self.resumed.extend(pending);
        for mut part in ended.self_metrics {
            if part.source.is_delta() {
                // What has been counted since would be lost.
                let _ = part.source.collect(&|| {}, &|| {});
            }
            self.resumed.extend(part.source.into_pending());
        }
        self.self_metrics = self_metrics(&self.config, observed, Source::resuming);
    }

    /// Exports everything there is, in as many requests as it takes. Breaks where there is no use in sending more.
    pub(super) async fn export(&mut self, sender: &mut Sender, outcome: &mut Outcome) -> ControlFlow<()> {
        while let Some(metrics) = self.resumed.first() {
            if !sender.send(metrics, outcome).await? {
                break;
            }
            self.resumed.remove(0);
        }
        self.export_containers(sender, outcome).await?;
        if let Some(merged) = &mut self.merged {
            merged.export(&self.collection, &self.inventory, self.limits, sender, outcome).await?;
        }
        // What counts on must not arrive before what it counts on from.
        if !self.resumed.is_empty() {
            return ControlFlow::Continue(());
        }
        let events = self.inventory.snapshot().events;
        self.events.export(&events, sender, outcome).await?;
        for part in &mut self.self_metrics {
            part.export(sender, outcome).await?;
        }
        ControlFlow::Continue(())
    }

    /// Lets go of the snapshot, and of what need not be sent again.
    pub(super) fn clear(&mut self) {
        self.collection.clear();
        self.containers.discard();
    }

    async fn export_containers(&mut self, sender: &mut Sender, outcome: &mut Outcome) -> ControlFlow<()> {
        let mut cursor = None;
        // Each page is of the moment at which it is collected, which its points tell as their time.
        while let Some(page) = self.next_containers(cursor.as_ref()) {
            let ContainerPage { series, points, next } = page;
            let wanted = (0..self.container_points.len()).map(|point| points.contains(&point)).collect();
            self.collection.set_page(Page { containers: series, wanted, ..Page::default() });
            sender.export(&mut self.containers, &|| {}, &|| {}, outcome).await?;
            cursor = Some(next);
        }
        ControlFlow::Continue(())
    }

    /// The next page, of the containers that there are now.
    fn next_containers(&self, cursor: Option<&Cursor>) -> Option<ContainerPage> {
        if self.container_points.is_empty() {
            return None;
        }
        let snapshot = self.inventory.snapshot();
        let list = &snapshot.containers.list;
        let all = self.container_points.len();
        let (first, point) = match cursor {
            None => (0, 0),
            Some(Cursor { id, point }) => {
                let at = list.partition_point(|container| container.id < *id);
                let is_there = list.get(at).is_some_and(|container| container.id == *id);
                match is_there {
                    true if *point < all => (at, *point),
                    true => (at + 1, 0),
                    false => (at, 0),
                }
            }
        };
        let list = list.get(first..).unwrap_or_default();
        page_of(list, point, &self.container_points, self.limits)
    }
}

/// The page that begins with this point of the first container.
fn page_of(
    list: &[Arc<Container>],
    first_point: usize,
    container_points: &[&ContainerMetric],
    limits: RequestLimits,
) -> Option<ContainerPage> {
    let mut sets = AttributeSets::default();
    let all = container_points.len();
    let (mut size, mut series) = (RequestSize::default(), Vec::new());
    let mut next = None;
    for container in list {
        let attributes = sets.container(container);
        let has_info = container_points.iter().any(|entry| matches!(entry.value, ContainerValue::Info));
        let info = has_info.then(|| AttributeSets::info(&attributes, container));
        let one = ContainerSeries { container: Arc::clone(container), attributes, info };
        let mut more = RequestSize::default();
        let (of_others, of_info) = (
            RequestSize::of(1, &one.attributes),
            RequestSize::of(1, one.info.as_deref().unwrap_or_default()),
        );
        let size_of = |entry: &ContainerMetric| match entry.value {
            ContainerValue::Info => of_info,
            ContainerValue::Reason { reason, .. } if reason(container).is_none() => RequestSize::default(),
            ContainerValue::Optional(value) if value(container).is_none() => RequestSize::default(),
            _ => of_others,
        };
        container_points.iter().for_each(|entry| more += size_of(entry));
        let is_too_large = more.points > limits.points || more.bytes > limits.bytes;
        if series.is_empty() && (first_point > 0 || is_too_large) {
            // Some of its points.
            let rest = container_points.get(first_point..).unwrap_or_default();
            let fits = |entry: &&&ContainerMetric| {
                let has_room = limits.has_room(size, size_of(entry));
                size += size_of(entry);
                has_room
            };
            let end = first_point + rest.iter().take_while(fits).count();
            let next = Cursor { id: Text::clone(&container.id), point: end };
            return Some(ContainerPage { series: vec![one], points: first_point..end, next });
        }
        if is_too_large || !limits.has_room(size, more) {
            break;
        }
        size += more;
        series.push(one);
        next = Some(Cursor { id: Text::clone(&container.id), point: all });
    }
    Some(ContainerPage { series, points: 0..all, next: next? })
}

impl MergedContainers {
    fn new(resource: &Resource, collection: &Arc<Collection>, limits: RequestLimits) -> Self {
        let merged = collection.merged(&metrics::overflow());
        // Two pages, as of containers.
        let view = collection.merged_view(2 * limits.points);
        let manual = Manual::new(resource, Temporality::Cumulative, |b| b.with_view(view));
        metrics::register_merged_containers(&manual.meter(), collection);
        Self { source: Source::new(false, manual), merged }
    }

    async fn export(
        &mut self,
        collection: &Arc<Collection>,
        inventory: &inventory::Reader,
        limits: RequestLimits,
        sender: &mut Sender,
        outcome: &mut Outcome,
    ) -> ControlFlow<()> {
        let containers = inventory.snapshot().containers;
        let streams = collection.merge_containers(&containers.list, &mut self.merged);
        let count = streams.len();
        let points = streams
            .into_iter()
            .enumerate()
            .flat_map(|(stream, points)| points.into_iter().map(move |point| (stream, point)));
        let mut points = points.peekable();
        while points.peek().is_some() {
            let mut size = RequestSize::default();
            let mut merged: Vec<Vec<Point>> = vec![Vec::new(); count];
            let fits = |(_, (attributes, _)): &(usize, Point)| {
                let more = RequestSize::of(1, attributes);
                let has_room = limits.has_room(size, more);
                size += more;
                has_room
            };
            let mut fits = fits;
            while let Some((stream, point)) = points.next_if(&mut fits) {
                if let Some(points) = merged.get_mut(stream) {
                    points.push(point);
                }
            }
            collection.set_page(Page { merged, ..Page::default() });
            sender.export(&mut self.source, &|| {}, &|| {}, outcome).await?;
        }
        ControlFlow::Continue(())
    }
}

impl SelfMetrics {
    async fn export(&mut self, sender: &mut Sender, outcome: &mut Outcome) -> ControlFlow<()> {
        let Self { source, written } = self;
        if written.as_ref().is_some_and(|written| !written.has_news.load(Ordering::Acquire)) {
            sender.send_pending(source, outcome).await?;
            return ControlFlow::Continue(());
        }
        let observe = || {
            if let Some(written) = &*written {
                written.has_news.store(false, Ordering::Release);
            }
        };
        sender.export(source, &|| {}, &observe, outcome).await
    }
}

/// The containers' instruments, with room for two pages of them: the SDK forgets a gauge's series when a
/// collection goes by without it, so those of the page before are still there.
fn containers(resource: &Resource, collection: &Arc<Collection>, limits: RequestLimits) -> Source {
    let is_always_there = |entry: &&&ContainerMetric| {
        !matches!(entry.value, ContainerValue::Reason { .. } | ContainerValue::Optional(_))
    };
    let points = collection.container_points().iter().filter(is_always_there).count();
    let containers = (limits.points / points.max(1)).max(1);
    let view = collection.view(2 * containers, 1);
    let manual = Manual::new(resource, Temporality::Cumulative, |b| b.with_view(view));
    metrics::register_containers(&manual.meter(), collection);
    Source::new(false, manual)
}

/// The parts of the exporter's own metrics.
fn self_metrics(
    config: &PageConfig,
    observed: &Observed,
    source: fn(bool, Manual) -> Source,
) -> Vec<SelfMetrics> {
    let PageConfig { resource, rules, temporality, max_batch_size, self_metrics_room: room, .. } = config;
    let is_cumulative = *temporality == Temporality::Cumulative;
    let parts = metrics::self_metrics_parts(rules, *room, *max_batch_size, !is_cumulative);
    let made = parts.into_iter().map(|part| {
        let view = metrics::self_metrics_view(rules, *room);
        let mut manual = Manual::new(resource, *temporality, |b| b.with_view(view));
        let (stats, runtime) = (&observed.stats, &observed.runtime);
        let sink = metrics::register_self_metrics(&manual.meter(), rules, *room, &part, stats, runtime);
        manual.sink = Some(sink);
        if part.histograms && !is_cumulative {
            // It begins at 0, and needs no priming.
            SelfMetrics { source: Source::new(true, manual), written: Some(Written::new(observed)) }
        } else {
            // Of these, low memory wants the whole count.
            SelfMetrics { source: source(*temporality == Temporality::Delta, manual), written: None }
        }
    });
    made.collect()
}

impl Written {
    /// Told of all that is written, after the instruments that it is written to.
    fn new(observed: &Observed) -> Self {
        let has_news = Arc::new(AtomicBool::new(false));
        let news = Arc::clone(&has_news);
        let sink: Arc<DurationSink> = Arc::new(move |_| news.store(true, Ordering::Release));
        observed.stats.on_event_apply(Arc::downgrade(&sink));
        Self { has_news, _sink: sink }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Aggregation, CardinalityLimits};

    /// The pages of these containers: how many containers each has, and which of their points.
    fn pages(list: &[Arc<Container>], limits: RequestLimits) -> Vec<(usize, Range<usize>)> {
        let rules = Rules::new(&[], CardinalityLimits::default(), Aggregation::Default);
        let points = Collection::new(Encoding::Code, &rules).container_points();
        let (mut pages, mut first, mut point) = (Vec::new(), 0, 0);
        while let Some(page) = page_of(&list[first..], point, &points, limits) {
            first += page.series.len();
            point = 0;
            if page.next.point < points.len() {
                first -= 1;
                point = page.next.point;
            }
            pages.push((page.series.len(), page.points));
        }
        pages
    }

    fn containers(lengths: &[usize]) -> Vec<Arc<Container>> {
        let container = |length: &usize| {
            Arc::new(Container::sample("0123", "web").labelled(&[("text", &"x".repeat(*length))]))
        };
        lengths.iter().map(container).collect()
    }

    #[test]
    fn a_page_has_as_many_containers_as_a_request_may_hold() {
        let limits = |points, bytes| RequestLimits { points, bytes };
        let list = containers(&[0; 7]);
        assert_eq!(pages(&[], limits(1_000, 4_000_000)), []);
        assert_eq!(pages(&list, limits(1_000, 4_000_000)), [(7, 0..13)]);
        assert_eq!(pages(&list, limits(35, 4_000_000)), [(3, 0..13), (3, 0..13), (1, 0..13)]);
        // One that is large goes by its points, and the others go together.
        let list = containers(&[0, 0, 300_000, 0]);
        let found = pages(&list, limits(1_000, 1_000_000));
        assert_eq!(found, [(2, 0..13), (1, 0..3), (1, 3..6), (1, 6..9), (1, 9..13), (1, 0..13)]);
        // Even a point that is larger than a request may be.
        let found = pages(&containers(&[2_000_000]), limits(1_000, 1_000_000));
        let each = (0..10).map(|point| (1, point..point + 1));
        // What it has nothing to say of takes no room.
        assert_eq!(found, each.chain([(1, 10..13)]).collect::<Vec<_>>());
        let found = pages(&containers(&[0, 0]), limits(7, 4_000_000));
        assert_eq!(found, [(1, 0..7), (1, 7..13), (1, 0..7), (1, 7..13)]);
    }
}
