//! `docs/metrics.md` is made from the catalogue, and both are held against what the program shows.
//!
//! After a change of the catalogue, `scripts/docs` writes the document anew.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

#[path = "documents/commands.rs"]
mod commands;
mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;

use docker_state_exporter::metrics::catalog::{self, ContainerValue, Kind, Metric};
use fake_engine::FakeEngine;
use support::exporter::Setup;

fn kind(metric: &Metric) -> &'static str {
    match metric.kind {
        Kind::Gauge => "gauge",
        Kind::Counter => "counter",
        Kind::Histogram => "histogram",
    }
}

fn metrics_md() -> String {
    let mut out = String::new();
    out.push_str(
        "# Metrics\n\n\
         <!-- Made from src/catalog.rs by scripts/docs. -->\n\n\
         Each metric has two names: the one on `/metrics`, and the OpenTelemetry name, under which OTLP carries it. \
         A Collector that translates OTLP without suffixes arrives at the names on `/metrics`.\n\n\
         ## Containers\n\n\
         Gauges. Their values are those of `docker inspect`.\n\n\
         | on `/metrics` | OpenTelemetry | unit | meaning |\n|---|---|---|---|\n",
    );
    for entry in catalog::CONTAINER {
        let Metric { name, unit, help, .. } = entry.metric;
        let shown = entry.metric.prometheus_name(false);
        writeln!(out, "| `{shown}` | `{name}` | {unit} | {help} |").unwrap();
    }
    out.push_str("\nWith `containers.encoding: code`, the default, states are numbers:\n\n");
    out.push_str("| metric | codes |\n|---|---|\n");
    for entry in catalog::CONTAINER {
        if let ContainerValue::State { states, .. } = entry.value {
            let codes: Vec<_> = states().iter().map(|(word, code)| format!("{word} {code}")).collect();
            let name = entry.metric.prometheus_name(false);
            writeln!(out, "| `{name}` | {} |", codes.join(", ")).unwrap();
        }
    }
    out.push_str(
        "\nA state that this program does not know is -1, as is a number or time that it cannot read, \
         and all but the state of a container that cannot be inspected. With `containers.encoding: state_set` these \
         metrics have a series for each of their states, with the label `status`: 1 for the present state, 0 for the others.\n\n",
    );
    for entry in catalog::CONTAINER {
        if let ContainerValue::Reason { reasons, .. } = entry.value {
            let name = entry.metric.prometheus_name(false);
            writeln!(out, "`{name}` has the label `reason`; the first that holds is shown:\n").unwrap();
            out.push_str("| `reason` | when |\n|---|---|\n");
            for (reason, meaning) in reasons() {
                writeln!(out, "| `{reason}` | {meaning} |").unwrap();
            }
            out.push('\n');
        }
    }
    out.push_str(
        "What is expected of a container says its label `docker-state-exporter.expect` (`containers.expectation_label`): \
         `running`, `oneshot`, `stopped` or `ignore`. Without it those with the restart policy `always` or \
         `unless-stopped` and a Swarm's tasks are expected to run; all others may end, but not with a failure. A \
         container that a newer one has replaced needs no attention: the same Compose project, service and number, the \
         same slot of a Swarm's service, or the same container of a Kubernetes pod.\n\n\
         A stop is asked for by the container's own stop signal, SIGTERM, SIGINT, SIGQUIT or SIGKILL through the engine, \
         and the request lasts for ten minutes. Who stops a container because it is unhealthy looks like anybody else. \
         What was asked for before the exporter started is not known to it: ends of then are told by exit codes 1 to 128 \
         and by `OOMKilled`, and are `unknown` otherwise.\n\n\
         ### Labels\n\n\
         | on `/metrics` | in OTLP | value |\n|---|---|---|\n\
         | `id` | `container.id` | `/docker/` and the id on `/metrics`, the bare id in OTLP |\n\
         | `image` | `container.image.name` | the image as it was given when the container was created |\n\
         | `name` | `container.name` | the name, without its leading slash |\n\
         | `container_label_<key>` | `container.label.<key>` | a label of the container that `containers.labels` \
         lets pass; on `/metrics` its key is lowercased, and what a metric label cannot hold becomes `_` |\n\n\
         Keys that become the same metric label are joined: their values, in the byte order of the keys, with `;` \
         between them.\n\n",
    );
    for entry in catalog::CONTAINER.iter().filter(|entry| !entry.metric.labels.is_empty()) {
        writeln!(out, "`{}` has more:\n", entry.metric.prometheus_name(false)).unwrap();
        out.push_str("| on `/metrics` | in OTLP | value |\n|---|---|---|\n");
        for (label, meaning) in entry.metric.labels {
            let attribute = match *label {
                "image_id" => "container.image.id".to_owned(),
                label => format!("container.{label}"),
            };
            writeln!(out, "| `{label}` | `{attribute}` | {meaning} |").unwrap();
        }
    }
    out.push_str("\n## Events\n\nA counter.\n\n| on `/metrics` | OpenTelemetry | unit | meaning |\n|---|---|---|---|\n");
    let Metric { name, unit, help, labels, .. } = catalog::EVENTS;
    writeln!(out, "| `{}` | `{name}` | `{unit}` | {help} |\n", catalog::EVENTS.prometheus_name(false))
        .unwrap();
    out.push_str("| label, in OTLP too | value |\n|---|---|\n");
    for (label, meaning) in labels {
        writeln!(out, "| `{label}` | {meaning} |").unwrap();
    }
    out.push_str(
        "| `container_label_<key>`, in OTLP `container.label.<key>` | a label of the container that `events.labels` \
         lets pass |\n\n\
         - `events.types` and `events.excluded` say what is counted. Events of a Kubernetes pod's sandbox are not.\n\
         - The actions in `events.start_at_zero` exist with 0 for every known container, so that `rate()` and \
         `increase()` see the first one.\n\
         - A count belongs to its labels, not to a container's id: a container that is created anew under the same \
         name goes on from it. It is dropped `events.retention` after its last event, unless a container of that \
         name still exists.\n\
         - Label sets beyond `events.limit` are counted as one, with `overflow` as `event` and `type`. Those that exist \
         with 0 for a known container are beside the limit.\n\
         - Podman's actions are counted under Docker's names.\n\n\
         ## Ends of runs\n\nA counter.\n\n| on `/metrics` | OpenTelemetry | unit | meaning |\n|---|---|---|---|\n",
    );
    let Metric { name, unit, help, labels, .. } = catalog::EXITS;
    writeln!(out, "| `{}` | `{name}` | `{unit}` | {help} |\n", catalog::EXITS.prometheus_name(false))
        .unwrap();
    out.push_str("| label | value |\n|---|---|\n");
    for (label, meaning) in labels {
        writeln!(out, "| `{label}` | {meaning} |").unwrap();
    }
    out.push_str(
        "| `container_label_<key>`, in OTLP `container.label.<key>` | a label of the container that `events.labels` \
         lets pass |\n\n\
         The reasons `error`, `signal` and `oom` exist with 0 for every known container, so that the first one is an \
         increase. Counts are kept and dropped as those of events are.\n\n\
         ## The exporter about itself\n\n\
         These have Prometheus' own suffixes on `/metrics`, whatever translation the metrics above have.\n\n\
         | on `/metrics` | OpenTelemetry | kind | labels | meaning |\n|---|---|---|---|---|\n",
    );
    for metric in catalog::OWN {
        let labels: Vec<_> =
            metric.labels.iter().map(|(label, meaning)| format!("`{label}`: {meaning}")).collect();
        let (shown, kind) = (metric.prometheus_name(true), kind(metric));
        writeln!(out, "| `{shown}` | `{}` | {kind} | {} | {} |", metric.name, labels.join("; "), metric.help)
            .unwrap();
    }
    out
}

#[test]
fn the_document_is_that_of_the_catalogue() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/metrics.md");
    let made = metrics_md();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == made, "docs/metrics.md is not what the catalogue says; run scripts/docs");
}

#[test]
fn the_program_shows_what_the_catalogue_says_and_nothing_else() {
    let engine = FakeEngine::start().unwrap();
    engine.load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity")).unwrap();
    // The histogram shows with the first event's effect, and the counter of exports with a push reader.
    let exporter = Setup::new(&engine.host())
        .reader(
            serde_json::json!({"periodic": {"exporter": {"otlp_grpc": {"endpoint": "http://127.0.0.1:1"}}}}),
        )
        .start();
    let id = engine.ids().first().unwrap().clone();
    engine.emit(engine.event("start", &id));
    // Whether its policy is in force is known of a container whose start was seen.
    let armed = engine.create(fake_engine::Container::new("armed").restart_policy("unless-stopped", 0));
    engine.act(&armed, "start", |container| container.status("running"));
    let (scrape, _) = support::eventually(std::time::Duration::from_secs(10), || {
        let scrape = exporter.scrape();
        let late = [catalog::EVENT_APPLY.prometheus_name(true), "container_restart_policy_disarmed".into()];
        if late.iter().all(|name| scrape.families.contains_key(name)) {
            Ok(scrape)
        } else {
            Err("no event has been applied")
        }
    });
    let inventory =
        catalog::CONTAINER.iter().map(|entry| entry.metric).chain(catalog::COUNTED.map(|metric| *metric));
    let said: BTreeMap<String, Metric> = inventory
        .map(|metric| (metric.prometheus_name(false), metric))
        .chain(catalog::OWN.iter().map(|metric| (metric.prometheus_name(true), *metric)))
        .collect();
    let shown: BTreeSet<&String> = scrape.families.keys().collect();
    assert_eq!(shown, said.keys().collect::<BTreeSet<_>>());
    for (name, metric) in &said {
        let family = &scrape.families[name];
        assert_eq!(
            (family.kind.as_str(), family.help.as_deref()),
            (kind(metric), Some(metric.help)),
            "{name}"
        );
    }
    exporter.stop();
}
