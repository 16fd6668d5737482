//! A real Prometheus scrapes the exporter of a real engine, and the rule that everybody writes fires on the very
//! first kill for memory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::fs::File;
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::docker::{Docker, FILL, IMAGE, LIMIT, program};
use support::eventually;
use support::exporter::{Exporter, Setup, free_address};

/// For Prometheus to start, and for a few rounds of a scrape and an evaluation a second.
const DEADLINE: Duration = Duration::from_secs(30);

/// `rate()` sees a counter grow, not begin: of one whose first sample is 1 it says nothing.
const RULE: &str = r#"rate(docker_events{event="oom"}[1m]) > 0"#;

#[test]
fn the_rule_for_kills_for_memory_fires_on_the_first_one() {
    let docker = Docker::start();
    let exporter = Setup::new(&docker.host()).start();
    let prometheus = Prometheus::start(&exporter);

    docker.container("bystander", &[], &["sleep", "100000"]);
    let create = ["create", "--network", "none", "--name", "hungry"];
    docker.run(&[&create[..], &LIMIT, &[IMAGE], &FILL].concat());
    let samples = |name: &str| prometheus.query(&format!(r#"docker_events{{event="oom",name="{name}"}}"#));
    for name in ["hungry", "bystander"] {
        eventually(DEADLINE, || match &values(&samples(name)?)[..] {
            [zero] if zero == "0" => Ok(()),
            other => Err(format!("{name} was scraped as {other:?}, not as 0")),
        });
    }
    let firing = || -> Result<Vec<Value>, String> {
        let answer = prometheus.get("/api/v1/alerts", &[])?;
        let alerts = answer["alerts"].as_array().ok_or("no alerts")?;
        Ok(alerts.iter().filter(|alert| alert["state"] == "firing").cloned().collect())
    };
    assert_eq!(firing(), Ok(Vec::new()));

    docker.run(&["start", "hungry"]);
    docker.wait_for("hungry", "/State/OOMKilled", true);
    let (alerts, after) = eventually(DEADLINE, || match firing()? {
        alerts if alerts.is_empty() => Err("nothing fires".to_owned()),
        alerts => Ok(alerts),
    });
    println!("the alert fired {after:?} after the engine had told of the kill");
    let labels: Vec<_> = alerts.iter().map(|alert| &alert["labels"]).collect();
    assert_eq!(labels.len(), 1, "{alerts:#?}");
    for (label, value) in
        [("alertname", "Oom"), ("name", "hungry"), ("event", "oom"), ("type", "container"), ("image", IMAGE)]
    {
        assert_eq!(labels[0][label], value, "{alerts:#?}");
    }
    // One kill, not more: the first alone has made it fire.
    assert_eq!(samples("hungry").map(|result| values(&result)), Ok(vec!["1".to_owned()]));
    exporter.stop();
}

/// The values of an instant query.
fn values(result: &Value) -> Vec<String> {
    let series = result["result"].as_array().into_iter().flatten();
    series.filter_map(|series| series["value"][1].as_str().map(str::to_owned)).collect()
}

/// A Prometheus with nothing but this exporter and the rule. It is ended when this is dropped.
struct Prometheus {
    child: Child,
    address: SocketAddr,
    directory: tempfile::TempDir,
}

impl Prometheus {
    fn start(exporter: &Exporter) -> Self {
        let directory = tempfile::Builder::new().prefix("prometheus-test-").tempdir().unwrap();
        let write = |name: &str, content: Value| {
            let path = directory.path().join(name);
            // JSON is YAML too.
            std::fs::write(&path, content.to_string()).unwrap();
            path
        };
        let rules = json!({"groups": [{"name": "docker", "rules": [{"alert": "Oom", "expr": RULE}]}]});
        let rules = write("rules.yml", rules);
        let config = json!({
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [rules],
            "scrape_configs": [
                {"job_name": "docker", "static_configs": [{"targets": [exporter.address().to_string()]}]}
            ],
        });
        let config = write("prometheus.yml", config);
        let address = free_address();
        let log = File::create(directory.path().join("log")).unwrap();
        let child = Command::new(program("prometheus", "prometheus"))
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let prometheus = Self { child, address, directory };
        eventually(DEADLINE, || match values(&prometheus.query("up")?).as_slice() {
            [up] if up == "1" => Ok(()),
            other => Err(format!("up is {other:?}")),
        });
        prometheus
    }

    fn query(&self, query: &str) -> Result<Value, String> {
        self.get("/api/v1/query", &[("query", query)])
    }

    fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, String> {
        let timeout = Some(Duration::from_secs(10));
        let agent = ureq::Agent::config_builder().timeout_global(timeout).proxy(None).build().new_agent();
        let request = agent.get(format!("http://{}{path}", self.address));
        let mut response =
            request.query_pairs(parameters.iter().copied()).call().map_err(|error| error.to_string())?;
        let text = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
        let mut answer: Value = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        Ok(answer["data"].take())
    }
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
