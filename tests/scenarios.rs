//! Against a fake engine that misbehaves by script: state, counts and absence are right whatever it does, and
//! nothing but the five GETs is ever asked of it.
//!
//! The checking list is put off for ever where a scenario does not say otherwise, so that nothing is right
//! because of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use fake_engine::{Container, Endpoint, Event, FakeEngine, Fault, Target};
use support::eventually;
use support::exporter::{Exporter, Setup};
use support::exposition::{Exposition, Labels, labels};

/// In milliseconds: one call, and how long what is known is shown without the engine.
const TIMEOUT: u64 = 1_000;
const STALE_AFTER: u64 = 2_000;
/// A list that does not come within a test.
const NEVER: u64 = 3_600_000;

/// Long enough for whatever has no limit of its own.
const LONG: Duration = Duration::from_secs(40);
/// How soon everything is right again once the engine is: within a second on a machine that has time for it. What
/// goes wrong here is not late but never right, so there is no harm in waiting longer for a busy one.
const BACK: Duration = Duration::from_secs(10);

const RUNNING: f64 = 6.0;
const PAUSED: f64 = 3.0;
const EXITED: f64 = 2.0;

/// Scenarios with limits of time run side by side; those that need the whole machine run alone.
static MACHINE: RwLock<()> = RwLock::new(());

fn shared() -> RwLockReadGuard<'static, ()> {
    MACHINE.read().unwrap_or_else(PoisonError::into_inner)
}

fn alone() -> RwLockWriteGuard<'static, ()> {
    MACHINE.write().unwrap_or_else(PoisonError::into_inner)
}

/// An exporter, and what it has counted so far.
struct Scene<'a> {
    engine: &'a FakeEngine,
    exporter: Exporter,
    counted: RefCell<BTreeMap<Labels, f64>>,
}

fn setup(engine: &FakeEngine) -> Setup {
    Setup::new(&engine.host())
        .set("/docker/timeout", TIMEOUT)
        .set("/docker/stale_after", STALE_AFTER)
        .set("/docker/resync_interval", NEVER)
}

impl<'a> Scene<'a> {
    fn new(engine: &'a FakeEngine, exporter: Exporter) -> Self {
        Self { engine, exporter, counted: RefCell::default() }
    }

    fn start(engine: &'a FakeEngine, setup: Setup) -> Self {
        let scene = Self::new(engine, setup.start());
        scene.wait(|scrape| is("docker_up", scrape.plain("docker_up"), 1.0));
        scene
    }

    /// A scrape. No event count is ever less than it was.
    #[track_caller]
    fn scrape(&self) -> Exposition {
        let scrape = self.exporter.scrape();
        let mut counted = self.counted.borrow_mut();
        for (labels, value) in scrape.series("docker_events") {
            let before = counted.insert(labels.clone(), value).unwrap_or(0.0);
            assert!(value >= before, "docker_events went back from {before} to {value}: {labels:?}");
        }
        scrape
    }

    #[track_caller]
    fn wait_for<T>(&self, limit: Duration, check: impl Fn(&Exposition) -> Result<T, String>) -> Duration {
        eventually(limit, || check(&self.scrape())).1
    }

    #[track_caller]
    fn wait<T>(&self, check: impl Fn(&Exposition) -> Result<T, String>) -> Duration {
        self.wait_for(LONG, check)
    }

    /// Waits until a container has a status.
    #[track_caller]
    fn wait_status(&self, limit: Duration, name: &str, wanted: f64) {
        self.wait_for(limit, |scrape| is(name, gauge(scrape, STATUS, name), wanted));
    }

    #[track_caller]
    fn wait_gone(&self, limit: Duration, name: &str) {
        self.wait_for(limit, |scrape| is(name, gauge(scrape, STATUS, name), None));
    }

    /// Waits until an event has been counted so often.
    #[track_caller]
    fn wait_count(&self, action: &str, name: &str, wanted: u32) {
        self.wait(|scrape| is(action, count(scrape, action, name), f64::from(wanted)));
    }

    #[track_caller]
    fn own(&self, name: &str) -> f64 {
        self.scrape().plain(&format!("docker_state_exporter_{name}"))
    }

    #[track_caller]
    fn inspects(&self, result: &str) -> f64 {
        self.scrape().value("docker_state_exporter_inspects_total", &labels([("result", result)]))
    }

    /// How many lines of the log contain a text.
    fn logged(&self, text: &str) -> usize {
        self.exporter.log().lines().filter(|line| line.contains(text)).count()
    }

    /// The end: every fault has happened, nothing but the five GETs was asked, and the exporter ends well.
    #[track_caller]
    fn end(self) -> String {
        assert_eq!(self.engine.unspent(), []);
        assert_eq!(self.engine.violations(), Vec::<String>::new());
        self.exporter.stop()
    }
}

const STATUS: &str = "container_state_status";

/// A container's value by the container's name.
fn gauge(scrape: &Exposition, metric: &str, name: &str) -> Option<f64> {
    let found = scrape.select(metric, &labels([("name", name)]));
    assert!(found.len() <= 1, "{metric} of {name} is there {} times", found.len());
    found.first().map(|(_, value)| *value)
}

fn count(scrape: &Exposition, action: &str, name: &str) -> Option<f64> {
    let found = scrape.select("docker_events", &labels([("event", action), ("name", name)]));
    (!found.is_empty()).then(|| found.iter().map(|(_, value)| value).sum())
}

fn is<A: Into<Option<f64>>, B: Into<Option<f64>>>(what: &str, found: A, wanted: B) -> Result<(), String> {
    let (found, wanted) = (found.into(), wanted.into());
    if found == wanted { Ok(()) } else { Err(format!("{what} is {found:?}, not {wanted:?}")) }
}

fn containers(scrape: &Exposition) -> usize {
    scrape.series(STATUS).len()
}

fn pause(container: Container) -> Container {
    container.status("paused")
}

fn unpause(container: Container) -> Container {
    container.status("running")
}

#[test]
fn an_engine_that_accepts_and_never_answers_is_waited_for() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web"));
    engine.hang();
    let scene = Scene::new(&engine, setup(&engine).spawn());
    eventually(LONG, || match scene.exporter.get("/-/healthy") {
        Ok(answer) if answer.status == 200 => Ok(()),
        other => Err(other.map_or_else(|error| error, |answer| answer.status.to_string())),
    });
    // It gives up, and tries again.
    eventually(LONG, || match engine.count(Endpoint::Version) {
        0..3 => Err("it does not try again"),
        _ => Ok(()),
    });
    assert_eq!(scene.exporter.get("/-/ready").unwrap().status, 503);
    let scrape = scene.scrape();
    assert_eq!((scrape.plain("docker_up"), containers(&scrape)), (0.0, 0));
    engine.resume();
    scene.wait_status(BACK, "web", RUNNING);
    assert_eq!(scene.exporter.get("/-/ready").unwrap().status, 200);
    assert_eq!(scene.own("event_gaps_total"), 0.0);
    // Two tries that fail for the same reason are one line.
    assert_eq!(scene.logged("cannot follow the daemon"), 1);
    scene.end();
}

#[test]
fn each_call_that_is_never_answered_is_given_up() {
    let _machine = shared();
    for (target, endpoint) in [
        (Target::Version, Endpoint::Version),
        (Target::Events, Endpoint::Events),
        (Target::List, Endpoint::List),
    ] {
        let engine = FakeEngine::start().unwrap();
        engine.add(Container::new("web"));
        engine.fault(target.clone(), Fault::Hang);
        let scene = Scene::new(&engine, setup(&engine).spawn());
        eventually(LONG, || if engine.count(endpoint) < 2 { Err("it does not try again") } else { Ok(()) });
        assert_eq!(scene.scrape().plain("docker_up"), 0.0);
        engine.heal(&target);
        scene.wait_status(BACK, "web", RUNNING);
        assert_eq!(scene.own("event_gaps_total"), 0.0, "{target:?}");
        scene.end();
    }
}

#[test]
fn pings_that_are_not_answered_end_the_connection_and_cost_no_state() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web"));
    let scene = Scene::start(&engine, setup(&engine));
    engine.fault(Target::Ping, Fault::Hang);
    for (action, status) in [("pause", PAUSED), ("unpause", RUNNING), ("pause", PAUSED)] {
        let streams = scene.own("event_streams_total");
        scene.wait(|scrape| {
            assert_eq!(containers(scrape), 1, "the container is not shown");
            match scrape.plain("docker_state_exporter_event_streams_total") {
                more if more > streams => Ok(()),
                _ => Err("the connection goes on".into()),
            }
        });
        engine.act(&id, action, |c| if action == "pause" { pause(c) } else { unpause(c) });
        scene.wait_status(BACK, "web", status);
    }
    engine.heal(&Target::Ping);
    scene.wait_count("pause", "web", 2);
    assert_eq!(scene.own("event_gaps_total"), 0.0);
    scene.end();
}

#[test]
fn a_list_that_ends_in_the_middle_is_asked_for_again() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    engine.populate(20, 2);
    engine.fault_times(Target::List, Fault::Truncated, 2);
    engine.fault_times(Target::List, Fault::Malformed, 1);
    engine.fault_times(Target::List, Fault::Status(500, "it broke".into()), 1);
    let scene = Scene::start(&engine, setup(&engine).set("/docker/resync_interval", 200));
    let failed = labels([("result", "error")]);
    let scrape = scene.scrape();
    assert_eq!(containers(&scrape), 20);
    assert_eq!(scrape.value("docker_state_exporter_syncs_total", &failed), 4.0);
    // Later on, the stream goes on meanwhile: nothing goes, and the engine is up.
    engine.fault_times(Target::List, Fault::Truncated, 2);
    engine.remove(&engine.ids()[0]);
    scene.wait(|scrape| {
        is("docker_up", scrape.plain("docker_up"), 1.0).unwrap();
        assert!(containers(scrape) >= 19);
        is("failed lists", scrape.value("docker_state_exporter_syncs_total", &failed), 6.0)?;
        is("containers", containers(scrape) as f64, 19.0)
    });
    scene.end();
}

#[test]
fn a_container_that_cannot_be_inspected_costs_only_itself() {
    let _machine = shared();
    let faults = [
        ("gone", Fault::Status(404, "No such container".into())),
        ("broken", Fault::Status(500, "it broke".into())),
        ("hung", Fault::Hang),
        ("malformed", Fault::Malformed),
        ("truncated", Fault::Truncated),
        ("no-object", Fault::Body("[]".into())),
    ];
    let engine = FakeEngine::start().unwrap();
    let web = engine.add(Container::new("web"));
    // As many that answer: else the engine would not be followed at all.
    let others = engine.populate(4, 0).len();
    let ids = faults.clone().map(|(name, _)| engine.add(Container::new(name)));
    let scene = Scene::start(&engine, setup(&engine));
    let inspects = engine.count(Endpoint::Inspect) as f64;
    assert_eq!(scene.inspects("ok"), inspects);
    for (id, (_, fault)) in ids.iter().zip(&faults) {
        engine.fault(Target::Inspect(id.clone()), fault.clone());
        engine.act(id, "pause", pause);
    }
    let since = Instant::now();
    engine.act(&web, "pause", pause);
    scene.wait_status(BACK, "web", PAUSED);
    scene.wait_gone(BACK, "gone");
    let scrape = scene.scrape();
    if since.elapsed() < Duration::from_millis(STALE_AFTER / 2) {
        // What was known of it is still shown.
        for (name, _) in &faults[1..] {
            assert_eq!(gauge(&scrape, STATUS, name), Some(RUNNING), "{name}");
        }
    }
    for (name, _) in &faults[1..] {
        scene.wait_gone(Duration::from_millis(STALE_AFTER) + BACK, name);
    }
    assert!(since.elapsed() > Duration::from_millis(STALE_AFTER - 100), "{:?}", since.elapsed());
    let scrape = scene.scrape();
    assert_eq!((containers(&scrape), scrape.plain("docker_up")), (1 + others, 1.0));
    assert_eq!(scene.inspects("gone"), 1.0);
    assert!(scene.inspects("error") >= 10.0);
    // Another exporter that finds it like that is ready at once all the same, and shows what the list says.
    let other = Scene::start(&engine, setup(&engine));
    for (name, _) in &faults[1..] {
        other.wait_status(BACK, name, PAUSED);
        let exit_code = gauge(&other.scrape(), "container_state_exitcode", name);
        assert_eq!(exit_code, Some(-1.0), "what the list does not say is not known: {name}");
    }
    engine.heal_all();
    for (name, _) in &faults[1..] {
        scene.wait_status(LONG, name, PAUSED);
        other.wait(|scrape| is(name, gauge(scrape, "container_state_exitcode", name), 0.0));
    }
    engine.act(&ids[0], "unpause", unpause);
    scene.wait_status(BACK, "gone", RUNNING);
    // Each of them was told of once.
    assert_eq!(scene.logged("could not inspect a container"), 5);
    other.end();
    scene.end();
}

#[test]
fn an_engine_of_which_no_container_can_be_inspected_is_not_followed_and_the_reason_is_told() {
    let _machine = shared();
    for (fault, why) in [
        (Fault::Status(403, "the proxy refuses".into()), "403 Forbidden: the proxy refuses"),
        (Fault::Status(500, "it broke".into()), "500 Internal Server Error: it broke"),
        (Fault::Malformed, "cannot be read"),
        (Fault::Body("<html>".into()), "cannot be read"),
        (Fault::Hang, "no answer within"),
    ] {
        let engine = FakeEngine::start().unwrap();
        for name in ["web", "db", "cache", "queue"] {
            engine.add(Container::new(name));
        }
        engine.add(Container::new("removed").status("dead"));
        engine.fault(Target::AnyInspect, fault.clone());
        let scene = Scene::new(&engine, setup(&engine).spawn());
        let told = "of 5 containers cannot be inspected";
        scene.wait_log(told);
        scene.wait(|scrape| is("dead", gauge(scrape, STATUS, "removed"), 1.0));
        let scrape = scene.scrape();
        assert_eq!(scrape.plain("docker_up"), 0.0, "{fault:?}");
        let ready = scene.exporter.get("/-/ready").unwrap();
        assert_eq!(ready.status, 503);
        let page = scene.exporter.get("/-/page.json").unwrap();
        let page: serde_json::Value = serde_json::from_str(&page.body).unwrap();
        assert_eq!(page["known"], false);
        let said = page["parts"][0]["says"].as_str().unwrap();
        assert!(said.contains(told) && said.contains(why), "{said}");
        assert_eq!(scene.logged(told), 1, "{}", scene.exporter.log());
        engine.heal_all();
        scene.wait(|scrape| is("docker_up", scrape.plain("docker_up"), 1.0));
        assert_eq!(scene.exporter.get("/-/ready").unwrap().status, 200);
        // The same while it is followed: each event finds that its container cannot be inspected.
        engine.fault(Target::AnyInspect, fault);
        for id in engine.ids() {
            engine.act(&id, "pause", pause);
        }
        scene.wait_log("no longer following the daemon");
        assert_eq!(scene.scrape().plain("docker_up"), 0.0);
        engine.heal_all();
        scene.wait(|scrape| is("docker_up", scrape.plain("docker_up"), 1.0));
        scene.wait(|scrape| is("web", gauge(scrape, STATUS, "web"), PAUSED));
        scene.end();
    }
}

#[test]
fn one_odd_container_of_a_thousand_raises_no_alarm() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    let ids = engine.populate(1_000, 0);
    engine.fault(Target::Inspect(ids[500].clone()), Fault::Status(500, "it broke".into()));
    let scene = Scene::start(&engine, setup(&engine));
    let scrape = scene.scrape();
    assert_eq!((containers(&scrape), scrape.plain("docker_up")), (1_000, 1.0));
    assert_eq!(scene.exporter.get("/-/ready").unwrap().status, 200);
    scene.end();
}

#[test]
fn twenty_thousand_exec_events_cost_no_inspect_and_ten_thousand_a_second_lose_none() {
    let _machine = alone();
    let engine = FakeEngine::start().unwrap();
    let ids: Vec<String> = (0..20).map(|n| engine.add(Container::new(&format!("web-{n}")))).collect();
    let scene = Scene::start(&engine, setup(&engine));
    let inspects = engine.count(Endpoint::Inspect);
    let events: Vec<Event> = ids
        .iter()
        .flat_map(|id| ["exec_create: /bin/sh -c x", "exec_start: /bin/sh -c x", "exec_die"].map(|a| (id, a)))
        .map(|(id, action)| engine.event(action, id))
        .collect();
    let began = Instant::now();
    for number in 0..20_000 {
        let at = began + number * Duration::from_micros(100);
        if number % 10 == 0 {
            thread::sleep(at.saturating_duration_since(Instant::now()));
        }
        engine.emit(events[number as usize % events.len()].clone());
    }
    let emitted = began.elapsed();
    scene.wait(|scrape| {
        let of = |action| {
            scrape.select("docker_events", &labels([("event", action)])).iter().map(|(_, v)| v).sum::<f64>()
        };
        is("exec_start: sh", of("exec_start: sh"), 6667.0)?;
        is("exec_die", of("exec_die"), 6666.0)
    });
    println!("emitted in {emitted:?}, counted after {:?}", began.elapsed());
    assert_eq!(engine.skipped(), 0);
    assert_eq!(engine.count(Endpoint::Inspect), inspects, "exec events cost inspects");
    // State changes in the midst of such a flood are as fresh as ever.
    thread::scope(|scope| {
        let flood = scope.spawn(|| engine.burst(20_000, |number| events[number % events.len()].clone()));
        engine.act(&ids[0], "pause", pause);
        scene.wait_status(BACK, "web-0", PAUSED);
        flood.join().unwrap();
    });
    assert_eq!(engine.skipped(), 0);
    assert_eq!(scene.own("event_gaps_total"), 0.0);
    scene.end();
}

#[test]
fn a_burst_of_state_changes_is_coalesced() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    let ids: Vec<String> = (0..50).map(|n| engine.add(Container::new(&format!("web-{n}")))).collect();
    let scene = Scene::start(&engine, setup(&engine));
    engine.fault(Target::AnyInspect, Fault::Delay(Duration::from_millis(20)));
    engine.clear_requests();
    let kinds: Vec<[Event; 2]> =
        ids.iter().map(|id| ["pause", "unpause"].map(|action| engine.event(action, id))).collect();
    for number in 0..10_000 {
        engine.emit(kinds[number % kinds.len()][number / kinds.len() % 2].clone());
    }
    for id in &ids {
        engine.act(id, "pause", pause);
    }
    scene.wait(|scrape| {
        let paused = scrape.series(STATUS).values().filter(|value| **value == PAUSED).count();
        is("paused", paused as f64, 50.0)?;
        is("pause", count(scrape, "pause", "web-0"), 101.0)
    });
    let inspects = engine.count(Endpoint::Inspect);
    assert!((50..5_000).contains(&inspects), "{inspects} inspects for 10,050 events");
    assert_eq!(engine.skipped(), 0);
    scene.end();
}

#[test]
fn a_stream_that_is_cut_loses_no_event_and_counts_none_twice() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    let ids: Vec<String> = (0..5).map(|n| engine.add(Container::new(&format!("web-{n}")))).collect();
    let scene = Scene::start(&engine, setup(&engine));
    let mut sent: BTreeMap<(String, String), u32> = BTreeMap::new();
    for round in 0..20_usize {
        for number in 0..30 {
            let id = &ids[number % ids.len()];
            let action = ["pause", "unpause", "exec_start: sh"][(round + number) % 3];
            let event = match action {
                "pause" => engine.act(id, action, pause),
                "unpause" => engine.act(id, action, unpause),
                _ => engine.emit(engine.event(action, id)),
            };
            *sent.entry((action.to_owned(), event.attributes["name"].clone())).or_default() += 1;
            if number == round {
                match round % 4 {
                    0 => engine.end_events(),
                    // In the middle of an event.
                    1 => {
                        engine.emit_raw(r#"{"Type":"container","Action":"pau"#);
                        engine.cut_events();
                    }
                    _ => engine.cut_events(),
                }
            }
        }
        eventually(LONG, || if engine.streams() == 0 { Err("no stream") } else { Ok(()) });
    }
    scene.wait(|scrape| {
        sent.iter().try_for_each(|((action, name), sent)| {
            is(&format!("{action} {name}"), count(scrape, action, name), f64::from(*sent))
        })
    });
    for id in &ids {
        let container = engine.container(id).unwrap();
        let wanted = if container.inspect["State"]["Paused"] == true { PAUSED } else { RUNNING };
        scene.wait_status(BACK, container.name(), wanted);
    }
    assert_eq!(scene.own("event_streams_total"), 21.0);
    // A gap would be judged a second after the last list.
    thread::sleep(Duration::from_millis(1_200));
    assert_eq!(scene.own("event_gaps_total"), 0.0);
    scene.end();
}

#[test]
fn events_that_come_twice_are_counted_once() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web"));
    let scene = Scene::start(&engine, setup(&engine));
    let events: Vec<Event> = (0..200)
        .map(|n| {
            let event = engine.event(["die", "start"][n % 2], &id);
            engine.emit(event)
        })
        .collect();
    events.iter().for_each(|event| engine.repeat(event));
    engine.cut_events();
    // The overlap of `since` repeats them all once more.
    engine.emit(engine.event("oom", &id));
    scene.wait_count("oom", "web", 1);
    let scrape = scene.scrape();
    assert_eq!(count(&scrape, "die", "web"), Some(100.0));
    assert_eq!(count(&scrape, "start", "web"), Some(100.0));
    let since = engine.requests().iter().rfind(|r| r.endpoint == Some(Endpoint::Events)).cloned();
    assert!(since.unwrap().query.contains_key("since"));
    scene.end();
}

#[test]
fn half_a_log_that_comes_again_within_the_stream_counts_once() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web"));
    let scene = Scene::start(&engine, setup(&engine));
    // As many as Podman keeps of a log of a million bytes, half of it twice.
    let log: Vec<Event> = (0..4_000).map(|_| engine.emit(engine.event("exec_die", &id))).collect();
    let rotated = || log[2_000..].iter().for_each(|event| engine.repeat(event));
    rotated();
    engine.emit(engine.event("exec_die", &id));
    rotated();
    scene.wait_count("exec_die", "web", 4_001);
    // Nor do they count again after a break.
    engine.cut_events();
    engine.emit(engine.event("exec_die", &id));
    scene.wait_count("exec_die", "web", 4_002);
    rotated();
    engine.act(&id, "pause", pause);
    scene.wait_count("pause", "web", 1);
    scene.wait_count("exec_die", "web", 4_002);
    assert_eq!(scene.own("event_gaps_total"), 0.0);
    scene.end();
}

#[test]
fn a_break_loses_no_event_whatever_clock_the_engine_goes_by() {
    let _machine = shared();
    const HOUR: i64 = 3_600;
    for by_time in [false, true] {
        // The clock at first, after some events, and during the break; and whether it went back during that, so that
        // nothing shows how the events before it and after it belong together.
        for (clocks, is_lost) in [
            ([0, 0, 0], false),
            ([HOUR, HOUR, HOUR], false),
            ([-HOUR, -HOUR, -HOUR], false),
            ([0, HOUR, 0], false),
            ([0, HOUR, HOUR], false),
            ([0, -HOUR, -HOUR], false),
            ([0, 0, HOUR], false),
            ([0, 0, -HOUR], true),
        ] {
            if by_time && clocks[1] < clocks[0] {
                // Then Podman tells nothing of what happens until its clock is where it was.
                continue;
            }
            let what = format!("{clocks:?} {by_time}");
            let engine = FakeEngine::start().unwrap();
            if by_time {
                engine.choose_events_by_time();
            }
            engine.set_clock(clocks[0]);
            let id = engine.add(Container::new("web"));
            engine.emit(engine.event("before", &id));
            thread::sleep(Duration::from_millis(1_100));
            let scene = Scene::start(&engine, setup(&engine));
            engine.emit(engine.event("exec_die", &id));
            engine.set_clock(clocks[1]);
            engine.emit(engine.event("exec_die", &id));
            scene.wait_count("exec_die", "web", 2);
            engine.refuse();
            engine.set_clock(clocks[2]);
            engine.act(&id, "pause", pause);
            engine.reopen().unwrap();
            scene.wait_status(BACK, "web", PAUSED);
            engine.emit(engine.event("exec_die", &id));
            scene.wait(|scrape| {
                let counted = count(scrape, "pause", "web").unwrap_or(0.0);
                let gaps = scrape.plain("docker_state_exporter_event_gaps_total");
                match (counted, gaps) {
                    (1.0, 0.0) => Ok(()),
                    (counted, gaps) if is_lost && counted + gaps > 0.0 => Ok(()),
                    _ => Err(format!("{what}: counted {counted} times, {gaps} gaps")),
                }
            });
            scene.wait_count("exec_die", "web", 3);
            assert_eq!(count(&scene.scrape(), "before", "web"), None, "{what}: from before the start");
            scene.end();
        }
    }
}

#[test]
fn a_start_that_fails_is_told_by_the_containers_network() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web").status("created"));
    let scene = Scene::start(&engine, setup(&engine));
    engine.update(&id, |container| container.exit_code(127));
    let network =
        Event::new("network", "disconnect", "9").attribute("name", "none").attribute("container", &id);
    engine.emit(network);
    scene.wait_for(BACK, |scrape| is("exit code", gauge(scrape, "container_state_exitcode", "web"), 127.0));
    // A hint is not counted, unless networks are.
    assert_eq!(scene.scrape().select("docker_events", &labels([("type", "network")])).len(), 0);
    assert_eq!(engine.inspects(&id), 2);
    scene.end();
}

#[test]
fn the_count_of_failed_probes_costs_one_inspect_for_each_that_fails() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web").health("unhealthy", 3));
    let scene = Scene::start(&engine, setup(&engine));
    let probe = |code: &str| engine.event("exec_die", &id).attribute("exitCode", code);
    for streak in 4..8 {
        engine.update(&id, |container| container.health("unhealthy", streak));
        engine.emit(probe("1"));
        let metric = "container_state_health_failingstreak";
        scene.wait_for(BACK, |scrape| is(metric, gauge(scrape, metric, "web"), streak as f64));
    }
    assert_eq!(engine.inspects(&id), 5);
    scene.end();
}

#[test]
fn an_engine_that_falls_silent_is_down_then_withheld_then_back_within_a_second() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web"));
    engine.add(Container::new("db"));
    let scene = Scene::start(&engine, setup(&engine));
    engine.act(&id, "oom", |c| c.oom_killed(true));
    scene.wait_count("oom", "web", 1);
    engine.hang();
    let since = Instant::now();
    engine.act(&id, "pause", pause);
    let mut down = None;
    while since.elapsed() < Duration::from_millis(STALE_AFTER + 500) {
        let scrape = scene.scrape();
        if scrape.plain("docker_up") == 0.0 {
            down.get_or_insert(since.elapsed());
        }
        if since.elapsed() < Duration::from_millis(STALE_AFTER - 600) {
            assert_eq!(containers(&scrape), 2, "withheld too early");
        }
        thread::sleep(Duration::from_millis(20));
    }
    scene.wait_for(LONG, |scrape| {
        is("docker_up", scrape.plain("docker_up"), 0.0)?;
        is("containers", containers(scrape) as f64, 0.0)
    });
    let scrape = scene.scrape();
    assert!(!scrape.families.contains_key("container_info"));
    // Counts are no state: what was counted stays.
    assert_eq!(count(&scrape, "oom", "web"), Some(1.0));
    assert_eq!(scene.exporter.get("/-/healthy").unwrap().status, 200);
    engine.resume();
    let (mut back, began) = (None, Instant::now());
    scene.wait_for(BACK, |scrape| {
        is("web", gauge(scrape, STATUS, "web"), PAUSED)?;
        is("db", gauge(scrape, STATUS, "db"), RUNNING)?;
        is("docker_up", scrape.plain("docker_up"), 1.0)
    });
    back.get_or_insert(began.elapsed());
    println!("down after {down:?}, back after {back:?}");
    scene.wait_count("pause", "web", 1);
    thread::sleep(Duration::from_millis(1_200));
    assert_eq!(scene.own("event_gaps_total"), 0.0);
    scene.end();
}

#[test]
fn a_stream_that_falls_silent_alone_is_noticed_by_the_next_list() {
    let _machine = shared();
    let resync = Duration::from_millis(1_000);
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web"));
    let gone = engine.add(Container::new("gone"));
    let scene = Scene::start(&engine, setup(&engine).set("/docker/resync_interval", 1_000));
    engine.emit(engine.event("exec_die", &id));
    scene.wait_count("exec_die", "web", 1);
    engine.silence_events(true);
    // What has no event, nor needs one.
    engine.update(&id, |c| c.health("unhealthy", 3));
    scene.wait_for(resync + BACK, |scrape| {
        is("failing streak", gauge(scrape, "container_state_health_failingstreak", "web"), 3.0)
    });
    let streams = scene.own("event_streams_total");
    assert_eq!(streams, 1.0);
    engine.act(&id, "die", |c| c.exited(3, "2026-11-21T07:12:01Z"));
    engine.act(&id, "start", |c| c.started_at("2026-11-21T07:12:02Z").status("running"));
    engine.act(&id, "die", |c| c.exited(4, "2026-11-21T07:12:03Z"));
    engine.destroy(&gone);
    let born = engine.create(Container::new("born"));
    scene.wait_for(resync + BACK, |scrape| {
        is("web", gauge(scrape, STATUS, "web"), EXITED)?;
        is("exit code", gauge(scrape, "container_state_exitcode", "web"), 4.0)?;
        is("gone", gauge(scrape, STATUS, "gone"), None)?;
        is("born", gauge(scrape, STATUS, "born"), RUNNING)
    });
    // And so that events come again, the stream is opened anew, and what was missed is counted.
    scene.wait_count("die", "web", 2);
    scene.wait_count("start", "web", 1);
    scene.wait_count("create", "born", 1);
    scene.wait_count("destroy", "gone", 1);
    engine.silence_events(false);
    engine.act(&born, "pause", pause);
    scene.wait_count("pause", "born", 1);
    assert_eq!(scene.own("event_gaps_total"), 0.0);
    assert_eq!(scene.own("event_streams_total"), streams + 1.0);
    // Now that nothing is missing, it stays open.
    engine.update(&born, |c| c.status("removing"));
    scene.wait_status(resync + BACK, "born", 0.0);
    engine.update(&born, |c| c.status("dead"));
    scene.wait_status(resync + BACK, "born", 1.0);
    thread::sleep(3 * resync);
    assert_eq!(scene.own("event_streams_total"), streams + 1.0);
    scene.end();
}

#[test]
fn a_restart_that_forgets_the_events_is_a_gap() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web"));
    let scene = Scene::start(&engine, setup(&engine));
    engine.act(&id, "oom", |c| c.oom_killed(true));
    scene.wait_count("oom", "web", 1);
    for restarts in 1..=3_u32 {
        engine.vanish();
        engine.act(&id, "die", |c| c.exited(137, "2026-11-21T07:12:01Z"));
        engine.forget_events();
        engine.reopen().unwrap();
        let after = engine.act(&id, "start", |c| c.exit_code(i64::from(restarts)).status("running"));
        assert!(after.time_nano > 0);
        scene.wait_for(BACK, |scrape| {
            is("web", gauge(scrape, STATUS, "web"), RUNNING)?;
            is("exit code", gauge(scrape, "container_state_exitcode", "web"), f64::from(restarts))
        });
        scene.wait(|scrape| {
            is("gaps", scrape.plain("docker_state_exporter_event_gaps_total"), f64::from(restarts))
        });
        scene.wait_count("start", "web", restarts);
    }
    let scrape = scene.scrape();
    assert_eq!(count(&scrape, "oom", "web"), Some(1.0));
    assert_eq!(count(&scrape, "die", "web"), Some(0.0), "what was never told was counted");
    assert_eq!(scene.logged("events may have been missed"), 3);
    scene.end();
}

#[test]
fn an_engine_whose_buffer_ran_over_meanwhile_is_a_gap() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web"));
    let scene = Scene::start(&engine, setup(&engine));
    engine.emit(engine.event("oom", &id));
    scene.wait_count("oom", "web", 1);
    engine.refuse();
    engine.burst(300, |_| engine.event("exec_die", &id));
    engine.reopen().unwrap();
    scene.wait_count("exec_die", "web", 256);
    scene.wait(|scrape| is("gaps", scrape.plain("docker_state_exporter_event_gaps_total"), 1.0));
    scene.end();
}

#[test]
fn an_engine_that_is_gone_for_long_is_withheld_and_back_within_a_second() {
    let _machine = shared();
    for vanish in [true, false] {
        let engine = FakeEngine::start().unwrap();
        let id = engine.add(Container::new("web"));
        let removed = engine.add(Container::new("removed"));
        let scene = Scene::start(&engine, setup(&engine));
        if vanish {
            engine.vanish()
        } else {
            engine.refuse()
        }
        let since = Instant::now();
        scene.wait_for(BACK, |scrape| is("docker_up", scrape.plain("docker_up"), 0.0));
        scene.wait_for(LONG, |scrape| is("containers", containers(scrape) as f64, 0.0));
        let withheld = since.elapsed();
        let stale_after = Duration::from_millis(STALE_AFTER);
        assert!((stale_after.mul_f64(0.7)..stale_after + BACK).contains(&withheld), "{withheld:?}");
        engine.remove(&removed);
        engine.update(&id, pause);
        engine.reopen().unwrap();
        scene.wait_for(BACK, |scrape| {
            is("web", gauge(scrape, STATUS, "web"), PAUSED)?;
            is("removed", gauge(scrape, STATUS, "removed"), None)?;
            is("docker_up", scrape.plain("docker_up"), 1.0)
        });
        assert_eq!(scene.logged("cannot follow the daemon"), 1);
        scene.end();
    }
}

#[test]
fn the_socket_may_appear_after_the_exporter() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web"));
    engine.vanish();
    let scene = Scene::new(&engine, setup(&engine).spawn());
    scene.wait_log("docker.sock");
    assert_eq!(scene.exporter.get("/-/ready").unwrap().status, 503);
    let scrape = scene.scrape();
    assert_eq!((scrape.plain("docker_up"), containers(&scrape)), (0.0, 0));
    engine.reopen().unwrap();
    scene.wait_status(BACK, "web", RUNNING);
    assert_eq!(scene.exporter.get("/-/ready").unwrap().status, 200);
    // Nothing was listened to before, so nothing was missed.
    thread::sleep(Duration::from_millis(1_200));
    assert_eq!(scene.own("event_gaps_total"), 0.0);
    scene.end();
}

impl Scene<'_> {
    #[track_caller]
    fn wait_log(&self, text: &str) {
        eventually(LONG, || if self.logged(text) > 0 { Ok(()) } else { Err(format!("no line with {text}")) });
    }
}

#[test]
fn the_version_is_one_that_the_engine_speaks_and_agreed_anew_with_each() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web"));
    // The first has events without `status`, `id` and `from`; the second refuses what is newer than 1.41.
    let ranges = [("1.44", "1.52", "1.52"), ("1.12", "1.41", "1.41"), ("1.44", "1.60", "1.53")];
    engine.set_api_versions(ranges[0].0, ranges[0].1);
    let scene = Scene::start(&engine, setup(&engine));
    for (round, (minimum, maximum, agreed)) in ranges.into_iter().enumerate() {
        if round > 0 {
            engine.clear_requests();
            engine.set_api_versions(minimum, maximum);
            engine.restart().unwrap();
            scene.wait_for(LONG, |_| is("streams", engine.streams() as f64, 1.0));
        }
        engine.act(&id, "pause", pause);
        scene.wait_status(BACK, "web", PAUSED);
        engine.act(&id, "unpause", unpause);
        scene.wait_status(BACK, "web", RUNNING);
        scene.wait_count("pause", "web", round as u32 + 1);
        let requests = engine.requests();
        let of = |endpoint| requests.iter().filter(move |r| r.endpoint == Some(endpoint));
        for endpoint in [Endpoint::Events, Endpoint::List, Endpoint::Inspect] {
            assert!(of(endpoint).count() > 0);
            let versions: Vec<_> = of(endpoint).map(|r| r.version.as_deref()).collect();
            assert!(versions.iter().all(|v| *v == Some(agreed)), "{endpoint:?} {versions:?}, not {agreed}");
        }
        assert_eq!(engine.violations(), Vec::<String>::new());
    }
    scene.end();
}

#[test]
fn ten_thousand_containers_are_followed() {
    let _machine = alone();
    let engine = FakeEngine::start().unwrap();
    let ids = engine.populate(10_000, 5);
    let began = Instant::now();
    let setup = setup(&engine).set("/docker/timeout", 5_000).set("/docker/stale_after", 10_000);
    let scene = Scene::start(&engine, setup.set("/docker/resync_interval", 60_000));
    println!("ready after {:?}", began.elapsed());
    let scrape = scene.scrape();
    assert_eq!(containers(&scrape), 10_000);
    assert_eq!(scrape.series("docker_events").len(), 40_000, "zero counts");
    assert_eq!(engine.count(Endpoint::Inspect), 10_000);
    for id in ids.iter().step_by(100) {
        engine.act(id, "pause", pause);
    }
    let paused =
        |scrape: &Exposition| scrape.series(STATUS).values().filter(|v| **v == PAUSED).count() as f64;
    scene.wait(|scrape| is("paused", paused(scrape), 100.0));
    // What takes its place after a cut is whole: no reader sees a part of it.
    engine.update(&ids[0], unpause);
    engine.cut_events();
    scene.wait(|scrape| {
        assert_eq!(containers(scrape), 10_000);
        is("paused", paused(scrape), 99.0)
    });
    scene.end();
}

#[test]
fn odd_answers_show_where_they_are_and_cost_nothing_else() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    let web = engine.add(Container::new("web").health("healthy", 0));
    let odd = |name: &str, change: fn(Container) -> Container| {
        let container = Container::new(name).health("healthy", 0).restart_count(5).exit_code(7);
        engine.add(change(container))
    };
    let with = |mut c: Container, pointer: &str, value: serde_json::Value| {
        *c.inspect.pointer_mut(pointer).unwrap() = value;
        c
    };
    odd("odd-status", |c| c.status("levitating"));
    odd("odd-health", |c| c.health("dizzy", 2));
    odd("odd-time", |c| c.started_at("yesterday"));
    odd("no-state", |mut c| {
        c.inspect["State"] = serde_json::Value::Null;
        c
    });
    odd("nothing", |mut c| {
        c.inspect = serde_json::json!({"Name": "/nothing", "State": {"Status": "running"}});
        c
    });
    let typed = odd("odd-types", |c| c);
    engine.update(&typed, |c| with(c, "/RestartCount", "many".into()));
    engine.update(&typed, |c| with(c, "/State/ExitCode", serde_json::json!({})));
    engine.update(&typed, |c| with(c, "/Config/Labels", serde_json::json!({"a": 1, "b": "c"})));
    // Of these two only the list is odd.
    let unlisted = odd("odd-entry", |mut c| {
        c.list["Id"] = 7.into();
        c
    });
    odd("odd-names", |mut c| {
        c.list["Names"] = serde_json::Value::Null;
        c.list["State"] = serde_json::json!([]);
        c
    });
    let scene = Scene::start(&engine, setup(&engine));
    let scrape = scene.scrape();
    let of = |metric: &str, name: &str| gauge(&scrape, &format!("container_{metric}"), name);
    assert_eq!(of("state_status", "web"), Some(RUNNING));
    assert_eq!((of("state_status", "odd-status"), of("restartcount", "odd-status")), (Some(-1.0), Some(5.0)));
    assert_eq!(of("state_health_status", "odd-health"), Some(-1.0));
    assert_eq!(of("state_health_failingstreak", "odd-health"), Some(2.0));
    assert_eq!(
        (of("state_startedat", "odd-time"), of("state_status", "odd-time")),
        (Some(-1.0), Some(RUNNING))
    );
    assert_eq!((of("state_status", "no-state"), of("restartcount", "no-state")), (Some(-1.0), Some(5.0)));
    assert_eq!(
        (of("state_status", "nothing"), of("state_health_status", "nothing")),
        (Some(RUNNING), Some(1.0))
    );
    assert_eq!(
        (of("restartcount", "odd-types"), of("state_exitcode", "odd-types")),
        (Some(-1.0), Some(-1.0))
    );
    assert_eq!(
        (of("state_status", "odd-types"), of("state_status", "odd-names")),
        (Some(RUNNING), Some(RUNNING))
    );
    assert_eq!(of("state_status", "odd-entry"), None);
    // Status, health, time, three of `odd-types`; of the entry its id, and that it is none.
    assert_eq!(scene.own("unreadable_total"), 8.0);

    // In the stream, each three times.
    let line = |kind: &str, action: &str, actor: &str, time: &str| {
        format!(r#"{{"Type":{kind},"Action":{action},"Actor":{actor},"time":1,"timeNano":{time}}}"#) + "\n"
    };
    let actor = format!(r#"{{"ID":"{web}","Attributes":{{"name":"web","image":"busybox:test"}}}}"#);
    let mut time = 1_795_245_110_000_000_000_u64;
    for _ in 0..3 {
        for (kind, action, actor, odd_time) in [
            (r#""container""#, r#""levitate""#, actor.as_str(), None),
            (r#""spirit""#, r#""start""#, actor.as_str(), None),
            ("7", r#""start""#, actor.as_str(), None),
            (r#""container""#, "null", actor.as_str(), None),
            (r#""container""#, r#""start""#, "null", None),
            (r#""container""#, r#""start""#, r#"{"ID":{},"Attributes":[]}"#, None),
        ] {
            time += 1;
            engine.emit_raw(line(kind, action, actor, odd_time.unwrap_or(&time.to_string())));
        }
        engine.emit_raw("{\"Type\": \"container\", \"Action\": nonsense\n");
        engine.emit_raw("\n[1, 2]\n");
    }
    engine.emit_raw(line(r#""container""#, r#""die""#, &actor, r#""yesterday""#));
    engine.act(&web, "pause", pause);
    scene.wait_status(BACK, "web", PAUSED);
    scene.wait_count("levitate", "web", 3);
    scene.wait_count("die", "web", 1);
    scene.wait_count("pause", "web", 1);
    let scrape = scene.scrape();
    // Without an actor it is counted, under no name.
    let nameless = labels([("event", "start"), ("type", "container")]);
    assert_eq!(scrape.value("docker_events", &nameless), 6.0);
    assert!(scrape.select("docker_events", &labels([("type", "spirit")])).is_empty());
    assert_eq!((scrape.plain("docker_up"), scene.own("event_streams_total")), (1.0, 1.0));
    // A round has a type and an event without it, an event without an action, an id and attributes, and two
    // lines that are no events; and there was one time.
    assert_eq!(scene.own("unreadable_total"), 8.0 + 3.0 * 7.0 + 1.0);
    for text in ["levitating", "dizzy", "yesterday", "nonsense"] {
        let lines = scene.logged(text);
        assert!((1..=2).contains(&lines), "{lines} lines with {text}:\n{}", scene.exporter.log());
    }
    // An event makes up for the list's odd entry.
    engine.act(&unlisted, "pause", pause);
    scene.wait_status(BACK, "odd-entry", PAUSED);
    scene.end();
}

#[test]
fn an_event_longer_than_any_is_passed_over() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web"));
    let scene = Scene::start(&engine, setup(&engine));
    let piece = "x".repeat(64 * 1024);
    for _ in 0..40 {
        engine.emit_raw(piece.clone());
    }
    engine.emit_raw("\n");
    engine.act(&id, "pause", pause);
    scene.wait_status(BACK, "web", PAUSED);
    assert_eq!(scene.own("unreadable_total"), 1.0);
    assert_eq!(scene.own("event_streams_total"), 1.0);
    scene.end();
}

#[test]
fn names_and_labels_choose() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web").label("com.example.team", "blue").label("secret", "1"));
    let hidden = engine.add(Container::new("x-hidden"));
    let setup = setup(&engine)
        .set("/containers/names", serde_json::json!({"included": ["*"], "excluded": ["x-*"]}))
        .set("/containers/labels", serde_json::json!({"included": ["com.*"], "excluded": []}))
        .set("/events/labels", serde_json::json!({"included": ["com.*"], "excluded": []}));
    let scene = Scene::start(&engine, setup);
    let shown =
        |scrape: &Exposition| scrape.series(STATUS).keys().map(|l| l["name"].clone()).collect::<Vec<_>>();
    let scrape = scene.scrape();
    assert_eq!(shown(&scrape), ["web"]);
    assert_eq!(engine.inspects(&hidden), 0);
    let series = scrape.series(STATUS);
    let keys: Vec<_> = series.keys().next().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, ["container_label_com_example_team", "id", "image", "name"]);
    let zero = labels([("event", "oom"), ("name", "web"), ("container_label_com_example_team", "blue")]);
    assert_eq!(scrape.select("docker_events", &zero).len(), 1);
    // Events of what is hidden cost no inspect and are not counted, until it is renamed.
    engine.act(&hidden, "pause", pause);
    engine.act(&hidden, "rename", |c| c.named("shown"));
    scene.wait_status(BACK, "shown", PAUSED);
    assert_eq!(engine.inspects(&hidden), 1);
    engine.act(&hidden, "rename", |c| c.named("x-again"));
    scene.wait_for(BACK, |scrape| is("containers", containers(scrape) as f64, 1.0));
    let scrape = scene.scrape();
    assert_eq!(count(&scrape, "pause", "x-hidden"), None);
    assert_eq!(count(&scrape, "rename", "shown"), Some(1.0));
    assert_eq!(count(&scrape, "rename", "x-again"), None);
    scene.end();
}

#[test]
fn counts_begin_at_zero_outlive_their_container_and_never_go_back() {
    let _machine = shared();
    let retention = Duration::from_millis(1_500);
    let engine = FakeEngine::start().unwrap();
    let first = engine.create(Container::new("web"));
    let scene = Scene::start(&engine, setup(&engine).set("/events/retention", 1_500));
    for action in ["die", "oom", "start", "health_status: unhealthy"] {
        assert_eq!(count(&scene.scrape(), action, "web"), Some(0.0), "{action}");
    }
    engine.act(&first, "oom", |c| c.oom_killed(true));
    scene.wait_count("oom", "web", 1);
    // Long after its last event it is there, because its container is.
    thread::sleep(retention + retention / 2);
    assert_eq!(count(&scene.scrape(), "oom", "web"), Some(1.0));
    // Recreated, not at once, it goes on.
    engine.destroy(&first);
    scene.wait_gone(BACK, "web");
    thread::sleep(retention / 3);
    assert_eq!(count(&scene.scrape(), "oom", "web"), Some(1.0));
    let second = engine.create(Container::new("web"));
    scene.wait_status(BACK, "web", RUNNING);
    thread::sleep(retention + retention / 2);
    engine.act(&second, "oom", |c| c.oom_killed(true));
    scene.wait_count("oom", "web", 2);
    // What is new begins at 0 before its first event.
    let other = engine.create(Container::new("other"));
    scene.wait_count("oom", "other", 0);
    engine.emit(engine.event("oom", &other));
    scene.wait_count("oom", "other", 1);
    // Gone for good, it goes after its retention.
    engine.destroy(&other);
    scene.wait_count("destroy", "other", 1);
    let destroyed = Instant::now();
    scene.wait(|scrape| is("oom", count(scrape, "oom", "other"), None));
    assert!(destroyed.elapsed() > retention / 2 && destroyed.elapsed() < 2 * retention + BACK);
    scene.wait(|scrape| is("destroy", count(scrape, "destroy", "other"), None));
    assert_eq!(count(&scene.scrape(), "oom", "web"), Some(2.0));
    scene.end();
}

#[test]
fn a_hundred_thousand_short_lives_leave_no_trace_in_memory() {
    let _machine = alone();
    const LIVES: usize = 100_000;
    const SETTLED: usize = 5_000;
    const AT_ONCE: usize = 100;
    let engine = FakeEngine::start().unwrap();
    engine.populate(20, 5);
    let setup = setup(&engine).set("/events/retention", 500).set("/events/log", false);
    let scene = Scene::start(&engine, setup);
    let template = Container::new("template").label("com.example.job", "batch");
    let began = Instant::now();
    let mut settled = 0;
    let mut next_scrape = Instant::now();
    for batch in 0..LIVES / AT_ONCE {
        let lives: Vec<Container> = (0..AT_ONCE)
            .map(|n| {
                let number = batch * AT_ONCE + n;
                template.clone().with_id(&format!("{number:064x}")).named(&format!("job-{number}"))
            })
            .collect();
        let emit = |action: &str, life: &Container| {
            let event = Event::new("container", action, life.id());
            let with = |event: Event, (key, value): (String, String)| event.attribute(&key, &value);
            engine.emit(life.attributes().into_iter().fold(event, with));
        };
        for life in &lives {
            engine.add(life.clone());
            emit("create", life);
            emit("start", life);
        }
        for life in &lives {
            emit("die", life);
            engine.remove(life.id());
            emit("destroy", life);
        }
        if next_scrape <= Instant::now() {
            next_scrape = Instant::now() + Duration::from_millis(500);
            scene.exporter.scrape_text();
            assert_eq!(engine.violations(), Vec::<String>::new());
            engine.clear_requests();
        }
        if (batch + 1) * AT_ONCE == SETTLED {
            settled = rest(&scene);
        }
    }
    let lived = began.elapsed();
    let end = rest(&scene);
    println!(
        "{LIVES} lives in {lived:?}: {settled} bytes after {SETTLED}, {end} at the end, {} at most",
        scene.exporter.peak_rss()
    );
    assert_eq!(engine.skipped(), 0);
    assert!(end as f64 <= settled as f64 * 1.1, "{settled} bytes after {SETTLED} lives, {end} after {LIVES}");
    scene.end();
}

#[test]
fn two_hundred_thousand_commands_in_one_container_are_counted_in_bounded_memory() {
    let _machine = alone();
    const COMMANDS: u64 = 200_000;
    const LIMIT: u64 = 20_000;
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("builder"));
    let scene = Scene::start(&engine, setup(&engine));
    engine.emit(engine.event("exec_start: sh", &id));
    scene.wait_count("exec_start: sh", "builder", 1);
    let before = scene.exporter.rss();
    let counted = |scrape: &Exposition| {
        let events = scrape.series("docker_events");
        let of = |event: &str| {
            let found = events.iter().filter(|(labels, _)| labels["event"].starts_with(event));
            found.fold((0, 0.0), |(series, sum), (_, value)| (series + 1, sum + value))
        };
        let ((series, sum), (_, overflow)) = (of("exec_start: step-"), of("overflow"));
        (series, sum, overflow)
    };
    for number in 0..COMMANDS {
        engine.emit(engine.event(&format!("exec_start: /opt/step-{number}.sh --fast"), &id));
        if number % 10 == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        // What was told never goes back.
        if number % 50_000 == 0 {
            scene.scrape();
        }
    }
    let is_over = |text: &str| {
        let wanted = format!("docker_state_exporter_event_overflows_total {}\n", COMMANDS + 1 - LIMIT);
        if text.contains(&wanted) { Ok(()) } else { Err(format!("not yet {wanted}")) }
    };
    // Not parsed each time: there are many.
    eventually(LONG, || {
        thread::sleep(Duration::from_millis(200));
        is_over(&scene.exporter.scrape_text())
    });
    let scrape = scene.scrape();
    // One place has the first command. Each other is counted.
    assert_eq!(counted(&scrape), (LIMIT - 1, (LIMIT - 1) as f64, (COMMANDS + 1 - LIMIT) as f64));
    assert_eq!(count(&scrape, "exec_start: sh", "builder"), Some(1.0));
    // Zeros are beside the limit.
    engine.create(Container::new("other"));
    scene.wait_count("oom", "other", 0);
    let after = scene.exporter.rss();
    println!(
        "{before} bytes before, {after} after {COMMANDS} commands, {} at most",
        scene.exporter.peak_rss()
    );
    assert!(after < before + (10 << 20), "{before} bytes before, {after} after");
    assert_eq!(scene.logged("more label sets of events than events.limit"), 1);
    assert_eq!(engine.skipped(), 0);
    scene.end();
}

#[test]
fn a_container_that_is_made_anew_with_labels_that_look_the_same_goes_on_from_its_counts() {
    let _machine = shared();
    let engine = FakeEngine::start().unwrap();
    let setup = setup(&engine).set("/events/labels", serde_json::json!({"included": ["*"]}));
    let with = |labels: &[(&str, &str)]| {
        labels.iter().fold(Container::new("web"), |container, (key, value)| container.label(key, value))
    };
    let lives: [&[(&str, &str)]; 5] = [
        &[("a.b", "1"), ("K", "2"), ("empty", "")],
        &[("a_b", "1"), ("k", "2")],
        &[("A-B", "1"), ("k", "2"), ("other.empty", "")],
        &[("a.b", "1"), ("K", "2"), ("empty", "")],
        &[("a/b", "1"), ("K", "2")],
    ];
    let mut id = engine.create(with(lives[0]));
    let scene = Scene::start(&engine, setup);
    let image = scene.scrape().series(STATUS).into_keys().next().unwrap()["image"].clone();
    let shown = |action| {
        labels([
            ("event", action),
            ("type", "container"),
            ("name", "web"),
            ("image", &image),
            ("container_label_a_b", "1"),
            ("container_label_k", "2"),
        ])
    };
    for (life, next) in lives.iter().skip(1).enumerate() {
        // The scrape is parsed strictly: no series is there twice.
        engine.act(&id, "oom", |c| c.oom_killed(true));
        let wanted = life as f64 + 1.0;
        scene.wait(|scrape| is("oom", scrape.find("docker_events", &shown("oom"))?, wanted));
        engine.destroy(&id);
        scene.wait_gone(BACK, "web");
        id = engine.create(with(next));
        scene.wait_status(BACK, "web", RUNNING);
        scene.wait(|scrape| is("oom", scrape.find("docker_events", &shown("oom"))?, wanted));
        scene.wait(|scrape| is("create", scrape.find("docker_events", &shown("create"))?, wanted));
    }
    scene.end();
}

/// Resident memory once no trace of the past is left in what is shown.
#[track_caller]
fn rest(scene: &Scene<'_>) -> u64 {
    scene.wait(|scrape| {
        is("containers", containers(scrape) as f64, 20.0)?;
        is("event series", scrape.series("docker_events").len() as f64, 80.0)
    });
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(100));
        scene.scrape();
    }
    scene.exporter.rss()
}
