//! Gated activations of feed-forward layers (Shazeer, 2020, <https://arxiv.org/abs/2002.05202>).

use super::parallel::{OperatorError, ParallelFor, for_each_index};
use super::shared_slice::SharedSlice;
use super::simd::{Instructions, LANES, Simd, WithSimd, exp, pad_lanes, store_partial};
use crate::graph::Activation;

/// Applies the activation function to eight values.
#[inline(always)]
pub(super) fn activate<S: Simd>(simd: S, activation: Activation, x: S::Vector) -> S::Vector {
    let argument = match activation {
        Activation::Silu => x,
        Activation::GeluTanh => {
            // (1 + tanh(y)) / 2 = sigmoid(2 · y), y = √(2/π) · (x + 0.044715 · x³)
            const FACTOR: f32 = 2.0 * 0.797_884_6;
            const CUBIC: f32 = 0.044_715;
            let square = simd.multiply(x, x);
            let inner = simd.multiply_add(square, simd.splat(CUBIC), simd.splat(1.0));
            simd.multiply(simd.multiply(x, simd.splat(FACTOR)), inner)
        }
    };
    simd.multiply(x, sigmoid(simd, argument))
}

/// `1 / (1 + e⁻ˣ)`
#[inline(always)]
fn sigmoid<S: Simd>(simd: S, x: S::Vector) -> S::Vector {
    let one = simd.splat(1.0);
    let exp_minus_abs = exp(simd, simd.subtract(simd.splat(0.0), simd.abs(x)));
    // Difference from exp(-|x|) to the numerator, which is 1 where x ≥ 0, otherwise exp(-|x|).
    let to_one = simd.zero_below(simd.subtract(one, exp_minus_abs), x, 0.0);
    simd.divide(
        simd.add(exp_minus_abs, to_one),
        simd.add(one, exp_minus_abs),
    )
}

/// Multiplies the second half of each row of `x`, `[rows, 2 · width]`, by the activation of the first half. Writes the
/// result to `output`, `[rows, width]`.
///
/// # Errors
/// If `parallel` fails.
///
/// # Panics
/// If `x` does not have twice as many elements as `output`.
pub fn gate_halves(
    activation: Activation,
    x: &[f32],
    width: usize,
    output: &mut [f32],
    instructions: Instructions,
    parallel: ParallelFor,
) -> Result<(), OperatorError> {
    assert_eq!(
        x.len(),
        2 * output.len(),
        "x has two columns for each of output"
    );
    let rows = output.len() / width.max(1);
    let shared_output = SharedSlice::new(output);
    for_each_index(parallel, rows, &|row| {
        let (gates, values) = x[2 * row * width..2 * (row + 1) * width].split_at(width);
        instructions.run(GateRow {
            activation,
            gates,
            values,
            // SAFETY: no other call writes this row of the output.
            output: unsafe { shared_output.slice_mut(row * width..(row + 1) * width) },
        });
    })
}

/// Multiplies the values of one row by their activated gates.
struct GateRow<'a> {
    activation: Activation,
    gates: &'a [f32],
    values: &'a [f32],
    output: &'a mut [f32],
}

impl WithSimd for GateRow<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let groups = self.gates.chunks(LANES).zip(self.values.chunks(LANES));
        for ((gates, values), output) in groups.zip(self.output.chunks_mut(LANES)) {
            let gate = activate(simd, self.activation, simd.load(&pad_lanes(gates)));
            let gated = simd.multiply(gate, simd.load(&pad_lanes(values)));
            store_partial(simd, gated, output);
        }
    }
}
