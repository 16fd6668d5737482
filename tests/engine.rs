//! Against a real Docker Engine: what `/metrics` says is what `docker inspect` and the events say.
//!
//! One private engine serves all tests, one after the other; each begins without containers. The harness is not
//! Rust's own because that never drops a static: here `main` owns the engine, and ends it after the last test,
//! whether it passed or not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libtest_mimic::Trial;
use serde_json::{Value, json};
use support::agreement::{agrees, counts_agree, expected_counts};
use support::certificates::Authority;
use support::docker::{Docker, FILL, IMAGE, LIMIT, Recorder, program};
use support::exporter::{Setup, free_address};
use support::exposition::{Exposition, Labels, labels};
use support::inspect::{Encoding, compare};
use support::{eventually, run_sharing};

/// How soon after a change `/metrics` has to be right. It takes milliseconds; the rest is for a busy machine and
/// for the two inspects that a comparison needs.
const SOON: Duration = Duration::from_secs(3);

/// For three runs of what the restart policy starts at once, then less and less soon.
const THREE_RESTARTS: Duration = Duration::from_secs(15);

/// A list that comes so seldom that nothing here can be right because of it.
const NEVER: u64 = 3_600_000;

type Case = fn(&Docker);

const CASES: [(&str, Case); 12] = [
    ("every_state_is_what_inspect_says", every_state_is_what_inspect_says),
    ("every_change_is_what_inspect_says", every_change_is_what_inspect_says),
    ("what_only_a_hint_tells_is_shown_at_once", what_only_a_hint_tells_is_shown_at_once),
    ("what_no_event_tells_is_found_by_the_next_list", what_no_event_tells_is_found_by_the_next_list),
    ("why_runs_end_and_what_needs_attention", why_runs_end_and_what_needs_attention),
    ("events_are_counted_as_the_engine_tells_them", events_are_counted_as_the_engine_tells_them),
    ("events_of_other_types_are_counted_when_asked_for", events_of_other_types_are_counted_when_asked_for),
    ("a_pods_container_that_is_killed_for_memory_counts", a_pods_container_that_is_killed_for_memory_counts),
    ("names_and_labels_choose_what_is_shown", names_and_labels_choose_what_is_shown),
    ("tls_is_spoken_as_the_docker_command_speaks_it", tls_is_spoken_as_the_docker_command_speaks_it),
    ("the_socket_proxy_lets_the_five_requests_through", the_socket_proxy_lets_the_five_requests_through),
    ("promtool_complains_of_nothing_but_the_fixed_names", promtool_complains_of_nothing_but_the_fixed_names),
];

// They share the engine, and compare all that it has.
fn main() -> ExitCode {
    run_sharing(Docker::start, trials)
}

fn trials(engine: &Arc<Mutex<Option<Docker>>>) -> Vec<Trial> {
    let trial = |(name, case): (&str, Case)| {
        let engine = Arc::clone(engine);
        Trial::test(name, move || {
            // A test that has failed has poisoned it; the engine is none the worse.
            let engine = engine.lock().unwrap_or_else(PoisonError::into_inner);
            let docker = engine.as_ref().ok_or("there is no engine")?;
            docker.remove_all()?;
            case(docker);
            Ok(())
        })
    };
    CASES.into_iter().map(trial).collect()
}

fn every_state_is_what_inspect_says(docker: &Docker) {
    let sleep = ["sleep", "100000"];
    docker.run(&["create", "--network", "none", "--name", "created", IMAGE, "true"]);
    docker.container("running", &["--hostname", "inside", "--restart", "unless-stopped"], &sleep);
    docker.container(
        "labelled",
        &[
            "--label=com.docker.compose.project=shop",
            "--label=Team-Name=Café \"Blue\"",
            "--label=lines=one\ntwo\\three",
            "--label=a.b=dot",
            "--label=a_b=underscore",
            "--label=A-B=dash",
            "--label=name=not-the-name",
            "--label=1st=digit",
            "--label=empty=",
        ],
        &sleep,
    );
    docker.container("paused", &[], &sleep);
    docker.run(&["pause", "paused"]);
    docker.container("loop", &["--restart", "always"], &["sh", "-c", "exit 3"]);
    docker.container("gave-up", &["--restart", "on-failure:2"], &["sh", "-c", "exit 4"]);
    docker.container("exited-0", &[], &["true"]);
    docker.container("exited-3", &[], &["sh", "-c", "exit 3"]);
    docker.container("stopped", &["--stop-signal", "KILL"], &sleep);
    docker.run(&["stop", "stopped"]);
    docker.container("oom", &LIMIT, &FILL);
    let not_there = ["create", "--network", "none", "--name", "cannot-start", IMAGE, "/no/such/program"];
    docker.run(&not_there);
    docker.try_run(&["start", "cannot-start"]).expect_err("there is no such program");
    docker.container("healthy", &["--health-cmd", "true", "--health-interval", "1s"], &sleep);
    // It fails twice and then hangs, so that the streak of failures stays.
    let fail = "echo >>/tmp/n; [ $(wc -l </tmp/n) -le 2 ] || sleep 100000; exit 1";
    let often = ["--health-interval", "1s", "--health-retries", "2", "--health-timeout", "3h"];
    docker.container("unhealthy", &[&["--health-cmd", fail], &often[..]].concat(), &sleep);
    docker.container("starting", &["--health-cmd", "true", "--health-interval", "1h"], &sleep);
    docker.container("unchecked", &["--no-healthcheck"], &sleep);
    docker.container("k8s_ldap_ldap-2246486038-30nc1_int2_uid_0", &K8S_LABELS, &sleep);
    let dead = docker.make_dead("dead");

    docker.wait_for("oom", "/State/OOMKilled", true);
    docker.wait_for("gave-up", "/RestartCount", 2);
    docker.wait_for("gave-up", "/State/Status", "exited");
    docker.wait_for("healthy", "/State/Health/Status", "healthy");
    docker.wait_for("unhealthy", "/State/Health/Status", "unhealthy");
    docker.wait_for("unhealthy", "/State/Health/FailingStreak", 2);
    docker.wait_for("loop", "/State/Status", "restarting");

    let inspects = docker.inspect_all();
    let seen = |pointer: &str| -> BTreeSet<String> {
        inspects.iter().filter_map(|i| i.pointer(pointer)?.as_str().map(str::to_owned)).collect()
    };
    let states = ["created", "dead", "exited", "paused", "restarting", "running"];
    assert_eq!(seen("/State/Status"), states.map(str::to_owned).into());
    let healths = seen("/State/Health/Status");
    assert!(["healthy", "starting", "unhealthy"].iter().all(|h| healths.contains(*h)), "{healths:?}");
    assert_eq!(inspects.len(), 17);

    for (encoding, name) in [(Encoding::Code, "code"), (Encoding::StateSet, "state_set")] {
        let exporter = Setup::new(&docker.host()).set("/containers/encoding", name).start();
        eventually(SOON, || agrees(docker, &exporter, encoding));
        exporter.stop();
    }
    drop(dead);
}

fn why_runs_end_and_what_needs_attention(docker: &Docker) {
    let start = || Setup::new(&docker.host()).set("/docker/resync_interval", NEVER).start();
    let exporter = start();
    // The first process of a container ignores what it has no handler for.
    let sleep = ["sleep", "100000"];
    let heeds = |signal: &str| format!("trap 'exit 0' {signal}; while :; do sleep 0.1; done");
    let expect = |what: &str| format!("--label=docker-state-exporter.expect={what}");
    docker.container("completed", &[], &["true"]);
    docker.container("error", &[], &["sh", "-c", "exit 3"]);
    docker.container("signal", &[], &["sh", "-c", "exit 139"]);
    docker.container("oom", &LIMIT, &FILL);
    docker.container("stopped", &[], &["sh", "-c", &heeds("TERM")]);
    docker.container("own-signal", &["--stop-signal", "USR1"], &["sh", "-c", &heeds("USR1")]);
    docker.container("stop-timeout", &[], &sleep);
    docker.container("killed", &[], &sleep);
    docker.container("removed", &[], &sleep);
    docker.container("down", &[&expect("running")], &["sh", "-c", "exit 3"]);
    docker.container("ignored", &[&expect("ignore")], &["sh", "-c", "exit 3"]);
    docker.container("armed", &["--restart", "unless-stopped"], &sleep);
    docker.container("disarmed", &["--restart", "unless-stopped"], &sleep);
    docker.container("loop", &["--restart", "always"], &["sh", "-c", "exit 3"]);
    docker.container(
        "unhealthy",
        &["--health-cmd", "false", "--health-interval", "1s", "--health-retries", "1"],
        &sleep,
    );
    let created = |name: &str, policy: &str, program: &str| {
        docker.run(&["create", "--network", "none", "--restart", policy, "--name", name, IMAGE, program]);
    };
    created("not-started", "always", "true");
    created("cannot-start", "no", "/no/such/program");
    docker.try_run(&["start", "cannot-start"]).expect_err("there is no such program");
    // The traps have to be set.
    std::thread::sleep(Duration::from_millis(500));
    docker.run(&["stop", "stopped", "own-signal"]);
    docker.run(&["stop", "--time", "1", "stop-timeout"]);
    docker.run(&["kill", "killed"]);
    docker.run(&["kill", "--signal", "HUP", "disarmed"]);
    docker.run(&["rm", "--force", "removed"]);
    docker.wait_for("oom", "/State/OOMKilled", true);
    docker.wait_for("unhealthy", "/State/Health/Status", "unhealthy");

    let attention: BTreeMap<_, _> = [
        ("cannot-start", "start_failed"),
        ("down", "down"),
        ("error", "failed"),
        ("loop", "restarting"),
        ("not-started", "not_started"),
        ("oom", "failed"),
        ("signal", "failed"),
        ("unhealthy", "unhealthy"),
    ]
    .into();
    let mut ends: BTreeMap<_, _> = [
        ("completed", "completed"),
        ("down", "error"),
        ("error", "error"),
        ("ignored", "error"),
        ("killed", "killed"),
        ("loop", "error"),
        ("oom", "oom"),
        ("own-signal", "stopped"),
        ("signal", "signal"),
        ("stop-timeout", "stop_timeout"),
        ("stopped", "stopped"),
    ]
    .into();
    let same = |family: &str, expected: &BTreeMap<&str, &str>, scrape: &Exposition| {
        let found = scrape.series(family);
        let found: BTreeMap<&str, &str> =
            found.keys().map(|labels| (&*labels["name"], &*labels["reason"])).collect();
        if found == *expected { Ok(()) } else { Err(format!("{family}: {found:#?}, expected {expected:#?}")) }
    };
    eventually(THREE_RESTARTS, || {
        let scrape = exporter.scrape();
        same("container_state_exit_reason", &ends, &scrape)?;
        same("container_attention", &attention, &scrape)?;
        for (name, reason) in
            ends.iter().chain([(&"removed", &"killed")]).filter(|(name, _)| **name != "loop")
        {
            let with = labels([("name", name), ("image", IMAGE), ("reason", reason)]);
            if scrape.find("container_exits", &with)? != 1.0 {
                return Err(format!("container_exits of {name}"));
            }
        }
        let disarmed: BTreeMap<String, f64> = scrape
            .series("container_restart_policy_disarmed")
            .into_iter()
            .map(|(mut labels, value)| (labels.remove("name").unwrap(), value))
            .collect();
        let expected = [("armed".to_owned(), 0.0), ("disarmed".to_owned(), 1.0)].into();
        if disarmed == expected { Ok(()) } else { Err(format!("disarmed: {disarmed:?}")) }
    });
    let log = exporter.stop();
    let line = log.lines().find(|line| line.contains("action=die") && line.contains("name=stop-timeout"));
    assert!(line.is_some_and(|line| line.contains("reason=stop_timeout")), "{line:?}");

    // Another exporter has seen nothing of it. What is left tells of failures, and nothing is made up.
    let exporter = start();
    for name in ["completed", "killed", "own-signal", "signal", "stop-timeout", "stopped"] {
        ends.insert(name, "unknown");
    }
    eventually(SOON, || {
        let scrape = exporter.scrape();
        same("container_state_exit_reason", &ends, &scrape)?;
        let mut found = attention.clone();
        // It takes three ends to know a loop, and nobody has seen this one's signal.
        found.remove("signal");
        let shown = scrape.series("container_attention");
        let is_looping = shown.keys().any(|labels| labels["name"] == "loop");
        if !is_looping {
            found.remove("loop");
        }
        same("container_attention", &found, &scrape)
    });
    exporter.stop();
}

fn every_change_is_what_inspect_says(docker: &Docker) {
    let exporter = Setup::new(&docker.host()).set("/docker/resync_interval", NEVER).start();
    agrees(docker, &exporter, Encoding::Code).unwrap();
    docker.container("bystander", &["--health-cmd", "true", "--health-interval", "1h"], &["sleep", "100000"]);
    let mut slowest = (Duration::ZERO, String::new());
    let mut check = |what: &str| {
        let began = std::time::Instant::now();
        loop {
            match agrees(docker, &exporter, Encoding::Code) {
                Ok(()) => break,
                Err(mismatch) if began.elapsed() > SOON => panic!("after {what}:\n{mismatch}"),
                Err(_) => std::thread::sleep(Duration::from_millis(5)),
            }
        }
        slowest = slowest.clone().max((began.elapsed(), what.to_owned()));
    };
    check("run");
    let run = |arguments: &[&str]| docker.run(arguments);
    let health = ["--health-cmd", "test ! -e /tmp/ill", "--health-interval", "1s", "--health-retries", "1"];
    let options = ["--network", "none", "--name", "web", "--label", "team=blue"];
    run(&[&["create"], &options[..], &health[..], &[IMAGE, "sleep", "100000"]].concat());
    check("create");
    run(&["start", "web"]);
    check("start");
    docker.wait_for("web", "/State/Health/Status", "healthy");
    check("health_status: healthy");
    // The failing streak grows with each probe, and no event tells of that: see the next test. Here the second
    // probe hangs.
    run(&["exec", "web", "touch", "/tmp/ill"]);
    docker.wait_for("web", "/State/Health/Status", "unhealthy");
    run(&["exec", "web", "rm", "/tmp/ill"]);
    docker.wait_for("web", "/State/Health/Status", "healthy");
    check("health_status: unhealthy, and healthy again");
    run(&["rename", "web", "shop"]);
    check("rename");
    run(&["update", "--restart", "on-failure:5", "shop"]);
    check("update");
    run(&["exec", "shop", "true"]);
    check("exec");
    run(&["pause", "shop"]);
    check("pause");
    run(&["unpause", "shop"]);
    check("unpause");
    run(&["restart", "--time", "0", "shop"]);
    check("restart");
    run(&["stop", "--time", "0", "shop"]);
    check("stop");
    run(&["start", "shop"]);
    check("start again");
    run(&["update", "--restart", "no", "shop"]);
    run(&["kill", "shop"]);
    check("kill");
    run(&["rm", "shop"]);
    check("rm");

    docker.container("hungry", &LIMIT, &FILL);
    docker.wait_for("hungry", "/State/OOMKilled", true);
    docker.wait_for("hungry", "/State/Status", "exited");
    check("a kill for memory");
    docker.container("again", &["--restart", "on-failure:2"], &["sh", "-c", "exit 4"]);
    docker.wait_for("again", "/RestartCount", 2);
    docker.wait_for("again", "/State/Status", "exited");
    check("restarts by the policy");
    run(&["start", "again"]);
    docker.wait_for("again", "/RestartCount", 2);
    docker.wait_for("again", "/State/Status", "exited");
    check("restarts by the policy, after a start by hand");
    docker.container("loop", &["--restart", "always"], &["sh", "-c", "exit 3"]);
    docker.wait_for("loop", "/RestartCount", 4);
    check("a restart loop");
    run(&["rm", "--force", "loop"]);
    check("rm --force");
    docker.container("short", &["--rm"], &["true"]);
    eventually(SOON, || {
        if docker.try_run(&["inspect", "short"]).is_err() { Ok(()) } else { Err("it is still there") }
    });
    check("run --rm");
    // The same name, another container.
    docker.container("again-2", &[], &["true"]);
    run(&["rm", "again"]);
    run(&["rename", "again-2", "again"]);
    check("a name that has moved");
    docker.remove_all().unwrap();
    check("the removal of all");
    println!("slowest: {slowest:?}");
    exporter.stop();
}

/// A start that fails has no event of its own, and neither has a probe that changes no more than the count of those
/// that failed.
fn what_only_a_hint_tells_is_shown_at_once(docker: &Docker) {
    let probe = ["--health-cmd", "test ! -e /tmp/ill", "--health-interval", "2s", "--health-retries", "100"];
    docker.container("ill", &probe, &["sleep", "100000"]);
    docker.wait_for("ill", "/State/Health/Status", "healthy");
    let exporter = Setup::new(&docker.host()).set("/docker/resync_interval", NEVER).start();
    docker.run(&["create", "--network", "none", "--name", "broken", IMAGE, "/nonexistent"]);
    eventually(SOON, || agrees(docker, &exporter, Encoding::Code));
    docker.try_run(&["start", "broken"]).unwrap_err();
    assert_eq!(docker.inspect("broken")["State"]["ExitCode"], 127);
    let (_, after) = eventually(SOON, || agrees(docker, &exporter, Encoding::Code));
    println!("a start that failed: right after {after:?}");
    docker.run(&["exec", "ill", "touch", "/tmp/ill"]);
    for streak in 1..4 {
        docker.wait_for("ill", "/State/Health/FailingStreak", streak);
        // Before the next probe.
        let (_, after) =
            eventually(Duration::from_millis(1_500), || agrees(docker, &exporter, Encoding::Code));
        println!("{streak} failed probes: right after {after:?}");
    }
    docker.run(&["exec", "ill", "rm", "/tmp/ill"]);
    docker.wait_for("ill", "/State/Health/FailingStreak", 0);
    eventually(Duration::from_millis(1_500), || agrees(docker, &exporter, Encoding::Code));
    docker.run(&["rm", "--force", "ill", "broken"]);
    eventually(SOON, || agrees(docker, &exporter, Encoding::Code));
    exporter.stop();
}

fn what_no_event_tells_is_found_by_the_next_list(docker: &Docker) {
    let exporter = Setup::new(&docker.host()).set("/docker/resync_interval", 1_000).start();
    let dead = docker.make_dead("dead");
    eventually(SOON, || agrees(docker, &exporter, Encoding::Code));
    assert_eq!(docker.inspect("dead")["State"]["Status"], "dead");
    drop(dead);
    docker.run(&["rm", "dead"]);
    eventually(SOON, || agrees(docker, &exporter, Encoding::Code));
    exporter.stop();
}

const K8S_LABELS: [&str; 4] = [
    "--label=io.kubernetes.pod.name=ldap-2246486038-30nc1",
    "--label=io.kubernetes.pod.namespace=int2",
    "--label=io.kubernetes.container.name=ldap",
    "--label=io.kubernetes.docker.type=container",
];

fn events_are_counted_as_the_engine_tells_them(docker: &Docker) {
    docker.container("old", &[], &["sleep", "100000"]);
    let exporter = Setup::new(&docker.host()).start();
    assert_eq!(counts_agree(&exporter, &BTreeMap::new()), Ok(()), "before any event");
    let recorder = Recorder::start(docker);
    let run = |arguments: &[&str]| docker.run(arguments);

    docker.container("web", &["--label", "team=blue"], &["sleep", "100000"]);
    run(&["exec", "web", "true"]);
    run(&["exec", "web", "/bin/sh", "-c", "echo a-secret >/dev/null"]);
    run(&["exec", "web", "sh", "-c", "true"]);
    run(&["exec", "--detach", "web", "/bin/sleep", "0.1"]);
    run(&["pause", "web"]);
    run(&["unpause", "web"]);
    run(&["top", "web"]);
    run(&["rename", "web", "shop"]);
    run(&["update", "--restart", "on-failure:1", "shop"]);
    run(&["restart", "--time", "0", "shop"]);
    run(&["kill", "--signal", "USR1", "shop"]);
    run(&["cp", "shop:/bin/true", "-"]);
    run(&["commit", "shop", "shop:test"]);
    run(&["kill", "shop"]);
    run(&["rm", "--force", "shop"]);
    run(&["rmi", "shop:test"]);
    docker.container("hungry", &LIMIT, &FILL);
    docker.wait_for("hungry", "/State/OOMKilled", true);
    docker.container("again", &["--restart", "on-failure:3"], &["sh", "-c", "exit 4"]);
    docker.wait_for("again", "/RestartCount", 3);
    docker.wait_for("again", "/State/Status", "exited");
    let probe = ["--health-cmd", "test ! -e /tmp/ill", "--health-interval", "1s", "--health-retries", "1"];
    docker.container("checked", &probe, &["sleep", "100000"]);
    docker.wait_for("checked", "/State/Health/Status", "healthy");
    run(&["exec", "checked", "touch", "/tmp/ill"]);
    docker.wait_for("checked", "/State/Health/Status", "unhealthy");
    run(&["rm", "--force", "checked"]);
    for _ in 0..10 {
        run(&["run", "--rm", "--network", "none", "--name", "job", IMAGE, "true"]);
    }
    run(&["stop", "--time", "0", "old"]);

    let events = recorder.catch_up(docker);
    let expected = expected_counts(&events, &["container"]);
    // What this is all about has happened.
    for action in [
        "create",
        "start",
        "die",
        "destroy",
        "oom",
        "kill",
        "pause",
        "unpause",
        "rename",
        "update",
        "restart",
        "stop",
        "top",
        "attach",
        "exec_die",
        "exec_start: sh",
        "exec_start: true",
        "exec_start: sleep",
        "commit",
        "health_status: healthy",
        "health_status: unhealthy",
    ] {
        assert!(expected.keys().any(|labels| labels["event"] == action), "no event {action}: {expected:#?}");
    }
    let secret = |event: &Value| event["Action"].as_str().unwrap().contains("a-secret");
    assert!(events.iter().any(secret));
    eventually(SOON, || counts_agree(&exporter, &expected));
    assert!(!exporter.scrape_text().contains("a-secret"));

    // Besides, the actions that begin at 0 exist for the containers that are there, and no other.
    let scrape = exporter.scrape();
    for name in ["old", "hungry", "again"] {
        for action in ["die", "oom", "start", "health_status: unhealthy"] {
            let with = labels([("event", action), ("type", "container"), ("name", name), ("image", IMAGE)]);
            scrape.value("docker_events", &with);
        }
    }
    let zeros = scrape.series("docker_events").into_iter().filter(|(_, count)| *count == 0.0);
    for (labels, _) in zeros {
        let action = labels["event"].as_str();
        assert!(["die", "oom", "start", "health_status: unhealthy"].contains(&action), "{labels:?}");
    }
    assert_eq!(scrape.families["docker_events"].kind, "counter");
    exporter.stop();
}

fn events_of_other_types_are_counted_when_asked_for(docker: &Docker) {
    let types = ["container", "image", "network"];
    let exporter = Setup::new(&docker.host()).set("/events/types", json!(types)).start();
    let recorder = Recorder::start(docker);
    docker.run(&["tag", IMAGE, "other:tag"]);
    docker.run(&["rmi", "other:tag"]);
    docker.run(&["run", "--rm", "--network", "none", "--name", "job", IMAGE, "true"]);
    let events = recorder.catch_up(docker);
    let expected = expected_counts(&events, &types);
    for (kind, action) in
        [("image", "tag"), ("image", "untag"), ("network", "connect"), ("network", "disconnect")]
    {
        let there = |labels: &Labels| labels["type"] == kind && labels["event"] == action;
        assert!(expected.keys().any(there), "no {kind} event {action}: {expected:#?}");
    }
    eventually(SOON, || counts_agree(&exporter, &expected));
    exporter.stop();
}

fn a_pods_container_that_is_killed_for_memory_counts(docker: &Docker) {
    let exporter = Setup::new(&docker.host()).start();
    let pod =
        ["--label=io.kubernetes.pod.name=ldap-2246486038-30nc1", "--label=io.kubernetes.pod.namespace=int2"];
    let by_name = "--label=io.kubernetes.container.name=POD";
    let by_type = "--label=io.kubernetes.docker.type=podsandbox";
    for (name, label) in [("sandbox-by-name", by_name), ("sandbox-by-type", by_type)] {
        docker.container(name, &[&pod[..], &[label]].concat(), &["sleep", "100000"]);
    }
    let name = "k8s_ldap_ldap-2246486038-30nc1_int2_uid_0";
    let create = ["create", "--network", "none", "--name", name];
    docker.run(&[&create, &LIMIT[..], &K8S_LABELS[..], &[IMAGE], &FILL[..]].concat());
    let oom = labels([
        ("event", "oom"),
        ("type", "container"),
        ("env", "int2"),
        ("pod", "ldap-2246486038-30nc1"),
        ("container", "ldap"),
        ("image", IMAGE),
        ("name", name),
    ]);
    // From 0 to 1 under the same labels: otherwise rate() would never see the first kill.
    let count_is = |event: &Labels, wanted: f64| {
        let found = exporter.scrape().find("docker_events", event)?;
        if found == wanted { Ok(()) } else { Err(format!("{found}, not {wanted}")) }
    };
    eventually(SOON, || count_is(&oom, 0.0));
    docker.run(&["start", name]);
    docker.wait_for(name, "/State/OOMKilled", true);
    eventually(SOON, || count_is(&oom, 1.0));
    let mut died = oom.clone();
    died.insert("event".into(), "die".into());
    // From Docker 26 on it is known to be killed for memory before it has died.
    eventually(SOON, || count_is(&died, 1.0));

    docker.run(&["rm", "--force", "sandbox-by-name", "sandbox-by-type"]);
    eventually(SOON, || agrees(docker, &exporter, Encoding::Code));
    let events = exporter.scrape().series("docker_events");
    let of_sandbox = |labels: &&Labels| {
        labels["name"].starts_with("sandbox") || labels.get("container").is_some_and(|name| name == "POD")
    };
    assert_eq!(events.keys().filter(of_sandbox).collect::<Vec<_>>(), Vec::<&Labels>::new());
    exporter.stop();
}

fn names_and_labels_choose_what_is_shown(docker: &Docker) {
    let options = ["--label=team=blue", "--label=com.docker.compose.project=shop"];
    docker.container("web-1", &options, &["sleep", "100000"]);
    docker.container("hidden-1", &options, &["sleep", "100000"]);
    let exporter = Setup::new(&docker.host())
        .set("/containers/names", json!({"included": ["*"], "excluded": ["hidden-*"]}))
        .set("/containers/labels", json!({"included": ["com.docker.*"], "excluded": []}))
        .set("/events/labels", json!({"included": ["team"], "excluded": []}))
        .start();
    let mut web = docker.inspect("web-1");
    web["Config"]["Labels"].as_object_mut().unwrap().remove("team");
    eventually(SOON, || compare(&exporter.scrape(), std::slice::from_ref(&web), Encoding::Code));
    docker.run(&["pause", "web-1"]);
    let paused = labels([
        ("event", "pause"),
        ("type", "container"),
        ("name", "web-1"),
        ("image", IMAGE),
        ("container_label_team", "blue"),
    ]);
    eventually(SOON, || exporter.scrape().find("docker_events", &paused).map(|count| assert_eq!(count, 1.0)));
    exporter.stop();
}

/// What `promtool` finds fault with in names that dashboards and alerts already use.
const FIXED_NAMES: [&str; 2] = [
    // It follows the translation strategy as `docker_events` does.
    r#"container_exits counter metrics should have "_total" suffix"#,
    r#"docker_events counter metrics should have "_total" suffix"#,
];

fn promtool_complains_of_nothing_but_the_fixed_names(docker: &Docker) {
    let promtool = program("promtool", "prometheus");
    docker.container("web", &["--label", "team=blue", "--health-cmd", "true"], &["sleep", "100000"]);
    docker.container("exited", &[], &["sh", "-c", "exit 3"]);
    for encoding in ["code", "state_set"] {
        let exporter = Setup::new(&docker.host()).set("/containers/encoding", encoding).start();
        let text = exporter.scrape_text();
        assert!(text.contains("container_info") && text.contains("docker_events"), "{text}");
        let mut child = Command::new(&promtool)
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        let complaints: BTreeSet<_> = said.lines().collect();
        assert_eq!(complaints, FIXED_NAMES.into(), "of {encoding}");
        exporter.stop();
    }
}

/// By the docker command's variables, by the file, and not without a certificate or by an authority that is not
/// the engine's.
fn tls_is_spoken_as_the_docker_command_speaks_it(docker: &Docker) {
    docker.run(&["run", "--detach", "--name", "secure", "--network", "none", IMAGE, "sleep", "1000"]);
    let host = format!("tcp://{}", docker.tls_address());
    let at = docker.certificates();
    let by_variables =
        Setup::new(&host).env("DOCKER_TLS_VERIFY", "1").env("DOCKER_CERT_PATH", at.to_str().unwrap());
    let files = json!({
        "ca_file": at.join("ca.pem"), "cert_file": at.join("cert.pem"), "key_file": at.join("key.pem"),
    });
    let by_file = Setup::new(&host.replace("127.0.0.1", "localhost")).set("/docker/tls", files);
    for setup in [by_variables, by_file] {
        let exporter = setup.start();
        eventually(SOON, || agrees(docker, &exporter, Encoding::Code));
        exporter.stop();
    }
    let without_a_certificate = json!({"ca_file": at.join("ca.pem")});
    let stranger = at.join("stranger.pem");
    Authority::new().write(&stranger);
    let by_a_stranger = json!({
        "ca_file": stranger, "cert_file": at.join("cert.pem"), "key_file": at.join("key.pem"),
    });
    for (tls, reason) in [(without_a_certificate, "ertificate"), (by_a_stranger, "invalid peer certificate")]
    {
        let exporter = Setup::new(&host).set("/docker/tls", tls).spawn();
        eventually(SOON, || {
            let log = exporter.log();
            let told =
                log.lines().any(|line| line.contains("cannot follow the daemon") && line.contains(reason));
            if told { Ok(()) } else { Err(log) }
        });
        assert_eq!(exporter.scrape().plain("docker_up"), 0.0);
        exporter.stop();
    }
}

/// An HAProxy with the configuration of the example. It is ended when this is dropped.
struct Proxy {
    child: Child,
    address: SocketAddr,
}

impl Proxy {
    fn start(docker: &Docker) -> Self {
        let address = free_address();
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/socket-proxy/haproxy.cfg");
        let example = std::fs::read_to_string(example).unwrap();
        let socket = docker.socket().display().to_string();
        let config = example
            .replace("bind :2375", &format!("bind {address}"))
            .replace("/var/run/docker.sock", &socket);
        assert!(config.contains(&address.to_string()) && config.contains(&socket), "{config}");
        let file = docker.directory().join("haproxy.cfg");
        std::fs::write(&file, config).unwrap();
        let child = Command::new(program("haproxy", "haproxy"))
            .arg("-db")
            .arg("-f")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let proxy = Self { child, address };
        eventually(SOON, || {
            proxy
                .status("GET /_ping")
                .and_then(|status| if status == 200 { Ok(()) } else { Err(status.to_string()) })
        });
        proxy
    }

    /// The status of the answer to a request; more than a method and a path are its headers.
    fn status(&self, request: &str) -> Result<u16, String> {
        let exchange = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(self.address)?;
            stream.set_read_timeout(Some(SOON))?;
            let (line, headers) = request.split_once('\n').unwrap_or((request, ""));
            write!(
                stream,
                "{line} HTTP/1.1\r\nHost: docker\r\nContent-Length: 0\r\n{headers}Connection: close\r\n\r\n"
            )?;
            let mut status = String::new();
            BufReader::new(stream).read_line(&mut status)?;
            Ok(status)
        };
        let line = exchange().map_err(|error| format!("{request}: {error}"))?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.ok_or_else(|| format!("{request}: {line}"))
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The exporter needs no more than them, and nobody gets more than them.
fn the_socket_proxy_lets_the_five_requests_through(docker: &Docker) {
    let id = docker.container("web", &[], &["sleep", "100000"]);
    let proxy = Proxy::start(docker);
    let exporter = Setup::new(&format!("tcp://{}", proxy.address)).start();
    eventually(SOON, || agrees(docker, &exporter, Encoding::Code));
    docker.container("job", &[], &["sh", "-c", "exit 3"]);
    docker.wait_for("job", "/State/Status", "exited");
    docker.run(&["pause", "web"]);
    eventually(SOON, || agrees(docker, &exporter, Encoding::Code));

    let before = docker.run(&["ps", "--all", "--format", "{{.ID}} {{.Names}} {{.State}}"]);
    for path in [
        "/_ping".to_owned(),
        "/version".to_owned(),
        "/v1.41/version".to_owned(),
        "/events?since=1&until=2".to_owned(),
        "/containers/json?all=1".to_owned(),
        format!("/containers/{id}/json"),
        format!("/v1.41/containers/{id}/json"),
    ] {
        assert_eq!(proxy.status(&format!("GET {path}")), Ok(200));
    }
    for request in [
        // Whatever changes something.
        "POST /containers/create".to_owned(),
        format!("POST /containers/{id}/unpause"),
        format!("POST /v1.41/containers/{id}/unpause"),
        format!("POST /containers/{id}/json"),
        format!("PUT /containers/{id}/archive?path=/"),
        format!("DELETE /containers/{id}?force=1"),
        "POST /containers/json".to_owned(),
        "POST /events".to_owned(),
        // Whatever else tells something: logs, files, secrets, the rest of the engine.
        "GET /info".to_owned(),
        "GET /images/json".to_owned(),
        "GET /secrets".to_owned(),
        format!("GET /containers/{id}/logs?stdout=1"),
        format!("GET /containers/{id}/archive?path=/etc"),
        format!("GET /containers/{id}/attach/ws"),
        format!("GET /containers/{id}/top"),
        "GET /containers/web/json".to_owned(),
        // By other spellings.
        format!("GET /containers/{id}/json/../logs?stdout=1"),
        format!("GET /containers/{id}/%6ason"),
        format!("GET //containers/{id}/logs"),
        format!("GET /containers/{id}/logs?x=/containers/json"),
        "GET /v1.41/../info".to_owned(),
        "HEAD /_ping".to_owned(),
        "OPTIONS /version".to_owned(),
        "GET /version\nUpgrade: tcp\r\n".to_owned(),
    ] {
        assert_eq!(proxy.status(&request), Ok(403), "{request}");
    }
    assert_eq!(docker.run(&["ps", "--all", "--format", "{{.ID}} {{.Names}} {{.State}}"]), before);
    exporter.stop();
}
