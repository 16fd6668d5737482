//! The text format, of streams whose points carry a number in the place of their labels.

use std::fmt::Write;

use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::metrics::data::{AggregatedMetrics, MetricData, ResourceMetrics};

use crate::metrics::SERIES_LABEL;
use crate::metrics::catalog::Kind;
use crate::metrics::labels::{push_first, quoted};
use crate::readers::{Manual, ReaderError};

/// Series that are collected at once. The SDK takes memory for all of them beforehand.
pub(super) const ROOM: usize = 256;

/// What stands for the number in a point's labels.
pub(super) struct Labels<'a> {
    /// For every stream, by the number.
    pub(super) of_all: &'a [String],
    /// What `container_info` has beside that, by the number.
    pub(super) info: &'a [String],
}

/// How a stream's lines are written.
#[derive(Debug)]
pub(super) struct Line {
    /// The stream's name, as the SDK has it.
    stream: String,
    /// What each line begins with.
    begin: String,
    /// Whether the labels of `container_info` are written too.
    is_info: bool,
}

impl Line {
    /// `name` is the one on `/metrics`, which need not be one that the classic format takes.
    pub(super) fn new(stream: &str, name: &str, is_info: bool) -> Self {
        Self { stream: stream.to_owned(), begin: beginning(name), is_info }
    }
}

/// The instruments of containers and events, and text of what they say.
pub(super) struct Collector {
    manual: Manual,
    /// What was collected last: the SDK writes the next in its place.
    collected: ResourceMetrics,
}

impl Collector {
    pub(super) fn new(manual: Manual) -> Self {
        Self { manual, collected: ResourceMetrics::default() }
    }

    /// Collects, and adds to each stream's text its lines.
    pub(super) fn write(
        &mut self,
        lines: &[Line],
        labels: &Labels<'_>,
        texts: &mut [String],
    ) -> Result<(), ReaderError> {
        self.manual.collect(&mut self.collected).map_err(|error| ReaderError::new(error.to_string()))?;
        write(&self.collected, lines, labels, texts);
        Ok(())
    }

    /// Lets go of what was collected.
    pub(super) fn clear(&mut self) {
        self.collected = ResourceMetrics::default();
    }
}

fn write(collected: &ResourceMetrics, lines: &[Line], labels: &Labels<'_>, texts: &mut [String]) {
    for metric in collected.scope_metrics().flat_map(|scope| scope.metrics()) {
        let found = lines.iter().zip(&mut *texts).find(|(line, _)| line.stream == metric.name());
        let Some((line, text)) = found else { continue };
        let mut writer = PointWriter { line, labels, text };
        match metric.data() {
            AggregatedMetrics::I64(MetricData::Gauge(gauge)) => {
                for point in gauge.data_points() {
                    writer.point(point.attributes(), point.value());
                }
            }
            AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                for point in sum.data_points() {
                    writer.point(point.attributes(), point.value());
                }
            }
            // `Collection` has no instruments of other kinds.
            _ => {}
        }
    }
}

struct PointWriter<'a> {
    line: &'a Line,
    labels: &'a Labels<'a>,
    text: &'a mut String,
}

impl PointWriter<'_> {
    fn point<'p>(&mut self, attributes: impl Iterator<Item = &'p KeyValue>, value: impl itoa::Integer) {
        let (mut number, mut label) = (None, None);
        for attribute in attributes {
            match attribute.value {
                Value::I64(place) if attribute.key.as_str() == SERIES_LABEL => {
                    number = usize::try_from(place).ok();
                }
                // There is one at most: the state, or the reason.
                _ => label = Some(attribute),
            }
        }
        let Some((number, labels)) = number.and_then(|n| Some((n, self.labels.of_all.get(n)?))) else {
            return;
        };
        self.text.push_str(&self.line.begin);
        push_labels(self.text, labels);
        if self.line.is_info
            && let Some(info) = self.labels.info.get(number)
        {
            push_labels(self.text, info);
        }
        if let Some(label) = label {
            separate(self.text);
            push_first(self.text, label.key.as_str(), &label.value.as_str());
        }
        self.text.push_str("} ");
        self.text.push_str(itoa::Buffer::new().format(value));
        self.text.push('\n');
    }
}

/// The lines before a family's series.
pub(super) fn head(name: &str, help: &str, kind: Kind) -> String {
    let kind = match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram => "histogram",
    };
    let begin = beginning(name);
    let name = begin.trim_matches(['{', '}']);
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
}

/// A series with these labels, and a whole number.
pub(super) fn push_series(text: &mut String, name: &str, labels: String, value: f64) {
    text.push_str(&beginning(name));
    push_labels(text, &labels);
    // Writing to a string cannot fail.
    let _ = writeln!(text, "}} {value}");
}

/// What a series' line begins with. A name that the classic format does not take stands among the labels.
fn beginning(name: &str) -> String {
    let is_classic = |(i, c): (usize, char)| {
        c.is_ascii_alphabetic() || c == '_' || c == ':' || (i > 0 && c.is_ascii_digit())
    };
    if name.char_indices().all(is_classic) { format!("{name}{{") } else { format!("{{{}", quoted(name)) }
}

/// Writes labels that are text already; a view may have left none.
fn push_labels(text: &mut String, labels: &str) {
    if !labels.is_empty() {
        separate(text);
        text.push_str(labels);
    }
}

fn separate(text: &mut String) {
    if !text.ends_with('{') {
        text.push(',');
    }
}
