//! Event counts: one for each label set, kept for as long as somebody may still ask.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::container::{Container, EventIdentity, Text};

/// What distinguishes one event count from another. There is no container id in it: ids never come back,
/// so a count that held one would never end.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventLabels {
    /// The action: `start`, `die`, `health_status: healthy` …
    pub event: Text,
    /// `container`, `image`, `network` …
    pub kind: Text,
    /// What comes from the event's actor.
    pub identity: Arc<EventIdentity>,
}

/// One label set with its count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventCount {
    /// The label set.
    pub labels: Arc<EventLabels>,
    /// Events so far.
    pub count: u64,
}

/// An event that was counted not long ago.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecentEvent {
    /// Its number among all that were counted.
    pub seq: u64,
    /// When it happened, by the daemon's clock.
    pub time: SystemTime,
    /// What it was counted under.
    pub labels: Arc<EventLabels>,
}

/// The event counts at one moment.
#[derive(Debug)]
pub struct EventSet {
    /// Differs whenever the counts differ.
    pub generation: u64,
    /// In no particular order; every label set once.
    pub list: Vec<EventCount>,
}

/// The counts: of label sets that have had an event, and the zeros of containers that are known.
#[derive(Debug)]
pub(super) struct EventTable {
    counts: HashMap<Arc<EventLabels>, Entry>,
    start_at_zero: Vec<Text>,
    generation: u64,
}

#[derive(Debug, Default)]
struct Entry {
    count: u64,
    /// When it was last counted, or its container last known; `None` for a zero.
    last: Option<Instant>,
    /// Containers for whose sake it exists with 0. Two can have one label set: Podman's names may repeat for a
    /// moment, and a rename may have been seen for one of them only.
    holders: usize,
}

impl EventTable {
    pub(super) fn new(start_at_zero: Vec<Text>) -> Self {
        Self { counts: HashMap::new(), start_at_zero, generation: 1 }
    }

    /// Differs whenever the counts differ.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Counts an event, and returns the labels as they are kept.
    pub(super) fn count(&mut self, labels: EventLabels, now: Instant) -> Arc<EventLabels> {
        self.generation += 1;
        let labels = match self.counts.get_key_value(&labels) {
            Some((kept, _)) => Arc::clone(kept),
            None => Arc::new(self.shared(labels)),
        };
        let entry = self.counts.entry(Arc::clone(&labels)).or_default();
        entry.count += 1;
        entry.last = Some(now);
        labels
    }

    /// The same with what a container's zeros have already. An event brings its own copy of all that it is about.
    fn shared(&self, labels: EventLabels) -> EventLabels {
        let Some(event) = self.start_at_zero.first() else { return labels };
        let zero = EventLabels { event: Arc::clone(event), ..labels };
        match self.counts.get_key_value(&zero) {
            Some((kept, _)) => EventLabels { event: labels.event, ..EventLabels::clone(kept) },
            None => EventLabels { event: labels.event, ..zero },
        }
    }

    /// A container has become known: what begins at 0 exists from now on.
    pub(super) fn hold(&mut self, container: &Container) {
        for labels in zeros(&self.start_at_zero, container) {
            match self.counts.get_mut(&labels) {
                Some(entry) => entry.holders += 1,
                None => {
                    self.generation += 1;
                    self.counts.insert(Arc::new(labels), Entry { holders: 1, ..Entry::default() });
                }
            }
        }
    }

    /// A container is no longer known: what has had no event goes with it.
    pub(super) fn release(&mut self, container: &Container) {
        for labels in zeros(&self.start_at_zero, container) {
            let Some(entry) = self.counts.get_mut(&labels) else { continue };
            entry.holders = entry.holders.saturating_sub(1);
            if entry.holders == 0 && entry.last.is_none() {
                self.generation += 1;
                self.counts.remove(&labels);
            }
        }
    }

    /// Drops what has had no event for `retention`, but for containers whose name still exists: such a count
    /// must not begin anew under a label set that somebody still reads. Its time begins when the name is gone,
    /// so that a container that is recreated, however old its last event, goes on from its count.
    pub(super) fn sweep(&mut self, now: Instant, retention: Duration, exists: impl Fn(&str) -> bool) {
        let before = self.counts.len();
        self.counts.retain(|labels, entry| {
            let Some(last) = &mut entry.last else { return true };
            if &*labels.kind == "container" && labels.identity.name.as_deref().is_some_and(&exists) {
                *last = now;
            }
            entry.holders > 0 || now.saturating_duration_since(*last) < retention
        });
        // Unique names come and go by the thousand; without this the table stays as large as it ever was.
        if self.counts.capacity() > 64 && self.counts.len() < self.counts.capacity() / 4 {
            self.counts.shrink_to(self.counts.len() * 2);
        }
        if self.counts.len() != before {
            self.generation += 1;
        }
    }

    pub(super) fn to_set(&self) -> EventSet {
        let count = |(labels, entry): (&Arc<EventLabels>, &Entry)| EventCount {
            labels: Arc::clone(labels),
            count: entry.count,
        };
        EventSet { generation: self.generation, list: self.counts.iter().map(count).collect() }
    }
}

/// The label sets that exist with 0 for a container.
fn zeros<'t>(
    start_at_zero: &'t [Text],
    container: &Container,
) -> impl Iterator<Item = EventLabels> + use<'t> {
    let identity = Arc::clone(&container.event_identity);
    let kind: Text = Arc::from("container");
    let counted = if identity.sandbox { &[] } else { start_at_zero };
    counted.iter().map(move |event| EventLabels {
        event: Arc::clone(event),
        kind: Arc::clone(&kind),
        identity: Arc::clone(&identity),
    })
}
