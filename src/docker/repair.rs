//! Repairs almost valid JSON: one invalid byte in an answer must cost only the string or number that it is in.
//!
//! Invalid UTF-8 and invalid escapes become U+FFFD, control characters are escaped, and a word that is neither a number
//! nor `true`, `false` or `null` becomes a string. Braces, brackets, commas and colons are never repaired: an answer
//! with errors in those is invalid as a whole.

use serde_json::Value;

/// The answer without its invalid bytes; `None` if there are none or it cannot be repaired.
pub(super) fn repaired(json: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(json.len() + 16);
    let mut rest = json;
    // The last byte that was neither blank nor skipped.
    let mut last = b':';
    while let Some((&first, after)) = rest.split_first() {
        match first {
            b'"' => {
                out.push(b'"');
                rest = string(after, &mut out)?;
                last = b'"';
            }
            b'{' | b'}' | b'[' | b']' | b',' | b':' => {
                out.push(first);
                rest = after;
                last = first;
            }
            _ if first.is_ascii_whitespace() => {
                out.push(first);
                rest = after;
            }
            _ => {
                let end = rest.iter().position(|byte| ends_word(*byte)).unwrap_or(rest.len());
                let (word, after) = rest.split_at(end);
                let next = after.trim_ascii_start().first();
                if serde_json::from_slice::<Value>(word).is_ok() {
                    out.extend_from_slice(word);
                    last = b'0';
                } else if matches!(last, b':' | b',' | b'[') && matches!(next, Some(b',' | b'}' | b']')) {
                    out.extend_from_slice(Value::from(String::from_utf8_lossy(word)).to_string().as_bytes());
                    last = b'"';
                }
                rest = after;
            }
        }
    }
    (out != json).then_some(out)
}

fn ends_word(byte: u8) -> bool {
    byte.is_ascii_whitespace() || matches!(byte, b'"' | b'{' | b'}' | b'[' | b']' | b',' | b':')
}

/// Copies a string after its first quote, and returns what follows its last one.
fn string<'a>(mut rest: &'a [u8], out: &mut Vec<u8>) -> Option<&'a [u8]> {
    loop {
        let plain = rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\')?;
        for chunk in rest[..plain].utf8_chunks() {
            out.extend_from_slice(chunk.valid().as_bytes());
            if !chunk.invalid().is_empty() {
                replacement(out);
            }
        }
        rest = &rest[plain..];
        let (&byte, after) = rest.split_first()?;
        match byte {
            b'"' => {
                out.push(b'"');
                return Some(after);
            }
            b'\\' => match escape_length(rest) {
                Some(length) => {
                    out.extend_from_slice(&rest[..length]);
                    rest = &rest[length..];
                }
                None => {
                    replacement(out);
                    // A lone surrogate is replaced completely; of any other invalid escape only the backslash is.
                    rest = if code_unit(rest).is_some() { &rest[6..] } else { after };
                }
            },
            control => {
                out.extend_from_slice(format!("\\u{control:04x}").as_bytes());
                rest = after;
            }
        }
    }
}

fn replacement(out: &mut Vec<u8>) {
    out.extend_from_slice("\u{fffd}".as_bytes());
}

/// The length of the escape that `text` begins with, if it is valid.
fn escape_length(text: &[u8]) -> Option<usize> {
    match text.get(1)? {
        b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Some(2),
        _ => match code_unit(text)? {
            0xd800..=0xdbff => matches!(code_unit(&text[6..])?, 0xdc00..=0xdfff).then_some(12),
            0xdc00..=0xdfff => None,
            _ => Some(6),
        },
    }
}

/// The UTF-16 code unit of the `\u` escape that `text` begins with.
fn code_unit(text: &[u8]) -> Option<u16> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    if !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(json: &[u8]) -> Option<String> {
        repaired(json).map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn what_is_json_stays_as_it_is() {
        for json in [
            "",
            "{}",
            r#"{"a":[1,-2.5e+3,true,false,null,"ä\u00e4\"\\\/\ud83d\ude00"], "b" : {} }"#,
            "[\n]\n",
            "7",
        ] {
            assert_eq!(of(json.as_bytes()), None, "{json}");
        }
    }

    #[test]
    fn a_wrong_byte_costs_the_text_that_it_is_in() {
        for (wrong, right) in [
            (&b"\"a\xffb\""[..], "\"a\u{fffd}b\""),
            // Overlong, a surrogate, a character that is cut off.
            (b"\"\xc0\xaf\"", "\"\u{fffd}\u{fffd}\""),
            (b"\"\xed\xa0\x80\"", "\"\u{fffd}\u{fffd}\u{fffd}\""),
            (b"\"\xe2\x82\"", "\"\u{fffd}\""),
            (b"\"a\0b\nc\td\"", r#""a\u0000b\u000ac\u0009d""#),
            (br#""\ud800""#, "\"\u{fffd}\""),
            (br#""\udc00\ud800x""#, "\"\u{fffd}\u{fffd}x\""),
            (br#""\ud800\ud83d\ude00""#, "\"\u{fffd}\\ud83d\\ude00\""),
            (br#""\x41\u12""#, "\"\u{fffd}x41\u{fffd}u12\""),
            (b"{\"a\":NaN,\"b\":0\xff}", "{\"a\":\"NaN\",\"b\":\"0\u{fffd}\"}"),
            (b"{\"a\":01}", r#"{"a":"01"}"#),
            (b"\xef\xbb\xbf{}", "{}"),
            (b"{}\0", "{}"),
            (b"{\xff\"a\":1}", r#"{"a":1}"#),
        ] {
            assert_eq!(of(wrong).as_deref(), Some(right), "{:?}", String::from_utf8_lossy(wrong));
            assert!(serde_json::from_str::<Value>(right).is_ok(), "{right}");
        }
    }

    #[test]
    fn what_has_no_end_is_not_repaired() {
        for json in ["\"", "\"\\", "\"\\\"", "{\"a\":\"\\u", "{\"a\":\"\\ud800\\"] {
            assert_eq!(of(json.as_bytes()), None, "{json}");
        }
    }
}
