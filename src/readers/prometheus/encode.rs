//! The text format, of families whose series carry a number in the place of their labels.

use std::collections::BTreeMap;
use std::fmt::Write;

use prometheus::proto::{MetricFamily, MetricType};

use crate::metrics::SERIES_LABEL;
use crate::metrics::labels::{push_first, push_text};

/// What stands for the number in a series' labels.
pub(super) struct Labels<'a> {
    /// For every family, by the number.
    pub(super) of_all: &'a [String],
    /// What some families have beside those: their names, and the text by the number.
    pub(super) of_some: (&'a [String], &'a [String]),
}

/// The text of each family, by its name; and the lines before it.
#[derive(Default)]
pub(super) struct Families {
    pub(super) text: BTreeMap<String, String>,
    pub(super) heads: BTreeMap<String, String>,
}

impl Families {
    /// Adds what was gathered. Families without numbered series are not about containers or events.
    pub(super) fn add(&mut self, gathered: &[MetricFamily], labels: &Labels<'_>) {
        for family in gathered {
            let name = family.name();
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
                let value = match family.get_field_type() {
                    MetricType::COUNTER => metric.get_counter().get_value(),
                    _ => metric.get_gauge().get_value(),
                };
                lines.push_str(name);
                lines.push('{');
                lines.push_str(text.0);
                if has_more && let Some(more) = text.1 {
                    lines.push(',');
                    lines.push_str(more);
                }
                for label in metric.get_label().iter().filter(|label| label.name() != SERIES_LABEL) {
                    push_another(&mut lines, label.name(), label.value());
                }
                lines.push_str("} ");
                push_value(&mut lines, value);
                lines.push('\n');
            }
            if !lines.is_empty() {
                if !self.heads.contains_key(name) {
                    self.heads.insert(name.to_owned(), head(family));
                }
                self.text.entry(name.to_owned()).or_default().push_str(&lines);
            }
        }
    }
}

/// Writes one more label; the first, where a view has left none before it.
fn push_another(lines: &mut String, name: &str, value: &str) {
    if lines.ends_with('{') {
        push_first(lines, name, value);
    } else {
        push_text(lines, name, value);
    }
}

fn head(family: &MetricFamily) -> String {
    let name = family.name();
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
