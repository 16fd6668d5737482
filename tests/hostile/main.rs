//! Attacks on the built program: what it must refuse, survive, or end with. Each has a time limit of its own.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "helpers of tests are tests")]

mod ending;
mod files;
mod hung_mount;
mod output;
mod program;
mod ssh;
#[path = "../support/mod.rs"]
mod support;
