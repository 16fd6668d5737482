//! Signals at bad moments, and too many of them.

use std::process::Stdio;
use std::time::{Duration, Instant};

use fake_engine::{Container, FakeEngine};
use rustix::process::{Pid, Signal, kill_process};

use crate::program::program;
use crate::support::eventually;
use crate::support::exporter::{Setup, free_address};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_signal_at_any_moment_of_the_start_ends_it() {
    let engine = FakeEngine::start().unwrap();
    for millis in [0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144] {
        let mut child = program(&["--web.listen-address", &free_address().to_string()])
            .env("DOCKER_HOST", engine.host())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        let began = Instant::now();
        kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
        let (status, _) = eventually(SOON, || child.try_wait().unwrap().ok_or("it still runs"));
        // Before it listens for signals, the system ends it; then, before it knows what it is to do, it ends with 1.
        assert!(matches!(status.code(), None | Some(0 | 1)), "after {millis} ms: {status}");
        assert!(began.elapsed() < Duration::from_secs(10), "after {millis} ms: {:?}", began.elapsed());
    }
}

#[test]
fn a_storm_of_hangups_is_weathered() {
    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web"));
    let exporter = Setup::new(&engine.host()).start();
    for _ in 0..300 {
        exporter.signal(Signal::HUP);
        std::thread::sleep(Duration::from_millis(1));
    }
    eventually(SOON, || {
        if exporter.log().contains("nothing has changed in the configuration") {
            Ok(())
        } else {
            Err("not read")
        }
    });
    assert!(exporter.scrape_text().contains("name=\"web\""));
    exporter.stop();
}

#[test]
fn what_was_stopped_goes_on_where_it_was() {
    let engine = FakeEngine::start().unwrap();
    let id = engine.create(Container::new("web"));
    let exporter = Setup::new(&engine.host()).start();
    exporter.signal(Signal::STOP);
    engine.act(&id, "die", |container| container.exited(3, "2026-01-01T00:00:00Z"));
    std::thread::sleep(Duration::from_secs(1));
    exporter.signal(Signal::CONT);
    eventually(SOON, || {
        let text = exporter.scrape_text();
        let shown = text.lines().any(|l| l.starts_with("container_state_exitcode{") && l.ends_with(" 3"));
        if shown { Ok(()) } else { Err(text) }
    });
    exporter.stop();
}
