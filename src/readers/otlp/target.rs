//! Where a push reader's data goes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::console::Console;
use super::grpc::GrpcTarget;
use super::http::HttpTarget;
use super::retry::{Again, Answer, Failure};
use crate::config::{Compression, Exporter, Otlp, Temporality};
use crate::readers::ReaderError;
use crate::readers::gzip::Deflater;

/// What requests say of their sender.
pub(super) const USER_AGENT: &str = concat!(env!("CARGO_PKG_NAME"), "/", env!("CARGO_PKG_VERSION"));

/// Of what a destination says, the most that is logged.
const MOST_WORDS: usize = 300;

/// Where exports go.
pub(super) struct Target {
    /// As it is logged and counted.
    pub(super) name: String,
    pub(super) temporality: Temporality,
    /// How long a request is tried again.
    pub(super) patience: Duration,
    /// What requests are compressed with, if they are.
    deflater: Option<Arc<Deflater>>,
    transport: Transport,
    secrets: Vec<String>,
}

enum Transport {
    Grpc(Box<GrpcTarget>),
    Http(Box<HttpTarget>),
    Console(Console),
}

impl Target {
    /// Nothing is connected to yet.
    pub(super) fn new(exporter: &Exporter, deflater: &Arc<Deflater>) -> Result<Self, ReaderError> {
        let otlp = |otlp: &Otlp, transport: Result<Transport, ReaderError>| {
            let name = public_url(&otlp.endpoint);
            Ok(Self {
                transport: transport.map_err(|error| ReaderError::new(format!("{name}: {error}")))?,
                name,
                temporality: otlp.temporality,
                deflater: (otlp.compression == Compression::Gzip).then(|| Arc::clone(deflater)),
                patience: Duration::MAX,
                secrets: secrets(otlp),
            })
        };
        match exporter {
            Exporter::OtlpGrpc(o) => otlp(o, GrpcTarget::new(o).map(|t| Transport::Grpc(Box::new(t)))),
            Exporter::OtlpHttp(o) => otlp(o, HttpTarget::new(o).map(|t| Transport::Http(Box::new(t)))),
            Exporter::Console { temporality } => Ok(Self {
                name: "console".into(),
                temporality: *temporality,
                deflater: None,
                patience: Duration::MAX,
                transport: Transport::Console(Console::new()),
                secrets: Vec::new(),
            }),
        }
    }

    /// Whether requests are compressed.
    pub(super) fn compresses(&self) -> bool {
        self.deflater.is_some()
    }

    /// Sends one request, again and again where that may help, for as long as the settings allow.
    pub(super) async fn send(&mut self, message: Bytes) -> Result<Answer, Failure> {
        // Here, so that each further attempt is cheap. What was compressed is let go: it is several times as large,
        // and sending it can take long.
        let message = match &self.deflater {
            Some(deflater) => {
                let compressed = deflater.file(&message);
                drop(message);
                compressed.map_err(|error| Failure::new(format!("cannot compress: {error}"), Again::Never))?
            }
            None => message,
        };
        let result = match &mut self.transport {
            Transport::Grpc(target) => target.send(message, self.patience).await,
            Transport::Http(target) => target.send(message, self.patience).await,
            Transport::Console(console) => console.send(&message),
        };
        match result {
            Ok(answer) => Ok(Answer { message: self.public_words(&answer.message), ..answer }),
            Err(failure) => Err(Failure { message: self.public_words(&failure.message), ..failure }),
        }
    }

    /// What a destination says can be a whole page, and can repeat the headers that were sent to it.
    fn public_words(&self, words: &str) -> String {
        let mut words = words.to_owned();
        for secret in &self.secrets {
            words = words.replace(secret, "***");
        }
        match words.char_indices().nth(MOST_WORDS) {
            Some((end, _)) => format!("{}…", words.get(..end).unwrap_or_default()),
            None => words,
        }
    }
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
        let target = Target::new(&Exporter::OtlpHttp(otlp), &Arc::new(Deflater::new())).unwrap();
        assert_eq!(target.public_words("no token 0123456789 here"), "no token *** here");
        assert_eq!(target.public_words("not Bearer 0123456789"), "not ***");
        assert_eq!(target.public_words(&"é".repeat(1_000)), format!("{}…", "é".repeat(300)));
    }
}
