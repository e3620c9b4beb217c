//! How strong a sequence wants each adapter of the model. What an adapter is, the runner knows.

use std::sync::Arc;

/// The scales that are not 0, by the adapters' numbers: equal wishes are equal values.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdapterScales(Arc<[(usize, f32)]>);

impl AdapterScales {
    /// Those of a list, in any order; of a number that stands twice the last counts.
    pub fn new(scales: impl IntoIterator<Item = (usize, f32)>) -> Self {
        let scales: std::collections::BTreeMap<usize, f32> = scales.into_iter().collect();
        Self(
            scales
                .into_iter()
                .filter(|(_, scale)| *scale != 0.0)
                .collect(),
        )
    }

    /// Each with its adapter's number, in the order of these.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (usize, f32)> {
        self.0.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_wishes_are_equal() {
        let scales = AdapterScales::new([(3, 0.5), (0, 0.0), (1, -2.0)]);
        assert_eq!(scales, AdapterScales::new([(1, -2.0), (3, 0.5)]));
        assert_eq!(AdapterScales::new([(2, 0.0)]), AdapterScales::default());
        assert!(scales.iter().eq([(1, -2.0), (3, 0.5)]));
    }
}
