//! Which of the listed containers could be inspected, and whether these are enough.
//!
//! One container that cannot be inspected affects no other. If more fail than succeed, a proxy rejects the call or the
//! engine is broken, and the exporter must not report that all is well.

use std::collections::{HashMap, HashSet};

use super::values::is_whole_id;
use crate::inventory::{Container, Health, Text};

/// How many failed inspects in a row a known container may have: the next attempt follows in half a second.
const TOLERATED_FAILURES: u32 = 1;

/// The length of a short id, as people see it.
const SHORT_ID: usize = 12;

/// What is remembered of an inspected container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    name: Text,
    /// When the last run began and ended. Each change of these has an event.
    run: (i64, i64),
    /// Whether it has a health check, and how many probes in a row have failed.
    has_check: bool,
    failing_streak: i64,
}

impl Known {
    pub(super) fn of(container: &Container) -> Self {
        Self {
            name: Text::clone(&container.name),
            run: (container.started_at, container.finished_at),
            has_check: container.health != Health::None,
            failing_streak: container.failing_streak,
        }
    }

    /// Whether the end of a health probe changes something.
    pub(super) fn is_changed_by_probe(&self, failed: bool) -> bool {
        self.has_check && (failed || self.failing_streak != 0)
    }

    /// Whether no run has begun or ended in between.
    pub(super) fn is_same_run(&self, other: &Self) -> bool {
        self.run == other.run
    }
}

/// The containers, by whether they could be inspected.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    known: HashMap<Text, Known>,
    /// Listed containers that could not be inspected. None of them is in `known`.
    unreadable: HashSet<Text>,
    /// Why the last inspect failed.
    last_failure: String,
}

impl Coverage {
    pub(super) fn get(&self, id: &Text) -> Option<&Known> {
        self.known.get(id)
    }

    /// The full id of the container that `said` refers to: by id in any case, by name, or by the beginning of an id. If
    /// it matches no known container, `said` is a new id.
    pub(super) fn identify(&self, said: &Text) -> Text {
        if self.known.contains_key(said) {
            return Text::clone(said);
        }
        // The usual case, and frequent: a full id is not the beginning of another.
        if is_whole_id(said) {
            return said.to_ascii_lowercase().into();
        }
        // A name takes precedence over the beginning of an id, as in Docker.
        if let Some((id, _)) = self.known.iter().find(|(_, known)| known.name == *said) {
            return Text::clone(id);
        }
        let begins_so =
            |id: &Text| id.get(..said.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(said));
        let mut meant = self.known.keys().filter(|id| said.len() >= SHORT_ID && begins_so(id));
        match (meant.next(), meant.next()) {
            (Some(id), None) => Text::clone(id),
            _ => Text::clone(said),
        }
    }

    /// Whether this container is listed but could not be inspected.
    pub(super) fn is_unreadable(&self, id: &Text) -> bool {
        self.unreadable.contains(id)
    }

    /// A container was inspected.
    pub(super) fn inspected(&mut self, container: &Container) {
        self.unreadable.remove(&container.id);
        self.known.insert(Text::clone(&container.id), Known::of(container));
    }

    /// An inspect has failed, for the `failures`th time in a row.
    pub(super) fn failed(&mut self, id: &Text, failures: u32, why: String) {
        self.last_failure = why;
        if failures > TOLERATED_FAILURES || !self.known.contains_key(id) {
            self.expire(id);
        }
    }

    /// What was known of a container is too old to be true.
    pub(super) fn expire(&mut self, id: &Text) {
        self.known.remove(id);
        self.unreadable.insert(Text::clone(id));
    }

    /// There is no such container.
    pub(super) fn forget(&mut self, id: &Text) {
        self.known.remove(id);
        self.unreadable.remove(id);
    }

    /// A whole list was taken. Gives the known containers that are not in it.
    pub(super) fn listed(&mut self, is_listed: impl Fn(&Text) -> bool) -> Vec<Text> {
        self.unreadable.retain(&is_listed);
        let missing: Vec<Text> = self.known.keys().filter(|id| !is_listed(id)).cloned().collect();
        for id in &missing {
            self.known.remove(id);
        }
        missing
    }

    /// Whether at least as many containers are known as are unreadable.
    pub(super) fn is_enough(&self) -> bool {
        self.unreadable.len() <= self.known.len()
    }

    /// Describes what is missing.
    pub(super) fn shortfall(&self) -> String {
        let (missing, all) = (self.unreadable.len(), self.unreadable.len() + self.known.len());
        let last = if self.last_failure.is_empty() { "no answer yet" } else { &self.last_failure };
        format!("{missing} of {all} containers cannot be inspected: {last}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `all` containers, of which `failing` have failed `failures` inspects in a row.
    fn coverage(all: usize, failing: usize, failures: u32) -> Coverage {
        let mut coverage = Coverage::default();
        for n in 0..all {
            coverage.inspected(&Container::sample(&format!("{n}"), "web"));
        }
        for n in 0..failing {
            for failure in 1..=failures {
                coverage.failed(&format!("{n}").into(), failure, "403 Forbidden".into());
            }
        }
        coverage
    }

    #[test]
    fn one_odd_container_is_no_alarm_and_most_of_them_are() {
        for (all, failing, is_enough) in [
            (0, 0, true),
            (1, 0, true),
            (1, 1, false),
            (2, 1, true),
            (2, 2, false),
            (5, 2, true),
            (5, 3, false),
            (5, 5, false),
            (1000, 1, true),
            (1000, 500, true),
            (1000, 501, false),
        ] {
            assert_eq!(coverage(all, failing, 2).is_enough(), is_enough, "{failing} of {all}");
        }
        let said = coverage(5, 5, 2).shortfall();
        assert_eq!(said, "5 of 5 containers cannot be inspected: 403 Forbidden");
    }

    #[test]
    fn a_single_failure_of_what_is_known_is_tolerated_and_of_what_is_not_known_is_not() {
        assert!(coverage(1, 1, 1).is_enough());
        let mut never_known = Coverage::default();
        never_known.failed(&"a".into(), 1, "no".into());
        assert!(!never_known.is_enough());
        never_known.inspected(&Container::sample("a", "web"));
        assert!(never_known.is_enough());
    }

    #[test]
    fn a_container_is_found_by_what_it_may_be_called() {
        let (web, db) =
            ("0123456789ab".repeat(6)[..64].to_owned(), "0123456789ac".repeat(6)[..64].to_owned());
        let mut coverage = Coverage::default();
        coverage.inspected(&Container::sample(&web, "web"));
        coverage.inspected(&Container::sample(&db, "my-db.1"));
        coverage.inspected(&Container::sample("a1", "x"));
        for (said, id) in [
            (web.as_str(), web.as_str()),
            (&web.to_uppercase(), &web),
            ("0123456789ab", &web),
            ("0123456789AB", &web),
            ("0123456789ac0123", &db),
            ("web", &web),
            ("my-db.1", &db),
            ("a1", "a1"),
            // Of two containers, and of none.
            ("0123456789a", "0123456789a"),
            ("WEB", "WEB"),
            ("ba9876543210", "ba9876543210"),
            (&"F".repeat(64), &"f".repeat(64)),
            ("", ""),
        ] {
            assert_eq!(&*coverage.identify(&said.into()), id, "{said}");
        }
    }

    #[test]
    fn what_is_no_longer_listed_counts_for_nothing() {
        let mut coverage = coverage(4, 2, 2);
        let missing = coverage.listed(|id| &**id == "3");
        assert_eq!(missing, [Text::from("2")]);
        assert!(coverage.is_enough() && coverage.get(&"3".into()).is_some());
    }
}
