//! The observable instruments of containers and events: callbacks over the part of a snapshot that the
//! reader of their provider has set out for the next collection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};
use opentelemetry_sdk::metrics::{Instrument, Stream};

use super::catalog::{ContainerMetric, ContainerValue, STATE_LABEL};
use super::labels;
use super::merged::Point;
use super::views::{ContainerStream, Rules, Stream as ViewedStream, Streams};
use crate::config::Encoding;
use crate::inventory::{Container, EventCount};

/// The attribute that stands for all others of a container's or an event's series: a number, by which a reader
/// finds what it has to write in its place. A set that went through the SDK as it is would be copied, hashed and
/// compared several times on its way, for each of a container's series.
pub const SERIES_LABEL: &str = "series";

/// What the callbacks of one provider will observe.
///
/// A reader prepares a part of a snapshot, collects, and clears it. All callbacks of a collection therefore
/// see one moment, and a reader that pages through the inventory needs memory for a page only.
#[derive(Debug)]
pub struct Collection {
    pub(super) encoding: Encoding,
    pub(super) streams: Streams,
    prepared: Mutex<Arc<Prepared>>,
}

#[derive(Debug, Default)]
struct Prepared {
    containers: Vec<Arc<Container>>,
    /// Which of the containers' streams are collected; all where this is empty.
    wanted: Vec<bool>,
    /// The counts of events.
    events: Vec<u64>,
    /// What each container and each event is told apart by: its place in these lists.
    numbers: Arc<Vec<KeyValue>>,
    /// Of each stream that is merged, containers' first.
    merged: Vec<Vec<Point>>,
}

impl Collection {
    /// A collection that has nothing prepared.
    pub fn new(encoding: Encoding, rules: &Rules) -> Arc<Self> {
        let streams = rules.inventory();
        Arc::new(Self { encoding, streams, prepared: Mutex::default() })
    }

    /// What is collected.
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Sets out these containers and events, each told apart by its place here and by nothing else.
    pub fn prepare(&self, containers: &[Arc<Container>], events: &[EventCount]) {
        self.prepare_wanted(containers, Vec::new(), events);
    }

    /// Sets out these containers for some of their streams, in the order of [`Streams::containers`].
    pub fn prepare_streams(&self, containers: &[Arc<Container>], wanted: &[bool]) {
        self.prepare_wanted(containers, wanted.to_vec(), &[]);
    }

    /// Which of the containers' streams say something else of `now` than of `before`.
    pub fn changed(&self, before: &[Arc<Container>], now: &[Arc<Container>]) -> Vec<bool> {
        let pairs = || before.iter().zip(now);
        let is_same = before.len() == now.len() && pairs().all(|(before, now)| labels::same(before, now));
        let differs = |entry: &ContainerMetric| match entry.value {
            ContainerValue::Number(value) | ContainerValue::State { code: value, .. } => {
                pairs().any(|(before, now)| value(before) != value(now))
            }
            ContainerValue::Info => pairs().any(|(before, now)| !labels::same_info(before, now)),
        };
        self.streams.containers.iter().map(|c| !is_same || differs(c.entry)).collect()
    }

    fn prepare_wanted(&self, containers: &[Arc<Container>], wanted: Vec<bool>, events: &[EventCount]) {
        let mut numbers = self.numbers();
        let count = containers.len().max(events.len());
        if numbers.len() < count {
            numbers = Arc::new((0..count).map(|n| KeyValue::new(SERIES_LABEL, n as i64)).collect());
        }
        let events = events.iter().map(|event| event.count).collect();
        self.set(Prepared { containers: containers.to_vec(), wanted, events, numbers, merged: Vec::new() });
    }

    /// Sets out these points of the merged streams, containers' first.
    pub fn prepare_merged(&self, merged: Vec<Vec<Point>>) {
        self.set(Prepared { merged, numbers: self.numbers(), ..Prepared::default() });
    }

    /// The points of a merged stream that are set out.
    pub(super) fn each_merged(&self, stream: usize, mut observe: impl FnMut(i64, &[KeyValue])) {
        for (attributes, value) in self.get().merged.get(stream).into_iter().flatten() {
            observe(*value, attributes);
        }
    }

    /// Sets out nothing, and so lets go of the snapshot.
    pub fn clear(&self) {
        self.set(Prepared { numbers: self.numbers(), ..Prepared::default() });
    }

    /// Data points that each container has.
    pub fn points_per_container(&self) -> usize {
        self.streams.containers.iter().map(|c| points(c.entry, self.encoding)).sum::<usize>().max(1)
    }

    /// The view that gives each stream of containers and events the room that this many need. The SDK's own
    /// limit of 2,000 would fold what is beyond it into one point.
    ///
    /// The SDK takes memory for the whole limit at once, so readers do not ask for more than they use.
    pub fn view(
        &self,
        containers: usize,
        events: usize,
    ) -> impl Fn(&Instrument) -> Option<Stream> + Send + Sync + 'static {
        let containers = self
            .streams
            .containers
            .iter()
            .map(|c| (c.stream.name.clone(), containers * points(c.entry, self.encoding)));
        let events = self.streams.events.iter().map(|stream| (stream.name.clone(), events));
        room(containers.chain(events).collect())
    }

    /// They are the same in each collection, so they are made once.
    fn numbers(&self) -> Arc<Vec<KeyValue>> {
        Arc::clone(&self.get().numbers)
    }

    fn set(&self, prepared: Prepared) {
        *self.prepared.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(prepared);
    }

    fn get(&self) -> Arc<Prepared> {
        Arc::clone(&self.prepared.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The view that gives streams room for so many points, by their names.
pub(super) fn room(
    rooms: HashMap<String, usize>,
) -> impl Fn(&Instrument) -> Option<Stream> + Send + Sync + 'static {
    move |instrument| {
        let room = rooms.get(instrument.name())?;
        Stream::builder().with_cardinality_limit((*room).max(1)).build().ok()
    }
}

/// Registers the instruments of containers.
pub fn register_containers(meter: &Meter, collection: &Arc<Collection>) {
    for (i, ContainerStream { entry, stream }) in collection.streams.containers.iter().enumerate() {
        let (entry, collection) = (*entry, Arc::clone(collection));
        gauge(meter, stream, move |observer| {
            let prepared = collection.get();
            if prepared.wanted.get(i).copied().unwrap_or(true) {
                observe(entry, collection.encoding, &prepared, observer);
            }
        });
    }
}

/// Registers the instruments of events.
pub fn register_events(meter: &Meter, collection: &Arc<Collection>) {
    for stream in &collection.streams.events {
        let collection = Arc::clone(collection);
        counter(meter, stream, move |observer| {
            let prepared = collection.get();
            for (count, number) in prepared.events.iter().zip(&*prepared.numbers) {
                observer.observe(*count, std::slice::from_ref(number));
            }
        });
    }
}

/// Registers a gauge of containers.
pub(super) fn gauge(
    meter: &Meter,
    stream: &ViewedStream,
    callback: impl Fn(&dyn AsyncInstrument<i64>) + Send + Sync + 'static,
) {
    meter
        .i64_observable_gauge(stream.name.clone())
        .with_unit(stream.metric.unit)
        .with_description(stream.description.clone())
        .with_callback(callback)
        .build();
}

/// Registers a counter of events.
pub(super) fn counter(
    meter: &Meter,
    stream: &ViewedStream,
    callback: impl Fn(&dyn AsyncInstrument<u64>) + Send + Sync + 'static,
) {
    meter
        .u64_observable_counter(stream.name.clone())
        .with_unit(stream.metric.unit)
        .with_description(stream.description.clone())
        .with_callback(callback)
        .build();
}

fn observe(
    entry: &ContainerMetric,
    encoding: Encoding,
    prepared: &Prepared,
    observer: &dyn AsyncInstrument<i64>,
) {
    let numbered = || prepared.containers.iter().zip(&*prepared.numbers);
    match (entry.value, encoding) {
        (ContainerValue::Number(value) | ContainerValue::State { code: value, .. }, Encoding::Code)
        | (ContainerValue::Number(value), Encoding::StateSet) => {
            for (container, number) in numbered() {
                observer.observe(value(container), std::slice::from_ref(number));
            }
        }
        (ContainerValue::State { states, code }, Encoding::StateSet) => {
            let states = states();
            for (container, number) in numbered() {
                let current = code(container);
                for (word, code) in &states {
                    // In the order of their keys: the SDK stores a set that is not sorted a second time.
                    let attributes = [number.clone(), KeyValue::new(STATE_LABEL, *word)];
                    observer.observe(i64::from(*code == current), &attributes);
                }
            }
        }
        (ContainerValue::Info, _) => {
            for (_, number) in numbered() {
                observer.observe(1, std::slice::from_ref(number));
            }
        }
    }
}

/// Data points of one container.
fn points(entry: &ContainerMetric, encoding: Encoding) -> usize {
    match (entry.value, encoding) {
        (ContainerValue::State { states, .. }, Encoding::StateSet) => states().len(),
        _ => 1,
    }
}
