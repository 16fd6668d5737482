//! Delta temporality: counts since the last export that arrived.
//!
//! The SDK could make deltas itself, but it counts from its last collection: what an export that failed had
//! counted would be lost, and so would everything that a collection of another page does not observe. So it is
//! always asked for what counts from the start, and the difference to what the destination has taken is made
//! here. Only an answer that accepts a request moves that forward.

use std::collections::HashMap;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::metrics::v1::metric::Data;
use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, HistogramDataPoint, NumberDataPoint};

use super::attributes::Table;
use super::encode::push_attributes;
use super::request::{metrics, metrics_mut};
use crate::config::Temporality;

/// A series: its metric's name and its attributes. The attributes' order is the same at each collection.
type Key = Box<[u8]>;

/// What has been counted so far.
#[derive(Debug, Clone, PartialEq)]
enum Count {
    Int(i64),
    Double(f64),
    Histogram { count: u64, sum: f64, buckets: Vec<u64> },
}

#[derive(Debug, Clone)]
struct Taken {
    count: Count,
    /// The time of the point that was taken, in Unix nanoseconds.
    time: u64,
    /// The round that last had the series.
    round: u64,
}

/// What a destination has taken of each series that counts.
pub(super) struct Deltas {
    temporality: Temporality,
    /// When the counts began, in Unix nanoseconds.
    began: u64,
    /// A series that is not in `taken` counts from here: it had nothing, or did not exist, at this time.
    since: u64,
    round: u64,
    round_began: u64,
    taken: HashMap<Key, Taken>,
    /// What is being sent.
    offered: HashMap<Key, Taken>,
}

impl Deltas {
    pub(super) fn new(temporality: Temporality, now: u64) -> Self {
        Self {
            temporality,
            began: now,
            since: now,
            round: 0,
            round_began: now,
            taken: HashMap::new(),
            offered: HashMap::new(),
        }
    }

    /// The same, for other providers. What is observed goes on; what is written to, the histograms, has begun anew.
    /// Series that others make for the first time hold what has been counted from the start.
    pub(super) fn for_others(mut self) -> Self {
        for taken in self.taken.values_mut() {
            if let Count::Histogram { count, sum, buckets } = &mut taken.count {
                (*count, *sum) = (0, 0.0);
                buckets.clear();
            }
        }
        self.since = self.began;
        self
    }

    /// Begins an export of everything there is.
    pub(super) fn begin(&mut self, now: u64) {
        self.round += 1;
        self.round_began = now;
        self.offered = HashMap::new();
    }

    /// Turns counts from the start into what the destination is to get. Time goes on between the pages of an
    /// export, and providers may be made anew: so the start of what counts from the start is set here too.
    pub(super) fn apply(&mut self, request: &mut ExportMetricsServiceRequest, table: &Table) {
        self.offered.clear();
        for metric in metrics_mut(request) {
            let name = std::mem::take(&mut metric.name);
            match &mut metric.data {
                Some(Data::Sum(sum)) if sum.is_monotonic => {
                    if self.temporality == Temporality::Delta {
                        sum.aggregation_temporality = AggregationTemporality::Delta.into();
                        for point in &mut sum.data_points {
                            self.number(key(&name, &point.attributes, table), point);
                        }
                    } else {
                        for point in &mut sum.data_points {
                            point.start_time_unix_nano = self.began;
                        }
                    }
                }
                // What the standard calls low memory: deltas of instruments that are written to, which are the
                // histograms here, and the whole count of those that are observed.
                Some(Data::Histogram(histogram)) if self.temporality != Temporality::Cumulative => {
                    histogram.aggregation_temporality = AggregationTemporality::Delta.into();
                    for point in &mut histogram.data_points {
                        self.histogram(key(&name, &point.attributes, table), point);
                    }
                }
                _ => {}
            }
            metric.name = name;
        }
    }

    /// The series of a request that count on only when it is taken.
    pub(super) fn keys(&self, request: &ExportMetricsServiceRequest, table: &Table) -> Vec<Key> {
        if self.temporality == Temporality::Cumulative {
            return Vec::new();
        }
        let delta = i32::from(AggregationTemporality::Delta);
        metrics(request)
            .flat_map(|metric| match &metric.data {
                Some(Data::Sum(sum)) if sum.aggregation_temporality == delta => {
                    sum.data_points.iter().map(|p| key(&metric.name, &p.attributes, table)).collect()
                }
                Some(Data::Histogram(histogram)) if histogram.aggregation_temporality == delta => {
                    histogram.data_points.iter().map(|p| key(&metric.name, &p.attributes, table)).collect()
                }
                _ => Vec::new(),
            })
            .collect()
    }

    /// Notes that the destination has taken these series as they were applied last.
    pub(super) fn commit(&mut self, keys: Vec<Key>) {
        for key in keys {
            if let Some(offered) = self.offered.remove(&key) {
                self.taken.insert(key, offered);
            }
        }
    }

    /// Ends an export in which every series had its turn: what was not among them is gone. `taken` says whether
    /// the destination has taken all of them.
    pub(super) fn complete(&mut self, taken: bool) {
        let round = self.round;
        self.taken.retain(|_, taken| taken.round == round);
        self.taken.shrink_to(2 * self.taken.len());
        if taken {
            self.since = self.round_began;
        }
    }

    fn number(&mut self, key: Key, point: &mut NumberDataPoint) {
        let (count, base) = (point.value.map(Count::from), self.base(&key));
        point.start_time_unix_nano = base.as_ref().map_or(self.since, |base| base.time);
        if let (Some(value), Some(base)) = (&mut point.value, &base) {
            // A count that is lower than before has begun anew.
            match (value, &base.count) {
                (Value::AsInt(value), Count::Int(base)) if *value >= *base => *value -= base,
                (Value::AsDouble(value), Count::Double(base)) if *value >= *base => *value -= base,
                _ => {}
            }
        }
        self.offer(key, count, point.time_unix_nano);
    }

    fn histogram(&mut self, key: Key, point: &mut HistogramDataPoint) {
        let count = Count::Histogram {
            count: point.count,
            sum: point.sum.unwrap_or_default(),
            buckets: point.bucket_counts.clone(),
        };
        let base = self.base(&key);
        point.start_time_unix_nano = base.as_ref().map_or(self.since, |base| base.time);
        // They are those of all time.
        point.min = None;
        point.max = None;
        if let Some(Taken { count: Count::Histogram { count, sum, buckets }, .. }) = &base
            && point.count >= *count
        {
            point.count -= count;
            point.sum = point.sum.map(|all| all - sum);
            for (all, taken) in point.bucket_counts.iter_mut().zip(buckets) {
                *all = all.saturating_sub(*taken);
            }
        }
        self.offer(key, Some(count), point.time_unix_nano);
    }

    /// What was taken of a series, which is seen to exist.
    fn base(&mut self, key: &Key) -> Option<Taken> {
        let taken = self.taken.get_mut(key)?;
        taken.round = self.round;
        Some(taken.clone())
    }

    fn offer(&mut self, key: Key, count: Option<Count>, time: u64) {
        if let Some(count) = count {
            self.offered.insert(key, Taken { count, time, round: self.round });
        }
    }
}

impl From<Value> for Count {
    fn from(value: Value) -> Self {
        match value {
            Value::AsInt(value) => Self::Int(value),
            Value::AsDouble(value) => Self::Double(value),
        }
    }
}

fn key(name: &str, attributes: &[KeyValue], table: &Table) -> Key {
    let mut key = Vec::with_capacity(512);
    key.extend_from_slice(name.as_bytes());
    key.push(0);
    push_attributes(name, attributes, table, &mut key);
    key.into()
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{AnyValue, any_value};
    use opentelemetry_proto::tonic::metrics::v1::{
        Gauge, Histogram, Metric, ResourceMetrics, ScopeMetrics, Sum,
    };

    use super::*;

    const CUMULATIVE: i32 = AggregationTemporality::Cumulative as i32;
    const DELTA: i32 = AggregationTemporality::Delta as i32;

    fn attributes(name: &str) -> Vec<KeyValue> {
        let value = AnyValue { value: Some(any_value::Value::StringValue(name.into())) };
        vec![KeyValue { key: "name".into(), value: Some(value), ..KeyValue::default() }]
    }

    fn number(name: &str, value: i64, time: u64) -> NumberDataPoint {
        NumberDataPoint {
            attributes: attributes(name),
            start_time_unix_nano: 1,
            time_unix_nano: time,
            value: Some(Value::AsInt(value)),
            ..NumberDataPoint::default()
        }
    }

    fn request(data: Data) -> ExportMetricsServiceRequest {
        let metrics = vec![Metric { name: "m".into(), data: Some(data), ..Metric::default() }];
        let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
        let resource_metrics = vec![ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }];
        ExportMetricsServiceRequest { resource_metrics }
    }

    fn sum(points: Vec<NumberDataPoint>) -> ExportMetricsServiceRequest {
        request(Data::Sum(Sum {
            data_points: points,
            aggregation_temporality: CUMULATIVE,
            is_monotonic: true,
        }))
    }

    /// Start, time and value of each point of a sum, and its temporality.
    fn told(request: &ExportMetricsServiceRequest) -> (Vec<(u64, u64, i64)>, i32) {
        let Some(Data::Sum(sum)) = &metrics(request).next().unwrap().data else { panic!("no sum") };
        let points = sum.data_points.iter().map(|p| {
            let Some(Value::AsInt(value)) = p.value else { panic!("no integer") };
            (p.start_time_unix_nano, p.time_unix_nano, value)
        });
        (points.collect(), sum.aggregation_temporality)
    }

    /// One export of these points; what is told of them.
    fn export(deltas: &mut Deltas, now: u64, points: &[(&str, i64)], taken: bool) -> Vec<(u64, u64, i64)> {
        deltas.begin(now);
        let mut request = sum(points.iter().map(|(name, value)| number(name, *value, now + 1)).collect());
        deltas.apply(&mut request, &Table::EMPTY);
        if taken {
            deltas.commit(deltas.keys(&request, &Table::EMPTY));
            deltas.complete(true);
        }
        let (points, temporality) = told(&request);
        assert_eq!(temporality, DELTA);
        points
    }

    #[test]
    fn each_export_counts_from_the_one_that_was_taken_before() {
        let mut deltas = Deltas::new(Temporality::Delta, 10);
        assert_eq!(export(&mut deltas, 20, &[("a", 5), ("b", 0)], true), [(10, 21, 5), (10, 21, 0)]);
        assert_eq!(export(&mut deltas, 30, &[("a", 7), ("b", 1)], true), [(21, 31, 2), (21, 31, 1)]);
        assert_eq!(export(&mut deltas, 40, &[("a", 7), ("b", 1)], true), [(31, 41, 0), (31, 41, 0)]);
    }

    #[test]
    fn what_was_not_taken_is_told_again() {
        let mut deltas = Deltas::new(Temporality::Delta, 10);
        assert_eq!(export(&mut deltas, 20, &[("a", 5)], false), [(10, 21, 5)]);
        assert_eq!(export(&mut deltas, 30, &[("a", 6)], false), [(10, 31, 6)]);
        assert_eq!(export(&mut deltas, 40, &[("a", 8)], true), [(10, 41, 8)]);
        assert_eq!(export(&mut deltas, 50, &[("a", 9)], false), [(41, 51, 1)]);
        assert_eq!(export(&mut deltas, 60, &[("a", 9)], true), [(41, 61, 1)]);
    }

    #[test]
    fn parts_are_taken_one_by_one() {
        let mut deltas = Deltas::new(Temporality::Delta, 10);
        deltas.begin(20);
        let mut whole = sum(vec![number("a", 1, 21), number("b", 2, 21)]);
        deltas.apply(&mut whole, &Table::EMPTY);
        let parts = super::super::request::split(whole, 1, usize::MAX, &Table::EMPTY);
        let keys = deltas.keys(&parts[0], &Table::EMPTY);
        deltas.commit(keys);
        assert_eq!(export(&mut deltas, 30, &[("a", 3), ("b", 3)], true), [(21, 31, 2), (10, 31, 3)]);
    }

    #[test]
    fn a_part_that_is_refused_for_good_is_told_with_the_next() {
        let mut deltas = Deltas::new(Temporality::Delta, 10);
        deltas.begin(20);
        let mut whole = sum(vec![number("a", 1, 21), number("b", 2, 21)]);
        deltas.apply(&mut whole, &Table::EMPTY);
        let keys =
            deltas.keys(&super::super::request::split(whole, 1, usize::MAX, &Table::EMPTY)[1], &Table::EMPTY);
        deltas.commit(keys);
        deltas.complete(false);
        assert_eq!(export(&mut deltas, 30, &[("a", 3), ("b", 3)], true), [(10, 31, 3), (21, 31, 1)]);
    }

    #[test]
    fn a_series_that_comes_later_counts_from_the_last_export_without_it() {
        let mut deltas = Deltas::new(Temporality::Delta, 10);
        export(&mut deltas, 20, &[("a", 1)], true);
        assert_eq!(export(&mut deltas, 30, &[("a", 1), ("b", 4)], true), [(21, 31, 0), (20, 31, 4)]);
    }

    #[test]
    fn a_count_that_begins_anew_is_told_whole() {
        let mut deltas = Deltas::new(Temporality::Delta, 10);
        export(&mut deltas, 20, &[("a", 5)], true);
        assert_eq!(export(&mut deltas, 30, &[("a", 2)], true), [(21, 31, 2)]);
        // Gone for an export, and then back.
        export(&mut deltas, 40, &[], true);
        assert!(deltas.taken.is_empty());
        assert_eq!(export(&mut deltas, 50, &[("a", 3)], true), [(40, 51, 3)]);
    }

    #[test]
    fn without_an_answer_nothing_adds_up() {
        let mut deltas = Deltas::new(Temporality::Delta, 10);
        export(&mut deltas, 20, &[("stays", 1)], true);
        for number in 0..100 {
            export(&mut deltas, 30 + number, &[("stays", 1), (&format!("passes-{number}"), 1)], false);
        }
        assert_eq!((deltas.taken.len(), deltas.offered.len()), (1, 2));
    }

    #[test]
    fn histograms_count_from_what_was_taken_too() {
        for temporality in [Temporality::Delta, Temporality::LowMemory] {
            let mut deltas = Deltas::new(temporality, 10);
            let mut export = |now, count, sum, buckets: [u64; 2]| {
                deltas.begin(now);
                let mut request = request(Data::Histogram(Histogram {
                    data_points: vec![HistogramDataPoint {
                        time_unix_nano: now,
                        count,
                        sum: Some(sum),
                        bucket_counts: buckets.into(),
                        min: Some(0.5),
                        ..HistogramDataPoint::default()
                    }],
                    aggregation_temporality: CUMULATIVE,
                }));
                deltas.apply(&mut request, &Table::EMPTY);
                deltas.commit(deltas.keys(&request, &Table::EMPTY));
                deltas.complete(true);
                let Some(Data::Histogram(told)) = &metrics(&request).next().unwrap().data else { panic!() };
                assert_eq!(told.aggregation_temporality, DELTA);
                let point = told.data_points[0].clone();
                assert_eq!(point.min, None);
                (point.start_time_unix_nano, point.count, point.sum.unwrap(), point.bucket_counts)
            };
            assert_eq!(export(20, 3, 1.5, [1, 2]), (10, 3, 1.5, vec![1, 2]));
            assert_eq!(export(30, 5, 2.5, [2, 3]), (20, 2, 1.0, vec![1, 1]));
            assert_eq!(export(40, 1, 0.5, [1, 0]), (30, 1, 0.5, vec![1, 0]));
        }
    }

    #[test]
    fn what_is_observed_counts_from_the_start_unless_deltas_are_wanted() {
        for temporality in [Temporality::Cumulative, Temporality::LowMemory] {
            let mut deltas = Deltas::new(temporality, 10);
            for now in [20, 30] {
                deltas.begin(now);
                let mut request = sum(vec![number("a", 5, now)]);
                deltas.apply(&mut request, &Table::EMPTY);
                assert!(deltas.keys(&request, &Table::EMPTY).is_empty());
                deltas.complete(true);
                assert_eq!(told(&request), (vec![(10, now, 5)], CUMULATIVE));
            }
        }
    }

    #[test]
    fn gauges_stay_as_they_are() {
        let mut deltas = Deltas::new(Temporality::Delta, 10);
        let before = request(Data::Gauge(Gauge { data_points: vec![number("a", 5, 20)] }));
        let mut after = before.clone();
        deltas.apply(&mut after, &Table::EMPTY);
        assert_eq!(after, before);
    }
}
