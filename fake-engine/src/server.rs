//! HTTP: routes, versions, bodies.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request as HttpRequest, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, Line, now_nano};
use crate::container::Container;
use crate::event::{EventStyle, Filters};
use crate::lock;
use crate::script::{Fault, Script, Target};

type Body = BoxBody<Bytes, io::Error>;

/// One of the calls that the engine knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// `_ping`
    Ping,
    /// `version`
    Version,
    /// `events`
    Events,
    /// `containers/json`
    List,
    /// `containers/{id}/json`
    Inspect,
}

/// A request that the engine got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The HTTP method; `GET` for every valid call.
    pub method: String,
    /// The path without its version.
    pub path: String,
    /// The version that the path began with, `1.41` for example.
    pub version: Option<String>,
    /// The parameters of the query.
    pub query: BTreeMap<String, String>,
    /// The call, where it is one of the five. Only a GET is.
    pub endpoint: Option<Endpoint>,
}

/// What the handle and the server share.
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    pub(crate) broker: Mutex<Broker>,
    /// How far the engine's clock is ahead of this machine's, in nanoseconds. Not with the broker: that waits, locked,
    /// for a subscriber that does not read, and no answer may wait with it.
    pub(crate) clock_ahead: AtomicI64,
    pub(crate) requests: Mutex<Vec<Request>>,
    /// While true, no request is answered and no stream carries anything.
    pub(crate) hung: watch::Sender<bool>,
    /// Wakes hung requests, which then check whether their target was healed.
    pub(crate) healed: watch::Sender<()>,
    /// The number of open connections, and a signal for each that closes.
    pub(crate) open: Mutex<usize>,
    pub(crate) closed: Condvar,
}

/// The engine's containers and settings, and its faults.
pub(crate) struct State {
    pub(crate) containers: BTreeMap<String, Stored>,
    pub(crate) minimum: Version,
    pub(crate) maximum: Version,
    pub(crate) style: EventStyle,
    pub(crate) script: Script,
}

/// A container as serialised answers: as JSON values, 10,000 of them would take too much memory.
pub(crate) struct Stored {
    pub(crate) name: String,
    pub(crate) running: bool,
    pub(crate) list: Bytes,
    pub(crate) inspect: Bytes,
}

impl Stored {
    pub(crate) fn new(container: &Container) -> Self {
        Self {
            name: container.name().to_owned(),
            running: container.is_running(),
            list: container.list.to_string().into(),
            inspect: container.inspect.to_string().into(),
        }
    }
}

/// An API version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32);

impl Version {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        Some(Self(major.parse().ok()?, minor.parse().ok()?))
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// The first version whose events have no `status`, `id` and `from`.
const MODERN_EVENTS: Version = Version(1, 52);

/// The pause between the last bytes and the break of a connection, which would otherwise lose unwritten bytes.
const FLUSH: Duration = Duration::from_millis(20);

/// Takes connections until the token is cancelled; then all of them break off at once.
pub(crate) async fn accept(shared: Arc<Shared>, listener: UnixListener, stop: CancellationToken) {
    while let Some(Ok((stream, _))) = stop.run_until_cancelled(listener.accept()).await {
        *lock(&shared.open) += 1;
        tokio::spawn(connection(Arc::clone(&shared), stream, stop.clone()));
    }
}

async fn connection(shared: Arc<Shared>, stream: UnixStream, stop: CancellationToken) {
    let handler = Arc::clone(&shared);
    let service = service_fn(move |request| answer(Arc::clone(&handler), request));
    let connection =
        hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    // Errors are ignored: they come from the client, or from the script.
    let _ = stop.run_until_cancelled(connection).await;
    *lock(&shared.open) -= 1;
    shared.closed.notify_all();
}

async fn answer(shared: Arc<Shared>, request: HttpRequest<Incoming>) -> Result<Response<Body>, Infallible> {
    let request = record(&shared, &request);
    awake(&mut shared.hung.subscribe()).await;
    let Some(endpoint) = request.endpoint else {
        let known = request.method != "GET" && endpoint_of(&request.path).is_some();
        let status = if known { StatusCode::METHOD_NOT_ALLOWED } else { StatusCode::NOT_FOUND };
        return Ok(message(status, "page not found"));
    };
    if let Some(refusal) = refuse_version(&shared, request.version.as_deref()) {
        return Ok(headers(&shared, refusal));
    }
    let target = match endpoint {
        Endpoint::Ping => Target::Ping,
        Endpoint::Version => Target::Version,
        Endpoint::Events => Target::Events,
        Endpoint::List => Target::List,
        Endpoint::Inspect => Target::Inspect(resolve(&shared, name_in(&request.path))),
    };
    let fault = lock(&shared.state).script.next(&target);
    let response = match fault {
        None => right_answer(&shared, endpoint, &request),
        Some((_, Fault::Status(status, text))) => {
            message(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR), &text)
        }
        Some((scripted, Fault::Hang)) => {
            hang(&shared, &scripted).await;
            right_answer(&shared, endpoint, &request)
        }
        Some((_, Fault::Delay(time))) => {
            tokio::time::sleep(time).await;
            right_answer(&shared, endpoint, &request)
        }
        Some((_, Fault::Stale(time))) => {
            let response = right_answer(&shared, endpoint, &request);
            tokio::time::sleep(time).await;
            response
        }
        Some((_, Fault::Malformed)) => json_response(StatusCode::OK, half(&shared, endpoint, &request).await),
        Some((_, Fault::Truncated)) => {
            let body = half(&shared, endpoint, &request).await;
            Response::new(truncated(body))
        }
        Some((_, Fault::Body(body))) => json_response(StatusCode::OK, body),
        Some((_, Fault::Endless(first, again))) => Response::new(endless(first, again)),
    };
    Ok(headers(&shared, response))
}

/// Records a request before anything can delay it.
fn record(shared: &Shared, request: &HttpRequest<Incoming>) -> Request {
    let whole = request.uri().path();
    let versioned = whole.strip_prefix("/v").and_then(|rest| rest.split_once('/'));
    let (version, path) = match versioned {
        Some((version, path)) if Version::parse(version).is_some() => (Some(version), format!("/{path}")),
        _ => (None, whole.to_owned()),
    };
    let get = request.method() == Method::GET;
    let request = Request {
        method: request.method().to_string(),
        version: version.map(str::to_owned),
        query: form_urlencoded::parse(request.uri().query().unwrap_or_default().as_bytes())
            .into_owned()
            .collect(),
        endpoint: endpoint_of(&path).filter(|_| get),
        path,
    };
    lock(&shared.requests).push(request.clone());
    request
}

fn endpoint_of(path: &str) -> Option<Endpoint> {
    let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
    match parts.as_slice() {
        ["_ping"] => Some(Endpoint::Ping),
        ["version"] => Some(Endpoint::Version),
        ["events"] => Some(Endpoint::Events),
        ["containers", "json"] => Some(Endpoint::List),
        ["containers", _, "json"] => Some(Endpoint::Inspect),
        _ => None,
    }
}

fn name_in(inspect_path: &str) -> &str {
    inspect_path.split('/').nth(2).unwrap_or_default()
}

/// The full id of the container that a path names: by id, by name, or by an unambiguous prefix of the id.
fn resolve(shared: &Shared, given: &str) -> String {
    let state = lock(&shared.state);
    if state.containers.contains_key(given) {
        return given.to_owned();
    }
    let named = state.containers.iter().find(|(_, container)| container.name == given);
    let mut prefixed = state.containers.range(given.to_owned()..).take_while(|(id, _)| id.starts_with(given));
    match (named, prefixed.next(), prefixed.next()) {
        (Some((id, _)), _, _) | (None, Some((id, _)), None) => id.clone(),
        _ => given.to_owned(),
    }
}

fn refuse_version(shared: &Shared, version: Option<&str>) -> Option<Response<Body>> {
    let version = Version::parse(version?)?;
    let state = lock(&shared.state);
    let (minimum, maximum) = (state.minimum, state.maximum);
    let text = if version > maximum {
        format!("client version {version} is too new. Maximum supported API version is {maximum}")
    } else if version < minimum {
        format!(
            "client version {version} is too old. Minimum supported API version is {minimum}, \
             please upgrade your client to a newer version"
        )
    } else {
        return None;
    };
    Some(message(StatusCode::BAD_REQUEST, &text))
}

fn right_answer(shared: &Shared, endpoint: Endpoint, request: &Request) -> Response<Body> {
    match endpoint {
        Endpoint::Ping => text_response("OK"),
        Endpoint::Version => json_response(StatusCode::OK, version_body(shared)),
        Endpoint::Events => events(shared, request),
        Endpoint::List => list(shared, request),
        Endpoint::Inspect => {
            let given = name_in(&request.path);
            let id = resolve(shared, given);
            match lock(&shared.state).containers.get(&id) {
                Some(container) => json_response(StatusCode::OK, container.inspect.clone()),
                None => message(StatusCode::NOT_FOUND, &format!("No such container: {given}")),
            }
        }
    }
}

fn version_body(shared: &Shared) -> Bytes {
    let state = lock(&shared.state);
    let body = json!({
        "Platform": {"Name": "fake engine"},
        "Components": [{"Name": "Engine", "Version": env!("CARGO_PKG_VERSION"), "Details": {}}],
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": state.maximum.to_string(),
        "MinAPIVersion": state.minimum.to_string(),
        "GitCommit": "", "GoVersion": "", "Os": "linux", "Arch": "amd64", "KernelVersion": "6.1.0",
        "BuildTime": "2026-11-21T00:00:00.000000000+00:00",
    });
    body.to_string().into()
}

fn list(shared: &Shared, request: &Request) -> Response<Body> {
    let filters = request.query.get("filters").map(String::as_str).unwrap_or_default();
    if !["", "{}", "null"].contains(&filters) {
        // Ignoring the filters would give a wrong answer.
        return message(StatusCode::BAD_REQUEST, "the fake engine's list has no filters");
    }
    let all = request.query.get("all").is_some_and(|all| is_true(all));
    let mut body = BytesMut::from(&b"["[..]);
    for container in lock(&shared.state).containers.values().filter(|container| all || container.running) {
        if body.len() > 1 {
            body.extend_from_slice(b",");
        }
        body.extend_from_slice(&container.list);
    }
    body.extend_from_slice(b"]\n");
    json_response(StatusCode::OK, body.freeze())
}

fn is_true(value: &str) -> bool {
    !["", "0", "no", "false", "none"].contains(&value.trim().to_lowercase().as_str())
}

fn events(shared: &Shared, request: &Request) -> Response<Body> {
    let parameter = |name: &str| request.query.get(name).map(String::as_str).unwrap_or_default();
    let parsed = (|| {
        let since = parse_time(parameter("since"))?;
        let until = parse_time(parameter("until"))?;
        if let (Some(since), Some(until)) = (since, until)
            && since > until
        {
            return Err(format!("`since` time ({since}) cannot be after `until` time ({until})"));
        }
        Ok((since, until, Filters::parse(parameter("filters"))?))
    })();
    let (since, until, filters) = match parsed {
        Ok(parsed) => parsed,
        Err(text) => return message(StatusCode::BAD_REQUEST, &text),
    };
    let legacy = {
        let state = lock(&shared.state);
        let version = request.version.as_deref().and_then(Version::parse).unwrap_or(state.maximum);
        match state.style {
            EventStyle::Auto => version < MODERN_EVENTS,
            EventStyle::Legacy => true,
            EventStyle::Modern => false,
        }
    };
    let lines = lock(&shared.broker).subscribe(since, until, filters, legacy);
    let mut response = Response::new(stream_body(lines, until, shared.hung.subscribe()));
    set_header(&mut response, "content-type", "application/json");
    response
}

/// moby's `seconds[.nanoseconds]`, the fraction filled up with zeros on its right; nothing and 0 are no time.
fn parse_time(text: &str) -> Result<Option<i64>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let invalid = || format!("invalid time: {text}");
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    if fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(invalid());
    }
    let seconds: i64 = seconds.parse().map_err(|_| invalid())?;
    let nanos: i64 = format!("{fraction:0<9}").parse().map_err(|_| invalid())?;
    seconds.checked_mul(1_000_000_000).and_then(|nano| nano.checked_add(nanos)).map(Some).ok_or_else(invalid)
}

fn stream_body(lines: mpsc::Receiver<Line>, until: Option<i64>, hung: watch::Receiver<bool>) -> Body {
    let end = until.map(|until| {
        let left = u64::try_from(until - now_nano()).unwrap_or(0);
        tokio::time::Instant::now() + Duration::from_nanos(left)
    });
    let frames = stream::unfold((lines, hung), move |(mut lines, mut hung)| async move {
        let line = match end {
            None => lines.recv().await,
            Some(end) => tokio::select! {
                biased;
                line = lines.recv() => line,
                () = tokio::time::sleep_until(end) => None,
            },
        };
        awake(&mut hung).await;
        if matches!(line, Some(Err(_))) {
            tokio::time::sleep(FLUSH).await;
        }
        Some((line?.map(Frame::data), (lines, hung)))
    });
    StreamBody::new(frames).boxed()
}

/// Waits while the whole engine hangs.
async fn awake(hung: &mut watch::Receiver<bool>) {
    // An error says that the engine has ended; there is nothing to wait for then.
    let _ = hung.wait_for(|hung| !hung).await;
}

/// Waits until a target is healed.
async fn hang(shared: &Shared, target: &Target) {
    let mut healed = shared.healed.subscribe();
    let before = lock(&shared.state).script.healed(target);
    while lock(&shared.state).script.healed(target) == before {
        if healed.changed().await.is_err() {
            return;
        }
    }
}

/// The first half of the right answer; half an event for the endless event stream.
async fn half(shared: &Shared, endpoint: Endpoint, request: &Request) -> Bytes {
    if endpoint == Endpoint::Events {
        return Bytes::from_static(br#"{"Type":"container","Action":"sta"#);
    }
    let whole = right_answer(shared, endpoint, request).into_body().collect().await;
    let whole = whole.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    whole.slice(..whole.len() / 2)
}

/// A body that breaks the connection after these bytes.
fn truncated(bytes: Bytes) -> Body {
    let frames = stream::unfold(Some(bytes), |bytes| async move {
        match bytes {
            Some(bytes) => Some((Ok(Frame::data(bytes)), None)),
            None => {
                tokio::time::sleep(FLUSH).await;
                Some((Err(io::Error::new(io::ErrorKind::ConnectionReset, "the script says so")), None))
            }
        }
    });
    StreamBody::new(frames).boxed()
}

fn endless(first: Bytes, again: Bytes) -> Body {
    let frames = stream::unfold(first, move |bytes| {
        let again = again.clone();
        async move { Some((Ok(Frame::data(bytes)), again)) }
    });
    StreamBody::new(frames).boxed()
}

fn text_response(text: &'static str) -> Response<Body> {
    let mut response = Response::new(full(text));
    set_header(&mut response, "content-type", "text/plain; charset=utf-8");
    response
}

fn json_response(status: StatusCode, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    set_header(&mut response, "content-type", "application/json");
    response
}

fn message(status: StatusCode, text: &str) -> Response<Body> {
    json_response(status, format!("{}\n", json!({"message": text})))
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed()
}

/// Adds the headers that moby sends with every answer.
fn headers(shared: &Shared, mut response: Response<Body>) -> Response<Body> {
    let version = lock(&shared.state).maximum.to_string();
    let now = now_nano().saturating_add(shared.clock_ahead.load(Ordering::Relaxed));
    let clock = jiff::Timestamp::from_nanosecond(i128::from(now)).ok();
    let date = clock.and_then(|clock| {
        jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&clock).ok()
    });
    if let Some(date) = date {
        set_header(&mut response, "date", &date);
    }
    set_header(&mut response, "api-version", &version);
    set_header(&mut response, "docker-experimental", "false");
    set_header(&mut response, "ostype", "linux");
    set_header(&mut response, "server", "Docker/fake (linux)");
    response
}

fn set_header(response: &mut Response<Body>, name: &'static str, value: &str) {
    if let Ok(value) = value.parse() {
        response.headers_mut().insert(name, value);
    }
}
