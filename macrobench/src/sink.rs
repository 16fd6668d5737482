//! An OTLP receiver that takes everything, over HTTP and gRPC, and counts it.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::Read;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use flate2::read::GzDecoder;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;

use crate::Error;

/// The receiver. It ends with the program.
#[derive(Clone)]
pub(crate) struct Sink {
    pub(crate) address: SocketAddr,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    points: AtomicU64,
    bytes: AtomicU64,
}

/// What has come so far.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Received {
    pub(crate) requests: u64,
    pub(crate) points: u64,
    /// As they came over the wire.
    pub(crate) bytes: u64,
}

impl Sink {
    pub(crate) async fn start() -> Result<Self, Error> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let sink = Self { address: listener.local_addr()?, counts: Arc::default() };
        let counts = Arc::clone(&sink.counts);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let counts = Arc::clone(&counts);
                tokio::spawn(async move {
                    let service = service_fn(move |request| take(request, Arc::clone(&counts)));
                    // HTTP/2 begins with PRI, and no request of HTTP/1 does.
                    let mut first = [0; 3];
                    let is_grpc = stream.peek(&mut first).await.is_ok() && first == *b"PRI";
                    // A connection ends with the exporter that made it.
                    if is_grpc {
                        let server = http2::Builder::new(TokioExecutor::new());
                        let _ = server.serve_connection(TokioIo::new(stream), service).await;
                    } else {
                        let server = http1::Builder::new();
                        let _ = server.serve_connection(TokioIo::new(stream), service).await;
                    }
                });
            }
        });
        Ok(sink)
    }

    pub(crate) fn received(&self) -> Received {
        let get = |count: &AtomicU64| count.load(Ordering::SeqCst);
        Received {
            requests: get(&self.counts.requests),
            points: get(&self.counts.points),
            bytes: get(&self.counts.bytes),
        }
    }
}

async fn take(request: Request<Incoming>, counts: Arc<Counts>) -> Result<Response<Frames>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let grpc =
        head.headers.get("content-type").is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    // A gRPC message has a byte that says whether it is compressed, and four of length.
    let (packed, message) = match body.first() {
        Some(&flag) if grpc => (flag == 1, body.slice(5.min(body.len())..)),
        _ => (head.headers.contains_key("content-encoding"), body.clone()),
    };
    let message = if packed { unpack(&message) } else { message };
    counts.bytes.fetch_add(body.len() as u64, Ordering::SeqCst);
    counts.points.fetch_add(points(&message), Ordering::SeqCst);
    counts.requests.fetch_add(1, Ordering::SeqCst);
    let (kind, frames) = if grpc {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", hyper::header::HeaderValue::from_static("0"));
        ("application/grpc", vec![Frame::data(Bytes::from_static(&[0; 5])), Frame::trailers(trailers)])
    } else {
        ("application/x-protobuf", vec![Frame::data(Bytes::new())])
    };
    let mut response = Response::new(Frames(frames.into()));
    response.headers_mut().insert("content-type", hyper::header::HeaderValue::from_static(kind));
    Ok(response)
}

fn unpack(message: &[u8]) -> Bytes {
    let mut all = Vec::new();
    // A message that cannot be decompressed counts no points, which the results show.
    let _ = GzDecoder::new(message).read_to_end(&mut all);
    all.into()
}

/// The data points of an `ExportMetricsServiceRequest`, by the numbers of the fields that lead to them.
fn points(request: &[u8]) -> u64 {
    let mut count = 0;
    for (_, resource) in fields(request).filter(|(number, _)| *number == 1) {
        for (_, scope) in fields(resource).filter(|(number, _)| *number == 2) {
            for (_, metric) in fields(scope).filter(|(number, _)| *number == 2) {
                // Gauge, sum, histogram.
                for (_, data) in fields(metric).filter(|(number, _)| [5, 7, 9].contains(number)) {
                    count += fields(data).filter(|(number, _)| *number == 1).count() as u64;
                }
            }
        }
    }
    count
}

/// A message's fields: their numbers, and their bytes, which are empty for varints.
fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    std::iter::from_fn(move || {
        let key = varint(&mut message)?;
        let length = match key & 7 {
            0 => {
                varint(&mut message)?;
                0
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?).ok()?,
            5 => 4,
            _ => return None,
        };
        let (field, rest) = message.split_at_checked(length)?;
        message = rest;
        Some((key >> 3, field))
    })
}

fn varint(message: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// The frames of an answer, one after another.
struct Frames(VecDeque<Frame<Bytes>>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_counted_where_they_stand() {
        let nested = |number: u8, inner: &[u8]| [&[number << 3 | 2, inner.len() as u8], inner].concat();
        let point = nested(1, &[0x11, 1, 2, 3, 4, 5, 6, 7, 8]);
        let gauge = nested(5, &[point.clone(), point.clone()].concat());
        let sum = nested(7, &[point, vec![2 << 3, 0x80, 1]].concat());
        let metric = |data: &[u8]| nested(2, &[nested(1, b"name"), data.to_vec()].concat());
        let scope = nested(2, &[metric(&gauge), metric(&sum)].concat());
        assert_eq!(points(&nested(1, &[nested(1, b"resource"), scope].concat())), 3);
        assert_eq!(points(b""), 0);
        assert_eq!(points(b"nothing of the kind"), 0);
    }
}
