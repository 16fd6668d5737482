//! Parses numbers, times and ids in the various forms that engines and proxies write.

use jiff::civil::{DateTime, Time, date};
use jiff::fmt::temporal::Pieces;
use serde_json::value::RawValue;

use super::fields::{Oddities, Oddity, present};

/// Replaces an unreadable number or time.
const UNREADABLE: i64 = -1;

/// A whole number; 0 if it is missing, -1 if it cannot be read.
pub(super) fn number(raw: Option<&RawValue>, what: &str, odd: &mut Oddities) -> i64 {
    whole_number(raw, what, odd).unwrap_or(if present(raw).is_some() { UNREADABLE } else { 0 })
}

/// A whole number, if present: `137`, `1.37e+02`, `"137"`.
pub(super) fn whole_number<T: TryFrom<i128>>(
    raw: Option<&RawValue>,
    what: &str,
    odd: &mut Oddities,
) -> Option<T> {
    let raw = present(raw)?;
    let number = parse_whole(&unquoted(raw)).and_then(|number| T::try_from(number).ok());
    if number.is_none() {
        odd.push(Oddity::new(what, raw.get()));
    }
    number
}

/// A boolean: `true`, `"true"`, `1`. False if it is missing.
pub(super) fn flag(raw: Option<&RawValue>, what: &str, odd: &mut Oddities) -> bool {
    let Some(raw) = present(raw) else { return false };
    match &*unquoted(raw).to_ascii_lowercase() {
        "true" | "1" => true,
        "false" | "0" => false,
        _ => {
            odd.push(Oddity::new(what, raw.get()));
            false
        }
    }
}

/// A time in whole seconds since 1970, rounded down; 0 for what has never happened, -1 where it cannot be read.
pub(super) fn time(raw: Option<&RawValue>, what: &str, odd: &mut Oddities) -> i64 {
    let Some(raw) = present(raw) else { return 0 };
    let written = unquoted(raw);
    // Podman writes an empty time for what has not happened.
    if written.is_empty() {
        return 0;
    }
    match parse_time(&written) {
        // Engines write the year 1, in some time zone, for never. No container is older than Unix.
        Some(seconds) => seconds.max(0),
        None => {
            odd.push(Oddity::new(what, &written));
            UNREADABLE
        }
    }
}

/// A value as text, without the quotes that it may have.
pub(super) fn unquoted(raw: &RawValue) -> String {
    serde_json::from_str::<String>(raw.get()).unwrap_or_else(|_| raw.get().to_owned()).trim().to_owned()
}

/// A date and a time, or a number of seconds since 1970.
fn parse_time(written: &str) -> Option<i64> {
    if let Ok(pieces) = Pieces::parse(written) {
        // jiff's `Timestamp` ends before the year 9999 does, and has to have an offset.
        let local = DateTime::from_parts(pieces.date(), pieces.time().unwrap_or(Time::midnight()));
        let offset = pieces.to_numeric_offset().map_or(0, |offset| i64::from(offset.seconds()));
        let since_1970 = local.duration_since(date(1970, 1, 1).at(0, 0, 0, 0));
        // Rounded down, also before 1970, as the existing exporter's Unix() does.
        let seconds = since_1970.as_secs() - i64::from(since_1970.subsec_nanos() < 0);
        return Some(seconds - offset);
    }
    let (seconds, _) = parse_decimal(written)?;
    i64::try_from(seconds).ok()
}

fn parse_whole(written: &str) -> Option<i128> {
    let (number, is_whole) = parse_decimal(written)?;
    is_whole.then_some(number)
}

/// A decimal number, rounded towards zero, and whether that was exact. Uses no float: a time in nanoseconds has too
/// many digits for one.
fn parse_decimal(written: &str) -> Option<(i128, bool)> {
    const MOST_DIGITS: i64 = 30;
    let (negative, unsigned) = match written.strip_prefix('-') {
        Some(unsigned) => (true, unsigned),
        None => (false, written),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (unsigned, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = [whole, fraction].concat();
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // Where the point is, counted from the left.
    let point = i64::try_from(whole.len()).ok()? + i64::from(exponent);
    let kept = usize::try_from(point).unwrap_or(0).min(digits.len());
    let (kept, lost) = digits.split_at(kept);
    let zeros = point - i64::try_from(digits.len()).ok()?;
    let kept = kept.trim_start_matches('0');
    let mut number = 0;
    if !kept.is_empty() {
        if i64::try_from(kept.len()).ok()? + zeros.max(0) > MOST_DIGITS {
            return None;
        }
        number = kept.parse::<i128>().ok()? * 10_i128.pow(u32::try_from(zeros.max(0)).ok()?);
    }
    Some((if negative { -number } else { number }, lost.bytes().all(|digit| digit == b'0')))
}

/// Whether this can be a container's id, and so a part of a path.
pub(super) fn is_id(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// Whether this is the whole of a container's id, and not the beginning of one or a name.
pub(super) fn is_whole_id(id: &str) -> bool {
    const DIGITS: usize = 64;
    id.len() == DIGITS && id.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Whether this can refer to a container: by its id, the beginning of its id, or its name. It is a single path segment.
pub(super) fn is_id_or_name(said: &str) -> bool {
    let rest = said.trim_start_matches(|c: char| c.is_ascii_alphanumeric());
    rest.len() < said.len() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with<T>(json: &str, read: impl Fn(Option<&RawValue>, &str, &mut Oddities) -> T) -> (T, usize) {
        let raw: Box<RawValue> = serde_json::from_str(json).unwrap();
        let mut odd = Oddities::default();
        (read(Some(&raw), "x", &mut odd), odd.count())
    }

    #[test]
    fn a_number_is_one_in_any_form() {
        for (json, value) in [
            ("137", 137),
            ("1.37e+02", 137),
            ("1.37E2", 137),
            ("13700e-2", 137),
            ("137.000", 137),
            ("\"137\"", 137),
            ("\" 1.37e+02 \"", 137),
            ("-1", -1),
            ("-1.0e0", -1),
            ("0e999999999", 0),
            ("0.0", 0),
            ("-0", 0),
            ("4294967295", 4_294_967_295),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("1795245113030188422", 1_795_245_113_030_188_422),
            ("1.795245113030188422e18", 1_795_245_113_030_188_422),
            ("null", 0),
        ] {
            assert_eq!(with(json, number), (value, 0), "{json}");
        }
        for json in [
            "1.5",
            "1e-1",
            "9223372036854775808",
            "1e19",
            "1e999999999",
            "1e99999999999999999999",
            "\"\"",
            "\"many\"",
            "\"1,5\"",
            "\"0x10\"",
            "\"+-1\"",
            "\"1e\"",
            "\".\"",
            "true",
            "{}",
            "[1]",
        ] {
            assert_eq!(with(json, number), (-1, 1), "{json}");
        }
    }

    #[test]
    fn a_number_is_of_the_type_that_is_asked_for() {
        assert_eq!(with("-1", whole_number::<u64>), (None, 1));
        assert_eq!(with("18446744073709551615", whole_number::<u64>), (Some(u64::MAX), 0));
    }

    #[test]
    fn a_flag_is_one_in_any_form() {
        for (json, value) in [("true", true), ("\"true\"", true), ("\"True\"", true), ("1", true)] {
            assert_eq!(with(json, flag), (value, 0), "{json}");
        }
        for json in ["false", "\"false\"", "0", "null"] {
            assert_eq!(with(json, flag), (false, 0), "{json}");
        }
        for json in ["\"no\"", "{}", "2"] {
            assert_eq!(with(json, flag), (false, 1), "{json}");
        }
    }

    #[test]
    fn a_time_is_whole_seconds_in_any_form() {
        for (written, seconds) in [
            ("2026-11-21T07:11:53Z", 1_795_245_113),
            ("2026-11-21T07:11:53.9Z", 1_795_245_113),
            ("2026-11-21T07:11:53.030188422Z", 1_795_245_113),
            ("2026-11-21T09:11:53.1+02:00", 1_795_245_113),
            ("2026-11-21T09:11:53+0200", 1_795_245_113),
            ("2026-11-21T00:11:53-07:00", 1_795_245_113),
            ("2026-11-21t07:11:53z", 1_795_245_113),
            ("2026-11-21 07:11:53Z", 1_795_245_113),
            ("2026-11-21T07:11:53", 1_795_245_113),
            // The leap second at the end of 2016 counts as the second before it.
            ("2016-12-31T23:59:60Z", 1_483_228_799),
            ("2017-01-01T01:29:60+01:30", 1_483_228_799),
            ("1970-01-01T00:00:00Z", 0),
            ("9999-12-31T23:59:59.999999999Z", 253_402_300_799),
            ("9999-12-31T23:59:59-23:59", 253_402_387_139),
        ] {
            assert_eq!(with(&format!("\"{written}\""), time), (seconds, 0), "{written}");
        }
        for (json, seconds) in [
            ("1795245113", 1_795_245_113),
            ("1.795245113e9", 1_795_245_113),
            ("\"1795245113.9\"", 1_795_245_113),
        ] {
            assert_eq!(with(json, time), (seconds, 0), "{json}");
        }
    }

    #[test]
    fn what_was_before_1970_never_was() {
        for written in [
            "0001-01-01T00:00:00Z",
            "0000-12-31T19:03:58-04:56",
            "0001-01-01T08:05:43+08:05",
            "0001-01-01T00:00:00.999Z",
            "0001-01-01T00:00:01Z",
            "-000001-12-31T23:59:59Z",
            "1969-12-31T23:59:59.5Z",
            "1970-01-01T00:59:59+01:00",
            "",
        ] {
            assert_eq!(with(&format!("\"{written}\""), time), (0, 0), "{written}");
        }
        for json in ["null", "0", "-62135596800", "\"-1\""] {
            assert_eq!(with(json, time), (0, 0), "{json}");
        }
    }

    #[test]
    fn what_is_no_time_is_said_so() {
        for json in [
            "\"yesterday\"",
            "\"2026-13-01T00:00:00Z\"",
            "\"2026-11-21T25:00:00Z\"",
            "\"10000-01-01T00:00:00Z\"",
            "\"1e400\"",
            "true",
            "{}",
        ] {
            assert_eq!(with(json, time), (-1, 1), "{json}");
        }
    }
}
