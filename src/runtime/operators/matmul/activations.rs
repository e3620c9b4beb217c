//! Dynamic quantization of activation rows to int8, in groups that share a scale.

use super::super::norm::RowNorm;
use super::super::simd::{LANES, Simd, WithSimd};
use crate::graph::panels::{PanelLayout, ZeroPoint};

/// Number of activation rows per pass over the weights. The quantized groups of these rows are interleaved.
pub const ROWS_PER_PASS: usize = 4;

/// Largest absolute value of a quant.
const MAX_QUANT: f32 = 127.0;

/// Reusable memory for quantized activations, one buffer for each group size.
#[derive(Debug, Default)]
pub struct QuantizedActivations {
    groups_of_16: Vec<QuantizedGroup<4>>,
    groups_of_32: Vec<QuantizedGroup<8>>,
}

impl QuantizedActivations {
    pub(super) fn groups_of_16(&mut self) -> &mut Vec<QuantizedGroup<4>> {
        &mut self.groups_of_16
    }

    pub(super) fn groups_of_32(&mut self) -> &mut Vec<QuantizedGroup<8>> {
        &mut self.groups_of_32
    }
}

/// A quantized group of a row, with the values `scale · quants`. `V` is a quarter of the group size.
#[derive(Debug, Clone, Copy)]
pub(super) struct QuantizedGroup<const V: usize> {
    pub(super) scale: f32,
    /// Correction for the zero point of the weights. If weight groups have mins, the sum of this group's values;
    /// otherwise the sum of `quants` times the fixed zero point.
    pub(super) correction: f32,
    pub(super) quants: [[i8; 4]; V],
}

impl<const V: usize> Default for QuantizedGroup<V> {
    fn default() -> Self {
        Self {
            scale: 0.0,
            correction: 0.0,
            quants: [[0; 4]; V],
        }
    }
}

/// Quantizes at most [`ROWS_PER_PASS`] rows and interleaves their groups.
pub(super) struct QuantizeRows<'a, const V: usize> {
    /// `[rows, columns]`
    pub(super) x: &'a [f32],
    pub(super) columns: usize,
    pub(super) norm: Option<RowNorm<'a>>,
    pub(super) layout: PanelLayout,
    /// `[groups, rows]`
    pub(super) groups: &'a mut [QuantizedGroup<V>],
}

impl<const V: usize> WithSimd for QuantizeRows<'_, V> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.x.len() / self.columns;
        let zero_point = self.layout.quants.zero_point();
        for (row, values) in self.x.chunks_exact(self.columns).enumerate() {
            let inverse_rms = match self.norm {
                Some(norm) => simd.splat(norm.inverse_rms(simd, values)),
                None => simd.splat(1.0),
            };
            for (group_index, group) in values.chunks_exact(4 * V).enumerate() {
                let mut loaded = [simd.splat(0.0); 4];
                let loaded = &mut loaded[..V / 2];
                for (index, (loaded, lanes)) in
                    loaded.iter_mut().zip(group.as_chunks().0).enumerate()
                {
                    *loaded = simd.load(lanes);
                    if let Some(norm) = self.norm {
                        let gains = norm.gain[4 * V * group_index..].as_chunks::<LANES>().0;
                        let gain = simd.multiply(inverse_rms, simd.load(&gains[index]));
                        *loaded = simd.multiply(*loaded, gain);
                    }
                }
                self.groups[group_index * rows + row] = quantize_group(simd, loaded, zero_point);
            }
        }
    }
}

/// Quantizes one group, which consists of `V / 2` vectors.
#[inline(always)]
fn quantize_group<S: Simd, const V: usize>(
    simd: S,
    values: &[S::Vector],
    zero_point: ZeroPoint,
) -> QuantizedGroup<V> {
    let mut max = simd.splat(0.0);
    // NaN if any value is NaN or infinite, otherwise 0. Adding it to the scale makes the whole group NaN.
    let mut non_finite = simd.splat(0.0);
    for value in values {
        max = simd.max(max, simd.abs(*value));
        non_finite = simd.multiply_add(*value, simd.splat(0.0), non_finite);
    }
    let (mut max_lanes, mut non_finite_lanes) = ([0.0; LANES], [0.0; LANES]);
    simd.store(max, &mut max_lanes);
    simd.store(non_finite, &mut non_finite_lanes);
    let max = max_lanes.into_iter().fold(0.0, f32::max);
    let non_finite: f32 = non_finite_lanes.into_iter().sum();
    let factor = simd.splat(if max > 0.0 { MAX_QUANT / max } else { 0.0 });
    let mut group = QuantizedGroup::default();
    for (quants, value) in group.quants.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        let rounded = simd.round(simd.multiply(*value, factor));
        quants.as_flattened_mut().copy_from_slice(&rounded);
    }
    let ones = [simd.load_bytes(&[1; 4 * LANES]); V];
    let mut sums = [0.0; LANES];
    simd.store(simd.dot_unsigned::<V, V>(&ones, &group.quants), &mut sums);
    group.scale = max / MAX_QUANT + non_finite;
    group.correction = match zero_point {
        ZeroPoint::GroupMin => group.scale * sums[0],
        ZeroPoint::Fixed(zero) => f32::from(zero) * sums[0],
    };
    group
}
