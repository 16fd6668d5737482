//! The counts of events, in pages.
//!
//! Deltas are the SDK's: it counts from its last collection, of all that is observed. So where deltas are wanted a
//! label set stays in its page, each page has a provider of its own, and a page that the destination has not taken is
//! sent as it is before it is collected again. Cumulative counts need none of that: one provider has one page after
//! the other.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;

use super::limits::{RequestLimits, RequestSize};
use super::sender::{Outcome, Sender};
use super::source::Source;
use crate::inventory::{EventCount, EventLabels, EventSet};
use crate::metrics::attributes::AttributeSets;
use crate::metrics::{self, Collection, CountSeries, Merged, Page};
use crate::readers::Manual;

/// What tells a count from another, by its value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum EventKey {
    Labels(Arc<EventLabels>),
    /// A merged stream, and the attributes of its point.
    Merged(usize, Vec<KeyValue>),
}

/// A count at this moment.
#[derive(Debug)]
struct Count {
    key: EventKey,
    value: u64,
}

/// The counts that a destination has been told of.
pub(super) type Told = HashMap<EventKey, u64>;

/// The counts of events, and what they are collected by.
pub(super) struct EventPages {
    collection: Arc<Collection>,
    resource: Resource,
    limits: RequestLimits,
    merged: Merged<Vec<KeyValue>>,
    providers: Providers,
}

enum Providers {
    /// One has one page after the other.
    Cumulative(Source),
    /// Each has one page.
    Delta(DeltaPages),
}

#[derive(Default)]
struct DeltaPages {
    pages: Vec<DeltaPage>,
    places: HashMap<EventKey, Place>,
    /// What those have told that went before, and no page has yet.
    resumed: Told,
    /// Exports so far.
    round: u64,
}

struct DeltaPage {
    source: Source,
    size: RequestSize,
    /// What is not there any more, and keeps its place until the SDK has forgotten it.
    leaving: Vec<EventKey>,
    /// The export in which it was last collected.
    collected: u64,
}

/// Where a count is.
#[derive(Debug)]
struct Place {
    page: usize,
    size: RequestSize,
    /// The label set, which is another object when it has gone and come back.
    labels: Option<Arc<EventLabels>>,
    /// What has been collected.
    told: Option<u64>,
    /// Whether it has begun anew since. It is left out of one collection then, so that the SDK forgets it.
    has_begun_anew: bool,
    /// The export in which it was last there.
    seen: u64,
}

impl EventKey {
    fn labels(&self) -> Option<&Arc<EventLabels>> {
        match self {
            Self::Labels(labels) => Some(labels),
            Self::Merged(..) => None,
        }
    }
}

impl EventPages {
    pub(super) fn new(
        collection: &Arc<Collection>,
        resource: &Resource,
        limits: RequestLimits,
        temporality: Temporality,
    ) -> Self {
        let providers = match temporality {
            Temporality::Delta => Providers::Delta(DeltaPages::default()),
            _ => {
                Providers::Cumulative(Source::new(false, provider(collection, resource, limits, temporality)))
            }
        };
        Self {
            collection: Arc::clone(collection),
            resource: resource.clone(),
            limits,
            merged: collection.merged(&metrics::overflow()),
            providers,
        }
    }

    /// Goes on where others have ended that have told this.
    pub(super) fn resume(&mut self, told: Told) {
        if let Providers::Delta(delta) = &mut self.providers {
            delta.resumed = told;
        }
    }

    /// What has been told, and what was collected and not taken.
    pub(super) fn into_told(self) -> (Told, Vec<ResourceMetrics>) {
        match self.providers {
            Providers::Cumulative(_) => Default::default(),
            Providers::Delta(DeltaPages { pages, places, mut resumed, .. }) => {
                resumed.extend(places.into_iter().filter_map(|(key, place)| Some((key, place.told?))));
                (resumed, pages.into_iter().flat_map(|page| page.source.into_pending()).collect())
            }
        }
    }

    /// Exports all of them.
    pub(super) async fn export(
        &mut self,
        events: &EventSet,
        sender: &mut Sender,
        outcome: &mut Outcome,
    ) -> ControlFlow<()> {
        let counts = counts(&self.collection, events, &mut self.merged);
        match &mut self.providers {
            Providers::Cumulative(source) => {
                let mut rest = counts.as_slice();
                while !rest.is_empty() {
                    let (page, others) = rest.split_at(fitting(&self.collection, self.limits, rest));
                    let observe = || self.collection.set_page(to_page(&self.collection, page.iter()));
                    sender.export(source, &|| {}, &observe, outcome).await?;
                    rest = others;
                }
                ControlFlow::Continue(())
            }
            Providers::Delta(delta) => {
                let make = || provider(&self.collection, &self.resource, self.limits, Temporality::Delta);
                let members = delta.assign(&counts, &self.collection, self.limits, make);
                delta.export(&counts, &members, &self.collection, sender, outcome).await
            }
        }
    }
}

impl DeltaPages {
    /// Gives each count its place. Returns the counts of each page, by their indexes.
    fn assign(
        &mut self,
        counts: &[Count],
        collection: &Collection,
        limits: RequestLimits,
        make: impl Fn() -> Manual,
    ) -> Vec<Vec<usize>> {
        // A page that was not collected in the last export must not get what may have been in another one then: what it
        // tells would begin before that.
        let last = self.pages.iter().map(|page| page.collected).max().unwrap_or_default();
        self.round += 1;
        for Count { key, value } in counts {
            let Some(place) = self.places.get_mut(key) else { continue };
            place.seen = self.round;
            let is_other = match (&place.labels, key.labels()) {
                (Some(known), Some(labels)) => !Arc::ptr_eq(known, labels),
                _ => false,
            };
            place.labels = key.labels().cloned();
            // From 0, it counts on.
            place.has_begun_anew |= place.told.is_some_and(|told| told > 0 && (is_other || *value < told));
        }
        let Self { pages, places, resumed, round } = self;
        for (key, place) in places.iter().filter(|(_, place)| place.seen + 1 == *round) {
            if let Some(page) = pages.get_mut(place.page) {
                page.leaving.push(key.clone());
            }
        }
        let mut members = vec![Vec::new(); pages.len()];
        let mut first = 0;
        for (i, Count { key, value }) in counts.iter().enumerate() {
            let known = places.get(key).map(|place| place.page);
            let page = known.unwrap_or_else(|| {
                let size = size_of(collection, key);
                let has_room = |page: &DeltaPage| {
                    page.collected == last
                        && page.source.pending().is_empty()
                        && limits.has_room(page.size, size)
                };
                let found = pages.iter().skip(first).position(has_room).map(|found| first + found);
                let at = found.unwrap_or_else(|| {
                    let source = match resumed.is_empty() {
                        true => Source::new(true, make()),
                        false => Source::resuming(true, make()),
                    };
                    pages.push(DeltaPage {
                        source,
                        size: RequestSize::default(),
                        leaving: Vec::new(),
                        collected: last,
                    });
                    members.push(Vec::new());
                    pages.len() - 1
                });
                first = at;
                if let Some(page) = pages.get_mut(at) {
                    page.size += size;
                }
                let told = resumed.remove(key).filter(|told| told <= value);
                let labels = key.labels().cloned();
                let place = Place { page: at, size, labels, told, has_begun_anew: false, seen: *round };
                places.insert(key.clone(), place);
                at
            });
            if let Some(members) = members.get_mut(page) {
                members.push(i);
            }
        }
        // What is not there any more will not be.
        *resumed = Told::new();
        members
    }

    async fn export(
        &mut self,
        counts: &[Count],
        members: &[Vec<usize>],
        collection: &Collection,
        sender: &mut Sender,
        outcome: &mut Outcome,
    ) -> ControlFlow<()> {
        for (page, members) in self.pages.iter_mut().zip(members) {
            let members: Vec<&Count> = members.iter().filter_map(|i| counts.get(*i)).collect();
            // Twice where a count has begun anew.
            while sender.send_pending(&mut page.source, outcome).await? {
                let collected = page.collect(&members, &mut self.places, self.round, collection);
                let is_complete = *collected.as_ref().unwrap_or(&true);
                sender.note_collected(collected.map(|_| ()), outcome);
                sender.send_collected(&mut page.source, outcome).await?;
                if is_complete {
                    break;
                }
            }
        }
        self.drop_empty_pages();
        ControlFlow::Continue(())
    }

    /// Drops the pages at the end that nothing is in any more.
    fn drop_empty_pages(&mut self) {
        let is_empty = |page: &DeltaPage| page.size.points == 0 && page.source.pending().is_empty();
        while self.pages.last().is_some_and(is_empty) {
            self.pages.pop();
        }
    }
}

impl DeltaPage {
    /// Collects the counts, but for those that have begun anew: the SDK has to forget these, and another collection
    /// has to follow. Says whether none does.
    fn collect(
        &mut self,
        members: &[&Count],
        places: &mut HashMap<EventKey, Place>,
        round: u64,
        collection: &Collection,
    ) -> Result<bool, String> {
        let begun_anew = |count: &Count| places.get(&count.key).is_some_and(|place| place.has_begun_anew);
        let observed: Vec<&Count> = members.iter().copied().filter(|count| !begun_anew(count)).collect();
        let prime = || {
            let told = observed.iter().filter_map(|count| {
                let told = places.get(&count.key)?.told?;
                Some(Count { key: count.key.clone(), value: told })
            });
            let told: Vec<Count> = told.collect();
            collection.set_page(to_page(collection, told.iter()));
        };
        let observe = || collection.set_page(to_page(collection, observed.iter().copied()));
        self.source.collect(&prime, &observe)?;
        self.collected = round;
        for key in self.leaving.drain(..) {
            if let Some(place) = places.get(&key).filter(|place| place.seen != round) {
                self.size -= place.size;
                places.remove(&key);
            }
        }
        let is_complete = observed.len() == members.len();
        for count in members {
            if let Some(place) = places.get_mut(&count.key) {
                let is_left_out = std::mem::take(&mut place.has_begun_anew);
                place.told = (!is_left_out).then_some(count.value);
            }
        }
        Ok(is_complete)
    }
}

/// All counts at this moment.
fn counts(collection: &Collection, events: &EventSet, merged: &mut Merged<Vec<KeyValue>>) -> Vec<Count> {
    let mut counts = Vec::new();
    if !collection.streams().events.is_empty() {
        let count = |event: &EventCount| Count {
            key: EventKey::Labels(Arc::clone(&event.labels)),
            value: event.count,
        };
        counts.extend(events.list.iter().map(count));
    }
    if !collection.streams().merged_events.is_empty() {
        for (stream, points) in collection.merge_events(&events.list, merged).into_iter().enumerate() {
            let count = |(attributes, value): (Vec<KeyValue>, i64)| Count {
                key: EventKey::Merged(stream, attributes),
                value: value.unsigned_abs(),
            };
            counts.extend(points.into_iter().map(count));
        }
    }
    counts
}

/// How many of the counts, one at least, go into a request.
fn fitting(collection: &Collection, limits: RequestLimits, counts: &[Count]) -> usize {
    let mut size = RequestSize::default();
    let fits = |count: &&Count| {
        let more = size_of(collection, &count.key);
        let has_room = limits.has_room(size, more);
        size += more;
        has_room
    };
    counts.iter().take_while(fits).count()
}

fn size_of(collection: &Collection, key: &EventKey) -> RequestSize {
    match key {
        EventKey::Labels(labels) => {
            let attributes = AttributeSets::default().event(labels);
            let streams = collection.streams().events.iter();
            RequestSize::of(streams.filter(|stream| stream.counter() == labels.counter).count(), &attributes)
        }
        EventKey::Merged(_, attributes) => RequestSize::of(1, attributes),
    }
}

fn to_page<'c>(collection: &Collection, counts: impl Iterator<Item = &'c Count>) -> Page {
    let streams = collection.streams();
    let containers = streams.merged_containers.len();
    let mut page =
        Page { merged: vec![Vec::new(); containers + streams.merged_events.len()], ..Page::default() };
    let mut sets = AttributeSets::default();
    for Count { key, value } in counts {
        match key {
            EventKey::Labels(labels) => page.events.push(CountSeries {
                counter: labels.counter,
                attributes: sets.event(labels),
                count: *value,
            }),
            EventKey::Merged(stream, attributes) => {
                let value = i64::try_from(*value).unwrap_or(i64::MAX);
                if let Some(points) = page.merged.get_mut(containers + stream) {
                    points.push((attributes.clone(), value));
                }
            }
        }
    }
    page
}

/// The events' instruments, with room for a page.
fn provider(
    collection: &Arc<Collection>,
    resource: &Resource,
    limits: RequestLimits,
    temporality: Temporality,
) -> Manual {
    let views = (collection.view(1, limits.points), collection.merged_view(limits.points));
    let manual = Manual::new(resource, temporality, |b| b.with_view(views.0).with_view(views.1));
    metrics::register_events(&manual.meter(), collection);
    metrics::register_merged_events(&manual.meter(), collection);
    manual
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, SumDataPoint};

    use super::*;
    use crate::config::{Aggregation, CardinalityLimits, Encoding};
    use crate::inventory::{Counter, EventIdentity};
    use crate::metrics::views::Rules;

    /// Counts that come, go, come back and are told, with what has been told of each by its name.
    struct Model {
        collection: Arc<Collection>,
        limits: RequestLimits,
        delta: DeltaPages,
        counts: BTreeMap<u64, (Arc<EventLabels>, u64)>,
        /// What has been collected of those that have gone, and what has been taken.
        gone: BTreeMap<u64, u64>,
        taken: BTreeMap<u64, u64>,
        /// When what was taken last of each ended.
        ends: BTreeMap<u64, std::time::SystemTime>,
    }

    impl Model {
        fn new() -> Self {
            let rules = Rules::new(&[], CardinalityLimits::default(), Aggregation::Default);
            Self {
                collection: Collection::new(Encoding::Code, &rules),
                limits: RequestLimits { points: 3, bytes: 1_000_000 },
                delta: DeltaPages::default(),
                counts: BTreeMap::new(),
                gone: BTreeMap::new(),
                taken: BTreeMap::new(),
                ends: BTreeMap::new(),
            }
        }

        fn count(&mut self, name: u64, events: u64) {
            let entry = self.counts.entry(name).or_insert_with(|| {
                let identity = Arc::new(EventIdentity {
                    name: Some(name.to_string().into()),
                    ..EventIdentity::default()
                });
                (
                    Arc::new(EventLabels {
                        counter: Counter::Events,
                        event: "die".into(),
                        kind: "container".into(),
                        identity,
                    }),
                    0,
                )
            });
            entry.1 += events;
        }

        /// What was not collected of it is lost with it.
        fn remove(&mut self, name: u64) {
            let Some((labels, _)) = self.counts.remove(&name) else { return };
            let key = EventKey::Labels(Arc::clone(&labels));
            // Under the same labels there may be one that has gone before, and has not been missed yet.
            let place = self.delta.places.get(&key);
            let place = place.filter(|place| place.labels.as_ref().is_some_and(|l| Arc::ptr_eq(l, &labels)));
            let place = place.filter(|place| !place.has_begun_anew);
            *self.gone.entry(name).or_default() += place.and_then(|place| place.told).unwrap_or_default();
        }

        /// One export, of which each request is taken or not.
        fn export(&mut self, mut is_taken: impl FnMut() -> bool) {
            let counts: Vec<Count> = self
                .counts
                .values()
                .map(|(labels, value)| Count { key: EventKey::Labels(Arc::clone(labels)), value: *value })
                .collect();
            let (collection, limits) = (Arc::clone(&self.collection), self.limits);
            let resource = Resource::builder_empty().build();
            let make = || provider(&collection, &resource, limits, Temporality::Delta);
            let members = self.delta.assign(&counts, &collection, limits, make);
            for (at, members) in members.iter().enumerate() {
                let members: Vec<&Count> = members.iter().map(|i| &counts[*i]).collect();
                while self.send(at, &mut is_taken) {
                    let DeltaPages { pages, places, round, .. } = &mut self.delta;
                    let is_complete = pages[at].collect(&members, places, *round, &collection).unwrap();
                    if !self.send(at, &mut is_taken) || is_complete {
                        break;
                    }
                }
            }
            self.delta.drop_empty_pages();
        }

        /// Says whether all that is pending was taken.
        fn send(&mut self, page: usize, is_taken: &mut impl FnMut() -> bool) -> bool {
            while let Some(metrics) = self.delta.pages[page].source.pending().first() {
                if !is_taken() {
                    return false;
                }
                for metric in metrics.scope_metrics().flat_map(|scope| scope.metrics()) {
                    let AggregatedMetrics::U64(MetricData::Sum(sum)) = metric.data() else {
                        panic!("no sum")
                    };
                    assert!(sum.data_points().count() <= self.limits.points);
                    for point in sum.data_points() {
                        let name = name(point);
                        *self.taken.entry(name).or_default() += point.value();
                        let end = self.ends.insert(name, sum.time());
                        assert!(end.is_none_or(|end| end <= sum.start_time()), "{name} is told twice");
                    }
                }
                self.delta.pages[page].source.taken();
            }
            true
        }

        /// Each count has been told once, those of all lives.
        #[track_caller]
        fn check(&mut self) {
            self.export(|| true);
            let mut expected = self.gone.clone();
            for (name, (_, count)) in &self.counts {
                *expected.entry(*name).or_default() += count;
            }
            expected.retain(|_, count| *count > 0);
            self.taken.retain(|_, count| *count > 0);
            assert_eq!(self.taken, expected);
        }
    }

    fn name(point: &SumDataPoint<u64>) -> u64 {
        let name = point.attributes().find(|a| a.key.as_str() == "name").unwrap();
        name.value.as_str().parse().unwrap()
    }

    #[test]
    fn whatever_fails_and_goes_and_comes_back_each_count_is_told_once() {
        for seed in 0..500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut model = Model::new();
            for _ in 0..30 {
                for _ in 0..random.u64(0..8) {
                    model.count(random.u64(0..12), random.u64(0..4));
                }
                if random.bool() {
                    model.remove(random.u64(0..12));
                }
                if random.u8(0..4) > 0 {
                    model.export(|| random.u8(0..3) > 0);
                }
            }
            model.check();
        }
    }

    #[test]
    fn a_count_that_has_begun_anew_is_told_whole() {
        // As high as before, or lower, or higher.
        for again in [5, 3, 9] {
            let mut model = Model::new();
            model.count(1, 5);
            model.export(|| true);
            model.remove(1);
            model.count(1, again);
            model.check();
            assert_eq!(model.taken[&1], 5 + again);
        }
    }

    #[test]
    fn pages_go_with_what_is_in_them() {
        let mut model = Model::new();
        (0..10).for_each(|name| model.count(name, 1));
        model.export(|| false);
        assert_eq!(model.delta.pages.len(), 4);
        (0..10).for_each(|name| model.remove(name));
        // What has not been taken is kept.
        model.export(|| false);
        assert_eq!(model.delta.pages.len(), 4);
        model.check();
        model.check();
        assert_eq!((model.delta.pages.len(), model.delta.places.len()), (0, 0));
    }

    #[test]
    fn another_reader_tells_what_has_not_been_told() {
        let mut model = Model::new();
        (0..10).for_each(|name| model.count(name, 5));
        model.export(|| true);
        (0..10).for_each(|name| model.count(name, 2));
        let places = std::mem::take(&mut model.delta).places;
        let told = places.into_iter().filter_map(|(key, place)| Some((key, place.told?)));
        model.delta.resumed = told.collect();
        model.count(11, 3);
        model.check();
    }
}
