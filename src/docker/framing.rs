//! Splits a list or the event stream into JSON objects, as the bytes arrive.
//!
//! An object ends at its closing brace, whatever follows: engines and proxies put different separators between events.
//! Only braces, brackets and quotes are examined; the caller parses the object. `serde_json`'s own stream would parse
//! an incomplete object again at every chunk, and stop at the first invalid byte. Here a broken object is dropped where
//! another one certainly begins.

use bytes::{Bytes, BytesMut};

/// How objects are separated.
#[derive(Debug)]
pub(super) struct Framing {
    /// These bytes end text between two objects that is not an object.
    separators: &'static [u8],
    /// After one of these an object can begin …
    before: &'static [u8],
    /// … and certainly begins if its first key is one of these, even within an unfinished object. No JSON string
    /// contains this sequence, as quotes are escaped there.
    first_keys: &'static [&'static str],
    /// The longest object, in bytes.
    longest: usize,
}

/// RFC 7464 puts it before each JSON text.
const RECORD_SEPARATOR: u8 = 0x1e;

/// Events. Engines write one per line; a proxy may join them without a separator.
pub(super) const EVENTS: Framing = Framing {
    separators: &[b'\n', RECORD_SEPARATOR],
    before: &[b'\n', RECORD_SEPARATOR],
    first_keys: &[
        "status",
        "id",
        "from",
        "Type",
        "Action",
        "Actor",
        "scope",
        "time",
        "timeNano",
        "HealthStatus",
    ],
    longest: super::bounds::EVENT,
};

/// The entries of a list. `Id` is the first key that engines write, `Command` the first in the alphabet.
pub(super) const LIST: Framing = Framing {
    separators: b"[],",
    before: b"[,",
    first_keys: &["Id", "Command"],
    longest: super::bounds::LIST_ENTRY,
};

/// A part of the input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    /// An object, from its first brace to its last.
    Object(Bytes),
    /// The beginning of text that is not an object, or of an unfinished object.
    Broken(Bytes),
    /// An object that is longer than it may be.
    TooLong,
}

/// How many bytes of text that is not an object are kept for the log.
const KEPT: usize = 512;
/// The longest beginning of an object that is looked for, with some blanks and the byte before it.
const BEGINNING: usize = 24;

/// Finds objects, wherever chunks begin and end.
#[derive(Debug)]
pub(super) struct Framer {
    framing: &'static Framing,
    /// The part of the current object from earlier chunks; only the last bytes if it is too long.
    object: BytesMut,
    too_long: bool,
    /// Braces and brackets that are open. Zero between objects.
    depth: usize,
    in_string: bool,
    escaped: bool,
    /// The beginning of the text between two objects that is no separator.
    between: BytesMut,
    /// The first and the last of the separators and braces outside of objects.
    ends: Option<(u8, u8)>,
}

impl Framer {
    pub(super) fn new(framing: &'static Framing) -> Self {
        Self {
            framing,
            object: BytesMut::new(),
            too_long: false,
            depth: 0,
            in_string: false,
            escaped: false,
            between: BytesMut::new(),
            ends: None,
        }
    }

    /// Takes a chunk, and appends the frames that end in it.
    pub(super) fn push(&mut self, chunk: &Bytes, frames: &mut Vec<Frame>) {
        // Where the current object begins in this chunk.
        let mut begin = 0;
        let mut at = 0;
        while let Some(&byte) = chunk.get(at) {
            at += 1;
            if self.depth == 0 {
                if byte == b'{' {
                    self.end_between(frames);
                    self.note_end(byte);
                    self.depth = 1;
                    begin = at - 1;
                } else {
                    self.between_objects(byte, frames);
                }
            } else if self.escaped {
                self.escaped = false;
            } else if self.in_string {
                // Most of an answer is strings: skip to the next quote or backslash.
                at -= 1;
                let Some(skipped) = memchr::memchr2(b'"', b'\\', &chunk[at..]) else { break };
                at += skipped + 1;
                self.escaped = chunk[at - 1] == b'\\';
                self.in_string = self.escaped;
                if !self.escaped {
                    begin = self.resynchronise(chunk, begin, at, frames);
                }
            } else {
                match byte {
                    b'"' => {
                        self.in_string = true;
                        begin = self.resynchronise(chunk, begin, at, frames);
                    }
                    b'{' | b'[' => self.depth += 1,
                    b'}' | b']' => {
                        self.depth -= 1;
                        if self.depth == 0 {
                            self.end_object(chunk.slice(begin..at), frames);
                        }
                    }
                    _ => {}
                }
            }
        }
        if self.depth > 0 {
            self.keep(&chunk[begin..], frames);
        }
    }

    /// The first and the last of the separators and braces that stood outside of objects, where all objects have
    /// ended.
    pub(super) fn ends(&self) -> Option<(u8, u8)> {
        self.ends.filter(|_| self.depth == 0)
    }

    /// Adds the text after the last object.
    pub(super) fn finish(&mut self, frames: &mut Vec<Frame>) {
        self.end_between(frames);
    }

    /// Called for a quote that ends at `end`. If it ends the first key of another object, the current object is broken.
    /// Returns where the current object begins in this chunk.
    fn resynchronise(&mut self, chunk: &[u8], begin: usize, end: usize, frames: &mut Vec<Frame>) -> usize {
        let here = &chunk[begin..end];
        let length = if here.len() >= BEGINNING || self.object.is_empty() {
            self.framing.beginning_at_end_of(here)
        } else {
            let earlier = &self.object[self.object.len().saturating_sub(BEGINNING)..];
            self.framing.beginning_at_end_of(&[earlier, here].concat())
        };
        let Some(length) = length else { return begin };
        self.object.extend_from_slice(here);
        let broken = self.object.split_to(self.object.len() - length);
        if !std::mem::take(&mut self.too_long) {
            // If events are lines, each line is a broken event of its own.
            let lines = broken.as_ref().split(|byte: &u8| matches!(*byte, b'\n' | RECORD_SEPARATOR));
            frames.extend(lines.map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()).map(Frame::broken));
        }
        self.depth = 1;
        self.in_string = false;
        end
    }

    fn end_object(&mut self, last: Bytes, frames: &mut Vec<Frame>) {
        let object = if self.object.is_empty() {
            last
        } else {
            self.object.extend_from_slice(&last);
            self.object.split().freeze()
        };
        if std::mem::take(&mut self.too_long) {
            return;
        }
        frames.push(if object.len() > self.framing.longest { Frame::TooLong } else { Frame::Object(object) });
    }

    /// Keeps the part of an unfinished object that a chunk contains.
    fn keep(&mut self, part: &[u8], frames: &mut Vec<Frame>) {
        self.object.extend_from_slice(part);
        if self.object.len() > self.framing.longest && !std::mem::replace(&mut self.too_long, true) {
            frames.push(Frame::TooLong);
        }
        if self.too_long {
            let last = self.object.len().saturating_sub(BEGINNING);
            self.object = BytesMut::from(&self.object[last..]);
        }
    }

    fn between_objects(&mut self, byte: u8, frames: &mut Vec<Frame>) {
        if self.framing.separators.contains(&byte) {
            self.end_between(frames);
            self.note_end(byte);
        } else if self.between.len() < KEPT && !(self.between.is_empty() && byte.is_ascii_whitespace()) {
            self.between.extend_from_slice(&[byte]);
        }
    }

    fn end_between(&mut self, frames: &mut Vec<Frame>) {
        if !self.between.is_empty() {
            frames.push(Frame::broken(&self.between.split()));
        }
    }

    fn note_end(&mut self, byte: u8) {
        self.ends = Some((self.ends.map_or(byte, |(first, _)| first), byte));
    }
}

impl Framing {
    /// If `text` ends with the beginning of an object and its first key, returns the length of that.
    fn beginning_at_end_of(&self, text: &[u8]) -> Option<usize> {
        let text = text.strip_suffix(b"\"")?;
        self.first_keys.iter().find_map(|key| {
            let before = text.strip_suffix(key.as_bytes())?.strip_suffix(b"{\"")?;
            let last = before.iter().rfind(|byte| **byte != b' ')?;
            self.before.contains(last).then_some(key.len() + 3)
        })
    }
}

impl Frame {
    fn broken(text: &[u8]) -> Self {
        Self::Broken(Bytes::copy_from_slice(text[..text.len().min(KEPT)].trim_ascii()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found in chunks, objects as their text and everything else in angle brackets.
    fn frames(framing: &'static Framing, chunks: &[&[u8]]) -> Vec<String> {
        let mut framer = Framer::new(framing);
        let mut frames = Vec::new();
        for chunk in chunks {
            framer.push(&Bytes::copy_from_slice(chunk), &mut frames);
        }
        framer.finish(&mut frames);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        frames
            .iter()
            .map(|frame| match frame {
                Frame::Object(object) => text(object),
                Frame::Broken(broken) => format!("<{}>", text(broken)),
                Frame::TooLong => "<too long>".into(),
            })
            .collect()
    }

    #[test]
    fn an_event_ends_with_its_last_brace_whatever_follows() {
        let events = [r#"{"Type":"a{","x":[{"y":"\"}"}]}"#, r#"{"Type":"b"}"#, "{\n  \"Actor\":\n  {}\n}"];
        for separator in ["", "\n", "\r\n", "\n\n", " ", "\x1e", "\n\x1e", "\n\t\x1e "] {
            let stream = format!("{separator}{}{separator}", events.join(separator));
            for size in 1..=stream.len() {
                let chunks: Vec<&[u8]> = stream.as_bytes().chunks(size).collect();
                assert_eq!(frames(&EVENTS, &chunks), events, "{separator:?}, chunks of {size}");
            }
        }
    }

    #[test]
    fn an_event_is_found_as_soon_as_its_last_byte_has_come() {
        let mut framer = Framer::new(&EVENTS);
        let mut frames = Vec::new();
        framer.push(&Bytes::from_static(br#"{"Type":"container""#), &mut frames);
        assert_eq!(frames, []);
        framer.push(&Bytes::from_static(b"}"), &mut frames);
        assert_eq!(frames, [Frame::Object(Bytes::from_static(br#"{"Type":"container"}"#))]);
    }

    #[test]
    fn what_is_broken_costs_only_itself() {
        let good = r#"{"Type":"container","Action":"die"}"#;
        for broken in [
            r#"{"Type":"container","Action":"st"#,
            r#"{"Type":"container","Actor":{"ID":"#,
            r#"{"Type":"container","Attributes":{{{[["#,
            r#"{"Type":"container,"Action":"start"}"#,
            r#"{"Type":"container\"#,
            "HTTP/1.1 502 Bad Gateway",
            r#""Type":"container"}"#,
        ] {
            for separator in ["\n", "\n\x1e", "\x1e"] {
                let stream = format!("{good}{separator}{broken}{separator}{good}{separator}");
                for size in [1, 2, 3, 7, 20, 1000] {
                    let chunks: Vec<&[u8]> = stream.as_bytes().chunks(size).collect();
                    let found = frames(&EVENTS, &chunks);
                    assert_eq!(found.len(), 3, "{broken} {separator:?} {found:?}");
                    assert_eq!((&*found[0], &*found[2]), (good, good), "{broken} {separator:?}");
                    assert!(found[1].contains(broken.trim_start_matches('{')), "{found:?}");
                }
            }
        }
    }

    #[test]
    fn each_line_of_what_is_broken_is_told() {
        let stream = b"{\"Type\": \"container\", \"Action\": nonsense\n\n[1, 2]\n{\"Type\":\"x\"}\n7\n";
        assert_eq!(
            frames(&EVENTS, &[stream]),
            [r#"<{"Type": "container", "Action": nonsense>"#, "<[1, 2]>", r#"{"Type":"x"}"#, "<7>"]
        );
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let long = vec![b'x'; EVENTS.longest];
        for begin in ["{\"Type\":\"", "{\"Type\":", "x"] {
            let mut framer = Framer::new(&EVENTS);
            let mut frames = Vec::new();
            for part in [begin.as_bytes(), &long, &long, &long] {
                framer.push(&Bytes::copy_from_slice(part), &mut frames);
                assert!(framer.object.capacity() + framer.between.capacity() <= 4 * EVENTS.longest);
            }
            framer.push(&Bytes::from_static(b"\n{\"Type\":\"x\"}"), &mut frames);
            assert_eq!(frames.len(), 2, "{begin}");
            assert_eq!(frames[1], Frame::Object(Bytes::from_static(b"{\"Type\":\"x\"}")), "{begin}");
        }
        let too_long = [b"{\"Type\":\"", &long[..], b"\"}{\"Type\":\"x\"}"].concat();
        assert_eq!(frames(&EVENTS, &[&too_long]), ["<too long>", "{\"Type\":\"x\"}"]);
    }

    #[test]
    fn entries_are_found_in_a_list() {
        let list = br#"[ {"Id":"a"},{"Id":"b","Mounts":[{"Type":"x"}]}, 7 ,"{" , {"Id":"c","Names":["/c]},{"Id":"d"}]"#;
        for size in 1..list.len() {
            let chunks: Vec<&[u8]> = list.chunks(size).collect();
            let found = frames(&LIST, &chunks);
            assert_eq!(found[0], r#"{"Id":"a"}"#);
            assert_eq!(found[1], r#"{"Id":"b","Mounts":[{"Type":"x"}]}"#);
            assert_eq!(found[2], "<7>");
            assert_eq!(found.last().unwrap(), r#"{"Id":"d"}"#, "{found:?}");
        }
    }
}
