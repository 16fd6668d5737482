//! Against a real Podman: what `/metrics` says is what `podman inspect` and `podman events` say, in Docker's words.
//!
//! One private Podman serves all tests, one after the other; each begins without containers. As in `engine.rs`,
//! `main` owns it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use support::agreement::{agree, counts_agree, expected_counts};
use support::docker::Api;
use support::exporter::{Exporter, Setup};
use support::exposition::labels;
use support::inspect::Encoding;
use support::podman::{IMAGE, Podman, Recorder};
use support::{eventually, run_sharing};

/// How soon after a change `/metrics` has to be right. Podman looks into its own event log four times a second; the
/// rest is for a busy machine and for the two inspects that a comparison needs.
const SOON: Duration = Duration::from_secs(5);

/// A list that comes so seldom that nothing here can be right because of it.
const NEVER: u64 = 3_600_000;

const SLEEP: [&str; 2] = ["sleep", "100000"];

/// Health checks that nobody runs but the test. They take longer than Podman takes to tell that they have begun.
const CHECK: [&str; 6] = [
    "--health-cmd",
    "sleep 0.5; test ! -e /tmp/ill",
    "--health-interval",
    "disable",
    "--health-retries",
    "1",
];

type Case = fn(&Podman);

const CASES: [(&str, Case); 7] = [
    ("every_change_is_what_podman_inspect_says", every_change_is_what_podman_inspect_says),
    ("a_probe_that_is_stopped_is_no_failure", a_probe_that_is_stopped_is_no_failure),
    ("events_are_counted_as_podman_events_tells_them", events_are_counted_as_podman_events_tells_them),
    (
        "what_happens_without_the_service_is_told_by_the_next",
        what_happens_without_the_service_is_told_by_the_next,
    ),
    (
        "an_event_log_that_is_rotated_costs_no_event_untold",
        an_event_log_that_is_rotated_costs_no_event_untold,
    ),
    (
        "headers_that_come_with_the_first_event_are_not_waited_for",
        headers_that_come_with_the_first_event_are_not_waited_for,
    ),
    (
        "a_service_that_ends_when_idle_stays_while_it_is_followed",
        a_service_that_ends_when_idle_stays_while_it_is_followed,
    ),
];

// They share Podman, and compare all that it has.
fn main() -> ExitCode {
    run_sharing(Podman::start, trials)
}

fn trials(podman: &Arc<Mutex<Option<Podman>>>) -> Vec<Trial> {
    let trial = |(name, case): (&str, Case)| {
        let podman = Arc::clone(podman);
        Trial::test(name, move || {
            // A test that has failed has poisoned it; what it had is removed first.
            let podman = podman.lock().unwrap_or_else(PoisonError::into_inner);
            let podman = podman.as_ref().ok_or("there is no Podman")?;
            podman.remove_all()?;
            podman.ensure_service();
            case(podman);
            Ok(())
        })
    };
    CASES.into_iter().map(trial).collect()
}

/// Compares every gauge of every container. What changes meanwhile cannot be compared, so the containers have to
/// be the same before and after the scrape.
fn agrees(podman: &Podman, exporter: &Exporter) -> Result<(), String> {
    agree(|| podman.inspect_all(), exporter, Encoding::Code)
}

/// What a container's first and only process fills memory with, beyond what `-m 16m` allows.
const FILL: [&str; 4] = ["dd", "if=/dev/zero", "of=/dev/null", "bs=64M"];

/// Has a container killed for memory, and Podman know it: before version 5 it looks for conmon's note of it in
/// another directory than the one that it has started conmon in, unless they are the same.
fn run_out_of_memory(podman: &Podman, name: &str) {
    if !podman.can_limit_memory() {
        println!(
            "memory cannot be limited here: cgroup2 has no such controller, and this Podman knows no other"
        );
        return;
    }
    let id = podman.create(name, &["--memory", "16m"], &FILL);
    podman.try_run_in(&podman.bundle(&id), &["start", name]).unwrap();
    podman.wait_for(name, "/State/Status", "exited");
    podman.wait_for(name, "/State/OOMKilled", true);
}

fn every_change_is_what_podman_inspect_says(podman: &Podman) {
    let exporter = Setup::new(&podman.host()).set("/docker/resync_interval", NEVER).start();
    podman.container("bystander", &["--restart", "unless-stopped", "--hostname", "inside"], &SLEEP);
    let mut slowest = (Duration::ZERO, String::new());
    let mut check = |what: &str| {
        let began = std::time::Instant::now();
        loop {
            match agrees(podman, &exporter) {
                Ok(()) => break,
                Err(mismatch) if began.elapsed() > SOON => panic!("after {what}:\n{mismatch}"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        slowest = slowest.clone().max((began.elapsed(), what.to_owned()));
    };
    let run = |arguments: &[&str]| drop(podman.run(arguments));
    let probe = |name: &str| drop(podman.try_run(&["healthcheck", "run", name]));
    check("run");
    podman.create("web", &[&["--label", "team=blue"], &CHECK[..]].concat(), &SLEEP);
    check("create");
    run(&["init", "web"]);
    assert_eq!(podman.inspect("web")["State"]["Status"], "initialized");
    check("init");
    run(&["start", "web"]);
    podman.wait_for("web", "/State/Health/Status", "starting");
    check("start");
    probe("web");
    podman.wait_for("web", "/State/Health/Status", "healthy");
    check("a good probe");
    run(&["exec", "web", "touch", "/tmp/ill"]);
    probe("web");
    podman.wait_for("web", "/State/Health/Status", "unhealthy");
    check("a failed probe");
    probe("web");
    podman.wait_for("web", "/State/Health/FailingStreak", 2);
    check("another failed probe");
    run(&["exec", "web", "rm", "/tmp/ill"]);
    probe("web");
    podman.wait_for("web", "/State/Health/Status", "healthy");
    check("a good probe again");
    run(&["rename", "web", "shop"]);
    check("rename");
    run(&["pause", "shop"]);
    podman.wait_for("shop", "/State/Status", "paused");
    check("pause");
    run(&["unpause", "shop"]);
    check("unpause");
    run(&["restart", "--time", "0", "shop"]);
    check("restart");
    run(&["stop", "--time", "0", "shop"]);
    check("stop");
    run(&["start", "shop"]);
    check("start again");
    run(&["kill", "shop"]);
    podman.wait_for("shop", "/State/ExitCode", 137);
    check("kill");
    run(&["rm", "shop"]);
    check("rm");

    podman.container("exits", &[], &["sh", "-c", "exit 3"]);
    podman.wait_for("exits", "/State/ExitCode", 3);
    check("an exit code");
    run_out_of_memory(podman, "hungry");
    check("a kill for memory");
    podman.container("again", &["--restart", "on-failure:2"], &["sh", "-c", "exit 4"]);
    podman.wait_for("again", "/RestartCount", 2);
    podman.wait_for("again", "/State/Status", "exited");
    check("restarts by the policy");
    podman.container("running", &[], &SLEEP);
    check("one more");
    run(&["rm", "--force", "--time", "0", "running"]);
    check("rm --force");
    podman.container("short", &["--rm"], &["true"]);
    eventually(SOON, || {
        if podman.try_run(&["inspect", "short"]).is_err() { Ok(()) } else { Err("it is still there") }
    });
    check("run --rm");
    podman.pod("pod");
    podman.container("member", &["--pod", "pod"], &SLEEP);
    let own = |inspect: &Value| inspect["Name"].as_str().is_some_and(|name| name.ends_with("-infra"));
    assert!(podman.inspect_all().unwrap().iter().any(own), "the pod's own container is among them");
    check("a pod");
    run(&["pod", "stop", "--time", "0", "pod"]);
    check("pod stop");
    run(&["pod", "rm", "--force", "--time", "0", "pod"]);
    check("pod rm");
    podman.remove_all().unwrap();
    check("the removal of all");
    println!("slowest: {slowest:?}");
    let log = exporter.stop();
    assert!(!log.contains("cannot be read"), "{log}");
}

/// From 5.5 on, the health of a container that ends under its probe is `stopped`.
fn a_probe_that_is_stopped_is_no_failure(podman: &Podman) {
    let exporter = Setup::new(&podman.host()).set("/docker/resync_interval", NEVER).start();
    let probe = ["--health-cmd", "touch /tmp/begun; sleep 100000", "--health-interval", "disable"];
    podman.container("web", &probe, &SLEEP);
    podman.start_in_background(&["healthcheck", "run", "web"]);
    eventually(SOON, || podman.try_run(&["exec", "web", "test", "-e", "/tmp/begun"]));
    podman.run(&["stop", "--time", "0", "web"]);
    if podman.version() >= (5, 5) {
        podman.wait_for("web", "/State/Health/Status", "stopped");
    }
    eventually(SOON, || agrees(podman, &exporter));
    podman.run(&["start", "web"]);
    eventually(SOON, || agrees(podman, &exporter));
    exporter.stop();
}

fn events_are_counted_as_podman_events_tells_them(podman: &Podman) {
    podman.container("old", &[], &SLEEP);
    let types = ["container", "image", "pod"];
    // With many lists: none may show what no event has told, and put the stream in doubt.
    let exporter = Setup::new(&podman.host())
        .set("/events/types", json!(types))
        .set("/docker/resync_interval", 500)
        .start();
    let recorder = Recorder::start(podman);
    let run = |arguments: &[&str]| drop(podman.run(arguments));
    let kubernetes = [
        "--label=io.kubernetes.pod.name=ldap-2246486038-30nc1",
        "--label=io.kubernetes.pod.namespace=int2",
        "--label=io.kubernetes.container.name=ldap",
    ];
    podman.container("web", &[&kubernetes[..], &CHECK].concat(), &SLEEP);
    for step in ["true", "touch /tmp/ill", "true"] {
        run(&["exec", "web", "sh", "-c", step]);
        let _ = podman.try_run(&["healthcheck", "run", "web"]);
    }
    run(&["pause", "web"]);
    run(&["unpause", "web"]);
    run(&["rename", "web", "shop"]);
    run(&["restart", "--time", "0", "shop"]);
    run(&["kill", "--signal", "USR1", "shop"]);
    run(&["stop", "--time", "0", "shop"]);
    run(&["start", "shop"]);
    run(&["kill", "shop"]);
    podman.wait_for("shop", "/State/Status", "exited");
    run(&["rm", "shop"]);
    run_out_of_memory(podman, "hungry");
    podman.container("again", &["--restart", "on-failure:2"], &["sh", "-c", "exit 4"]);
    podman.wait_for("again", "/RestartCount", 2);
    podman.wait_for("again", "/State/Status", "exited");
    for _ in 0..5 {
        run(&["run", "--rm", "--name", "job", IMAGE, "true"]);
    }
    podman.container("running", &[], &SLEEP);
    run(&["rm", "--force", "--time", "0", "running"]);
    run(&["tag", IMAGE, "localhost/other:tag"]);
    run(&["untag", IMAGE, "localhost/other:tag"]);
    podman.pod("pod");
    podman.container("member", &["--pod", "pod"], &SLEEP);
    run(&["pod", "rm", "--force", "--time", "0", "pod"]);

    let expected = expected_counts(&recorder.catch_up(), &types);
    for action in [
        "create",
        "init",
        "start",
        "die",
        "cleanup",
        "destroy",
        "kill",
        "pause",
        "unpause",
        "rename",
        "restart",
        "exec_start",
        "exec_die",
        "health_status: healthy",
        "health_status: unhealthy",
    ] {
        let there = expected.keys().any(|l| l["event"] == action && l["type"] == "container");
        assert!(there, "no event {action}: {expected:#?}");
    }
    for (kind, action) in [("image", "tag"), ("pod", "create"), ("pod", "remove")] {
        let there = expected.keys().any(|l| l["event"] == action && l["type"] == kind);
        assert!(there, "no {kind} event {action}: {expected:#?}");
    }
    assert!(expected.keys().any(|l| l.get("pod").is_some_and(|pod| pod == "ldap-2246486038-30nc1")));
    eventually(SOON, || counts_agree(&exporter, &expected));
    let scrape = exporter.scrape();
    for action in ["die", "oom", "start", "health_status: unhealthy"] {
        let with = labels([("event", action), ("type", "container"), ("name", "old"), ("image", IMAGE)]);
        assert_eq!(scrape.value("docker_events", &with), 0.0, "{action}");
    }
    // Containers that went away while they were inspected are gone, and no failure.
    let failed = labels([("result", "error")]);
    assert_eq!(scrape.value("docker_state_exporter_inspects_total", &failed), 0.0);
    assert_eq!(scrape.plain("docker_state_exporter_event_streams_total"), 1.0);
    exporter.stop();
}

fn what_happens_without_the_service_is_told_by_the_next(podman: &Podman) {
    podman.container("old", &[], &SLEEP);
    let exporter = Setup::new(&podman.host()).set("/docker/resync_interval", NEVER).start();
    let recorder = Recorder::start(podman);
    podman.run(&["kill", "--signal", "USR1", "old"]);
    podman.container("stays", &[], &SLEEP);
    for signal in ["KILL", "TERM"] {
        eventually(SOON, || agrees(podman, &exporter));
        podman.stop_service(signal);
        eventually(SOON, || match exporter.scrape().plain("docker_up") {
            0.0 => Ok(()),
            up => Err(format!("docker_up is {up}")),
        });
        podman.run(&["kill", "--signal", "USR1", "old"]);
        podman.run(&["restart", "--time", "0", "stays"]);
        podman.container("job", &[], &["sh", "-c", "exit 5"]);
        podman.wait_for("job", "/State/Status", "exited");
        podman.run(&["rm", "job"]);
        podman.start_service(&["--time", "0"]);
        eventually(SOON, || agrees(podman, &exporter));
    }
    let expected = expected_counts(&recorder.catch_up(), &["container"]);
    eventually(SOON, || counts_agree(&exporter, &expected));
    let scrape = exporter.scrape();
    assert_eq!(scrape.plain("docker_state_exporter_event_gaps_total"), 0.0);
    assert_eq!(scrape.plain("docker_state_exporter_event_streams_total"), 3.0);
    exporter.stop();
}

fn an_event_log_that_is_rotated_costs_no_event_untold(podman: &Podman) {
    // About a hundred events; half of them are kept.
    podman.stop_service("TERM");
    podman.configure("32k");
    podman.start_service(&["--time", "0"]);
    podman.container("old", &[], &SLEEP);
    let exporter = Setup::new(&podman.host()).set("/docker/resync_interval", NEVER).start();
    let api = Api::new(podman.socket());
    let kills = labels([("event", "kill"), ("type", "container"), ("name", "old"), ("image", IMAGE)]);
    let mut sent = 0;
    while sent < 300 {
        // Fewer than are kept: what Podman drops before anybody has read it is lost.
        for _ in 0..25 {
            let (status, body) = api.send("POST", "/containers/old/kill?signal=USR1", None).unwrap();
            assert_eq!(status, 204, "{body}");
            sent += 1;
        }
        eventually(SOON, || {
            let scrape = exporter.scrape();
            let found = scrape.find("docker_events", &kills)?;
            // From 5.4 on Podman's stream leaves out events as it rotates, which is told then.
            let is_told = scrape.plain("docker_state_exporter_event_gaps_total") > 0.0;
            let is_right = found == f64::from(sent) || is_told && found <= f64::from(sent);
            if is_right { Ok(()) } else { Err(format!("{found} of {sent}")) }
        });
    }
    let scrape = exporter.scrape();
    let streams = scrape.plain("docker_state_exporter_event_streams_total");
    let (found, gaps) = (
        scrape.find("docker_events", &kills).unwrap(),
        scrape.plain("docker_state_exporter_event_gaps_total"),
    );
    println!("{found} of {sent} events, {gaps} gaps told");
    assert!(streams > 1.0 || gaps > 0.0, "the log was not rotated");
    assert!(found == f64::from(sent) || gaps > 0.0, "{found} of {sent}, and nobody was told");
    eventually(SOON, || agrees(podman, &exporter));
    exporter.stop();
    podman.stop_service("TERM");
    podman.configure("1m");
    podman.start_service(&["--time", "0"]);
}

/// A socket before the service's. It holds the headers of an event stream back until the first event, as Podman 5.1
/// and 5.2 do.
struct LateHeaders {
    socket: PathBuf,
    held: Arc<AtomicBool>,
}

impl LateHeaders {
    fn start(service: &Path) -> Self {
        let socket = service.with_file_name("late.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let held = Arc::new(AtomicBool::new(false));
        let (service, all_held) = (service.to_owned(), Arc::clone(&held));
        // It ends with the process.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (mut client, mut server) = (client.unwrap(), UnixStream::connect(&service).unwrap());
                let (mut from_client, mut from_server) =
                    (client.try_clone().unwrap(), server.try_clone().unwrap());
                let (hold, held) = (Arc::new(AtomicBool::new(false)), Arc::clone(&all_held));
                let holding = Arc::clone(&hold);
                std::thread::spawn(move || {
                    while let Some(request) = chunk(&mut from_client) {
                        if String::from_utf8_lossy(&request).lines().next().unwrap().contains("/events?") {
                            hold.store(true, Ordering::SeqCst);
                            held.store(true, Ordering::SeqCst);
                        }
                        if server.write_all(&request).is_err() {
                            break;
                        }
                    }
                    let _ = server.shutdown(std::net::Shutdown::Both);
                });
                let held = Arc::clone(&all_held);
                std::thread::spawn(move || {
                    let mut answer = Vec::new();
                    while let Some(bytes) = chunk(&mut from_server) {
                        answer.extend(bytes);
                        let end = answer.windows(4).position(|window| window == b"\r\n\r\n");
                        if holding.load(Ordering::SeqCst) && end.is_none_or(|end| end + 4 == answer.len()) {
                            continue;
                        }
                        if holding.swap(false, Ordering::SeqCst) {
                            held.store(false, Ordering::SeqCst);
                        }
                        if client.write_all(&std::mem::take(&mut answer)).is_err() {
                            break;
                        }
                    }
                    let _ = client.shutdown(std::net::Shutdown::Both);
                });
            }
        });
        Self { socket, held }
    }

    fn holds(&self) -> bool {
        self.held.load(Ordering::SeqCst)
    }
}

/// What comes next; nothing at the end.
fn chunk(stream: &mut UnixStream) -> Option<Vec<u8>> {
    let mut buffer = vec![0; 65_536];
    let length = stream.read(&mut buffer).ok().filter(|&length| length > 0)?;
    buffer.truncate(length);
    Some(buffer)
}

fn headers_that_come_with_the_first_event_are_not_waited_for(podman: &Podman) {
    podman.container("old", &[], &SLEEP);
    let late = LateHeaders::start(&podman.socket());
    let host = format!("unix://{}", late.socket.display());
    let exporter =
        Setup::new(&host).set("/docker/resync_interval", NEVER).set("/docker/timeout", 1_000).start();
    eventually(SOON, || agrees(podman, &exporter));
    assert!(late.holds(), "it need not have waited");
    let recorder = Recorder::start(podman);
    // Longer than any call may take: that nothing happens is no reason to begin anew.
    std::thread::sleep(Duration::from_secs(2));
    assert!(late.holds(), "something has happened");
    podman.run(&["kill", "old"]);
    podman.wait_for("old", "/State/Status", "exited");
    eventually(SOON, || agrees(podman, &exporter));
    assert!(!late.holds());
    let expected = expected_counts(&recorder.catch_up(), &["container"]);
    eventually(SOON, || counts_agree(&exporter, &expected));
    let scrape = exporter.scrape();
    assert_eq!(scrape.plain("docker_state_exporter_event_streams_total"), 1.0);
    exporter.stop();
}

fn a_service_that_ends_when_idle_stays_while_it_is_followed(podman: &Podman) {
    podman.stop_service("TERM");
    podman.start_service(&["--time", "1"]);
    let exporter = Setup::new(&podman.host()).start();
    // The exporter's pings are five seconds apart by default.
    std::thread::sleep(Duration::from_secs(3));
    assert!(podman.service_runs(), "{}", podman.log());
    assert_eq!(exporter.scrape().plain("docker_state_exporter_event_streams_total"), 1.0);
    exporter.stop();
    eventually(SOON, || if podman.service_runs() { Err("it still runs") } else { Ok(()) });
    podman.stop_service("KILL");
    podman.start_service(&["--time", "0"]);
}
