//! Attributes in OTLP's own form, written once for all points that have them.
//!
//! The instruments observe a number in the place of a container's or an event's attributes. What is written here
//! stands in its place when a request is encoded: copied, as it is, into each point.

use std::ops::Range;
use std::sync::Arc;

use opentelemetry::{KeyValue, Value};
use opentelemetry_proto::tonic::common::v1::KeyValue as ProtoKeyValue;
use prost::encoding::message;

use super::wire::{ATTRIBUTES, begin, field};
use crate::inventory::{Container, EventCount};
use crate::metrics::{SERIES_LABEL, attributes};

/// The bytes that most entries do not exceed.
const USUAL: usize = 512;

/// The attributes of what was collected, by its number.
#[derive(Debug)]
pub(super) struct Table {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// The streams that have what `container.info` says.
    infos: Option<Arc<[String]>>,
}

/// Where an entry's attributes end, and where those begin that only `container.info` has. It begins where the one
/// before it ends.
#[derive(Debug, Clone, Copy)]
struct Entry {
    info: usize,
    end: usize,
}

impl Table {
    /// Of what has no numbers.
    pub(super) const EMPTY: Self = Self { bytes: Vec::new(), entries: Vec::new(), infos: None };

    /// For so many entries, if they are not longer than most. What room is not written to takes no memory.
    fn with_room(entries: usize) -> Self {
        Self { bytes: Vec::with_capacity(entries * USUAL), entries: Vec::with_capacity(entries), infos: None }
    }

    /// `infos`: the streams of `container.info`, which views can give other names.
    pub(super) fn of_containers(containers: &[Arc<Container>], infos: &Arc<[String]>) -> Self {
        let mut table = Self { infos: Some(Arc::clone(infos)), ..Self::with_room(containers.len()) };
        for container in containers {
            attributes::container(container, &mut |prefix: &str, key: &str, value: &str| {
                push(&mut table.bytes, prefix, key, value);
            });
            let info = table.bytes.len();
            attributes::info(container, &mut |prefix: &str, key: &str, value: &str| {
                push(&mut table.bytes, prefix, key, value);
            });
            table.entries.push(Entry { info, end: table.bytes.len() });
        }
        table
    }

    pub(super) fn of_events(events: &[EventCount]) -> Self {
        let mut table = Self::with_room(events.len());
        for event in events {
            attributes::event(&event.labels, &mut |prefix: &str, key: &str, value: &str| {
                push(&mut table.bytes, prefix, key, value);
            });
            table.entries.push(Entry { info: table.bytes.len(), end: table.bytes.len() });
        }
        table
    }

    /// Whether the metric with this name has what `container.info` says.
    pub(super) fn is_info(&self, metric: &str) -> bool {
        self.infos.as_ref().is_some_and(|infos| infos.iter().any(|info| info == metric))
    }

    /// Writes a point's attributes, with the tags that they have in it, but those that a number stands for. Returns that
    /// number, and where its attributes are here.
    pub(super) fn write<'a>(
        &self,
        point: impl Iterator<Item = &'a KeyValue>,
        is_info: bool,
        bytes: &mut Vec<u8>,
    ) -> Option<(usize, Range<usize>)> {
        let mut point = point.peekable();
        // The SDK has them in the order they were observed in, so the number is the first.
        let number = point.peek().and_then(|first| number(first));
        let known = number.and_then(|number| Some((number, self.get(number, is_info)?)));
        if known.is_some() {
            point.next();
        }
        for other in point {
            match &other.value {
                Value::String(value) => push(bytes, "", other.key.as_str(), value.as_str()),
                _ => message::encode(ATTRIBUTES.into(), &ProtoKeyValue::from(other), bytes),
            }
        }
        known
    }

    pub(super) fn at(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }

    fn get(&self, number: usize, is_info: bool) -> Option<Range<usize>> {
        let begin = match number.checked_sub(1) {
            Some(before) => self.entries.get(before)?.end,
            None => 0,
        };
        let entry = self.entries.get(number)?;
        Some(begin..if is_info { entry.end } else { entry.info })
    }
}

fn number(attribute: &KeyValue) -> Option<usize> {
    match attribute.value {
        Value::I64(number) if attribute.key.as_str() == SERIES_LABEL => usize::try_from(number).ok(),
        _ => None,
    }
}

/// Writes one attribute, with the tag that it has in a point.
fn push(bytes: &mut Vec<u8>, prefix: &str, key: &str, value: &str) {
    let key_length = prefix.len() + key.len();
    // A value is a message with one field, the string.
    let value_length = field(value.len());
    let length = field(key_length) + field(value_length);
    bytes.reserve(field(length));
    begin(ATTRIBUTES, length, bytes);
    begin(1, key_length, bytes);
    bytes.extend_from_slice(prefix.as_bytes());
    bytes.extend_from_slice(key.as_bytes());
    begin(2, value_length, bytes);
    begin(1, value.len(), bytes);
    bytes.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value;
    use opentelemetry_proto::tonic::metrics::v1::NumberDataPoint;
    use prost::Message;

    use super::*;

    fn number(number: i64) -> KeyValue {
        KeyValue::new(SERIES_LABEL, number)
    }

    /// The attributes that a receiver reads in the place of these.
    fn read(table: &Table, metric: &str, attributes: &[KeyValue]) -> String {
        let mut others = Vec::new();
        let known = table.write(attributes.iter(), table.is_info(metric), &mut others);
        let bytes = [table.at(&known.unwrap().1), &others].concat();
        let point = NumberDataPoint::decode(&*bytes).unwrap();
        let shown = point.attributes.iter().map(|a| match &a.value.as_ref().unwrap().value {
            Some(any_value::Value::StringValue(value)) => format!("{}={value}", a.key),
            other => format!("{}={other:?}", a.key),
        });
        shown.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_receiver_reads_what_a_number_stands_for() {
        let long = "x".repeat(300);
        let containers = [
            Arc::new(Container::sample("0123", "web").labelled(&[("team", "")])),
            Arc::new(Container::sample("4567", "db").labelled(&[("long", &long)])),
        ];
        let table = Table::of_containers(&containers, &["container.info".to_owned()].into());
        let web = "container.id=0123 container.image.name=busybox container.name=web container.label.team=";
        let more = " container.image.id=sha256:0 container.restart_policy=no container.hostname=host";
        let status = "container.state.status";
        assert_eq!(read(&table, status, &[number(0)]), web);
        assert_eq!(read(&table, "container.info", &[number(0)]), format!("{web}{more}"));
        assert!(read(&table, status, &[number(1)]).ends_with(&format!("container.label.long={long}")));
        let with = [number(0), KeyValue::new("status", "running"), KeyValue::new("whole", 7)];
        assert_eq!(read(&table, status, &with), format!("{web} status=running whole=Some(IntValue(7))"));
    }

    #[test]
    fn what_has_no_number_that_stands_for_anything_is_written_as_it_is() {
        let table = Table::of_containers(&[Arc::new(Container::sample("0123", "web"))], &[].into());
        for attributes in [vec![number(1)], vec![KeyValue::new("a", "b"), number(0)], Vec::new()] {
            let mut bytes = Vec::new();
            assert_eq!(table.write(attributes.iter(), false, &mut bytes), None);
            let point = NumberDataPoint::decode(&*bytes).unwrap();
            assert_eq!(point.attributes, attributes.iter().map(Into::into).collect::<Vec<_>>());
        }
    }
}
