//! The streams that views or limits make of everything together. They are rendered whole whenever something has
//! changed that they are made of.

use std::sync::Arc;

use super::encode::{Collector, Labels, Line, ROOM};
use crate::inventory::{Container, EventCount};
use crate::metrics::catalog::{ContainerValue, REASON_LABEL, STATE_LABEL};
use crate::metrics::labels::{ConstantLabels, LabelWriter, Names, push_text};
use crate::metrics::views::Streams;
use crate::metrics::{Collection, Merged, Page, series_number};
use crate::readers::ReaderError;

/// The merged streams, each by the text of its labels.
pub(super) struct MergedStreams {
    merged: Merged<String>,
    /// What writes each stream's labels, containers' first.
    writers: Vec<LabelWriter>,
}

impl MergedStreams {
    pub(super) fn new(collection: &Collection, constant: &ConstantLabels, names: Names) -> Self {
        let writer = |kept| LabelWriter::new(kept, constant.clone(), names);
        let mut overflow = String::new();
        writer(None).overflow(&mut overflow);
        let Streams { merged_containers, merged_events, .. } = collection.streams();
        let streams = merged_containers.iter().map(|c| &c.stream).chain(merged_events);
        Self {
            merged: collection.merged(&overflow),
            writers: streams.map(|stream| writer(stream.keys.clone())).collect(),
        }
    }

    /// Goes on from the sums that another reader has told, for the streams that both have.
    pub(super) fn resume(&mut self, collection: &Collection, before: &Self, theirs: &Collection) {
        let theirs = &theirs.streams().merged_events;
        for (stream, sums) in collection.streams().merged_events.iter().zip(&mut self.merged.events) {
            let known = theirs.iter().position(|before| stream.continues(before));
            if let Some(known) = known.and_then(|known| before.merged.events.get(known)) {
                sums.resume(known);
            }
        }
    }

    pub(super) fn collect_containers(
        &mut self,
        collection: &Collection,
        collector: &mut Collector,
        lines: &[Line],
        containers: &[Arc<Container>],
    ) -> Result<Vec<String>, ReaderError> {
        let mut texts = Vec::new();
        let streams = collection.streams().merged_containers.iter();
        for (i, ((stream, merged), writer)) in
            streams.zip(&mut self.merged.containers).zip(&mut self.writers).enumerate()
        {
            let keeps = [STATE_LABEL, REASON_LABEL].map(|label| writer.keeps(label).then_some(label));
            let text = |container: &Container| {
                let mut text = String::new();
                writer.container(&mut text, container);
                if let ContainerValue::Info = stream.entry.value {
                    writer.info(&mut text, container);
                }
                text
            };
            let with_label = |text: &String, (label, word)| {
                let mut text = text.clone();
                if keeps.contains(&Some(label)) {
                    push_text(&mut text, label, word);
                }
                text
            };
            let points = merged.merge(collection.encoding(), stream.entry, containers, text, with_label);
            texts.push(write(collection, collector, lines, i, &points)?);
        }
        Ok(texts)
    }

    pub(super) fn collect_events(
        &mut self,
        collection: &Collection,
        collector: &mut Collector,
        lines: &[Line],
        events: &[EventCount],
    ) -> Result<Vec<String>, ReaderError> {
        let mut texts = Vec::new();
        let containers = collection.streams().merged_containers.len();
        let writers = self.writers.iter_mut().skip(containers);
        let streams = &collection.streams().merged_events;
        for (i, ((merged, writer), stream)) in
            self.merged.events.iter_mut().zip(writers).zip(streams).enumerate()
        {
            let points = merged.merge(events, stream.counter(), |labels| {
                let mut text = String::new();
                writer.event(&mut text, labels);
                text
            });
            texts.push(write(collection, collector, lines, containers + i, &points)?);
        }
        Ok(texts)
    }
}

/// The text of one stream's points, each collected with a number in the place of its labels.
fn write(
    collection: &Collection,
    collector: &mut Collector,
    lines: &[Line],
    stream: usize,
    points: &[(String, i64)],
) -> Result<String, ReaderError> {
    let line = lines.get(stream..=stream).unwrap_or_default();
    let mut text = [String::new()];
    for points in points.chunks(ROOM) {
        let points_of = points.iter().enumerate();
        let numbered = points_of.map(|(number, (_, value))| (vec![series_number(number)], *value)).collect();
        let mut merged = vec![Vec::new(); stream];
        merged.push(numbered);
        collection.set_page(Page { merged, ..Page::default() });
        let of_all: Vec<String> = points.iter().map(|(text, _)| text.clone()).collect();
        collector.write(line, &Labels { of_all: &of_all, info: &[] }, &mut text)?;
    }
    let [text] = text;
    Ok(text)
}
