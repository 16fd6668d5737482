//! An ssh that hangs, fails or works: what it is started for ends it, and nothing of it outlives the exporter.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use fake_engine::{Container, FakeEngine};
use rustix::process::{Pid, Signal, kill_process};

use crate::support::eventually;
use crate::support::exporter::{Exporter, Setup};

const SOON: Duration = Duration::from_secs(20);

/// A program called ssh, before all others of that name.
struct Ssh(tempfile::TempDir);

impl Ssh {
    /// Each start adds its process' number, and what `script` adds, to the file `$pids`.
    fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pids = directory.path().join("pids");
        let path = directory.path().join("ssh");
        let script = format!("#!/bin/sh\npids={}\necho $$ >>$pids\n{script}\n", pids.display());
        std::fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        Self(directory)
    }

    fn exporter(&self) -> Setup {
        let path = std::env::var("PATH").unwrap_or_default();
        Setup::new("ssh://me@nowhere.example:2222")
            .env("PATH", &format!("{}:{path}", self.0.path().display()))
            .set("/docker/timeout", 300)
    }

    /// The processes that were started so far.
    fn started(&self) -> Vec<String> {
        let pids = std::fs::read_to_string(self.0.path().join("pids")).unwrap_or_default();
        pids.lines().map(str::to_owned).collect()
    }

    fn running(&self) -> Vec<String> {
        self.started().into_iter().filter(|pid| is_running(pid)).collect()
    }

    #[track_caller]
    fn wait_for(&self, processes: usize) {
        eventually(SOON, || match self.started() {
            started if started.len() >= processes => Ok(()),
            started => Err(format!("started: {started:?}")),
        });
    }

    #[track_caller]
    fn nothing_is_left(&self) {
        eventually(SOON, || match self.running() {
            running if running.is_empty() => Ok(()),
            running => Err(format!("still running: {running:?}")),
        });
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        for pid in self.running() {
            // It may just have ended.
            let _ = kill_process(pid.parse().ok().and_then(Pid::from_raw).unwrap(), Signal::KILL);
        }
    }
}

/// Not gone, and no zombie either.
fn is_running(pid: &str) -> bool {
    let stat = std::fs::read_to_string(PathBuf::from("/proc").join(pid).join("stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// An ssh that never gets there, with a child as a ProxyCommand is one, which knows nothing of its end.
const HANGS: &str = "sleep 1000 & echo $! >>$pids; wait";

#[test]
fn an_ssh_that_hangs_ends_with_its_try() {
    let ssh = Ssh::new(HANGS);
    let exporter = ssh.exporter().spawn();
    for tries in 1..=4 {
        ssh.wait_for(2 * tries);
        // Those of the last try, which may be under way, and no others.
        eventually(SOON, || match ssh.running() {
            running if running.len() <= 2 => Ok(()),
            running => Err(format!("still running: {running:?}")),
        });
    }
    exporter.stop();
    ssh.nothing_is_left();
}

#[test]
fn an_ssh_that_hangs_does_not_outlive_an_end_at_once() {
    let ssh = Ssh::new(HANGS);
    let collector = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}/v1/metrics", collector.local_addr().unwrap());
    let reader = crate::support::exporter::push("otlp_http", &endpoint, 100, serde_json::json!({}));
    let mut exporter = ssh.exporter().set("/docker/timeout", 60_000).reader(reader).spawn();
    ssh.wait_for(2);
    let last = |exporter: &mut Exporter| {
        exporter.signal(Signal::TERM);
        exporter.signal(Signal::INT);
        exporter.wait()
    };
    assert_eq!(last(&mut exporter).code(), Some(1), "{}", exporter.log());
    ssh.nothing_is_left();
}

#[test]
fn what_ssh_says_is_told_and_it_is_asked_once_a_try() {
    let ssh = Ssh::new("echo 'me@nowhere: Permission denied (publickey).' >&2; exit 255");
    let exporter = ssh.exporter().spawn();
    let expected = "ssh://me@nowhere.example:2222: me@nowhere: Permission denied (publickey).";
    eventually(SOON, || {
        let log = exporter.log();
        if log.contains(expected) { Ok(()) } else { Err(log) }
    });
    // The first pause between two tries has only begun.
    assert!(ssh.started().len() <= 2, "{:?}", ssh.started());
    exporter.stop();
}

#[test]
fn an_engine_is_followed_by_way_of_ssh() {
    let engine = FakeEngine::start().unwrap();
    let id = engine.create(Container::new("web"));
    // What follows the destination is what the other end runs.
    let ssh = Ssh::new(&format!(
        "while [ \"$1\" != -- ]; do shift; done; shift 2; DOCKER_HOST={} exec \"$@\"",
        engine.host()
    ));
    let exporter = ssh.exporter().set("/docker/timeout", 5000).start();
    engine.emit(engine.event("start", &id));
    eventually(SOON, || {
        let text = exporter.scrape_text();
        if text.contains("docker_events{event=\"start\"") { Ok(()) } else { Err(text) }
    });
    exporter.stop();
    ssh.nothing_is_left();
}
