//! Whether every event has come: which have been seen, from where a new stream is to repeat them, and what
//! shows that some are missing.
//!
//! Two things do. A new stream that repeats nothing of what was seen before does not go on from there: the
//! daemon's buffer ran over, or it was restarted. That is a gap, and is counted; so it is where the daemon's clock
//! went back, and what has happened since is dated before what can be asked for. And where a list shows that a
//! container has come, gone, started or finished without an event, the stream is in doubt: it may be dead
//! although the daemon is not, as behind a proxy that has lost it. It is opened anew then, from the last
//! moment that nothing was missing at, and what was missed is repeated.

use std::collections::HashSet;
use std::time::{Duration, Instant, SystemTime};

use super::dedup::{EventDedup, ResumePoint};
use super::event::Event;
use crate::inventory::Text;

/// The daemon sends the stream's headers before it subscribes, and repeats right after that. A short list can
/// be there before the repeats.
const REPEATS_WITHIN: Duration = Duration::from_secs(1);
/// A list can be ahead of the events. So long ahead it is not.
const TOLD_WITHIN: Duration = Duration::from_secs(2);
/// The daemon dates its answers by the second, and they are on their way for a while. What is within is no other
/// clock and no step of it.
const CLOCK_SLACK: Duration = Duration::from_secs(5);
/// How often the time doubles in which another doubt counts for nothing.
const MOST_DOUBLINGS: u32 = 6;

/// What is known of the events' continuity.
#[derive(Debug)]
pub(super) struct Continuity {
    seen: EventDedup,
    /// Whether the daemon is on this host. It may have another clock all the same: that of a virtual machine.
    is_local: bool,
    /// When events were first asked for, by the daemon's clock.
    first_asked: Option<SystemTime>,
    /// The daemon's clock as the last stream was asked for.
    clock: Option<(Instant, SystemTime)>,
    /// From when on this stream was to repeat events, until one tells whether that was early enough.
    asked: Option<SystemTime>,
    /// Whether that was too late: a new event is dated before it.
    asked_too_late: bool,
    /// Whether this stream has repeated an event.
    has_repeated: bool,
    /// Whether a stream was ever open.
    listened: bool,
    /// Whether the daemon could not be reached since: it may have restarted, and forgotten its events.
    away: bool,
    link: Link,
    /// When a link that is still open is judged.
    judge_at: Option<Instant>,
    /// The last event before a list that showed nothing unexpected.
    trusted: Option<ResumePoint>,
    /// What a list showed and no event has told.
    suspects: HashSet<Text>,
    /// When suspects that no event has told of by then put the stream in doubt.
    doubt_at: Option<Instant>,
    /// Whether the stream was given up because of a doubt, and what came of it is not yet judged.
    doubted: bool,
    /// Whether the new stream has told of a suspect.
    told: bool,
    /// Doubts in a row that came to nothing.
    in_vain: u32,
    /// Until when no doubt counts: a daemon that tells nothing of what it does is not asked at every list.
    unmoved_until: Option<Instant>,
}

/// Whether an event has come before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Novelty {
    /// It has.
    Repeat,
    /// It has not, for it happened before the first stream.
    BeforeStart,
    New,
}

/// Whether the stream goes on from where the last one ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Link {
    /// It does, or there was none before.
    Closed,
    /// That is not known yet. `fresh`: something has come that was not seen before.
    Open { proof: Proof, fresh: bool },
}

/// What shows that the stream goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Proof {
    /// That an event up to this time comes again.
    Repeat(SystemTime),
    /// That any event comes.
    Any,
    /// Nothing can: nothing was seen, and the daemon was away.
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

    /// When [`judge`](Self::judge) or [`doubt`](Self::doubt) have something to say.
    pub(super) fn deadline(&self) -> Option<Instant> {
        [self.judge_at, self.doubt_at].into_iter().flatten().min()
    }

    /// The daemon could not be reached.
    pub(super) fn unreachable(&mut self) {
        self.away = true;
    }

    /// A stream is about to be asked for: since when? `dated` is the time that the daemon's last answer bears,
    /// where it bears one.
    pub(super) fn asking(
        &mut self,
        now: Instant,
        wall: SystemTime,
        dated: Option<SystemTime>,
    ) -> Option<SystemTime> {
        let daemons = dated.or(self.is_local.then_some(wall));
        let point = if self.doubted { self.trusted } else { self.seen.resume_point() };
        // What happened before the last event is in its date already.
        let last = point.map(|point| (point.arrived_at, point.proven_until));
        let back = went_back(self.clock, now, daemons).min(went_back(last.or(self.clock), now, daemons));
        self.clock = daemons.map(|daemons| (now, daemons));
        let Some(first) = self.first_asked else {
            let is_ours = daemons.is_none_or(|daemons| difference(daemons, wall) <= CLOCK_SLACK);
            let first = daemons.filter(|_| !is_ours).unwrap_or(wall);
            self.first_asked = Some(first);
            // An event between the headers and the subscription would be missed. By a clock that is not the
            // daemon's, old events would be counted.
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
        // Podman passes over whatever is dated before, also what has yet to happen.
        let since = daemons.filter(|_| !back.is_zero()).map_or(since, |daemons| since.min(daemons));
        self.asked = Some(since);
        self.has_repeated = false;
        Some(since)
    }

    /// The stream is open.
    pub(super) fn opened(&mut self) {
        self.listened = true;
    }

    /// An event has come: is it new?
    pub(super) fn judge_event(&mut self, now: Instant, event: &Event) -> Novelty {
        if matches!(self.link, Link::Open { proof: Proof::Any, .. }) {
            self.close_link();
        }
        // Where the clock went back, what is repeated may reach back to before we listened. That comes first, before
        // anything that was seen.
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
            // It was not repeated, or it would not be dated before what was asked for. Others like it, that came
            // while nobody listened, were left out.
            self.asked_too_late = time.checked_add(CLOCK_SLACK).is_some_and(|time| time < asked);
        }
        new
    }

    /// Where a stream after the events that have come so far is to go on.
    pub(super) fn resume_point(&self) -> Option<ResumePoint> {
        self.seen.resume_point()
    }

    /// A list shows what no event has told.
    pub(super) fn suspect(&mut self, id: &Text) {
        if !self.doubted {
            self.suspects.insert(Text::clone(id));
        }
    }

    /// A whole list was taken, the first one of this stream or another; `point` is where a stream was to go on as
    /// it began.
    pub(super) fn listed(&mut self, now: Instant, first: bool, point: Option<ResumePoint>) {
        if first && (self.link != Link::Closed || self.doubted) {
            self.judge_at = Some(now + REPEATS_WITHIN);
        } else if !self.suspects.is_empty() {
            self.doubt_at.get_or_insert(now + TOLD_WITHIN);
        } else {
            self.trusted = point;
        }
    }

    /// Whether it is now certain that events may have been missed. `patience` is for how long, at least, no
    /// other doubt counts after one that came to nothing.
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

    /// Whether the stream is now in doubt: of how many containers has it not told?
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

    /// The stream was given up. Says whether it is certain that events may have been missed: what has come in
    /// it would hide that from the next one.
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
