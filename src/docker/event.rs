//! A daemon's event, as this program sees it.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::answer::{Selection, event_identity, label_map};
use super::fields::{Oddities, Oddity, field, object, only_object, read_mended, text};
use super::values::is_id_or_name;
use super::values::whole_number;
use super::vocabulary;
use crate::config::{Events, ExecCommand};
use crate::inventory::{ContainerRunEvent, Counter, EventIdentity, EventLabels, RunEvent, Signal, Text};

/// An event, under Docker's names whatever the daemon is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// `container`, `image`, `network` …
    pub(super) kind: Text,
    /// The action with what follows its colon: `start`, `health_status: healthy` …
    pub(super) action: Text,
    /// What the event is about.
    pub(super) actor: Text,
    /// When it happened by the daemon's clock, where the daemon says so.
    pub(super) time: Option<SystemTime>,
    /// The labels that it is counted under, besides action and kind.
    pub(super) identity: Arc<EventIdentity>,
    /// What it means for its container's run.
    pub(super) run: Option<RunEvent>,
    /// Podman has rotated its log. From 5.4 on, its stream then stays open, but misses the events of the meantime.
    pub(super) is_log_rotation: bool,
    /// Its change is not visible yet, and no other event follows when it is.
    pub(super) early: bool,
    /// The container that an event of another type names.
    pub(super) concerns: Option<Text>,
    /// A program in a container has ended with an error, maybe a health probe.
    pub(super) failed: bool,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RawEvent<'a> {
    #[serde(borrow, rename = "Type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow, rename = "Action")]
    action: Option<&'a RawValue>,
    #[serde(borrow, rename = "Actor")]
    actor: Option<&'a RawValue>,
    #[serde(borrow)]
    time: Option<&'a RawValue>,
    #[serde(borrow, rename = "timeNano")]
    time_nano: Option<&'a RawValue>,
    /// Podman only: the new health.
    #[serde(borrow, rename = "HealthStatus")]
    health: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct RawActor<'a> {
    #[serde(borrow, rename = "ID")]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    attributes: Option<&'a RawValue>,
}

/// Attributes that are not container labels, although they are in the same map.
const NAME: &str = "name";
const IMAGE: &str = "image";
/// In a network event: the container that is connected.
const CONTAINER: &str = "container";
const EXIT_CODE: &str = "exitCode";

impl Event {
    /// Parses one event of the stream. An event without a kind or an action is an oddity.
    pub(super) fn read(json: &[u8], selection: &Selection, odd: &mut Oddities) -> Option<Self> {
        read_mended(json, odd, |json, odd| {
            let Ok(raw) = only_object::<RawEvent<'_>>(json) else { return Err(()) };
            Self::from_raw(&raw, selection, odd).ok_or(())
        })
        .map_err(|()| odd.push(Oddity::new("event", &String::from_utf8_lossy(json))))
        .ok()
    }

    fn from_raw(raw: &RawEvent<'_>, selection: &Selection, odd: &mut Oddities) -> Option<Self> {
        let actor: RawActor<'_> = object(raw.actor, "event's Actor", odd);
        let attributes = label_map(actor.attributes, odd);
        let kind = field::<String>(raw.kind, "event's Type", odd)?;
        let action =
            field::<String>(raw.action, "event's Action", odd).filter(|action| !action.is_empty())?;
        let time = whole_number::<u64>(raw.time_nano, "event's timeNano", odd)
            .filter(|&nanos| nanos > 0)
            .map(Duration::from_nanos)
            .or_else(|| whole_number::<u64>(raw.time, "event's time", odd).map(Duration::from_secs));
        let actor = text(actor.id, "event's Actor.ID", odd);
        let health = field::<String>(raw.health, "event's HealthStatus", odd);
        let concerns = attributes.get(CONTAINER).filter(|id| kind != "container" && is_id_or_name(id));
        let docker_action = docker_action(&kind, &action, health.as_deref());
        let rotated = attributes.get("io.podman.event.rotate").map(String::as_str);
        Some(Self {
            is_log_rotation: kind == "system" && action == "log-rotation" && rotated != Some("begin"),
            concerns: concerns.map(|id| id.as_str().into()),
            failed: attributes.get(EXIT_CODE).is_some_and(|code| code != "0"),
            run: (kind == "container").then(|| run_event(&docker_action, &attributes)).flatten(),
            early: kind == "container" && action == "exec_died",
            action: docker_action.into(),
            identity: Arc::new(identity(&kind, &actor, &attributes, selection)),
            kind: kind.into(),
            actor: actor.into(),
            time: time.and_then(|since_epoch| UNIX_EPOCH.checked_add(since_epoch)),
        })
    }

    /// The action without what follows its colon.
    pub(super) fn base_action(&self) -> &str {
        self.action.split_once(':').map_or(&*self.action, |(base, _)| base)
    }

    /// Whether this is about a container.
    pub(super) fn is_container(&self) -> bool {
        &*self.kind == "container"
    }

    /// A key that is unique among the daemon's events. `None` for an event without a time: equal ones are then
    /// different events.
    pub(super) fn key(&self) -> Option<u64> {
        let mut hasher = DefaultHasher::new();
        (self.time?, &self.kind, &self.action, &self.actor).hash(&mut hasher);
        Some(hasher.finish())
    }

    /// The label set that it is counted under; `None` if it is not counted.
    pub(super) fn labels(&self, config: &Events) -> Option<EventLabels> {
        if self.identity.sandbox
            || !config.types.iter().any(|t| t == "*" || **t == *self.kind)
            || config.excluded.iter().any(|e| **e == *self.action || e == self.base_action())
        {
            return None;
        }
        Some(EventLabels {
            counter: Counter::Events,
            event: without_command_line(&self.action, config.exec_command),
            kind: Text::clone(&self.kind),
            identity: Arc::clone(&self.identity),
        })
    }

    /// What it means for its container's run. `now` replaces a missing time.
    pub(super) fn run_event(
        &self,
        id: &Text,
        now: SystemTime,
        is_counted: bool,
    ) -> Option<ContainerRunEvent> {
        Some(ContainerRunEvent {
            id: Text::clone(id),
            identity: Arc::clone(&self.identity),
            event: self.run?,
            at: self.time.unwrap_or(now),
            is_counted,
        })
    }

    /// The action as it may be logged.
    pub(super) fn logged_action(&self, keep: ExecCommand) -> Text {
        without_command_line(&self.action, keep)
    }

    /// The container that it concerns.
    pub(super) fn container(&self) -> Option<&Text> {
        let actor = Some(&self.actor).filter(|id| self.is_container() && is_id_or_name(id));
        actor.or(self.concerns.as_ref())
    }

    /// How it affects the known state of [`container`](Self::container).
    pub(super) fn effect(&self) -> Effect {
        if self.concerns.is_some() {
            // A start that fails has no event of its own, but the container's networks are connected and
            // disconnected.
            return Effect::Changed;
        }
        if self.container().is_none() {
            return Effect::Nothing;
        }
        match self.base_action() {
            // Podman before 4.7 sends an event when a health probe begins, and this one when it ends, a few
            // milliseconds before the result is stored.
            "exec_die" if self.early => Effect::ChangedSoon,
            "exec_die" => Effect::ProgramEnded { failed: self.failed },
            "destroy" => Effect::Gone,
            // None of these changes shown state; health probes cause three exec events each. An unknown action may
            // change it.
            "exec_create" | "exec_start" | "exec_detach" | "top" | "attach" | "detach" | "resize"
            | "commit" | "copy" | "export" | "archive-path" | "extract-to-dir" | "prune" => Effect::Nothing,
            _ => Effect::Changed,
        }
    }
}

/// How an event affects the known state of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// No shown state changes.
    Nothing,
    /// The state may have changed.
    Changed,
    /// The state may change in a moment.
    ChangedSoon,
    /// A program that was executed in the container has ended. If it was a health probe that failed, or the first good
    /// one after failures, the failing streak changes in a moment, without another event.
    ProgramEnded { failed: bool },
    /// The container is gone.
    Gone,
}

/// Docker's name of the action, with the health that Podman sends in a separate field.
fn docker_action(kind: &str, action: &str, health: Option<&str>) -> String {
    match health.filter(|health| !health.is_empty()) {
        Some(health) if kind == "container" && action == "health_status" => {
            format!("health_status: {health}")
        }
        _ => vocabulary::action(kind, action).unwrap_or(action).to_owned(),
    }
}

/// What an event means for its container's run.
fn run_event(action: &str, attributes: &BTreeMap<String, String>) -> Option<RunEvent> {
    let get = |key: &str| attributes.get(key).map(String::as_str);
    Some(match action {
        "start" => RunEvent::Start,
        "kill" => RunEvent::Kill(get("signal").and_then(Signal::parse)),
        "oom" => RunEvent::Oom,
        "die" => RunEvent::Die {
            // Podman has both; the first is its own.
            exit_code: get("exitCode").or(get("containerExitCode")).and_then(|code| code.trim().parse().ok()),
            // Podman only, from 6 on.
            oom_killed: get("oomKilled") == Some("true"),
        },
        _ => return None,
    })
}

/// A name becomes a label where the number of names is bounded: containers, images, networks, services … but not
/// volumes, whose names are often generated for one use.
fn identity(
    kind: &str,
    actor: &str,
    attributes: &BTreeMap<String, String>,
    selection: &Selection,
) -> EventIdentity {
    let name = attributes.get(NAME).map(|name| Text::from(name.strip_prefix('/').unwrap_or(name)));
    if kind == "container" {
        let image = attributes.get(IMAGE).map(|image| Text::from(image.as_str()));
        return event_identity(name.as_ref(), image.as_ref(), attributes, selection);
    }
    let bounded = matches!(
        kind,
        "image" | "network" | "service" | "node" | "secret" | "config" | "plugin" | "daemon" | "pod"
    );
    let name = name.filter(|name| bounded && **name != *actor);
    EventIdentity { name, ..EventIdentity::default() }
}

/// A command line follows `exec_create:` and `exec_start:`. Their number is unbounded, and they can hold secrets.
fn without_command_line(action: &Text, keep: ExecCommand) -> Text {
    let Some((base @ ("exec_create" | "exec_start"), command)) = action.split_once(':') else {
        return Text::clone(action);
    };
    match keep {
        ExecCommand::Full => Text::clone(action),
        ExecCommand::None => base.into(),
        ExecCommand::Program => {
            let program = command.split_whitespace().next().unwrap_or_default();
            let program = program.rsplit('/').find(|part| !part.is_empty()).unwrap_or_default();
            if program.is_empty() { base.into() } else { format!("{base}: {program}").into() }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Filter;

    fn read(json: &str) -> Result<Event, Oddities> {
        let selection = Selection::new(Filter::all(), Filter::none(), "");
        let mut odd = Oddities::default();
        Event::read(json.as_bytes(), &selection, &mut odd).ok_or(odd)
    }

    fn container_event(action: &str, attributes: &str) -> Event {
        read(&format!(
            r#"{{"Type":"container","Action":"{action}","Actor":{{"ID":"0123","Attributes":{{{attributes}}}}},
            "scope":"local","time":1795245113,"timeNano":1795245113030188422}}"#
        ))
        .unwrap()
    }

    #[test]
    fn an_event_is_read_without_the_fields_that_new_engines_leave_out() {
        let event = container_event("start", r#""name":"web","image":"nginx:1""#);
        assert_eq!((&*event.kind, &*event.action, &*event.actor), ("container", "start", "0123"));
        assert_eq!(event.identity.name.as_deref(), Some("web"));
        assert_eq!(event.identity.image.as_deref(), Some("nginx:1"));
        assert_eq!(event.time, Some(UNIX_EPOCH + Duration::from_nanos(1_795_245_113_030_188_422)));
    }

    #[test]
    fn what_is_no_event_is_said_so() {
        for json in ["", "7", "{", "{}", r#"{"Type":"container"}"#, r#"{"Type":1,"Action":"x"}"#] {
            assert!(!read(json).unwrap_err().is_empty(), "{json}");
        }
    }

    #[test]
    fn podmans_actions_get_dockers_names() {
        for (podman, docker) in [
            ("died", "die"),
            ("remove", "destroy"),
            ("exec", "exec_start"),
            ("exec_died", "exec_die"),
            ("start", "start"),
            ("cleanup", "cleanup"),
        ] {
            assert_eq!(&*container_event(podman, "").action, docker);
        }
        let health = |health: &str| {
            let actor = r#""Actor":{"ID":"0123","Attributes":{"name":"web","health_status":"a label"}}"#;
            read(&format!(r#"{{"Type":"container","Action":"health_status",{actor}{health}}}"#)).unwrap()
        };
        let unhealthy = health(r#","HealthStatus":"unhealthy""#);
        assert_eq!((&*unhealthy.action, unhealthy.effect()), ("health_status: unhealthy", Effect::Changed));
        // Of a container that is gone before it can say.
        assert_eq!(&*health("").action, "health_status");
        assert_eq!(&*health(r#","HealthStatus":"""#).action, "health_status");
    }

    #[test]
    fn podman_tells_of_the_end_of_a_probe_before_its_outcome() {
        assert_eq!(container_event("exec_died", "").effect(), Effect::ChangedSoon);
        let ended = |code| container_event("exec_die", &format!(r#""exitCode":"{code}""#)).effect();
        assert_eq!(ended("0"), Effect::ProgramEnded { failed: false });
        assert_eq!(ended("1"), Effect::ProgramEnded { failed: true });
        assert_eq!(container_event("exec_die", "").effect(), Effect::ProgramEnded { failed: false });
    }

    #[test]
    fn only_what_can_change_a_container_does() {
        for action in ["create", "start", "die", "oom", "rename", "health_status: healthy", "something-new"] {
            assert_eq!(container_event(action, "").effect(), Effect::Changed, "{action}");
        }
        for action in
            ["exec_start: /bin/sh -c true", "exec_create: x", "exec_detach", "top", "attach", "resize"]
        {
            assert_eq!(container_event(action, "").effect(), Effect::Nothing, "{action}");
        }
        assert_eq!(container_event("destroy", "").effect(), Effect::Gone);
        let image = read(r#"{"Type":"image","Action":"destroy","Actor":{"ID":"0123"}}"#).unwrap();
        assert_eq!((image.effect(), image.container()), (Effect::Nothing, None));
        let of = |id: &str| {
            read(&format!(r#"{{"Type":"container","Action":"start","Actor":{{"ID":"{id}"}}}}"#))
                .unwrap()
                .effect()
        };
        for id in ["0123456789ab", "web", "my_web-1.x"] {
            assert_eq!(of(id), Effect::Changed, "{id}");
        }
        for id in ["", "..", "../x", "a/b", "a?b", "-a", "ä"] {
            assert_eq!(of(id), Effect::Nothing, "{id}");
        }
    }

    #[test]
    fn what_happens_to_a_network_is_a_hint_for_the_container_that_it_names() {
        let event = |kind: &str, attributes: &str| {
            let actor = format!(r#""Actor":{{"ID":"9","Attributes":{{{attributes}}}}}"#);
            read(&format!(r#"{{"Type":"{kind}","Action":"disconnect",{actor}}}"#)).unwrap()
        };
        let named = event("network", r#""name":"none","container":"0123""#);
        assert_eq!((named.effect(), named.container().unwrap().as_ref()), (Effect::Changed, "0123"));
        assert_eq!(named.labels(&Events::default()), None, "it is not counted for that");
        for attributes in ["", r#""container":"""#, r#""container":"../x""#] {
            assert_eq!(event("network", attributes).effect(), Effect::Nothing, "{attributes}");
        }
        // A label of a container is no hint.
        let labelled = event("container", r#""container":"4567""#);
        assert_eq!(labelled.container().unwrap().as_ref(), "9");
    }

    #[test]
    fn command_lines_are_cut_to_the_program() {
        for (action, none, program) in [
            ("exec_start: /bin/sh -c 'curl -u me:secret'", "exec_start", "exec_start: sh"),
            ("exec_start: bash", "exec_start", "exec_start: bash"),
            ("exec_start:   ", "exec_start", "exec_start"),
            ("exec_start: /", "exec_start", "exec_start"),
            ("exec_create: ./run/it --now", "exec_create", "exec_create: it"),
            ("health_status: healthy", "health_status: healthy", "health_status: healthy"),
        ] {
            let action = Text::from(action);
            assert_eq!(&*without_command_line(&action, ExecCommand::None), none);
            assert_eq!(&*without_command_line(&action, ExecCommand::Program), program);
            assert_eq!(without_command_line(&action, ExecCommand::Full), action);
        }
    }

    #[test]
    fn what_is_counted_is_as_the_configuration_says() {
        let mut config = Events::default();
        let counted = |event: &Event, config: &Events| event.labels(config).map(|l| l.event.to_string());
        assert_eq!(counted(&container_event("start", ""), &config).as_deref(), Some("start"));
        assert_eq!(counted(&container_event("exec_create: sh", ""), &config), None);
        let image = read(r#"{"Type":"image","Action":"pull","Actor":{"ID":"bb:1"}}"#).unwrap();
        assert_eq!(counted(&image, &config), None);
        config.types = vec!["*".into()];
        config.excluded = vec!["health_status: healthy".into()];
        assert_eq!(counted(&image, &config).as_deref(), Some("pull"));
        assert_eq!(counted(&container_event("health_status: healthy", ""), &config), None);
        assert!(counted(&container_event("health_status: unhealthy", ""), &config).is_some());
        let sandbox = container_event("start", r#""io.kubernetes.container.name":"POD""#);
        assert_eq!(counted(&sandbox, &config), None);
    }

    #[test]
    fn names_are_labels_only_where_there_are_few() {
        let name = |json: &str| read(json).unwrap().identity.name.as_deref().map(str::to_owned);
        let network =
            r#"{"Type":"network","Action":"connect","Actor":{"ID":"9","Attributes":{"name":"bridge"}}}"#;
        assert_eq!(name(network).as_deref(), Some("bridge"));
        let volume =
            r#"{"Type":"volume","Action":"create","Actor":{"ID":"3f2a","Attributes":{"name":"3f2a"}}}"#;
        assert_eq!(name(volume), None);
        let untagged = r#"{"Type":"image","Action":"delete","Actor":{"ID":"sha256:1","Attributes":{"name":"sha256:1"}}}"#;
        assert_eq!(name(untagged), None);
    }

    #[test]
    fn events_are_told_apart_by_time_action_and_actor() {
        let start = container_event("start", "");
        assert_eq!(start.key(), container_event("start", "").key());
        assert_ne!(start.key(), container_event("die", "").key());
        let timeless = read(r#"{"Type":"container","Action":"start","Actor":{"ID":"0123"}}"#).unwrap();
        assert_eq!(timeless.key(), None);
    }
}
