//! Parses the daemon's answers without a daemon, for benchmarks.

use bytes::Bytes;
use serde_json::Error;

use super::answer::{self, Selection};
use super::event::Event;
use super::fields::Oddities;
use super::list::ListReader;
use crate::config::Filter;
use crate::inventory::{Container, Text};

/// Parses answers as the watcher gets them. Skips what cannot be parsed.
#[derive(Debug)]
pub struct Answers(Selection);

impl Answers {
    /// `labels` and `event_labels` select the label keys to keep for containers and for events.
    pub fn new(labels: Filter, event_labels: Filter) -> Self {
        Self(Selection::new(labels, event_labels, ""))
    }

    /// The ids of a list.
    pub fn list(&self, json: &[u8]) -> Result<Vec<Text>, Error> {
        let (mut reader, mut odd) = (ListReader::new(&self.0), Oddities::default());
        reader.push(&Bytes::copy_from_slice(json), &mut odd)?;
        Ok(reader.finish(&mut odd)?.into_iter().map(|entry| entry.id).collect())
    }

    /// The container of an inspect answer.
    pub fn inspect(&self, id: &str, json: &[u8]) -> Result<Container, Error> {
        answer::inspect(&id.into(), json, &self.0, &mut Oddities::default())
    }

    /// The action of an event.
    pub fn event(&self, json: &[u8]) -> Option<Text> {
        Event::read(json, &self.0, &mut Oddities::default()).map(|event| event.action)
    }
}
