//! Connections to the daemon, and the guard that restricts the requests.
//!
//! Access to the daemon's socket is as good as root on its host, and mounting it read-only protects nothing. So every
//! request passes one check, which allows only the five calls that this program needs.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, SystemTime};

use bollard::BollardRequest;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri, header};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::bounds;
use super::ssh::SshStream;
use super::values::is_id_or_name;
use crate::config;
use crate::tls::TlsError;

/// Where the daemon is.
#[derive(Clone)]
enum Endpoint {
    Unix(PathBuf),
    Tcp { address: String },
    Tls { address: String, name: ServerName<'static>, connector: TlsConnector },
    Ssh { destination: String },
}

/// Why the configured daemon address cannot be used.
#[derive(Debug)]
pub enum EndpointError {
    /// `docker.host` is not an address.
    Host {
        /// The configured value.
        host: String,
        /// What to write instead.
        hint: &'static str,
    },
    /// A certificate or key cannot be used.
    Tls(TlsError),
    /// The client library rejects its settings.
    Client(String),
}

impl std::fmt::Display for EndpointError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Host { host, hint } => {
                write!(f, "docker.host: not a daemon's address: {host}\nhint: {hint}")
            }
            Self::Tls(error) => write!(f, "docker.tls: {error}"),
            Self::Client(message) => write!(f, "docker: {message}"),
        }
    }
}

impl std::error::Error for EndpointError {}

/// A pool of connections to one daemon; cheap to clone.
#[derive(Clone)]
pub(super) struct Transport {
    client: Client<Connector, Empty<Bytes>>,
    /// For bollard, which reads answers of any length.
    bounded: Client<Connector, Empty<Bytes>>,
    /// The time in the last answer's `Date` header.
    dated: Arc<Mutex<Option<SystemTime>>>,
    authority: Arc<str>,
}

impl Transport {
    /// Checks the address and the certificates; connections are made when they are needed.
    pub(super) fn new(config: &config::Docker) -> Result<Self, EndpointError> {
        let endpoint = Arc::new(Endpoint::parse(config)?);
        let authority = match &*endpoint {
            Endpoint::Unix(_) | Endpoint::Ssh { .. } => "docker".into(),
            Endpoint::Tcp { address } | Endpoint::Tls { address, .. } => address.as_str().into(),
        };
        let client = |longest_answer| {
            Client::builder(TokioExecutor::new())
                .pool_timer(TokioTimer::new())
                .pool_idle_timeout(Duration::from_secs(30))
                .pool_max_idle_per_host(config.inspect_concurrency)
                .build(Connector { endpoint: Arc::clone(&endpoint), longest_answer })
        };
        let (client, bounded) = (client(None), client(Some(bounds::SMALL_ANSWER)));
        Ok(Self { client, bounded, dated: Arc::default(), authority })
    }

    /// The time in the `Date` header of the last answer: the daemon's clock, in whole seconds.
    pub(super) fn dated(&self) -> Option<SystemTime> {
        *self.dated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a GET request, if it is one of the five calls.
    pub(super) async fn get(&self, path_and_query: &str) -> io::Result<Response<Incoming>> {
        self.get_by(&self.client, path_and_query).await
    }

    async fn get_by(
        &self,
        client: &Client<Connector, Empty<Bytes>>,
        path_and_query: &str,
    ) -> io::Result<Response<Incoming>> {
        let (path, _) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
        if !is_allowed(path) {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("GET {path} is none of the calls that this program may make"),
            ));
        }
        let uri = Uri::builder()
            .scheme("http")
            .authority(&*self.authority)
            .path_and_query(path_and_query)
            .build()
            .map_err(io::Error::other)?;
        let request = Request::get(uri).body(Empty::new()).map_err(io::Error::other)?;
        let answer = match client.request(request.clone()).await {
            Err(error) if error.is_connect() => Err(root_cause(&error)),
            Err(error) => match root_cause(&error) {
                error if error.kind() == io::ErrorKind::NotConnected => Err(error),
                // A daemon may close an idle connection just when it is used again: Podman does after some seconds. All
                // calls are read-only, so a retry is safe.
                _ => client.request(request).await.map_err(|error| root_cause(&error)),
            },
            Ok(answer) => Ok(answer),
        }?;
        *self.dated.lock().unwrap_or_else(PoisonError::into_inner) = date(answer.headers());
        Ok(answer)
    }

    /// Sends a request of bollard's, through the same guard.
    pub(super) async fn forward(
        self,
        request: BollardRequest,
    ) -> Result<Response<Incoming>, bollard::errors::Error> {
        if request.method() != Method::GET {
            let refused = format!("{} is not a method that this program may use", request.method());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, refused).into());
        }
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        Ok(self.get_by(&self.bounded, target).await?)
    }
}

/// The `Date` header of an answer.
fn date(headers: &HeaderMap) -> Option<SystemTime> {
    let date = headers.get(header::DATE)?.to_str().ok()?;
    Some(jiff::fmt::rfc2822::parse(date).ok()?.timestamp().into())
}

/// Whether `path` is one of the five calls, with or without an API version prefix.
fn is_allowed(path: &str) -> bool {
    let mut segments = path.split('/').skip(1).peekable();
    if segments.peek().is_some_and(|first| {
        first.strip_prefix('v').is_some_and(|v| v.bytes().all(|b| b.is_ascii_digit() || b == b'.'))
    }) {
        segments.next();
    }
    let segments: Vec<&str> = segments.collect();
    match segments.as_slice() {
        ["_ping" | "version" | "events"] | ["containers", "json"] => true,
        // Only an id or a name that no server or proxy could interpret as another path.
        ["containers", id, "json"] => is_id_or_name(id),
        _ => false,
    }
}

/// hyper's message only says that a connection failed. The cause that a user needs is inside: the socket does not
/// exist, or permission is denied.
fn root_cause(error: &hyper_util::client::legacy::Error) -> io::Error {
    let mut cause: &(dyn std::error::Error + 'static) = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    match cause.downcast_ref::<io::Error>() {
        Some(error) => io::Error::new(error.kind(), error.to_string()),
        None => io::Error::other(cause.to_string()),
    }
}

impl Endpoint {
    fn parse(config: &config::Docker) -> Result<Self, EndpointError> {
        let host = config.host.as_str();
        let wrong = |hint| EndpointError::Host { host: host.to_owned(), hint };
        let (scheme, rest) = host.split_once("://").ok_or_else(|| {
            wrong(
                "begin with unix://, tcp://, http://, https:// or ssh://, as in unix:///var/run/docker.sock",
            )
        })?;
        match scheme {
            "unix" if rest.is_empty() => Err(wrong("name the socket, as in unix:///var/run/docker.sock")),
            "unix" => Ok(Self::Unix(rest.into())),
            "tcp" | "http" | "https" => {
                let tls = match (&config.tls, scheme) {
                    (Some(tls), _) => Some(tls.clone()),
                    (None, "https") => Some(config::Tls::default()),
                    (None, _) => None,
                };
                // Docker's conventional ports.
                let default_port = if tls.is_some() { 2376 } else { 2375 };
                let url = url::Url::parse(&format!("tcp://{rest}"))
                    .map_err(|_| wrong("give a host and a port, as in tcp://127.0.0.1:2375"))?;
                let name = url
                    .host_str()
                    .filter(|name| !name.is_empty())
                    .ok_or_else(|| wrong("give a host and a port, as in tcp://127.0.0.1:2375"))?;
                let address = format!("{name}:{}", url.port().unwrap_or(default_port));
                let Some(tls) = tls else { return Ok(Self::Tcp { address }) };
                let client = crate::tls::client_config(&tls).map_err(EndpointError::Tls)?;
                let bare = name.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(bare)
                    .map_err(|_| wrong("give a host name or an IP address that a certificate can name"))?;
                Ok(Self::Tls { address, name, connector: TlsConnector::from(Arc::new(client)) })
            }
            "ssh" if rest.is_empty() => Err(wrong("name the host, as in ssh://user@host")),
            "ssh" => Ok(Self::Ssh { destination: host.to_owned() }),
            _ => Err(wrong("use unix://, tcp://, http://, https:// or ssh://")),
        }
    }

    async fn connect(&self) -> io::Result<Box<dyn Duplex>> {
        match self {
            Self::Unix(path) => match UnixStream::connect(path).await {
                Ok(stream) => Ok(Box::new(stream)),
                Err(error) => Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
            },
            Self::Tcp { address } => Ok(Box::new(tcp(address).await?)),
            Self::Tls { address, name, connector } => {
                let stream = connector.connect(name.clone(), tcp(address).await?).await;
                Ok(Box::new(
                    stream
                        .map_err(|error| io::Error::new(error.kind(), format!("{address}: TLS: {error}")))?,
                ))
            }
            Self::Ssh { destination } => Ok(Box::new(SshStream::connect(destination)?)),
        }
    }
}

async fn tcp(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

#[derive(Clone)]
struct Connector {
    endpoint: Arc<Endpoint>,
    longest_answer: Option<usize>,
}

impl tower::Service<Uri> for Connector {
    type Response = DaemonStream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<DaemonStream>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// There is one daemon, whatever the URI says.
    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { endpoint, longest_answer } = self.clone();
        Box::pin(async move {
            let stream = endpoint.connect().await?;
            let stream = match longest_answer {
                Some(longest) => Box::new(BoundedAnswers { stream, longest, read: 0 }),
                None => stream,
            };
            Ok(DaemonStream(TokioIo::new(stream)))
        })
    }
}

/// A connection that fails if an answer exceeds the limit.
struct BoundedAnswers {
    stream: Box<dyn Duplex>,
    longest: usize,
    /// Bytes since the last request.
    read: usize,
}

impl AsyncRead for BoundedAnswers {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        self.read = self.read.saturating_add(buffer.filled().len().saturating_sub(before));
        if self.read > self.longest {
            let long = format!("the answer is longer than {} bytes", self.longest);
            return Poll::Ready(Err(io::Error::other(long)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for BoundedAnswers {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.read = 0;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Adapts any connection to hyper's traits.
struct DaemonStream(TokioIo<Box<dyn Duplex>>);

impl Connection for DaemonStream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for DaemonStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for DaemonStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_bears_the_daemons_time() {
        let date = |text: &'static str| {
            date(&HeaderMap::from_iter([(header::DATE, http::HeaderValue::from_static(text))]))
        };
        let time = std::time::UNIX_EPOCH + Duration::from_secs(784_111_777);
        assert_eq!(date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(time));
        assert_eq!(date("yesterday"), None);
    }

    #[test]
    fn the_five_calls_pass_and_nothing_else() {
        for path in [
            "/_ping",
            "/version",
            "/v1.41/version",
            "/v1.41/events",
            "/v1.53/containers/json",
            "/v1.41/containers/0123abc/json",
            "/containers/0123abc/json",
            "/containers/my_web-1.x/json",
        ] {
            assert!(is_allowed(path), "{path}");
        }
        for path in [
            "",
            "/",
            "/info",
            "/v1.41",
            "/v1.41/containers/0123abc/export",
            "/v1.41/containers/0123abc/json/x",
            "/v1.41/containers//json",
            "/v1.41/containers/..%2f/json",
            "/v1.41/containers/../json",
            "/v1.41/containers/./json",
            "/v1.41/containers/x%2fy/json",
            "/v1.41/containers/-x/json",
            "/v1.41/v1.41/events",
            "/x/v1.41/events",
            "/images/json",
        ] {
            assert!(!is_allowed(path), "{path}");
        }
    }

    fn parse(host: &str, tls: Option<config::Tls>) -> Result<Endpoint, EndpointError> {
        Endpoint::parse(&config::Docker { host: host.into(), tls, ..Default::default() })
    }

    #[test]
    fn the_daemons_address_is_read_as_docker_reads_it() {
        assert!(matches!(parse("unix:///run/x.sock", None), Ok(Endpoint::Unix(p)) if p == *"/run/x.sock"));
        let tcp = [
            ("tcp://host", "host:2375"),
            ("http://host:80/", "host:80"),
            ("tcp://127.0.0.1:1234", "127.0.0.1:1234"),
            ("tcp://[::1]:1", "[::1]:1"),
        ];
        for (host, expected) in tcp {
            assert!(
                matches!(parse(host, None), Ok(Endpoint::Tcp { address }) if address == expected),
                "{host}"
            );
        }
        let tls = Some(config::Tls::default());
        assert!(
            matches!(parse("tcp://host", tls), Ok(Endpoint::Tls { address, .. }) if address == "host:2376")
        );
        assert!(
            matches!(parse("https://[::1]:1", None), Ok(Endpoint::Tls { address, .. }) if address == "[::1]:1")
        );
        assert!(
            matches!(parse("ssh://me@host:22", None), Ok(Endpoint::Ssh { destination }) if destination == "ssh://me@host:22")
        );
    }

    #[tokio::test]
    async fn a_connection_that_is_closed_as_it_is_used_again_costs_no_call() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("socket");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        let server = tokio::spawn(async move {
            let mut requests = 0;
            for keep_open in [true, false] {
                let (mut connection, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 4096];
                while tokio::io::AsyncReadExt::read(&mut connection, &mut buffer).await.unwrap() > 0 {
                    requests += 1;
                    // The second request on the first connection has no answer.
                    if keep_open && requests == 2 {
                        break;
                    }
                    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nOK";
                    tokio::io::AsyncWriteExt::write_all(&mut connection, answer).await.unwrap();
                    if !keep_open {
                        break;
                    }
                }
            }
            requests
        });
        let host = format!("unix://{}", socket.display());
        let transport = Transport::new(&config::Docker { host, ..Default::default() }).unwrap();
        for _ in 0..2 {
            let answer = transport.get("/_ping").await.unwrap();
            http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
        }
        assert_eq!(server.await.unwrap(), 3);
        let error = transport.get("/_ping").await.unwrap_err();
        assert!(error.to_string().contains("refused"), "{error}");
    }

    #[test]
    fn a_wrong_address_is_told_with_what_would_be_right() {
        for host in ["/var/run/docker.sock", "unix://", "ssh://", "tcp://", "ftp://host", ""] {
            let Err(error) = parse(host, None) else { panic!("{host} was taken") };
            let message = error.to_string();
            assert!(message.contains(&format!(": {host}\nhint: ")), "{message}");
        }
    }
}
