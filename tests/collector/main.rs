//! A real OpenTelemetry Collector with the project's own configurations: what arrives there, and what its absence
//! costs the exporter. `scripts/collector` builds it, and `OTELCOL` says where it is.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod process;
#[path = "../support/mod.rs"]
mod support;
mod translated;

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fake_engine::{Container, FakeEngine};
use rustix::process::Signal;
use serde_json::{Value, json};

use process::{Collector, Plan};
use support::certificates::Authority;
use support::docker::Docker;
use support::documented;
use support::eventually;
use support::exporter::{Exporter, Setup, get, push};
use support::exposition::{Exposition, Labels, labels};
use support::inspect::FAMILIES;
use support::namespace::{MACHINE, Namespace};
use translated::{EVENTS, agree, as_many, of_instance};

/// For everything to arrive, with 2,000 containers on a machine that has other things to do.
const WHOLE: Duration = Duration::from_secs(240);

/// How often the exporters here export.
const INTERVAL: u64 = 1_000;

/// An interval that goes by in no test.
const NEVER: u64 = 3_600_000;

/// How the exporter's log begins when a Collector goes, and when it is back.
const GONE: &str = "an export failed";
const BACK: &str = "exports arrive again";

#[derive(Debug, Clone, Copy)]
enum Over {
    Grpc,
    Http,
}

const BOTH: [Over; 2] = [Over::Grpc, Over::Http];

impl Over {
    /// A reader that sends to a Collector; `more` goes into the exporter's settings.
    fn reader(self, collector: &Collector, scheme: &str, more: Value) -> Value {
        let (kind, endpoint) = match self {
            Self::Grpc => ("otlp_grpc", format!("{scheme}://{}", collector.grpc())),
            Self::Http => ("otlp_http", format!("{scheme}://{}/v1/metrics", collector.http())),
        };
        push(kind, &endpoint, INTERVAL, more)
    }

    /// What tells an exporter's series from another's.
    fn instance(self) -> &'static str {
        match self {
            Self::Grpc => "by-grpc",
            Self::Http => "by-http",
        }
    }
}

/// An exporter with a resource that is known.
fn setup(docker_host: &str, instance: &str) -> Setup {
    let attribute = |name: &str, value: &str| json!({"name": name, "value": value});
    let attributes = [
        attribute("service.name", "docker-state-exporter"),
        attribute("service.instance.id", instance),
        attribute("host.name", "host-1"),
    ];
    Setup::new(docker_host).set("/resource", json!({"attributes": attributes})).set("/events/log", false)
}

/// The labels that its attributes become.
fn resource(instance: &str) -> Labels {
    labels([
        ("job", "docker-state-exporter"),
        ("instance", instance),
        ("host_name", "host-1"),
        ("service_version", env!("CARGO_PKG_VERSION")),
    ])
}

/// The engine of the recorded answers, but for the container whose labels `a.b` and `a_b` become one: of that the
/// Collector shows nothing (docs/collector.md).
fn recorded_engine() -> FakeEngine {
    let engine = FakeEngine::start().unwrap();
    engine.load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity")).unwrap();
    let collide = |id: &String| engine.container(id).unwrap().inspect["Config"]["Labels"]["a_b"].is_string();
    let ids = engine.ids();
    let colliding: Vec<_> = ids.iter().filter(|id| collide(id)).collect();
    assert_eq!(colliding.len(), 1);
    engine.remove(colliding[0]);
    assert!(ids.len() > 10);
    engine
}

/// An engine with this many containers, in different states.
fn engine_with(count: usize, labels: usize) -> FakeEngine {
    let engine = FakeEngine::start().unwrap();
    for (number, id) in engine.populate(count, labels).iter().enumerate() {
        engine.update(id, |container| match number % 4 {
            0 => container.exited(i64::try_from(number % 256).unwrap(), "2026-01-02T03:04:05Z"),
            1 => container.health("unhealthy", 3),
            2 => container.status("paused"),
            _ => container,
        });
    }
    engine
}

/// Waits until the Collector's endpoint shows exactly what `/metrics` does. Returns how long that took.
#[track_caller]
fn wait_whole(engine: &FakeEngine, exporter: &Exporter, collector: &Collector, instance: &str) -> Duration {
    wait_agreed(|| {
        as_many(exporter, collector, instance)?;
        let inspects: Vec<_> =
            engine.ids().iter().filter_map(|id| engine.container(id)).map(|c| c.inspect).collect();
        agree(&inspects, exporter, collector, &resource(instance))
    })
}

/// Tries a costly comparison again and again.
#[track_caller]
fn wait_agreed(attempt: impl Fn() -> Result<(), String>) -> Duration {
    let attempt = || {
        let agreed = attempt();
        if agreed.is_err() {
            std::thread::sleep(Duration::from_millis(500));
        }
        agreed.map_err(|differences| differences.lines().take(40).collect::<Vec<_>>().join("\n"))
    };
    eventually(WHOLE, attempt).1
}

/// The count of exports with this result, of all destinations.
#[track_caller]
fn exports(exporter: &Exporter, result: &str) -> f64 {
    let scrape = exporter.scrape();
    let found = scrape.select("docker_state_exporter_otlp_exports_total", &labels([("result", result)]));
    found.iter().map(|(_, count)| count).sum()
}

/// Waits until another export has failed.
#[track_caller]
fn wait_failure(exporter: &Exporter) {
    let before = exports(exporter, "error");
    eventually(WHOLE, || match exports(exporter, "error") {
        count if count > before => Ok(()),
        count => Err(format!("{count} failures, as before")),
    });
}

/// Waits until the last that the exporter has said of its Collector is this, `GONE` or `BACK`, each once in turn: on
/// a busy machine an export may time out although the Collector is there.
#[track_caller]
fn wait_said(exporter: &Exporter, last: &str) {
    eventually(WHOLE, || {
        let log = exporter.log();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(GONE) || line.contains(BACK)).collect();
        let in_turn = lines.iter().enumerate().all(|(n, line)| line.contains([GONE, BACK][n % 2]));
        assert!(in_turn, "not one line each way: {lines:#?}");
        match lines.last() {
            Some(line) if line.contains(last) => Ok(()),
            _ => Err(format!("{last:?} is not the last of {lines:#?}")),
        }
    });
}

/// Does something while `/metrics` is scraped ten times a second: every scrape has to succeed and to show this many
/// containers. Returns how many there were too.
fn scraped_meanwhile<T>(
    exporter: &Exporter,
    containers: impl Fn(usize) -> bool + Sync,
    what: impl FnOnce() -> T,
) -> (T, usize) {
    /// Lets the scraping end, whatever ends what is done.
    struct End<'a>(&'a AtomicBool);
    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let scrapes = scope.spawn(|| {
            let mut scrapes = 0;
            while !ended.load(Ordering::Relaxed) {
                let text = exporter.scrape_text();
                let shown = text.lines().filter(|line| line.starts_with("container_state_status{")).count();
                assert!(containers(shown), "a scrape shows {shown} containers");
                scrapes += 1;
                std::thread::sleep(Duration::from_millis(100));
            }
            scrapes
        });
        let end = End(&ended);
        let result = what();
        drop(end);
        (result, scrapes.join().unwrap())
    })
}

// ---------------------------------------------------------------------------------------------------------
// What arrives
// ---------------------------------------------------------------------------------------------------------

/// Everything of this engine arrives.
fn arrives(engine: &FakeEngine, over: Over, compression: &str) {
    let collector = Plan::prometheus().set("/exporters/prometheus/metric_expiration", "1h").start();
    let mut reader = over.reader(&collector, "http", json!({"compression": compression, "timeout": 60_000}));
    // All of it is in the first export, and another would only keep the machine busy.
    reader["periodic"]["interval"] = NEVER.into();
    reader["periodic"]["timeout"] = 120_000.into();
    let exporter = setup(&engine.host(), over.instance()).reader(reader).start();
    let whole = wait_whole(engine, &exporter, &collector, over.instance());
    println!("{over:?}, {} containers: whole after {whole:?}", engine.ids().len());
    // Nothing is there beside what is this exporter's.
    let instance = format!("instance=\"{}\"", over.instance());
    let all = collector.scrape_text().unwrap();
    let foreign: Vec<_> =
        all.lines().filter(|line| !line.starts_with('#') && !line.contains(&instance)).collect();
    assert_eq!(foreign, [""; 0]);
    let up: Vec<_> = all.lines().filter(|line| line.starts_with("docker_up{")).collect();
    assert!(up.len() == 1 && up[0].ends_with("} 1"), "{up:?}");
    assert_eq!(exports(&exporter, "error"), 0.0);
    assert_eq!(exports(&exporter, "partial"), 0.0);
    exporter.stop();
}

/// What changes is there after the next export, and what goes is gone when it has expired.
fn changes_arrive(over: Over) {
    let engine = recorded_engine();
    let collector = Plan::prometheus().start();
    let reader = over.reader(&collector, "http", json!({}));
    let exporter = setup(&engine.host(), over.instance()).reader(reader).start();
    wait_whole(&engine, &exporter, &collector, over.instance());
    let ids = engine.ids();
    engine.act(&ids[0], "die", |container| container.exited(3, "2026-02-03T04:05:06Z"));
    engine.destroy(&ids[1]);
    engine.create(Container::new("new").label("Team.Name", "Café \"Blue\""));
    let change = wait_whole(&engine, &exporter, &collector, over.instance());
    println!("{over:?}: whole {change:?} after a change");
    exporter.stop();
}

#[test]
fn changes_arrive_over_grpc() {
    changes_arrive(Over::Grpc);
}

#[test]
fn changes_arrive_over_http() {
    changes_arrive(Over::Http);
}

#[test]
fn everything_arrives_over_grpc() {
    arrives(&recorded_engine(), Over::Grpc, "none");
}

#[test]
fn everything_arrives_over_grpc_with_gzip() {
    arrives(&recorded_engine(), Over::Grpc, "gzip");
}

#[test]
fn everything_arrives_over_http() {
    arrives(&recorded_engine(), Over::Http, "none");
}

#[test]
fn everything_arrives_over_http_with_gzip() {
    arrives(&recorded_engine(), Over::Http, "gzip");
}

#[test]
fn two_thousand_containers_arrive_over_grpc() {
    arrives(&engine_with(2_000, 20), Over::Grpc, "gzip");
}

#[test]
fn two_thousand_containers_arrive_over_http() {
    arrives(&engine_with(2_000, 20), Over::Http, "gzip");
}

// ---------------------------------------------------------------------------------------------------------
// Who may send
// ---------------------------------------------------------------------------------------------------------

/// Everything of an exporter with these settings arrives.
fn accepted(engine: &FakeEngine, collector: &Collector, over: Over, scheme: &str, more: Value) {
    let reader = over.reader(collector, scheme, more);
    let exporter = setup(&engine.host(), over.instance()).reader(reader).start();
    wait_whole(engine, &exporter, collector, over.instance());
    exporter.stop();
}

/// Nothing of an exporter with these settings arrives, and one line says why.
fn refused(engine: &FakeEngine, collector: &Collector, over: Over, scheme: &str, more: Value, why: &[&str]) {
    let reader = over.reader(collector, scheme, more);
    let exporter = setup(&engine.host(), "refused").reader(reader).start();
    eventually(WHOLE, || match exports(&exporter, "error") {
        count if count >= 1.0 => Ok(()),
        count => Err(format!("{count} failures")),
    });
    assert_eq!(exports(&exporter, "ok"), 0.0);
    wait_said(&exporter, GONE);
    let log = exporter.stop();
    let line = log.lines().find(|line| line.contains(GONE)).unwrap();
    assert!(why.iter().any(|why| line.contains(why)), "none of {why:?} in: {line}");
    for family in of_instance(collector.scrape().unwrap(), "refused").families.values() {
        assert_eq!(family.samples, BTreeMap::new());
    }
}

#[test]
fn a_private_authority_and_client_certificates() {
    let engine = engine_with(10, 2);
    let (authority, other) = (Authority::new(), Authority::new());
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(name).display().to_string();
    authority.write(Path::new(&file("ca.pem")));
    other.write(Path::new(&file("other.pem")));
    for (authority, who) in [(&authority, "server"), (&authority, "client"), (&other, "stranger")] {
        authority.sign(Path::new(&file(who)), Path::new(&file(&format!("{who}-key"))));
    }
    let certificates = |who: &str| json!({"ca_file": file("ca.pem"), "cert_file": file(who), "key_file": file(&format!("{who}-key"))});
    let server = json!({"cert_file": file("server"), "key_file": file("server-key")});
    let mut collector = Plan::prometheus().receivers("tls", &server).start();
    for over in BOTH {
        accepted(&engine, &collector, over, "https", json!({"tls": {"ca_file": file("ca.pem")}}));
        // The system's authorities do not know this one.
        refused(&engine, &collector, over, "https", json!({}), &["certificate", "UnknownIssuer"]);
        let tls = json!({"tls": {"ca_file": file("other.pem")}});
        refused(&engine, &collector, over, "https", tls, &["certificate"]);
    }

    // The same, and it demands a certificate of its authority's.
    collector.kill();
    for protocol in ["grpc", "http"] {
        collector.set(&format!("/receivers/otlp/protocols/{protocol}/tls/client_ca_file"), file("ca.pem"));
    }
    collector.start();
    for over in BOTH {
        accepted(&engine, &collector, over, "https", json!({"tls": certificates("client")}));
        let without = json!({"tls": {"ca_file": file("ca.pem")}});
        for tls in [without, json!({"tls": certificates("stranger")})] {
            // How TLS 1.3 tells a client that its certificate is wanted or not liked.
            refused(
                &engine,
                &collector,
                over,
                "https",
                tls,
                &["CertificateRequired", "alert", "certificate", "closed"],
            );
        }
    }
}

#[test]
fn a_header_that_is_demanded() {
    let engine = engine_with(10, 2);
    let collector = Plan::prometheus()
        .set("/extensions/bearertokenauth", json!({"token": "sesame"}))
        .set("/service/extensions", json!(["health_check", "bearertokenauth"]))
        .receivers("auth", &json!({"authenticator": "bearertokenauth"}))
        .start();
    for over in BOTH {
        let header = |value: &str| json!({"headers": [{"name": "authorization", "value": value}]});
        accepted(&engine, &collector, over, "http", header("Bearer sesame"));
        refused(&engine, &collector, over, "http", header("Bearer barley"), &["nauthenticated", "401"]);
        refused(&engine, &collector, over, "http", json!({}), &["nauthenticated", "401"]);
    }
}

// ---------------------------------------------------------------------------------------------------------
// A Collector that is away, slow or full
// ---------------------------------------------------------------------------------------------------------

/// How long a Collector is stopped: `DSE_STOP_SECONDS`.
fn stop_seconds() -> u64 {
    std::env::var("DSE_STOP_SECONDS").map_or(12, |seconds| seconds.parse().unwrap())
}

/// Timeouts that let several exports fail while a Collector is away.
fn impatient(mut reader: Value) -> Value {
    reader["periodic"]["timeout"] = 3_000.into();
    reader
}

/// Stopped, killed, and started again, while containers change.
fn away(over: Over) {
    const CONTAINERS: usize = 200;
    /// For what the allocator keeps and the tables of new series.
    const MORE_MEMORY: u64 = 8 << 20;
    let engine = engine_with(CONTAINERS, 10);
    let instance = over.instance();
    let mut collector = Plan::prometheus().start();
    let reader = impatient(over.reader(&collector, "http", json!({"timeout": 2_000})));
    let exporter = setup(&engine.host(), instance).reader(reader).start();
    wait_whole(&engine, &exporter, &collector, instance);
    let ids = engine.ids();
    let change = |number: usize| {
        let id = &ids[number % ids.len()];
        engine.act(id, "die", |container| container.exited(7, "2026-03-04T05:06:07Z"));
        engine.act(id, "start", |container| container.status("running").started_at("2026-03-04T05:06:08Z"));
    };
    let all = |shown: usize| shown == CONTAINERS;
    // Memory is measured against a time in which as much was going on.
    scraped_meanwhile(&exporter, all, || {
        (0..20).for_each(|number| {
            change(number);
            std::thread::sleep(Duration::from_millis(100));
        })
    });
    let memory = exporter.rss();

    // Its kernel goes on taking connections and bytes, and nothing answers.
    let lasts = Duration::from_secs(stop_seconds());
    collector.signal(Signal::STOP);
    let began = Instant::now();
    let ((), scrapes) = scraped_meanwhile(&exporter, all, || {
        let mut number = 0;
        while began.elapsed() < lasts {
            change(number);
            number += 1;
            std::thread::sleep(Duration::from_millis(100));
        }
        wait_failure(&exporter);
    });
    wait_said(&exporter, GONE);
    let stopped = exporter.rss();
    // Ten a second on an idle machine. Were they to wait for an export, it would be one every two seconds.
    assert!(scrapes as u64 >= 2 * lasts.as_secs(), "{scrapes} scrapes in {lasts:?}");
    collector.signal(Signal::CONT);
    let after_stop = wait_whole(&engine, &exporter, &collector, instance);
    wait_said(&exporter, BACK);

    // What it has known is lost with it.
    collector.kill();
    let (_, scrapes_killed) = scraped_meanwhile(&exporter, all, || {
        for number in 0..30 {
            change(number);
            std::thread::sleep(Duration::from_millis(100));
        }
        wait_failure(&exporter);
    });
    assert!(scrapes_killed >= 6, "{scrapes_killed} scrapes");
    wait_said(&exporter, GONE);
    collector.start();
    let after_kill = wait_whole(&engine, &exporter, &collector, instance);
    wait_said(&exporter, BACK);
    let end = exporter.rss();
    println!(
        "{over:?}: {scrapes} scrapes in {lasts:?} without the Collector; whole {after_stop:?} after it went on, \
         {after_kill:?} after it was started again; memory {} KiB before, {} KiB after the stop, {} KiB at the end",
        memory >> 10,
        stopped >> 10,
        end >> 10
    );
    for (when, memory_then) in [("the stop", stopped), ("the end", end)] {
        assert!(memory_then <= memory + MORE_MEMORY, "{memory} bytes before, {memory_then} at {when}");
    }
    exporter.stop();
}

#[test]
fn a_collector_that_is_away_over_grpc() {
    away(Over::Grpc);
}

#[test]
fn a_collector_that_is_away_over_http() {
    away(Over::Http);
}

/// However long the interval is.
#[test]
fn a_collector_that_comes_later() {
    let engine = engine_with(20, 2);
    for over in BOTH {
        let mut collector = Plan::prometheus().set("/exporters/prometheus/metric_expiration", "1h").start();
        collector.kill();
        let mut reader = over.reader(&collector, "http", json!({"timeout": 2_000}));
        reader["periodic"]["interval"] = NEVER.into();
        let exporter = setup(&engine.host(), over.instance()).reader(reader).start();
        wait_failure(&exporter);
        wait_said(&exporter, GONE);
        collector.start();
        let back = wait_whole(&engine, &exporter, &collector, over.instance());
        println!("{over:?}: whole {back:?} after the Collector's start");
        wait_said(&exporter, BACK);
        exporter.stop();
    }
}

#[test]
fn a_collector_that_is_full_for_a_while() {
    let engine = engine_with(50, 5);
    // Its program alone is larger.
    let full = json!({"check_interval": "100ms", "limit_mib": 2, "spike_limit_mib": 1});
    let enough = json!({"check_interval": "100ms", "limit_mib": 1_000, "spike_limit_mib": 100});
    for over in BOTH {
        let mut collector = Plan::prometheus().set("/processors/memory_limiter", full.clone()).start();
        let reader = over.reader(&collector, "http", json!({"timeout": 5_000}));
        let exporter = setup(&engine.host(), over.instance()).reader(reader).start();
        wait_said(&exporter, GONE);
        let log = exporter.log();
        let line = log.lines().find(|line| line.contains(GONE)).unwrap();
        println!("{over:?}: {line}");
        assert!(line.contains("memory"), "not what the Collector says: {line}");
        collector.kill();
        collector.set("/processors/memory_limiter", enough.clone());
        collector.start();
        wait_whole(&engine, &exporter, &collector, over.instance());
        wait_said(&exporter, BACK);
        exporter.stop();
    }
}

/// Counts as deltas: what happens while the Collector refuses is in what it takes afterwards, once.
#[test]
fn no_delta_is_lost_while_the_collector_refuses() {
    let engine = engine_with(20, 2);
    let directory = tempfile::tempdir().unwrap();
    let tokens = directory.path().join("tokens");
    let demand = |token: &str| std::fs::write(&tokens, format!("{token}\n")).unwrap();
    demand("sesame");
    let collector = Plan::prometheus()
        // A count that did not change is in no export of deltas.
        .set("/exporters/prometheus/metric_expiration", "1h")
        .set("/extensions/bearertokenauth", json!({"filename": tokens}))
        .set("/service/extensions", json!(["health_check", "bearertokenauth"]))
        .receivers("auth", &json!({"authenticator": "bearertokenauth"}))
        .start();
    let more = json!({
        "headers": [{"name": "authorization", "value": "Bearer sesame"}],
        "temporality_preference": "delta",
    });
    let exporter =
        setup(&engine.host(), "by-grpc").reader(Over::Grpc.reader(&collector, "http", more)).start();
    let counts = |scrape: &Exposition| -> f64 { scrape.series(EVENTS).values().sum() };
    let ids = engine.ids();
    let change = || {
        for id in &ids {
            engine.act(id, "die", |container| container.exited(7, "2026-03-04T05:06:07Z"));
        }
    };
    wait_whole(&engine, &exporter, &collector, "by-grpc");
    change();
    wait_whole(&engine, &exporter, &collector, "by-grpc");
    demand("barley");
    wait_failure(&exporter);
    change();
    wait_failure(&exporter);
    change();
    eventually(WHOLE, || match counts(&exporter.scrape()) {
        60.0 => Ok(()),
        count => Err(format!("{count} events")),
    });
    assert_eq!(counts(&collector.scrape().unwrap()), 20.0, "while it refuses");
    demand("sesame");
    wait_whole(&engine, &exporter, &collector, "by-grpc");
    wait_said(&exporter, BACK);
    exporter.stop();
}

// ---------------------------------------------------------------------------------------------------------
// What goes
// ---------------------------------------------------------------------------------------------------------

/// The container ids of each export in a file of the Collector's, with the time of its data.
fn exported(file: &Path) -> Vec<(u64, Vec<String>)> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    // The last line may not be whole yet.
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let each = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for line in lines {
        for metric in each(&line, "resourceMetrics")
            .iter()
            .flat_map(|of_resource| each(of_resource, "scopeMetrics"))
            .flat_map(|of_scope| each(&of_scope, "metrics"))
            .filter(|metric| metric["name"] == "container.state.status")
        {
            let points = each(&metric["gauge"], "dataPoints");
            let time = points.iter().map(|p| p["timeUnixNano"].as_str().unwrap().parse().unwrap()).max();
            let id = |point: &Value| {
                let attributes = each(point, "attributes");
                let id = attributes.iter().find(|attribute| attribute["key"] == "container.id").unwrap();
                id["value"]["stringValue"].as_str().unwrap().to_owned()
            };
            found.push((time.unwrap(), points.iter().map(id).collect()));
        }
    }
    found
}

#[test]
fn a_removed_container_is_in_no_later_export() {
    const CONTAINERS: usize = 30;
    /// An export that has begun before a removal may end after it.
    const BEGUN: u64 = 1_000_000_000;
    let now = || u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos()).unwrap();
    let engine = engine_with(CONTAINERS, 1);
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("exports");
    let collector = Plan::prometheus()
        .set("/exporters/file", json!({"path": file, "flush_interval": "100ms"}))
        .exporters(&["file"])
        .start();
    let mut reader = Over::Grpc.reader(&collector, "http", json!({}));
    reader["periodic"]["interval"] = 200.into();
    let exporter = setup(&engine.host(), "by-grpc").reader(reader).start();
    let later = |than: u64| {
        let seen = || match exported(&file).last() {
            Some((time, _)) if *time > than => Ok(()),
            _ => Err("no export since"),
        };
        eventually(WHOLE, seen);
    };
    later(0);

    let removed: Vec<(String, u64)> = scraped_meanwhile(
        &exporter,
        |shown| shown > 0,
        || {
            let ids = engine.ids().into_iter().take(CONTAINERS - 5);
            let remove = |id: String| {
                engine.destroy(&id);
                eventually(WHOLE, || {
                    if exporter.scrape_text().contains(&id) { Err("/metrics still has it") } else { Ok(()) }
                });
                let gone = (id, now());
                // Some fall into an export, and some between two.
                std::thread::sleep(Duration::from_millis(170));
                gone
            };
            let removed: Vec<_> = ids.map(remove).collect();
            later(now() + 2 * BEGUN);
            removed
        },
    )
    .0;
    exporter.stop();

    let exports = exported(&file);
    for (id, gone) in removed {
        let with: Vec<u64> =
            exports.iter().filter(|(_, ids)| ids.contains(&id)).map(|(time, _)| *time).collect();
        assert!(!with.is_empty(), "{id} was in no export at all");
        let late: Vec<_> = with.iter().filter(|time| **time > gone + BEGUN).collect();
        assert!(late.is_empty(), "{id} was gone at {gone}, and in the exports of {late:?}");
    }
}

// ---------------------------------------------------------------------------------------------------------
// The end
// ---------------------------------------------------------------------------------------------------------

#[test]
fn the_last_state_arrives_at_the_end() {
    let engine = engine_with(10, 2);
    for over in BOTH {
        let collector = Plan::prometheus().set("/exporters/prometheus/metric_expiration", "1h").start();
        let mut reader = over.reader(&collector, "http", json!({}));
        reader["periodic"]["interval"] = NEVER.into();
        let exporter = setup(&engine.host(), over.instance()).reader(reader).start();
        wait_whole(&engine, &exporter, &collector, over.instance());
        let id = &engine.ids()[0];
        let code = |collector: &Collector| {
            let of_container = labels([("container_id", id)]);
            let scrape = collector.scrape().unwrap();
            let found = scrape.select("container_state_exitcode", &of_container);
            assert_eq!(found.len(), 1, "{found:?}");
            found[0].1
        };
        let last = code(&collector) + 1.0;
        engine.act(id, "die", |container| container.exited(last as i64, "2026-03-04T05:06:07Z"));
        eventually(WHOLE, || {
            let scrape = exporter.scrape();
            let found =
                scrape.select("container_state_exitcode", &labels([("id", &format!("/docker/{id}"))]));
            if found[0].1 == last { Ok(()) } else { Err(format!("{found:?}")) }
        });
        exporter.stop();
        assert_eq!(code(&collector), last, "{over:?}");
    }
}

#[test]
fn a_stopped_collector_does_not_hold_up_the_end() {
    /// Five seconds for the last export, and what a busy machine takes.
    const ENDS: Duration = Duration::from_secs(12);
    let engine = engine_with(10, 2);
    for over in BOTH {
        let collector = Plan::prometheus().start();
        let reader = over.reader(&collector, "http", json!({}));
        let exporter = setup(&engine.host(), over.instance()).reader(reader).start();
        wait_whole(&engine, &exporter, &collector, over.instance());
        collector.signal(Signal::STOP);
        // An export is under way then.
        std::thread::sleep(Duration::from_millis(2 * INTERVAL));
        let began = Instant::now();
        exporter.stop();
        println!("{over:?}: ended after {:?}", began.elapsed());
        assert!(began.elapsed() < ENDS, "{over:?}: ended after {:?}", began.elapsed());
    }
}

// ---------------------------------------------------------------------------------------------------------
// The files
// ---------------------------------------------------------------------------------------------------------

/// From one Collector to the next by OTLP, each with a file of the project.
fn forwards(file: &str, first_has_prometheus: bool) {
    let engine = recorded_engine();
    let backend = Plan::prometheus().start();
    let mut plan = Plan::new(file).env("OTLP_BACKEND", &backend.grpc());
    if first_has_prometheus {
        plan = plan.with_prometheus();
    }
    let collector = plan.start();
    let reader = Over::Grpc.reader(&collector, "http", json!({}));
    let exporter = setup(&engine.host(), "by-grpc").reader(reader).start();
    wait_whole(&engine, &exporter, &backend, "by-grpc");
    if first_has_prometheus {
        wait_whole(&engine, &exporter, &collector, "by-grpc");
    }
    exporter.stop();
}

/// The head of the file and docs/collector.md, in a network where every port is free.
#[test]
fn the_documented_commands_work_as_written() {
    let of = |document: &str| -> Vec<String> {
        let commands = documented::commands().into_iter().filter(|found| found.document == document);
        commands.map(|found| found.command).collect()
    };
    let head = of("otel-collector.yaml");
    let document = of("docs/collector.md");
    let [collector, without_file] = &head[..] else { panic!("{head:?}") };
    let [same_collector, with_file, look] = &document[..] else { panic!("{document:?}") };
    assert_eq!(collector, same_collector);

    let engine = FakeEngine::start().unwrap();
    engine.add(Container::new("web"));
    let network = Namespace::with_network("dse-documented-", MACHINE);
    let programs = network.directory();
    symlink(process::binary(), programs.join("otelcol")).unwrap();
    symlink(env!("CARGO_BIN_EXE_docker-state-exporter"), programs.join("docker-state-exporter")).unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let shell = |command: &str| {
        let mut shell = Command::new("setpriv");
        shell.args(["--pdeathsig", "KILL", "bash", "-c", command]).current_dir(documented::repository());
        // The interval is what a user would set who cannot wait.
        shell.env("PATH", &path).env("DOCKER_HOST", engine.host()).env("OTEL_METRIC_EXPORT_INTERVAL", "1000");
        shell.stdout(Stdio::null()).stderr(Stdio::null());
        shell
    };
    for exporter in [without_file, with_file] {
        let mut running = [collector, exporter].map(|command| {
            let child = shell(&format!("exec env {command}")).spawn().unwrap();
            eventually(WHOLE, || get("http://localhost:13133").map(drop));
            child
        });
        eventually(WHOLE, || {
            let output = shell(look).stdout(Stdio::piped()).output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            if text.contains("container_name=\"web\"") {
                Ok(())
            } else {
                Err(format!("{exporter}: {text:?}"))
            }
        });
        for child in &mut running {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
}

#[test]
fn otel_collector_yaml() {
    forwards("otel-collector.yaml", true);
}

#[test]
fn resource_attributes_yaml() {
    forwards("examples/collector/resource-attributes.yaml", false);

    // Each container is a resource, and its data points do not say so again.
    let engine = FakeEngine::start().unwrap();
    let id = engine.add(Container::new("web").image("nginx:1").label("com.docker.compose.service", "shop"));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("exports");
    let collector = Plan::new("examples/collector/resource-attributes.yaml")
        .set("/exporters/file", json!({"path": file, "flush_interval": "100ms"}))
        .exporters(&["file"])
        .start();
    let reader = Over::Http.reader(&collector, "http", json!({}));
    let exporter = setup(&engine.host(), "by-http").reader(reader).start();
    let texts = |attributes: &Value| -> Labels {
        let text = |a: &Value| {
            (a["key"].as_str().unwrap().to_owned(), a["value"]["stringValue"].as_str().unwrap().to_owned())
        };
        attributes.as_array().into_iter().flatten().map(text).collect()
    };
    let expected = labels([
        ("container.id", &id),
        ("container.name", "web"),
        ("container.image.name", "nginx:1"),
        ("container.label.com.docker.compose.service", "shop"),
        ("host.name", "host-1"),
        ("service.instance.id", "by-http"),
        ("service.name", "docker-state-exporter"),
        ("service.version", env!("CARGO_PKG_VERSION")),
    ]);
    eventually(WHOLE, || {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let of_resources: Vec<_> =
            lines.flat_map(|line| line["resourceMetrics"].as_array().cloned().unwrap_or_default()).collect();
        let of_container = of_resources.iter().find(|r| texts(&r["resource"]["attributes"]) == expected);
        let of_container = of_container.ok_or_else(|| format!("no such resource in {text}"))?;
        let metrics = of_container["scopeMetrics"][0]["metrics"].as_array().unwrap();
        let status = metrics.iter().find(|metric| metric["name"] == "container.state.status").unwrap();
        let point = &status["gauge"]["dataPoints"][0];
        assert_eq!(texts(&point["attributes"]), Labels::new());
        assert_eq!(point["asInt"], "6");
        Ok::<_, String>(())
    });
    exporter.stop();
}

#[test]
fn with_docker_stats_yaml() {
    let docker = Docker::start();
    docker.container("running", &["--label", "com.example.team=blue"], &["sleep", "100000"]);
    docker.container("exited", &[], &["sh", "-c", "exit 3"]);
    docker.wait_for("exited", "/State/Status", "exited");
    let collector = Plan::new("examples/collector/with-docker-stats.yaml")
        .with_prometheus()
        .set("/receivers/docker_stats/collection_interval", "1s")
        .env("DOCKER_HOST", &docker.host())
        .start();
    let reader = Over::Grpc.reader(&collector, "http", json!({}));
    let exporter = setup(&docker.host(), "by-grpc").reader(reader).start();
    let id = docker.inspect("running")["Id"].as_str().unwrap().to_owned();
    let of_container = labels([("container_id", &id), ("container_name", "running")]);
    wait_agreed(|| {
        as_many(&exporter, &collector, "by-grpc")?;
        agree(&docker.inspect_all(), &exporter, &collector, &resource("by-grpc"))?;
        let both = collector.scrape()?;
        // A name that both have would have series of both.
        let more = FAMILIES.into_iter().find(|family| both.series(family).len() != 2);
        if let Some(family) = more {
            return Err(format!("{} series of {family} for two containers", both.series(family).len()));
        }
        for name in ["container_cpu_usage_total", "container_memory_usage_total"] {
            let found = both.select(name, &of_container);
            if found.len() != 1 {
                return Err(format!("{} series of {name} for the container", found.len()));
            }
        }
        Ok(())
    });
    exporter.stop();
}
