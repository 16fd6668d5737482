//! Log lines, on standard error.

use std::io::BufWriter;
use std::sync::{Mutex, PoisonError};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::cli::LogFormat;
use crate::config::LogLevel;
use crate::output::{self, Flush};
use crate::readers::otlp::diagnostics_layer;

/// How many lines may wait to be written. Further ones are dropped: a log that nobody reads must not stop the
/// watcher.
const WAITING_LINES: usize = 4096;

/// Changes how much is logged.
#[derive(Clone)]
pub struct Level(reload::Handle<Targets, Registry>);

impl Level {
    /// Sets the least severe level that is logged.
    pub fn set(&self, level: LogLevel) {
        // This fails only if nothing logs any more.
        let _ = self.0.reload(filter(level));
    }
}

/// Writes the waiting lines when it is dropped.
static LINES: Mutex<Option<Flush>> = Mutex::new(None);

/// Begins logging.
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
    // This fails only if there is a subscriber already, which then keeps logging.
    let _ = tracing_subscriber::registry().with(layer).with(diagnostics_layer()).try_init();
    Level(handle)
}

/// Whether log lines are written.
pub fn has_begun() -> bool {
    LINES.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// Ends logging: the waiting lines are written, if somebody reads them. To be called before the process exits.
pub fn flush() {
    drop(LINES.lock().unwrap_or_else(PoisonError::into_inner).take());
}

/// Libraries log each attempt and failure, which the exporter logs once. Their lines are shown only at the levels
/// debug and trace.
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
