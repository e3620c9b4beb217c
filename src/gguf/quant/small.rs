//! The types with blocks of 32 values: one scale, at most one minimum.

use super::{Parts, half_at, u32_at};

/// Values of a block.
const VALUES: usize = 32;

/// The numbers that IQ4's four bits stand for.
pub(super) const IQ4_VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// The numbers of E2M1 (one sign bit, two of the exponent, one of the mantissa), doubled.
const E2M1_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

pub(super) fn q4_0(block: &[u8], parts: &mut Parts) {
    parts.scales[0] = half_at(block, 0);
    nibbles(&block[2..], &mut parts.codes, |q| q as i8 - 8);
}

pub(super) fn q4_1(block: &[u8], parts: &mut Parts) {
    parts.scales[0] = half_at(block, 0);
    parts.minimums[0] = half_at(block, 2);
    nibbles(&block[4..], &mut parts.codes, |q| q as i8);
}

pub(super) fn q5_0(block: &[u8], parts: &mut Parts) {
    parts.scales[0] = half_at(block, 0);
    fives(u32_at(block, 2), &block[6..], &mut parts.codes, 16);
}

pub(super) fn q5_1(block: &[u8], parts: &mut Parts) {
    parts.scales[0] = half_at(block, 0);
    parts.minimums[0] = half_at(block, 2);
    fives(u32_at(block, 4), &block[8..], &mut parts.codes, 0);
}

pub(super) fn q8_0(block: &[u8], parts: &mut Parts) {
    parts.scales[0] = half_at(block, 0);
    for (code, q) in parts.codes.iter_mut().zip(&block[2..]) {
        *code = *q as i8;
    }
}

pub(super) fn iq4_nl(block: &[u8], parts: &mut Parts) {
    parts.scales[0] = half_at(block, 0);
    let value = |q| IQ4_VALUES[usize::from(q)];
    nibbles(&block[2..], &mut parts.codes, value);
}

pub(super) fn mxfp4(block: &[u8], parts: &mut Parts) {
    // A power of two, halved as the values are doubled; the smallest two are subnormal.
    parts.scales[0] = f32::from_bits(match block[0] {
        exponent @ 0..2 => 0x0020_0000 << exponent,
        exponent => u32::from(exponent - 1) << 23,
    });
    let value = |q| E2M1_VALUES[usize::from(q)];
    nibbles(&block[1..], &mut parts.codes, value);
}

/// ggml's order: the low halves of the bytes are the first half of the values, the high ones the second.
pub(super) fn nibbles(bytes: &[u8], codes: &mut [i8], code: impl Fn(u8) -> i8) {
    let (first, second) = codes.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(first).zip(second) {
        *low = code(byte & 0x0f);
        *high = code(byte >> 4);
    }
}

/// Four bits of each value in halves of bytes, the fifth in `fifth`; `zero` is what 0 is.
fn fives(fifth: u32, bytes: &[u8], codes: &mut [i8], zero: i8) {
    nibbles(bytes, codes, |q| q as i8);
    for (place, code) in codes[..VALUES].iter_mut().enumerate() {
        *code = (*code | ((fifth >> place & 1) << 4) as i8) - zero;
    }
}
