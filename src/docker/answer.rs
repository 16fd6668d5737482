//! The daemon's answers, reduced to what this program uses.
//!
//! bollard's own models reject a whole answer because of one unknown word: one container in a new state would hide a
//! thousand others. Here each field is parsed on its own. A missing or null field takes its default. A field that
//! cannot be parsed is counted, shows as -1 if it is a number, and affects no other field. Unused parts of an answer
//! are not built.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::fields::{Oddities, Oddity, field, object, only_object, present, read_mended, text};
use super::values::{flag, is_id, number, time, unquoted};
use super::vocabulary;
use crate::config::Filter;
use crate::inventory::{
    Container, EventIdentity, Expectation, Health, LabelPairs, Replica, Signal, Status, Text, Verdict,
};

/// Which labels become metric labels and event labels, and which label holds the expectation.
#[derive(Debug)]
pub(super) struct Selection {
    /// Filter of label keys: which labels become metric labels.
    pub(super) labels: Filter,
    /// Filter of label keys: which labels become event labels.
    pub(super) event_labels: Filter,
    /// The label that says what is expected of a container; empty for none.
    pub(super) expectation_label: String,
    texts: Texts,
}

impl Selection {
    pub(super) fn new(labels: Filter, event_labels: Filter, expectation_label: &str) -> Self {
        Self {
            labels,
            event_labels,
            expectation_label: expectation_label.to_owned(),
            texts: Texts::default(),
        }
    }

    /// What is expected of a container: what its label says, else what its restart policy says.
    pub(super) fn expectation(
        &self,
        labels: &BTreeMap<String, String>,
        restart_policy: &str,
        odd: &mut Oddities,
    ) -> Expectation {
        let label = labels.get(&self.expectation_label).filter(|_| !self.expectation_label.is_empty());
        let told = label.map(|word| {
            let expectation = Expectation::from_word(word);
            if expectation.is_none() {
                odd.push(Oddity::new(format!("label {}", self.expectation_label), word));
            }
            expectation
        });
        let is_swarm_task = labels.contains_key("com.docker.swarm.service.name");
        told.flatten().unwrap_or_else(|| Expectation::of_policy(restart_policy, is_swarm_task))
    }

    /// Interns a text that many containers have in common.
    pub(super) fn shared(&self, text: &str) -> Text {
        self.texts.get(text)
    }

    /// The container's labels that become metric labels.
    pub(super) fn labels(&self, labels: &BTreeMap<String, String>) -> LabelPairs {
        choose(labels, &self.labels, &self.texts)
    }
}

/// Interned texts that many containers have in common: label keys, images.
#[derive(Debug, Default)]
struct Texts(Mutex<HashSet<Text>>);

impl Texts {
    /// Unused texts are dropped only when the set holds at least this many.
    const IDLE: usize = 256;

    fn get(&self, text: &str) -> Text {
        let mut texts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = texts.get(text) {
            return Text::clone(kept);
        }
        // Before the set grows, drop the texts that nobody uses any more.
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

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawInspect<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
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
    error: Option<&'a RawValue>,
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
    #[serde(borrow)]
    stop_signal: Option<&'a RawValue>,
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

/// Parses an inspect answer. Only an answer that is not a JSON object is an error. The container's id is the one in the
/// answer, whatever id or name was asked for.
pub(super) fn inspect(
    asked: &Text,
    body: &[u8],
    selection: &Selection,
    odd: &mut Oddities,
) -> Result<Container, serde_json::Error> {
    read_mended(body, odd, |body, odd| container(asked, body, selection, odd))
}

fn container(
    asked: &Text,
    body: &[u8],
    selection: &Selection,
    odd: &mut Oddities,
) -> Result<Container, serde_json::Error> {
    let raw: RawInspect<'_> = only_object(body)?;
    let state: RawState<'_> = object(raw.state, "State", odd);
    let health: RawHealth<'_> = object(state.health, "State.Health", odd);
    let config: RawConfig<'_> = object(raw.config, "Config", odd);
    let host_config: RawHostConfig<'_> = object(raw.host_config, "HostConfig", odd);
    let restart_policy: RawRestartPolicy<'_> =
        object(host_config.restart_policy, "HostConfig.RestartPolicy", odd);

    let id = field::<String>(raw.id, "Id", odd).filter(|id| is_id(id));
    let name = text(raw.name, "Name", odd);
    let name: Text = name.strip_prefix('/').unwrap_or(&name).into();
    let texts = &selection.texts;
    let image = texts.get(&text(config.image, "Config.Image", odd));
    let labels: BTreeMap<String, String> = label_map(config.labels, odd);
    let restart_policy = text(restart_policy.name, "HostConfig.RestartPolicy.Name", odd);
    let error = text(state.error, "State.Error", odd);
    let expectation = selection.expectation(&labels, &restart_policy, odd);
    Ok(Container {
        id: id.filter(|id| **id != **asked).map_or_else(|| Text::clone(asked), Text::from),
        labels: choose(&labels, &selection.labels, texts),
        status: status(state.status, odd),
        health: health_status(health.status, odd),
        oom_killed: flag(state.oom_killed, "State.OOMKilled", odd),
        started_at: time(state.started_at, "State.StartedAt", odd),
        finished_at: time(state.finished_at, "State.FinishedAt", odd),
        created_at: time(raw.created, "Created", odd),
        restart_count: number(raw.restart_count, "RestartCount", odd),
        exit_code: number(state.exit_code, "State.ExitCode", odd),
        failing_streak: number(health.failing_streak, "State.Health.FailingStreak", odd),
        image_id: texts.get(&text(raw.image, "Image", odd)),
        restart_policy: texts.get(&restart_policy),
        hostname: text(config.hostname, "Config.Hostname", odd).into(),
        stop_signal: config.stop_signal.and_then(|signal| Signal::parse(&unquoted(signal))),
        error: Some(error.trim()).filter(|error| !error.is_empty()).map(Text::from),
        expectation,
        replica: Replica::from_labels(&labels).map(Arc::new),
        verdict: Verdict::default(),
        event_identity: Arc::new(event_identity(Some(&name), Some(&image), &labels, selection)),
        name,
        image,
        is_inspected: true,
    })
}

/// The event labels from a container's name, image and labels. Events and inspect answers both carry all labels, so a
/// container's counts have the same label set before and after its first event.
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

/// Whether a key is one of an event's own attributes. These are in the same map as the container's labels, and hide a
/// label of the same name.
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

fn status(raw: Option<&RawValue>, odd: &mut Oddities) -> Status {
    let Some(word) = field::<String>(raw, "State.Status", odd) else { return Status::Unknown };
    vocabulary::status(&word).unwrap_or_else(|| {
        odd.push(Oddity::new("State.Status", &word));
        Status::Unknown
    })
}

fn health_status(raw: Option<&RawValue>, odd: &mut Oddities) -> Health {
    if present(raw).is_none() {
        return Health::None;
    }
    let Some(word) = field::<String>(raw, "State.Health.Status", odd) else { return Health::Unknown };
    vocabulary::health(&word).unwrap_or_else(|| {
        odd.push(Oddity::new("State.Health.Status", &word));
        Health::Unknown
    })
}

/// Reads labels. Skips each label whose value is not a string.
pub(super) fn label_map(raw: Option<&RawValue>, odd: &mut Oddities) -> BTreeMap<String, String> {
    let raw: BTreeMap<String, &RawValue> = object(raw, "labels", odd);
    let text = |(key, value): (String, &RawValue)| match serde_json::from_str(value.get()) {
        Ok(text) => Some((key, text)),
        Err(_) => {
            // A container has dozens of labels, so the name is formatted only for an oddity.
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
        Selection::new(Filter::all(), Filter::none(), "expect")
    }

    fn read(body: &str) -> (Container, Vec<String>) {
        let mut odd = Oddities::default();
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
    fn no_health_check_is_said_in_two_ways() {
        for health in ["null", r#"{"Status":"","FailingStreak":0,"Log":null}"#, r#"{"Status":"none"}"#] {
            assert_eq!(read(&format!(r#"{{"State":{{"Health":{health}}}}}"#)).0.health, Health::None);
        }
    }

    #[test]
    fn podmans_words_have_dockers_codes() {
        let (c, odd) = read(r#"{"State":{"Status":"stopped","Health":{"Status":"stopped"}}}"#);
        assert_eq!((c.status, c.health, odd.len()), (Status::Exited, Health::None, 0));
        let (c, odd) = read(r#"{"State":{"Status":"unknown","Health":{"Status":"unknown"}}}"#);
        assert_eq!((c.status, c.health, odd.len()), (Status::Unknown, Health::Unknown, 2));
    }

    #[test]
    fn one_wrong_byte_costs_only_the_text_that_it_is_in() {
        for byte in [&b"\xff"[..], b"\0", b"\n", b"\xc0\xaf", b"\\ud800", b"\\x", b"\xed\xa0\x80"] {
            for place in ["Log", "Name", "Key", "Value", "Host"] {
                let template = r#"{"Id":"0123","Name":"/we<Name>b","State":{"Status":"running",
                    "Health":{"Status":"healthy","Log":[{"Output":"o<Log>k"}]}},
                    "Config":{"Image":"bb","<Host>Hostname":"h","Labels":{"a":"1","b<Key>":"2","c":"3<Value>"}}}"#;
                let (before, after) = template.split_once(&format!("<{place}>")).unwrap();
                let strip = |part: &str| {
                    let places = ["<Log>", "<Name>", "<Key>", "<Value>", "<Host>"];
                    places.iter().fold(part.to_owned(), |part, place| part.replace(place, "")).into_bytes()
                };
                let body = [&strip(before), byte, &strip(after)].concat();
                let mut odd = Oddities::default();
                let c = inspect(&"0123".into(), &body, &selection(), &mut odd).unwrap();
                assert_eq!((c.status, c.health), (Status::Running, Health::Healthy), "{place} {byte:?}");
                assert_eq!((&*c.image, &c.labels[0]), ("bb", &("a".into(), "1".into())), "{place} {byte:?}");
                assert_eq!((c.labels.len(), &*c.name == "web"), (3, place != "Name"), "{place} {byte:?}");
                assert_eq!(&*c.hostname == "h", place != "Host", "{place} {byte:?}");
            }
        }
    }

    #[test]
    fn a_container_is_who_the_answer_says() {
        let id = |body: &str| {
            inspect(&"web".into(), body.as_bytes(), &selection(), &mut Oddities::default()).unwrap().id
        };
        assert_eq!(&*id(r#"{"Id":"0123456789ab"}"#), "0123456789ab");
        assert_eq!(&*id(r#"{"Id":"../x"}"#), "web");
        assert_eq!(&*id("{}"), "web");
    }

    #[test]
    fn an_answer_that_is_no_object_is_an_error() {
        for body in ["", "[]", "{\"State\":", "null"] {
            assert!(
                inspect(&"0".into(), body.as_bytes(), &selection(), &mut Oddities::default()).is_err(),
                "{body}"
            );
        }
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
        let identity = event_identity(
            None,
            None,
            &labels,
            &Selection::new(Filter::all(), Filter::new(&["t*"], &[]), ""),
        );
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
}
