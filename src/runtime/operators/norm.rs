//! RMS norm of one row (Zhang and Sennrich, 2019, <https://arxiv.org/abs/1910.07467>), as some families norm each head's
//! queries and keys (Henry et al., 2020, <https://arxiv.org/abs/2010.04245>).

use super::simd::LANES;

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
}
