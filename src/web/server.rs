//! Connections: accepted, encrypted where that is asked for, bounded in number and time, and let finish at the end.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Security;

/// What a client may take of the server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a request's line and headers, and between the requests of a connection; before them for the TLS handshake.
    pub header: Duration,
    /// Without a byte taken by a client that is being answered.
    pub write: Duration,
    /// Connections at once. Beyond that, new ones wait to be accepted.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { header: Duration::from_secs(30), write: Duration::from_secs(30), connections: 512 }
    }
}

/// After an accept has failed, for want of file descriptors perhaps.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    address: String,
    error: io::Error,
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot listen on {}: {}", self.address, self.error)?;
        match self.error.kind() {
            io::ErrorKind::AddrInUse => write!(
                f,
                "\nhint: another program listens there; choose another port, for example \
                 --web.listen-address=:8081"
            ),
            io::ErrorKind::PermissionDenied => {
                write!(f, "\nhint: ports below 1024 need a privilege; choose a higher one")
            }
            io::ErrorKind::AddrNotAvailable => {
                write!(f, "\nhint: this host does not have that address; 0.0.0.0 stands for all that it has")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// Listens on an address: an empty host stands for every address, of both families where the host has them.
pub async fn bind(host: &str, port: u16) -> Result<TcpListener, BindError> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let bound = if bare.is_empty() {
        match TcpListener::bind(SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)).await {
            // A host without IPv6 refuses the address, or even the family.
            Err(error) if error.kind() != io::ErrorKind::AddrInUse => {
                TcpListener::bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)).await
            }
            bound => bound,
        }
    } else {
        TcpListener::bind((bare, port)).await
    };
    let address = if bare.contains(':') { format!("[{bare}]:{port}") } else { format!("{bare}:{port}") };
    bound.map_err(|error| BindError { address, error })
}

/// What answers requests, which can change while they come.
pub struct Routes(RwLock<Router>);

impl Routes {
    /// Requests are answered by `router`.
    pub fn new(router: Router) -> Self {
        Self(RwLock::new(router))
    }

    /// From the next request on they are answered by `router`, on connections that are open too.
    pub fn replace(&self, router: Router) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = router;
    }

    fn current(&self) -> Router {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Serves until it is told to stop, then lets connections finish for as long as `drain` lasts.
pub async fn serve(
    listener: TcpListener,
    routes: Arc<Routes>,
    security: Option<Arc<Security>>,
    limits: Limits,
    shutdown: CancellationToken,
    drain: Duration,
) {
    // Whether there is TLS does not change while the server runs.
    let encrypted = security.filter(|security| security.is_encrypted());
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(limits.header);
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(limits.connections));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &room, limits.write) => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let routes = Arc::clone(&routes);
        let service = service_fn(move |request| TowerToHyperService::new(routes.current()).call(request));
        let (server, watcher) = (server.clone(), graceful.watcher());
        let (encrypted, shutdown) = (encrypted.clone(), shutdown.clone());
        tokio::spawn(async move {
            let ended = match encrypted {
                None => watcher.watch(server.serve_connection(TokioIo::new(stream), service)).await,
                Some(security) => {
                    let accepted = tokio::select! {
                        // Nothing has been asked yet, so nothing is left unanswered.
                        () = shutdown.cancelled() => return,
                        accepted = timeout(limits.header, handshake(&security, stream)) => accepted,
                    };
                    match accepted {
                        Ok(Ok(stream)) => {
                            watcher.watch(server.serve_connection(TokioIo::new(stream), service)).await
                        }
                        Ok(Err(error)) => return debug!(%error, "a TLS handshake failed"),
                        Err(_) => return debug!("a TLS handshake took too long"),
                    }
                }
            };
            if let Err(error) = ended {
                debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    }
    drop(listener);
    if timeout(drain, graceful.shutdown()).await.is_err() {
        warn!("gave up on requests that were still being answered");
    }
}

type Stream = Pin<Box<TimeoutStream<TcpStream>>>;

async fn handshake(security: &Arc<Security>, stream: Stream) -> io::Result<TlsStream<Stream>> {
    let current = security.current().await;
    let Some(config) = &current.tls else { return Err(io::Error::other("TLS has been given up")) };
    TlsAcceptor::from(Arc::clone(config)).accept(stream).await
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
    write_timeout: Duration,
) -> io::Result<(Stream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(write_timeout));
    Ok((Box::pin(stream), permit))
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::*;

    const SHORT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(10);

    async fn start(limits: Limits) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        start_with(limits, None).await
    }

    async fn start_with(
        limits: Limits,
        security: Option<Arc<Security>>,
    ) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let listener = bind("127.0.0.1", 0).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/slow", get(|| async { tokio::time::sleep(SHORT).await }))
            .route("/endless", get(|| async { vec![0; 64 * 1024 * 1024] }));
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(serve(
            listener,
            Arc::new(Routes::new(router)),
            security,
            limits,
            shutdown.clone(),
            LONG,
        ));
        (address, shutdown, served)
    }

    /// Everything that the server still says until it closes the connection.
    async fn until_closed(stream: &mut TcpStream) -> Vec<u8> {
        let mut said = Vec::new();
        let _ = timeout(LONG, stream.read_to_end(&mut said)).await.expect("the connection stays open");
        said
    }

    #[tokio::test]
    async fn a_request_that_never_ends_is_given_up() {
        let (address, ..) = start(Limits { header: SHORT, ..Limits::default() }).await;
        for begun in ["", "GET / HT", "GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(begun.as_bytes()).await.unwrap();
            let began = Instant::now();
            until_closed(&mut stream).await;
            assert!(began.elapsed() >= SHORT / 2, "{begun:?}");
        }
    }

    /// A server with TLS, whose certificate nobody trusts.
    async fn start_encrypted(limits: Limits) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate =
            rcgen::CertificateParams::new(["localhost".into()]).unwrap().self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web.yaml");
        let tls = serde_json::json!({"cert": certificate.pem(), "key": key.serialize_pem()});
        // JSON is YAML too.
        std::fs::write(&path, serde_json::json!({"tls_server_config": tls}).to_string()).unwrap();
        start_with(limits, Some(Arc::new(Security::new(&path).unwrap()))).await
    }

    #[tokio::test]
    async fn a_handshake_that_never_ends_is_given_up() {
        let limits = Limits { header: SHORT, connections: 1, ..Limits::default() };
        let (address, ..) = start_encrypted(limits).await;
        // Of the second the length of its record says that more is to come. There is room for one at a time, so a
        // handshake that stayed would keep out the next.
        for begun in [&b""[..], b"\x16\x03\x01\x02\x00\x01", b""] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(begun).await.unwrap();
            until_closed(&mut stream).await;
        }
    }

    #[tokio::test]
    async fn a_handshake_is_not_waited_for_at_the_end() {
        let (address, shutdown, served) = start_encrypted(Limits::default()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        tokio::time::sleep(SHORT / 4).await;
        shutdown.cancel();
        until_closed(&mut stream).await;
        served.await.unwrap();
    }

    #[tokio::test]
    async fn what_is_no_tls_is_not_answered() {
        let (address, ..) = start_encrypted(Limits::default()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let said = until_closed(&mut stream).await;
        assert!(!said.starts_with(b"HTTP"), "{}", String::from_utf8_lossy(&said));
    }

    #[tokio::test]
    async fn a_connection_that_is_idle_after_an_answer_is_closed() {
        let (address, ..) = start(Limits { header: SHORT, ..Limits::default() }).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let said = until_closed(&mut stream).await;
        assert!(said.ends_with(b"hello"), "{}", String::from_utf8_lossy(&said));
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_is_given_up() {
        let (address, shutdown, served) = start(Limits { write: SHORT, ..Limits::default() }).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        stream.readable().await.unwrap();
        shutdown.cancel();
        let began = Instant::now();
        served.await.unwrap();
        assert!(began.elapsed() < LONG / 2, "the drain waited for a client that does not read");
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_wait_for_their_turn() {
        let (address, ..) = start(Limits { connections: 1, header: SHORT, ..Limits::default() }).await;
        let _first = TcpStream::connect(address).await.unwrap();
        let mut second = TcpStream::connect(address).await.unwrap();
        second.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(until_closed(&mut second).await.ends_with(b"hello"));
    }

    #[tokio::test]
    async fn what_is_being_answered_at_the_end_is_answered() {
        let (address, shutdown, served) = start(Limits::default()).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        tokio::time::sleep(SHORT / 4).await;
        shutdown.cancel();
        assert!(until_closed(&mut stream).await.starts_with(b"HTTP/1.1 200"));
        served.await.unwrap();
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_told_with_a_remedy() {
        let taken = bind("127.0.0.1", 0).await.unwrap();
        let port = taken.local_addr().unwrap().port();
        let error = bind("127.0.0.1", port).await.unwrap_err().to_string();
        assert!(error.starts_with(&format!("cannot listen on 127.0.0.1:{port}: ")), "{error}");
        assert!(error.contains("\nhint: "), "{error}");
        assert!(
            bind("", 0).await.is_ok() && bind("localhost", 0).await.is_ok() && bind("[::1]", 0).await.is_ok()
        );
    }
}
