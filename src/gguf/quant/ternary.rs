//! The types with blocks of 256 values of −1, 0 and 1.

use super::{Parts, half_at};

/// Values of a block.
const VALUES: usize = 256;
/// Groups whose scales are told: all have the block's.
const GROUPS: usize = VALUES / 32;

pub(super) fn tq2_0(block: &[u8], parts: &mut Parts) {
    let (quants, scale) = block.split_at(VALUES / 4);
    parts.scales[..GROUPS].fill(half_at(scale, 0));
    let halves = quants.chunks_exact(32);
    for (quants, codes) in halves.zip(parts.codes.chunks_exact_mut(128)) {
        for (quarter, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (code, byte) in codes.iter_mut().zip(quants) {
                *code = (byte >> (2 * quarter) & 3) as i8 - 1;
            }
        }
    }
}

pub(super) fn tq1_0(block: &[u8], parts: &mut Parts) {
    let (quants, scale) = block.split_at(52);
    parts.scales[..GROUPS].fill(half_at(scale, 0));
    // Five digits to the base of three in a byte, the first of 32 bytes in a row, and so on.
    let (wide, rest) = quants.split_at(32);
    let (narrow, last) = rest.split_at(16);
    let (first, rest) = parts.codes.split_at_mut(5 * 32);
    let (second, third) = rest.split_at_mut(5 * 16);
    for (bytes, codes) in [(wide, first), (narrow, second), (last, third)] {
        let mut power = 1_u8;
        for codes in codes.chunks_exact_mut(bytes.len()) {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
                *code = digit as i8 - 1;
            }
            power = power.wrapping_mul(3);
        }
    }
}
