//! Connections: accepted, bounded in number and time, and let finish at the end.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

/// For a request's line and headers, and between requests of a connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Without a byte taken by a client that is being answered.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections at once. Beyond that, new ones wait to be accepted.
const MOST_CONNECTIONS: usize = 512;
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

/// Serves until it is told to stop, then lets connections finish for as long as `drain` lasts.
pub async fn serve(listener: TcpListener, router: Router, shutdown: CancellationToken, drain: Duration) {
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &room) => accepted,
        };
        let (stream, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(server.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "a connection ended early");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
        warn!("gave up on requests that were still being answered");
    }
}

async fn accept(
    listener: &TcpListener,
    room: &Arc<Semaphore>,
) -> io::Result<(Pin<Box<TimeoutStream<TcpStream>>>, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    stream.set_nodelay(true)?;
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    Ok((Box::pin(stream), permit))
}
