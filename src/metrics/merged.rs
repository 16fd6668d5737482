//! Collecting the streams that are merged: their points, and their instruments.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use opentelemetry_sdk::metrics::{Instrument, Stream};

use super::attributes::{of_container, of_event, with_state};
use super::catalog::{ContainerMetric, ContainerValue, OVERFLOW};
use super::instruments::{Collection, counter, gauge, room};
use super::merge::{LastValues, Sums};
use super::views::{ContainerStream, Streams};
use crate::config::Encoding;
use crate::inventory::{Container, Snapshot};

/// A point of a merged stream.
pub type Point = (Vec<KeyValue>, i64);

/// What a reader keeps of the merged streams, by the attributes or by what stands for them.
#[derive(Debug)]
pub struct Merged<K> {
    /// Of containers.
    pub containers: Vec<LastValues<K>>,
    /// Of events.
    pub events: Vec<Sums<K>>,
}

/// The attributes of the point that stands for all beyond a stream's limit.
pub fn overflow() -> Vec<KeyValue> {
    vec![KeyValue::new(OVERFLOW, true)]
}

impl Collection {
    /// The merged streams, before the first collection. `overflow` stands for what is beyond a limit.
    pub fn merged<K: Clone + Eq + std::hash::Hash>(&self, overflow: &K) -> Merged<K> {
        let Streams { merged_containers, merged_events, .. } = &self.streams;
        Merged {
            containers: merged_containers
                .iter()
                .map(|c| LastValues::new(c.stream.limit, overflow.clone()))
                .collect(),
            events: merged_events.iter().map(|s| Sums::new(s.limit, overflow.clone())).collect(),
        }
    }

    /// The points of the merged streams, containers' first.
    pub fn merge(&self, snapshot: &Snapshot, merged: &mut Merged<Vec<KeyValue>>) -> Vec<Vec<Point>> {
        let mut streams = Vec::new();
        let Streams { merged_containers, merged_events, .. } = &self.streams;
        for (ContainerStream { entry, stream }, merged) in
            merged_containers.iter().zip(&mut merged.containers)
        {
            streams.push(merged.merge(|each| {
                for container in &snapshot.containers.list {
                    let attributes = of_container(container, matches!(entry.value, ContainerValue::Info));
                    each_value(entry, self.encoding, container, |value, state| {
                        let mut attributes = match state {
                            Some(state) => with_state(&attributes, state),
                            None => attributes.clone(),
                        };
                        attributes.retain(|attribute| stream.keeps(attribute.key.as_str()));
                        each(&attributes, value);
                    });
                }
            }));
        }
        for (stream, merged) in merged_events.iter().zip(&mut merged.events) {
            streams.push(merged.merge(|each| {
                for event in &snapshot.events.list {
                    let mut attributes = of_event(&event.labels);
                    attributes.retain(|attribute| stream.keeps(attribute.key.as_str()));
                    each(&event.labels, &attributes, event.count);
                }
            }));
        }
        streams
    }

    /// The view that gives each merged stream room for so many points.
    pub fn merged_view(
        &self,
        points: usize,
    ) -> impl Fn(&Instrument) -> Option<Stream> + Send + Sync + 'static {
        let Streams { merged_containers, merged_events, .. } = &self.streams;
        let streams = merged_containers.iter().map(|c| &c.stream).chain(merged_events);
        room(streams.map(|stream| (stream.name.clone(), points)).collect())
    }

    /// The values of the merged streams' points of a container, each with its state where it is one of several.
    pub fn each_value(
        &self,
        entry: &ContainerMetric,
        container: &Container,
        each: impl FnMut(i64, Option<&'static str>),
    ) {
        each_value(entry, self.encoding, container, each);
    }
}

fn each_value(
    entry: &ContainerMetric,
    encoding: Encoding,
    container: &Container,
    mut each: impl FnMut(i64, Option<&'static str>),
) {
    match (entry.value, encoding) {
        (ContainerValue::State { states, code }, Encoding::StateSet) => {
            let current = code(container);
            states().into_iter().for_each(|(word, code)| each(i64::from(code == current), Some(word)));
        }
        (ContainerValue::Number(value) | ContainerValue::State { code: value, .. }, _) => {
            each(value(container), None);
        }
        (ContainerValue::Info, _) => each(1, None),
    }
}

/// Registers the instruments of merged streams.
pub fn register_merged(meter: &Meter, collection: &Arc<Collection>) {
    let Streams { merged_containers, merged_events, .. } = &collection.streams;
    for (i, ContainerStream { stream, .. }) in merged_containers.iter().enumerate() {
        let collection = Arc::clone(collection);
        gauge(meter, stream, move |observer| {
            collection.each_merged(i, |value, attributes| observer.observe(value, attributes));
        });
    }
    for (i, stream) in merged_events.iter().enumerate() {
        let (i, collection) = (merged_containers.len() + i, Arc::clone(collection));
        counter(meter, stream, move |observer| {
            collection.each_merged(i, |value, attributes| observer.observe(value.unsigned_abs(), attributes));
        });
    }
}
