//! The program: arguments and configuration, run, exit code.

use std::io::Write;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use docker_state_exporter::app::signals::Signals;
use docker_state_exporter::app::{Exporter, abort, blocking, logging};
use docker_state_exporter::cli::{self, Command, Settings};
use docker_state_exporter::commands::{healthcheck, once, output_file};
use docker_state_exporter::config::{self, Config};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::{error, warn};

/// jemalloc gives memory back. The C library's allocator keeps what a scrape of many short-lived label sets once
/// took, and musl's, in the static binary, makes threads wait for each other.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// The exit code if something fails that is needed. Wrong arguments or configuration exit with 2, a signal with 0.
const FAILED: u8 = 1;

/// The time limit for work that is under way when the program ends. Work that takes longer hangs.
const ABANDON: Duration = Duration::from_secs(1);

/// How long reading the configuration again may take before a warning is logged.
const PATIENCE: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    abort::on_panic();
    // Before all else, so that a signal ends the process whatever hangs. As PID 1 of a container it would ignore
    // signals.
    let signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => return fail(&format!("cannot listen for signals: {error}")),
    };
    let runtime = match runtime() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start the runtime: {error}")),
    };
    let code = runtime.block_on(execute(signals));
    runtime.shutdown_timeout(ABANDON);
    logging::flush();
    code
}

async fn execute(signals: Signals) -> ExitCode {
    let shutdown = signals.shutdown.clone();
    let command = tokio::select! {
        () = shutdown.cancelled() => return ExitCode::from(FAILED),
        command = blocking(cli::from_process) => command,
    };
    let command = match command {
        Ok(command) => command,
        Err(exit) => return exit.print(),
    };
    let ends_in_order = matches!(command, Command::Run(_));
    tokio::select! {
        () = shutdown.cancelled(), if !ends_in_order => ExitCode::from(FAILED),
        code = perform(command, signals) => code,
    }
}

async fn perform(command: Command, signals: Signals) -> ExitCode {
    match command {
        Command::Run(settings) => run(*settings, signals).await,
        Command::Check { name, settings } => blocking(move || check(&name, &settings)).await,
        Command::Once { settings, timeout, output } => once(*settings, timeout, output).await,
        Command::Completions(shell) => blocking(move || print(&cli::completions(shell))).await,
        Command::Schema => blocking(|| print(config::schema().as_bytes())).await,
        Command::Healthcheck { url } => match healthcheck::check(&url).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => fail(&why),
        },
    }
}

/// Checks whether the exporter would start, and prints the effective configuration as a file.
fn check(name: &str, settings: &Settings) -> ExitCode {
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

async fn once(settings: Settings, timeout: Duration, output: Option<PathBuf>) -> ExitCode {
    logging::begin(settings.config.log_level, settings.log_format);
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    let observed = match once::once(&settings.config, timeout).await {
        Ok(observed) => observed,
        Err(error) => return fail(&error.to_string()),
    };
    let once::Observation { text, trouble } = observed;
    let written = blocking(move || match output {
        Some(path) => match output_file::replace(&path, &text) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => fail(&why),
        },
        None => print(&text),
    });
    let printed = written.await;
    let Some(trouble) = trouble else { return printed };
    fail(&format!(
        "{}: the daemon has not told of its containers within {timeout:?}; docker_up is 0: {trouble}\nhint: does it \
         run, and may this user reach it? --log.level=warn tells more, --timeout gives it longer",
        settings.config.docker.host
    ))
}

/// Prints to standard output. A reader that closes the pipe (`| head`) is no failure, but a full disk is.
fn print(text: &[u8]) -> ExitCode {
    let mut output = std::io::stdout().lock();
    match output.write_all(text).and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            fail(&format!("cannot write to standard output: {error}"))
        }
        _ => ExitCode::SUCCESS,
    }
}

/// One worker is enough: the daemon is followed on a thread of its own, and a slow scrape is rendered on another. A
/// second worker would cost a mebibyte, which the allocator caches for each thread.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(1).max_blocking_threads(8).enable_all().build()
}

async fn run(settings: Settings, signals: Signals) -> ExitCode {
    let Signals { shutdown, reloads } = signals;
    let level = logging::begin(settings.config.log_level, settings.log_format);
    for warning in &settings.warnings {
        warn!("{warning}");
    }
    let exporter = tokio::select! {
        () = shutdown.cancelled() => return ExitCode::SUCCESS,
        exporter = Exporter::new(&settings.config) => exporter,
    };
    let exporter = match exporter {
        Ok(exporter) => exporter,
        Err(error) => {
            // Writes the log lines before the message below.
            logging::flush();
            return fail(&error.to_string());
        }
    };
    let (reload, configs) = mpsc::channel(1);
    tokio::spawn(read_again(reloads, reload));
    exporter.run(shutdown, configs, |log_level| level.set(log_level)).await;
    ExitCode::SUCCESS
}

/// Reads the configuration again on each SIGHUP, from the same arguments and environment.
async fn read_again(mut reloads: mpsc::Receiver<()>, reload: mpsc::Sender<Config>) {
    while reloads.recv().await.is_some() {
        let mut reading = pin!(blocking(cli::from_process));
        let read = match timeout(PATIENCE, &mut reading).await {
            Ok(read) => read,
            Err(_) => {
                warn!("the configuration takes long to be read; until then nothing changes");
                reading.await
            }
        };
        let settings = match read {
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
        // This fails only at shutdown, when nobody receives it any more.
        let _ = reload.send(settings.config).await;
    }
}

fn fail(message: &str) -> ExitCode {
    // If nobody reads standard error, only the exit code tells of the failure.
    let _ = writeln!(std::io::stderr(), "{message}");
    ExitCode::from(FAILED)
}
