//! The types with blocks of 256 values that are points of a grid, eight or four values each, and signs.

use half::f16;

use super::{Parts, half_at, u16_at, u32_at};

/// Values of a block.
const VALUES: usize = 256;

/// The grids' points, packed (`tests/golden/quants.py` says how and makes the file).
static POINTS: &[u8; 2 * (256 + 512 + 1024 + 2048 + 256 + 512)] = include_bytes!("grids.bin");

/// A grid: which points of the file are its own, and what their parts stand for.
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
    /// The point of that number, as many values as `codes` has.
    fn point(&self, number: usize, codes: &mut [i8]) {
        let packed = u16_at(POINTS, 2 * (self.first + number));
        let bits = 16 / codes.len();
        for (place, code) in codes.iter_mut().enumerate() {
            let level = packed >> (bits * place) & ((1 << bits) - 1);
            *code = self.levels[usize::from(level)];
        }
    }
}

/// Turns the codes whose bit is set.
fn turn(signs: u8, codes: &mut [i8]) {
    for (place, code) in codes.iter_mut().enumerate() {
        if signs >> place & 1 == 1 {
            *code = -*code;
        }
    }
}

/// Eight signs of which seven are stored: an even number is negative.
fn even_signs(seven: u32) -> u8 {
    let seven = (seven & 0x7f) as u8;
    seven | ((seven.count_ones() & 1) << 7) as u8
}

/// A scale's code with a half added, so that none is 0.
fn half_above(code: u32) -> f32 {
    0.5 + code as f32
}

pub(super) fn iq2_xxs(block: &[u8], parts: &mut Parts) {
    let scale = half_at(block, 0);
    let groups = block[2..].chunks_exact(8);
    for (group, (bytes, codes)) in groups.zip(parts.codes.chunks_exact_mut(32)).enumerate() {
        let signs = u32_at(bytes, 4);
        parts.scales[group] = scale * half_above(signs >> 28) * 0.25;
        for (place, codes) in codes.chunks_exact_mut(8).enumerate() {
            IQ2_XXS.point(usize::from(bytes[place]), codes);
            turn(even_signs(signs >> (7 * place)), codes);
        }
    }
}

pub(super) fn iq2_xs(block: &[u8], parts: &mut Parts) {
    let (points, packed) = block[2..].split_at(VALUES / 4);
    scales_of_pairs(half_at(block, 0), packed, parts);
    for (place, codes) in parts.codes.chunks_exact_mut(8).enumerate() {
        let point = u16_at(points, 2 * place);
        IQ2_XS.point(usize::from(point & 511), codes);
        turn(even_signs(u32::from(point >> 9)), codes);
    }
}

pub(super) fn iq2_s(block: &[u8], parts: &mut Parts) {
    let (points, rest) = block[2..].split_at(VALUES / 8);
    let (signs, rest) = rest.split_at(VALUES / 8);
    let (high, packed) = rest.split_at(VALUES / 32);
    scales_of_pairs(half_at(block, 0), packed, parts);
    for (place, codes) in parts.codes.chunks_exact_mut(8).enumerate() {
        let high = high[place / 4] >> (2 * (place % 4)) & 3;
        let point = usize::from(points[place]) | usize::from(high) << 8;
        IQ2_S.point(point, codes);
        turn(signs[place], codes);
    }
}

/// Scales of groups of 16, two in a byte.
fn scales_of_pairs(scale: f32, packed: &[u8], parts: &mut Parts) {
    for (group, to) in parts.scales.iter_mut().enumerate() {
        let code = packed[group / 2] >> (4 * (group % 2)) & 0x0f;
        *to = scale * half_above(u32::from(code)) * 0.25;
    }
}

pub(super) fn iq3_xxs(block: &[u8], parts: &mut Parts) {
    let scale = half_at(block, 0);
    let (points, packed) = block[2..].split_at(VALUES / 4);
    for (group, codes) in parts.codes.chunks_exact_mut(32).enumerate() {
        let signs = u32_at(packed, 4 * group);
        parts.scales[group] = scale * half_above(signs >> 28) * 0.5;
        for (place, codes) in codes.chunks_exact_mut(8).enumerate() {
            let first = 8 * group + 2 * place;
            let (left, right) = codes.split_at_mut(4);
            IQ3_XXS.point(usize::from(points[first]), left);
            IQ3_XXS.point(usize::from(points[first + 1]), right);
            turn(even_signs(signs >> (7 * place)), codes);
        }
    }
}

pub(super) fn iq3_s(block: &[u8], parts: &mut Parts) {
    let scale = half_at(block, 0);
    let (points, rest) = block[2..].split_at(VALUES / 4);
    let (high, rest) = rest.split_at(VALUES / 32);
    let (signs, packed) = rest.split_at(VALUES / 8);
    for group in 0..VALUES / 32 {
        let code = packed[group / 2] >> (4 * (group % 2)) & 0x0f;
        parts.scales[group] = scale * f32::from(1 + 2 * code);
    }
    for (place, codes) in parts.codes.chunks_exact_mut(4).enumerate() {
        let high = high[place / 8] >> (place % 8) & 1;
        let point = usize::from(points[place]) | usize::from(high) << 8;
        IQ3_S.point(point, codes);
        turn(signs[place / 2] >> (4 * (place % 2)) & 0x0f, codes);
    }
}

pub(super) fn iq1_s(block: &[u8], parts: &mut Parts) {
    let scale = half_at(block, 0);
    let (points, high) = block[2..].split_at(VALUES / 8);
    for (group, codes) in parts.codes.chunks_exact_mut(32).enumerate() {
        let high = u16_at(high, 2 * group);
        parts.scales[group] = eighth(scale * f32::from(2 * (high >> 12 & 7) + 1));
        for (place, codes) in codes.chunks_exact_mut(8).enumerate() {
            let top = usize::from(high >> (3 * place) & 7);
            IQ1.point(usize::from(points[4 * group + place]) | top << 8, codes);
            shift(high >> 15 == 1, codes);
        }
    }
}

pub(super) fn iq1_m(block: &[u8], parts: &mut Parts) {
    let (points, rest) = block.split_at(VALUES / 8);
    let (high, packed) = rest.split_at(VALUES / 16);
    let word = |number| u16_at(packed, 2 * number);
    // The block's own scale is in the upper four bits of the four words with the groups' scales.
    let bits = (0..4).fold(0, |bits, number| bits | word(number) >> 12 << (4 * number));
    let scale = f16::from_bits(bits).to_f32();
    for (group, to) in parts.scales.iter_mut().enumerate() {
        let code = word(group / 4) >> (3 * (group % 4)) & 7;
        *to = eighth(scale * f32::from(2 * code + 1));
    }
    for (place, codes) in parts.codes.chunks_exact_mut(8).enumerate() {
        let high = high[place / 2] >> (4 * (place % 2)) & 0x0f;
        let point = usize::from(points[place]) | usize::from(high & 7) << 8;
        IQ1.point(point, codes);
        shift(high >> 3 == 1, codes);
    }
}

/// IQ1's values are moved by an eighth up or down: their codes are eighths.
fn shift(down: bool, codes: &mut [i8]) {
    for code in codes {
        *code = 8 * *code + if down { -1 } else { 1 };
    }
}

fn eighth(scale: f32) -> f32 {
    scale * 0.125
}
