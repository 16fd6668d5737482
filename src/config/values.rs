//! Parsers of values that the file, the environment and the flags share: each returns a typed value or an error.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;
use url::{Host, Url};

use super::error::{Invalid, listed, nearest, shown, shown_url};
use super::model::{Compression, LogLevel, Temporality};

/// The longest time that a key accepts, in milliseconds: the standard's limit for timeouts, and short enough to be
/// added to any clock. No count in the main file may exceed it either.
pub(crate) const MAX_MILLIS: i64 = i32::MAX as i64;

/// The standard's severities. This program has five levels and no fatal one, so the fatal severities mean errors.
pub(crate) const LOG_LEVELS: [(&str, LogLevel); 24] = [
    ("trace", LogLevel::Trace),
    ("trace2", LogLevel::Trace),
    ("trace3", LogLevel::Trace),
    ("trace4", LogLevel::Trace),
    ("debug", LogLevel::Debug),
    ("debug2", LogLevel::Debug),
    ("debug3", LogLevel::Debug),
    ("debug4", LogLevel::Debug),
    ("info", LogLevel::Info),
    ("info2", LogLevel::Info),
    ("info3", LogLevel::Info),
    ("info4", LogLevel::Info),
    ("warn", LogLevel::Warn),
    ("warn2", LogLevel::Warn),
    ("warn3", LogLevel::Warn),
    ("warn4", LogLevel::Warn),
    ("error", LogLevel::Error),
    ("error2", LogLevel::Error),
    ("error3", LogLevel::Error),
    ("error4", LogLevel::Error),
    ("fatal", LogLevel::Error),
    ("fatal2", LogLevel::Error),
    ("fatal3", LogLevel::Error),
    ("fatal4", LogLevel::Error),
];

/// Where OTLP over gRPC goes by default.
pub(crate) const GRPC_ENDPOINT: &str = "http://localhost:4317";

/// Where OTLP over HTTP goes by default.
pub(crate) const HTTP_ENDPOINT: &str = "http://localhost:4318/v1/metrics";

/// The standard's temporalities, by the file's names.
pub(crate) const TEMPORALITIES: [(&str, Temporality); 3] = [
    ("cumulative", Temporality::Cumulative),
    ("delta", Temporality::Delta),
    ("low_memory", Temporality::LowMemory),
];

/// The compressions.
pub(crate) const COMPRESSIONS: [(&str, Compression); 2] =
    [("none", Compression::None), ("gzip", Compression::Gzip)];

/// Finds the choice whose name is `text`.
pub(crate) fn choice<T: Copy>(text: &str, what: &str, choices: &[(&'static str, T)]) -> Result<T, Invalid> {
    if let Some((_, value)) = choices.iter().find(|(name, _)| *name == text) {
        return Ok(*value);
    }
    let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
    let invalid = Invalid::value(&format!("not {what}"), text);
    Err(match nearest(text, &names) {
        Some(name) => invalid.hint(format!("did you mean {name}?")),
        None => invalid.hint(format!("one of {}", listed(&names))),
    })
}

/// Parses a log level. The hint lists only the first of each level's four names.
pub(crate) fn log_level(text: &str) -> Result<LogLevel, Invalid> {
    choice(text, "a log level", &LOG_LEVELS)
        .map_err(|_| Invalid::value("not a log level", text).hint("one of trace, debug, info, warn, error"))
}

/// A time limit from milliseconds. 0 means no limit, as in the standard. It becomes a very long limit, as the
/// standard suggests, so that callers need no special case.
pub(crate) fn timeout(millis: i64) -> Duration {
    Duration::from_millis(if millis <= 0 { MAX_MILLIS } else { millis }.unsigned_abs())
}

/// Adds the hint to write `better` if that is accepted and holds nothing that must not be shown; otherwise the hint
/// `other`.
fn suggest_url(
    invalid: Invalid,
    hint: &str,
    better: &str,
    is_accepted: impl Fn(&str) -> bool,
    other: impl Into<String>,
) -> Invalid {
    if shown(&shown_url(better)) == better && is_accepted(better) {
        invalid.suggest(hint, better)
    } else {
        invalid.hint(other)
    }
}

/// Parses a URL to export to. `insecure` decides the scheme if the text has none. Without `insecure`, a missing
/// scheme is an error: the user should decide whether the connection is encrypted. `example` is a URL for the hint.
pub(crate) fn endpoint(text: &str, insecure: Option<bool>, example: &str) -> Result<Url, Invalid> {
    let has_scheme = text.contains("://");
    let completed = match insecure {
        Some(insecure) if !has_scheme => format!("{}://{text}", if insecure { "http" } else { "https" }),
        _ => text.to_owned(),
    };
    let invalid = |what: &str| Invalid::value(what, &shown_url(text));
    let for_example = format!("for example {example}");
    match Url::parse(&completed) {
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Err(Invalid::new("a URL with a user name or a password, which would not be sent")
                .hint("leave them out, and give them as a header named authorization"))
        }
        Ok(url) if url.fragment().is_some() => {
            Err(invalid("a URL with a fragment, which would not be sent")
                .hint("leave out # and what follows it"))
        }
        Ok(url) if matches!(url.scheme(), "http" | "https") && completed.contains("://") => Ok(url),
        _ if !has_scheme => {
            let with_scheme = format!("http://{text}");
            let is_accepted = |url: &str| insecure.is_none() && endpoint(url, None, example).is_ok();
            Err(suggest_url(
                invalid("not a URL"),
                "add a scheme, for example ",
                &with_scheme,
                is_accepted,
                for_example,
            ))
        }
        Ok(_) => Err(invalid("not an http or https URL")
            .hint(format!("the endpoint is where OTLP is received, {for_example}"))),
        Err(error) => Err(invalid("not a URL").hint(format!("{error}; {for_example}"))),
    }
}

/// Parses a header's name, and makes it lower case as HTTP/2 has it. Text that is no name may be a misplaced value,
/// so the error does not show it.
pub(crate) fn header_name(text: &str) -> Result<String, Invalid> {
    HeaderName::from_bytes(text.as_bytes()).map(|name| name.as_str().to_owned()).map_err(|_| {
        Invalid::value("not a header name", text).without_value().hint("letters, digits and - make one")
    })
}

/// Parses a header's value. Errors do not show the value: it is often a secret.
pub(crate) fn header_value(name: &str, text: &str) -> Result<String, Invalid> {
    HeaderValue::from_str(text).map(|_| text.to_owned()).map_err(|_| {
        Invalid::new(format!("the value of {name} is not one of a header (it is not shown)"))
            .hint("visible ASCII characters and spaces make one; is there a line break at its end?")
    })
}

/// The most headers that a destination may have. A header map panics at some ten thousands.
const MAX_HEADERS: usize = 1000;

/// Refuses more headers than can be sent.
pub(crate) fn check_header_count(count: usize) -> Result<(), Invalid> {
    if count <= MAX_HEADERS {
        return Ok(());
    }
    Err(Invalid::new(format!("{count} headers"))
        .hint(format!("{MAX_HEADERS} at most; servers take far fewer")))
}

/// Headers as `OTEL_EXPORTER_OTLP_HEADERS` has them: `key=value,key=value`, values percent-encoded.
pub(crate) fn headers(text: &str) -> Result<Vec<(String, String)>, Invalid> {
    let pairs = pairs(text, true)?;
    check_header_count(pairs.len())?;
    pairs
        .into_iter()
        .map(|(name, value)| {
            let name = header_name(&name)?;
            let value = header_value(&name, &value)?;
            Ok((name, value))
        })
        .collect()
}

/// Resource attributes as `OTEL_RESOURCE_ATTRIBUTES` has them: `key=value,key=value`, percent-encoded.
pub(crate) fn attributes(text: &str) -> Result<Vec<(String, String)>, Invalid> {
    pairs(text, false)
}

fn pairs(text: &str, secret: bool) -> Result<Vec<(String, String)>, Invalid> {
    let mut pairs = Vec::new();
    for (i, pair) in text.split(',').map(str::trim).enumerate() {
        if pair.is_empty() {
            continue;
        }
        let invalid = |what: &str| {
            let place = format!("entry {} {what}", i + 1);
            if secret { Invalid::new(place) } else { Invalid::value(&place, pair) }
        };
        let hint = "key=value pairs with commas between them; %2C is a comma inside of one";
        let Some((key, value)) = pair.split_once('=') else {
            return Err(invalid("has no =").hint(hint));
        };
        // `percent_decode_str` would leave a % without two digits as it is.
        let is_encoded = |text: &str| {
            text.split('%')
                .skip(1)
                .all(|after| after.len() >= 2 && after.bytes().take(2).all(|digit| digit.is_ascii_hexdigit()))
        };
        if !is_encoded(pair) {
            return Err(
                invalid("has a % without two hexadecimal digits after it").hint("%25 is a percent sign")
            );
        }
        let decode = |text: &str| percent_decode_str(text.trim()).decode_utf8().map(String::from);
        let (Ok(key), Ok(value)) = (decode(key), decode(value)) else {
            return Err(invalid("is not UTF-8 after percent-decoding").hint(hint));
        };
        if key.is_empty() {
            return Err(invalid("has no key").hint(hint));
        }
        pairs.push((key, value));
    }
    Ok(pairs)
}

/// Merges pairs: a later value of a name replaces the earlier one, at the position of the first.
pub(crate) fn merged<V>(pairs: impl IntoIterator<Item = (String, V)>) -> Vec<(String, V)> {
    let mut merged: Vec<(String, V)> = Vec::new();
    let mut places: HashMap<String, usize> = HashMap::new();
    for (name, value) in pairs {
        match places.get(&name).and_then(|place| merged.get_mut(*place)) {
            Some(known) => known.1 = value,
            None => {
                places.insert(name.clone(), merged.len());
                merged.push((name, value));
            }
        }
    }
    merged
}

/// A host to listen on: an address, a name, or nothing for every address.
pub(crate) fn host(text: &str) -> Result<String, Invalid> {
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<Ipv6Addr>().is_ok() {
        return Ok(bare.to_owned());
    }
    let name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if text.is_empty() || text.parse::<IpAddr>().is_ok() || text.chars().all(name) {
        return Ok(text.to_owned());
    }
    Err(Invalid::value("not a host", text).hint(if text.contains("://") {
        "an IP address or a name, without a scheme"
    } else if text.contains(':') {
        "an IP address or a name, without a port"
    } else {
        "an IP address or a name, or nothing for every address"
    }))
}

/// An address to listen on, as Go's net package takes it: `:8080`, `0.0.0.0:8080`, `[::1]:9000`.
pub(crate) fn listen_address(text: &str) -> Result<(String, u16), Invalid> {
    let invalid = || Invalid::value("not an address", text);
    let Some((host_part, port)) = text.rsplit_once(':') else {
        return Err(match text.parse::<u16>() {
            Ok(port) => invalid().suggest("add a colon: ", format!(":{port}")),
            Err(_) => {
                invalid().hint("a host and a port, for example 127.0.0.1:8080, or :8080 for every address")
            }
        });
    };
    if host_part.contains(':') && !host_part.starts_with('[') {
        return Err(invalid().hint("brackets around an IPv6 address, for example [::1]:8080"));
    }
    // `parse` would take a sign.
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let Some(port) = digits.then(|| port.parse::<u16>().ok()).flatten() else {
        return Err(invalid().hint("a port is a number from 0 to 65535, for example :8080"));
    };
    host(host_part)
        .map(|host| (host, port))
        .map_err(|_| invalid().hint("for example 127.0.0.1:8080, [::1]:8080 or :8080"))
}

/// An address as [`listen_address`] takes it; the host is without brackets.
pub(crate) fn shown_address(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// The longest path of the exposition. A request's line and headers have a limit too.
const LONGEST_PATH: usize = 1024;

/// Parses the path of the exposition: the router must match it literally, and every client must send it unchanged.
pub(crate) fn telemetry_path(text: &str) -> Result<String, Invalid> {
    const HINT: &str =
        "letters, digits and any of - . _ ~ ! $ & ' ( ) + , ; = : @ between slashes, for example /metrics";
    let invalid = || Invalid::value("not a path", text);
    if !text.starts_with('/') {
        let with_slash = format!("/{text}");
        return Err(invalid().hint(match telemetry_path(&with_slash) {
            Ok(_) => format!("it begins with a slash: {with_slash}"),
            Err(_) => HINT.into(),
        }));
    }
    if text == "/" || text.starts_with("/-/") {
        return Err(Invalid::value("a path that serves something else", text).hint("for example /metrics"));
    }
    if text.len() > LONGEST_PATH {
        return Err(Invalid::new(format!("a path of more than {LONGEST_PATH} bytes")).hint(HINT));
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()+,;=:@".contains(c);
    let mut segments = text[1..].split('/').peekable();
    while let Some(segment) = segments.next() {
        // A slash at the end is allowed: it makes a different path.
        let is_empty = segment.is_empty() && segments.peek().is_some();
        // A colon at the beginning was a wildcard in older versions of the router, which still refuses it.
        let is_special = matches!(segment, "." | "..") || segment.starts_with(':');
        if is_empty || is_special || !segment.chars().all(is_plain) {
            return Err(invalid().hint(HINT));
        }
    }
    Ok(text.to_owned())
}

/// The longest name of a host, as DNS has it.
const LONGEST_HOST: usize = 253;

/// A host, and a port where one is given, as a `Host` header has them: `example.com`, `example.com:8080`, `[::1]`.
pub(crate) fn host_and_port(text: &str) -> Result<(Host, Option<u16>), Invalid> {
    const HINT: &str =
        "for example exporter.example.com, exporter.example.com:8080, 192.0.2.1 or [2001:db8::1]";
    let invalid = || Invalid::value("not a host", text).hint(HINT);
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !text.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    // `parse` would take a sign.
    let digits = |port: &str| port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok()).flatten();
    let port = port.map(|port| digits(port).ok_or_else(invalid)).transpose()?;
    let is_plain = |c: char| c.is_alphanumeric() || ".-_[]:".contains(c);
    // A colon outside of brackets belongs to an IPv6 address without brackets.
    let has_stray_colon = host.contains(':') && !host.starts_with('[');
    if has_stray_colon || host.len() > LONGEST_HOST || !host.chars().all(is_plain) {
        return Err(invalid());
    }
    // A dot at the end marks a fully qualified name. Here every name is one.
    let host = Host::parse(host.strip_suffix('.').unwrap_or(host)).map_err(|_| invalid())?;
    Ok((host, port))
}

/// Parses an allowed host, and normalizes it for comparison.
pub(crate) fn allowed_host(text: &str) -> Result<String, Invalid> {
    let (host, port) = host_and_port(text)?;
    Ok(match port {
        Some(port) => format!("{host}:{port}"),
        None => host.to_string(),
    })
}

/// Parses a Docker host: how the daemon is reached.
pub(crate) fn docker_host(text: &str) -> Result<String, Invalid> {
    const SCHEMES: &str = "unix://, tcp://, http://, https:// and ssh:// are known";
    let invalid = || Invalid::value("not a Docker host", &shown_url(text));
    let suggest = |hint: &str, better: &str, other: String| {
        suggest_url(invalid(), hint, better, |host| host != text && docker_host(host).is_ok(), other)
    };
    // The URL parser would ignore such characters.
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(suggest("without spaces it is ", text.trim(), "it has no spaces and line breaks".into()));
    }
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(match text.split_once(':') {
            _ if text.starts_with('/') => suggest("a socket is ", &format!("unix://{text}"), SCHEMES.into()),
            Some((scheme @ "unix", rest)) => {
                let socket = format!("{scheme}:///{}", rest.trim_start_matches('/'));
                suggest("a socket is ", &socket, SCHEMES.into())
            }
            Some((scheme @ ("tcp" | "http" | "https" | "ssh"), rest)) if rest.parse::<u16>().is_err() => {
                let host = format!("{scheme}://{}", rest.trim_start_matches('/'));
                suggest("two slashes follow the colon: ", &host, SCHEMES.into())
            }
            Some(_) => suggest("add a scheme, for example ", &format!("tcp://{text}"), SCHEMES.into()),
            None => invalid().hint(SCHEMES),
        });
    };
    match scheme {
        "unix" if rest.starts_with('/') && rest.len() > 1 => Ok(text.to_owned()),
        "unix" => {
            let absolute = format!("unix:///{}", rest.trim_start_matches('/'));
            Err(suggest(
                "the path is absolute: ",
                &absolute,
                "for example unix:///var/run/docker.sock".into(),
            ))
        }
        "tcp" | "http" | "https" | "ssh" => {
            let example =
                format!("for example {scheme}://127.0.0.1:{}", if scheme == "ssh" { 22 } else { 2375 });
            // `Url` knows the rules of hosts and ports for http only; they are the same for all these schemes.
            let url = Url::parse(&format!("http://{rest}"))
                .map_err(|error| invalid().hint(format!("{error}; {example}")))?;
            if scheme != "ssh" && (!url.username().is_empty() || url.password().is_some()) {
                return Err(Invalid::new("a Docker host with a user name, which would not be sent")
                    .hint("leave it out; only ssh:// takes one"));
            }
            if url.password().is_some() {
                return Err(Invalid::new("a Docker host with a password, which ssh does not take")
                    .hint("leave it out, and let ssh use a key"));
            }
            if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
                return Err(invalid().hint(format!("a host and a port, {example}")));
            }
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => {
            let lower = format!("{}://{rest}", scheme.to_ascii_lowercase());
            Err(suggest("schemes are in lower case: ", &lower, SCHEMES.into()))
        }
    }
}

/// Parses a glob. An empty one would match nothing.
pub(crate) fn glob(text: &str) -> Result<String, Invalid> {
    if text.is_empty() {
        return Err(Invalid::value("not a pattern", text).hint("* matches everything; leave the entry out"));
    }
    Ok(text.to_owned())
}

/// Parses a stream's name. The rules are those of instrument names, because receivers expect no other names.
pub(crate) fn instrument_name(text: &str) -> Result<String, Invalid> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'/');
    let valid =
        text.starts_with(|c: char| c.is_ascii_alphabetic()) && text.len() <= 255 && text.bytes().all(inner);
    if valid {
        return Ok(text.to_owned());
    }
    Err(Invalid::value("not the name of an instrument", text)
        .hint("a letter, then letters, digits and any of _ . - /, 255 characters at most"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whatever a hint suggests is accepted, for any text.
    fn suggestion_is_accepted<T>(parse: impl Fn(&str) -> Result<T, Invalid>, text: &str) {
        if let Err(invalid) = parse(text)
            && let Some(suggestion) = invalid.suggestion()
        {
            assert!(parse(suggestion).is_ok(), "{suggestion:?} for {text:?}");
        }
    }

    /// Text that is almost a host, a URL, an address or a path.
    fn almost() -> impl Strategy<Value = String> {
        prop_oneof![
            "[ \t]?(unix|tcp|TCP|http|Https|ssh|npipe|fd|)(:|://|:/|:///|//|)([a-z]{0,3}:?[a-z]{0,2}@)?\
             (h|localhost|\\[::1\\]|::1|1\\.2\\.3\\.4|/s|/|)(:[0-9]{0,6}|:x|)(/[a-z ?#*{}]{0,4})?[ \n]?",
            any::<String>(),
        ]
    }

    proptest! {
        #[test]
        fn what_hints_suggest_is_accepted(text in almost()) {
            suggestion_is_accepted(docker_host, &text);
            suggestion_is_accepted(listen_address, &text);
            suggestion_is_accepted(telemetry_path, &text);
            for insecure in [None, Some(true), Some(false)] {
                suggestion_is_accepted(|text| endpoint(text, insecure, GRPC_ENDPOINT), &text);
            }
        }

        /// A secret in each place of a URL that can hold one, well-formed or not, with any other characters around
        /// it.
        #[test]
        fn urls_are_shown_without_secrets(
            scheme in "(http|https|tcp|ssh|unix|)",
            separator in "(://|:/|:|//|)",
            before in "[!-~]{0,3}",
            after in "[!-~]{0,3}",
            form in prop::sample::select(vec![
                "u:SECRET@h", "u:SECRET@h:99999/x", "u:SECRET@", "SECRET@h", "SECRET:@h", "h/?key=SECRET", "h?SECRET",
                "h:4317/v1?a=b&key=SECRET#x", "h/#SECRET", "u:SECRET@[::1", "u:x@y:SECRET@h", "@SECRET@", "u:@SECRET@h:1",
            ]),
        ) {
            const SECRET: &str = "S3cr3t";
            let text = format!("{scheme}{separator}{}", form.replace("SECRET", &format!("{before}{SECRET}{after}")));
            let told = |result: Result<String, Invalid>| result.err().map(|invalid| format!("{invalid:?}"));
            let messages = [
                told(docker_host(&text)),
                told(endpoint(&text, None, GRPC_ENDPOINT).map(String::from)),
                told(endpoint(&text, Some(true), GRPC_ENDPOINT).map(String::from)),
                Some(shown_url(&text)),
            ];
            for message in messages.iter().flatten() {
                prop_assert!(!message.contains(SECRET), "{} shows in {}", text, message);
            }
        }

        /// Decoding restores what was encoded, and a bare percent sign is never accepted.
        #[test]
        fn pairs_are_percent_encoded(
            pairs in prop::collection::vec(("[a-z][a-zA-Z0-9._ %,=é]{0,5}", any::<String>()), 0..5),
            bare in "%([g-zG-Z][0-9a-f]|[0-9a-f][g-z]|[0-9a-f]?)",
        ) {
            let encode = |text: &str| {
                percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
            };
            let encoded: Vec<String> =
                pairs.iter().map(|(key, value)| format!("{}={}", encode(key), encode(value))).collect();
            let text = encoded.join(",");
            prop_assert_eq!(attributes(&text), Ok(pairs));
            let (first, last) = (format!("a={bare},b=c"), format!("{text},a={bare}"));
            prop_assert!(attributes(&last).is_err());
            prop_assert!(headers(&first).is_err());
        }
    }
}
