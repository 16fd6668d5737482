//! What a Collector's Prometheus endpoint has to show, worked out from `/metrics` and `docker inspect`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::process::Collector;
use crate::support::exporter::Exporter;
use crate::support::exposition::{Exposition, Labels, compare_series};
use crate::support::inspect::FAMILIES;

/// The events' family.
pub(crate) const EVENTS: &str = "docker_events";

/// Compares the families of containers and events, each series of both sides. `resource` are the labels that the
/// resource's attributes become; series of other instances are left out.
pub(crate) fn agree(
    inspects: &[Value],
    exporter: &Exporter,
    collector: &Collector,
    resource: &Labels,
) -> Result<(), String> {
    let (mut expected, mut found) =
        (exporter.scrape(), of_instance(collector.scrape()?, &resource["instance"]));
    let inspects: BTreeMap<_, _> = inspects.iter().map(|i| (i["Id"].as_str().unwrap(), i)).collect();
    let mut differences = String::new();
    for family in FAMILIES.into_iter().chain([EVENTS]) {
        let of_family = |scrape: &mut Exposition| {
            let samples = scrape.families.remove(family).map(|family| family.samples).unwrap_or_default();
            samples.into_iter().map(|((_, labels), value)| (labels, value)).collect::<BTreeMap<_, _>>()
        };
        let translate = |labels: Labels| {
            let mut labels = if family == EVENTS { labels } else { container_labels(&labels, &inspects)? };
            labels.extend(resource.clone());
            Ok::<_, String>(labels)
        };
        let expected: BTreeMap<Labels, f64> = of_family(&mut expected)
            .into_iter()
            .map(|(labels, value)| Ok((translate(labels)?, value)))
            .collect::<Result<_, String>>()?;
        if let Err(difference) = compare_series(family, &expected, &of_family(&mut found)) {
            differences.push_str(&difference);
        }
    }
    if differences.is_empty() { Ok(()) } else { Err(differences) }
}

/// Whether each of those families has as many series on both sides. It is what to ask first: to find the nearest of
/// each of thousands that are not there yet would take minutes.
pub(crate) fn as_many(exporter: &Exporter, collector: &Collector, instance: &str) -> Result<(), String> {
    let count = |text: &str, with: &str| {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for line in text.lines().filter(|line| line.contains(with)) {
            let name = line.split('{').next().unwrap_or_default();
            if name == EVENTS || FAMILIES.contains(&name) {
                *counts.entry(name.to_owned()).or_default() += 1;
            }
        }
        counts
    };
    let there = count(&collector.scrape_text()?, &format!("instance=\"{instance}\""));
    let wanted = count(&exporter.scrape_text(), "");
    if there == wanted { Ok(()) } else { Err(format!("of {wanted:?}\nthere are {there:?}")) }
}

/// What a Collector shows of one exporter.
pub(crate) fn of_instance(mut scrape: Exposition, instance: &str) -> Exposition {
    for family in scrape.families.values_mut() {
        family.samples.retain(|(_, labels), _| labels.get("instance").is_some_and(|there| there == instance));
    }
    scrape
}

/// The labels that the attributes of a series of `/metrics` become, by the table in `docs/collector.md`.
fn container_labels(labels: &Labels, inspects: &BTreeMap<&str, &Value>) -> Result<Labels, String> {
    let id = labels["id"].strip_prefix("/docker/").unwrap();
    let renamed = [
        ("image", "container_image_name"),
        ("name", "container_name"),
        ("image_id", "container_image_id"),
        ("restart_policy", "container_restart_policy"),
        ("hostname", "container_hostname"),
    ];
    let mut translated = Labels::from([("container_id".into(), id.into())]);
    for (name, as_name) in renamed {
        translated.extend(labels.get(name).map(|value| (as_name.to_owned(), value.clone())));
    }
    // `/metrics` may not have heard of its removal yet.
    let inspect = inspects.get(id).ok_or_else(|| format!("the engine has no container {id}"))?;
    for (key, value) in inspect["Config"]["Labels"].as_object().unwrap() {
        let key: String = key.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        translated.insert(format!("container_label_{key}"), value.as_str().unwrap().into());
    }
    Ok(translated)
}
