//! RMS norm of one row (Zhang and Sennrich, 2019, <https://arxiv.org/abs/1910.07467>), as some families norm each head's
//! queries and keys (Henry et al., 2020, <https://arxiv.org/abs/2010.04245>).

use super::simd::{LANES, Simd};

/// The norm of a row: divided by the root of its mean square, times a gain for each element.
#[derive(Debug, Clone, Copy)]
pub struct RowNorm<'a> {
    /// `[head_size]`
    pub gain: &'a [f32],
    /// Added to the mean square.
    pub epsilon: f32,
}

/// The norms of a head's queries and keys.
#[derive(Debug, Clone, Copy)]
pub struct QueryKeyNorms<'a> {
    /// `q_norm_weight`
    pub query: RowNorm<'a>,
    /// `k_norm_weight`
    pub key: RowNorm<'a>,
}

impl RowNorm<'_> {
    /// Norms `row`, `[head_size]`, a multiple of [`LANES`].
    #[inline(always)]
    pub(super) fn apply(&self, row: &mut [f32]) {
        let mut squares = [0.0; LANES];
        for group in row.as_chunks::<LANES>().0 {
            for (square, element) in squares.iter_mut().zip(group) {
                *square += element * element;
            }
        }
        let mean = squares.iter().sum::<f32>() / row.len() as f32;
        let share = 1.0 / (mean + self.epsilon).sqrt();
        for (element, gain) in row.iter_mut().zip(self.gain) {
            *element *= share * gain;
        }
    }

    /// What the values of `row`, a multiple of [`LANES`], are multiplied with beside their gains.
    #[inline(always)]
    pub(super) fn scale<S: Simd>(&self, simd: S, row: &[f32]) -> f32 {
        let mut squares = [simd.splat(0.0); 2];
        let groups = row.as_chunks::<LANES>().0;
        for (place, group) in groups.iter().enumerate() {
            let values = simd.load(group);
            let sum = &mut squares[place % 2];
            *sum = simd.multiply_add(values, values, *sum);
        }
        let mut lanes = [0.0; LANES];
        simd.store(simd.add(squares[0], squares[1]), &mut lanes);
        let mean = lanes.iter().sum::<f32>() / row.len() as f32;
        1.0 / (mean + self.epsilon).sqrt()
    }
}
