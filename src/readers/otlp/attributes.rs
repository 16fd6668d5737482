//! Attributes in OTLP's own form, written once for all points that have them.
//!
//! The instruments observe a number in the place of a container's or an event's attributes. What is written here
//! stands in its place when a request is encoded: copied, as it is, into each point.

use std::sync::Arc;

use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint};

use crate::inventory::{Container, EventCount};
use crate::metrics::{SERIES_LABEL, attributes};

/// The number of the field `attributes` in a data point.
const ATTRIBUTES: u32 = 7;

/// The attributes of what was collected, by its number.
#[derive(Debug, Default)]
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

    /// `infos`: the streams of `container.info`, which views can give other names.
    pub(super) fn of_containers(containers: &[Arc<Container>], infos: &Arc<[String]>) -> Self {
        let mut table = Self { infos: Some(Arc::clone(infos)), ..Self::default() };
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
        let mut table = Self::default();
        for event in events {
            attributes::event(&event.labels, &mut |prefix: &str, key: &str, value: &str| {
                push(&mut table.bytes, prefix, key, value);
            });
            table.entries.push(Entry { info: table.bytes.len(), end: table.bytes.len() });
        }
        table
    }

    /// How many numbers there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// What stands for a point's number, of the metric with this name; and the attributes beside that number.
    /// Nothing where the point has none.
    pub(super) fn find<'a>(
        &'a self,
        metric: &str,
        point: &'a [KeyValue],
    ) -> Option<(&'a [u8], &'a [KeyValue])> {
        let (_, others) = point.split_first()?;
        let number = number(point)?;
        let begin = match number.checked_sub(1) {
            Some(before) => self.entries.get(before)?.end,
            None => 0,
        };
        let entry = self.entries.get(number)?;
        let is_info = self.infos.as_ref().is_some_and(|infos| infos.iter().any(|info| info == metric));
        let end = if is_info { entry.end } else { entry.info };
        Some((self.bytes.get(begin..end)?, others))
    }
}

/// The number that stands for a point's attributes.
pub(super) fn number(attributes: &[KeyValue]) -> Option<usize> {
    // The SDK has them in the order they were observed in, so the number is the first.
    let first = attributes.first().filter(|first| first.key == SERIES_LABEL)?;
    let Some(Value::IntValue(number)) = first.value.as_ref()?.value else { return None };
    usize::try_from(number).ok()
}

/// Writes one attribute, with the tag that it has in a point.
fn push(bytes: &mut Vec<u8>, prefix: &str, key: &str, value: &str) {
    let key_length = prefix.len() + key.len();
    // A string in its field takes a tag, its length and itself; a value is a message with one such field.
    let string = |length: usize| 1 + encoded_len_varint(length as u64) + length;
    let value_length = string(value.len());
    encode_key(ATTRIBUTES, WireType::LengthDelimited, bytes);
    encode_varint((string(key_length) + string(value_length)) as u64, bytes);
    encode_key(1, WireType::LengthDelimited, bytes);
    encode_varint(key_length as u64, bytes);
    bytes.extend_from_slice(prefix.as_bytes());
    bytes.extend_from_slice(key.as_bytes());
    encode_key(2, WireType::LengthDelimited, bytes);
    encode_varint(value_length as u64, bytes);
    encode_key(1, WireType::LengthDelimited, bytes);
    encode_varint(value.len() as u64, bytes);
    bytes.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::AnyValue;
    use opentelemetry_proto::tonic::metrics::v1::NumberDataPoint;
    use prost::Message;

    use super::*;

    fn number(number: i64) -> KeyValue {
        let value = Some(AnyValue { value: Some(Value::IntValue(number)) });
        KeyValue { key: SERIES_LABEL.into(), value, ..KeyValue::default() }
    }

    /// What a receiver reads in the place of a number.
    fn read(table: &Table, metric: &str, at: i64) -> String {
        let numbered = [number(at)];
        let (bytes, others) = table.find(metric, &numbered).unwrap();
        assert!(others.is_empty());
        let point = NumberDataPoint::decode(bytes).unwrap();
        let shown = point.attributes.iter().map(|a| match &a.value.as_ref().unwrap().value {
            Some(Value::StringValue(value)) => format!("{}={value}", a.key),
            other => panic!("{other:?}"),
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
        assert_eq!(read(&table, "container.state.status", 0), web);
        assert_eq!(read(&table, "container.info", 0), format!("{web}{more}"));
        assert!(read(&table, "container.state.status", 1).ends_with(&format!("container.label.long={long}")));
        assert!(table.find("container.state.status", &[number(2)]).is_none());
        assert!(table.find("container.state.status", &[]).is_none());
    }
}
