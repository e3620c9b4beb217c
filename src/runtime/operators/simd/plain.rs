//! What is done with bytes, in plain Rust: for the paths that have no instructions of their own for it.

use half::f16;

use super::LANES;

/// The floats of little-endian bytes.
#[inline(always)]
pub(super) fn f32s(bytes: &[u8; 4 * LANES]) -> [f32; LANES] {
    let values = bytes.as_chunks().0;
    std::array::from_fn(|lane| f32::from_le_bytes(values[lane]))
}

/// The same of half precision.
#[inline(always)]
pub(super) fn f16s(bytes: &[u8; 2 * LANES]) -> [f32; LANES] {
    let values = bytes.as_chunks().0;
    std::array::from_fn(|lane| f16::from_le_bytes(values[lane]).to_f32())
}

/// The lower halves of the bytes.
#[inline(always)]
pub(super) fn low_nibbles(bytes: [u8; 4 * LANES]) -> [u8; 4 * LANES] {
    bytes.map(|byte| byte & 0x0f)
}

/// The upper halves of the bytes.
#[inline(always)]
pub(super) fn high_nibbles(bytes: [u8; 4 * LANES]) -> [u8; 4 * LANES] {
    bytes.map(|byte| byte >> 4)
}

/// Of each lane the sum of its bytes of all vectors, each times the byte of `x` in its place.
#[inline(always)]
pub(super) fn dot<const V: usize>(
    bytes: &[[u8; 4 * LANES]; V],
    x: &[[i8; 4]; V],
    code: impl Fn(u8) -> i32,
) -> [f32; LANES] {
    let mut sums = [0; LANES];
    for (bytes, x) in bytes.iter().zip(x) {
        for (sum, four) in sums.iter_mut().zip(bytes.as_chunks::<4>().0) {
            for (byte, x) in four.iter().zip(x) {
                *sum += code(*byte) * i32::from(*x);
            }
        }
    }
    sums.map(|sum| sum as f32)
}
