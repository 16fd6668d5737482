//! What a container's and an event's points are told apart by in OTLP, under the semantic conventions' names.

use opentelemetry::KeyValue;

use super::catalog::STATE_LABEL;
use crate::inventory::{Container, EventIdentity, EventLabels, LabelPairs};

/// A container label's key comes after this.
const LABEL: &str = "container.label.";

/// Takes an attribute: its key in two parts, and its value.
///
/// In two parts, so that no key has to be put together for each point that has it.
pub trait Visit: FnMut(&str, &str, &str) {}

impl<F: FnMut(&str, &str, &str)> Visit for F {}

/// What tells a container's series from another's.
pub fn container(container: &Container, visit: &mut impl Visit) {
    visit("", "container.id", &container.id);
    visit("", "container.image.name", &container.image);
    visit("", "container.name", &container.name);
    labels(&container.labels, visit);
}

/// What `container.info` has beside that.
pub fn info(container: &Container, visit: &mut impl Visit) {
    visit("", "container.image.id", &container.image_id);
    visit("", "container.restart_policy", &container.restart_policy);
    visit("", "container.hostname", &container.hostname);
}

/// An event's label set.
pub fn event(event: &EventLabels, visit: &mut impl Visit) {
    let EventIdentity { name, image, pod, env, container, labels: chosen, sandbox: _ } = &*event.identity;
    visit("", "event", &event.event);
    visit("", "type", &event.kind);
    let optional = [("name", name), ("image", image), ("pod", pod), ("env", env), ("container", container)];
    for (key, value) in optional {
        if let Some(value) = value {
            visit("", key, value);
        }
    }
    labels(chosen, visit);
}

/// A container's attributes as the SDK takes them, with those of `container.info` or without.
pub(super) fn of_container(of: &Container, with_info: bool) -> Vec<KeyValue> {
    let mut set = Set::default();
    container(of, &mut |prefix: &str, key: &str, value: &str| set.push(prefix, key, value));
    if with_info {
        info(of, &mut |prefix: &str, key: &str, value: &str| set.push(prefix, key, value));
    }
    set.sorted()
}

/// An event's attributes as the SDK takes them.
pub(super) fn of_event(labels: &EventLabels) -> Vec<KeyValue> {
    let mut set = Set::default();
    event(labels, &mut |prefix: &str, key: &str, value: &str| set.push(prefix, key, value));
    set.sorted()
}

/// The attributes of one series of a state set.
pub(super) fn with_state(attributes: &[KeyValue], state: &'static str) -> Vec<KeyValue> {
    let mut set = Set(attributes.to_vec());
    set.0.push(KeyValue::new(STATE_LABEL, state));
    set.sorted()
}

/// Attributes in the order of their keys. The SDK stores a set that is not sorted a second time.
#[derive(Default)]
struct Set(Vec<KeyValue>);

impl Set {
    fn push(&mut self, prefix: &str, key: &str, value: &str) {
        self.0.push(KeyValue::new(format!("{prefix}{key}"), value.to_owned()));
    }

    fn sorted(mut self) -> Vec<KeyValue> {
        self.0.sort_by(|a, b| a.key.cmp(&b.key));
        self.0
    }
}

fn labels(labels: &LabelPairs, visit: &mut impl Visit) {
    for (key, value) in labels {
        visit(LABEL, key, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn otlp_keeps_label_keys_as_they_are() {
        let web = Container::sample("0123", "web").labelled(&[("a_b", "underscore"), ("a.b", "dot")]);
        let mut shown = Vec::new();
        container(&web, &mut |prefix: &str, key: &str, value: &str| {
            shown.push(format!("{prefix}{key}={value}"));
        });
        assert_eq!(
            shown.join(" "),
            "container.id=0123 container.image.name=busybox container.name=web container.label.a.b=dot \
             container.label.a_b=underscore"
        );
    }

    #[test]
    fn attributes_are_sorted_with_what_is_added_to_them() {
        let web = Container::sample("0123", "web").labelled(&[("zone", "a"), ("app", "b")]);
        for set in [of_container(&web, true), with_state(&of_container(&web, false), "running")] {
            assert!(set.is_sorted_by(|a, b| a.key < b.key), "{set:?}");
        }
    }
}
