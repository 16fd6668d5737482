//! The engine is killed, restarted and stopped under an exporter: it never ends, never shows for true what is
//! stale, and is right again within a second of the engine's first answer.
//!
//! One private engine serves all tests, one after the other; see `engine.rs` for why this has a `main` of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use support::agreement::{agrees, counts_agree, expected_counts};
use support::docker::{Docker, IMAGE, Recorder};
use support::exporter::{Exporter, Setup};
use support::inspect::Encoding;
use support::{eventually, run_sharing};

/// Without the engine for so long, nothing of its containers is shown.
const STALE_AFTER: Duration = Duration::from_secs(3);
/// For a timer that is late, and a scrape that has begun before it.
const SLACK: Duration = Duration::from_millis(200);
/// How soon after the engine's first answer everything is right.
const RIGHT_AGAIN: Duration = Duration::from_secs(1);
/// For the engine to start, with what it does about the containers that it finds.
const ENGINE: Duration = Duration::from_secs(60);
/// For what takes milliseconds on an idle machine.
const SOON: Duration = Duration::from_secs(3);
/// A list that never comes: nothing is right because of the next one.
const NEVER: u64 = 3_600_000;

type Case = fn(&mut Docker);

const CASES: [(&str, Case); 6] = [
    ("an_engine_that_is_killed", an_engine_that_is_killed),
    ("an_engine_that_is_killed_with_live_restore", an_engine_that_is_killed_with_live_restore),
    ("an_engine_that_is_restarted", an_engine_that_is_restarted),
    ("an_engine_that_is_restarted_with_live_restore", an_engine_that_is_restarted_with_live_restore),
    ("an_engine_that_is_stopped_and_goes_on", an_engine_that_is_stopped_and_goes_on),
    ("an_engine_that_comes_after_the_exporter", an_engine_that_comes_after_the_exporter),
];

// They share the engine, and end it.
fn main() -> ExitCode {
    run_sharing(Docker::start, trials)
}

fn trials(engine: &Arc<Mutex<Option<Docker>>>) -> Vec<Trial> {
    let trial = |(name, case): (&str, Case)| {
        let engine = Arc::clone(engine);
        Trial::test(name, move || {
            let mut slot = engine.lock().unwrap_or_else(|poisoned| {
                // A test that has failed may have left the engine in any state: the next has another.
                let mut slot = poisoned.into_inner();
                drop(slot.take());
                *slot = Some(Docker::start());
                engine.clear_poison();
                slot
            });
            let docker = slot.as_mut().ok_or("there is no engine")?;
            docker.remove_all()?;
            case(docker);
            Ok(())
        })
    };
    CASES.into_iter().map(trial).collect()
}

fn start_exporter(docker: &Docker) -> Exporter {
    setup(docker).start()
}

fn setup(docker: &Docker) -> Setup {
    let stale_after = u64::try_from(STALE_AFTER.as_millis()).unwrap();
    Setup::new(&docker.host()).set("/docker/stale_after", stale_after).set("/docker/resync_interval", NEVER)
}

/// Some that an engine treats differently when it comes back.
fn make_containers(docker: &Docker) {
    // An engine that does not let them live on stops them, and waits ten seconds for one that does not heed
    // SIGTERM.
    let stop = ["--stop-signal", "KILL"];
    let sleep = ["sleep", "100000"];
    docker.container("running", &stop, &sleep);
    docker.container("comes-back", &[&stop[..], &["--restart", "always"]].concat(), &sleep);
    docker.container("paused", &stop, &sleep);
    docker.run(&["pause", "paused"]);
    docker.container("exited", &[], &["sh", "-c", "exit 3"]);
    docker.wait_for("exited", "/State/Status", "exited");
    docker.run(&["create", "--network", "none", "--name", "created", IMAGE, "true"]);
}

/// What one scrape has shown.
struct Sample {
    began: Instant,
    up: bool,
    containers: usize,
}

/// Scrapes without a pause while something is done; every scrape has to succeed.
fn watched<T>(exporter: &Exporter, what: impl FnOnce() -> T) -> (T, Vec<Sample>) {
    /// Lets the scraping end, whatever ends what is done.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let samples = scope.spawn(|| {
            let (mut samples, mut last) = (Vec::new(), false);
            // One more after the end.
            while !std::mem::replace(&mut last, ended.load(Ordering::Relaxed)) {
                let began = Instant::now();
                let scrape = exporter.scrape();
                let containers = scrape.series("container_state_status").len();
                samples.push(Sample { began, up: scrape.plain("docker_up") == 1.0, containers });
                std::thread::sleep(Duration::from_millis(20));
            }
            samples
        });
        let end = End(&ended);
        let result = what();
        drop(end);
        (result, samples.join().unwrap())
    })
}

/// Has the engine go away and come back, and holds the exporter to what it promises meanwhile.
///
/// `noticed` is how long it may take to say that the engine does not answer.
fn outage(
    docker: &mut Docker,
    exporter: &Exporter,
    noticed: Duration,
    away: impl FnOnce(&mut Docker),
    lasts: Duration,
    back: impl FnOnce(&mut Docker),
) {
    let known = docker.inspect_all().len();
    let ((lost, back, right_after), samples) = watched(exporter, || {
        away(docker);
        let lost = Instant::now();
        eventually(noticed, || match exporter.scrape().plain("docker_up") {
            0.0 => Ok(()),
            up => Err(format!("docker_up is {up}")),
        });
        // Nothing is to restart it for its daemon; but ready it is only while the daemon is followed.
        for (path, status) in [("/-/healthy", 200), ("/-/ready", 503)] {
            assert_eq!(exporter.get(path).unwrap().status, status, "{path}");
        }
        // Nothing to wait for: that nothing is shown all the time is seen in the samples.
        std::thread::sleep(lasts.saturating_sub(lost.elapsed()));
        let back_from = Instant::now();
        back(docker);
        let api = docker.api();
        let (answered, starting) = eventually(ENGINE, || {
            let answer = api.send("GET", "/_ping", None)?;
            if answer.0 == 200 { Ok(Instant::now()) } else { Err(format!("{answer:?}")) }
        });
        eventually(RIGHT_AGAIN, || agrees(docker, exporter, Encoding::Code));
        let right_after = answered.elapsed();
        println!("the engine answered after {starting:?}; all was right {right_after:?} later");
        (lost, back_from, right_after)
    });
    assert!(right_after <= RIGHT_AGAIN + SLACK, "right {right_after:?} after the engine's first answer");

    let between =
        |from: Instant, to: Instant| samples.iter().filter(move |s| from <= s.began && s.began < to);
    let gone = |from: Instant| move |sample: &Sample| format!("{:?}", sample.began - from);
    let up: Vec<_> = between(lost + noticed, back).filter(|s| s.up).map(gone(lost)).collect();
    assert!(up.is_empty(), "docker_up is 1 after the engine was lost, by {up:?}");
    let stale: Vec<_> =
        between(lost + STALE_AFTER + SLACK, back).filter(|s| s.containers > 0).map(gone(lost)).collect();
    assert!(stale.is_empty(), "containers are shown after the engine was lost, by {stale:?}");
    // Not sooner than need be, and never a part of them.
    let kept = between(lost, lost + STALE_AFTER / 2).map(|sample| sample.containers).min();
    assert_eq!(kept, Some(known), "shown while not yet stale");
    assert!(between(lost + STALE_AFTER + SLACK, back).count() >= 10, "too few scrapes to say anything");
}

/// How long an outage lasts that is to outlast `STALE_AFTER`.
const LASTS: Duration = Duration::from_millis(4_500);
/// An engine that is gone ends the stream.
const AT_ONCE: Duration = Duration::from_secs(1);

fn own_counter(exporter: &Exporter, name: &str) -> f64 {
    exporter.scrape().plain(&format!("docker_state_exporter_{name}"))
}

/// An engine that has restarted has forgotten its events: some may have been missed, and that is said once.
fn a_restart(docker: &mut Docker, signal: &str, options: &[&str]) {
    if !options.is_empty() {
        docker.stop_daemon("TERM");
        docker.launch_daemon(options);
        eventually(ENGINE, || docker.api().get("/version"));
    }
    make_containers(docker);
    let exporter = start_exporter(docker);
    agrees(docker, &exporter, Encoding::Code).unwrap();
    docker.run(&["restart", "--time", "0", "running"]);
    eventually(SOON, || agrees(docker, &exporter, Encoding::Code));
    assert_eq!(own_counter(&exporter, "event_gaps_total"), 0.0);
    let process = docker.inspect("running")["State"]["Pid"].as_i64().unwrap();
    outage(
        docker,
        &exporter,
        AT_ONCE,
        |docker| {
            docker.stop_daemon(signal);
            if !options.is_empty() {
                // It lives on, and then no longer, and nobody sees it end.
                docker.kill_process(process);
            }
        },
        LASTS,
        |docker| docker.launch_daemon(options),
    );
    let status = |name: &str| docker.inspect(name)["State"]["Status"].clone();
    assert_eq!(status("running"), "exited");
    assert_eq!(status("comes-back"), "running");
    assert_eq!(status("paused"), if options.is_empty() { "exited" } else { "paused" });
    eventually(SOON, || match own_counter(&exporter, "event_gaps_total") {
        1.0 => Ok(()),
        gaps => Err(format!("event_gaps_total is {gaps}, not 1")),
    });
    docker.run(&["rename", "exited", "ended"]);
    eventually(SOON, || agrees(docker, &exporter, Encoding::Code));
    exporter.stop();
    if !options.is_empty() {
        docker.stop_daemon("TERM");
        docker.start_daemon();
    }
}

fn an_engine_that_is_killed(docker: &mut Docker) {
    a_restart(docker, "KILL", &[]);
}

fn an_engine_that_is_killed_with_live_restore(docker: &mut Docker) {
    a_restart(docker, "KILL", &["--live-restore"]);
}

fn an_engine_that_is_restarted(docker: &mut Docker) {
    a_restart(docker, "TERM", &[]);
}

fn an_engine_that_is_restarted_with_live_restore(docker: &mut Docker) {
    a_restart(docker, "TERM", &["--live-restore"]);
}

/// It accepts connections all the time, for that is the kernel's doing, and it forgets nothing. It stops for
/// eight seconds, or as long as `DSE_STOP_SECONDS` says.
fn an_engine_that_is_stopped_and_goes_on(docker: &mut Docker) {
    let lasts = std::env::var("DSE_STOP_SECONDS").map_or(8, |seconds| seconds.parse().unwrap());
    make_containers(docker);
    let exporter = start_exporter(docker);
    let recorder = Recorder::start(docker);
    docker.run(&["restart", "--time", "0", "running"]);
    eventually(SOON, || agrees(docker, &exporter, Encoding::Code));
    let process = docker.inspect("running")["State"]["Pid"].as_i64().unwrap();
    outage(
        docker,
        &exporter,
        STALE_AFTER,
        |docker| {
            docker.signal_daemon("STOP");
            docker.kill_process(process);
        },
        Duration::from_secs(lasts),
        |docker| docker.signal_daemon("CONT"),
    );
    assert_eq!(docker.inspect("running")["State"]["Status"], "exited");
    docker.run(&["start", "running"]);
    let expected = expected_counts(&recorder.catch_up(docker), &["container"]);
    eventually(SOON, || counts_agree(&exporter, &expected));
    assert!(own_counter(&exporter, "event_streams_total") >= 2.0);
    assert_eq!(own_counter(&exporter, "event_gaps_total"), 0.0);
    eventually(SOON, || agrees(docker, &exporter, Encoding::Code));
    exporter.stop();
}

fn an_engine_that_comes_after_the_exporter(docker: &mut Docker) {
    make_containers(docker);
    docker.stop_daemon("TERM");
    // A sidecar may be there before the socket is.
    let _ = std::fs::remove_file(docker.socket());
    let exporter = setup(docker).spawn();
    eventually(SOON, || match exporter.get("/-/healthy") {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(format!("/-/healthy answers {}", answer.status)),
        Err(error) => Err(error),
    });
    let (right_after, samples) = watched(&exporter, || {
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(exporter.get("/-/ready").unwrap().status, 503);
        assert_eq!(exporter.scrape().plain("docker_up"), 0.0);
        docker.launch_daemon(&[]);
        let api = docker.api();
        let answered = || api.get("/version").map(|_| Instant::now());
        let (answered, _) = eventually(ENGINE, answered);
        eventually(RIGHT_AGAIN, || agrees(docker, &exporter, Encoding::Code));
        answered.elapsed()
    });
    println!("all was right {right_after:?} after the engine's first answer");
    assert!(right_after <= RIGHT_AGAIN + SLACK, "right {right_after:?} after the engine's first answer");
    assert!(samples.iter().any(|sample| !sample.up));
    // Nothing before everything.
    let counts: std::collections::BTreeSet<_> = samples.iter().map(|sample| sample.containers).collect();
    assert_eq!(counts, [0, docker.inspect_all().len()].into());
    assert_eq!(own_counter(&exporter, "event_gaps_total"), 0.0);
    exporter.stop();
}
