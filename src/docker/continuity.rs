//! Detects missed events: which events were seen, from when a new stream has to replay them, and what shows that some
//! are missing.
//!
//! Two things show it. First, a gap: a new stream replays no event that was seen before, because the daemon's buffer
//! overflowed or the daemon was restarted. There is also a gap if the daemon's clock went back, and later events have
//! times before the earliest `since` that can be requested. Gaps are counted. Second, a doubt: a list shows that a
//! container was created, removed, started or finished without an event. The stream may then be dead although the
//! daemon is not, for example behind a proxy that lost it. It is reopened from the last moment at which nothing was
//! missing, and the missed events are replayed.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime};

use super::dedup::{EventDedup, ResumePoint};
use super::event::Event;
use crate::inventory::Text;

/// How long to wait for replayed events after the first list. The daemon sends the stream's headers before it
/// subscribes us, and replays right after that. A short list can arrive first.
const REPEATS_WITHIN: Duration = Duration::from_secs(1);
/// A list can be ahead of the events, but not by more than this.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// The daemon's answers have times in whole seconds, and take a while to arrive. A smaller difference than this is
/// neither another clock nor a step of the clock.
const CLOCK_SLACK: Duration = Duration::from_secs(5);
/// How often the time for which doubts are ignored may double.
const MOST_DOUBLINGS: u32 = 6;

/// The state of the detection.
#[derive(Debug)]
pub(super) struct Continuity {
    seen: EventDedup,
    /// Whether the daemon is on this host. Even then its clock may differ: it may run in a virtual machine.
    is_local: bool,
    /// When events were first asked for, by the daemon's clock.
    first_asked: Option<SystemTime>,
    /// The daemon's clock when the last stream was requested.
    clock: Option<(Instant, SystemTime)>,
    /// The `since` of this stream, until the first new event shows whether it was early enough.
    asked: Option<SystemTime>,
    /// Whether `since` was too late: a new event has an earlier time.
    asked_too_late: bool,
    /// Whether this stream has replayed an event that was seen before.
    has_repeated: bool,
    /// Whether a stream was ever open.
    listened: bool,
    /// Whether the daemon has been unreachable since: it may have restarted and lost its events.
    away: bool,
    link: Link,
    /// When to judge a link that is still open.
    judge_at: Option<Instant>,
    /// The resume point from before the last list that showed nothing unexpected.
    trusted: Option<ResumePoint>,
    /// Containers that a list shows to have changed, although no event said so.
    suspects: HashSet<Text>,
    /// When the stream is in doubt, if suspects are still without an event by then.
    doubt_at: Option<Instant>,
    /// Whether the stream was closed because of a doubt, and the new stream is not yet judged.
    doubted: bool,
    /// Whether the new stream has sent an event of a suspect.
    told: bool,
    /// Unfounded doubts in a row.
    in_vain: u32,
    /// Until when doubts are ignored, so that a daemon that sends no events is not reconnected at every list.
    unmoved_until: Option<Instant>,
}

/// Whether an event is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Novelty {
    /// It was seen before.
    Repeat,
    /// It was not seen before, but happened before the first stream.
    BeforeStart,
    New,
}

/// Whether the stream continues where the last one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// It does, or there was no stream before.
    Closed,
    /// Not known yet. `fresh`: an event has come that was not seen before.
    Open { proof: Proof, fresh: bool },
}

/// What proves that the stream continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// A replayed event with a time up to this one.
    Repeat(SystemTime),
    /// Any event.
    Any,
    /// Nothing: no event was seen and the daemon was away, or `since` is not early enough.
    None,
}

impl Continuity {
    pub(super) fn new(is_local: bool) -> Self {
        Self {
            seen: EventDedup::default(),
            is_local,
            first_asked: None,
            clock: None,
            asked: None,
            has_repeated: false,
            asked_too_late: false,
            listened: false,
            away: false,
            link: Link::Closed,
            judge_at: None,
            trusted: None,
            suspects: HashSet::new(),
            doubt_at: None,
            doubted: false,
            told: false,
            in_vain: 0,
            unmoved_until: None,
        }
    }

    /// When [`judge`](Self::judge) or [`doubt`](Self::doubt) is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.judge_at, self.doubt_at].into_iter().flatten().min()
    }

    /// The daemon could not be reached.
    pub(super) fn unreachable(&mut self) {
        self.away = true;
    }

    /// Returns the `since` of the stream that is about to be requested. `dated` is the time in the daemon's last
    /// answer, if it has one.
    pub(super) fn asking(
        &mut self,
        now: Instant,
        wall: SystemTime,
        dated: Option<SystemTime>,
    ) -> Option<SystemTime> {
        let daemons = dated.or(self.is_local.then_some(wall));
        let point = if self.doubted { self.trusted } else { self.seen.resume_point() };
        // The last event's time already reflects a clock step before it.
        let last = point.map(|point| (point.arrived_at, point.proven_until));
        let back = went_back(self.clock, now, daemons).min(went_back(last.or(self.clock), now, daemons));
        self.clock = daemons.map(|daemons| (now, daemons));
        let Some(first) = self.first_asked else {
            let is_ours = daemons.is_none_or(|daemons| difference(daemons, wall) <= CLOCK_SLACK);
            let first = daemons.filter(|_| !is_ours).unwrap_or(wall);
            self.first_asked = Some(first);
            // `since` covers events between the headers and the subscription. With a clock other than the daemon's, it
            // would let old events be counted.
            return self.is_local.then_some(first);
        };
        let (since, is_early_enough) = self.seen.since(first, point, back);
        let proof = match point {
            _ if !is_early_enough => Some(Proof::None),
            Some(point) => Some(Proof::Repeat(point.proven_until)),
            None if self.doubted => Some(Proof::Any),
            None if self.away && self.listened => Some(Proof::None),
            None => None,
        };
        self.link = proof.map_or(Link::Closed, |proof| Link::Open { proof, fresh: false });
        // Podman skips every event with a time before `since`, future events too.
        let since = daemons.filter(|_| !back.is_zero()).map_or(since, |daemons| since.min(daemons));
        self.asked = Some(since);
        self.has_repeated = false;
        Some(since)
    }

    /// The stream is open.
    pub(super) fn opened(&mut self) {
        self.listened = true;
    }

    /// Records an event, and returns whether it is new.
    pub(super) fn judge_event(&mut self, now: Instant, event: &Event) -> Novelty {
        if matches!(self.link, Link::Open { proof: Proof::Any, .. }) {
            self.close_link();
        }
        // If the clock went back, the replay may begin before our first stream. Those events come before any that was
        // seen.
        let is_before_start = self.link != Link::Closed
            && !self.has_repeated
            && event.time.is_some_and(|time| self.first_asked.is_some_and(|first| time < first));
        let new = match (event.key(), event.time) {
            (Some(key), Some(time)) => self.insert(now, key, time),
            _ => true,
        };
        self.has_repeated |= !new;
        if new && self.suspects.remove(&event.actor) {
            self.told = true;
        }
        match new {
            false => Novelty::Repeat,
            true if is_before_start => Novelty::BeforeStart,
            true => Novelty::New,
        }
    }

    fn insert(&mut self, now: Instant, key: u64, time: SystemTime) -> bool {
        let new = self.seen.insert(now, key, time);
        match &mut self.link {
            Link::Open { proof: Proof::Repeat(until), .. } if !new && time <= *until => self.close_link(),
            Link::Open { fresh, .. } => *fresh |= new,
            Link::Closed => {}
        }
        if new && let Some(asked) = self.asked.take() {
            // An event with a time before `since` is live, not replayed. Similar events from the time without a stream
            // were not replayed.
            self.asked_too_late = time.checked_add(CLOCK_SLACK).is_some_and(|time| time < asked);
        }
        new
    }

    /// Where a new stream resumes after the events so far.
    pub(super) fn resume_point(&self) -> Option<ResumePoint> {
        self.seen.resume_point()
    }

    /// A list shows a change of a container without an event.
    pub(super) fn suspect(&mut self, id: &Text) {
        if !self.doubted {
            self.suspects.insert(Text::clone(id));
        }
    }

    /// A whole list was taken; `first` if it is the first one of this stream. `point` is the resume point from when the
    /// list began.
    pub(super) fn listed(&mut self, now: Instant, first: bool, point: Option<ResumePoint>) {
        if first && (self.link != Link::Closed || self.doubted) {
            self.judge_at = Some(now + REPEATS_WITHIN);
        } else if !self.suspects.is_empty() {
            self.doubt_at.get_or_insert(now + TOLD_WITHIN);
        } else {
            self.trusted = point;
        }
    }

    /// Whether there is now a gap: events may have been missed. `patience` is the minimum time for which doubts are
    /// ignored after an unfounded one.
    pub(super) fn judge(&mut self, now: Instant, patience: Duration) -> bool {
        if std::mem::take(&mut self.asked_too_late) {
            self.close_link();
            return true;
        }
        if self.judge_at.is_none_or(|at| now < at) {
            return false;
        }
        self.judge_at = None;
        if std::mem::take(&mut self.doubted) {
            self.suspects.clear();
            self.in_vain = if self.told { 0 } else { (self.in_vain + 1).min(MOST_DOUBLINGS) };
            self.unmoved_until = (!self.told).then(|| now + patience.saturating_mul(1 << self.in_vain));
        }
        let gap = self.link != Link::Closed;
        self.close_link();
        gap
    }

    /// If the stream is now in doubt, returns the number of containers without an event.
    pub(super) fn doubt(&mut self, now: Instant) -> Option<usize> {
        if self.doubt_at.is_none_or(|at| now < at) {
            return None;
        }
        self.doubt_at = None;
        if self.suspects.is_empty() {
            return None;
        }
        if self.unmoved_until.is_some_and(|until| now < until) {
            self.suspects.clear();
            return None;
        }
        self.doubted = true;
        self.told = false;
        Some(self.suspects.len())
    }

    /// The stream was closed. Returns whether there is a gap: replayed to the next stream, the events of this one would
    /// hide it.
    pub(super) fn lost(&mut self) -> bool {
        self.judge_at = None;
        self.doubt_at = None;
        self.asked = None;
        if !self.doubted {
            self.suspects.clear();
        }
        let gap = matches!(self.link, Link::Open { fresh: true, .. });
        if gap {
            self.close_link();
        }
        gap
    }

    fn close_link(&mut self) {
        self.link = Link::Closed;
        self.away = false;
    }

    /// Whether nothing is kept but the events that were seen.
    #[cfg(test)]
    pub(super) fn is_at_rest(&self) -> bool {
        self.link == Link::Closed && self.suspects.is_empty() && self.deadline().is_none()
    }
}

fn difference(a: SystemTime, b: SystemTime) -> Duration {
    a.duration_since(b).unwrap_or_else(|error| error.duration())
}

/// How far a clock went back since it showed a time.
fn went_back(shown: Option<(Instant, SystemTime)>, now: Instant, clock: Option<SystemTime>) -> Duration {
    let (Some((then, before)), Some(clock)) = (shown, clock) else { return Duration::ZERO };
    let expected = before.checked_add(now.saturating_duration_since(then)).unwrap_or(before);
    let back = expected.duration_since(clock).unwrap_or_default();
    if back > CLOCK_SLACK { back } else { Duration::ZERO }
}
