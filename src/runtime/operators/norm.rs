//! RMS normalization of one row (Zhang and Sennrich, 2019, <https://arxiv.org/abs/1910.07467>). Some model families
//! apply this norm to the queries and keys of each head (Henry et al., 2020, <https://arxiv.org/abs/2010.04245>).

use super::simd::{LANES, Simd};

/// Parameters of an RMS norm: `x / sqrt(mean(x²) + epsilon) · gain`.
#[derive(Debug, Clone, Copy)]
pub struct RowNorm<'a> {
    /// Weight of each element of the row.
    pub gain: &'a [f32],
    /// Added to the mean square before taking the square root.
    pub epsilon: f32,
}

/// The norms of queries and keys, applied to each head separately.
#[derive(Debug, Clone, Copy)]
pub struct QueryKeyNorms<'a> {
    /// Norm of queries; the gain is the input `q_norm_weight`.
    pub query: RowNorm<'a>,
    /// Norm of keys; the gain is the input `k_norm_weight`.
    pub key: RowNorm<'a>,
}

impl RowNorm<'_> {
    /// Normalizes `row` in place; its length is a multiple of [`LANES`].
    #[inline(always)]
    pub(super) fn apply(&self, row: &mut [f32]) {
        let mut squares = [0.0; LANES];
        for group in row.as_chunks::<LANES>().0 {
            for (square, element) in squares.iter_mut().zip(group) {
                *square += element * element;
            }
        }
        let mean = squares.iter().sum::<f32>() / row.len() as f32;
        let inverse_rms = 1.0 / (mean + self.epsilon).sqrt();
        for (element, gain) in row.iter_mut().zip(self.gain) {
            *element *= inverse_rms * gain;
        }
    }

    /// Returns `1 / sqrt(mean(row²) + epsilon)`. The length of `row` is a multiple of [`LANES`].
    #[inline(always)]
    pub(super) fn inverse_rms<S: Simd>(&self, simd: S, row: &[f32]) -> f32 {
        let mut squares = [simd.splat(0.0); 2];
        let groups = row.as_chunks::<LANES>().0;
        for (index, group) in groups.iter().enumerate() {
            let values = simd.load(group);
            let sum = &mut squares[index % 2];
            *sum = simd.multiply_add(values, values, *sum);
        }
        let mut lanes = [0.0; LANES];
        simd.store(simd.add(squares[0], squares[1]), &mut lanes);
        let mean = lanes.iter().sum::<f32>() / row.len() as f32;
        1.0 / (mean + self.epsilon).sqrt()
    }
}
