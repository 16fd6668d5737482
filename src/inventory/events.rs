//! Event counts: one for each label set, kept for as long as somebody may still ask.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

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
    pub identity: EventIdentity,
}

/// One label set with its count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventCount {
    /// The label set.
    pub labels: Arc<EventLabels>,
    /// Events so far.
    pub count: u64,
}

/// The event counts at one moment.
#[derive(Debug)]
pub struct EventSet {
    /// Differs whenever the counts differ.
    pub generation: u64,
    /// In no particular order; every label set once.
    pub list: Vec<EventCount>,
}

/// The counts of label sets that have had an event.
///
/// Zero counts are not stored: they follow from the containers that are known.
#[derive(Debug, Default)]
pub(super) struct EventTable {
    counts: HashMap<Arc<EventLabels>, Entry>,
}

#[derive(Debug)]
struct Entry {
    count: u64,
    /// When it was last counted, or its container last known.
    last: Instant,
}

impl EventTable {
    pub(super) fn count(&mut self, labels: EventLabels, now: Instant) {
        match self.counts.get_mut(&labels) {
            Some(entry) => {
                entry.count += 1;
                entry.last = now;
            }
            None => {
                self.counts.insert(Arc::new(labels), Entry { count: 1, last: now });
            }
        }
    }

    /// Drops what has had no event for `retention`, but for containers whose name still exists: such a count
    /// must not begin anew under a label set that somebody still reads. Its time begins when the name is gone,
    /// so that a container that is recreated, however old its last event, goes on from its count. Says whether
    /// anything was dropped.
    pub(super) fn sweep(&mut self, now: Instant, retention: Duration, exists: impl Fn(&str) -> bool) -> bool {
        let before = self.counts.len();
        self.counts.retain(|labels, entry| {
            if &*labels.kind == "container" && labels.identity.name.as_deref().is_some_and(&exists) {
                entry.last = now;
            }
            now.saturating_duration_since(entry.last) < retention
        });
        // Unique names come and go by the thousand; without this the table stays as large as it ever was.
        if self.counts.capacity() > 64 && self.counts.len() < self.counts.capacity() / 4 {
            self.counts.shrink_to(self.counts.len() * 2);
        }
        self.counts.len() != before
    }

    pub(super) fn to_set<'a>(
        &self,
        generation: u64,
        containers: impl Iterator<Item = &'a Container>,
        start_at_zero: &[Text],
    ) -> EventSet {
        let mut list: Vec<EventCount> = self
            .counts
            .iter()
            .map(|(labels, entry)| EventCount { labels: Arc::clone(labels), count: entry.count })
            .collect();
        let kind: Text = Arc::from("container");
        let mut zeros = HashSet::new();
        for container in containers.filter(|c| !c.event_identity.sandbox) {
            for event in start_at_zero {
                let labels = EventLabels {
                    event: Arc::clone(event),
                    kind: Arc::clone(&kind),
                    identity: container.event_identity.clone(),
                };
                // Two containers can have one label set: Podman's names may repeat for a moment, and a rename
                // may have been seen for one of them only.
                if !self.counts.contains_key(&labels) {
                    zeros.insert(labels);
                }
            }
        }
        list.extend(zeros.into_iter().map(|labels| EventCount { labels: Arc::new(labels), count: 0 }));
        EventSet { generation, list }
    }
}
