//! A real Prometheus scrapes the exporter of a real engine: the rule that everybody writes fires on the very first
//! kill for memory, what the examples ask has answers, and what they deploy is found.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod compose;
mod dashboard;
mod examples;
mod names;
mod server;
#[path = "../support/mod.rs"]
mod support;
mod swarm;

use serde_json::{Value, json};
use server::{DEADLINE, Prometheus, values};
use support::docker::{Docker, FILL, IMAGE, LIMIT};
use support::eventually;
use support::exporter::Setup;

/// `rate()` sees a counter grow, not begin: of one whose first sample is 1 it says nothing.
const RULE: &str = r#"rate(docker_events{event="oom"}[1m]) > 0"#;

#[test]
fn the_rule_for_kills_for_memory_fires_on_the_first_one() {
    let docker = Docker::start();
    let exporter = Setup::new(&docker.host()).start();
    let rules = json!({"groups": [{"name": "docker", "rules": [{"alert": "Oom", "expr": RULE}]}]});
    let file = tempfile::Builder::new().suffix(".yml").tempfile().unwrap();
    // JSON is YAML too.
    std::fs::write(file.path(), rules.to_string()).unwrap();
    let prometheus = Prometheus::start("docker", &[&exporter], &[file.path()]);

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
