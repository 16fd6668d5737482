//! Containers that are to be looked at a moment after something happened to them.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::inventory::Text;

/// Podman writes the outcome of a health probe down a few milliseconds after it has told of the probe's end. The
/// rest is for a busy machine.
pub(super) const MOMENT: Duration = Duration::from_millis(200);

/// Who is to be looked at, and when: each once a moment, however much happens.
#[derive(Debug, Default)]
pub(super) struct Later {
    /// When something last happened to each of them.
    last: HashMap<Text, Instant>,
    /// When each is to be looked at; in that order. Who has been forgotten may still be here.
    order: VecDeque<(Instant, Text)>,
}

impl Later {
    /// Something has happened.
    pub(super) fn note(&mut self, now: Instant, id: &Text) {
        if self.last.insert(Text::clone(id), now).is_none() {
            self.order.push_back((now + MOMENT, Text::clone(id)));
        }
    }

    /// When the next is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.order.front().map(|(at, _)| *at)
    }

    /// The next that is due. It is due again after what happened since it was first noted.
    pub(super) fn due(&mut self, now: Instant) -> Option<Text> {
        while self.deadline()? <= now {
            let (_, id) = self.order.pop_front()?;
            if let Some(last) = self.last.remove(&id) {
                if last + MOMENT > now {
                    self.note(now, &id);
                }
                return Some(id);
            }
        }
        None
    }

    /// There is nothing left to look at.
    pub(super) fn forget(&mut self, id: &Text) {
        self.last.remove(id);
    }

    /// Nothing is to be looked at any more.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_due_once_a_moment_and_after_the_last_that_happened() {
        let (mut later, began) = (Later::default(), Instant::now());
        let (a, b): (Text, Text) = ("a".into(), "b".into());
        let half = MOMENT / 2;
        assert_eq!(later.deadline(), None);
        later.note(began, &a);
        later.note(began, &b);
        later.note(began + half, &a);
        assert_eq!(later.due(began + half), None);
        assert_eq!(later.deadline(), Some(began + MOMENT));
        assert_eq!(later.due(began + MOMENT), Some(Text::clone(&a)));
        assert_eq!(later.due(began + MOMENT), Some(b));
        assert_eq!(later.due(began + MOMENT), None);
        assert_eq!(later.due(began + MOMENT * 2), Some(a));
        assert_eq!((later.deadline(), later.last.len()), (None, 0));
    }

    #[test]
    fn who_is_forgotten_is_not_looked_at() {
        let (mut later, began) = (Later::default(), Instant::now());
        let a: Text = "a".into();
        later.note(began, &a);
        later.forget(&a);
        assert_eq!(later.due(began + MOMENT), None);
        assert_eq!(later.deadline(), None);
    }
}
