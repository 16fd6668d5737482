//! Where a push reader's data goes: OTLP over gRPC, OTLP over HTTP, or standard output.

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_http::{Bytes, HttpClient, HttpError};
use opentelemetry_otlp::tonic_types::metadata::MetadataMap;
use opentelemetry_otlp::tonic_types::transport::{Certificate, ClientTlsConfig, Identity};
use opentelemetry_otlp::{
    Compression as OtlpCompression, MetricExporter, Protocol, WithExportConfig, WithHttpConfig,
    WithTonicConfig,
};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;

use crate::config::{self, Compression, Exporter, Otlp, Tls};
use crate::readers::ReaderError;

/// Where exports go.
pub(super) struct Target {
    /// As it is logged and counted.
    pub(super) name: String,
    exporter: TargetExporter,
}

enum TargetExporter {
    Otlp(Box<MetricExporter>),
    Console(opentelemetry_stdout::MetricExporter),
}

impl Target {
    pub(super) fn new(exporter: &Exporter) -> Result<Self, ReaderError> {
        Ok(match exporter {
            Exporter::OtlpGrpc(otlp) => Self {
                name: public_url(&otlp.endpoint),
                exporter: TargetExporter::Otlp(Box::new(grpc_exporter(otlp)?)),
            },
            Exporter::OtlpHttp(otlp) => Self {
                name: public_url(&otlp.endpoint),
                exporter: TargetExporter::Otlp(Box::new(http_exporter(otlp)?)),
            },
            Exporter::Console { temporality } => Self {
                name: "console".into(),
                exporter: TargetExporter::Console(
                    opentelemetry_stdout::MetricExporter::builder()
                        .with_temporality(to_temporality(*temporality))
                        .build(),
                ),
            },
        })
    }

    pub(super) fn temporality(&self) -> Temporality {
        match &self.exporter {
            TargetExporter::Otlp(exporter) => exporter.temporality(),
            TargetExporter::Console(exporter) => exporter.temporality(),
        }
    }

    pub(super) async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        match &self.exporter {
            TargetExporter::Otlp(exporter) => exporter.export(metrics).await,
            TargetExporter::Console(exporter) => exporter.export(metrics).await,
        }
    }
}

fn to_temporality(temporality: config::Temporality) -> Temporality {
    match temporality {
        config::Temporality::Cumulative => Temporality::Cumulative,
        config::Temporality::Delta => Temporality::Delta,
        config::Temporality::LowMemory => Temporality::LowMemory,
    }
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

fn grpc_exporter(otlp: &Otlp) -> Result<MetricExporter, ReaderError> {
    let headers = headers(otlp)?;
    let mut builder = MetricExporter::builder()
        .with_tonic()
        .with_temporality(to_temporality(otlp.temporality))
        .with_endpoint(otlp.endpoint.as_str())
        .with_timeout(otlp.timeout)
        // The exporter adds headers of `OTEL_EXPORTER_OTLP_HEADERS` to its own, whoever configured it. What of
        // the environment counts is in the configuration, so these are all there are.
        .with_interceptor(move |mut request: tonic::Request<()>| {
            *request.metadata_mut() = MetadataMap::from_headers(headers.clone());
            Ok(request)
        });
    if otlp.compression == Compression::Gzip {
        builder = builder.with_compression(OtlpCompression::Gzip);
    }
    if otlp.endpoint.scheme() == "https" {
        builder = builder.with_tls_config(grpc_tls(&otlp.tls)?);
    }
    builder.build().map_err(|error| wrong(otlp, &error))
}

/// The system's authorities have to be asked for: without them and without a file, nobody would be trusted.
fn grpc_tls(tls: &Tls) -> Result<ClientTlsConfig, ReaderError> {
    let read = |path: &std::path::Path| {
        std::fs::read(path).map_err(|error| ReaderError::new(format!("{}: {error}", path.display())))
    };
    // tonic reports what is wrong with a certificate when it connects; this says it at once, with the file.
    crate::tls::client_config(tls).map_err(|error| ReaderError::new(error.to_string()))?;
    let mut config = ClientTlsConfig::new();
    config = match &tls.ca_file {
        Some(path) => config.ca_certificate(Certificate::from_pem(read(path)?)),
        None => config.with_enabled_roots(),
    };
    if let (Some(cert), Some(key)) = (&tls.cert_file, &tls.key_file) {
        config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    Ok(config)
}

fn http_exporter(otlp: &Otlp) -> Result<MetricExporter, ReaderError> {
    let mut builder = MetricExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_temporality(to_temporality(otlp.temporality))
        .with_endpoint(otlp.endpoint.as_str())
        .with_timeout(otlp.timeout)
        .with_http_client(Client {
            inner: HyperClient::new(connector(&otlp.tls)?, otlp.timeout, None),
            headers: headers(otlp)?,
        });
    if otlp.compression == Compression::Gzip {
        builder = builder.with_compression(OtlpCompression::Gzip);
    }
    builder.build().map_err(|error| wrong(otlp, &error))
}

fn connector(tls: &Tls) -> Result<HttpsConnector<HttpConnector>, ReaderError> {
    let config = crate::tls::client_config(tls).map_err(|error| ReaderError::new(error.to_string()))?;
    Ok(HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1().build())
}

/// Sends requests with the configured headers and no others of the environment's.
#[derive(Debug)]
struct Client {
    inner: HyperClient<HttpsConnector<HttpConnector>>,
    headers: HeaderMap,
}

#[async_trait::async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, mut request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let mut headers = HeaderMap::new();
        for name in [http::header::CONTENT_TYPE, http::header::CONTENT_ENCODING, http::header::USER_AGENT] {
            if let Some(value) = request.headers_mut().remove(&name) {
                headers.insert(name, value);
            }
        }
        headers.extend(self.headers.clone());
        *request.headers_mut() = headers;
        self.inner.send_bytes(request).await
    }
}

fn headers(otlp: &Otlp) -> Result<HeaderMap, ReaderError> {
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

fn wrong(otlp: &Otlp, error: &dyn std::fmt::Display) -> ReaderError {
    ReaderError::new(format!("{}: {error}", public_url(&otlp.endpoint)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_a_url_are_not_shown() {
        let url = url::Url::parse("https://me:secret@collector:4318/v1/metrics?token=secret").unwrap();
        assert_eq!(public_url(&url), "https://collector:4318/v1/metrics");
    }
}
