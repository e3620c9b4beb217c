//! From a tensor's blocks to the operands of a matrix product, exactly: the same quants under other
//! names. ONNX Runtime's `MatMulNBits` computes `d · (q − z)` with `z` fixed; a block with a minimum
//! (`d · q + m`) is that plus `m + z·d` times the sum of the block's inputs, a second product of 1/32 or 1/16 the size.
//!
//! Source: `ContribOperators.md`, `MatMulNBits` (onnxruntime repository); ggml's block layouts.

use std::fmt;
use std::ops::Range;

use super::tensors::Tensor;
use crate::gguf::TensorType;
use crate::gguf::quant::{Codes, Parts};

/// How products with a tensor type are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Computation {
    /// Group by group of codes.
    Blocks {
        /// Of each code.
        bits: usize,
        /// Values that share a scale.
        group: usize,
        /// Whether groups have a minimum.
        offsets: bool,
    },
    /// In single precision.
    Dense,
}

impl From<TensorType> for Computation {
    fn from(kind: TensorType) -> Self {
        match kind.codes() {
            None => Self::Dense,
            Some(codes) => Self::Blocks {
                bits: bits(codes),
                group: codes.group,
                offsets: codes.minimum,
            },
        }
    }
}

impl Computation {
    /// Bytes of the operands that a matrix of so many values becomes for `MatMulNBits`, or for `MatMul`.
    pub(super) fn operand_bytes(self, values: usize) -> usize {
        match self {
            Self::Dense => values * size_of::<f32>(),
            Self::Blocks {
                bits,
                group,
                offsets,
            } => {
                let numbers = values / group * (1 + usize::from(offsets));
                values * bits / 8 + numbers * size_of::<f32>()
            }
        }
    }
}

impl fmt::Display for Computation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense => formatter.write_str("products in single precision"),
            Self::Blocks {
                bits,
                group,
                offsets,
            } => {
                write!(
                    formatter,
                    "int8 products of {bits} bits in groups of {group}"
                )?;
                match offsets {
                    true => formatter.write_str(" with minimums"),
                    false => Ok(()),
                }
            }
        }
    }
}

/// Operands of `MatMulNBits`, blocks along a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Blocks {
    /// 4 or 8.
    pub bits: usize,
    /// Values of a block.
    pub block: usize,
    /// `[rows, columns / block, block · bits / 8]`, unsigned with the operator's default zero point (8 or 128).
    pub quants: Vec<u8>,
    /// `[rows, columns / block]`.
    pub scales: Vec<f32>,
    /// `[columns / block, rows]`: what is still to be added per sum of a block's inputs.
    pub offsets: Option<Vec<f32>>,
}

/// The zero point that `MatMulNBits` takes for 4 bits if it gets none.
const ZERO_POINT_4_BITS: i8 = 8;

/// The code that becomes the operator's zero. What is rounded away of an input counts as often as codes are far from it, so
/// where there is an offset to make up for it, it is the middle one.
fn zero_code(codes: Codes) -> i8 {
    match codes.minimum {
        true => codes.least + codes.most.abs_diff(codes.least).div_ceil(2) as i8,
        false => 0,
    }
}

/// The operands of the matrices `tensors` (of one width, and multiplied as one type) stacked, their rows one after the
/// other, or none where they are floats: because of their type, or because no blocks stand for their numbers.
///
/// # Panics
/// If the tensors differ in type or columns, or there are none.
pub(super) fn stack(tensors: &[Tensor<'_>]) -> Option<Blocks> {
    let (kind, columns) = (tensors[0].product_kind(), tensors[0].columns());
    assert!(
        tensors
            .iter()
            .all(|tensor| tensor.product_kind() == kind && tensor.columns() == columns),
        "stacked tensors have one type and one width"
    );
    let rows = tensors.iter().map(|tensor| tensor.rows()).sum();
    let blocks: Result<Vec<_>, _> = tensors.iter().map(Tensor::product_blocks).collect();
    let (codes, blocks) = (kind.codes()?, blocks.ok()?);
    let blocks = blocks
        .iter()
        .flat_map(|blocks| blocks.chunks_exact(kind.block_bytes()));
    let mut operands = Blocks::sized(codes, rows, columns);
    let groups = kind.block_values() / codes.group;
    let mut parts = Parts::default();
    for (index, block) in blocks.enumerate() {
        kind.take_apart(block, &mut parts);
        operands.push(codes, &parts, index * groups..(index + 1) * groups, rows);
    }
    Some(operands)
}

/// The transposed matrix of all rows of `tensors`, `[columns, rows]`.
pub(super) fn dense(tensors: &[Tensor<'_>]) -> Vec<f32> {
    let columns = tensors[0].columns();
    let rows: usize = tensors.iter().map(Tensor::rows).sum();
    let mut dense = vec![0.0; rows * columns];
    let mut values = vec![0.0; columns];
    let all = tensors.iter();
    let all = all.flat_map(|tensor| (0..tensor.rows()).map(move |row| (tensor, row)));
    for (place, (tensor, row)) in all.enumerate() {
        tensor.read_rows(row..row + 1, &mut values);
        for (column, value) in values.iter().enumerate() {
            dense[column * rows + place] = *value;
        }
    }
    dense
}

/// The bits that `MatMulNBits` needs for such codes.
fn bits(codes: Codes) -> usize {
    match codes.most.abs_diff(codes.least) {
        ..16 => 4,
        _ => 8,
    }
}

/// The fewest rows with which products of such tensors give a row the same bits as with more: ONNX
/// Runtime's product of 4 bits in blocks of 32 takes another path for a single row.
pub(super) fn least_rows(kinds: impl IntoIterator<Item = TensorType>) -> usize {
    let differs = |codes| bits(codes) == 4 && codes.group == 32;
    let mut kinds = kinds.into_iter();
    match kinds.any(|kind| kind.codes().is_some_and(differs)) {
        true => 2,
        false => 1,
    }
}

impl Blocks {
    fn sized(codes: Codes, rows: usize, columns: usize) -> Self {
        let (bits, groups) = (bits(codes), rows * columns / codes.group);
        Self {
            bits,
            block: codes.group,
            quants: Vec::with_capacity(rows * columns * bits / 8),
            scales: Vec::with_capacity(groups),
            offsets: codes.minimum.then(|| vec![0.0; groups]),
        }
    }

    /// The groups `range` of all, in order.
    fn push(&mut self, codes: Codes, parts: &Parts, range: Range<usize>, rows: usize) {
        let zero = zero_code(codes);
        let groups = range.len();
        self.scales.extend(&parts.scales[..groups]);
        match self.bits {
            4 => {
                let (pairs, _) = parts.codes[..groups * codes.group].as_chunks::<2>();
                let nibble = |code: i8| (code - zero + ZERO_POINT_4_BITS) as u8;
                let bytes = pairs
                    .iter()
                    .map(|[low, high]| nibble(*low) | nibble(*high) << 4);
                self.quants.extend(bytes);
            }
            _ => {
                // A signed byte plus 128: the sign bit turned.
                let byte = |code: &i8| (code - zero) as u8 ^ 0x80;
                let codes = &parts.codes[..groups * codes.group];
                self.quants.extend(codes.iter().map(byte));
            }
        }
        if let Some(offsets) = &mut self.offsets {
            let per_row = offsets.len() / rows;
            for (group, (scale, minimum)) in range.zip(parts.scales.iter().zip(&parts.minimums)) {
                let offset = minimum + scale * f32::from(zero);
                offsets[group % per_row * rows + group / per_row] = offset;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of blocks whose scales are no larger than a few units.
    fn random_blocks(kind: TensorType, blocks: usize) -> Vec<u8> {
        let mut state = 1_u32;
        let mut bytes: Vec<u8> = (0..blocks * kind.block_bytes())
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                // The second bit of a half-precision number keeps it below 2.
                (state >> 24) as u8 & 0xbf
            })
            .collect();
        if kind == TensorType::Q8K {
            let scales = bytes.chunks_exact_mut(kind.block_bytes());
            scales.for_each(|block| block[..4].copy_from_slice(&0.3_f32.to_le_bytes()));
        }
        bytes
    }

    /// The values that the operator computes with.
    fn values(operands: &Blocks, rows: usize, columns: usize) -> Vec<f32> {
        let per_row = columns / operands.block;
        (0..rows * columns)
            .map(|place| {
                let (group, quants) = (place / operands.block, &operands.quants);
                let code = match operands.bits {
                    4 => i32::from(quants[place / 2] >> (4 * (place % 2)) & 0x0f) - 8,
                    _ => i32::from(quants[place]) - 128,
                };
                let offset = |offsets: &Vec<f32>| offsets[group % per_row * rows + group / per_row];
                operands.scales[group] * code as f32 + operands.offsets.as_ref().map_or(0.0, offset)
            })
            .collect()
    }

    #[test]
    fn operands_stand_for_the_numbers_of_the_blocks() {
        let (rows, columns) = (6, 512);
        for kind in TensorType::ALL {
            let bytes = random_blocks(kind, rows * columns / kind.block_values());
            // Two matrices, stacked.
            let (upper, lower) = bytes.split_at(bytes.len() / 3);
            let tensor = |bytes, rows| Tensor {
                kind,
                quantised: None,
                shape: vec![columns, rows],
                bytes,
                added: 0.0,
            };
            let mut wanted = vec![0.0; rows * columns];
            kind.dequantise(&bytes, &mut wanted);
            let computation = Computation::from(kind);
            let stacked = [tensor(upper, 2), tensor(lower, 4)];
            let found = match stack(&stacked) {
                Some(blocks) => {
                    let numbers = blocks.scales.len() + blocks.offsets.iter().flatten().count();
                    let bytes = blocks.quants.len() + numbers * size_of::<f32>();
                    assert_eq!(computation.operand_bytes(rows * columns), bytes);
                    values(&blocks, rows, columns)
                }
                None => {
                    assert_eq!(computation, Computation::Dense);
                    let dense = dense(&stacked);
                    (0..rows * columns)
                        .map(|place| dense[place % columns * rows + place / columns])
                        .collect()
                }
            };
            for (place, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                // A minimum goes through the offset that is made of it.
                assert!(
                    (found - wanted).abs() <= 1e-5 * wanted.abs().max(16.0),
                    "{kind:?} {place}: {found} {wanted}"
                );
            }
        }
    }
}
