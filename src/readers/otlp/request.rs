//! Requests of a bounded size, put together of points that are written.

use std::sync::Arc;

use bytes::Bytes;

use super::delta::Offer;
use super::points::{MetricHead, Point, Points};
use super::wire::{DATA_POINTS, METRICS, RESOURCE_METRICS, SCOPE_METRICS, begin, field};
use crate::inventory::EventCount;

/// A Collector's gRPC receiver refuses messages over 4 MiB unless it is told otherwise.
const MOST_BYTES: usize = 4_000_000;

/// Containers, or label sets of events, whose metrics stand one after the other in a request that is compressed, each
/// time under the same resource.
///
/// A container's attributes are the same in each of its metrics, but in a request that has metric after metric they
/// stand farther apart than deflate looks back. So the requests for 1,000 containers are half as large. The points
/// that so many have of one metric must fit well into the 32 KiB that deflate looks back; with fewer, the resource and
/// the metrics' heads are said more often.
const TOGETHER: usize = 8;

/// What each nested message may take beside its own bytes: a tag, and a length of up to five bytes.
const NESTING: usize = 6;

/// A request, as bytes.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) message: Bytes,
    /// What counts on when it is taken.
    pub(super) offers: Vec<Offer>,
}

/// How large a request may be. A single data point that is larger goes alone.
#[derive(Debug, Clone, Copy)]
pub(super) struct Most {
    points: usize,
    bytes: usize,
}

impl Most {
    pub(super) fn points(points: usize) -> Self {
        Self { points, bytes: MOST_BYTES }
    }
}

/// Event counts with those of a container one after the other.
pub(super) fn by_identity(events: &[EventCount]) -> Vec<EventCount> {
    let mut events = events.to_vec();
    events.sort_unstable_by_key(|event| Arc::as_ptr(&event.labels.identity));
    events
}

impl Points {
    /// All of them in requests. `is_compressed`: what is alike is put together.
    pub(super) fn into_requests(mut self, most: Most, is_compressed: bool) -> Vec<Request> {
        // One metric is no reason to say more than once what it is: its points in their order do.
        let together = is_compressed && self.metrics.len() > 1;
        if is_compressed {
            self.list.sort_unstable_by_key(|point| (point.group(together), point.metric, point.number));
        }
        let mut requests = Vec::new();
        let mut list = std::mem::take(&mut self.list);
        while !list.is_empty() {
            let (count, room) = self.fitting(&list, most, together);
            let rest = list.split_off(count);
            let message = self.message(&list, room, together);
            let offers = list.into_iter().filter_map(|point| point.offer.map(|offer| *offer)).collect();
            requests.push(Request { message, offers });
            list = rest;
        }
        requests
    }

    /// How many of the points, one at least, fit into a request, and the room that they need at most.
    fn fitting(&self, list: &[Point], most: Most, together: bool) -> (usize, usize) {
        let (mut count, mut room) = (0, 0);
        let mut before: Option<&Point> = None;
        for point in list {
            let is_beside = before.is_some_and(|before| self.is_beside(before, point, together));
            let mut more = point.length() + NESTING;
            if !is_beside {
                more += self.outside(point);
            }
            if !is_beside || before.is_some_and(|before| before.metric != point.metric) {
                let metric = self.metrics.get(point.metric);
                more += metric.map_or(0, |m| m.head.len() + m.tail.len() + 2 * NESTING);
            }
            if count > 0 && (count == most.points || room + more > most.bytes) {
                break;
            }
            count += 1;
            room += more;
            before = Some(point);
        }
        (count, room)
    }

    /// Whether points are under the same resource and scope, each time that these are said.
    fn is_beside(&self, a: &Point, b: &Point, together: bool) -> bool {
        let scope = |point: &Point| self.metrics.get(point.metric).map(|metric| metric.scope);
        a.group(together) == b.group(together) && (a.metric == b.metric || scope(a) == scope(b))
    }

    /// What the resource and the scope of a point take.
    fn outside(&self, point: &Point) -> usize {
        self.resource.len() + self.scope_of(point).len() + 3 * NESTING
    }

    fn scope_of(&self, point: &Point) -> &[u8] {
        let metric = self.metrics.get(point.metric);
        metric.and_then(|metric| self.scopes.get(metric.scope)).map_or(&[], |scope| self.at(scope))
    }

    fn message(&self, list: &[Point], room: usize, together: bool) -> Bytes {
        let mut bytes = Vec::with_capacity(room);
        for beside in list.chunk_by(|a, b| self.is_beside(a, b, together)) {
            let metrics: Vec<_> = beside
                .chunk_by(|a, b| a.metric == b.metric)
                .filter_map(|points| Some(Run::new(self.metrics.get(points.first()?.metric)?, points)))
                .collect();
            let scope = beside.first().map_or(&[][..], |point| self.scope_of(point));
            let scope_length = metrics.iter().map(|run| field(run.length)).sum::<usize>() + scope.len();
            begin(RESOURCE_METRICS, self.resource.len() + field(scope_length), &mut bytes);
            bytes.extend_from_slice(self.at(&self.resource));
            begin(SCOPE_METRICS, scope_length, &mut bytes);
            bytes.extend_from_slice(scope);
            for run in metrics {
                begin(METRICS, run.length, &mut bytes);
                bytes.extend_from_slice(self.at(&run.metric.head));
                begin(run.metric.data, run.data_length, &mut bytes);
                bytes.extend_from_slice(self.at(&run.metric.tail));
                for point in run.points {
                    begin(DATA_POINTS, point.length(), &mut bytes);
                    self.parts(point).into_iter().for_each(|part| bytes.extend_from_slice(part));
                }
            }
        }
        bytes.into()
    }
}

impl Point {
    fn group(&self, together: bool) -> usize {
        if together { self.number.unwrap_or_default() / TOGETHER } else { 0 }
    }
}

/// Points of a metric, one after the other.
struct Run<'a> {
    metric: &'a MetricHead,
    points: &'a [Point],
    /// Of the metric, and of its data.
    length: usize,
    data_length: usize,
}

impl<'a> Run<'a> {
    fn new(metric: &'a MetricHead, points: &'a [Point]) -> Self {
        let points_length: usize = points.iter().map(|point| field(point.length())).sum();
        let data_length = metric.tail.len() + points_length;
        Self { metric, points, length: metric.head.len() + field(data_length), data_length }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use opentelemetry::KeyValue;
    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::common::v1::any_value::Value;
    use opentelemetry_proto::tonic::metrics::v1::metric::Data;
    use opentelemetry_sdk::Resource;
    use opentelemetry_sdk::metrics::data::ResourceMetrics;
    use prost::Message;

    use super::super::attributes::Table;
    use super::super::delta::Deltas;
    use super::*;
    use crate::config::Temporality;
    use crate::inventory::Container;
    use crate::metrics::SERIES_LABEL;
    use crate::readers::Manual;

    /// A gauge of each name, of these numbers' containers, whose names have so much text.
    fn points(metrics: &[(&str, usize)], text: impl Fn(usize) -> usize) -> Points {
        let manual =
            Manual::new(&Resource::builder_empty().with_attribute(KeyValue::new("r", "s")).build(), |b| b);
        let meter = manual.meter();
        for (name, count) in metrics {
            let count = *count as i64;
            let gauge = meter.i64_observable_gauge((*name).to_owned());
            let observe = move |i| (i, [KeyValue::new(SERIES_LABEL, i)]);
            gauge.with_callback(move |o| (0..count).map(observe).for_each(|(i, a)| o.observe(i, &a))).build();
        }
        let container = |number: usize| {
            // As little alike as ids are.
            let digit = |i: u64| (number as u64 * 64 + i).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60;
            let id: String = (0..64).map(|i| format!("{:x}", digit(i))).collect();
            Arc::new(Container::sample(&id, &format!("{number} {}", "x".repeat(text(number)))))
        };
        let most = metrics.iter().map(|(_, count)| *count).max().unwrap_or(0);
        let table = Table::of_containers(&(0..most).map(container).collect::<Vec<_>>(), &[].into());
        let mut collected = ResourceMetrics::default();
        manual.collect(&mut collected).unwrap();
        Points::write(&collected, table, None, &mut Deltas::new(Temporality::Cumulative, 0))
    }

    fn decoded(requests: &[Request]) -> Vec<ExportMetricsServiceRequest> {
        requests.iter().map(|r| ExportMetricsServiceRequest::decode(r.message.clone()).unwrap()).collect()
    }

    /// A container's name, of a metric.
    type Series = (String, String);

    /// All series, resource by resource.
    fn series(request: &ExportMetricsServiceRequest) -> Vec<Vec<Series>> {
        let of_resource = |resource: &opentelemetry_proto::tonic::metrics::v1::ResourceMetrics| {
            assert_eq!(resource.resource.as_ref().unwrap().attributes[0].key, "r");
            let metrics = resource.scope_metrics.iter().flat_map(|scope| {
                assert_eq!(scope.scope.as_ref().unwrap().name, env!("CARGO_PKG_NAME"));
                &scope.metrics
            });
            let mut all = Vec::new();
            for metric in metrics {
                let Some(Data::Gauge(gauge)) = &metric.data else { panic!("{:?}", metric.data) };
                for point in &gauge.data_points {
                    let name = point.attributes.iter().find(|a| a.key == "container.name").unwrap();
                    let Some(Value::StringValue(name)) = &name.value.as_ref().unwrap().value else {
                        panic!()
                    };
                    all.push((metric.name.clone(), name.split(' ').next().unwrap().to_owned()));
                }
            }
            all
        };
        request.resource_metrics.iter().map(of_resource).collect()
    }

    #[test]
    fn every_point_is_in_one_request_with_all_that_belongs_to_it() {
        let metrics = [("a", 5), ("b", 4), ("c", 2)];
        for is_compressed in [false, true] {
            for most in 1..13 {
                let requests = points(&metrics, |_| 0).into_requests(Most::points(most), is_compressed);
                assert_eq!(requests.len(), 11_usize.div_ceil(most));
                let all: Vec<_> = decoded(&requests).iter().map(|r| series(r).concat()).collect();
                assert!(all.iter().all(|part| (1..=most).contains(&part.len())));
                assert_eq!(all.concat().iter().collect::<BTreeSet<_>>().len(), 11);
            }
        }
    }

    #[test]
    fn no_request_has_too_many_bytes() {
        for is_compressed in [false, true] {
            for bytes in [1_000, 5_000, 20_000] {
                let points = points(&[("a", 50), ("b", 50), ("c", 50)], |number| number * 10);
                let whole: usize = points.list.iter().map(|point| point.length()).sum();
                let requests = points.into_requests(Most { points: usize::MAX, bytes }, is_compressed);
                let sizes: Vec<usize> = requests.iter().map(|request| request.message.len()).collect();
                assert!(sizes.iter().all(|size| *size <= bytes), "{bytes}: {sizes:?}");
                // Bounded, but not at the price of a request for each point.
                assert!(requests.len() <= whole.div_ceil(bytes / 3), "{bytes}: {sizes:?}");
                let all = decoded(&requests).iter().flat_map(series).flatten().collect::<BTreeSet<_>>();
                assert_eq!(all.len(), 150);
            }
        }
    }

    #[test]
    fn a_point_that_is_too_large_goes_alone() {
        let points = points(&[("a", 3)], |number| if number == 1 { 1_000 } else { 0 });
        let requests = points.into_requests(Most { points: 10, bytes: 800 }, true);
        let all: Vec<_> = decoded(&requests).iter().map(|r| series(r).concat().len()).collect();
        assert_eq!(all, [1, 1, 1]);
    }

    #[test]
    fn of_nothing_there_is_no_request() {
        assert!(points(&[], |_| 0).into_requests(Most::points(10), true).is_empty());
    }

    #[test]
    fn all_of_a_container_is_together_when_it_is_compressed() {
        let metrics = [("a", 100), ("b", 50), ("c", 1)];
        let requests = points(&metrics, |_| 0).into_requests(Most::points(1_000), true);
        let [request] = &decoded(&requests)[..] else { panic!("{} requests", requests.len()) };
        let resources = series(request);
        assert_eq!(resources.len(), 13);
        for (i, resource) in resources.iter().enumerate() {
            assert!(resource.iter().all(|(_, name)| name.parse::<usize>().unwrap() / TOGETHER == i));
        }
        let requests = points(&metrics, |_| 0).into_requests(Most::points(1_000), false);
        assert_eq!(series(&decoded(&requests)[0]).len(), 1);
    }

    #[test]
    fn it_compresses_better() {
        let length = |is_compressed| {
            let points = points(&["a", "b", "c", "d", "e"].map(|name| (name, 400)), |_| 0);
            let requests = points.into_requests(Most::points(10_000), is_compressed);
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            std::io::Write::write_all(&mut encoder, &requests[0].message).unwrap();
            encoder.finish().unwrap().len()
        };
        let (together, apart) = (length(true), length(false));
        assert!(together < apart / 2, "{together} and {apart}");
    }

    #[test]
    fn one_metric_stays_one_in_the_order_of_its_numbers() {
        let requests = points(&[("a", 40)], |_| 0).into_requests(Most::points(100), true);
        let [resource] = &series(&decoded(&requests)[0])[..] else { panic!("more than one resource") };
        assert!(resource.iter().map(|(_, name)| name.parse::<usize>().unwrap()).is_sorted());
    }

    #[test]
    fn the_room_that_is_made_is_enough_and_hardly_more() {
        for is_compressed in [false, true] {
            let points = points(&[("a", 300), ("b", 300)], |number| number);
            let most = Most::points(1_000);
            let (count, room) = points.fitting(&points.list, most, is_compressed);
            assert_eq!(count, 600);
            let length = points.into_requests(most, is_compressed)[0].message.len();
            assert!((length..length + length / 10).contains(&room) || is_compressed, "{room} for {length}");
        }
    }
}
