//! Eight f32 lanes, for each instruction set that has a path of its own, and the choice between them at
//! run time. What is computed with the lanes is `tile`'s matter.
//!
//! A value of a type that implements [`Simd`] proves that the processor has its instructions.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "aarch64")]
mod neon;
mod plain;

use half::f16;

/// Lanes of every [`Simd::Vector`]; rows of queries, keys and values come in groups of so many elements.
pub(super) const LANES: usize = 8;

/// Which path computes: the best that this processor has, or the portable one.
#[derive(Debug, Clone, Copy)]
pub struct Instructions(Path);

#[derive(Debug, Clone, Copy)]
enum Path {
    Portable(Portable),
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Avx2<false>),
    #[cfg(target_arch = "x86_64")]
    Vnni(avx2::Avx2<true>),
    #[cfg(target_arch = "aarch64")]
    Neon(neon::Neon),
}

impl Instructions {
    /// The paths that this processor can take, the quickest first.
    pub fn available() -> impl Iterator<Item = Self> {
        [
            #[cfg(target_arch = "x86_64")]
            avx2::Avx2::detect().map(Path::Vnni),
            #[cfg(target_arch = "x86_64")]
            avx2::Avx2::detect().map(Path::Avx2),
            #[cfg(target_arch = "aarch64")]
            neon::Neon::detect().map(Path::Neon),
            Some(Path::Portable(Portable)),
        ]
        .into_iter()
        .flatten()
        .map(Self)
    }

    /// The quickest path that this processor can take.
    pub fn detect() -> Instructions {
        Self::available()
            .next()
            .unwrap_or_else(Instructions::portable)
    }

    /// Plain Rust, which every processor runs.
    pub fn portable() -> Instructions {
        Instructions(Path::Portable(Portable))
    }

    /// Whether the path has instructions for products of bytes.
    pub fn multiplies_bytes(self) -> bool {
        match self.0 {
            Path::Portable(_) => false,
            #[cfg(target_arch = "x86_64")]
            Path::Avx2(_) | Path::Vnni(_) => true,
            #[cfg(target_arch = "aarch64")]
            Path::Neon(_) => false,
        }
    }

    /// Does `work` on the chosen path.
    pub(super) fn run<W: Work>(self, work: W) -> W::Output {
        match self.0 {
            Path::Portable(simd) => simd.enter(work),
            #[cfg(target_arch = "x86_64")]
            Path::Avx2(simd) => simd.enter(work),
            #[cfg(target_arch = "x86_64")]
            Path::Vnni(simd) => simd.enter(work),
            #[cfg(target_arch = "aarch64")]
            Path::Neon(simd) => simd.enter(work),
        }
    }
}

/// A computation that is compiled once for each instruction set.
pub(super) trait Work {
    type Output;
    /// To be marked `#[inline(always)]`, with all that it calls: only what is inlined into
    /// [`Simd::enter`] is compiled for the instruction set.
    fn run<S: Simd>(self, simd: S) -> Self::Output;
}

/// Eight lanes of f32 and what the kernel does with them. All paths add in the same order; they differ
/// only where the portable one rounds a product before it adds.
pub(super) trait Simd: Copy {
    type Vector: Copy;
    /// For each lane four bytes.
    type Bytes: Copy;

    /// Runs `work` in a function that is compiled for this instruction set.
    fn enter<W: Work>(self, work: W) -> W::Output;

    /// Begins to bring the place, which will be read soon, into the second-level cache.
    fn prefetch<T>(self, place: &T);
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
    /// The larger one; where `b` is NaN, NaN.
    fn max(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `value` where `test` is at least `limit` or NaN, else zero.
    fn zero_below(self, value: Self::Vector, test: Self::Vector, limit: f32) -> Self::Vector;
    /// Adds the integer in the low nine bits of `exponent` to each exponent of `value`.
    fn shift_exponent(self, value: Self::Vector, exponent: Self::Vector) -> Self::Vector;
    /// The sum of the lanes of each, as `((0+1)+(2+3)) + ((4+5)+(6+7))`.
    fn sum_lanes(self, values: [Self::Vector; 4]) -> [f32; 4];
    fn divide(self, a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// Without its sign.
    fn magnitude(self, value: Self::Vector) -> Self::Vector;
    /// The nearest integers, ties to even, of values from -127 to 127. Of others any.
    fn round(self, value: Self::Vector) -> [i8; LANES];

    /// From little-endian bytes.
    fn load_f32_bytes(self, from: &[u8; 4 * LANES]) -> Self::Vector;
    /// From little-endian bytes.
    fn load_f16_bytes(self, from: &[u8; 2 * LANES]) -> Self::Vector;
    fn load_bytes(self, from: &[u8; 4 * LANES]) -> Self::Bytes;
    /// The lower halves of the bytes.
    fn low_nibbles(self, bytes: Self::Bytes) -> Self::Bytes;
    /// The upper halves of the bytes.
    fn high_nibbles(self, bytes: Self::Bytes) -> Self::Bytes;
    /// Of each lane the sum of its bytes of all vectors, each times the byte of `x` in its place, exactly. `TOGETHER` times two
    /// such products are to fit into 16 bits with a sign, the bytes taken as having none, those of `x` from -127 to 127.
    fn dot_unsigned<const V: usize, const TOGETHER: usize>(
        self,
        bytes: &[Self::Bytes; V],
        x: &[[i8; 4]; V],
    ) -> Self::Vector;
    /// The same of bytes that may be any and stand for 128 less. `above` is 128 times the sum of `x`.
    fn dot_bytes<const V: usize>(
        self,
        bytes: &[Self::Bytes; V],
        x: &[[i8; 4]; V],
        above: f32,
    ) -> Self::Vector;
}

/// What a row of keys or values consists of.
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

/// The first eight of `values`, zeros where there are no more.
#[inline(always)]
pub(super) fn eight(values: &[f32]) -> [f32; LANES] {
    match values.first_chunk() {
        Some(eight) => *eight,
        None => {
            let mut eight = [0.0; LANES];
            eight[..values.len()].copy_from_slice(values);
            eight
        }
    }
}

/// Stores as many of the lanes as `to` has room for.
#[inline(always)]
pub(super) fn store_some<S: Simd>(simd: S, value: S::Vector, to: &mut [f32]) {
    match to.first_chunk_mut() {
        Some(to) => simd.store(value, to),
        None => {
            let mut all = [0.0; LANES];
            simd.store(value, &mut all);
            to.copy_from_slice(&all[..to.len()]);
        }
    }
}

/// `eˣ` for `x ≤ 0`, within two units in the last place; exactly zero below -87, where f32 ends.
#[inline(always)]
pub(super) fn exp<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    const LOWEST: f32 = -87.0;
    /// Adding 1.5 · 2²³ leaves the nearest integer in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts, the first short enough for exact products (Cephes, `expf`).
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
    let rest = simd.multiply_add(power, simd.splat(-LN_2[0]), clamped);
    let rest = simd.multiply_add(power, simd.splat(-LN_2[1]), rest);
    let mut sum = simd.splat(POLYNOMIAL[0]);
    for coefficient in &POLYNOMIAL[1..] {
        sum = simd.multiply_add(sum, rest, simd.splat(*coefficient));
    }
    let one_and_rest = simd.add(rest, simd.splat(1.0));
    let mantissa = simd.multiply_add(sum, simd.multiply(rest, rest), one_and_rest);
    simd.zero_below(simd.shift_exponent(mantissa, shifted), x, LOWEST)
}

/// Plain arrays; the compiler makes of them what the target allows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

impl Simd for Portable {
    type Vector = [f32; LANES];
    type Bytes = [u8; 4 * LANES];

    fn enter<W: Work>(self, work: W) -> W::Output {
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
    fn magnitude(self, value: [f32; LANES]) -> [f32; LANES] {
        value.map(f32::abs)
    }

    #[inline(always)]
    fn round(self, value: [f32; LANES]) -> [i8; LANES] {
        value.map(|value| value.round_ties_even() as i8)
    }

    #[inline(always)]
    fn load_f32_bytes(self, from: &[u8; 4 * LANES]) -> [f32; LANES] {
        plain::f32s(from)
    }

    #[inline(always)]
    fn load_f16_bytes(self, from: &[u8; 2 * LANES]) -> [f32; LANES] {
        plain::f16s(from)
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; 4 * LANES]) -> [u8; 4 * LANES] {
        *from
    }

    #[inline(always)]
    fn low_nibbles(self, bytes: [u8; 4 * LANES]) -> [u8; 4 * LANES] {
        plain::low_nibbles(bytes)
    }

    #[inline(always)]
    fn high_nibbles(self, bytes: [u8; 4 * LANES]) -> [u8; 4 * LANES] {
        plain::high_nibbles(bytes)
    }

    #[inline(always)]
    fn dot_unsigned<const V: usize, const TOGETHER: usize>(
        self,
        bytes: &[[u8; 4 * LANES]; V],
        x: &[[i8; 4]; V],
    ) -> [f32; LANES] {
        plain::dot(bytes, x, i32::from)
    }

    #[inline(always)]
    fn dot_bytes<const V: usize>(
        self,
        bytes: &[[u8; 4 * LANES]; V],
        x: &[[i8; 4]; V],
        _: f32,
    ) -> [f32; LANES] {
        plain::dot(bytes, x, |byte| i32::from(byte) - 128)
    }
}
