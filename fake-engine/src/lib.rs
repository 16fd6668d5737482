//! A simulated Docker Engine, for tests and benchmarks.
//!
//! It answers the five read-only calls (`_ping`, `version`, `events`, `containers/json` and
//! `containers/{id}/json`) on a unix socket as moby does, keeps a record of every request, and fails on
//! demand: a hung inspect, a list that ends in the middle, an event stream that is cut or falls silent, a
//! restart that forgets the events. It has a runtime of its own, so every method here is synchronous and can
//! be called from any test.
//!
//! | file | what it holds |
//! |---|---|
//! | `container.rs` | one container: what the list and the inspect say of it |
//! | `event.rs` | one event, and the filters of the events call |
//! | `broker.rs` | the buffer of the last 256 events and the streams that follow |
//! | `script.rs` | faults, and the requests that wait for one to be healed |
//! | `server.rs` | HTTP: routes, versions, bodies |
//! | `engine.rs` | the handle that a test holds |

#![allow(clippy::panic, reason = "a test that uses this wrongly is to fail there and then")]

mod broker;
mod container;
mod engine;
mod event;
mod script;
mod server;

pub use container::Container;
pub use engine::FakeEngine;
pub use event::{Event, EventStyle};
pub use script::{Fault, Target};
pub use server::{Endpoint, Request};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks even if a test has panicked while it held the lock, so that the other threads can end cleanly.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
