//! Tensor types: block sizes and dequantization. Blocks of quantized types decode to quants, scales and mins
//! ([`DecodedBlock`]), from which packed weights are built. [`TensorType::dequantize`] converts blocks to floats, for
//! embedding rows for example.
//!
//! Source: `ggml-common.h` (block layouts) and `ggml-quants.c` (`dequantize_row_*`) of ggml; the OCP's specification of
//! microscaling formats for MXFP4.

mod codebooks;
mod k_quants;
mod quantize;
mod small;
mod ternary;

use half::f16;
use half::slice::HalfFloatSliceExt;

pub use quantize::{NotQuantizable, QuantizeTarget, is_quantizable};

/// A supported tensor type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "ggml's names; `QuantFormat` and the submodules describe them")]
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

/// Maximum number of values in a block.
const MAX_BLOCK_VALUES: usize = 256;
/// Minimum number of values in a group.
const MIN_GROUP_SIZE: usize = 16;

/// The format of a quantized type. A value is `scale · quant` or `scale · quant + min`; the quant (quantized value) is
/// an integer. The values of a group share a scale and a min.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuantFormat {
    /// Number of values in a group: 16 or 32.
    pub group_size: usize,
    /// The smallest possible quant.
    pub min_quant: i8,
    /// The largest possible quant.
    pub max_quant: i8,
    /// Whether groups have a min. Quants of types with mins are at least 0.
    pub has_min: bool,
    /// Whether half precision represents scales and mins exactly.
    pub half_precision: bool,
}

/// A decoded block: value `i` is `scales[g] · quants[i] + mins[g]` with `g = i / group_size`.
pub struct DecodedBlock {
    /// The quant of each value.
    pub quants: [i8; MAX_BLOCK_VALUES],
    /// The scale of each group.
    pub scales: [f32; MAX_BLOCK_VALUES / MIN_GROUP_SIZE],
    /// The min of each group.
    pub mins: [f32; MAX_BLOCK_VALUES / MIN_GROUP_SIZE],
}

impl Default for DecodedBlock {
    fn default() -> Self {
        Self {
            quants: [0; MAX_BLOCK_VALUES],
            scales: [0.0; MAX_BLOCK_VALUES / MIN_GROUP_SIZE],
            mins: [0.0; MAX_BLOCK_VALUES / MIN_GROUP_SIZE],
        }
    }
}

/// A type's number and name in ggml, and the number of values and bytes of a block.
struct Layout {
    id: u32,
    name: &'static str,
    values: usize,
    bytes: usize,
}

/// Number and name in ggml of unsupported types: models do not use them for weights, or their documentation is
/// incomplete.
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
    /// All supported types.
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

    /// Returns the type with the number `id` in ggml. The error is the name of the unsupported type.
    pub fn from_id(id: u32) -> Result<Self, String> {
        if let Some(known) = Self::ALL.into_iter().find(|kind| kind.id() == id) {
            return Ok(known);
        }
        let named = UNSUPPORTED.iter().find(|(number, _)| *number == id);
        Err(named.map_or_else(|| format!("number {id}"), |(_, name)| (*name).to_owned()))
    }

    /// The type's number in ggml.
    pub fn id(self) -> u32 {
        self.layout().id
    }

    /// The type's name in ggml.
    pub fn name(self) -> &'static str {
        self.layout().name
    }

    /// Number of values in a block.
    pub fn block_values(self) -> usize {
        self.layout().values
    }

    /// Number of bytes in a block.
    pub fn block_bytes(self) -> usize {
        self.layout().bytes
    }

    /// The format of the type's quants; `None` for floats.
    pub fn quant_format(self) -> Option<QuantFormat> {
        let (group_size, min_quant, max_quant, has_min) = match self {
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
            // The two bits of a quant can also encode 2.
            TensorType::Tq2_0 => (32, -1, 2, false),
            TensorType::Mxfp4 => (32, -12, 12, false),
        };
        let half_precision = matches!(
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
        Some(QuantFormat {
            group_size,
            min_quant,
            max_quant,
            has_min,
            half_precision,
        })
    }

    /// Decodes a block of a quantized type. Does not change entries of `decoded` past the block's values, nor the mins
    /// if the type has no mins.
    ///
    /// # Panics
    /// If `block` is not exactly one block, or the type is a float type.
    pub fn decode_block(self, block: &[u8], decoded: &mut DecodedBlock) {
        assert_eq!(block.len(), self.block_bytes(), "a block of {self:?}");
        match self {
            TensorType::F32 | TensorType::F16 | TensorType::Bf16 => {
                panic!("{self:?} is not quantized")
            }
            TensorType::Q4_0 => small::q4_0(block, decoded),
            TensorType::Q4_1 => small::q4_1(block, decoded),
            TensorType::Q5_0 => small::q5_0(block, decoded),
            TensorType::Q5_1 => small::q5_1(block, decoded),
            TensorType::Q8_0 => small::q8_0(block, decoded),
            TensorType::Iq4Nl => small::iq4_nl(block, decoded),
            TensorType::Mxfp4 => small::mxfp4(block, decoded),
            TensorType::Q2K => k_quants::q2_k(block, decoded),
            TensorType::Q3K => k_quants::q3_k(block, decoded),
            TensorType::Q4K => k_quants::q4_k(block, decoded),
            TensorType::Q5K => k_quants::q5_k(block, decoded),
            TensorType::Q6K => k_quants::q6_k(block, decoded),
            TensorType::Q8K => k_quants::q8_k(block, decoded),
            TensorType::Iq4Xs => k_quants::iq4_xs(block, decoded),
            TensorType::Iq1S => codebooks::iq1_s(block, decoded),
            TensorType::Iq1M => codebooks::iq1_m(block, decoded),
            TensorType::Iq2Xxs => codebooks::iq2_xxs(block, decoded),
            TensorType::Iq2Xs => codebooks::iq2_xs(block, decoded),
            TensorType::Iq2S => codebooks::iq2_s(block, decoded),
            TensorType::Iq3Xxs => codebooks::iq3_xxs(block, decoded),
            TensorType::Iq3S => codebooks::iq3_s(block, decoded),
            TensorType::Tq1_0 => ternary::tq1_0(block, decoded),
            TensorType::Tq2_0 => ternary::tq2_0(block, decoded),
        }
    }

    /// Dequantizes `blocks` to `values`.
    ///
    /// # Panics
    /// If `blocks` does not hold exactly `values.len()` values.
    pub fn dequantize(self, blocks: &[u8], values: &mut [f32]) {
        assert_eq!(
            blocks.len() * self.block_values(),
            values.len() * self.block_bytes(),
            "a slice of {self:?} blocks must hold as many values as the output"
        );
        let Some(format) = self.quant_format() else {
            return self.read_floats(blocks, values);
        };
        let pairs = blocks
            .chunks_exact(self.block_bytes())
            .zip(values.chunks_exact_mut(self.block_values()));
        let mut decoded = DecodedBlock::default();
        for (block, values) in pairs {
            self.decode_block(block, &mut decoded);
            let groups = values.chunks_exact_mut(format.group_size);
            for (group, (values, quants)) in groups
                .zip(decoded.quants.chunks_exact(format.group_size))
                .enumerate()
            {
                let (scale, min) = (decoded.scales[group], decoded.mins[group]);
                for (value, quant) in values.iter_mut().zip(quants) {
                    *value = scale * f32::from(*quant) + min;
                }
            }
        }
    }

    fn read_floats(self, bytes: &[u8], values: &mut [f32]) {
        /// Number of half-precision values to convert at once, so that the crate `half` uses vector instructions.
        const BATCH: usize = 64;

        match self {
            TensorType::F16 => {
                let mut halves = [f16::ZERO; BATCH];
                let batches = bytes.chunks(2 * BATCH);
                for (bytes, values) in batches.zip(values.chunks_mut(BATCH)) {
                    let halves = &mut halves[..values.len()];
                    for (half, bytes) in halves.iter_mut().zip(bytes.as_chunks().0) {
                        *half = f16::from_le_bytes(*bytes);
                    }
                    halves.convert_to_f32_slice(values);
                }
            }
            TensorType::Bf16 => {
                for (value, bytes) in values.iter_mut().zip(bytes.as_chunks().0) {
                    // A bfloat16 is the upper half of an `f32`.
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

/// Reads the half-precision number at byte offset `offset`.
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
