//! One panel of eight matrix rows times some rows of int8: a lane for each matrix row. Closures are compiled without the
//! instruction set of who calls them, so there are none.

use super::super::simd::Simd;
use super::rows::Group;
use crate::graph::panels::{PANEL_ROWS, PanelLayout};

/// How a panel's codes are stored, and what of their products fits into 16 bits.
pub(super) trait Codes {
    /// Codes in a byte.
    const IN_A_BYTE: usize = 1;

    /// Whether they count from the minimums that the records have.
    const MINIMUM: bool = false;

    /// A vector for each four columns of a group: of every matrix row its four codes.
    #[inline(always)]
    fn unpack<S: Simd, const V: usize>(simd: S, bytes: &[u8]) -> [S::Bytes; V] {
        let stored = bytes.as_chunks().0;
        let mut codes = [simd.load_bytes(&stored[0]); V];
        for (codes, stored) in codes.iter_mut().zip(stored) {
            *codes = simd.load_bytes(stored);
        }
        codes
    }

    /// Of each matrix row the sum of its codes, from where they count, times the row's.
    fn dot<S: Simd, const V: usize>(simd: S, codes: &[S::Bytes; V], row: &Group<V>) -> S::Vector;
}

/// Codes from 0 to 15, two in a byte: the low ones are those of a group's first half.
pub(super) struct Nibbles<const MINIMUM: bool>;

/// Codes from 0 to 63.
pub(super) struct SixBits<const MINIMUM: bool>;

/// Codes from 0 to 255.
pub(super) struct EightBits;

impl<const MINIMUM: bool> Codes for Nibbles<MINIMUM> {
    const IN_A_BYTE: usize = 2;
    const MINIMUM: bool = MINIMUM;

    #[inline(always)]
    fn unpack<S: Simd, const V: usize>(simd: S, bytes: &[u8]) -> [S::Bytes; V] {
        let stored = bytes.as_chunks().0;
        let mut codes = [simd.load_bytes(&stored[0]); V];
        for place in 0..V / 2 {
            let both = simd.load_bytes(&stored[place]);
            codes[place] = simd.low_nibbles(both);
            codes[place + V / 2] = simd.high_nibbles(both);
        }
        codes
    }

    #[inline(always)]
    fn dot<S: Simd, const V: usize>(simd: S, codes: &[S::Bytes; V], row: &Group<V>) -> S::Vector {
        // 2 · 15 · 127 · 8 < 2¹⁵
        let stored = simd.dot_unsigned::<V, 8>(codes, &row.codes);
        counted::<S, MINIMUM>(simd, stored, row.correction)
    }
}

impl<const MINIMUM: bool> Codes for SixBits<MINIMUM> {
    const MINIMUM: bool = MINIMUM;

    #[inline(always)]
    fn dot<S: Simd, const V: usize>(simd: S, codes: &[S::Bytes; V], row: &Group<V>) -> S::Vector {
        // 2 · 63 · 127 · 2 < 2¹⁵
        let stored = simd.dot_unsigned::<V, 2>(codes, &row.codes);
        counted::<S, MINIMUM>(simd, stored, row.correction)
    }
}

impl Codes for EightBits {
    #[inline(always)]
    fn dot<S: Simd, const V: usize>(simd: S, codes: &[S::Bytes; V], row: &Group<V>) -> S::Vector {
        simd.dot_bytes(codes, &row.codes, row.correction)
    }
}

/// Sums of codes from where they count, of the sums of what is stored.
#[inline(always)]
fn counted<S: Simd, const MINIMUM: bool>(simd: S, stored: S::Vector, zeros: f32) -> S::Vector {
    match MINIMUM {
        true => stored,
        false => simd.subtract(stored, simd.splat(zeros)),
    }
}

/// The panel's rows times `R` rows of `groups`: a vector for each of these.
#[inline(always)]
pub(super) fn product<S: Simd, C: Codes, const V: usize, const R: usize>(
    simd: S,
    panel: &[u8],
    groups: &[[Group<V>; R]],
    layout: PanelLayout,
) -> [S::Vector; R] {
    let mut sums = [simd.splat(0.0); R];
    let records = panel.chunks_exact(layout.record_bytes());
    for (record, group) in records.zip(groups) {
        let (codes, numbers) = record.split_at(4 * V * PANEL_ROWS / C::IN_A_BYTE);
        let codes: [S::Bytes; V] = C::unpack(simd, codes);
        let (scales, rest) = load_numbers(simd, numbers, layout.half);
        let minimums = match C::MINIMUM {
            true => Some(load_numbers(simd, rest, layout.half).0),
            false => None,
        };
        for (sum, row) in sums.iter_mut().zip(group) {
            let scale = simd.multiply(scales, simd.splat(row.scale));
            *sum = simd.multiply_add(C::dot(simd, &codes, row), scale, *sum);
            if let Some(minimums) = minimums {
                *sum = simd.multiply_add(minimums, simd.splat(row.correction), *sum);
            }
        }
    }
    sums
}

/// Eight numbers, and the bytes behind them.
#[inline(always)]
fn load_numbers<S: Simd>(simd: S, bytes: &[u8], half: bool) -> (S::Vector, &[u8]) {
    const COMPLETE: &str = "a record ends with its numbers";
    match half {
        true => {
            let (numbers, rest) = bytes.split_first_chunk().expect(COMPLETE);
            (simd.load_f16_bytes(numbers), rest)
        }
        false => {
            let (numbers, rest) = bytes.split_first_chunk().expect(COMPLETE);
            (simd.load_f32_bytes(numbers), rest)
        }
    }
}
