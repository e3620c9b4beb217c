//! Matrix multiplication with quantized weights, on plain slices and independent of ONNX Runtime. The multiplication is
//! fused with the RMS norm of the input, and with the bias, gated activation and residual of the output.
//!
//! Activations are quantized to int8 per group, as in `MatMulNBits` and llama.cpp. Sums within a group are exact
//! integers, and the results of the groups are added in order. So the result is batch-invariant: a row's result depends
//! only on that row.

mod activations;
mod panel;

use std::ops::Range;

use super::activation::activate;
use super::norm::RowNorm;
use super::parallel::{OperatorError, ParallelFor, for_each_index};
use super::shared_slice::SharedSlice;
use super::simd::{Instructions, Simd, WithSimd, pad_lanes, store_partial};
use crate::graph::Activation;
use crate::graph::panels::{PANEL_ROWS, PanelQuants, Panels, ZeroPoint};
use activations::{QuantizeRows, QuantizedGroup};
pub use activations::{QuantizedActivations, ROWS_PER_PASS};
use panel::{EightBits, Nibbles, PanelFormat, SixBits};

/// Minimum work of a task: bytes of weights times passes over the weights. Less does not justify waking a thread.
const MIN_BYTES_PER_TASK: usize = 16 << 10;
/// Maximum number of tasks of a matmul.
const MAX_TASKS: usize = 16;
/// Size of a CPU cache line in bytes.
const CACHE_LINE_BYTES: usize = 64;
/// Minimum number of rows that are quantized on several threads.
const MIN_ROWS_FOR_PARALLEL_QUANTIZATION: usize = 8;

/// The inputs of a matmul.
#[derive(Debug, Clone, Copy)]
pub struct MatmulInputs<'a> {
    /// Activations, `[rows, columns of the matrix]`.
    pub x: &'a [f32],
    /// Packed weights, with one matrix row per output column. With `gated`, panels of the two halves alternate.
    pub matrix: &'a Panels,
    /// RMS norm, applied to each row of `x` before the multiplication.
    pub norm: Option<RowNorm<'a>>,
    /// `[rows of the matrix]`, added to each row of the result before gating.
    pub bias: Option<&'a [f32]>,
    /// Activation function of the gate: the second half of each row is multiplied by the activation of the first half.
    pub gated: Option<Activation>,
    /// `[rows, width]`, added to the output.
    pub residual: Option<&'a [f32]>,
}

impl MatmulInputs<'_> {
    fn columns(&self) -> usize {
        self.matrix.shape.columns
    }

    /// Number of matrix rows: output columns before gating.
    fn outputs(&self) -> usize {
        self.matrix.shape.rows
    }

    fn rows(&self) -> usize {
        self.x.len() / self.columns()
    }

    /// Number of output columns, after gating.
    pub fn width(&self) -> usize {
        match self.gated {
            None => self.outputs(),
            Some(_) => self.outputs() / 2,
        }
    }

    /// Number of panels in a unit. A unit is a gate panel and its value panel, or a single panel if there is no gate.
    fn panels_per_unit(&self) -> usize {
        match self.gated {
            None => 1,
            Some(_) => 2,
        }
    }

    fn check(&self, output: usize) -> Result<(), OperatorError> {
        let invalid = |input, problem: String| Err(OperatorError::input(input, problem));
        let columns = self.columns();
        if !self.x.len().is_multiple_of(columns) {
            let problem = format!(
                "has {} values, not a multiple of {columns} columns",
                self.x.len()
            );
            return invalid("x", problem);
        }
        if self.gated.is_some() != self.matrix.shape.interleaved_halves {
            let problem = "must have interleaved halves if and only if there is a gate";
            return invalid("matrix", problem.to_owned());
        }
        let width = self.width();
        let vectors = [
            ("norm_gain", self.norm.map(|norm| norm.gain), columns),
            ("bias", self.bias, self.outputs()),
            ("residual", self.residual, self.rows() * width),
        ];
        for (input, values, expected) in vectors {
            if let Some(found) = values.map(<[f32]>::len).filter(|&found| found != expected) {
                return invalid(input, format!("has {found} values, not {expected}"));
            }
        }
        assert_eq!(
            output,
            self.rows() * width,
            "the output has the rows of x and the given width"
        );
        Ok(())
    }
}

/// Multiplies and writes the result to `output`, `[rows, width]`. `quantized` is scratch memory, reused by every call.
///
/// # Errors
/// If the inputs do not match each other (nothing is written), or if `parallel` fails.
pub fn multiply(
    inputs: &MatmulInputs,
    output: &mut [f32],
    quantized: &mut QuantizedActivations,
    instructions: Instructions,
    parallel: ParallelFor,
) -> Result<(), OperatorError> {
    inputs.check(output.len())?;
    match inputs.matrix.layout.group_size {
        16 => multiply_groups(
            inputs,
            output,
            quantized.groups_of_16(),
            instructions,
            parallel,
        ),
        _ => multiply_groups(
            inputs,
            output,
            quantized.groups_of_32(),
            instructions,
            parallel,
        ),
    }
}

fn multiply_groups<const V: usize>(
    inputs: &MatmulInputs,
    output: &mut [f32],
    quantized: &mut Vec<QuantizedGroup<V>>,
    instructions: Instructions,
    parallel: ParallelFor,
) -> Result<(), OperatorError> {
    let (rows, columns, layout) = (inputs.rows(), inputs.columns(), inputs.matrix.layout);
    let groups_per_row = columns / layout.group_size;
    quantized.resize(rows * groups_per_row, QuantizedGroup::default());
    let passes = rows.div_ceil(ROWS_PER_PASS);
    let shared_groups = SharedSlice::new(quantized);
    let quantize = |pass: usize| {
        let rows = pass * ROWS_PER_PASS..rows.min((pass + 1) * ROWS_PER_PASS);
        let groups = rows.start * groups_per_row..rows.end * groups_per_row;
        // SAFETY: no other pass writes the groups of these rows.
        let groups = unsafe { shared_groups.slice_mut(groups) };
        instructions.run(QuantizeRows {
            x: &inputs.x[rows.start * columns..rows.end * columns],
            columns,
            norm: inputs.norm,
            layout,
            groups,
        });
    };
    match rows {
        ..MIN_ROWS_FOR_PARALLEL_QUANTIZATION => (0..passes).for_each(quantize),
        _ => for_each_index(parallel, passes, &quantize)?,
    }

    let units = inputs.matrix.count() / inputs.panels_per_unit();
    let tasks = (inputs.matrix.bytes() * passes / MIN_BYTES_PER_TASK).clamp(1, MAX_TASKS);
    let tasks = tasks.min(units);
    let shared_output = SharedSlice::new(output);
    for_each_index(parallel, tasks, &|task| {
        let units = units * task / tasks..units * (task + 1) / tasks;
        instructions.run(MatmulTask {
            inputs,
            quantized,
            units,
            output: &shared_output,
        });
    })
}

/// Multiplies all rows by some units of the matrix (see [`MatmulInputs::panels_per_unit`]).
struct MatmulTask<'a, const V: usize> {
    inputs: &'a MatmulInputs<'a>,
    /// `[passes, groups, rows of the pass]`
    quantized: &'a [QuantizedGroup<V>],
    units: Range<usize>,
    output: &'a SharedSlice<'a, f32>,
}

impl<const V: usize> WithSimd for MatmulTask<'_, V> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.inputs.matrix.layout.quants {
            PanelQuants::Nibbles(ZeroPoint::Fixed(_)) => self.run_format::<S, Nibbles<false>>(simd),
            PanelQuants::Nibbles(ZeroPoint::GroupMin) => self.run_format::<S, Nibbles<true>>(simd),
            PanelQuants::SixBits(ZeroPoint::Fixed(_)) => self.run_format::<S, SixBits<false>>(simd),
            PanelQuants::SixBits(ZeroPoint::GroupMin) => self.run_format::<S, SixBits<true>>(simd),
            PanelQuants::EightBits => self.run_format::<S, EightBits>(simd),
        }
    }
}

impl<const V: usize> MatmulTask<'_, V> {
    #[inline(always)]
    fn run_format<S: Simd, F: PanelFormat>(self, simd: S) {
        let inputs = self.inputs;
        let rows = inputs.rows();
        let groups_per_row = inputs.columns() / inputs.matrix.layout.group_size;
        for unit in self.units.clone() {
            let next = self.next_panels(unit);
            let mut first = 0;
            while first < rows {
                let count = (rows - first).min(ROWS_PER_PASS);
                let prefetched = next.len() * first / rows..next.len() * (first + count) / rows;
                for line in next[prefetched].iter().step_by(CACHE_LINE_BYTES) {
                    simd.prefetch(line);
                }
                let groups = first * groups_per_row..(first + count) * groups_per_row;
                let groups = &self.quantized[groups];
                match count {
                    1 => self.multiply_unit::<S, F, 1>(simd, unit, first, groups),
                    2 => self.multiply_unit::<S, F, 2>(simd, unit, first, groups),
                    3 => self.multiply_unit::<S, F, 3>(simd, unit, first, groups),
                    _ => self.multiply_unit::<S, F, ROWS_PER_PASS>(simd, unit, first, groups),
                }
                first += count;
            }
        }
    }

    /// Returns the panels of the next unit, which are prefetched during the passes over this unit. Empty if there is
    /// only one pass: memory bandwidth is then the limit, and the hardware prefetcher suffices.
    #[inline(always)]
    fn next_panels(&self, unit: usize) -> &[u8] {
        let inputs = self.inputs;
        let per_unit = inputs.panels_per_unit();
        let next = unit + 1;
        match next < self.units.end && inputs.rows() > ROWS_PER_PASS {
            true => inputs.matrix.panels(next * per_unit..(next + 1) * per_unit),
            false => &[],
        }
    }

    /// Multiplies `R` rows by one panel and adds the bias. `output` is the matrix row of the panel's first lane.
    #[inline(always)]
    fn multiply_panel<S: Simd, F: PanelFormat, const R: usize>(
        &self,
        simd: S,
        panel: usize,
        output: usize,
        groups: &[[QuantizedGroup<V>; R]],
    ) -> [S::Vector; R] {
        let inputs = self.inputs;
        let panel = inputs.matrix.panels(panel..panel + 1);
        let mut sums = panel::multiply::<S, F, V, R>(simd, panel, groups, inputs.matrix.layout);
        if let Some(values) = inputs.bias {
            let bias = simd.load(&pad_lanes(&values[output..]));
            for sum in &mut sums {
                *sum = simd.add(*sum, bias);
            }
        }
        sums
    }

    /// Multiplies `R` rows, starting at row `first`, by one unit and writes the outputs.
    #[inline(always)]
    fn multiply_unit<S: Simd, F: PanelFormat, const R: usize>(
        &self,
        simd: S,
        unit: usize,
        first: usize,
        groups: &[QuantizedGroup<V>],
    ) {
        let inputs = self.inputs;
        let groups = groups.as_chunks::<R>().0;
        let outputs = unit * PANEL_ROWS..inputs.width().min((unit + 1) * PANEL_ROWS);
        let results = match inputs.gated {
            None => self.multiply_panel::<S, F, R>(simd, unit, outputs.start, groups),
            Some(activation) => {
                let mut gated =
                    self.multiply_panel::<S, F, R>(simd, 2 * unit, outputs.start, groups);
                let value_output = inputs.width() + outputs.start;
                let values =
                    self.multiply_panel::<S, F, R>(simd, 2 * unit + 1, value_output, groups);
                for (gate, value) in gated.iter_mut().zip(values) {
                    *gate = simd.multiply(activate(simd, activation, *gate), value);
                }
                gated
            }
        };
        for (row, result) in results.into_iter().enumerate() {
            let start = (first + row) * inputs.width();
            let range = start + outputs.start..start + outputs.end;
            let mut values = result;
            if let Some(residual) = inputs.residual {
                let residual = simd.load(&pad_lanes(&residual[range.clone()]));
                values = simd.add(residual, values);
            }
            // SAFETY: no other task writes these outputs.
            let output = unsafe { self.output.slice_mut(range) };
            store_partial(simd, values, output);
        }
    }
}
