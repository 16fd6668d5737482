//! What `/metrics` has to show for a container, derived from `docker inspect`.
//!
//! On purpose this shares no code with the program.

use std::collections::BTreeMap;

use serde_json::Value;

use super::exposition::{Exposition, Labels, compare_series};

/// How status and health are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// One series with a number.
    Code,
    /// One series for each state.
    StateSet,
}

/// Health by its code.
const HEALTH: [&str; 4] = ["unhealthy", "none", "starting", "healthy"];
/// Status by its code.
const STATUS: [&str; 7] = ["removing", "dead", "exited", "paused", "restarting", "created", "running"];

/// The families that describe containers, each a gauge.
pub(crate) const FAMILIES: [&str; 10] = [
    "container_createdat",
    "container_info",
    "container_restartcount",
    "container_state_exitcode",
    "container_state_finishedat",
    "container_state_health_failingstreak",
    "container_state_health_status",
    "container_state_oomkilled",
    "container_state_startedat",
    "container_state_status",
];

/// The series of every family for these containers.
pub(crate) fn expected(
    inspects: &[Value],
    encoding: Encoding,
) -> BTreeMap<&'static str, BTreeMap<Labels, f64>> {
    let mut families: BTreeMap<_, BTreeMap<Labels, f64>> =
        FAMILIES.into_iter().map(|family| (family, BTreeMap::new())).collect();
    for inspect in inspects {
        let labels = common_labels(inspect);
        let mut add = |family: &'static str, extra: &[(&str, &str)], value: f64| {
            let mut labels = labels.clone();
            labels.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
            let twice = families.entry(family).or_default().insert(labels, value);
            assert_eq!(twice, None, "two containers with the labels of {inspect}");
        };
        let state = &inspect["State"];
        let status = text(state, "Status");
        let health = match state["Health"]["Status"].as_str() {
            None | Some("") => "none",
            Some(health) => health,
        };
        for (family, names, current) in [
            ("container_state_status", &STATUS[..], status),
            ("container_state_health_status", &HEALTH[..], health),
        ] {
            let code = names.iter().position(|name| *name == current);
            let code =
                code.unwrap_or_else(|| panic!("the engine says {current:?}, which this test does not know"));
            match encoding {
                Encoding::Code => add(family, &[], count(code)),
                Encoding::StateSet => {
                    for (index, name) in names.iter().enumerate() {
                        add(family, &[("status", name)], f64::from(u8::from(index == code)));
                    }
                }
            }
        }
        add("container_state_oomkilled", &[], f64::from(u8::from(state["OOMKilled"].as_bool().unwrap())));
        add("container_state_startedat", &[], time(text(state, "StartedAt")));
        add("container_state_finishedat", &[], time(text(state, "FinishedAt")));
        add("container_createdat", &[], time(text(inspect, "Created")));
        add("container_restartcount", &[], number(&inspect["RestartCount"]));
        add("container_state_exitcode", &[], number(&state["ExitCode"]));
        let streak = &state["Health"]["FailingStreak"];
        add("container_state_health_failingstreak", &[], if streak.is_null() { 0.0 } else { number(streak) });
        let info = [
            ("image_id", text(inspect, "Image")),
            ("restart_policy", text(&inspect["HostConfig"]["RestartPolicy"], "Name")),
            ("hostname", text(&inspect["Config"], "Hostname")),
        ];
        add("container_info", &info, 1.0);
    }
    families
}

/// Compares a scrape with the containers; the error has a line for each difference.
pub(crate) fn compare(scrape: &Exposition, inspects: &[Value], encoding: Encoding) -> Result<(), String> {
    let mut differences = String::new();
    for (name, series) in expected(inspects, encoding) {
        match scrape.families.get(name) {
            None if series.is_empty() => {}
            None => differences.push_str(&format!("there is no family {name}\n")),
            Some(family) => {
                if family.kind != "gauge" || family.help.as_deref().unwrap_or_default().is_empty() {
                    differences.push_str(&format!("{name}: a {}, help {:?}\n", family.kind, family.help));
                }
                if let Err(difference) = compare_series(name, &series, &scrape.series(name)) {
                    differences.push_str(&difference);
                }
            }
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

/// The labels that every series of a container has.
pub(crate) fn common_labels(inspect: &Value) -> Labels {
    let mut labels = container_labels(&inspect["Config"]["Labels"]);
    labels.insert("id".into(), format!("/docker/{}", text(inspect, "Id")));
    labels.insert("image".into(), text(&inspect["Config"], "Image").into());
    let name = text(inspect, "Name");
    labels.insert("name".into(), name.strip_prefix('/').unwrap_or(name).into());
    labels
}

/// Container labels as metric labels; those that become the same are joined in the order of their keys.
fn container_labels(of_container: &Value) -> Labels {
    let of_container: BTreeMap<&String, &str> = of_container
        .as_object()
        .into_iter()
        .flatten()
        .map(|(key, value)| (key, value.as_str().unwrap()))
        .collect();
    let mut labels = Labels::new();
    for (key, value) in of_container {
        let allowed =
            |c: char| if c.is_ascii_alphanumeric() || c == '_' { c.to_ascii_lowercase() } else { '_' };
        let name = format!("container_label_{}", key.chars().map(allowed).collect::<String>());
        labels
            .entry(name)
            .and_modify(|joined| {
                joined.push(';');
                joined.push_str(value);
            })
            .or_insert_with(|| value.to_owned());
    }
    labels
}

/// Unix time in whole seconds; 0 for the engine's zero time, which means never.
fn time(text: &str) -> f64 {
    if text == "0001-01-01T00:00:00Z" {
        return 0.0;
    }
    let time: jiff::Timestamp = text.parse().unwrap_or_else(|error| panic!("{text}: {error}"));
    number(&time.as_second().into())
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("not a number: {value}"))
}

fn count(index: usize) -> f64 {
    f64::from(u8::try_from(index).unwrap())
}
