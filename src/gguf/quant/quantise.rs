//! The way back: numbers become blocks, as ggml's reference makes them.
//!
//! Source: `quantize_row_q4_0_ref` and `quantize_row_q8_0_ref` (`ggml-quants.c`).

use half::f16;
use rayon::prelude::*;

use super::TensorType;

/// Values of a block.
const VALUES: usize = 32;

/// Values that one thread takes at a time: whole blocks of every type.
const PIECE_VALUES: usize = 1 << 16;

/// Parts of the names of matrices that stay as they are: what they do needs more than blocks stand for (llama.cpp's
/// `tensor_allows_quantization`).
const KEPT: [&str; 11] = [
    "_norm.weight",
    "ffn_gate_inp.weight",
    "position_embd.weight",
    "token_types.weight",
    "attn_rel_b.weight",
    "ssm_conv1d",
    "shortconv.conv.weight",
    "time_mix_",
    "altup",
    "laurel",
    "per_layer_model_proj",
];

/// Whether the tensor of that name (GGUF's) and shape is a matrix that may be quantised.
pub fn is_quantisable(name: &str, shape: &[usize]) -> bool {
    shape.len() > 1 && name.ends_with(".weight") && !KEPT.iter().any(|part| name.contains(part))
}

/// A type that numbers can be turned into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// Codes of 4 bits in groups of 32.
    Q4_0,
    /// Codes of 8 bits in groups of 32.
    Q8_0,
}

/// Numbers that no block stands for: one is not finite, or too large for a scale in half precision.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("the number {0} cannot be a part of a block")]
pub struct NotQuantisable(pub f32);

impl From<Target> for TensorType {
    fn from(target: Target) -> Self {
        match target {
            Target::F32 => Self::F32,
            Target::F16 => Self::F16,
            Target::Q4_0 => Self::Q4_0,
            Target::Q8_0 => Self::Q8_0,
        }
    }
}

impl Target {
    /// Whether the tensor of that name (GGUF's) and shape, contiguous dimension first, can be blocks of this type.
    pub fn serves(self, name: &str, shape: &[usize]) -> bool {
        is_quantisable(name, shape) && self.fits(shape)
    }

    /// Whether rows of a tensor of that shape, contiguous dimension first, are whole blocks of this type.
    pub fn fits(self, shape: &[usize]) -> bool {
        shape[0].is_multiple_of(TensorType::from(self).block_values())
    }

    /// The blocks that stand for what `blocks` of the type `kind` stand for, by all threads.
    ///
    /// # Errors
    /// No block stands for a number of them.
    pub fn requantise(self, kind: TensorType, blocks: &[u8]) -> Result<Vec<u8>, NotQuantisable> {
        let to = TensorType::from(self);
        let values = blocks.len() / kind.block_bytes() * kind.block_values();
        let mut made = vec![0; values / to.block_values() * to.block_bytes()];
        let piece = |kind: TensorType| PIECE_VALUES / kind.block_values() * kind.block_bytes();
        made.par_chunks_mut(piece(to))
            .zip(blocks.par_chunks(piece(kind)))
            .try_for_each(|(made, blocks)| {
                let mut values = vec![0.0; made.len() / to.block_bytes() * to.block_values()];
                kind.dequantise(blocks, &mut values);
                self.quantise(&values, made)
            })?;
        Ok(made)
    }

    /// Writes the blocks that stand for `values`.
    ///
    /// # Errors
    /// No block stands for them.
    ///
    /// # Panics
    /// If `blocks` has not as many bytes as blocks of so many values have.
    pub fn quantise(self, values: &[f32], blocks: &mut [u8]) -> Result<(), NotQuantisable> {
        let kind = TensorType::from(self);
        assert_eq!(
            blocks.len() * kind.block_values(),
            values.len() * kind.block_bytes(),
            "values and their blocks of {kind:?} belong together"
        );
        let pairs = blocks
            .chunks_exact_mut(kind.block_bytes())
            .zip(values.chunks_exact(kind.block_values()));
        for (block, values) in pairs {
            if let Some(wrong) = values.iter().find(|value| !value.is_finite()) {
                return Err(NotQuantisable(*wrong));
            }
            match self {
                Target::F32 => block.copy_from_slice(&values[0].to_le_bytes()),
                Target::F16 => put_half(values[0], values[0], block)?,
                Target::Q4_0 => q4_0(values, block)?,
                Target::Q8_0 => q8_0(values, block)?,
            }
        }
        Ok(())
    }
}

/// Writes a number in half precision, in which it is to be finite; `largest` is whose it is.
fn put_half(number: f32, largest: f32, place: &mut [u8]) -> Result<(), NotQuantisable> {
    let half = f16::from_f32(number);
    match half.is_finite() {
        true => {
            place.copy_from_slice(&half.to_le_bytes());
            Ok(())
        }
        false => Err(NotQuantisable(largest)),
    }
}

/// The first of the numbers that are farthest from 0.
fn farthest(values: &[f32]) -> f32 {
    let farther = |far: f32, value: &f32| match value.abs() > far.abs() {
        true => *value,
        false => far,
    };
    values.iter().fold(0.0, farther)
}

fn inverse(scale: f32) -> f32 {
    match scale {
        0.0 => 0.0,
        scale => 1.0 / scale,
    }
}

fn q4_0(values: &[f32], block: &mut [u8]) -> Result<(), NotQuantisable> {
    let farthest = farthest(values);
    // It becomes the code -8, of which there is no opposite.
    let scale = farthest / -8.0;
    let (scale_place, codes) = block.split_at_mut(2);
    put_half(scale, farthest, scale_place)?;
    let inverse = inverse(scale);
    // Casting cuts the fraction off, and what is beyond.
    let code = |value: f32| ((value * inverse + 8.5) as u8).min(15);
    let (low, high) = values.split_at(VALUES / 2);
    for (byte, (low, high)) in codes.iter_mut().zip(low.iter().zip(high)) {
        *byte = code(*low) | code(*high) << 4;
    }
    Ok(())
}

fn q8_0(values: &[f32], block: &mut [u8]) -> Result<(), NotQuantisable> {
    let farthest = farthest(values);
    let scale = farthest.abs() / 127.0;
    let (scale_place, codes) = block.split_at_mut(2);
    put_half(scale, farthest, scale_place)?;
    let inverse = inverse(scale);
    for (byte, value) in codes.iter_mut().zip(values) {
        *byte = (value * inverse).round() as i8 as u8;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    /// By `tests/golden/quants.py`.
    fn golden() -> serde_json::Value {
        serde_json::from_str(include_str!("../../../tests/golden/quantized.json")).unwrap()
    }

    #[test]
    fn blocks_are_those_of_an_independent_implementation() {
        let golden = golden();
        let bytes = |key: &str| STANDARD.decode(golden[key].as_str().unwrap()).unwrap();
        let words = bytes("values");
        let words = words.as_chunks::<4>().0.iter();
        let values: Vec<f32> = words.map(|word| f32::from_le_bytes(*word)).collect();
        for (target, name) in [
            (Target::F16, "F16"),
            (Target::Q4_0, "Q4_0"),
            (Target::Q8_0, "Q8_0"),
        ] {
            let wanted = bytes(name);
            let mut blocks = vec![0; wanted.len()];
            target.quantise(&values, &mut blocks).unwrap();
            assert!(blocks == wanted, "{name}");
        }
    }

    #[test]
    fn numbers_that_no_block_stands_for_are_refused() {
        let check = |target: Target, number: f32, fine: bool| {
            let mut values = [1.0; VALUES];
            values[7] = number;
            let kind = TensorType::from(target);
            let mut blocks = vec![0; VALUES / kind.block_values() * kind.block_bytes()];
            let done = target.quantise(&values, &mut blocks);
            assert_eq!(done.is_ok(), fine, "{target:?} {number}: {done:?}");
        };
        for target in [Target::F32, Target::F16, Target::Q4_0, Target::Q8_0] {
            check(target, 0.0, true);
            check(target, f32::NAN, false);
            check(target, f32::NEG_INFINITY, false);
        }
        check(Target::F32, 1e9, true);
        check(Target::F16, 1e5, false);
        check(Target::Q4_0, 5e5, true);
        check(Target::Q4_0, 1e6, false);
        check(Target::Q8_0, 8e6, true);
        check(Target::Q8_0, 9e6, false);
    }

    proptest! {
        /// A code is the one that is next to the number, but for the end of Q4_0's range that has one less.
        #[test]
        fn numbers_stay_where_they_are(values in prop::collection::vec(-100.0_f32..100.0, VALUES)) {
            for (target, steps) in [(Target::Q4_0, 8.0), (Target::Q8_0, 127.0)] {
                let kind = TensorType::from(target);
                let mut block = vec![0; kind.block_bytes()];
                target.quantise(&values, &mut block).unwrap();
                let mut found = [0.0; VALUES];
                kind.dequantise(&block, &mut found);
                let step = farthest(&values).abs() / steps;
                // The scale is rounded to half precision: to a part in 2048 of the largest number.
                let rounded = step * steps / 2048.0;
                let most = rounded * 1.01 + match target {
                    Target::Q4_0 => step,
                    _ => step / 2.0,
                };
                for (value, found) in values.iter().zip(&found) {
                    prop_assert!((value - found).abs() <= most);
                }
            }
        }
    }
}
