//! Which events have been seen, so that none is counted twice across reconnects.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, SystemTime};

/// The daemon keeps its last 256 events and no more can come a second time. The rest is room for daemons
/// that keep more.
const REMEMBERED: usize = 1024;

/// The daemon takes an event's time before it takes its place in the stream, so times can go back a little.
/// What is asked for too early is recognised.
const OVERLAP: Duration = Duration::from_secs(1);

/// The events that were seen last.
#[derive(Debug, Default)]
pub(super) struct EventDedup {
    order: VecDeque<(u64, SystemTime)>,
    keys: HashSet<u64>,
    /// The earliest time of all.
    earliest: Option<SystemTime>,
    /// The latest time of those that are no longer remembered.
    forgotten: Option<SystemTime>,
}

impl EventDedup {
    /// Notes an event, and says whether it is new.
    pub(super) fn insert(&mut self, key: u64, time: SystemTime) -> bool {
        if !self.keys.insert(key) {
            return false;
        }
        self.order.push_back((key, time));
        if self.order.len() > REMEMBERED
            && let Some((oldest, time)) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
            self.forgotten = self.forgotten.max(Some(time));
        }
        self.earliest = Some(self.earliest.map_or(time, |earliest| earliest.min(time)));
        true
    }

    /// The latest time of those that are remembered. Not of all: a single event of a wrong time in the future
    /// would hold for ever.
    pub(super) fn latest(&self) -> Option<SystemTime> {
        self.order.iter().map(|(_, time)| *time).max()
    }

    /// The moment from which the daemon is to repeat its events, if what came up to `from` is known and
    /// `opened` is when they were first listened to. Not from before that: what happened then was never ours
    /// to count. Nor from where an event could come again that is no longer recognised.
    pub(super) fn since(&self, opened: SystemTime, from: Option<SystemTime>) -> SystemTime {
        // The daemon's clock is not ours when it is on another host; then its first event tells.
        let first = self.earliest.map_or(opened, |earliest| earliest.min(opened));
        let Some(from) = from else { return self.recognised(first) };
        self.recognised(from.checked_sub(OVERLAP).unwrap_or(from).max(first))
    }

    fn recognised(&self, since: SystemTime) -> SystemTime {
        let Some(forgotten) = self.forgotten else { return since };
        let next = forgotten.checked_add(Duration::from_nanos(1)).unwrap_or(forgotten);
        // Where the clock has gone back, there is no such moment.
        if self.latest().is_some_and(|latest| next <= latest) { since.max(next) } else { since }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn an_event_is_new_once() {
        let mut seen = EventDedup::default();
        assert!(seen.insert(1, at(1.0)));
        assert!(!seen.insert(1, at(1.0)));
        assert!(seen.insert(2, at(1.0)));
    }

    #[test]
    fn memory_is_bounded_and_holds_more_than_a_daemon_repeats() {
        let mut seen = EventDedup::default();
        for key in 0..10_000 {
            seen.insert(key, at(1.0));
        }
        assert_eq!((seen.order.len(), seen.keys.len()), (REMEMBERED, REMEMBERED));
        assert!((9_000..10_000).all(|key| !seen.insert(key, at(1.0))));
    }

    #[test]
    fn a_repeat_begins_a_little_before_the_last_event_but_not_before_the_first_stream() {
        let mut seen = EventDedup::default();
        assert_eq!(seen.since(at(100.0), seen.latest()), at(100.0));
        seen.insert(1, at(100.5));
        assert_eq!(seen.since(at(100.0), seen.latest()), at(100.0));
        seen.insert(2, at(105.0));
        seen.insert(3, at(104.9));
        assert_eq!(seen.since(at(100.0), seen.latest()), at(104.0));
        assert_eq!(seen.since(at(100.0), Some(at(102.0))), at(101.0));
    }

    #[test]
    fn a_daemon_whose_clock_is_behind_repeats_too() {
        let mut seen = EventDedup::default();
        seen.insert(1, at(50.0));
        assert_eq!(seen.since(at(100.0), seen.latest()), at(50.0));
    }

    #[test]
    fn nothing_is_asked_for_that_would_not_be_recognised() {
        let mut seen = EventDedup::default();
        for key in 0..2_000 {
            seen.insert(key, at(100.0) + Duration::from_nanos(key));
        }
        let last_forgotten = at(100.0) + Duration::from_nanos(2_000 - REMEMBERED as u64 - 1);
        assert_eq!(seen.since(at(1.0), seen.latest()), last_forgotten + Duration::from_nanos(1));
        assert_eq!(seen.since(at(1.0), None), last_forgotten + Duration::from_nanos(1));
    }

    #[test]
    fn one_event_from_the_future_does_not_end_repeats_for_ever() {
        let mut seen = EventDedup::default();
        seen.insert(u64::MAX, at(1e9));
        for key in 0..2_000 {
            seen.insert(key, at(100.0 + key as f64));
        }
        assert_eq!(seen.since(at(1.0), seen.latest()), at(2_098.0));
    }
}
