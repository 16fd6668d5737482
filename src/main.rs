//! The program: arguments and configuration, run, exit code.

use std::process::ExitCode;

use docker_state_exporter::cli::{self, Command, Settings};
use docker_state_exporter::{Exporter, healthcheck, logging};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

/// Gives memory back. The C library's own keeps what a scrape of many short-lived label sets once took, and
/// musl's, in the static binary, makes threads wait for each other.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Something cannot be done that is needed at the start. Arguments and configuration end with 2, a signal with 0.
const FAILED: u8 = 1;

fn main() -> ExitCode {
    let command = match cli::from_process() {
        Ok(command) => command,
        Err(exit) => return exit.print(),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the runtime: {error}")),
    };
    match command {
        Command::Run(settings) => runtime.block_on(run(*settings)),
        Command::Healthcheck { url } => match runtime.block_on(healthcheck::check(&url)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => fail(&why),
        },
    }
}

/// Two workers: one may be busy with an export's encoding while the other follows the daemon. More would only
/// cost memory.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(2).max_blocking_threads(8).enable_all().build()
}

async fn run(settings: Settings) -> ExitCode {
    let guard = logging::begin(settings.config.log_level, settings.log_format);
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    let exporter = match Exporter::new(&settings.config).await {
        Ok(exporter) => exporter,
        Err(error) => {
            drop(guard);
            return fail(&error.to_string());
        }
    };
    let shutdown = CancellationToken::new();
    if let Err(error) = on_signals(shutdown.clone()) {
        drop(guard);
        return fail(&format!("cannot listen for signals: {error}"));
    }
    exporter.run(shutdown).await;
    ExitCode::SUCCESS
}

/// Cancels on SIGTERM and SIGINT. A second signal ends the process at once.
fn on_signals(shutdown: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut received = async move || {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    };
    tokio::spawn(async move {
        let name = received().await;
        info!(signal = name, "ending");
        shutdown.cancel();
        let name = received().await;
        error!(signal = name, "ending at once");
        std::process::exit(i32::from(FAILED));
    });
    Ok(())
}

fn fail(message: &str) -> ExitCode {
    use std::io::Write;
    // Where nobody reads standard error, the exit code has to say it.
    let _ = writeln!(std::io::stderr(), "{message}");
    ExitCode::from(FAILED)
}
