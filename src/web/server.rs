//! Connections: accepted, encrypted where that is asked for, bounded in number and time, and let finish at the end.

use std::convert::Infallible;
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
use tokio::time::timeout;
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Security;
use super::body::Holding;
use super::connections::{Connection, Connections};
use crate::config::shown_address;

/// What clients may take of the server.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a request's line and headers, and between the requests of a connection; before them for the TLS handshake.
    pub header: Duration,
    /// For an answer as a whole, until its last byte is on its way.
    pub answer: Duration,
    /// Without a byte taken by a client that is being answered.
    pub write: Duration,
    /// Connections at once. Beyond that, the one that has been idle for longest is closed for a new one.
    pub connections: usize,
    /// Where none is idle, one that has been answered for so long is closed.
    pub answer_under_pressure: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header: Duration::from_secs(30),
            answer: Duration::from_secs(30),
            write: Duration::from_secs(30),
            connections: 512,
            answer_under_pressure: Duration::from_secs(5),
        }
    }
}

/// A request's line and headers, in bytes. Those of browsers and of Prometheus are a few hundred.
const MAX_HEADER_SIZE: usize = 16 * 1024;

/// What is taken of an answer in advance, in bytes. An answer is over for its limits once the rest of it is taken.
const MAX_UNSENT_SIZE: usize = 64 * 1024;

/// The pause after a failed accept, for example when file descriptors have run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// An address that cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    address: String,
    error: io::Error,
}

impl BindError {
    pub(super) fn new(address: impl Into<String>, error: io::Error) -> Self {
        Self { address: address.into(), error }
    }
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
            io::ErrorKind::NotFound => {
                write!(f, "\nhint: have it started by a .socket unit, or leave --web.systemd-socket out")
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
pub(super) async fn bind(host: &str, port: u16) -> Result<TcpListener, BindError> {
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
    bound.map_err(|error| BindError::new(shown_address(bare, port), error))
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
    server
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header)
        .max_header_size(MAX_HEADER_SIZE)
        .max_buf_size(MAX_UNSENT_SIZE);
    let graceful = GracefulShutdown::new();
    let connections = Arc::new(Connections::new(limits.connections, limits.answer_under_pressure));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &connections, limits.write) => accepted,
        };
        let (stream, connection) = accepted;
        let (routes, activity) = (Arc::clone(&routes), connection.activity());
        let service = service_fn(move |request| {
            let answering = activity.answer();
            let answered = TowerToHyperService::new(routes.current()).call(request);
            async move { Ok::<_, Infallible>(answered.await?.map(|body| Holding::new(body, answering))) }
        });
        let (server, watcher) = (server.clone(), graceful.watcher());
        let (encrypted, shutdown) = (encrypted.clone(), shutdown.clone());
        tokio::spawn(async move {
            let served = async {
                let Some(security) = encrypted else {
                    return watcher
                        .watch(server.serve_connection(TokioIo::new(stream), service))
                        .await
                        .map_err(|error| error.to_string());
                };
                let accepted = tokio::select! {
                    // Nothing has been asked yet, so nothing is left unanswered.
                    () = shutdown.cancelled() => return Ok(()),
                    accepted = timeout(limits.header, handshake(&security, stream)) => accepted,
                };
                match accepted {
                    Ok(Ok(stream)) => watcher
                        .watch(server.serve_connection(TokioIo::new(stream), service))
                        .await
                        .map_err(|error| error.to_string()),
                    Ok(Err(error)) => Err(format!("the TLS handshake failed: {error}")),
                    Err(_) => Err("the TLS handshake took too long".to_owned()),
                }
            };
            let ended = tokio::select! {
                ended = served => ended,
                why = connection.must_close(limits.answer) => Err(why.to_owned()),
            };
            if let Err(why) = ended {
                debug!(why, "a connection ended early");
            }
        });
    }
    drop(listener);
    if timeout(drain, graceful.shutdown()).await.is_err() {
        warn!("gave up on requests that were still being answered");
    }
}

type Stream = Pin<Box<TimeoutStream<TcpStream>>>;

async fn handshake(security: &Arc<Security>, stream: Stream) -> io::Result<TlsStream<Stream>> {
    let active = security.refreshed().await;
    let Some(config) = &active.tls else { return Err(io::Error::other("TLS has been given up")) };
    TlsAcceptor::from(Arc::clone(config)).accept(stream).await
}

/// The next connection, with its place among the others.
async fn accept(
    listener: &TcpListener,
    connections: &Arc<Connections>,
    write_timeout: Duration,
) -> (Stream, Connection) {
    let mut has_failed = false;
    let stream = loop {
        match listener.accept().await {
            Ok((stream, _)) => break stream,
            // The client has gone already.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // It may take long until file descriptors are free again: that is said once.
                if !std::mem::replace(&mut has_failed, true) {
                    warn!(%error, "cannot accept a connection; trying again");
                }
                connections.close_longest_idle();
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    };
    // A matter of speed only.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(write_timeout));
    (Box::pin(stream), connections.admit().await)
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::Response;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinHandle;
    use tokio::time::Instant;

    use super::*;
    use crate::web::body::Parts;

    const SHORT: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(10);
    const HUGE: usize = 64 * 1024 * 1024;

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
            .route("/endless", get(async || Response::new(Body::new(Parts::new([vec![0; HUGE].into()])))));
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

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";

    /// A connection on which something has been said.
    async fn connect(address: SocketAddr, said: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(said).await.unwrap();
        stream
    }

    /// Whether a new client is answered, and how long it takes.
    async fn ask(address: SocketAddr) -> Duration {
        let began = Instant::now();
        let mut stream = connect(address, b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
        let said = until_closed(&mut stream).await;
        assert!(said.ends_with(b"hello"), "{}", String::from_utf8_lossy(&said));
        began.elapsed()
    }

    #[tokio::test]
    async fn whoever_has_been_idle_for_longest_gives_way() {
        let limits = Limits { connections: 4, ..Limits::default() };
        // Each way to keep a connection without being answered.
        for begun in [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ", REQUEST] {
            let (address, ..) = start(limits).await;
            let mut idle = Vec::new();
            for _ in 0..limits.connections {
                idle.push(connect(address, begun).await);
                tokio::time::sleep(SHORT / 4).await;
            }
            let took = ask(address).await;
            assert!(took < LONG / 5, "{took:?} beside {}", String::from_utf8_lossy(begun));
            // The first has been closed, and the last has not.
            until_closed(&mut idle.remove(0)).await;
            let mut last = idle.pop().unwrap();
            last.write_all(b"\r\n\r\n").await.unwrap();
            assert!(timeout(SHORT, until_closed(&mut last)).await.is_err() || begun != REQUEST);
        }
    }

    #[tokio::test]
    async fn whoever_has_not_finished_a_handshake_gives_way() {
        let limits = Limits { connections: 2, ..Limits::default() };
        let (address, ..) = start_encrypted(limits).await;
        let mut first = connect(address, b"\x16\x03\x01\x02\x00\x01").await;
        let _second = connect(address, b"").await;
        let _third = connect(address, b"").await;
        let began = Instant::now();
        until_closed(&mut first).await;
        assert!(began.elapsed() < LONG / 5, "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn whoever_is_being_answered_does_not_give_way_at_once() {
        let (address, ..) = start(Limits { connections: 2, ..Limits::default() }).await;
        let slow = b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        let mut answered = [connect(address, slow).await, connect(address, slow).await];
        let took = ask(address).await;
        assert!(took >= SHORT / 2, "{took:?}");
        for stream in &mut answered {
            assert!(until_closed(stream).await.starts_with(b"HTTP/1.1 200"));
        }
    }

    #[tokio::test]
    async fn without_an_idle_one_whoever_takes_longest_for_an_answer_gives_way() {
        let limits = Limits { connections: 2, answer_under_pressure: SHORT, ..Limits::default() };
        let (address, ..) = start(limits).await;
        let endless = b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n";
        let _unread = [connect(address, endless).await, connect(address, endless).await];
        let took = ask(address).await;
        assert!(took < LONG / 5, "{took:?}");
    }

    #[tokio::test]
    async fn an_answer_has_a_time_of_its_own_however_it_is_read() {
        let (address, ..) = start(Limits { answer: SHORT, ..Limits::default() }).await;
        let mut stream = connect(address, b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let (began, mut taken) = (Instant::now(), 0);
        let mut some = [0; 1024];
        // Slowly, but never so slowly that no byte would be taken for a while.
        while let Ok(count @ 1..) = stream.read(&mut some).await {
            taken += count;
            assert!(began.elapsed() < LONG, "still being answered after {taken} bytes");
            if began.elapsed() < SHORT * 2 {
                tokio::time::sleep(SHORT / 50).await;
            }
        }
        assert!(taken < HUGE, "all of it was sent");
        // A connection that is used again has the time anew.
        let mut stream = connect(address, REQUEST).await;
        for _ in 0..3 {
            tokio::time::sleep(SHORT / 2).await;
            let count = stream.read(&mut some).await.unwrap();
            assert!(some[..count].ends_with(b"hello"));
            stream.write_all(REQUEST).await.unwrap();
        }
    }

    #[tokio::test]
    async fn headers_have_a_size() {
        let (address, ..) = start(Limits::default()).await;
        let request = |line: usize, header: usize| {
            let (line, header) = ("x".repeat(line), "x".repeat(header));
            format!("GET /?{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Long: {header}\r\n\r\n")
        };
        let mut within = connect(address, request(7000, 7000).as_bytes()).await;
        assert!(until_closed(&mut within).await.starts_with(b"HTTP/1.1 200"));
        for (line, header) in [(1, MAX_HEADER_SIZE), (MAX_HEADER_SIZE, 1), (9000, 9000)] {
            let mut beyond = connect(address, request(line, header).as_bytes()).await;
            let said = until_closed(&mut beyond).await;
            assert!(
                said.starts_with(b"HTTP/1.1 431"),
                "{line}, {header}: {}",
                String::from_utf8_lossy(&said)
            );
        }
        // Nor is more taken of one that has no end.
        let mut endless = TcpStream::connect(address).await.unwrap();
        let mut taken = 0;
        let sent = timeout(LONG, async {
            while endless.write_all(&[b'x'; 1024]).await.is_ok() {
                taken += 1024;
            }
        });
        sent.await.expect("all of a header without an end is taken");
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
