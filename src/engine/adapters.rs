//! The adapter scales of a sequence. The runner owns the adapters; scales refer to them by index.

use std::sync::Arc;

/// The nonzero adapter scales of a sequence, sorted by adapter index, so that equal selections compare equal.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdapterScales(Arc<[(usize, f32)]>);

impl AdapterScales {
    /// Creates the scales from pairs of adapter index and scale in any order. If an index repeats, the last pair
    /// counts.
    pub fn new(scales: impl IntoIterator<Item = (usize, f32)>) -> Self {
        let scales: std::collections::BTreeMap<usize, f32> = scales.into_iter().collect();
        Self(
            scales
                .into_iter()
                .filter(|(_, scale)| *scale != 0.0)
                .collect(),
        )
    }

    /// Iterates over pairs of adapter index and nonzero scale, by ascending index.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (usize, f32)> {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_and_scales_of_0_do_not_matter() {
        let scales = AdapterScales::new([(3, 0.5), (0, 0.0), (1, -2.0)]);
        assert_eq!(scales, AdapterScales::new([(1, -2.0), (3, 0.5)]));
        assert_eq!(AdapterScales::new([(2, 0.0)]), AdapterScales::default());
        assert!(scales.iter().eq([(1, -2.0), (3, 0.5)]));
    }
}
