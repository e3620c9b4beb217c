//! Converts tensor blocks to the operands of ONNX Runtime's `MatMulNBits`, without loss. In `MatMulNBits`, a weight
//! with the scale `d` and the quant `q` is `d · (q − z)`, with a fixed zero point `z`. If a block has a min `m`, its
//! weights are `d · q + m`. A second matmul, 1/32 or 1/16 of the size, then adds the sum of each block's inputs,
//! multiplied by `m + z · d`.
//!
//! Source: `ContribOperators.md`, `MatMulNBits` (onnxruntime repository); ggml's block layouts.

use std::fmt;
use std::ops::Range;

use super::tensors::Tensor;
use crate::gguf::TensorType;
use crate::gguf::quant::{DecodedBlock, QuantFormat};

/// How matmuls with weights of a tensor type are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatmulKind {
    /// With quantized weights and int8 activations, group by group.
    Quantized {
        /// Number of bits of a quant in `MatMulNBits`: 4 or 8.
        bits: usize,
        /// Number of values that share a scale.
        group_size: usize,
        /// Whether groups have a min.
        has_min: bool,
    },
    /// With weights and activations in single precision.
    Dense,
}

impl From<TensorType> for MatmulKind {
    fn from(kind: TensorType) -> Self {
        match kind.quant_format() {
            None => Self::Dense,
            Some(format) => Self::Quantized {
                bits: bits(format),
                group_size: format.group_size,
                has_min: format.has_min,
            },
        }
    }
}

impl MatmulKind {
    /// Returns the size in bytes of the operands for a matrix of `values` values, of `MatMulNBits` or `MatMul`.
    pub(super) fn weight_bytes(self, values: usize) -> usize {
        match self {
            Self::Dense => values * size_of::<f32>(),
            Self::Quantized {
                bits,
                group_size,
                has_min,
            } => {
                let numbers = values / group_size * (1 + usize::from(has_min));
                values * bits / 8 + numbers * size_of::<f32>()
            }
        }
    }
}

impl fmt::Display for MatmulKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense => formatter.write_str("single-precision matmul"),
            Self::Quantized {
                bits,
                group_size,
                has_min,
            } => {
                write!(
                    formatter,
                    "int8 matmul, {bits}-bit quants in groups of {group_size}"
                )?;
                match has_min {
                    true => formatter.write_str(" with mins"),
                    false => Ok(()),
                }
            }
        }
    }
}

/// The operands of `MatMulNBits`, and of the matmul that adds mins.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NBitsOperands {
    /// Number of bits of a quant: 4 or 8.
    pub bits: usize,
    /// Number of values in a block.
    pub block_size: usize,
    /// `[rows, columns / block_size, block_size · bits / 8]`, unsigned, with the operator's default zero point (8 or
    /// 128).
    pub quants: Vec<u8>,
    /// `[rows, columns / block_size]`.
    pub scales: Vec<f32>,
    /// `[columns / block_size, rows]`, for types with mins: multiplied by the sum of a block's inputs and added to the
    /// result.
    pub offsets: Option<Vec<f32>>,
}

/// The default zero point of `MatMulNBits` for 4 bits.
const ZERO_POINT_4_BITS: i8 = 8;

/// Returns the quant that becomes the operator's zero point. The rounding error of an input is multiplied by the
/// distance of a quant from the zero point. For types with mins, offsets compensate any zero point, so the middle of
/// the range is used.
fn zero_point(format: QuantFormat) -> i8 {
    match format.has_min {
        true => format.min_quant + format.max_quant.abs_diff(format.min_quant).div_ceil(2) as i8,
        false => 0,
    }
}

/// Returns the operands of the stacked matrices `tensors`; `None` if the tensors are floats, or contain values that
/// cannot be quantized.
///
/// # Panics
/// If the tensors differ in type or columns, or `tensors` is empty.
pub(super) fn stack_quantized(tensors: &[Tensor<'_>]) -> Option<NBitsOperands> {
    let (kind, columns) = (tensors[0].matmul_type(), tensors[0].columns());
    assert!(
        tensors
            .iter()
            .all(|tensor| tensor.matmul_type() == kind && tensor.columns() == columns),
        "stacked tensors have one type and one width"
    );
    let rows = tensors.iter().map(|tensor| tensor.rows()).sum();
    let blocks: Result<Vec<_>, _> = tensors.iter().map(Tensor::matmul_blocks).collect();
    let (format, blocks) = (kind.quant_format()?, blocks.ok()?);
    let blocks = blocks
        .iter()
        .flat_map(|blocks| blocks.chunks_exact(kind.block_bytes()));
    let mut operands = NBitsOperands::with_capacity(format, rows, columns);
    let groups = kind.block_values() / format.group_size;
    let mut decoded = DecodedBlock::default();
    for (index, block) in blocks.enumerate() {
        kind.decode_block(block, &mut decoded);
        operands.push(format, &decoded, index * groups..(index + 1) * groups, rows);
    }
    Some(operands)
}

/// Returns the stacked matrices, dequantized and transposed: `[columns, rows]`.
pub(super) fn stack_transposed(tensors: &[Tensor<'_>]) -> Vec<f32> {
    let columns = tensors[0].columns();
    let rows: usize = tensors.iter().map(Tensor::rows).sum();
    let mut dense = vec![0.0; rows * columns];
    let mut values = vec![0.0; columns];
    let source_rows = tensors.iter();
    let source_rows =
        source_rows.flat_map(|tensor| (0..tensor.rows()).map(move |row| (tensor, row)));
    for (index, (tensor, row)) in source_rows.enumerate() {
        tensor.read_rows(row..row + 1, &mut values);
        for (column, value) in values.iter().enumerate() {
            dense[column * rows + index] = *value;
        }
    }
    dense
}

/// Returns the number of bits per quant that `MatMulNBits` needs for `format`.
fn bits(format: QuantFormat) -> usize {
    match format.max_quant.abs_diff(format.min_quant) {
        ..16 => 4,
        _ => 8,
    }
}

/// Returns the minimum batch size for batch-invariant results. With 4-bit quants in blocks of 32, ONNX Runtime uses
/// another kernel for a single row.
pub(super) fn min_rows(kinds: impl IntoIterator<Item = TensorType>) -> usize {
    let differs = |format| bits(format) == 4 && format.group_size == 32;
    let mut kinds = kinds.into_iter();
    match kinds.any(|kind| kind.quant_format().is_some_and(differs)) {
        true => 2,
        false => 1,
    }
}

impl NBitsOperands {
    fn with_capacity(format: QuantFormat, rows: usize, columns: usize) -> Self {
        let (bits, groups) = (bits(format), rows * columns / format.group_size);
        Self {
            bits,
            block_size: format.group_size,
            quants: Vec::with_capacity(rows * columns * bits / 8),
            scales: Vec::with_capacity(groups),
            offsets: format.has_min.then(|| vec![0.0; groups]),
        }
    }

    /// Appends the groups of a decoded block. `range` contains the indices of the groups in the matrix.
    fn push(
        &mut self,
        format: QuantFormat,
        decoded: &DecodedBlock,
        range: Range<usize>,
        rows: usize,
    ) {
        let zero = zero_point(format);
        let groups = range.len();
        self.scales.extend(&decoded.scales[..groups]);
        match self.bits {
            4 => {
                let (pairs, _) = decoded.quants[..groups * format.group_size].as_chunks::<2>();
                let nibble = |quant: i8| (quant - zero + ZERO_POINT_4_BITS) as u8;
                let bytes = pairs
                    .iter()
                    .map(|[low, high]| nibble(*low) | nibble(*high) << 4);
                self.quants.extend(bytes);
            }
            _ => {
                // Flipping the sign bit of a signed byte adds 128.
                let byte = |quant: &i8| (quant - zero) as u8 ^ 0x80;
                let quants = &decoded.quants[..groups * format.group_size];
                self.quants.extend(quants.iter().map(byte));
            }
        }
        if let Some(offsets) = &mut self.offsets {
            let per_row = offsets.len() / rows;
            for (group, (scale, min)) in range.zip(decoded.scales.iter().zip(&decoded.mins)) {
                let offset = min + scale * f32::from(zero);
                offsets[group % per_row * rows + group / per_row] = offset;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    /// Returns random blocks with small scales.
    fn random_blocks(kind: TensorType, blocks: usize) -> Vec<u8> {
        let mut bytes = vec![0_u8; blocks * kind.block_bytes()];
        StdRng::seed_from_u64(1).fill(&mut bytes[..]);
        // Clearing the highest exponent bit of a half-precision number keeps its magnitude below 2.
        bytes.iter_mut().for_each(|byte| *byte &= 0xbf);
        if kind == TensorType::Q8K {
            let scales = bytes.chunks_exact_mut(kind.block_bytes());
            scales.for_each(|block| block[..4].copy_from_slice(&0.3_f32.to_le_bytes()));
        }
        bytes
    }

    /// Returns the values that the operands represent.
    fn values(operands: &NBitsOperands, rows: usize, columns: usize) -> Vec<f32> {
        let per_row = columns / operands.block_size;
        (0..rows * columns)
            .map(|index| {
                let (group, quants) = (index / operands.block_size, &operands.quants);
                let quant = match operands.bits {
                    4 => i32::from(quants[index / 2] >> (4 * (index % 2)) & 0x0f) - 8,
                    _ => i32::from(quants[index]) - 128,
                };
                let offset = |offsets: &Vec<f32>| offsets[group % per_row * rows + group / per_row];
                operands.scales[group] * quant as f32
                    + operands.offsets.as_ref().map_or(0.0, offset)
            })
            .collect()
    }

    #[test]
    fn operands_represent_the_values_of_the_blocks() {
        let (rows, columns) = (6, 512);
        for kind in TensorType::ALL {
            let bytes = random_blocks(kind, rows * columns / kind.block_values());
            // Two stacked matrices.
            let (upper, lower) = bytes.split_at(bytes.len() / 3);
            let tensor = |bytes, rows| Tensor {
                kind,
                quantize_to: None,
                shape: vec![columns, rows],
                bytes,
                value_offset: 0.0,
            };
            let mut expected = vec![0.0; rows * columns];
            kind.dequantize(&bytes, &mut expected);
            let matmul = MatmulKind::from(kind);
            let stacked = [tensor(upper, 2), tensor(lower, 4)];
            let found = match stack_quantized(&stacked) {
                Some(operands) => {
                    let numbers = operands.scales.len() + operands.offsets.iter().flatten().count();
                    let bytes = operands.quants.len() + numbers * size_of::<f32>();
                    assert_eq!(matmul.weight_bytes(rows * columns), bytes);
                    values(&operands, rows, columns)
                }
                None => {
                    assert_eq!(matmul, MatmulKind::Dense);
                    let dense = stack_transposed(&stacked);
                    (0..rows * columns)
                        .map(|index| dense[index % columns * rows + index / columns])
                        .collect()
                }
            };
            for (index, (found, expected)) in found.iter().zip(&expected).enumerate() {
                // The offset that represents a min adds rounding errors.
                assert!(
                    (found - expected).abs() <= 1e-5 * expected.abs().max(16.0),
                    "{kind:?} {index}: {found} {expected}"
                );
            }
        }
    }
}
