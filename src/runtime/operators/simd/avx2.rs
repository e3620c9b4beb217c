//! The lanes as one AVX2 register, with FMA and F16C; and the same with VNNI, which multiplies bytes in one instruction where AVX2
//! takes three. Both give the same bits.

use std::arch::x86_64::*;

use half::f16;

use super::{LANES, Simd, Work};

/// Proof that the processor has AVX2, FMA and F16C, and AVX-512's VNNI for such vectors if it is one `VNNI`: only
/// [`Avx2::detect`] makes one.
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
    fn enter<W: Work>(self, work: W) -> W::Output {
        #[target_feature(enable = "avx2,fma,f16c")]
        fn compiled_for_avx2<W: Work, const VNNI: bool>(simd: Avx2<VNNI>, work: W) -> W::Output {
            work.run(simd)
        }
        #[target_feature(enable = "avx2,fma,f16c,avx512vl,avx512vnni")]
        fn compiled_for_vnni<W: Work, const VNNI: bool>(simd: Avx2<VNNI>, work: W) -> W::Output {
            work.run(simd)
        }
        if VNNI {
            // SAFETY: `self` proves that the processor has these features.
            return unsafe { compiled_for_vnni(self, work) };
        }
        // SAFETY: the same.
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

    #[inline(always)]
    fn divide(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX.
        unsafe { _mm256_div_ps(a, b) }
    }

    #[inline(always)]
    fn magnitude(self, value: __m256) -> __m256 {
        // SAFETY: `self` proves AVX.
        unsafe { _mm256_andnot_ps(_mm256_set1_ps(-0.0), value) }
    }

    #[inline(always)]
    fn round(self, value: __m256) -> [i8; LANES] {
        let mut bytes = [0; LANES];
        // SAFETY: `self` proves AVX2; the array holds the eight bytes that are written, unaligned.
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
        // SAFETY: `self` proves AVX; the array holds the 32 bytes that are read, unaligned.
        unsafe { _mm256_loadu_ps(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_f16_bytes(self, from: &[u8; 2 * LANES]) -> __m256 {
        // SAFETY: `self` proves F16C; the array holds the 16 bytes that are read, unaligned.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(from.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_bytes(self, from: &[u8; 4 * LANES]) -> __m256i {
        // SAFETY: `self` proves AVX; the array holds the 32 bytes that are read, unaligned.
        unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
    }

    #[inline(always)]
    fn low_nibbles(self, bytes: __m256i) -> __m256i {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_and_si256(bytes, _mm256_set1_epi8(0x0f)) }
    }

    #[inline(always)]
    fn high_nibbles(self, bytes: __m256i) -> __m256i {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_and_si256(_mm256_srli_epi16::<4>(bytes), _mm256_set1_epi8(0x0f)) }
    }

    #[inline(always)]
    fn dot_unsigned<const V: usize, const TOGETHER: usize>(
        self,
        bytes: &[__m256i; V],
        x: &[[i8; 4]; V],
    ) -> __m256 {
        if VNNI {
            return self.dot_in_one(bytes, x);
        }
        // SAFETY: `self` proves AVX2.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut sums = _mm256_setzero_si256();
            let mut first = 0;
            while first < V {
                let mut products = _mm256_maddubs_epi16(bytes[first], four_times(x[first]));
                let mut next = first + 1;
                while next < V && next < first + TOGETHER {
                    let more = _mm256_maddubs_epi16(bytes[next], four_times(x[next]));
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
        above: f32,
    ) -> __m256 {
        if VNNI {
            return self.subtract(self.dot_in_one(bytes, x), self.splat(above));
        }
        // SAFETY: `self` proves AVX2.
        unsafe {
            let ones = _mm256_set1_epi16(1);
            let mut sums = _mm256_setzero_si256();
            for (bytes, x) in bytes.iter().zip(x) {
                let bytes = _mm256_xor_si256(*bytes, _mm256_set1_epi8(i8::MIN));
                // |b| · (x with the sign of b): no two products together leave 16 bits.
                let signed = _mm256_sign_epi8(four_times(*x), bytes);
                let products = _mm256_maddubs_epi16(_mm256_abs_epi8(bytes), signed);
                sums = _mm256_add_epi32(sums, _mm256_madd_epi16(products, ones));
            }
            _mm256_cvtepi32_ps(sums)
        }
    }
}

impl<const VNNI: bool> Avx2<VNNI> {
    /// Of each lane the sum of its bytes, which have no sign, each times the byte of `x` in its place. The processor is to have
    /// VNNI.
    #[inline(always)]
    fn dot_in_one<const V: usize>(self, bytes: &[__m256i; V], x: &[[i8; 4]; V]) -> __m256 {
        // SAFETY: `self` proves VNNI and AVX2.
        unsafe {
            // One instruction waits for the other's sum: there are two.
            let mut sums = [_mm256_setzero_si256(); 2];
            for (place, (bytes, x)) in bytes.iter().zip(x).enumerate() {
                let sum = &mut sums[place % 2];
                *sum = _mm256_dpbusd_epi32(*sum, *bytes, four_times(*x));
            }
            _mm256_cvtepi32_ps(_mm256_add_epi32(sums[0], sums[1]))
        }
    }
}

/// The four bytes in every lane.
///
/// # Safety
/// The processor has AVX2.
#[inline(always)]
unsafe fn four_times(x: [i8; 4]) -> __m256i {
    // SAFETY: the caller promises it.
    unsafe { _mm256_set1_epi32(i32::from_ne_bytes(x.map(i8::cast_unsigned))) }
}
