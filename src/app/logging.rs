//! Log lines, on standard error.

use std::io::BufWriter;
use std::process::exit;
use std::sync::{Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::cli::LogFormat;
use crate::config::LogLevel;
use crate::output::{self, Flush};

/// Lines that wait to be written. Beyond that they are dropped: nobody reading the log must not stop the watch.
const WAITING_LINES: usize = 4096;

/// Changes how much is logged.
#[derive(Clone)]
pub struct Level(reload::Handle<Targets, Registry>);

impl Level {
    /// From now on this is the least severe level that is logged.
    pub fn set(&self, level: LogLevel) {
        // It fails only where nothing logs any more.
        let _ = self.0.reload(filter(level));
    }
}

/// What Rust programs end with after a panic.
const PANICKED: i32 = 101;

/// What writes the lines that wait.
static LINES: Mutex<Option<Flush>> = Mutex::new(None);

/// Begins logging. From now on a panic, in whatever thread or task, is a log line, and ends the process: half of a
/// program that goes on would show old values as true, and a supervisor starts a whole one.
pub fn begin(level: LogLevel, format: LogFormat) -> Level {
    let (filter, handle) = reload::Layer::new(filter(level));
    // Flushed whenever no line waits: lines that come together are written together.
    let (writer, lines) = output::writer(BufWriter::new(std::io::stderr()), "log", WAITING_LINES);
    *LINES.lock().unwrap_or_else(PoisonError::into_inner) = Some(lines);
    let layer = match format {
        LogFormat::Logfmt => tracing_logfmt::builder()
            .with_target(false)
            .layer()
            .with_writer(writer)
            .with_filter(filter)
            .boxed(),
        LogFormat::Json => tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_target(false)
            .with_writer(writer)
            .with_filter(filter)
            .boxed(),
    };
    // Only a second subscriber is refused, and then the first one logs.
    let _ = tracing_subscriber::registry().with(layer).try_init();
    std::panic::set_hook(Box::new(|panic| {
        tracing::error!(%panic, "a defect of this program; it ends");
        flush();
        exit(PANICKED);
    }));
    Level(handle)
}

/// Ends logging: what waits is written, if somebody reads it. To be called before the process exits.
pub fn flush() {
    drop(LINES.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// The libraries tell of each attempt and failure what the exporter tells once; they are heard where somebody
/// looks for a defect.
fn filter(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Trace => LevelFilter::TRACE,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Error => LevelFilter::ERROR,
    };
    let libraries = if level >= LevelFilter::DEBUG { level } else { LevelFilter::OFF };
    Targets::new().with_default(libraries).with_target(env!("CARGO_CRATE_NAME"), level)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    use super::*;

    const NAME: &str = "app::logging::tests::a_panic_wherever_it_is_ends_the_process_with_an_error";
    const PLACE: &str = "TEST_PANICS_IN";

    /// In a process of its own.
    #[allow(clippy::panic, reason = "it is what is tested")]
    fn panic_in(place: &str) {
        begin(LogLevel::Info, LogFormat::Logfmt);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        match place {
            "thread" => drop(std::thread::spawn(|| panic!("meant"))),
            "task" => drop(runtime.spawn(async { panic!("meant") })),
            "blocking task" => drop(runtime.spawn_blocking(|| panic!("meant"))),
            _ => drop(std::panic::catch_unwind(|| panic!("meant"))),
        }
        std::thread::sleep(Duration::from_secs(60));
    }

    #[test]
    fn a_panic_wherever_it_is_ends_the_process_with_an_error() {
        if let Ok(place) = std::env::var(PLACE) {
            return panic_in(&place);
        }
        for place in ["thread", "task", "blocking task", "main, and caught"] {
            let began = Instant::now();
            let output = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", NAME, "--nocapture"])
                .env(PLACE, place)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let log = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(PANICKED), "in a {place}: {log}");
            assert!(log.contains("a defect of this program") && log.contains("meant"), "in a {place}: {log}");
            assert!(began.elapsed() < Duration::from_secs(30), "in a {place}: {:?}", began.elapsed());
        }
    }
}
