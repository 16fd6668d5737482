//! Which events have been seen, so that none is counted twice: neither across reconnects nor within a stream.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant, SystemTime};

/// Docker keeps its last 256 events and no more can come a second time. Podman repeats half of its log within the
/// stream when it rotates the file: of a million bytes some 2,200 events, and of small ones twice as many. The rest
/// is room for logs that are larger.
const REMEMBERED: usize = 16_384;

/// The daemon takes an event's time before it takes its place in the stream, so times can go back a little.
/// What is asked for too early is recognised.
const OVERLAP: Duration = Duration::from_secs(1);

/// Of so many events that arrived last, the earliest by the daemon's clock is where a new stream begins: one that
/// is dated in the future by mistake does not hide the others.
const RESUMED_FROM: usize = 8;

/// Between two events the daemon's clock advances as ours does, but for what they spend on their way.
const ON_THE_WAY: Duration = Duration::from_secs(5);

/// The events that were seen last.
#[derive(Debug, Default)]
pub(super) struct EventDedup {
    /// In the order of their arrival.
    order: VecDeque<(u64, SystemTime)>,
    keys: HashSet<u64>,
    /// When the last few arrived, and what they are dated.
    arrivals: VecDeque<(Instant, SystemTime)>,
    /// The earliest time of all.
    earliest: Option<SystemTime>,
    /// The latest time of those that are no longer remembered.
    forgotten: Option<SystemTime>,
}

/// Where a new stream is to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResumePoint {
    /// From when on events are to be repeated.
    from: SystemTime,
    /// A repeat that is dated later than this may be one from the future, and does not show that none is missing.
    pub(super) proven_until: SystemTime,
    /// When the event that is dated so arrived.
    pub(super) arrived_at: Instant,
}

impl EventDedup {
    /// Notes an event, and says whether it is new.
    pub(super) fn insert(&mut self, now: Instant, key: u64, time: SystemTime) -> bool {
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
        self.arrivals.push_back((now, time));
        if self.arrivals.len() > RESUMED_FROM {
            self.arrivals.pop_front();
        }
        self.earliest = Some(self.earliest.map_or(time, |earliest| earliest.min(time)));
        true
    }

    /// Where a stream after the events that have arrived so far is to go on. Not at the latest time: a clock that
    /// went back, or an event from the future, would hide what comes after it.
    pub(super) fn resume_point(&self) -> Option<ResumePoint> {
        let (earliest_at, from) = self.arrivals.iter().min_by_key(|(_, time)| *time).copied()?;
        let is_in_step = |(at, time): &(Instant, SystemTime)| {
            let dated = time.duration_since(from).unwrap_or_default();
            dated <= at.saturating_duration_since(earliest_at) + ON_THE_WAY
        };
        let last = self.arrivals.iter().rfind(|arrival| is_in_step(arrival)).copied();
        let (arrived_at, proven_until) = last.unwrap_or((earliest_at, from));
        Some(ResumePoint { from, proven_until, arrived_at })
    }

    /// The moment from which the daemon is to repeat its events, if those up to `point` are known, its clock has
    /// gone back by `back` since, and `opened` is when they were first listened to. Not from before that: what
    /// happened then was never ours to count. Nor from where an event could come again that is no longer
    /// recognised. Tells too whether that is as early as it has to be.
    pub(super) fn since(
        &self,
        opened: SystemTime,
        point: Option<ResumePoint>,
        back: Duration,
    ) -> (SystemTime, bool) {
        // The daemon's clock may not be ours; then its first event tells.
        let first = self.earliest.map_or(opened, |earliest| earliest.min(opened));
        let Some(point) = point else { return (self.recognised(first), back.is_zero()) };
        let wanted = point.from.checked_sub(OVERLAP + back).unwrap_or(point.from);
        let since = self.recognised(wanted.max(first));
        (since, back.is_zero() || since == wanted)
    }

    fn recognised(&self, since: SystemTime) -> SystemTime {
        let Some(forgotten) = self.forgotten else { return since };
        let next = forgotten.checked_add(Duration::from_nanos(1)).unwrap_or(forgotten);
        // Where the clock has gone back, there is no such moment.
        let there_is = self.resume_point().is_some_and(|point| next <= point.proven_until);
        if there_is { since.max(next) } else { since }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: f64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)
    }

    /// Events that arrive as they are dated, in seconds.
    fn seen(times: &[f64]) -> EventDedup {
        let (mut seen, began) = (EventDedup::default(), Instant::now());
        for (key, time) in times.iter().enumerate() {
            seen.insert(began + Duration::from_secs_f64(*time), key as u64, at(*time));
        }
        seen
    }

    fn since(seen: &EventDedup, opened: f64) -> SystemTime {
        seen.since(at(opened), seen.resume_point(), Duration::ZERO).0
    }

    #[test]
    fn an_event_is_new_once() {
        let (mut seen, now) = (EventDedup::default(), Instant::now());
        assert!(seen.insert(now, 1, at(1.0)));
        assert!(!seen.insert(now, 1, at(1.0)));
        assert!(seen.insert(now, 2, at(1.0)));
    }

    #[test]
    fn memory_is_bounded_and_holds_more_than_a_daemon_repeats() {
        let (mut seen, now) = (EventDedup::default(), Instant::now());
        for key in 0..50_000 {
            seen.insert(now, key, at(1.0));
        }
        assert_eq!((seen.order.len(), seen.keys.len()), (REMEMBERED, REMEMBERED));
        // As many as a log of a million bytes holds, if each takes 110.
        assert!((41_000..50_000).all(|key| !seen.insert(now, key, at(1.0))));
    }

    #[test]
    fn a_repeat_begins_a_little_before_the_last_events_but_not_before_the_first_stream() {
        assert_eq!(since(&seen(&[]), 100.0), at(100.0));
        assert_eq!(since(&seen(&[100.5]), 100.0), at(100.0));
        let times: Vec<f64> = (0..20).map(|n| 100.5 + f64::from(n)).collect();
        let seen = seen(&times);
        assert_eq!(since(&seen, 100.0), at(119.5 - 7.0 - 1.0));
        assert_eq!(seen.resume_point().unwrap().proven_until, at(119.5));
    }

    #[test]
    fn a_daemon_whose_clock_is_behind_repeats_too() {
        assert_eq!(since(&seen(&[50.0]), 100.0), at(50.0));
    }

    #[test]
    fn one_event_from_the_future_neither_moves_the_repeats_nor_proves_anything() {
        let (mut seen, now) = (EventDedup::default(), Instant::now());
        seen.insert(now, 1, at(100.0));
        seen.insert(now, 2, at(3_700.0));
        let point = seen.resume_point().unwrap();
        assert_eq!(point, ResumePoint { from: at(100.0), proven_until: at(100.0), arrived_at: now });
        seen.insert(now + Duration::from_secs(9), 3, at(109.0));
        assert_eq!(seen.resume_point().unwrap().proven_until, at(109.0));
        assert_eq!(since(&seen, 10.0), at(99.0));
    }

    #[test]
    fn a_clock_that_went_back_is_followed() {
        let (mut seen, now) = (EventDedup::default(), Instant::now());
        let before = at(7_200.0);
        seen.insert(now, 1, before);
        seen.insert(now + Duration::from_secs(1), 2, at(3_601.0));
        assert_eq!(since(&seen, 10.0), at(3_600.0));
        // It went back after the last event: by how much, others tell.
        let point = seen.resume_point();
        assert_eq!(seen.since(at(10.0), point, Duration::from_secs(600)), (at(3_000.0), true));
        // To before there was anything to listen to: what is missing then cannot be asked for.
        assert_eq!(seen.since(at(3_500.0), point, Duration::from_secs(600)), (at(3_500.0), false));
    }

    #[test]
    fn nothing_is_asked_for_that_would_not_be_recognised() {
        let (mut seen, now) = (EventDedup::default(), Instant::now());
        let count = 2 * REMEMBERED as u64;
        for key in 0..count {
            seen.insert(now, key, at(100.0) + Duration::from_nanos(key));
        }
        let next = at(100.0) + Duration::from_nanos(count - REMEMBERED as u64);
        assert_eq!(since(&seen, 1.0), next);
        assert_eq!(seen.since(at(1.0), None, Duration::ZERO).0, next);
    }

    #[test]
    fn what_was_forgotten_and_is_from_the_future_does_not_end_repeats_for_ever() {
        let (mut seen, now) = (EventDedup::default(), Instant::now());
        seen.insert(now, u64::MAX, at(1e9));
        for key in 0..2 * REMEMBERED as u64 {
            seen.insert(now + Duration::from_secs(key), key, at(100.0 + key as f64));
        }
        let last = 99.0 + 2.0 * REMEMBERED as f64;
        assert_eq!(since(&seen, 1.0), at(last - 7.0 - 1.0));
    }
}
