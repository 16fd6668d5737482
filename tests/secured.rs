//! `web.config_file`: a real Prometheus scrapes with TLS, client certificates and passwords, with the right ones and
//! with wrong ones, and what is replaced while the exporter runs is taken up.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

#[allow(dead_code, reason = "shared with the tests that need no more than an exporter")]
#[path = "prometheus/server.rs"]
mod server;
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use fake_engine::{Container, FakeEngine};
use serde_json::{Value, json};
use server::{DEADLINE, Prometheus, values};
use support::certificates::Authority;
use support::eventually;
use support::exporter::{Exporter, Setup};

/// The files of a test: certificates, and the exporters' web configurations.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn sign(&self, authority: &Authority, name: &str) {
        authority.sign(&self.path(&format!("{name}.pem")), &self.path(&format!("{name}-key.pem")));
    }

    /// A web configuration file. JSON is YAML too.
    fn web(&self, name: &str, content: &Value) -> PathBuf {
        self.replace(name, &content.to_string())
    }

    /// Puts a text in the place of a file at once: half of one would be a state of its own, and logged.
    fn replace(&self, name: &str, text: &str) -> PathBuf {
        let (path, new) = (self.path(name), self.path("new"));
        fs::write(&new, text).unwrap();
        fs::rename(&new, &path).unwrap();
        path
    }

    /// How a client trusts `authority` and shows the certificate `client`, where there is one.
    fn client(&self, authority: &str, client: Option<&str>) -> Value {
        let mut tls = json!({"ca_file": self.path(authority)});
        if let Some(client) = client {
            tls["cert_file"] = json!(self.path(&format!("{client}.pem")));
            tls["key_file"] = json!(self.path(&format!("{client}-key.pem")));
        }
        tls
    }
}

/// An exporter with a web configuration, started and found well by its own healthcheck.
fn start(engine: &FakeEngine, web: &Path) -> Exporter {
    let exporter = Setup::new(&engine.host()).set("/web/config_file", web.to_str().unwrap()).spawn();
    eventually(DEADLINE, || healthcheck(&exporter, web));
    exporter
}

fn healthcheck(exporter: &Exporter, web: &Path) -> Result<(), String> {
    let config = web.with_extension("config.yaml");
    fs::write(&config, json!({"web": {"config_file": web}}).to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_docker-state-exporter"))
        .args(["healthcheck", "--web.listen-address", &exporter.address().to_string(), "--config"])
        .arg(config)
        .output()
        .unwrap();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

fn hash(password: &str) -> String {
    bcrypt::hash(password, 4).unwrap()
}

/// The jobs of a Prometheus, and what becomes of each: nothing where the scrape has to work, else a part of the error.
#[derive(Default)]
struct Jobs {
    jobs: Vec<Value>,
    expected: Vec<(String, Option<&'static str>)>,
}

impl Jobs {
    fn add(
        &mut self,
        name: &str,
        exporter: &Exporter,
        tls: Option<Value>,
        user: Option<(&str, &str)>,
        error: Option<&'static str>,
    ) {
        let mut job = json!({
            "job_name": name,
            "static_configs": [{"targets": [exporter.address().to_string()]}],
        });
        if let Some(tls) = tls {
            job["scheme"] = json!("https");
            job["tls_config"] = tls;
        }
        if let Some((name, password)) = user {
            job["basic_auth"] = json!({"username": name, "password": password});
        }
        self.jobs.push(job);
        self.expected.push((name.to_owned(), error));
    }
}

/// Waits until a job's last scrape has worked, or failed with an error that has `expected` in it.
#[track_caller]
fn wait(prometheus: &Prometheus, job: &str, expected: Option<&str>) {
    eventually(DEADLINE, || {
        let targets = prometheus.get("/api/v1/targets", &[("state", "active")])?;
        let target = targets["activeTargets"].as_array().into_iter().flatten();
        let target = target.into_iter().find(|target| target["labels"]["job"] == job).ok_or("no target")?;
        let (health, error) = (&target["health"], target["lastError"].as_str().unwrap_or_default());
        let is_so = match expected {
            None => health == "up",
            Some(expected) => health == "down" && error.contains(expected),
        };
        if is_so { Ok(()) } else { Err(format!("{job} is {health}: {error}")) }
    });
}

#[test]
fn prometheus_scrapes_with_the_right_certificates_and_passwords_only() {
    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web"));
    let files = Files::new();
    let (authority, stranger) = (Authority::new(), Authority::new());
    authority.write(&files.path("ca.pem"));
    stranger.write(&files.path("stranger-ca.pem"));
    files.sign(&authority, "server");
    files.sign(&authority, "client");
    files.sign(&stranger, "stranger");
    authority.sign_for(&["elsewhere"], &files.path("unnamed.pem"), &files.path("unnamed-key.pem"));

    // By names beside the file, and by text within it.
    let tls = json!({"cert_file": "server.pem", "key_file": "server-key.pem"});
    let read = |name: &str| fs::read_to_string(files.path(name)).unwrap();
    let mutual = json!({
        "cert": read("server.pem"), "key": read("server-key.pem"), "client_ca": read("ca.pem"),
        "client_auth_type": "RequireAndVerifyClientCert", "client_allowed_sans": ["localhost"],
        "min_version": "TLS12", "max_version": "TLS12", "cipher_suites": ["TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"],
        "curve_preferences": ["CurveP256"],
    });
    let users = json!({"alice": hash("a:b"), "bob": hash("b")});
    let required = json!({
        "cert_file": files.path("server.pem"), "key_file": files.path("server-key.pem"),
        "client_ca_file": "ca.pem", "client_auth_type": "RequireAndVerifyClientCert", "min_version": "TLS13",
    });
    let encrypted = start(&engine, &files.web("tls.yaml", &json!({"tls_server_config": tls})));
    let named = start(&engine, &files.web("mutual.yaml", &json!({"tls_server_config": mutual})));
    let basic = start(&engine, &files.web("basic.yaml", &json!({"basic_auth_users": users})));
    let both = json!({"tls_server_config": required, "basic_auth_users": users});
    let both = start(&engine, &files.web("both.yaml", &both));

    let (none, client) = (files.client("ca.pem", None), files.client("ca.pem", Some("client")));
    let alice = Some(("alice", "a:b"));
    let mut jobs = Jobs::default();
    jobs.add("tls", &encrypted, Some(none.clone()), None, None);
    let distrustful = files.client("stranger-ca.pem", None);
    jobs.add("tls, another authority", &encrypted, Some(distrustful), None, Some("unknown authority"));
    jobs.add("tls, in the clear", &encrypted, None, None, Some(""));
    jobs.add("mutual", &named, Some(client.clone()), None, None);
    jobs.add("mutual, no certificate", &named, Some(none.clone()), None, Some("tls: "));
    let strange = files.client("ca.pem", Some("stranger"));
    jobs.add("mutual, a stranger's", &named, Some(strange), None, Some("tls: "));
    let unnamed = files.client("ca.pem", Some("unnamed"));
    jobs.add("mutual, another name's", &named, Some(unnamed), None, Some("tls: "));
    jobs.add("basic", &basic, None, alice, None);
    jobs.add("basic, the other", &basic, None, Some(("bob", "b")), None);
    jobs.add("basic, wrong password", &basic, None, Some(("alice", "b")), Some("401"));
    jobs.add("basic, no such user", &basic, None, Some(("carol", "b")), Some("401"));
    jobs.add("basic, no user", &basic, None, None, Some("401"));
    jobs.add("both", &both, Some(client.clone()), alice, None);
    jobs.add("both, no certificate", &both, Some(none), alice, Some("tls: "));
    jobs.add("both, wrong password", &both, Some(client), Some(("alice", "b")), Some("401"));

    let prometheus = Prometheus::with_jobs(&jobs.jobs, &[]);
    for (job, expected) in &jobs.expected {
        wait(&prometheus, job, *expected);
        let series = if expected.is_none() { vec!["6".to_owned()] } else { Vec::new() };
        eventually(DEADLINE, || {
            let scraped = values(&prometheus.query(&format!(r#"container_state_status{{job="{job}"}}"#))?);
            if scraped == series { Ok(()) } else { Err(format!("{job}: {scraped:?}, not {series:?}")) }
        });
    }
    // Who asks whether it lives need not say who it is.
    for path in ["/-/healthy", "/-/ready"] {
        assert_eq!(basic.get(path).unwrap().status, 200, "{path}");
    }
    for path in ["/", "/-/page.json", "/metrics", "/nothing"] {
        assert_eq!(basic.get(path).unwrap().status, 401, "{path}");
    }
    for exporter in [encrypted, named, basic, both] {
        exporter.stop();
    }
}

#[test]
fn certificates_and_users_are_replaced_while_it_runs_and_a_bad_file_changes_nothing() {
    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web"));
    let files = Files::new();
    let (before, after) = (Authority::new(), Authority::new());
    before.write(&files.path("before.pem"));
    after.write(&files.path("after.pem"));
    files.sign(&before, "server");
    let tls = json!({"cert_file": "server.pem", "key_file": "server-key.pem"});
    let content = |user: &str| {
        json!({
            "tls_server_config": tls, "basic_auth_users": {user: hash("b")},
            "http_server_config": {"headers": {"X-Frame-Options": user}},
        })
    };
    let web = files.web("web.yaml", &content("alice"));
    let exporter = start(&engine, &web);
    let (trusts_before, trusts_after) = (files.client("before.pem", None), files.client("after.pem", None));
    let mut jobs = Jobs::default();
    jobs.add("before", &exporter, Some(trusts_before), Some(("alice", "b")), None);
    jobs.add("after", &exporter, Some(trusts_after), Some(("bob", "b")), None);
    let prometheus = Prometheus::with_jobs(&jobs.jobs, &[]);
    wait(&prometheus, "before", None);
    wait(&prometheus, "after", Some("unknown authority"));

    // Written whole, as whoever renews certificates does it.
    for (name, replaced) in [("renewed.pem", "server.pem"), ("renewed-key.pem", "server-key.pem")] {
        if name == "renewed.pem" {
            files.sign(&after, "renewed");
        }
        fs::rename(files.path(name), files.path(replaced)).unwrap();
    }
    wait(&prometheus, "after", Some("401"));
    files.web("web.yaml", &content("bob"));
    wait(&prometheus, "after", None);
    wait(&prometheus, "before", Some(""));

    let bad = [
        ("{", "not YAML"),
        (r#"{"basic_auth_user": {}}"#, "unknown key"),
        (r#"{"basic_auth_users": {"bob": "b"}}"#, "not a bcrypt hash"),
        (r#"{"basic_auth_users": {}}"#, "TLS cannot be given up"),
        (r#"{"tls_server_config": {"cert_file": "server.pem", "key_file": "nowhere.pem"}}"#, "nowhere.pem"),
    ];
    for (text, why) in bad {
        files.replace("web.yaml", text);
        eventually(DEADLINE, || if exporter.log().contains(why) { Ok(()) } else { Err(exporter.log()) });
        wait(&prometheus, "after", None);
    }
    // Good again, and different: it is taken.
    files.web("web.yaml", &content("alice"));
    wait(&prometheus, "after", Some("401"));
    assert_eq!(healthcheck(&exporter, &web), Ok(()));
    let log = exporter.stop();
    let refused = log.lines().filter(|line| line.contains("cannot be used")).count();
    // One for each state of the files. A certificate without its new key may have been seen, too.
    assert!((bad.len()..=bad.len() + 1).contains(&refused), "{log}");
}
