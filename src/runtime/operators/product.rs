//! Products with matrices of quantised blocks, on plain slices, and what stands before and behind them: the norm of a row, a
//! bias, a gated activation, a residual. It knows nothing of ONNX Runtime.
//!
//! Each row is rounded to int8 group by group, as `MatMulNBits` and llama.cpp round it; the sums of a group are whole numbers,
//! and floats are added group after group. So a row's bits depend on the row alone, whoever computes it, beside whatever
//! others.

mod panel;
mod rows;

use std::ops::Range;

use super::activation::activated;
use super::norm::RowNorm;
use super::parallel::{OperatorError, ParallelFor, once_each};
use super::shared::SharedSlice;
use super::simd::{Instructions, Simd, Work, eight, store_some};
use crate::graph::Activation;
use crate::graph::panels::{Origin, PANEL_ROWS, PanelCodes, Panels};
use panel::{Codes, EightBits, Nibbles, SixBits};
use rows::{Group, Rounding};
pub use rows::{QuantisedRows, ROWS_TOGETHER};

/// Bytes of panels that are worth another thread's waking.
const LEAST_BYTES_OF_A_TASK: usize = 16 << 10;
/// Into how many parts a product is cut at most: whoever is free takes the next.
const MOST_TASKS: usize = 16;
/// Bytes that come from memory at once.
const LINE_BYTES: usize = 64;
/// Rows whose rounding is worth other threads.
const ROWS_WORTH_SHARING: usize = 8;

/// What is read.
#[derive(Debug, Clone, Copy)]
pub struct ProductInputs<'a> {
    /// `[rows, columns of the matrix]`
    pub x: &'a [f32],
    /// The matrix, whose rows are the outputs: in halves where there is a gate.
    pub matrix: &'a Panels,
    /// Applied to each row of `x` before.
    pub norm: Option<RowNorm<'a>>,
    /// `[outputs]`, added to each row of the product.
    pub bias: Option<&'a [f32]>,
    /// Gates the second half of each row by its first.
    pub gated: Option<Activation>,
    /// `[rows, columns of the output]`, added to what comes of all this.
    pub residual: Option<&'a [f32]>,
}

impl ProductInputs<'_> {
    fn columns(&self) -> usize {
        self.matrix.shape.columns
    }

    /// Rows of the matrix.
    fn outputs(&self) -> usize {
        self.matrix.shape.rows
    }

    fn rows(&self) -> usize {
        self.x.len() / self.columns()
    }

    /// Columns of the output.
    pub fn width(&self) -> usize {
        match self.gated {
            None => self.outputs(),
            Some(_) => self.outputs() / 2,
        }
    }

    /// Panels that are computed together.
    fn panels_together(&self) -> usize {
        match self.gated {
            None => 1,
            Some(_) => 2,
        }
    }

    fn check(&self, output: usize) -> Result<(), OperatorError> {
        let invalid = |input, problem: String| Err(OperatorError::input(input, problem));
        let columns = self.columns();
        if !self.x.len().is_multiple_of(columns) {
            let problem = format!("has {} values, no rows of {columns}", self.x.len());
            return invalid("x", problem);
        }
        if self.gated.is_some() != self.matrix.shape.halves {
            let problem = "is in halves if there is a gate, and else not";
            return invalid("matrix", problem.to_owned());
        }
        let width = self.width();
        let vectors = [
            ("norm_gain", self.norm.map(|norm| norm.gain), columns),
            ("bias", self.bias, self.outputs()),
            ("residual", self.residual, self.rows() * width),
        ];
        for (input, values, wanted) in vectors {
            if let Some(found) = values.map(<[f32]>::len).filter(|&found| found != wanted) {
                return invalid(input, format!("has {found} values, not {wanted}"));
            }
        }
        assert_eq!(output, self.rows() * width, "the output has a row for each");
        Ok(())
    }
}

/// Writes the product into `output`, `[rows, width]`. `rounded` is memory that is used again at every call.
///
/// # Errors
/// If the inputs do not fit each other; then nothing was written. If `parallel` fails.
pub fn multiply(
    inputs: &ProductInputs,
    output: &mut [f32],
    rounded: &mut QuantisedRows,
    instructions: Instructions,
    parallel: ParallelFor,
) -> Result<(), OperatorError> {
    inputs.check(output.len())?;
    match inputs.matrix.layout.group {
        16 => multiply_groups(inputs, output, rounded.of_16(), instructions, parallel),
        _ => multiply_groups(inputs, output, rounded.of_32(), instructions, parallel),
    }
}

fn multiply_groups<const V: usize>(
    inputs: &ProductInputs,
    output: &mut [f32],
    rounded: &mut Vec<Group<V>>,
    instructions: Instructions,
    parallel: ParallelFor,
) -> Result<(), OperatorError> {
    let (rows, columns, layout) = (inputs.rows(), inputs.columns(), inputs.matrix.layout);
    let groups_of_row = columns / layout.group;
    rounded.resize(rows * groups_of_row, Group::default());
    let sets = rows.div_ceil(ROWS_TOGETHER);
    let shared = SharedSlice::new(rounded);
    let round = |set: usize| {
        let rows = set * ROWS_TOGETHER..rows.min((set + 1) * ROWS_TOGETHER);
        let groups = rows.start * groups_of_row..rows.end * groups_of_row;
        // SAFETY: no other set has these rows.
        let groups = unsafe { shared.part_mut(groups) };
        instructions.run(Rounding {
            x: &inputs.x[rows.start * columns..rows.end * columns],
            columns,
            norm: inputs.norm,
            layout,
            groups,
        });
    };
    match rows {
        ..ROWS_WORTH_SHARING => (0..sets).for_each(round),
        _ => once_each(parallel, sets, &round)?,
    }

    let units = inputs.matrix.count() / inputs.panels_together();
    let tasks = (inputs.matrix.bytes() * sets / LEAST_BYTES_OF_A_TASK).clamp(1, MOST_TASKS);
    let tasks = tasks.min(units);
    let shared = SharedSlice::new(output);
    once_each(parallel, tasks, &|task| {
        let units = units * task / tasks..units * (task + 1) / tasks;
        instructions.run(Task {
            inputs,
            rounded,
            units,
            output: &shared,
        });
    })
}

/// Some panels, or pairs of them, times all rows.
struct Task<'a, const V: usize> {
    inputs: &'a ProductInputs<'a>,
    rounded: &'a [Group<V>],
    units: Range<usize>,
    output: &'a SharedSlice<'a, f32>,
}

impl<const V: usize> Work for Task<'_, V> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        match self.inputs.matrix.layout.codes {
            PanelCodes::Nibbles(Origin::Zero(_)) => self.with::<S, Nibbles<false>>(simd),
            PanelCodes::Nibbles(Origin::Minimum) => self.with::<S, Nibbles<true>>(simd),
            PanelCodes::SixBits(Origin::Zero(_)) => self.with::<S, SixBits<false>>(simd),
            PanelCodes::SixBits(Origin::Minimum) => self.with::<S, SixBits<true>>(simd),
            PanelCodes::EightBits => self.with::<S, EightBits>(simd),
        }
    }
}

impl<const V: usize> Task<'_, V> {
    #[inline(always)]
    fn with<S: Simd, C: Codes>(self, simd: S) {
        let inputs = self.inputs;
        let rows = inputs.rows();
        let groups_of_row = inputs.columns() / inputs.matrix.layout.group;
        for unit in self.units.clone() {
            let next = self.behind(unit);
            let mut first = 0;
            while first < rows {
                let count = (rows - first).min(ROWS_TOGETHER);
                let ahead = next.len() * first / rows..next.len() * (first + count) / rows;
                for line in next[ahead].iter().step_by(LINE_BYTES) {
                    simd.prefetch(line);
                }
                let groups = first * groups_of_row..(first + count) * groups_of_row;
                let groups = &self.rounded[groups];
                match count {
                    1 => self.block::<S, C, 1>(simd, unit, first, groups),
                    2 => self.block::<S, C, 2>(simd, unit, first, groups),
                    3 => self.block::<S, C, 3>(simd, unit, first, groups),
                    _ => self.block::<S, C, ROWS_TOGETHER>(simd, unit, first, groups),
                }
                first += count;
            }
        }
    }

    /// The panels that come next, which are fetched from memory while these are multiplied with set after set of rows. With one
    /// set there is little to do but to read, and the processor looks ahead by itself.
    #[inline(always)]
    fn behind(&self, unit: usize) -> &[u8] {
        let inputs = self.inputs;
        let together = inputs.panels_together();
        let next = unit + 1;
        match next < self.units.end && inputs.rows() > ROWS_TOGETHER {
            true => inputs.matrix.panels(next * together..(next + 1) * together),
            false => &[],
        }
    }

    /// One panel, whose first row is the matrix's of the number `output`, times `R` rows, with its bias.
    #[inline(always)]
    fn panel<S: Simd, C: Codes, const R: usize>(
        &self,
        simd: S,
        panel: usize,
        output: usize,
        groups: &[[Group<V>; R]],
    ) -> [S::Vector; R] {
        let inputs = self.inputs;
        let panel = inputs.matrix.panels(panel..panel + 1);
        let mut sums = panel::product::<S, C, V, R>(simd, panel, groups, inputs.matrix.layout);
        if let Some(values) = inputs.bias {
            let bias = simd.load(&eight(&values[output..]));
            for sum in &mut sums {
                *sum = simd.add(*sum, bias);
            }
        }
        sums
    }

    /// One panel, or a pair of them, times `R` rows from `first` on.
    #[inline(always)]
    fn block<S: Simd, C: Codes, const R: usize>(
        &self,
        simd: S,
        unit: usize,
        first: usize,
        groups: &[Group<V>],
    ) {
        let inputs = self.inputs;
        let groups = groups.as_chunks::<R>().0;
        let outputs = unit * PANEL_ROWS..inputs.width().min((unit + 1) * PANEL_ROWS);
        let results = match inputs.gated {
            None => self.panel::<S, C, R>(simd, unit, outputs.start, groups),
            Some(activation) => {
                let mut gated = self.panel::<S, C, R>(simd, 2 * unit, outputs.start, groups);
                let second = inputs.width() + outputs.start;
                let values = self.panel::<S, C, R>(simd, 2 * unit + 1, second, groups);
                for (gate, value) in gated.iter_mut().zip(values) {
                    *gate = simd.multiply(activated(simd, activation, *gate), value);
                }
                gated
            }
        };
        for (row, result) in results.into_iter().enumerate() {
            let start = (first + row) * inputs.width();
            let place = start + outputs.start..start + outputs.end;
            let mut values = result;
            if let Some(residual) = inputs.residual {
                let residual = simd.load(&eight(&residual[place.clone()]));
                values = simd.add(residual, values);
            }
            // SAFETY: no other task has these outputs.
            let output = unsafe { self.output.part_mut(place) };
            store_some(simd, values, output);
        }
    }
}
