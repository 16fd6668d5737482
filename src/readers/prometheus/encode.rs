//! The text format, of families whose series carry a number in the place of their labels.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;

use prometheus::proto::{Metric, MetricFamily, MetricType};

use crate::metrics::SERIES_LABEL;
use crate::metrics::labels::{push_first, quoted};

/// What stands for the number in a series' labels.
pub(super) struct Labels<'a> {
    /// For every family, by the number.
    pub(super) of_all: &'a [String],
    /// What some families have beside those: their names, and the text by the number.
    pub(super) of_some: (&'a [String], &'a [String]),
}

/// The names that are written in the place of those that the registry has, which are escaped always. Both are by
/// the escaped name; what is in neither stays.
#[derive(Debug, Default)]
pub(super) struct Naming {
    pub(super) families: HashMap<String, String>,
    pub(super) labels: HashMap<String, String>,
}

impl Naming {
    fn family<'n>(&'n self, name: &'n str) -> &'n str {
        self.families.get(name).map_or(name, String::as_str)
    }

    fn label<'n>(&'n self, name: &'n str) -> &'n str {
        self.labels.get(name).map_or(name, String::as_str)
    }
}

/// The text of each family, by its escaped name; and the lines before it.
#[derive(Default)]
pub(super) struct Families {
    pub(super) text: BTreeMap<String, String>,
    pub(super) heads: BTreeMap<String, String>,
}

impl Families {
    /// Adds what was gathered. Families without numbered series are not about containers or events.
    pub(super) fn add(&mut self, gathered: &[MetricFamily], labels: &Labels<'_>, naming: &Naming) {
        for family in gathered {
            let name = family.name();
            let begin = beginning(naming.family(name));
            let has_more = labels.of_some.0.iter().any(|some| some == name);
            let mut lines = String::new();
            for metric in family.get_metric() {
                let number = metric.get_label().iter().find(|label| label.name() == SERIES_LABEL);
                let Some(text) = number
                    .and_then(|label| label.value().parse::<usize>().ok())
                    .and_then(|number| Some((labels.of_all.get(number)?, labels.of_some.1.get(number))))
                else {
                    continue;
                };
                lines.push_str(&begin);
                push_some(&mut lines, text.0);
                if has_more && let Some(more) = text.1 {
                    push_some(&mut lines, more);
                }
                push_rest(&mut lines, family, metric, naming);
            }
            if !lines.is_empty() {
                if !self.heads.contains_key(name) {
                    self.heads.insert(name.to_owned(), head(family, naming.family(name)));
                }
                self.text.entry(name.to_owned()).or_default().push_str(&lines);
            }
        }
    }
}

/// Families whose series are not numbered, whole.
pub(super) fn plain(gathered: &[MetricFamily], naming: &Naming) -> String {
    let mut lines = String::new();
    for family in gathered {
        let name = naming.family(family.name());
        lines.push_str(&head(family, name));
        let begin = beginning(name);
        for metric in family.get_metric() {
            lines.push_str(&begin);
            push_rest(&mut lines, family, metric, naming);
        }
    }
    lines
}

/// What a series' line begins with. A name that the classic format does not take stands among the labels.
fn beginning(name: &str) -> String {
    let is_classic = |(i, c): (usize, char)| {
        c.is_ascii_alphabetic() || c == '_' || c == ':' || (i > 0 && c.is_ascii_digit())
    };
    if name.char_indices().all(is_classic) { format!("{name}{{") } else { format!("{{{}", quoted(name)) }
}

/// Writes labels that are text already; a view may have left none.
fn push_some(lines: &mut String, labels: &str) {
    if !labels.is_empty() {
        separate(lines);
        lines.push_str(labels);
    }
}

/// Writes what a series has beside its number: the labels, and the value.
fn push_rest(lines: &mut String, family: &MetricFamily, metric: &Metric, naming: &Naming) {
    for label in metric.get_label().iter().filter(|label| label.name() != SERIES_LABEL) {
        separate(lines);
        let name = naming.label(label.name());
        if name == label.name() {
            push_first(lines, name, label.value());
        } else {
            push_first(lines, &quoted(name), label.value());
        }
    }
    lines.push_str("} ");
    let value = match family.get_field_type() {
        MetricType::COUNTER => metric.get_counter().get_value(),
        _ => metric.get_gauge().get_value(),
    };
    push_value(lines, value);
    lines.push('\n');
}

fn separate(lines: &mut String) {
    if !lines.ends_with('{') {
        lines.push(',');
    }
}

fn head(family: &MetricFamily, name: &str) -> String {
    let name = beginning(name);
    let name = name.trim_matches(['{', '}']);
    let help = family.help().replace('\\', "\\\\").replace('\n', "\\n");
    let kind = match family.get_field_type() {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        _ => "untyped",
    };
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
}

fn push_value(lines: &mut String, value: f64) {
    // Whole numbers are what nearly all values are, and are written much quicker as such.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if value.fract() == 0.0 && value.abs() < EXACT {
        lines.push_str(itoa::Buffer::new().format(value as i64));
    } else {
        let _ = write!(lines, "{value}");
    }
}
