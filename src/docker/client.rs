//! The five API calls, each with a timeout and a size limit. Only this file, `transport.rs`, `api_version.rs` and
//! `vocabulary.rs` use bollard.
//!
//! bollard makes the version and ping calls, and builds the queries of the others. The list, inspect answers and events
//! use the same transport, but are parsed by [`list`](super::list), [`answer`](super::answer) and
//! [`event`](super::event): bollard's models for them reject a whole answer because of one unknown word, and bollard
//! gives no access to the raw answer.

use std::collections::HashMap;
use std::error::Error;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder};
use bollard::{API_DEFAULT_VERSION, Docker};
use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::answer::{self, Selection};
use super::api_version::EngineVersion;
use super::bounds;
use super::fields::{Oddities, cut};
use super::list::{ListEntry, ListReader};
use super::transport::{EndpointError, Transport};
use super::watcher::Outcome;
use crate::config;
use crate::inventory::Text;

/// How many characters of the daemon's error message are logged.
const LONGEST_REFUSAL: usize = 500;

/// A daemon, and the API version negotiated with it.
#[derive(Clone)]
pub(super) struct Client {
    transport: Transport,
    bollard: Docker,
    timeout: Duration,
    /// `/v1.41`: the prefix of every path, except for the calls that negotiate it.
    version: Arc<str>,
    is_podman: bool,
    /// Whether the daemon sends an event when it rotates its log.
    tells_of_rotation: bool,
    /// Each large inspect answer holds a permit.
    large_inspects: Arc<Semaphore>,
}

/// After this time, a Podman that has not answered is assumed to have subscribed us. Versions 5.1 and 5.2 send the
/// headers only with the first event, which may be hours away. Podman replays the events from before it subscribed us.
const SUBSCRIBED_WITHIN: Duration = Duration::from_millis(500);

impl Client {
    /// Does not connect yet.
    pub(super) fn new(config: &config::Docker) -> Result<Self, EndpointError> {
        let transport = Transport::new(config)?;
        // bollard's timeout is in whole seconds and covers only the headers; the timeout here covers each whole call.
        let longest = config.timeout.as_secs().saturating_add(1);
        let for_bollard = transport.clone();
        let bollard = Docker::connect_with_custom_transport(
            move |request| for_bollard.clone().forward(request),
            Some("http://docker"),
            longest,
            API_DEFAULT_VERSION,
        )
        .map_err(|error| EndpointError::Client(error.to_string()))?;
        Ok(Self {
            transport,
            bollard,
            timeout: config.timeout,
            version: "".into(),
            is_podman: false,
            tells_of_rotation: false,
            large_inspects: Arc::new(Semaphore::new(bounds::LARGE_INSPECTS)),
        })
    }

    /// A client of the same daemon with new connections. It negotiates the API version again: the daemon may have been
    /// replaced.
    pub(super) async fn connect(&self, config: &config::Docker) -> Result<Self, String> {
        // `new` reads certificates, which may be on a mount that hangs.
        let settings = config.clone();
        let fresh = tokio::task::spawn_blocking(move || Self::new(&settings));
        let fresh = self.within(async { fresh.await.map_err(|error| error.to_string()) }).await?;
        let fresh = fresh.map_err(|error| error.to_string())?;
        let version = fresh.within(fresh.engine_version()).await?;
        Ok(Self {
            version: version.path_prefix()?.into(),
            is_podman: version.is_podman,
            tells_of_rotation: version.tells_of_rotation,
            ..fresh
        })
    }

    /// Asks through bollard first. If bollard's model rejects the answer, asks again and parses only the needed fields.
    async fn engine_version(&self) -> Result<EngineVersion, String> {
        use bollard::errors::Error::{JsonDataError, JsonSerdeError};
        match self.bollard.version().await {
            Ok(version) => Ok(version.into()),
            Err(JsonDataError { .. } | JsonSerdeError { .. }) => {
                let body = read(ok(self.answer("/version").await?).await?, bounds::SMALL_ANSWER).await?;
                EngineVersion::read(&body).map_err(|error| format!("the version cannot be read: {error}"))
            }
            Err(error) => Err(plain(&error)),
        }
    }

    /// The time in the daemon's last answer, by its own clock.
    pub(super) fn dated(&self) -> Option<SystemTime> {
        self.transport.dated()
    }

    /// Asks whether the daemon is there.
    pub(super) async fn ping(&self, within: Duration) -> Result<(), String> {
        let pong = tokio::time::timeout(within, self.bollard.ping()).await;
        pong.map_err(|_| late(within))?.map(drop).map_err(|error| plain(&error))
    }

    /// Lists all containers.
    pub(super) async fn list(
        &self,
        selection: &Selection,
        odd: &mut Oddities,
    ) -> Result<Vec<ListEntry>, String> {
        let unreadable = |error| format!("the list cannot be read: {error}");
        let list = async {
            let answer = ok(self.answer(&list_path()).await?).await?;
            let mut body = Limited::new(answer.into_body(), bounds::LIST);
            let mut reader = ListReader::new(selection);
            while let Some(chunk) = chunk(&mut body, bounds::LIST).await? {
                reader.push(&chunk, odd).map_err(unreadable)?;
            }
            reader.finish(odd).map_err(unreadable)
        };
        self.within(list).await
    }

    /// Inspects a container.
    pub(super) async fn inspect(&self, id: &Text, selection: &Selection, odd: &mut Oddities) -> Outcome {
        let path = format!("/containers/{id}/json");
        let body = self.within(async {
            match self.answer(&path).await? {
                answer if answer.status() == StatusCode::NOT_FOUND => Ok(None),
                answer if answer.status() == StatusCode::INTERNAL_SERVER_ERROR => {
                    let (status, body) = (answer.status(), beginning(answer).await);
                    if says_gone(id, &body) { Ok(None) } else { Err(refusal(status, &body)) }
                }
                answer => self.inspect_answer(ok(answer).await?).await.map(Some),
            }
        });
        match body.await {
            Ok(Some((body, _large))) => match answer::inspect(id, &body, selection, odd) {
                Ok(container) => Outcome::Found(Arc::new(container)),
                Err(error) => Outcome::Failed(format!("the answer cannot be read: {error}")),
            },
            Ok(None) => Outcome::Gone,
            Err(why) => Outcome::Failed(why),
        }
    }

    /// Reads an inspect answer. If it is large, also returns a permit, to be held while the answer is in memory. A task
    /// that waits for a permit stops reading, and holds nothing that others wait for.
    async fn inspect_answer(
        &self,
        answer: Response<Incoming>,
    ) -> Result<(Bytes, Option<SemaphorePermit<'_>>), String> {
        let mut body = Limited::new(answer.into_body(), bounds::INSPECT);
        let mut read = BytesMut::new();
        let mut large = None;
        while let Some(chunk) = chunk(&mut body, bounds::INSPECT).await? {
            if large.is_none() && read.len() + chunk.len() > bounds::INSPECT_FREE {
                large = Some(self.large_inspects.acquire().await.map_err(|error| error.to_string())?);
            }
            read.extend_from_slice(&chunk);
        }
        Ok((read.freeze(), large))
    }

    /// Subscribes to the events, and requests a replay of those after `since`. Calls `open` when the daemon has
    /// answered, or is assumed to have subscribed us. The body has no end.
    pub(super) async fn events(
        &self,
        types: &[String],
        since: Option<SystemTime>,
        open: impl AsyncFnOnce(),
    ) -> Result<Incoming, String> {
        let path = events_path(types, since, self.tells_of_rotation);
        let answer = async { Ok::<_, String>(ok(self.answer(&path).await?).await?.into_body()) };
        if !self.is_podman {
            let body = self.within(answer).await?;
            open().await;
            return Ok(body);
        }
        let mut answer = std::pin::pin!(answer);
        if let Ok(answered) = tokio::time::timeout(SUBSCRIBED_WITHIN, &mut answer).await {
            let body = answered?;
            open().await;
            return Ok(body);
        }
        open().await;
        answer.await
    }

    async fn answer(&self, path: &str) -> Result<Response<Incoming>, String> {
        let answer = self.transport.get(&format!("{}{path}", self.version)).await;
        answer.map_err(|error: io::Error| error.to_string())
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, String>>) -> Result<T, String> {
        tokio::time::timeout(self.timeout, call).await.unwrap_or_else(|_| Err(late(self.timeout)))
    }
}

fn late(limit: Duration) -> String {
    format!("no answer within {limit:?}")
}

/// The next chunk of an answer that is no longer than `limit`.
async fn chunk(body: &mut Limited<Incoming>, limit: usize) -> Result<Option<Bytes>, String> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| match error.is::<LengthLimitError>() {
            true => format!("the answer is longer than {limit} bytes"),
            false => format!("the answer broke off: {error}"),
        })?;
        if let Ok(chunk) = frame.into_data() {
            return Ok(Some(chunk));
        }
    }
    Ok(None)
}

async fn read(answer: Response<Incoming>, limit: usize) -> Result<Bytes, String> {
    let mut body = Limited::new(answer.into_body(), limit);
    let mut read = BytesMut::new();
    while let Some(chunk) = chunk(&mut body, limit).await? {
        read.extend_from_slice(&chunk);
    }
    Ok(read.freeze())
}

/// The beginning of an error response, even if it is too long or breaks off.
async fn beginning(answer: Response<Incoming>) -> Bytes {
    let mut body = Limited::new(answer.into_body(), bounds::REFUSAL);
    let mut read = BytesMut::new();
    while let Ok(Some(chunk)) = chunk(&mut body, bounds::REFUSAL).await {
        read.extend_from_slice(&chunk);
    }
    read.freeze()
}

/// The answer if its status is a success, else the daemon's error.
async fn ok(answer: Response<Incoming>) -> Result<Response<Incoming>, String> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    Err(refusal(status, &beginning(answer).await))
}

#[derive(serde::Deserialize)]
struct Refusal {
    message: String,
    /// Podman only: the innermost error of the chain in `message`.
    #[serde(default)]
    cause: String,
}

fn refusal(status: StatusCode, body: &[u8]) -> String {
    let message = match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => refusal.message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    format!("{status}: {}", cut(message.trim(), LONGEST_REFUSAL))
}

/// Whether a failure is Podman's way of saying that this container went away while it was inspected.
fn says_gone(id: &str, body: &[u8]) -> bool {
    serde_json::from_slice::<Refusal>(body).is_ok_and(|refusal| {
        matches!(&*refusal.cause, "no such container" | "container has already been removed")
            && refusal.message.contains(id)
    })
}

/// The root cause of an error. The outer errors only say that a call has failed.
fn plain(error: &bollard::errors::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn list_path() -> String {
    with_query("/containers/json", ListContainersOptionsBuilder::new().all(true).build())
}

/// The path of the event stream. Events of containers and networks are always requested, counted or not: they keep the
/// state up to date.
fn events_path(types: &[String], since: Option<SystemTime>, with_rotations: bool) -> String {
    let mut options = EventsOptionsBuilder::new();
    if let Some(since) = since.and_then(|since| since.duration_since(UNIX_EPOCH).ok()) {
        options = options.since(&format!("{}.{:09}", since.as_secs(), since.subsec_nanos()));
    }
    if !types.iter().any(|t| t == "*") {
        let mut wanted: Vec<&str> =
            types.iter().map(String::as_str).chain(["container", "network"]).collect();
        // If asked for `system` events, an older Podman also skips events at a rotation, as newer ones do (tested with
        // 4.3.1).
        wanted.extend(with_rotations.then_some("system"));
        wanted.sort_unstable();
        wanted.dedup();
        options = options.filters(&HashMap::from([("type", wanted)]));
    }
    with_query("/events", options.build())
}

fn with_query(path: &str, options: impl serde::Serialize) -> String {
    // The options are numbers, flags and texts, which can always be encoded as a query.
    let query = serde_urlencoded::to_string(options).unwrap_or_default();
    format!("{path}?{query}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn podman_fails_where_a_container_goes_away_meanwhile() {
        let of = |id: &str, cause: &str| {
            let message = format!("container {id} does not exist in database: {cause}");
            serde_json::json!({"cause": cause, "message": message, "response": 500}).to_string()
        };
        assert!(says_gone("0123", of("0123", "no such container").as_bytes()));
        assert!(says_gone("0123", of("0123", "container has already been removed").as_bytes()));
        assert!(!says_gone("0123", of("4567", "no such container").as_bytes()));
        assert!(!says_gone("0123", of("0123", "database is locked").as_bytes()));
        for body in [r#"{"message":"no such container: 0123"}"#, "no such container", ""] {
            assert!(!says_gone("0123", body.as_bytes()), "{body}");
        }
        let failed = refusal(StatusCode::INTERNAL_SERVER_ERROR, of("0123", "no such file").as_bytes());
        assert_eq!(
            failed,
            "500 Internal Server Error: container 0123 does not exist in database: no such file"
        );
    }

    #[test]
    fn the_stream_is_asked_for_the_types_that_are_needed() {
        let path = |types: &[&str]| {
            let types: Vec<String> = types.iter().map(ToString::to_string).collect();
            let path = events_path(&types, None, false);
            url::form_urlencoded::parse(path.trim_start_matches("/events?").as_bytes())
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
                .join("&")
        };
        assert_eq!(path(&["container"]), r#"filters={"type":["container","network"]}"#);
        assert_eq!(path(&["image", "network"]), r#"filters={"type":["container","image","network"]}"#);
        assert_eq!(path(&["*"]), "");
        let since = UNIX_EPOCH + Duration::new(5, 7);
        assert_eq!(events_path(&["*".into()], Some(since), true), "/events?since=5.000000007");
    }
}
