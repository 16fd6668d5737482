//! The fake engine as a program, for benchmarks and for a look at an exporter without a Docker Engine.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use fake_engine::FakeEngine;
use tokio::signal::unix::{SignalKind, signal};

/// Plays a Docker Engine on a unix socket until SIGINT or SIGTERM.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// The socket; without it, one in a directory of its own.
    #[arg(long)]
    socket: Option<PathBuf>,
    /// How many containers there are.
    #[arg(long, default_value_t = 10)]
    containers: usize,
    /// How many labels each of them has.
    #[arg(long, default_value_t = 5)]
    labels: usize,
    /// Also serves what was recorded: a directory with list.json and inspect/ID.json.
    #[arg(long)]
    load: Option<PathBuf>,
    /// State changes a second, each with its event: containers are paused and unpaused in turn.
    #[arg(long, default_value_t = 0.0)]
    changes: f64,
    /// Health probes a second: three exec events each, and no change of state.
    #[arg(long, default_value_t = 0.0)]
    probes: f64,
}

fn main() -> ExitCode {
    match run(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fake-engine: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> std::io::Result<()> {
    let engine = match &arguments.socket {
        Some(socket) => FakeEngine::bind(socket)?,
        None => FakeEngine::start()?,
    };
    if let Some(directory) = &arguments.load {
        engine.load(directory)?;
    }
    let ids = engine.populate(arguments.containers, arguments.labels);
    println!("{}", engine.host());
    // Whoever started this waits for the line.
    std::io::stdout().flush()?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut changes = ticks(arguments.changes);
        let mut probes = ticks(arguments.probes);
        let (mut changed, mut probed) = (0, 0);
        loop {
            tokio::select! {
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
                () = next(&mut changes), if !ids.is_empty() => {
                    let id = &ids[changed % ids.len()];
                    let pause = (changed / ids.len()).is_multiple_of(2);
                    let (action, status) = if pause { ("pause", "paused") } else { ("unpause", "running") };
                    engine.act(id, action, |container| container.status(status));
                    changed += 1;
                }
                () = next(&mut probes), if !ids.is_empty() => {
                    let id = &ids[probed % ids.len()];
                    for action in ["exec_create: /bin/sh -c probe", "exec_start: /bin/sh -c probe", "exec_die"] {
                        engine.emit(engine.event(action, id));
                    }
                    probed += 1;
                }
            }
        }
    })
}

/// A timer with `rate` ticks a second; none for 0.
fn ticks(rate: f64) -> Option<tokio::time::Interval> {
    (rate > 0.0).then(|| tokio::time::interval(Duration::from_secs_f64(1.0 / rate)))
}

async fn next(ticks: &mut Option<tokio::time::Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}
