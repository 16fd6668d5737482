//! Attribute sets: what a container's and an event's points are told apart by in OTLP, under the semantic
//! conventions' names.

use std::collections::HashMap;
use std::sync::Arc;

use opentelemetry::{Key, KeyValue, StringValue};

use super::catalog::STATE_LABEL;
use crate::inventory::{Container, EventIdentity, EventLabels, LabelPairs, Text};

/// Attributes in the order of their keys. The SDK stores a set that is not sorted a second time.
pub(super) type Attributes = Arc<[KeyValue]>;

/// Attribute sets of containers, made when a container changes and kept until it is gone.
#[derive(Debug, Default)]
pub(super) struct AttributeSets {
    keys: LabelKeys,
    containers: HashMap<Text, (Arc<Container>, Attributes)>,
}

impl AttributeSets {
    pub(super) fn of_container(&mut self, container: &Arc<Container>) -> Attributes {
        if let Some((known, attributes)) = self.containers.get(&container.id)
            && Arc::ptr_eq(known, container)
        {
            return Arc::clone(attributes);
        }
        let attributes = self.make(container);
        self.containers.insert(Arc::clone(&container.id), (Arc::clone(container), Arc::clone(&attributes)));
        attributes
    }

    /// Forgets what is not among these containers.
    pub(super) fn retain(&mut self, containers: &[Arc<Container>]) {
        if self.containers.len() > containers.len() {
            self.containers.retain(|id, _| containers.binary_search_by(|c| c.id.cmp(id)).is_ok());
        }
        self.keys.shrink(self.containers.len());
    }

    pub(super) fn of_event(&mut self, labels: &EventLabels) -> Attributes {
        let EventIdentity { name, image, pod, env, container, labels: chosen, sandbox: _ } =
            &*labels.identity;
        let mut attributes = vec![text("event", &labels.event), text("type", &labels.kind)];
        let optional =
            [("name", name), ("image", image), ("pod", pod), ("env", env), ("container", container)];
        attributes.extend(optional.iter().filter_map(|(key, value)| Some(text(key, value.as_ref()?))));
        self.push_labels(chosen, &mut attributes);
        sorted(attributes)
    }

    fn make(&mut self, container: &Container) -> Attributes {
        let mut attributes = vec![
            text("container.id", &container.id),
            text("container.image.name", &container.image),
            text("container.name", &container.name),
        ];
        self.push_labels(&container.labels, &mut attributes);
        sorted(attributes)
    }

    fn push_labels(&mut self, labels: &LabelPairs, attributes: &mut Vec<KeyValue>) {
        for (key, value) in labels {
            attributes.push(KeyValue::new(self.keys.get(key), StringValue::from(Arc::clone(value))));
        }
    }

    /// The attributes of `container.info`: what identifies the container, and what it says.
    pub(super) fn info(&self, attributes: &[KeyValue], container: &Container) -> Vec<KeyValue> {
        let names = ["container.image.id", "container.restart_policy", "container.hostname"];
        let values = [&container.image_id, &container.restart_policy, &container.hostname];
        let more = names.into_iter().zip(values).map(|(name, value)| text(name, value));
        let mut all: Vec<KeyValue> = attributes.iter().cloned().chain(more).collect();
        all.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        all
    }
}

/// The attributes of one series of a state set.
pub(super) fn with_state(attributes: &[KeyValue], state: &'static str) -> Vec<KeyValue> {
    let at = attributes.partition_point(|a| a.key.as_str() < STATE_LABEL);
    let mut all = Vec::with_capacity(attributes.len() + 1);
    all.extend(attributes.iter().take(at).cloned());
    all.push(KeyValue::new(STATE_LABEL, state));
    all.extend(attributes.iter().skip(at).cloned());
    all
}

fn text(key: &'static str, value: &Text) -> KeyValue {
    KeyValue::new(key, StringValue::from(Arc::clone(value)))
}

fn sorted(mut attributes: Vec<KeyValue>) -> Attributes {
    attributes.sort_by(|a, b| a.key.cmp(&b.key));
    attributes.into()
}

/// What label keys become. Containers share few keys, so each is made once.
#[derive(Debug, Default)]
struct LabelKeys {
    known: HashMap<Text, Key>,
}

impl LabelKeys {
    fn get(&mut self, label: &Text) -> Key {
        if let Some(key) = self.known.get(label) {
            return key.clone();
        }
        let key = Key::from(Arc::<str>::from(format!("container.label.{label}")));
        self.known.insert(Arc::clone(label), key.clone());
        key
    }

    /// Label keys that hold something unique must not add up over the life of the process.
    fn shrink(&mut self, containers: usize) {
        if self.known.len() > 1_000 + 50 * containers {
            self.known = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(labels: &[(&str, &str)]) -> Arc<Container> {
        Arc::new(Container::sample("0123", "web").labelled(labels))
    }

    fn show(attributes: &[KeyValue]) -> String {
        attributes.iter().map(|a| format!("{}={}", a.key, a.value)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn otlp_keeps_label_keys_as_they_are() {
        let mut sets = AttributeSets::default();
        let attributes = sets.of_container(&container(&[("a_b", "underscore"), ("a.b", "dot")]));
        assert_eq!(
            show(&attributes),
            "container.id=0123 container.image.name=busybox container.label.a.b=dot \
             container.label.a_b=underscore container.name=web"
        );
    }

    #[test]
    fn attributes_are_sorted_with_what_is_added_to_them() {
        let mut sets = AttributeSets::default();
        let container = container(&[("zone", "a"), ("app", "b")]);
        let attributes = sets.of_container(&container);
        for set in [sets.info(&attributes, &container), with_state(&attributes, "running")] {
            assert!(set.is_sorted_by(|a, b| a.key < b.key), "{}", show(&set));
        }
    }

    #[test]
    fn a_container_that_changed_gets_new_attributes() {
        let mut sets = AttributeSets::default();
        let before = container(&[]);
        sets.of_container(&before);
        let renamed = Arc::new(Container { name: "other".into(), ..(*before).clone() });
        assert!(show(&sets.of_container(&renamed)).ends_with("container.name=other"));
        sets.retain(&[]);
        assert!(sets.containers.is_empty());
    }
}
