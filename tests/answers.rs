//! Against an engine that says what it should in other words, with wrong bytes, without line feeds or without end:
//! what can be read of it is shown, and what cannot costs only itself.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use fake_engine::{Container, Endpoint, FakeEngine, Fault, Target};
use support::eventually;
use support::exporter::{Exporter, Setup};
use support::exposition::{Exposition, labels};

const LONG: Duration = Duration::from_secs(40);
const STATUS: &str = "container_state_status";

/// The checking list is put off for ever, so that nothing is right because of it.
fn setup(engine: &FakeEngine) -> Setup {
    Setup::new(&engine.host())
        .set("/docker/timeout", 2_000)
        .set("/docker/stale_after", 5_000)
        .set("/docker/resync_interval", 3_600_000)
}

fn start(engine: &FakeEngine) -> Exporter {
    let exporter = setup(engine).start();
    wait(&exporter, |scrape| scrape.plain("docker_up") == 1.0);
    exporter
}

#[track_caller]
fn wait(exporter: &Exporter, is_right: impl Fn(&Exposition) -> bool) -> Exposition {
    let (scrape, _) = eventually(LONG, || {
        let scrape = exporter.scrape();
        if is_right(&scrape) { Ok(scrape) } else { Err(format!("it never was:\n{}", exporter.scrape_text())) }
    });
    scrape
}

/// The values of a metric, by the containers' names.
fn gauges(scrape: &Exposition, metric: &str) -> Vec<(String, f64)> {
    let mut gauges: Vec<(String, f64)> =
        scrape.series(metric).into_iter().map(|(labels, value)| (labels["name"].clone(), value)).collect();
    gauges.sort_by(|a, b| a.0.cmp(&b.0));
    gauges
}

fn count(scrape: &Exposition, action: &str) -> f64 {
    scrape.select("docker_events", &labels([("event", action)])).iter().map(|(_, value)| value).sum()
}

#[track_caller]
fn end(engine: &FakeEngine, exporter: Exporter) -> String {
    assert_eq!(engine.violations(), Vec::<String>::new());
    exporter.stop()
}

fn event(action: &str, id: &str, nanos: u64) -> String {
    format!(
        r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{{"name":"web"}}}},"timeNano":{nanos}}}"#
    )
}

#[test]
fn the_words_of_every_engine_have_their_codes() {
    let engine = FakeEngine::start().unwrap();
    for (name, status, health) in [
        ("a", "exited", "stopped"),
        ("b", "running", "reset"),
        ("c", "stopping", "healthy"),
        ("d", "initialized", ""),
        ("e", "levitating", "dizzy"),
    ] {
        engine.add(Container::new(name).status(status).health(health, 0));
    }
    let exporter = start(&engine);
    let scrape = exporter.scrape();
    let codes = |metric: &str| gauges(&scrape, metric).into_iter().map(|(_, code)| code).collect::<Vec<_>>();
    assert_eq!(codes(STATUS), [2.0, 6.0, 6.0, 5.0, -1.0]);
    assert_eq!(codes("container_state_health_status"), [1.0, 2.0, 3.0, 1.0, -1.0]);
    assert_eq!(scrape.plain("docker_state_exporter_unreadable_total"), 2.0);
    end(&engine, exporter);
}

#[test]
fn an_event_is_taken_as_soon_as_it_has_ended() {
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web"));
    let exporter = start(&engine);
    let (oom, pause) = (event("oom", &id, 1), event("pause", &id, 2));
    // Without line feeds, as some proxies pass them on: in one chunk, and cut within a name and between two.
    engine.emit_raw(format!("{oom}{pause}"));
    wait(&exporter, |scrape| (count(scrape, "oom"), count(scrape, "pause")) == (1.0, 1.0));
    let (kill, stop) = (event("kill", &id, 3), event("stop", &id, 4));
    let (first, second) = kill.split_at(25);
    for chunk in [first, &format!("{second}{stop}")] {
        engine.emit_raw(chunk.to_owned());
        std::thread::sleep(Duration::from_millis(50));
    }
    wait(&exporter, |scrape| (count(scrape, "kill"), count(scrape, "stop")) == (1.0, 1.0));
    // As RFC 7464 has it, and after an event that has no end.
    engine.emit_raw(format!("\x1e{}\n\x1e{}", event("start", &id, 5), &oom[..40]));
    engine.emit_raw(format!("\n\x1e{}\n", event("unpause", &id, 6)));
    let scrape = wait(&exporter, |scrape| (count(scrape, "start"), count(scrape, "unpause")) == (1.0, 1.0));
    assert_eq!(scrape.plain("docker_state_exporter_unreadable_total"), 1.0);
    assert_eq!(scrape.plain("docker_state_exporter_event_streams_total"), 1.0);
    end(&engine, exporter);
}

#[test]
fn what_an_event_calls_a_container_does_not_matter() {
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web"));
    let exporter = start(&engine);
    for (nanos, called) in [&*id, "web", &id[..12], &id.to_uppercase()].into_iter().enumerate() {
        for (action, status, code) in [("pause", "paused", 3.0), ("unpause", "running", 6.0)] {
            engine.update(&id, |container| container.status(status));
            engine.emit_raw(event(action, called, 2 * nanos as u64 + u64::from(action == "pause") + 1));
            wait(&exporter, |scrape| gauges(scrape, STATUS) == [("web".to_owned(), code)]);
        }
    }
    // One that is not known yet, by its name and by the beginning of its id.
    for name in ["by-name", "by_id"] {
        let id = engine.add(Container::new(name));
        let called = if name == "by-name" { name } else { &id[..12] };
        engine.emit_raw(event("start", called, 100));
        let both = [(name.to_owned(), 6.0), ("web".to_owned(), 6.0)];
        let scrape = wait(&exporter, |scrape| gauges(scrape, STATUS) == both);
        assert!(scrape.series(STATUS).keys().any(|labels| labels["id"] == format!("/docker/{id}")));
        engine.remove(&id);
        engine.emit_raw(event("destroy", called, 200));
        wait(&exporter, |scrape| gauges(scrape, STATUS).len() == 1);
    }
    assert_eq!(exporter.scrape().plain("docker_state_exporter_event_streams_total"), 1.0);
    end(&engine, exporter);
}

#[test]
fn of_the_version_only_what_is_used_has_to_be_readable() {
    for version in [
        r#"{"ApiVersion":"1.41","Platform":{}}"#,
        r#"{"ApiVersion":"1.41","Experimental":"false"}"#,
        r#"{"ApiVersion":"1.41","Components":[{"Name":"Engine"}]}"#,
        r#"{"ApiVersion":"1.41","Components":null,"Version":null,"Os":7}"#,
        "{\"ApiVersion\":\"1.41\",\"KernelVersion\":\"\u{1}\"}",
        r#"{"ApiVersion":"1.0.0"}"#,
    ] {
        let engine = FakeEngine::start().unwrap();
        engine.add(Container::new("web"));
        engine.fault(Target::Version, Fault::Body(version.into()));
        let exporter = start(&engine);
        assert_eq!(gauges(&exporter.scrape(), STATUS), [("web".to_owned(), 6.0)], "{version}");
        end(&engine, exporter);
    }
}

#[test]
fn a_wrong_byte_costs_only_what_it_is_in() {
    for wrong in [&b"\xff"[..], b"\0", b"\\ud800", b"\xc0\xaf", b"\\x"] {
        let engine = FakeEngine::start().unwrap();
        let [web, _db] = ["web", "db"].map(|name| engine.add(Container::new(name).health("healthy", 0)));
        let spoil = |json: &str| {
            let (before, after) = json.split_once("WRONG").unwrap();
            [before.as_bytes(), wrong, after.as_bytes()].concat()
        };
        let list: Vec<serde_json::Value> = engine
            .ids()
            .iter()
            .map(|id| {
                let mut entry = engine.container(id).unwrap().list;
                entry["Command"] = if *id == web { "sleep WRONG" } else { "sleep" }.into();
                entry
            })
            .collect();
        engine.fault(Target::List, Fault::Body(spoil(&serde_json::json!(list).to_string()).into()));
        let mut inspect = engine.container(&web).unwrap().inspect;
        inspect["State"]["Health"]["Log"] = serde_json::json!([{"Output": "it is WRONG"}]);
        engine.fault(Target::Inspect(web.clone()), Fault::Body(spoil(&inspect.to_string()).into()));
        let exporter = start(&engine);
        let both = [("db".to_owned(), 3.0), ("web".to_owned(), 3.0)];
        assert_eq!(gauges(&exporter.scrape(), "container_state_health_status"), both, "{wrong:?}");
        engine.emit_raw(spoil(&(event("exec_start: /bin/WRONG", &web, 1) + "\n")));
        engine.emit_raw(event("oom", &web, 2));
        wait(&exporter, |scrape| count(scrape, "oom") == 1.0);
        let scrape = wait(&exporter, |scrape| {
            scrape.series("docker_events").iter().any(|(labels, value)| {
                labels["event"].starts_with("exec_start") && labels["name"] == "web" && *value == 1.0
            })
        });
        assert_eq!(scrape.plain("docker_state_exporter_event_streams_total"), 1.0, "{wrong:?}");
        assert!(!end(&engine, exporter).contains("it is"), "an answer's text was logged");
    }
}

#[test]
fn an_answer_without_end_takes_no_memory() {
    let mebibytes = |count: usize| " ".repeat(count << 20);
    for (target, endpoint, first, again) in [
        (Target::Version, Endpoint::Version, r#"{"ApiVersion":""#, mebibytes(1)),
        (Target::Ping, Endpoint::Ping, "", mebibytes(1)),
        (Target::AnyInspect, Endpoint::Inspect, r#"{"Id":""#, mebibytes(1)),
        (Target::List, Endpoint::List, "[", r#"{"Id":"a","Names":["/a"]},"#.repeat(10_000)),
        (Target::List, Endpoint::List, r#"[{"Id":""#, mebibytes(1)),
    ] {
        let engine = FakeEngine::start().unwrap();
        engine.populate(50, 0);
        engine.fault(target.clone(), Fault::Endless(first.into(), again.into()));
        let exporter = setup(&engine).set("/docker/stale_after", 500).spawn();
        eventually(LONG, || if engine.count(endpoint) < 2 { Err("it was not asked twice") } else { Ok(()) });
        std::thread::sleep(Duration::from_millis(1_500));
        let peak = exporter.peak_rss() >> 20;
        assert!(peak < 160, "{target:?} took {peak} MiB");
        engine.heal(&target);
        wait(&exporter, |scrape| scrape.plain("docker_up") == 1.0 && scrape.series(STATUS).len() == 50);
        end(&engine, exporter);
    }
}
