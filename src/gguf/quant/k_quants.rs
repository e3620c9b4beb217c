//! The types with blocks of 256 values whose groups' scales are themselves quantised.

use super::small::{IQ4_VALUES, nibbles};
use super::{Parts, half_at, u16_at, u32_at};

/// Values of a block.
const VALUES: usize = 256;

pub(super) fn q2_k(block: &[u8], parts: &mut Parts) {
    let (packed, rest) = block.split_at(VALUES / 16);
    let (quants, rest) = rest.split_at(VALUES / 4);
    let (scale, minimum) = (half_at(rest, 0), half_at(rest, 2));
    for (group, both) in packed.iter().enumerate() {
        parts.scales[group] = scale * f32::from(both & 0x0f);
        parts.minimums[group] = -(minimum * f32::from(both >> 4));
    }
    pairs_of_bits(quants, &mut parts.codes);
}

pub(super) fn q3_k(block: &[u8], parts: &mut Parts) {
    let (high, rest) = block.split_at(VALUES / 8);
    let (quants, rest) = rest.split_at(VALUES / 4);
    let (packed, scale) = (&rest[..12], half_at(rest, 12));
    for group in 0..16 {
        // Four bits in the halves of the first eight bytes, two in the quarters of the last four.
        let low = packed[group % 8] >> (4 * (group / 8)) & 0x0f;
        let top = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
        parts.scales[group] = scale * (f32::from(low | top << 4) - 32.0);
    }
    pairs_of_bits(quants, &mut parts.codes);
    for (place, code) in parts.codes.iter_mut().enumerate() {
        let third = high[place % 32] >> (place / 32) & 1;
        *code -= 4 * (1 - third as i8);
    }
}

pub(super) fn q4_k(block: &[u8], parts: &mut Parts) {
    scales_and_minimums(block, parts);
    let pairs = block[16..].chunks_exact(32);
    for (quants, codes) in pairs.zip(parts.codes.chunks_exact_mut(64)) {
        nibbles(quants, codes, |q| q as i8);
    }
}

pub(super) fn q5_k(block: &[u8], parts: &mut Parts) {
    scales_and_minimums(block, parts);
    let (high, quants) = block[16..].split_at(VALUES / 8);
    let pairs = quants.chunks_exact(32);
    for (quants, codes) in pairs.zip(parts.codes.chunks_exact_mut(64)) {
        nibbles(quants, codes, |q| q as i8);
    }
    for (group, codes) in parts.codes.chunks_exact_mut(32).enumerate() {
        for (code, high) in codes.iter_mut().zip(high) {
            *code |= ((high >> group & 1) << 4) as i8;
        }
    }
}

pub(super) fn q6_k(block: &[u8], parts: &mut Parts) {
    let (low, rest) = block.split_at(VALUES / 2);
    let (high, rest) = rest.split_at(VALUES / 4);
    let scale = half_at(rest, VALUES / 16);
    for (to, from) in parts.scales.iter_mut().zip(&rest[..VALUES / 16]) {
        *to = scale * f32::from(*from as i8);
    }
    let halves = low.chunks_exact(64).zip(high.chunks_exact(32));
    for ((low, high), codes) in halves.zip(parts.codes.chunks_exact_mut(128)) {
        nibbles(low, codes, |q| q as i8);
        for (quarter, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (code, high) in codes.iter_mut().zip(high) {
                *code = (*code | ((high >> (2 * quarter) & 3) << 4) as i8) - 32;
            }
        }
    }
}

pub(super) fn q8_k(block: &[u8], parts: &mut Parts) {
    parts.scales[..VALUES / 32].fill(f32::from_bits(u32_at(block, 0)));
    // What follows the quants are their sums.
    for (code, q) in parts.codes.iter_mut().zip(&block[4..]) {
        *code = *q as i8;
    }
}

pub(super) fn iq4_xs(block: &[u8], parts: &mut Parts) {
    let (scale, top) = (half_at(block, 0), u16_at(block, 2));
    let (packed, quants) = block[4..].split_at(VALUES / 64);
    for group in 0..VALUES / 32 {
        let low = packed[group / 2] >> (4 * (group % 2)) & 0x0f;
        let top = (top >> (2 * group) & 3) as u8;
        parts.scales[group] = scale * (f32::from(low | top << 4) - 32.0);
    }
    let groups = quants.chunks_exact(16);
    for (quants, codes) in groups.zip(parts.codes.chunks_exact_mut(32)) {
        nibbles(quants, codes, |q| IQ4_VALUES[usize::from(q)]);
    }
}

/// Of each 32 bytes the lowest two bits are 32 values, then the next two, and so on.
fn pairs_of_bits(bytes: &[u8], codes: &mut [i8; VALUES]) {
    for (bytes, codes) in bytes.chunks_exact(32).zip(codes.chunks_exact_mut(128)) {
        for (quarter, codes) in codes.chunks_exact_mut(32).enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code = (byte >> (2 * quarter) & 3) as i8;
            }
        }
    }
}

/// The scales and minimums of Q4_K and Q5_K: six bits each, of the last four groups the upper two bits in the bytes of
/// the first four.
fn scales_and_minimums(block: &[u8], parts: &mut Parts) {
    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
    let packed = &block[4..16];
    for group in 0..8 {
        let (scale_code, minimum_code) = match group {
            0..4 => (packed[group] & 63, packed[group + 4] & 63),
            _ => (
                packed[group + 4] & 0x0f | packed[group - 4] >> 6 << 4,
                packed[group + 4] >> 4 | packed[group] >> 6 << 4,
            ),
        };
        parts.scales[group] = scale * f32::from(scale_code);
        parts.minimums[group] = -(minimum * f32::from(minimum_code));
    }
}
