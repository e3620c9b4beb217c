//! Multiplies rows of int8 activations by one panel, which holds eight matrix rows, one for each SIMD lane. This module
//! avoids closures, which would be compiled without the instruction set of the calling function.

use super::super::simd::Simd;
use super::activations::QuantizedGroup;
use crate::graph::panels::{PANEL_ROWS, PanelLayout};

/// The storage format of a panel's quants.
pub(super) trait PanelFormat {
    /// Number of quants in a byte.
    const QUANTS_PER_BYTE: usize = 1;

    /// Whether each group has a min instead of a fixed zero point.
    const HAS_MINS: bool = false;

    /// Unpacks a group of columns. Each vector has the quants of four columns for all eight matrix rows.
    #[inline(always)]
    fn unpack<S: Simd, const V: usize>(simd: S, bytes: &[u8]) -> [S::Bytes; V] {
        let stored = bytes.as_chunks().0;
        let mut quants = [simd.load_bytes(&stored[0]); V];
        for (quants, stored) in quants.iter_mut().zip(stored) {
            *quants = simd.load_bytes(stored);
        }
        quants
    }

    /// Returns the dot products of the activation quants with the quants of each matrix row. A fixed zero point is
    /// subtracted from the quants of the matrix.
    fn dot<S: Simd, const V: usize>(
        simd: S,
        quants: &[S::Bytes; V],
        row: &QuantizedGroup<V>,
    ) -> S::Vector;
}

/// Quants from 0 to 15, two in a byte. The low nibbles hold the first half of the group.
pub(super) struct Nibbles<const HAS_MINS: bool>;

/// Quants from 0 to 63, one in a byte.
pub(super) struct SixBits<const HAS_MINS: bool>;

/// Quants from 0 to 255, one in a byte, with the zero point 128.
pub(super) struct EightBits;

impl<const HAS_MINS: bool> PanelFormat for Nibbles<HAS_MINS> {
    const QUANTS_PER_BYTE: usize = 2;
    const HAS_MINS: bool = HAS_MINS;

    #[inline(always)]
    fn unpack<S: Simd, const V: usize>(simd: S, bytes: &[u8]) -> [S::Bytes; V] {
        let stored = bytes.as_chunks().0;
        let mut quants = [simd.load_bytes(&stored[0]); V];
        for index in 0..V / 2 {
            let bytes = simd.load_bytes(&stored[index]);
            quants[index] = simd.low_nibbles(bytes);
            quants[index + V / 2] = simd.high_nibbles(bytes);
        }
        quants
    }

    #[inline(always)]
    fn dot<S: Simd, const V: usize>(
        simd: S,
        quants: &[S::Bytes; V],
        row: &QuantizedGroup<V>,
    ) -> S::Vector {
        // The products of eight vectors may be added in 16 bits: 2 · 15 · 127 · 8 < 2¹⁵.
        let dot = simd.dot_unsigned::<V, 8>(quants, &row.quants);
        subtract_zero_point::<S, HAS_MINS>(simd, dot, row.correction)
    }
}

impl<const HAS_MINS: bool> PanelFormat for SixBits<HAS_MINS> {
    const HAS_MINS: bool = HAS_MINS;

    #[inline(always)]
    fn dot<S: Simd, const V: usize>(
        simd: S,
        quants: &[S::Bytes; V],
        row: &QuantizedGroup<V>,
    ) -> S::Vector {
        // The products of two vectors may be added in 16 bits: 2 · 63 · 127 · 2 < 2¹⁵.
        let dot = simd.dot_unsigned::<V, 2>(quants, &row.quants);
        subtract_zero_point::<S, HAS_MINS>(simd, dot, row.correction)
    }
}

impl PanelFormat for EightBits {
    #[inline(always)]
    fn dot<S: Simd, const V: usize>(
        simd: S,
        quants: &[S::Bytes; V],
        row: &QuantizedGroup<V>,
    ) -> S::Vector {
        simd.dot_bytes(quants, &row.quants, row.correction)
    }
}

/// Corrects dot products of stored quants for a fixed zero point. If the format has mins, [`multiply`] adds them.
#[inline(always)]
fn subtract_zero_point<S: Simd, const HAS_MINS: bool>(
    simd: S,
    dot: S::Vector,
    correction: f32,
) -> S::Vector {
    match HAS_MINS {
        true => dot,
        false => simd.subtract(dot, simd.splat(correction)),
    }
}

/// Multiplies `R` activation rows by the panel's eight rows. `groups` is `[groups][R]`. Returns a vector of eight
/// outputs for each activation row.
#[inline(always)]
pub(super) fn multiply<S: Simd, F: PanelFormat, const V: usize, const R: usize>(
    simd: S,
    panel: &[u8],
    groups: &[[QuantizedGroup<V>; R]],
    layout: PanelLayout,
) -> [S::Vector; R] {
    let mut sums = [simd.splat(0.0); R];
    let records = panel.chunks_exact(layout.record_bytes());
    for (record, group) in records.zip(groups) {
        let (quants, parameters) = record.split_at(4 * V * PANEL_ROWS / F::QUANTS_PER_BYTE);
        let quants: [S::Bytes; V] = F::unpack(simd, quants);
        let (scales, rest) = load_parameters(simd, parameters, layout.half_precision);
        let mins = match F::HAS_MINS {
            true => Some(load_parameters(simd, rest, layout.half_precision).0),
            false => None,
        };
        for (sum, row) in sums.iter_mut().zip(group) {
            let scale = simd.multiply(scales, simd.splat(row.scale));
            *sum = simd.multiply_add(F::dot(simd, &quants, row), scale, *sum);
            if let Some(mins) = mins {
                *sum = simd.multiply_add(mins, simd.splat(row.correction), *sum);
            }
        }
    }
    sums
}

/// Loads eight scales or mins, one for each row of the panel. Returns the loaded vector and the remaining bytes.
#[inline(always)]
fn load_parameters<S: Simd>(simd: S, bytes: &[u8], half_precision: bool) -> (S::Vector, &[u8]) {
    const COMPLETE: &str = "a record ends with eight scales and eight mins if it has any";
    match half_precision {
        true => {
            let (values, rest) = bytes.split_first_chunk().expect(COMPLETE);
            (simd.load_f16_bytes(values), rest)
        }
        false => {
            let (values, rest) = bytes.split_first_chunk().expect(COMPLETE);
            (simd.load_f32_bytes(values), rest)
        }
    }
}
