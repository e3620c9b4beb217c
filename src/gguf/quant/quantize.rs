//! Quantizes floats to blocks. The result is bit-identical to ggml's reference implementation.
//!
//! Source: `quantize_row_q4_0_ref` and `quantize_row_q8_0_ref` (`ggml-quants.c`).

use half::f16;
use rayon::prelude::*;

use super::TensorType;

/// Number of values in a block of Q4_0 or Q8_0.
const VALUES: usize = 32;

/// Number of values that a thread converts at a time: a multiple of every type's block size.
const CHUNK_VALUES: usize = 1 << 16;

/// Substrings of the names of matrices that are never quantized, because they need more precision (llama.cpp's
/// `tensor_allows_quantization`).
const UNQUANTIZED_NAMES: [&str; 11] = [
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

/// Whether the tensor with this GGUF name and shape is a matrix that may be quantized.
pub fn is_quantizable(name: &str, shape: &[usize]) -> bool {
    shape.len() > 1
        && name.ends_with(".weight")
        && !UNQUANTIZED_NAMES.iter().any(|part| name.contains(part))
}

/// A tensor type that ortolan can quantize to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuantizeTarget {
    /// 32-bit floats.
    F32,
    /// 16-bit floats (IEEE 754 half precision).
    F16,
    /// 4-bit quants in groups of 32, each with a half-precision scale.
    Q4_0,
    /// 8-bit quants in groups of 32, each with a half-precision scale.
    Q8_0,
}

/// A value that the target type cannot represent: not finite, or too large for half precision (F16) or a half-precision
/// scale (Q4_0, Q8_0).
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("the value {0} cannot be quantized")]
pub struct NotQuantizable(pub f32);

impl From<QuantizeTarget> for TensorType {
    fn from(target: QuantizeTarget) -> Self {
        match target {
            QuantizeTarget::F32 => Self::F32,
            QuantizeTarget::F16 => Self::F16,
            QuantizeTarget::Q4_0 => Self::Q4_0,
            QuantizeTarget::Q8_0 => Self::Q8_0,
        }
    }
}

impl QuantizeTarget {
    /// Whether the tensor with this GGUF name and shape (contiguous dimension first) can be quantized to this type.
    pub fn can_quantize(self, name: &str, shape: &[usize]) -> bool {
        is_quantizable(name, shape) && self.divides_rows_of(shape)
    }

    /// Whether the rows of a tensor with this shape (contiguous dimension first) consist of whole blocks of this type.
    pub fn divides_rows_of(self, shape: &[usize]) -> bool {
        shape[0].is_multiple_of(TensorType::from(self).block_values())
    }

    /// Converts `blocks` of type `kind` to this type, on all threads.
    ///
    /// # Errors
    /// If this type cannot represent a value.
    pub fn requantize(self, kind: TensorType, blocks: &[u8]) -> Result<Vec<u8>, NotQuantizable> {
        let to = TensorType::from(self);
        let values = blocks.len() / kind.block_bytes() * kind.block_values();
        let mut output = vec![0; values / to.block_values() * to.block_bytes()];
        let chunk_bytes =
            |kind: TensorType| CHUNK_VALUES / kind.block_values() * kind.block_bytes();
        output
            .par_chunks_mut(chunk_bytes(to))
            .zip(blocks.par_chunks(chunk_bytes(kind)))
            .try_for_each(|(output, blocks)| {
                let mut values = vec![0.0; output.len() / to.block_bytes() * to.block_values()];
                kind.dequantize(blocks, &mut values);
                self.quantize(&values, output)
            })?;
        Ok(output)
    }

    /// Quantizes `values` and writes the result to `blocks`.
    ///
    /// # Errors
    /// If this type cannot represent a value.
    ///
    /// # Panics
    /// If `blocks` does not hold exactly `values.len()` values.
    pub fn quantize(self, values: &[f32], blocks: &mut [u8]) -> Result<(), NotQuantizable> {
        let kind = TensorType::from(self);
        assert_eq!(
            blocks.len() * kind.block_values(),
            values.len() * kind.block_bytes(),
            "blocks of {kind:?} must hold as many values as the input"
        );
        let pairs = blocks
            .chunks_exact_mut(kind.block_bytes())
            .zip(values.chunks_exact(kind.block_values()));
        for (block, values) in pairs {
            if let Some(value) = values.iter().find(|value| !value.is_finite()) {
                return Err(NotQuantizable(*value));
            }
            match self {
                QuantizeTarget::F32 => block.copy_from_slice(&values[0].to_le_bytes()),
                QuantizeTarget::F16 => write_half(values[0], values[0], block)?,
                QuantizeTarget::Q4_0 => q4_0(values, block)?,
                QuantizeTarget::Q8_0 => q8_0(values, block)?,
            }
        }
        Ok(())
    }
}

/// Writes `number` in half precision. If `number` overflows, the error contains `largest`, the value that `number` was
/// computed from.
fn write_half(number: f32, largest: f32, output: &mut [u8]) -> Result<(), NotQuantizable> {
    let half = f16::from_f32(number);
    match half.is_finite() {
        true => {
            output.copy_from_slice(&half.to_le_bytes());
            Ok(())
        }
        false => Err(NotQuantizable(largest)),
    }
}

/// Returns the value with the largest magnitude, with its sign. If there are several, returns the first.
fn largest_magnitude(values: &[f32]) -> f32 {
    let larger = |largest: f32, value: &f32| match value.abs() > largest.abs() {
        true => *value,
        false => largest,
    };
    values.iter().fold(0.0, larger)
}

fn inverse(scale: f32) -> f32 {
    match scale {
        0.0 => 0.0,
        scale => 1.0 / scale,
    }
}

fn q4_0(values: &[f32], block: &mut [u8]) -> Result<(), NotQuantizable> {
    let largest = largest_magnitude(values);
    // `largest` becomes the quant -8. Quants range from -8 to 7.
    let scale = largest / -8.0;
    let (scale_bytes, quants) = block.split_at_mut(2);
    write_half(scale, largest, scale_bytes)?;
    let inverse = inverse(scale);
    // The cast truncates the fraction and saturates.
    let quant = |value: f32| ((value * inverse + 8.5) as u8).min(15);
    let (low, high) = values.split_at(VALUES / 2);
    for (byte, (low, high)) in quants.iter_mut().zip(low.iter().zip(high)) {
        *byte = quant(*low) | quant(*high) << 4;
    }
    Ok(())
}

fn q8_0(values: &[f32], block: &mut [u8]) -> Result<(), NotQuantizable> {
    let largest = largest_magnitude(values);
    let scale = largest.abs() / 127.0;
    let (scale_bytes, quants) = block.split_at_mut(2);
    write_half(scale, largest, scale_bytes)?;
    let inverse = inverse(scale);
    for (byte, value) in quants.iter_mut().zip(values) {
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

    /// Recorded by `tests/golden/quants.py`.
    fn golden() -> serde_json::Value {
        serde_json::from_str(include_str!("../../../tests/golden/quantized.json")).unwrap()
    }

    #[test]
    fn blocks_equal_those_of_an_independent_implementation() {
        let golden = golden();
        let bytes = |key: &str| STANDARD.decode(golden[key].as_str().unwrap()).unwrap();
        let words = bytes("values");
        let words = words.as_chunks::<4>().0.iter();
        let values: Vec<f32> = words.map(|word| f32::from_le_bytes(*word)).collect();
        for (target, name) in [
            (QuantizeTarget::F16, "F16"),
            (QuantizeTarget::Q4_0, "Q4_0"),
            (QuantizeTarget::Q8_0, "Q8_0"),
        ] {
            let expected = bytes(name);
            let mut blocks = vec![0; expected.len()];
            target.quantize(&values, &mut blocks).unwrap();
            assert!(blocks == expected, "{name}");
        }
    }

    #[test]
    fn rejects_values_that_no_block_can_represent() {
        let check = |target: QuantizeTarget, number: f32, is_representable: bool| {
            let mut values = [1.0; VALUES];
            values[7] = number;
            let kind = TensorType::from(target);
            let mut blocks = vec![0; VALUES / kind.block_values() * kind.block_bytes()];
            let result = target.quantize(&values, &mut blocks);
            assert_eq!(
                result.is_ok(),
                is_representable,
                "{target:?} {number}: {result:?}"
            );
        };
        for target in [
            QuantizeTarget::F32,
            QuantizeTarget::F16,
            QuantizeTarget::Q4_0,
            QuantizeTarget::Q8_0,
        ] {
            check(target, 0.0, true);
            check(target, f32::NAN, false);
            check(target, f32::NEG_INFINITY, false);
        }
        check(QuantizeTarget::F32, 1e9, true);
        check(QuantizeTarget::F16, 1e5, false);
        check(QuantizeTarget::Q4_0, 5e5, true);
        check(QuantizeTarget::Q4_0, 1e6, false);
        check(QuantizeTarget::Q8_0, 8e6, true);
        check(QuantizeTarget::Q8_0, 9e6, false);
    }

    proptest! {
        /// Quantization rounds to the nearest quant, except at the upper end of Q4_0's range from -8 to 7.
        #[test]
        fn dequantized_values_are_close_to_the_originals(values in prop::collection::vec(-100.0_f32..100.0, VALUES)) {
            for (target, steps) in [(QuantizeTarget::Q4_0, 8.0), (QuantizeTarget::Q8_0, 127.0)] {
                let kind = TensorType::from(target);
                let mut block = vec![0; kind.block_bytes()];
                target.quantize(&values, &mut block).unwrap();
                let mut dequantized = [0.0; VALUES];
                kind.dequantize(&block, &mut dequantized);
                let step = largest_magnitude(&values).abs() / steps;
                // Rounding the scale to half precision changes it by up to 1/2048.
                let scale_error = step * steps / 2048.0;
                let max_error = scale_error * 1.01 + match target {
                    QuantizeTarget::Q4_0 => step,
                    _ => step / 2.0,
                };
                for (value, dequantized) in values.iter().zip(&dequantized) {
                    prop_assert!((value - dequantized).abs() <= max_error);
                }
            }
        }
    }
}
