//! The stack of the example on a Swarm of one node, and the three ways in which Prometheus finds exporters by itself.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::server::{DEADLINE, Prometheus, values};
use crate::support::docker::Docker;
use crate::support::{eventually, image};

fn example(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)).unwrap()
}

/// An example of a scrape configuration, asking this engine, and more often.
fn scraping(name: &str, docker: &Docker) -> Value {
    let text = example(&format!("prometheus/{name}"))
        .replace("unix:///var/run/docker.sock", &docker.host())
        .replace("refresh_interval: 60s", "refresh_interval: 1s")
        .replace("_interval: 15s", "_interval: 1s");
    let mut config: Value = serde_saphyr::from_str(&text).unwrap();
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/prometheus/alerts.yml");
    assert_eq!(config["rule_files"], json!(["alerts.yml"]));
    config["rule_files"] = json!([rules]);
    config
}

/// Whether a Prometheus with this configuration has one target, under this name, and it is the exporter of the stack.
#[track_caller]
fn finds(config: &Value, instance: &str) {
    let prometheus = Prometheus::with_config(config);
    let wanted = json!({"instance": instance, "job": "docker-state-exporter", "__name__": "up"});
    eventually(DEADLINE, || {
        let up = prometheus.query("up")?;
        match up["result"].as_array().map(Vec::as_slice) {
            Some([one]) if one["metric"] == wanted && one["value"][1] == "1" => Ok(()),
            other => Err(format!("not one target {instance} that is up, but {other:?}")),
        }
    });
    // It shows the very container that it runs in.
    let own = r#"container_state_status{name=~"monitoring_docker-state-exporter\\..*"}"#;
    eventually(DEADLINE, || match &values(&prometheus.query(own)?)[..] {
        [running] if running == "6" => Ok(()),
        other => Err(format!("{own} is {other:?}")),
    });
}

#[test]
fn the_stack_runs_on_each_node_and_prometheus_finds_it() {
    let docker = Docker::start_in_its_own_network();
    image::build(&docker, "docker-state-exporter", "unknown");
    docker.run(&["swarm", "init", "--advertise-addr", "127.0.0.1"]);
    let stack = docker.directory().join("stack.yaml");
    let mount = |socket: &str| format!("- {socket}:/var/run/docker.sock\n");
    let text = example("swarm/stack.yaml");
    assert!(text.contains(&mount("/var/run/docker.sock")), "{text}");
    let socket = docker.socket().display().to_string();
    fs::write(&stack, text.replace(&mount("/var/run/docker.sock"), &mount(&socket))).unwrap();
    let stack = stack.to_str().unwrap();
    // There is no registry to ask for the image.
    let deploy = ["stack", "deploy", "--resolve-image", "never", "--compose-file", stack, "monitoring"];
    image::run(docker.client(&deploy).env("DOCKER_GID", docker.socket_group()));

    let service = "monitoring_docker-state-exporter";
    // Swarm counts a task as running once its health check has said so.
    eventually(DEADLINE, || {
        match docker.try_run(&["service", "ls", "--format", "{{.Name}} {{.Mode}} {{.Replicas}}"])? {
            line if line == format!("{service} global 1/1") => Ok(()),
            line => Err(format!("{line}\n{}", docker.try_run(&["stack", "ps", "--no-trunc", "monitoring"])?)),
        }
    });
    let container = docker.inspect(&docker.run(&["ps", "--quiet"]));
    assert_eq!(container["State"]["Health"]["Status"], "healthy", "{container:#}");
    assert_eq!(container["HostConfig"]["ReadonlyRootfs"], true, "{container:#}");
    assert_eq!(container["HostConfig"]["CapDrop"], json!(["ALL"]), "{container:#}");

    let node = docker.run(&["node", "ls", "--format", "{{.Hostname}}"]);
    finds(&scraping("scrape-swarm.yml", &docker), &node);
    finds(&scraping("scrape-docker.yml", &docker), "localhost:8080");
    // There is no cluster to ask, and Debian's Prometheus could not ask it: what it would be told, told by hand. The
    // second pod is none of ours.
    let mut config = scraping("scrape-kubernetes.yml", &docker);
    let job = config["scrape_configs"][0].as_object_mut().unwrap();
    let asked = job.remove("kubernetes_sd_configs").unwrap();
    assert_eq!(asked, json!([{"role": "pod", "namespaces": {"names": ["docker-state-exporter"]}}]));
    let pod = |annotations: &[(&str, &str)], node: &str| {
        let mut labels = json!({"__meta_kubernetes_pod_node_name": node});
        for (annotation, value) in annotations {
            labels[format!("__meta_kubernetes_pod_annotation_prometheus_io_{annotation}")] = json!(value);
        }
        json!({"targets": ["127.0.0.1:9"], "labels": labels})
    };
    let ours = pod(&[("scrape", "true"), ("port", "8080"), ("path", "/metrics")], "node-1");
    job.insert("static_configs".to_owned(), json!([ours, pod(&[("port", "8080")], "node-2")]));
    finds(&config, "node-1");

    docker.run(&["stack", "rm", "monitoring"]);
    docker.run(&["swarm", "leave", "--force"]);
}
