//! How large a request may be, and how large what is put into it becomes.

use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::Resource;

use crate::metrics::views::{Stream, Streams};

/// A Collector's gRPC receiver refuses messages over 4 MiB unless it is told otherwise.
const MAX_BYTES: usize = 4_000_000;

/// Data points that are collected at once, at most. With twice as many an export takes as much time and more memory.
const MAX_POINTS: usize = 1_000;

/// What a nested message takes beside its own bytes: a tag, and a length of up to five bytes.
const NESTING: usize = 6;

/// A data point's time, start and value, with their tags.
const NUMBERS: usize = 3 * 9;

/// How large a request may be. A single data point that is larger goes alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct RequestLimits {
    pub(super) points: usize,
    pub(super) bytes: usize,
}

/// How large the data points of a request are, at most.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct RequestSize {
    pub(super) points: usize,
    pub(super) bytes: usize,
}

impl RequestLimits {
    /// What is left for data points beside the resource and the streams' descriptions.
    pub(super) fn new(max_batch_size: usize, resource: &Resource, streams: &Streams) -> Self {
        let resource: usize = resource.iter().map(|(key, value)| attribute_bytes(key.as_str(), value)).sum();
        let Streams { containers, merged_containers, events, merged_events } = streams;
        let of_containers = containers.iter().chain(merged_containers).map(|c| &c.stream);
        let described: usize = of_containers.chain(events).chain(merged_events).map(stream_bytes).sum();
        Self {
            points: max_batch_size.min(MAX_POINTS),
            bytes: MAX_BYTES.saturating_sub(resource + described + 1_000),
        }
    }

    /// Whether a request of this size may have so much more.
    pub(super) fn has_room(&self, size: RequestSize, more: RequestSize) -> bool {
        size.points == 0
            || (size.points + more.points <= self.points && size.bytes + more.bytes <= self.bytes)
    }
}

impl RequestSize {
    /// Of so many data points that have these attributes.
    pub(super) fn of(points: usize, attributes: &[KeyValue]) -> Self {
        let attributes = attributes.iter().map(|a| attribute_bytes(a.key.as_str(), &a.value)).sum::<usize>();
        Self { points, bytes: points * (NESTING + NUMBERS + attributes) }
    }
}

impl std::ops::AddAssign for RequestSize {
    fn add_assign(&mut self, more: Self) {
        self.points += more.points;
        self.bytes += more.bytes;
    }
}

impl std::ops::SubAssign for RequestSize {
    fn sub_assign(&mut self, less: Self) {
        self.points = self.points.saturating_sub(less.points);
        self.bytes = self.bytes.saturating_sub(less.bytes);
    }
}

/// An attribute is a message with a key and a value, which is one with a text.
fn attribute_bytes(key: &str, value: &Value) -> usize {
    let value = match value {
        Value::String(text) => text.as_str().len(),
        // Each element is a message of its own.
        Value::Array(_) => value.as_str().len() * NESTING,
        _ => 8,
    };
    4 * NESTING + key.len() + value
}

/// A metric with its data, but for the points.
fn stream_bytes(stream: &Stream) -> usize {
    6 * NESTING + stream.name.len() + stream.description.len() + stream.metric.unit.len()
}

#[cfg(test)]
mod tests {
    use opentelemetry::{Array, StringValue};
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_sdk::metrics::Temporality;
    use opentelemetry_sdk::metrics::data::ResourceMetrics;
    use prost::Message;

    use super::*;
    use crate::config::{Aggregation, CardinalityLimits, Encoding};
    use crate::metrics::views::Rules;
    use crate::metrics::{self, Collection, ContainerSeries, Page};
    use crate::readers::Manual;

    #[test]
    fn no_request_is_larger_than_is_counted_on() {
        let rules = Rules::new(&[], CardinalityLimits::default(), Aggregation::Default);
        let texts: Vec<StringValue> = (0..20).map(|n| format!("{n}").into()).collect();
        let resource = Resource::builder_empty()
            .with_attributes([
                KeyValue::new("array", Value::Array(Array::String(texts))),
                KeyValue::new("number", 7),
                KeyValue::new("text", "x".repeat(300)),
            ])
            .build();
        for (length, containers) in [(0, 1), (1, 30), (200, 30), (20_000, 3)] {
            let collection = Collection::new(Encoding::Code, &rules);
            let limits = RequestLimits::new(1_000, &resource, collection.streams());
            let attributes = |n: usize| {
                let text = "y".repeat(length);
                vec![
                    KeyValue::new("a", format!("{n}")),
                    KeyValue::new("b", text.clone()),
                    KeyValue::new(text, ""),
                ]
            };
            let mut size = RequestSize::default();
            let series = (0..containers).map(|n| {
                let attributes = attributes(n);
                size += RequestSize::of(collection.container_points().len(), &attributes);
                let container = crate::inventory::Container::sample("0123", "web").into();
                ContainerSeries { container, attributes, info: None }
            });
            let containers = series.collect();
            let manual = Manual::new(&resource, Temporality::Cumulative, |b| b);
            metrics::register_containers(&manual.meter(), &collection);
            collection.set_page(Page { containers, ..Page::default() });
            let mut collected = ResourceMetrics::default();
            manual.collect(&mut collected).unwrap();
            let bytes = ExportMetricsServiceRequest::from(&collected).encoded_len();
            let counted = size.bytes + MAX_BYTES - limits.bytes;
            assert!(bytes <= counted, "{bytes} bytes, {counted} counted");
        }
    }

    #[test]
    fn what_is_too_large_goes_alone() {
        let limits = RequestLimits { points: 10, bytes: 100 };
        let size = |points, bytes| RequestSize { points, bytes };
        assert!(limits.has_room(size(0, 0), size(11, 101)));
        assert!(limits.has_room(size(9, 90), size(1, 10)));
        assert!(!limits.has_room(size(9, 90), size(1, 11)));
        assert!(!limits.has_room(size(9, 90), size(2, 10)));
    }
}
