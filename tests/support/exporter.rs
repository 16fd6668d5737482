//! The program under test, started, scraped and stopped.

use std::fs::File;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::eventually;
use super::exposition::Exposition;

/// How long the program may take until it is ready, and until it has ended after SIGTERM.
const DEADLINE: Duration = Duration::from_secs(20);

/// An HTTP answer, whatever its status.
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The content type.
    pub(crate) content_type: String,
    /// The body.
    pub(crate) body: String,
}

/// A GET of a URL, whatever the status.
pub(crate) fn get(url: &str) -> Result<Answer, String> {
    let agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(30)))
        .proxy(None)
        .build()
        .new_agent();
    let mut response = agent.get(url).call().map_err(|error| error.to_string())?;
    let header = response.headers().get("content-type").and_then(|value| value.to_str().ok());
    let content_type = header.unwrap_or_default().to_owned();
    let mut bytes = Vec::new();
    let mut reader = response.body_mut().with_config().limit(1 << 30).reader();
    reader.read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    let body = String::from_utf8(bytes).map_err(|error| error.to_string())?;
    Ok(Answer { status: response.status().as_u16(), content_type, body })
}

/// A periodic reader. `more` goes into the exporter's settings.
pub(crate) fn push(kind: &str, endpoint: &str, interval: u64, more: Value) -> Value {
    let mut exporter = json!({"endpoint": endpoint});
    exporter.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"periodic": {"interval": interval, "exporter": {kind: exporter}}})
}

/// Sets the value at a JSON pointer, and makes missing mappings on the way: `/docker/resync_interval`.
pub(crate) fn set_at(mut place: &mut Value, pointer: &str, value: Value) {
    for key in pointer.trim_start_matches('/').split('/') {
        if place.is_null() {
            *place = json!({});
        }
        place = match key.parse::<usize>() {
            Ok(number) if place.is_array() => &mut place[number],
            _ => &mut place[key.replace("~1", "/")],
        };
    }
    *place = value;
}

/// How an exporter is to be started.
pub(crate) struct Setup {
    config: Value,
    /// Whether the configuration is given as a file.
    file: bool,
    env: Vec<(String, String)>,
    arguments: Vec<String>,
    /// The soft and the hard limit of open files.
    open_files: Option<(u32, u32)>,
}

impl Setup {
    /// The defaults, except for the engine and a port on the loopback address.
    pub(crate) fn new(docker_host: &str) -> Self {
        let config = json!({
            "file_format": "1.1",
            "meter_provider": {"readers": [{"pull": {"exporter": {"prometheus/development": {"host": "127.0.0.1"}}}}]},
            "docker": {"host": docker_host},
        });
        Self { config, file: true, env: Vec::new(), arguments: Vec::new(), open_files: None }
    }

    /// Starts it without a file: of the configuration, only the engine and the address are used.
    pub(crate) fn without_file(mut self) -> Self {
        self.file = false;
        self
    }

    /// Sets a key of the configuration; the path is a JSON pointer: `/docker/resync_interval`.
    pub(crate) fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        set_at(&mut self.config, pointer, value.into());
        self
    }

    /// One more reader, as in `meter_provider.readers`.
    pub(crate) fn reader(mut self, reader: Value) -> Self {
        if let Some(readers) = self.config["meter_provider"]["readers"].as_array_mut() {
            readers.push(reader);
        }
        self
    }

    /// One more environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// One more argument.
    pub(crate) fn argument(mut self, argument: &str) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Limits of open files, a soft and a hard one.
    pub(crate) fn open_files(mut self, soft: u32, hard: u32) -> Self {
        self.open_files = Some((soft, hard));
        self
    }

    /// Starts the program, and does not wait.
    pub(crate) fn spawn(mut self) -> Exporter {
        let directory = tempfile::Builder::new().prefix("exporter-test-").tempdir().unwrap();
        let address = free_address();
        self.config["meter_provider"]["readers"][0]["pull"]["exporter"]["prometheus/development"]["port"] =
            address.port().into();
        // JSON is YAML too.
        let config = directory.path().join("config.yaml");
        std::fs::write(&config, serde_json::to_string_pretty(&self.config).unwrap()).unwrap();
        let log = directory.path().join("log");
        let output = File::create(&log).unwrap();
        let program = env!("CARGO_BIN_EXE_docker-state-exporter");
        let mut command = match self.open_files {
            None => Command::new(program),
            Some((soft, hard)) => {
                let mut shell = Command::new("sh");
                let script = format!("ulimit -Sn {soft}; ulimit -Hn {hard}; exec \"$0\" \"$@\"");
                shell.args(["-c", &script, program]);
                shell
            }
        };
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OTEL_")) {
            command.env_remove(name);
        }
        command.env_remove("DOCKER_HOST");
        if self.file {
            command.arg("--config").arg(&config);
        } else {
            command.arg(format!("--web.listen-address={address}"));
            command.env("DOCKER_HOST", self.config["docker"]["host"].as_str().unwrap());
        }
        command
            .args(&self.arguments)
            .envs(self.env)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let child = command.spawn().unwrap();
        Exporter { child, address, log, config: self.config, directory }
    }

    /// Starts the program and waits until it is ready.
    pub(crate) fn start(self) -> Exporter {
        let mut exporter = self.spawn();
        exporter.wait_ready();
        exporter
    }
}

/// A running exporter. It is killed when this is dropped; what it logged is printed if the test has failed.
pub(crate) struct Exporter {
    child: Child,
    address: SocketAddr,
    log: PathBuf,
    config: Value,
    directory: tempfile::TempDir,
}

impl Exporter {
    /// Waits until `/-/ready` answers 200.
    #[track_caller]
    pub(crate) fn wait_ready(&mut self) {
        eventually(DEADLINE, || {
            if let Some(status) = self.child.try_wait().unwrap() {
                // It will never be ready.
                panic!("the exporter has ended, {status}");
            }
            match self.get("/-/ready") {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(format!("/-/ready answers {}: {}", answer.status, answer.body)),
                Err(error) => Err(error),
            }
        });
    }

    /// The address that it listens on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL of a path.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A GET of a path, whatever its status.
    pub(crate) fn get(&self, path: &str) -> Result<Answer, String> {
        get(&self.url(path))
    }

    /// The text of a scrape; anything but 200 and text 0.0.4 fails the test.
    #[track_caller]
    pub(crate) fn scrape_text(&self) -> String {
        let answer = self.get("/metrics").unwrap_or_else(|error| panic!("/metrics: {error}"));
        assert_eq!(answer.status, 200, "/metrics: {}", answer.body);
        assert!(answer.content_type.starts_with("text/plain; version=0.0.4"), "{}", answer.content_type);
        answer.body
    }

    /// A scrape, parsed strictly.
    #[track_caller]
    pub(crate) fn scrape(&self) -> Exposition {
        let text = self.scrape_text();
        Exposition::parse(&text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes, now.
    pub(crate) fn rss(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// Resident memory in bytes, at its highest.
    pub(crate) fn peak_rss(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Sets a key in its configuration file, without a reload.
    pub(crate) fn write(&mut self, pointer: &str, value: impl Into<Value>) {
        set_at(&mut self.config, pointer, value.into());
        let (path, new) = (self.directory.path().join("config.yaml"), self.directory.path().join("new"));
        std::fs::write(&new, self.config.to_string()).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// Sets a key in its configuration file, and reloads it. Returns once the log says that it was read.
    #[track_caller]
    pub(crate) fn reload(&mut self, pointer: &str, value: impl Into<Value>) {
        let reloads = |log: &str| {
            let said = ["took over the configuration", "nothing has changed", "needs a restart"];
            said.iter().map(|said| log.matches(said).count()).sum::<usize>()
        };
        self.write(pointer, value);
        let before = reloads(&self.log());
        self.signal(Signal::HUP);
        eventually(DEADLINE, || if reloads(&self.log()) > before { Ok(()) } else { Err("not reloaded") });
    }

    /// Waits for the end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        eventually(DEADLINE, || self.child.try_wait().unwrap().ok_or("it still runs")).0
    }

    /// Ends it with SIGTERM; it must exit with 0. Returns its log.
    #[track_caller]
    pub(crate) fn stop(mut self) -> String {
        self.signal(Signal::TERM);
        let status = self.wait();
        assert_eq!(status.code(), Some(0), "after SIGTERM: {status}");
        self.log()
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- what the exporter wrote ---\n{}---", self.log());
        }
    }
}

/// An address on the loopback that nothing listens on now.
///
/// Not by binding port 0: such a port is free again at once, and the system may give it to another test or to an
/// outgoing connection before the program has it. Ports below the ephemeral range are not given away like that.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    const PORTS: Range<u16> = 18_000..32_000;
    // Test binaries run in parallel, so each begins at another port.
    let begin = || {
        let offset = std::process::id() * 97 % u32::try_from(PORTS.len()).unwrap();
        AtomicU16::new(PORTS.start + u16::try_from(offset).unwrap())
    };
    for _ in PORTS {
        let port = NEXT.get_or_init(begin).fetch_add(1, Ordering::Relaxed);
        let port = PORTS.start + port % u16::try_from(PORTS.len()).unwrap();
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().unwrap();
        }
    }
    panic!("no port in {PORTS:?} is free");
}
