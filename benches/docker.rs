//! What it costs to read one of the daemon's answers, as recorded from an engine.

#![allow(clippy::expect_used, reason = "a benchmark that cannot be set up ends")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use docker_state_exporter::config::Filter;
use docker_state_exporter::docker::Answers;

const LIST: &[u8] = include_bytes!("../tests/data/parity/list.json");
const INSPECT: &[u8] = include_bytes!(
    "../tests/data/parity/inspect/afa13933bea70781e6d9c22265e3ae2e7fc04780598e3356805709ea68839368.json"
);
/// An event of a health check; an engine sends hundreds a second.
const EVENT: &[u8] = br#"{"status":"exec_start: /bin/sh -c curl -f http://localhost/ || exit 1","id":"afa13933bea70781e6d9c22265e3ae2e7fc04780598e3356805709ea68839368","from":"nginx:1.27","Type":"container","Action":"exec_start: /bin/sh -c curl -f http://localhost/ || exit 1","Actor":{"ID":"afa13933bea70781e6d9c22265e3ae2e7fc04780598e3356805709ea68839368","Attributes":{"com.docker.compose.project":"shop","com.docker.compose.service":"web","execID":"0b7e1c7fca8c5b4f7f4bd7d4f35d6f0e7b1f2ac23c0a5a3a9fd5a4a6c7a1b2c3","image":"nginx:1.27","maintainer":"NGINX Docker Maintainers","name":"shop-web-1"}},"scope":"local","time":1764200000,"timeNano":1764200000123456789}"#;

fn answers(criterion: &mut Criterion) {
    let answers = Answers::new(Filter::all(), Filter::none());
    let mut group = criterion.benchmark_group("answer");
    let mut bench = |name, json: &'static [u8], read: &dyn Fn(&[u8])| {
        group.throughput(Throughput::Bytes(json.len() as u64));
        group.bench_function(name, |b| b.iter(|| read(json)));
    };
    bench("list", LIST, &|json| {
        answers.list(json).expect("it is a list");
    });
    bench("inspect", INSPECT, &|json| {
        answers.inspect("afa13933bea7", json).expect("it is a container");
    });
    bench("event", EVENT, &|json| {
        answers.event(json).expect("it is an event");
    });
    group.finish();
}

criterion_group!(benches, answers);
criterion_main!(benches);
