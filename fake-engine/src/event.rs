//! One event, and the filters of the events call.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};

/// An event as the engine sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `container`, `image`, `network`…
    pub kind: String,
    /// `start`, `die`, `health_status: healthy`…
    pub action: String,
    /// The actor's id.
    pub actor: String,
    /// The actor's attributes.
    pub attributes: BTreeMap<String, String>,
    /// Nanoseconds since 1970; 0 until it is emitted, unless a test sets it.
    pub time_nano: i64,
}

/// Which fields an event has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EventStyle {
    /// As the version of the request has it: `Legacy` below 1.52, `Modern` from there.
    #[default]
    Auto,
    /// With `status`, `id` and `from`.
    Legacy,
    /// Without.
    Modern,
}

impl Event {
    /// An event of any type.
    pub fn new(kind: &str, action: &str, actor: &str) -> Self {
        Self {
            kind: kind.into(),
            action: action.into(),
            actor: actor.into(),
            attributes: BTreeMap::new(),
            time_nano: 0,
        }
    }

    /// One more attribute of the actor.
    #[must_use]
    pub fn attribute(mut self, key: &str, value: &str) -> Self {
        self.attributes.insert(key.into(), value.into());
        self
    }

    /// The time, in nanoseconds since 1970.
    #[must_use]
    pub fn at(mut self, time_nano: i64) -> Self {
        self.time_nano = time_nano;
        self
    }

    /// The line that a stream carries, its line break included.
    pub(crate) fn line(&self, legacy: bool) -> Bytes {
        let mut event = Map::new();
        // moby fills these for containers and images only, and `from` for containers only.
        if legacy && matches!(self.kind.as_str(), "container" | "image") {
            event.insert("status".into(), self.action.clone().into());
            event.insert("id".into(), self.actor.clone().into());
            if let (true, Some(image)) = (self.kind == "container", self.attributes.get("image")) {
                event.insert("from".into(), image.clone().into());
            }
        }
        event.insert("Type".into(), self.kind.clone().into());
        event.insert("Action".into(), self.action.clone().into());
        event.insert("Actor".into(), json!({"ID": self.actor, "Attributes": self.attributes}));
        event.insert("scope".into(), "local".into());
        event.insert("time".into(), self.time_nano.div_euclid(1_000_000_000).into());
        event.insert("timeNano".into(), self.time_nano.into());
        let mut line = Value::Object(event).to_string();
        line.push('\n');
        line.into()
    }
}

/// The `filters` of an events request: for each key, the values of which one must match.
#[derive(Debug, Default)]
pub(crate) struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Parses both of moby's forms: `{"type":["container"]}` and `{"type":{"container":true}}`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let invalid = || format!("invalid filters: {text}");
        if text.is_empty() {
            return Ok(Self::default());
        }
        let value: Map<String, Value> = serde_json::from_str(text).map_err(|_| invalid())?;
        let mut filters = BTreeMap::new();
        for (key, values) in value {
            if !["type", "event", "container", "image", "label", "scope"].contains(&key.as_str()) {
                return Err(format!("the fake engine has no filter {key}"));
            }
            let values: Option<Vec<String>> = match values {
                Value::Array(values) => {
                    values.into_iter().map(|value| value.as_str().map(str::to_owned)).collect()
                }
                Value::Object(values) => Some(values.into_iter().map(|(value, _)| value).collect()),
                _ => None,
            };
            filters.insert(key, values.ok_or_else(invalid)?);
        }
        Ok(Self(filters))
    }

    /// Whether an event passes.
    pub(crate) fn pass(&self, event: &Event) -> bool {
        self.0.iter().all(|(key, values)| values.iter().any(|value| fits(event, key, value)))
    }
}

fn fits(event: &Event, key: &str, value: &str) -> bool {
    let attribute = |name: &str| event.attributes.get(name).map(String::as_str);
    match key {
        "type" => event.kind == value,
        // These three also match any text after their colon (moby issue 25798).
        "event" if ["health_status", "exec_create", "exec_start"].contains(&value) => {
            event.action.starts_with(value)
        }
        "event" => event.action == value,
        "container" => {
            event.kind == "container" && (event.actor.starts_with(value) || attribute("name") == Some(value))
        }
        "image" => match event.kind.as_str() {
            "image" => event.actor == value || attribute("name") == Some(value),
            _ => attribute("image") == Some(value),
        },
        "label" => match value.split_once('=') {
            Some((key, value)) => attribute(key) == Some(value),
            None => attribute(value).is_some(),
        },
        _ => value == "local",
    }
}
