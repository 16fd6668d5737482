//! The fields of OTLP's messages, whose numbers are below 16: a tag takes one byte.
//!
//! prost writes them too, but its loops over the bytes of tags and lengths took a fifth of the time of an export.

use prost::encoding::{encode_varint, encoded_len_varint};

// By the message that they are in: a request, a resource's metrics, a scope's, a metric, its data, a number's point.
pub(super) const RESOURCE_METRICS: u8 = 1;
pub(super) const SCOPE_METRICS: u8 = 2;
pub(super) const METRICS: u8 = 2;
pub(super) const GAUGE: u8 = 5;
pub(super) const SUM: u8 = 7;
pub(super) const HISTOGRAM: u8 = 9;
pub(super) const EXPONENTIAL_HISTOGRAM: u8 = 10;
pub(super) const DATA_POINTS: u8 = 1;
pub(super) const START: u8 = 2;
pub(super) const TIME: u8 = 3;
pub(super) const AS_DOUBLE: u8 = 4;
pub(super) const AS_INT: u8 = 6;
pub(super) const ATTRIBUTES: u8 = 7;

const EIGHT_BYTES: u8 = 1;
const LENGTH: u8 = 2;
/// Lengths below this take one byte.
const SHORT: usize = 0x80;

/// A field that holds a message or a string of this length, without what it holds.
#[inline]
pub(super) fn begin(number: u8, length: usize, bytes: &mut Vec<u8>) {
    if length < SHORT {
        bytes.extend_from_slice(&[number << 3 | LENGTH, length as u8]);
    } else {
        bytes.push(number << 3 | LENGTH);
        encode_varint(length as u64, bytes);
    }
}

/// The length of a field that holds a message or a string of this length.
#[inline]
pub(super) fn field(length: usize) -> usize {
    1 + if length < SHORT { 1 } else { encoded_len_varint(length as u64) } + length
}

/// A field of eight bytes.
#[inline]
pub(super) fn eight(number: u8, value: [u8; 8], bytes: &mut Vec<u8>) {
    let [a, b, c, d, e, f, g, h] = value;
    bytes.extend_from_slice(&[number << 3 | EIGHT_BYTES, a, b, c, d, e, f, g, h]);
}

#[cfg(test)]
mod tests {
    use prost::encoding::{WireType, encode_key};

    use super::*;

    #[test]
    fn fields_are_as_prost_writes_them() {
        for length in [0, 1, 127, 128, 300, 20_000] {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            begin(7, length, &mut ours);
            encode_key(7, WireType::LengthDelimited, &mut theirs);
            encode_varint(length as u64, &mut theirs);
            assert_eq!(ours, theirs);
            assert_eq!(field(length), theirs.len() + length);
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        eight(4, 7u64.to_le_bytes(), &mut ours);
        prost::encoding::fixed64::encode(4, &7, &mut theirs);
        assert_eq!(ours, theirs);
    }
}
