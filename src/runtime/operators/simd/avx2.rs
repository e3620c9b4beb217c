//! SIMD with one AVX2 register for eight lanes, with FMA and F16C; optionally with AVX-512 VNNI, whose int8 dot product
//! is one instruction instead of three. Both variants return the same bits.

use std::arch::x86_64::*;

use half::f16;

use super::{LANES, Simd, WithSimd};

/// The AVX2 implementation. Only [`Avx2::detect`] creates a value, if the CPU supports AVX2, FMA and F16C, and with
/// `VNNI` also AVX-512 VNNI for 256-bit vectors.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2<const VNNI: bool>(());

impl<const VNNI: bool> Avx2<VNNI> {
    pub(super) fn detect() -> Option<Self> {
        let all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        let vnni = is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512vnni");
        (all && (vnni || !VNNI)).then_some(Self(()))
    }
}

impl<const VNNI: bool> Simd for Avx2<VNNI> {
    type Vector = __m256;
    type Bytes = __m256i;

    #[inline]
    fn enter<W: WithSimd>(self, work: W) -> W::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled_for_avx2<W: WithSimd, const VNNI: bool>(
            simd: Avx2<VNNI>,
            work: W,
        ) -> W::Output {
            work.run(simd)
        }
        #[target_feature(enable = "avx2,fma,f16c,avx512vl,avx512vnni")]
        fn compiled_for_vnni<W: WithSimd, const VNNI: bool>(
            simd: Avx2<VNNI>,
            work: W,
        ) -> W::Output {
            work.run(simd)
        }
        if VNNI {
            // SAFETY: `self` exists only if the CPU supports these features.
            return unsafe { compiled_for_vnni(self, work) };
        }
        // SAFETY: `self` exists only if the CPU supports these features.
        unsafe { compiled_for_avx2(self, work) }
    }

    #[inline(always)]
    fn prefetch<T>(self, target: &T) {
        // SAFETY: prefetching neither faults nor changes memory.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(target).cast()) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: `self` exists only if the CPU supports AVX.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m256 {
        // SAFETY: `self` exists only if the CPU supports AVX. The unaligned load reads the array's eight floats.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> __m256 {
        // SAFETY: `self` exists only if the CPU supports F16C. The unaligned load reads the array's 16 bytes.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store(self, value: __m256, to: &mut [f32; LANES]) {
        // SAFETY: `self` exists only if the CPU supports AVX. The unaligned store writes the array's eight floats.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn store_f16(self, value: __m256, to: &mut [f16; LANES]) {
        // SAFETY: `self` exists only if the CPU supports F16C. The unaligned store writes the array's 16 bytes.
        unsafe {
            _mm_storeu_si128(
                to.as_mut_ptr().cast(),
                _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value),
            )
        }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` exists only if the CPU supports AVX.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn subtract(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` exists only if the CPU supports AVX.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn multiply(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` exists only if the CPU supports AVX.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn multiply_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` exists only if the CPU supports FMA.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` exists only if the CPU supports AVX.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn zero_below(self, value: __m256, test: __m256, limit: f32) -> __m256 {
        // SAFETY: `self` exists only if the CPU supports AVX.
        unsafe {
            _mm256_andnot_ps(
                _mm256_cmp_ps::<_CMP_LT_OQ>(test, _mm256_set1_ps(limit)),
                value,
            )
        }
    }

    #[inline(always)]
    fn shift_exponent(self, value: __m256, exponent: __m256) -> __m256 {
        // SAFETY: `self` exists only if the CPU supports AVX2.
        unsafe {
            let shift = _mm256_slli_epi32::<23>(_mm256_castps_si256(exponent));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(value), shift))
        }
    }

    #[inline(always)]
    fn sum_lanes(self, values: [__m256; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        // SAFETY: `self` exists only if the CPU supports AVX. The unaligned store writes the array's four floats.
        unsafe {
            let pairs = [
                _mm256_hadd_ps(values[0], values[1]),
                _mm256_hadd_ps(values[2], values[3]),
            ];
            let halves = _mm256_hadd_ps(pairs[0], pairs[1]);
            let sums_of_lanes = _mm_add_ps(
                _mm256_castps256_ps128(halves),
                _mm256_extractf128_ps::<1>(halves),
            );
            _mm_storeu_ps(sums.as_mut_ptr(), sums_of_lanes);
        }
        sums
    }

    #[inline(always)]
    fn divide(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` exists only if the CPU supports AVX.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn abs(self, value: __m256) -> __m256 {
        // SAFETY: `self` exists only if the CPU supports AVX.
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), value) }
    }

    #[inline(always)]
    fn round(self, value: __m256) -> [i8; LANES] {
        let mut bytes = [0; LANES];
        // SAFETY: `self` exists only if the CPU supports AVX2. The unaligned store writes the array's eight bytes.
        unsafe {
            let words = _mm256_cvtps_epi32(value);
            let low = _mm256_castsi256_si128(words);
            let high = _mm256_extracti128_si256::<1>(words);
            let halves = _mm_packs_epi32(low, high);
            _mm_storel_epi64(bytes.as_mut_ptr().cast(), _mm_packs_epi16(halves, halves));
        }
        bytes
    }

    #[inline(always)]
    fn load_f32_bytes(self, from: &[u8; 4 * LANES]) -> __m256 {
        // SAFETY: `self` exists only if the CPU supports AVX. The unaligned load reads the array's 32 bytes.
        unsafe { _mm256_loadu_ps(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_f16_bytes(self, from: &[u8; 2 * LANES]) -> __m256 {
        // SAFETY: `self` exists only if the CPU supports F16C. The unaligned load reads the array's 16 bytes.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; 4 * LANES]) -> __m256i {
        // SAFETY: `self` exists only if the CPU supports AVX. The unaligned load reads the array's 32 bytes.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn low_nibbles(self, bytes: __m256i) -> __m256i {
        // SAFETY: `self` exists only if the CPU supports AVX2.
        unsafe { _mm256_and_si256(bytes, _mm256_set1_epi8(0x0f)) }
    }

    #[inline(always)]
    fn high_nibbles(self, bytes: __m256i) -> __m256i {
        // SAFETY: `self` exists only if the CPU supports AVX2.
        unsafe { _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), _mm256_set1_epi8(0x0f)) }
    }

    #[inline(always)]
    fn dot_unsigned<const V: usize, const VECTORS_IN_I16: usize>(
        self,
        bytes: &[__m256i; V],
        x: &[[i8; 4]; V],
    ) -> __m256 {
        if VNNI {
            // SAFETY: `VNNI` is true.
            return unsafe { self.dot_vnni(bytes, x) };
        }
        // SAFETY: `self` exists only if the CPU supports AVX2.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut sums = _mm256_setzero_si256();
            let mut first = 0;
            while first < V {
                let mut products = _mm256_maddubs_epi16(bytes[first], broadcast(x[first]));
                let mut next = first + 1;
                while next < V && next < first + VECTORS_IN_I16 {
                    let more = _mm256_maddubs_epi16(bytes[next], broadcast(x[next]));
                    products = _mm256_add_epi16(products, more);
                    next += 1;
                }
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(products, ones));
                first = next;
            }
            _mm256_cvtepi32_ps(sums)
        }
    }

    #[inline(always)]
    fn dot_bytes<const V: usize>(
        self,
        bytes: &[__m256i; V],
        x: &[[i8; 4]; V],
        correction: f32,
    ) -> __m256 {
        if VNNI {
            // SAFETY: `VNNI` is true.
            let dot = unsafe { self.dot_vnni(bytes, x) };
            return self.subtract(dot, self.splat(correction));
        }
        // SAFETY: `self` exists only if the CPU supports AVX2.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut sums = _mm256_setzero_si256();
            for (bytes, x) in bytes.iter().zip(x) {
                let bytes = _mm256_xor_si256(*bytes, _mm256_set1_epi8(i8::MIN));
                // b · x = |b| · (x with the sign of b); the sum of two such products fits into 16 bits.
                let signed = _mm256_sign_epi8(broadcast(*x), bytes);
                let products = _mm256_maddubs_epi16(_mm256_abs_epi8(bytes), signed);
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(products, ones));
            }
            _mm256_cvtepi32_ps(sums)
        }
    }
}

impl<const VNNI: bool> Avx2<VNNI> {
    /// As [`Simd::dot_unsigned`], with VNNI instructions.
    ///
    /// # Safety
    /// `VNNI` must be true.
    #[inline(always)]
    unsafe fn dot_vnni<const V: usize>(self, bytes: &[__m256i; V], x: &[[i8; 4]; V]) -> __m256 {
        // SAFETY: `self` exists only if the CPU supports AVX2 and, because `VNNI` is true, VNNI.
        unsafe {
            // Each instruction depends on the sum that it updates, so two sums hide the latency.
            let mut sums = [_mm256_setzero_si256(); 2];
            for (index, (bytes, x)) in bytes.iter().zip(x).enumerate() {
                let sum = &mut sums[index % 2];
                *sum = _mm256_dpbusd_epi32(*sum, *bytes, broadcast(*x));
            }
            _mm256_cvtepi32_ps(_mm256_add_epi32(sums[0], sums[1]))
        }
    }
}

/// Repeats the four bytes in each of the eight lanes.
///
/// # Safety
/// The CPU must support AVX2.
#[inline(always)]
unsafe fn broadcast(x: [i8; 4]) -> __m256i {
    // SAFETY: the caller guarantees that the CPU supports AVX2.
    unsafe { _mm256_set1_epi32(i32::from_ne_bytes(x.map(i8::cast_unsigned))) }
}
