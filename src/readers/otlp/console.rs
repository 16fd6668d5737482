//! Standard output, for a look at what is sent: each request as a line of OTLP's JSON, as a Collector's file
//! exporter writes it.

use std::io::Write;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use prost::Message;
use tracing_appender::non_blocking::NonBlocking;

use crate::output::{self, Flush};

use super::retry::{Again, Answer, Failure};

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

    pub(super) fn send(&mut self, message: &[u8]) -> Result<Answer, Failure> {
        let refused = |why: String| Failure::new(why, Again::Never);
        let request =
            ExportMetricsServiceRequest::decode(message).map_err(|error| refused(error.to_string()))?;
        let mut line = serde_json::to_vec(&request).map_err(|error| refused(error.to_string()))?;
        line.push(b'\n');
        let dropped = self.output.error_counter().dropped_lines();
        self.output.write_all(&line).map_err(|error| refused(error.to_string()))?;
        if self.output.error_counter().dropped_lines() > dropped {
            return Err(refused("nobody reads the output".into()));
        }
        Ok(Answer::default())
    }
}
