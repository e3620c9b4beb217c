//! Products in panels against sums in f64, and what must not change a row's bits.

use super::super::norm::RowNorm;
use super::super::parallel::OperatorError;
use super::super::product::{ProductInputs, QuantisedRows, multiply};
use super::super::simd::Instructions;
use super::noise;
use crate::gguf::TensorType;
use crate::graph::panels::{PanelStore, Panels};
use crate::graph::{Activation, Tensor};

const COLUMNS: usize = 512;
const NORM_EPSILON: f32 = 1e-3;

/// A matrix of random blocks, in panels and as the numbers that it stands for.
struct Matrix {
    panels: Panels,
    values: Vec<f32>,
}

impl Matrix {
    fn new(kind: TensorType, rows: usize, halves: bool) -> Self {
        let blocks = rows * COLUMNS / kind.block_values();
        let mut bytes: Vec<u8> = (0..blocks * kind.block_bytes())
            // The second bit of a half-precision number keeps it below 2.
            .map(|place| (noise([9, place as u64, 0, 0, 0]) * 128.0) as i8 as u8 & 0xbf)
            .collect();
        if kind == TensorType::Q8K {
            let blocks = bytes.chunks_exact_mut(kind.block_bytes());
            blocks.for_each(|block| block[..4].copy_from_slice(&0.3_f32.to_le_bytes()));
        }
        let mut values = vec![0.0; rows * COLUMNS];
        kind.dequantise(&bytes, &mut values);
        let tensor = Tensor {
            kind,
            quantised: None,
            shape: vec![COLUMNS, rows],
            bytes: &bytes,
            added: 0.0,
        };
        // In two, to be stacked.
        let tensors = [tensor.part(0..rows / 3), tensor.part(rows / 3..rows)];
        let mut store = PanelStore::default();
        let added = store.add(&tensors, halves, &|| ());
        assert_eq!(added, Some(0), "it is quantised");
        Self {
            panels: store.finish()[0].clone(),
            values,
        }
    }
}

/// What a product is made of beside its matrix.
struct Vectors {
    x: Vec<f32>,
    gain: Vec<f32>,
    bias: Vec<f32>,
    residual: Vec<f32>,
}

impl Vectors {
    fn new(rows: usize, outputs: usize) -> Self {
        let values = |which: u64, count: usize| {
            let value = |place| noise([which, place as u64, 1, 2, 3]);
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

/// All that can stand before and behind a product.
fn everything<'a>(
    matrix: &'a Matrix,
    vectors: &'a Vectors,
    gated: Option<Activation>,
) -> ProductInputs<'a> {
    let inputs = ProductInputs {
        x: &vectors.x,
        matrix: &matrix.panels,
        norm: Some(vectors.norm()),
        bias: Some(&vectors.bias),
        gated,
        residual: None,
    };
    let rows = vectors.x.len() / COLUMNS;
    ProductInputs {
        residual: Some(&vectors.residual[..rows * inputs.width()]),
        ..inputs
    }
}

fn computed(inputs: &ProductInputs, instructions: Instructions) -> Vec<f32> {
    let rows = inputs.x.len() / COLUMNS;
    let mut output = vec![f32::NAN; rows * inputs.width()];
    let mut rounded = QuantisedRows::default();
    multiply(inputs, &mut output, &mut rounded, instructions, &backwards).expect("they fit");
    output
}

/// Nothing depends on who is first.
fn backwards(count: usize, call: &(dyn Fn(usize) + Sync)) -> Result<(), OperatorError> {
    (0..count).rev().for_each(call);
    Ok(())
}

/// The row's values as they are multiplied: groups of int8 and their scales.
fn rounded(row: &[f32], group: usize) -> Vec<f64> {
    let of_group = |values: &[f32]| {
        let most = values
            .iter()
            .fold(0.0_f32, |most, value| most.max(value.abs()));
        let scale = most / 127.0;
        let value = |value: &f32| f64::from(scale * (value * (127.0 / most)).round_ties_even());
        values.iter().map(value).collect::<Vec<_>>()
    };
    row.chunks(group).flat_map(of_group).collect()
}

fn reference(inputs: &ProductInputs, matrix: &Matrix) -> Vec<f64> {
    let width = inputs.width();
    let mut output = Vec::new();
    for (place, row) in inputs.x.chunks(COLUMNS).enumerate() {
        let mut row = row.to_vec();
        if let Some(norm) = inputs.norm {
            norm.apply(&mut row);
        }
        let row = rounded(&row, inputs.matrix.layout.group);
        let sum = |output: usize| {
            let weights = &matrix.values[output * COLUMNS..(output + 1) * COLUMNS];
            let products = weights
                .iter()
                .zip(&row)
                .map(|(weight, x)| f64::from(*weight) * x);
            let bias = inputs.bias.map_or(0.0, |bias| f64::from(bias[output]));
            products.sum::<f64>() + bias
        };
        for output_of_row in 0..width {
            let value = match inputs.gated {
                None => sum(output_of_row),
                Some(activation) => {
                    let (gate, value) = (sum(output_of_row), sum(width + output_of_row));
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
            let residual = residual.map_or(0.0, |all| all[place * width + output_of_row].into());
            output.push(value + residual);
        }
    }
    output
}

#[test]
fn sums_are_those_of_the_numbers_that_blocks_stand_for() {
    let quantised = TensorType::ALL
        .into_iter()
        .filter(|kind| kind.codes().is_some());
    for kind in quantised {
        // No multiple of a panel's rows.
        let matrix = Matrix::new(kind, 44, false);
        let vectors = Vectors::new(5, 44);
        let inputs = everything(&matrix, &vectors, None);
        let wanted = reference(&inputs, &matrix);
        let most = wanted
            .iter()
            .fold(0.0_f64, |most, value| most.max(value.abs()));
        for instructions in Instructions::available() {
            let found = computed(&inputs, instructions);
            for (place, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
                // A value on the border of two codes may go either way where the norm differs in its last bit.
                let error = (f64::from(*found) - wanted).abs();
                assert!(error < 1e-3 * most, "{kind:?} {place}: {found} {wanted}");
            }
        }
    }
}

#[test]
fn gates_are_applied() {
    for activation in [Activation::Silu, Activation::GeluTanh] {
        let matrix = Matrix::new(TensorType::Q4_1, 72, true);
        let vectors = Vectors::new(3, 72);
        let mut inputs = everything(&matrix, &vectors, Some(activation));
        // Small numbers, where the functions bend.
        let small: Vec<f32> = vectors.gain.iter().map(|gain| gain / 128.0).collect();
        inputs.norm = Some(RowNorm {
            gain: &small,
            epsilon: NORM_EPSILON,
        });
        let wanted = reference(&inputs, &matrix);
        for instructions in Instructions::available() {
            let found = computed(&inputs, instructions);
            for (found, wanted) in found.iter().zip(&wanted) {
                let error = (f64::from(*found) - wanted).abs();
                assert!(
                    error < 2e-3 * wanted.abs().max(1.0),
                    "{activation:?}: {found} {wanted}"
                );
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_beside_others() {
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
        let inputs = everything(&matrix, &vectors, gated);
        for instructions in Instructions::available() {
            let together = computed(&inputs, instructions);
            for (row, together) in together.chunks(inputs.width()).enumerate() {
                let residual = inputs.residual.expect("there is one");
                let alone = ProductInputs {
                    x: &vectors.x[row * COLUMNS..(row + 1) * COLUMNS],
                    residual: Some(&residual[row * inputs.width()..(row + 1) * inputs.width()]),
                    ..inputs
                };
                assert_eq!(computed(&alone, instructions), together, "{kind:?} {row}");
            }
        }
    }
}

#[test]
fn a_number_that_is_none_spoils_its_row_alone() {
    let matrix = Matrix::new(TensorType::Q4_1, 16, false);
    let mut vectors = Vectors::new(3, 16);
    let sound = computed(&everything(&matrix, &vectors, None), Instructions::detect());
    for spoilt in [f32::NAN, f32::INFINITY] {
        vectors.x[COLUMNS + 7] = spoilt;
        for instructions in Instructions::available() {
            let found = computed(&everything(&matrix, &vectors, None), instructions);
            assert!(found[16..32].iter().all(|value| value.is_nan()));
            let close =
                |(found, sound): (&f32, &f32)| (found - sound).abs() < 1e-2 * sound.abs().max(1.0);
            assert!(found[..16].iter().zip(&sound).all(close));
            assert!(found[32..].iter().zip(&sound[32..]).all(close));
        }
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let matrix = Matrix::new(TensorType::Q4_0, 16, false);
    let vectors = Vectors::new(2, 16);
    let inputs = everything(&matrix, &vectors, None);
    let refused = |inputs: &ProductInputs| {
        let mut output = vec![0.0; 2 * inputs.width()];
        let mut rounded = QuantisedRows::default();
        let detected = Instructions::detect();
        let answer = multiply(inputs, &mut output, &mut rounded, detected, &backwards);
        answer.expect_err("it is refused").to_string()
    };
    let gated = Some(Activation::Silu);
    assert_eq!(
        refused(&ProductInputs { gated, ..inputs }),
        "matrix: is in halves if there is a gate, and else not"
    );
    let bias = Some(&vectors.bias[1..]);
    assert_eq!(
        refused(&ProductInputs { bias, ..inputs }),
        "bias: has 15 values, not 16"
    );
    let residual = Some(&vectors.residual[1..32]);
    assert_eq!(
        refused(&ProductInputs { residual, ..inputs }),
        "residual: has 31 values, not 32"
    );
    let x = &vectors.x[..COLUMNS + 1];
    assert_eq!(
        refused(&ProductInputs { x, ..inputs }),
        "x: has 513 values, no rows of 512"
    );
}
