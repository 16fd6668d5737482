//! Labels as the text format writes them: `key="value",key="value"`.
//!
//! The pull reader's instruments observe a number in the place of a label set, and this text is put where that
//! number stands. A set that went through the SDK and the Prometheus exporter as attributes would be copied,
//! hashed and sorted a dozen times on its way, for each of a container's series.

use std::collections::HashMap;
use std::fmt::Write;

use crate::inventory::{Container, EventIdentity, EventLabels, LabelPairs, Text};

/// Writes label sets.
#[derive(Debug, Default)]
pub struct LabelWriter {
    /// What label keys become. Containers share few keys, so each is made once.
    keys: HashMap<Text, String>,
}

/// Label keys that hold something unique must not add up over the life of the process.
const MOST_KEYS: usize = 10_000;

impl LabelWriter {
    /// Writes what tells a container's series from another's.
    pub fn container(&mut self, out: &mut String, container: &Container) {
        self.chosen(out, &container.labels);
        push(out, "id", format_args!("/docker/{}", container.id));
        push_text(out, "image", &container.image);
        push_text(out, "name", &container.name);
    }

    /// Writes what `container_info` has beside that.
    pub fn info(&self, out: &mut String, container: &Container) {
        push_text(out, "image_id", &container.image_id);
        push_text(out, "restart_policy", &container.restart_policy);
        push_text(out, "hostname", &container.hostname);
    }

    /// Writes an event's label set.
    pub fn event(&mut self, out: &mut String, labels: &EventLabels) {
        let EventIdentity { name, image, pod, env, container, labels: chosen, sandbox: _ } =
            &*labels.identity;
        push_text(out, "event", &labels.event);
        push_text(out, "type", &labels.kind);
        let optional =
            [("name", name), ("image", image), ("pod", pod), ("env", env), ("container", container)];
        for (key, value) in optional {
            if let Some(value) = value {
                push_text(out, key, value);
            }
        }
        self.chosen(out, chosen);
    }

    /// Labels come in the order of their keys, so values that become one label are joined in that order.
    fn chosen(&mut self, out: &mut String, labels: &LabelPairs) {
        if self.keys.len() > MOST_KEYS {
            self.keys = HashMap::new();
        }
        let mut written: Vec<(&str, String)> = Vec::with_capacity(labels.len());
        for (key, _) in labels {
            if !self.keys.contains_key(key) {
                self.keys.insert(Text::clone(key), label_name(key));
            }
        }
        for (key, value) in labels {
            let Some(name) = self.keys.get(key) else { continue };
            match written.iter_mut().find(|(known, _)| known == name) {
                Some((_, joined)) => {
                    joined.push(';');
                    escape_into(joined, value);
                }
                None => {
                    let mut escaped = String::with_capacity(value.len());
                    escape_into(&mut escaped, value);
                    written.push((name, escaped));
                }
            }
        }
        for (name, escaped) in written {
            separate(out);
            // Writing to a string cannot fail, here and below.
            let _ = write!(out, "{name}=\"{escaped}\"");
        }
    }
}

/// Writes one more label whose value needs escaping.
pub fn push_text(out: &mut String, name: &str, value: &str) {
    separate(out);
    out.push_str(name);
    out.push_str("=\"");
    escape_into(out, value);
    out.push('"');
}

/// Writes one more label whose value needs none.
fn push(out: &mut String, name: &str, value: std::fmt::Arguments<'_>) {
    separate(out);
    let _ = write!(out, "{name}=\"{value}\"");
}

fn separate(out: &mut String) {
    if !out.is_empty() {
        out.push(',');
    }
}

fn escape_into(out: &mut String, value: &str) {
    if !value.contains(['\\', '"', '\n']) {
        out.push_str(value);
        return;
    }
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

/// A container label's key as the existing exporter writes it: lowercased, and `_` for whatever a Prometheus
/// label name may not hold.
fn label_name(key: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c } else { '_' };
    "container_label_".chars().chain(key.to_lowercase().chars().map(allowed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(labels: &[(&str, &str)]) -> String {
        let mut out = String::new();
        LabelWriter::default().container(&mut out, &Container::sample("0123", "web").labelled(labels));
        out
    }

    #[test]
    fn labels_are_those_of_the_existing_exporter() {
        assert_eq!(
            written(&[("Team.Name", "Blue"), ("1st", "x"), ("ключ", "v")]),
            r#"container_label_1st="x",container_label_team_name="Blue",container_label_____="v",id="/docker/0123",image="busybox",name="web""#
        );
    }

    #[test]
    fn labels_that_become_one_are_joined_in_the_byte_order_of_their_keys() {
        assert_eq!(
            written(&[("a_b", "under;score"), ("a.b", "d\"ot"), ("A-B", "dash")]),
            r#"container_label_a_b="dash;d\"ot;under;score",id="/docker/0123",image="busybox",name="web""#
        );
    }

    #[test]
    fn values_are_escaped() {
        assert!(written(&[("m", "a\nb\\c\"d")]).starts_with(r#"container_label_m="a\nb\\c\"d","#));
    }
}
