//! Event counts: one for each label set, kept for as long as somebody may still ask.

use std::borrow::Cow;
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::container::{Container, EventIdentity, LabelPairs, Text};
use super::labels::{container_label, joined, kept};
use super::runs::ExitReason;

/// The action and the type of the label set for events beyond the limit.
const OVERFLOW: &str = "overflow";

/// An action's text is cut to so many bytes: with `events.exec_command: full` it is what a user types.
const LONGEST_ACTION: usize = 1024;

/// How long event counts live, which of them exist before their first event, and how many there may be.
#[derive(Debug, Clone)]
pub struct EventPolicy {
    /// How long after its last event a label set is kept.
    pub retention: Duration,
    /// The actions that exist with 0 for every known container.
    pub start_at_zero: Vec<Text>,
    /// Whether the ends of runs are counted too. Those that are failures exist with 0 for every known container.
    pub exits: bool,
    /// The maximum number of label sets besides those that start at 0. Further events are counted under one label set.
    pub limit: usize,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Counter {
    /// The daemon's events, by their action.
    Events,
    /// The ends of containers' runs, by their reason.
    Exits,
}

/// What distinguishes one event count from another. It contains no container id: ids are never reused, so such counts
/// would pile up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EventLabels {
    /// What is counted.
    pub counter: Counter,
    /// The action: `start`, `die`, `health_status: healthy` …, or the reason of an end.
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
    /// Whether some label sets become equal when label names are escaped.
    pub has_variants: bool,
}

/// What an event was counted under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Counted {
    /// Its own label set.
    Itself,
    /// The label set for all events beyond the limit.
    Overflow {
        /// Whether it is new.
        is_new: bool,
    },
}

/// The counts: of label sets that have had an event, and the zeros of containers that are known.
#[derive(Debug)]
pub(super) struct EventTable {
    counts: HashMap<Arc<EventLabels>, Entry>,
    policy: EventPolicy,
    /// The number of label sets without a holder. The limit applies to these.
    without_holder: usize,
    /// How many label sets with container labels become equal when names are escaped.
    variants: Variants,
    generation: u64,
}

#[derive(Debug, Default)]
struct Entry {
    count: u64,
    /// When it was last counted, or its container last known; `None` for a zero.
    last: Option<Instant>,
    /// How many known containers keep it, even with a count of 0. Two can share a label set: Podman's names may repeat
    /// for a moment, and a rename may have been seen for one of them only.
    holders: usize,
}

impl EventTable {
    pub(super) fn new(policy: EventPolicy) -> Self {
        Self {
            counts: HashMap::new(),
            policy,
            without_holder: 0,
            variants: Variants::default(),
            generation: 1,
        }
    }

    /// Differs whenever the counts differ.
    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether the ends of runs are counted.
    pub(super) fn counts_exits(&self) -> bool {
        self.policy.exits
    }

    /// Counts an event, and returns its labels as they are kept.
    pub(super) fn count(&mut self, labels: EventLabels, now: Instant) -> (Arc<EventLabels>, Counted) {
        self.generation += 1;
        let labels = labels.normalized();
        if let Some((kept, _)) = self.counts.get_key_value(&labels) {
            let kept = Arc::clone(kept);
            self.add_one(&kept, now);
            return (kept, Counted::Itself);
        }
        let labels = Arc::new(self.shared(labels));
        if self.without_holder < self.policy.limit {
            self.without_holder += 1;
            self.variants.add(&labels);
            self.add_one(&labels, now);
            return (labels, Counted::Itself);
        }
        let is_new = self.add_one(&Arc::new(EventLabels::overflow(labels.counter)), now);
        (labels, Counted::Overflow { is_new })
    }

    /// Counts, and tells whether the label set is new.
    fn add_one(&mut self, labels: &Arc<EventLabels>, now: Instant) -> bool {
        let entry = self.counts.entry(Arc::clone(labels)).or_default();
        let is_new = entry.count == 0 && entry.last.is_none();
        entry.count += 1;
        entry.last = Some(now);
        is_new
    }

    /// The labels with the identity of the container's zeros, if any: each event brings its own copy.
    fn shared(&self, labels: EventLabels) -> EventLabels {
        let Some(event) = self.policy.start_at_zero.first() else { return labels };
        let counter = labels.counter;
        let zero = EventLabels { counter: Counter::Events, event: Arc::clone(event), ..labels };
        match self.counts.get_key_value(&zero) {
            Some((kept, _)) => EventLabels { counter, event: labels.event, ..EventLabels::clone(kept) },
            None => EventLabels { counter, event: labels.event, ..zero },
        }
    }

    /// A container has become known: its label sets that begin at 0 now exist.
    pub(super) fn hold(&mut self, container: &Container) {
        for labels in zeros(&self.policy, container) {
            match self.counts.get_mut(&labels) {
                Some(entry) => {
                    if entry.holders == 0 {
                        self.without_holder = self.without_holder.saturating_sub(1);
                    }
                    entry.holders += 1;
                }
                None => {
                    self.generation += 1;
                    self.variants.add(&labels);
                    self.counts.insert(Arc::new(labels), Entry { holders: 1, ..Entry::default() });
                }
            }
        }
    }

    /// A container is no longer known: its label sets without an event are dropped.
    pub(super) fn release(&mut self, container: &Container) {
        for labels in zeros(&self.policy, container) {
            let Some(entry) = self.counts.get_mut(&labels) else { continue };
            let was_held = entry.holders > 0;
            entry.holders = entry.holders.saturating_sub(1);
            if entry.holders > 0 {
                continue;
            }
            if entry.last.is_none() {
                self.generation += 1;
                self.variants.remove(&labels);
                self.counts.remove(&labels);
            } else if was_held {
                self.without_holder += 1;
            }
        }
    }

    /// Drops label sets without an event for the retention time, except those of containers whose name still exists:
    /// such a count must not restart while somebody still reads it. Its retention begins when the name is gone, so a
    /// recreated container continues its count, however old its last event.
    pub(super) fn sweep(&mut self, now: Instant, exists: impl Fn(&str) -> bool) {
        for (labels, entry) in &mut self.counts {
            if let Some(last) = &mut entry.last
                && &*labels.kind == "container"
                && labels.identity.name.as_deref().is_some_and(&exists)
            {
                *last = now;
            }
        }
        for labels in self.expired(now) {
            self.generation += 1;
            self.variants.remove(&labels);
            self.counts.remove(&labels);
        }
        self.without_holder =
            self.counts.iter().filter(|(labels, entry)| entry.holders == 0 && !labels.is_overflow()).count();
        // Unique names come and go by the thousand; without this the table stays as large as it ever was.
        if self.counts.capacity() > 64 && self.counts.len() < self.counts.capacity() / 4 {
            self.counts.shrink_to(self.counts.len() * 2);
        }
    }

    /// The label sets whose retention is over.
    fn expired(&self, now: Instant) -> Vec<Arc<EventLabels>> {
        let is_over = |entry: &Entry| {
            let last = entry.last.filter(|_| entry.holders == 0);
            last.is_some_and(|last| now.saturating_duration_since(last) >= self.policy.retention)
        };
        // If several label sets are shown as one, dropping one would decrease the sum. So they expire together.
        let mut staying = HashSet::new();
        if self.variants.exist() {
            let others = self.counts.iter().filter(|(_, entry)| !is_over(entry));
            staying.extend(others.filter_map(|(labels, _)| Escaped::of(labels)));
        }
        let stays = |labels: &EventLabels| {
            !staying.is_empty() && Escaped::of(labels).is_some_and(|escaped| staying.contains(&escaped))
        };
        let over = self.counts.iter().filter(|(labels, entry)| is_over(entry) && !stays(labels));
        over.map(|(labels, _)| Arc::clone(labels)).collect()
    }

    pub(super) fn to_set(&self) -> EventSet {
        let count = |(labels, entry): (&Arc<EventLabels>, &Entry)| EventCount {
            labels: Arc::clone(labels),
            count: entry.count,
        };
        EventSet {
            generation: self.generation,
            list: self.counts.iter().map(count).collect(),
            has_variants: self.variants.exist(),
        }
    }
}

impl EventLabels {
    /// The label set for events beyond the limit.
    fn overflow(counter: Counter) -> Self {
        Self { counter, event: OVERFLOW.into(), kind: OVERFLOW.into(), identity: Arc::default() }
    }

    fn is_overflow(&self) -> bool {
        &*self.event == OVERFLOW && &*self.kind == OVERFLOW && *self.identity == EventIdentity::default()
    }

    /// With an action of a bounded length, and without labels that are empty.
    fn normalized(mut self) -> Self {
        if self.event.len() > LONGEST_ACTION {
            let end = (0..=LONGEST_ACTION).rev().find(|end| self.event.is_char_boundary(*end));
            self.event = format!("{}…", self.event.get(..end.unwrap_or_default()).unwrap_or_default()).into();
        }
        self.identity = normalized(&self.identity);
        self
    }
}

/// The identity without empty labels, and without NUL in keys. To Prometheus an empty label is the same as a missing
/// one.
fn normalized(identity: &Arc<EventIdentity>) -> Arc<EventIdentity> {
    let is_empty = |text: &Option<Text>| text.as_deref() == Some("");
    let EventIdentity { name, image, pod, env, container, labels, sandbox } = &**identity;
    let optional = [name, image, pod, env, container];
    let is_odd = |(key, value): &(Text, Text)| value.is_empty() || key.contains('\0');
    if !optional.into_iter().any(is_empty) && !labels.iter().any(is_odd) {
        return Arc::clone(identity);
    }
    let [name, image, pod, env, container] =
        optional.map(|text| text.clone().filter(|text| !text.is_empty()));
    let labels = labels.iter().filter(|(_, value)| !value.is_empty());
    let labels = joined(labels.map(|(key, value)| (kept(key), &**value)));
    let labels: LabelPairs =
        labels.into_iter().map(|(key, value)| (key.into(), Text::from(&*value))).collect();
    Arc::new(EventIdentity { name, image, pod, env, container, labels, sandbox: *sandbox })
}

impl EventSet {
    /// The counts with escaped label names: label sets that become equal are added up. They expire together, so no sum
    /// decreases.
    pub fn escaped(&self) -> Cow<'_, [EventCount]> {
        if !self.has_variants {
            return Cow::Borrowed(&self.list);
        }
        let mut merged: Vec<EventCount> = Vec::with_capacity(self.list.len());
        let mut places: HashMap<Escaped<'_>, usize> = HashMap::new();
        for event in &self.list {
            let place =
                Escaped::of(&event.labels).map(|escaped| *places.entry(escaped).or_insert(merged.len()));
            match place.and_then(|place| merged.get_mut(place)) {
                Some(known) => known.count += event.count,
                None => merged.push(event.clone()),
            }
        }
        Cow::Owned(merged)
    }
}

/// A label set with container labels, compared by escaped label names.
#[derive(PartialEq, Eq, Hash)]
struct Escaped<'l> {
    counter: Counter,
    event: &'l str,
    kind: &'l str,
    identity: [&'l Option<Text>; 5],
    labels: Vec<(String, Cow<'l, str>)>,
}

impl<'l> Escaped<'l> {
    /// `None` without container labels: those are told apart by what they are.
    fn of(labels: &'l EventLabels) -> Option<Self> {
        let EventIdentity { name, image, pod, env, container, labels: chosen, .. } = &*labels.identity;
        if chosen.is_empty() {
            return None;
        }
        Some(Self {
            counter: labels.counter,
            event: &labels.event,
            kind: &labels.kind,
            identity: [name, image, pod, env, container],
            labels: joined(chosen.iter().map(|(key, value)| (container_label(key), &**value))),
        })
    }
}

/// How many label sets become equal when label names are escaped: nearly always none, and then no search is needed.
#[derive(Debug, Default)]
struct Variants {
    hasher: RandomState,
    /// The number of label sets for each hash of an escaped label set.
    sets: HashMap<u64, usize>,
    /// The number of hashes shared by several label sets.
    shared: usize,
}

impl Variants {
    fn exist(&self) -> bool {
        self.shared > 0
    }

    fn add(&mut self, labels: &EventLabels) {
        let Some(escaped) = Escaped::of(labels) else { return };
        let sets = self.sets.entry(self.hasher.hash_one(escaped)).or_default();
        *sets += 1;
        self.shared += usize::from(*sets == 2);
    }

    fn remove(&mut self, labels: &EventLabels) {
        let Some(escaped) = Escaped::of(labels) else { return };
        let hash = self.hasher.hash_one(escaped);
        let Some(sets) = self.sets.get_mut(&hash) else { return };
        *sets -= 1;
        match *sets {
            0 => {
                self.sets.remove(&hash);
            }
            1 => self.shared -= 1,
            _ => {}
        }
    }
}

/// The label sets that exist with 0 for a container.
fn zeros(policy: &EventPolicy, container: &Container) -> impl Iterator<Item = EventLabels> + use<> {
    let identity = normalized(&container.event_identity);
    let kind: Text = Arc::from("container");
    let events = policy.start_at_zero.iter().map(|event| (Counter::Events, Arc::clone(event)));
    let reasons = if policy.exits { &ExitReason::FAILURES[..] } else { &[] };
    let exits = reasons.iter().map(|reason| (Counter::Exits, Text::from(reason.word())));
    let counted: Vec<_> = if identity.sandbox { Vec::new() } else { events.chain(exits).collect() };
    counted.into_iter().map(move |(counter, event)| EventLabels {
        counter,
        event,
        kind: Arc::clone(&kind),
        identity: Arc::clone(&identity),
    })
}
