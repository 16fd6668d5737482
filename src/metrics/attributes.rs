//! The attribute sets of containers and events in OTLP, under the semantic conventions' names.
//!
//! Keys and values are shared with the inventory, so a set costs no copy of its texts.

use std::collections::HashMap;
use std::sync::Arc;

use opentelemetry::{Key, KeyValue, StringValue};

use crate::inventory::{Container, Counter, EventIdentity, EventLabels, LabelPairs, Text};

/// Why a run ended, in the counter of ends.
pub const EXIT_REASON: &str = "container.exit.reason";

/// A container label's key comes after this.
const LABEL: &str = "container.label.";

/// Makes the attribute sets of one page.
#[derive(Debug, Default)]
pub struct AttributeSets {
    /// What label keys become. Containers share few keys, so each is made once.
    keys: HashMap<Text, Key>,
}

impl AttributeSets {
    /// What tells a container's series from another's, sorted by the keys.
    pub fn container(&mut self, container: &Container) -> Vec<KeyValue> {
        let mut set = Vec::with_capacity(container.labels.len() + 3);
        set.push(shared("container.id", &container.id));
        set.push(shared("container.image.name", &container.image));
        self.labels(&container.labels, &mut set);
        set.push(shared("container.name", &container.name));
        sorted(set)
    }

    /// What `container.info` has: `attributes`, which are the container's, and more.
    pub fn info(attributes: &[KeyValue], container: &Container) -> Vec<KeyValue> {
        let more = [
            shared("container.image.id", &container.image_id),
            shared("container.restart_policy", &container.restart_policy),
            shared("container.hostname", &container.hostname),
        ];
        sorted([attributes, &more].concat())
    }

    /// The label set of a count, sorted by the keys.
    pub fn event(&mut self, labels: &EventLabels) -> Vec<KeyValue> {
        let EventIdentity { name, image, pod, env, container, labels: chosen, sandbox: _ } =
            &*labels.identity;
        let mut set = Vec::with_capacity(chosen.len() + 7);
        match labels.counter {
            Counter::Events => set.extend([shared("event", &labels.event), shared("type", &labels.kind)]),
            Counter::Exits => set.push(shared(EXIT_REASON, &labels.event)),
        }
        let optional =
            [("name", name), ("image", image), ("pod", pod), ("env", env), ("container", container)];
        set.extend(optional.into_iter().filter_map(|(key, value)| Some(shared(key, value.as_ref()?))));
        self.labels(chosen, &mut set);
        sorted(set)
    }

    fn labels(&mut self, labels: &LabelPairs, set: &mut Vec<KeyValue>) {
        for (key, value) in labels {
            let key = self
                .keys
                .entry(Arc::clone(key))
                .or_insert_with_key(|key| Key::from(Arc::<str>::from(format!("{LABEL}{key}"))));
            set.push(KeyValue::new(key.clone(), StringValue::from(Arc::clone(value))));
        }
    }
}

/// The attributes of a series that has one more.
pub fn with_label(attributes: &[KeyValue], (key, value): (&'static str, &'static str)) -> Vec<KeyValue> {
    let mut set = Vec::with_capacity(attributes.len() + 1);
    set.extend_from_slice(attributes);
    set.push(KeyValue::new(key, value));
    sorted(set)
}

fn shared(key: &'static str, value: &Text) -> KeyValue {
    KeyValue::new(key, StringValue::from(Arc::clone(value)))
}

fn sorted(mut set: Vec<KeyValue>) -> Vec<KeyValue> {
    set.sort_by(|a, b| a.key.cmp(&b.key));
    set
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(set: &[KeyValue]) -> String {
        set.iter().map(|a| format!("{}={}", a.key, a.value.as_str())).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn otlp_keeps_label_keys_as_they_are() {
        let web = Container::sample("0123", "web").labelled(&[("a_b", "underscore"), ("a.b", "dot")]);
        assert_eq!(
            shown(&AttributeSets::default().container(&web)),
            "container.id=0123 container.image.name=busybox container.label.a.b=dot \
             container.label.a_b=underscore container.name=web"
        );
    }

    #[test]
    fn attributes_are_sorted_with_what_is_added_to_them() {
        let web = Container::sample("0123", "web").labelled(&[("zone", "a"), ("app", "b")]);
        let set = AttributeSets::default().container(&web);
        for set in [AttributeSets::info(&set, &web), with_label(&set, ("status", "running")), set] {
            assert!(set.is_sorted_by(|a, b| a.key < b.key), "{set:?}");
        }
        let info = AttributeSets::info(&AttributeSets::default().container(&web), &web);
        assert!(
            shown(&info).contains("container.hostname=host container.id=0123 container.image.id=sha256:0")
        );
    }

    #[test]
    fn an_event_has_the_attributes_that_its_actor_has() {
        let identity = EventIdentity {
            name: Some("web".into()),
            image: Some("nginx:1".into()),
            labels: vec![("team".into(), "blue".into())],
            ..EventIdentity::default()
        };
        let labels = EventLabels {
            counter: Counter::Events,
            event: "die".into(),
            kind: "container".into(),
            identity: Arc::new(identity),
        };
        assert_eq!(
            shown(&AttributeSets::default().event(&labels)),
            "container.label.team=blue event=die image=nginx:1 name=web type=container"
        );
    }
}
