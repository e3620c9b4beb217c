//! LoRA updates of a matmul result (Hu et al., 2021, <https://arxiv.org/abs/2106.09685>), on plain slices and
//! independent of ONNX Runtime. For each adapter that a row uses, `scale · B · A · input` is added to the row.
//!
//! The result is batch-invariant: it does not depend on other rows or on threads. Rows without adapters are unchanged.

use std::ops::Range;

use super::parallel::{OperatorError, ParallelFor, for_each_index};
use super::shared_slice::SharedSlice;
use super::simd::{Instructions, LANES, Simd, WithSimd};

/// Number of LoRA A rows that one task multiplies by an input row.
const RANKS_PER_TASK: usize = 8;
/// Number of outputs of a row that one task computes.
const OUTPUTS_PER_TASK: usize = 64;
/// Minimum number of multiplications that justifies waking other threads.
const MIN_PARALLEL_MULTIPLICATIONS: usize = 1 << 16;
/// Number of values per branch in the input `branches`.
const BRANCH_FIELDS: usize = 4;

/// The inputs of a low-rank update.
#[derive(Debug, Clone, Copy)]
pub struct LowRankInputs<'a> {
    /// Result of the matmul without adapters, `[rows, outputs]`.
    pub base: &'a [f32],
    /// Number of columns of `base`.
    pub outputs: usize,
    /// Input of the matmul, `[rows, columns]`.
    pub input: &'a [f32],
    /// Number of columns of `input`.
    pub columns: usize,
    /// Scale of each adapter for each row, `[rows, adapters]`; 0 disables the adapter.
    pub scales: &'a [f32],
    /// Number of columns of `scales`.
    pub adapters: usize,
    /// LoRA A matrices of all branches, `[sum of ranks, columns]`.
    pub lora_a: &'a [f32],
    /// Transposed LoRA B matrices of all branches, `[rank, outputs of the branch]` each.
    pub lora_b: &'a [f32],
    /// `[branches · 4]`: for each branch its adapter, first output, number of outputs, and rank.
    pub branches: &'a [i64],
}

/// The pair of LoRA A and B matrices of one adapter for a range of outputs.
struct Branch {
    adapter: usize,
    outputs: Range<usize>,
    rank: usize,
    /// Index of the branch's first row in `lora_a`.
    first_a_row: usize,
    /// Index of the branch's first element in `lora_b`.
    first_b_element: usize,
}

/// A branch whose adapter has a nonzero scale in a row.
struct ActiveBranch<'a> {
    row: usize,
    branch: &'a Branch,
    scale: f32,
    /// Index of the branch's first element in the buffer of projections `A · input`.
    first_projection: usize,
}

/// Writes the sum of `base` and the updates to `output`, `[rows, outputs]`.
///
/// # Errors
/// If the inputs do not match each other (nothing is written), or if `parallel` fails.
pub fn update(
    inputs: &LowRankInputs,
    output: &mut [f32],
    instructions: Instructions,
    parallel: ParallelFor,
) -> Result<(), OperatorError> {
    let branches = check_inputs(inputs, output.len())?;
    output.copy_from_slice(inputs.base);
    let (active, projections) = active_branches(inputs, &branches);
    let cost =
        |active: &ActiveBranch| active.branch.rank * (inputs.columns + active.branch.outputs.len());
    if active.is_empty() {
        return Ok(());
    }
    let parallel = match active.iter().map(cost).sum::<usize>() {
        ..MIN_PARALLEL_MULTIPLICATIONS => &sequential,
        _ => parallel,
    };

    let mut projections = vec![0.0; projections];
    let shared_projections = SharedSlice::new(&mut projections);
    let tasks: Vec<(&ActiveBranch, Range<usize>)> = active
        .iter()
        .flat_map(|active| {
            let ranks = (0..active.branch.rank).step_by(RANKS_PER_TASK);
            ranks.map(move |rank| (active, rank..active.branch.rank.min(rank + RANKS_PER_TASK)))
        })
        .collect();
    for_each_index(parallel, tasks.len(), &|index| {
        let (active, ranks) = &tasks[index];
        let first = active.first_projection;
        // SAFETY: no other task writes the projections of these ranks.
        let projections =
            unsafe { shared_projections.slice_mut(first + ranks.start..first + ranks.end) };
        instructions.run(ProjectDown {
            inputs,
            active,
            first_rank: ranks.start,
            projections,
        });
    })?;

    let rows: Vec<&[ActiveBranch]> = active.chunk_by(|one, next| one.row == next.row).collect();
    let tasks_per_row = inputs.outputs.div_ceil(OUTPUTS_PER_TASK);
    let shared_output = SharedSlice::new(output);
    for_each_index(parallel, rows.len() * tasks_per_row, &|index| {
        let active = rows[index / tasks_per_row];
        let first = index % tasks_per_row * OUTPUTS_PER_TASK;
        let outputs = first..inputs.outputs.min(first + OUTPUTS_PER_TASK);
        let start = active[0].row * inputs.outputs;
        // SAFETY: no other call writes these outputs of this row.
        let output = unsafe { shared_output.slice_mut(start + outputs.start..start + outputs.end) };
        instructions.run(ProjectUp {
            lora_b: inputs.lora_b,
            active,
            projections: &projections,
            outputs,
            output,
        });
    })
}

/// A [`ParallelFor`] that makes all calls in order on the calling thread.
fn sequential(count: usize, call: &(dyn Fn(usize) + Sync)) -> Result<(), OperatorError> {
    (0..count).for_each(call);
    Ok(())
}

/// Checks the lengths of the inputs and returns the branches.
fn check_inputs(inputs: &LowRankInputs, output: usize) -> Result<Vec<Branch>, OperatorError> {
    let invalid = |input, problem: String| Err(OperatorError::input(input, problem));
    let rows = inputs.base.len().checked_div(inputs.outputs).unwrap_or(0);
    for (name, elements, width) in [
        ("product", inputs.base.len(), inputs.outputs),
        ("output", output, inputs.outputs),
        ("input", inputs.input.len(), inputs.columns),
        ("scales", inputs.scales.len(), inputs.adapters),
    ] {
        if width == 0 || rows.checked_mul(width) != Some(elements) {
            let problem = format!("has {elements} elements, not {rows} rows of {width}");
            return invalid(name, problem);
        }
    }
    let (entries, rest) = inputs.branches.as_chunks::<BRANCH_FIELDS>();
    let (mut a_rows, mut b_elements) = (0, 0);
    let mut branches = Vec::with_capacity(entries.len());
    for fields in entries {
        let [adapter, first, count, rank] =
            fields.map(|field| usize::try_from(field).unwrap_or(usize::MAX));
        let end = first
            .checked_add(count)
            .filter(|end| *end <= inputs.outputs);
        let (Some(end), true) = (end, adapter < inputs.adapters) else {
            return invalid(
                "branches",
                format!("{fields:?} has outputs or an adapter that are out of range"),
            );
        };
        branches.push(Branch {
            adapter,
            outputs: first..end,
            rank,
            first_a_row: a_rows,
            first_b_element: b_elements,
        });
        a_rows = rank.saturating_add(a_rows);
        b_elements = rank.saturating_mul(count).saturating_add(b_elements);
    }
    let a_matches = a_rows.checked_mul(inputs.columns) == Some(inputs.lora_a.len());
    match rest.is_empty() && a_matches && b_elements == inputs.lora_b.len() {
        true => Ok(branches),
        false => invalid(
            "branches",
            "do not match the sizes of down and up".to_owned(),
        ),
    }
}

/// Returns the active branches, row by row, and the total length of all projections.
fn active_branches<'a>(
    inputs: &LowRankInputs,
    branches: &'a [Branch],
) -> (Vec<ActiveBranch<'a>>, usize) {
    let mut active = Vec::new();
    let mut projections = 0;
    for (row, scales) in inputs.scales.chunks_exact(inputs.adapters).enumerate() {
        for branch in branches {
            let scale = scales[branch.adapter];
            if scale != 0.0 {
                active.push(ActiveBranch {
                    row,
                    branch,
                    scale,
                    first_projection: projections,
                });
                projections += branch.rank;
            }
        }
    }
    (active, projections)
}

/// Multiplies an input row by some rows of a branch's LoRA A matrix.
struct ProjectDown<'a> {
    inputs: &'a LowRankInputs<'a>,
    active: &'a ActiveBranch<'a>,
    /// Index of the first of these rows in the branch.
    first_rank: usize,
    projections: &'a mut [f32],
}

impl WithSimd for ProjectDown<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let columns = self.inputs.columns;
        let input = &self.inputs.input[self.active.row * columns..][..columns];
        let first = self.active.branch.first_a_row + self.first_rank;
        let a_rows = self.inputs.lora_a[first * columns..].chunks_exact(columns);
        for (projection, row) in self.projections.iter_mut().zip(a_rows) {
            *projection = dot(simd, input, row);
        }
    }
}

/// Returns the dot product of two slices of equal length.
#[inline(always)]
fn dot<S: Simd>(simd: S, left: &[f32], right: &[f32]) -> f32 {
    let (left, left_rest) = left.as_chunks::<LANES>();
    let (right, right_rest) = right.as_chunks::<LANES>();
    let mut sums = [simd.splat(0.0); 4];
    for (left, right) in left.chunks(4).zip(right.chunks(4)) {
        for ((left, right), sum) in left.iter().zip(right).zip(&mut sums) {
            *sum = simd.multiply_add(simd.load(left), simd.load(right), *sum);
        }
    }
    let [a, b, c, d] = simd.sum_lanes(sums);
    let rest = left_rest.iter().zip(right_rest);
    (a + b) + (c + d) + rest.map(|(left, right)| left * right).sum::<f32>()
}

/// Adds the updates of a row's active branches, in order, to some outputs of the row.
struct ProjectUp<'a> {
    lora_b: &'a [f32],
    active: &'a [ActiveBranch<'a>],
    projections: &'a [f32],
    outputs: Range<usize>,
    output: &'a mut [f32],
}

impl WithSimd for ProjectUp<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for active in self.active {
            let branch = active.branch;
            let first = self.outputs.start.max(branch.outputs.start);
            let end = self.outputs.end.min(branch.outputs.end);
            if first >= end {
                continue;
            }
            let projections = &self.projections[active.first_projection..][..branch.rank];
            let width = branch.outputs.len();
            let b_rows =
                self.lora_b[branch.first_b_element..][..branch.rank * width].chunks_exact(width);
            let columns = first - branch.outputs.start..end - branch.outputs.start;
            let mut update = [0.0; OUTPUTS_PER_TASK];
            let update = &mut update[..columns.len()];
            for (projection, row) in projections.iter().zip(b_rows) {
                add_scaled(simd, *projection, &row[columns.clone()], update);
            }
            let output = &mut self.output[first - self.outputs.start..end - self.outputs.start];
            add_scaled(simd, active.scale, update, output);
        }
    }
}

/// Adds `scale · values` to `to`.
#[inline(always)]
fn add_scaled<S: Simd>(simd: S, scale: f32, values: &[f32], to: &mut [f32]) {
    let (values, values_rest) = values.as_chunks::<LANES>();
    let (to, to_rest) = to.as_chunks_mut::<LANES>();
    let scales = simd.splat(scale);
    for (value, to) in values.iter().zip(to) {
        let sum = simd.multiply_add(scales, simd.load(value), simd.load(to));
        simd.store(sum, to);
    }
    for (value, to) in values_rest.iter().zip(to_rest) {
        *to += scale * value;
    }
}
