//! Requests as bytes, with what stands for the numbers of their points.

use bytes::Bytes;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum,
};
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, message};

use super::attributes::Table;

// The numbers of fields in OTLP's messages.
const RESOURCE_METRICS: u32 = 1;
const SCOPE_METRICS: u32 = 2;
const METRICS: u32 = 2;
const GAUGE: u32 = 5;
const SUM: u32 = 7;
const DATA_POINTS: u32 = 1;
const START: u32 = 2;
const TIME: u32 = 3;
const AS_DOUBLE: u32 = 4;
const AS_INT: u32 = 6;
const ATTRIBUTES: u32 = 7;

/// A tag and eight bytes.
const FIXED: usize = 9;

/// The bytes of a request.
pub(super) fn encode(request: &ExportMetricsServiceRequest, table: &Table) -> Bytes {
    let mut bytes = Vec::with_capacity(request_length(request, table));
    for resource in &request.resource_metrics {
        begin(RESOURCE_METRICS, resource_length(resource, table), &mut bytes);
        for scope in &resource.scope_metrics {
            begin(SCOPE_METRICS, scope_length(scope, table), &mut bytes);
            for metric in &scope.metrics {
                begin(METRICS, metric_length(metric, table), &mut bytes);
                encode_metric(metric, table, &mut bytes);
            }
            // These fail only where there is no room, and a vector makes some.
            let _ = ScopeMetrics { metrics: Vec::new(), ..head_of_scope(scope) }.encode(&mut bytes);
        }
        let _ = head_of_resource(resource).encode(&mut bytes);
    }
    bytes.into()
}

/// The length of a request.
pub(super) fn request_length(request: &ExportMetricsServiceRequest, table: &Table) -> usize {
    request.resource_metrics.iter().map(|resource| field(resource_length(resource, table))).sum()
}

fn resource_length(resource: &ResourceMetrics, table: &Table) -> usize {
    let scopes = resource.scope_metrics.iter().map(|scope| field(scope_length(scope, table)));
    head_of_resource(resource).encoded_len() + scopes.sum::<usize>()
}

fn scope_length(scope: &ScopeMetrics, table: &Table) -> usize {
    let metrics = scope.metrics.iter().map(|metric| field(metric_length(metric, table)));
    head_of_scope(scope).encoded_len() + metrics.sum::<usize>()
}

/// All but the scopes.
pub(super) fn head_of_resource(resource: &ResourceMetrics) -> ResourceMetrics {
    ResourceMetrics {
        resource: resource.resource.clone(),
        scope_metrics: Vec::new(),
        schema_url: resource.schema_url.clone(),
    }
}

/// All but the metrics.
pub(super) fn head_of_scope(scope: &ScopeMetrics) -> ScopeMetrics {
    ScopeMetrics { scope: scope.scope.clone(), metrics: Vec::new(), schema_url: scope.schema_url.clone() }
}

/// A metric whose points have numbers, in parts: the field that its data is in, the data without its points, and
/// the points.
fn numbered<'a>(metric: &'a Metric, table: &Table) -> Option<(u32, Data, &'a [NumberDataPoint])> {
    let (number, head, points) = match metric.data.as_ref()? {
        Data::Gauge(gauge) => (GAUGE, Data::Gauge(Gauge::default()), &gauge.data_points),
        Data::Sum(sum) => {
            let head = Sum { data_points: Vec::new(), ..*sum };
            (SUM, Data::Sum(head), &sum.data_points)
        }
        _ => return None,
    };
    table.find(&metric.name, &points.first()?.attributes)?;
    Some((number, head, points))
}

fn metric_length(metric: &Metric, table: &Table) -> usize {
    let Some((_, head, points)) = numbered(metric, table) else { return metric.encoded_len() };
    head_of_metric(metric).encoded_len() + field(data_length(metric, &head, points, table))
}

fn encode_metric(metric: &Metric, table: &Table, bytes: &mut Vec<u8>) {
    let Some((number, head, points)) = numbered(metric, table) else {
        let _ = metric.encode(bytes);
        return;
    };
    let _ = head_of_metric(metric).encode(bytes);
    begin(number, data_length(metric, &head, points, table), bytes);
    for point in points {
        begin(DATA_POINTS, point_length(&metric.name, point, table), bytes);
        encode_point(&metric.name, point, table, bytes);
    }
    let _ = match head {
        Data::Gauge(gauge) => gauge.encode(bytes),
        Data::Sum(sum) => sum.encode(bytes),
        _ => Ok(()),
    };
}

/// All but the data.
pub(super) fn head_of_metric(metric: &Metric) -> Metric {
    Metric {
        name: metric.name.clone(),
        description: metric.description.clone(),
        unit: metric.unit.clone(),
        metadata: metric.metadata.clone(),
        data: None,
    }
}

fn data_length(metric: &Metric, head: &Data, points: &[NumberDataPoint], table: &Table) -> usize {
    let head = match head {
        Data::Gauge(gauge) => gauge.encoded_len(),
        Data::Sum(sum) => sum.encoded_len(),
        _ => 0,
    };
    head + points.iter().map(|point| field(point_length(&metric.name, point, table))).sum::<usize>()
}

/// The length of a metric's point.
pub(super) fn point_length(metric: &str, point: &NumberDataPoint, table: &Table) -> usize {
    let Some((written, others)) = table.find(metric, &point.attributes) else { return point.encoded_len() };
    let others: usize = others.iter().map(|other| message::encoded_len(ATTRIBUTES, other)).sum();
    let value = if point.value.is_some() { FIXED } else { 0 };
    fixed(point.start_time_unix_nano) + fixed(point.time_unix_nano) + value + written.len() + others
}

fn encode_point(metric: &str, point: &NumberDataPoint, table: &Table, bytes: &mut Vec<u8>) {
    let Some((written, others)) = table.find(metric, &point.attributes) else {
        let _ = point.encode(bytes);
        return;
    };
    for (number, time) in [(START, point.start_time_unix_nano), (TIME, point.time_unix_nano)] {
        if time != 0 {
            eight(number, time.to_le_bytes(), bytes);
        }
    }
    match point.value {
        Some(Value::AsInt(value)) => eight(AS_INT, value.to_le_bytes(), bytes),
        Some(Value::AsDouble(value)) => eight(AS_DOUBLE, value.to_le_bytes(), bytes),
        None => {}
    }
    bytes.extend_from_slice(written);
    for other in others {
        message::encode(ATTRIBUTES, other, bytes);
    }
}

/// The bytes of a point's attributes, the same at each collection: what a series is told apart by.
pub(super) fn push_attributes(metric: &str, attributes: &[KeyValue], table: &Table, bytes: &mut Vec<u8>) {
    let (written, others) = table.find(metric, attributes).unwrap_or((&[], attributes));
    bytes.extend_from_slice(written);
    for other in others {
        message::encode(ATTRIBUTES, other, bytes);
    }
}

fn begin(number: u32, length: usize, bytes: &mut Vec<u8>) {
    encode_key(number, WireType::LengthDelimited, bytes);
    encode_varint(length as u64, bytes);
}

/// The length of a field, all of whose numbers are below 16, that holds a message of this length.
fn field(length: usize) -> usize {
    1 + encoded_len_varint(length as u64) + length
}

fn eight(number: u32, value: [u8; 8], bytes: &mut Vec<u8>) {
    encode_key(number, WireType::SixtyFourBit, bytes);
    bytes.extend_from_slice(&value);
}

fn fixed(time: u64) -> usize {
    if time == 0 { 0 } else { FIXED }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, any_value};
    use opentelemetry_proto::tonic::metrics::v1::{Histogram, HistogramDataPoint};
    use opentelemetry_proto::tonic::resource::v1::Resource;

    use super::*;
    use crate::inventory::Container;
    use crate::metrics::SERIES_LABEL;

    fn attribute(key: &str, value: any_value::Value) -> KeyValue {
        KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }

    fn text(key: &str, value: &str) -> KeyValue {
        attribute(key, any_value::Value::StringValue(value.into()))
    }

    /// Points of all kinds, of two containers, with these attributes for each.
    fn request(attributes: impl Fn(usize) -> Vec<KeyValue>) -> ExportMetricsServiceRequest {
        let points = |value: fn(usize) -> Value| -> Vec<NumberDataPoint> {
            (0..2)
                .map(|number| NumberDataPoint {
                    attributes: attributes(number),
                    start_time_unix_nano: number as u64,
                    time_unix_nano: 7,
                    value: Some(value(number)),
                    ..NumberDataPoint::default()
                })
                .collect()
        };
        let metric = |name: &str, data| Metric {
            name: name.into(),
            description: "words".into(),
            unit: "s".into(),
            data: Some(data),
            ..Metric::default()
        };
        let gauge = Gauge { data_points: points(|number| Value::AsInt(number as i64 - 1)) };
        let sum = Sum {
            data_points: points(|number| Value::AsDouble(number as f64)),
            aggregation_temporality: 2,
            is_monotonic: true,
        };
        let histogram = Histogram {
            data_points: vec![HistogramDataPoint {
                attributes: vec![text("a", "b")],
                count: 3,
                ..Default::default()
            }],
            aggregation_temporality: 2,
        };
        let scope = ScopeMetrics {
            scope: Some(InstrumentationScope { name: "scope".into(), ..Default::default() }),
            metrics: vec![
                metric("gauge", Data::Gauge(gauge)),
                metric("sum", Data::Sum(sum)),
                metric("histogram", Data::Histogram(histogram)),
                metric("empty", Data::Gauge(Gauge::default())),
            ],
            schema_url: "scope's".into(),
        };
        let resource = ResourceMetrics {
            resource: Some(Resource { attributes: vec![text("r", "s")], ..Default::default() }),
            scope_metrics: vec![scope.clone(), scope],
            schema_url: "resource's".into(),
        };
        ExportMetricsServiceRequest { resource_metrics: vec![resource] }
    }

    #[test]
    fn a_receiver_reads_what_was_meant() {
        let containers = [("01", "web"), ("02", "db")]
            .map(|(id, name)| Arc::new(Container::sample(id, name).labelled(&[("t", "blue")])));
        let table = Table::of_containers(&containers, &[].into());
        let number = |number: usize| {
            let number = attribute(SERIES_LABEL, any_value::Value::IntValue(number as i64));
            vec![number, text("status", "running")]
        };
        let meant = request(|number| {
            let container = &containers[number];
            vec![
                text("container.id", &container.id),
                text("container.image.name", "busybox"),
                text("container.name", &container.name),
                text("container.label.t", "blue"),
                text("status", "running"),
            ]
        });
        let numbered = request(number);
        let bytes = encode(&numbered, &table);
        assert_eq!(bytes.len(), request_length(&numbered, &table));
        assert_eq!(ExportMetricsServiceRequest::decode(bytes).unwrap(), meant);
    }

    #[test]
    fn what_has_no_numbers_is_as_prost_writes_it() {
        let plain = request(|_| vec![text("a", "b")]);
        let bytes = encode(&plain, &Table::EMPTY);
        assert_eq!(
            (bytes.len(), request_length(&plain, &Table::EMPTY)),
            (plain.encoded_len(), plain.encoded_len())
        );
        assert_eq!(ExportMetricsServiceRequest::decode(bytes).unwrap(), plain);
    }
}
