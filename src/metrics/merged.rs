//! Collecting the streams that are merged: their points, and their instruments.

use std::hash::Hash;
use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::metrics::{AsyncInstrument, Meter};
use opentelemetry_sdk::metrics::{Instrument, Stream};

use super::attributes::{AttributeSets, with_label};
use super::instruments::{Collection, counter, gauge, room};
use super::merge::{LastValues, Sums};
use super::page::{Point, each_value};
use super::views::{ContainerStream, Stream as ViewedStream, Streams};
use crate::catalog::{ContainerMetric, ContainerValue, OVERFLOW};
use crate::config::Encoding;
use crate::inventory::{Container, Counter, EventCount, EventLabels, Text};

/// What a reader keeps of the merged streams. `K` is a point's attributes, or what stands for them.
#[derive(Debug)]
pub struct Merged<K> {
    /// Of containers.
    pub containers: Vec<MergedContainers<K>>,
    /// Of events.
    pub events: Vec<MergedEvents<K>>,
}

/// A stream of containers.
///
/// One that keeps all attributes has no two points with the same ones. What its points are of tells them apart, and
/// attributes are made for those only that there are within the limit.
#[derive(Debug)]
pub enum MergedContainers<K> {
    /// By container and label; none is for all beyond the limit.
    OfEach { values: LastValues<Option<(Text, OwnLabel)>>, overflow: K },
    /// By attributes.
    OfAttributes(LastValues<K>),
}

/// The label that a point has beside the container's, if it has one: its state, or its reason.
type OwnLabel = Option<(&'static str, &'static str)>;

/// A stream of events; see [`MergedContainers`].
#[derive(Debug)]
pub enum MergedEvents<K> {
    /// By label set; none is for all beyond the limit.
    OfEach { sums: Sums<Option<Arc<EventLabels>>>, overflow: K },
    /// By attributes.
    OfAttributes(Sums<K>),
}

/// The attributes of the point that stands for all beyond a stream's limit.
pub fn overflow() -> Vec<KeyValue> {
    vec![KeyValue::new(OVERFLOW, true)]
}

impl<K: Clone + Eq + Hash> MergedContainers<K> {
    fn new(stream: &ViewedStream, overflow: &K) -> Self {
        match stream.keys {
            None => Self::OfEach { values: LastValues::new(stream.limit, None), overflow: overflow.clone() },
            Some(_) => Self::OfAttributes(LastValues::new(stream.limit, overflow.clone())),
        }
    }

    /// The points that these containers, in the order of their ids, become: from a container's attributes, and those
    /// with one more label.
    pub fn merge(
        &mut self,
        encoding: Encoding,
        entry: &ContainerMetric,
        containers: &[Arc<Container>],
        mut attributes: impl FnMut(&Container) -> K,
        with_label: impl Fn(&K, (&'static str, &'static str)) -> K,
    ) -> Vec<(K, i64)> {
        match self {
            Self::OfAttributes(values) => values.merge(|each| {
                for container in containers {
                    let attributes = attributes(container);
                    each_value(entry, encoding, container, |value, label| match label {
                        Some(label) => each(&with_label(&attributes, label), value),
                        None => each(&attributes, value),
                    });
                }
            }),
            Self::OfEach { values, overflow } => {
                let points = values.merge(|each| {
                    for container in containers {
                        each_value(entry, encoding, container, |value, label| {
                            each(&Some((Text::clone(&container.id), label)), value);
                        });
                    }
                });
                let point = |(of, value): (Option<(Text, OwnLabel)>, i64)| {
                    let Some((id, label)) = of else { return Some((overflow.clone(), value)) };
                    let place = containers.binary_search_by(|container| container.id.cmp(&id)).ok()?;
                    let attributes = attributes(containers.get(place)?);
                    let attributes = match label {
                        Some(label) => with_label(&attributes, label),
                        None => attributes,
                    };
                    Some((attributes, value))
                };
                points.into_iter().filter_map(point).collect()
            }
        }
    }
}

impl<K: Clone + Eq + Hash> MergedEvents<K> {
    fn new(stream: &ViewedStream, overflow: &K) -> Self {
        match stream.keys {
            None => Self::OfEach { sums: Sums::new(stream.limit, None), overflow: overflow.clone() },
            Some(_) => Self::OfAttributes(Sums::new(stream.limit, overflow.clone())),
        }
    }

    /// The points that those of these become that are of this counter.
    pub fn merge(
        &mut self,
        events: &[EventCount],
        counter: Counter,
        mut attributes: impl FnMut(&EventLabels) -> K,
    ) -> Vec<(K, i64)> {
        let counted = || events.iter().filter(|event| event.labels.counter == counter);
        match self {
            Self::OfAttributes(sums) => sums.merge(|each| {
                for EventCount { labels, count } in counted() {
                    each(labels, &attributes(labels), *count);
                }
            }),
            Self::OfEach { sums, overflow } => {
                let points = sums.merge(|each| {
                    for EventCount { labels, count } in counted() {
                        each(labels, &Some(Arc::clone(labels)), *count);
                    }
                });
                let point = |(of, value): (Option<Arc<EventLabels>>, i64)| {
                    (of.map_or_else(|| overflow.clone(), |labels| attributes(&labels)), value)
                };
                points.into_iter().map(point).collect()
            }
        }
    }

    /// Goes on from the sums of another stream with the same limit and attributes.
    pub fn resume(&mut self, before: &Self) {
        match (self, before) {
            (Self::OfEach { sums, .. }, Self::OfEach { sums: before, .. }) => sums.resume(before),
            (Self::OfAttributes(sums), Self::OfAttributes(before)) => sums.resume(before),
            _ => {}
        }
    }
}

impl Collection {
    /// The merged streams, before the first collection. `overflow` stands for what is beyond a limit.
    pub fn merged<K: Clone + Eq + Hash>(&self, overflow: &K) -> Merged<K> {
        let Streams { merged_containers, merged_events, .. } = &self.streams;
        let containers = merged_containers.iter().map(|c| MergedContainers::new(&c.stream, overflow));
        let events = merged_events.iter().map(|stream| MergedEvents::new(stream, overflow));
        Merged { containers: containers.collect(), events: events.collect() }
    }

    /// The points of the merged streams of containers.
    pub fn merge_containers(
        &self,
        containers: &[Arc<Container>],
        merged: &mut Merged<Vec<KeyValue>>,
    ) -> Vec<Vec<Point>> {
        let mut sets = AttributeSets::default();
        let mut streams = Vec::new();
        for (ContainerStream { entry, stream }, merged) in
            self.streams.merged_containers.iter().zip(&mut merged.containers)
        {
            let attributes = |container: &Container| {
                let mut attributes = sets.container(container);
                if let ContainerValue::Info = entry.value {
                    attributes = AttributeSets::info(&attributes, container);
                }
                attributes.retain(|attribute| stream.keeps(attribute.key.as_str()));
                attributes
            };
            let with_label = |attributes: &Vec<KeyValue>, label: (&'static str, &'static str)| {
                if stream.keeps(label.0) { with_label(attributes, label) } else { attributes.clone() }
            };
            streams.push(merged.merge(self.encoding, entry, containers, attributes, with_label));
        }
        streams
    }

    /// The points of the merged streams of events.
    pub fn merge_events(&self, events: &[EventCount], merged: &mut Merged<Vec<KeyValue>>) -> Vec<Vec<Point>> {
        let mut sets = AttributeSets::default();
        let mut streams = Vec::new();
        for (stream, merged) in self.streams.merged_events.iter().zip(&mut merged.events) {
            streams.push(merged.merge(events, stream.counter(), |labels| {
                let mut attributes = sets.event(labels);
                attributes.retain(|attribute| stream.keeps(attribute.key.as_str()));
                attributes
            }));
        }
        streams
    }

    /// How status and health are written.
    pub fn encoding(&self) -> Encoding {
        self.encoding
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
}

/// Registers the instruments of the merged streams of containers.
pub fn register_merged_containers(meter: &Meter, collection: &Arc<Collection>) {
    for (i, ContainerStream { stream, .. }) in collection.streams.merged_containers.iter().enumerate() {
        gauge(meter, stream, merged_callback(collection, i, |value| value));
    }
}

/// Registers the instruments of the merged streams of events.
pub fn register_merged_events(meter: &Meter, collection: &Arc<Collection>) {
    let Streams { merged_containers, merged_events, .. } = &collection.streams;
    for (i, stream) in merged_events.iter().enumerate() {
        counter(meter, stream, merged_callback(collection, merged_containers.len() + i, i64::unsigned_abs));
    }
}

/// Observes the points of one merged stream that are set out.
fn merged_callback<T: 'static>(
    collection: &Arc<Collection>,
    stream: usize,
    number: fn(i64) -> T,
) -> impl Fn(&dyn AsyncInstrument<T>) + Send + Sync + 'static {
    let collection = Arc::clone(collection);
    move |observer| {
        for (attributes, value) in collection.page().merged.get(stream).into_iter().flatten() {
            observer.observe(number(*value), attributes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::CONTAINER;
    use crate::config::{Aggregation, CardinalityLimits};
    use crate::metrics::views::Rules;

    #[test]
    fn attributes_are_made_for_the_points_within_the_limit_only() {
        let limits = CardinalityLimits { default: Some(3), ..CardinalityLimits::default() };
        let rules = Rules::new(&[], limits, Aggregation::Default);
        let collection = Collection::new(Encoding::StateSet, &rules);
        let mut merged: Merged<String> = collection.merged(&"overflow".to_owned());
        let containers: Vec<_> = (0..100)
            .map(|number| Arc::new(Container::sample(&format!("{number:064x}"), &format!("c{number}"))))
            .collect();
        let mut made = 0;
        let mut merge = |merged: &mut MergedContainers<String>, containers: &[Arc<Container>]| {
            let entry = CONTAINER.iter().find(|entry| entry.metric.name == "container.state.status").unwrap();
            let name = |container: &Container| {
                made += 1;
                container.name.to_string()
            };
            let with_label = |name: &String, (_, word): (&str, &str)| format!("{name} {word}");
            merged.merge(Encoding::StateSet, entry, containers, name, with_label)
        };
        let merged = &mut merged.containers[0];
        let point = |name: &str, value| (name.to_owned(), value);
        let first = [point("c0 removing", 0), point("c0 dead", 0), point("overflow", 1)];
        assert_eq!(merge(merged, &containers), first);
        assert_eq!(merge(merged, &containers), first);
        let others = [point("c1 removing", 0), point("c1 dead", 0), point("overflow", 1)];
        assert_eq!(merge(merged, &containers[1..]), others);
        assert_eq!(made, 3 * 2);
    }
}
