//! What the integration tests stand on.
//!
//! | file | what it holds |
//! |---|---|
//! | `exposition.rs` | a strict parser of the Prometheus text format, and matchers that print near misses |
//! | `exporter.rs` | the program under test, started, scraped and stopped |
//! | `certificates.rs` | an authority of the test's own, and what it signs |
//! | `namespace.rs` | a shell whose processes and mounts end with the test, and the image's files |
//! | `docker.rs` | a private Docker Engine, and a recorder of its events |
//! | `podman.rs` | a private Podman with its service, and a recorder of its events |
//! | `inspect.rs` | what `/metrics` has to say of a container, worked out from `docker inspect` |
//! | `agreement.rs` | whether an exporter agrees with an engine: its containers, and its events |
//!
//! The fake engine is a crate of its own, `fake-engine/`.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod agreement;
pub(crate) mod certificates;
pub(crate) mod docker;
pub(crate) mod exporter;
pub(crate) mod exposition;
pub(crate) mod inspect;
pub(crate) mod namespace;
pub(crate) mod podman;

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Tries again and again until there is no mismatch; panics with the last one after the deadline.
///
/// Returns what the attempt returned, and how long it took to get there.
#[track_caller]
pub(crate) fn eventually<T, E: Display>(
    deadline: Duration,
    mut attempt: impl FnMut() -> Result<T, E>,
) -> (T, Duration) {
    let began = Instant::now();
    loop {
        match attempt() {
            Ok(value) => return (value, began.elapsed()),
            Err(mismatch) if began.elapsed() >= deadline => {
                panic!("not within {deadline:?}; the last mismatch:\n{mismatch}")
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}
