//! The tensor types: how many bytes a block has and which numbers it stands for. Every quantised type is taken apart
//! into the same parts ([`Parts`]): matrix products are made of them, and the plain dequantisation (`f32`, one block after
//! the other), which serves embedding rows and tests.
//!
//! Source: `ggml-common.h` (block layouts) and `ggml-quants.c` (`dequantize_row_*`) of ggml; the OCP's specification of
//! microscaling formats for MXFP4.

mod codebooks;
mod k_quants;
mod quantise;
mod small;
mod ternary;

use half::f16;
use half::slice::HalfFloatSliceExt;

pub use quantise::{NotQuantisable, Target, is_quantisable};

/// A tensor type that ortolan computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(
    missing_docs,
    reason = "ggml's names; `Codes` and the files of this folder say what they are"
)]
pub enum TensorType {
    F32,
    F16,
    Bf16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Q8K,
    Iq1S,
    Iq1M,
    Iq2Xxs,
    Iq2Xs,
    Iq2S,
    Iq3Xxs,
    Iq3S,
    Iq4Nl,
    Iq4Xs,
    Tq1_0,
    Tq2_0,
    Mxfp4,
}

/// Most values of a block.
const MOST_VALUES: usize = 256;
/// Fewest values of a group.
const LEAST_GROUP: usize = 16;

/// What a quantised type's codes are. A value is `scale · code`, or `scale · code + minimum`; a group of values shares both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Codes {
    /// Values of a group: 16 or 32.
    pub group: usize,
    /// The smallest code.
    pub least: i8,
    /// The largest code.
    pub most: i8,
    /// Whether groups have a minimum other than 0. Their codes then begin at 0.
    pub minimum: bool,
    /// Whether scales and minimums are numbers of half precision.
    pub half: bool,
}

/// A block taken apart: value `i` is `scales[g] · codes[i] + minimums[g]` with `g` = `i / group`.
pub struct Parts {
    /// A code for each value.
    pub codes: [i8; MOST_VALUES],
    /// A scale for each group.
    pub scales: [f32; MOST_VALUES / LEAST_GROUP],
    /// What is added in each group.
    pub minimums: [f32; MOST_VALUES / LEAST_GROUP],
}

impl Default for Parts {
    fn default() -> Self {
        Self {
            codes: [0; MOST_VALUES],
            scales: [0.0; MOST_VALUES / LEAST_GROUP],
            minimums: [0.0; MOST_VALUES / LEAST_GROUP],
        }
    }
}

/// A type's number and name in ggml, the values of its blocks and their bytes.
struct Layout {
    id: u32,
    name: &'static str,
    values: usize,
    bytes: usize,
}

/// Types that are no model's weights, or whose numbers nobody has yet described well enough.
const UNSUPPORTED: &[(u32, &str)] = &[
    (9, "Q8_1"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

impl TensorType {
    /// All of them.
    pub const ALL: [TensorType; 26] = [
        TensorType::F32,
        TensorType::F16,
        TensorType::Bf16,
        TensorType::Q4_0,
        TensorType::Q4_1,
        TensorType::Q5_0,
        TensorType::Q5_1,
        TensorType::Q8_0,
        TensorType::Q2K,
        TensorType::Q3K,
        TensorType::Q4K,
        TensorType::Q5K,
        TensorType::Q6K,
        TensorType::Q8K,
        TensorType::Iq1S,
        TensorType::Iq1M,
        TensorType::Iq2Xxs,
        TensorType::Iq2Xs,
        TensorType::Iq2S,
        TensorType::Iq3Xxs,
        TensorType::Iq3S,
        TensorType::Iq4Nl,
        TensorType::Iq4Xs,
        TensorType::Tq1_0,
        TensorType::Tq2_0,
        TensorType::Mxfp4,
    ];

    fn layout(self) -> Layout {
        let (id, name, values, bytes) = match self {
            TensorType::F32 => (0, "F32", 1, 4),
            TensorType::F16 => (1, "F16", 1, 2),
            TensorType::Bf16 => (30, "BF16", 1, 2),
            TensorType::Q4_0 => (2, "Q4_0", 32, 18),
            TensorType::Q4_1 => (3, "Q4_1", 32, 20),
            TensorType::Q5_0 => (6, "Q5_0", 32, 22),
            TensorType::Q5_1 => (7, "Q5_1", 32, 24),
            TensorType::Q8_0 => (8, "Q8_0", 32, 34),
            TensorType::Q2K => (10, "Q2_K", 256, 84),
            TensorType::Q3K => (11, "Q3_K", 256, 110),
            TensorType::Q4K => (12, "Q4_K", 256, 144),
            TensorType::Q5K => (13, "Q5_K", 256, 176),
            TensorType::Q6K => (14, "Q6_K", 256, 210),
            TensorType::Q8K => (15, "Q8_K", 256, 292),
            TensorType::Iq1S => (19, "IQ1_S", 256, 50),
            TensorType::Iq1M => (29, "IQ1_M", 256, 56),
            TensorType::Iq2Xxs => (16, "IQ2_XXS", 256, 66),
            TensorType::Iq2Xs => (17, "IQ2_XS", 256, 74),
            TensorType::Iq2S => (22, "IQ2_S", 256, 82),
            TensorType::Iq3Xxs => (18, "IQ3_XXS", 256, 98),
            TensorType::Iq3S => (21, "IQ3_S", 256, 110),
            TensorType::Iq4Nl => (20, "IQ4_NL", 32, 18),
            TensorType::Iq4Xs => (23, "IQ4_XS", 256, 136),
            TensorType::Tq1_0 => (34, "TQ1_0", 256, 54),
            TensorType::Tq2_0 => (35, "TQ2_0", 256, 66),
            TensorType::Mxfp4 => (39, "MXFP4", 32, 17),
        };
        Layout {
            id,
            name,
            values,
            bytes,
        }
    }

    /// The type with ggml's number `id`; the error is its name, for those that are not supported.
    pub fn from_id(id: u32) -> Result<Self, String> {
        if let Some(known) = Self::ALL.into_iter().find(|kind| kind.id() == id) {
            return Ok(known);
        }
        let named = UNSUPPORTED.iter().find(|(number, _)| *number == id);
        Err(named.map_or_else(|| format!("number {id}"), |(_, name)| (*name).to_owned()))
    }

    /// ggml's number.
    pub fn id(self) -> u32 {
        self.layout().id
    }

    /// ggml's name.
    pub fn name(self) -> &'static str {
        self.layout().name
    }

    /// Values in one block.
    pub fn block_values(self) -> usize {
        self.layout().values
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        self.layout().bytes
    }

    /// What its codes are; `None` for floats.
    pub fn codes(self) -> Option<Codes> {
        let (group, least, most, minimum) = match self {
            TensorType::F32 | TensorType::F16 | TensorType::Bf16 => return None,
            TensorType::Q4_0 => (32, -8, 7, false),
            TensorType::Q4_1 | TensorType::Q4K => (32, 0, 15, true),
            TensorType::Q5_0 => (32, -16, 15, false),
            TensorType::Q5_1 | TensorType::Q5K => (32, 0, 31, true),
            TensorType::Q8_0 | TensorType::Q8K => (32, -128, 127, false),
            TensorType::Q2K => (16, 0, 3, true),
            TensorType::Q3K => (16, -4, 3, false),
            TensorType::Q6K => (16, -32, 31, false),
            TensorType::Iq1S => (32, -9, 9, false),
            TensorType::Iq1M => (16, -9, 9, false),
            TensorType::Iq2Xxs => (32, -43, 43, false),
            TensorType::Iq2Xs | TensorType::Iq2S => (16, -43, 43, false),
            TensorType::Iq3Xxs => (32, -62, 62, false),
            TensorType::Iq3S => (32, -15, 15, false),
            TensorType::Iq4Nl | TensorType::Iq4Xs => (32, -127, 113, false),
            TensorType::Tq1_0 => (32, -1, 1, false),
            // Two bits could say 2.
            TensorType::Tq2_0 => (32, -1, 2, false),
            TensorType::Mxfp4 => (32, -12, 12, false),
        };
        let half = matches!(
            self,
            TensorType::Q4_0
                | TensorType::Q4_1
                | TensorType::Q5_0
                | TensorType::Q5_1
                | TensorType::Q8_0
                | TensorType::Iq4Nl
                | TensorType::Tq1_0
                | TensorType::Tq2_0
        );
        Some(Codes {
            group,
            least,
            most,
            minimum,
            half,
        })
    }

    /// Takes a block of a quantised type apart. What of `parts` is beyond its values stays as it was, and its minimums do
    /// where the type has none.
    ///
    /// # Panics
    /// If `block` is not the bytes of one block; if the type is of floats.
    pub fn take_apart(self, block: &[u8], parts: &mut Parts) {
        assert_eq!(block.len(), self.block_bytes(), "a block of {self:?}");
        match self {
            TensorType::F32 | TensorType::F16 | TensorType::Bf16 => {
                panic!("{self:?} has no parts")
            }
            TensorType::Q4_0 => small::q4_0(block, parts),
            TensorType::Q4_1 => small::q4_1(block, parts),
            TensorType::Q5_0 => small::q5_0(block, parts),
            TensorType::Q5_1 => small::q5_1(block, parts),
            TensorType::Q8_0 => small::q8_0(block, parts),
            TensorType::Iq4Nl => small::iq4_nl(block, parts),
            TensorType::Mxfp4 => small::mxfp4(block, parts),
            TensorType::Q2K => k_quants::q2_k(block, parts),
            TensorType::Q3K => k_quants::q3_k(block, parts),
            TensorType::Q4K => k_quants::q4_k(block, parts),
            TensorType::Q5K => k_quants::q5_k(block, parts),
            TensorType::Q6K => k_quants::q6_k(block, parts),
            TensorType::Q8K => k_quants::q8_k(block, parts),
            TensorType::Iq4Xs => k_quants::iq4_xs(block, parts),
            TensorType::Iq1S => codebooks::iq1_s(block, parts),
            TensorType::Iq1M => codebooks::iq1_m(block, parts),
            TensorType::Iq2Xxs => codebooks::iq2_xxs(block, parts),
            TensorType::Iq2Xs => codebooks::iq2_xs(block, parts),
            TensorType::Iq2S => codebooks::iq2_s(block, parts),
            TensorType::Iq3Xxs => codebooks::iq3_xxs(block, parts),
            TensorType::Iq3S => codebooks::iq3_s(block, parts),
            TensorType::Tq1_0 => ternary::tq1_0(block, parts),
            TensorType::Tq2_0 => ternary::tq2_0(block, parts),
        }
    }

    /// Writes the numbers that `blocks` stands for to `values`.
    ///
    /// # Panics
    /// If `blocks` is not just the bytes of `values.len()` values.
    pub fn dequantise(self, blocks: &[u8], values: &mut [f32]) {
        assert_eq!(
            blocks.len() * self.block_values(),
            values.len() * self.block_bytes(),
            "a slice of {self:?} blocks and its values belong together"
        );
        let Some(codes) = self.codes() else {
            return self.read_floats(blocks, values);
        };
        let pairs = blocks
            .chunks_exact(self.block_bytes())
            .zip(values.chunks_exact_mut(self.block_values()));
        let mut parts = Parts::default();
        for (block, values) in pairs {
            self.take_apart(block, &mut parts);
            let groups = values.chunks_exact_mut(codes.group);
            for (group, (values, codes)) in groups
                .zip(parts.codes.chunks_exact(codes.group))
                .enumerate()
            {
                let (scale, minimum) = (parts.scales[group], parts.minimums[group]);
                for (value, code) in values.iter_mut().zip(codes) {
                    *value = scale * f32::from(*code) + minimum;
                }
            }
        }
    }

    fn read_floats(self, bytes: &[u8], values: &mut [f32]) {
        /// Half-precision numbers that are converted together, by the processor if it can.
        const TOGETHER: usize = 64;

        match self {
            TensorType::F16 => {
                let mut halves = [f16::ZERO; TOGETHER];
                let parts = bytes.chunks(2 * TOGETHER);
                for (bytes, values) in parts.zip(values.chunks_mut(TOGETHER)) {
                    let halves = &mut halves[..values.len()];
                    for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
                        *half = f16::from_le_bytes(*bytes);
                    }
                    halves.convert_to_f32_slice(values);
                }
            }
            TensorType::Bf16 => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                    // The upper half of single precision.
                    *value = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
                }
            }
            _ => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                    *value = f32::from_le_bytes(*bytes);
                }
            }
        }
    }
}

/// The half-precision number at byte `offset`.
fn half_at(block: &[u8], offset: usize) -> f32 {
    f16::from_bits(u16_at(block, offset)).to_f32()
}

fn u16_at(block: &[u8], offset: usize) -> u16 {
    u16::from_le_bytes([block[offset], block[offset + 1]])
}

fn u32_at(block: &[u8], offset: usize) -> u32 {
    u32::from(u16_at(block, offset)) | u32::from(u16_at(block, offset + 2)) << 16
}

#[cfg(test)]
mod tests;
