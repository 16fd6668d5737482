//! Streams whose points can have the same attributes, or have a limit: merged from everything that there is.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::Arc;

use crate::inventory::EventLabels;

/// The attribute of the point that stands for all beyond a stream's limit.
pub const OVERFLOW: &str = "otel.metric.overflow";

/// Which sets of attributes have a series of their own. One that has it keeps it for as long as it exists.
#[derive(Debug)]
struct Places<K> {
    limit: usize,
    held: HashSet<K>,
}

impl<K: Clone + Eq + Hash> Places<K> {
    fn new(limit: Option<usize>) -> Self {
        Self { limit: limit.unwrap_or(usize::MAX), held: HashSet::new() }
    }

    /// Gives a place to each of these, as far as there is room, and takes it from others.
    fn assign<'k>(&mut self, keys: impl Iterator<Item = &'k K> + Clone)
    where
        K: 'k,
    {
        let present: HashSet<&K> = keys.clone().collect();
        self.held.retain(|key| present.contains(key));
        for key in keys {
            if self.held.len() >= self.limit {
                break;
            }
            if !self.held.contains(key) {
                self.held.insert(key.clone());
            }
        }
    }
}

/// Points in the order in which their sets of attributes first came.
struct Points<K> {
    places: HashMap<K, usize>,
    points: Vec<(K, i64)>,
}

impl<K: Clone + Eq + Hash> Points<K> {
    fn new() -> Self {
        Self { places: HashMap::new(), points: Vec::new() }
    }

    fn at(&mut self, key: K) -> Option<&mut i64> {
        let place = *self.places.entry(key).or_insert_with_key(|key| {
            self.points.push((key.clone(), 0));
            self.points.len() - 1
        });
        self.points.get_mut(place).map(|(_, value)| value)
    }
}

/// A gauge's stream: of points with the same attributes the last one counts.
#[derive(Debug)]
pub struct LastValues<K> {
    places: Places<K>,
    overflow: K,
}

impl<K: Clone + Eq + Hash> LastValues<K> {
    /// A stream of so many points at most, beside the one of `overflow`.
    pub fn new(limit: Option<usize>, overflow: K) -> Self {
        Self { places: Places::new(limit), overflow }
    }

    /// The points that these become.
    pub fn merge(&mut self, items: &[(K, i64)]) -> Vec<(K, i64)> {
        self.places.assign(items.iter().map(|(key, _)| key));
        let mut points = Points::new();
        for (key, value) in items {
            let key = if self.places.held.contains(key) { key } else { &self.overflow };
            if let Some(point) = points.at(key.clone()) {
                *point = *value;
            }
        }
        points.points
    }
}

/// A counter's stream: points with the same attributes are added up.
///
/// A label set that is no longer counted must not make the sum that it was part of fall, which would look like a
/// counter that has begun anew. So what it had counted stays in the sum for as long as there is another part.
#[derive(Debug)]
pub struct Sums<K> {
    places: Places<K>,
    overflow: K,
    /// What each label set had counted, and the sum that it was part of.
    parts: HashMap<Arc<EventLabels>, (K, u64)>,
    /// What is in each sum of label sets that are gone from it.
    gone: HashMap<K, u64>,
}

impl<K: Clone + Eq + Hash> Sums<K> {
    /// A stream of so many points at most, beside the one of `overflow`.
    pub fn new(limit: Option<usize>, overflow: K) -> Self {
        Self { places: Places::new(limit), overflow, parts: HashMap::new(), gone: HashMap::new() }
    }

    /// The points that these become.
    pub fn merge(&mut self, items: &[(Arc<EventLabels>, K, u64)]) -> Vec<(K, i64)> {
        self.places.assign(items.iter().map(|(_, key, _)| key));
        let mut before = std::mem::take(&mut self.parts);
        for (labels, key, count) in items {
            let key = if self.places.held.contains(key) { key } else { &self.overflow };
            match before.remove(labels) {
                // Counted on.
                Some((known, counted)) if known == *key && counted <= *count => {}
                Some((known, counted)) => *self.gone.entry(known).or_default() += counted,
                None => {}
            }
            self.parts.insert(Arc::clone(labels), (key.clone(), *count));
        }
        for (key, counted) in before.into_values() {
            *self.gone.entry(key).or_default() += counted;
        }
        let mut points = Points::new();
        for (labels, _, count) in items {
            let Some((key, _)) = self.parts.get(labels) else { continue };
            if let Some(point) = points.at(key.clone()) {
                *point = point.saturating_add_unsigned(*count);
            }
        }
        let Points { places, mut points } = points;
        self.gone.retain(|key, _| places.contains_key(key));
        for (key, value) in &mut points {
            *value = value.saturating_add_unsigned(self.gone.get(key).copied().unwrap_or_default());
        }
        points
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::EventIdentity;

    const OVERFLOW: &str = "overflow";

    fn gauges<'k>(stream: &mut LastValues<&'k str>, items: &[(&'k str, i64)]) -> Vec<(&'k str, i64)> {
        let mut points = stream.merge(items);
        points.sort_unstable();
        points
    }

    fn labels(event: &str) -> Arc<EventLabels> {
        let identity = EventIdentity { name: Some(event.into()), ..EventIdentity::default() };
        Arc::new(EventLabels { event: event.into(), kind: "container".into(), identity: Arc::new(identity) })
    }

    fn sums<'k>(stream: &mut Sums<&'k str>, items: &[(&str, &'k str, u64)]) -> Vec<(&'k str, i64)> {
        let items: Vec<_> = items.iter().map(|(part, key, count)| (labels(part), *key, *count)).collect();
        let mut points = stream.merge(&items);
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
        let mut stream = LastValues::new(Some(2), OVERFLOW);
        assert_eq!(gauges(&mut stream, &[("b", 1), ("c", 2)]), [("b", 1), ("c", 2)]);
        // Who has a place keeps it, whoever comes before.
        assert_eq!(
            gauges(&mut stream, &[("a", 5), ("b", 1), ("c", 2), ("d", 7)]),
            [("b", 1), ("c", 2), (OVERFLOW, 7)]
        );
        assert_eq!(gauges(&mut stream, &[("a", 5), ("c", 2)]), [("a", 5), ("c", 2)]);
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
        let mut stream = Sums::new(Some(1), OVERFLOW);
        let all = [("x", "a", 1), ("y", "b", 2), ("z", "c", 4)];
        assert_eq!(sums(&mut stream, &all), [("a", 1), (OVERFLOW, 6)]);
        // Another takes the place that has become free.
        assert_eq!(sums(&mut stream, &all[1..]), [("b", 2), (OVERFLOW, 6)]);
    }
}
