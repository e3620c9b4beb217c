//! SIMD with eight f32 lanes: an implementation for each supported instruction set, selected at run time.
//!
//! A value of a type that implements [`Simd`] exists only if the CPU supports the type's instructions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

use half::f16;

/// Number of lanes of every [`Simd::Vector`]. Rows of queries, keys and values are processed in groups of this many
/// elements.
pub(super) const LANES: usize = 8;

/// An instruction set that this CPU supports. The `Debug` output is part of the identity of saved slots, so the
/// variants of `CodePath` must not be renamed.
#[derive(Debug, Clone, Copy)]
pub struct Instructions(CodePath);

#[derive(Debug, Clone, Copy)]
enum CodePath {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2<false>),
    #[cfg(target_arch = "x86_64")]
    Vnni(avx2::Avx2<true>),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
}

impl Instructions {
    /// Returns the instruction sets that this CPU supports, fastest first.
    pub fn available() -> impl Iterator<Item = Self> {
        [
            #[cfg(target_arch = "x86_64")]
            avx2::Avx2::detect().map(CodePath::Vnni),
            #[cfg(target_arch = "x86_64")]
            avx2::Avx2::detect().map(CodePath::Avx2),
            #[cfg(target_arch = "aarch64")]
            neon::Neon::detect().map(CodePath::Neon),
            Some(CodePath::Portable(Portable)),
        ]
        .into_iter()
        .flatten()
        .map(Self)
    }

    /// Returns the fastest instruction set that this CPU supports.
    pub fn detect() -> Instructions {
        Self::available()
            .next()
            .unwrap_or_else(Instructions::portable)
    }

    /// Returns the portable implementation, which every CPU supports.
    pub fn portable() -> Instructions {
        Instructions(CodePath::Portable(Portable))
    }

    /// Whether the implementation uses instructions for int8 dot products.
    pub fn has_int8_dot_product(self) -> bool {
        match self.0 {
            CodePath::Portable(_) => false,
            #[cfg(target_arch = "x86_64")]
            CodePath::Avx2(_) | CodePath::Vnni(_) => true,
            #[cfg(target_arch = "aarch64")]
            CodePath::Neon(_) => false,
        }
    }

    /// Runs `work` with this instruction set.
    pub(super) fn run<W: WithSimd>(self, work: W) -> W::Output {
        match self.0 {
            CodePath::Portable(simd) => simd.enter(work),
            #[cfg(target_arch = "x86_64")]
            CodePath::Avx2(simd) => simd.enter(work),
            #[cfg(target_arch = "x86_64")]
            CodePath::Vnni(simd) => simd.enter(work),
            #[cfg(target_arch = "aarch64")]
            CodePath::Neon(simd) => simd.enter(work),
        }
    }
}

/// A computation that is compiled separately for each instruction set.
pub(super) trait WithSimd {
    type Output;
    /// Implementations, and all functions that they call, must be `#[inline(always)]`: only code that is inlined into
    /// [`Simd::enter`] is compiled for the instruction set.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Operations on vectors of eight f32 lanes. All implementations add in the same order; results differ only because the
/// portable implementation has no fused multiply-add.
pub(super) trait Simd: Copy {
    type Vector: Copy;
    /// A vector with four bytes in each lane.
    type Bytes: Copy;

    /// Runs `work` in a function that is compiled for this instruction set.
    fn enter<W: WithSimd>(self, work: W) -> W::Output;

    /// Prefetches the cache line of `target` into the L2 cache.
    fn prefetch<T>(self, target: &T);
    fn splat(self, value: f32) -> Self::Vector;
    fn load(self, from: &[f32; LANES]) -> Self::Vector;
    fn load_f16(self, from: &[f16; LANES]) -> Self::Vector;
    fn store(self, value: Self::Vector, to: &mut [f32; LANES]);
    /// Rounds to the nearest f16, ties to even.
    fn store_f16(self, value: Self::Vector, to: &mut [f16; LANES]);

    fn add(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn subtract(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    fn multiply(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a · b + c`
    fn multiply_add(self, a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The larger of `a` and `b` in each lane; NaN where `b` is NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `value` where `test` is at least `limit` or NaN, otherwise 0.
    fn zero_below(self, value: Self::Vector, test: Self::Vector, limit: f32) -> Self::Vector;
    /// Adds the integer in the low nine bits of `exponent` to each exponent of `value`.
    fn shift_exponent(self, value: Self::Vector, exponent: Self::Vector) -> Self::Vector;
    /// The sum of the lanes of each vector, as `((0+1)+(2+3)) + ((4+5)+(6+7))`.
    fn sum_lanes(self, values: [Self::Vector; 4]) -> [f32; 4];
    fn divide(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The absolute values.
    fn abs(self, value: Self::Vector) -> Self::Vector;
    /// Rounds to the nearest integer, ties to even. Results are unspecified for values outside -127 to 127.
    fn round(self, value: Self::Vector) -> [i8; LANES];

    /// Loads little-endian f32 values.
    fn load_f32_bytes(self, from: &[u8; 4 * LANES]) -> Self::Vector;
    /// Loads little-endian f16 values.
    fn load_f16_bytes(self, from: &[u8; 2 * LANES]) -> Self::Vector;
    fn load_bytes(self, from: &[u8; 4 * LANES]) -> Self::Bytes;
    /// The low four bits of each byte.
    fn low_nibbles(self, bytes: Self::Bytes) -> Self::Bytes;
    /// The high four bits of each byte.
    fn high_nibbles(self, bytes: Self::Bytes) -> Self::Bytes;
    /// Exact dot products of unsigned `bytes` and `x`. For each lane, each vector adds four products: the lane's four
    /// bytes times the vector's four values of `x`, which are from -127 to 127. The caller guarantees that the sum of
    /// `2 · VECTORS_IN_I16` products fits into an `i16`, so that this number of vectors may be summed in 16 bits.
    fn dot_unsigned<const V: usize, const VECTORS_IN_I16: usize>(
        self,
        bytes: &[Self::Bytes; V],
        x: &[[i8; 4]; V],
    ) -> Self::Vector;
    /// As [`Self::dot_unsigned`], but for bytes from 0 to 255 with the zero point 128. `correction` is 128 · Σ `x`.
    fn dot_bytes<const V: usize>(
        self,
        bytes: &[Self::Bytes; V],
        x: &[[i8; 4]; V],
        correction: f32,
    ) -> Self::Vector;
}

/// Element type of key and value rows: f16 in the cache, f32 after conversion.
pub(super) trait Element: Copy {
    fn load<S: Simd>(simd: S, from: &[Self; LANES]) -> S::Vector;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[f32; LANES]) -> S::Vector {
        simd.load(from)
    }
}

impl Element for f16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[f16; LANES]) -> S::Vector {
        simd.load_f16(from)
    }
}

/// Returns the first eight of `values`, padded with zeros if there are fewer.
#[inline(always)]
pub(super) fn pad_lanes(values: &[f32]) -> [f32; LANES] {
    match values.first_chunk() {
        Some(lanes) => *lanes,
        None => {
            let mut lanes = [0.0; LANES];
            lanes[..values.len()].copy_from_slice(values);
            lanes
        }
    }
}

/// Stores the first lanes of `value`, at most as many as `to` has elements.
#[inline(always)]
pub(super) fn store_partial<S: Simd>(simd: S, value: S::Vector, to: &mut [f32]) {
    match to.first_chunk_mut() {
        Some(to) => simd.store(value, to),
        None => {
            let mut lanes = [0.0; LANES];
            simd.store(value, &mut lanes);
            to.copy_from_slice(&lanes[..to.len()]);
        }
    }
}

/// Returns `eˣ` for `x ≤ 0`, within two units in the last place. The result is exactly zero for `x < -87`, where `eˣ`
/// is near the smallest normal f32.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    const LOWEST: f32 = -87.0;
    /// Adding 1.5 · 2²³ rounds a number to an integer and leaves the integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 as a sum of two numbers. The first number has few enough bits for exact products (Cephes, `expf`).
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    /// The minimax polynomial of Cephes' `expf`, highest power first.
    const POLYNOMIAL: [f32; 6] = [
        1.987_569_1e-4,
        1.398_2e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];

    let clamped = simd.max(simd.splat(LOWEST), x);
    let shifted = simd.multiply_add(
        clamped,
        simd.splat(std::f32::consts::LOG2_E),
        simd.splat(ROUND),
    );
    let power = simd.subtract(shifted, simd.splat(ROUND));
    let remainder = simd.multiply_add(power, simd.splat(-LN_2[0]), clamped);
    let remainder = simd.multiply_add(power, simd.splat(-LN_2[1]), remainder);
    let mut sum = simd.splat(POLYNOMIAL[0]);
    for coefficient in &POLYNOMIAL[1..] {
        sum = simd.multiply_add(sum, remainder, simd.splat(*coefficient));
    }
    let linear = simd.add(remainder, simd.splat(1.0));
    let mantissa = simd.multiply_add(sum, simd.multiply(remainder, remainder), linear);
    simd.zero_below(simd.shift_exponent(mantissa, shifted), x, LOWEST)
}

/// Implementation on plain arrays, which the compiler may vectorize for the target.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

impl Simd for Portable {
    type Vector = [f32; LANES];
    type Bytes = [u8; 4 * LANES];

    fn enter<W: WithSimd>(self, work: W) -> W::Output {
        work.run(self)
    }

    #[inline(always)]
    fn prefetch<T>(self, _: &T) {}

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> [f32; LANES] {
        *from
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> [f32; LANES] {
        from.map(f16::to_f32)
    }

    #[inline(always)]
    fn store(self, value: [f32; LANES], to: &mut [f32; LANES]) {
        *to = value;
    }

    #[inline(always)]
    fn store_f16(self, value: [f32; LANES], to: &mut [f16; LANES]) {
        *to = value.map(f16::from_f32);
    }

    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn subtract(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn multiply(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn multiply_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    fn max(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn zero_below(self, value: [f32; LANES], test: [f32; LANES], limit: f32) -> [f32; LANES] {
        std::array::from_fn(|i| if test[i] < limit { 0.0 } else { value[i] })
    }

    #[inline(always)]
    fn shift_exponent(self, value: [f32; LANES], exponent: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| {
            f32::from_bits(value[i].to_bits().wrapping_add(exponent[i].to_bits() << 23))
        })
    }

    #[inline(always)]
    fn sum_lanes(self, values: [[f32; LANES]; 4]) -> [f32; 4] {
        values.map(|v| ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7])))
    }

    #[inline(always)]
    fn divide(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        std::array::from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn abs(self, value: [f32; LANES]) -> [f32; LANES] {
        value.map(f32::abs)
    }

    #[inline(always)]
    fn round(self, value: [f32; LANES]) -> [i8; LANES] {
        value.map(|value| value.round_ties_even() as i8)
    }

    #[inline(always)]
    fn load_f32_bytes(self, from: &[u8; 4 * LANES]) -> [f32; LANES] {
        portable::f32s(from)
    }

    #[inline(always)]
    fn load_f16_bytes(self, from: &[u8; 2 * LANES]) -> [f32; LANES] {
        portable::f16s(from)
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; 4 * LANES]) -> [u8; 4 * LANES] {
        *from
    }

    #[inline(always)]
    fn low_nibbles(self, bytes: [u8; 4 * LANES]) -> [u8; 4 * LANES] {
        portable::low_nibbles(bytes)
    }

    #[inline(always)]
    fn high_nibbles(self, bytes: [u8; 4 * LANES]) -> [u8; 4 * LANES] {
        portable::high_nibbles(bytes)
    }

    #[inline(always)]
    fn dot_unsigned<const V: usize, const VECTORS_IN_I16: usize>(
        self,
        bytes: &[[u8; 4 * LANES]; V],
        x: &[[i8; 4]; V],
    ) -> [f32; LANES] {
        portable::dot(bytes, x, i32::from)
    }

    #[inline(always)]
    fn dot_bytes<const V: usize>(
        self,
        bytes: &[[u8; 4 * LANES]; V],
        x: &[[i8; 4]; V],
        _: f32,
    ) -> [f32; LANES] {
        portable::dot(bytes, x, |byte| i32::from(byte) - 128)
    }
}
