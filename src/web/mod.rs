//! The HTTP server.
//!
//! | path | answers |
//! |---|---|
//! | `/metrics` (`web.telemetry_path`) | the exposition, gzip when asked for; 503 beyond `web.max_requests` |
//! | `/` | the page, with `/-/page.css`, `/-/page.js` and what it shows, `/-/page.json` |
//! | `/-/healthy` | 200 while the process serves |
//! | `/-/ready` | 200 while the daemon is followed, as `docker_up` says it; 503 else |
//!
//! Only GET and HEAD are answered. No request reaches the daemon. Where `web.config_file` has users, all but
//! `/-/healthy` and `/-/ready` is for them only; where `web.allowed_hosts` has hosts, for requests to them only.

mod auth;
mod body;
mod connections;
mod hosts;
mod negotiation;
mod page;
mod rate;
mod security;
mod server;
mod sockets;
mod tls;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use axum::routing::get;
use tokio::sync::Semaphore;
use tracing::error;

use crate::config::Config;
use crate::inventory;
use crate::metrics::labels::Names;
use crate::readers::prometheus::{Exposition, PrometheusReader, content_type};
use crate::stats::Stats;

use self::auth::Access;
use self::body::{Holding, Parts};
use self::hosts::AllowedHosts;
use self::page::View;
use self::rate::RateLimiter;

pub use security::{Security, SecurityError};
pub use server::{BindError, Limits, Routes, serve};
pub use sockets::listen;

/// What requests are answered from.
#[derive(Clone)]
struct App {
    reader: Arc<PrometheusReader>,
    inventory: inventory::Reader,
    stats: Arc<Stats>,
    scrapes: Arc<Semaphore>,
    page: Arc<str>,
    page_requests: Arc<Semaphore>,
    docker_host: Arc<str>,
}

/// Requests for what the page shows that are answered at the same time. More are told to come back.
const MAX_PAGE_REQUESTS: usize = 16;

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
        page_requests: Arc::new(Semaphore::new(MAX_PAGE_REQUESTS)),
        docker_host: config.docker.host.as_str().into(),
    };
    let mut router = routes(&config.web.telemetry_path).with_state(app);
    if let Some(hosts) = AllowedHosts::new(&config.web.allowed_hosts) {
        router = router.layer(middleware::from_fn_with_state(Arc::new(hosts), only_for));
    }
    match security {
        // Around everything, so that nobody learns which paths there are.
        Some(security) => router.layer(middleware::from_fn_with_state(security, guard)),
        None => router,
    }
}

/// What is answered where. The configuration lets no path through that collides with another one.
fn routes(telemetry_path: &str) -> Router<App> {
    Router::new()
        .route(telemetry_path, get(metrics))
        .route("/", get(index))
        .route("/-/page.css", get(|| async { asset("text/css; charset=utf-8", page::CSS) }))
        .route("/-/page.js", get(|| async { asset("text/javascript; charset=utf-8", page::JS) }))
        .route("/-/page.json", get(state))
        .route(HEALTHY, get(|| async { "up\n" }))
        .route(READY, get(ready))
}

/// Where a prober asks.
const HEALTHY: &str = "/-/healthy";
const READY: &str = "/-/ready";

/// Whether a path is answered to everybody who can connect: probes know neither name nor password.
fn is_for_probes(request: &Request) -> bool {
    matches!(request.uri().path(), HEALTHY | READY)
}

/// Lets pass what is for a host of `web.allowed_hosts`.
async fn only_for(State(hosts): State<Arc<AllowedHosts>>, request: Request, next: Next) -> Response<Body> {
    if is_for_probes(&request) || hosts.allows(request.uri(), request.headers()) {
        next.run(request).await
    } else {
        plain(StatusCode::MISDIRECTED_REQUEST, "this host is not in web.allowed_hosts\n")
    }
}

/// Lets pass whom `web.config_file` lets pass, and adds its headers to every answer.
async fn guard(State(security): State<Arc<Security>>, request: Request, next: Next) -> Response<Body> {
    let active = security.refreshed().await;
    let is_probe = is_for_probes(&request);
    let exceeded = |limiter: &&RateLimiter| !is_probe && !limiter.allows(Instant::now());
    let mut response = if let Some(limiter) = active.limiter.as_ref().filter(exceeded) {
        come_back(StatusCode::TOO_MANY_REQUESTS, "too many requests (rate_limit)\n", limiter.retry_after())
    } else {
        let access =
            if is_probe { Access::Allowed } else { security.access(&active, request.headers()).await };
        match access {
            Access::Allowed => next.run(request).await,
            Access::Denied => unauthorized(),
            Access::Busy => {
                let text = "too many passwords are being checked; try again\n";
                come_back(StatusCode::SERVICE_UNAVAILABLE, text, 1)
            }
        }
    };
    for (name, value) in &active.file.headers {
        response.headers_mut().insert(name, value.clone());
    }
    response
}

fn unauthorized() -> Response<Body> {
    let mut response = plain(StatusCode::UNAUTHORIZED, "unauthorized\n");
    let realm = HeaderValue::from_static("Basic realm=\"docker-state-exporter\", charset=\"UTF-8\"");
    response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
    response
}

fn come_back(status: StatusCode, text: &'static str, seconds: u64) -> Response<Body> {
    let mut response = plain(status, text);
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    response
}

async fn metrics(State(app): State<App>, headers: HeaderMap) -> Response<Body> {
    let Ok(permit) = Arc::clone(&app.scrapes).try_acquire_owned() else {
        app.stats.scraped(false);
        return plain(StatusCode::SERVICE_UNAVAILABLE, "too many scrapes at once (web.max_requests)\n");
    };
    let names = app.reader.names(negotiation::takes_all_names(&headers));
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
    let gzip = negotiation::takes_gzip(&headers);
    let body = if gzip {
        Body::new(Parts::new(exposition.gzip()))
    } else {
        Body::from_stream(futures_util::stream::iter(exposition.text()))
    };
    // Clients that read slowly keep their answers in memory.
    let mut response = Response::new(Body::new(Holding::new(body, permit)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type(names)));
    headers.insert(header::VARY, HeaderValue::from_static("accept, accept-encoding"));
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
    let mut response = if negotiation::has_already(&headers, &tag) {
        let mut response = asset("application/json", Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        let Ok(permit) = Arc::clone(&app.page_requests).try_acquire_owned() else {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "too many look at the page at once\n");
        };
        let gzip = negotiation::takes_gzip(&headers);
        // A thousand containers are a few milliseconds, which the daemon's events must not wait for.
        let written = tokio::task::spawn_blocking(move || view.json(gzip)).await;
        let Some(text) = written.ok().and_then(Result::ok) else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the state could not be written\n");
        };
        let body = Holding::new(Parts::new([text.into()]), permit);
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
    if app.stats.is_up() {
        plain(StatusCode::OK, "ready\n")
    } else {
        // Why is for those only who may see the rest.
        plain(StatusCode::SERVICE_UNAVAILABLE, "the daemon is not followed; the log and the page say why\n")
    }
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    (status, text).into_response()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::values::telemetry_path;

    proptest! {
        #[test]
        fn every_path_that_is_taken_is_one_of_the_router(
            path in prop_oneof!["/[ -~]{0,8}", "(/[-:*{}.a%]{0,3}){1,4}", "/-/[a-z.]{0,12}", ".{0,12}"]
        ) {
            if let Ok(path) = telemetry_path(&path) {
                // It panics for what it does not take.
                let _ = routes(&path);
                let uri: axum::http::Uri = path.parse().unwrap();
                prop_assert_eq!(uri.path(), path);
            }
        }
    }
}
