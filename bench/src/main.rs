//! Measures docker-state-exporter from outside: what a user of `/metrics` sees, and when.
//!
//! `scripts/bench` builds it, starts an engine and the exporter, and runs it; its output is what
//! `docs/benchmarks.md` shows.

mod freshness;
mod http;
mod quantiles;

use std::process::ExitCode;

use clap::Parser;

/// What can go wrong here ends the measurement.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// Measures docker-state-exporter from outside.
#[derive(Debug, Parser)]
enum Command {
    /// From the daemon's time of an event to its effect on `/metrics`.
    Freshness(freshness::Arguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let goal_met = match Command::parse() {
        Command::Freshness(arguments) => freshness::measure(&arguments).await,
    };
    match goal_met {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}
