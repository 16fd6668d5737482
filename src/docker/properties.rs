//! Properties that hold whatever bytes an engine sends: parsers never panic, no broken part hides another, and chunk
//! boundaries do not matter.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::Value;

use super::answer::{self, Selection};
use super::api_version::EngineVersion;
use super::event::Event;
use super::fields::{Oddities, Oddity};
use super::framing::{self, Frame, Framer, Framing};
use super::list::ListReader;
use super::repair::repaired;
use super::values::{time, whole_number};
use crate::config::Filter;
use crate::inventory::Container;
use crate::mutation::{bytes, chunks, cuts, mutated};

const LIST: &str = include_str!("../../tests/data/parity/list.json");
const INSPECT: &str = include_str!(
    "../../tests/data/parity/inspect/afa13933bea70781e6d9c22265e3ae2e7fc04780598e3356805709ea68839368.json"
);
const EVENT: &str = r#"{"status":"health_status: healthy","id":"0123","from":"nginx:1.27","Type":"container","Action":"health_status: healthy","Actor":{"ID":"0123","Attributes":{"a {b}":"\"[x]\\","image":"nginx:1.27","name":"web"}},"scope":"local","time":1764200000,"timeNano":1764200000123456789}"#;
const VERSION: &str = r#"{"Platform":{"Name":""},"Components":[{"Name":"Engine","Version":"28.5.2","Details":{}}],"Version":"28.5.2","ApiVersion":"1.51","MinAPIVersion":"1.24","Experimental":false}"#;

fn selection() -> Selection {
    Selection::new(Filter::all(), Filter::all(), "expect")
}

fn frames(framing: &'static Framing, chunks: impl IntoIterator<Item = Vec<u8>>) -> Vec<Frame> {
    let (mut framer, mut frames) = (Framer::new(framing), Vec::new());
    for chunk in chunks {
        framer.push(&chunk.into(), &mut frames);
    }
    framer.finish(&mut frames);
    frames
}

fn list(chunks: impl IntoIterator<Item = Vec<u8>>) -> Result<Vec<String>, String> {
    let (selection, mut odd) = (selection(), Oddities::default());
    let mut reader = ListReader::new(&selection);
    for chunk in chunks {
        reader.push(&chunk.into(), &mut odd).map_err(|error| error.to_string())?;
    }
    let list = reader.finish(&mut odd).map_err(|error| error.to_string())?;
    Ok(list.iter().map(|entry| entry.id.to_string()).collect())
}

fn inspect(json: &[u8]) -> Result<Container, serde_json::Error> {
    answer::inspect(&"0123".into(), json, &selection(), &mut Oddities::default())
}

fn event(json: &[u8]) -> Option<Event> {
    Event::read(json, &selection(), &mut Oddities::default())
}

/// Something that may occur between objects, and is hardly ever one.
fn intruder(object: &'static str) -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![3 => mutated(object), 1 => bytes(200)]
}

/// Whether all of `wanted` are in `all`, in their order.
fn holds_in_order<T: PartialEq>(all: &[T], wanted: &[T]) -> bool {
    let mut all = all.iter();
    wanted.iter().all(|wanted| all.any(|one| one == wanted))
}

/// Bytes that do not end a string. They may still be invalid in one.
fn in_a_string() -> impl Strategy<Value = Vec<u8>> {
    let wrong =
        [&b"\xff"[..], b"\0", b"\n", b"\x1e", b"\\ud800", b"\\x", b"\xc0\xaf", b"\xed\xa0\x80", b"{", b"]"];
    let part = prop_oneof![
        proptest::sample::select(wrong.to_vec()).prop_map(<[u8]>::to_vec),
        any::<u8>()
            .prop_filter("a quote ends a string", |byte| !matches!(byte, b'"' | b'\\'))
            .prop_map(|byte| vec![byte]),
    ];
    vec(part, 1..20).prop_map(|parts| parts.concat())
}

fn with_bytes_for(json: &str, place: &str, bytes: &[u8]) -> Vec<u8> {
    let (before, after) = json.split_once(place).expect("the place is there");
    [before.as_bytes(), bytes, after.as_bytes()].concat()
}

proptest! {
    #[test]
    fn it_does_not_matter_where_chunks_end(
        stream in prop_oneof![bytes(300), mutated(format!("{EVENT}\n{EVENT}{EVENT}\n\x1e{EVENT}")), mutated(LIST)],
        cuts in cuts(),
    ) {
        for framing in [&framing::EVENTS, &framing::LIST] {
            prop_assert_eq!(frames(framing, chunks(&stream, &cuts)), frames(framing, [stream.clone()]));
        }
        prop_assert_eq!(list(chunks(&stream, &cuts)), list([stream]));
    }

    #[test]
    fn no_event_hides_another(
        intruders in vec(intruder(EVENT), 1..4),
        separator in proptest::sample::select(vec!["\n", "\r\n", "\n\x1e"]),
    ) {
        let mut stream = Vec::new();
        let mut wanted = Vec::new();
        for (number, intruder) in intruders.iter().enumerate() {
            let good = EVENT.replace("0123", &format!("{number}"));
            stream.extend([good.as_bytes(), separator.as_bytes(), intruder, separator.as_bytes()].concat());
            wanted.push(Frame::Object(good.into()));
        }
        stream.extend(EVENT.as_bytes());
        wanted.push(Frame::Object(Bytes::from_static(EVENT.as_bytes())));
        prop_assert!(holds_in_order(&frames(&framing::EVENTS, [stream]), &wanted));
    }

    #[test]
    fn no_entry_hides_another(intruders in vec(intruder(r#"{"Id":"x1","Names":["/x"],"State":"running"}"#), 1..4)) {
        let mut body = b"[".to_vec();
        let mut wanted = Vec::new();
        for (number, intruder) in intruders.iter().enumerate() {
            let good = format!(r#"{{"Id":"a{number}","Names":["/a"]}}"#);
            body.extend([good.as_bytes(), b",", intruder, b","].concat());
            wanted.push(format!("a{number}"));
        }
        body.extend(br#"{"Id":"last","Names":["/last"]}]"#);
        wanted.push("last".into());
        prop_assert!(holds_in_order(&list([body]).map_err(TestCaseError::fail)?, &wanted));
    }

    #[test]
    fn a_list_that_is_cut_off_is_never_taken_for_a_whole_one(at in any::<proptest::sample::Index>()) {
        let whole = LIST.trim_end();
        prop_assert!(list([whole.as_bytes()[..at.index(whole.len())].to_vec()]).is_err());
    }

    #[test]
    fn readers_take_whatever_comes(
        json in prop_oneof![bytes(300), mutated(INSPECT), mutated(EVENT), mutated(VERSION), mutated(LIST)],
    ) {
        let container = inspect(&json);
        let event = event(&json);
        let version = EngineVersion::read(&json);
        // What is valid for `serde_json` is valid here.
        if serde_json::from_slice::<Value>(&json).is_ok_and(|json| json.is_object()) {
            prop_assert!(container.is_ok() && version.is_ok());
        }
        prop_assert!(event.is_none_or(|event| !event.action.is_empty()));
    }

    #[test]
    fn wrong_bytes_cost_only_the_text_that_they_are_in(wrong in in_a_string()) {
        let json = r#"{"Id":"0123","Name":"/web","Created":"2026-11-21T07:11:53Z","Image":"sha256:1","RestartCount":7,
            "State":{"Status":"exited","ExitCode":137,"Health":{"Status":"healthy","Log":[{"Output":"<Log>"}]}},
            "Config":{"Env":["A=<Env>"],"Image":"bb:1","Hostname":"<Host>","Labels":{"a":"1","<Key>":"2","c":"3"}}}"#;
        let right = inspect(json.as_bytes())?;
        for place in ["<Log>", "<Env>", "<Host>", "<Key>"] {
            let found = inspect(&with_bytes_for(json, place, &wrong))?;
            let mended = Container {
                hostname: if place == "<Host>" { right.hostname.clone() } else { found.hostname.clone() },
                labels: if place == "<Key>" { right.labels.clone() } else { found.labels.clone() },
                event_identity: if place == "<Key>" { right.event_identity.clone() } else { found.event_identity.clone() },
                ..found.clone()
            };
            prop_assert_eq!(&mended, &right, "{}", place);
            prop_assert!(["a", "c"].iter().all(|key| found.labels.iter().any(|(found, _)| &**found == *key)));
        }
        let right = event(EVENT.as_bytes());
        let found = event(&with_bytes_for(EVENT, "\\\"[x]\\\\", &wrong));
        let known = |event: Option<Event>| event.map(|e| (e.kind, e.action, e.actor, e.time, e.identity.name.clone()));
        prop_assert_eq!(known(found), known(right));
    }

    #[test]
    fn what_is_repaired_is_text_of_a_bounded_size_and_stays_as_it_is(json in prop_oneof![bytes(300), mutated(INSPECT)]) {
        if let Some(mended) = repaired(&json) {
            prop_assert!(std::str::from_utf8(&mended).is_ok());
            prop_assert!(mended.len() <= 8 * json.len());
            prop_assert_eq!(repaired(&mended), None);
            prop_assert!(serde_json::from_slice::<Value>(&json).is_err());
        }
    }

    #[test]
    fn a_number_is_the_same_in_every_form(number in any::<i64>(), point in 0..25_usize) {
        let sign = if number < 0 { "-" } else { "" };
        let digits = format!("{:0>26}", number.unsigned_abs());
        let (whole, fraction) = digits.split_at(digits.len() - point);
        for text in [
            format!("{number}"),
            format!("\"{number}\""),
            format!("\"{sign}{whole}.{fraction}e+{point}\""),
            format!("\"{number}000E-3\""),
        ] {
            let raw = serde_json::value::RawValue::from_string(text.clone())?;
            let mut odd = Oddities::default();
            prop_assert_eq!(whole_number::<i64>(Some(&raw), "x", &mut odd), Some(number), "{}", text);
        }
    }

    #[test]
    fn a_time_is_the_same_in_every_zone(
        seconds in -62_000_000_000..253_000_000_000_i64,
        nanos in 0..1_000_000_000_i32,
        minutes in -1439..1440_i32,
    ) {
        let zone = jiff::tz::Offset::from_seconds(minutes * 60)?;
        let written = jiff::Timestamp::new(seconds, nanos)?.display_with_offset(zone).to_string();
        let raw = serde_json::value::RawValue::from_string(format!("\"{written}\""))?;
        prop_assert_eq!(time(Some(&raw), "x", &mut Oddities::default()), seconds.max(0), "{}", written);
    }

    #[test]
    fn a_log_line_is_never_long(value in bytes(2_000)) {
        let text = String::from_utf8_lossy(&value);
        prop_assert!(Oddity::new(&*text, &text).value.chars().count() <= 121);
    }
}
