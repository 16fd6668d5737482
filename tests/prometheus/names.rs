//! Containers and a resource that are called the worst things there are: Prometheus takes every series.

use std::collections::BTreeSet;

use fake_engine::{Container, FakeEngine};
use serde_json::{Value, json};

use crate::server::{DEADLINE, Prometheus};
use crate::support::eventually;
use crate::support::exporter::{Exporter, Setup};
use crate::support::exposition::{Exposition, Labels};

const STRATEGIES: [&str; 4] = [
    "underscore_escaping_with_suffixes",
    "underscore_escaping_without_suffixes/development",
    "no_utf8_escaping_with_suffixes/development",
    "no_translation/development",
];

/// Keys that become the same, that are nearly those of others, and that are no names.
const KEYS: [&str; 22] = [
    "a.b",
    "a_b",
    "A-B",
    "K",
    "k",
    "1x",
    "_",
    "__name__",
    "a:b",
    "ключ",
    "\"",
    "\\",
    "new\nline",
    "name",
    "id",
    "container.label.a.b",
    "container_label_a_b",
    "le",
    "job",
    "instance",
    "env",
    "otel.scope.name",
];

/// Every kind of value that has a meaning somewhere on the way.
const VALUES: [&str; 8] =
    ["", "\"", "a\\", "line\nfeed", "\0\u{1}\t\r", "{a=\"b\"} 1 # ", "\u{feff}é\u{2028}🦀", "plain"];

/// What an exporter's resource may not add to each series, as the configuration says.
const REFUSED: [&str; 10] =
    ["container_label_a_b", "a_b", "A-B", "a:b", "1x", "__name__", "name", "id", "env", "otel.scope.name"];

fn worst(number: usize) -> Container {
    let values = VALUES.iter().cycle().skip(number);
    let container = Container::new(&format!("worst-{number}")).image(VALUES[number % VALUES.len()]);
    KEYS.iter().zip(values).fold(container, |container, (key, value)| container.label(key, value))
}

fn start(engine: &FakeEngine, strategy: &str, encoding: &str) -> Exporter {
    let pull = "/meter_provider/readers/0/pull/exporter/prometheus~1development";
    let values = VALUES.iter().cycle().skip(1);
    let attributes: Vec<Value> =
        KEYS.iter().zip(values).map(|(key, value)| json!({"name": key, "value": value})).collect();
    let same = ["\"", "\\", "_", "ключ", "new\nline"].iter().skip(1);
    let excluded: Vec<&str> = REFUSED.iter().chain(same).copied().collect();
    Setup::new(&engine.host())
        .set("/resource/attributes", attributes)
        .set(&format!("{pull}/translation_strategy"), strategy)
        .set(&format!("{pull}/scope_info_enabled"), true)
        .set(&format!("{pull}/target_info_enabled~1development"), true)
        .set(&format!("{pull}/resource_constant_labels"), json!({"included": ["*"], "excluded": excluded}))
        .set("/containers/encoding", encoding)
        .set("/events/labels", json!({"included": ["*"]}))
        .start()
}

/// The series of an answer as Prometheus tells them apart.
fn told_apart(scrape: &Exposition) -> BTreeSet<Labels> {
    let samples = scrape.families.values().flat_map(|family| family.samples.keys());
    let series = samples.map(|(name, labels)| {
        let mut labels = labels.clone();
        labels.retain(|_, value| !value.is_empty());
        for (label, of_target) in [("job", "exported_job"), ("instance", "exported_instance")] {
            labels.remove(label).map(|value| labels.insert(of_target.to_owned(), value));
        }
        labels.insert("__name__".into(), name.clone());
        labels
    });
    series.collect()
}

/// The series that Prometheus has of an exporter.
fn taken(prometheus: &Prometheus, exporter: &Exporter) -> Result<BTreeSet<Labels>, String> {
    let query = format!(r#"{{instance="{}",__name__!~"up|scrape_.*"}}"#, exporter.address());
    let result = prometheus.query(&query)?;
    let series = result["result"].as_array().into_iter().flatten().map(|series| {
        let mut labels: Labels = serde_json::from_value(series["metric"].clone()).unwrap();
        labels.retain(|label, _| label != "job" && label != "instance");
        labels
    });
    Ok(series.collect())
}

#[test]
fn prometheus_drops_nothing_whatever_containers_and_the_resource_are_called() {
    let engine = FakeEngine::start().unwrap();
    let ids: Vec<String> = (0..VALUES.len()).map(|number| engine.create(worst(number))).collect();
    let exporters: Vec<Exporter> = STRATEGIES
        .into_iter()
        .flat_map(|strategy| ["code", "state_set"].map(|encoding| start(&engine, strategy, encoding)))
        .collect();
    for (number, id) in ids.iter().enumerate() {
        engine.act(id, "oom", |container| container.oom_killed(true));
        engine.emit(engine.event(&format!("exec_start: {}", VALUES[number]), id));
        // Made anew, with labels that are shown the same.
        if number % 2 == 0 {
            engine.destroy(id);
            engine.create(worst(number).label("A.b", "").named(&format!("worst-{number}")));
        }
    }
    let prometheus = Prometheus::start("worst", &exporters.iter().collect::<Vec<_>>(), &[]);
    for exporter in &exporters {
        let (count, _) = eventually(DEADLINE, || {
            let (scraped, taken) = (told_apart(&exporter.scrape()), taken(&prometheus, exporter)?);
            match (scraped.difference(&taken).next(), taken.difference(&scraped).next()) {
                (None, None) => Ok(scraped.len()),
                (missing, other) => Err(format!("not taken: {missing:?}, and something else: {other:?}")),
            }
        });
        assert!(count > 150, "{count} series");
        println!("{count} series, each of them in Prometheus");
    }
    exporters.into_iter().for_each(|exporter| drop(exporter.stop()));
}
