//! Faults, and the requests that wait for one to be healed.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;

/// Which requests a fault applies to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// `_ping`
    Ping,
    /// `version`
    Version,
    /// `events`
    Events,
    /// `containers/json`
    List,
    /// `containers/{id}/json` of the container with this whole id.
    Inspect(String),
    /// `containers/{id}/json` of every container that has no fault of its own.
    AnyInspect,
}

/// How an answer goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// This HTTP status, with a message as moby writes it.
    Status(u16, String),
    /// No answer before the target is healed.
    Hang,
    /// The right answer, made and sent after this time.
    Delay(Duration),
    /// The answer that was right when the request came, sent after this time.
    Stale(Duration),
    /// The first half of the right answer, as if it were all.
    Malformed,
    /// The first half of the right answer, then the connection breaks. An event stream breaks in the middle of
    /// its first event.
    Truncated,
    /// Status 200 with this body.
    Body(Bytes),
    /// Status 200 with an endless body: the first part, then the second part again and again.
    Endless(Bytes, Bytes),
}

/// What is to go wrong from now on.
#[derive(Default)]
pub(crate) struct Script {
    faults: BTreeMap<Target, VecDeque<(Fault, Option<usize>)>>,
    healed: BTreeMap<Target, u64>,
}

impl Script {
    /// Appends a fault: for `times` answers, or until it is healed.
    pub(crate) fn add(&mut self, target: Target, fault: Fault, times: Option<usize>) {
        if times != Some(0) {
            self.faults.entry(target).or_default().push_back((fault, times));
        }
    }

    /// Ends the faults of a target.
    pub(crate) fn heal(&mut self, target: &Target) {
        self.faults.remove(target);
        *self.healed.entry(target.clone()).or_default() += 1;
    }

    /// Ends all faults.
    pub(crate) fn heal_all(&mut self) {
        // A hang for a single answer has left `faults` already, but has to end too.
        for target in [Target::Ping, Target::Version, Target::Events, Target::List, Target::AnyInspect] {
            self.healed.entry(target).or_default();
        }
        self.faults.clear();
        self.healed.values_mut().for_each(|times| *times += 1);
    }

    /// The fault of the next answer for a target, if any, and the target that it was scripted for.
    pub(crate) fn next(&mut self, target: &Target) -> Option<(Target, Fault)> {
        let general = matches!(target, Target::Inspect(_)).then_some(Target::AnyInspect);
        let key =
            [Some(target.clone()), general].into_iter().flatten().find(|t| self.faults.contains_key(t))?;
        let queue = self.faults.get_mut(&key)?;
        let (fault, times) = queue.front_mut()?;
        let fault = fault.clone();
        if let Some(times) = times {
            *times -= 1;
            if *times == 0 {
                queue.pop_front();
            }
        }
        if queue.is_empty() {
            self.faults.remove(&key);
        }
        // `heal_all` finds it by this entry.
        self.healed.entry(key.clone()).or_default();
        Some((key, fault))
    }

    /// How often a target was healed; a hung request waits for the next time.
    pub(crate) fn healed(&self, target: &Target) -> u64 {
        self.healed.get(target).copied().unwrap_or(0)
    }

    /// Faults with a number that have not all happened yet.
    pub(crate) fn unspent(&self) -> Vec<Target> {
        let unspent = self.faults.iter().filter(|(_, queue)| queue.iter().any(|(_, times)| times.is_some()));
        unspent.map(|(target, _)| target.clone()).collect()
    }
}
