//! Every command in every document is run by a test: here, or in one that is named here.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output};

use fake_engine::{Container, FakeEngine};

use crate::support::documented::{self, Documented, repository};

/// How a command is tried.
#[derive(Debug, Clone, Copy)]
enum Tried {
    /// It starts the exporter: `check` with the same arguments and variables has nothing to say against it.
    Checked,
    /// It is run as it stands, in this directory of the repository, and ends well.
    Run(&'static str),
    /// This file does what it does, in a line that holds this.
    In(&'static str, &'static str),
    /// By nobody but its reader, for this reason.
    ByHand(&'static str),
}

use Tried::{ByHand, Checked, In, Run};

/// What stands for a name that the reader has to put in.
const PLACEHOLDERS: [(&str, &str); 2] =
    [("FILE", "config/reference.yaml"), ("/var/lib/prometheus/node-exporter", env!("CARGO_TARGET_TMPDIR"))];

const COMMANDS: &[(&str, &str, Tried)] = &[
    ("README.md", "scripts/quickstart", In("scripts/test", "run scripts/quickstart --check")),
    ("README.md", "OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 docker-state-exporter", Checked),
    ("README.md", "docker-state-exporter check FILE", Run(".")),
    ("README.md", "docker build --tag docker-state-exporter .", In("tests/image.rs", "\"Dockerfile\"")),
    (
        "README.md",
        "docker run --detach --name docker-state-exporter --publish 8080:8080 --restart unless-stopped --volume \
         /var/run/docker.sock:/var/run/docker.sock --group-add \"$(stat -c %g /var/run/docker.sock)\" --read-only \
         --cap-drop ALL --security-opt no-new-privileges docker-state-exporter",
        In("tests/image.rs", "\"--read-only\", \"--cap-drop\", \"ALL\", \"--security-opt\""),
    ),
    ("README.md", "cd examples/compose", In("tests/prometheus/compose.rs", "examples")),
    (
        "README.md",
        "echo \"DOCKER_GID=$(stat -c %g /var/run/docker.sock)\" > .env",
        In("tests/prometheus/compose.rs", "DOCKER_GID"),
    ),
    ("README.md", "docker compose up --build --detach", In("tests/prometheus/compose.rs", "\"up\"")),
    ("README.md", "cargo build --release", In("Dockerfile", "cargo build --release")),
    ("README.md", "scripts/test", In(".ci/run", "scripts/test")),
    ("README.md", "scripts/bench", ByHand("it measures for most of an hour, and needs a machine of its own")),
    ("docs/alerts.md", "promtool check rules alerts.yml", Run("examples/prometheus")),
    ("docs/alerts.md", "promtool test rules alerts_test.yml", Run("examples/prometheus")),
    (
        "docs/collector.md",
        "otelcol --config otel-collector.yaml",
        In("tests/collector/main.rs", "fn the_documented_commands_work_as_written"),
    ),
    ("docs/collector.md", "docker-state-exporter --config config/prometheus-and-otlp.yaml", Checked),
    (
        "docs/collector.md",
        "curl -s http://localhost:9464/metrics | grep ^container_state_status",
        In("tests/collector/main.rs", "fn the_documented_commands_work_as_written"),
    ),
    ("docs/configuration.md", "docker-state-exporter schema", Run(".")),
    (
        "docs/configuration.md",
        "docker-state-exporter healthcheck",
        In("tests/arbitrary_requests.rs", "\"healthcheck\""),
    ),
    ("docs/configuration.md", "docker-state-exporter check FILE", Run(".")),
    (
        "docs/configuration.md",
        "docker-state-exporter once --output /var/lib/prometheus/node-exporter/docker.prom",
        Run("."),
    ),
    ("docs/podman.md", "systemctl enable --now podman.socket", ByHand("it takes systemd")),
    ("docs/podman.md", "DOCKER_HOST=unix:///run/podman/podman.sock docker-state-exporter", Checked),
    ("docs/podman.md", "systemctl --user enable --now podman.socket", ByHand("it takes systemd")),
    (
        "docs/podman.md",
        "DOCKER_HOST=unix://$XDG_RUNTIME_DIR/podman/podman.sock docker-state-exporter",
        Checked,
    ),
    (
        "docs/podman.md",
        "podman run --detach --name docker-state-exporter --publish 8080:8080 --security-opt label=disable --volume \
         /run/podman/podman.sock:/var/run/docker.sock --read-only --cap-drop ALL docker-state-exporter",
        In("tests/image.rs", "\"--read-only\", \"--cap-drop\", \"ALL\", \"--security-opt\""),
    ),
    ("docs/troubleshooting.md", "docker-state-exporter --help", Run(".")),
    ("docs/troubleshooting.md", "docker-state-exporter check FILE", Run(".")),
    (
        "examples/collector/resource-attributes.yaml",
        "otelcol-contrib --config resource-attributes.yaml",
        In("tests/collector/main.rs", "examples/collector/resource-attributes.yaml"),
    ),
    (
        "examples/collector/with-docker-stats.yaml",
        "otelcol-contrib --config with-docker-stats.yaml",
        In("tests/collector/main.rs", "examples/collector/with-docker-stats.yaml"),
    ),
    (
        "examples/collector/with-docker-stats.yaml",
        "container_memory_usage_total * on (container_id) group_left () (container_state_status == 6)",
        In("tests/collector/main.rs", "container_memory_usage_total"),
    ),
    (
        "examples/compose/compose.yaml",
        "echo \"DOCKER_GID=$(stat -c %g /var/run/docker.sock)\" > .env",
        In("tests/prometheus/compose.rs", "DOCKER_GID"),
    ),
    (
        "examples/compose/compose.yaml",
        "docker compose up --build --detach",
        In("tests/prometheus/compose.rs", "\"up\""),
    ),
    (
        "examples/prometheus/alerts.yml",
        "promtool check rules alerts.yml; promtool test rules alerts_test.yml",
        Run("examples/prometheus"),
    ),
    (
        "examples/prometheus/alerts_test.yml",
        "promtool test rules alerts_test.yml",
        Run("examples/prometheus"),
    ),
    (
        "examples/prometheus/scrape-docker.yml",
        "docker run --label prometheus.io/scrape=true --label prometheus.io/port=8080 ...",
        In("tests/prometheus/swarm.rs", "scrape-docker.yml"),
    ),
    (
        "examples/socket-proxy/compose.yaml",
        "echo \"DOCKER_GID=$(stat -c %g /var/run/docker.sock)\" > .env",
        In("tests/prometheus/compose.rs", "DOCKER_GID"),
    ),
    (
        "examples/socket-proxy/compose.yaml",
        "docker compose up --build --detach",
        In("tests/prometheus/compose.rs", "\"up\""),
    ),
    (
        "examples/swarm/stack.yaml",
        "docker build --tag docker-state-exporter ../..",
        In("tests/image.rs", "\"Dockerfile\""),
    ),
    (
        "examples/swarm/stack.yaml",
        "DOCKER_GID=$(stat -c %g /var/run/docker.sock) docker stack deploy --compose-file stack.yaml monitoring",
        In("tests/prometheus/swarm.rs", "\"stack\", \"deploy\""),
    ),
    (
        "examples/systemd/docker-state-exporter.service",
        "systemctl daemon-reload",
        In("scripts/test", "systemd-analyze verify"),
    ),
    (
        "examples/systemd/docker-state-exporter.service",
        "systemctl enable --now docker-state-exporter",
        In("scripts/test", "systemd-analyze verify"),
    ),
    (
        "otel-collector.yaml",
        "otelcol --config otel-collector.yaml",
        In("tests/collector/main.rs", "fn the_documented_commands_work_as_written"),
    ),
    (
        "otel-collector.yaml",
        "OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4318 docker-state-exporter",
        Checked,
    ),
];

/// A new command is to be put into the table, and with it how it is tried.
#[test]
fn every_command_is_tried() {
    let documented: BTreeSet<Documented> = documented::commands().into_iter().collect();
    let tried: BTreeSet<Documented> = COMMANDS
        .iter()
        .map(|(document, command, _)| Documented { document: (*document).into(), command: (*command).into() })
        .collect();
    let new: Vec<_> = documented.difference(&tried).collect();
    assert!(new.is_empty(), "not in the table: {new:#?}");
    let gone: Vec<_> = tried.difference(&documented).collect();
    assert!(gone.is_empty(), "in no document: {gone:#?}");
}

#[test]
fn every_command_works_as_written() {
    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web"));
    for (document, command, tried) in COMMANDS {
        match tried {
            Run(directory) => {
                let output = shell(command, directory, &engine);
                assert!(output.status.success(), "{document}: {command}\n{output:?}");
            }
            Checked => {
                let output = shell(&format!("{command} check"), ".", &engine);
                let printed = String::from_utf8_lossy(&output.stdout);
                assert!(output.status.success(), "{document}: {command}\n{output:?}");
                assert!(!printed.contains("# warning"), "{document}: {command}\n{printed}");
            }
            In(file, what) => {
                let text = std::fs::read_to_string(repository().join(file)).unwrap();
                assert!(text.contains(what), "{file} does not try what {document} says: {command}");
            }
            ByHand(reason) => assert!(!reason.is_empty(), "{document}: {command}"),
        }
    }
}

/// Runs a command as a user does who has the program installed, and the engine that `engine` is.
fn shell(command: &str, directory: &str, engine: &FakeEngine) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_docker-state-exporter")).parent().unwrap();
    let path = std::env::join_paths(
        std::iter::once(program.to_owned()).chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
    );
    let command =
        PLACEHOLDERS.iter().fold(command.to_owned(), |text, (name, value)| text.replace(name, value));
    let mut shell = Command::new("bash");
    for (name, _) in std::env::vars().filter(|(n, _)| n.starts_with("OTEL_") || n.starts_with("DOCKER_")) {
        shell.env_remove(name);
    }
    shell.args(["-c", &command]).current_dir(repository().join(directory)).env("PATH", path.unwrap());
    shell.env("XDG_RUNTIME_DIR", "/run/user/1000").env("DOCKER_HOST", engine.host());
    shell.output().unwrap()
}
