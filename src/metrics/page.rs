//! What the instruments observe in one collection.

use std::ops::Range;
use std::sync::Arc;

use opentelemetry::KeyValue;

use super::catalog::{ContainerMetric, ContainerValue};
use crate::config::Encoding;
use crate::inventory::{Container, EventCount};

/// The attribute that stands for all others of a container's or an event's series on their way to `/metrics`: a
/// number, by which the pull reader finds the text of its labels.
pub const SERIES_LABEL: &str = "series";

/// A data point: its attributes, sorted by their keys, and its value. The SDK stores a set that is not sorted twice.
pub type Point = (Vec<KeyValue>, i64);

/// A part of a snapshot.
#[derive(Debug, Default)]
pub struct Page {
    /// The containers.
    pub containers: Vec<ContainerSeries>,
    /// Which of a container's points are observed, in the order of the streams; all where this is empty.
    pub wanted: Vec<bool>,
    /// The counts of events.
    pub events: Vec<(Vec<KeyValue>, u64)>,
    /// Of each stream that is merged, containers' first.
    pub merged: Vec<Vec<Point>>,
}

/// A container with what its series are told apart by.
#[derive(Debug)]
pub struct ContainerSeries {
    /// Where the values come from.
    pub container: Arc<Container>,
    /// The attributes, sorted by their keys.
    pub attributes: Vec<KeyValue>,
    /// The attributes of `container.info`, where it has others.
    pub info: Option<Vec<KeyValue>>,
}

impl Page {
    /// Containers, each told apart by its place here and by nothing else.
    pub fn numbered_containers(containers: &[Arc<Container>], wanted: Vec<bool>) -> Self {
        let numbered = containers.iter().enumerate().map(|(number, container)| ContainerSeries {
            container: Arc::clone(container),
            attributes: vec![series_number(number)],
            info: None,
        });
        Self { containers: numbered.collect(), wanted, ..Self::default() }
    }

    /// Event counts, each told apart by its place here and by nothing else.
    pub fn numbered_events(events: &[EventCount]) -> Self {
        let numbered = events.iter().enumerate().map(|(n, event)| (vec![series_number(n)], event.count));
        Self { events: numbered.collect(), ..Self::default() }
    }

    /// Whether any of these points of a container is observed.
    pub(super) fn wants_any(&self, mut points: Range<usize>) -> bool {
        points.any(|point| self.wants(point))
    }

    /// Whether this point of a container is observed.
    pub(super) fn wants(&self, point: usize) -> bool {
        self.wanted.get(point).copied().unwrap_or(self.wanted.is_empty())
    }
}

impl ContainerSeries {
    /// The attributes of a stream's points, but for the state where there is one.
    pub fn attributes_of(&self, entry: &ContainerMetric) -> &[KeyValue] {
        match (&self.info, entry.value) {
            (Some(info), ContainerValue::Info) => info,
            _ => &self.attributes,
        }
    }
}

/// The attribute that stands for a place in a page.
pub fn series_number(number: usize) -> KeyValue {
    KeyValue::new(SERIES_LABEL, i64::try_from(number).unwrap_or(i64::MAX))
}

/// Data points that a container has of a metric.
pub(super) fn points(entry: &ContainerMetric, encoding: Encoding) -> usize {
    match (entry.value, encoding) {
        (ContainerValue::State { states, .. }, Encoding::StateSet) => states().len(),
        _ => 1,
    }
}

/// A container's values of a metric, each with its state where it is one of several.
pub(super) fn each_value(
    entry: &ContainerMetric,
    encoding: Encoding,
    container: &Container,
    mut each: impl FnMut(i64, Option<&'static str>),
) {
    match (entry.value, encoding) {
        (ContainerValue::State { states, code }, Encoding::StateSet) => {
            let current = code(container);
            states().into_iter().for_each(|(word, code)| each(i64::from(code == current), Some(word)));
        }
        (ContainerValue::Number(value) | ContainerValue::State { code: value, .. }, _) => {
            each(value(container), None);
        }
        (ContainerValue::Info, _) => each(1, None),
    }
}
