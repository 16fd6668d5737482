//! What is known of the daemon: its containers' states and the counts of its events.
//!
//! There is one [`Writer`] and there are any number of [`Reader`]s. Nothing here waits or does I/O: a writer changes
//! the state under a short lock, a reader takes an immutable [`Snapshot`] and releases the lock. A snapshot is built
//! when a reader first asks after a change: unread changes cost nothing, and ten readers cost as much as one.

mod attention;
mod container;
mod events;
mod expectation;
pub mod labels;
mod replaced;
mod replica;
mod run_table;
mod runs;
mod signal;
mod text;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

pub use container::{Container, EventIdentity, Health, LabelPairs, Status, Text, Verdict};
pub use events::{Counted, Counter, EventCount, EventLabels, EventPolicy, EventSet, RecentEvent};
pub use expectation::{Attention, Expectation};
pub use replica::{Orchestrator, Replica};
pub use run_table::{ContainerEnd, ContainerRunEvent};
pub use runs::{End, ExitReason, RunEvent};
pub use signal::Signal;

use events::EventTable;
use run_table::RunTable;
use runs::RunHistory;

/// How many recent events are remembered one by one.
const RECENT: usize = 100;

/// Creates an empty inventory; returns its writer and a reader.
pub fn new(policy: EventPolicy) -> (Writer, Reader) {
    let shared = Arc::new(Mutex::new(State {
        containers: BTreeMap::new(),
        visible: false,
        complete: false,
        container_generation: 1,
        judged_generation: 0,
        runs: RunTable::default(),
        events: EventTable::new(policy),
        recent: VecDeque::new(),
        recent_seq: 0,
        cached: None,
    }));
    (Writer { shared: Arc::clone(&shared) }, Reader { shared })
}

/// What a reader sees: everything at one moment.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The containers, in the order of their ids; none while they are withheld.
    pub containers: Arc<ContainerSet>,
    /// The event counts.
    pub events: Arc<EventSet>,
    /// Whether a whole list has ever been taken.
    pub complete: bool,
}

/// The containers at one moment.
#[derive(Debug)]
pub struct ContainerSet {
    /// Differs whenever the containers differ.
    pub generation: u64,
    /// In the order of their ids.
    pub list: Vec<Arc<Container>>,
}

/// The handle that changes the inventory; there is only one.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Mutex<State>>,
}

/// The handle that reads the inventory; cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    shared: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct State {
    containers: BTreeMap<Text, Arc<Container>>,
    /// False while the containers may be outdated.
    visible: bool,
    complete: bool,
    container_generation: u64,
    /// The container generation that the verdicts were computed for.
    judged_generation: u64,
    runs: RunTable,
    events: EventTable,
    /// The last events, the newest last.
    recent: VecDeque<RecentEvent>,
    /// How many events have been remembered.
    recent_seq: u64,
    cached: Option<Snapshot>,
}

impl Writer {
    /// Replaces all containers with a whole list, and shows them. Known containers in `keep` stay unchanged. A known
    /// container that could not be inspected stays as long as the list does not contradict it.
    pub fn replace(&self, containers: Vec<Arc<Container>>, keep: &[Text], now: Instant) {
        let mut fresh: BTreeMap<Text, Arc<Container>> =
            containers.into_iter().map(|c| (Arc::clone(&c.id), c)).collect();
        let mut state = lock(&self.shared);
        for id in keep {
            if let Some(known) = state.containers.get(id) {
                fresh.entry(Arc::clone(id)).or_insert_with(|| Arc::clone(known));
            }
        }
        // An unchanged container stays the same object: readers cache results for it.
        for container in fresh.values_mut() {
            state.inspected(container, now);
        }
        let stale: Vec<Text> =
            state.containers.keys().filter(|id| !fresh.contains_key(*id)).cloned().collect();
        for id in stale {
            state.forget(&id);
        }
        for container in fresh.into_values() {
            state.know(container);
        }
        if !state.visible || !state.complete {
            state.container_generation += 1;
        }
        state.visible = true;
        state.complete = true;
    }

    /// Adds or updates a container.
    pub fn upsert(&self, mut container: Arc<Container>, now: Instant) {
        let mut state = lock(&self.shared);
        state.inspected(&mut container, now);
        state.know(container);
    }

    /// Records an event of a container's run.
    pub fn run_event(&self, event: ContainerRunEvent, now: Instant) {
        lock(&self.shared).runs.event(event, now);
    }

    /// A container is gone: no more events of its runs will come.
    pub fn destroyed(&self, id: &Text) {
        lock(&self.shared).runs.destroyed(id);
    }

    /// Counts the ends that were decided since this was last asked, and returns them.
    pub fn count_ends(&self, now: Instant) -> Vec<ContainerEnd> {
        let mut guard = lock(&self.shared);
        let state = &mut *guard;
        let ends = state.runs.take_ends();
        for ContainerEnd { identity, end, .. } in &ends {
            if state.events.counts_exits() && end.is_counted && !identity.sandbox {
                let labels = EventLabels {
                    counter: Counter::Exits,
                    event: end.reason.word().into(),
                    kind: "container".into(),
                    identity: Arc::clone(identity),
                };
                state.events.count(labels, now);
            }
        }
        ends
    }

    /// Forgets a container.
    pub fn remove(&self, id: &str) {
        lock(&self.shared).forget(id);
    }

    /// Stops showing containers until the next [`replace`](Self::replace): what is known may be wrong by now.
    pub fn withhold(&self) {
        let mut state = lock(&self.shared);
        if state.visible {
            state.visible = false;
            state.container_generation += 1;
        }
    }

    /// Counts one event.
    pub fn count(&self, labels: EventLabels, now: Instant) -> Counted {
        lock(&self.shared).events.count(labels, now).1
    }

    /// Counts one event that happened at `time`, and remembers it among the last ones.
    pub fn count_and_remember(&self, labels: EventLabels, now: Instant, time: SystemTime) -> Counted {
        let mut guard = lock(&self.shared);
        let state = &mut *guard;
        let (labels, counted) = state.events.count(labels, now);
        state.recent_seq += 1;
        if state.recent.len() == RECENT {
            state.recent.pop_front();
        }
        state.recent.push_back(RecentEvent { seq: state.recent_seq, time, labels });
        counted
    }

    /// Decides the ends that have waited long enough, and drops the label sets whose retention is over.
    pub fn sweep(&self, now: Instant) {
        let mut guard = lock(&self.shared);
        let state = &mut *guard;
        state.runs.tick(now, |id| state.containers.contains_key(id));
        let names: HashSet<&str> = state.containers.values().map(|c| &*c.name).collect();
        state.events.sweep(now, |name| names.contains(name));
    }

    /// How many containers are known, shown or not.
    pub fn len(&self) -> usize {
        lock(&self.shared).containers.len()
    }

    /// Whether no container is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Reader {
    /// Everything at this moment.
    pub fn snapshot(&self) -> Snapshot {
        lock(&self.shared).snapshot()
    }

    /// The last events, the newest last.
    pub fn recent(&self) -> Vec<RecentEvent> {
        lock(&self.shared).recent.iter().cloned().collect()
    }

    /// Whether a whole list has ever been taken.
    pub fn is_complete(&self) -> bool {
        lock(&self.shared).complete
    }
}

impl State {
    /// An inspect has returned a container. If nothing has changed, the known object is kept: readers cache results for
    /// it.
    fn inspected(&mut self, container: &mut Arc<Container>, now: Instant) {
        if let Some(known) = self.containers.get(&container.id) {
            if known.verdict != container.verdict {
                Arc::make_mut(container).verdict = known.verdict;
            }
            if known == container || !container.is_inspected && known.agrees_with(container) {
                *container = Arc::clone(known);
            }
        }
        self.runs.inspected(container, now);
    }

    /// Computes the verdict on each container, if anything has changed.
    fn judge(&mut self) {
        if !self.runs.take_has_changed() && self.judged_generation == self.container_generation {
            return;
        }
        let replaced = replaced::replaced(self.containers.values());
        let mut has_changed = false;
        for (id, container) in &mut self.containers {
            let runs = self.runs.history(id).map(RunHistory::summary).unwrap_or_default();
            let verdict = attention::verdict(container, runs, replaced.contains(id));
            if container.verdict != verdict {
                Arc::make_mut(container).verdict = verdict;
                has_changed = true;
            }
        }
        if has_changed {
            self.container_generation += 1;
        }
        self.judged_generation = self.container_generation;
    }

    fn know(&mut self, container: Arc<Container>) {
        let known = self.containers.get(&container.id);
        if known.is_some_and(|known| *known == container) {
            return;
        }
        if known.is_none_or(|known| known.event_identity != container.event_identity) {
            // The new one first: label sets of both must not vanish in between.
            self.events.hold(&container);
            if let Some(known) = known {
                self.events.release(known);
            }
        }
        self.containers.insert(Arc::clone(&container.id), container);
        self.container_generation += 1;
    }

    fn forget(&mut self, id: &str) {
        if let Some(container) = self.containers.remove(id) {
            self.events.release(&container);
            self.container_generation += 1;
        }
    }

    fn snapshot(&mut self) -> Snapshot {
        self.judge();
        let cached = self.cached.take();
        let cached = cached.as_ref();
        let containers = cached
            .map(|cached| &cached.containers)
            .filter(|containers| containers.generation == self.container_generation);
        let events = cached.map(|cached| &cached.events).filter(|e| e.generation == self.events.generation());
        let snapshot = Snapshot {
            containers: containers.cloned().unwrap_or_else(|| Arc::new(self.container_set())),
            events: events.cloned().unwrap_or_else(|| Arc::new(self.events.to_set())),
            complete: self.complete,
        };
        self.cached = Some(snapshot.clone());
        snapshot
    }

    fn container_set(&self) -> ContainerSet {
        let list: Vec<_> = if self.visible && self.complete {
            self.containers.values().cloned().collect()
        } else {
            Vec::new()
        };
        ContainerSet { generation: self.container_generation, list }
    }
}

/// A poisoned lock is taken all the same: each change is a few assignments that leave no half-made state,
/// and an exporter that goes on is worth more than one that stops.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
