//! Parses the list of containers as it arrives. Each entry is parsed on its own: a broken entry hides no other, and
//! only one is buffered.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::Error;
use serde_json::value::RawValue;

use super::answer::Selection;
use super::bounds;
use super::fields::{Oddities, Oddity, field, only_object, read_mended};
use super::framing::{self, Frame, Framer};
use super::summary::RawSummary;
use super::values::is_id;
use crate::inventory::{Container, Text};

/// An entry of the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListEntry {
    pub(super) id: Text,
    /// Without its slash; empty if the entry has none.
    pub(super) name: Text,
    /// The other fields of the entry.
    pub(super) summary: Arc<Container>,
}

/// Reads a list chunk by chunk.
#[derive(Debug)]
pub(super) struct ListReader<'s> {
    selection: &'s Selection,
    framer: Framer,
    frames: Vec<Frame>,
    entries: Vec<ListEntry>,
    /// The number of entries, including unreadable ones.
    count: usize,
}

impl<'s> ListReader<'s> {
    pub(super) fn new(selection: &'s Selection) -> Self {
        let framer = Framer::new(&framing::LIST);
        Self { selection, framer, frames: Vec::new(), entries: Vec::new(), count: 0 }
    }

    /// Only a list with too many entries is an error.
    pub(super) fn push(&mut self, chunk: &Bytes, odd: &mut Oddities) -> Result<(), serde_json::Error> {
        self.framer.push(chunk, &mut self.frames);
        self.read_frames(odd)
    }

    /// Returns the entries. Only an answer that is not a JSON list, or is incomplete, is an error.
    pub(super) fn finish(mut self, odd: &mut Oddities) -> Result<Vec<ListEntry>, serde_json::Error> {
        let ends = self.framer.ends();
        self.framer.finish(&mut self.frames);
        // A nil slice in Go.
        if ends.is_none() && self.frames == [Frame::Broken(Bytes::from_static(b"null"))] {
            return Ok(Vec::new());
        }
        self.read_frames(odd)?;
        match ends {
            Some((b'[', b']')) => Ok(self.entries),
            Some((b'[', _)) => Err(serde_json::Error::custom("the list has no end")),
            _ => Err(serde_json::Error::custom("expected a list")),
        }
    }

    fn read_frames(&mut self, odd: &mut Oddities) -> Result<(), serde_json::Error> {
        self.count += self.frames.len();
        for frame in self.frames.drain(..) {
            match frame {
                Frame::Object(json) => self.entries.extend(entry(&json, self.selection, odd)),
                Frame::Broken(json) => odd.push(Oddity::new("list entry", &String::from_utf8_lossy(&json))),
                Frame::TooLong => odd.push(Oddity::new("list entry", "longer than an entry can be")),
            }
        }
        if self.count > bounds::LIST_ENTRIES {
            return Err(serde_json::Error::custom(format!("more than {} entries", bounds::LIST_ENTRIES)));
        }
        Ok(())
    }
}

fn entry(json: &[u8], selection: &Selection, odd: &mut Oddities) -> Option<ListEntry> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Raw<'a> {
        #[serde(borrow, default)]
        id: Option<&'a RawValue>,
        #[serde(borrow, default)]
        names: Option<&'a RawValue>,
    }
    let read = |json: &[u8], odd: &mut Oddities| {
        let raw: Raw<'_> = only_object(json)?;
        let Some(id) = field::<String>(raw.id, "Id", odd).filter(|id| is_id(id)) else {
            odd.push(Oddity::new("list entry without an id", &String::from_utf8_lossy(json)));
            return Ok(None);
        };
        // A container has one name, and one more for each legacy link to it; names of links contain another slash.
        let names: Vec<String> = field(raw.names, "Names", odd).unwrap_or_default();
        let own = names.iter().map(|n| n.strip_prefix('/').unwrap_or(n)).find(|n| !n.contains('/'));
        let (id, name): (Text, Text) = (id.into(), own.unwrap_or_default().into());
        let summary = Arc::new(only_object::<RawSummary<'_>>(json)?.read(&id, &name, selection));
        Ok::<_, serde_json::Error>(Some(ListEntry { id, name, summary }))
    };
    read_mended(json, odd, read).unwrap_or_else(|_| {
        odd.push(Oddity::new("list entry", &String::from_utf8_lossy(json)));
        None
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Filter;

    fn selection() -> Selection {
        Selection::new(Filter::all(), Filter::none(), "")
    }

    fn read(body: &[u8]) -> (Result<Vec<ListEntry>, serde_json::Error>, Oddities) {
        let (selection, mut odd) = (selection(), Oddities::default());
        let mut reader = ListReader::new(&selection);
        let pushed = reader.push(&Bytes::copy_from_slice(body), &mut odd);
        let list = pushed.and_then(|()| reader.finish(&mut odd));
        (list, odd)
    }

    fn ids(body: &[u8]) -> Vec<String> {
        read(body).0.unwrap().iter().map(|entry| entry.id.to_string()).collect()
    }

    #[test]
    fn one_odd_entry_does_not_fail_the_list() {
        let body = r#"[{"Id":"a1","Names":["/web/db","/own"],"State":"levitating"},7,{"Id":"../x"},{"Names":[]},
            {"Id":"b2","Names":null}]"#;
        let (entries, odd) = read(body.as_bytes());
        let entries = entries.unwrap();
        let names: Vec<_> = entries.iter().map(|entry| (&*entry.id, &*entry.name)).collect();
        assert_eq!(names, [("a1", "own"), ("b2", "")]);
        assert_eq!(odd.count(), 3);
    }

    #[test]
    fn what_is_no_whole_list_is_an_error() {
        for body in ["null", " null\n", "[]", "[ ]\n"] {
            assert_eq!(ids(body.as_bytes()), [""; 0], "{body}");
        }
        for body in
            ["", "{}", "7", "[", "[null", "[{\"Id\":\"a1\"},", "[{\"Id\":\"a1\"}", "[{\"Id\":\"a1\"", "[],["]
        {
            assert!(read(body.as_bytes()).0.is_err(), "{body}");
        }
    }

    #[test]
    fn one_wrong_byte_costs_only_the_text_that_it_is_in() {
        for byte in [&b"\xff"[..], b"\0", b"\n", b"\xc0\xaf", b"\\ud800", b"\\x", b"\xed\xa0\x80"] {
            let [before, after] = [
                r#"[{"Id":"a1","Names":["/a"]},{"Id":"b2","Names":["/b"],"Command":"x"#,
                r#"y"},{"Command":"z","Id":"c3","Names":["/c"]}]"#,
            ];
            let body = [before.as_bytes(), byte, after.as_bytes()].concat();
            assert_eq!(ids(&body), ["a1", "b2", "c3"], "{byte:?}");
        }
    }

    #[test]
    fn a_broken_entry_hides_no_other() {
        for broken in [
            r#"{"Id":"b2,"Names":["/b"]}"#,
            r#"{"Id":"b2","Names":["/b]}"#,
            r#"{"Id":"b2","Names":["/b"}"#,
            r#"{"Id":"b2","Names":["/b"]"#,
            r#"{"Id":"b2","Names":{{{{"#,
            r#"{"Id":"b2","Names":]}"#,
            r#"{"Id""b2"}"#,
            "{{{",
            "\"",
        ] {
            let body = format!(r#"[{{"Id":"a1"}},{broken},{{"Id":"c3"}}]"#);
            let ids = ids(body.as_bytes());
            assert!(ids.contains(&"a1".into()) && ids.contains(&"c3".into()), "{broken} {ids:?}");
        }
    }

    #[test]
    fn a_list_without_end_is_given_up() {
        let (selection, mut odd) = (selection(), Oddities::default());
        let mut reader = ListReader::new(&selection);
        reader.push(&Bytes::from_static(b"["), &mut odd).unwrap();
        let many = Bytes::from(r#"{"Id":"a1"},7,"#.repeat(500));
        let given_up = (0..=bounds::LIST_ENTRIES / 1000).find(|_| reader.push(&many, &mut odd).is_err());
        assert_eq!(given_up, Some(bounds::LIST_ENTRIES / 1000));
        assert_eq!(odd.count(), bounds::LIST_ENTRIES / 2 + 500);
    }
}
