//! Standard output, for a look at what is sent: each request as a line of OTLP's JSON, as a Collector's file
//! exporter writes it.
//!
//! `opentelemetry-stdout` writes a text that no program reads, and waits, or panics, where nobody reads the output.

use std::io::Write;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use tracing_appender::non_blocking::NonBlocking;

use crate::output::{self, Flush};

/// Requests that wait to be written. Beyond that they are dropped: nobody reading the output must not stop the
/// exporter, nor fill its memory.
const WAITING_REQUESTS: usize = 64;

/// Standard output.
pub(super) struct Console {
    output: NonBlocking,
    _flush: Flush,
}

impl Console {
    pub(super) fn new() -> Self {
        let (output, flush) = output::writer(std::io::stdout(), "console", WAITING_REQUESTS);
        Self { output, _flush: flush }
    }

    /// Writes a request, or says why not.
    pub(super) fn export(&mut self, metrics: &ResourceMetrics) -> Result<(), String> {
        let request = ExportMetricsServiceRequest::from(metrics);
        let mut line = serde_json::to_vec(&request).map_err(|error| error.to_string())?;
        line.push(b'\n');
        let dropped = self.output.error_counter().dropped_lines();
        self.output.write_all(&line).map_err(|error| error.to_string())?;
        if self.output.error_counter().dropped_lines() > dropped {
            return Err("nobody reads the output".into());
        }
        Ok(())
    }
}
