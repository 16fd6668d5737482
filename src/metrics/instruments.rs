//! The observable instruments of containers and events: callbacks over the page of a snapshot that the reader of
//! their provider has set out for the next collection.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry::metrics::{AsyncInstrument, Meter};
use opentelemetry_sdk::metrics::{Instrument, Stream};

use super::attributes::with_label;
use super::labels;
use super::page::{Page, each_value, points};
use super::views::{ContainerStream, Rules, Stream as ViewedStream, Streams};
use crate::catalog::{ContainerMetric, ContainerValue};
use crate::config::Encoding;
use crate::inventory::Container;

/// What the callbacks of one provider will observe.
///
/// A reader sets out a page, collects, and clears it. All callbacks of a collection therefore see one moment, and a
/// reader that pages through the inventory needs memory for a page only.
#[derive(Debug)]
pub struct Collection {
    pub(super) encoding: Encoding,
    pub(super) streams: Streams,
    page: Mutex<Arc<Page>>,
}

impl Collection {
    /// A collection that has nothing set out.
    pub fn new(encoding: Encoding, rules: &Rules) -> Arc<Self> {
        let streams = rules.inventory();
        Arc::new(Self { encoding, streams, page: Mutex::default() })
    }

    /// What is collected.
    pub fn streams(&self) -> &Streams {
        &self.streams
    }

    /// Sets out what is observed next.
    pub fn set_page(&self, page: Page) {
        *self.page.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(page);
    }

    /// Sets out nothing, and so lets go of the snapshot.
    pub fn clear(&self) {
        self.set_page(Page::default());
    }

    pub(super) fn page(&self) -> Arc<Page> {
        Arc::clone(&self.page.lock().unwrap_or_else(PoisonError::into_inner))
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
            ContainerValue::Reason { reason, .. } => {
                pairs().any(|(before, now)| reason(before) != reason(now))
            }
            ContainerValue::Optional(value) => pairs().any(|(before, now)| value(before) != value(now)),
        };
        self.streams.containers.iter().map(|c| !is_same || differs(c.entry)).collect()
    }

    /// The points of a container that these of the containers' streams have, for [`Page::wanted`].
    pub fn points_of(&self, streams: &[bool]) -> Vec<bool> {
        let wanted = streams.iter().zip(&self.streams.containers);
        wanted.flat_map(|(wanted, c)| std::iter::repeat_n(*wanted, points(c.entry, self.encoding))).collect()
    }

    /// Which metric each of a container's points is of, in the order of [`Page::wanted`].
    pub fn container_points(&self) -> Vec<&'static ContainerMetric> {
        let streams = self.streams.containers.iter();
        streams.flat_map(|c| std::iter::repeat_n(c.entry, points(c.entry, self.encoding))).collect()
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
    let mut first = 0;
    for ContainerStream { entry, stream } in &collection.streams.containers {
        let (entry, collection) = (*entry, Arc::clone(collection));
        let range = first..first + points(entry, collection.encoding);
        first = range.end;
        gauge(meter, stream, move |observer| {
            let page = collection.page();
            if !page.wants_any(range.clone()) {
                return;
            }
            for series in &page.containers {
                let attributes = series.attributes_of(entry);
                let mut point = range.start;
                each_value(entry, collection.encoding, &series.container, |value, label| {
                    if page.wants(point) {
                        match label {
                            Some(label) => observer.observe(value, &with_label(attributes, label)),
                            None => observer.observe(value, attributes),
                        }
                    }
                    point += 1;
                });
            }
        });
    }
}

/// Registers the instruments of events.
pub fn register_events(meter: &Meter, collection: &Arc<Collection>) {
    for stream in &collection.streams.events {
        let (collection, counted) = (Arc::clone(collection), stream.counter());
        counter(meter, stream, move |observer| {
            for series in collection.page().events.iter().filter(|series| series.counter == counted) {
                observer.observe(series.count, &series.attributes);
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
