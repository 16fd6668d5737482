//! A real Collector, started from one of the project's files.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::eventually;
use crate::support::exporter::{free_address, get, set_at};
use crate::support::exposition::Exposition;

/// For a Collector to start, on a machine that has other things to do.
const STARTS: Duration = Duration::from_secs(60);

/// How long a Collector's Prometheus endpoint shows what comes no more: some intervals of the exporters here.
const SOON_EXPIRED: &str = "6s";

/// How a Collector is to be started: a file of the project, and what is set beside it.
pub(crate) struct Plan {
    file: PathBuf,
    more: Value,
    env: Vec<(String, String)>,
    ports: Ports,
}

struct Ports {
    grpc: SocketAddr,
    http: SocketAddr,
    prometheus: SocketAddr,
    health: SocketAddr,
}

impl Plan {
    /// A file of the project, but for ports of its own on the loopback address.
    pub(crate) fn new(file: &str) -> Self {
        let ports = Ports {
            grpc: free_address(),
            http: free_address(),
            prometheus: free_address(),
            health: free_address(),
        };
        let more = json!({
            "receivers": {"otlp": {"protocols": {
                "grpc": {"endpoint": ports.grpc.to_string()},
                "http": {"endpoint": ports.http.to_string()},
            }}},
            "extensions": {"health_check": {"endpoint": ports.health.to_string()}},
            // They would listen on a port that every Collector has.
            "service": {"telemetry": {"metrics": {"level": "none"}}},
        });
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        Self { file, more, env: Vec::new(), ports }
    }

    /// The file that most users have, with Prometheus as the only way out.
    pub(crate) fn prometheus() -> Self {
        Self::new("otel-collector.yaml").with_prometheus().exporters(&["prometheus"])
    }

    /// The port of the exporter to Prometheus; what does not come again expires soon.
    pub(crate) fn with_prometheus(self) -> Self {
        let address = self.ports.prometheus.to_string();
        self.set("/exporters/prometheus/endpoint", address)
            .set("/exporters/prometheus/metric_expiration", SOON_EXPIRED)
    }

    /// The ways out of the pipeline `metrics`.
    pub(crate) fn exporters(self, exporters: &[&str]) -> Self {
        self.set("/service/pipelines/metrics/exporters", exporters)
    }

    /// Sets a key over what the file has; the path is a JSON pointer, a list is replaced.
    pub(crate) fn set(mut self, pointer: &str, value: impl Into<Value>) -> Self {
        set_at(&mut self.more, pointer, value.into());
        self
    }

    /// Sets a key of both receivers, gRPC and HTTP.
    pub(crate) fn receivers(self, key: &str, value: &Value) -> Self {
        let at = |protocol| format!("/receivers/otlp/protocols/{protocol}/{key}");
        self.set(&at("grpc"), value.clone()).set(&at("http"), value.clone())
    }

    /// One more environment variable.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Starts it and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(self) -> Collector {
        let directory = tempfile::Builder::new().prefix("collector-test-").tempdir().unwrap();
        let mut collector = Collector { plan: self, child: None, directory };
        collector.start();
        collector
    }
}

/// A running Collector. It is killed when this is dropped; what it logged is printed if the test has failed.
pub(crate) struct Collector {
    plan: Plan,
    /// `None` after it was killed.
    child: Option<Child>,
    directory: tempfile::TempDir,
}

impl Collector {
    /// Starts it, the first time or again, and waits until it is ready.
    #[track_caller]
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "the Collector runs already");
        // JSON is YAML too.
        let more = self.directory.path().join("more.yaml");
        std::fs::write(&more, serde_json::to_string_pretty(&self.plan.more).unwrap()).unwrap();
        let log = File::options().create(true).append(true).open(self.log_file()).unwrap();
        // It ends with the test, in whatever way that ends; a stopped one would not see its standard input close.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(binary());
        command.arg("--config").arg(&self.plan.file).arg("--config").arg(more);
        command.envs(self.plan.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("setpriv (util-linux): {error}"));
        let health = format!("http://{}", self.plan.ports.health);
        eventually(STARTS, || {
            if let Some(status) = child.try_wait().unwrap() {
                // Nothing will come any more.
                panic!("the Collector has ended, {status}:\n{}", self.log());
            }
            match get(&health) {
                Ok(answer) if answer.status == 200 => Ok(()),
                Ok(answer) => Err(format!("health_check answers {}", answer.status)),
                Err(error) => Err(error),
            }
        });
        self.child = Some(child);
    }

    /// Where it takes OTLP over gRPC.
    pub(crate) fn grpc(&self) -> String {
        format!("localhost:{}", self.plan.ports.grpc.port())
    }

    /// Where it takes OTLP over HTTP.
    pub(crate) fn http(&self) -> String {
        format!("localhost:{}", self.plan.ports.http.port())
    }

    /// What Prometheus gets of it.
    pub(crate) fn scrape(&self) -> Result<Exposition, String> {
        Exposition::parse(&self.scrape_text()?)
    }

    /// The same as text.
    pub(crate) fn scrape_text(&self) -> Result<String, String> {
        let answer = get(&format!("http://{}/metrics", self.plan.ports.prometheus))?;
        if answer.status != 200 {
            return Err(format!("the Collector's /metrics answers {}: {}", answer.status, answer.body));
        }
        Ok(answer.body)
    }

    /// Other settings from the next start on.
    pub(crate) fn set(&mut self, pointer: &str, value: impl Into<Value>) {
        set_at(&mut self.plan.more, pointer, value.into());
    }

    /// Sends a signal: `STOP`, `CONT`.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(self.child.as_ref().expect("the Collector runs")), signal).unwrap();
    }

    /// Ends it at once, as SIGKILL does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("log")
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- what the Collector wrote ---\n{}---", self.log());
        }
    }
}

/// The Collector's program.
pub(crate) fn binary() -> PathBuf {
    match std::env::var_os("OTELCOL") {
        Some(path) if Path::new(&path).is_file() => path.into(),
        Some(path) => panic!("OTELCOL={}: there is no such file", Path::new(&path).display()),
        None => panic!(
            "OTELCOL is not set: these tests need an OpenTelemetry Collector\n\
             hint: OTELCOL=$(scripts/collector) cargo test --test collector, or scripts/test test"
        ),
    }
}
