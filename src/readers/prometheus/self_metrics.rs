//! The text of the exporter's own families.
//!
//! Of some thirty, a handful says something else at each scrape. Those go as they are; what is the same as at the last
//! scrape is kept compressed. So a scrape of containers that have not changed compresses nothing.

use bytes::Bytes;
use prometheus::proto::MetricFamily;
use prometheus::{Encoder, TextEncoder};

use crate::readers::ReaderError;
use crate::readers::gzip::{Deflater, Piece};

/// More text than this is compressed, whatever it costs.
const MOST_AS_IT_IS: usize = 2048;

/// The text at the last scrape.
#[derive(Default)]
pub(super) struct SelfMetricsText {
    families: Vec<Vec<u8>>,
    steady: Part,
}

/// Some of the families.
#[derive(Debug, Clone, Default)]
pub(super) struct Part {
    pub(super) text: Bytes,
    pub(super) piece: Piece,
}

impl SelfMetricsText {
    /// What has stayed the same, and what has not.
    pub(super) fn update(
        &mut self,
        families: &[MetricFamily],
        deflater: &Deflater,
    ) -> Result<[Part; 2], ReaderError> {
        let encoded = families.iter().map(|family| {
            let mut text = Vec::new();
            TextEncoder::new().encode(std::slice::from_ref(family), &mut text).map(|()| text)
        });
        let encoded: Vec<Vec<u8>> = encoded.collect::<Result<_, _>>().map_err(ReaderError::unwritable)?;
        let (mut steady, mut other) = (Vec::new(), Vec::new());
        for (i, text) in encoded.iter().enumerate() {
            let part = if self.families.get(i) == Some(text) { &mut steady } else { &mut other };
            part.extend_from_slice(text);
        }
        self.families = encoded;
        if steady != self.steady.text {
            let piece = deflater.piece(&steady).map_err(ReaderError::unwritable)?;
            self.steady = Part { text: steady.into(), piece };
        }
        let piece = if other.len() > MOST_AS_IT_IS {
            deflater.piece(&other).map_err(ReaderError::unwritable)?
        } else {
            Piece::stored(&other)
        };
        Ok([self.steady.clone(), Part { text: other.into(), piece }])
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use prometheus::{IntGauge, Registry};

    use super::*;
    use crate::readers::gzip;

    /// The lines of all parts, as a client unpacks them; the parts themselves say the same.
    fn lines(parts: &[Part; 2]) -> Vec<String> {
        let [steady, other] = parts;
        let file = [
            &gzip::HEADER[..],
            &steady.piece.deflated,
            &other.piece.deflated,
            &gzip::trailer([&steady.piece, &other.piece]),
        ]
        .concat();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&file[..]).read_to_string(&mut text).unwrap();
        assert_eq!(text.as_bytes(), [&steady.text[..], &other.text].concat());
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines
    }

    #[test]
    fn each_scrape_says_all_of_this_moment() {
        let (registry, deflater) = (Registry::new(), Deflater::new());
        let gauges: Vec<_> = (0..200)
            .map(|number| {
                let gauge = IntGauge::new(format!("gauge_{number}"), "help").unwrap();
                registry.register(Box::new(gauge.clone())).unwrap();
                gauge
            })
            .collect();
        let mut texts = SelfMetricsText::default();
        for (round, changes) in [200, 0, 1, 0, 3, 150, 0].into_iter().enumerate() {
            gauges.iter().take(changes).for_each(|gauge| gauge.set(round as i64 + 1));
            let families = registry.gather();
            let parts = texts.update(&families, &deflater).unwrap();
            let whole = TextEncoder::new().encode_to_string(&families).unwrap();
            let mut expected: Vec<_> = whole.lines().map(str::to_owned).collect();
            expected.sort();
            assert_eq!(lines(&parts), expected);
            assert_eq!(parts[1].text.iter().filter(|b| **b == b'\n').count(), 3 * changes);
        }
        // A family less moves all that come after it.
        registry.unregister(Box::new(gauges[7].clone())).unwrap();
        let parts = texts.update(&registry.gather(), &deflater).unwrap();
        assert_eq!(lines(&parts).len(), 3 * 199);
    }
}
