//! What a client takes; and answers in parts, compressed or not.

use axum::http::{HeaderMap, header};

/// Whether the client takes gzip.
pub(super) fn takes_gzip(headers: &HeaderMap) -> bool {
    let codings = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    let mut any = false;
    for coding in codings.flat_map(|value| value.split(',')) {
        let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = parameters.trim().strip_prefix("q=").map_or(Ok(1.0), |q| q.trim().parse::<f32>());
        let taken = weight.is_ok_and(|weight| weight > 0.0);
        match name.trim() {
            name if name.eq_ignore_ascii_case("gzip") || name.eq_ignore_ascii_case("x-gzip") => return taken,
            "*" => any = taken,
            _ => {}
        }
    }
    any
}

/// Whether the client takes names with any character in them, as Prometheus' content negotiation has it: it asks for
/// version 1.0.0 of the text format with `escaping=allow-utf-8`, and for no other version of it rather.
pub(super) fn takes_all_names(headers: &HeaderMap) -> bool {
    let ranges = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let (mut all, mut classic) = (0.0_f32, 0.0_f32);
    for range in ranges.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        if !parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("text/plain")) {
            continue;
        }
        let (mut weight, mut version, mut escaping) = (1.0, "", "");
        for (key, value) in parts.filter_map(|part| part.split_once('=')) {
            let value = value.trim().trim_matches('"');
            match key.trim() {
                key if key.eq_ignore_ascii_case("q") => weight = value.parse().unwrap_or(0.0),
                key if key.eq_ignore_ascii_case("version") => version = value,
                key if key.eq_ignore_ascii_case("escaping") => escaping = value,
                _ => {}
            }
        }
        if version == "1.0.0" && escaping.eq_ignore_ascii_case("allow-utf-8") {
            all = all.max(weight);
        } else {
            classic = classic.max(weight);
        }
    }
    all > 0.0 && all >= classic
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
            "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.1,text/plain;version=0.0.4;q=0.2",
        ] {
            assert!(!takes(value), "{value}");
        }
    }

    #[test]
    fn gzip_goes_to_those_who_take_it() {
        for values in
            [&["gzip"][..], &["deflate, GZIP;q=0.5"], &["br", "gzip"], &["*"], &["identity;q=0, *;q=0.1"]]
        {
            assert!(takes(values), "{values:?}");
        }
        for values in
            [&[][..], &["br"], &["gzip;q=0"], &["*, gzip;q=0"], &["identity"], &["gzip;q=x"], &["*;q=0"]]
        {
            assert!(!takes(values), "{values:?}");
        }
    }
}
