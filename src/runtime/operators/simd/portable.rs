//! Byte operations in portable Rust, for SIMD implementations without instructions for these operations.

use half::f16;

use super::LANES;

/// Converts little-endian bytes to f32 values.
#[inline(always)]
pub(super) fn f32s(bytes: &[u8; 4 * LANES]) -> [f32; LANES] {
    let values = bytes.as_chunks().0;
    std::array::from_fn(|lane| f32::from_le_bytes(values[lane]))
}

/// Converts little-endian f16 bytes to f32 values.
#[inline(always)]
pub(super) fn f16s(bytes: &[u8; 2 * LANES]) -> [f32; LANES] {
    let values = bytes.as_chunks().0;
    std::array::from_fn(|lane| f16::from_le_bytes(values[lane]).to_f32())
}

/// Returns the low four bits of each byte.
#[inline(always)]
pub(super) fn low_nibbles(bytes: [u8; 4 * LANES]) -> [u8; 4 * LANES] {
    bytes.map(|byte| byte & 0x0f)
}

/// Returns the high four bits of each byte.
#[inline(always)]
pub(super) fn high_nibbles(bytes: [u8; 4 * LANES]) -> [u8; 4 * LANES] {
    bytes.map(|byte| byte >> 4)
}

/// The dot products of `Simd::dot_unsigned`, with each byte converted by `to_int`.
#[inline(always)]
pub(super) fn dot<const V: usize>(
    bytes: &[[u8; 4 * LANES]; V],
    x: &[[i8; 4]; V],
    to_int: impl Fn(u8) -> i32,
) -> [f32; LANES] {
    let mut sums = [0; LANES];
    for (bytes, x) in bytes.iter().zip(x) {
        for (sum, lane) in sums.iter_mut().zip(bytes.as_chunks::<4>().0) {
            for (byte, x) in lane.iter().zip(x) {
                *sum += to_int(*byte) * i32::from(*x);
            }
        }
    }
    sums.map(|sum| sum as f32)
}
