//! The end always comes, whatever hangs; and what hangs holds up nothing else.

use std::io::Read;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use fake_engine::{Container, FakeEngine};
use rustix::fs::{CWD, Mode, mkfifoat};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::hung_mount::HungMount;
use crate::program::program;
use crate::support::eventually;
use crate::support::exporter::{Exporter, Setup, free_address, get, push};

/// From a signal to the end. Docker kills after so long.
const END: Duration = Duration::from_secs(10);

const SOON: Duration = Duration::from_secs(20);

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// The exit code of a process that has to end within a time; it is killed if it does not.
#[track_caller]
fn ends_within(child: &mut Child, limit: Duration) -> Option<i32> {
    let began = Instant::now();
    while began.elapsed() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    panic!("not within {limit:?}");
}

#[track_caller]
fn logs(exporter: &Exporter, expected: &str) {
    eventually(SOON, || {
        let log = exporter.log();
        if log.contains(expected) { Ok(()) } else { Err(format!("no {expected:?} in\n{log}")) }
    });
}

/// Sends SIGTERM, and waits for the end.
#[track_caller]
fn stops(mut exporter: Exporter) -> Duration {
    let began = Instant::now();
    exporter.signal(Signal::TERM);
    let status = exporter.wait();
    assert!(began.elapsed() < END, "{:?}", began.elapsed());
    assert_eq!(status.code(), Some(0), "{}", exporter.log());
    began.elapsed()
}

/// An engine with so many containers that an export of them fills a pipe.
fn large_engine() -> FakeEngine {
    let engine = FakeEngine::start().unwrap();
    for i in 0..200 {
        engine.add(Container::new(&format!("container-{i}")));
    }
    engine
}

#[test]
fn an_output_that_nobody_reads_holds_up_nothing() {
    let engine = large_engine();
    let address = free_address();
    let console = json!({"periodic": {"interval": 20, "exporter": {"console": null}}});
    let pull = json!({"host": "127.0.0.1", "port": address.port()});
    let pull = json!({"pull": {"exporter": {"prometheus/development": pull}}});
    let config = json!({
        "log_level": "trace",
        "meter_provider": {"readers": [pull, console]},
        "docker": {"host": engine.host(), "resync_interval": 20},
    });
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    std::fs::write(&path, config.to_string()).unwrap();
    let mut command = program(&["--config", path.to_str().unwrap()]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let healthy = format!("http://{address}/-/healthy");
    eventually(SOON, || get(&healthy));
    // For as long as it takes to fill the pipes and all that waits before them.
    std::thread::sleep(Duration::from_secs(4));
    let answer = get(&healthy).unwrap();
    assert_eq!(answer.status, 200);
    assert!(get(&format!("http://{address}/metrics")).unwrap().body.contains("container-199"));
    signal(&child, Signal::TERM);
    assert_eq!(ends_within(&mut child, END), Some(0));
    let mut written = Vec::new();
    child.stdout.take().unwrap().read_to_end(&mut written).unwrap();
    assert!(written.len() >= 32 * 1024, "the pipe was not full: {} bytes", written.len());
}

#[test]
fn an_engine_that_does_not_answer_is_not_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("docker.sock");
    let _engine = UnixListener::bind(&socket).unwrap();
    let exporter = Setup::new(&format!("unix://{}", socket.display())).spawn();
    eventually(SOON, || exporter.get("/-/healthy"));
    assert!(stops(exporter) < Duration::from_secs(5));
}

/// An exporter that pushes to Collectors which accept connections and never say a word.
fn with_silent_collectors(engine: &FakeEngine) -> (Exporter, [TcpListener; 2]) {
    let collectors = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let urls = [0, 1].map(|i| format!("http://{}", collectors[i].local_addr().unwrap()));
    let exporter = Setup::new(&engine.host())
        .reader(push("otlp_grpc", &urls[0], 100, json!({"timeout": 0})))
        .reader(push("otlp_http", &format!("{}/v1/metrics", urls[1]), 100, json!({"timeout": 0})))
        .start();
    (exporter, collectors)
}

#[test]
fn a_collector_that_does_not_answer_is_not_waited_for_for_long() {
    let engine = FakeEngine::start().unwrap();
    let (exporter, _collectors) = with_silent_collectors(&engine);
    stops(exporter);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let engine = FakeEngine::start().unwrap();
    for second in [Signal::TERM, Signal::INT] {
        let (mut exporter, _collectors) = with_silent_collectors(&engine);
        exporter.signal(Signal::TERM);
        logs(&exporter, "message=ending signal=SIGTERM");
        let began = Instant::now();
        exporter.signal(second);
        assert_eq!(exporter.wait().code(), Some(1), "{}", exporter.log());
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        logs(&exporter, "ending at once");
    }
}

#[test]
fn a_reload_of_what_is_no_file_changes_nothing() {
    let engine = FakeEngine::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    std::fs::write(&path, "log_level: info\n").unwrap();
    let exporter =
        Setup::new(&engine.host()).without_file().argument(&format!("--config={}", path.display())).start();
    std::fs::remove_file(&path).unwrap();
    mkfifoat(CWD, &path, Mode::RWXU).unwrap();
    exporter.signal(Signal::HUP);
    logs(&exporter, "it is a pipe, not a regular file");
    assert_eq!(exporter.get("/-/ready").unwrap().status, 200);
    stops(exporter);
}

/// A configuration of an exporter with this engine at this port.
fn config(engine: &FakeEngine, port: u16, web: &Value) -> String {
    let pull = json!({"host": "127.0.0.1", "port": port});
    let pull = json!({"pull": {"exporter": {"prometheus/development": pull}}});
    json!({
        "meter_provider": {"readers": [pull]},
        "docker": {"host": engine.host()},
        "web": web,
    })
    .to_string()
}

/// The program's command line, to be read by a shell.
fn command_line(config: &Path) -> String {
    format!("{} --config {}", env!("CARGO_BIN_EXE_docker-state-exporter"), config.display())
}

/// Puts a link to another file in the place of a file, as Kubernetes does it.
fn link(path: &Path, to: &Path) {
    let new = path.with_extension("new");
    symlink(to, &new).unwrap();
    std::fs::rename(new, path).unwrap();
}

#[test]
fn a_start_on_a_dead_mount_can_be_ended() {
    let mut mount = HungMount::new();
    for name in ["config.yaml", "web.yaml"] {
        let path = mount.path(name);
        // The configuration itself, and a file that it names.
        let hung =
            if name == "web.yaml" { mount.path("hung/web.yaml") } else { mount.path("hung/config.yaml") };
        if name == "web.yaml" {
            std::fs::write(&path, json!({"web": {"config_file": hung}}).to_string()).unwrap();
        } else {
            link(&path, &hung);
        }
        mount.start(&command_line(&path));
        std::thread::sleep(Duration::from_secs(1));
        mount.signal("TERM");
        let code = mount.wait(END).unwrap_or_else(|why| panic!("{name}: {why}"));
        assert!(code == "0" || code == "1", "{name}: {code}: {}", mount.log());
    }
}

#[test]
fn files_on_a_dead_mount_hold_up_neither_answers_nor_the_end() {
    let engine = FakeEngine::start().unwrap();
    let mut mount = HungMount::new();
    let address = free_address();
    let (path, web) = (mount.path("config.yaml"), mount.path("web.yaml"));
    std::fs::write(&web, "http_server_config: {headers: {X-Frame-Options: deny}}").unwrap();
    std::fs::write(&path, config(&engine, address.port(), &json!({"config_file": web}))).unwrap();
    mount.start(&command_line(&path));
    let healthy = format!("http://{address}/-/ready");
    let is_ready = || match get(&healthy) {
        Ok(answer) if answer.status == 200 => Ok(()),
        Ok(answer) => Err(answer.body),
        Err(why) => Err(why),
    };
    eventually(SOON, is_ready);
    link(&path, &mount.path("hung/config.yaml"));
    link(&web, &mount.path("hung/web.yaml"));
    for _ in 0..12 {
        mount.signal("HUP");
        let began = Instant::now();
        is_ready().unwrap();
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(mount.log().contains("the configuration takes long to be read"), "{}", mount.log());
    mount.signal("TERM");
    assert_eq!(mount.wait(END).as_deref(), Ok("0"), "{}", mount.log());
}

/// Waits until each of these words, as the first of a name, has been asked for.
#[track_caller]
fn wait_for_queries(server: &UdpSocket, words: &[&str]) {
    server.set_read_timeout(Some(SOON)).unwrap();
    let mut missing = words.to_vec();
    while !missing.is_empty() {
        let mut query = [0; 512];
        let length = server.recv(&mut query).unwrap_or_else(|why| panic!("{missing:?}: {why}"));
        // Behind the header's 12 bytes each word has its length before it.
        let name = &query[12..length];
        missing.retain(|word| !name[1..].starts_with(word.as_bytes()));
    }
}

#[test]
fn names_that_nobody_answers_for_are_not_waited_for() {
    // A server of names that never says a word.
    let server = UdpSocket::bind("127.201.53.53:53").unwrap();
    let mut mount = HungMount::new();
    mount.ask_for_names(server.local_addr().unwrap().ip());
    let address = free_address();
    let pull = json!({"host": "127.0.0.1", "port": address.port()});
    let pull = json!({"pull": {"exporter": {"prometheus/development": pull}}});
    let readers = [
        pull,
        push("otlp_grpc", "http://grpc.collector.example:4317", 100, json!({})),
        push("otlp_http", "http://http.collector.example:4318/v1/metrics", 100, json!({})),
    ];
    let docker = json!({"host": "tcp://engine.example:2375", "timeout": 500});
    let path = mount.path("config.yaml");
    let config = json!({"meter_provider": {"readers": readers}, "docker": docker});
    std::fs::write(&path, config.to_string()).unwrap();
    mount.start(&command_line(&path));
    let healthy = format!("http://{address}/-/healthy");
    eventually(SOON, || get(&healthy));
    // Each of the names is asked for.
    wait_for_queries(&server, &["engine", "grpc", "http"]);
    get(&healthy).unwrap();
    mount.signal("TERM");
    assert_eq!(mount.wait(END).as_deref(), Ok("0"), "{}", mount.log());

    // The address to listen on is asked for before anything runs.
    mount.start(&format!(
        "{} --web.listen-address exporter.example:0",
        env!("CARGO_BIN_EXE_docker-state-exporter")
    ));
    wait_for_queries(&server, &["exporter"]);
    mount.signal("TERM");
    assert_eq!(mount.wait(END).as_deref(), Ok("0"), "{}", mount.log());
}
