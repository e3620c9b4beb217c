//! Decodes K-quants and IQ4_XS: blocks of 256 values. The scales of groups are quantized as well, except in Q8_K.

use super::small::{IQ4_VALUES, nibbles};
use super::{DecodedBlock, half_at, u16_at, u32_at};

/// Number of values in a block.
const VALUES: usize = 256;

pub(super) fn q2_k(block: &[u8], decoded: &mut DecodedBlock) {
    let (packed, rest) = block.split_at(VALUES / 16);
    let (quants, rest) = rest.split_at(VALUES / 4);
    let (scale, min) = (half_at(rest, 0), half_at(rest, 2));
    for (group, both) in packed.iter().enumerate() {
        decoded.scales[group] = scale * f32::from(both & 0x0f);
        decoded.mins[group] = -(min * f32::from(both >> 4));
    }
    two_bit_quants(quants, &mut decoded.quants);
}

pub(super) fn q3_k(block: &[u8], decoded: &mut DecodedBlock) {
    let (high, rest) = block.split_at(VALUES / 8);
    let (quants, rest) = rest.split_at(VALUES / 4);
    let (packed, scale) = (&rest[..12], half_at(rest, 12));
    for group in 0..16 {
        // A scale has six bits: the low four bits are in the first eight bytes, the high two bits in the last four
        // bytes.
        let low = packed[group % 8] >> (4 * (group / 8)) & 0x0f;
        let top = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
        decoded.scales[group] = scale * (f32::from(low | top << 4) - 32.0);
    }
    two_bit_quants(quants, &mut decoded.quants);
    for (index, quant) in decoded.quants.iter_mut().enumerate() {
        let third = high[index % 32] >> (index / 32) & 1;
        *quant -= 4 * (1 - third as i8);
    }
}

pub(super) fn q4_k(block: &[u8], decoded: &mut DecodedBlock) {
    scales_and_mins(block, decoded);
    let pairs = block[16..].chunks_exact(32);
    for (packed, quants) in pairs.zip(decoded.quants.chunks_exact_mut(64)) {
        nibbles(packed, quants, |q| q as i8);
    }
}

pub(super) fn q5_k(block: &[u8], decoded: &mut DecodedBlock) {
    scales_and_mins(block, decoded);
    let (high, quants) = block[16..].split_at(VALUES / 8);
    let pairs = quants.chunks_exact(32);
    for (packed, quants) in pairs.zip(decoded.quants.chunks_exact_mut(64)) {
        nibbles(packed, quants, |q| q as i8);
    }
    for (group, quants) in decoded.quants.chunks_exact_mut(32).enumerate() {
        for (quant, high) in quants.iter_mut().zip(high) {
            *quant |= ((high >> group & 1) << 4) as i8;
        }
    }
}

pub(super) fn q6_k(block: &[u8], decoded: &mut DecodedBlock) {
    let (low, rest) = block.split_at(VALUES / 2);
    let (high, rest) = rest.split_at(VALUES / 4);
    let scale = half_at(rest, VALUES / 16);
    for (to, from) in decoded.scales.iter_mut().zip(&rest[..VALUES / 16]) {
        *to = scale * f32::from(*from as i8);
    }
    let halves = low.chunks_exact(64).zip(high.chunks_exact(32));
    for ((low, high), quants) in halves.zip(decoded.quants.chunks_exact_mut(128)) {
        nibbles(low, quants, |q| q as i8);
        for (quarter, quants) in quants.chunks_exact_mut(32).enumerate() {
            for (quant, high) in quants.iter_mut().zip(high) {
                *quant = (*quant | ((high >> (2 * quarter) & 3) << 4) as i8) - 32;
            }
        }
    }
}

pub(super) fn q8_k(block: &[u8], decoded: &mut DecodedBlock) {
    decoded.scales[..VALUES / 32].fill(f32::from_bits(u32_at(block, 0)));
    // The rest of the block holds sums of quants, which are not needed.
    for (quant, byte) in decoded.quants.iter_mut().zip(&block[4..]) {
        *quant = *byte as i8;
    }
}

pub(super) fn iq4_xs(block: &[u8], decoded: &mut DecodedBlock) {
    let (scale, top) = (half_at(block, 0), u16_at(block, 2));
    let (packed, quants) = block[4..].split_at(VALUES / 64);
    for group in 0..VALUES / 32 {
        let low = packed[group / 2] >> (4 * (group % 2)) & 0x0f;
        let top = (top >> (2 * group) & 3) as u8;
        decoded.scales[group] = scale * (f32::from(low | top << 4) - 32.0);
    }
    let groups = quants.chunks_exact(16);
    for (packed, quants) in groups.zip(decoded.quants.chunks_exact_mut(32)) {
        nibbles(packed, quants, |q| IQ4_VALUES[usize::from(q)]);
    }
}

/// Unpacks 2-bit quants: the lowest two bits of 32 bytes are 32 quants, the next two bits are the next 32 quants, and
/// so on.
fn two_bit_quants(bytes: &[u8], quants: &mut [i8; VALUES]) {
    for (bytes, quants) in bytes.chunks_exact(32).zip(quants.chunks_exact_mut(128)) {
        for (quarter, quants) in quants.chunks_exact_mut(32).enumerate() {
            for (quant, byte) in quants.iter_mut().zip(bytes) {
                *quant = (byte >> (2 * quarter) & 3) as i8;
            }
        }
    }
}

/// Unpacks the 6-bit scales and mins of Q4_K and Q5_K. The upper two bits of groups 4 to 7 are in the bytes of groups 0
/// to 3.
fn scales_and_mins(block: &[u8], decoded: &mut DecodedBlock) {
    let (scale, min) = (half_at(block, 0), half_at(block, 2));
    let packed = &block[4..16];
    for group in 0..8 {
        let (scale_quant, min_quant) = match group {
            0..4 => (packed[group] & 63, packed[group + 4] & 63),
            _ => (
                packed[group + 4] & 0x0f | packed[group - 4] >> 6 << 4,
                packed[group + 4] >> 4 | packed[group] >> 6 << 4,
            ),
        };
        decoded.scales[group] = scale * f32::from(scale_quant);
        decoded.mins[group] = -(min * f32::from(min_quant));
    }
}
