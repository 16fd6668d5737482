//! Parses the fields of an answer one by one. A field that cannot be parsed is recorded, and affects no other.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::value::MapDeserializer;
use serde::de::{DeserializeOwned, Error};
use serde_json::value::RawValue;

use super::repair::repaired;

/// A part of an answer that could not be read, as it is logged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Oddity {
    /// What could not be read: `State.Status`.
    pub(super) what: String,
    /// How it was written.
    pub(super) value: String,
}

impl Oddity {
    pub(super) fn new(what: impl Into<String>, value: &str) -> Self {
        const LONGEST: usize = 120;
        // The text after these keys can hold passwords.
        let secret = ["exec_create", "exec_start", "\"Command\"", "\"Env\"", "\"Cmd\""];
        let end = secret.iter().filter_map(|key| value.find(key)).min().unwrap_or(value.len());
        Self { what: cut(&what.into(), LONGEST), value: cut(&value[..end], LONGEST) }
    }
}

/// The parts of an answer that could not be read. All are counted, only some are kept.
#[derive(Debug, Default)]
pub(super) struct Oddities {
    kept: Vec<Oddity>,
    count: usize,
}

impl Oddities {
    const MOST_KEPT: usize = 100;

    pub(super) fn push(&mut self, oddity: Oddity) {
        self.count += 1;
        if self.kept.len() < Self::MOST_KEPT {
            self.kept.push(oddity);
        }
    }

    /// The number of all oddities, kept or not.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn append(&mut self, other: Self) {
        let count = self.count + other.count;
        other.kept.into_iter().for_each(|oddity| self.push(oddity));
        self.count = count;
    }
}

impl IntoIterator for Oddities {
    type Item = Oddity;
    type IntoIter = std::vec::IntoIter<Oddity>;

    fn into_iter(self) -> Self::IntoIter {
        self.kept.into_iter()
    }
}

/// Cuts a text of the daemon to `longest` characters for a log line.
pub(super) fn cut(text: &str, longest: usize) -> String {
    let mut short: String = text.chars().take(longest + 1).collect();
    if short.chars().count() > longest {
        short.pop();
        short.push('…');
    }
    short
}

/// Parses an answer. If a part cannot be parsed, repairs invalid bytes and parses the answer again, so that an invalid
/// byte costs only the string that it is in.
pub(super) fn read_mended<T, E>(
    json: &[u8],
    odd: &mut Oddities,
    read: impl Fn(&[u8], &mut Oddities) -> Result<T, E>,
) -> Result<T, E> {
    let mut odd_as_it_is = Oddities::default();
    let as_it_is = read(json, &mut odd_as_it_is);
    if as_it_is.is_err() || !odd_as_it_is.is_empty() {
        let mut odd_mended = Oddities::default();
        odd_mended.push(Oddity::new("JSON", "a byte that cannot be in it"));
        if let Some(mended) = repaired(json)
            && let Ok(value) = read(&mended, &mut odd_mended)
        {
            odd.append(odd_mended);
            return Ok(value);
        }
    }
    odd.append(odd_as_it_is);
    as_it_is
}

/// A field that is present, not null, and of type `T`.
pub(super) fn field<T: DeserializeOwned>(
    raw: Option<&RawValue>,
    what: &str,
    odd: &mut Oddities,
) -> Option<T> {
    let raw = present(raw)?;
    let value = serde_json::from_str(raw.get());
    if value.is_err() {
        odd.push(Oddity::new(what, raw.get()));
    }
    value.ok()
}

/// A field that is present and not null.
pub(super) fn present(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get() != "null")
}

/// A string field; empty if it is missing.
pub(super) fn text(raw: Option<&RawValue>, what: &str, odd: &mut Oddities) -> String {
    field::<String>(raw, what, odd).unwrap_or_default()
}

/// An object whose fields are still to be read.
pub(super) fn object<'a, T: Deserialize<'a> + Default>(
    raw: Option<&'a RawValue>,
    what: &str,
    odd: &mut Oddities,
) -> T {
    let Some(raw) = present(raw) else { return T::default() };
    only_object(raw.get().as_bytes()).unwrap_or_else(|_| {
        odd.push(Oddity::new(what, raw.get()));
        T::default()
    })
}

/// serde also accepts an array for a struct, and rejects duplicate fields. Here an array is an error, and the last
/// duplicate counts, as in Go and in browsers.
pub(super) fn only_object<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, serde_json::Error> {
    if json.trim_ascii_start().first().is_some_and(|&first| first != b'{') {
        return Err(serde_json::Error::custom("expected an object"));
    }
    serde_json::from_slice(json).or_else(|error| {
        if !error.is_data() {
            return Err(error);
        }
        let fields: BTreeMap<String, &RawValue> = serde_json::from_slice(json)?;
        T::deserialize(MapDeserializer::new(fields.into_iter()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_cut_where_it_is_logged() {
        let odd = Oddity::new("x", &"ä".repeat(1000));
        assert_eq!(odd.value.chars().count(), 121);
    }

    #[test]
    fn of_a_field_that_is_there_twice_the_last_counts() {
        #[derive(Deserialize)]
        struct Raw<'a> {
            #[serde(borrow)]
            a: Option<&'a RawValue>,
            b: Option<&'a RawValue>,
        }
        let raw: Raw<'_> = only_object(br#"{"a":1,"x":{},"a":[2]}"#).unwrap();
        assert_eq!((raw.a.map(RawValue::get), raw.b.is_none()), (Some("[2]"), true));
        assert!(only_object::<Raw<'_>>(b"[1,2]").is_err());
        assert!(only_object::<Raw<'_>>(b"{\"a\":1,").is_err());
    }

    #[test]
    fn only_so_many_oddities_are_kept_of_an_answer() {
        let mut odd = Oddities::default();
        for _ in 0..1000 {
            let mut more = Oddities::default();
            (0..200).for_each(|_| more.push(Oddity::new("x", "y")));
            odd.append(more);
        }
        assert_eq!((odd.count(), odd.into_iter().count()), (200_000, Oddities::MOST_KEPT));
    }

    #[test]
    fn command_lines_and_environments_are_not_logged() {
        for value in [
            r#"{"Type":"container","Action":"exec_start: login --password secret"#,
            r#"{"Command":"login --password secret","Id":7}"#,
            r#"{"Id":7,"Env":["PASSWORD=secret"]}"#,
        ] {
            assert!(!Oddity::new("x", value).value.contains("secret"));
        }
    }
}
