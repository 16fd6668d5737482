//! Against a fake engine with recorded answers: `/metrics` is what the exporters that this one replaces print,
//! but for the differences that `data/parity/README.md` names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod support;

use std::path::{Path, PathBuf};

use fake_engine::{Container, Endpoint, FakeEngine};
use support::exporter::Setup;
use support::exposition::{Exposition, compare_series};
use support::inspect::{Encoding, compare};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/parity")
}

/// What a Go exporter printed, with the two differences that are meant.
fn expected(file: &str) -> Exposition {
    let text = std::fs::read_to_string(data().join(file)).unwrap();
    let mut exposition = Exposition::parse(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
    let (mut nevers, mut joined) = (0, 0);
    for family in exposition.families.values_mut() {
        let samples = std::mem::take(&mut family.samples);
        for ((sample, mut labels), mut value) in samples {
            if value == -6.21355968e+10 {
                value = 0.0;
                nevers += 1;
            }
            if labels.get("name").is_some_and(|name| name == "web-unhealthy") {
                labels.insert("container_label_a_b".into(), "dash;dot;underscore".into());
                joined += 1;
            }
            assert_eq!(family.samples.insert((sample, labels), value), None);
        }
    }
    assert!(nevers > 0 && joined > 0, "{file} has nothing of what is meant to differ");
    exposition
}

fn check(encoding: &str, file: &str, families: usize) {
    let engine = FakeEngine::start().unwrap();
    engine.load(&data()).unwrap();
    let exporter = Setup::new(&engine.host()).set("/containers/encoding", encoding).start();
    let scrape = exporter.scrape();
    let expected = expected(file);
    assert_eq!(expected.families.len(), families);
    let mut differences = String::new();
    for (name, family) in &expected.families {
        let Some(found) = scrape.families.get(name) else {
            differences.push_str(&format!("there is no family {name}\n"));
            continue;
        };
        if found.kind != family.kind {
            differences.push_str(&format!("{name} is a {}, expected {}\n", found.kind, family.kind));
        }
        let compared = compare_series(name, &expected.series(name), &scrape.series(name));
        differences.push_str(&compared.err().unwrap_or_default());
    }
    assert!(differences.is_empty(), "{file}:\n{differences}");

    // A scrape never touches the engine, and nothing but the five GETs ever goes there.
    let requests = engine.requests().len();
    for _ in 0..5 {
        exporter.scrape();
    }
    assert_eq!(engine.requests()[requests..], []);
    assert_eq!(engine.violations(), Vec::<String>::new());
    assert_eq!(engine.count(Endpoint::Inspect), engine.ids().len());
    exporter.stop();
}

#[test]
fn codes_are_those_of_the_go_exporter() {
    check("code", "expected-codes.prom", 6);
}

#[test]
fn state_sets_are_those_of_the_go_exporter() {
    check("state_set", "expected-state-set.prom", 6);
}

/// A real engine can hardly be brought to show `removing`.
#[test]
fn every_status_and_health_has_its_code() {
    let engine = FakeEngine::start().unwrap();
    for status in ["removing", "dead", "exited", "paused", "restarting", "created", "running"] {
        engine.add(Container::new(status).status(status).label("com.example.team", "blue"));
    }
    for health in ["", "none", "starting", "healthy", "unhealthy"] {
        engine.add(Container::new(&format!("health-{health}")).health(health, 2));
    }
    let inspects: Vec<_> = engine.ids().iter().map(|id| engine.container(id).unwrap().inspect).collect();
    for (encoding, name) in [(Encoding::Code, "code"), (Encoding::StateSet, "state_set")] {
        let exporter = Setup::new(&engine.host()).set("/containers/encoding", name).start();
        compare(&exporter.scrape(), &inspects, encoding)
            .unwrap_or_else(|differences| panic!("{differences}"));
        exporter.stop();
    }
}

/// The tests against a real engine stand on this computation, so it is held against what others printed.
#[test]
fn what_the_tests_work_out_of_an_inspect_is_what_the_go_exporters_print() {
    let inspects: Vec<_> = std::fs::read_dir(data().join("inspect"))
        .unwrap()
        .map(|file| serde_json::from_slice(&std::fs::read(file.unwrap().path()).unwrap()).unwrap())
        .collect();
    for (encoding, file) in
        [(Encoding::Code, "expected-codes.prom"), (Encoding::StateSet, "expected-state-set.prom")]
    {
        let computed = support::inspect::expected(&inspects, encoding);
        let expected = expected(file);
        for name in expected.families.keys() {
            let differences = compare_series(name, &expected.series(name), &computed[name.as_str()]);
            differences.unwrap_or_else(|differences| panic!("{file}: {name}:\n{differences}"));
        }
    }
}
