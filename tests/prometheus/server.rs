//! A Prometheus to scrape with.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::docker::program;
use crate::support::eventually;
use crate::support::exporter::{Exporter, free_address};

/// For Prometheus to start, and for a few rounds of a scrape and an evaluation a second.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// The values of an instant query.
pub(crate) fn values(result: &Value) -> Vec<String> {
    let series = result["result"].as_array().into_iter().flatten();
    series.filter_map(|series| series["value"][1].as_str().map(str::to_owned)).collect()
}

/// A Prometheus that scrapes and evaluates once a second. It is ended when this is dropped.
pub(crate) struct Prometheus {
    child: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Prometheus {
    /// Starts it with these exporters, which it has to reach, and these files of rules.
    pub(crate) fn start(job: &str, exporters: &[&Exporter], rules: &[&Path]) -> Self {
        let targets: Vec<_> = exporters.iter().map(|exporter| exporter.address().to_string()).collect();
        let job = json!({"job_name": job, "static_configs": [{"targets": targets}]});
        let prometheus = Self::with_jobs(&[job], rules);
        eventually(DEADLINE, || match values(&prometheus.query("up == 1")?) {
            up if up.len() == exporters.len() => Ok(()),
            up => Err(format!("{} of {} exporters are up", up.len(), exporters.len())),
        });
        prometheus
    }

    /// Starts it with these jobs, and does not wait.
    pub(crate) fn with_jobs(jobs: &[Value], rules: &[&Path]) -> Self {
        Self::with_config(&json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": rules,
            "scrape_configs": jobs,
        }))
    }

    /// Starts it with this configuration, and does not wait.
    pub(crate) fn with_config(config: &Value) -> Self {
        let directory = tempfile::Builder::new().prefix("prometheus-test-").tempdir().unwrap();
        let path = directory.path().join("prometheus.yml");
        // JSON is YAML too.
        std::fs::write(&path, config.to_string()).unwrap();
        let address = free_address();
        let log = File::create(directory.path().join("log")).unwrap();
        let child = Command::new(program("prometheus", "prometheus"))
            .arg(format!("--config.file={}", path.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child, address, directory }
    }

    /// An instant query, now.
    pub(crate) fn query(&self, query: &str) -> Result<Value, String> {
        self.get("/api/v1/query", &[("query", query)])
    }

    /// A GET of the API: its `data`, or what it complained of.
    pub(crate) fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        ask(self.address, path, parameters)
    }
}

/// A GET of the API of the Prometheus at an address: its `data`, or what it complained of.
pub(crate) fn ask(address: SocketAddr, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
    let timeout = Some(Duration::from_secs(10));
    let agent = ureq::Agent::config_builder().timeout_global(timeout).proxy(None).build().new_agent();
    let request = agent.get(format!("http://{address}{path}"));
    // What it says of a query that it refuses is in the body.
    let request = request.config().http_status_as_error(false).build();
    let mut response =
        request.query_pairs(parameters.iter().copied()).call().map_err(|error| error.to_string())?;
    let text = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
    let mut answer: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if answer["status"] == "success" { Ok(answer["data"].take()) } else { Err(text) }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            eprintln!("--- what Prometheus wrote ---\n{log}---");
        }
    }
}
