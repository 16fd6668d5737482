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
pub(super) struct Seen {
    order: VecDeque<u64>,
    keys: HashSet<u64>,
    latest: Option<SystemTime>,
    earliest: Option<SystemTime>,
}

impl Seen {
    /// Notes an event, and says whether it is new.
    pub(super) fn insert(&mut self, key: u64, time: SystemTime) -> bool {
        if !self.keys.insert(key) {
            return false;
        }
        self.order.push_back(key);
        if self.order.len() > REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.keys.remove(&oldest);
        }
        self.latest = self.latest.max(Some(time));
        self.earliest = Some(self.earliest.map_or(time, |earliest| earliest.min(time)));
        true
    }

    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    /// The moment from which the daemon is to repeat its events, if `opened` is when they were first
    /// listened to. Not from before that: what happened then was never ours to count.
    pub(super) fn since(&self, opened: SystemTime) -> SystemTime {
        let Some(latest) = self.latest else { return opened };
        // The daemon's clock is not ours when it is on another host; then its first event tells.
        let first = self.earliest.map_or(opened, |earliest| earliest.min(opened));
        latest.checked_sub(OVERLAP).unwrap_or(latest).max(first)
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
        let mut seen = Seen::default();
        assert!(seen.insert(1, at(1.0)));
        assert!(!seen.insert(1, at(1.0)));
        assert!(seen.insert(2, at(1.0)));
    }

    #[test]
    fn memory_is_bounded_and_holds_more_than_a_daemon_repeats() {
        let mut seen = Seen::default();
        for key in 0..10_000 {
            seen.insert(key, at(1.0));
        }
        assert_eq!((seen.order.len(), seen.keys.len()), (REMEMBERED, REMEMBERED));
        assert!((9_000..10_000).all(|key| !seen.insert(key, at(1.0))));
    }

    #[test]
    fn a_repeat_begins_a_little_before_the_last_event_but_not_before_the_first_stream() {
        let mut seen = Seen::default();
        assert_eq!(seen.since(at(100.0)), at(100.0));
        seen.insert(1, at(100.5));
        assert_eq!(seen.since(at(100.0)), at(100.0));
        seen.insert(2, at(105.0));
        seen.insert(3, at(104.9));
        assert_eq!(seen.since(at(100.0)), at(104.0));
    }

    #[test]
    fn a_daemon_whose_clock_is_behind_repeats_too() {
        let mut seen = Seen::default();
        seen.insert(1, at(50.0));
        assert_eq!(seen.since(at(100.0)), at(50.0));
    }
}
