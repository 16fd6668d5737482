//! OTLP over gRPC.

use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::HeaderValue;
use http::uri::PathAndQuery;
use http_body_util::StreamBody;
use hyper::body::Frame;
use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceResponse;
use prost::Message;
use tokio_util::sync::DropGuard;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, CompressionEncoding, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::metadata::MetadataMap;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

use super::retry::{Again, Answer, Failure, Limits, within};
use super::target::{USER_AGENT, headers};
use super::tasks::Tasks;
use crate::config::{Compression, Otlp, Tls};
use crate::readers::ReaderError;

const METHOD: PathAndQuery =
    PathAndQuery::from_static("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export");

/// An OTLP receiver that is spoken to over gRPC.
pub(super) struct GrpcTarget {
    endpoint: Endpoint,
    /// Not here while a request is under way. One that is given up leaves none: its connection may be to a peer
    /// that is no longer there, which TCP alone finds out after a quarter of an hour.
    connection: Option<(Channel, DropGuard)>,
    metadata: MetadataMap,
    compression: Compression,
    timeout: Duration,
}

impl GrpcTarget {
    pub(super) fn new(otlp: &Otlp) -> Result<Self, ReaderError> {
        let wrong = |error: tonic::transport::Error| ReaderError::new(Failure::on_the_way(&error).message);
        let mut endpoint = Endpoint::from_shared(otlp.endpoint.to_string())
            .and_then(|endpoint| endpoint.user_agent(USER_AGENT))
            .map_err(wrong)?;
        if otlp.endpoint.scheme() == "https" {
            endpoint = endpoint.tls_config(tls_config(&otlp.tls)?).map_err(wrong)?;
        }
        Ok(Self {
            endpoint,
            connection: None,
            metadata: MetadataMap::from_headers(headers(otlp)?),
            compression: otlp.compression,
            timeout: otlp.timeout,
        })
    }

    pub(super) async fn send(&mut self, message: Bytes, attempts: Duration) -> Result<Answer, Failure> {
        let limits = Limits { all: self.timeout, attempts };
        let connection = self.connection.take().unwrap_or_else(|| self.connect());
        let is_compressed = self.compression == Compression::Gzip;
        let channel = Channeled { channel: connection.0.clone(), message, is_compressed };
        let mut client = Grpc::new(channel);
        if is_compressed {
            client = client.accept_compressed(CompressionEncoding::Gzip);
        }
        let result = within(limits, || export(client.clone(), self.metadata.clone())).await;
        if !matches!(result, Err(Failure { again: Again::NextTime, .. })) {
            self.connection = Some(connection);
        }
        result
    }

    fn connect(&self) -> (Channel, DropGuard) {
        let (tasks, guard) = Tasks::new();
        (self.endpoint.clone().executor(tasks).connect_lazy(), guard)
    }
}

async fn export(mut client: Grpc<Channeled>, metadata: MetadataMap) -> Result<Answer, Failure> {
    client.ready().await.map_err(|error| Failure::on_the_way(&error))?;
    let mut request = Request::new(());
    *request.metadata_mut() = metadata;
    match client.unary(request, METHOD, Answers).await {
        Ok(response) => Ok(response.into_inner().into()),
        Err(status) => Err(failure(&status)),
    }
}

fn failure(status: &Status) -> Failure {
    // A status that has a cause was made here, out of what happened to the connection.
    if let Some(cause) = std::error::Error::source(status) {
        return Failure::on_the_way(cause);
    }
    let asked = status.get_details_retry_info().and_then(|info| info.retry_delay);
    let again = match (status.code(), asked) {
        (Code::Unavailable | Code::ResourceExhausted, Some(delay)) => Again::After(delay),
        // Without a time to come back, what is exhausted will not recover by waiting: the message is too large,
        // for example.
        (Code::ResourceExhausted, None) => Again::Never,
        (
            Code::Cancelled
            | Code::DeadlineExceeded
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unavailable
            | Code::DataLoss,
            _,
        ) => Again::Later,
        _ => Again::Never,
    };
    Failure::new(format!("{:?}: {}", status.code(), status.message()), again)
}

/// The system's authorities have to be asked for: without them and without a file, nobody would be trusted.
fn tls_config(tls: &Tls) -> Result<ClientTlsConfig, ReaderError> {
    let read = |path: &std::path::Path| {
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

/// A channel that sends its message as it is, in the place of what tonic writes. tonic would copy it into a buffer
/// that grows, and compress it at one level only, both once more for each attempt.
#[derive(Clone)]
struct Channeled {
    channel: Channel,
    message: Bytes,
    is_compressed: bool,
}

impl tower::Service<http::Request<Body>> for Channeled {
    type Response = http::Response<Body>;
    type Error = tonic::transport::Error;
    type Future = <Channel as tower::Service<http::Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if self.is_compressed {
            request.headers_mut().insert("grpc-encoding", HeaderValue::from_static("gzip"));
        }
        let prefix = prefix(self.message.len(), self.is_compressed);
        let frames = [prefix, self.message.clone()].map(|bytes| Ok::<_, Status>(Frame::data(bytes)));
        self.channel.call(request.map(|_| Body::new(StreamBody::new(stream::iter(frames)))))
    }
}

/// What a message begins with: whether it is compressed, and its length.
fn prefix(length: usize, is_compressed: bool) -> Bytes {
    let mut prefix = BytesMut::with_capacity(5);
    prefix.put_u8(u8::from(is_compressed));
    // Requests are split long before the format's limit.
    prefix.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    prefix.freeze()
}

/// Reads the answers. Nothing is written by it: `Channeled` has the message.
struct Answers;

impl Codec for Answers {
    type Encode = ();
    type Decode = ExportMetricsServiceResponse;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Answers {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), _buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for Answers {
    type Item = ExportMetricsServiceResponse;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        Message::decode(buffer).map(Some).map_err(|error| Status::internal(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn what_may_be_sent_again_is_as_the_specification_says() {
        let again = |code| failure(&Status::new(code, "why")).again;
        for code in [
            Code::Cancelled,
            Code::DeadlineExceeded,
            Code::Aborted,
            Code::OutOfRange,
            Code::Unavailable,
            Code::DataLoss,
        ] {
            assert_eq!(again(code), Again::Later, "{code:?}");
        }
        for code in [
            Code::Unknown,
            Code::InvalidArgument,
            Code::NotFound,
            Code::AlreadyExists,
            Code::PermissionDenied,
            Code::Unauthenticated,
            Code::FailedPrecondition,
            Code::Unimplemented,
            Code::Internal,
            Code::ResourceExhausted,
        ] {
            assert_eq!(again(code), Again::Never, "{code:?}");
        }
        let delay = Duration::from_secs(3);
        for code in [Code::Unavailable, Code::ResourceExhausted] {
            let details = ErrorDetails::with_retry_info(Some(delay));
            let status = Status::with_error_details(code, "why", details);
            let expected = Failure::new(format!("{code:?}: why"), Again::After(delay));
            assert_eq!(failure(&status), expected);
        }
    }
}
