//! Decodes ternary types: blocks of 256 quants of -1, 0 and 1, with one scale.

use super::{DecodedBlock, half_at};

/// Number of values in a block.
const VALUES: usize = 256;
/// Number of groups in a block; all share the block's scale.
const GROUPS: usize = VALUES / 32;

pub(super) fn tq2_0(block: &[u8], decoded: &mut DecodedBlock) {
    let (packed, scale) = block.split_at(VALUES / 4);
    decoded.scales[..GROUPS].fill(half_at(scale, 0));
    let halves = packed.chunks_exact(32);
    for (packed, quants) in halves.zip(decoded.quants.chunks_exact_mut(128)) {
        for (quarter, quants) in quants.chunks_exact_mut(32).enumerate() {
            for (quant, byte) in quants.iter_mut().zip(packed) {
                *quant = (byte >> (2 * quarter) & 3) as i8 - 1;
            }
        }
    }
}

pub(super) fn tq1_0(block: &[u8], decoded: &mut DecodedBlock) {
    let (packed, scale) = block.split_at(52);
    decoded.scales[..GROUPS].fill(half_at(scale, 0));
    // A byte contains five base-3 digits. The first digits of 32 bytes are 32 consecutive quants, the second digits are
    // the next 32 quants, and so on.
    let (wide, rest) = packed.split_at(32);
    let (narrow, last) = rest.split_at(16);
    let (first, rest) = decoded.quants.split_at_mut(5 * 32);
    let (second, third) = rest.split_at_mut(5 * 16);
    for (bytes, quants) in [(wide, first), (narrow, second), (last, third)] {
        let mut power = 1_u8;
        for quants in quants.chunks_exact_mut(bytes.len()) {
            for (quant, byte) in quants.iter_mut().zip(bytes) {
                let digit = (u16::from(byte.wrapping_mul(power)) * 3) >> 8;
                *quant = digit as i8 - 1;
            }
            power = power.wrapping_mul(3);
        }
    }
}
