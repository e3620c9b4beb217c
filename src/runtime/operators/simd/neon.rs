//! SIMD with two NEON registers for eight lanes.

use std::arch::aarch64::*;

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::{LANES, Simd, WithSimd, portable};

/// The NEON implementation. Only [`Neon::detect`] creates a value, if the CPU supports NEON.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neon(());

impl Neon {
    pub(super) fn detect() -> Option<Neon> {
        std::arch::is_aarch64_feature_detected!("neon").then_some(Neon(()))
    }
}

/// One register for lanes 0 to 3 and one for lanes 4 to 7.
type Pair = (float32x4_t, float32x4_t);

impl Simd for Neon {
    type Vector = Pair;
    type Bytes = [u8; 4 * LANES];

    #[inline]
    fn enter<W: WithSimd>(self, work: W) -> W::Output {
        #[target_feature(enable = "neon")]
        fn compiled_for_neon<W: WithSimd>(simd: Neon, work: W) -> W::Output {
            work.run(simd)
        }
        // SAFETY: `self` exists only if the CPU supports NEON.
        unsafe { compiled_for_neon(self, work) }
    }

    #[inline(always)]
    fn prefetch<T>(self, target: &T) {
        let address = std::ptr::from_ref(target);
        // SAFETY: prefetching neither faults nor changes memory.
        unsafe {
            std::arch::asm!(
                "prfm pldl2keep, [{address}]",
                address = in(reg) address,
                options(readonly, nostack, preserves_flags)
            );
        }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Pair {
        // SAFETY: `self` exists only if the CPU supports NEON.
        unsafe { (vdupq_n_f32(value), vdupq_n_f32(value)) }
    }

    #[inline(always)]
    fn load(self, from: &[f32; LANES]) -> Pair {
        // SAFETY: `self` exists only if the CPU supports NEON. The loads read the array's eight floats.
        unsafe { (vld1q_f32(from.as_ptr()), vld1q_f32(from.as_ptr().add(4))) }
    }

    #[inline(always)]
    fn load_f16(self, from: &[f16; LANES]) -> Pair {
        // f16 vectors are not stable in Rust; `fcvtl` is part of NEON on every aarch64.
        let (low, high): (float32x4_t, float32x4_t);
        // SAFETY: `self` exists only if the CPU supports NEON. The load reads the array's 16 bytes, and nothing is
        // written.
        unsafe {
            let halves = vld1q_u16(from.as_ptr().cast());
            std::arch::asm!(
                "fcvtl {low:v}.4s, {halves:v}.4h",
                "fcvtl2 {high:v}.4s, {halves:v}.8h",
                low = out(vreg) low,
                high = lateout(vreg) high,
                halves = in(vreg) halves,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        (low, high)
    }

    #[inline(always)]
    fn store(self, value: Pair, to: &mut [f32; LANES]) {
        // SAFETY: `self` exists only if the CPU supports NEON. The stores write the array's eight floats.
        unsafe {
            vst1q_f32(to.as_mut_ptr(), value.0);
            vst1q_f32(to.as_mut_ptr().add(4), value.1);
        }
    }

    #[inline(always)]
    fn store_f16(self, value: Pair, to: &mut [f16; LANES]) {
        let mut floats = [0.0; LANES];
        self.store(value, &mut floats);
        to.convert_from_f32_slice(&floats);
    }

    #[inline(always)]
    fn add(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: `self` exists only if the CPU supports NEON.
        unsafe { (vaddq_f32(a.0, b.0), vaddq_f32(a.1, b.1)) }
    }

    #[inline(always)]
    fn subtract(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: `self` exists only if the CPU supports NEON.
        unsafe { (vsubq_f32(a.0, b.0), vsubq_f32(a.1, b.1)) }
    }

    #[inline(always)]
    fn multiply(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: `self` exists only if the CPU supports NEON.
        unsafe { (vmulq_f32(a.0, b.0), vmulq_f32(a.1, b.1)) }
    }

    #[inline(always)]
    fn multiply_add(self, a: Pair, b: Pair, c: Pair) -> Pair {
        // SAFETY: `self` exists only if the CPU supports NEON.
        unsafe { (vfmaq_f32(c.0, a.0, b.0), vfmaq_f32(c.1, a.1, b.1)) }
    }

    #[inline(always)]
    fn max(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: `self` exists only if the CPU supports NEON.
        unsafe { (vmaxq_f32(a.0, b.0), vmaxq_f32(a.1, b.1)) }
    }

    #[inline(always)]
    fn zero_below(self, value: Pair, test: Pair, limit: f32) -> Pair {
        // SAFETY: `self` exists only if the CPU supports NEON.
        unsafe {
            let limit = vdupq_n_f32(limit);
            let keep = |value, test| {
                vreinterpretq_f32_u32(vbicq_u32(
                    vreinterpretq_u32_f32(value),
                    vcltq_f32(test, limit),
                ))
            };
            (keep(value.0, test.0), keep(value.1, test.1))
        }
    }

    #[inline(always)]
    fn shift_exponent(self, value: Pair, exponent: Pair) -> Pair {
        // SAFETY: `self` exists only if the CPU supports NEON.
        unsafe {
            let shift = |value, exponent| {
                let shift = vshlq_n_u32::<23>(vreinterpretq_u32_f32(exponent));
                vreinterpretq_f32_u32(vaddq_u32(vreinterpretq_u32_f32(value), shift))
            };
            (shift(value.0, exponent.0), shift(value.1, exponent.1))
        }
    }

    #[inline(always)]
    fn sum_lanes(self, values: [Pair; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        // SAFETY: `self` exists only if the CPU supports NEON. The store writes the array's four floats.
        unsafe {
            let low = vpaddq_f32(
                vpaddq_f32(values[0].0, values[1].0),
                vpaddq_f32(values[2].0, values[3].0),
            );
            let high = vpaddq_f32(
                vpaddq_f32(values[0].1, values[1].1),
                vpaddq_f32(values[2].1, values[3].1),
            );
            vst1q_f32(sums.as_mut_ptr(), vaddq_f32(low, high));
        }
        sums
    }

    #[inline(always)]
    fn divide(self, a: Pair, b: Pair) -> Pair {
        // SAFETY: `self` exists only if the CPU supports NEON.
        unsafe { (vdivq_f32(a.0, b.0), vdivq_f32(a.1, b.1)) }
    }

    #[inline(always)]
    fn abs(self, value: Pair) -> Pair {
        // SAFETY: `self` exists only if the CPU supports NEON.
        unsafe { (vabsq_f32(value.0), vabsq_f32(value.1)) }
    }

    #[inline(always)]
    fn round(self, value: Pair) -> [i8; LANES] {
        let mut floats = [0.0; LANES];
        self.store(value, &mut floats);
        floats.map(|value| value.round_ties_even() as i8)
    }

    #[inline(always)]
    fn load_f32_bytes(self, from: &[u8; 4 * LANES]) -> Pair {
        self.load(&portable::f32s(from))
    }

    #[inline(always)]
    fn load_f16_bytes(self, from: &[u8; 2 * LANES]) -> Pair {
        self.load(&portable::f16s(from))
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
    ) -> Pair {
        self.load(&portable::dot(bytes, x, i32::from))
    }

    #[inline(always)]
    fn dot_bytes<const V: usize>(
        self,
        bytes: &[[u8; 4 * LANES]; V],
        x: &[[i8; 4]; V],
        _: f32,
    ) -> Pair {
        self.load(&portable::dot(bytes, x, |byte| i32::from(byte) - 128))
    }
}
