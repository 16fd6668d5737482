//! An engine that does every wrong thing in every call: the exporter goes on answering, says when it does not know,
//! and is right again once the engine is.

use std::time::Duration;

use fake_engine::{Container, FakeEngine, Fault, Target};

use crate::support::eventually;
use crate::support::exporter::{Exporter, Setup};

const SOON: Duration = Duration::from_secs(20);

fn up(exporter: &Exporter) -> Result<(), String> {
    let scrape = exporter.scrape();
    let shown = scrape.series("container_state_status").len();
    match (scrape.plain("docker_up"), shown) {
        (1.0, 3) => Ok(()),
        (up, shown) => Err(format!("docker_up {up}, {shown} containers")),
    }
}

#[test]
fn whatever_an_engine_does_it_is_survived_and_forgotten() {
    let engine = FakeEngine::start().unwrap();
    for name in ["a", "b", "c"] {
        engine.create(Container::new(name));
    }
    let exporter =
        Setup::new(&engine.host()).set("/docker/timeout", 200).set("/docker/resync_interval", 100).start();
    let faults = || {
        [
            Fault::Status(200, "not what was asked for".into()),
            Fault::Status(403, "a proxy says no".into()),
            Fault::Status(500, "x".repeat(1 << 20)),
            Fault::Hang,
            Fault::Malformed,
            Fault::Truncated,
            Fault::Body("".into()),
            Fault::Body("null".into()),
            Fault::Body("[[[[[[[[[[[[".into()),
            Fault::Body(b"\xff\x00\x1e{}{\"Id\":1}"[..].into()),
            Fault::Body("[".repeat(1 << 20).into()),
            Fault::Endless("[".into(), "{\"Id\":\"a\",\"Names\":[]},".into()),
            Fault::Endless("".into(), "x".repeat(1 << 16).into()),
        ]
    };
    for target in [Target::Ping, Target::Version, Target::Events, Target::List, Target::AnyInspect] {
        for fault in faults() {
            let what = format!("{target:?}: {fault:?}");
            let what = what.chars().take(100).collect::<String>();
            engine.fault(target.clone(), fault);
            // Streams that are open know nothing of it yet.
            engine.cut_events();
            std::thread::sleep(Duration::from_millis(150));
            let answer = exporter.get("/-/healthy").unwrap_or_else(|why| panic!("{what}: {why}"));
            assert_eq!(answer.status, 200, "{what}");
            exporter.scrape();
            engine.heal_all();
        }
        // The pauses between tries have grown; an answer is followed within them all the same.
        engine.cut_events();
        eventually(SOON, || up(&exporter).map_err(|why| format!("after {target:?}: {why}")));
    }
    assert_eq!(engine.violations(), Vec::<String>::new());
    let peak = exporter.peak_rss();
    assert!(peak < 200 << 20, "{} MiB", peak >> 20);
    exporter.stop();
}

#[test]
fn a_stream_of_nonsense_costs_no_event() {
    let engine = FakeEngine::start().unwrap();
    let id = engine.create(Container::new("web"));
    let exporter = Setup::new(&engine.host()).start();
    let count = || {
        let labels = crate::support::exposition::labels([("event", "die"), ("name", "web")]);
        exporter.scrape().select("docker_events", &labels).iter().map(|(_, count)| *count).sum::<f64>()
    };
    let mut expected = count();
    for nonsense in [
        &b"\n\n\n"[..],
        b"nonsense\n",
        b"\x1e\xff\xfe\n",
        b"{\"Type\":1}\n[]\nnull\n\"x\"\n",
        b"{\"Type\":\"container\",\"Action\":\"die\",\"Actor\":{\"ID\":\n",
        &[b'{'; 4096],
    ] {
        engine.emit_raw(nonsense.to_vec());
        engine.emit_raw("\n");
        engine.emit(engine.event("die", &id));
        expected += 1.0;
        eventually(SOON, || match count() {
            now if now == expected => Ok(()),
            now => Err(format!("{now} and not {expected} after {nonsense:?}")),
        });
    }
    exporter.stop();
}
