//! OTLP over HTTP, protobuf.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message;
use tokio_util::sync::DropGuard;

use super::retry::{Again, Answer, Failure, Limits, within};
use super::target;
use super::tasks::Tasks;
use crate::config::{Compression, Otlp};
use crate::readers::ReaderError;

const PROTOBUF: HeaderValue = HeaderValue::from_static("application/x-protobuf");

/// Of an answer, which has a few words at most.
const MOST_ANSWER_BYTES: usize = 64 * 1024;

type Connector = HttpsConnector<HttpConnector>;
type HttpClient = Client<Connector, Full<Bytes>>;

/// An OTLP receiver that is spoken to over HTTP.
pub(super) struct HttpTarget {
    connector: Connector,
    /// Not here while a request is under way, and not after one that was given up.
    connection: Option<(HttpClient, DropGuard)>,
    uri: Uri,
    headers: HeaderMap,
    timeout: Duration,
}

impl HttpTarget {
    pub(super) fn new(otlp: &Otlp) -> Result<Self, ReaderError> {
        let tls = match otlp.endpoint.scheme() {
            "https" => crate::tls::client_config(&otlp.tls),
            _ => crate::tls::without_trust(),
        };
        let tls = tls.map_err(|error| ReaderError::new(error.to_string()))?;
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().build();
        let uri = otlp.endpoint.as_str().parse::<Uri>();
        let mut headers = target::headers(otlp)?;
        headers.entry(USER_AGENT).or_insert(HeaderValue::from_static(target::USER_AGENT));
        headers.insert(CONTENT_TYPE, PROTOBUF);
        match otlp.compression {
            Compression::Gzip => headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip")),
            Compression::None => headers.remove(CONTENT_ENCODING),
        };
        Ok(Self {
            connector,
            connection: None,
            uri: uri.map_err(|error| ReaderError::new(error.to_string()))?,
            headers,
            timeout: otlp.timeout,
        })
    }

    pub(super) async fn send(&mut self, message: Bytes, attempts: Duration) -> Result<Answer, Failure> {
        let limits = Limits { all: self.timeout, attempts };
        let connection = self.connection.take().unwrap_or_else(|| self.connect());
        let result = within(limits, || self.export(&connection.0, message.clone())).await;
        if !matches!(result, Err(Failure { again: Again::NextTime, .. })) {
            self.connection = Some(connection);
        }
        result
    }

    fn connect(&self) -> (HttpClient, DropGuard) {
        let (tasks, guard) = Tasks::new();
        (Client::builder(tasks).build(self.connector.clone()), guard)
    }

    async fn export(&self, client: &HttpClient, body: Bytes) -> Result<Answer, Failure> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        let response = client.request(request).await.map_err(|error| Failure::on_the_way(&error))?;
        let (head, body) = response.into_parts();
        // An answer counts even if its words cannot be read.
        let body = Limited::new(body, MOST_ANSWER_BYTES).collect().await.map(|body| body.to_bytes());
        let body = body.unwrap_or_default();
        if head.status.is_success() {
            return Ok(ExportMetricsServiceResponse::decode(body).unwrap_or_default().into());
        }
        Err(failure(head.status, &head.headers, &body, SystemTime::now()))
    }
}

fn failure(status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Failure {
    let again = match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let asked = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            asked.and_then(|text| retry_after(text, now)).map_or(Again::Later, Again::After)
        }
        _ => Again::Never,
    };
    // The specification has a protobuf status; proxies have a page.
    let words = if headers.get(CONTENT_TYPE) == Some(&PROTOBUF) {
        tonic_types::pb::Status::decode(body).map(|status| status.message).unwrap_or_default()
    } else {
        String::from_utf8_lossy(body).trim().to_owned()
    };
    let colon = if words.is_empty() { "" } else { ": " };
    Failure::new(format!("HTTP {status}{colon}{words}"), again)
}

/// A number of seconds, or a date.
fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    Some(SystemTime::from(date.timestamp()).duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_sent_again_is_as_the_specification_says() {
        let again = |status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            failure(status, &HeaderMap::new(), b"", SystemTime::now()).again
        };
        for status in [429, 502, 503, 504] {
            assert_eq!(again(status), Again::Later, "{status}");
        }
        for status in [301, 400, 401, 403, 404, 408, 413, 500, 501] {
            assert_eq!(again(status), Again::Never, "{status}");
        }
    }

    #[test]
    fn a_pause_is_a_number_or_a_date() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        assert_eq!(retry_after("120", now), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Sun, 09 Sep 2001 01:46:45 GMT", now), Some(Duration::from_secs(5)));
        assert_eq!(retry_after("Sun, 09 Sep 2001 01:46:35 GMT", now), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", now), None);
    }

    #[test]
    fn a_failure_tells_the_destinations_words() {
        let told = |kind: &'static str, body: &[u8]| {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
            failure(StatusCode::UNAUTHORIZED, &headers, body, SystemTime::now()).message
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
