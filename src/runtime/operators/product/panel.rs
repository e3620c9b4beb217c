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

    /// `sum` with what a group adds to it: `scales` times each matrix row's codes times the row's, and their minimums, if there
    /// are any, times its sum.
    fn add<S: Simd, const V: usize>(
        simd: S,
        codes: &[S::Bytes; V],
        row: &Group<V>,
        numbers: Numbers<S>,
        sum: S::Vector,
    ) -> S::Vector;
}

/// The numbers of a record.
#[derive(Clone, Copy)]
pub(super) struct Numbers<S: Simd> {
    scales: S::Vector,
    minimums: Option<S::Vector>,
}

impl<S: Simd> Numbers<S> {
    /// A group's part, of codes times those of the row as they are stored.
    #[inline(always)]
    fn add<const V: usize>(
        self,
        simd: S,
        dot: S::Vector,
        row: &Group<V>,
        sum: S::Vector,
    ) -> S::Vector {
        let scale = simd.multiply(self.scales, simd.splat(row.scale));
        let correction = simd.splat(row.correction);
        match self.minimums {
            None => simd.multiply_add(simd.subtract(dot, correction), scale, sum),
            Some(minimums) => {
                let sum = simd.multiply_add(dot, scale, sum);
                simd.multiply_add(minimums, correction, sum)
            }
        }
    }
}

/// Codes from 0 to 15, two in a byte: the low ones are those of a group's first half.
pub(super) struct Nibbles;

/// Codes from 0 to 63.
pub(super) struct SixBits;

/// Codes from 0 to 255, which have no minimums.
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
    fn add<S: Simd, const V: usize>(
        simd: S,
        codes: &[S::Bytes; V],
        row: &Group<V>,
        numbers: Numbers<S>,
        sum: S::Vector,
    ) -> S::Vector {
        // 2 · 15 · 127 · 8 < 2¹⁵
        let dot = simd.dot_unsigned::<V, 8>(codes, &row.codes);
        numbers.add(simd, dot, row, sum)
    }
}

impl Codes for SixBits {
    #[inline(always)]
    fn add<S: Simd, const V: usize>(
        simd: S,
        codes: &[S::Bytes; V],
        row: &Group<V>,
        numbers: Numbers<S>,
        sum: S::Vector,
    ) -> S::Vector {
        // 2 · 63 · 127 · 2 < 2¹⁵
        let dot = simd.dot_unsigned::<V, 2>(codes, &row.codes);
        numbers.add(simd, dot, row, sum)
    }
}

impl Codes for EightBits {
    #[inline(always)]
    fn add<S: Simd, const V: usize>(
        simd: S,
        codes: &[S::Bytes; V],
        row: &Group<V>,
        numbers: Numbers<S>,
        sum: S::Vector,
    ) -> S::Vector {
        let dot = simd.dot_bytes(codes, &row.codes, row.correction);
        let scale = simd.multiply(numbers.scales, simd.splat(row.scale));
        simd.multiply_add(dot, scale, sum)
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
        let numbers = Numbers { scales, minimums };
        for (sum, row) in sums.iter_mut().zip(group) {
            *sum = C::add(simd, &codes, row, numbers, *sum);
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
