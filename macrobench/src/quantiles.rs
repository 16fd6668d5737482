//! Quantiles of measurements.

/// Measurements in milliseconds, sorted.
pub(crate) struct Quantiles(Vec<f64>);

impl Quantiles {
    pub(crate) fn new(measured: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = measured.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        Self(sorted)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The quantile `q`: the smallest measurement that a part `q` of all does not exceed (nearest rank); NaN without
    /// any.
    pub(crate) fn at(&self, q: f64) -> f64 {
        let rank = (q * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_the_nearest_rank() {
        let hundred = Quantiles::new((1..=100).rev().map(f64::from));
        assert_eq!([0.0, 0.5, 0.99, 1.0].map(|q| hundred.at(q)), [1.0, 50.0, 99.0, 100.0]);
        assert_eq!(Quantiles::new([7.0]).at(0.99), 7.0);
        assert!(Quantiles::new([]).at(0.5).is_nan());
    }
}
