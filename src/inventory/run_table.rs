//! The runs of all containers: passes events and inspects to each container's history, and collects the ends.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::container::{Container, EventIdentity, Status, Text};
use super::runs::{End, RunEvent, RunHistory, RunState};

/// An event of a container's run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerRunEvent {
    /// The container's id.
    pub id: Text,
    /// The labels that the end of its run is counted under.
    pub identity: Arc<EventIdentity>,
    /// What has happened.
    pub event: RunEvent,
    /// When, by the engine's clock.
    pub at: SystemTime,
    /// Whether it happened while this program was counting.
    pub is_counted: bool,
}

/// The end of a container's run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerEnd {
    /// The container's id.
    pub id: Text,
    /// The labels that it is counted under.
    pub identity: Arc<EventIdentity>,
    /// The end.
    pub end: End,
}

/// How long the runs of an unknown container are remembered after its last event or inspect.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(600);

/// The runs of each container, including containers that were never inspected.
#[derive(Debug, Default)]
pub(super) struct RunTable {
    records: HashMap<Text, RunRecord>,
    /// Ends that were not yet taken.
    ended: Vec<ContainerEnd>,
    /// Whether anything has changed since that was last asked.
    has_changed: bool,
}

#[derive(Debug, Default)]
struct RunRecord {
    history: RunHistory,
    identity: Arc<EventIdentity>,
}

impl RunTable {
    /// Records an event of a container's run.
    pub(super) fn event(&mut self, told: ContainerRunEvent, now: Instant) {
        let ContainerRunEvent { id, identity, event, at, is_counted } = told;
        self.change(id, Some(identity), |history, ends| {
            history.event(event, at, now, is_counted, ends);
        });
    }

    /// Records an inspect. A container from the list, used if the inspect fails, has no times and is ignored.
    pub(super) fn inspected(&mut self, container: &Container, now: Instant) {
        if !container.is_inspected {
            return;
        }
        let state = RunState {
            running: matches!(container.status, Status::Running | Status::Paused),
            started_at: container.started_at,
            finished_at: container.finished_at,
            exit_code: container.exit_code,
            oom_killed: container.oom_killed,
            stop_signal: container.stop_signal,
        };
        let identity = Some(Arc::clone(&container.event_identity));
        self.change(Text::clone(&container.id), identity, |history, ends| {
            history.inspected(state, now, ends);
        });
    }

    /// A container is gone: no more events of its runs will come.
    pub(super) fn destroyed(&mut self, id: &Text) {
        if self.records.contains_key(id) {
            self.change(Text::clone(id), None, RunHistory::finish);
            self.records.remove(id);
        }
    }

    /// Decides the ends that have waited long enough, and forgets containers that no longer exist.
    pub(super) fn tick(&mut self, now: Instant, exists: impl Fn(&str) -> bool) {
        let waiting: Vec<Text> = self.records.keys().cloned().collect();
        for id in waiting {
            self.change(id, None, |history, ends| history.tick(now, ends));
        }
        self.records.retain(|id, record| {
            let heard_at = record.history.heard_at();
            exists(id) || heard_at.is_some_and(|at| now.saturating_duration_since(at) < FORGOTTEN_AFTER)
        });
    }

    /// What is known of a container's runs.
    pub(super) fn history(&self, id: &str) -> Option<&RunHistory> {
        self.records.get(id).map(|record| &record.history)
    }

    /// The ends that were decided since this was last asked.
    #[must_use]
    pub(super) fn take_ends(&mut self) -> Vec<ContainerEnd> {
        std::mem::take(&mut self.ended)
    }

    /// Whether anything has changed since this was last asked.
    pub(super) fn take_has_changed(&mut self) -> bool {
        std::mem::take(&mut self.has_changed)
    }

    fn change(
        &mut self,
        id: Text,
        identity: Option<Arc<EventIdentity>>,
        change: impl FnOnce(&mut RunHistory, &mut Vec<End>),
    ) {
        let record = self.records.entry(Text::clone(&id)).or_default();
        if let Some(identity) = identity {
            record.identity = identity;
        }
        let before = record.history.summary();
        let mut ends = Vec::new();
        change(&mut record.history, &mut ends);
        self.has_changed |= before != record.history.summary();
        for end in ends {
            let identity = Arc::clone(&record.identity);
            self.ended.push(ContainerEnd { id: Text::clone(&id), identity, end });
        }
    }
}
