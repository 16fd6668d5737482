//! The runs of a container, and why each ended: events and inspects in, ends out. Nothing here waits or asks for
//! the time.
//!
//! A run goes from a start to a `die`. Most ends are decided by the events of the run alone. An end that nobody asked
//! for waits for the next inspect, which shows whether the kernel killed the container for memory: Podman sends no
//! event for that. An end whose `die` was missed is detected by a later `FinishedAt`.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::signal::Signal;

/// Why a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExitReason {
    /// With exit code 0, and nobody asked for it.
    Completed,
    /// With an exit code up to 128, and nobody asked for it.
    Error,
    /// With an exit code above 128, by a signal that did not come through the engine.
    Signal,
    /// Killed by the kernel for memory.
    Oom,
    /// A stop was asked for, and the container heeded it.
    Stopped,
    /// A stop was asked for, and SIGKILL had to follow.
    StopTimeout,
    /// SIGKILL came through the engine, without a stop before it.
    Killed,
    /// No event was seen, and the inspect does not show the reason.
    Unknown,
}

impl ExitReason {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Completed,
        Self::Error,
        Self::Signal,
        Self::Oom,
        Self::Stopped,
        Self::StopTimeout,
        Self::Killed,
        Self::Unknown,
    ];

    /// Reasons worth an alert. Their counts begin at 0, so that the first one is an increase.
    pub const FAILURES: [Self; 3] = [Self::Error, Self::Signal, Self::Oom];

    /// The value of the label `reason`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Error => "error",
            Self::Signal => "signal",
            Self::Oom => "oom",
            Self::Stopped => "stopped",
            Self::StopTimeout => "stop_timeout",
            Self::Killed => "killed",
            Self::Unknown => "unknown",
        }
    }

    /// What it means, for documents.
    pub const fn meaning(self) -> &'static str {
        match self {
            Self::Completed => "exit code 0, and nobody asked for it",
            Self::Error => "another exit code, up to 128, and nobody asked for it",
            Self::Signal => "an exit code above 128, by a signal that did not come through the engine",
            Self::Oom => "killed for memory, unless a stop was asked for before",
            Self::Stopped => "a stop was asked for through the engine, and the container heeded it",
            Self::StopTimeout => "a stop was asked for, and SIGKILL had to follow",
            Self::Killed => {
                "SIGKILL through the engine without a stop before it: `docker kill`, `docker rm --force`"
            }
            Self::Unknown => "it happened unseen, and what is left does not tell",
        }
    }

    /// Whether it failed by itself.
    pub fn is_failure(self) -> bool {
        Self::FAILURES.contains(&self)
    }

    /// Whether it is known that nobody asked for it.
    pub fn is_unasked(self) -> bool {
        self == Self::Completed || self.is_failure()
    }

    /// Whether somebody asked for it through the engine.
    pub fn is_on_purpose(self) -> bool {
        matches!(self, Self::Stopped | Self::StopTimeout | Self::Killed)
    }

    /// The reason by exit code, for an end that nobody asked for.
    fn of_exit_code(code: Option<i64>) -> Self {
        match code {
            None => Self::Unknown,
            Some(0) => Self::Completed,
            Some(129..) => Self::Signal,
            Some(_) => Self::Error,
        }
    }
}

/// What an event tells of a container's run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunEvent {
    /// A run has begun.
    Start,
    /// A signal was sent through the engine; which one, where the event says.
    Kill(Option<Signal>),
    /// The kernel has killed a process of the container for memory.
    Oom,
    /// The run is over.
    Die {
        /// As the event gives it.
        exit_code: Option<i64>,
        /// Whether the event says that the container was killed for memory.
        oom_killed: bool,
    },
}

/// What an inspect tells of a container's runs. Times are Unix times in seconds, 0 for never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RunState {
    /// Whether the container runs.
    pub(super) running: bool,
    /// When the last run began.
    pub(super) started_at: i64,
    /// When the last finished run ended.
    pub(super) finished_at: i64,
    /// The exit code of the last run.
    pub(super) exit_code: i64,
    /// Whether the last run was killed for memory.
    pub(super) oom_killed: bool,
    /// What `docker stop` sends it.
    pub(super) stop_signal: Option<Signal>,
}

/// The end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Why it ended.
    pub reason: ExitReason,
    /// The exit code, where it is known.
    pub exit_code: Option<i64>,
    /// How long the run lasted, where its start is known.
    pub lasted: Option<Duration>,
    /// Whether it belongs to the counts: not where it came before this program.
    pub is_counted: bool,
    /// Whether it had no event.
    pub is_unseen: bool,
}

/// What the verdict on a container needs to know of its runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RunSummary {
    /// How the last run ended, where one has and that is decided.
    pub(super) last_end: Option<ExitReason>,
    /// Whether the last runs were all short and ended unasked.
    pub(super) is_looping: bool,
    /// Whether a signal came through the engine since the start of the current run; `None` if that start was not seen.
    pub(super) was_signalled: Option<bool>,
}

/// How long a stop request counts: `docker stop --time 600`.
const REQUEST_LASTS: Duration = Duration::from_secs(600);
/// A run of at least this length is not part of a restart loop.
const LONG_RUN: Duration = Duration::from_secs(600);
/// This many short runs in a row are a restart loop.
const LOOP: u8 = 3;
/// How long an end waits for more information: the inspect after a `die`, or the `die` of an end that an inspect
/// showed.
const GRACE: Duration = Duration::from_secs(2);
/// A `die` up to this long after a `FinishedAt` may be of the same end.
const SAME_END_SECONDS: i64 = 5;
/// How many signals and OOM kills of one run are remembered. A stop request is among the last of them.
const REMEMBERED: usize = 16;

/// A possible cause of a run's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Signal(Signal),
    Oom,
}

/// An end that waits for the inspect after it.
#[derive(Debug, Clone, Copy)]
struct PendingEnd {
    end: End,
    /// By the engine's clock.
    at: SystemTime,
    since: Instant,
}

/// An end that an inspect has shown, and whose `die` may still come.
#[derive(Debug, Clone, Copy)]
struct MissedEnd {
    end: End,
    finished_at: i64,
    since: Instant,
}

/// What is known of a container's runs.
#[derive(Debug, Default)]
pub(super) struct RunHistory {
    /// When the current run began, by the engine's clock, and when this was learnt.
    started: Option<(SystemTime, Instant)>,
    /// Whether the start of the current run was seen.
    start_seen: bool,
    /// Whether a signal came through the engine since that start.
    signalled: bool,
    /// Signals and OOM kills of the current run, in their order.
    causes: Vec<(Cause, SystemTime)>,
    pending: Option<PendingEnd>,
    missed: Option<MissedEnd>,
    last_end: Option<End>,
    /// Runs in a row that ended unasked and were short.
    short_runs: u8,
    /// The last `FinishedAt` of an inspect; `None` before the first inspect.
    finished_at: Option<i64>,
    /// `die` events since `finished_at` last changed.
    ends_since: u32,
    /// The `FinishedAt` of an end that was counted without its `die`.
    inferred: Option<i64>,
    stop_signal: Option<Signal>,
    /// When it was last heard of.
    heard_at: Option<Instant>,
}

impl RunHistory {
    /// An event has come, which happened at `at` by the engine's clock. `is_counted` is false for what happened before
    /// this program began to count.
    pub(super) fn event(
        &mut self,
        event: RunEvent,
        at: SystemTime,
        now: Instant,
        is_counted: bool,
        ends: &mut Vec<End>,
    ) {
        self.heard_at = Some(now);
        match event {
            RunEvent::Start => {
                self.settle_pending(false, ends);
                self.settle_missed(ends);
                self.inferred = None;
                self.causes.clear();
                self.started = Some((at, now));
                self.start_seen = true;
                self.signalled = false;
            }
            RunEvent::Kill(signal) => {
                self.signalled = true;
                if let Some(signal) = signal {
                    self.remember(Cause::Signal(signal), at);
                }
            }
            RunEvent::Oom if self.pending.is_some() => self.settle_pending(true, ends),
            RunEvent::Oom => self.remember(Cause::Oom, at),
            RunEvent::Die { exit_code, oom_killed } => {
                self.die(exit_code, oom_killed, at, now, is_counted, ends)
            }
        }
    }

    /// An inspect has answered.
    pub(super) fn inspected(&mut self, state: RunState, now: Instant, ends: &mut Vec<End>) {
        self.heard_at = Some(now);
        self.stop_signal = state.stop_signal;
        if let Some(pending) = self.pending {
            // An inspect from before the `die` does not show this end.
            if !state.running {
                let code = pending.end.exit_code.or(Some(state.exit_code).filter(|code| *code >= 0));
                if let Some(pending) = &mut self.pending {
                    pending.end.exit_code = code;
                    if pending.end.reason == ExitReason::Unknown {
                        pending.end.reason = ExitReason::of_exit_code(code);
                    }
                }
                self.settle_pending(state.oom_killed, ends);
            } else if state.started_at > unix_seconds(pending.at) {
                self.settle_pending(false, ends);
            }
        }
        match self.finished_at.replace(state.finished_at) {
            None => {
                if self.last_end.is_none() && self.pending.is_none() && state.finished_at > 0 {
                    self.last_end = Some(end_by_inspect(&state, false));
                }
                if state.finished_at > 0 {
                    self.ends_since = 0;
                }
            }
            Some(before) if state.finished_at > before => {
                if self.ends_since == 0 && self.pending.is_none() {
                    let end = end_by_inspect(&state, true);
                    self.settle_missed(ends);
                    self.missed = Some(MissedEnd { end, finished_at: state.finished_at, since: now });
                }
                self.ends_since = 0;
            }
            Some(_) => {}
        }
        if state.running {
            let start = u64::try_from(state.started_at).ok().map(|at| UNIX_EPOCH + Duration::from_secs(at));
            match (self.started, start) {
                // The event's time is the more exact one.
                (Some((known, _)), Some(start)) if unix_seconds(known) >= unix_seconds(start) => {}
                (_, Some(start)) => {
                    // This start had no event.
                    self.start_seen = false;
                    self.started = Some((start, now));
                }
                (_, None) => {}
            }
        }
    }

    /// Time has passed: decides the ends that have waited long enough.
    pub(super) fn tick(&mut self, now: Instant, ends: &mut Vec<End>) {
        if self.pending.is_some_and(|pending| now.saturating_duration_since(pending.since) >= GRACE) {
            self.settle_pending(false, ends);
        }
        if self.missed.is_some_and(|missed| now.saturating_duration_since(missed.since) >= GRACE) {
            self.settle_missed(ends);
        }
        if let Some((_, since)) = self.started
            && now.saturating_duration_since(since) >= LONG_RUN
        {
            self.short_runs = 0;
        }
    }

    /// The container is gone: no inspect will follow.
    pub(super) fn finish(&mut self, ends: &mut Vec<End>) {
        self.settle_pending(false, ends);
        self.settle_missed(ends);
    }

    /// What the verdict on the container needs.
    pub(super) fn summary(&self) -> RunSummary {
        RunSummary {
            last_end: self.last_end.map(|end| end.reason),
            is_looping: self.short_runs >= LOOP,
            was_signalled: self.start_seen.then_some(self.signalled),
        }
    }

    /// When it was last heard of.
    pub(super) fn heard_at(&self) -> Option<Instant> {
        self.heard_at
    }

    fn remember(&mut self, cause: Cause, at: SystemTime) {
        if self.causes.len() == REMEMBERED {
            self.causes.remove(0);
        }
        self.causes.push((cause, at));
    }

    fn die(
        &mut self,
        exit_code: Option<i64>,
        oom_killed: bool,
        at: SystemTime,
        now: Instant,
        is_counted: bool,
        ends: &mut Vec<End>,
    ) {
        self.settle_pending(false, ends);
        let told_before = self.inferred.take().is_some_and(|finished_at| {
            (finished_at - 1..=finished_at + SAME_END_SECONDS).contains(&unix_seconds(at))
        });
        let reason = self.reason(exit_code, oom_killed, at);
        let lasted = self.started.take().and_then(|(start, _)| at.duration_since(start).ok());
        let end = End { reason, exit_code, lasted, is_counted: is_counted && !told_before, is_unseen: false };
        self.causes.clear();
        if self.missed.take().is_none() && !told_before {
            self.ends_since += 1;
        }
        let may_be_oom = !oom_killed && reason != ExitReason::Completed && !reason.is_on_purpose();
        if may_be_oom && reason != ExitReason::Oom {
            self.pending = Some(PendingEnd { end, at, since: now });
        } else {
            self.end(end, ends);
        }
    }

    /// Why a run ended, by what came before its end.
    fn reason(&self, exit_code: Option<i64>, oom_killed: bool, at: SystemTime) -> ExitReason {
        let stop_signal = self.stop_signal.unwrap_or(Signal::TERM);
        let asks = |signal: Signal| {
            signal == stop_signal || [Signal::TERM, Signal::INT, Signal::QUIT].contains(&signal)
        };
        let is_live = |then: SystemTime| at.duration_since(then).unwrap_or_default() <= REQUEST_LASTS;
        let (mut is_asked, mut is_killed, mut is_oom) = (false, false, false);
        for (cause, then) in &self.causes {
            match cause {
                Cause::Oom => is_oom |= !is_asked && !is_killed,
                Cause::Signal(_) if !is_live(*then) => {}
                Cause::Signal(signal) if *signal == Signal::KILL && stop_signal != Signal::KILL => {
                    is_killed = true;
                }
                Cause::Signal(signal) => is_asked |= asks(*signal) && !is_killed,
            }
        }
        is_oom |= oom_killed && !is_asked && !is_killed;
        match () {
            () if is_oom && exit_code != Some(0) => ExitReason::Oom,
            () if is_asked && is_killed => ExitReason::StopTimeout,
            () if is_asked => ExitReason::Stopped,
            () if is_killed => ExitReason::Killed,
            () => ExitReason::of_exit_code(exit_code),
        }
    }

    fn settle_pending(&mut self, oom_killed: bool, ends: &mut Vec<End>) {
        let Some(PendingEnd { mut end, .. }) = self.pending.take() else { return };
        if oom_killed && end.exit_code != Some(0) {
            end.reason = ExitReason::Oom;
        }
        self.end(end, ends);
    }

    fn settle_missed(&mut self, ends: &mut Vec<End>) {
        let Some(MissedEnd { end, finished_at, .. }) = self.missed.take() else { return };
        self.inferred = Some(finished_at);
        self.end(end, ends);
    }

    fn end(&mut self, end: End, ends: &mut Vec<End>) {
        let is_short = end.lasted.is_some_and(|lasted| lasted < LONG_RUN);
        self.short_runs =
            if end.reason.is_unasked() && is_short { self.short_runs.saturating_add(1) } else { 0 };
        self.last_end = Some(end);
        ends.push(end);
    }
}

/// The end as far as an inspect shows it.
fn end_by_inspect(state: &RunState, is_counted: bool) -> End {
    let end = |reason, exit_code| {
        let lasted = lasted(state);
        End { reason, exit_code, lasted, is_counted, is_unseen: true }
    };
    if state.running {
        // The exit code and the OOM flag belong to the current run.
        return End { lasted: None, ..end(ExitReason::Unknown, None) };
    }
    let code = Some(state.exit_code).filter(|code| *code >= 0);
    match state.exit_code {
        1.. if state.oom_killed => end(ExitReason::Oom, code),
        1..=128 => end(ExitReason::Error, code),
        // Exit code 0, or that of a signal, may come from a requested stop.
        _ => end(ExitReason::Unknown, code),
    }
}

fn lasted(state: &RunState) -> Option<Duration> {
    let seconds = state.finished_at.checked_sub(state.started_at)?;
    u64::try_from(seconds).ok().filter(|_| state.started_at > 0).map(Duration::from_secs)
}

fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
