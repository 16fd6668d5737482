//! Whether what an exporter says agrees with what a real engine says.

use std::collections::BTreeMap;

use serde_json::Value;

use super::docker::Docker;
use super::exporter::Exporter;
use super::exposition::{Labels, compare_series, labels};
use super::inspect::{Encoding, compare};

/// Compares every gauge of every container. A change during the scrape cannot be compared, so the containers have to
/// be the same before and after it.
pub(crate) fn agrees(docker: &Docker, exporter: &Exporter, encoding: Encoding) -> Result<(), String> {
    agree(|| Ok(docker.inspect_all()), exporter, encoding)
}

/// The same for any engine, with a function that inspects all its containers.
pub(crate) fn agree(
    inspect_all: impl Fn() -> Result<Vec<Value>, String>,
    exporter: &Exporter,
    encoding: Encoding,
) -> Result<(), String> {
    let before = inspect_all()?;
    let scrape = exporter.scrape();
    if inspect_all()? != before {
        return Err("the containers changed during the scrape".into());
    }
    compare(&scrape, &before, encoding)?;
    let count = f64::from(u32::try_from(before.len()).unwrap());
    for (name, wanted) in [("docker_state_exporter_containers", count), ("docker_up", 1.0)] {
        let found = scrape.plain(name);
        if found != wanted {
            return Err(format!("{name} is {found}, not {wanted}"));
        }
    }
    Ok(())
}

/// The expected `docker_events` for these events of the engine: counted by the documented rules, not by the program.
pub(crate) fn expected_counts(events: &[Value], types: &[&str]) -> BTreeMap<Labels, f64> {
    let mut counts = BTreeMap::new();
    for event in events {
        let kind = event["Type"].as_str().unwrap();
        let action = event["Action"].as_str().unwrap();
        let attribute = |name: &str| event["Actor"]["Attributes"][name].as_str();
        let sandbox = attribute("io.kubernetes.container.name") == Some("POD")
            || attribute("io.kubernetes.docker.type") == Some("podsandbox");
        let excluded =
            action == "exec_detach" || action == "exec_create" || action.starts_with("exec_create:");
        if !types.contains(&kind) || sandbox || excluded {
            continue;
        }
        let action = match action.strip_prefix("exec_start: ") {
            // Only the program's base name is kept of the command line.
            Some(command) => {
                let program = command.split(' ').next().unwrap();
                format!("exec_start: {}", program.rsplit('/').next().unwrap())
            }
            None => action.to_owned(),
        };
        let mut labels = labels([("event", &action), ("type", kind)]);
        let mut add = |label: &str, value: Option<&str>| {
            labels.extend(value.map(|value| (label.to_owned(), value.to_owned())));
        };
        // An image without a name has its id as its name. It is left out, because ids are unbounded.
        add("name", attribute("name").filter(|name| event["Actor"]["ID"] != *name));
        if kind == "container" {
            add("image", attribute("image"));
            add("pod", attribute("io.kubernetes.pod.name"));
            add("env", attribute("io.kubernetes.pod.namespace"));
            add("container", attribute("io.kubernetes.container.name"));
        }
        *counts.entry(labels).or_insert(0.0) += 1.0;
    }
    counts
}

/// Compares the counts that are not 0 with the recorded events.
pub(crate) fn counts_agree(exporter: &Exporter, expected: &BTreeMap<Labels, f64>) -> Result<(), String> {
    let mut found = exporter.scrape().series("docker_events");
    found.retain(|_, count| *count != 0.0);
    compare_series("docker_events", expected, &found)
}
