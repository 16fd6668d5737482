//! The HTTP server.
//!
//! | path | answers |
//! |---|---|
//! | `/metrics` (`web.telemetry_path`) | the exposition, gzip when asked for; 503 beyond `web.max_requests` |
//! | `/` | a page with name, version and links |
//! | `/-/healthy` | 200 while the process serves |
//! | `/-/ready` | 200 once a whole list has been taken, 503 before |
//!
//! Only GET and HEAD are answered. No request reaches the daemon. Where `web.config_file` has users, all but
//! `/-/healthy` and `/-/ready` is for them only.

mod auth;
mod encoding;
mod page;
mod security;
mod server;
mod tls;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse};
use axum::routing::get;
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tracing::error;

use crate::config;
use crate::inventory;
use crate::readers::prometheus::{CONTENT_TYPE, Exposition, PrometheusReader};
use crate::stats::Stats;

use self::encoding::Parts;

use self::auth::Verdict;
use self::security::Current;

pub use security::{Security, SecurityError};
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
    security: Option<Arc<Security>>,
) -> Router {
    let app = App {
        reader,
        inventory,
        stats,
        scrapes: Arc::new(Semaphore::new(config.max_requests.min(Semaphore::MAX_PERMITS))),
        telemetry_path: config.telemetry_path.as_str().into(),
    };
    let router = Router::new()
        .route(&config.telemetry_path, get(metrics))
        .route("/", get(index))
        .route(HEALTHY, get(|| async { "up\n" }))
        .route(READY, get(ready))
        .with_state(app);
    match security {
        // Around everything, so that nobody learns which paths there are.
        Some(security) => router.layer(middleware::from_fn_with_state(security, guard)),
        None => router,
    }
}

/// Where a prober without a password asks.
const HEALTHY: &str = "/-/healthy";
const READY: &str = "/-/ready";

/// Lets pass whom `web.config_file` lets pass, and adds its headers to every answer.
async fn guard(State(security): State<Arc<Security>>, request: Request, next: Next) -> Response<Body> {
    let current = security.current().await;
    let verdict = if matches!(request.uri().path(), HEALTHY | READY) {
        Verdict::Allowed
    } else {
        security.judge(&current, request.headers()).await
    };
    let mut response = match verdict {
        Verdict::Allowed => next.run(request).await,
        Verdict::Denied => {
            let mut response = plain(StatusCode::UNAUTHORIZED, "unauthorized\n");
            let realm = HeaderValue::from_static("Basic realm=\"docker-state-exporter\", charset=\"UTF-8\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
            response
        }
        Verdict::Busy => {
            let mut response =
                plain(StatusCode::SERVICE_UNAVAILABLE, "too many passwords are being checked; try again\n");
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            response
        }
    };
    let Current { file, .. } = &*current;
    for (name, value) in &file.headers {
        response.headers_mut().insert(name, value.clone());
    }
    response
}

async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response<Body> {
    let Ok(permit) = Arc::clone(&app.scrapes).try_acquire_owned() else {
        app.stats.scrapes_error.increment();
        return plain(StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at once (web.max_requests)\n");
    };
    let exposition = match render(&app.reader).await {
        Ok(exposition) => exposition,
        Err(why) => {
            error!(why, "a scrape failed");
            app.stats.scrapes_error.increment();
            let said = "the exposition could not be rendered; the log says why\n";
            return plain(StatusCode::INTERNAL_SERVER_ERROR, said);
        }
    };
    app.stats.scrapes_ok.increment();
    let gzip = encoding::takes_gzip(&headers);
    let body = if gzip {
        Body::new(Parts::new(exposition.gzip()))
    } else {
        Body::from_stream(futures_util::stream::iter(exposition.text()))
    };
    // Held until the last byte is taken: clients that read slowly keep their answers in memory.
    let body = body.map_frame(move |frame| {
        let _ = &permit;
        frame
    });
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(CONTENT_TYPE));
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// What has not changed is there at once. Rendering a change can take a while, and the daemon's events must not
/// wait for it.
async fn render(reader: &Arc<PrometheusReader>) -> Result<Exposition, String> {
    if let Some(exposition) = reader.unchanged().map_err(|error| error.to_string())? {
        return Ok(exposition);
    }
    let reader = Arc::clone(reader);
    match tokio::task::spawn_blocking(move || reader.render()).await {
        Ok(rendered) => rendered.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
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
