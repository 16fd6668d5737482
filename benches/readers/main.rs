//! What the readers do with an inventory: scrapes and exports.

#![allow(clippy::expect_used, reason = "a benchmark that cannot be set up ends")]

mod inventory;
mod otlp;
mod prometheus;

use criterion::{criterion_group, criterion_main};

criterion_group!(benches, prometheus::scrapes, otlp::exports);
criterion_main!(benches);
