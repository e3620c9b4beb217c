//! One panel of eight matrix rows times some rows of int8: a lane for each matrix row. Closures are compiled without the
//! instruction set of who calls them, so there are none.

use super::super::simd::Simd;
use super::rows::Group;
use crate::graph::panels::{PANEL_ROWS, PanelLayout};

/// How a panel's codes are stored, and what of their products fits into 16 bits.
pub(super) trait Codes {
    /// Codes in a byte.
    const IN_A_BYTE: usize = 1;

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

    /// Of each matrix row the sum of codes, as they are stored, times the row's.
    fn dot<S: Simd, const V: usize>(simd: S, codes: &[S::Bytes; V], row: &Group<V>) -> S::Vector;

    /// The same of what the codes stand for, where there are no minimums.
    #[inline(always)]
    fn centred<S: Simd, const V: usize>(
        simd: S,
        codes: &[S::Bytes; V],
        row: &Group<V>,
    ) -> S::Vector {
        let zeros = simd.splat(row.correction);
        simd.subtract(Self::dot(simd, codes, row), zeros)
    }
}

/// Codes from 0 to 15, two in a byte: the low ones are those of a group's first half.
pub(super) struct Nibbles;

/// Codes from 0 to 63.
pub(super) struct SixBits;

/// Codes from 0 to 255. There are none with minimums.
pub(super) struct EightBits;

impl Codes for Nibbles {
    const IN_A_BYTE: usize = 2;

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
        simd.dot_unsigned::<V, 8>(codes, &row.codes)
    }
}

impl Codes for SixBits {
    #[inline(always)]
    fn dot<S: Simd, const V: usize>(simd: S, codes: &[S::Bytes; V], row: &Group<V>) -> S::Vector {
        // 2 · 63 · 127 · 2 < 2¹⁵
        simd.dot_unsigned::<V, 2>(codes, &row.codes)
    }
}

impl Codes for EightBits {
    #[inline(always)]
    fn dot<S: Simd, const V: usize>(simd: S, codes: &[S::Bytes; V], row: &Group<V>) -> S::Vector {
        let zeros = simd.splat(row.correction);
        simd.add(Self::centred(simd, codes, row), zeros)
    }

    #[inline(always)]
    fn centred<S: Simd, const V: usize>(
        simd: S,
        codes: &[S::Bytes; V],
        row: &Group<V>,
    ) -> S::Vector {
        simd.dot_bytes(codes, &row.codes, row.correction)
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
        let minimums = match layout.minimum {
            true => Some(load_numbers(simd, rest, layout.half).0),
            false => None,
        };
        for (sum, row) in sums.iter_mut().zip(group) {
            let scale = simd.multiply(scales, simd.splat(row.scale));
            *sum = match minimums {
                None => simd.multiply_add(C::centred(simd, &codes, row), scale, *sum),
                Some(minimums) => {
                    let sum = simd.multiply_add(C::dot(simd, &codes, row), scale, *sum);
                    simd.multiply_add(minimums, simd.splat(row.correction), sum)
                }
            };
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
