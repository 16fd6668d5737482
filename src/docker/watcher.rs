//! Follows the daemon: a state machine without I/O.
//!
//! ```text
//!            ┌──────────────────────── anything fails ────────────────────────┐
//!            ▼                                                                │
//!        Waiting ──time──▶ Connecting ──version──▶ Opening ──stream──▶ Syncing ──whole list──▶ Following
//!                                                                                              │      ▲
//!                                                                                              └resync┘
//! ```
//!
//! A step takes the state, the time and one [`Input`], and returns [`Action`]s; it does no I/O and does not wait. The
//! driver carries out the actions and returns their results as inputs.
//!
//! An event only triggers an inspect: it marks its container, several marks lead to one inspect, and the answer of the
//! inspect is shown. The list is requested while the stream is already open, so every change during the list leaves a
//! mark. A list and its inspects are collected first, and then replace the inventory at once. A container that does not
//! answer while others do does not hold up the list.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::continuity::{Continuity, Novelty};
use super::coverage::{Coverage, Known};
use super::dedup::ResumePoint;
use super::delayed::DelayedInspects;
use super::event::{Effect, Event};
use super::list::ListEntry;
use super::values::is_whole_id;
use crate::config::{self, Filter};
use crate::inventory::{Container, ContainerRunEvent, EventLabels, RunEvent, Text};

/// What can happen to the watcher.
#[derive(Debug)]
pub(super) enum Input {
    /// Time has passed.
    Tick,
    /// The version request is done. The answer may contain the daemon's time.
    Connected(Result<Option<SystemTime>, String>),
    /// The event stream has opened, or has failed to.
    StreamOpened(Result<(), String>),
    /// Events have come, in their order.
    Events(Vec<Event>),
    /// The event stream has ended, for this reason.
    StreamEnded(String),
    /// The list was answered, or has failed.
    Listed(Result<Vec<ListEntry>, String>),
    /// A container was inspected.
    Inspected { id: Text, outcome: Outcome },
    /// A ping was answered, or has failed.
    Ponged(Result<(), String>),
    /// A task has ended with an internal error.
    Broken(String),
}

/// The result of an inspect.
#[derive(Debug)]
pub(super) enum Outcome {
    Found(Arc<Container>),
    Gone,
    Failed(String),
}

/// What the driver has to do.
#[derive(Debug, PartialEq)]
pub(super) enum Action {
    /// Ask the daemon for its version, on a new connection.
    Connect,
    /// Subscribe to the events, and request a replay of those after `since`.
    OpenStream { since: Option<SystemTime> },
    /// List all containers.
    List,
    /// Inspect a container.
    Inspect(Text),
    /// Ask whether the daemon is there.
    Ping,
    /// Abort everything that is in progress.
    Close,
    /// Change the inventory.
    Change(Change),
    /// Count and log.
    Note(Note),
}

/// A change of the inventory.
#[derive(Debug, PartialEq)]
pub(super) enum Change {
    /// Replace all containers. Those that could not be inspected are as the list shows them. Those in `keep` keep their
    /// known state.
    Replace { containers: Vec<Arc<Container>>, keep: Vec<Text> },
    /// Add or update this container.
    Upsert(Arc<Container>),
    /// Remove this container: it is gone, or its state is not known.
    Remove(Text),
    /// Count an event.
    Count(EventLabels, Option<SystemTime>),
    /// Record an event of a container's run.
    Run(ContainerRunEvent),
    /// This container was destroyed: its runs are over.
    Destroyed(Text),
    /// Hide the containers: their state may be outdated.
    Withhold,
    /// Time to drop old label sets.
    Sweep,
}

/// What is counted and logged.
#[derive(Debug, PartialEq)]
pub(super) enum Note {
    /// The event stream is open.
    StreamOpened,
    /// The daemon is followed: the stream is open, a list has come, and enough containers are known.
    Up,
    /// The daemon is no longer followed.
    Down(String),
    /// The daemon is still not followed.
    StillDown(String),
    /// A whole list has replaced the inventory.
    Synced { containers: usize },
    /// A list has failed.
    SyncFailed(String),
    /// Events may have been missed.
    Gap,
    /// An inspect was answered.
    Inspected,
    /// An inspect found nothing.
    InspectGone,
    /// An inspect has failed.
    InspectFailed { id: Text, why: String, first: bool },
    /// An event has come.
    Event(Event),
    /// An event's effect is visible.
    Applied(SystemTime),
}

/// The watcher's settings.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) docker: config::Docker,
    pub(super) events: config::Events,
    /// Which containers are of interest, by their names.
    pub(super) names: Filter,
    /// The longest wait between two tries to connect.
    pub(super) longest_backoff: Duration,
    /// Whether the daemon is on this host.
    pub(super) is_local: bool,
}

/// An inspect blocks while its container starts or is stuck. After this time it no longer counts towards the
/// concurrency limit, so that it does not hold up the others …
const SLOW_INSPECT: Duration = Duration::from_millis(100);
/// … up to this multiple of the concurrency limit.
const MOST_INSPECTS: usize = 4;
/// The first wait before a failed inspect is tried again; it doubles …
const FIRST_RETRY: Duration = Duration::from_millis(500);
/// … up to this.
const LONGEST_RETRY: Duration = Duration::from_secs(30);
/// How long a list waits for the last containers to answer, if at least as many have answered.
const LAGGARD: Duration = Duration::from_secs(1);
/// One of this many inspects is for a list, so that endless events do not keep a list from completing.
const ROUTINE_TURN: u32 = 4;
/// The first wait before another try to connect; it doubles.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);

/// The state.
#[derive(Debug)]
pub(super) struct Watcher {
    settings: Settings,
    phase: Phase,
    /// Tries in a row that did not lead to a whole list.
    failures: u32,
    /// Containers with work that is pending or in progress.
    tracks: HashMap<Text, Track>,
    /// To be inspected because of an event.
    urgent: VecDeque<Text>,
    /// To be inspected because of a list.
    routine: VecDeque<Text>,
    /// Counts inspects since the last turn of the routine queue.
    turn: u32,
    /// When each inspect that is under way began.
    under_way: HashMap<Text, Instant>,
    /// When failed inspects are to be tried again.
    retries: BTreeSet<(Instant, Text)>,
    /// Since when each inspected container has not answered.
    unanswered: BTreeSet<(Instant, Text)>,
    /// Containers whose events came before the change is visible.
    delayed: DelayedInspects,
    sync: Option<Sync>,
    /// Which containers are known, and whether these are enough.
    coverage: Coverage,
    /// When the last whole list was taken, and why later ones failed.
    listed_at: Instant,
    list_failure: Option<String>,
    /// Whether the daemon is followed: the stream is open, a list has come, and enough containers are known.
    is_up: bool,
    continuity: Continuity,
    /// When the daemon last showed a sign of life.
    alive_at: Instant,
    /// Since when the inventory may be outdated; `None` while it is current.
    lost_at: Option<Instant>,
    withheld: bool,
    next_ping: Instant,
    ping_under_way: bool,
    next_sweep: Instant,
    random: fastrand::Rng,
    /// The time of the last step.
    now: Instant,
    /// The time of the last step by the wall clock of this host.
    wall: SystemTime,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Not connected. The next attempt is at `until`.
    Waiting { until: Instant },
    /// The version was requested.
    Connecting,
    /// The event stream was requested.
    Opening,
    /// The stream is open and the first list is in progress. The inventory is still the old one.
    Syncing,
    /// The stream is open and a whole list was taken. The next list is due at `next_sync`.
    Following { next_sync: Instant },
}

/// The work for a container.
#[derive(Debug, Default)]
struct Track {
    queued: Queued,
    /// The oldest event whose effect is not yet visible.
    mark: Option<Mark>,
    /// The mark whose effect the running inspect will show.
    answering: Option<Mark>,
    /// It was destroyed during an inspect: the answer will be outdated.
    gone: bool,
    failures: u32,
    retry_at: Option<Instant>,
    /// Since when it has not answered.
    asked_at: Option<Instant>,
    /// When it last had an event.
    marked_at: Option<Instant>,
    /// Its state in a list that began after that event.
    listed: Option<Arc<Container>>,
}

/// Where a container waits to be inspected.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Queued {
    #[default]
    No,
    /// In the routine queue.
    Routine,
    /// In the urgent queue, and maybe in the other one too.
    Urgent,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    event_time: Option<SystemTime>,
}

/// A list in progress, with its results so far.
#[derive(Debug)]
struct Sync {
    began: Instant,
    listed: bool,
    /// Listed, and not yet inspected; as the list shows them.
    pending: HashMap<Text, Arc<Container>>,
    /// Inspected.
    found: HashMap<Text, Arc<Container>>,
    /// Could not be inspected; as the list shows them.
    failed: HashMap<Text, Arc<Container>>,
    /// Destroyed since the list was requested; the list may still contain them.
    gone: HashSet<Text>,
    /// Where a stream would have resumed when the list was requested.
    resume_point: Option<ResumePoint>,
}

impl Watcher {
    pub(super) fn new(settings: Settings, now: Instant) -> Self {
        Self {
            phase: Phase::Waiting { until: now },
            failures: 0,
            tracks: HashMap::new(),
            urgent: VecDeque::new(),
            routine: VecDeque::new(),
            turn: 0,
            under_way: HashMap::new(),
            retries: BTreeSet::new(),
            unanswered: BTreeSet::new(),
            delayed: DelayedInspects::default(),
            sync: None,
            coverage: Coverage::default(),
            listed_at: now,
            list_failure: None,
            is_up: false,
            continuity: Continuity::new(settings.is_local),
            alive_at: now,
            lost_at: Some(now),
            withheld: true,
            next_ping: now,
            ping_under_way: false,
            next_sweep: now,
            random: fastrand::Rng::new(),
            now,
            wall: SystemTime::UNIX_EPOCH,
            settings,
        }
    }

    /// When the next [`Input::Tick`] is due.
    pub(super) fn deadline(&self) -> Instant {
        let mut deadline = self.next_sweep;
        let mut earlier = |at: Instant| deadline = deadline.min(at);
        match self.phase {
            Phase::Waiting { until } => earlier(until),
            Phase::Connecting | Phase::Opening => {}
            Phase::Syncing | Phase::Following { .. } => {
                if !self.ping_under_way {
                    earlier(self.next_ping);
                }
                if let Phase::Following { next_sync } = self.phase
                    && self.sync.is_none()
                {
                    earlier(next_sync);
                }
                if let Some((at, _)) = self.retries.first() {
                    earlier(*at);
                }
                if let Some(at) = self.delayed.deadline() {
                    earlier(at);
                }
                if let Some((at, _)) = self.unanswered.first() {
                    earlier(*at + self.settings.docker.stale_after);
                }
                if let Some(at) = self.continuity.deadline() {
                    earlier(at);
                }
                if let Some(at) = self.laggards_given_up_at() {
                    earlier(at);
                }
                let waiting = !(self.urgent.is_empty() && self.routine.is_empty());
                if waiting && self.under_way.len() < self.most_inspects() {
                    let slow_at = self.under_way.values().map(|began| *began + SLOW_INSPECT);
                    if let Some(at) = slow_at.filter(|at| *at > self.now).min() {
                        earlier(at);
                    }
                }
            }
        }
        if let Some(lost_at) = self.lost_at.filter(|_| !self.withheld) {
            earlier(lost_at + self.settings.docker.stale_after);
        }
        deadline
    }

    /// One step.
    pub(super) fn step(&mut self, now: Instant, wall: SystemTime, input: Input, out: &mut Vec<Action>) {
        (self.now, self.wall) = (now, wall);
        match input {
            Input::Tick => {}
            Input::Connected(result) if self.phase == Phase::Connecting => match result {
                Ok(dated) => self.connected(now, wall, dated, out),
                Err(why) => self.fail(now, why, out),
            },
            Input::StreamOpened(result) if self.phase == Phase::Opening => match result {
                Ok(()) => self.stream_opened(now, out),
                Err(why) => self.fail(now, why, out),
            },
            Input::StreamEnded(why) if self.is_listening() => self.fail(now, why, out),
            Input::Broken(why) => self.fail(now, format!("an internal error: {why}"), out),
            Input::Events(events) if self.is_listening() => {
                self.alive_at = now;
                for event in events {
                    self.event(event, out);
                }
            }
            Input::Listed(result) if self.sync.as_ref().is_some_and(|sync| !sync.listed) => match result {
                Ok(entries) => self.listed(now, entries),
                Err(why) => self.list_failed(now, why, out),
            },
            Input::Inspected { id, outcome } => self.inspected(now, &id, outcome, out),
            Input::Ponged(result) if self.ping_under_way => {
                self.ping_under_way = false;
                match result {
                    Ok(()) => self.alive_at = now,
                    Err(why) => self.fail(now, format!("no answer to a ping: {why}"), out),
                }
            }
            // Late results of a connection that was closed.
            Input::Connected(_)
            | Input::StreamOpened(_)
            | Input::StreamEnded(_)
            | Input::Events(_)
            | Input::Listed(_)
            | Input::Ponged(_) => {}
        }
        self.what_is_due(now, out);
        self.finish_sync_if_whole(now, out);
        self.judge_coverage(now, out);
        self.start_inspects(now, out);
    }

    /// Whether the event stream is open.
    fn is_listening(&self) -> bool {
        matches!(self.phase, Phase::Syncing | Phase::Following { .. })
    }

    fn is_following(&self) -> bool {
        matches!(self.phase, Phase::Following { .. })
    }

    fn what_is_due(&mut self, now: Instant, out: &mut Vec<Action>) {
        if let Phase::Waiting { until } = self.phase
            && until <= now
        {
            self.phase = Phase::Connecting;
            out.push(Action::Connect);
        }
        if let Phase::Following { next_sync } = self.phase
            && next_sync <= now
            && self.sync.is_none()
        {
            self.begin_sync(now, out);
        }
        if self.is_listening() {
            if self.next_ping <= now && !self.ping_under_way {
                self.ping_under_way = true;
                self.next_ping = now + self.ping_interval();
                out.push(Action::Ping);
            }
            while let Some((at, _)) = self.retries.first()
                && *at <= now
                && let Some((_, id)) = self.retries.pop_first()
            {
                if let Some(track) = self.tracks.get_mut(&id) {
                    track.retry_at = None;
                    Self::queue(&mut self.urgent, Queued::Urgent, &self.under_way, track, &id);
                }
            }
            while let Some(id) = self.delayed.due(now) {
                self.mark(&id, None);
            }
            while let Some((asked_at, _)) = self.unanswered.first()
                && *asked_at + self.settings.docker.stale_after <= now
                && let Some((_, id)) = self.unanswered.pop_first()
            {
                self.expire(&id, out);
            }
            if self.laggards_given_up_at().is_some_and(|at| at <= now)
                && let Some(sync) = &mut self.sync
            {
                sync.failed.extend(sync.pending.drain());
            }
            if self.continuity.judge(now, self.settings.docker.resync_interval) {
                out.push(Action::Note(Note::Gap));
            }
            if let Some(containers) = self.continuity.doubt(now) {
                let why = format!(
                    "the event stream may be dead: a list shows what no event has told of {containers} containers"
                );
                self.fail(now, why, out);
            }
        }
        if let Some(lost_at) = self.lost_at
            && !self.withheld
            && lost_at + self.settings.docker.stale_after <= now
        {
            self.withheld = true;
            out.push(Action::Change(Change::Withhold));
        }
        if self.next_sweep <= now {
            self.next_sweep = now + self.sweep_interval();
            out.push(Action::Change(Change::Sweep));
        }
    }

    fn connected(
        &mut self,
        now: Instant,
        wall: SystemTime,
        dated: Option<SystemTime>,
        out: &mut Vec<Action>,
    ) {
        self.alive_at = now;
        self.phase = Phase::Opening;
        let since = self.continuity.asking(now, wall, dated);
        out.push(Action::OpenStream { since });
    }

    fn stream_opened(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.alive_at = now;
        self.phase = Phase::Syncing;
        self.continuity.opened();
        self.next_ping = now + self.ping_interval();
        out.push(Action::Note(Note::StreamOpened));
        self.begin_sync(now, out);
    }

    fn begin_sync(&mut self, now: Instant, out: &mut Vec<Action>) {
        self.sync = Some(Sync {
            began: now,
            listed: false,
            pending: HashMap::new(),
            found: HashMap::new(),
            failed: HashMap::new(),
            gone: HashSet::new(),
            resume_point: self.continuity.resume_point(),
        });
        out.push(Action::List);
    }

    fn event(&mut self, event: Event, out: &mut Vec<Action>) {
        let novelty = self.continuity.judge_event(self.now, &event);
        if novelty == Novelty::Repeat {
            return;
        }
        let of_interest = !event.is_container()
            || event.identity.name.as_deref().is_none_or(|name| self.settings.names.matches(name));
        let is_ours = of_interest && novelty == Novelty::New;
        if is_ours && let Some(labels) = event.labels(&self.settings.events) {
            out.push(Action::Change(Change::Count(labels, event.time)));
        }
        if event.is_log_rotation && novelty == Novelty::New {
            out.push(Action::Note(Note::Gap));
        }
        let Some(id) = event.container().map(|said| self.coverage.identify(said)) else {
            out.push(Action::Note(Note::Event(event)));
            return;
        };
        if is_ours && let Some(run) = event.run_event(&id, self.wall, true) {
            out.push(Action::Change(Change::Run(run)));
        }
        match event.effect() {
            Effect::Nothing => {}
            Effect::Gone => {
                let was_known = self.coverage.get(&id).is_some();
                self.gone(&id, out);
                out.push(Action::Change(Change::Destroyed(Text::clone(&id))));
                if let Some(time) = event.time.filter(|_| was_known) {
                    out.push(Action::Note(Note::Applied(time)));
                }
            }
            // Only a hint: it may have changed nothing, so its effect is not timed.
            Effect::Changed if !event.is_container() => self.mark(&id, None),
            // A rename always matters: the old name may have matched the filter.
            Effect::Changed if of_interest || event.base_action() == "rename" => self.mark(&id, event.time),
            Effect::ChangedSoon if of_interest => self.delayed.note(self.now, &id),
            Effect::ProgramEnded { failed }
                if self.coverage.get(&id).is_some_and(|known| known.is_changed_by_probe(failed)) =>
            {
                self.delayed.note(self.now, &id);
            }
            Effect::Changed | Effect::ChangedSoon | Effect::ProgramEnded { .. } => {}
        }
        // The end of a run is logged when it is known why it ended.
        if !(is_ours && matches!(event.run, Some(RunEvent::Die { .. }))) {
            out.push(Action::Note(Note::Event(event)));
        }
    }

    /// Queues an inspect of a container because of an event.
    fn mark(&mut self, id: &Text, event_time: Option<SystemTime>) {
        let track = self.tracks.entry(Text::clone(id)).or_default();
        track.mark.get_or_insert(Mark { event_time });
        track.marked_at = Some(self.now);
        let has_expired = track.asked_at.is_some_and(|at| !self.unanswered.contains(&(at, Text::clone(id))));
        if track.listed.take().is_some() && has_expired {
            // The list's state was current up to this event, and expires like any other.
            track.asked_at = Some(self.now);
            self.unanswered.insert((self.now, Text::clone(id)));
        }
        Self::queue(&mut self.urgent, Queued::Urgent, &self.under_way, track, id);
    }

    /// A container's destroy event has come, or an inspect has not found it.
    fn gone(&mut self, id: &Text, out: &mut Vec<Action>) {
        if let Some(sync) = &mut self.sync {
            sync.pending.remove(id);
            sync.found.remove(id);
            sync.failed.remove(id);
            sync.gone.insert(Text::clone(id));
        }
        self.delayed.forget(id);
        if self.under_way.contains_key(id) {
            let track = self.tracks.entry(Text::clone(id)).or_default();
            track.gone = true;
            track.mark = None;
        } else {
            self.forget(id);
        }
        self.hide(id, out);
    }

    fn show(&mut self, container: Arc<Container>, out: &mut Vec<Action>) {
        self.coverage.inspected(&container);
        out.push(Action::Change(Change::Upsert(container)));
    }

    /// The last inspect of the container is too old. The state from a later list replaces it, if there is one.
    fn expire(&mut self, id: &Text, out: &mut Vec<Action>) {
        self.coverage.expire(id);
        let listed = self.tracks.get(id).and_then(|track| track.listed.clone());
        out.push(Action::Change(match listed {
            Some(container) => Change::Upsert(container),
            None => Change::Remove(Text::clone(id)),
        }));
    }

    fn hide(&mut self, id: &Text, out: &mut Vec<Action>) {
        self.coverage.forget(id);
        out.push(Action::Change(Change::Remove(Text::clone(id))));
    }

    fn listed(&mut self, now: Instant, entries: Vec<ListEntry>) {
        self.alive_at = now;
        let Some(sync) = &mut self.sync else { return };
        sync.listed = true;
        for mut entry in entries {
            entry.id = self.coverage.identify(&entry.id);
            let of_interest = entry.name.is_empty() || self.settings.names.matches(&entry.name);
            // An inspect since the list was requested is newer than the list.
            if !of_interest || sync.gone.contains(&entry.id) || sync.found.contains_key(&entry.id) {
                continue;
            }
            sync.pending.insert(Text::clone(&entry.id), entry.summary);
            let track = self.tracks.entry(Text::clone(&entry.id)).or_default();
            Self::queue(&mut self.routine, Queued::Routine, &self.under_way, track, &entry.id);
        }
    }

    fn list_failed(&mut self, now: Instant, why: String, out: &mut Vec<Action>) {
        out.push(Action::Note(Note::SyncFailed(why.clone())));
        self.list_failure = Some(why.clone());
        if let Phase::Following { next_sync } = &mut self.phase {
            // The stream still reports changes, and pings show whether the daemon is there.
            self.sync = None;
            *next_sync = now + Self::doubled(FIRST_RETRY, 2, self.settings.docker.resync_interval);
        } else {
            self.fail(now, format!("no list: {why}"), out);
        }
    }

    fn inspected(&mut self, now: Instant, id: &Text, outcome: Outcome, out: &mut Vec<Action>) {
        let Some(began) = self.under_way.remove(id) else { return };
        let Some(track) = self.tracks.get_mut(id) else { return };
        let answered = track.answering.take();
        match outcome {
            // The answer is outdated.
            _ if track.gone => {}
            Outcome::Found(container) => {
                self.alive_at = now;
                // An event can be missing only if no event awaits an answer, and the inspect was neither retried nor
                // too slow.
                let untold = answered.is_none()
                    && track.mark.is_none()
                    && track.failures == 0
                    && now < began + self.settings.docker.stale_after;
                self.answered(id);
                out.push(Action::Note(Note::Inspected));
                if container.id != *id {
                    self.rename(id, &container.id, out);
                }
                if container.id == *id || is_whole_id(id) {
                    self.found(began, container, answered, untold, out);
                } else {
                    // An inspect by its full id may have returned a newer state meanwhile.
                    self.mark(&container.id, answered.and_then(|mark| mark.event_time));
                }
            }
            Outcome::Gone => {
                self.alive_at = now;
                out.push(Action::Note(Note::InspectGone));
                self.gone(id, out);
            }
            Outcome::Failed(why) => {
                let first = track.failures == 0;
                out.push(Action::Note(Note::InspectFailed { id: Text::clone(id), why: why.clone(), first }));
                self.inspect_failed(now, id, answered, why);
            }
        }
        self.settle(id);
    }

    /// The inspect of `asked` returned the container `id`.
    fn rename(&mut self, asked: &Text, id: &Text, out: &mut Vec<Action>) {
        if let Some(sync) = &mut self.sync {
            for waiting in [&mut sync.pending, &mut sync.failed] {
                if let Some(summary) = waiting.remove(asked) {
                    waiting.insert(Text::clone(id), summary);
                }
            }
        }
        if self.coverage.is_unreadable(asked) {
            self.hide(asked, out);
        }
    }

    /// The container has given an answer.
    fn answered(&mut self, id: &Text) {
        if let Some(track) = self.tracks.get_mut(id) {
            track.failures = 0;
            track.listed = None;
            if let Some(asked_at) = track.asked_at.take() {
                self.unanswered.remove(&(asked_at, Text::clone(id)));
            }
        }
    }

    fn found(
        &mut self,
        began: Instant,
        container: Arc<Container>,
        answered: Option<Mark>,
        untold: bool,
        out: &mut Vec<Action>,
    ) {
        let id = Text::clone(&container.id);
        if !self.settings.names.matches(&container.name) {
            if let Some(sync) = &mut self.sync {
                sync.pending.remove(&id);
                sync.found.remove(&id);
                sync.failed.remove(&id);
            }
            self.hide(&id, out);
            return;
        }
        let mut for_list = false;
        if let Some(sync) = &mut self.sync {
            // An inspect that began before the list may be older than the state that the list is to check.
            if began >= sync.began {
                let (was_pending, had_failed) = (sync.pending.remove(&id), sync.failed.remove(&id));
                for_list = was_pending.or(had_failed).is_some();
                sync.found.insert(Text::clone(&id), Arc::clone(&container));
            } else if sync.pending.contains_key(&id)
                && let Some(track) = self.tracks.get_mut(&id)
            {
                Self::queue(&mut self.routine, Queued::Routine, &self.under_way, track, &id);
            }
        }
        let is_as_known =
            self.coverage.get(&id).is_some_and(|known| known.is_same_run(&Known::of(&container)));
        if untold && for_list && self.is_following() && !is_as_known {
            self.continuity.suspect(&id);
        }
        // An inspect made only for the list is shown with the whole list.
        if answered.is_some() || !for_list {
            self.show(container, out);
        }
        if let Some(time) = answered.and_then(|mark| mark.event_time) {
            out.push(Action::Note(Note::Applied(time)));
        }
    }

    /// Retries the container, with growing delays. Its known state stays until it is older than `stale_after`.
    fn inspect_failed(&mut self, now: Instant, id: &Text, answered: Option<Mark>, why: String) {
        if let Some(sync) = &mut self.sync
            && let Some(summary) = sync.pending.remove(id)
        {
            sync.failed.insert(Text::clone(id), summary);
        }
        let Some(track) = self.tracks.get_mut(id) else { return };
        track.mark = answered.or(track.mark);
        let at = now + Self::doubled(FIRST_RETRY, track.failures, LONGEST_RETRY);
        track.failures = track.failures.saturating_add(1);
        track.retry_at = Some(at);
        self.coverage.failed(id, track.failures, why);
        self.retries.insert((at, Text::clone(id)));
    }

    /// After an inspect: queues another one if an event has come meanwhile, or drops the finished track.
    fn settle(&mut self, id: &Text) {
        let Some(track) = self.tracks.get_mut(id) else { return };
        if track.gone {
            self.forget(id);
        } else if track.mark.is_some() && track.retry_at.is_none() {
            Self::queue(&mut self.urgent, Queued::Urgent, &self.under_way, track, id);
        } else if track.queued == Queued::No && track.retry_at.is_none() && !self.under_way.contains_key(id) {
            self.tracks.remove(id);
        }
    }

    fn forget(&mut self, id: &Text) {
        let Some(track) = self.tracks.remove(id) else { return };
        if let Some(at) = track.retry_at {
            self.retries.remove(&(at, Text::clone(id)));
        }
        if let Some(asked_at) = track.asked_at {
            self.unanswered.remove(&(asked_at, Text::clone(id)));
        }
    }

    /// When the list gives up on the pending containers: `LAGGARD` after the last of them was asked, if at least as
    /// many have answered. `None` if that is not so, or none is pending.
    fn laggards_given_up_at(&self) -> Option<Instant> {
        let sync = self.sync.as_ref().filter(|sync| sync.listed)?;
        if sync.pending.len() > self.under_way.len() || sync.pending.len() > sync.found.len() {
            return None;
        }
        let began: Option<Vec<Instant>> =
            sync.pending.keys().map(|id| self.under_way.get(id).copied()).collect();
        began?.into_iter().max().map(|began| began + LAGGARD)
    }

    fn finish_sync_if_whole(&mut self, now: Instant, out: &mut Vec<Action>) {
        let Some(sync) = self.sync.take_if(|sync| sync.listed && sync.pending.is_empty()) else { return };
        let first = !self.is_following();
        let (mut listed, mut keep) = (Vec::new(), Vec::new());
        let missing = self.coverage.listed(|id| sync.found.contains_key(id) || sync.failed.contains_key(id));
        if !first {
            for id in &missing {
                self.continuity.suspect(id);
            }
        }
        for (id, summary) in sync.failed {
            let track = self.tracks.entry(Text::clone(&id)).or_default();
            if self.coverage.get(&id).is_none() {
                self.coverage.expire(&id);
            }
            // A later event may mean a newer state.
            if track.marked_at.is_none_or(|at| at < sync.began) {
                track.listed = Some(Arc::clone(&summary));
                listed.push(summary);
            } else {
                keep.push(id);
            }
        }
        self.continuity.listed(now, first, sync.resume_point);
        let mut containers: Vec<_> = sync.found.into_values().collect();
        for container in &containers {
            self.coverage.inspected(container);
        }
        let count = containers.len();
        containers.extend(listed);
        out.push(Action::Change(Change::Replace { containers, keep }));
        out.push(Action::Note(Note::Synced { containers: count }));
        (self.listed_at, self.list_failure) = (now, None);
        self.phase = Phase::Following { next_sync: now + self.settings.docker.resync_interval };
        if first {
            // Reset only now, not on connect: a daemon that accepts and then fails must not be hammered.
            self.failures = 0;
            self.lost_at = None;
            self.withheld = false;
        }
        if let Some(why) = self.what_is_missing(now).filter(|_| !self.is_up) {
            out.push(Action::Note(Note::StillDown(why)));
        }
    }

    /// Notes when the daemon becomes followed, or no longer is.
    fn judge_coverage(&mut self, now: Instant, out: &mut Vec<Action>) {
        if !self.is_following() {
            return;
        }
        match self.what_is_missing(now) {
            None if !self.is_up => {
                self.is_up = true;
                out.push(Action::Note(Note::Up));
            }
            Some(why) if self.is_up => {
                self.is_up = false;
                out.push(Action::Note(Note::Down(why)));
            }
            _ => {}
        }
    }

    /// Why the daemon is not followed although its stream is open and a list has come.
    fn what_is_missing(&self, now: Instant) -> Option<String> {
        if !self.coverage.is_enough() {
            return Some(self.coverage.shortfall());
        }
        let config::Docker { resync_interval, stale_after, .. } = self.settings.docker;
        let overdue = now >= self.listed_at + resync_interval + stale_after;
        let why = self.list_failure.as_ref().filter(|_| overdue)?;
        Some(format!("no list for {:?}: {why}", now - self.listed_at))
    }

    /// Back to waiting. The known state is kept, and shown until it is stale.
    fn fail(&mut self, now: Instant, why: String, out: &mut Vec<Action>) {
        out.push(Action::Close);
        if !self.is_listening() {
            self.continuity.unreachable();
        } else if self.continuity.lost() {
            out.push(Action::Note(Note::Gap));
        }
        self.tracks.clear();
        self.urgent.clear();
        self.routine.clear();
        self.under_way.clear();
        self.retries.clear();
        self.unanswered.clear();
        self.delayed.clear();
        self.sync = None;
        self.ping_under_way = false;
        self.lost_at.get_or_insert(self.alive_at);
        let was_up = std::mem::take(&mut self.is_up);
        out.push(Action::Note(if was_up { Note::Down(why) } else { Note::StillDown(why) }));
        let longest = Self::doubled(FIRST_BACKOFF, self.failures, self.settings.longest_backoff);
        self.failures = self.failures.saturating_add(1);
        // Jittered, so that many exporters of one daemon do not reconnect at the same time.
        self.phase = Phase::Waiting { until: now + longest.mul_f64(0.5 + self.random.f64() / 2.0) };
    }

    fn start_inspects(&mut self, now: Instant, out: &mut Vec<Action>) {
        loop {
            if self.urgent.is_empty() && self.routine.is_empty() || !self.has_room(now) {
                return;
            }
            self.turn = (self.turn + 1) % ROUTINE_TURN;
            let (first, second) = match self.turn {
                0 => (&mut self.routine, &mut self.urgent),
                _ => (&mut self.urgent, &mut self.routine),
            };
            let Some(id) = first.pop_front().or_else(|| second.pop_front()) else { return };
            // The id may be in both queues, or forgotten since.
            let Some(track) = self.tracks.get_mut(&id).filter(|track| track.queued != Queued::No) else {
                continue;
            };
            track.queued = Queued::No;
            track.answering = track.mark.take();
            if let Some(at) = track.retry_at.take() {
                self.retries.remove(&(at, Text::clone(&id)));
            }
            if track.asked_at.is_none() {
                track.asked_at = Some(now);
                self.unanswered.insert((now, Text::clone(&id)));
            }
            self.under_way.insert(Text::clone(&id), now);
            out.push(Action::Inspect(id));
        }
    }

    fn has_room(&self, now: Instant) -> bool {
        let concurrency = self.settings.docker.inspect_concurrency;
        if self.under_way.len() < concurrency {
            return true;
        }
        let quick =
            self.under_way.values().filter(|began| now.saturating_duration_since(**began) < SLOW_INSPECT);
        self.under_way.len() < self.most_inspects() && quick.count() < concurrency
    }

    fn most_inspects(&self) -> usize {
        self.settings.docker.inspect_concurrency.saturating_mul(MOST_INSPECTS)
    }

    /// Queues a container, unless it is in an equal or more urgent queue, or its inspect is running: after that one, a
    /// new mark leads to another.
    fn queue(
        queue: &mut VecDeque<Text>,
        queued: Queued,
        under_way: &HashMap<Text, Instant>,
        track: &mut Track,
        id: &Text,
    ) {
        if under_way.contains_key(id) || track.queued == Queued::Urgent || track.queued == queued {
            return;
        }
        track.queued = queued;
        queue.push_back(Text::clone(id));
    }

    /// Often enough to notice a daemon that has stopped answering before anything is stale.
    fn ping_interval(&self) -> Duration {
        (self.settings.docker.stale_after / 5).clamp(Duration::from_millis(100), Duration::from_secs(5))
    }

    fn sweep_interval(&self) -> Duration {
        (self.settings.events.retention / 10).clamp(Duration::from_millis(100), Duration::from_secs(10))
    }

    fn doubled(first: Duration, times: u32, longest: Duration) -> Duration {
        first.saturating_mul(1u32.checked_shl(times).unwrap_or(u32::MAX)).min(longest)
    }
}

#[cfg(test)]
mod tests;
