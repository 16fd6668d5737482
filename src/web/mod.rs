//! The HTTP server.
//!
//! | path | answers |
//! |---|---|
//! | `/metrics` (`web.telemetry_path`) | the exposition, gzip when asked for; 503 beyond `web.max_requests` |
//! | `/` | the page, with `/-/page.css`, `/-/page.js` and what it shows, `/-/page.json` |
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
use axum::response::IntoResponse;
use axum::routing::get;
use http_body_util::BodyExt;
use tokio::sync::Semaphore;
use tracing::error;

use crate::config::Config;
use crate::inventory;
use crate::metrics::labels::Names;
use crate::readers::prometheus::{Exposition, PrometheusReader, content_type};
use crate::stats::Stats;

use self::encoding::Parts;

use self::auth::Verdict;
use self::page::View;
use self::security::Current;

pub use security::{Security, SecurityError};
pub use server::{BindError, Limits, Routes, bind, serve};

/// What requests are answered from.
#[derive(Clone)]
struct App {
    reader: Arc<PrometheusReader>,
    inventory: inventory::Reader,
    stats: Arc<Stats>,
    scrapes: Arc<Semaphore>,
    page: Arc<str>,
    looks: Arc<Semaphore>,
    docker_host: Arc<str>,
}

/// Who looks at the page at the same time, and is being told something new. More are told to come back.
const LOOKS: usize = 16;

/// The endpoints.
pub fn router(
    config: &Config,
    reader: Arc<PrometheusReader>,
    inventory: inventory::Reader,
    stats: Arc<Stats>,
    security: Option<Arc<Security>>,
) -> Router {
    let app = App {
        reader,
        inventory,
        stats,
        scrapes: Arc::new(Semaphore::new(config.web.max_requests.min(Semaphore::MAX_PERMITS))),
        page: page::index(&config.web.telemetry_path).into(),
        looks: Arc::new(Semaphore::new(LOOKS)),
        docker_host: config.docker.host.as_str().into(),
    };
    let router = Router::new()
        .route(&config.web.telemetry_path, get(metrics))
        .route("/", get(index))
        .route("/-/page.css", get(|| async { asset("text/css; charset=utf-8", page::CSS) }))
        .route("/-/page.js", get(|| async { asset("text/javascript; charset=utf-8", page::JS) }))
        .route("/-/page.json", get(state))
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
        app.stats.scraped(false);
        return plain(StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at once (web.max_requests)\n");
    };
    let names = app.reader.names(encoding::takes_all_names(&headers));
    let exposition = match render(&app.reader, names).await {
        Ok(exposition) => exposition,
        Err(why) => {
            error!(why, "a scrape failed");
            app.stats.scraped(false);
            let said = "the exposition could not be rendered; the log says why\n";
            return plain(StatusCode::INTERNAL_SERVER_ERROR, said);
        }
    };
    app.stats.scraped(true);
    let gzip = encoding::takes_gzip(&headers);
    let mut length = None;
    let body = if gzip {
        let parts = Parts::new(exposition.gzip());
        length = hyper::body::Body::size_hint(&parts).exact();
        Body::new(parts)
    } else {
        Body::from_stream(futures_util::stream::iter(exposition.text()))
    };
    // Held until the last byte is taken: clients that read slowly keep their answers in memory. What is mapped so
    // no longer knows its length.
    let body = body.map_frame(move |frame| {
        let _ = &permit;
        frame
    });
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(names)));
    headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
    if let Some(length) = length {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if gzip {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// What has not changed is there at once. Rendering a change can take a while, and the daemon's events must not
/// wait for it.
async fn render(reader: &Arc<PrometheusReader>, names: Names) -> Result<Exposition, String> {
    if let Some(exposition) = reader.unchanged(names).map_err(|error| error.to_string())? {
        return Ok(exposition);
    }
    let reader = Arc::clone(reader);
    match tokio::task::spawn_blocking(move || reader.render(names)).await {
        Ok(rendered) => rendered.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

async fn index(State(app): State<App>) -> Response<Body> {
    asset("text/html; charset=utf-8", app.page.to_string())
}

/// A part of the page. Each is asked for anew: a later version's must not meet an older one's.
fn asset(content_type: &'static str, text: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(text.into());
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, page::POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What the page shows: nothing, while it is what the client has already.
async fn state(State(app): State<App>, headers: HeaderMap) -> Response<Body> {
    let view = View::new(&app.inventory, &app.stats, &app.docker_host);
    let tag = view.tag();
    let known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    let mut response = if known {
        let mut response = asset("application/json", Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let Ok(permit) = Arc::clone(&app.looks).try_acquire_owned() else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "too many look at the page at once\n");
        };
        let gzip = encoding::takes_gzip(&headers);
        // A thousand containers are a few milliseconds, which the daemon's events must not wait for.
        let written = tokio::task::spawn_blocking(move || view.json(gzip)).await;
        let Some(text) = written.ok().and_then(Result::ok) else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the state could not be written\n");
        };
        let body = Parts::new([text.into()]).map_frame(move |frame| {
            // Held until the last byte is taken.
            let _ = &permit;
            frame
        });
        let mut response = asset("application/json", Body::new(body));
        if gzip {
            response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        response
    };
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(header::ETAG, tag);
    }
    response
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
