//! Decodes IQ1, IQ2 and IQ3 types: blocks of 256 values. Eight (IQ1, IQ2) or four (IQ3) quants are stored as the index
//! of a point in a codebook (grid). IQ2 and IQ3 store the signs separately; IQ1 adds a delta.

use half::f16;

use super::{DecodedBlock, half_at, u16_at, u32_at};

/// Number of values in a block.
const VALUES: usize = 256;

/// The points of all grids, packed by `tests/golden/quants.py`, which documents the encoding.
static POINTS: &[u8; 2 * (256 + 512 + 1024 + 2048 + 256 + 512)] = include_bytes!("grids.bin");

/// A codebook: the index of its first point in [`POINTS`], and the quants (levels) that the components of a point can
/// have.
struct Grid<const LEVELS: usize> {
    first: usize,
    levels: [i8; LEVELS],
}

const IQ2_LEVELS: [i8; 3] = [8, 25, 43];
const IQ2_XXS: Grid<3> = Grid {
    first: 0,
    levels: IQ2_LEVELS,
};
const IQ2_XS: Grid<3> = Grid {
    first: 256,
    levels: IQ2_LEVELS,
};
const IQ2_S: Grid<3> = Grid {
    first: 256 + 512,
    levels: IQ2_LEVELS,
};
const IQ1: Grid<3> = Grid {
    first: 256 + 512 + 1024,
    levels: [-1, 0, 1],
};
const IQ3_XXS: Grid<8> = Grid {
    first: 256 + 512 + 1024 + 2048,
    levels: [4, 12, 20, 28, 36, 44, 52, 62],
};
const IQ3_S: Grid<8> = Grid {
    first: 256 + 512 + 1024 + 2048 + 256,
    levels: [1, 3, 5, 7, 9, 11, 13, 15],
};

impl<const LEVELS: usize> Grid<LEVELS> {
    /// Unpacks the point with index `index` into `quants`.
    fn unpack_point(&self, index: usize, quants: &mut [i8]) {
        let packed = u16_at(POINTS, 2 * (self.first + index));
        let bits = 16 / quants.len();
        for (index, quant) in quants.iter_mut().enumerate() {
            let level = packed >> (bits * index) & ((1 << bits) - 1);
            *quant = self.levels[usize::from(level)];
        }
    }
}

/// Negates the quants whose sign bit is set.
fn apply_signs(signs: u8, quants: &mut [i8]) {
    for (index, quant) in quants.iter_mut().enumerate() {
        if signs >> index & 1 == 1 {
            *quant = -*quant;
        }
    }
}

/// Returns eight sign bits: the seven stored bits, and an eighth bit that makes the number of set bits even.
fn signs_with_parity(seven: u32) -> u8 {
    let seven = (seven & 0x7f) as u8;
    seven | ((seven.count_ones() & 1) << 7) as u8
}

/// Returns a stored scale plus 0.5. Therefore no scale is 0.
fn plus_half(stored: u32) -> f32 {
    0.5 + stored as f32
}

pub(super) fn iq2_xxs(block: &[u8], decoded: &mut DecodedBlock) {
    let scale = half_at(block, 0);
    let groups = block[2..].chunks_exact(8);
    for (group, (bytes, quants)) in groups.zip(decoded.quants.chunks_exact_mut(32)).enumerate() {
        let signs = u32_at(bytes, 4);
        decoded.scales[group] = scale * plus_half(signs >> 28) * 0.25;
        for (index, quants) in quants.chunks_exact_mut(8).enumerate() {
            IQ2_XXS.unpack_point(usize::from(bytes[index]), quants);
            apply_signs(signs_with_parity(signs >> (7 * index)), quants);
        }
    }
}

pub(super) fn iq2_xs(block: &[u8], decoded: &mut DecodedBlock) {
    let (points, packed) = block[2..].split_at(VALUES / 4);
    unpack_scales(half_at(block, 0), packed, decoded);
    for (index, quants) in decoded.quants.chunks_exact_mut(8).enumerate() {
        let point = u16_at(points, 2 * index);
        IQ2_XS.unpack_point(usize::from(point & 511), quants);
        apply_signs(signs_with_parity(u32::from(point >> 9)), quants);
    }
}

pub(super) fn iq2_s(block: &[u8], decoded: &mut DecodedBlock) {
    let (points, rest) = block[2..].split_at(VALUES / 8);
    let (signs, rest) = rest.split_at(VALUES / 8);
    let (high, packed) = rest.split_at(VALUES / 32);
    unpack_scales(half_at(block, 0), packed, decoded);
    for (index, quants) in decoded.quants.chunks_exact_mut(8).enumerate() {
        let high = high[index / 4] >> (2 * (index % 4)) & 3;
        let point = usize::from(points[index]) | usize::from(high) << 8;
        IQ2_S.unpack_point(point, quants);
        apply_signs(signs[index], quants);
    }
}

/// Unpacks the 4-bit scales of groups of 16, two in a byte.
fn unpack_scales(scale: f32, packed: &[u8], decoded: &mut DecodedBlock) {
    for (group, to) in decoded.scales.iter_mut().enumerate() {
        let scale_quant = packed[group / 2] >> (4 * (group % 2)) & 0x0f;
        *to = scale * plus_half(u32::from(scale_quant)) * 0.25;
    }
}

pub(super) fn iq3_xxs(block: &[u8], decoded: &mut DecodedBlock) {
    let scale = half_at(block, 0);
    let (points, packed) = block[2..].split_at(VALUES / 4);
    for (group, quants) in decoded.quants.chunks_exact_mut(32).enumerate() {
        let signs = u32_at(packed, 4 * group);
        decoded.scales[group] = scale * plus_half(signs >> 28) * 0.5;
        for (index, quants) in quants.chunks_exact_mut(8).enumerate() {
            let first = 8 * group + 2 * index;
            let (left, right) = quants.split_at_mut(4);
            IQ3_XXS.unpack_point(usize::from(points[first]), left);
            IQ3_XXS.unpack_point(usize::from(points[first + 1]), right);
            apply_signs(signs_with_parity(signs >> (7 * index)), quants);
        }
    }
}

pub(super) fn iq3_s(block: &[u8], decoded: &mut DecodedBlock) {
    let scale = half_at(block, 0);
    let (points, rest) = block[2..].split_at(VALUES / 4);
    let (high, rest) = rest.split_at(VALUES / 32);
    let (signs, packed) = rest.split_at(VALUES / 8);
    for group in 0..VALUES / 32 {
        let scale_quant = packed[group / 2] >> (4 * (group % 2)) & 0x0f;
        decoded.scales[group] = scale * f32::from(1 + 2 * scale_quant);
    }
    for (index, quants) in decoded.quants.chunks_exact_mut(4).enumerate() {
        let high = high[index / 8] >> (index % 8) & 1;
        let point = usize::from(points[index]) | usize::from(high) << 8;
        IQ3_S.unpack_point(point, quants);
        apply_signs(signs[index / 2] >> (4 * (index % 2)) & 0x0f, quants);
    }
}

pub(super) fn iq1_s(block: &[u8], decoded: &mut DecodedBlock) {
    let scale = half_at(block, 0);
    let (points, high) = block[2..].split_at(VALUES / 8);
    for (group, quants) in decoded.quants.chunks_exact_mut(32).enumerate() {
        let high = u16_at(high, 2 * group);
        decoded.scales[group] = eighth(scale * f32::from(2 * (high >> 12 & 7) + 1));
        for (index, quants) in quants.chunks_exact_mut(8).enumerate() {
            let top = usize::from(high >> (3 * index) & 7);
            IQ1.unpack_point(usize::from(points[4 * group + index]) | top << 8, quants);
            add_delta(high >> 15 == 1, quants);
        }
    }
}

pub(super) fn iq1_m(block: &[u8], decoded: &mut DecodedBlock) {
    let (points, rest) = block.split_at(VALUES / 8);
    let (high, packed) = rest.split_at(VALUES / 16);
    let word = |index| u16_at(packed, 2 * index);
    // The upper four bits of each of the four scale words form the block's scale.
    let bits = (0..4).fold(0, |bits, index| bits | word(index) >> 12 << (4 * index));
    let scale = f16::from_bits(bits).to_f32();
    for (group, to) in decoded.scales.iter_mut().enumerate() {
        let scale_quant = word(group / 4) >> (3 * (group % 4)) & 7;
        *to = eighth(scale * f32::from(2 * scale_quant + 1));
    }
    for (index, quants) in decoded.quants.chunks_exact_mut(8).enumerate() {
        let high = high[index / 2] >> (4 * (index % 2)) & 0x0f;
        let point = usize::from(points[index]) | usize::from(high & 7) << 8;
        IQ1.unpack_point(point, quants);
        add_delta(high >> 3 == 1, quants);
    }
}

/// Adds IQ1's delta to each quant: -1/8 if `down` is set, otherwise 1/8. The resulting quants are in units of 1/8.
fn add_delta(down: bool, quants: &mut [i8]) {
    for quant in quants {
        *quant = 8 * *quant + if down { -1 } else { 1 };
    }
}

fn eighth(scale: f32) -> f32 {
    scale * 0.125
}
