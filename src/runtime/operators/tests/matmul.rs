//! Matmuls with packed weights compared with a reference in f64, and tests of batch invariance.

use super::super::matmul::{MatmulInputs, QuantizedActivations, multiply};
use super::super::norm::RowNorm;
use super::super::parallel::OperatorError;
use super::super::simd::Instructions;
use super::noise;
use crate::gguf::TensorType;
use crate::graph::panels::{PanelStore, Panels};
use crate::graph::{Activation, Tensor};

const COLUMNS: usize = 512;
const NORM_EPSILON: f32 = 1e-3;

/// A matrix of pseudorandom quantized blocks, in packed and in dequantized form.
struct Matrix {
    panels: Panels,
    values: Vec<f32>,
}

impl Matrix {
    fn new(kind: TensorType, rows: usize, halves: bool) -> Self {
        let blocks = rows * COLUMNS / kind.block_values();
        let mut bytes: Vec<u8> = (0..blocks * kind.block_bytes())
            // Clearing the second-highest bit of each byte keeps f16 values below 2.
            .map(|index| (noise([9, index as u64, 0, 0, 0]) * 128.0) as i8 as u8 & 0xbf)
            .collect();
        if kind == TensorType::Q8K {
            let blocks = bytes.chunks_exact_mut(kind.block_bytes());
            blocks.for_each(|block| block[..4].copy_from_slice(&0.3_f32.to_le_bytes()));
        }
        let mut values = vec![0.0; rows * COLUMNS];
        kind.dequantize(&bytes, &mut values);
        let tensor = Tensor {
            kind,
            quantize_to: None,
            shape: vec![COLUMNS, rows],
            bytes: &bytes,
            value_offset: 0.0,
        };
        // The matrix is stored as two tensors, to test that the rows of several tensors are stacked.
        let tensors = [
            tensor.slice_rows(0..rows / 3),
            tensor.slice_rows(rows / 3..rows),
        ];
        let mut store = PanelStore::default();
        let added = store.add(&tensors, halves, &|| ());
        assert_eq!(added, Some(0), "the type is quantized");
        Self {
            panels: store.finish()[0].clone(),
            values,
        }
    }
}

/// Inputs of a matmul, except the matrix.
struct Vectors {
    x: Vec<f32>,
    gain: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

impl Vectors {
    fn new(rows: usize, outputs: usize) -> Self {
        let values = |kind: u64, count: usize| {
            let value = |index| noise([kind, index as u64, 1, 2, 3]);
            (0..count).map(value).collect()
        };
        Self {
            x: values(1, rows * COLUMNS),
            gain: values(2, COLUMNS),
            bias: values(3, outputs),
            residual: values(4, rows * outputs),
        }
    }

    fn norm(&self) -> RowNorm<'_> {
        RowNorm {
            gain: &self.gain,
            epsilon: NORM_EPSILON,
        }
    }
}

/// Returns inputs with norm, bias, residual, and a gate if `gated` is given.
fn fused_inputs<'a>(
    matrix: &'a Matrix,
    vectors: &'a Vectors,
    gated: Option<Activation>,
) -> MatmulInputs<'a> {
    let inputs = MatmulInputs {
        x: &vectors.x,
        matrix: &matrix.panels,
        norm: Some(vectors.norm()),
        bias: Some(&vectors.bias),
        gated,
        residual: None,
    };
    let rows = vectors.x.len() / COLUMNS;
    MatmulInputs {
        residual: Some(&vectors.residual[..rows * inputs.width()]),
        ..inputs
    }
}

fn compute(inputs: &MatmulInputs, instructions: Instructions) -> Vec<f32> {
    let rows = inputs.x.len() / COLUMNS;
    let mut output = vec![f32::NAN; rows * inputs.width()];
    let mut quantized = QuantizedActivations::default();
    multiply(
        inputs,
        &mut output,
        &mut quantized,
        instructions,
        &in_reverse,
    )
    .expect("the inputs match");
    output
}

/// Makes all calls in reverse order: results must not depend on the order of tasks.
fn in_reverse(count: usize, call: &(dyn Fn(usize) + Sync)) -> Result<(), OperatorError> {
    (0..count).rev().for_each(call);
    Ok(())
}

/// Quantizes a row to int8 per group and dequantizes the result.
fn quantized_row(row: &[f32], group_size: usize) -> Vec<f64> {
    let quantize_group = |values: &[f32]| {
        let max = values
            .iter()
            .fold(0.0_f32, |max, value| max.max(value.abs()));
        let scale = max / 127.0;
        let value = |value: &f32| f64::from(scale * (value * (127.0 / max)).round_ties_even());
        values.iter().map(value).collect::<Vec<_>>()
    };
    row.chunks(group_size).flat_map(quantize_group).collect()
}

fn reference(inputs: &MatmulInputs, matrix: &Matrix) -> Vec<f64> {
    let width = inputs.width();
    let mut output = Vec::new();
    for (row_index, row) in inputs.x.chunks(COLUMNS).enumerate() {
        let mut row = row.to_vec();
        if let Some(norm) = inputs.norm {
            norm.apply(&mut row);
        }
        let row = quantized_row(&row, inputs.matrix.layout.group_size);
        let sum = |output: usize| {
            let weights = &matrix.values[output * COLUMNS..(output + 1) * COLUMNS];
            let products = weights
                .iter()
                .zip(&row)
                .map(|(weight, x)| f64::from(*weight) * x);
            let bias = inputs.bias.map_or(0.0, |bias| f64::from(bias[output]));
            products.sum::<f64>() + bias
        };
        for column in 0..width {
            let value = match inputs.gated {
                None => sum(column),
                Some(activation) => {
                    let (gate, value) = (sum(column), sum(width + column));
                    let gate = match activation {
                        Activation::Silu => gate / (1.0 + (-gate).exp()),
                        Activation::GeluTanh => {
                            let inner = 0.797_884_560_8 * (gate + 0.044_715 * gate.powi(3));
                            0.5 * gate * (1.0 + inner.tanh())
                        }
                    };
                    gate * value
                }
            };
            let residual = inputs.residual;
            let residual = residual.map_or(0.0, |all| all[row_index * width + column].into());
            output.push(value + residual);
        }
    }
    output
}

#[test]
fn results_match_the_reference_for_all_tensor_types() {
    let quantized = TensorType::ALL
        .into_iter()
        .filter(|kind| kind.quant_format().is_some());
    for kind in quantized {
        // 44 rows are not a multiple of the eight rows of a panel.
        let matrix = Matrix::new(kind, 44, false);
        let vectors = Vectors::new(5, 44);
        let inputs = fused_inputs(&matrix, &vectors, None);
        let expected = reference(&inputs, &matrix);
        let max = expected
            .iter()
            .fold(0.0_f64, |max, value| max.max(value.abs()));
        for instructions in Instructions::available() {
            let output = compute(&inputs, instructions);
            for (index, (value, expected)) in output.iter().zip(&expected).enumerate() {
                // If the norm differs in the last bit, a value halfway between two quants may be rounded either way.
                let error = (f64::from(*value) - expected).abs();
                assert!(error < 1e-3 * max, "{kind:?} {index}: {value} {expected}");
            }
        }
    }
}

#[test]
fn gated_activations_match_the_reference() {
    for activation in [Activation::Silu, Activation::GeluTanh] {
        let matrix = Matrix::new(TensorType::Q4_1, 72, true);
        let vectors = Vectors::new(3, 72);
        let mut inputs = fused_inputs(&matrix, &vectors, Some(activation));
        // The activation functions are clearly nonlinear for small values.
        let small: Vec<f32> = vectors.gain.iter().map(|gain| gain / 128.0).collect();
        inputs.norm = Some(RowNorm {
            gain: &small,
            epsilon: NORM_EPSILON,
        });
        let expected = reference(&inputs, &matrix);
        for instructions in Instructions::available() {
            let output = compute(&inputs, instructions);
            for (value, expected) in output.iter().zip(&expected) {
                let error = (f64::from(*value) - expected).abs();
                assert!(
                    error < 2e-3 * expected.abs().max(1.0),
                    "{activation:?}: {value} {expected}"
                );
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_other_rows() {
    let kinds = [
        TensorType::Q4_0,
        TensorType::Q4K,
        TensorType::Q6K,
        TensorType::Q8_0,
    ];
    for (kind, gated) in kinds
        .into_iter()
        .zip([None, Some(Activation::Silu)].into_iter().cycle())
    {
        let matrix = Matrix::new(kind, 48, gated.is_some());
        let vectors = Vectors::new(13, 48);
        let inputs = fused_inputs(&matrix, &vectors, gated);
        for instructions in Instructions::available() {
            let batch = compute(&inputs, instructions);
            for (row, batched) in batch.chunks(inputs.width()).enumerate() {
                let residual = inputs.residual.expect("the inputs have a residual");
                let alone = MatmulInputs {
                    x: &vectors.x[row * COLUMNS..(row + 1) * COLUMNS],
                    residual: Some(&residual[row * inputs.width()..(row + 1) * inputs.width()]),
                    ..inputs
                };
                assert_eq!(compute(&alone, instructions), batched, "{kind:?} {row}");
            }
        }
    }
}

#[test]
fn a_non_finite_value_affects_only_its_row() {
    let matrix = Matrix::new(TensorType::Q4_1, 16, false);
    let mut vectors = Vectors::new(3, 16);
    let finite = compute(
        &fused_inputs(&matrix, &vectors, None),
        Instructions::detect(),
    );
    for value in [f32::NAN, f32::INFINITY] {
        vectors.x[COLUMNS + 7] = value;
        for instructions in Instructions::available() {
            let output = compute(&fused_inputs(&matrix, &vectors, None), instructions);
            assert!(output[16..32].iter().all(|value| value.is_nan()));
            let close = |(value, finite): (&f32, &f32)| {
                (value - finite).abs() < 1e-2 * finite.abs().max(1.0)
            };
            assert!(output[..16].iter().zip(&finite).all(close));
            assert!(output[32..].iter().zip(&finite[32..]).all(close));
        }
    }
}

#[test]
fn mismatched_inputs_are_rejected() {
    let matrix = Matrix::new(TensorType::Q4_0, 16, false);
    let vectors = Vectors::new(2, 16);
    let inputs = fused_inputs(&matrix, &vectors, None);
    let error = |inputs: &MatmulInputs| {
        let mut output = vec![0.0; 2 * inputs.width()];
        let mut quantized = QuantizedActivations::default();
        let detected = Instructions::detect();
        let result = multiply(inputs, &mut output, &mut quantized, detected, &in_reverse);
        result.expect_err("the inputs do not match").to_string()
    };
    let gated = Some(Activation::Silu);
    assert_eq!(
        error(&MatmulInputs { gated, ..inputs }),
        "matrix: must have interleaved halves if and only if there is a gate"
    );
    let bias = Some(&vectors.bias[1..]);
    assert_eq!(
        error(&MatmulInputs { bias, ..inputs }),
        "bias: has 15 values, not 16"
    );
    let residual = Some(&vectors.residual[1..32]);
    assert_eq!(
        error(&MatmulInputs { residual, ..inputs }),
        "residual: has 31 values, not 32"
    );
    let x = &vectors.x[..COLUMNS + 1];
    assert_eq!(
        error(&MatmulInputs { x, ..inputs }),
        "x: has 513 values, not a multiple of 512 columns"
    );
}
