//! What `opentelemetry-otlp` tells of an export in its log and nowhere else: that some data points were refused, why
//! an attempt failed, and whether another could help.

use std::cell::RefCell;
use std::fmt::Debug;
use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::StatusExt;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

tokio::task_local! {
    /// Of the export that the task is at.
    static CURRENT: RefCell<Diagnostics>;
}

/// What was told of one export.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Diagnostics {
    /// Data points that the destination refused although it took the request.
    pub(super) rejected: i64,
    /// Why; or a warning, where none was.
    pub(super) complaint: Option<String>,
    /// What the destination said, or what happened on the way to it, in the last attempt that failed.
    pub(super) reason: Option<String>,
    /// Whether the request would be refused again.
    pub(super) is_refused: bool,
    /// After which time the destination wants to be asked again.
    pub(super) retry_after: Option<Duration>,
}

/// Runs an export, and returns what was told of it besides.
pub(super) async fn diagnosed<T>(export: impl Future<Output = T>) -> (T, Diagnostics) {
    let export = async {
        let result = export.await;
        (result, CURRENT.with(RefCell::take))
    };
    CURRENT.scope(RefCell::default(), export).await
}

/// Notes something of the export that the task is at, if it is at one.
pub(super) fn note(note: impl FnOnce(&mut Diagnostics)) {
    let _ = CURRENT.try_with(|current| {
        if let Ok(mut diagnostics) = current.try_borrow_mut() {
            note(&mut diagnostics);
        }
    });
}

/// The layer of the log's subscriber that hears what is told of exports. Without it they are sent all the same.
pub fn diagnostics_layer<S: Subscriber + for<'s> LookupSpan<'s>>() -> impl Layer<S> {
    Listener.with_filter(Targets::new().with_target("opentelemetry-otlp", LevelFilter::DEBUG))
}

struct Listener;

impl<S: Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        match event.metadata().name() {
            "TonicMetricsClient.PartialSuccess" | "HttpMetricsClient.PartialSuccess" => {
                note(|diagnostics| event.record(&mut PartialSuccess(diagnostics)));
            }
            "TonicMetricsClient.ExportFailed" => {
                note(|diagnostics| event.record(&mut GrpcFailure(diagnostics)));
            }
            "Export.Failed.NonRetryable" => note(|diagnostics| diagnostics.is_refused = true),
            _ => {}
        }
    }
}

struct PartialSuccess<'d>(&'d mut Diagnostics);

impl Visit for PartialSuccess<'_> {
    fn record_i64(&mut self, field: &Field, value: i64) {
        if field.name() == "rejected_data_points" {
            self.0.rejected = value;
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "error_message" {
            self.0.complaint = Some(value.to_owned());
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

struct GrpcFailure<'d>(&'d mut Diagnostics);

impl Visit for GrpcFailure<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "grpc_message" => self.0.reason = Some(value.to_owned()),
            "grpc_details" => self.0.retry_after = retry_delay(value),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}
}

/// The delay that a status' details ask for. They are told as a list of bytes.
fn retry_delay(details: &str) -> Option<Duration> {
    let details: Vec<u8> = serde_json::from_str(details).ok()?;
    // The details have the code once more.
    Status::with_details(Code::Unavailable, "", details.into()).get_details_retry_info()?.retry_delay
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn a_delay_is_read_from_details_as_they_are_told() {
        for delay in [Duration::from_millis(700), Duration::from_secs(120)] {
            let details = ErrorDetails::with_retry_info(Some(delay));
            let status = Status::with_error_details(Code::ResourceExhausted, "full", details);
            assert_eq!(retry_delay(&format!("{:?}", status.details())), Some(delay));
        }
        for details in [Status::unavailable("no details").details(), b"nonsense"] {
            assert_eq!(retry_delay(&format!("{details:?}")), None);
        }
    }

    #[tokio::test]
    async fn each_export_has_what_was_noted_in_it() {
        note(|diagnostics| diagnostics.rejected = 1);
        let export = async |rejected| {
            tokio::task::yield_now().await;
            note(|diagnostics| diagnostics.rejected = rejected);
        };
        let (((), first), ((), second)) = tokio::join!(diagnosed(export(3)), diagnosed(export(5)));
        assert_eq!((first.rejected, second.rejected), (3, 5));
    }
}
