//! The push readers against a Collector that is played: what arrives, how, when, and what happens when it does
//! not.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod collector;
mod data;
mod proxy;
mod reload;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fake_engine::{Container, FakeEngine, Fault, Target};
use rustix::process::Signal;
use serde_json::{Value, json};
use tonic::Code;

use collector::{Answer, Collector, Export};
use data::{Attributes, Kind, Point, rounds, series, taken, value};
use support::eventually;
use support::exporter::{Exporter, Setup, push};
use support::exposition::{Labels, labels};
use support::inspect::Encoding;
use tls::Authority;

/// For what should come at once.
const SOON: Duration = Duration::from_secs(20);

/// For what comes after pauses, on a machine that is busy.
const LATER: Duration = Duration::from_secs(30);

/// A minute: the first export is all there is, but for the last one.
const ONCE: u64 = 60_000;
/// An interval that nothing waits for.
const HOURS: u64 = 36_000_000;

/// A message of a stock Collector's gRPC receiver has at most so many bytes.
const FOUR_MIB: usize = 4 * 1024 * 1024;

fn grpc(collector: &Collector, interval: u64, more: Value) -> Value {
    push("otlp_grpc", &collector.grpc(), interval, more)
}

fn http(collector: &Collector, interval: u64, more: Value) -> Value {
    push("otlp_http", &collector.http(), interval, more)
}

/// One of the two above.
type Over = fn(&Collector, u64, Value) -> Value;

/// A reader with this batch size.
fn batched(mut reader: Value, size: usize) -> Value {
    reader["periodic"]["max_export_batch_size/development"] = size.into();
    reader
}

/// An engine with one running container.
fn engine_with_web() -> (FakeEngine, String) {
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web").image("nginx:1"));
    (engine, id)
}

/// Waits until so many exports of everything have arrived; returns them all.
#[track_caller]
fn wait_rounds(collector: &Collector, count: usize) -> Vec<Vec<Point>> {
    eventually(SOON, || {
        let rounds = rounds(&collector.exports());
        if rounds.len() >= count { Ok(rounds) } else { Err(format!("{} of {count} exports", rounds.len())) }
    })
    .0
}

/// How often a text is in another.
fn occurrences(text: &str, part: &str) -> usize {
    text.matches(part).count()
}

/// The count of exports with this result.
#[track_caller]
fn exports_total(exporter: &Exporter, result: &str) -> f64 {
    let scrape = exporter.scrape();
    let found = scrape.select("docker_state_exporter_otlp_exports_total", &labels([("result", result)]));
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].1
}

fn unix_nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap().as_nanos().try_into().unwrap()
}

// ---------------------------------------------------------------------------------------------------------
// What arrives
// ---------------------------------------------------------------------------------------------------------

/// The attributes that OTLP has for a series of `/metrics`.
fn attributes_of(labels: &Labels, inspects: &[serde_json::Value]) -> Attributes {
    let id = labels["id"].strip_prefix("/docker/").unwrap();
    let inspect = inspects.iter().find(|inspect| inspect["Id"] == *id).unwrap();
    let mut attributes = Attributes::from([
        ("container.id".into(), id.to_owned()),
        ("container.name".into(), inspect["Name"].as_str().unwrap().trim_start_matches('/').into()),
        ("container.image.name".into(), inspect["Config"]["Image"].as_str().unwrap().into()),
    ]);
    for (key, value) in inspect["Config"]["Labels"].as_object().unwrap() {
        attributes.insert(format!("container.label.{key}"), value.as_str().unwrap().into());
    }
    let more = [
        ("status", "status"),
        ("image_id", "container.image.id"),
        ("restart_policy", "container.restart_policy"),
        ("hostname", "container.hostname"),
        ("reason", "reason"),
    ];
    for (label, attribute) in more {
        attributes.extend(labels.get(label).map(|value| (attribute.to_owned(), value.clone())));
    }
    attributes
}

fn check_parity(kind: &str, compression: &str, encoding: Encoding) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity");
    let engine = FakeEngine::start().unwrap();
    engine.load(&data).unwrap();
    let inspects: Vec<_> = engine.ids().iter().map(|id| engine.container(id).unwrap().inspect).collect();
    let collector = Collector::start();
    let more = json!({
        "compression": compression,
        "headers": [{"name": "api-key", "value": "one two"}, {"name": "x-tenant", "value": "blue"}],
    });
    let reader = match kind {
        "otlp_grpc" => grpc(&collector, ONCE, more),
        _ => http(&collector, ONCE, more),
    };
    let word = if encoding == Encoding::Code { "code" } else { "state_set" };
    let exporter = Setup::new(&engine.host())
        .set("/containers/encoding", word)
        .set("/resource", json!({"attributes": [{"name": "deployment", "value": "test"}]}))
        .reader(reader)
        .start();
    let points = wait_rounds(&collector, 1).remove(0);
    let scrape = exporter.scrape();

    // The values of each container, by `docker inspect` and by `/metrics`.
    let mut names = BTreeSet::new();
    for (family, expected) in support::inspect::expected(&inspects, encoding) {
        let metric = family.replace('_', ".");
        let expected: BTreeMap<Attributes, f64> =
            expected.iter().map(|(labels, value)| (attributes_of(labels, &inspects), *value)).collect();
        assert_eq!(expected.len(), scrape.series(family).len());
        assert_eq!(series(&points, &metric), expected, "{metric}");
        let help = scrape.families[family].help.clone().unwrap();
        for point in points.iter().filter(|point| point.metric == metric) {
            let unit = if family.ends_with("edat") { "s" } else { "" };
            assert_eq!((point.unit.as_str(), point.kind), (unit, Kind::Gauge), "{metric}");
            assert_eq!(point.description, help, "{metric}");
        }
        names.insert(metric);
    }

    // The events.
    let events = |labels: &Labels| labels.clone();
    let expected: BTreeMap<Attributes, f64> =
        scrape.series("docker_events").iter().map(|(labels, value)| (events(labels), *value)).collect();
    assert!(expected.len() >= 4 * (inspects.len() - 1), "{expected:?}");
    assert_eq!(series(&points, "docker.events"), expected);
    for point in points.iter().filter(|point| point.metric == "docker.events") {
        assert_eq!(point.unit, "{event}");
        assert_eq!(point.kind, Kind::Sum { delta: false, monotonic: true });
        assert_eq!(point.description, scrape.families["docker_events"].help.clone().unwrap());
    }
    names.insert("docker.events".into());

    // What the inventory makes of them.
    for family in ["container_state_exit_reason", "container_attention"] {
        let metric = if family == "container_attention" {
            "container.attention"
        } else {
            "container.state.exit_reason"
        };
        let expected: BTreeMap<Attributes, f64> = scrape
            .series(family)
            .iter()
            .map(|(labels, value)| (attributes_of(labels, &inspects), *value))
            .collect();
        assert!(!expected.is_empty(), "{family}");
        assert_eq!(series(&points, metric), expected);
        names.insert(metric.into());
    }
    let exits = |labels: &Labels| {
        let mut attributes = labels.clone();
        let reason = attributes.remove("reason").unwrap();
        attributes.insert("container.exit.reason".into(), reason);
        attributes
    };
    let expected: BTreeMap<Attributes, f64> =
        scrape.series("container_exits").iter().map(|(labels, value)| (exits(labels), *value)).collect();
    assert!(expected.len() >= 3 * (inspects.len() - 1), "{expected:?}");
    assert_eq!(series(&points, "container.exits"), expected);
    names.insert("container.exits".into());

    // The exporter's own, and nothing else.
    assert_eq!(value(&points, "docker.up", &[]), Ok(1.0));
    assert_eq!(value(&points, "docker_state_exporter.containers", &[]), Ok(inspects.len() as f64));
    assert_eq!(value(&points, "process.threads", &[]).map(|threads| threads > 1.0), Ok(true));
    let own = ["docker_state_exporter.", "process.", "tokio."];
    for point in points.iter().filter(|point| point.metric != "docker.up") {
        let known = names.contains(&point.metric) || own.iter().any(|own| point.metric.starts_with(own));
        assert!(known, "{point:?}");
    }

    // How it was sent.
    for export in collector.exports() {
        assert_eq!((export.grpc, export.gzip), (kind == "otlp_grpc", compression == "gzip"));
        assert_eq!(export.headers["api-key"], "one two");
        assert_eq!(export.headers["x-tenant"], "blue");
        let agent = &export.headers["user-agent"];
        assert!(agent.starts_with(concat!("docker-state-exporter/", env!("CARGO_PKG_VERSION"))), "{agent}");
        if !export.grpc {
            assert_eq!(export.headers["content-type"], "application/x-protobuf");
        }
        // What is compressed names the resource more than once, so that what is alike stands together.
        let resources = &export.request.resource_metrics;
        assert!(resources.len() == 1 || (export.gzip && !resources.is_empty()), "{}", resources.len());
        for resource in resources {
            let attributes = data::texts(&resource.resource.as_ref().unwrap().attributes);
            let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
            assert_eq!(attributes["service.name"], "docker-state-exporter");
            assert_eq!(attributes["service.version"], env!("CARGO_PKG_VERSION"));
            assert_eq!(attributes["service.instance.id"].len(), 36);
            assert_eq!(attributes["host.name"], host.trim());
            assert_eq!(attributes["deployment"], "test");
            assert_eq!(attributes.len(), 5, "{attributes:?}");
            let [scope] = &resource.scope_metrics[..] else { panic!("more than one scope") };
            let scope = scope.scope.as_ref().unwrap();
            let version = env!("CARGO_PKG_VERSION");
            assert_eq!((&*scope.name, &*scope.version), ("docker-state-exporter", version));
        }
    }
    exporter.stop();
}

#[test]
fn codes_arrive_over_grpc() {
    check_parity("otlp_grpc", "gzip", Encoding::Code);
}

#[test]
fn codes_arrive_over_http() {
    check_parity("otlp_http", "none", Encoding::Code);
}

#[test]
fn state_sets_arrive_over_grpc() {
    check_parity("otlp_grpc", "none", Encoding::StateSet);
}

#[test]
fn state_sets_arrive_over_http() {
    check_parity("otlp_http", "gzip", Encoding::StateSet);
}

#[test]
fn the_console_has_a_line_of_json_for_each_request() {
    let (engine, id) = engine_with_web();
    let reader = json!({"periodic": {"interval": ONCE, "exporter": {"console": null}}});
    let exporter = Setup::new(&engine.host()).reader(reader).start();
    let lines = |log: &str| {
        let lines = log.lines().filter(|line| line.starts_with("{\"resourceMetrics\""));
        lines.map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>()
    };
    let (requests, _) = eventually(SOON, || {
        let lines = lines(&exporter.log());
        if lines.len() == 3 { Ok(lines) } else { Err(format!("{} lines", lines.len())) }
    });
    let metric = &requests[0]["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][1];
    assert_eq!(metric["name"], "container.state.status");
    let point = &metric["gauge"]["dataPoints"][0];
    assert_eq!(point["asInt"].as_str().map_or_else(|| point["asInt"].to_string(), str::to_owned), "6");
    let key = json!({"key": "container.id", "value": {"stringValue": id}});
    assert!(point["attributes"].as_array().unwrap().contains(&key), "{point}");
    // The last one comes out in full before the end.
    assert_eq!(lines(&exporter.stop()).len(), 6);
}

// ---------------------------------------------------------------------------------------------------------
// At any size
// ---------------------------------------------------------------------------------------------------------

/// All containers and events arrive, in requests that are not too large. Returns how many requests it took.
fn check_size(engine: &FakeEngine, batch: usize, over: Over) -> usize {
    let collector = Collector::start();
    let reader = batched(over(&collector, ONCE, json!({})), batch);
    // Debug builds take their time with thousands of requests.
    let mut reader = reader;
    reader["periodic"]["timeout"] = 120_000.into();
    let exporter = Setup::new(&engine.host()).set("/events/log", false).reader(reader).start();
    let (exports, _) = eventually(Duration::from_secs(90), || {
        let exports = collector.exports();
        let last = exports.last().map(|export| data::points(&export.request)).unwrap_or_default();
        // The last metric of the exporter's own.
        if last.iter().any(|point| point.metric == "tokio.workers_busy") {
            Ok(exports)
        } else {
            Err("not all")
        }
    });
    for export in &exports {
        let points = data::points(&export.request);
        assert!((1..=batch).contains(&points.len()), "{} points", points.len());
        assert!(export.size <= FOUR_MIB, "{} bytes", export.size);
        assert!(points.iter().all(|point| !point.attributes.contains_key("otel.metric.overflow")));
    }
    let points = taken(&exports);
    let ids: BTreeSet<String> = engine.ids().into_iter().collect();
    for family in support::inspect::FAMILIES {
        let metric = family.replace('_', ".");
        let of_metric = series(&points, &metric);
        let found: BTreeSet<_> = of_metric.keys().map(|a| a["container.id"].clone()).collect();
        assert_eq!((of_metric.len(), found), (ids.len(), ids.clone()), "{metric}");
    }
    assert_eq!(series(&points, "docker.events").len(), 4 * ids.len());
    assert_eq!(value(&points, "docker.up", &[]), Ok(1.0));
    exporter.stop();
    exports.len()
}

#[test]
fn two_thousand_containers_arrive_whole() {
    let engine = FakeEngine::start().unwrap();
    engine.populate(2_000, 20);
    // 20,000 points of containers, 8,000 of events and 6,000 of exits by 1,000, as they are collected, and the
    // exporter's own.
    assert_eq!(check_size(&engine, 2_000, grpc), 35);
    assert_eq!(check_size(&engine, 2_000, http), 35);
}

#[test]
fn requests_may_be_very_small() {
    let engine = FakeEngine::start().unwrap();
    engine.populate(200, 20);
    assert!(check_size(&engine, 7, grpc) > 400);
}

#[test]
fn long_labels_make_no_message_too_large() {
    let engine = FakeEngine::start().unwrap();
    for number in 0..100 {
        let mut container = Container::new(&format!("heavy-{number}"));
        for label in 0..20 {
            container = container.label(&format!("label-{label}"), &"x".repeat(1_000));
        }
        engine.add(container);
    }
    // 20 MB.
    let requests = check_size(&engine, 100_000, http);
    assert!((6..=12).contains(&requests), "{requests}");
}

#[test]
fn one_container_may_be_larger_than_a_request() {
    for over in [grpc, http] {
        let engine = FakeEngine::start().unwrap();
        engine.populate(3, 2);
        let mut container = Container::new("huge");
        for label in 0..20 {
            container = container.label(&format!("label-{label}"), &"x".repeat(50_000));
        }
        engine.add(container);
        // A megabyte for each of ten points.
        let requests = check_size(&engine, 100_000, over);
        assert!((5..=8).contains(&requests), "{requests}");
    }
}

#[test]
fn a_request_may_have_one_point() {
    let engine = FakeEngine::start().unwrap();
    engine.populate(2, 1);
    assert!(check_size(&engine, 1, http) > 28);
}

// ---------------------------------------------------------------------------------------------------------
// When
// ---------------------------------------------------------------------------------------------------------

#[test]
fn the_first_export_follows_the_first_whole_list() {
    let (engine, id) = engine_with_web();
    engine.fault(Target::List, Fault::Hang);
    let collector = Collector::start();
    let mut exporter = Setup::new(&engine.host()).reader(grpc(&collector, ONCE, json!({}))).spawn();
    eventually(SOON, || exporter.get("/-/healthy").map(|_| ()));
    assert_eq!(collector.count(), 0);
    engine.heal(&Target::List);
    exporter.wait_ready();
    let ready = Instant::now();
    let points = wait_rounds(&collector, 1).remove(0);
    // Of the interval, which is a minute.
    assert!(ready.elapsed() < LATER, "{:?} after the list", ready.elapsed());
    assert_eq!(value(&points, "container.state.status", &[("container.id", &id)]), Ok(6.0));
    exporter.stop();
}

#[test]
fn without_the_daemon_that_is_what_is_told() {
    let (engine, _) = engine_with_web();
    engine.vanish();
    let collector = Collector::start();
    let exporter = Setup::new(&engine.host()).reader(http(&collector, 200, json!({}))).spawn();
    let points = wait_rounds(&collector, 2).remove(1);
    assert_eq!(value(&points, "docker.up", &[]), Ok(0.0));
    assert!(!points.iter().any(|point| point.metric.starts_with("container.")));
    exporter.stop();
}

#[test]
fn the_last_state_is_sent_at_the_end() {
    let (engine, id) = engine_with_web();
    let collector = Collector::start();
    let exporter = Setup::new(&engine.host()).reader(grpc(&collector, ONCE, json!({}))).start();
    wait_rounds(&collector, 1);
    engine.act(&id, "die", |container| container.exited(7, "2026-11-19T10:00:00Z"));
    eventually(SOON, || {
        let scrape = exporter.scrape();
        let exited = scrape.select("container_state_exitcode", &labels([("name", "web")]));
        if exited.first().is_some_and(|(_, code)| *code == 7.0) { Ok(()) } else { Err("not exited") }
    });
    assert_eq!(collector.exports().len(), 3);
    exporter.stop();
    let rounds = rounds(&collector.exports());
    assert_eq!(rounds.len(), 2);
    assert_eq!(value(&rounds[1], "container.state.exitcode", &[("container.id", &id)]), Ok(7.0));
    assert_eq!(value(&rounds[1], "container.state.status", &[("container.id", &id)]), Ok(2.0));
    assert_eq!(value(&rounds[1], "docker.events", &[("event", "die"), ("name", "web")]), Ok(1.0));
}

#[test]
fn the_end_comes_in_time_against_peers_that_never_answer() {
    let (engine, _) = engine_with_web();
    let collector = Collector::start();
    collector.answer_always(Answer::Hang);
    // Connections are made for it by the system, and nobody ever takes one.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let mut exporter = Setup::new(&engine.host())
        .reader(grpc(&collector, 100, json!({"timeout": 0})))
        .reader(http(&collector, 100, json!({"timeout": 0})))
        .reader(push("otlp_grpc", &silent, 100, json!({})))
        .reader(push("otlp_http", &format!("{silent}/v1/metrics"), 100, json!({})))
        .start();
    eventually(SOON, || if collector.count() >= 2 { Ok(()) } else { Err("no requests") });
    exporter.signal(Signal::TERM);
    let began = Instant::now();
    assert_eq!(exporter.wait().code(), Some(0));
    // Five seconds for the last exports; a request that is waited for without a limit would never end.
    assert!(began.elapsed() < LATER, "{:?}", began.elapsed());
}

#[test]
fn a_destination_that_is_away_does_not_hold_up_the_end() {
    let (engine, _) = engine_with_web();
    let mut collector = Collector::start();
    let mut exporter = Setup::new(&engine.host())
        .reader(grpc(&collector, ONCE, json!({})))
        .reader(http(&collector, ONCE, json!({})))
        .start();
    wait_rounds(&collector, 2);
    collector.stop();
    exporter.signal(Signal::TERM);
    let began = Instant::now();
    assert_eq!(exporter.wait().code(), Some(0));
    // A second for attempts to send the last state; the requests' own limit is ten.
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[test]
fn what_is_gone_is_in_no_later_export() {
    let engine = FakeEngine::start().unwrap();
    let ids = engine.populate(20, 3);
    let collector = Collector::start();
    let exporter = Setup::new(&engine.host())
        .set("/events/log", false)
        .reader(grpc(&collector, 20, json!({})))
        .reader(http(&collector, 30, json!({})))
        .start();
    wait_rounds(&collector, 4);
    let scraping = AtomicBool::new(true);
    let mut gone = BTreeMap::new();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while scraping.load(Ordering::Relaxed) {
                exporter.scrape_text();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        for id in &ids[..10] {
            engine.destroy(id);
            eventually(
                SOON,
                || {
                    if exporter.scrape_text().contains(id) { Err("still there") } else { Ok(()) }
                },
            );
            gone.insert(id.clone(), unix_nanos(SystemTime::now()));
            // Exports on both ways, with what is left and without what is not.
            let seen = rounds(&collector.exports()).len();
            wait_rounds(&collector, seen + 4);
        }
        scraping.store(false, Ordering::Relaxed);
    });
    let points = taken(&collector.exports());
    let mut before = BTreeSet::new();
    for point in &points {
        let Some(id) = point.attributes.get("container.id") else { continue };
        match gone.get(id) {
            Some(gone) => {
                assert!(point.time <= *gone, "{point:?} came after its container was gone");
                before.insert(id.clone());
            }
            None => assert!(ids[10..].contains(id)),
        }
    }
    assert_eq!(before.len(), 10, "each was there at first");
    exporter.stop();
}

// ---------------------------------------------------------------------------------------------------------
// What sums count from
// ---------------------------------------------------------------------------------------------------------

/// The events that are emitted here.
const EMITTED: f64 = 165.0;

/// What was counted, and what was sent of it.
struct Counted {
    /// The data points that the destination has taken.
    points: Vec<Point>,
    /// The counts of events on `/metrics`.
    events: BTreeMap<Attributes, f64>,
    /// The count of the histogram of the events' times there.
    applied: f64,
}

/// Emits events between exports, of which some may fail.
fn events_between_exports(collector: &Collector, reader: Value) -> Counted {
    events_between(collector, reader, |_, _| {})
}

/// The same, with something done after each step.
fn events_between(
    collector: &Collector,
    reader: Value,
    mut then: impl FnMut(&mut Exporter, usize),
) -> Counted {
    let engine = FakeEngine::start().unwrap();
    let ids: Vec<_> = (0..6).map(|number| engine.add(Container::new(&format!("c{number}")))).collect();
    let mut exporter = Setup::new(&engine.host()).set("/events/log", false).reader(reader).start();
    let mut seen = 0;
    for step in 0..30 {
        for (number, id) in ids.iter().enumerate().skip(step % 2) {
            let event = if number % 3 == 0 { "restart" } else { "die" };
            engine.emit(engine.event(event, id));
        }
        // One more request each time, taken or not.
        seen = eventually(SOON, || {
            let count = collector.count();
            if count > seen { Ok(count) } else { Err("no export") }
        })
        .0;
        then(&mut exporter, step);
    }
    // Nothing more happens, and nothing more fails.
    eventually(SOON, || {
        let counted: f64 = exporter.scrape().series("docker_events").values().sum();
        if counted == EMITTED { Ok(()) } else { Err(format!("{counted} of {EMITTED}")) }
    });
    collector.forget_answers();
    let applied = || exporter.scrape().plain("docker_state_exporter_event_apply_seconds_count");
    let (applied, _) = eventually(SOON, || {
        let before = applied();
        wait_rounds(collector, rounds(&collector.exports()).len() + 2);
        if applied() == before { Ok(before) } else { Err("events are still being applied") }
    });
    let events = exporter.scrape().series("docker_events");
    exporter.stop();
    Counted { points: taken(&collector.exports()), events, applied }
}

/// Some of the requests fail, and over time each page of an export does.
fn failing(collector: &Collector, failure: Answer) {
    let fails = [false, true, false, true, true, false, false];
    let pattern = fails.map(|fails| if fails { failure.clone() } else { Answer::Ok });
    collector.answer_next(pattern.iter().cycle().take(300).cloned());
}

#[test]
fn cumulative_counts_are_from_the_start() {
    let collector = Collector::start();
    failing(&collector, Answer::Status(Code::InvalidArgument, "no", None));
    let before = unix_nanos(SystemTime::now());
    let counted = events_between_exports(&collector, grpc(&collector, 20, json!({})));
    let (mut starts, mut counts) = (BTreeMap::new(), BTreeMap::<Attributes, f64>::new());
    for point in &counted.points {
        match point.kind {
            Kind::Gauge => continue,
            Kind::Histogram { delta } | Kind::Exponential { delta } => assert!(!delta, "{point:?}"),
            Kind::Sum { delta, monotonic } => {
                assert!(!delta && monotonic, "{point:?}");
                let series = (&point.metric, &point.attributes);
                assert_eq!(
                    *starts.entry(series).or_insert(point.start),
                    point.start,
                    "a count has one start"
                );
            }
        }
        assert!(before < point.start && point.start <= point.time, "{point:?}");
        if point.metric == "docker.events" {
            let count = counts.insert(point.attributes.clone(), point.value);
            assert!(count.is_none_or(|before| before <= point.value), "{point:?}");
        }
    }
    assert_eq!(counts, counted.events);
}

fn check_deltas(collector: &Collector, reader: Value) {
    check_deltas_of(&events_between_exports(collector, reader));
}

fn check_deltas_of(counted: &Counted) {
    let mut counts: BTreeMap<(String, Attributes), (u64, f64)> = BTreeMap::new();
    for point in &counted.points {
        match point.kind {
            Kind::Gauge => continue,
            Kind::Histogram { delta } | Kind::Exponential { delta } => assert!(delta, "{point:?}"),
            Kind::Sum { delta, monotonic } => assert!(delta && monotonic, "{point:?}"),
        }
        let series = (point.metric.clone(), point.attributes.clone());
        let (end, total) = counts.get(&series).copied().unwrap_or((point.start, 0.0));
        // Without a gap and without an overlap, whatever failed in between.
        assert_eq!(point.start, end, "{point:?}");
        assert!(point.start <= point.time && point.value >= 0.0, "{point:?}");
        counts.insert(series, (point.time, total + point.value));
    }
    let events: BTreeMap<Attributes, f64> = counts
        .iter()
        .filter(|((metric, _), _)| metric == "docker.events")
        .map(|((_, attributes), (_, total))| (attributes.clone(), *total))
        .collect();
    assert_eq!(events, counted.events);
    // The exporter's own counts are no different.
    let applied = counts[&("docker_state_exporter.event_apply".into(), Attributes::new())].1;
    assert_eq!(applied, counted.applied);
}

#[test]
fn deltas_lose_nothing_when_requests_are_refused() {
    let collector = Collector::start();
    failing(&collector, Answer::Status(Code::InvalidArgument, "no", None));
    check_deltas(&collector, grpc(&collector, 20, json!({"temporality_preference": "delta"})));
}

#[test]
fn deltas_lose_nothing_when_the_destination_is_busy() {
    let collector = Collector::start();
    failing(&collector, Answer::Http(503, None, "busy"));
    // In small pages, and without time for another attempt.
    let reader = http(&collector, 20, json!({"temporality_preference": "delta", "timeout": 100}));
    check_deltas(&collector, batched(reader, 40));
}

#[test]
fn low_memory_is_delta_for_histograms_only() {
    let collector = Collector::start();
    let reader = grpc(&collector, 20, json!({"temporality_preference": "low_memory"}));
    let counted = events_between_exports(&collector, reader);
    let (mut applied, mut counts) = (0.0, BTreeMap::new());
    for point in &counted.points {
        match point.kind {
            Kind::Gauge => {}
            Kind::Histogram { delta } | Kind::Exponential { delta } => {
                assert!(delta);
                applied += point.value;
            }
            Kind::Sum { delta, .. } => assert!(!delta, "{point:?}"),
        }
        if point.metric == "docker.events" {
            counts.insert(point.attributes.clone(), point.value);
        }
    }
    assert_eq!(applied, counted.applied);
    assert_eq!(counts, counted.events);
}

// ---------------------------------------------------------------------------------------------------------
// TLS
// ---------------------------------------------------------------------------------------------------------

#[test]
fn a_private_authority_is_trusted_where_it_is_configured() {
    let (engine, _) = engine_with_web();
    let authority = Authority::new("private");
    let collector = Collector::start_tls(authority.server(None));
    let tls = json!({"tls": {"ca_file": authority.file()}});
    let exporter = Setup::new(&engine.host())
        .reader(grpc(&collector, ONCE, tls.clone()))
        .reader(http(&collector, ONCE, tls))
        .start();
    wait_rounds(&collector, 2);
    let exports = collector.exports();
    assert_eq!(exports.iter().filter(|export| export.grpc).count(), 3);
    assert_eq!(exports.iter().filter(|export| !export.grpc).count(), 3);
    exporter.stop();
}

#[test]
fn the_systems_authorities_are_trusted_where_none_is_configured() {
    let (engine, _) = engine_with_web();
    let authority = Authority::new("system");
    let collector = Collector::start_tls(authority.server(None));
    let exporter = Setup::new(&engine.host())
        .env("SSL_CERT_FILE", authority.file().to_str().unwrap())
        .env("SSL_CERT_DIR", "")
        .reader(grpc(&collector, ONCE, json!({})))
        .reader(http(&collector, ONCE, json!({})))
        .start();
    wait_rounds(&collector, 2);
    exporter.stop();
}

#[test]
fn a_clients_certificate_is_shown_where_it_is_configured() {
    let (engine, _) = engine_with_web();
    let authority = Authority::new("private");
    let collector = Collector::start_tls(authority.server(Some(&authority)));
    let (cert, key) = authority.client();
    let tls = json!({"tls": {"ca_file": authority.file(), "cert_file": cert, "key_file": key}});
    let exporter = Setup::new(&engine.host())
        .reader(grpc(&collector, ONCE, tls.clone()))
        .reader(http(&collector, ONCE, tls))
        .start();
    wait_rounds(&collector, 2);
    exporter.stop();
}

/// Waits for the first failure, and for some more; returns the log.
fn failing_log(setup: Setup, failures: f64) -> String {
    let exporter = setup.start();
    eventually(SOON, || {
        let scrape = exporter.scrape();
        let all = scrape.select("docker_state_exporter_otlp_exports_total", &labels([("result", "error")]));
        let least = all.iter().map(|(_, count)| *count).fold(f64::INFINITY, f64::min);
        if least >= failures { Ok(()) } else { Err(format!("{all:?}")) }
    });
    exporter.stop()
}

#[test]
fn what_is_wrong_with_tls_is_told_once_for_each_destination() {
    let (engine, _) = engine_with_web();
    let (authority, other) = (Authority::new("private"), Authority::new("other"));
    let collector = Collector::start_tls(authority.server(None));
    let demanding = Collector::start_tls(authority.server(Some(&authority)));
    let untrusted = json!({"timeout": 200, "tls": {"ca_file": other.file()}});
    // The system's authorities do not know it either.
    let unknown = json!({"timeout": 200});
    let nameless = json!({"timeout": 200, "tls": {"ca_file": authority.file()}});
    let log = failing_log(
        Setup::new(&engine.host())
            .reader(grpc(&collector, 100, untrusted.clone()))
            .reader(http(&collector, 100, untrusted))
            .reader(http(&collector, 100, unknown))
            .reader(grpc(&demanding, 100, nameless.clone()))
            .reader(http(&demanding, 100, nameless)),
        3.0,
    );
    assert_eq!(occurrences(&log, "an export failed"), 5, "{log}");
    assert_eq!(occurrences(&log, "UnknownIssuer"), 3, "{log}");
    // The server refuses after the client's side of the handshake is over: what the client sees of that, the
    // alert or a connection that breaks, depends on what it is doing then.
    let refused = log.lines().filter(|line| line.contains("an export failed"));
    assert_eq!(refused.filter(|line| line.contains(&demanding.grpc())).count(), 2, "{log}");
    assert_eq!(collector.count() + demanding.count(), 0);
}

#[test]
fn a_system_without_authorities_stops_the_start_where_they_are_needed() {
    let (engine, _) = engine_with_web();
    let collector = Collector::start();
    let none = tempfile::NamedTempFile::new().unwrap();
    let none = none.path().to_str().unwrap();
    for kind in ["otlp_grpc", "otlp_http"] {
        let reader = push(kind, "https://localhost:4318/v1/metrics", ONCE, json!({}));
        let mut exporter = Setup::new(&engine.host())
            .env("SSL_CERT_FILE", none)
            .env("SSL_CERT_DIR", "")
            .reader(reader)
            .spawn();
        assert_eq!(exporter.wait().code(), Some(1));
        let log = exporter.log();
        assert!(log.contains("has no certificate authorities to trust\nhint: "), "{log}");
    }
    let exporter = Setup::new(&engine.host())
        .env("SSL_CERT_FILE", none)
        .env("SSL_CERT_DIR", "")
        .reader(grpc(&collector, ONCE, json!({})))
        .reader(http(&collector, ONCE, json!({})))
        .start();
    wait_rounds(&collector, 2);
    exporter.stop();
}

#[test]
fn a_certificate_that_cannot_be_read_stops_the_start() {
    let (engine, _) = engine_with_web();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("ca.pem");
    std::fs::write(&file, "nothing").unwrap();
    for kind in ["otlp_grpc", "otlp_http"] {
        let reader =
            push(kind, "https://localhost:4318/v1/metrics", ONCE, json!({"tls": {"ca_file": &file}}));
        let mut exporter = Setup::new(&engine.host()).reader(reader).spawn();
        assert_eq!(exporter.wait().code(), Some(1));
        let log = exporter.log();
        assert!(log.contains("ca.pem: holds no PEM certificate"), "{log}");
    }
}

// ---------------------------------------------------------------------------------------------------------
// The environment
// ---------------------------------------------------------------------------------------------------------

/// Variables that each change something that can be seen in what arrives.
const VARIABLES: [(&str, &str); 10] = [
    ("OTEL_EXPORTER_OTLP_HEADERS", "from-general=1"),
    ("OTEL_EXPORTER_OTLP_METRICS_HEADERS", "from-metrics=1"),
    ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
    ("OTEL_EXPORTER_OTLP_METRICS_TIMEOUT", "1"),
    ("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta"),
    ("OTEL_RESOURCE_ATTRIBUTES", "from.environment=1"),
    ("OTEL_SERVICE_NAME", "from-environment"),
    ("OTEL_METRIC_EXPORT_INTERVAL", "50"),
    ("OTEL_METRIC_EXPORT_TIMEOUT", "1"),
    ("OTEL_SDK_DISABLED", "true"),
];

#[test]
fn with_a_file_the_environment_has_no_effect() {
    let (engine, _) = engine_with_web();
    let (collector, elsewhere) = (Collector::start(), Collector::start());
    let mut setup = Setup::new(&engine.host())
        .reader(grpc(&collector, ONCE, json!({"compression": "gzip"})))
        .reader(http(&collector, ONCE, json!({"compression": "none"})));
    for prefix in ["OTEL_EXPORTER_OTLP", "OTEL_EXPORTER_OTLP_METRICS"] {
        setup = setup
            .env(&format!("{prefix}_ENDPOINT"), &elsewhere.grpc())
            .env(&format!("{prefix}_COMPRESSION"), "gzip")
            .env(&format!("{prefix}_PROTOCOL"), "grpc")
            .env(&format!("{prefix}_INSECURE"), "false")
            .env(&format!("{prefix}_CERTIFICATE"), "/nowhere")
            .env(&format!("{prefix}_CLIENT_CERTIFICATE"), "/nowhere")
            .env(&format!("{prefix}_CLIENT_KEY"), "/nowhere");
    }
    for (name, value) in VARIABLES {
        setup = setup.env(name, value);
    }
    let exporter = setup.start();
    wait_rounds(&collector, 2);
    exporter.stop();
    assert_eq!(elsewhere.count(), 0);
    let exports = collector.exports();
    // Two readers, two exports of three requests each: the interval is the file's.
    assert_eq!(exports.len(), 12);
    for export in &exports {
        assert_eq!(export.gzip, export.grpc);
        assert!(!export.headers.keys().any(|name| name.starts_with("from-")), "{:?}", export.headers);
        let resource = export.request.resource_metrics[0].resource.as_ref().unwrap();
        let resource = data::texts(&resource.attributes);
        assert_eq!(resource["service.name"], "docker-state-exporter");
        assert!(!resource.contains_key("from.environment"), "{resource:?}");
    }
    for point in taken(&exports) {
        assert!(!matches!(point.kind, Kind::Sum { delta: true, .. } | Kind::Histogram { delta: true }));
    }
}

/// The exporter that sends over gRPC goes by the variable where it is not told to compress.
#[test]
fn what_the_environment_makes_impossible_stops_the_start() {
    let (engine, _) = engine_with_web();
    let collector = Collector::start();
    let setup = || Setup::new(&engine.host()).reader(grpc(&collector, ONCE, json!({"compression": "none"})));
    for variable in ["OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_EXPORTER_OTLP_METRICS_COMPRESSION"] {
        let mut exporter = setup().env(variable, "GZIP").spawn();
        assert_eq!(exporter.wait().code(), Some(2));
        let log = exporter.log();
        assert!(log.contains(&format!("the environment has {variable}=gzip")), "{log}");
        assert!(log.contains(".otlp_grpc.compression: none") && log.contains("hint: unset "), "{log}");
    }
    // What the hint says works.
    let exporter = setup()
        .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
        .env("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "none")
        .start();
    wait_rounds(&collector, 1);
    exporter.stop();
    assert!(collector.exports().iter().all(|export| !export.gzip));
}

#[test]
fn without_a_file_the_environment_configures() {
    let (engine, _) = engine_with_web();
    for protocol in ["grpc", "http/protobuf"] {
        let collector = Collector::start();
        // Set for metrics, it beats the general one, which leads nowhere.
        let exporter = Setup::new(&engine.host())
            .without_file()
            .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.grpc())
            .env("OTEL_EXPORTER_OTLP_PROTOCOL", protocol)
            .env("OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%20b,x-tenant=blue")
            .env("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
            .env("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", "none")
            .env("OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE", "delta")
            .env("OTEL_RESOURCE_ATTRIBUTES", "team=blue,service.name=other")
            .env("OTEL_SERVICE_NAME", "mine")
            .env("OTEL_METRIC_EXPORT_INTERVAL", "50")
            .start();
        let points = wait_rounds(&collector, 3).remove(2);
        exporter.stop();
        let export = collector.exports().remove(0);
        assert_eq!((export.grpc, export.gzip), (protocol == "grpc", false));
        assert_eq!(export.headers["api-key"], "a b");
        assert_eq!(export.headers["x-tenant"], "blue");
        let resource = export.request.resource_metrics[0].resource.clone().unwrap();
        let resource = data::texts(&resource.attributes);
        assert_eq!((&*resource["service.name"], &*resource["team"]), ("mine", "blue"));
        let events = points.iter().find(|point| point.metric == "docker.events").unwrap();
        assert_eq!(events.kind, Kind::Sum { delta: true, monotonic: true });
    }
}

#[test]
fn without_an_endpoint_nothing_is_pushed() {
    let (engine, _) = engine_with_web();
    let exporter = Setup::new(&engine.host()).without_file().start();
    assert!(!exporter.scrape().families.contains_key("docker_state_exporter_otlp_exports_total"));
    exporter.stop();
}

// ---------------------------------------------------------------------------------------------------------
// What goes wrong
// ---------------------------------------------------------------------------------------------------------

#[test]
fn a_destination_that_goes_and_comes_back_costs_two_lines() {
    let (engine, id) = engine_with_web();
    for over in [grpc, http] {
        let mut collector = Collector::start();
        let reader = over(&collector, 100, json!({"timeout": 300}));
        let exporter = Setup::new(&engine.host()).reader(reader).start();
        wait_rounds(&collector, 2);
        collector.stop();
        eventually(SOON, || {
            let errors = exports_total(&exporter, "error");
            if errors >= 3.0 { Ok(()) } else { Err(format!("{errors} errors")) }
        });
        let log = exporter.log();
        assert_eq!(occurrences(&log, "an export failed"), 1, "{log}");
        assert_eq!(occurrences(&log, "arrive again"), 0, "{log}");
        assert!(log.contains("refused") || log.contains("reset"), "the reason is told: {log}");
        let seen = rounds(&collector.exports()).len();
        collector.resume();
        let points = wait_rounds(&collector, seen + 2).pop().unwrap();
        assert_eq!(value(&points, "container.state.status", &[("container.id", &id)]), Ok(6.0));
        let log = exporter.stop();
        assert_eq!(occurrences(&log, "an export failed"), 1, "{log}");
        assert_eq!(occurrences(&log, "arrive again"), 1, "{log}");
        assert_eq!(occurrences(&log, "a defect"), 0, "{log}");
    }
}

#[test]
fn a_destination_that_is_back_gets_an_export_soon_however_long_the_interval_is() {
    let (engine, _) = engine_with_web();
    for over in [grpc, http] {
        let mut collector = Collector::start();
        collector.stop();
        let reader = over(&collector, HOURS, json!({"timeout": 300}));
        let exporter = Setup::new(&engine.host()).reader(reader).start();
        eventually(LATER, || {
            // The second comes after a pause.
            let errors = exports_total(&exporter, "error");
            if errors >= 2.0 { Ok(()) } else { Err(format!("{errors} errors")) }
        });
        collector.resume();
        eventually(LATER, || if rounds(&collector.exports()).is_empty() { Err("no export") } else { Ok(()) });
        let log = exporter.stop();
        assert_eq!(occurrences(&log, "an export failed"), 1, "{log}");
        assert_eq!(occurrences(&log, "arrive again"), 1, "{log}");
    }
}

#[test]
fn a_destination_that_hangs_costs_the_scrapes_nothing() {
    let (engine, _) = engine_with_web();
    for over in [grpc, http] {
        let collector = Collector::start();
        let reader = over(&collector, 50, json!({"timeout": 200}));
        let exporter = Setup::new(&engine.host()).reader(reader).start();
        wait_rounds(&collector, 1);
        collector.answer_always(Answer::Hang);
        eventually(SOON, || {
            // No scrape waits for the destination: it would not be answered at all.
            let errors = exports_total(&exporter, "error");
            if errors >= 3.0 { Ok(()) } else { Err(format!("{errors} errors")) }
        });
        let log = exporter.log();
        assert_eq!(occurrences(&log, "no answer within 200ms"), 1, "{log}");
        let seen = rounds(&collector.exports()).len();
        collector.answer_always(Answer::Ok);
        wait_rounds(&collector, seen + 1);
        exporter.stop();
    }
}

#[test]
fn what_may_pass_is_tried_again() {
    let (engine, _) = engine_with_web();
    let later = Some(Duration::from_millis(700));
    let cases: [(Over, Answer, u64); 4] = [
        (grpc, Answer::Status(Code::Unavailable, "starting", None), 125),
        (grpc, Answer::Status(Code::ResourceExhausted, "full", later), 700),
        (http, Answer::Http(503, None, "starting"), 125),
        (http, Answer::Http(429, Some(("retry-after", "1")), "full"), 1_000),
    ];
    for (over, answer, least) in cases {
        let collector = Collector::start();
        collector.answer_next([answer.clone()]);
        let began = Instant::now();
        let exporter = Setup::new(&engine.host()).reader(over(&collector, ONCE, json!({}))).start();
        wait_rounds(&collector, 1);
        assert!(began.elapsed() >= Duration::from_millis(least), "{answer:?}: {:?}", began.elapsed());
        let exports = collector.exports();
        assert_eq!(exports.len(), 4, "{answer:?}");
        assert_eq!(exports[0].request, exports[1].request, "{answer:?}");
        // It is not counted: what is counted are requests, and this one has arrived.
        eventually(SOON, || {
            let (ok, error) = (exports_total(&exporter, "ok"), exports_total(&exporter, "error"));
            if (ok, error) == (3.0, 0.0) { Ok(()) } else { Err(format!("{ok} ok, {error} error")) }
        });
        let log = exporter.stop();
        assert_eq!(occurrences(&log, "WARN") + occurrences(&log, "level=warn"), 0, "{log}");
    }
}

#[test]
fn a_pause_that_is_longer_than_a_request_may_take_is_kept() {
    let (engine, _) = engine_with_web();
    // Longer than any pause of our own choice.
    let asked = Duration::from_secs(7);
    let cases: [(Over, Answer); 2] = [
        (grpc, Answer::Status(Code::ResourceExhausted, "full", Some(asked))),
        (http, Answer::Http(503, Some(("retry-after", "7")), "full")),
    ];
    for (over, answer) in cases {
        let collector = Collector::start();
        collector.answer_next([answer.clone()]);
        let exporter =
            Setup::new(&engine.host()).reader(over(&collector, ONCE, json!({"timeout": 500}))).start();
        eventually(SOON, || if collector.count() > 0 { Ok(()) } else { Err("no request") });
        let began = Instant::now();
        eventually(LATER, || if collector.count() > 1 { Ok(()) } else { Err("no other request") });
        // It was seen a moment after it came.
        assert!(began.elapsed() + Duration::from_millis(500) >= asked, "{answer:?}: {:?}", began.elapsed());
        exporter.stop();
    }
}

#[test]
fn what_is_refused_is_not_tried_again() {
    let (engine, _) = engine_with_web();
    let cases: [(Over, Answer, &str); 4] = [
        (grpc, Answer::Status(Code::ResourceExhausted, "too large", None), "ResourceExhausted: too large"),
        (grpc, Answer::Status(Code::Unauthenticated, "no token", None), "Unauthenticated: no token"),
        (http, Answer::Http(400, None, "bad data"), "HTTP 400 Bad Request: bad data"),
        (http, Answer::Http(401, None, "not tok-12345678"), "HTTP 401 Unauthorized: not ***"),
    ];
    for (over, answer, why) in cases {
        let collector = Collector::start();
        collector.answer_next([answer.clone()]);
        let token = json!({"headers": [{"name": "authorization", "value": "Bearer tok-12345678"}]});
        let exporter = Setup::new(&engine.host()).reader(over(&collector, ONCE, token)).start();
        // What is refused is one request, and no reason to keep back the others.
        wait_rounds(&collector, 1);
        assert_eq!(collector.exports().iter().map(|e| e.taken).collect::<Vec<_>>(), [false, true, true]);
        eventually(SOON, || {
            let (ok, error) = (exports_total(&exporter, "ok"), exports_total(&exporter, "error"));
            if (ok, error) == (2.0, 1.0) { Ok(()) } else { Err(format!("{ok} ok, {error} error")) }
        });
        let log = exporter.stop();
        assert_eq!(occurrences(&log, why), 1, "{log}");
        assert_eq!(occurrences(&log, "tok-12345678"), 0, "{log}");
    }
}

#[test]
fn a_partial_success_is_told_and_counted() {
    let (engine, _) = engine_with_web();
    for over in [grpc, http] {
        let collector = Collector::start();
        collector.answer_next([Answer::Partial(3, "too old"), Answer::Ok, Answer::Partial(0, "deprecated")]);
        collector.answer_next((0..6).map(|_| Answer::Partial(1, "too old")));
        let exporter = Setup::new(&engine.host()).reader(over(&collector, 100, json!({}))).start();
        wait_rounds(&collector, 5);
        eventually(SOON, || {
            let (partial, error) = (exports_total(&exporter, "partial"), exports_total(&exporter, "error"));
            if (partial, error) == (7.0, 0.0) { Ok(()) } else { Err(format!("{partial}, {error}")) }
        });
        let log = exporter.stop();
        assert_eq!(occurrences(&log, "the destination complains"), 1, "{log}");
        assert!(log.contains("rejected=3"), "{log}");
        assert_eq!(occurrences(&log, "too old"), 1, "{log}");
        assert_eq!(occurrences(&log, "arrive again"), 1, "{log}");
        // It is not sent again.
        let exports = collector.exports();
        assert!(exports.windows(2).all(|two| two[0].request != two[1].request));
    }
}

#[test]
fn a_complaint_without_a_loss_is_told_too() {
    let (engine, _) = engine_with_web();
    let collector = Collector::start();
    collector.answer_always(Answer::Partial(0, "this tenant ends soon"));
    let exporter = Setup::new(&engine.host()).reader(grpc(&collector, 50, json!({}))).start();
    wait_rounds(&collector, 3);
    assert_eq!(exports_total(&exporter, "partial"), 0.0);
    let log = exporter.stop();
    assert_eq!(occurrences(&log, "this tenant ends soon"), 1, "{log}");
}

#[test]
fn a_connection_that_has_gone_silent_is_not_used_again() {
    let (engine, _) = engine_with_web();
    for over in [grpc, http] {
        let collector = Collector::start();
        let reader = over(&collector, 50, json!({"timeout": 300}));
        let exporter = Setup::new(&engine.host()).reader(reader).start();
        wait_rounds(&collector, 2);
        collector.freeze_connections();
        let seen = rounds(&collector.exports()).len();
        wait_rounds(&collector, seen + 3);
        let log = exporter.stop();
        assert_eq!(occurrences(&log, "an export failed"), 1, "{log}");
        assert_eq!(occurrences(&log, "arrive again"), 1, "{log}");
    }
}

/// A port whose queue of connections is full, so that the system answers nobody any more, as if the host were
/// gone.
struct BlackHole {
    address: std::net::SocketAddr,
    _runtime: tokio::runtime::Runtime,
    _listener: tokio::net::TcpListener,
    _waiting: Vec<std::net::TcpStream>,
}

impl BlackHole {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            socket.listen(1).unwrap()
        });
        let address = listener.local_addr().unwrap();
        let connect = || std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200));
        let waiting: Vec<_> = std::iter::from_fn(|| connect().ok()).take(100).collect();
        assert!(waiting.len() < 100, "the queue is never full");
        Self { address, _runtime: runtime, _listener: listener, _waiting: waiting }
    }
}

#[test]
fn peers_that_never_answer_cost_no_memory_and_no_files() {
    let engine = FakeEngine::start().unwrap();
    engine.populate(10, 20);
    let collector = Collector::start();
    collector.answer_always(Answer::Hang);
    let hole = BlackHole::new();
    let more = json!({"timeout": 20, "compression": "none"});
    let exporter = Setup::new(&engine.host())
        .set("/events/log", false)
        .reader(grpc(&collector, 20, more.clone()))
        .reader(http(&collector, 20, more.clone()))
        .reader(push("otlp_grpc", &format!("http://{}", hole.address), 20, more.clone()))
        .reader(push("otlp_http", &format!("http://{}/v1/metrics", hole.address), 20, more))
        .start();
    let files = || std::fs::read_dir(format!("/proc/{}/fd", exporter.pid())).unwrap().count();
    // So often has each of them failed.
    let failed = |count: f64| {
        eventually(SOON, || {
            let scrape = exporter.scrape();
            let all =
                scrape.select("docker_state_exporter_otlp_exports_total", &labels([("result", "error")]));
            assert_eq!(all.len(), 4);
            if all.iter().all(|(_, errors)| *errors >= count) { Ok(()) } else { Err(format!("{all:?}")) }
        });
    };
    failed(10.0);
    let (files_before, memory_before) = (files(), exporter.rss());
    failed(50.0);
    let (files_after, memory_after) = (files(), exporter.rss());
    assert!(files_after <= files_before + 10, "files from {files_before} to {files_after}");
    // Each of 160 requests has 200 kB.
    let grown = memory_after.saturating_sub(memory_before);
    assert!(grown < 10_000_000, "memory from {memory_before} to {memory_after}");
}

/// Two destinations have nothing to do with each other.
#[test]
fn each_reader_is_on_its_own() {
    let (engine, id) = engine_with_web();
    let (good, bad) = (Collector::start(), Collector::start());
    bad.answer_always(Answer::Hang);
    let exporter = Setup::new(&engine.host())
        .reader(grpc(&bad, 50, json!({"timeout": 0})))
        .reader(grpc(&good, 50, json!({})))
        .start();
    wait_rounds(&good, 3);
    engine.act(&id, "pause", |container| container.status("paused"));
    eventually(SOON, || {
        let last = rounds(&good.exports()).pop().unwrap();
        let status = value(&last, "container.state.status", &[("container.id", &id)])?;
        if status == 3.0 { Ok(()) } else { Err(format!("the status is {status}")) }
    });
    let hung: Vec<Export> = bad.exports();
    assert_eq!(hung.len(), 1);
    exporter.stop();
}
