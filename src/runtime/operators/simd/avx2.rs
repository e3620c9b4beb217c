//! The lanes as one AVX2 register, with FMA and F16C.

use std::arch::x86_64::*;

use half::f16;

use super::{LANES, Simd, Work};

/// Proof that the processor has AVX2, FMA and F16C: only [`Avx2::detect`] makes one.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    pub(super) fn detect() -> Option<Avx2> {
        let all = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        all.then_some(Avx2(()))
    }
}

impl Simd for Avx2 {
    type Vector = __m256;

    #[inline]
    fn enter<W: Work>(self, work: W) -> W::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled_for_avx2<W: Work>(simd: Avx2, work: W) -> W::Output {
            work.run(simd)
        }
        // SAFETY: `self` proves that the processor has these features.
        unsafe { compiled_for_avx2(self, work) }
    }

    #[inline(always)]
    fn prefetch<T>(self, place: &T) {
        // SAFETY: prefetching neither faults nor changes memory.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(std::ptr::from_ref(place).cast()) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: `self` proves AVX.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> __m256 {
        // SAFETY: `self` proves AVX; the array holds the eight floats that are read, unaligned.
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> __m256 {
        // SAFETY: `self` proves F16C; the array holds the 16 bytes that are read, unaligned.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn store(self, value: __m256, to: &mut [f32; LANES]) {
        // SAFETY: `self` proves AVX; the array holds the eight floats that are written, unaligned.
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), value) }
    }

    #[inline(always)]
    fn store_f16(self, value: __m256, to: &mut [f16; LANES]) {
        // SAFETY: `self` proves F16C; the array holds the 16 bytes that are written, unaligned.
        unsafe {
            _mm_storeu_si128(
                to.as_mut_ptr().cast(),
                _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(value),
            )
        }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn subtract(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn multiply(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn multiply_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` proves FMA.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX.
        unsafe { _mm256_max_ps(a, b) }
    }

    #[inline(always)]
    fn zero_below(self, value: __m256, test: __m256, limit: f32) -> __m256 {
        // SAFETY: `self` proves AVX.
        unsafe {
            _mm256_andnot_ps(
                _mm256_cmp_ps::<_CMP_LT_OQ>(test, _mm256_set1_ps(limit)),
                value,
            )
        }
    }

    #[inline(always)]
    fn shift_exponent(self, value: __m256, exponent: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let shift = _mm256_slli_epi32::<23>(_mm256_castps_si256(exponent));
            _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(value), shift))
        }
    }

    #[inline(always)]
    fn sum_lanes(self, values: [__m256; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        // SAFETY: `self` proves AVX; the array holds the four floats that are written, unaligned.
        unsafe {
            let pairs = [
                _mm256_hadd_ps(values[0], values[1]),
                _mm256_hadd_ps(values[2], values[3]),
            ];
            let halves = _mm256_hadd_ps(pairs[0], pairs[1]);
            let both = _mm_add_ps(
                _mm256_castps256_ps128(halves),
                _mm256_extractf128_ps::<1>(halves),
            );
            _mm_storeu_ps(sums.as_mut_ptr(), both);
        }
        sums
    }
}
