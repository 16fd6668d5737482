//! The daemon's answers, reduced to what this program uses.
//!
//! bollard's own models refuse a whole answer for one word that they do not know: one container in a new
//! state would hide a thousand others. Here each field is read by itself. What is missing or null takes its
//! default; what is there and cannot be read is counted, shows as -1 where a number is asked for, and costs
//! nothing else. Nothing is built of the parts of an answer that are not used.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use crate::config::Filter;
use crate::inventory::{Container, EventIdentity, Health, LabelPairs, Status, Text};

/// What is chosen of containers and their labels.
#[derive(Debug)]
pub(super) struct Selection {
    /// Of label keys: which labels become metric labels.
    pub(super) labels: Filter,
    /// Of label keys: which labels become event labels.
    pub(super) event_labels: Filter,
    texts: Texts,
}

impl Selection {
    pub(super) fn new(labels: Filter, event_labels: Filter) -> Self {
        Self { labels, event_labels, texts: Texts::default() }
    }
}

/// Texts that many containers have alike: label keys, images. Each is kept once.
#[derive(Debug, Default)]
struct Texts(Mutex<HashSet<Text>>);

impl Texts {
    /// More than these may be kept only while containers have them.
    const IDLE: usize = 256;

    fn get(&self, text: &str) -> Text {
        let mut texts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = texts.get(text) {
            return Text::clone(kept);
        }
        // Before it would grow: what nobody has any more goes.
        if texts.len() >= Self::IDLE && texts.len() == texts.capacity() {
            texts.retain(|kept| Text::strong_count(kept) > 1);
            let room = (2 * texts.len()).max(Self::IDLE);
            texts.shrink_to(room);
        }
        let text = Text::from(text);
        texts.insert(Text::clone(&text));
        text
    }
}

/// An entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListEntry {
    pub(super) id: Text,
    /// Without its slash; empty where the entry has none.
    pub(super) name: Text,
}

/// A part of an answer that could not be read, as it is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Oddity {
    /// What could not be read: `State.Status`.
    pub(super) what: String,
    /// How it was written.
    pub(super) value: String,
}

impl Oddity {
    pub(super) fn new(what: impl Into<String>, value: &str) -> Self {
        const LONGEST: usize = 120;
        Self { what: cut(&what.into(), LONGEST), value: cut(value, LONGEST) }
    }
}

/// As much of a daemon's text as is worth a place in a log line.
pub(super) fn cut(text: &str, longest: usize) -> String {
    let mut short: String = text.chars().take(longest + 1).collect();
    if short.chars().count() > longest {
        short.pop();
        short.push('…');
    }
    short
}

/// Reads the list. Only an answer that is no JSON list at all is an error.
pub(super) fn list(body: &[u8], odd: &mut Vec<Oddity>) -> Result<Vec<ListEntry>, serde_json::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Raw<'a> {
        #[serde(borrow, default)]
        id: Option<&'a RawValue>,
        #[serde(borrow, default)]
        names: Option<&'a RawValue>,
    }
    let entries: Option<Vec<&RawValue>> = serde_json::from_slice(body)?;
    let mut list = Vec::new();
    for entry in entries.unwrap_or_default() {
        let Ok(raw) = only_object::<Raw<'_>>(entry.get().as_bytes()) else {
            odd.push(Oddity::new("list entry", entry.get()));
            continue;
        };
        let Some(id) = field::<String>(raw.id, "Id", odd).filter(|id| is_id(id)) else {
            odd.push(Oddity::new("list entry without an id", entry.get()));
            continue;
        };
        // A container has one name and, of old, one more for each link to it: those hold another slash.
        let names: Vec<String> = field(raw.names, "Names", odd).unwrap_or_default();
        let own = names.iter().map(|n| n.strip_prefix('/').unwrap_or(n)).find(|n| !n.contains('/'));
        list.push(ListEntry { id: id.into(), name: own.unwrap_or_default().into() });
    }
    Ok(list)
}

/// Whether this can be a container's id, and so a part of a path.
pub(super) fn is_id(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric())
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawInspect<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    created: Option<&'a RawValue>,
    #[serde(borrow)]
    image: Option<&'a RawValue>,
    #[serde(borrow)]
    restart_count: Option<&'a RawValue>,
    #[serde(borrow)]
    state: Option<&'a RawValue>,
    #[serde(borrow)]
    config: Option<&'a RawValue>,
    #[serde(borrow)]
    host_config: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawState<'a> {
    #[serde(borrow)]
    status: Option<&'a RawValue>,
    #[serde(borrow, rename = "OOMKilled")]
    oom_killed: Option<&'a RawValue>,
    #[serde(borrow)]
    started_at: Option<&'a RawValue>,
    #[serde(borrow)]
    finished_at: Option<&'a RawValue>,
    #[serde(borrow)]
    exit_code: Option<&'a RawValue>,
    #[serde(borrow)]
    health: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawHealth<'a> {
    #[serde(borrow)]
    status: Option<&'a RawValue>,
    #[serde(borrow)]
    failing_streak: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawConfig<'a> {
    #[serde(borrow)]
    image: Option<&'a RawValue>,
    #[serde(borrow)]
    hostname: Option<&'a RawValue>,
    #[serde(borrow)]
    labels: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawHostConfig<'a> {
    #[serde(borrow)]
    restart_policy: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawRestartPolicy<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
}

/// Reads an inspect answer. Only an answer that is no JSON object at all is an error.
pub(super) fn inspect(
    id: &Text,
    body: &[u8],
    selection: &Selection,
    odd: &mut Vec<Oddity>,
) -> Result<Container, serde_json::Error> {
    let raw: RawInspect<'_> = only_object(body)?;
    let state: RawState<'_> = object(raw.state, "State", odd);
    let health: RawHealth<'_> = object(state.health, "State.Health", odd);
    let config: RawConfig<'_> = object(raw.config, "Config", odd);
    let host_config: RawHostConfig<'_> = object(raw.host_config, "HostConfig", odd);
    let restart_policy: RawRestartPolicy<'_> =
        object(host_config.restart_policy, "HostConfig.RestartPolicy", odd);

    let name = field::<String>(raw.name, "Name", odd).unwrap_or_default();
    let name: Text = name.strip_prefix('/').unwrap_or(&name).into();
    let texts = &selection.texts;
    let image = texts.get(&text(config.image, "Config.Image", odd));
    let labels: BTreeMap<String, String> = label_map(config.labels, odd);
    Ok(Container {
        id: Text::clone(id),
        labels: choose(&labels, &selection.labels, texts),
        status: status(state.status, odd),
        health: health_status(health.status, odd),
        oom_killed: field(state.oom_killed, "State.OOMKilled", odd).unwrap_or(false),
        started_at: time(state.started_at, "State.StartedAt", odd),
        finished_at: time(state.finished_at, "State.FinishedAt", odd),
        created_at: time(raw.created, "Created", odd),
        restart_count: number(raw.restart_count, "RestartCount", odd),
        exit_code: number(state.exit_code, "State.ExitCode", odd),
        failing_streak: number(health.failing_streak, "State.Health.FailingStreak", odd),
        image_id: texts.get(&text(raw.image, "Image", odd)),
        restart_policy: texts.get(&text(restart_policy.name, "HostConfig.RestartPolicy.Name", odd)),
        hostname: text(config.hostname, "Config.Hostname", odd).into(),
        event_identity: Arc::new(event_identity(Some(&name), Some(&image), &labels, selection)),
        name,
        image,
    })
}

/// What the events of a container carry because of its labels. Events and inspect answers both give all
/// labels, so a count is under the same label set before its first event and after.
pub(super) fn event_identity(
    name: Option<&Text>,
    image: Option<&Text>,
    labels: &BTreeMap<String, String>,
    selection: &Selection,
) -> EventIdentity {
    let get = |key: &str| labels.get(key).map(|value| Text::from(value.as_str()));
    let container = get("io.kubernetes.container.name");
    let sandbox = container.as_deref() == Some("POD")
        || labels.get("io.kubernetes.docker.type").is_some_and(|kind| kind == "podsandbox");
    EventIdentity {
        name: name.cloned(),
        image: image.cloned(),
        pod: get("io.kubernetes.pod.name"),
        env: get("io.kubernetes.pod.namespace"),
        container,
        labels: choose(labels, &selection.event_labels, &selection.texts)
            .into_iter()
            .filter(|(key, _)| !is_attribute(key))
            .collect(),
        sandbox,
    }
}

/// An event's own attributes stand among its container's labels. They are no labels, and a label that is called
/// like one of them is hidden by it.
fn is_attribute(key: &str) -> bool {
    matches!(
        key,
        "name"
            | "image"
            | "exitCode"
            | "containerExitCode"
            | "execID"
            | "execDuration"
            | "signal"
            | "oldName"
            | "podId"
            | "health_status"
            | "oomKilled"
    )
}

/// The labels that the filter lets pass, in the order of their keys.
fn choose(labels: &BTreeMap<String, String>, filter: &Filter, texts: &Texts) -> LabelPairs {
    if filter.is_none() {
        return Vec::new();
    }
    let chosen = labels.iter().filter(|(key, _)| filter.matches(key));
    chosen.map(|(key, value)| (texts.get(key), value.as_str().into())).collect()
}

/// A field that is there, not null, and of its type.
pub(super) fn field<T: DeserializeOwned>(
    raw: Option<&RawValue>,
    what: &str,
    odd: &mut Vec<Oddity>,
) -> Option<T> {
    let raw = raw.filter(|raw| raw.get() != "null")?;
    let value = serde_json::from_str(raw.get());
    if value.is_err() {
        odd.push(Oddity::new(what, raw.get()));
    }
    value.ok()
}

/// An object whose fields are still to be read.
pub(super) fn object<'a, T: Deserialize<'a> + Default>(
    raw: Option<&'a RawValue>,
    what: &str,
    odd: &mut Vec<Oddity>,
) -> T {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return T::default() };
    only_object(raw.get().as_bytes()).unwrap_or_else(|_| {
        odd.push(Oddity::new(what, raw.get()));
        T::default()
    })
}

/// serde takes a list for a struct too: its fields in their order.
pub(super) fn only_object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, serde_json::Error> {
    if json.trim_ascii_start().first().is_some_and(|&first| first != b'{') {
        return Err(serde::de::Error::custom("expected an object"));
    }
    serde_json::from_slice(json)
}

fn text(raw: Option<&RawValue>, what: &str, odd: &mut Vec<Oddity>) -> String {
    field::<String>(raw, what, odd).unwrap_or_default()
}

fn number(raw: Option<&RawValue>, what: &str, odd: &mut Vec<Oddity>) -> i64 {
    let before = odd.len();
    field(raw, what, odd).unwrap_or(if odd.len() > before { -1 } else { 0 })
}

/// A time in whole seconds; 0 for the daemon's "never", which is the year 1.
fn time(raw: Option<&RawValue>, what: &str, odd: &mut Vec<Oddity>) -> i64 {
    let before = odd.len();
    let Some(written) = field::<String>(raw, what, odd) else {
        return if odd.len() > before { -1 } else { 0 };
    };
    // Podman writes nothing for what has not happened.
    if written.is_empty() {
        return 0;
    }
    match written.parse::<Timestamp>() {
        // Rounded down, also before 1970, as the existing exporter's Unix() does.
        Ok(time) => match time.as_nanosecond().div_euclid(1_000_000_000) {
            YEAR_ONE => 0,
            seconds => i64::try_from(seconds).unwrap_or(-1),
        },
        Err(_) => {
            odd.push(Oddity::new(what, &written));
            -1
        }
    }
}

/// 0001-01-01T00:00:00Z
const YEAR_ONE: i128 = -62_135_596_800;

fn status(raw: Option<&RawValue>, odd: &mut Vec<Oddity>) -> Status {
    let Some(word) = field::<String>(raw, "State.Status", odd) else { return Status::Unknown };
    Status::from_word(&word).or_else(|| podmans_status(&word)).unwrap_or_else(|| {
        odd.push(Oddity::new("State.Status", &word));
        Status::Unknown
    })
}

/// Podman's own words, which its Docker-compatible API lets through before 5.6, as that version translates them.
fn podmans_status(word: &str) -> Option<Status> {
    match word {
        "configured" | "initialized" => Some(Status::Created),
        "stopping" => Some(Status::Running),
        "stopped" => Some(Status::Exited),
        _ => None,
    }
}

fn health_status(raw: Option<&RawValue>, odd: &mut Vec<Oddity>) -> Health {
    let before = odd.len();
    let Some(word) = field::<String>(raw, "State.Health.Status", odd) else {
        return if odd.len() > before { Health::Unknown } else { Health::None };
    };
    // Empty is Podman's way of saying that there is no check.
    if word.is_empty() {
        return Health::None;
    }
    Health::from_word(&word).unwrap_or_else(|| {
        odd.push(Oddity::new("State.Health.Status", &word));
        Health::Unknown
    })
}

/// Labels whose values are no text are left out, each by itself.
pub(super) fn label_map(raw: Option<&RawValue>, odd: &mut Vec<Oddity>) -> BTreeMap<String, String> {
    let raw: BTreeMap<String, &RawValue> = object(raw, "labels", odd);
    let text = |(key, value): (String, &RawValue)| match serde_json::from_str(value.get()) {
        Ok(text) => Some((key, text)),
        Err(_) => {
            // A container has dozens of them, so their names are only made where they are told.
            if value.get() != "null" {
                odd.push(Oddity::new(format!("label {key}"), value.get()));
            }
            None
        }
    };
    raw.into_iter().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selection() -> Selection {
        Selection::new(Filter::all(), Filter::none())
    }

    fn read(body: &str) -> (Container, Vec<String>) {
        let mut odd = Vec::new();
        let container = inspect(&"0123".into(), body.as_bytes(), &selection(), &mut odd);
        (container.unwrap(), odd.into_iter().map(|o| format!("{}: {}", o.what, o.value)).collect())
    }

    #[test]
    fn a_whole_answer_is_read() {
        let (c, odd) = read(
            r#"{"Id":"0123","Name":"/web","Created":"2026-11-21T07:11:53.030188422Z","Image":"sha256:1",
            "RestartCount":7,"State":{"Status":"restarting","OOMKilled":true,"ExitCode":137,
            "StartedAt":"2026-11-21T07:11:53Z","FinishedAt":"0001-01-01T00:00:00Z",
            "Health":{"Status":"unhealthy","FailingStreak":4,"Log":[{"Start":1}]}},
            "Config":{"Image":"bb:1","Hostname":"h","Labels":{"b":"2","a":"1"}},
            "HostConfig":{"RestartPolicy":{"Name":"always","MaximumRetryCount":0}}}"#,
        );
        assert!(odd.is_empty(), "{odd:?}");
        assert_eq!((&*c.name, &*c.image, &*c.image_id, &*c.hostname), ("web", "bb:1", "sha256:1", "h"));
        assert_eq!(c.labels, [("a".into(), "1".into()), ("b".into(), "2".into())]);
        assert_eq!((c.status, c.health, c.oom_killed), (Status::Restarting, Health::Unhealthy, true));
        assert_eq!((c.restart_count, c.exit_code, c.failing_streak), (7, 137, 4));
        assert_eq!((c.created_at, c.started_at, c.finished_at), (1_795_245_113, 1_795_245_113, 0));
        assert_eq!(&*c.restart_policy, "always");
    }

    #[test]
    fn what_is_missing_or_null_is_no_oddity() {
        for body in [
            "{}",
            r#"{"State":null,"Config":null,"HostConfig":null,"Name":null}"#,
            r#"{"State":{"Health":null,"StartedAt":""},"Config":{"Labels":null}}"#,
        ] {
            let (c, odd) = read(body);
            assert!(odd.is_empty(), "{odd:?}");
            assert_eq!((c.status, c.health), (Status::Unknown, Health::None));
            assert_eq!((c.started_at, c.exit_code), (0, 0));
        }
    }

    #[test]
    fn what_cannot_be_read_shows_by_itself_and_costs_nothing_else() {
        let (c, odd) = read(
            r#"{"Name":7,"Created":"yesterday","RestartCount":"many","State":{"Status":"levitating",
            "OOMKilled":"no","StartedAt":true,"Health":{"Status":"fine","FailingStreak":1.5}},
            "Config":{"Image":"bb:1","Labels":{"a":"1","b":{}}},"HostConfig":[]}"#,
        );
        assert_eq!((c.status, c.health), (Status::Unknown, Health::Unknown));
        assert_eq!((c.created_at, c.started_at, c.restart_count, c.failing_streak), (-1, -1, -1, -1));
        assert_eq!((&*c.image, c.labels.len()), ("bb:1", 1));
        assert_eq!(
            odd,
            [
                "HostConfig: []",
                "Name: 7",
                "label b: {}",
                "State.Status: levitating",
                "State.Health.Status: fine",
                r#"State.OOMKilled: "no""#,
                "State.StartedAt: true",
                "Created: yesterday",
                r#"RestartCount: "many""#,
                "State.Health.FailingStreak: 1.5",
            ]
        );
    }

    #[test]
    fn times_of_any_precision_and_zone_are_whole_seconds() {
        for (written, seconds) in [
            ("2026-11-21T07:11:53Z", 1_795_245_113),
            ("2026-11-21T07:11:53.9Z", 1_795_245_113),
            ("2026-11-21T07:11:53.030188422Z", 1_795_245_113),
            ("2026-11-21T09:11:53.1+02:00", 1_795_245_113),
            ("0001-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59.5Z", -1),
        ] {
            let (c, odd) = read(&format!(r#"{{"Created":"{written}"}}"#));
            assert_eq!(c.created_at, seconds, "{written}");
            assert!(odd.is_empty());
        }
    }

    #[test]
    fn no_health_check_is_said_in_two_ways() {
        for health in ["null", r#"{"Status":"","FailingStreak":0,"Log":null}"#, r#"{"Status":"none"}"#] {
            assert_eq!(read(&format!(r#"{{"State":{{"Health":{health}}}}}"#)).0.health, Health::None);
        }
    }

    #[test]
    fn podmans_states_are_dockers() {
        for (word, status) in [
            ("configured", Status::Created),
            ("initialized", Status::Created),
            ("stopping", Status::Running),
            ("stopped", Status::Exited),
            ("paused", Status::Paused),
        ] {
            let (container, odd) = read(&format!(r#"{{"State":{{"Status":"{word}"}}}}"#));
            assert_eq!((container.status, odd.len()), (status, 0), "{word}");
        }
        for word in ["unknown", "bad state", ""] {
            let (container, odd) = read(&format!(r#"{{"State":{{"Status":"{word}"}}}}"#));
            assert_eq!((container.status, odd.len()), (Status::Unknown, 1), "{word}");
        }
    }

    #[test]
    fn an_answer_that_is_no_object_is_an_error() {
        for body in ["", "[]", "{\"State\":", "null"] {
            assert!(inspect(&"0".into(), body.as_bytes(), &selection(), &mut Vec::new()).is_err(), "{body}");
        }
    }

    #[test]
    fn one_odd_entry_does_not_fail_the_list() {
        let mut odd = Vec::new();
        let body = r#"[{"Id":"a1","Names":["/web/db","/own"],"State":"levitating"},7,{"Id":"../x"},{"Names":[]},
            {"Id":"b2","Names":null}]"#;
        let entries = list(body.as_bytes(), &mut odd).unwrap();
        assert_eq!(
            entries,
            [
                ListEntry { id: "a1".into(), name: "own".into() },
                ListEntry { id: "b2".into(), name: "".into() },
            ]
        );
        assert_eq!(odd.len(), 3);
        assert_eq!(list(b"null", &mut odd).unwrap(), []);
        assert!(list(b"[{\"Id\":\"a1\"},", &mut odd).is_err());
    }

    #[test]
    fn kubernetes_labels_become_the_events_labels() {
        let labels = BTreeMap::from(
            [
                ("io.kubernetes.pod.name", "ldap-2246486038-30nc1"),
                ("io.kubernetes.pod.namespace", "int2"),
                ("io.kubernetes.container.name", "ldap"),
                ("team", "blue"),
            ]
            .map(|(k, v)| (k.to_owned(), v.to_owned())),
        );
        let identity =
            event_identity(None, None, &labels, &Selection::new(Filter::all(), Filter::new(&["t*"], &[])));
        assert_eq!(identity.pod.as_deref(), Some("ldap-2246486038-30nc1"));
        assert_eq!(identity.env.as_deref(), Some("int2"));
        assert_eq!(identity.container.as_deref(), Some("ldap"));
        assert_eq!(identity.labels, [("team".into(), "blue".into())]);
        assert!(!identity.sandbox);
    }

    #[test]
    fn a_pods_sandbox_is_told_by_either_label() {
        for (key, value) in
            [("io.kubernetes.container.name", "POD"), ("io.kubernetes.docker.type", "podsandbox")]
        {
            let labels = BTreeMap::from([(key.to_owned(), value.to_owned())]);
            assert!(event_identity(None, None, &labels, &selection()).sandbox, "{key}");
        }
    }

    #[test]
    fn a_long_value_is_cut_where_it_is_logged() {
        let odd = Oddity::new("x", &"ä".repeat(1000));
        assert_eq!(odd.value.chars().count(), 121);
    }
}
