//! The HTTP server.
//!
//! | path | answers |
//! |---|---|
//! | `/metrics` (`web.telemetry_path`) | the exposition, gzip when asked for; 503 beyond `web.max_requests` |
//! | `/` | a page with name, version and links |
//! | `/-/healthy` | 200 while the process serves |
//! | `/-/ready` | 200 once a whole list has been taken, 503 before |
//!
//! Only GET and HEAD are answered. No request reaches the daemon.

mod page;
mod server;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Response, StatusCode, header};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tower_http::CompressionLevel;
use tower_http::compression::CompressionLayer;
use tracing::error;

use crate::config;
use crate::inventory;
use crate::readers::prometheus::{CONTENT_TYPE, PrometheusReader};
use crate::stats::Stats;

pub use server::{BindError, Limits, bind, serve};

/// What requests are answered from.
#[derive(Clone)]
struct App {
    reader: Arc<PrometheusReader>,
    inventory: inventory::Reader,
    stats: Arc<Stats>,
    scrapes: Arc<Semaphore>,
    telemetry_path: Arc<str>,
}

/// The endpoints.
pub fn router(
    config: &config::Web,
    reader: Arc<PrometheusReader>,
    inventory: inventory::Reader,
    stats: Arc<Stats>,
) -> Router {
    let app = App {
        reader,
        inventory,
        stats,
        scrapes: Arc::new(Semaphore::new(config.max_requests.min(Semaphore::MAX_PERMITS))),
        telemetry_path: config.telemetry_path.as_str().into(),
    };
    // The fastest level: what a higher one saves on the wire it costs many times over in time.
    let compression = CompressionLayer::new().gzip(true).quality(CompressionLevel::Fastest);
    Router::new()
        .route(&config.telemetry_path, get(metrics).layer(compression))
        .route("/", get(index))
        .route("/-/healthy", get(|| async { "up\n" }))
        .route("/-/ready", get(ready))
        .with_state(app)
}

async fn metrics(State(app): State<App>) -> Response<Body> {
    let Ok(permit) = Arc::clone(&app.scrapes).try_acquire_owned() else {
        app.stats.scrapes_error.increment();
        return plain(StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at once (web.max_requests)\n");
    };
    // Rendering after a change takes a while; the daemon's events must not wait for it.
    let reader = Arc::clone(&app.reader);
    let rendered = tokio::task::spawn_blocking(move || reader.render()).await;
    let why = match rendered {
        Ok(Ok(text)) => {
            app.stats.scrapes_ok.increment();
            // Held until the last byte is taken: clients that read slowly keep their answers in memory.
            let body = Body::from(text).map_frame(move |frame| {
                let _ = &permit;
                frame
            });
            let mut response = Response::new(Body::new(body));
            response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
            return response;
        }
        Ok(Err(error)) => error.to_string(),
        Err(error) => error.to_string(),
    };
    error!(why, "a scrape failed");
    app.stats.scrapes_error.increment();
    plain(StatusCode::INTERNAL_SERVER_ERROR, "the exposition could not be rendered; the log says why\n")
}

async fn index(State(app): State<App>) -> Html<String> {
    Html(page::index(&app.telemetry_path))
}

async fn ready(State(app): State<App>) -> Response<Body> {
    if app.inventory.is_complete() {
        plain(StatusCode::OK, "ready\n")
    } else {
        plain(StatusCode::SERVICE_UNAVAILABLE, "waiting for the daemon\n")
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    (status, text).into_response()
}
