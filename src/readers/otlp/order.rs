//! What is alike put together, for compression.
//!
//! A container's attributes are the same in each of its metrics, but in a request that has metric after metric they
//! stand farther apart than deflate looks back. With a few containers' metrics one after the other, each time under
//! the same resource, the requests for 1,000 containers are half as large.

use std::sync::Arc;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics};
use prost::Message;

use super::attributes::{Table, number};
use super::encode::{head_of_metric, head_of_resource, head_of_scope, request_length};
use super::request::MOST_BYTES;
use crate::inventory::EventCount;

/// Containers, or label sets of events, that are put together. Their points of one metric must fit well into the
/// 32 KiB that deflate looks back; with fewer, the resource and the metrics' heads are said more often.
const TOGETHER: usize = 8;

/// The tags and lengths of a metric, its data, and all that they are in.
const NESTING: usize = 36;

/// The request with what is alike together, unless that makes it too long.
pub(super) fn together(request: ExportMetricsServiceRequest, table: &Table) -> ExportMetricsServiceRequest {
    let scopes = request.resource_metrics.iter().flat_map(|r| r.scope_metrics.iter().map(move |s| (r, s)));
    let heads: usize = scopes
        .map(|(resource, scope)| {
            let metrics = scope.metrics.iter().map(|metric| head_of_metric(metric).encoded_len() + NESTING);
            let outside = head_of_resource(resource).encoded_len() + head_of_scope(scope).encoded_len();
            table.len().div_ceil(TOGETHER) * (outside + metrics.sum::<usize>())
        })
        .sum();
    if request_length(&request, table) + heads > MOST_BYTES {
        return request;
    }
    let mut all = Vec::new();
    for mut resource in request.resource_metrics {
        for mut scope in std::mem::take(&mut resource.scope_metrics) {
            for metrics in grouped(std::mem::take(&mut scope.metrics)) {
                let scope_metrics = vec![ScopeMetrics { metrics, ..head_of_scope(&scope) }];
                all.push(ResourceMetrics { scope_metrics, ..head_of_resource(&resource) });
            }
        }
    }
    ExportMetricsServiceRequest { resource_metrics: all }
}

/// Event counts with those of a container one after the other.
pub(super) fn by_identity(events: &[EventCount]) -> Vec<EventCount> {
    let mut events = events.to_vec();
    events.sort_unstable_by_key(|event| Arc::as_ptr(&event.labels.identity));
    events
}

/// The metrics of each group; what has no numbers is in the first.
fn grouped(metrics: Vec<Metric>) -> Vec<Vec<Metric>> {
    let mut groups: Vec<Vec<Metric>> = Vec::new();
    let mut put = |group: usize, metric: Metric| {
        if groups.len() <= group {
            groups.resize_with(group + 1, Vec::new);
        }
        if let Some(group) = groups.get_mut(group) {
            group.push(metric);
        }
    };
    // One metric is no reason to say more than once what it is: its points in their order do.
    let is_single = metrics.len() == 1;
    for mut metric in metrics {
        let Some(points) = points_of(&mut metric) else {
            put(0, metric);
            continue;
        };
        let mut sets: Vec<Vec<NumberDataPoint>> = Vec::new();
        for point in std::mem::take(points) {
            let set = number(&point.attributes).unwrap_or_default() / TOGETHER;
            if sets.len() <= set {
                sets.resize_with(set + 1, Vec::new);
            }
            if let Some(set) = sets.get_mut(set) {
                set.push(point);
            }
        }
        if is_single {
            *points = sets.into_iter().flatten().collect();
            put(0, metric);
            continue;
        }
        for (group, set) in sets.into_iter().enumerate().filter(|(_, set)| !set.is_empty()) {
            let mut part = metric.clone();
            if let Some(points) = points_of(&mut part) {
                *points = set;
            }
            put(group, part);
        }
    }
    groups.retain(|group| !group.is_empty());
    groups
}

fn points_of(metric: &mut Metric) -> Option<&mut Vec<NumberDataPoint>> {
    match &mut metric.data {
        Some(Data::Gauge(gauge)) => Some(&mut gauge.data_points),
        Some(Data::Sum(sum)) => Some(&mut sum.data_points),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
    use opentelemetry_proto::tonic::metrics::v1::{Gauge, Histogram, HistogramDataPoint};
    use opentelemetry_proto::tonic::resource::v1::Resource;

    use super::super::encode::encode;
    use super::super::request::points;
    use super::*;
    use crate::inventory::Container;
    use crate::metrics::SERIES_LABEL;

    fn table(count: usize) -> Table {
        let container = |number: usize| {
            // As little alike as ids are.
            let digit = |i: u64| (number as u64 * 64 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
            let id: String = (0..64).map(|i| format!("{:x}", digit(i))).collect();
            Arc::new(Container::sample(&id, &format!("web-{number}")))
        };
        Table::of_containers(&(0..count).map(container).collect::<Vec<_>>(), &[].into())
    }

    fn metric(name: &str, numbers: impl Iterator<Item = usize>) -> Metric {
        let point = |number: usize| {
            let value = Some(AnyValue { value: Some(Value::IntValue(number as i64)) });
            let attribute = KeyValue { key: SERIES_LABEL.into(), value, ..KeyValue::default() };
            NumberDataPoint { attributes: vec![attribute], time_unix_nano: 7, ..NumberDataPoint::default() }
        };
        let data = Data::Gauge(Gauge { data_points: numbers.map(point).collect() });
        Metric { name: name.into(), unit: "s".into(), data: Some(data), ..Metric::default() }
    }

    fn request(metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
        let scope_metrics =
            vec![ScopeMetrics { metrics, schema_url: "scope's".into(), ..Default::default() }];
        let resource = Some(Resource { dropped_attributes_count: 3, ..Resource::default() });
        let schema_url = "resource's".into();
        let resource = ResourceMetrics { resource, scope_metrics, schema_url };
        ExportMetricsServiceRequest { resource_metrics: vec![resource] }
    }

    /// Every series, by its metric's name and its number.
    fn series(request: &ExportMetricsServiceRequest) -> BTreeSet<(String, Option<usize>)> {
        let mut all = BTreeSet::new();
        for mut metric in request.resource_metrics.iter().flat_map(|r| r.scope_metrics[0].metrics.clone()) {
            let name = metric.name.clone();
            for point in points_of(&mut metric).into_iter().flatten() {
                assert!(all.insert((name.clone(), number(&point.attributes))));
            }
        }
        all
    }

    #[test]
    fn all_of_a_container_is_together_and_nothing_is_lost() {
        let histogram =
            Histogram { data_points: vec![HistogramDataPoint::default()], ..Histogram::default() };
        let histogram = Metric { data: Some(Data::Histogram(histogram)), ..Metric::default() };
        let before =
            request(vec![metric("a", (0..100).rev()), metric("b", (0..50).chain(70..90)), histogram]);
        let after = together(before.clone(), &table(100));
        assert_eq!(after.resource_metrics.len(), 13);
        assert_eq!(series(&after), series(&before));
        assert_eq!(points(&after), points(&before));
        for (i, resource) in after.resource_metrics.iter().enumerate() {
            assert_eq!(resource.resource, before.resource_metrics[0].resource);
            assert_eq!(
                (&*resource.schema_url, &*resource.scope_metrics[0].schema_url),
                ("resource's", "scope's")
            );
            let part = ExportMetricsServiceRequest { resource_metrics: vec![resource.clone()] };
            assert!(series(&part).iter().all(|(_, number)| number.unwrap() / TOGETHER == i));
        }
    }

    #[test]
    fn it_compresses_better() {
        let table = table(400);
        let before = request(["a", "b", "c", "d", "e"].map(|name| metric(name, 0..400)).into());
        let length = |request: &ExportMetricsServiceRequest| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut encoder, &encode(request, &table)).unwrap();
            encoder.finish().unwrap().len()
        };
        let after = together(before.clone(), &table);
        assert!(length(&after) < length(&before) / 2, "{} and {}", length(&after), length(&before));
    }

    #[test]
    fn one_metric_stays_one_in_the_order_of_its_numbers() {
        let after = together(request(vec![metric("a", (0..20).rev())]), &table(20));
        let [resource] = &after.resource_metrics[..] else { panic!("{after:?}") };
        let mut metric = resource.scope_metrics[0].metrics[0].clone();
        let numbers =
            points_of(&mut metric).unwrap().iter().map(|p| number(&p.attributes).unwrap() / TOGETHER);
        assert!(numbers.is_sorted());
    }

    #[test]
    fn what_would_be_too_long_stays_as_it_is() {
        let mut before = request(vec![metric("a", 0..100), metric("b", 0..100)]);
        before.resource_metrics[0].schema_url = "x".repeat(MOST_BYTES / 10);
        assert_eq!(together(before.clone(), &table(100)), before);
    }
}
