//! Which streams there are, under which names, and in which order their families come.

use std::collections::BTreeMap;
use std::io;

use super::encode::{Line, head};
use crate::metrics::catalog::ContainerValue;
use crate::metrics::labels::Names;
use crate::metrics::views::{Stream, Streams};
use crate::readers::gzip::{Deflater, Piece};

/// A stream, by its place in one of the lists of `Streams`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Container(usize),
    Event(usize),
    MergedContainer(usize),
    MergedEvent(usize),
}

/// A family, with the streams that are written under its name: one, but where a view gives two of them names that
/// become one.
#[derive(Debug)]
pub(super) struct Family {
    /// The lines before its series.
    pub(super) head: Piece,
    pub(super) places: Vec<Place>,
}

/// All families and streams.
#[derive(Debug)]
pub(super) struct Families {
    /// In the order of their names.
    pub(super) list: Vec<Family>,
    pub(super) containers: Vec<Line>,
    pub(super) events: Vec<Line>,
    /// Containers' first.
    pub(super) merged: Vec<Line>,
}

impl Families {
    /// `suffixes`: whether names get the unit and `_total`.
    pub(super) fn new(
        streams: &Streams,
        names: Names,
        suffixes: bool,
        deflater: &Deflater,
    ) -> io::Result<Self> {
        let Streams { containers, events, merged_containers, merged_events } = streams;
        let mut families: BTreeMap<String, (String, Vec<Place>)> = BTreeMap::new();
        let mut line = |stream: &Stream, is_info: bool, place: Place| {
            let escaped = stream.prometheus_name(suffixes);
            let name = match names {
                Names::Escaped => escaped.clone(),
                // As it is, with the suffixes that it has got.
                Names::Kept => {
                    format!("{}{}", stream.name, escaped.get(stream.name.len()..).unwrap_or_default())
                }
            };
            let head = || (head(&name, &stream.description, stream.metric.kind), Vec::new());
            families.entry(escaped).or_insert_with(head).1.push(place);
            Line::new(&stream.name, &name, is_info)
        };
        let containers = containers.iter().enumerate().map(|(i, c)| {
            let is_info = matches!(c.entry.value, ContainerValue::Info);
            line(&c.stream, is_info, Place::Container(i))
        });
        let containers = containers.collect();
        let events = events.iter().enumerate().map(|(i, s)| line(s, false, Place::Event(i))).collect();
        let of_containers = merged_containers.iter().enumerate();
        let mut merged: Vec<_> =
            of_containers.map(|(i, c)| line(&c.stream, false, Place::MergedContainer(i))).collect();
        let of_events = merged_events.iter().enumerate();
        merged.extend(of_events.map(|(i, s)| line(s, false, Place::MergedEvent(i))));
        let list = families
            .into_values()
            .map(|(head, places)| Ok(Family { head: deflater.piece(head.as_bytes())?, places }));
        Ok(Self { list: list.collect::<io::Result<_>>()?, containers, events, merged })
    }
}
