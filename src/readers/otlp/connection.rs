//! What connections over gRPC and over HTTP have in common.

use std::error::Error;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry_otlp::{MetricExporter, RetryPolicy};
use tokio_util::sync::DropGuard;

use crate::config::Otlp;
use crate::readers::ReaderError;

/// What requests say of their sender.
pub(super) const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// An exporter with the connection that it sends over.
pub(super) struct Connection {
    pub(super) exporter: MetricExporter,
    /// Ends what the connection runs beside its requests.
    pub(super) _tasks: Option<DropGuard>,
}

/// Another attempt is made for as long as the time allows, after pauses that grow.
pub(super) fn retry_policy() -> RetryPolicy {
    RetryPolicy::default()
        .with_max_retries(usize::MAX)
        .with_initial_delay(Duration::from_millis(125))
        .with_max_delay(Duration::from_secs(5))
        // So that many exporters do not come back at one moment.
        .with_max_jitter(Duration::from_millis(125))
}

/// The configured headers.
pub(super) fn headers(otlp: &Otlp) -> Result<HeaderMap, ReaderError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &otlp.headers {
        let wrong = |what: &dyn std::fmt::Display| ReaderError::new(format!("headers: {name}: {what}"));
        let key = HeaderName::try_from(name).map_err(|error| wrong(&error))?;
        let mut value = HeaderValue::try_from(value).map_err(|error| wrong(&error))?;
        value.set_sensitive(true);
        headers.insert(key, value);
    }
    Ok(headers)
}

/// An error and its causes. Libraries often repeat a cause in what they say themselves.
pub(super) fn causes(error: &(dyn Error + 'static)) -> String {
    let mut message = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !message.contains(&text) {
            message = format!("{message}: {text}");
        }
        next = cause.source();
    }
    message
}
