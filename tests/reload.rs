//! SIGHUP: what can change at run time does, what needs a restart is named, and a bad file changes nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::time::Duration;

use fake_engine::{Container, FakeEngine};
use rustix::process::Signal;
use support::eventually;
use support::exporter::{Exporter, Setup};

const DEADLINE: Duration = Duration::from_secs(30);

#[track_caller]
fn logs(exporter: &Exporter, expected: &str) {
    eventually(DEADLINE, || {
        let log = exporter.log();
        if log.contains(expected) { Ok(()) } else { Err(format!("no {expected:?} in\n{log}")) }
    });
}

#[test]
fn a_hangup_takes_over_what_can_change_and_says_what_needs_a_restart() {
    let engine = FakeEngine::start().unwrap();
    let id = engine.create(Container::new("web"));
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    let write = |text: &str| {
        let new = directory.path().join("new");
        std::fs::write(&new, format!("docker: {{resync_interval: 500}}\n{text}")).unwrap();
        std::fs::rename(new, &path).unwrap();
    };
    write("");
    let exporter =
        Setup::new(&engine.host()).without_file().argument(&format!("--config={}", path.display())).start();
    engine.emit(engine.event("start", &id));
    let starts = || {
        let labels = support::exposition::labels([("event", "start"), ("name", "web")]);
        exporter.scrape().select("docker_events", &labels).iter().map(|(_, count)| *count).sum::<f64>()
    };
    eventually(DEADLINE, || if starts() > 0.0 { Ok(()) } else { Err("not counted") });
    let before = starts();
    assert!(!exporter.log().contains("level=debug"));

    write("log_level: debug\n");
    exporter.signal(Signal::HUP);
    logs(&exporter, "log_level=debug");
    // Lists are told of at this level only.
    logs(&exporter, "took over a whole list");

    let more = "log_level: debug\nevents: {retention: 1000}\ncontainers: {names: {excluded: [x]}, encoding: state_set}\n";
    write(&format!("{more}web: {{telemetry_path: /other}}\n"));
    exporter.signal(Signal::HUP);
    logs(&exporter, "restart=\"containers, events\"");
    logs(&exporter, "changed=\"containers.encoding, web\"");
    assert_eq!(exporter.get("/metrics").unwrap().status, 404);
    assert!(exporter.get("/other").unwrap().body.contains("container_state_status{"));
    assert!(exporter.get("/other").unwrap().body.contains("status=\"running\""));
    write(more);
    exporter.signal(Signal::HUP);
    eventually(DEADLINE, || match exporter.get("/metrics") {
        Ok(answer) if answer.status == 200 => Ok(()),
        _ => Err("not at the path before"),
    });

    write("log_level: error\ncontainers: {encodin: code}\n");
    exporter.signal(Signal::HUP);
    logs(&exporter, "unknown key");
    // All of it is left alone, the level too; and what was counted goes on.
    engine.emit(engine.event("start", &id));
    eventually(DEADLINE, || if starts() == before + 1.0 { Ok(()) } else { Err("not counted") });
    let lists = || exporter.log().matches("took over a whole list").count();
    let so_far = lists();
    eventually(DEADLINE, || if lists() > so_far { Ok(()) } else { Err("no longer at the level debug") });
    exporter.stop();
}

#[test]
fn a_sum_of_label_sets_that_are_gone_does_not_fall() {
    let engine = FakeEngine::start().unwrap();
    let view = |selector: &str, stream: serde_json::Value| serde_json::json!({"selector": {"instrument_name": selector}, "stream": stream});
    let by_event = view("docker.events", serde_json::json!({"attribute_keys": {"included": ["event"]}}));
    engine.create(Container::new("stays"));
    let mut exporter = Setup::new(&engine.host())
        .set("/events/retention", 500)
        .set("/meter_provider/views", serde_json::json!([by_event]))
        .start();
    let create = support::exposition::labels([("event", "create")]);
    let created = |exporter: &Exporter| exporter.scrape().find("docker_events", &create);
    let wait = |exporter: &Exporter, wanted: f64| {
        eventually(DEADLINE, || match created(exporter)? {
            sum if sum == wanted => Ok(()),
            sum => Err(format!("{sum}, not {wanted}")),
        });
    };
    for number in 0..5 {
        let id = engine.create(Container::new(&format!("job-{number}")));
        wait(&exporter, f64::from(number) + 1.0);
        engine.destroy(&id);
    }
    engine.create(Container::new("another"));
    wait(&exporter, 6.0);
    // Until what the jobs had counted is gone, but for its part of the sum.
    std::thread::sleep(Duration::from_millis(1_500));
    assert_eq!(created(&exporter), Ok(6.0));
    let dropped = view("container.createdat", serde_json::json!({"aggregation": {"drop": null}}));
    exporter.reload("/meter_provider/views", serde_json::json!([dropped, by_event]));
    let scrape = exporter.scrape();
    assert!(!scrape.families.contains_key("container_createdat"), "the reader is a new one");
    assert_eq!(scrape.value("docker_events", &create), 6.0);
    engine.create(Container::new("a third"));
    wait(&exporter, 7.0);
    exporter.stop();
}
