//! The Compose examples, brought up for real: as they are, but for the engine's socket. There is no registry, so
//! programs of this machine stand behind the images' names, and for Grafana, which Debian does not have, a shell
//! that looks at what Grafana would find.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::server::{DEADLINE, ask, values};
use crate::support::docker::{Docker, IMAGE, program};
use crate::support::exporter::get;
use crate::support::exposition::{Exposition, labels};
use crate::support::{eventually, image};

/// A project that is up. Dropping it leaves its containers to the engine's end.
struct Compose {
    docker: Docker,
    file: PathBuf,
    socket: PathBuf,
}

impl Compose {
    /// Brings up an example; these of its services have the engine's socket.
    #[track_caller]
    fn up(docker: Docker, example: &str, with_socket: &[&str]) -> Self {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example).join("compose.yaml");
        let socket = docker.directory().join("socket.yaml");
        // In the place of what the file mounts there.
        let mount = format!("{}:/var/run/docker.sock", docker.socket().display());
        let services: serde_json::Map<String, Value> =
            with_socket.iter().map(|service| ((*service).to_owned(), json!({"volumes": [mount]}))).collect();
        fs::write(&socket, json!({"services": services}).to_string()).unwrap();
        let compose = Self { docker, file, socket };
        compose.run(&["up", "--no-build", "--detach"]);
        compose
    }

    /// Debian's Compose, or the client's plugin where that is there.
    #[track_caller]
    fn run(&self, arguments: &[&str]) -> String {
        let mut command = self.docker.client(&["compose"]);
        if self.docker.try_run(&["compose", "version"]).is_err() {
            command = Command::new(program("docker-compose", "docker-compose"));
            self.docker.with_environment(&mut command);
        }
        command.arg("--file").arg(&self.file).arg("--file").arg(&self.socket).args(arguments);
        command.env("DOCKER_GID", self.docker.socket_group());
        image::run(&mut command)
    }

    /// The id of a service's container.
    #[track_caller]
    fn container(&self, service: &str) -> String {
        self.run(&["ps", "--quiet", service])
    }
}

#[track_caller]
fn published(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn scrape() -> Result<Exposition, String> {
    let answer = get(&format!("http://{}/metrics", published(8080)))?;
    if answer.status == 200 { Exposition::parse(&answer.body) } else { Err(answer.body) }
}

/// The containers of a job that Prometheus knows to run, by their services.
fn running(result: &Value, label: &str) -> BTreeSet<String> {
    let series = result["result"].as_array().into_iter().flatten();
    let running = series.filter(|series| series["value"][1] == "6");
    running.filter_map(|series| series["metric"][label].as_str().map(str::to_owned)).collect()
}

#[test]
fn the_stack_comes_up_and_prometheus_has_it_both_ways() {
    let docker = Docker::start_in_its_own_network();
    image::build(&docker, "docker-state-exporter", "unknown");
    let collector =
        std::env::var("OTELCOL").expect("OTELCOL: the path of a Collector, as scripts/collector says");
    let changes = [r#"ENTRYPOINT ["/bin/program"]"#];
    image::of_program(&docker, Path::new(&collector), &changes, "otel/opentelemetry-collector:0.159.0");
    let changes = [
        r#"ENTRYPOINT ["/bin/program"]"#,
        r#"CMD ["--config.file=/etc/prometheus/prometheus.yml", "--storage.tsdb.path=/prometheus"]"#,
    ];
    image::of_program(&docker, &program("prometheus", "prometheus"), &changes, "prom/prometheus:v3.5.0");
    let idle = docker.run(&["create", IMAGE, "sleep", "100000"]);
    docker.run(&["commit", &idle, "grafana/grafana:12.2.0"]);
    docker.run(&["rm", &idle]);
    let compose = Compose::up(docker, "compose", &["docker-state-exporter"]);
    let docker = &compose.docker;

    let services = ["collector", "docker-state-exporter", "grafana", "prometheus"];
    let services = services.map(|service| {
        let container = docker.inspect(&compose.container(service));
        container["Name"].as_str().unwrap().trim_start_matches('/').to_owned()
    });
    let services = BTreeSet::from(services);
    docker.wait_for(&compose.container("docker-state-exporter"), "/State/Health/Status", "healthy");
    let query = |query: &str| ask(published(9090), "/api/v1/query", &[("query", query)]);
    for (job, label) in [("docker-state-exporter", "name"), ("collector", "container_name")] {
        let query_of = format!(r#"container_state_status{{{label}!="",instance!=""}}"#);
        let wanted = format!("of {job} not {services:?} but");
        eventually(3 * DEADLINE, || {
            let up = query(&format!(r#"up{{job="{job}"}}"#))?;
            if values(&up) != ["1"] {
                return Err(format!("{job} is not up: {up}"));
            }
            let known = running(&query(&query_of)?, label);
            if known == services { Ok(()) } else { Err(format!("{wanted} {known:?}")) }
        });
    }
    let rules = ask(published(9090), "/api/v1/rules", &[]).unwrap();
    assert!(!rules["groups"][0]["rules"].as_array().unwrap().is_empty(), "{rules}");

    // What Grafana would find: the dashboard where its provider looks, and Prometheus where its data source is.
    let grafana = compose.container("grafana");
    let read = |path: &str| docker.run(&["exec", &grafana, "cat", path]);
    let provisioned = |kind: &str, file: &str| -> Value {
        serde_saphyr::from_str(&read(&format!("/etc/grafana/provisioning/{kind}/{file}.yaml"))).unwrap()
    };
    let provider = provisioned("dashboards", "docker-state-exporter");
    let at = provider["providers"][0]["options"]["path"].as_str().unwrap();
    let dashboard: Value = serde_json::from_str(&read(&format!("{at}/docker-state-exporter.json"))).unwrap();
    assert_eq!(dashboard, crate::dashboard::dashboard());
    let url = provisioned("datasources", "prometheus")["datasources"][0]["url"].as_str().unwrap().to_owned();
    let told =
        docker.run(&["exec", &grafana, "wget", "-q", "-O", "-", &format!("{url}/api/v1/query?query=up")]);
    assert!(told.contains("docker-state-exporter:8080"), "{told}");

    // What Compose does is seen.
    compose.run(&["stop", "--timeout", "1", "grafana"]);
    let stopped = labels([("container_label_com_docker_compose_service", "grafana")]);
    eventually(DEADLINE, || match scrape()?.select("container_state_status", &stopped)[..] {
        [(_, 2.0)] => Ok(()),
        ref other => Err(format!("{other:?}")),
    });
    compose.run(&["down", "--timeout", "2", "--volumes"]);
}

#[test]
fn behind_the_socket_proxy_the_exporter_needs_no_socket() {
    let docker = Docker::start_in_its_own_network();
    image::build(&docker, "docker-state-exporter", "unknown");
    // As the image has it: not root.
    let changes = [
        "USER 99:99",
        r#"ENTRYPOINT ["/bin/program", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]"#,
    ];
    image::of_program(&docker, &program("haproxy", "haproxy"), &changes, "haproxy:3.2-alpine");
    let compose = Compose::up(docker, "socket-proxy", &["socket-proxy"]);
    let running = |service: &str| {
        let of = labels([("container_label_com_docker_compose_service", service)]);
        eventually(DEADLINE, || match scrape()?.select("container_state_status", &of)[..] {
            [(_, 6.0)] => Ok(()),
            ref other => Err(format!("{service}: {other:?}")),
        });
    };
    running("docker-state-exporter");
    running("socket-proxy");
    assert_eq!(scrape().unwrap().plain("docker_up"), 1.0);
    let exporter = compose.docker.inspect(&compose.container("docker-state-exporter"));
    assert_eq!(exporter["Mounts"], json!([]), "it has the socket, or something else");
    // Events come through it as well.
    compose.docker.run(&["create", "--name", "late", IMAGE, "true"]);
    let late = labels([("name", "late")]);
    eventually(DEADLINE, || match scrape()?.select("container_state_status", &late)[..] {
        [(_, 5.0)] => Ok(()),
        ref other => Err(format!("{other:?}")),
    });
    compose.docker.run(&["rm", "late"]);
    compose.run(&["down", "--timeout", "2"]);
}
