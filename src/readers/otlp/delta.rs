//! Delta temporality: counts since the last export that arrived.
//!
//! The SDK could make deltas itself, but it counts from its last collection: what an export that failed had
//! counted would be lost, and so would everything that a collection of another page does not observe. So it is
//! always asked for what counts from the start, and the difference to what the destination has taken is made
//! here. Only an answer that accepts a request moves that forward.

use std::collections::HashMap;

use opentelemetry_proto::tonic::metrics::v1::number_data_point::Value;
use opentelemetry_proto::tonic::metrics::v1::{AggregationTemporality, HistogramDataPoint};

use crate::config::Temporality;

/// A series: its metric's name and its attributes. The attributes' order is the same at each collection.
pub(super) type Key = Box<[u8]>;

/// What is told of a series that is a number.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Number {
    /// In Unix nanoseconds, as the time.
    pub(super) start: u64,
    pub(super) time: u64,
    pub(super) value: Value,
}

/// What a destination has got of a series, once it has taken it.
#[derive(Debug)]
pub(super) struct Offer {
    key: Key,
    taken: Taken,
}

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
}

impl Deltas {
    pub(super) fn new(temporality: Temporality, now: u64) -> Self {
        Self { temporality, began: now, since: now, round: 0, round_began: now, taken: HashMap::new() }
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
    }

    /// The temporality of sums.
    pub(super) fn of_sums(&self, is_monotonic: bool) -> AggregationTemporality {
        match self.temporality {
            Temporality::Delta if is_monotonic => AggregationTemporality::Delta,
            _ => AggregationTemporality::Cumulative,
        }
    }

    /// The temporality of histograms. What the standard calls low memory is deltas of instruments that are written to,
    /// which are the histograms here, and the whole count of those that are observed.
    pub(super) fn of_histograms(&self) -> AggregationTemporality {
        match self.temporality {
            Temporality::Cumulative => AggregationTemporality::Cumulative,
            Temporality::Delta | Temporality::LowMemory => AggregationTemporality::Delta,
        }
    }

    /// Turns the number of a monotonic sum, which counts from the start, into what the destination is to get. Time
    /// goes on between the pages of an export, and providers may be made anew: so the start of what counts from the
    /// start is set here too.
    pub(super) fn number(&mut self, key: impl FnOnce() -> Key, number: &mut Number) -> Option<Offer> {
        if self.of_sums(true) == AggregationTemporality::Cumulative {
            number.start = self.began;
            return None;
        }
        let (key, count) = (key(), Count::from(number.value));
        let base = self.base(&key);
        number.start = base.as_ref().map_or(self.since, |base| base.time);
        if let Some(base) = base {
            // A count that is lower than before has begun anew.
            match (&mut number.value, base.count) {
                (Value::AsInt(value), Count::Int(base)) if *value >= base => *value -= base,
                (Value::AsDouble(value), Count::Double(base)) if *value >= base => *value -= base,
                _ => {}
            }
        }
        Some(self.offer(key, count, number.time))
    }

    /// The same of a histogram's point.
    pub(super) fn histogram(
        &mut self,
        key: impl FnOnce() -> Key,
        point: &mut HistogramDataPoint,
    ) -> Option<Offer> {
        if self.of_histograms() == AggregationTemporality::Cumulative {
            return None;
        }
        let key = key();
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
        Some(self.offer(key, count, point.time_unix_nano))
    }

    /// Notes that the destination has taken these.
    pub(super) fn commit(&mut self, offers: Vec<Offer>) {
        self.taken.extend(offers.into_iter().map(|Offer { key, taken }| (key, taken)));
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

    /// What was taken of a series, which is seen to exist.
    fn base(&mut self, key: &Key) -> Option<Taken> {
        let taken = self.taken.get_mut(key)?;
        taken.round = self.round;
        Some(taken.clone())
    }

    fn offer(&self, key: Key, count: Count, time: u64) -> Offer {
        Offer { key, taken: Taken { count, time, round: self.round } }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Start, time and value.
    type Told = (u64, u64, i64);

    fn offer(deltas: &mut Deltas, name: &str, value: i64, time: u64) -> (Told, Option<Offer>) {
        let mut number = Number { start: 1, time, value: Value::AsInt(value) };
        let offer = deltas.number(|| name.as_bytes().into(), &mut number);
        let Value::AsInt(value) = number.value else { panic!("no integer") };
        ((number.start, number.time, value), offer)
    }

    /// One export of these points; what is told of them.
    fn export(deltas: &mut Deltas, now: u64, points: &[(&str, i64)], taken: bool) -> Vec<Told> {
        deltas.begin(now);
        let points = points.iter().map(|(name, value)| offer(deltas, name, *value, now + 1));
        let (told, offers): (_, Vec<_>) = points.unzip();
        if taken {
            deltas.commit(offers.into_iter().flatten().collect());
            deltas.complete(true);
        }
        told
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
        for (taken, told) in [("a", [(21, 31, 2), (10, 31, 3)]), ("b", [(10, 31, 3), (21, 31, 1)])] {
            let mut deltas = Deltas::new(Temporality::Delta, 10);
            deltas.begin(20);
            for (name, value) in [("a", 1), ("b", 2)] {
                let (_, offer) = offer(&mut deltas, name, value, 21);
                if name == taken {
                    deltas.commit(offer.into_iter().collect());
                }
            }
            deltas.complete(false);
            assert_eq!(export(&mut deltas, 30, &[("a", 3), ("b", 3)], true), told);
        }
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
        assert_eq!(deltas.taken.len(), 1);
    }

    #[test]
    fn histograms_count_from_what_was_taken_too() {
        for temporality in [Temporality::Delta, Temporality::LowMemory] {
            let mut deltas = Deltas::new(temporality, 10);
            assert_eq!(deltas.of_histograms(), AggregationTemporality::Delta);
            let mut export = |now, count, sum, buckets: [u64; 2]| {
                deltas.begin(now);
                let mut point = HistogramDataPoint {
                    time_unix_nano: now,
                    count,
                    sum: Some(sum),
                    bucket_counts: buckets.into(),
                    min: Some(0.5),
                    ..HistogramDataPoint::default()
                };
                let offer = deltas.histogram(|| b"h".as_slice().into(), &mut point);
                deltas.commit(offer.into_iter().collect());
                deltas.complete(true);
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
            assert_eq!(deltas.of_sums(true), AggregationTemporality::Cumulative);
            for now in [20, 30] {
                deltas.begin(now);
                let (told, offer) = offer(&mut deltas, "a", 5, now);
                assert!(told == (10, now, 5) && offer.is_none());
                deltas.complete(true);
            }
        }
    }

    #[test]
    fn what_goes_up_and_down_is_never_a_delta() {
        let deltas = Deltas::new(Temporality::Delta, 10);
        assert_eq!(deltas.of_sums(false), AggregationTemporality::Cumulative);
    }
}
