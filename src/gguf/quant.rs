//! The tensor types: how many bytes a block has and which numbers it stands for. The dequantisation
//! here is the plain reference (`f32`, one block after the other): it serves embedding rows and tests;
//! matrix products run on the blocks themselves.
//!
//! Source: `ggml-common.h` (block layouts) and `ggml-quants.c` (`dequantize_row_*`) of ggml.

use half::{bf16, f16};

/// A tensor type that ortolan computes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TensorType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of an `f32`.
    Bf16,
    /// 32 values: `d · (q − 8)`, `q` of 4 bits.
    Q4_0,
    /// 32 values: `d · q + m`, `q` of 4 bits.
    Q4_1,
    /// 32 values: `d · q`, `q` a signed byte.
    Q8_0,
}

/// Values in a quantised block of the types above.
pub const BLOCK: usize = 32;

/// The names of ggml's type numbers, for messages.
const NAMES: &[(u32, &str)] = &[
    (0, "F32"),
    (1, "F16"),
    (2, "Q4_0"),
    (3, "Q4_1"),
    (6, "Q5_0"),
    (7, "Q5_1"),
    (8, "Q8_0"),
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (12, "Q4_K"),
    (13, "Q5_K"),
    (14, "Q6_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (30, "BF16"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

impl TensorType {
    /// The type with ggml's number `id`; the error is its name, for those that are not supported.
    pub fn from_id(id: u32) -> Result<Self, String> {
        match id {
            0 => Ok(TensorType::F32),
            1 => Ok(TensorType::F16),
            30 => Ok(TensorType::Bf16),
            2 => Ok(TensorType::Q4_0),
            3 => Ok(TensorType::Q4_1),
            8 => Ok(TensorType::Q8_0),
            other => Err(NAMES
                .iter()
                .find(|(number, _)| *number == other)
                .map_or_else(|| format!("number {other}"), |(_, name)| (*name).to_owned())),
        }
    }

    /// Values in one block.
    pub fn block_values(self) -> usize {
        match self {
            TensorType::F32 | TensorType::F16 | TensorType::Bf16 => 1,
            TensorType::Q4_0 | TensorType::Q4_1 | TensorType::Q8_0 => BLOCK,
        }
    }

    /// Bytes of one block.
    pub fn block_bytes(self) -> usize {
        match self {
            TensorType::F32 => 4,
            TensorType::F16 | TensorType::Bf16 => 2,
            TensorType::Q4_0 => 2 + BLOCK / 2,
            TensorType::Q4_1 => 4 + BLOCK / 2,
            TensorType::Q8_0 => 2 + BLOCK,
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
        let pairs = blocks
            .chunks_exact(self.block_bytes())
            .zip(values.chunks_exact_mut(self.block_values()));
        for (block, values) in pairs {
            match self {
                TensorType::F32 => {
                    values[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
                }
                TensorType::F16 => values[0] = half_at(block, 0),
                TensorType::Bf16 => {
                    values[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32();
                }
                TensorType::Q4_0 => {
                    let scale = half_at(block, 0);
                    nibbles(&block[2..], values, |q| scale * (f32::from(q) - 8.0));
                }
                TensorType::Q4_1 => {
                    let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
                    nibbles(&block[4..], values, |q| scale * f32::from(q) + minimum);
                }
                TensorType::Q8_0 => {
                    let scale = half_at(block, 0);
                    for (value, q) in values.iter_mut().zip(&block[2..]) {
                        *value = scale * f32::from(*q as i8);
                    }
                }
            }
        }
    }
}

/// The half-precision number at byte `offset`.
pub fn half_at(block: &[u8], offset: usize) -> f32 {
    f16::from_le_bytes([block[offset], block[offset + 1]]).to_f32()
}

/// ggml's order: the low nibbles are the first half of the block, the high ones the second.
fn nibbles(bytes: &[u8], values: &mut [f32], value: impl Fn(u8) -> f32) {
    let (first, second) = values.split_at_mut(bytes.len());
    for ((byte, low), high) in bytes.iter().zip(first).zip(second) {
        *low = value(byte & 0x0f);
        *high = value(byte >> 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(kind: TensorType, block: &[u8], wanted: &[f32]) {
        let mut values = vec![0.0; wanted.len()];
        kind.dequantise(block, &mut values);
        assert_eq!(values, wanted);
    }

    fn half(value: f32) -> [u8; 2] {
        f16::from_f32(value).to_le_bytes()
    }

    #[test]
    fn blocks_stand_for_their_numbers() {
        check(TensorType::F32, &(-1.5f32).to_le_bytes(), &[-1.5]);
        check(TensorType::F16, &half(0.25), &[0.25]);
        check(TensorType::Bf16, &[0x80, 0x3f], &[1.0]);

        // Low nibbles 0..=15, high nibbles all 3.
        let quants: Vec<u8> = (0..16).map(|low| 0x30 | low).collect();
        let mut wanted: Vec<f32> = (0..16).map(|q| 0.5 * (q as f32 - 8.0)).collect();
        wanted.extend([0.5 * (3.0 - 8.0); 16]);
        check(
            TensorType::Q4_0,
            &[&half(0.5)[..], &quants].concat(),
            &wanted,
        );

        let mut wanted: Vec<f32> = (0..16).map(|q| 0.5 * q as f32 - 2.0).collect();
        wanted.extend([0.5 * 3.0 - 2.0; 16]);
        check(
            TensorType::Q4_1,
            &[&half(0.5)[..], &half(-2.0), &quants].concat(),
            &wanted,
        );

        let quants: Vec<u8> = (0..32).map(|q| (q as i8 - 16) as u8).collect();
        let wanted: Vec<f32> = (0..32).map(|q| 2.0 * (q as f32 - 16.0)).collect();
        check(
            TensorType::Q8_0,
            &[&half(2.0)[..], &quants].concat(),
            &wanted,
        );
    }

    #[test]
    fn an_unsupported_type_is_named() {
        assert_eq!(TensorType::from_id(12), Err("Q4_K".to_owned()));
        assert_eq!(TensorType::from_id(9999), Err("number 9999".to_owned()));
    }
}
