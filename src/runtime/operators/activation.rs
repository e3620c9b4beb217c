//! What gates a value in a feed-forward layer (Shazeer, 2020, <https://arxiv.org/abs/2002.05202>).

use super::parallel::{OperatorError, ParallelFor, once_each};
use super::shared::SharedSlice;
use super::simd::{Instructions, LANES, Simd, Work, eight, exp, store_some};
use crate::graph::Activation;

/// The function's values.
#[inline(always)]
pub(super) fn activated<S: Simd>(simd: S, activation: Activation, x: S::Vector) -> S::Vector {
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
    let small = exp(simd, simd.subtract(simd.splat(0.0), simd.magnitude(x)));
    // Above zero 1, below it the small one.
    let of_positive = simd.zero_below(simd.subtract(one, small), x, 0.0);
    simd.divide(simd.add(small, of_positive), simd.add(one, small))
}

/// Writes the second half of each row of `x`, `[rows, 2 · width]`, times a function of the first into `output`, `[rows, width]`.
///
/// # Errors
/// If `parallel` fails.
///
/// # Panics
/// If they do not have as many rows.
pub fn gate_halves(
    activation: Activation,
    x: &[f32],
    width: usize,
    output: &mut [f32],
    instructions: Instructions,
    parallel: ParallelFor,
) -> Result<(), OperatorError> {
    assert_eq!(x.len(), 2 * output.len(), "a row of both has two of one");
    let rows = output.len() / width.max(1);
    let shared = SharedSlice::new(output);
    once_each(parallel, rows, &|row| {
        let (gates, values) = x[2 * row * width..2 * (row + 1) * width].split_at(width);
        instructions.run(Gate {
            activation,
            gates,
            values,
            // SAFETY: no other call has this row.
            output: unsafe { shared.part_mut(row * width..(row + 1) * width) },
        });
    })
}

/// One row.
struct Gate<'a> {
    activation: Activation,
    gates: &'a [f32],
    values: &'a [f32],
    output: &'a mut [f32],
}

impl Work for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let groups = self.gates.chunks(LANES).zip(self.values.chunks(LANES));
        for ((gates, values), output) in groups.zip(self.output.chunks_mut(LANES)) {
            let gate = activated(simd, self.activation, simd.load(&eight(gates)));
            let gated = simd.multiply(gate, simd.load(&eight(values)));
            store_some(simd, gated, output);
        }
    }
}
