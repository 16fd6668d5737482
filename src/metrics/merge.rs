//! Streams whose points can have the same attributes, or have a limit: merged from everything that there is.
//!
//! What is merged is visited and not gathered, and what is kept of it has a number in the place of its attributes, so
//! that a limit bounds memory too.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

use crate::inventory::EventLabels;

/// The number of the series that stands for all beyond the limit.
const OVERFLOW_SERIES: u64 = 0;

/// The sets of attributes that have a series of their own, each with its number. One that has it keeps it for as long
/// as it exists.
#[derive(Debug, Clone)]
struct SeriesTable<K> {
    /// How many series there may be, the one for all beyond the limit among them.
    limit: Option<usize>,
    series: HashMap<K, Series>,
    next_number: u64,
}

#[derive(Debug, Clone)]
struct Series {
    number: u64,
    exists: bool,
}

impl<K: Clone + Eq + Hash> SeriesTable<K> {
    fn new(limit: Option<usize>) -> Self {
        Self { limit, series: HashMap::new(), next_number: OVERFLOW_SERIES + 1 }
    }

    /// Takes the series of sets that are no more, where others wait for their places.
    fn make_room(&mut self, visit: impl FnOnce(&mut dyn FnMut(&K))) {
        if self.limit.is_none() {
            return;
        }
        visit(&mut |key| {
            if let Some(series) = self.series.get_mut(key) {
                series.exists = true;
            }
        });
        self.remove_others();
    }

    /// Takes the series of sets that had no number since the last time.
    fn remove_others(&mut self) {
        self.series.retain(|_, series| std::mem::take(&mut series.exists));
    }

    /// The number of a set's series; a new one gets its own as far as there is room.
    fn number(&mut self, key: &K) -> u64 {
        if let Some(series) = self.series.get_mut(key) {
            series.exists = true;
            return series.number;
        }
        if self.limit.is_some_and(|limit| self.series.len() + 1 >= limit) {
            return OVERFLOW_SERIES;
        }
        let number = self.next_number;
        self.next_number += 1;
        self.series.insert(key.clone(), Series { number, exists: true });
        number
    }
}

/// Points in the order in which their series first came.
struct Points<K> {
    places: HashMap<u64, usize>,
    points: Vec<(K, i64)>,
}

impl<K: Clone> Points<K> {
    fn new() -> Self {
        Self { places: HashMap::new(), points: Vec::new() }
    }

    /// The value of a series, which is 0 where it is new.
    fn value(&mut self, number: u64, key: &K) -> Option<&mut i64> {
        let place = *self.places.entry(number).or_insert_with(|| {
            self.points.push((key.clone(), 0));
            self.points.len() - 1
        });
        self.points.get_mut(place).map(|(_, value)| value)
    }
}

/// A gauge's stream: of points with the same attributes the last one counts.
#[derive(Debug)]
pub struct LastValues<K> {
    table: SeriesTable<K>,
    overflow: K,
}

impl<K: Clone + Eq + Hash> LastValues<K> {
    /// A stream of so many points at most, the one of `overflow` among them.
    pub fn new(limit: Option<usize>, overflow: K) -> Self {
        Self { table: SeriesTable::new(limit), overflow }
    }

    /// The points that all that is visited becomes. With a limit it is visited twice.
    pub fn merge(&mut self, mut visit: impl FnMut(&mut dyn FnMut(&K, i64))) -> Vec<(K, i64)> {
        let Self { table, overflow } = self;
        table.make_room(|each| visit(&mut |key, _| each(key)));
        let mut points = Points::new();
        visit(&mut |key, value| {
            let number = table.number(key);
            let key = if number == OVERFLOW_SERIES { &*overflow } else { key };
            if let Some(point) = points.value(number, key) {
                *point = value;
            }
        });
        table.remove_others();
        points.points
    }
}

/// A counter's stream: points with the same attributes are added up.
///
/// A label set that is no longer counted must not make the sum that it was part of fall, which would look like a
/// counter that has begun anew. So what it had counted stays in the sum for as long as there is another part.
#[derive(Debug, Clone)]
pub struct Sums<K> {
    table: SeriesTable<K>,
    overflow: K,
    parts: HashMap<Arc<EventLabels>, Part>,
    /// What is in each sum of label sets that are gone from it, by the number of its series.
    gone: HashMap<u64, u64>,
    round: u64,
}

/// What a label set had counted.
#[derive(Debug, Clone)]
struct Part {
    /// The sum that it was part of.
    series: u64,
    count: u64,
    /// The merging that last had it.
    round: u64,
}

impl<K: Clone + Eq + Hash> Sums<K> {
    /// A stream of so many points at most, the one of `overflow` among them.
    pub fn new(limit: Option<usize>, overflow: K) -> Self {
        Self {
            table: SeriesTable::new(limit),
            overflow,
            parts: HashMap::new(),
            gone: HashMap::new(),
            round: 0,
        }
    }

    /// Goes on from the sums of another stream with the same limit.
    pub fn resume(&mut self, before: &Self) {
        *self = Self { overflow: self.overflow.clone(), ..before.clone() };
    }

    /// The points that all that is visited becomes. With a limit it is visited twice.
    pub fn merge(
        &mut self,
        mut visit: impl FnMut(&mut dyn FnMut(&Arc<EventLabels>, &K, u64)),
    ) -> Vec<(K, i64)> {
        self.round += 1;
        let Self { table, overflow, parts, gone, round } = self;
        let round = *round;
        table.make_room(|each| visit(&mut |_, key, _| each(key)));
        let mut points = Points::new();
        visit(&mut |labels, key, count| {
            let series = table.number(key);
            let key = if series == OVERFLOW_SERIES { &*overflow } else { key };
            match parts.get_mut(labels) {
                Some(part) => {
                    // Else it is part of another sum now, or counts anew.
                    if part.series != series || part.count > count {
                        *gone.entry(part.series).or_default() += part.count;
                    }
                    *part = Part { series, count, round };
                }
                None => {
                    parts.insert(Arc::clone(labels), Part { series, count, round });
                }
            }
            if let Some(point) = points.value(series, key) {
                *point = point.saturating_add_unsigned(count);
            }
        });
        table.remove_others();
        parts.retain(|_, part| {
            if part.round != round {
                *gone.entry(part.series).or_default() += part.count;
            }
            part.round == round
        });
        if parts.capacity() > 4 * parts.len() {
            parts.shrink_to(2 * parts.len());
        }
        let Points { places, mut points } = points;
        gone.retain(|series, _| places.contains_key(series));
        for (series, place) in places {
            let (counted, point) = (gone.get(&series), points.get_mut(place));
            if let (Some(counted), Some((_, value))) = (counted, point) {
                *value = value.saturating_add_unsigned(*counted);
            }
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::{Counter, EventIdentity};

    const OVERFLOW: &str = "overflow";

    fn gauges<'k>(stream: &mut LastValues<&'k str>, items: &[(&'k str, i64)]) -> Vec<(&'k str, i64)> {
        let mut points = stream.merge(|each| items.iter().for_each(|(key, value)| each(key, *value)));
        points.sort_unstable();
        points
    }

    fn labels(event: &str) -> Arc<EventLabels> {
        let identity = EventIdentity { name: Some(event.into()), ..EventIdentity::default() };
        Arc::new(EventLabels {
            counter: Counter::Events,
            event: event.into(),
            kind: "container".into(),
            identity: Arc::new(identity),
        })
    }

    fn sums<'k>(stream: &mut Sums<&'k str>, items: &[(&str, &'k str, u64)]) -> Vec<(&'k str, i64)> {
        let items: Vec<_> = items.iter().map(|(part, key, count)| (labels(part), *key, *count)).collect();
        let mut points =
            stream.merge(|each| items.iter().for_each(|(part, key, count)| each(part, key, *count)));
        points.sort_unstable();
        points
    }

    #[test]
    fn the_last_of_the_same_counts() {
        let mut stream = LastValues::new(None, OVERFLOW);
        assert_eq!(gauges(&mut stream, &[("a", 1), ("b", 2), ("a", 3)]), [("a", 3), ("b", 2)]);
        assert_eq!(gauges(&mut stream, &[]), []);
    }

    #[test]
    fn beyond_the_limit_there_is_one_point() {
        let mut stream = LastValues::new(Some(3), OVERFLOW);
        assert_eq!(gauges(&mut stream, &[("b", 1), ("c", 2)]), [("b", 1), ("c", 2)]);
        // Who has a place keeps it, whoever comes before.
        assert_eq!(
            gauges(&mut stream, &[("a", 5), ("b", 1), ("c", 2), ("d", 7)]),
            [("b", 1), ("c", 2), (OVERFLOW, 7)]
        );
        assert_eq!(gauges(&mut stream, &[("a", 5), ("c", 2)]), [("a", 5), ("c", 2)]);
    }

    #[test]
    fn the_one_for_all_beyond_the_limit_counts_too() {
        for limit in 1..5 {
            let (mut gauge, mut counter) =
                (LastValues::new(Some(limit), OVERFLOW), Sums::new(Some(limit), OVERFLOW));
            for _ in 0..2 {
                let points = gauges(&mut gauge, &["a", "b", "c", "d", "e"].map(|key| (key, 1)));
                assert_eq!((points.len(), points.last()), (limit, Some(&(OVERFLOW, 1))));
                let points = sums(&mut counter, &["a", "b", "c", "d", "e"].map(|key| (key, key, 1)));
                let rest = i64::try_from(6 - limit).unwrap();
                assert_eq!((points.len(), points.last()), (limit, Some(&(OVERFLOW, rest))));
            }
            assert_eq!((gauge.table.series.len(), counter.table.series.len()), (limit - 1, limit - 1));
        }
    }

    #[test]
    fn counts_of_the_same_are_added_up() {
        let mut stream = Sums::new(None, OVERFLOW);
        assert_eq!(sums(&mut stream, &[("x", "a", 1), ("y", "a", 2), ("z", "b", 4)]), [("a", 3), ("b", 4)]);
        assert_eq!(sums(&mut stream, &[("x", "a", 2), ("y", "a", 2), ("z", "b", 4)]), [("a", 4), ("b", 4)]);
    }

    #[test]
    fn a_sum_does_not_fall_when_a_part_of_it_goes() {
        let mut stream = Sums::new(None, OVERFLOW);
        sums(&mut stream, &[("x", "a", 5), ("y", "a", 2)]);
        assert_eq!(sums(&mut stream, &[("y", "a", 3)]), [("a", 8)]);
        // It comes back, from 0.
        assert_eq!(sums(&mut stream, &[("x", "a", 1), ("y", "a", 3)]), [("a", 9)]);
        // Gone and back between two collections.
        assert_eq!(sums(&mut stream, &[("x", "a", 0), ("y", "a", 3)]), [("a", 9)]);
        // With the last part the sum is gone, and begins anew.
        assert_eq!(sums(&mut stream, &[]), []);
        assert_eq!(sums(&mut stream, &[("x", "a", 1)]), [("a", 1)]);
        assert_eq!(stream.gone.len() + stream.parts.len(), 1);
    }

    #[test]
    fn what_is_beyond_the_limit_is_added_up_and_does_not_fall_either() {
        let mut stream = Sums::new(Some(2), OVERFLOW);
        let all = [("x", "a", 1), ("y", "b", 2), ("z", "c", 4)];
        assert_eq!(sums(&mut stream, &all), [("a", 1), (OVERFLOW, 6)]);
        // Another takes the place that has become free.
        assert_eq!(sums(&mut stream, &all[1..]), [("b", 2), (OVERFLOW, 6)]);
    }
}
