//! Remembers seen events, so that none is counted twice, across reconnects or within a stream.

use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant, SystemTime};

/// How many events are remembered. Docker replays at most its last 256 events. When Podman rotates its log file, it
/// repeats half of the log within the stream: some 2,200 events of a million bytes, twice as many if they are small.
/// The rest is room for larger logs.
const REMEMBERED: usize = 16_384;

/// The daemon sets an event's time before it queues the event, so times in the stream can go back a little. Events that
/// are replayed because of this overlap are recognised as duplicates.
const OVERLAP: Duration = Duration::from_secs(1);

/// A new stream resumes at the earliest time among this many last events, so that one event with a wrong time in the
/// future does not hide the others.
const RESUMED_FROM: usize = 8;

/// Between two events the daemon's clock advances as ours does, apart from different delivery times.
const ON_THE_WAY: Duration = Duration::from_secs(5);

/// The events that were seen last.
#[derive(Debug, Default)]
pub(super) struct EventDedup {
    /// In the order of their arrival.
    order: VecDeque<(u64, SystemTime)>,
    keys: HashSet<u64>,
    /// Arrival and event time of the last few events.
    arrivals: VecDeque<(Instant, SystemTime)>,
    /// The earliest event time of all.
    earliest: Option<SystemTime>,
    /// The latest event time among those no longer remembered.
    forgotten: Option<SystemTime>,
}

/// Where a new stream resumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ResumePoint {
    /// The time from which events are to be replayed.
    from: SystemTime,
    /// A replayed event with a later time may be dated in the future, and does not prove that no event is missing.
    pub(super) proven_until: SystemTime,
    /// When the event with the time `proven_until` arrived.
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

    /// Where a new stream resumes after the events so far. This is not the latest time: after a clock step back, or an
    /// event dated in the future, that would hide later events.
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

    /// The time from which the daemon has to replay events, if those up to `point` are known and its clock has gone
    /// back by `back` since. It is not before `opened`, when events were first requested: earlier events are not ours
    /// to count. Nor does it allow a replay of events that are no longer remembered. The flag tells whether the time is
    /// early enough.
    pub(super) fn since(
        &self,
        opened: SystemTime,
        point: Option<ResumePoint>,
        back: Duration,
    ) -> (SystemTime, bool) {
        // The daemon's clock may differ from ours; then its first event shows the time.
        let first = self.earliest.map_or(opened, |earliest| earliest.min(opened));
        let Some(point) = point else { return (self.recognised(first), back.is_zero()) };
        let wanted = point.from.checked_sub(OVERLAP + back).unwrap_or(point.from);
        let since = self.recognised(wanted.max(first));
        (since, back.is_zero() || since == wanted)
    }

    fn recognised(&self, since: SystemTime) -> SystemTime {
        let Some(forgotten) = self.forgotten else { return since };
        let next = forgotten.checked_add(Duration::from_nanos(1)).unwrap_or(forgotten);
        // After a clock step back there is no such time.
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

    /// Events that arrive at their event times, in seconds.
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
        // The clock went back after the last event; the caller says by how much.
        let point = seen.resume_point();
        assert_eq!(seen.since(at(10.0), point, Duration::from_secs(600)), (at(3_000.0), true));
        // Back to before the first stream: what is missing from then cannot be requested.
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
