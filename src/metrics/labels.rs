//! Labels as the text format writes them: `key="value",key="value"`.
//!
//! The pull reader's instruments observe a number in the place of a label set, and this text is put where that
//! number stands. A set that went through the SDK and the Prometheus exporter as attributes would be copied,
//! hashed and sorted a dozen times on its way, for each of a container's series.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt::Write;

use super::attributes::EXIT_REASON;
use crate::catalog::{OVERFLOW, REASON_LABEL, is_own_label};
use crate::config::Filter;
use crate::inventory::labels::{
    attribute_label, container_label, escaped, joined, kept, kept_attribute_label,
};
use crate::inventory::{Container, Counter, EventIdentity, EventLabels, LabelPairs, Text};

/// How names are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Names {
    /// As every client reads them: `_` stands for what the classic text format does not take.
    #[default]
    Escaped,
    /// As they are, and in quotes where they need it: for clients that say that they read this.
    Kept,
}

/// The labels that series have beside their own: of the resource and of the scope.
#[derive(Debug, Clone, Default)]
pub struct ConstantLabels {
    /// Those that no series has of its own.
    others: String,
    /// Each that is called like a container label. A series' own goes before it.
    like_container_labels: Vec<(String, String)>,
}

impl ConstantLabels {
    /// The labels of the scope, and those that attributes of the resource become where neither the scope nor a series
    /// has them. Attributes come in the order of their keys.
    pub fn new<'a>(
        scope: &[(&str, &str)],
        attributes: impl Iterator<Item = (&'a str, &'a str)>,
        names: Names,
    ) -> Self {
        let prefix = match names {
            Names::Escaped => container_label(""),
            Names::Kept => CONTAINER_LABEL.to_owned(),
        };
        let mut constant = Self::default();
        scope.iter().for_each(|(name, value)| push_text(&mut constant.others, name, value));
        for (name, value) in attribute_labels(attributes, names) {
            if is_own_label(&name) || scope.iter().any(|(known, _)| *known == name) {
                continue;
            }
            let written = written(&name);
            if name.starts_with(&prefix) {
                let mut text = String::new();
                push_text(&mut text, &written, &value);
                constant.like_container_labels.push((written, text));
            } else {
                push_text(&mut constant.others, &written, &value);
            }
        }
        constant
    }
}

/// The labels that attributes of the resource become, as text. Attributes come in the order of their keys.
pub fn resource_labels<'a>(attributes: impl Iterator<Item = (&'a str, &'a str)>, names: Names) -> String {
    let mut text = String::new();
    for (name, value) in attribute_labels(attributes, names) {
        push_text(&mut text, &written(&name), &value);
    }
    text
}

fn attribute_labels<'a>(
    attributes: impl Iterator<Item = (&'a str, &'a str)>,
    names: Names,
) -> Vec<(String, Cow<'a, str>)> {
    let label = match names {
        Names::Escaped => attribute_label,
        Names::Kept => kept_attribute_label,
    };
    joined(attributes.map(|(key, value)| (label(key), value)))
}

/// A name as the text format has it: in quotes where the classic one does not take it.
fn written(name: &str) -> String {
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let is_classic =
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_') && name.chars().all(inner);
    if is_classic { name.to_owned() } else { quoted(name) }
}

/// Writes label sets.
#[derive(Debug, Default)]
pub struct LabelWriter {
    /// What label keys become. Containers share few keys, so each is made once.
    keys: HashMap<Text, String>,
    names: Names,
    /// Which attributes are written, by their names in OTLP; `None` for all.
    kept: Option<Filter>,
    constant: ConstantLabels,
}

/// A container label's key comes after this in its attribute's name.
const CONTAINER_LABEL: &str = "container.label.";

/// Label keys that hold something unique must not add up over the life of the process.
const MOST_KEYS: usize = 10_000;

impl LabelWriter {
    /// A writer of the labels whose names in OTLP the filter lets pass.
    pub fn new(kept: Option<Filter>, constant: ConstantLabels, names: Names) -> Self {
        Self { kept, constant, names, ..Self::default() }
    }

    /// Writes the label set of the series that stands for all beyond a limit.
    pub fn overflow(&self, out: &mut String) {
        let name = match self.names {
            Names::Escaped => escaped(OVERFLOW),
            Names::Kept => quoted(OVERFLOW),
        };
        push_text(out, &name, "true");
        push_written(out, &self.constant.others);
        self.constant.like_container_labels.iter().for_each(|(_, label)| push_written(out, label));
    }

    /// Whether the attribute of this name is written.
    pub fn keeps(&self, attribute: &str) -> bool {
        self.kept.as_ref().is_none_or(|kept| kept.matches(attribute))
    }

    /// Writes what tells a container's series from another's.
    pub fn container(&mut self, out: &mut String, container: &Container) {
        self.chosen(out, &container.labels);
        if self.keeps("container.id") {
            push(out, "id", format_args!("/docker/{}", container.id));
        }
        self.text(out, "container.image.name", "image", &container.image);
        self.text(out, "container.name", "name", &container.name);
    }

    /// Writes what `container_info` has beside that.
    pub fn info(&self, out: &mut String, container: &Container) {
        self.text(out, "container.image.id", "image_id", &container.image_id);
        self.text(out, "container.restart_policy", "restart_policy", &container.restart_policy);
        self.text(out, "container.hostname", "hostname", &container.hostname);
    }

    fn text(&self, out: &mut String, attribute: &str, label: &str, value: &str) {
        if self.keeps(attribute) {
            push_text(out, label, value);
        }
    }

    /// Writes the label set of a count.
    pub fn event(&mut self, out: &mut String, labels: &EventLabels) {
        let EventIdentity { name, image, pod, env, container, labels: chosen, sandbox: _ } =
            &*labels.identity;
        match labels.counter {
            Counter::Events => {
                self.text(out, "event", "event", &labels.event);
                self.text(out, "type", "type", &labels.kind);
            }
            Counter::Exits => self.text(out, EXIT_REASON, REASON_LABEL, &labels.event),
        }
        let optional =
            [("name", name), ("image", image), ("pod", pod), ("env", env), ("container", container)];
        for (key, value) in optional {
            if let Some(value) = value {
                self.text(out, key, key, value);
            }
        }
        self.chosen(out, chosen);
    }

    /// Writes container labels, and those of the resource and the scope that are none of the series' own. Labels come
    /// in the order of their keys, so values that become one label are joined in that order.
    fn chosen(&mut self, out: &mut String, labels: &LabelPairs) {
        if self.keys.len() > MOST_KEYS {
            self.keys = HashMap::new();
        }
        for (key, _) in labels {
            if !self.keys.contains_key(key) {
                let name = match self.names {
                    Names::Escaped => container_label(key),
                    Names::Kept => quoted(&format!("{CONTAINER_LABEL}{}", kept(key))),
                };
                self.keys.insert(Text::clone(key), name);
            }
        }
        let kept = labels
            .iter()
            .filter(|(key, _)| self.kept.is_none() || self.keeps(&format!("{CONTAINER_LABEL}{key}")));
        let named = kept.filter_map(|(key, value)| Some((self.keys.get(key)?.as_str(), &**value)));
        let named = joined(named);
        for (name, text) in &self.constant.like_container_labels {
            if named.iter().all(|(known, _)| known != name) {
                push_written(out, text);
            }
        }
        push_written(out, &self.constant.others);
        for (name, value) in named {
            // Without the labels that are always there, with an empty one and without it can be the same series.
            if self.kept.is_none() || !value.is_empty() {
                push_text(out, name, &value);
            }
        }
    }
}

/// Whether [`LabelWriter::container`] writes the same for both.
pub fn same(a: &Container, b: &Container) -> bool {
    a.id == b.id && a.name == b.name && a.image == b.image && a.labels == b.labels
}

/// Whether [`LabelWriter::info`] writes the same for both.
pub fn same_info(a: &Container, b: &Container) -> bool {
    a.image_id == b.image_id && a.restart_policy == b.restart_policy && a.hostname == b.hostname
}

/// Writes labels that are text already; there may be none.
fn push_written(out: &mut String, labels: &str) {
    if !labels.is_empty() {
        separate(out);
        out.push_str(labels);
    }
}

/// Writes one more label whose value needs escaping.
pub fn push_text(out: &mut String, name: &str, value: &str) {
    separate(out);
    push_first(out, name, value);
}

/// A name in quotes, as the text format takes any.
pub fn quoted(name: &str) -> String {
    let mut quoted = String::with_capacity(name.len() + 2);
    quoted.push('"');
    escape_into(&mut quoted, name);
    quoted.push('"');
    quoted
}

/// Writes a label whose value needs escaping, and nothing before it.
pub fn push_first(out: &mut String, name: &str, value: &str) {
    out.push_str(name);
    out.push_str("=\"");
    escape_into(out, value);
    out.push('"');
}

/// Writes one more label whose value needs none.
fn push(out: &mut String, name: &str, value: std::fmt::Arguments<'_>) {
    separate(out);
    // Writing to a string cannot fail.
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
            r#"container_label_1st="x",container_label_____="v",container_label_team_name="Blue",id="/docker/0123",image="busybox",name="web""#
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
    fn keys_that_are_kept_are_not_joined() {
        let mut out = String::new();
        let container =
            Container::sample("0123", "web").labelled(&[("a.b", "1"), ("a_b", "2"), ("\"q\"", "3")]);
        LabelWriter::new(None, ConstantLabels::default(), Names::Kept).container(&mut out, &container);
        assert_eq!(
            out,
            r#""container.label.\"q\""="3","container.label.a.b"="1","container.label.a_b"="2",id="/docker/0123",image="busybox",name="web""#
        );
    }

    #[test]
    fn attributes_are_kept_by_their_names_in_otlp() {
        let kept = |included: &[&str], excluded: &[&str]| {
            let mut writer = LabelWriter::new(
                Some(Filter::new(included, excluded)),
                ConstantLabels::default(),
                Names::Escaped,
            );
            let container =
                Container::sample("0123", "web").labelled(&[("a.b", "1"), ("a_b", "2"), ("c", "3")]);
            let (mut out, mut info) = (String::new(), String::new());
            writer.container(&mut out, &container);
            writer.info(&mut info, &container);
            (out, info)
        };
        let text = |out: &str, info: &str| (out.to_owned(), info.to_owned());
        assert_eq!(
            kept(&["container.name", "container.label.a*", "container.hostname"], &["container.label.a.*"]),
            text(r#"container_label_a_b="2",name="web""#, r#"hostname="host""#)
        );
        assert_eq!(kept(&["name", "id"], &[]), text("", ""));
        assert_eq!(
            kept(&["*"], &["container.label.*", "container.image.*", "container.restart_policy"]),
            text(r#"id="/docker/0123",name="web""#, r#"hostname="host""#)
        );
    }

    #[test]
    fn values_are_escaped() {
        assert!(written(&[("m", "a\nb\\c\"d")]).starts_with(r#"container_label_m="a\nb\\c\"d","#));
    }
}
