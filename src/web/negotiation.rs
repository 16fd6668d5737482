//! What a client takes, as RFC 9110 has it: codings and formats with their weights, and what it has already.

use axum::http::{HeaderMap, HeaderName, header};

/// Whether the client takes gzip, and does not want plain text rather.
///
/// Where it takes neither, which nobody sends on purpose, it gets plain text: everybody can read that.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let (mut gzip, mut identity, mut others) = (None, None, None);
    for value in values(headers, &header::ACCEPT_ENCODING) {
        let choice = Choice::new(value);
        let weight = match choice.name.to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => &mut gzip,
            "identity" => &mut identity,
            "*" => &mut others,
            _ => continue,
        };
        // Of one that is named twice, a refusal counts.
        *weight = Some(weight.map_or(choice.weight, |other: f32| other.min(choice.weight)));
    }
    let gzip = gzip.or(others).unwrap_or(0.0);
    // Without a word of it, plain text is taken where there is nothing else.
    gzip > 0.0 && gzip >= identity.or(others).unwrap_or(0.0)
}

/// Whether the client takes names with any character in them, as Prometheus' content negotiation has it: it asks for
/// version 1.0.0 of the text format with `escaping=allow-utf-8`, and for no other version of it rather.
pub(super) fn takes_all_names(headers: &HeaderMap) -> bool {
    let (mut all, mut classic) = (0.0_f32, 0.0_f32);
    for value in values(headers, &header::ACCEPT) {
        let choice = Choice::new(value);
        if !choice.name.eq_ignore_ascii_case("text/plain") {
            continue;
        }
        let parameter = |name| choice.parameter(name).unwrap_or_default();
        if parameter("version") == "1.0.0" && parameter("escaping").eq_ignore_ascii_case("allow-utf-8") {
            all = all.max(choice.weight);
        } else {
            classic = classic.max(choice.weight);
        }
    }
    all > 0.0 && all >= classic
}

/// Whether the client has what an entity tag stands for. A proxy may have made the tag a weak one.
pub(super) fn has_already(headers: &HeaderMap, tag: &str) -> bool {
    values(headers, &header::IF_NONE_MATCH)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

/// The values of a header that is a list, over all its lines.
fn values<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let lines = headers.get_all(name).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| unquoted(line, ',')).map(str::trim).filter(|value| !value.is_empty())
}

/// The parts of a text between separators that are not in quotes.
fn unquoted(text: &str, separator: char) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |c| {
        let is_separator = c == separator && !is_quoted;
        is_quoted ^= c == '"' && !is_escaped;
        is_escaped = is_quoted && c == '\\' && !is_escaped;
        is_separator
    })
}

/// One of the things that a client takes.
struct Choice<'h> {
    name: &'h str,
    parameters: Vec<(&'h str, &'h str)>,
    /// From 0, for what it does not take, to 1.
    weight: f32,
}

impl<'h> Choice<'h> {
    fn new(value: &'h str) -> Self {
        let mut parts = unquoted(value, ';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let parameters = parts.filter_map(|part| {
            let (name, value) = part.split_once('=')?;
            let value = value.trim();
            let quoted = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
            Some((name.trim(), quoted.unwrap_or(value)))
        });
        let mut choice = Self { name, parameters: parameters.collect(), weight: 1.0 };
        choice.weight = choice.parameter("q").map_or(1.0, weight);
        choice
    }

    fn parameter(&self, name: &str) -> Option<&'h str> {
        self.parameters.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }
}

/// A weight from 0 to 1. What is none is taken for a refusal: what was meant is not known.
fn weight(text: &str) -> f32 {
    let is_decimal = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    text.parse().ok().filter(|weight| is_decimal && *weight <= 1.0).unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(values: &[&'static str]) -> bool {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::ACCEPT_ENCODING, value.parse().unwrap());
        }
        takes_gzip(&headers)
    }

    #[test]
    fn names_stay_as_they_are_for_those_who_ask_for_it() {
        let takes = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ACCEPT, value.parse().unwrap());
            takes_all_names(&headers)
        };
        for value in [
            "text/plain;version=1.0.0;escaping=allow-utf-8",
            // What Prometheus 3 sends.
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
             application/openmetrics-text;version=0.0.1;q=0.5,\
             text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            "text/plain; Version=\"1.0.0\"; Escaping=Allow-UTF-8; charset=utf-8",
            "text/html;x=\",\\\"\", TEXT/PLAIN ; escaping = allow-utf-8;version=1.0.0 ;Q=0.5",
        ] {
            assert!(takes(value), "{value}");
        }
        for value in [
            "",
            "*/*",
            "text/plain;version=0.0.4",
            "text/plain;version=1.0.0",
            "text/plain;version=1.0.0;escaping=underscores",
            "text/plain;version=0.0.4;escaping=allow-utf-8",
            "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8",
            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0",
            "text/plain;version=1.0.0;escaping=allow-utf-8;Q=0.0",
            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.1,text/plain;version=0.0.4;q=0.2",
        ] {
            assert!(!takes(value), "{value}");
        }
    }

    #[test]
    fn gzip_goes_to_those_who_take_it() {
        for values in [
            &["gzip"][..],
            &["deflate, GZIP;q=0.5"],
            &["br", "gzip"],
            &["*"],
            &["identity;q=0, *;q=0.1"],
            &["x-gzip"],
            &["X-GZip;Q=1.000"],
            &["gzip;q=1.0, identity; q=0.5, *;q=0"],
            &["gzip;q=0.5, identity;q=0.5"],
            &["gzip ; q=.2"],
            &["gzip;q=0.001"],
            &["deflate;q=0, gzip"],
            &["br;x=\",gzip;q=0,\", gzip"],
            &[", ,gzip,"],
            &["gzip;x=1"],
            &["identity;q=0.1, *"],
        ] {
            assert!(takes(values), "{values:?}");
        }
        for values in [
            &[][..],
            &[""],
            &["br"],
            &["gzip;q=0"],
            &["gzip;Q=0"],
            &["gzip;q=0.000"],
            &["gzip; q = 0"],
            &["gzip;x=1;q=0"],
            &["gzip;x=1;Q=0.0;y=2"],
            &["gzip;q=\"0\""],
            &["*, gzip;q=0"],
            &["gzip;q=0, *"],
            &["gzip, gzip;q=0"],
            &["x-gzip;q=0", "gzip"],
            &["identity"],
            &["identity, gzip;q=0.5"],
            &["identity, *;q=0.5"],
            &["gzip;q=0.2, *;q=0.8"],
            &["identity;q=0"],
            &["gzip;q=x"],
            &["gzip;q="],
            &["gzip;q=-1"],
            &["gzip;q=2"],
            &["gzip;q=nan"],
            &["gzip;q=inf"],
            &["gzip;q=1e-1"],
            &["*;q=0"],
            &["gzipped"],
            &["br;x=\",gzip,\""],
        ] {
            assert!(!takes(values), "{values:?}");
        }
    }

    #[test]
    fn what_a_client_has_is_known_by_its_tag() {
        let has = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, value.parse().unwrap());
            has_already(&headers, "\"1,2\"")
        };
        for value in ["\"1,2\"", "W/\"1,2\"", "\"0\", \"1,2\"", "*"] {
            assert!(has(value), "{value}");
        }
        for value in ["", "1,2", "\"1\"", "\"1\", \"2\"", "\"1,2"] {
            assert!(!has(value), "{value}");
        }
        assert!(!has_already(&HeaderMap::new(), "\"1,2\""));
    }
}
