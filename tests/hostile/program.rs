//! The program, run as a command that has to end by itself.

use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::support::eventually;

/// For a command that has nothing to wait for, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(20);

/// The program, with an environment that says nothing to it.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_docker-state-exporter"));
    let said = |name: &str| ["OTEL_", "DOCKER_", "SSL_"].iter().any(|prefix| name.starts_with(prefix));
    for (name, _) in std::env::vars().filter(|(name, _)| said(name)) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command to its end, which has to come soon.
#[track_caller]
pub(crate) fn run(mut command: Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut has_ended = false;
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(DEADLINE, || child.try_wait().unwrap().ok_or("it still runs"));
        has_ended = true;
    }));
    if !has_ended {
        child.kill().unwrap();
    }
    let output = child.wait_with_output().unwrap();
    assert!(ended.is_ok(), "{command:?} does not end");
    output
}
