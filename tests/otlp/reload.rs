//! SIGHUP: push readers come, go and change while events are counted.

use super::*;

/// Another interval every few steps: each time the reader ends, and another one takes its place.
fn other_intervals(exporter: &mut Exporter, step: usize) {
    if step % 5 == 4 {
        exporter.reload("/meter_provider/readers/1/periodic/interval", 20 + step);
    }
}

#[test]
fn deltas_go_on_where_the_reader_before_left_off() {
    let collector = Collector::start();
    failing(&collector, Answer::Http(503, None, "busy"));
    let reader = http(&collector, 20, json!({"temporality_preference": "delta", "timeout": 100}));
    check_deltas_of(&events_between(&collector, batched(reader, 40), other_intervals));
}

/// Everything is made anew then, and what was told is not told again.
#[test]
fn deltas_go_on_where_the_resource_changes() {
    let collector = Collector::start();
    failing(&collector, Answer::Status(Code::InvalidArgument, "no", None));
    let reader = grpc(&collector, 20, json!({"temporality_preference": "delta"}));
    let counted = events_between(&collector, batched(reader, 10), |exporter, step| {
        if step % 5 == 3 {
            let attribute = json!({"name": "step", "value": format!("{step}")});
            exporter.reload("/resource", json!({"attributes": [attribute]}));
        }
    });
    let mut told: BTreeMap<Attributes, (u64, f64)> = BTreeMap::new();
    for point in counted.points.iter().filter(|point| point.metric == "docker.events") {
        let (end, total) = told.entry(point.attributes.clone()).or_default();
        assert!(*end <= point.start && point.start <= point.time, "{point:?}");
        (*end, *total) = (point.time, *total + point.value);
    }
    let told: BTreeMap<Attributes, f64> = told.into_iter().map(|(key, (_, total))| (key, total)).collect();
    assert_eq!(told, counted.events);
}

#[test]
fn cumulative_counts_keep_their_start() {
    let collector = Collector::start();
    let counted = events_between(&collector, grpc(&collector, 20, json!({})), other_intervals);
    let events = counted.points.iter().filter(|point| point.metric == "docker.events");
    let starts: BTreeSet<u64> = events.clone().map(|point| point.start).collect();
    assert_eq!(starts.len(), 1, "a count has one start");
    let last: BTreeMap<Attributes, f64> =
        events.map(|point| (point.attributes.clone(), point.value)).collect();
    assert_eq!(last, counted.events);
}

#[test]
fn destinations_come_and_go() {
    let (engine, id) = engine_with_web();
    let (first, second) = (Collector::start(), Collector::start());
    let mut exporter = Setup::new(&engine.host()).start();
    let readers = "/meter_provider/readers";
    let pull = json!({"pull": {"exporter": {"prometheus/development":
        {"host": "127.0.0.1", "port": exporter.address().port()}}}});
    let started = labels([("event", "start"), ("name", "web")]);
    engine.emit(engine.event("start", &id));
    eventually(SOON, || {
        let scrape = exporter.scrape();
        let counts = scrape.select("docker_events", &started);
        if counts.iter().all(|(_, count)| *count != 1.0) {
            return Err("not counted");
        }
        // An event is counted before its inspect has told what it has changed.
        let applied = scrape.select("docker_state_exporter_event_apply_seconds_count", &labels([]));
        if applied.is_empty() { Err("not applied") } else { Ok(()) }
    });
    let before = exporter.scrape().plain("docker_state_exporter_event_apply_seconds_count");

    exporter.reload(readers, json!([pull, http(&first, 20, json!({}))]));
    wait_rounds(&first, 2);
    exporter.reload(readers, json!([pull, http(&first, 20, json!({})), grpc(&second, 20, json!({}))]));
    let rounds_of_second = wait_rounds(&second, 2);
    assert_eq!(value(&rounds_of_second[0], "docker.events", &[("event", "start"), ("name", "web")]), Ok(1.0));
    // The first was left alone, so it said nothing a second time.
    // The line comes with the answer, a moment after the request.
    eventually(SOON, || match occurrences(&exporter.log(), "exporting") {
        2 => Ok(()),
        other => Err(format!("{other} lines for two destinations")),
    });
    // And so was the pull reader.
    let after = exporter.scrape().plain("docker_state_exporter_event_apply_seconds_count");
    assert!(after >= before, "{after} after {before}");

    exporter.reload(readers, json!([pull, grpc(&second, 20, json!({}))]));
    let gone = first.count();
    wait_rounds(&second, rounds(&second.exports()).len() + 3);
    assert_eq!(first.count(), gone, "an export after the reader has ended");
    let endpoints = exporter.scrape().select("docker_state_exporter_otlp_exports_total", &labels([])).len();
    assert_eq!(endpoints, 3, "those of one destination");
    exporter.stop();
}

#[test]
fn views_and_the_resource_change_for_every_reader() {
    let (engine, _) = engine_with_web();
    let collector = Collector::start();
    let mut exporter = Setup::new(&engine.host()).reader(grpc(&collector, 20, json!({}))).start();
    wait_rounds(&collector, 1);
    exporter.reload(
        "/meter_provider/views",
        json!([{"selector": {"instrument_name": "container.restartcount"}, "stream": {"name": "renamed"}}]),
    );
    let series = exporter.scrape();
    assert_eq!(series.select("renamed", &labels([("name", "web")])).len(), 1, "{:?}", exporter.scrape_text());
    let seen = rounds(&collector.exports()).len();
    let rounds = wait_rounds(&collector, seen + 2);
    assert!(rounds.last().unwrap().iter().any(|point| point.metric == "renamed"));

    exporter.reload("/resource", json!({"attributes": [{"name": "service.name", "value": "other"}]}));
    eventually(SOON, || {
        let last = collector.exports().pop().ok_or("none")?;
        let resource =
            last.request.resource_metrics.into_iter().next().and_then(|r| r.resource).ok_or("none")?;
        let name = data::texts(&resource.attributes).get("service.name").cloned();
        if name.as_deref() == Some("other") { Ok(()) } else { Err("the resource before") }
    });
    exporter.stop();
}

#[test]
fn what_cannot_be_made_changes_nothing() {
    let (engine, _) = engine_with_web();
    let collector = Collector::start();
    let exporter_setup = Setup::new(&engine.host()).reader(http(&collector, 20, json!({})));
    let mut exporter = exporter_setup.start();
    wait_rounds(&collector, 1);
    let lacking = json!({"tls": {"ca_file": "/nonexistent/ca.pem"}});
    let bad = push("otlp_http", "https://localhost:1/v1/metrics", 20, lacking);
    exporter.write("/meter_provider/readers/1", bad);
    exporter.signal(Signal::HUP);
    eventually(SOON, || {
        let log = exporter.log();
        let said = log.contains("nothing has changed") && log.contains("/nonexistent/ca.pem");
        if said { Ok(()) } else { Err(format!("not said in\n{log}")) }
    });
    wait_rounds(&collector, rounds(&collector.exports()).len() + 3);
    exporter.stop();
}
