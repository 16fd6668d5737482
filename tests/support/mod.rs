//! Support for the integration tests.
//!
//! | file | what it holds |
//! |---|---|
//! | `exposition.rs` | a strict parser of the Prometheus text format, and matchers that print near misses |
//! | `exporter.rs` | the program under test, started, scraped and stopped |
//! | `browser.rs` | a real Chromium, told what to do through its driver |
//! | `certificates.rs` | an authority of the test's own, and what it signs |
//! | `namespace.rs` | a shell whose processes and mounts end with the test, and the image's files |
//! | `docker.rs` | a private Docker Engine, and a recorder of its events |
//! | `image.rs` | images, where there is no registry |
//! | `podman.rs` | a private Podman with its service, and a recorder of its events |
//! | `inspect.rs` | what `/metrics` has to say of a container, worked out from `docker inspect` |
//! | `documented.rs` | the commands that the documents tell users to run |
//! | `agreement.rs` | whether an exporter agrees with an engine: its containers, and its events |
//!
//! The fake engine is a crate of its own, `fake-engine/`.

#![allow(dead_code, reason = "each test binary uses a part of it")]

pub(crate) mod agreement;
pub(crate) mod browser;
pub(crate) mod certificates;
pub(crate) mod docker;
pub(crate) mod documented;
pub(crate) mod exporter;
pub(crate) mod exposition;
pub(crate) mod image;
pub(crate) mod inspect;
pub(crate) mod namespace;
pub(crate) mod podman;

use std::fmt::Display;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};

/// Tries again and again until there is no mismatch; panics with the last mismatch after the deadline.
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

/// A value that several tests share; `None` once it was taken away.
pub(crate) type Shared<T> = Arc<Mutex<Option<T>>>;

/// The main function of tests that share an engine: it starts the engine once, runs the tests one after the other,
/// and ends the engine after the last.
pub(crate) fn run_sharing<T>(start: fn() -> T, trials: fn(&Shared<T>) -> Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    if arguments.list {
        libtest_mimic::run(&arguments, trials(&Arc::default())).exit();
    }
    let engine = Arc::new(Mutex::new(Some(start())));
    let conclusion = libtest_mimic::run(&arguments, trials(&engine));
    // Dropped here, because an exit drops nothing.
    drop(engine.lock().unwrap_or_else(PoisonError::into_inner).take());
    conclusion.exit_code()
}
