//! A connection that is kept open, so that a poll costs no more than its request.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::Error;

/// The time limit for one call, its body included.
const TIMEOUT: Duration = Duration::from_secs(30);

/// A connection to the engine or to the exporter.
pub(crate) struct Connection(SendRequest<Full<Bytes>>);

impl Connection {
    /// Connects to the engine.
    pub(crate) async fn unix(path: &Path) -> Result<Self, Error> {
        let stream = UnixStream::connect(path).await;
        Self::over(stream.map_err(|error| format!("{}: {error}", path.display()))?).await
    }

    /// Connects to the exporter.
    pub(crate) async fn tcp(address: SocketAddr) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await.map_err(|error| format!("{address}: {error}"))?;
        stream.set_nodelay(true)?;
        Self::over(stream).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Result<Self, Error> {
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // If the connection ends, the next request fails.
        tokio::spawn(connection);
        Ok(Self(sender))
    }

    /// The answer, its body not yet read; any other status than a success is an error.
    pub(crate) async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, Error> {
        let request = Request::builder()
            .method(method.clone())
            .uri(path)
            .header("Host", "localhost")
            .header("Content-Type", "application/json")
            .body(Full::from(body.map(Value::to_string).unwrap_or_default()))?;
        self.0.ready().await?;
        let answer = tokio::time::timeout(TIMEOUT, self.0.send_request(request)).await??;
        match answer.status() {
            status if status.is_success() => Ok(answer),
            status => Err(format!("{method} {path}: {status}: {}", text(answer).await?).into()),
        }
    }

    /// A GET with its whole answer.
    pub(crate) async fn get(&mut self, path: &str) -> Result<String, Error> {
        text(self.send(Method::GET, path, None).await?).await
    }

    /// A call of the engine's API with its answer, null where there is none.
    pub(crate) async fn call(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Error> {
        let answer = self.send(method, path, body).await?;
        let empty = answer.status() == StatusCode::NO_CONTENT;
        let text = text(answer).await?;
        Ok(if empty || text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
    }
}

async fn text(answer: Response<Incoming>) -> Result<String, Error> {
    let body = tokio::time::timeout(TIMEOUT, answer.into_body().collect()).await??;
    Ok(String::from_utf8(body.to_bytes().into())?)
}
