//! The program: arguments and configuration, run, exit code.

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use docker_state_exporter::app::{Exporter, logging};
use docker_state_exporter::cli::{self, Command, Settings};
use docker_state_exporter::commands::{healthcheck, once};
use docker_state_exporter::config::{self, Config};
use tokio::runtime::{Builder, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
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
        Command::Check { name, settings } => runtime.block_on(check(&name, &settings)),
        Command::Once { settings, timeout, output } => {
            runtime.block_on(once(&settings, timeout, output.as_deref()))
        }
        Command::Completions(shell) => print(&cli::completions(shell)),
        Command::Schema => print(config::schema().as_bytes()),
        Command::Healthcheck { url } => match runtime.block_on(healthcheck::check(&url)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => fail(&why),
        },
    }
}

/// Whether the exporter would start, and what is in effect, as a file that says so.
async fn check(name: &str, settings: &Settings) -> ExitCode {
    let web = match Exporter::check(&settings.config) {
        Ok(web) => web,
        Err(error) => return fail(&format!("{name}: {error}")),
    };
    let mut text = format!("# {name} is valid. In effect, with defaults, variables and flags:\n");
    for warning in &settings.warnings {
        text.push_str(&format!("# warning: {warning}\n"));
    }
    if let (Some(path), Some(web)) = (&settings.config.web.config_file, web) {
        text.push_str(&format!("# {}: {web}\n", path.display()));
    }
    text.push_str(&config::to_yaml(&settings.config));
    print(text.as_bytes())
}

async fn once(settings: &Settings, timeout: Duration, output: Option<&Path>) -> ExitCode {
    let (_guard, _) = logging::begin(settings.config.log_level, settings.log_format);
    let seen = match once::once(&settings.config, timeout).await {
        Ok(seen) => seen,
        Err(error) => return fail(&error.to_string()),
    };
    let printed = match output {
        Some(path) => match once::replace(path, &seen.text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => fail(&why),
        },
        None => print(&seen.text),
    };
    if seen.complete {
        return printed;
    }
    fail(&format!(
        "{}: the daemon has not told of its containers within {timeout:?}; docker_up is 0\nhint: does it run, and may \
         this user reach it? --log.level=warn tells more, --timeout gives it longer",
        settings.config.docker.host
    ))
}

/// Prints to standard output. What reads it may have seen enough (`| head`), but a full disk is a failure.
fn print(text: &[u8]) -> ExitCode {
    let mut output = std::io::stdout().lock();
    match output.write_all(text).and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            fail(&format!("cannot write to standard output: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// One worker: the daemon is followed on a thread of its own, and a scrape that takes a while is rendered on another.
/// A second one would cost a mebibyte for what the allocator keeps at hand for each.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(1).max_blocking_threads(8).enable_all().build()
}

async fn run(settings: Settings) -> ExitCode {
    let (guard, level) = logging::begin(settings.config.log_level, settings.log_format);
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
    let (reload, reloads) = mpsc::channel(1);
    if let Err(error) = on_signals(shutdown.clone()).and_then(|()| on_hangup(reload)) {
        drop(guard);
        return fail(&format!("cannot listen for signals: {error}"));
    }
    exporter.run(shutdown, reloads, |log_level| level.set(log_level)).await;
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

/// Reads the configuration again on SIGHUP, by the same arguments and environment.
fn on_hangup(reload: mpsc::Sender<Config>) -> std::io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            let settings = match cli::from_process() {
                Ok(Command::Run(settings)) => settings,
                Ok(_) => continue,
                Err(exit) => {
                    error!(why = exit.text, "the configuration cannot be used; nothing has changed");
                    continue;
                }
            };
            for warning in &settings.warnings {
                warn!("{warning}");
            }
            // Nobody takes it any more at the end.
            let _ = reload.send(settings.config).await;
        }
    });
    Ok(())
}

fn fail(message: &str) -> ExitCode {
    // Where nobody reads standard error, the exit code has to say it.
    let _ = writeln!(std::io::stderr(), "{message}");
    ExitCode::from(FAILED)
}
