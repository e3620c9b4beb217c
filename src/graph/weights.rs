//! From a tensor's blocks to the operands of a matrix product, exactly: the same quants under other
//! names. ONNX Runtime's `MatMulNBits` computes `d · (q − z)` with `z` fixed; a block with a minimum
//! (`d · q + m`) is that plus `m + z·d` times the sum of the block's inputs, a second, 1/32-size product.
//!
//! Source: `ContribOperators.md`, `MatMulNBits` (onnxruntime repository); ggml's block layouts.

use super::tensors::Tensor;
use crate::gguf::TensorType;
use crate::gguf::quant::{BLOCK, half_at};

/// The right-hand side of `x · Wᵀ`, `W` being `[rows, columns]`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Product {
    /// Blocks for `MatMulNBits`.
    Blocks(Blocks),
    /// `Wᵀ`, `[columns, rows]`.
    Dense(Vec<f32>),
}

/// Operands of `MatMulNBits`, blocks of 32 along a row.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Blocks {
    /// 4 or 8.
    pub bits: usize,
    /// `[rows, columns / 32, 32 · bits / 8]`, unsigned with the operator's default zero point (8 or 128).
    pub quants: Vec<u8>,
    /// `[rows, columns / 32]`.
    pub scales: Vec<f32>,
    /// `[columns / 32, rows]`: what is still to be added per sum of a block's inputs.
    pub offsets: Option<Vec<f32>>,
}

/// The zero point that `MatMulNBits` takes for 4 bits if it gets none.
const ZERO_POINT_4_BITS: f32 = 8.0;

/// The operands of the matrices `tensors` (of one type and width) stacked: their rows one after the other.
///
/// # Panics
/// If the tensors differ in type or columns, or there are none.
pub(super) fn stack(tensors: &[Tensor<'_>]) -> Product {
    let (kind, columns) = (tensors[0].kind, tensors[0].columns());
    assert!(
        tensors
            .iter()
            .all(|tensor| tensor.kind == kind && tensor.columns() == columns),
        "stacked tensors have one type and one width"
    );
    let rows = tensors.iter().map(|tensor| tensor.rows()).sum();
    let blocks = tensors
        .iter()
        .flat_map(|tensor| tensor.bytes.chunks_exact(kind.block_bytes()));
    match kind {
        TensorType::F32 | TensorType::F16 | TensorType::Bf16 => {
            let mut dense = vec![0.0; rows * columns];
            let mut value = [0.0];
            for (index, block) in blocks.enumerate() {
                kind.dequantise(block, &mut value);
                dense[index % columns * rows + index / columns] = value[0];
            }
            Product::Dense(dense)
        }
        TensorType::Q4_0 => {
            let mut operands = Blocks::sized(4, rows, columns);
            for block in blocks {
                operands.scales.push(half_at(block, 0));
                operands.push_pairs(&block[2..]);
            }
            Product::Blocks(operands)
        }
        TensorType::Q4_1 => {
            let mut operands = Blocks::sized(4, rows, columns);
            let mut offsets = vec![0.0; rows * columns / BLOCK];
            let per_row = columns / BLOCK;
            for (index, block) in blocks.enumerate() {
                let (scale, minimum) = (half_at(block, 0), half_at(block, 2));
                operands.scales.push(scale);
                operands.push_pairs(&block[4..]);
                offsets[index % per_row * rows + index / per_row] =
                    minimum + ZERO_POINT_4_BITS * scale;
            }
            operands.offsets = Some(offsets);
            Product::Blocks(operands)
        }
        TensorType::Q8_0 => {
            let mut operands = Blocks::sized(8, rows, columns);
            for block in blocks {
                operands.scales.push(half_at(block, 0));
                // A signed byte plus 128: the sign bit turned.
                operands
                    .quants
                    .extend(block[2..].iter().map(|quant| quant ^ 0x80));
            }
            Product::Blocks(operands)
        }
    }
}

/// The fewest rows with which products of such tensors give a row the same bits as with more: ONNX
/// Runtime's 4-bit product takes another path for a single row.
pub(super) fn least_rows(kinds: impl IntoIterator<Item = TensorType>) -> usize {
    let four_bits = |kind| matches!(kind, TensorType::Q4_0 | TensorType::Q4_1);
    match kinds.into_iter().any(four_bits) {
        true => 2,
        false => 1,
    }
}

impl Blocks {
    fn sized(bits: usize, rows: usize, columns: usize) -> Self {
        Self {
            bits,
            quants: Vec::with_capacity(rows * columns * bits / 8),
            scales: Vec::with_capacity(rows * columns / BLOCK),
            offsets: None,
        }
    }

    /// ggml pairs value `i` with value `i + 16` in a byte, `MatMulNBits` value `2i` with `2i + 1`.
    fn push_pairs(&mut self, bytes: &[u8]) {
        let (low, high) = (|byte: u8| byte & 0x0f, |byte: u8| byte >> 4);
        self.quants.extend(
            bytes
                .chunks_exact(2)
                .map(|pair| low(pair[0]) | low(pair[1]) << 4),
        );
        self.quants.extend(
            bytes
                .chunks_exact(2)
                .map(|pair| high(pair[0]) | high(pair[1]) << 4),
        );
    }
}
