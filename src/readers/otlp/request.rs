//! Requests of a bounded size.

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::{
    ExponentialHistogramDataPoint, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
    ScopeMetrics, SummaryDataPoint,
};
use prost::Message;

use super::attributes::Table;
use super::encode::{point_length, request_length};

/// A Collector's gRPC receiver refuses messages over 4 MiB unless it is told otherwise.
pub(super) const MOST_BYTES: usize = 4_000_000;

/// What each nested message may cost beside its own bytes: a tag, and a length of up to five bytes. The lengths
/// of what it is nested in may each grow by as much.
const NESTING: usize = 6;

/// Makes requests of at most so many data points, and of at most so many bytes, out of one that may be larger.
/// A single data point that is larger than that goes alone.
pub(super) fn split(
    request: ExportMetricsServiceRequest,
    most_points: usize,
    most_bytes: usize,
    table: &Table,
) -> Vec<ExportMetricsServiceRequest> {
    let count = points(&request);
    if count == 0 {
        return Vec::new();
    }
    if count <= most_points && request_length(&request, table) <= most_bytes {
        return vec![request];
    }
    let mut parts = Vec::new();
    for mut resource in request.resource_metrics {
        let scopes = std::mem::take(&mut resource.scope_metrics);
        for mut scope in scopes {
            let metrics = std::mem::take(&mut scope.metrics);
            let mut splitter = Splitter::new(&resource, &scope, most_points, most_bytes);
            for metric in metrics {
                splitter.add(metric, table);
            }
            parts.extend(splitter.finish());
        }
    }
    parts
}

/// The data points of a request.
pub(super) fn points(request: &ExportMetricsServiceRequest) -> usize {
    metrics(request).map(points_of).sum()
}

/// The metrics of a request.
pub(super) fn metrics(request: &ExportMetricsServiceRequest) -> impl Iterator<Item = &Metric> {
    request.resource_metrics.iter().flat_map(|r| &r.scope_metrics).flat_map(|s| &s.metrics)
}

/// The metrics of a request.
pub(super) fn metrics_mut(request: &mut ExportMetricsServiceRequest) -> impl Iterator<Item = &mut Metric> {
    request.resource_metrics.iter_mut().flat_map(|r| &mut r.scope_metrics).flat_map(|s| &mut s.metrics)
}

fn points_of(metric: &Metric) -> usize {
    match &metric.data {
        Some(Data::Gauge(data)) => data.data_points.len(),
        Some(Data::Sum(data)) => data.data_points.len(),
        Some(Data::Histogram(data)) => data.data_points.len(),
        Some(Data::ExponentialHistogram(data)) => data.data_points.len(),
        Some(Data::Summary(data)) => data.data_points.len(),
        None => 0,
    }
}

/// Fills one request after the other with the metrics of one scope.
struct Splitter {
    /// What each request begins with.
    resource: ResourceMetrics,
    scope: ScopeMetrics,
    /// The bytes of a request that has no metric.
    empty: usize,
    most_points: usize,
    most_bytes: usize,
    full: Vec<ExportMetricsServiceRequest>,
    /// The request that is being filled, with its points and bytes.
    metrics: Vec<Metric>,
    points: usize,
    bytes: usize,
}

impl Splitter {
    /// `resource` and `scope` are without what they hold.
    fn new(resource: &ResourceMetrics, scope: &ScopeMetrics, most_points: usize, most_bytes: usize) -> Self {
        let empty = resource.encoded_len() + scope.encoded_len() + 3 * NESTING;
        Self {
            resource: resource.clone(),
            scope: scope.clone(),
            empty,
            most_points,
            most_bytes,
            full: Vec::new(),
            metrics: Vec::new(),
            points: 0,
            bytes: empty,
        }
    }

    fn add(&mut self, mut metric: Metric, table: &Table) {
        match metric.data.take() {
            Some(Data::Gauge(mut data)) => {
                let points = std::mem::take(&mut data.data_points);
                metric.data = Some(Data::Gauge(data));
                self.add_points(&metric, points, table);
            }
            Some(Data::Sum(mut data)) => {
                let points = std::mem::take(&mut data.data_points);
                metric.data = Some(Data::Sum(data));
                self.add_points(&metric, points, table);
            }
            Some(Data::Histogram(mut data)) => {
                let points = std::mem::take(&mut data.data_points);
                metric.data = Some(Data::Histogram(data));
                self.add_points(&metric, points, table);
            }
            Some(Data::ExponentialHistogram(mut data)) => {
                let points = std::mem::take(&mut data.data_points);
                metric.data = Some(Data::ExponentialHistogram(data));
                self.add_points(&metric, points, table);
            }
            Some(Data::Summary(mut data)) => {
                let points = std::mem::take(&mut data.data_points);
                metric.data = Some(Data::Summary(data));
                self.add_points(&metric, points, table);
            }
            None => {}
        }
    }

    /// `metric` is without its points.
    fn add_points<P: Point>(&mut self, metric: &Metric, points: Vec<P>, table: &Table) {
        let head = metric.encoded_len() + 2 * NESTING;
        let mut begun = false;
        for point in points {
            let bytes = point.length(&metric.name, table) + NESTING;
            let more = if begun { bytes } else { head + bytes };
            if self.points > 0 && (self.points >= self.most_points || self.bytes + more > self.most_bytes) {
                self.close();
                begun = false;
            }
            if !begun {
                self.metrics.push(metric.clone());
                self.bytes += head;
                begun = true;
            }
            if let Some(data) = self.metrics.last_mut().and_then(|m| m.data.as_mut()) {
                point.push_to(data);
            }
            self.bytes += bytes;
            self.points += 1;
        }
    }

    fn close(&mut self) {
        let scope = ScopeMetrics { metrics: std::mem::take(&mut self.metrics), ..self.scope.clone() };
        let resource = ResourceMetrics { scope_metrics: vec![scope], ..self.resource.clone() };
        self.full.push(ExportMetricsServiceRequest { resource_metrics: vec![resource] });
        self.points = 0;
        self.bytes = self.empty;
    }

    fn finish(mut self) -> Vec<ExportMetricsServiceRequest> {
        if self.points > 0 {
            self.close();
        }
        self.full
    }
}

/// A data point of any kind.
trait Point: Message + Sized {
    /// How many bytes it takes, a point of this metric.
    fn length(&self, _metric: &str, _table: &Table) -> usize {
        self.encoded_len()
    }

    /// Adds it to data of its kind.
    fn push_to(self, data: &mut Data);
}

impl Point for NumberDataPoint {
    fn length(&self, metric: &str, table: &Table) -> usize {
        point_length(metric, self, table)
    }

    fn push_to(self, data: &mut Data) {
        match data {
            Data::Gauge(data) => data.data_points.push(self),
            Data::Sum(data) => data.data_points.push(self),
            _ => {}
        }
    }
}

impl Point for HistogramDataPoint {
    fn push_to(self, data: &mut Data) {
        if let Data::Histogram(data) = data {
            data.data_points.push(self);
        }
    }
}

impl Point for ExponentialHistogramDataPoint {
    fn push_to(self, data: &mut Data) {
        if let Data::ExponentialHistogram(data) = data {
            data.data_points.push(self);
        }
    }
}

impl Point for SummaryDataPoint {
    fn push_to(self, data: &mut Data) {
        if let Data::Summary(data) = data {
            data.data_points.push(self);
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value};
    use opentelemetry_proto::tonic::metrics::v1::{Gauge, Histogram, Sum};
    use opentelemetry_proto::tonic::resource::v1::Resource;

    use super::*;

    fn attribute(value: String) -> KeyValue {
        let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value)) });
        KeyValue { key: "key".into(), value, ..KeyValue::default() }
    }

    fn numbers(name: &str, count: usize, text: usize) -> Vec<NumberDataPoint> {
        (0..count)
            .map(|number| NumberDataPoint {
                attributes: vec![attribute(format!("{name}{number}{}", "x".repeat(text)))],
                time_unix_nano: u64::MAX,
                ..NumberDataPoint::default()
            })
            .collect()
    }

    fn metric(name: &str, data: Data) -> Metric {
        Metric { name: name.into(), unit: "s".into(), data: Some(data), ..Metric::default() }
    }

    fn request(metrics: Vec<Metric>) -> ExportMetricsServiceRequest {
        let scope = InstrumentationScope { name: "scope".into(), ..InstrumentationScope::default() };
        let scope = ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() };
        let resource = Resource { attributes: vec![attribute("r".into())], ..Resource::default() };
        let resource = ResourceMetrics {
            resource: Some(resource),
            scope_metrics: vec![scope],
            ..ResourceMetrics::default()
        };
        ExportMetricsServiceRequest { resource_metrics: vec![resource] }
    }

    /// Every point as the metric that it would be alone, in order.
    fn flat(requests: &[ExportMetricsServiceRequest]) -> Vec<ExportMetricsServiceRequest> {
        requests.iter().flat_map(|request| split(request.clone(), 1, usize::MAX, &Table::EMPTY)).collect()
    }

    #[test]
    fn every_point_is_in_one_part_with_all_that_belongs_to_it() {
        let gauge = Data::Gauge(Gauge { data_points: numbers("g", 5, 0) });
        let sum = Sum { data_points: numbers("s", 4, 0), aggregation_temporality: 2, is_monotonic: true };
        let histogram = Histogram {
            data_points: vec![HistogramDataPoint { count: 3, ..HistogramDataPoint::default() }; 2],
            aggregation_temporality: 2,
        };
        let whole = request(vec![
            metric("gauge", gauge),
            metric("sum", Data::Sum(sum)),
            metric("histogram", Data::Histogram(histogram)),
        ]);
        let alone = flat(std::slice::from_ref(&whole));
        assert_eq!(alone.len(), 11);
        for most in 1..13 {
            let parts = split(whole.clone(), most, usize::MAX, &Table::EMPTY);
            assert_eq!(parts.len(), 11_usize.div_ceil(most));
            assert!(parts.iter().all(|part| (1..=most).contains(&points(part))));
            assert_eq!(flat(&parts), alone, "in parts of {most}");
        }
    }

    #[test]
    fn no_part_has_too_many_bytes() {
        let metrics = (0..5)
            .map(|number| {
                metric(&number.to_string(), Data::Gauge(Gauge { data_points: numbers("g", 50, number * 40) }))
            })
            .collect();
        let whole = request(metrics);
        for most in [300, 1_000, 5_000, 20_000] {
            let parts = split(whole.clone(), usize::MAX, most, &Table::EMPTY);
            let sizes: Vec<usize> = parts.iter().map(Message::encoded_len).collect();
            assert!(sizes.iter().all(|size| *size <= most), "{most}: {sizes:?}");
            // Bounded, but not at the price of a request for each point.
            assert!(parts.len() <= whole.encoded_len().div_ceil(most / 2), "{most}: {sizes:?}");
            assert_eq!(flat(&parts).len(), 250);
        }
    }

    #[test]
    fn a_point_that_is_too_large_goes_alone() {
        let mut points = numbers("g", 1, 0);
        points.extend(numbers("large", 1, 1_000));
        points.extend(numbers("h", 1, 0));
        let parts = split(
            request(vec![metric("m", Data::Gauge(Gauge { data_points: points }))]),
            10,
            500,
            &Table::EMPTY,
        );
        assert_eq!(parts.iter().map(super::points).collect::<Vec<_>>(), [1, 1, 1]);
    }

    #[test]
    fn of_nothing_there_is_no_part() {
        assert!(split(request(Vec::new()), 10, 500, &Table::EMPTY).is_empty());
    }
}
