//! Measures docker-state-exporter from outside: what a user of `/metrics` sees, and when, and what it costs.
//!
//! `scripts/bench` builds it, starts what it needs, and runs it; its output is what `docs/benchmarks.md` shows.

mod costs;
mod exporter;
mod freshness;
mod http;
mod plot;
mod process;
mod quantiles;
mod report;
mod scrape;
mod sink;
mod soak;
mod startup;

use std::process::ExitCode;

use clap::Parser;

use crate::report::{Goal, print_goals};

/// Any error; it ends the measurement.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// Measures docker-state-exporter from outside. A goal that is missed is told, and is no failure.
#[derive(Debug, Parser)]
enum Command {
    /// CPU time and memory, at several numbers of containers, against a fake engine.
    Costs(costs::Arguments),
    /// From the daemon's time of an event to its effect on `/metrics`.
    Freshness(freshness::Arguments),
    /// The size of an image that has been built, in bytes.
    Image { bytes: u64 },
    /// Whether anything grows while containers come and go, against a fake engine.
    Soak(soak::Arguments),
    /// From the start to a complete inventory, against an engine.
    Startup(startup::Arguments),
}

#[tokio::main]
async fn main() -> ExitCode {
    let measured = match Command::parse() {
        Command::Costs(arguments) => costs::measure(&arguments).await,
        Command::Freshness(arguments) => freshness::measure(&arguments).await,
        Command::Image { bytes } => {
            print_goals(&[Goal::at_most("the image", bytes as f64 / 1e6, 15.0, "MB")]);
            Ok(())
        }
        Command::Soak(arguments) => soak::run(&arguments).await,
        Command::Startup(arguments) => startup::measure(&arguments).await,
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("macrobench: {error}");
            ExitCode::FAILURE
        }
    }
}
