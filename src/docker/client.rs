//! The five calls, each with its time limit. This file and `transport.rs` are the only ones that know
//! bollard.
//!
//! bollard asks for the version and pings. The list, inspect answers and events are asked for over the same
//! transport, but read by [`answer`](super::answer): bollard's models for them refuse a whole answer for one
//! word that they do not know, and it offers no other way to the answer's text.

use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::{API_DEFAULT_VERSION, ClientVersion, Docker};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;

use super::answer::{self, ListEntry, Oddity, Selection};
use super::transport::{EndpointError, Transport};
use super::watcher::Outcome;
use crate::config;
use crate::inventory::Text;

/// More than the list of 100,000 containers. An answer that does not end must not take all memory.
const LARGEST_ANSWER: usize = 512 * 1024 * 1024;

/// Of the daemon's own words for why it refuses, so many characters are logged.
const LONGEST_REFUSAL: usize = 500;

/// A daemon, and the API version that was agreed with it.
#[derive(Clone)]
pub(super) struct Client {
    transport: Transport,
    bollard: Docker,
    timeout: Duration,
    /// `/v1.41`, before every path but those that agree on it.
    version: Arc<str>,
    is_podman: bool,
}

/// From when on Podman is taken to know of a subscription that it does not answer. Versions 5.1 and 5.2 send the
/// headers with the first event only, and that may be hours away. What happens until it does know, it repeats.
const SUBSCRIBED_WITHIN: Duration = Duration::from_millis(500);

impl Client {
    /// Connects to nothing yet.
    pub(super) fn new(config: &config::Docker) -> Result<Self, EndpointError> {
        let transport = Transport::new(config)?;
        // bollard counts in seconds, and only up to the headers; each call is bounded here as a whole.
        let longest = config.timeout.as_secs().saturating_add(1);
        let for_bollard = transport.clone();
        let bollard = Docker::connect_with_custom_transport(
            move |request| for_bollard.clone().forward(request),
            Some("http://docker"),
            longest,
            API_DEFAULT_VERSION,
        )
        .map_err(|error| EndpointError::Client(error.to_string()))?;
        Ok(Self { transport, bollard, timeout: config.timeout, version: "".into(), is_podman: false })
    }

    /// The same daemon over new connections, with the API version agreed on anew: it may have been replaced by
    /// another one since.
    pub(super) async fn connect(&self, config: &config::Docker) -> Result<Self, String> {
        // It reads certificates, which may be on a mount that hangs.
        let settings = config.clone();
        let fresh = tokio::task::spawn_blocking(move || Self::new(&settings));
        let fresh = self.within(async { fresh.await.map_err(|error| error.to_string()) }).await?;
        let fresh = fresh.map_err(|error| error.to_string())?;
        let version = fresh.within(async { fresh.bollard.version().await.map_err(plain) }).await?;
        let newest = version.api_version.as_deref().and_then(parse_version);
        let oldest = version.min_api_version.as_deref().and_then(parse_version);
        let newest = newest
            .ok_or_else(|| format!("the daemon's API version cannot be read: {:?}", version.api_version))?;
        let agreed = agree(newest, oldest);
        let is_podman = version.components.iter().flatten().any(|part| part.name == "Podman Engine");
        Ok(Self { version: format!("/v{}.{}", agreed.0, agreed.1).into(), is_podman, ..fresh })
    }

    /// Asks whether the daemon is there.
    pub(super) async fn ping(&self, within: Duration) -> Result<(), String> {
        let pong = tokio::time::timeout(within, self.bollard.ping()).await;
        pong.map_err(|_| late(within))?.map(drop).map_err(plain)
    }

    /// Lists all containers.
    pub(super) async fn list(&self, odd: &mut Vec<Oddity>) -> Result<Vec<ListEntry>, String> {
        let body = self.within(async { self.body("/containers/json?all=1").await }).await?;
        answer::list(&body, odd).map_err(|error| format!("the list cannot be read: {error}"))
    }

    /// Inspects a container.
    pub(super) async fn inspect(&self, id: &Text, selection: &Selection, odd: &mut Vec<Oddity>) -> Outcome {
        let path = format!("/containers/{id}/json");
        let body = self.within(async {
            match self.answer(&path).await? {
                answer if answer.status() == StatusCode::NOT_FOUND => Ok(None),
                answer if answer.status() == StatusCode::INTERNAL_SERVER_ERROR => {
                    let (status, body) = (answer.status(), read(answer).await?);
                    if says_gone(id, &body) { Ok(None) } else { Err(refusal(status, &body)) }
                }
                answer => read(ok(answer).await?).await.map(Some),
            }
        });
        match body.await {
            Ok(Some(body)) => match answer::inspect(id, &body, selection, odd) {
                Ok(container) => Outcome::Found(Arc::new(container)),
                Err(error) => Outcome::Failed(format!("the answer cannot be read: {error}")),
            },
            Ok(None) => Outcome::Gone,
            Err(why) => Outcome::Failed(why),
        }
    }

    /// Subscribes to the events, with those since a moment. Calls `open` when the daemon has answered, or is
    /// taken to know of the subscription; the body is without end.
    pub(super) async fn events(
        &self,
        types: &[String],
        since: Option<SystemTime>,
        open: impl AsyncFnOnce(),
    ) -> Result<Incoming, String> {
        let path = events_path(types, since);
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

    async fn body(&self, path: &str) -> Result<Bytes, String> {
        read(ok(self.answer(path).await?).await?).await
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

async fn read(answer: Response<Incoming>) -> Result<Bytes, String> {
    let body = Limited::new(answer.into_body(), LARGEST_ANSWER).collect().await;
    body.map(http_body_util::Collected::to_bytes).map_err(|error| format!("the answer broke off: {error}"))
}

/// The answer, unless it is the daemon's refusal.
async fn ok(answer: Response<Incoming>) -> Result<Response<Incoming>, String> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    Err(refusal(status, &read(answer).await.unwrap_or_default()))
}

#[derive(serde::Deserialize)]
struct Refusal {
    message: String,
    /// Podman's: the last of the errors that the message is made of.
    #[serde(default)]
    cause: String,
}

fn refusal(status: StatusCode, body: &[u8]) -> String {
    let message = match serde_json::from_slice::<Refusal>(body) {
        Ok(refusal) => refusal.message,
        Err(_) => String::from_utf8_lossy(body).into_owned(),
    };
    format!("{status}: {}", answer::cut(message.trim(), LONGEST_REFUSAL))
}

/// Whether a failure is Podman's way of saying that this container went away while it was inspected.
fn says_gone(id: &str, body: &[u8]) -> bool {
    serde_json::from_slice::<Refusal>(body).is_ok_and(|refusal| {
        matches!(&*refusal.cause, "no such container" | "container has already been removed")
            && refusal.message.contains(id)
    })
}

fn plain(error: bollard::errors::Error) -> String {
    match error {
        bollard::errors::Error::IOError { err } => err.to_string(),
        error => error.to_string(),
    }
}

/// The query of the event stream. Containers' events are always asked for: they keep the state right.
fn events_path(types: &[String], since: Option<SystemTime>) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    if let Some(since) = since.and_then(|since| since.duration_since(UNIX_EPOCH).ok()) {
        query.append_pair("since", &format!("{}.{:09}", since.as_secs(), since.subsec_nanos()));
    }
    if !types.iter().any(|t| t == "*") {
        let mut wanted: Vec<&str> = types.iter().map(String::as_str).chain(["container"]).collect();
        wanted.sort_unstable();
        wanted.dedup();
        query.append_pair("filters", &serde_json::json!({ "type": wanted }).to_string());
    }
    format!("/events?{}", query.finish())
}

type Version = (usize, usize);

/// bollard's newest version, or the daemon's if that is older. A daemon that is too new for both is taken at
/// the oldest that it still speaks: what is used here has not changed for years.
fn agree(newest: Version, oldest: Option<Version>) -> Version {
    let ClientVersion { major_version, minor_version } = *API_DEFAULT_VERSION;
    newest.min((major_version, minor_version)).max(oldest.unwrap_or_default())
}

fn parse_version(version: &str) -> Option<Version> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_one_that_both_speak() {
        assert_eq!(agree((1, 41), Some((1, 12))), (1, 41));
        assert_eq!(agree((1, 41), None), (1, 41));
        assert_eq!(agree((1, 60), Some((1, 44))), (1, 53));
        assert_eq!(agree((1, 60), Some((1, 55))), (1, 55));
        assert_eq!(agree((2, 1), Some((2, 0))), (2, 0));
        assert_eq!(parse_version("1.41"), Some((1, 41)));
        assert_eq!(parse_version("one"), None);
    }

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
            let path = events_path(&types, None);
            url::form_urlencoded::parse(path.trim_start_matches("/events?").as_bytes())
                .map(|(key, value)| format!("{key}={value}"))
                .collect::<Vec<_>>()
                .join("&")
        };
        assert_eq!(path(&["container"]), r#"filters={"type":["container"]}"#);
        assert_eq!(path(&["network"]), r#"filters={"type":["container","network"]}"#);
        assert_eq!(path(&["*"]), "");
        let since = UNIX_EPOCH + Duration::new(5, 7);
        assert_eq!(events_path(&["*".into()], Some(since)), "/events?since=5.000000007");
    }
}
