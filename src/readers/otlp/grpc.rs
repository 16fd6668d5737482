//! OTLP over gRPC.

use std::path::Path;
use std::time::Duration;

use opentelemetry_otlp::{Compression as OtlpCompression, MetricExporter, WithExportConfig, WithTonicConfig};
use tonic::Request;
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

use super::connection::{Connection, USER_AGENT, causes, headers, retry_policy};
use super::tasks::Tasks;
use crate::config::{Compression, Otlp, Tls};
use crate::readers::ReaderError;

/// An OTLP receiver that is spoken to over gRPC.
pub(super) struct GrpcTransport {
    endpoint: Endpoint,
    metadata: MetadataMap,
    compression: Compression,
}

impl GrpcTransport {
    pub(super) fn new(otlp: &Otlp) -> Result<Self, ReaderError> {
        let wrong = |error: tonic::transport::Error| ReaderError::new(causes(&error));
        let mut endpoint = Endpoint::from_shared(otlp.endpoint.to_string())
            .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
            .map_err(wrong)?;
        if otlp.endpoint.scheme() == "https" {
            endpoint = endpoint.tls_config(tls_config(&otlp.tls)?).map_err(wrong)?;
        }
        Ok(Self {
            endpoint,
            metadata: MetadataMap::from_headers(headers(otlp)?),
            compression: otlp.compression,
        })
    }

    /// Nothing is connected to yet. No attempt begins later than `retry_for` after an export has begun.
    pub(super) fn connect(&self, retry_for: Duration) -> Result<Connection, ReaderError> {
        let (tasks, guard) = Tasks::new();
        let channel = self.endpoint.clone().executor(tasks).connect_lazy();
        let metadata = self.metadata.clone();
        let mut builder = MetricExporter::builder()
            .with_tonic()
            .with_channel(channel)
            // In the place of what the crate has put together of `OTEL_*` variables.
            .with_interceptor(move |mut request: Request<()>| {
                *request.metadata_mut() = metadata.clone();
                Ok(request)
            })
            .with_retry_policy(retry_policy())
            .with_timeout(retry_for);
        // Where it is not said, a variable counts; the configuration sees to it that none says something else.
        if self.compression == Compression::Gzip {
            builder = builder.with_compression(OtlpCompression::Gzip);
        }
        let exporter = builder.build().map_err(|error| ReaderError::new(causes(&error)))?;
        Ok(Connection { exporter, _tasks: Some(guard) })
    }
}

/// The system's authorities have to be asked for: without them and without a file, nobody would be trusted.
fn tls_config(tls: &Tls) -> Result<ClientTlsConfig, ReaderError> {
    let read = |path: &Path| {
        crate::files::read(path).map_err(|error| ReaderError::new(format!("{}: {error}", path.display())))
    };
    // tonic does not name the file that is wrong; this does.
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
