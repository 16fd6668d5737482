//! Attacks on the built program: what it must refuse, survive, or end with. Each has a time limit of its own.
//!
//! | file | what attacks |
//! |---|---|
//! | `http.rs` | clients |
//! | `files.rs`, `output.rs` | what stands in the place of a file that is read, or written |
//! | `engines.rs`, `ssh.rs` | an engine, and the way to it |
//! | `signals.rs`, `ending.rs` | signals; and whatever may hang while it is to end |
//!
//! `scripts/test hostile` runs them alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod ending;
mod engines;
mod files;
mod http;
mod hung_mount;
mod output;
mod program;
mod signals;
mod ssh;
#[path = "../support/mod.rs"]
mod support;
