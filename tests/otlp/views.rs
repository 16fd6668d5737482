//! Views and cardinality limits, at a push reader and at `/metrics`.

use fake_engine::{Container, FakeEngine};
use serde_json::{Value, json};

use super::{ONCE, SOON, grpc, http, wait_rounds};
use crate::collector::Collector;
use crate::data::{Attributes, Kind, Point, rounds, series, taken};
use crate::support::eventually;
use crate::support::exporter::{Exporter, Setup};
use crate::support::exposition::labels;

/// Three containers, two of one image.
fn engine() -> (FakeEngine, Vec<String>) {
    let engine = FakeEngine::start().unwrap();
    let add = |name: &str, image: &str, code: i64| {
        let container = Container::new(name).image(image).label("team", "blue").label("secret.key", "x");
        engine.add(container.status("exited").exit_code(code))
    };
    let ids = vec![add("one", "nginx:1", 1), add("two", "nginx:1", 1), add("three", "redis:7", 3)];
    (engine, ids)
}

fn view(selector: Value, stream: Value) -> Value {
    json!({"selector": selector, "stream": stream})
}

fn start(engine: &FakeEngine, views: Value, limits: Value, reader: Value) -> Exporter {
    let mut reader = reader;
    reader["periodic"]["cardinality_limits"] = limits.clone();
    Setup::new(&engine.host())
        .set("/events/start_at_zero", json!(["die"]))
        .set("/meter_provider/views", views)
        .set("/meter_provider/readers/0/pull/cardinality_limits", limits)
        .reader(reader)
        .start()
}

fn attributes<const N: usize>(pairs: [(&str, &str); N]) -> Attributes {
    labels(pairs)
}

/// The values of a metric, by what is left of its attributes.
fn of(points: &[Point], metric: &str) -> Vec<(Attributes, f64)> {
    series(points, metric).into_iter().collect()
}

#[test]
fn streams_are_what_the_views_make_of_them() {
    let (engine, ids) = engine();
    let views = json!([
        view(json!({"instrument_name": "container.createdat"}), json!({"aggregation": {"drop": null}})),
        view(
            json!({"instrument_name": "Container.RestartCount"}),
            json!({"name": "restarts/all", "description": "Every restart."})
        ),
        view(
            json!({"instrument_name": "container.state.status"}),
            json!({"attribute_keys": {"included": ["container.image.name"]}})
        ),
        view(
            json!({"instrument_name": "container.info"}),
            json!({"attribute_keys": {"excluded": ["container.label.secret*", "container.image.id"]}})
        ),
        view(
            json!({"instrument_name": "container.state.exitcode"}),
            json!({"attribute_keys": {"included": []}})
        ),
        view(
            json!({"instrument_type": "observable_counter", "instrument_name": "docker.events"}),
            json!({"attribute_keys": {"included": ["event"]}})
        ),
        view(
            json!({"instrument_name": "docker_state_exporter.syncs"}),
            json!({"attribute_keys": {"excluded": ["result"]}})
        ),
        view(json!({"meter_name": "other"}), json!({"aggregation": {"drop": null}})),
        // Not for gauges that are observed: as if it were not there.
        view(json!({"instrument_name": "tokio.workers"}), json!({"aggregation": {"sum": null}})),
        view(json!({"instrument_name": "tokio.global_queue_depth"}), json!({"aggregation": {"drop": null}})),
    ]);
    let collector = Collector::start();
    let exporter = start(&engine, views, json!({}), http(&collector, 100, json!({})));
    for id in &ids {
        engine.act(id, "die", |container| container);
    }
    let die = attributes([("event", "die")]);
    // The sum of all containers' events, and it stays when one of them is gone.
    let (points, scrape) = eventually(SOON, || {
        let points = rounds(&collector.exports()).pop().ok_or("no export")?;
        let scrape = exporter.scrape();
        let counted = (of(&points, "docker.events"), scrape.find("docker_events", &die));
        if counted == (vec![(die.clone(), 3.0)], Ok(3.0)) {
            Ok((points, scrape))
        } else {
            Err(format!("{counted:?}"))
        }
    })
    .0;

    assert!(
        series(&points, "container.createdat").is_empty()
            && !scrape.families.contains_key("container_createdat")
    );
    assert!(series(&points, "tokio.global_queue_depth").is_empty());
    assert!(!scrape.families.contains_key("tokio_global_queue_depth"));
    assert_eq!(series(&points, "tokio.workers").len(), 1);
    assert!(!scrape.families.contains_key("container_restartcount"));
    let restarts = &scrape.families["restarts_all"];
    assert_eq!((restarts.help.as_deref(), restarts.samples.len()), (Some("Every restart."), 3));
    assert_eq!(series(&points, "restarts/all").len(), 3);
    let renamed = points.iter().find(|point| point.metric == "restarts/all").unwrap();
    assert_eq!((renamed.description.as_str(), renamed.kind), ("Every restart.", Kind::Gauge));

    let images = [("nginx:1", 2.0), ("redis:7", 2.0)];
    let pushed = images.map(|(image, status)| (attributes([("container.image.name", image)]), status));
    assert_eq!(of(&points, "container.state.status"), pushed);
    let shown = images.map(|(image, status)| (labels([("image", image)]), status));
    assert_eq!(scrape.series("container_state_status"), shown.into());

    // One value of several, of which it is of no account which.
    let (codes, shown) = (of(&points, "container.state.exitcode"), scrape.plain("container_state_exitcode"));
    assert!(codes.len() == 1 && codes[0].0.is_empty() && [1.0, 3.0].contains(&codes[0].1), "{codes:?}");
    assert!([1.0, 3.0].contains(&shown), "{shown}");

    let info = of(&points, "container.info");
    assert_eq!(info.len(), 3);
    for (attributes, _) in &info {
        let keys: Vec<_> = attributes.keys().map(String::as_str).collect();
        let expected = [
            "container.hostname",
            "container.id",
            "container.image.name",
            "container.label.team",
            "container.name",
            "container.restart_policy",
        ];
        assert_eq!(keys, expected);
    }
    for labels in scrape.series("container_info").into_keys() {
        let keys: Vec<_> = labels.keys().map(String::as_str).collect();
        assert_eq!(keys, ["container_label_team", "hostname", "id", "image", "name", "restart_policy"]);
    }
    let syncs = of(&points, "docker_state_exporter.syncs");
    assert!(syncs.len() == 1 && syncs[0].0.is_empty() && syncs[0].1 >= 1.0, "{syncs:?}");

    // Views hold for what changes, too.
    engine.destroy(&ids[2]);
    eventually(SOON, || {
        let scrape = exporter.scrape();
        let shown = scrape.series("container_state_status");
        let points = rounds(&collector.exports()).pop().ok_or("no export")?;
        let pushed = of(&points, "container.state.status");
        if shown.len() == 1 && pushed.len() == 1 { Ok(()) } else { Err(format!("{shown:?} {pushed:?}")) }
    });
    assert_eq!(exporter.scrape().value("docker_events", &die), 3.0);
    let log = exporter.stop();
    assert_eq!(log.matches("selects no instrument of this program").count(), 1, "{log}");
    assert_eq!(log.matches("cannot have, for which the view is left out: tokio.workers").count(), 1, "{log}");
}

#[test]
fn beyond_a_limit_series_become_one() {
    let (engine, _) = engine();
    engine.populate(20, 1);
    let views = json!([view(
        json!({"instrument_name": "container.state.exitcode"}),
        json!({"aggregation_cardinality_limit": 1000})
    )]);
    let limits = json!({"default": 100, "observable_gauge": 5, "observable_counter": 2});
    let collector = Collector::start();
    let exporter = start(&engine, views, limits, grpc(&collector, ONCE, json!({})));
    let points = wait_rounds(&collector, 1).remove(0);
    let scrape = exporter.scrape();
    let overflow = attributes([("otel.metric.overflow", "BoolValue(true)")]);
    let shown = labels([("otel_metric_overflow", "true")]);
    for (metric, family, count) in [
        ("container.state.status", "container_state_status", 5),
        ("container.info", "container_info", 5),
        ("docker.events", "docker_events", 2),
        // The exporter about itself: ok, gone, error.
        ("docker_state_exporter.inspects", "docker_state_exporter_inspects_total", 2),
    ] {
        let (pushed, scraped) = (series(&points, metric), scrape.series(family));
        assert_eq!((pushed.len(), scraped.len()), (count, count), "{metric}");
        assert!(pushed.contains_key(&overflow), "{metric}: {pushed:?}");
        assert!(scraped.contains_key(&shown), "{family}: {scraped:?}");
    }
    // A view's limit goes before the reader's, and below a limit nothing is different.
    assert_eq!(series(&points, "container.state.exitcode").len(), 23);
    let codes = scrape.series("container_state_exitcode");
    assert_eq!(codes.len(), 23);
    assert!(!codes.contains_key(&shown));
    exporter.stop();
}

#[test]
fn a_meter_that_is_not_enabled_exports_nothing() {
    let (engine, _) = engine();
    let exporter = Setup::new(&engine.host())
        .set("/meter_provider/meter_configurator~1development", json!({"default_config": {"enabled": false}}))
        .start();
    assert_eq!(exporter.scrape_text(), "");
    let log = exporter.stop();
    assert_eq!(log.matches("only meter: no metric is exported").count(), 1, "{log}");
}

#[test]
fn histograms_are_what_is_asked_for() {
    let (engine, ids) = engine();
    let explicit = Collector::start();
    let exponential = Collector::start();
    let reader = http(
        &exponential,
        100,
        json!({"default_histogram_aggregation": "base2_exponential_bucket_histogram"}),
    );
    let deltas = Collector::start();
    let delta = json!({
        "default_histogram_aggregation": "base2_exponential_bucket_histogram",
        "temporality_preference": "delta",
    });
    let exporter = Setup::new(&engine.host())
        .reader(grpc(&explicit, 100, json!({})))
        .reader(reader)
        .reader(grpc(&deltas, 100, delta))
        .start();
    engine.act(&ids[0], "die", |container| container);
    let kind = |collector: &Collector, expected: Kind| {
        eventually(SOON, || {
            let points = rounds(&collector.exports()).pop().ok_or("no export")?;
            let found = points.iter().find(|point| point.metric == "docker_state_exporter.event_apply");
            let point = found.ok_or("no event was applied")?;
            if point.kind == expected && point.value >= 1.0 { Ok(()) } else { Err(format!("{point:?}")) }
        });
    };
    kind(&explicit, Kind::Histogram { delta: false });
    kind(&exponential, Kind::Exponential { delta: false });
    eventually(SOON, || {
        let points = taken(&deltas.exports());
        let found = points.iter().find(|point| point.metric == "docker_state_exporter.event_apply");
        let kind = found.ok_or("no event was applied")?.kind;
        if kind == (Kind::Exponential { delta: true }) { Ok(()) } else { Err("another histogram") }
    });
    // /metrics has its own, whatever a push reader has.
    let family = &exporter.scrape().families["docker_state_exporter_event_apply_seconds"];
    assert_eq!(family.kind, "histogram");
    exporter.stop();
}
