//! The watcher step by step, on a clock that only the tests move. `random.rs` simulates a whole daemon.

mod random;

use std::collections::BTreeMap;

use super::*;
use crate::docker::delayed::DELAY;
use crate::inventory::{EventIdentity, Health, Status};

/// A watcher, and the inventory that results from its changes.
struct Harness {
    watcher: Watcher,
    began: Instant,
    at: Duration,
    /// What is known of containers, by id.
    known: BTreeMap<String, Arc<Container>>,
    /// Whether the containers are shown.
    visible: bool,
    counts: BTreeMap<(String, String), u64>,
    under_way: HashSet<Text>,
    notes: Vec<Note>,
    /// Whether an inspect may be asked for.
    listening: bool,
    /// How far the daemon's clock is ahead of ours, and whether its answers tell.
    ahead: i64,
    is_dated: bool,
}

fn settings() -> Settings {
    Settings {
        docker: config::Docker::default(),
        events: config::Events::default(),
        names: Filter::all(),
        longest_backoff: Duration::from_millis(500),
        is_local: true,
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const SECOND: Duration = Duration::from_secs(1);

/// The wall clock at the beginning.
fn wall(after: Duration) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000) + after
}

/// The time by a clock that is `ahead` seconds ahead.
fn daemon_time(after: Duration, ahead: i64) -> SystemTime {
    let seconds = Duration::from_secs(ahead.unsigned_abs());
    if ahead < 0 { wall(after) - seconds } else { wall(after) + seconds }
}

fn entry(id: &str, name: &str) -> ListEntry {
    let summary = Container { is_inspected: false, ..Container::sample(id, name) };
    ListEntry { id: id.into(), name: name.into(), summary: Arc::new(summary) }
}

/// An event of a container at a time after the beginning.
fn event(action: &str, id: &str, name: &str, at: Duration) -> Event {
    Event {
        run: None,
        is_log_rotation: false,
        kind: "container".into(),
        action: action.into(),
        actor: id.into(),
        time: Some(wall(at)),
        identity: Arc::new(EventIdentity { name: Some(name.into()), ..EventIdentity::default() }),
        early: false,
        concerns: None,
        failed: false,
    }
}

fn found(container: Container) -> Input {
    Input::Inspected { id: Text::clone(&container.id), outcome: Outcome::Found(Arc::new(container)) }
}

fn gone(id: &str) -> Input {
    Input::Inspected { id: id.into(), outcome: Outcome::Gone }
}

fn failed(id: &str) -> Input {
    Input::Inspected { id: id.into(), outcome: Outcome::Failed("no".into()) }
}

impl Harness {
    fn new(settings: Settings) -> Self {
        let began = Instant::now();
        Self {
            watcher: Watcher::new(settings, began),
            began,
            at: Duration::ZERO,
            known: BTreeMap::new(),
            visible: false,
            counts: BTreeMap::new(),
            under_way: HashSet::new(),
            notes: Vec::new(),
            listening: false,
            ahead: 0,
            is_dated: true,
        }
    }

    /// The time in the daemon's answers, in whole seconds.
    fn clock(&self) -> Option<SystemTime> {
        let exact = daemon_time(self.at, self.ahead).duration_since(SystemTime::UNIX_EPOCH).unwrap();
        self.is_dated.then_some(SystemTime::UNIX_EPOCH + Duration::from_secs(exact.as_secs()))
    }

    /// A harness whose watcher follows a daemon with these containers, each named like its id.
    fn following(settings: Settings, ids: &[&str]) -> Self {
        let mut h = Self::new(settings);
        h.reconnect(ids);
        h.notes.clear();
        h
    }

    /// One step now. Checks the invariants, applies the changes, and returns the other actions.
    #[track_caller]
    fn step(&mut self, input: Input) -> Vec<Action> {
        let now = self.began + self.at;
        let mut out = Vec::new();
        match &input {
            Input::Inspected { id, .. } => drop(self.under_way.remove(id)),
            Input::StreamOpened(Ok(())) => self.listening = true,
            _ => {}
        }
        self.watcher.step(now, wall(self.at), input, &mut out);
        let mut others = Vec::new();
        for action in out {
            match action {
                Action::Change(change) => self.change(change),
                Action::Note(note) => self.notes.push(note),
                Action::Close => {
                    self.listening = false;
                    self.under_way.clear();
                    others.push(Action::Close);
                }
                Action::Inspect(id) => {
                    assert!(self.listening, "{id} is inspected while the stream is not open");
                    assert!(self.under_way.insert(Text::clone(&id)), "{id} is inspected twice at once");
                    others.push(Action::Inspect(id));
                }
                action => others.push(action),
            }
        }
        let most = self.watcher.settings.docker.inspect_concurrency * MOST_INSPECTS;
        assert!(self.under_way.len() <= most, "{} inspects at once", self.under_way.len());
        assert!(self.watcher.deadline() > now, "it would spin: {:?}", self.watcher);
        others
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::Replace { containers, keep } => {
                let before = std::mem::take(&mut self.known);
                for container in containers {
                    let id = container.id.to_string();
                    let known = before.get(&id).filter(|known| known.agrees_with(&container));
                    let shown = known.filter(|_| !container.is_inspected).cloned().unwrap_or(container);
                    self.known.insert(id, shown);
                }
                for id in keep {
                    if let Some(container) = before.get(&*id) {
                        self.known.entry(id.to_string()).or_insert_with(|| Arc::clone(container));
                    }
                }
                self.visible = true;
            }
            Change::Upsert(container) => {
                self.known.insert(container.id.to_string(), container);
            }
            Change::Remove(id) => {
                self.known.remove(&*id);
            }
            Change::Count(labels, _) => {
                let name = labels.identity.name.as_deref().unwrap_or_default().to_owned();
                *self.counts.entry((labels.event.to_string(), name)).or_default() += 1;
            }
            Change::Withhold => self.visible = false,
            Change::Run(_) | Change::Destroyed(_) | Change::Sweep => {}
        }
    }

    /// Lets time pass, with a tick at each deadline and one at the end.
    #[track_caller]
    fn pass(&mut self, time: Duration) -> Vec<Action> {
        let end = self.at + time;
        let mut actions = Vec::new();
        loop {
            let next = self.watcher.deadline() - self.began;
            self.at = next.min(end);
            actions.extend(self.step(Input::Tick));
            if self.at == end {
                return actions;
            }
        }
    }

    /// Lets time pass while the daemon answers each ping.
    #[track_caller]
    fn pass_alive(&mut self, time: Duration) -> Vec<Action> {
        let end = self.at + time;
        let mut actions = Vec::new();
        while self.at < end {
            let next = self.watcher.deadline() - self.began;
            for action in self.pass(next.min(end).saturating_sub(self.at)) {
                if action == Action::Ping {
                    actions.extend(self.step(Input::Ponged(Ok(()))));
                } else {
                    actions.push(action);
                }
            }
        }
        actions
    }

    #[track_caller]
    fn events<const N: usize>(&mut self, events: [Event; N]) -> Vec<Action> {
        self.step(Input::Events(events.into()))
    }

    /// From any state to a newly opened stream. Returns the stream's `since`.
    #[track_caller]
    fn open(&mut self) -> Option<SystemTime> {
        while self.pass(millis(10)) != [Action::Connect] {
            assert!(self.at < Duration::from_secs(10_000), "no connect");
        }
        let [Action::OpenStream { since }] = self.step(Input::Connected(Ok(self.clock())))[..] else {
            panic!("no stream is asked for")
        };
        assert_eq!(self.step(Input::StreamOpened(Ok(()))), [Action::List]);
        since
    }

    /// From any state to following, with a whole list of these containers.
    #[track_caller]
    fn reconnect(&mut self, ids: &[&str]) -> Option<SystemTime> {
        let since = self.open();
        self.list(ids);
        assert_eq!(self.ids(), if self.visible { ids.to_vec() } else { vec![] });
        since
    }

    /// Answers the list that was asked for, and its inspects.
    #[track_caller]
    fn list(&mut self, ids: &[&str]) {
        let mut actions = self.step(Input::Listed(Ok(ids.iter().map(|id| entry(id, id)).collect())));
        while let Some(action) = actions.pop() {
            let Action::Inspect(id) = action else { panic!("{action:?}") };
            actions.extend(self.step(found(Container::sample(&id, &id))));
        }
    }

    /// What is shown.
    fn ids(&self) -> Vec<&str> {
        if self.visible { self.known.keys().map(String::as_str).collect() } else { Vec::new() }
    }

    fn noted(&self, which: impl Fn(&Note) -> bool) -> usize {
        self.notes.iter().filter(|note| which(note)).count()
    }

    fn gaps(&self) -> usize {
        self.noted(|note| *note == Note::Gap)
    }

    fn downs(&self) -> usize {
        self.noted(|note| matches!(note, Note::Down(_)))
    }

    /// Asserts that no finished work is kept.
    #[track_caller]
    fn assert_at_rest(&self) {
        let w = &self.watcher;
        assert!(w.tracks.is_empty(), "{:?}", w.tracks);
        assert!(w.urgent.is_empty() && w.routine.is_empty(), "{:?} {:?}", w.urgent, w.routine);
        assert!(w.under_way.is_empty() && w.retries.is_empty() && w.unanswered.is_empty(), "{w:?}");
        assert!(w.delayed.deadline().is_none(), "{w:?}");
        assert!(w.sync.is_none() && w.continuity.is_at_rest(), "{w:?}");
    }
}

fn inspects(ids: &[&str]) -> Vec<Action> {
    ids.iter().map(|id| Action::Inspect((*id).into())).collect()
}

#[test]
fn it_connects_opens_the_stream_lists_and_follows() {
    let mut h = Harness::new(settings());
    assert_eq!(h.step(Input::Tick), [Action::Connect]);
    let since = Some(wall(Duration::ZERO));
    assert_eq!(h.step(Input::Connected(Ok(None))), [Action::OpenStream { since }]);
    assert_eq!(h.step(Input::StreamOpened(Ok(()))), [Action::List]);
    assert_eq!(h.step(Input::Listed(Ok(vec![entry("a", "web"), entry("b", "db")]))), inspects(&["a", "b"]));
    assert_eq!(h.step(found(Container::sample("a", "web"))), []);
    assert!(h.known.is_empty(), "half a list is seen");
    assert_eq!(h.noted(|n| *n == Note::Up), 0);
    assert_eq!(h.step(found(Container::sample("b", "db"))), []);
    assert_eq!(h.ids(), ["a", "b"]);
    assert_eq!(h.noted(|n| *n == Note::Up), 1);
    assert_eq!(h.noted(|n| *n == Note::Synced { containers: 2 }), 1);
    h.assert_at_rest();
}

#[test]
fn an_empty_daemon_is_followed_too() {
    let mut h = Harness::new(settings());
    h.reconnect(&[]);
    assert!(h.visible && h.noted(|n| *n == Note::Up) == 1);
}

#[test]
fn on_another_clock_the_first_stream_repeats_nothing() {
    let mut h = Harness::new(Settings { is_local: false, ..settings() });
    assert_eq!(h.open(), None);
}

#[test]
fn the_list_is_taken_again_at_each_interval_and_swapped_in_whole() {
    let mut h = Harness::following(settings(), &["a", "b"]);
    assert_eq!(h.pass_alive(h.watcher.settings.docker.resync_interval - millis(1)), []);
    assert_eq!(h.pass_alive(millis(1)), [Action::List]);
    assert_eq!(h.step(Input::Listed(Ok(vec![entry("b", "b"), entry("c", "c")]))), inspects(&["b", "c"]));
    h.step(found(Container::sample("c", "c")));
    assert_eq!(h.ids(), ["a", "b"]);
    h.step(found(Container::sample("b", "b")));
    assert_eq!(h.ids(), ["b", "c"]);
}

#[test]
fn what_an_event_touches_during_a_list_is_inspected_again() {
    let mut h = Harness::new(settings());
    h.open();
    h.step(Input::Listed(Ok(vec![entry("a", "a"), entry("b", "b")])));
    assert_eq!(h.events([event("pause", "a", "a", SECOND)]), []);
    assert_eq!(h.step(found(Container::sample("a", "a"))), inspects(&["a"]));
    h.step(found(Container::sample("b", "b")));
    assert_eq!(h.ids(), ["a", "b"], "the list waits for nothing but its own inspects");
    h.step(found(Container { status: Status::Paused, ..Container::sample("a", "a") }));
    assert_eq!(h.known["a"].status, Status::Paused);
    h.assert_at_rest();
}

#[test]
fn what_is_created_during_a_list_is_not_lost_by_it() {
    let mut h = Harness::new(settings());
    h.open();
    assert_eq!(h.events([event("create", "c", "c", SECOND)]), inspects(&["c"]));
    h.step(found(Container::sample("c", "c")));
    h.list(&["a"]);
    assert_eq!(h.ids(), ["a", "c"]);
    h.pass_alive(h.watcher.settings.docker.resync_interval);
    h.step(Input::Listed(Ok(vec![entry("a", "a"), entry("c", "c")])));
    assert_eq!(h.events([event("create", "d", "d", SECOND)]), inspects(&["d"]));
    h.step(found(Container::sample("a", "a")));
    h.step(found(Container::sample("c", "c")));
    assert_eq!(h.ids(), ["a", "c"]);
    h.step(found(Container::sample("d", "d")));
    assert_eq!(h.ids(), ["a", "c", "d"]);
}

#[test]
fn what_is_destroyed_never_comes_back() {
    // After the list was asked for, and before it came.
    let mut h = Harness::new(settings());
    h.open();
    h.events([event("destroy", "a", "a", SECOND)]);
    h.list(&["a", "b"]);
    assert_eq!(h.under_way.len(), 0);
    assert_eq!(h.ids(), ["b"]);
    h.assert_at_rest();

    // While it is being inspected for the list, or for an event.
    let mut h = Harness::new(settings());
    h.open();
    h.step(Input::Listed(Ok(vec![entry("a", "a"), entry("b", "b")])));
    h.events([event("destroy", "a", "a", SECOND)]);
    h.step(found(Container::sample("b", "b")));
    assert_eq!(h.ids(), ["b"]);
    h.step(found(Container::sample("a", "a")));
    assert_eq!(h.ids(), ["b"]);
    h.events([event("die", "b", "b", 2 * SECOND), event("destroy", "b", "b", 3 * SECOND)]);
    h.step(found(Container::sample("b", "b")));
    assert!(h.ids().is_empty());
    h.assert_at_rest();

    // After it was inspected for a list that is not whole.
    let mut h = Harness::following(settings(), &["a", "b"]);
    h.pass_alive(h.watcher.settings.docker.resync_interval);
    h.step(Input::Listed(Ok(vec![entry("a", "a"), entry("b", "b")])));
    h.step(found(Container::sample("a", "a")));
    h.events([event("destroy", "a", "a", SECOND)]);
    h.step(found(Container::sample("b", "b")));
    assert_eq!(h.ids(), ["b"]);
    h.assert_at_rest();
}

#[test]
fn a_list_whose_last_container_is_destroyed_is_whole() {
    let mut h = Harness::new(settings());
    h.open();
    h.step(Input::Listed(Ok(vec![entry("a", "a")])));
    h.events([event("destroy", "a", "a", SECOND)]);
    assert!(h.visible && h.ids().is_empty());
    h.step(failed("a"));
    h.assert_at_rest();
}

#[test]
fn marks_of_one_container_are_one() {
    let mut h = Harness::following(settings(), &["a"]);
    assert_eq!(h.events([event("start", "a", "a", SECOND)]), inspects(&["a"]));
    for n in 0..100 {
        assert_eq!(h.events([event("pause", "a", "a", SECOND + millis(n))]), []);
    }
    assert_eq!(h.step(found(Container::sample("a", "a"))), inspects(&["a"]));
    assert_eq!(h.step(found(Container::sample("a", "a"))), []);
    assert_eq!(h.counts[&("pause".into(), "a".into())], 100);
    // Timed from the first event that each inspect answers.
    let applied: Vec<_> =
        h.notes.iter().filter_map(|n| if let Note::Applied(t) = n { Some(*t) } else { None }).collect();
    assert_eq!(applied, [wall(SECOND), wall(SECOND)]);
    h.assert_at_rest();
}

#[test]
fn exec_events_cost_no_inspect() {
    let mut h = Harness::following(settings(), &["a"]);
    for n in 0..10_000 {
        let action = ["exec_create: sh", "exec_start: sh", "exec_die"][n as usize % 3];
        assert_eq!(h.events([event(action, "a", "a", SECOND + millis(n))]), []);
    }
    assert_eq!(h.counts[&("exec_start: sh".into(), "a".into())], 3333);
    assert_eq!(h.counts[&("exec_die".into(), "a".into())], 3333);
    assert!(!h.counts.contains_key(&("exec_create: sh".into(), "a".into())));
    h.assert_at_rest();
}

#[test]
fn inspects_are_bounded_and_slow_ones_do_not_hold_up_others() {
    let ids: Vec<String> = (0..100).map(|n| format!("a{n:02}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let mut h = Harness::following(settings(), &ids);
    let concurrency = h.watcher.settings.docker.inspect_concurrency;
    let events = ids.iter().map(|id| event("pause", id, id, SECOND)).collect();
    assert_eq!(h.step(Input::Events(events)), inspects(&ids[..concurrency]));
    assert_eq!(h.pass(SLOW_INSPECT - millis(1)), []);
    // These do not answer. The next ones run beside them, and each answer makes room.
    assert_eq!(h.pass(millis(1)), inspects(&ids[concurrency..2 * concurrency]));
    assert_eq!(
        h.step(found(Container::sample(ids[concurrency], ids[concurrency]))),
        inspects(&ids[2 * concurrency..][..1])
    );
    h.pass(SLOW_INSPECT);
    h.pass(SLOW_INSPECT);
    assert_eq!(h.under_way.len(), MOST_INSPECTS * concurrency);
    assert_eq!(h.pass(SECOND), [], "more than the most");
    let mut next = Some(Text::from(ids[0]));
    while let Some(id) = next {
        h.step(found(Container::sample(&id, &id)));
        next = h.under_way.iter().next().cloned();
    }
    h.assert_at_rest();
}

#[test]
fn an_event_overtakes_what_only_a_list_asks_for() {
    let ids: Vec<String> = (0..1000).map(|n| format!("a{n:03}")).collect();
    let mut h = Harness::new(settings());
    h.open();
    h.step(Input::Listed(Ok(ids.iter().map(|id| entry(id, id)).collect())));
    h.events([event("pause", "a999", "a999", SECOND)]);
    let mut asked = h.step(found(Container::sample("a000", "a000")));
    asked.extend(h.step(found(Container::sample("a001", "a001"))));
    assert!(asked.contains(&Action::Inspect("a999".into())), "{asked:?}");
}

#[test]
fn events_without_end_do_not_keep_a_list_from_ending() {
    let mut h = Harness::new(Settings {
        docker: config::Docker { inspect_concurrency: 1, ..config::Docker::default() },
        ..settings()
    });
    h.open();
    let mut actions = h.step(Input::Listed(Ok((0..100).map(|n| entry(&format!("a{n}"), "")).collect())));
    for n in 0..2_000 {
        actions.extend(h.events([event("pause", &format!("b{}", n % 7), "b", millis(n))]));
        let Some(Action::Inspect(id)) = actions.pop() else { panic!("nothing is inspected") };
        actions.extend(h.step(found(Container::sample(&id, &id))));
    }
    assert!(h.visible);
}

#[test]
fn a_failed_inspect_is_tried_again_less_and_less_often() {
    let mut h = Harness::following(settings(), &["a", "b"]);
    h.events([event("pause", "a", "a", SECOND)]);
    h.step(failed("a"));
    let mut waits = Vec::new();
    let mut since = h.at;
    while h.at < Duration::from_secs(100) {
        if h.pass_alive(millis(100)).contains(&Action::Inspect("a".into())) {
            waits.push((h.at - since).as_millis());
            since = h.at;
            h.step(failed("a"));
        }
        if h.at == Duration::from_secs(60) {
            h.list(&["b"]);
            break;
        }
    }
    assert_eq!(waits[..5], [500, 1000, 2000, 4000, 8000]);
    assert_eq!(h.noted(|n| matches!(n, Note::InspectFailed { first: true, .. })), 1);
}

#[test]
fn what_cannot_be_inspected_is_kept_until_it_is_stale_and_costs_no_other() {
    let mut h = Harness::following(settings(), &["a", "b"]);
    h.events([event("pause", "a", "a", SECOND), event("pause", "b", "b", SECOND)]);
    h.step(failed("a"));
    h.step(found(Container::sample("b", "b")));
    let stale_after = h.watcher.settings.docker.stale_after;
    let asked = h.at;
    while h.at < asked + stale_after - millis(1) {
        for action in h.pass_alive(millis(1)) {
            assert_eq!(action, Action::Inspect("a".into()));
            h.step(failed("a"));
        }
        assert_eq!(h.ids(), ["a", "b"]);
    }
    h.pass_alive(millis(1));
    assert_eq!(h.ids(), ["b"]);
    // A list shows only its state, an inspect everything.
    while !h.pass_alive(millis(100)).contains(&Action::List) {
        if h.under_way.contains("a") {
            h.step(failed("a"));
        }
    }
    h.step(Input::Listed(Ok(vec![entry("a", "a"), entry("b", "b")])));
    h.step(failed("a"));
    h.step(found(Container::sample("b", "b")));
    assert_eq!(h.ids(), ["a", "b"]);
    assert!(!h.known["a"].is_inspected);
    while !h.under_way.contains("a") {
        h.pass_alive(millis(100));
    }
    h.step(found(Container::sample("a", "a")));
    assert_eq!(h.ids(), ["a", "b"]);
    assert!(h.known["a"].is_inspected);
    h.pass_alive(5 * SECOND);
    assert_eq!((h.gaps(), h.downs()), (0, 0));
    h.assert_at_rest();
}

#[test]
fn what_never_answers_is_not_shown_beyond_stale_after_either() {
    let mut h = Harness::following(
        Settings {
            docker: config::Docker { timeout: 60 * SECOND, ..config::Docker::default() },
            ..settings()
        },
        &["a"],
    );
    h.events([event("pause", "a", "a", SECOND)]);
    h.pass_alive(h.watcher.settings.docker.stale_after - millis(1));
    assert_eq!(h.ids(), ["a"]);
    h.pass_alive(millis(1));
    assert!(h.visible && h.ids().is_empty());
    h.step(found(Container::sample("a", "a")));
    assert_eq!(h.ids(), ["a"]);
    h.assert_at_rest();
}

#[test]
fn a_new_event_tries_a_failing_container_at_once() {
    let mut h = Harness::following(settings(), &["a"]);
    h.events([event("pause", "a", "a", SECOND)]);
    assert_eq!(h.step(failed("a")), []);
    assert_eq!(h.events([event("unpause", "a", "a", 2 * SECOND)]), inspects(&["a"]));
    h.step(found(Container::sample("a", "a")));
    // The effect is timed from the first of the two events.
    assert_eq!(h.noted(|n| *n == Note::Applied(wall(SECOND))), 1);
    h.assert_at_rest();
}

#[test]
fn a_container_that_is_not_found_is_gone() {
    let mut h = Harness::following(settings(), &["a", "b"]);
    h.events([event("die", "a", "a", SECOND)]);
    h.step(gone("a"));
    assert_eq!(h.ids(), ["b"]);
    h.assert_at_rest();
    let mut h = Harness::new(settings());
    h.open();
    h.step(Input::Listed(Ok(vec![entry("a", "a"), entry("b", "b")])));
    h.step(gone("a"));
    h.step(found(Container::sample("b", "b")));
    assert_eq!(h.ids(), ["b"]);
    assert_eq!(h.noted(|n| *n == Note::InspectGone), 1);
    h.assert_at_rest();
}

#[test]
fn a_list_does_not_wait_for_one_that_hangs() {
    let mut h = Harness::following(settings(), &["a", "b", "c"]);
    h.step(Input::StreamEnded("cut".into()));
    h.open();
    h.step(Input::Listed(Ok(["a", "b", "c", "d"].map(|id| entry(id, id)).into())));
    for id in ["b", "c"] {
        h.step(found(Container { exit_code: 7, ..Container::sample(id, id) }));
    }
    h.pass_alive(LAGGARD - millis(1));
    assert_eq!(h.noted(|n| *n == Note::Up), 0);
    h.pass_alive(millis(1));
    assert_eq!(h.noted(|n| *n == Note::Up), 1);
    // `a` was known before; of `d` only the list tells.
    assert_eq!(h.ids(), ["a", "b", "c", "d"]);
    assert!(h.known["a"].is_inspected && !h.known["d"].is_inspected);
    assert_eq!((h.known["a"].exit_code, h.known["b"].exit_code), (0, 7));
    h.step(found(Container { exit_code: 7, ..Container::sample("a", "a") }));
    h.step(found(Container::sample("d", "d")));
    assert_eq!(h.ids(), ["a", "b", "c", "d"]);
    assert_eq!(h.known["a"].exit_code, 7);
    h.pass_alive(5 * SECOND);
    assert_eq!(h.downs(), 1);
    h.assert_at_rest();
}

#[test]
fn a_daemon_that_is_slow_as_a_whole_is_waited_for() {
    let mut h = Harness::new(settings());
    h.open();
    h.step(Input::Listed(Ok(["a", "b", "c"].map(|id| entry(id, id)).into())));
    h.step(found(Container::sample("a", "a")));
    h.pass_alive(4 * SECOND);
    assert!(!h.visible);
    h.step(found(Container::sample("b", "b")));
    h.pass_alive(millis(1));
    assert_eq!(h.ids(), ["a", "b", "c"]);
    assert!(!h.known["c"].is_inspected);
}

/// Follows a daemon with these containers, of which the first `failing` cannot be inspected.
fn covering(ids: &[&str], failing: usize) -> Harness {
    let mut h = Harness::new(settings());
    h.open();
    h.step(Input::Listed(Ok(ids.iter().map(|id| entry(id, id)).collect())));
    for (n, id) in ids.iter().enumerate() {
        h.step(if n < failing { failed(id) } else { found(Container::sample(id, id)) });
    }
    h
}

#[test]
fn one_container_that_cannot_be_inspected_is_no_alarm_and_all_of_them_are() {
    let ids = ["a", "b", "c", "d", "e"];
    let h = covering(&ids, 1);
    assert_eq!((h.noted(|n| *n == Note::Up), h.ids()), (1, ids.to_vec()));
    let mut h = covering(&ids, 5);
    let why = "5 of 5 containers cannot be inspected: no";
    assert_eq!(h.noted(|n| *n == Note::Up), 0);
    assert_eq!(h.noted(|n| *n == Note::StillDown(why.into())), 1);
    // The list has told their states.
    assert_eq!(h.ids(), ids);
    // It is up as soon as enough of them answer.
    h.pass_alive(millis(500));
    for id in &ids[..3] {
        assert_eq!(h.noted(|n| *n == Note::Up), 0);
        h.step(found(Container::sample(id, id)));
    }
    assert_eq!(h.noted(|n| *n == Note::Up), 1);
}

#[test]
fn what_can_no_longer_be_inspected_is_no_longer_followed() {
    let mut h = Harness::following(settings(), &["a", "b", "c"]);
    h.events(["a", "b", "c"].map(|id| event("pause", id, id, SECOND)));
    for id in ["a", "b", "c"] {
        h.step(failed(id));
    }
    assert_eq!(h.downs(), 0, "each has failed once, and is tried again at once");
    h.pass_alive(millis(500));
    for id in ["a", "b"] {
        assert_eq!(h.downs(), 0);
        h.step(failed(id));
    }
    assert_eq!(h.noted(|n| *n == Note::Down("2 of 3 containers cannot be inspected: no".into())), 1);
    h.step(found(Container::sample("c", "c")));
    // A container that is gone does not count as missing.
    h.events([event("destroy", "a", "a", 2 * SECOND)]);
    assert_eq!(h.noted(|n| *n == Note::Up), 1);
    // An outage meanwhile is noted once.
    h.events([event("pause", "c", "c", 3 * SECOND)]);
    h.step(failed("c"));
    h.pass_alive(millis(500));
    h.step(failed("c"));
    h.step(Input::StreamEnded("cut".into()));
    assert_eq!(h.downs(), 2);
    h.reconnect(&["b", "c"]);
    assert_eq!(h.noted(|n| *n == Note::Up), 2);
    h.pass_alive(2 * SECOND);
    h.assert_at_rest();
}

#[test]
fn what_the_list_says_is_shown_until_an_event_says_that_it_may_be_wrong() {
    let stale_after = settings().docker.stale_after;
    let mut h = covering(&["a", "b", "c"], 1);
    let silent = |h: &mut Harness, time: Duration| {
        let end = h.at + time;
        while h.at < end {
            for action in h.pass_alive(millis(100)) {
                if action == Action::Inspect("a".into()) {
                    h.step(failed("a"));
                }
            }
        }
    };
    silent(&mut h, stale_after + SECOND);
    assert_eq!(h.ids(), ["a", "b", "c"]);
    h.events([event("die", "a", "a", h.at)]);
    h.step(failed("a"));
    silent(&mut h, stale_after - SECOND);
    assert_eq!(h.ids(), ["a", "b", "c"]);
    silent(&mut h, 2 * SECOND);
    assert_eq!(h.ids(), ["b", "c"]);
}

#[test]
fn a_list_that_contradicts_what_is_known_is_right() {
    let mut h = Harness::following(settings(), &["a", "b"]);
    h.pass_alive(h.watcher.settings.docker.resync_interval);
    let dead = Container { status: Status::Dead, is_inspected: false, ..Container::sample("a", "a") };
    let listed = ListEntry { summary: Arc::new(dead), ..entry("a", "a") };
    h.step(Input::Listed(Ok(vec![listed, entry("b", "b")])));
    h.step(failed("a"));
    h.step(failed("b"));
    assert_eq!(h.known["a"].status, Status::Dead);
    assert!(h.known["b"].is_inspected, "the list does not contradict it");
}

#[test]
fn a_list_that_does_not_come_for_long_is_told() {
    let mut h = Harness::following(settings(), &["a"]);
    let config::Docker { resync_interval, stale_after, .. } = h.watcher.settings.docker;
    while h.at < resync_interval + stale_after + 5 * SECOND {
        for action in h.pass_alive(millis(100)) {
            assert_eq!(action, Action::List);
            h.step(Input::Listed(Err("403".into())));
        }
        if h.at < resync_interval + stale_after {
            assert_eq!(h.downs(), 0);
        }
    }
    assert_eq!(
        h.noted(|n| matches!(n, Note::Down(why) if why.contains("no list for") && why.ends_with("403"))),
        1
    );
    while h.pass_alive(millis(100)) != [Action::List] {}
    h.list(&["a"]);
    assert_eq!(h.noted(|n| *n == Note::Up), 1);
}

#[test]
fn a_daemon_that_is_silent_is_pinged_and_given_up_when_it_does_not_answer() {
    let mut h = Harness::following(settings(), &["a"]);
    let interval = h.watcher.ping_interval();
    for _ in 0..20 {
        assert_eq!(h.pass(interval), [Action::Ping]);
        assert_eq!(h.step(Input::Ponged(Ok(()))), []);
    }
    let alive = h.at;
    assert_eq!(h.pass(interval), [Action::Ping]);
    assert_eq!(h.pass(4 * SECOND), [], "a second ping before the first is answered");
    assert_eq!(h.step(Input::Ponged(Err("late".into()))), [Action::Close]);
    assert_eq!(h.downs(), 1);
    assert_eq!(h.ids(), ["a"]);
    // Counted from the last sign of life, not from when its absence was noticed.
    let stale_after = h.watcher.settings.docker.stale_after;
    let mut tries = h.pass(alive + stale_after - h.at - millis(1));
    assert_eq!(h.ids(), ["a"]);
    tries.extend(h.pass(millis(1)));
    assert!(!h.visible);
    assert_eq!(tries, [Action::Connect]);
    h.step(Input::Connected(Err("refused".into())));
    h.reconnect(&["a", "b"]);
    assert_eq!(h.ids(), ["a", "b"]);
}

#[test]
fn a_daemon_that_comes_back_in_time_is_never_withheld() {
    let mut h = Harness::following(settings(), &["a"]);
    h.step(Input::StreamEnded("restarted".into()));
    for _ in 0..10 {
        while h.pass(millis(10)) != [Action::Connect] {}
        h.step(Input::Connected(Err("refused".into())));
        assert_eq!(h.ids(), ["a"]);
    }
    h.reconnect(&["a"]);
    assert!(h.at < h.watcher.settings.docker.stale_after);
    h.pass_alive(20 * SECOND);
    assert_eq!(h.ids(), ["a"]);
}

#[test]
fn events_are_a_sign_of_life() {
    let mut h = Harness::following(settings(), &["a"]);
    h.pass_alive(SECOND);
    h.events([event("exec_die", "a", "a", SECOND)]);
    let last = h.at;
    h.step(Input::StreamEnded("cut".into()));
    h.pass(h.watcher.settings.docker.stale_after - millis(1));
    assert!(h.visible);
    h.pass(millis(1));
    assert!(!h.visible && h.at == last + h.watcher.settings.docker.stale_after);
}

/// The time from a failure to the next try.
fn wait(h: &mut Harness) -> Duration {
    let failed = h.at;
    while h.pass(millis(1)) != [Action::Connect] {}
    h.at - failed
}

#[test]
fn backoff_grows_is_jittered_and_begins_anew_only_after_a_whole_list() {
    let mut h = Harness::new(settings());
    h.step(Input::Tick);
    let mut waits = Vec::new();
    for n in 0..10 {
        // Wherever the attempt fails: a daemon that accepts and then fails is not hammered.
        if n % 3 > 0 {
            h.step(Input::Connected(Ok(None)));
        }
        if n % 3 == 2 {
            h.step(Input::StreamOpened(Ok(())));
            h.step(Input::Listed(Err("broke off".into())));
        } else {
            h.step(Input::Broken("it fails".into()));
        }
        waits.push(wait(&mut h));
    }
    for (n, wait) in waits.iter().enumerate() {
        let longest = millis((50 << n).min(500));
        assert!(*wait >= longest / 2 && *wait <= longest + millis(1), "{n}: {wait:?}");
    }
    let steps: HashSet<_> = waits[5..].iter().collect();
    assert!(steps.len() > 1, "no jitter: {waits:?}");
    h.step(Input::Connected(Ok(None)));
    h.step(Input::StreamOpened(Ok(())));
    h.list(&["a"]);
    h.step(Input::StreamEnded("cut".into()));
    assert!(wait(&mut h) <= millis(51));
}

#[test]
fn a_failed_list_while_the_stream_goes_on_is_only_tried_again() {
    let mut h = Harness::following(settings(), &["a"]);
    h.pass_alive(h.watcher.settings.docker.resync_interval);
    assert_eq!(h.step(Input::Listed(Err("broke off".into()))), []);
    assert_eq!((h.downs(), h.ids()), (0, vec!["a"]));
    assert_eq!(h.noted(|n| matches!(n, Note::SyncFailed(_))), 1);
    assert_eq!(h.pass_alive(2 * SECOND), [Action::List]);
    h.list(&["b"]);
    assert_eq!(h.ids(), ["b"]);
}

#[test]
fn answers_of_a_connection_that_was_given_up_mean_nothing() {
    let mut h = Harness::following(settings(), &["a"]);
    h.events([event("pause", "a", "a", SECOND)]);
    h.step(Input::StreamEnded("cut".into()));
    let late = || {
        [
            found(Container::sample("z", "z")),
            gone("a"),
            Input::Events(vec![event("destroy", "a", "a", SECOND)]),
            Input::Listed(Ok(vec![entry("z", "z")])),
            Input::StreamEnded("again".into()),
            Input::StreamOpened(Ok(())),
            Input::Ponged(Err("late".into())),
        ]
    };
    for input in late() {
        h.listening = false;
        assert_eq!(h.step(input), []);
    }
    assert_eq!((h.ids(), h.downs()), (vec!["a"], 1));
    assert_eq!(h.noted(|n| matches!(n, Note::StillDown(_))), 0);
    h.reconnect(&["a"]);
    assert_eq!(h.step(Input::Connected(Err("late".into()))), []);
    assert_eq!(h.step(found(Container::sample("z", "z"))), []);
    assert_eq!(h.ids(), ["a"]);
    h.pass_alive(2 * SECOND);
    h.assert_at_rest();
}

#[test]
fn a_stream_that_goes_on_where_it_was_cut_has_no_gap() {
    let mut h = Harness::following(settings(), &["a"]);
    h.pass_alive(5 * SECOND);
    let last = event("exec_die", "a", "a", h.at);
    h.events([last.clone()]);
    let latest = h.at;
    h.step(Input::StreamEnded("cut".into()));
    let missed = event("exec_start: sh", "a", "a", h.at + millis(5));
    assert_eq!(h.reconnect(&["a"]), Some(wall(latest - SECOND)));
    // The list may arrive before the replayed events.
    h.pass_alive(REPEATS_LATE);
    h.events([last, missed.clone(), missed]);
    h.pass_alive(5 * SECOND);
    assert_eq!(h.gaps(), 0);
    assert_eq!(h.counts[&("exec_die".into(), "a".into())], 1);
    assert_eq!(h.counts[&("exec_start: sh".into(), "a".into())], 1);
    h.assert_at_rest();
}

/// Less than the time to wait for replayed events.
const REPEATS_LATE: Duration = Duration::from_millis(900);

#[test]
fn a_stream_that_repeats_nothing_has_a_gap() {
    let mut h = Harness::following(settings(), &["a"]);
    h.events([event("exec_die", "a", "a", SECOND)]);
    h.step(Input::StreamEnded("restarted".into()));
    h.reconnect(&["a"]);
    h.events([event("exec_die", "a", "a", 5 * SECOND)]);
    h.pass_alive(5 * SECOND);
    assert_eq!(h.gaps(), 1);
    assert_eq!(h.counts[&("exec_die".into(), "a".into())], 2);
}

#[test]
fn a_gap_is_not_hidden_by_another_cut() {
    let mut h = Harness::following(settings(), &["a"]);
    h.events([event("exec_die", "a", "a", SECOND)]);
    h.step(Input::StreamEnded("restarted".into()));
    h.reconnect(&["a"]);
    let after = event("exec_die", "a", "a", 5 * SECOND);
    h.events([after.clone()]);
    h.step(Input::StreamEnded("cut".into()));
    h.reconnect(&["a"]);
    h.events([after]);
    h.pass_alive(5 * SECOND);
    assert_eq!(h.gaps(), 1);
}

#[test]
fn a_daemon_that_was_away_and_had_told_nothing_may_have_forgotten_something() {
    let mut h = Harness::following(settings(), &["a"]);
    h.step(Input::StreamEnded("restarted".into()));
    while h.pass(millis(10)) != [Action::Connect] {}
    h.step(Input::Connected(Err("refused".into())));
    let first = wall(millis(10));
    assert_eq!(h.reconnect(&["a"]), Some(first));
    h.pass_alive(5 * SECOND);
    assert_eq!(h.gaps(), 1);
    // Cutting such a stream alone is no gap.
    h.step(Input::StreamEnded("cut".into()));
    h.reconnect(&["a"]);
    h.pass_alive(5 * SECOND);
    assert_eq!(h.gaps(), 1);
}

#[test]
fn before_the_first_stream_there_is_nothing_to_miss() {
    let mut h = Harness::new(settings());
    for _ in 0..3 {
        while h.pass(millis(10)) != [Action::Connect] {}
        h.step(Input::Connected(Ok(None)));
        h.step(Input::StreamOpened(Err("not yet".into())));
    }
    h.reconnect(&["a"]);
    h.pass_alive(5 * SECOND);
    assert_eq!(h.gaps(), 0);
}

/// Takes the list that is due, with an inspect answer for each of its containers.
fn resync(h: &mut Harness, containers: &[Container]) {
    while !h.pass_alive(millis(100)).contains(&Action::List) {}
    let mut actions = h.step(Input::Listed(Ok(containers.iter().map(|c| entry(&c.id, &c.name)).collect())));
    while let Some(Action::Inspect(id)) = actions.pop() {
        let container = containers.iter().find(|c| c.id == id).unwrap();
        actions.extend(h.step(found(container.clone())));
    }
}

#[test]
fn a_stream_that_does_not_tell_of_a_start_is_opened_anew() {
    let mut h = Harness::following(settings(), &["a"]);
    h.pass_alive(5 * SECOND);
    let before = event("exec_die", "a", "a", h.at);
    let told_at = h.at;
    h.events([before.clone()]);
    resync(&mut h, &[Container::sample("a", "a")]);
    // The stream is silent from here on.
    let start = event("start", "a", "a", h.at + SECOND);
    let restarted = Container { started_at: 9, ..Container::sample("a", "a") };
    resync(&mut h, std::slice::from_ref(&restarted));
    assert_eq!(h.known["a"].started_at, 9);
    assert_eq!(h.pass_alive(2 * SECOND - millis(1)), []);
    assert_eq!(h.pass_alive(millis(1)), [Action::Close]);
    assert_eq!(h.downs(), 1);
    assert_eq!(h.open(), Some(wall(told_at - SECOND)));
    h.events([before, start]);
    h.step(Input::Listed(Ok(vec![entry("a", "a")])));
    h.step(found(restarted.clone()));
    h.step(found(restarted.clone()));
    h.pass_alive(5 * SECOND);
    assert_eq!(h.counts[&("start".into(), "a".into())], 1);
    assert_eq!((h.gaps(), h.downs()), (0, 1));
    h.assert_at_rest();

    // The stream falls silent again: the first doubt was right, so the next one counts too.
    resync(&mut h, &[]);
    assert_eq!(h.pass_alive(2 * SECOND), [Action::Close]);
    h.reconnect(&[]);
    h.pass_alive(2 * SECOND);
    // Nothing was replayed, not even seen events: that is a gap.
    assert_eq!(h.gaps(), 1);
}

/// A watcher whose stream has skipped a start among other events, up to the moment that the stream is reopened.
fn in_doubt() -> (Harness, [Event; 3]) {
    let mut h = Harness::following(settings(), &["a"]);
    h.pass_alive(5 * SECOND);
    let first = event("exec_die", "a", "a", h.at);
    h.events([first.clone()]);
    resync(&mut h, &[Container::sample("a", "a")]);
    let start = event("start", "a", "a", h.at + SECOND);
    h.pass_alive(10 * SECOND);
    let second = event("exec_die", "a", "a", h.at);
    h.events([second.clone()]);
    resync(&mut h, &[Container { started_at: 9, ..Container::sample("a", "a") }]);
    assert_eq!(h.pass_alive(2 * SECOND), [Action::Close]);
    (h, [first, start, second])
}

#[test]
fn what_a_stream_has_left_out_is_repeated_from_where_nothing_was_missing() {
    let (mut h, [first, start, second]) = in_doubt();
    let since = h.reconnect(&["a"]);
    assert!(since < first.time && first.time < start.time);
    h.events([first, start, second]);
    h.step(found(Container::sample("a", "a")));
    h.pass_alive(5 * SECOND);
    assert_eq!(h.gaps(), 0);
    assert_eq!(h.counts[&("start".into(), "a".into())], 1);
    assert_eq!(h.counts[&("exec_die".into(), "a".into())], 2);
    h.assert_at_rest();
}

#[test]
fn what_is_no_longer_repeated_from_there_is_a_gap() {
    let (mut h, [_, _, second]) = in_doubt();
    h.reconnect(&["a"]);
    h.events([second]);
    h.pass_alive(5 * SECOND);
    assert_eq!(h.gaps(), 1);
}

#[test]
fn a_stream_that_was_silent_from_the_beginning_is_in_doubt_too() {
    for repeats in [true, false] {
        let mut h = Harness::following(settings(), &["a"]);
        resync(&mut h, &[Container { started_at: 9, ..Container::sample("a", "a") }]);
        assert_eq!(h.pass_alive(2 * SECOND), [Action::Close]);
        assert_eq!(h.reconnect(&["a"]), Some(wall(millis(10))));
        if repeats {
            h.events([event("start", "a", "a", SECOND)]);
            h.step(found(Container::sample("a", "a")));
        }
        h.pass_alive(5 * SECOND);
        assert_eq!(h.gaps(), usize::from(!repeats));
        h.assert_at_rest();
    }
}

#[test]
fn a_list_that_is_ahead_of_its_events_is_no_reason_for_doubt() {
    let mut h = Harness::following(settings(), &["a", "b"]);
    resync(
        &mut h,
        &[Container { started_at: 9, ..Container::sample("a", "a") }, Container::sample("c", "c")],
    );
    h.pass_alive(SECOND);
    h.events([
        event("start", "a", "a", h.at),
        event("destroy", "b", "b", h.at),
        event("create", "c", "c", h.at),
    ]);
    h.step(found(Container { started_at: 9, ..Container::sample("a", "a") }));
    h.step(found(Container::sample("c", "c")));
    h.pass_alive(10 * SECOND);
    assert_eq!(h.downs(), 0);
    h.assert_at_rest();
}

#[test]
fn what_has_no_event_is_no_reason_for_doubt() {
    let mut h = Harness::following(settings(), &["a"]);
    for status in [Status::Removing, Status::Dead] {
        resync(
            &mut h,
            &[Container { status, failing_streak: 3, exit_code: 127, ..Container::sample("a", "a") }],
        );
        h.pass_alive(10 * SECOND);
        assert_eq!((h.downs(), h.known["a"].status), (0, status));
    }
}

#[test]
fn a_daemon_that_tells_nothing_of_a_change_is_asked_ever_more_seldom() {
    let mut h = Harness::following(settings(), &["a"]);
    h.events([event("exec_die", "a", "a", SECOND)]);
    let (mut lists, mut reopened) = (0, Vec::new());
    for n in 0..100 {
        resync(&mut h, &[Container { started_at: n, ..Container::sample("a", "a") }]);
        lists += 1;
        if h.pass_alive(2 * SECOND).contains(&Action::Close) {
            reopened.push(lists);
            h.reconnect(&["a"]);
            h.events([event("exec_die", "a", "a", SECOND)]);
            h.pass_alive(3 * SECOND);
        }
    }
    assert!((3..=7).contains(&reopened.len()), "{reopened:?}");
    assert!(reopened.windows(3).all(|w| w[2] - w[1] >= w[1] - w[0]), "{reopened:?}");
    assert_eq!(h.gaps(), 0);
}

#[test]
fn names_choose_what_is_inspected_shown_and_counted() {
    let mut h = Harness::new(Settings { names: Filter::new(&["*"], &["x-*"]), ..settings() });
    h.open();
    assert_eq!(h.step(Input::Listed(Ok(vec![entry("a", "web"), entry("b", "x-b")]))), inspects(&["a"]));
    h.step(found(Container::sample("a", "web")));
    assert_eq!(h.events([event("start", "b", "x-b", SECOND)]), []);
    assert!(h.counts.is_empty());
    // Out of the filter …
    assert_eq!(h.events([event("rename", "a", "x-web", SECOND)]), inspects(&["a"]));
    h.step(found(Container::sample("a", "x-web")));
    assert!(h.ids().is_empty() && h.counts.is_empty());
    // … and into it.
    assert_eq!(h.events([event("rename", "b", "b", SECOND)]), inspects(&["b"]));
    h.step(found(Container::sample("b", "b")));
    assert_eq!(h.ids(), ["b"]);
    assert_eq!(h.counts, BTreeMap::from([(("rename".into(), "b".into()), 1)]));
    // A name that the list does not give is looked up.
    while !h.pass_alive(SECOND).contains(&Action::List) {}
    assert_eq!(h.step(Input::Listed(Ok(vec![entry("a", ""), entry("b", "b")]))), inspects(&["a", "b"]));
    h.step(found(Container::sample("a", "x-web")));
    h.step(found(Container::sample("b", "b")));
    assert_eq!(h.ids(), ["b"]);
    h.pass_alive(5 * SECOND);
    assert_eq!(h.downs(), 0);
    h.assert_at_rest();
}

#[test]
fn an_inspect_from_before_a_list_does_not_stand_for_it() {
    let mut h = Harness::following(settings(), &["a"]);
    h.pass_alive(h.watcher.settings.docker.resync_interval - millis(1));
    h.events([event("pause", "a", "a", SECOND)]);
    assert_eq!(h.pass_alive(millis(1)), [Action::List]);
    assert_eq!(h.step(Input::Listed(Ok(vec![entry("a", "a")]))), []);
    assert_eq!(h.step(found(Container::sample("a", "a"))), inspects(&["a"]));
    h.step(found(Container { exit_code: 7, ..Container::sample("a", "a") }));
    assert_eq!(h.known["a"].exit_code, 7);
    h.assert_at_rest();
}

#[test]
fn the_effect_of_an_event_is_timed_a_destroy_too() {
    let mut h = Harness::following(settings(), &["a"]);
    h.events([event("pause", "a", "a", SECOND)]);
    h.step(found(Container::sample("a", "a")));
    h.events([event("destroy", "a", "a", 2 * SECOND), event("destroy", "z", "z", 3 * SECOND)]);
    let applied: Vec<_> = h.notes.iter().filter(|n| matches!(n, Note::Applied(_))).collect();
    assert_eq!(applied, [&Note::Applied(wall(SECOND)), &Note::Applied(wall(2 * SECOND))]);
}

#[test]
fn a_defect_is_survived() {
    let mut h = Harness::following(settings(), &["a"]);
    assert_eq!(h.step(Input::Broken("a task panicked".into())), [Action::Close]);
    h.reconnect(&["a", "b"]);
    assert_eq!(h.ids(), ["a", "b"]);
}

#[test]
fn an_event_that_comes_before_what_it_tells_of_leads_to_an_inspect_a_moment_later() {
    let mut h = Harness::following(settings(), &["a", "b"]);
    let early = |id: &str, at| Event { early: true, ..event("exec_die", id, id, at) };
    // Another event of the same container does not replace the delayed inspect.
    assert_eq!(
        h.events([event("health_status: healthy", "a", "a", millis(1)), early("a", millis(2))]),
        inspects(&["a"])
    );
    h.step(found(Container::sample("a", "a")));
    assert_eq!(h.pass_alive(DELAY - millis(1)), []);
    assert_eq!(h.pass_alive(millis(1)), inspects(&["a"]));
    h.step(found(Container::sample("a", "a")));
    // A destroyed container is not inspected.
    assert_eq!(h.events([early("b", SECOND), event("destroy", "b", "b", SECOND)]), []);
    assert_eq!(h.pass_alive(SECOND), []);
    h.assert_at_rest();
}

/// A daemon that replays its events as Docker does, or filters them by time as Podman does.
struct Memory {
    events: Vec<Event>,
    walks_back: bool,
}

impl Memory {
    /// An event happens while a stream is open, and is sent.
    fn tell(&mut self, h: &mut Harness, action: &str) {
        self.happen(h, action);
        let event = self.events.last().unwrap().clone();
        h.step(Input::Events(vec![event]));
        h.pass_alive(SECOND);
    }

    /// An event happens while no stream is open.
    fn happen(&mut self, h: &mut Harness, action: &str) {
        // No two are of the same nanosecond.
        let time = daemon_time(h.at, h.ahead) + Duration::from_nanos(self.events.len() as u64);
        self.events.push(Event { time: Some(time), ..event(action, "a", "a", h.at) });
    }

    /// Reopens the stream after a cut, and replays what was requested. Returns the number of gaps noted.
    fn reconnect(&self, h: &mut Harness) -> usize {
        let before = h.gaps();
        let since = h.reconnect(&["a"]).unwrap();
        let is_late = |event: &&Event| event.time >= Some(since);
        let repeated: Vec<Event> = if self.walks_back {
            let suffix = self.events.iter().rev().take_while(is_late);
            suffix.cloned().collect::<Vec<_>>().into_iter().rev().collect()
        } else {
            self.events.iter().filter(is_late).cloned().collect()
        };
        h.step(Input::Events(repeated));
        h.pass_alive(3 * SECOND);
        h.gaps() - before
    }
}

fn cut(h: &mut Harness) {
    h.step(Input::StreamEnded("cut".into()));
}

#[test]
fn events_of_a_break_are_counted_once_or_a_gap_is_told_whatever_the_daemons_clock_does() {
    const HOUR: i64 = 3_600;
    // The clock's offset at first, after some events, and during the break.
    let clocks = [
        [0, 0, 0],
        [HOUR, HOUR, HOUR],
        [-HOUR, -HOUR, -HOUR],
        [0, HOUR, HOUR],
        [0, -HOUR, -HOUR],
        [0, 0, HOUR],
        [0, 0, -HOUR],
        [HOUR, 0, 0],
        [HOUR, HOUR, 0],
        [0, 0, -30],
        [0, -30, -30],
        [0, -1, -2],
    ];
    for [first, then, at_last] in clocks {
        for walks_back in [true, false] {
            for (is_local, is_dated) in [(true, true), (true, false), (false, true), (false, false)] {
                for quiet in [false, true] {
                    let what = format!("{first} {then} {at_last} {walks_back} {is_local} {is_dated} {quiet}");
                    let mut h = Harness::new(Settings { is_local, ..settings() });
                    (h.ahead, h.is_dated) = (first, is_dated);
                    h.reconnect(&["a"]);
                    h.pass_alive(20 * SECOND);
                    let mut memory = Memory { events: Vec::new(), walks_back };
                    if !quiet {
                        memory.tell(&mut h, "exec_die");
                        memory.tell(&mut h, "exec_die");
                    }
                    h.ahead = then;
                    if !quiet || then != first {
                        memory.tell(&mut h, "exec_die");
                    }
                    cut(&mut h);
                    h.ahead = at_last;
                    memory.happen(&mut h, "exec_start: sh");
                    let gaps = memory.reconnect(&mut h);
                    memory.tell(&mut h, "exec_start: bash");
                    let gaps = gaps.max(h.gaps());
                    let count =
                        |action: &str| h.counts.get(&(action.into(), "a".into())).copied().unwrap_or(0);
                    let told = memory.events.iter().filter(|event| &*event.action == "exec_die").count();
                    assert_eq!(count("exec_die"), told as u64, "{what}");
                    assert_eq!(count("exec_start: bash"), 1, "{what}");
                    let counted = count("exec_start: sh");
                    assert!(counted == 1 || counted == 0 && gaps > 0, "{what}: {counted}, {gaps} gaps");
                    if first == then && then == at_last && is_dated && is_local {
                        assert_eq!((counted, gaps), (1, 0), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn an_event_from_the_future_hides_no_other() {
    for walks_back in [true, false] {
        for others in [0, 1, 5] {
            let mut h = Harness::following(settings(), &["a"]);
            h.pass_alive(20 * SECOND);
            let mut memory = Memory { events: Vec::new(), walks_back };
            memory.tell(&mut h, "exec_die");
            h.ahead = 3_600;
            memory.tell(&mut h, "exec_die");
            h.ahead = 0;
            for _ in 0..others {
                memory.tell(&mut h, "exec_die");
            }
            cut(&mut h);
            memory.happen(&mut h, "exec_start: sh");
            assert_eq!(memory.reconnect(&mut h), 0);
            assert_eq!(h.counts[&("exec_start: sh".into(), "a".into())], 1);
            assert_eq!(h.counts[&("exec_die".into(), "a".into())], 2 + others);
        }
    }
}

#[test]
fn what_happened_before_the_start_by_the_clock_of_a_virtual_machine_is_not_asked_for() {
    for ahead in [-3_600, 3_600] {
        let mut h = Harness::new(settings());
        h.ahead = ahead;
        assert_eq!(h.open(), h.clock(), "{ahead}");
    }
}

#[test]
fn half_a_log_that_comes_again_within_the_stream_counts_once() {
    let mut h = Harness::following(settings(), &["a"]);
    // As many as a million bytes hold.
    let log: Vec<Event> = (0..9_000).map(|n| event("exec_die", "a", "a", SECOND + millis(n))).collect();
    h.step(Input::Events(log.clone()));
    h.step(Input::Events(log.clone()));
    h.step(Input::Events(log[4_500..].to_vec()));
    assert_eq!(h.counts[&("exec_die".into(), "a".into())], 9_000);
    assert_eq!(h.gaps(), 0);
}

#[test]
fn the_count_of_failed_probes_is_followed_by_one_inspect_for_each_that_changes_it() {
    let mut h = Harness::new(settings());
    h.open();
    h.step(Input::Listed(Ok(vec![entry("a", "a"), entry("b", "b")])));
    let checked =
        |streak| Container { health: Health::Healthy, failing_streak: streak, ..Container::sample("a", "a") };
    h.step(found(checked(0)));
    h.step(found(Container::sample("b", "b")));
    let ended = |h: &Harness, id: &str, failed| Event { failed, ..event("exec_die", id, id, h.at) };
    // Nothing changes for a container without a check, or by a good probe after good ones.
    h.events([ended(&h, "b", true), ended(&h, "a", false)]);
    assert_eq!(h.pass_alive(SECOND), []);
    h.events([ended(&h, "a", true)]);
    assert_eq!(h.pass_alive(DELAY), inspects(&["a"]));
    h.step(found(checked(1)));
    assert_eq!(h.known["a"].failing_streak, 1);
    // The first good probe ends the streak.
    h.events([ended(&h, "a", false)]);
    assert_eq!(h.pass_alive(DELAY), inspects(&["a"]));
    h.step(found(checked(0)));
    h.events([ended(&h, "a", false)]);
    assert_eq!(h.pass_alive(SECOND), []);
    h.assert_at_rest();
}

#[test]
fn a_network_tells_of_a_start_that_failed() {
    let mut h = Harness::following(settings(), &["a"]);
    let disconnect = Event {
        kind: "network".into(),
        concerns: Some("a".into()),
        ..event("disconnect", "n", "none", SECOND)
    };
    assert_eq!(h.events([disconnect]), inspects(&["a"]));
    h.step(found(Container { exit_code: 127, ..Container::sample("a", "a") }));
    assert_eq!(h.known["a"].exit_code, 127);
    assert!(h.counts.is_empty(), "networks are not counted unless they are asked for");
    assert_eq!(h.noted(|n| matches!(n, Note::Applied(_))), 0);
    h.assert_at_rest();
}

/// The inspect of `asked` is answered with this container.
fn found_as(asked: &str, container: Container) -> Input {
    Input::Inspected { id: asked.into(), outcome: Outcome::Found(Arc::new(container)) }
}

/// A full id that repeats this digit.
fn whole(digit: char) -> String {
    std::iter::repeat_n(digit, 64).collect()
}

#[test]
fn a_container_that_is_known_is_found_by_whatever_an_event_calls_it() {
    let (id, other) = (whole('a'), whole('b'));
    for called in
        [id.clone(), id.to_uppercase(), id[..12].to_owned(), id[..12].to_uppercase(), "my-web.1".into()]
    {
        let mut h = Harness::new(settings());
        h.open();
        h.step(Input::Listed(Ok(vec![entry(&id, "my-web.1"), entry(&other, "db")])));
        h.step(found(Container::sample(&id, "my-web.1")));
        h.step(found(Container::sample(&other, "db")));
        assert_eq!(h.events([event("pause", &called, "my-web.1", SECOND)]), inspects(&[&id]), "{called}");
        h.step(found(Container { status: Status::Paused, ..Container::sample(&id, "my-web.1") }));
        assert_eq!((h.ids(), h.known[&id].status), (vec![&*id, &*other], Status::Paused), "{called}");
        h.events([event("destroy", &called, "my-web.1", SECOND * 2)]);
        assert_eq!(h.ids(), [&*other], "{called}");
        h.assert_at_rest();
    }
}

#[test]
fn a_new_container_is_the_one_that_the_answer_names() {
    let id = whole('a');
    for called in ["web", &id[..12]] {
        let mut h = Harness::following(settings(), &[]);
        assert_eq!(h.events([event("start", called, "web", SECOND)]), inspects(&[called]));
        // An inspect by its full id may return something newer than this one.
        h.events([event("pause", &id, "web", SECOND * 2)]);
        h.step(found(Container { status: Status::Paused, ..Container::sample(&id, "web") }));
        assert_eq!(h.step(found_as(called, Container::sample(&id, "web"))), inspects(&[&id]), "{called}");
        assert_eq!((h.ids(), h.known[&id].status), (vec![&*id], Status::Paused), "{called}");
        h.step(found(Container { status: Status::Paused, ..Container::sample(&id, "web") }));
        h.assert_at_rest();
        h.events([event("destroy", called, "web", SECOND * 3)]);
        assert_eq!(h.ids(), [""; 0], "{called}");
    }
}

#[test]
fn a_list_of_other_ids_than_the_answers_is_whole_all_the_same() {
    let (id, other) = (whole('a'), whole('b'));
    let mut h = Harness::new(settings());
    h.open();
    let listed = || Input::Listed(Ok(vec![entry(&id[..12], "web"), entry(&id, "web")]));
    assert_eq!(h.step(listed()), inspects(&[&id[..12], &id]));
    assert_eq!(h.step(failed(&id[..12])), []);
    h.step(found(Container::sample(&id, "web")));
    assert_eq!(h.pass(millis(600)), inspects(&[&id[..12]]));
    assert_eq!(h.step(found_as(&id[..12], Container::sample(&id, "web"))), inspects(&[&id]));
    h.step(found(Container::sample(&id, "web")));
    assert_eq!(h.ids(), [&*id]);
    h.assert_at_rest();
    // The next list contains known ids; and an answer may be of another container.
    let actions = h.pass_alive(h.watcher.settings.docker.resync_interval);
    assert!(actions.contains(&Action::List), "{actions:?}");
    assert_eq!(h.step(listed()), inspects(&[&id]));
    h.step(found_as(&id, Container::sample(&other, "web")));
    assert_eq!(h.ids(), [&*other]);
    assert!(h.watcher.sync.is_none() && h.watcher.tracks.is_empty());
}
