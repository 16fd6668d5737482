//! Where a push reader's data goes.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use tokio::time::timeout;

use super::connection::Connection;
use super::console::Console;
use super::diagnostics::{Diagnostics, diagnosed};
use super::grpc::GrpcTransport;
use super::http::HttpTransport;
use crate::config::{Exporter, Otlp, Temporality};
use crate::readers::ReaderError;
use crate::readers::gzip::Deflater;

/// Of what a destination says, the most that is logged.
const MAX_WORDS: usize = 300;

/// Where exports go.
pub(super) struct Destination {
    /// As it is logged and counted.
    pub(super) name: String,
    pub(super) temporality: Temporality,
    /// For one request with its retries.
    timeout: Duration,
    /// No attempt begins later than this after a request has begun.
    retry_for: Duration,
    transport: Transport,
    /// Not here while a request is under way. One that is given up leaves none: its connection may be to a peer that is
    /// no longer there, which TCP alone finds out after a quarter of an hour.
    connection: Option<Connection>,
    secrets: Vec<String>,
}

enum Transport {
    Grpc(Box<GrpcTransport>),
    Http(Box<HttpTransport>),
    Console(Console),
}

/// A request that was taken.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Answer {
    /// Data points that were refused all the same. They are not to be sent again.
    pub(super) rejected: i64,
    /// Why; or a warning, where none was.
    pub(super) complaint: Option<String>,
}

/// A request that was not taken.
#[derive(Debug, PartialEq)]
pub(super) struct Failure {
    pub(super) message: String,
    pub(super) advice: RetryAdvice,
}

/// Whether a request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum RetryAdvice {
    /// It would be refused again.
    Never,
    /// After a pause of our choice.
    Soon,
    /// After the pause that the destination asks for.
    After(Duration),
}

impl Destination {
    /// Nothing is connected to yet. Must be called within a tokio runtime.
    pub(super) fn new(exporter: &Exporter, deflater: &Arc<Deflater>) -> Result<Self, ReaderError> {
        let of_otlp = |otlp: &Otlp, transport: Result<Transport, ReaderError>| {
            let name = public_url(&otlp.endpoint);
            let named = |error: ReaderError| ReaderError::new(format!("{name}: {error}"));
            let mut destination = Self {
                transport: transport.map_err(named)?,
                name: name.clone(),
                temporality: otlp.temporality,
                timeout: otlp.timeout,
                retry_for: otlp.timeout,
                connection: None,
                secrets: secrets(otlp),
            };
            // What is wrong with the settings shows now and not at the first export.
            destination.connection = Some(destination.connect().map_err(named)?);
            Ok(destination)
        };
        match exporter {
            Exporter::OtlpGrpc(otlp) => {
                of_otlp(otlp, GrpcTransport::new(otlp).map(|transport| Transport::Grpc(Box::new(transport))))
            }
            Exporter::OtlpHttp(otlp) => {
                let transport = HttpTransport::new(otlp, deflater);
                of_otlp(otlp, transport.map(|transport| Transport::Http(Box::new(transport))))
            }
            Exporter::Console { temporality } => Ok(Self {
                name: "console".into(),
                temporality: *temporality,
                timeout: Duration::MAX,
                retry_for: Duration::MAX,
                transport: Transport::Console(Console::new()),
                connection: None,
                secrets: Vec::new(),
            }),
        }
    }

    /// From now on, no attempt begins later than this after a request has begun.
    pub(super) fn retry_for(&mut self, limit: Duration) {
        self.retry_for = limit.min(self.timeout);
        self.connection = None;
    }

    /// Sends one request, again and again where that may help, for as long as the settings allow.
    pub(super) async fn send(&mut self, metrics: &ResourceMetrics) -> Result<Answer, Failure> {
        if let Transport::Console(console) = &mut self.transport {
            return console.export(metrics).map(|()| Answer::default()).map_err(refused);
        }
        let connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect().map_err(|error| refused(error.to_string()))?,
        };
        let export = timeout(self.timeout, connection.exporter.export(metrics));
        let (result, diagnostics) = diagnosed(export).await;
        if result.is_ok() {
            self.connection = Some(connection);
        }
        match result {
            Ok(Ok(())) => {
                let Diagnostics { rejected, complaint, .. } = diagnostics;
                Ok(Answer { rejected, complaint: complaint.map(|words| self.public_words(&words)) })
            }
            Ok(Err(error)) => {
                let message = self.public_words(&message(&error.to_string(), diagnostics.reason.as_deref()));
                let advice = match diagnostics.retry_after {
                    _ if diagnostics.is_refused => RetryAdvice::Never,
                    Some(delay) => RetryAdvice::After(delay),
                    None => RetryAdvice::Soon,
                };
                Err(Failure { message, advice })
            }
            Err(_) => {
                let before = diagnostics.reason.map(|reason| format!("; before that: {reason}"));
                let message = format!("no answer within {:?}{}", self.timeout, before.unwrap_or_default());
                Err(Failure { message: self.public_words(&message), advice: RetryAdvice::Soon })
            }
        }
    }

    fn connect(&self) -> Result<Connection, ReaderError> {
        match &self.transport {
            Transport::Grpc(grpc) => grpc.connect(self.retry_for),
            Transport::Http(http) => http.connect(self.retry_for),
            Transport::Console(_) => Err(ReaderError::new("standard output is not connected to")),
        }
    }

    /// What a destination says can be a whole page, and can repeat the headers that were sent to it.
    fn public_words(&self, words: &str) -> String {
        let mut words = words.to_owned();
        for secret in &self.secrets {
            words = words.replace(secret, "***");
        }
        match words.char_indices().nth(MAX_WORDS) {
            Some((end, _)) => format!("{}…", words.get(..end).unwrap_or_default()),
            None => words,
        }
    }
}

fn refused(message: String) -> Failure {
    Failure { message, advice: RetryAdvice::Never }
}

/// What the exporter says of a failure, with the reason that it does not tell. Of gRPC it tells the code, and what
/// happened to the connection where it was that.
fn message(error: &str, reason: Option<&str>) -> String {
    match (error.split_once("gRPC code: "), reason) {
        (Some((_, told)), reason) => match (told.split_once(": "), reason) {
            (Some((_, causes)), _) => without_repetition(causes).to_owned(),
            (None, Some(reason)) => format!("{told}: {reason}"),
            (None, None) => told.to_owned(),
        },
        (None, Some(reason)) => reason.to_owned(),
        (None, None) => error.to_owned(),
    }
}

/// Causes without the last one, where the one before says the same.
fn without_repetition(causes: &str) -> &str {
    let colons = causes.match_indices(": ");
    let parts = colons.filter_map(|(at, colon)| Some((causes.get(..at)?, causes.get(at + colon.len()..)?)));
    let mut repeated = parts.filter(|(before, last)| before.ends_with(last));
    repeated.next().map_or(causes, |(before, _)| before)
}

/// What of the headers must not be shown: each value, and each word of it that is long enough to be a token.
fn secrets(otlp: &Otlp) -> Vec<String> {
    let values = otlp.headers.iter().map(|(_, value)| value.as_str());
    let words = values.flat_map(|value| std::iter::once(value).chain(value.split_whitespace()));
    words.filter(|word| word.len() >= 8).map(str::to_owned).collect()
}

/// The URL without what may be secret in it.
fn public_url(url: &url::Url) -> String {
    let mut url = url.clone();
    // These fail for URLs that cannot have them, which then have nothing to hide.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> url::Url {
        url::Url::parse(text).unwrap()
    }

    #[test]
    fn secrets_of_a_url_are_not_shown() {
        let url = url("https://me:secret@collector:4318/v1/metrics?token=secret");
        assert_eq!(public_url(&url), "https://collector:4318/v1/metrics");
    }

    #[tokio::test]
    async fn what_a_destination_says_is_shortened_and_without_our_headers() {
        let mut otlp = Otlp::new(url("http://collector:4318/v1/metrics"));
        otlp.headers = vec![("authorization".into(), "Bearer 0123456789".into())];
        let deflater = Arc::new(Deflater::new());
        let destination = Destination::new(&Exporter::OtlpHttp(otlp), &deflater).unwrap();
        assert_eq!(destination.public_words("no token 0123456789 here"), "no token *** here");
        assert_eq!(destination.public_words("not Bearer 0123456789"), "not ***");
        assert_eq!(destination.public_words(&"é".repeat(1_000)), format!("{}…", "é".repeat(300)));
    }

    #[test]
    fn a_failure_is_told_with_what_is_known_of_it() {
        let grpc = "TonicMetricsClient export failed with gRPC code: Unavailable";
        assert_eq!(message(grpc, Some("starting")), "Unavailable: starting");
        assert_eq!(message(grpc, None), "Unavailable");
        let transport = format!("{grpc}: transport error: Connection refused");
        assert_eq!(message(&transport, Some("tcp connect error")), "transport error: Connection refused");
        let repeated = format!("{grpc}: transport error: bad certificate: who: bad certificate: who");
        assert_eq!(message(&repeated, None), "transport error: bad certificate: who");
        let http = "HTTP export failed with status code: 503";
        assert_eq!(
            message(http, Some("HTTP 503 Service Unavailable: busy")),
            "HTTP 503 Service Unavailable: busy"
        );
        assert_eq!(message(http, None), http);
    }
}
