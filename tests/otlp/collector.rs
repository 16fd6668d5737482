//! A Collector that is played: it takes OTLP over gRPC and over HTTP on one port, records every request, and
//! answers as it is told.

use std::collections::{BTreeMap, VecDeque};
use std::io::Read;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, Response, StatusCode};
use axum::routing::post;
use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use prost::Message;
use rustls::ServerConfig;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tonic::codec::CompressionEncoding;
use tonic::service::Routes;
use tonic::{Code, Request, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::support::exporter::free_address;

/// How a request is answered.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// All is well.
    Ok,
    /// Some data points are refused.
    Partial(i64, &'static str),
    /// A gRPC status, with the time after which to come back.
    Status(Code, &'static str, Option<Duration>),
    /// An HTTP status, with a header and a body.
    Http(u16, Option<(&'static str, &'static str)>, &'static str),
    /// Not at all.
    Hang,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Export {
    /// Its headers or metadata.
    pub(crate) headers: BTreeMap<String, String>,
    /// Its path.
    pub(crate) grpc: bool,
    /// Whether it was compressed with gzip.
    pub(crate) gzip: bool,
    /// The bytes of the message.
    pub(crate) size: usize,
    /// The message.
    pub(crate) request: ExportMetricsServiceRequest,
    /// Whether it was answered with success.
    pub(crate) taken: bool,
}

#[derive(Default)]
struct Shared {
    exports: Vec<Export>,
    next: VecDeque<Answer>,
    always: Option<Answer>,
    /// Ends the work on the connections that are open.
    freeze: CancellationToken,
}

/// A running Collector. It ends when this is dropped.
pub(crate) struct Collector {
    address: SocketAddr,
    tls: Option<Arc<ServerConfig>>,
    shared: Arc<Mutex<Shared>>,
    running: Option<(Runtime, CancellationToken)>,
}

impl Collector {
    /// Starts one.
    pub(crate) fn start() -> Self {
        Self::with(None)
    }

    /// Starts one that is spoken to with TLS.
    pub(crate) fn start_tls(tls: ServerConfig) -> Self {
        Self::with(Some(tls))
    }

    fn with(tls: Option<ServerConfig>) -> Self {
        let tls = tls.map(|mut tls| {
            tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            Arc::new(tls)
        });
        let mut collector = Self { address: free_address(), tls, shared: Arc::default(), running: None };
        collector.resume();
        collector
    }

    /// Breaks every connection, and refuses new ones.
    pub(crate) fn stop(&mut self) {
        if let Some((runtime, token)) = self.running.take() {
            token.cancel();
            runtime.shutdown_background();
        }
        // What listened is closed by a thread of the runtime.
        crate::support::eventually(Duration::from_secs(5), || {
            std::net::TcpStream::connect(self.address).err().map(|_| ()).ok_or("still listening")
        });
    }

    /// Takes connections again.
    pub(crate) fn resume(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let token = CancellationToken::new();
        let listener = runtime.block_on(TcpListener::bind(self.address)).unwrap();
        let service = TowerToHyperService::new(router(Arc::clone(&self.shared)));
        let tls = self.tls.clone().map(TlsAcceptor::from);
        let (accepting, shared) = (token.clone(), Arc::clone(&self.shared));
        runtime.spawn(async move {
            while let Some(Ok((stream, _))) = accepting.run_until_cancelled(listener.accept()).await {
                let (service, tls, token) = (service.clone(), tls.clone(), accepting.clone());
                let freeze = lock(&shared).freeze.clone();
                tokio::spawn(async move {
                    let mut serving = pin!(serve(stream, tls, service));
                    tokio::select! {
                        () = token.cancelled() => {}
                        () = &mut serving => {}
                        // It stays open.
                        () = freeze.cancelled() => token.cancelled().await,
                    }
                });
            }
        });
        self.running = Some((runtime, token));
    }

    /// Does no more on the connections that are open, and leaves them open, as a peer whose host is gone.
    pub(crate) fn freeze_connections(&self) {
        std::mem::take(&mut lock(&self.shared).freeze).cancel();
    }

    /// The URL for gRPC.
    pub(crate) fn grpc(&self) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://localhost:{}", self.address.port())
    }

    /// The URL for HTTP.
    pub(crate) fn http(&self) -> String {
        format!("{}/v1/metrics", self.grpc())
    }

    /// Answers the next requests so, after those that were told before.
    pub(crate) fn answer_next(&self, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.shared).next.extend(answers);
    }

    /// Answers every request so from now on.
    pub(crate) fn answer_always(&self, answer: Answer) {
        lock(&self.shared).always = Some(answer);
    }

    /// Answers with success from now on.
    pub(crate) fn forget_answers(&self) {
        let mut shared = lock(&self.shared);
        shared.next.clear();
        shared.always = None;
    }

    /// The requests so far.
    pub(crate) fn exports(&self) -> Vec<Export> {
        lock(&self.shared).exports.clone()
    }

    /// How many requests there were so far.
    pub(crate) fn count(&self) -> usize {
        lock(&self.shared).exports.len()
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        if let Some((runtime, token)) = self.running.take() {
            token.cancel();
            runtime.shutdown_background();
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(stream: TcpStream, tls: Option<TlsAcceptor>, service: TowerToHyperService<Router>) {
    let builder = Builder::new(TokioExecutor::new());
    // A client that goes away, or that is refused, is what some tests are about.
    let _ = match tls {
        None => builder.serve_connection(TokioIo::new(stream), service).await,
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => builder.serve_connection(TokioIo::new(stream), service).await,
            Err(_) => Ok(()),
        },
    };
}

fn router(shared: Arc<Mutex<Shared>>) -> Router {
    // tonic refuses messages over 4 MiB, as the Collector does.
    let grpc =
        MetricsServiceServer::new(Service(Arc::clone(&shared))).accept_compressed(CompressionEncoding::Gzip);
    let http = post(take_http).with_state(shared).layer(DefaultBodyLimit::disable());
    Routes::new(grpc).into_axum_router().route("/v1/metrics", http)
}

/// Notes a request, and says how to answer it.
fn take(shared: &Mutex<Shared>, mut export: Export) -> Answer {
    let mut shared = lock(shared);
    let answer = shared.next.pop_front().or_else(|| shared.always.clone()).unwrap_or(Answer::Ok);
    export.taken = matches!(answer, Answer::Ok | Answer::Partial(..));
    shared.exports.push(export);
    answer
}

fn texts(headers: &HeaderMap) -> BTreeMap<String, String> {
    headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
}

fn response(partial: Option<(i64, &str)>) -> ExportMetricsServiceResponse {
    let partial = partial.map(|(rejected_data_points, message)| ExportMetricsPartialSuccess {
        rejected_data_points,
        error_message: message.into(),
    });
    ExportMetricsServiceResponse { partial_success: partial }
}

struct Service(Arc<Mutex<Shared>>);

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<tonic::Response<ExportMetricsServiceResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let headers = texts(&metadata.into_headers());
        let gzip = headers.get("grpc-encoding").is_some_and(|encoding| encoding == "gzip");
        let size = request.encoded_len();
        match take(&self.0, Export { headers, grpc: true, gzip, size, request, taken: false }) {
            Answer::Ok => Ok(tonic::Response::new(response(None))),
            Answer::Partial(rejected, why) => Ok(tonic::Response::new(response(Some((rejected, why))))),
            Answer::Status(code, why, None) => Err(Status::new(code, why)),
            Answer::Status(code, why, delay) => {
                Err(Status::with_error_details(code, why, ErrorDetails::with_retry_info(delay)))
            }
            Answer::Hang => std::future::pending().await,
            Answer::Http(..) => panic!("gRPC has no {:?}", Answer::Http(0, None, "")),
        }
    }
}

async fn take_http(
    State(shared): State<Arc<Mutex<Shared>>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let headers = texts(&headers);
    let gzip = headers.get("content-encoding").is_some_and(|encoding| encoding == "gzip");
    let mut message = Vec::new();
    if gzip {
        flate2::read::GzDecoder::new(&*body).read_to_end(&mut message).unwrap();
    } else {
        message.extend_from_slice(&body);
    }
    let request = ExportMetricsServiceRequest::decode(&*message).unwrap();
    let export = Export { headers, grpc: false, gzip, size: message.len(), request, taken: false };
    let (status, header, body) = match take(&shared, export) {
        Answer::Ok => (200, None, response(None).encode_to_vec()),
        Answer::Partial(rejected, why) => (200, None, response(Some((rejected, why))).encode_to_vec()),
        Answer::Http(status, header, body) => (status, header, body.into()),
        Answer::Hang => std::future::pending().await,
        Answer::Status(..) => panic!("HTTP has no gRPC status"),
    };
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    let kind = if status == 200 { "application/x-protobuf" } else { "text/plain" };
    response.headers_mut().insert("content-type", kind.parse().unwrap());
    if let Some((name, value)) = header {
        response.headers_mut().insert(name, value.parse().unwrap());
    }
    response
}
