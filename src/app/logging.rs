//! Log lines, on standard error.

use std::io::BufWriter;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::cli::LogFormat;
use crate::config::LogLevel;

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

/// Begins logging, for as long as the guard is kept. A panic becomes a log line too.
pub fn begin(level: LogLevel, format: LogFormat) -> (WorkerGuard, Level) {
    let (filter, handle) = reload::Layer::new(filter(level));
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(WAITING_LINES)
        .thread_name("log")
        // Flushed whenever no line waits: lines that come together are written together.
        .finish(BufWriter::new(std::io::stderr()));
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
    std::panic::set_hook(Box::new(|panic| tracing::error!(%panic, "a defect of this program")));
    (guard, Level(handle))
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
