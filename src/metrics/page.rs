//! What the instruments observe in one collection.

use std::ops::Range;
use std::sync::Arc;

use opentelemetry::KeyValue;

use crate::catalog::{ContainerMetric, ContainerValue, REASON_LABEL, STATE_LABEL};
use crate::config::Encoding;
use crate::inventory::{Container, Counter, EventCount};

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
    /// The counts of events and exits.
    pub events: Vec<CountSeries>,
    /// Of each stream that is merged, containers' first.
    pub merged: Vec<Vec<Point>>,
}

/// A count with what its series is told apart by.
#[derive(Debug)]
pub struct CountSeries {
    /// What is counted.
    pub counter: Counter,
    /// The attributes, sorted by their keys.
    pub attributes: Vec<KeyValue>,
    /// How many so far.
    pub count: u64,
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
        let numbered = events.iter().enumerate().map(|(number, event)| CountSeries {
            counter: event.labels.counter,
            attributes: vec![series_number(number)],
            count: event.count,
        });
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
    /// The attributes of a stream's points, but for the label that only some have.
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

/// Data points that a container has of a metric at most.
pub(super) fn points(entry: &ContainerMetric, encoding: Encoding) -> usize {
    match (entry.value, encoding) {
        (ContainerValue::State { states, .. }, Encoding::StateSet) => states().len(),
        _ => 1,
    }
}

/// A container's values of a metric, each with the label that it has beside the container's, if it has one.
pub(super) fn each_value(
    entry: &ContainerMetric,
    encoding: Encoding,
    container: &Container,
    mut each: impl FnMut(i64, Option<(&'static str, &'static str)>),
) {
    match (entry.value, encoding) {
        (ContainerValue::State { states, code }, Encoding::StateSet) => {
            let current = code(container);
            let label = |word| Some((STATE_LABEL, word));
            states().into_iter().for_each(|(word, code)| each(i64::from(code == current), label(word)));
        }
        (ContainerValue::Number(value) | ContainerValue::State { code: value, .. }, _) => {
            each(value(container), None);
        }
        (ContainerValue::Info, _) => each(1, None),
        (ContainerValue::Reason { reason, .. }, _) => {
            if let Some(reason) = reason(container) {
                each(1, Some((REASON_LABEL, reason)));
            }
        }
        (ContainerValue::Optional(value), _) => {
            if let Some(value) = value(container) {
                each(value, None);
            }
        }
    }
}
