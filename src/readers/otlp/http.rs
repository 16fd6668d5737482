//! OTLP over HTTP, protobuf.
//!
//! The client is reqwest, which knows proxies. The exporter of `opentelemetry-otlp` asks it by way of a trait, and here
//! each request gets the configured headers in the place of its own, and each answer is read for its reason.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::{MetricExporter, Protocol, WithExportConfig, WithHttpConfig};
use prost::Message;
use reqwest::redirect;

use super::connection::{self, Connection, causes, headers, retry_policy};
use super::diagnostics::note;
use crate::config::{Compression, Otlp};
use crate::readers::ReaderError;
use crate::readers::gzip::Deflater;

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// The most that is read of a response body.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

/// An OTLP receiver that is spoken to over HTTP.
pub(super) struct HttpTransport {
    tls: rustls::ClientConfig,
    url: url::Url,
    headers: HeaderMap,
    deflater: Option<Arc<Deflater>>,
    timeout: Duration,
}

impl HttpTransport {
    pub(super) fn new(otlp: &Otlp, deflater: &Arc<Deflater>) -> Result<Self, ReaderError> {
        let tls = match otlp.endpoint.scheme() {
            "https" => crate::tls::client_config(&otlp.tls),
            _ => crate::tls::without_trust(),
        };
        let mut headers = headers(otlp)?;
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(connection::USER_AGENT));
        headers.insert(CONTENT_TYPE, PROTOBUF);
        let is_compressed = otlp.compression == Compression::Gzip;
        if is_compressed {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        } else {
            headers.remove(CONTENT_ENCODING);
        }
        Ok(Self {
            tls: tls.map_err(|error| ReaderError::new(error.to_string()))?,
            url: otlp.endpoint.clone(),
            headers,
            deflater: is_compressed.then(|| Arc::clone(deflater)),
            timeout: otlp.timeout,
        })
    }

    /// Nothing is connected to yet. No attempt begins later than `retry_for` after an export has begun.
    pub(super) fn connect(&self, retry_for: Duration) -> Result<Connection, ReaderError> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .redirect(redirect::Policy::none())
            // A request that is given up leaves its connection to a task of the client's. A peer that does not answer
            // must not keep that for longer.
            .connect_timeout(self.timeout)
            .tcp_user_timeout(self.timeout)
            .build()
            .map_err(|error| ReaderError::new(causes(&error)))?;
        let client = Client {
            client,
            url: self.url.clone(),
            headers: self.headers.clone(),
            deflater: self.deflater.clone(),
        };
        let exporter = MetricExporter::builder()
            .with_http()
            .with_http_client(client)
            // Said, or `OTEL_*` variables count.
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(self.url.as_str())
            .with_retry_policy(retry_policy())
            .with_timeout(retry_for)
            .build()
            .map_err(|error| ReaderError::new(causes(&error)))?;
        Ok(Connection { exporter, _tasks: None })
    }
}

/// Sends what the exporter has put together.
#[derive(Debug)]
struct Client {
    client: reqwest::Client,
    url: url::Url,
    headers: HeaderMap,
    /// What requests are compressed with, if they are.
    deflater: Option<Arc<Deflater>>,
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let message = request.into_body();
        let body = match &self.deflater {
            Some(deflater) => deflater.file(&message)?,
            None => message,
        };
        let request = self.client.post(self.url.clone()).headers(self.headers.clone()).body(body);
        let mut response = request.send().await.map_err(|error| {
            // The URL is told beside it, without what is secret in it.
            let error = error.without_url();
            note(|diagnostics| diagnostics.reason = Some(causes(&error)));
            error
        })?;
        let status = response.status();
        let mut body = BytesMut::new();
        // An answer counts even if its words cannot be read.
        while let Ok(Some(chunk)) = response.chunk().await
            && body.len() + chunk.len() <= MAX_ANSWER_BYTES
        {
            body.extend_from_slice(&chunk);
        }
        let headers = std::mem::take(response.headers_mut());
        if !status.is_success() {
            note(|diagnostics| {
                diagnostics.reason = Some(reason(status, &headers, &body));
                diagnostics.retry_after = retry_after(&headers, SystemTime::now());
            });
        }
        let mut response = Response::new(body.freeze());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

/// What an answer says that is none of success.
fn reason(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> String {
    // The specification has a protobuf status; proxies have a page.
    let words = if headers.get(CONTENT_TYPE) == Some(&PROTOBUF) {
        tonic_types::pb::Status::decode(body).map(|status| status.message).unwrap_or_default()
    } else {
        String::from_utf8_lossy(body).trim().to_owned()
    };
    let colon = if words.is_empty() { "" } else { ": " };
    format!("HTTP {status}{colon}{words}")
}

/// A number of seconds, or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(SystemTime::from(date.timestamp()).duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_a_number_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let asked = |text: &'static str| {
            retry_after(&HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_static(text))]), now)
        };
        assert_eq!(asked("120"), Some(Duration::from_secs(120)));
        assert_eq!(asked("Sun, 09 Sep 2001 01:46:45 GMT"), Some(Duration::from_secs(5)));
        assert_eq!(asked("Sun, 09 Sep 2001 01:46:35 GMT"), Some(Duration::ZERO));
        assert_eq!(asked("soon"), None);
    }

    #[test]
    fn a_failure_tells_the_destinations_words() {
        let told = |kind: &'static str, body: &[u8]| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            reason(StatusCode::UNAUTHORIZED, &headers, body)
        };
        let status = tonic_types::pb::Status { message: "no token".into(), ..Default::default() };
        assert_eq!(
            told("application/x-protobuf", &status.encode_to_vec()),
            "HTTP 401 Unauthorized: no token"
        );
        assert_eq!(told("text/plain", b"no token\n"), "HTTP 401 Unauthorized: no token");
        assert_eq!(told("text/plain", b""), "HTTP 401 Unauthorized");
    }
}
