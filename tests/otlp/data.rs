//! What requests hold, laid flat.

use std::collections::BTreeMap;
use std::fmt::Write;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value};
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, NumberDataPoint, metric};

use crate::collector::Export;

/// Attributes by their keys.
pub(crate) type Attributes = BTreeMap<String, String>;

/// One data point with all that is said of its metric.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    pub(crate) metric: String,
    pub(crate) unit: String,
    pub(crate) description: String,
    pub(crate) kind: Kind,
    pub(crate) attributes: Attributes,
    /// A histogram's count.
    pub(crate) value: f64,
    /// Unix nanoseconds.
    pub(crate) start: u64,
    pub(crate) time: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Gauge,
    Sum { delta: bool, monotonic: bool },
    Histogram { delta: bool },
    Exponential { delta: bool },
}

/// The data points of a request.
pub(crate) fn points(request: &ExportMetricsServiceRequest) -> Vec<Point> {
    let metrics = request.resource_metrics.iter().flat_map(|r| &r.scope_metrics).flat_map(|s| &s.metrics);
    let mut points = Vec::new();
    for metric in metrics {
        let mut add = |kind, attributes: &[KeyValue], value, start, time| {
            points.push(Point {
                metric: metric.name.clone(),
                unit: metric.unit.clone(),
                description: metric.description.clone(),
                kind,
                attributes: texts(attributes),
                value,
                start,
                time,
            });
        };
        let delta = |temporality: i32| {
            let temporality = AggregationTemporality::try_from(temporality).unwrap();
            assert_ne!(temporality, AggregationTemporality::Unspecified, "{}", metric.name);
            temporality == AggregationTemporality::Delta
        };
        match metric.data.as_ref().unwrap() {
            metric::Data::Gauge(data) => {
                for p in &data.data_points {
                    add(Kind::Gauge, &p.attributes, number(p), p.start_time_unix_nano, p.time_unix_nano);
                }
            }
            metric::Data::Sum(data) => {
                let delta = delta(data.aggregation_temporality);
                let kind = Kind::Sum { delta, monotonic: data.is_monotonic };
                for p in &data.data_points {
                    add(kind, &p.attributes, number(p), p.start_time_unix_nano, p.time_unix_nano);
                }
            }
            metric::Data::Histogram(data) => {
                let kind = Kind::Histogram { delta: delta(data.aggregation_temporality) };
                for p in &data.data_points {
                    assert_eq!(p.bucket_counts.iter().sum::<u64>(), p.count, "{}", metric.name);
                    assert_eq!(p.bucket_counts.len(), p.explicit_bounds.len() + 1, "{}", metric.name);
                    add(kind, &p.attributes, p.count as f64, p.start_time_unix_nano, p.time_unix_nano);
                }
            }
            metric::Data::ExponentialHistogram(data) => {
                let kind = Kind::Exponential { delta: delta(data.aggregation_temporality) };
                for p in &data.data_points {
                    let buckets =
                        [&p.positive, &p.negative].into_iter().flatten().flat_map(|b| &b.bucket_counts);
                    assert_eq!(buckets.sum::<u64>() + p.zero_count, p.count, "{}", metric.name);
                    add(kind, &p.attributes, p.count as f64, p.start_time_unix_nano, p.time_unix_nano);
                }
            }
            other => panic!("{}: {other:?}", metric.name),
        }
    }
    points
}

fn number(point: &NumberDataPoint) -> f64 {
    match point.value.unwrap() {
        Value::AsInt(value) => value as f64,
        Value::AsDouble(value) => value,
    }
}

/// Attributes as texts; each key may be there once.
pub(crate) fn texts(attributes: &[KeyValue]) -> Attributes {
    let mut texts = Attributes::new();
    for attribute in attributes {
        let value = match attribute.value.as_ref().and_then(|value| value.value.as_ref()).unwrap() {
            any_value::Value::StringValue(value) => value.clone(),
            other => format!("{other:?}"),
        };
        assert_eq!(texts.insert(attribute.key.clone(), value), None, "{} is there twice", attribute.key);
    }
    texts
}

/// The data points of all requests that were taken.
pub(crate) fn taken(exports: &[Export]) -> Vec<Point> {
    exports.iter().filter(|export| export.taken).flat_map(|export| points(&export.request)).collect()
}

/// The exports of everything that are complete: each ends with the exporter's own metrics, in one request unless
/// requests are very small.
pub(crate) fn rounds(exports: &[Export]) -> Vec<Vec<Point>> {
    let (mut rounds, mut round) = (Vec::new(), Vec::new());
    for export in exports.iter().filter(|export| export.taken) {
        round.extend(points(&export.request));
        if round.iter().any(|point| point.metric == "docker.up") {
            rounds.push(std::mem::take(&mut round));
        }
    }
    rounds
}

/// The points of one metric by their attributes; none may be there twice.
pub(crate) fn series(points: &[Point], metric: &str) -> BTreeMap<Attributes, f64> {
    let mut series = BTreeMap::new();
    for point in points.iter().filter(|point| point.metric == metric) {
        let twice = series.insert(point.attributes.clone(), point.value);
        assert_eq!(twice, None, "{metric} {:?} is there twice", point.attributes);
    }
    series
}

/// The value of the one point of a metric that has these attributes, and maybe more.
pub(crate) fn value(points: &[Point], metric: &str, with: &[(&str, &str)]) -> Result<f64, String> {
    let of_metric: Vec<_> = points.iter().filter(|point| point.metric == metric).collect();
    let mut found = of_metric.iter().filter(|point| {
        with.iter().all(|(key, value)| point.attributes.get(*key).is_some_and(|there| there == value))
    });
    match (found.next(), found.next()) {
        (Some(point), None) => Ok(point.value),
        (Some(_), Some(_)) => Err(format!("more than one {metric} {with:?}")),
        (None, _) => {
            let mut text = format!("no {metric} {with:?}, but");
            for point in of_metric.iter().take(5) {
                let _ = write!(text, "\n  {:?} {}", point.attributes, point.value);
            }
            Err(text)
        }
    }
}
