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
