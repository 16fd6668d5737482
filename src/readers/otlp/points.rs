//! Data points in OTLP's own form.
//!
//! The SDK's data is not made into the messages of `opentelemetry-proto` first, with strings for each attribute of
//! each point: what a point has beside its table's attributes is written at once, and a request is then put together
//! of bytes, so nothing is measured or copied for each level that a point is nested in. Histograms, of which there
//! are few, are made into those messages.

use std::ops::Range;
use std::time::SystemTime;

use opentelemetry::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogram, Histogram, Metric as Head, ResourceMetrics as ResourceHead,
    ScopeMetrics as ScopeHead, Sum,
};
use opentelemetry_sdk::metrics::data::{
    AggregatedMetrics, Metric, MetricData, ResourceMetrics, ScopeMetrics,
};
use prost::Message;
use prost::encoding::message;

use super::attributes::Table;
use super::delta::{Deltas, Key, Number, Offer};
use super::nanoseconds;
use super::wire::{
    AS_DOUBLE, AS_INT, ATTRIBUTES, EXPONENTIAL_HISTOGRAM, GAUGE, HISTOGRAM, START, SUM, TIME, eight,
};

/// What was collected at once, written.
pub(super) struct Points {
    /// What its numbers stand for.
    table: Table,
    bytes: Vec<u8>,
    /// All of the resource's message but the scopes.
    pub(super) resource: Range<usize>,
    /// All of a scope's message but the metrics.
    pub(super) scopes: Vec<Range<usize>>,
    pub(super) metrics: Vec<MetricHead>,
    /// With those of a metric one after the other.
    pub(super) list: Vec<Point>,
}

/// A metric without its points.
pub(super) struct MetricHead {
    pub(super) scope: usize,
    /// All of its message but the data.
    pub(super) head: Range<usize>,
    /// The number of the field that has its data.
    pub(super) data: u8,
    /// All of the data but the points.
    pub(super) tail: Range<usize>,
}

/// A data point, without a tag and its length.
pub(super) struct Point {
    pub(super) metric: usize,
    /// What it is of, by its place in the table.
    pub(super) number: Option<usize>,
    /// The attributes that the number stands for, in the table. They are most of a point, and come into a request
    /// from there.
    known: Range<usize>,
    /// All else.
    bytes: Range<usize>,
    /// What counts on when the destination has taken it.
    pub(super) offer: Option<Box<Offer>>,
}

/// A metric that is being written.
struct Writing<'a> {
    points: &'a mut Points,
    deltas: &'a mut Deltas,
    name: &'a str,
    /// Whether it has what `container.info` says.
    is_info: bool,
    at: Option<u64>,
}

impl Points {
    /// `at`: the moment of the snapshot that was observed, if it was one, in Unix nanoseconds. It is that of all its
    /// numbers, whenever the SDK has asked for each.
    pub(super) fn write(
        collected: &ResourceMetrics,
        table: Table,
        at: Option<u64>,
        deltas: &mut Deltas,
    ) -> Self {
        let mut points = Self {
            table,
            bytes: Vec::new(),
            resource: 0..0,
            scopes: Vec::new(),
            metrics: Vec::new(),
            list: Vec::new(),
        };
        let resource = collected.resource();
        points.resource = points.put(&ResourceHead {
            resource: Some(resource.into()),
            schema_url: resource.schema_url().unwrap_or_default().to_owned(),
            ..ResourceHead::default()
        });
        for scope in collected.scope_metrics() {
            points.scope(scope, at, deltas);
        }
        points
    }

    pub(super) fn at(&self, range: &Range<usize>) -> &[u8] {
        self.bytes.get(range.clone()).unwrap_or_default()
    }

    /// A point's message, in two parts.
    pub(super) fn parts(&self, point: &Point) -> [&[u8]; 2] {
        [self.table.at(&point.known), self.at(&point.bytes)]
    }

    fn scope(&mut self, scope: &ScopeMetrics, at: Option<u64>, deltas: &mut Deltas) {
        let head = self.put(&ScopeHead {
            scope: Some((scope.scope(), None).into()),
            schema_url: scope.scope().schema_url().unwrap_or_default().to_owned(),
            ..ScopeHead::default()
        });
        self.scopes.push(head);
        for metric in scope.metrics() {
            let name = metric.name();
            let is_info = self.table.is_info(name);
            let mut writing = Writing { points: self, deltas: &mut *deltas, name, is_info, at };
            match metric.data() {
                AggregatedMetrics::F64(data) => writing.data(metric, data),
                AggregatedMetrics::I64(data) => writing.data(metric, data),
                AggregatedMetrics::U64(data) => writing.data(metric, data),
            }
        }
    }

    fn put(&mut self, message: &impl Message) -> Range<usize> {
        let begin = self.bytes.len();
        // It fails only where there is no room, and a vector makes some.
        let _ = message.encode(&mut self.bytes);
        begin..self.bytes.len()
    }
}

impl Writing<'_> {
    fn data<T: Copy + Into<Value>>(&mut self, metric: &Metric, data: &MetricData<T>) {
        match data {
            MetricData::Gauge(gauge) => {
                self.head(metric, GAUGE, &());
                // A gauge's points are of one moment, and need no start.
                let (start, time) = (0, self.time(gauge.time()));
                for point in gauge.data_points() {
                    let number = Number { start, time, value: point.value().into() };
                    self.number(point.attributes(), number, false);
                }
            }
            MetricData::Sum(sum) => {
                let is_monotonic = sum.is_monotonic();
                let aggregation_temporality = self.deltas.of_sums(is_monotonic).into();
                self.head(metric, SUM, &Sum { aggregation_temporality, is_monotonic, ..Sum::default() });
                let (start, time) = (nanoseconds(sum.start_time()), self.time(sum.time()));
                for point in sum.data_points() {
                    let number = Number { start, time, value: point.value().into() };
                    self.number(point.attributes(), number, is_monotonic);
                }
            }
            MetricData::Histogram(_) | MetricData::ExponentialHistogram(_) => self.histograms(metric),
        }
    }

    fn time(&self, collected: SystemTime) -> u64 {
        self.at.unwrap_or_else(|| nanoseconds(collected))
    }

    fn histograms(&mut self, metric: &Metric) {
        match Head::from(metric).data {
            Some(Data::Histogram(data)) => {
                let aggregation_temporality = self.deltas.of_histograms().into();
                self.head(metric, HISTOGRAM, &Histogram { aggregation_temporality, ..Histogram::default() });
                for mut point in data.data_points {
                    let mut attributes = Vec::new();
                    message::encode_repeated(ATTRIBUTES.into(), &point.attributes, &mut attributes);
                    let offer = self.deltas.histogram(|| key(self.name, &[], &attributes), &mut point);
                    let bytes = self.points.put(&point);
                    self.point(None, 0..0, bytes, offer);
                }
            }
            Some(Data::ExponentialHistogram(data)) => {
                let head = ExponentialHistogram { data_points: Vec::new(), ..data };
                self.head(metric, EXPONENTIAL_HISTOGRAM, &head);
                for point in data.data_points {
                    let bytes = self.points.put(&point);
                    self.point(None, 0..0, bytes, None);
                }
            }
            _ => {}
        }
    }

    fn head(&mut self, metric: &Metric, data: u8, tail: &impl Message) {
        let head = self.points.put(&Head {
            name: metric.name().to_owned(),
            description: metric.description().to_owned(),
            unit: metric.unit().to_owned(),
            ..Head::default()
        });
        let tail = self.points.put(tail);
        let scope = self.points.scopes.len().saturating_sub(1);
        self.points.metrics.push(MetricHead { scope, head, data, tail });
    }

    /// The point of a series. The SDK has no exemplars but where it is asked for them.
    fn number<'a>(
        &mut self,
        attributes: impl Iterator<Item = &'a KeyValue>,
        mut number: Number,
        counts: bool,
    ) {
        let Points { table, bytes, .. } = &mut *self.points;
        let begin = bytes.len();
        let known = table.write(attributes, self.is_info, bytes);
        let (of, known) = known.map_or((None, 0..0), |(number, known)| (Some(number), known));
        let key = || key(self.name, table.at(&known), bytes.get(begin..).unwrap_or_default());
        let offer = if counts { self.deltas.number(key, &mut number) } else { None };
        for (field, time) in [(START, number.start), (TIME, number.time)] {
            if time != 0 {
                eight(field, time.to_le_bytes(), bytes);
            }
        }
        match number.value {
            Value::AsInt(value) => eight(AS_INT, value.to_le_bytes(), bytes),
            Value::AsDouble(value) => eight(AS_DOUBLE, value.to_le_bytes(), bytes),
        }
        let end = bytes.len();
        self.point(of, known, begin..end, offer);
    }

    fn point(
        &mut self,
        number: Option<usize>,
        known: Range<usize>,
        bytes: Range<usize>,
        offer: Option<Offer>,
    ) {
        let metric = self.points.metrics.len().saturating_sub(1);
        self.points.list.push(Point { metric, number, known, bytes, offer: offer.map(Box::new) });
    }
}

/// What a series is told apart by.
fn key(metric: &str, known: &[u8], others: &[u8]) -> Key {
    [metric.as_bytes(), &[0], known, others].concat().into()
}

impl Point {
    pub(super) fn length(&self) -> usize {
        self.known.len() + self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
    use opentelemetry_proto::tonic::metrics::v1::NumberDataPoint;
    use opentelemetry_sdk::Resource;

    use super::super::request::Most;
    use super::*;
    use crate::config::Temporality;
    use crate::inventory::Container;
    use crate::metrics::SERIES_LABEL;
    use crate::readers::Manual;

    const SERIES: usize = 20;

    /// Points of all kinds, with these attributes of each series.
    fn collected(attributes: impl Fn(usize) -> Vec<KeyValue>) -> ResourceMetrics {
        let resource =
            Resource::builder_empty().with_schema_url([KeyValue::new("r", "s")], "resource's").build();
        let manual = Manual::new(&resource, |b| b);
        let meter = manual.meter();
        let all: Vec<_> = (0..SERIES).map(attributes).collect();
        let of_each = all.clone();
        let gauge = meter.f64_observable_gauge("gauge").with_unit("s").with_description("words");
        gauge.with_callback(move |o| of_each.iter().for_each(|a| o.observe(-0.5, a))).build();
        let of_each = all.clone();
        let counter = meter.u64_observable_counter("counter");
        counter
            .with_callback(move |o| of_each.iter().zip(7..).for_each(|(a, value)| o.observe(value, a)))
            .build();
        let of_each = all.clone();
        let sum = meter.i64_observable_up_down_counter("sum");
        sum.with_callback(move |o| of_each.iter().for_each(|a| o.observe(-7, a))).build();
        let histogram = meter.f64_histogram("histogram").build();
        all.iter().for_each(|a| histogram.record(1.5, a));
        let mut collected = ResourceMetrics::default();
        manual.collect(&mut collected).unwrap();
        collected
    }

    /// What a receiver reads, each metric as one, with its points in order and without their times.
    fn read(points: Points, is_compressed: bool) -> ExportMetricsServiceRequest {
        let requests = points.into_requests(Most::points(usize::MAX), is_compressed);
        let [request] = &requests[..] else { panic!("{} requests", requests.len()) };
        in_order(ExportMetricsServiceRequest::decode(request.message.clone()).unwrap())
    }

    fn in_order(mut request: ExportMetricsServiceRequest) -> ExportMetricsServiceRequest {
        let all = std::mem::take(&mut request.resource_metrics);
        for mut resource in all {
            let Some(first) = request.resource_metrics.first_mut() else {
                request.resource_metrics.push(resource);
                continue;
            };
            assert_eq!((&first.resource, &first.schema_url), (&resource.resource, &resource.schema_url));
            let metrics = &mut first.scope_metrics[0].metrics;
            for more in resource.scope_metrics.remove(0).metrics {
                match metrics.iter_mut().find(|metric| metric.name == more.name) {
                    Some(metric) => numbers(metric).append(numbers(&mut more.clone())),
                    None => metrics.push(more),
                }
            }
        }
        for metric in &mut request.resource_metrics[0].scope_metrics[0].metrics {
            let points = numbers(metric);
            // The SDK has some in the order they were observed in and some in that of their keys.
            points.iter_mut().for_each(|point| point.attributes.sort_by(|a, b| a.key.cmp(&b.key)));
            points.sort_by_key(|point| format!("{:?}", point.attributes));
            for point in points {
                (point.start_time_unix_nano, point.time_unix_nano) =
                    (point.start_time_unix_nano.min(1), point.time_unix_nano.min(1));
            }
            if let Some(Data::Histogram(histogram)) = &mut metric.data {
                histogram.data_points.sort_by_key(|point| format!("{:?}", point.attributes));
                for point in &mut histogram.data_points {
                    (point.start_time_unix_nano, point.time_unix_nano) = (1, 1);
                }
            }
        }
        request
    }

    fn numbers(metric: &mut Head) -> &mut Vec<NumberDataPoint> {
        match metric.data.as_mut().unwrap() {
            Data::Gauge(gauge) => &mut gauge.data_points,
            Data::Sum(sum) => &mut sum.data_points,
            _ => Box::leak(Box::default()),
        }
    }

    /// What the SDK's data is as messages, without what a gauge's points do not need.
    fn expected(collected: &ResourceMetrics) -> ExportMetricsServiceRequest {
        let mut request = in_order(collected.into());
        for metric in &mut request.resource_metrics[0].scope_metrics[0].metrics {
            if let Some(Data::Gauge(gauge)) = &mut metric.data {
                gauge.data_points.iter_mut().for_each(|point| point.start_time_unix_nano = 0);
            }
        }
        request
    }

    fn cumulative() -> Deltas {
        Deltas::new(Temporality::Cumulative, 3)
    }

    #[test]
    fn a_receiver_reads_what_was_meant() {
        let containers: Vec<_> = (0..SERIES)
            .map(|i| Container::sample(&format!("{i:02}"), &format!("web-{i}")).labelled(&[("t", "blue")]))
            .map(Arc::new)
            .collect();
        let meant = collected(|i| {
            vec![
                KeyValue::new("container.id", containers[i].id.to_string()),
                KeyValue::new("container.image.name", "busybox"),
                KeyValue::new("container.name", containers[i].name.to_string()),
                KeyValue::new("container.label.t", "blue"),
                KeyValue::new("status", "running"),
            ]
        });
        let meant = expected(&meant);
        let numbered =
            collected(|i| vec![KeyValue::new(SERIES_LABEL, i as i64), KeyValue::new("status", "running")]);
        for is_compressed in [false, true] {
            let table = Table::of_containers(&containers, &[].into());
            let read = read(Points::write(&numbered, table, None, &mut cumulative()), is_compressed);
            let histogram = |request: &ExportMetricsServiceRequest| {
                request.resource_metrics[0].scope_metrics[0]
                    .metrics
                    .iter()
                    .position(|m| m.name == "histogram")
            };
            // Only numbers are observed by their containers' numbers.
            let (mut read, mut meant) = (read, meant.clone());
            for request in [&mut read, &mut meant] {
                let at = histogram(request).unwrap();
                request.resource_metrics[0].scope_metrics[0].metrics.remove(at);
            }
            assert!(read == meant, "{read:#?}\n{meant:#?}");
        }
    }

    #[test]
    fn what_has_no_numbers_is_as_it_was_collected() {
        let collected = collected(|i| vec![KeyValue::new("a", i as i64), KeyValue::new("b", "c")]);
        for is_compressed in [false, true] {
            let points = Points::write(&collected, Table::EMPTY, None, &mut cumulative());
            assert_eq!(read(points, is_compressed), expected(&collected));
        }
    }

    #[test]
    fn what_a_snapshot_has_is_of_its_moment() {
        let collected = collected(|i| vec![KeyValue::new("a", i as i64)]);
        let points = Points::write(&collected, Table::EMPTY, Some(77), &mut cumulative());
        for request in points.into_requests(Most::points(usize::MAX), false) {
            let read = ExportMetricsServiceRequest::decode(request.message).unwrap();
            for metric in &read.resource_metrics[0].scope_metrics[0].metrics {
                let points = numbers(&mut metric.clone()).clone();
                assert!(points.iter().all(|point| point.time_unix_nano == 77), "{metric:?}");
            }
        }
    }

    #[test]
    fn only_what_counts_is_a_delta() {
        let collected = collected(|i| vec![KeyValue::new("a", i as i64)]);
        let mut deltas = Deltas::new(Temporality::Delta, 3);
        let mut told = || {
            deltas.begin(1);
            let points = Points::write(&collected, Table::EMPTY, None, &mut deltas);
            let mut offered = Vec::new();
            let mut told = Vec::new();
            for mut request in points.into_requests(Most::points(usize::MAX), false) {
                offered.append(&mut request.offers);
                let read = ExportMetricsServiceRequest::decode(request.message).unwrap();
                for metric in &read.resource_metrics[0].scope_metrics[0].metrics {
                    told.push((
                        metric.name.clone(),
                        match metric.data.as_ref().unwrap() {
                            Data::Gauge(_) => (0, String::new()),
                            Data::Sum(sum) => {
                                let point = &sum.data_points[0];
                                (sum.aggregation_temporality, format!("{:?}", point.value.unwrap()))
                            }
                            Data::Histogram(histogram) => {
                                let point = &histogram.data_points[0];
                                (histogram.aggregation_temporality, point.count.to_string())
                            }
                            other => panic!("{other:?}"),
                        },
                    ));
                }
            }
            assert_eq!(offered.len(), 2 * SERIES);
            deltas.commit(offered);
            deltas.complete(true);
            told.sort();
            told
        };
        let text = |told: &[(String, (i32, String))]| {
            told.iter().map(|(name, (kind, value))| format!("{name} {kind} {value}")).collect::<Vec<_>>()
        };
        let first = text(&told());
        assert!(first[0].starts_with("counter 1 AsInt(") && first[0] != "counter 1 AsInt(0)");
        assert_eq!(first[1..], ["gauge 0 ", "histogram 1 1", "sum 2 AsInt(-7)"]);
        assert_eq!(text(&told()), ["counter 1 AsInt(0)", "gauge 0 ", "histogram 1 0", "sum 2 AsInt(-7)"]);
    }
}
