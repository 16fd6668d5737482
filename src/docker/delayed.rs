//! Inspects that are made a moment after the event that triggers them.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::inventory::Text;

/// Podman stores the result of a health probe a few milliseconds after it sends the event of the probe's end. The rest
/// is margin for a busy machine.
pub(super) const DELAY: Duration = Duration::from_millis(200);

/// The containers to inspect, and when. Each is inspected once per delay, however many events ask for it.
#[derive(Debug, Default)]
pub(super) struct DelayedInspects {
    /// When an event last asked for each of them.
    last: HashMap<Text, Instant>,
    /// When each is to be inspected, in that order. A forgotten container may still be here.
    order: VecDeque<(Instant, Text)>,
}

impl DelayedInspects {
    /// An event asks for an inspect.
    pub(super) fn note(&mut self, now: Instant, id: &Text) {
        if self.last.insert(Text::clone(id), now).is_none() {
            self.order.push_back((now + DELAY, Text::clone(id)));
        }
    }

    /// When the next is due.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.order.front().map(|(at, _)| *at)
    }

    /// The next container that is due. If another event has asked for it meanwhile, it is queued again.
    pub(super) fn due(&mut self, now: Instant) -> Option<Text> {
        while self.deadline()? <= now {
            let (_, id) = self.order.pop_front()?;
            if let Some(last) = self.last.remove(&id) {
                if last + DELAY > now {
                    self.note(now, &id);
                }
                return Some(id);
            }
        }
        None
    }

    /// The container is gone.
    pub(super) fn forget(&mut self, id: &Text) {
        self.last.remove(id);
    }

    /// Drops all pending inspects.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_due_once_a_moment_and_after_the_last_event() {
        let (mut delayed, began) = (DelayedInspects::default(), Instant::now());
        let (a, b): (Text, Text) = ("a".into(), "b".into());
        let half = DELAY / 2;
        assert_eq!(delayed.deadline(), None);
        delayed.note(began, &a);
        delayed.note(began, &b);
        delayed.note(began + half, &a);
        assert_eq!(delayed.due(began + half), None);
        assert_eq!(delayed.deadline(), Some(began + DELAY));
        assert_eq!(delayed.due(began + DELAY), Some(Text::clone(&a)));
        assert_eq!(delayed.due(began + DELAY), Some(b));
        assert_eq!(delayed.due(began + DELAY), None);
        assert_eq!(delayed.due(began + DELAY * 2), Some(a));
        assert_eq!((delayed.deadline(), delayed.last.len()), (None, 0));
    }

    #[test]
    fn what_is_forgotten_is_not_inspected() {
        let (mut delayed, began) = (DelayedInspects::default(), Instant::now());
        let a: Text = "a".into();
        delayed.note(began, &a);
        delayed.forget(&a);
        assert_eq!(delayed.due(began + DELAY), None);
        assert_eq!(delayed.deadline(), None);
    }
}
