//! Decodes types with blocks of 32 values. A block has one scale and at most one min.

use super::{DecodedBlock, half_at, u32_at};

/// Number of values in a block.
const VALUES: usize = 32;

/// The quants that the 4-bit indices of IQ4_NL and IQ4_XS select.
pub(super) const IQ4_VALUES: [i8; 16] = [
    -127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113,
];

/// The values of E2M1 (one sign bit, two exponent bits, one mantissa bit), doubled to be integers.
const E2M1_VALUES: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

pub(super) fn q4_0(block: &[u8], decoded: &mut DecodedBlock) {
    decoded.scales[0] = half_at(block, 0);
    nibbles(&block[2..], &mut decoded.quants, |q| q as i8 - 8);
}

pub(super) fn q4_1(block: &[u8], decoded: &mut DecodedBlock) {
    decoded.scales[0] = half_at(block, 0);
    decoded.mins[0] = half_at(block, 2);
    nibbles(&block[4..], &mut decoded.quants, |q| q as i8);
}

pub(super) fn q5_0(block: &[u8], decoded: &mut DecodedBlock) {
    decoded.scales[0] = half_at(block, 0);
    five_bit_quants(u32_at(block, 2), &block[6..], &mut decoded.quants, 16);
}

pub(super) fn q5_1(block: &[u8], decoded: &mut DecodedBlock) {
    decoded.scales[0] = half_at(block, 0);
    decoded.mins[0] = half_at(block, 2);
    five_bit_quants(u32_at(block, 4), &block[8..], &mut decoded.quants, 0);
}

pub(super) fn q8_0(block: &[u8], decoded: &mut DecodedBlock) {
    decoded.scales[0] = half_at(block, 0);
    for (quant, byte) in decoded.quants.iter_mut().zip(&block[2..]) {
        *quant = *byte as i8;
    }
}

pub(super) fn iq4_nl(block: &[u8], decoded: &mut DecodedBlock) {
    decoded.scales[0] = half_at(block, 0);
    let value = |q| IQ4_VALUES[usize::from(q)];
    nibbles(&block[2..], &mut decoded.quants, value);
}

pub(super) fn mxfp4(block: &[u8], decoded: &mut DecodedBlock) {
    // The scale is a power of two, halved because `E2M1_VALUES` are doubled. The two smallest scales are subnormal.
    decoded.scales[0] = f32::from_bits(match block[0] {
        exponent @ 0..2 => 0x0020_0000 << exponent,
        exponent => u32::from(exponent - 1) << 23,
    });
    let value = |q| E2M1_VALUES[usize::from(q)];
    nibbles(&block[1..], &mut decoded.quants, value);
}

/// Unpacks 4-bit quants in ggml's order: the low nibbles are the first half of the quants, the high nibbles the second
/// half.
pub(super) fn nibbles(bytes: &[u8], quants: &mut [i8], decode: impl Fn(u8) -> i8) {
    let (first, second) = quants.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(first).zip(second) {
        *low = decode(byte & 0x0f);
        *high = decode(byte >> 4);
    }
}

/// Unpacks 5-bit quants: the low four bits are in `bytes`, the fifth bits in `fifth`. Subtracts `zero` from each quant.
fn five_bit_quants(fifth: u32, bytes: &[u8], quants: &mut [i8], zero: i8) {
    nibbles(bytes, quants, |q| q as i8);
    for (index, quant) in quants[..VALUES].iter_mut().enumerate() {
        *quant = (*quant | ((fifth >> index & 1) << 4) as i8) - zero;
    }
}
