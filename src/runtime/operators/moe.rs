//! Mixture of experts (MoE) on plain slices, independent of ONNX Runtime: router scores select experts for each row,
//! and the result is the weighted sum of the experts' outputs (Jiang et al., "Mixtral of Experts", 2024, section 2.1).
//!
//! The result is batch-invariant: dot products are computed in column order and experts are added in index order.
//! Expert weights stay in the model file; a few matrix rows at a time are dequantized and multiplied.

use std::ops::Range;

use super::parallel::{OperatorError, ParallelFor, for_each_index};
use super::shared_slice::SharedSlice;
use super::simd::{Instructions, LANES, Simd, WithSimd};
use crate::graph::{ExpertMatrices, Tensor};

/// Number of matrix rows that are dequantized together and multiplied in one pass over an activation row.
const MATRIX_ROWS_PER_STEP: usize = 4;
/// Number of matrix rows (output columns) in a task.
const MATRIX_ROWS_PER_TASK: usize = 16;

/// How experts are selected and weighted.
#[derive(Debug, Clone, Copy)]
pub struct Routing {
    /// Number of experts per row, from 1 to the model's number of experts.
    pub top_k: usize,
    /// Whether the weights of the selected experts are normalized to a sum of 1.
    pub normalize: bool,
    /// Factor by which the routing weights are multiplied.
    pub scale: f32,
}

impl Routing {
    /// Returns the `top_k` experts with the highest router scores, in index order, each with its routing weight
    /// (softmax of the scores). Among equal scores, lower indices are preferred.
    fn select_experts(&self, scores: &[f32]) -> Vec<(usize, f32)> {
        let mut selected: Vec<usize> = (0..scores.len()).collect();
        selected.sort_by(|left, right| scores[*right].total_cmp(&scores[*left]));
        let max = scores[selected[0]];
        selected.truncate(self.top_k);
        selected.sort_unstable();
        let exponential = |score: &f32| (score - max).exp();
        let sum: f32 = match self.normalize {
            true => selected
                .iter()
                .map(|expert| exponential(&scores[*expert]))
                .sum(),
            false => scores.iter().map(exponential).sum(),
        };
        let with_weight = |expert| (expert, exponential(&scores[expert]) / sum * self.scale);
        selected.into_iter().map(with_weight).collect()
    }
}

/// The inputs of a mixture of experts.
#[derive(Debug, Clone, Copy)]
pub struct MoeInputs<'a> {
    /// Activations, `[tokens, hidden]`.
    pub rows: &'a [f32],
    /// Router scores, `[tokens, experts]`.
    pub scores: &'a [f32],
    /// Number of columns of `rows`.
    pub hidden: usize,
}

/// A row that is routed to an expert.
struct Assignment {
    expert: usize,
    row: usize,
    /// Routing weight.
    weight: f32,
}

/// The rows that are routed to one expert, and the expert's weights.
struct ExpertBatch<'a> {
    assignments: &'a [Assignment],
    /// Index of the batch's first assignment among the assignments of all experts.
    first: usize,
    gate: Tensor<'a>,
    up: Tensor<'a>,
    down: Tensor<'a>,
}

impl<'a> ExpertBatch<'a> {
    /// Returns a batch for each expert that has rows, in index order. `assignments` must be sorted by expert.
    fn all(assignments: &'a [Assignment], experts: &'a ExpertMatrices) -> Vec<Self> {
        let mut first = 0;
        let batch = |assignments: &'a [Assignment]| {
            let expert = assignments[0].expert;
            let batch = Self {
                assignments,
                first,
                gate: experts.gate(expert),
                up: experts.up(expert),
                down: experts.down(expert),
            };
            first += assignments.len();
            batch
        };
        assignments
            .chunk_by(|left, right| left.expert == right.expert)
            .map(batch)
            .collect()
    }
}

/// Writes the weighted sum of the experts' outputs for each row to `output`, `[tokens, hidden]`.
///
/// # Errors
/// If the inputs do not match each other (nothing is written), or if `parallel` fails.
pub fn run_experts(
    inputs: &MoeInputs,
    experts: &ExpertMatrices,
    routing: Routing,
    output: &mut [f32],
    instructions: Instructions,
    parallel: ParallelFor,
) -> Result<(), OperatorError> {
    check_inputs(inputs, experts, routing, output.len())?;
    output.fill(0.0);
    let assignments = assign_rows(inputs, experts.count(), routing);
    let batches = ExpertBatch::all(&assignments, experts);
    let feed_forward = experts.feed_forward();
    let mut gated = vec![0.0; assignments.len() * feed_forward];
    let shared_gated = SharedSlice::new(&mut gated);
    let tasks_per_batch = feed_forward.div_ceil(MATRIX_ROWS_PER_TASK);
    for_each_index(parallel, batches.len() * tasks_per_batch, &|index| {
        let first = index % tasks_per_batch * MATRIX_ROWS_PER_TASK;
        instructions.run(GateAndUp {
            inputs,
            batch: &batches[index / tasks_per_batch],
            feed_forward,
            columns: first..feed_forward.min(first + MATRIX_ROWS_PER_TASK),
            gated: &shared_gated,
        });
    })?;
    let hidden = inputs.hidden;
    let output = SharedSlice::new(output);
    for_each_index(parallel, hidden.div_ceil(MATRIX_ROWS_PER_TASK), &|index| {
        let first = index * MATRIX_ROWS_PER_TASK;
        instructions.run(Down {
            batches: &batches,
            feed_forward,
            gated: &gated,
            columns: first..hidden.min(first + MATRIX_ROWS_PER_TASK),
            hidden,
            output: &output,
        });
    })
}

fn check_inputs(
    inputs: &MoeInputs,
    experts: &ExpertMatrices,
    routing: Routing,
    output: usize,
) -> Result<(), OperatorError> {
    let (rows, count) = (inputs.rows.len(), experts.count());
    let invalid = |input, problem: String| Err(OperatorError::input(input, problem));
    let hidden = experts.gate(0).columns();
    if inputs.hidden != hidden || !rows.is_multiple_of(hidden) || output != rows {
        let problem = format!(
            "has rows of {} elements, but the experts have {hidden}",
            inputs.hidden
        );
        return invalid("input", problem);
    }
    if inputs.scores.len() != rows / hidden * count {
        let problem = format!(
            "has {} elements for {} rows and {count} experts",
            inputs.scores.len(),
            rows / hidden
        );
        return invalid("router_probs", problem);
    }
    if !(1..=count).contains(&routing.top_k) {
        let problem = format!("k is {}, not from 1 to the {count} experts", routing.top_k);
        return invalid("router_probs", problem);
    }
    Ok(())
}

/// Routes rows to experts; the result is sorted by expert. Rows of zeros are the padding of a step: they skip expert
/// routing, and their outputs stay zero.
fn assign_rows(inputs: &MoeInputs, experts: usize, routing: Routing) -> Vec<Assignment> {
    let rows = inputs.rows.chunks_exact(inputs.hidden);
    let rows = rows.zip(inputs.scores.chunks_exact(experts)).enumerate();
    let mut assignments: Vec<Assignment> = rows
        .filter(|(_, (row, _))| row.iter().any(|value| *value != 0.0))
        .flat_map(|(row, (_, scores))| {
            let selected = routing.select_experts(scores).into_iter();
            selected.map(move |(expert, weight)| Assignment {
                expert,
                row,
                weight,
            })
        })
        .collect();
    assignments.sort_by_key(|assignment| assignment.expert);
    assignments
}

/// Computes some columns of `silu(gate) · up` for the rows of an expert.
struct GateAndUp<'a> {
    inputs: &'a MoeInputs<'a>,
    batch: &'a ExpertBatch<'a>,
    feed_forward: usize,
    columns: Range<usize>,
    /// `[assignments, feed_forward]`
    gated: &'a SharedSlice<'a, f32>,
}

impl WithSimd for GateAndUp<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let ExpertBatch {
            assignments,
            first,
            gate: gate_matrix,
            up: up_matrix,
            ..
        } = self.batch;
        let (hidden, feed_forward) = (self.inputs.hidden, self.feed_forward);
        let mut matrices = vec![0.0; 2 * MATRIX_ROWS_PER_STEP * hidden];
        for column in self.columns.clone().step_by(MATRIX_ROWS_PER_STEP) {
            let end = self.columns.end.min(column + MATRIX_ROWS_PER_STEP);
            let (gate, up) = matrices.split_at_mut(MATRIX_ROWS_PER_STEP * hidden);
            let values = (end - column) * hidden;
            gate_matrix.read_rows(column..end, &mut gate[..values]);
            up_matrix.read_rows(column..end, &mut up[..values]);
            for (index, Assignment { row, .. }) in (*first..).zip(*assignments) {
                let row = &self.inputs.rows[row * hidden..(row + 1) * hidden];
                let [gates, ups] = dot_products(simd, &matrices, row);
                let start = index * feed_forward;
                // SAFETY: no other task writes these columns for the rows of this expert.
                let to = unsafe { self.gated.slice_mut(start + column..start + end) };
                for ((to, gate), up) in to.iter_mut().zip(gates).zip(ups) {
                    *to = gate / (1.0 + (-gate).exp()) * up;
                }
            }
        }
    }
}

/// Computes some columns of the output for all rows: multiplies `gated` by the down matrices and adds the weighted
/// results.
struct Down<'a> {
    batches: &'a [ExpertBatch<'a>],
    feed_forward: usize,
    /// `[assignments, feed_forward]`
    gated: &'a [f32],
    columns: Range<usize>,
    hidden: usize,
    /// `[tokens, hidden]`
    output: &'a SharedSlice<'a, f32>,
}

impl WithSimd for Down<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let feed_forward = self.feed_forward;
        let mut down = vec![0.0; MATRIX_ROWS_PER_STEP * feed_forward];
        for batch in self.batches {
            let gated = &self.gated[batch.first * feed_forward..];
            for column in self.columns.clone().step_by(MATRIX_ROWS_PER_STEP) {
                let end = self.columns.end.min(column + MATRIX_ROWS_PER_STEP);
                batch
                    .down
                    .read_rows(column..end, &mut down[..(end - column) * feed_forward]);
                let rows = gated.chunks_exact(feed_forward);
                for (Assignment { row, weight, .. }, gated) in batch.assignments.iter().zip(rows) {
                    let start = row * self.hidden;
                    // SAFETY: no other task writes these columns of the output.
                    let to = unsafe { self.output.slice_mut(start + column..start + end) };
                    let [outputs] = dot_products(simd, &down, gated);
                    for (to, output) in to.iter_mut().zip(outputs) {
                        *to += weight * output;
                    }
                }
            }
        }
    }
}

/// Returns the dot products of a row with the rows of `matrices`, `[N, MATRIX_ROWS_PER_STEP, columns]`.
#[inline(always)]
fn dot_products<S: Simd, const N: usize>(
    simd: S,
    matrices: &[f32],
    row: &[f32],
) -> [[f32; MATRIX_ROWS_PER_STEP]; N] {
    let columns = row.len();
    let (groups, rest) = row.as_chunks::<LANES>();
    let rows: [[&[f32]; MATRIX_ROWS_PER_STEP]; N] = std::array::from_fn(|matrix| {
        std::array::from_fn(|row| {
            let first = (matrix * MATRIX_ROWS_PER_STEP + row) * columns;
            &matrices[first..first + columns]
        })
    });
    let matrices = rows.map(|rows| rows.map(|row| &row.as_chunks::<LANES>().0[..groups.len()]));
    let mut sums = [[simd.splat(0.0); MATRIX_ROWS_PER_STEP]; N];
    for (index, group) in groups.iter().enumerate() {
        let group = simd.load(group);
        for (sums, rows) in sums.iter_mut().zip(&matrices) {
            for (sum, row) in sums.iter_mut().zip(rows) {
                *sum = simd.multiply_add(simd.load(&row[index]), group, *sum);
            }
        }
    }
    let mut sums = sums.map(|sums| simd.sum_lanes(sums));
    for (sum, row) in sums.as_flattened_mut().iter_mut().zip(rows.as_flattened()) {
        let tail = row[columns - rest.len()..].iter().zip(rest);
        *sum += tail.map(|(left, right)| left * right).sum::<f32>();
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_experts_with_the_highest_scores_are_selected() {
        let routing = |top_k, normalize, scale| Routing {
            top_k,
            normalize,
            scale,
        };
        let ln_3 = 3.0_f32.ln();
        let scores = [0.0, ln_3, 0.0, ln_3];
        let selected = |routing: Routing| -> Vec<(usize, String)> {
            let selected = routing.select_experts(&scores).into_iter();
            selected
                .map(|(expert, weight)| (expert, format!("{weight:.4}")))
                .collect()
        };
        let expected = |expert, weight: &str| (expert, weight.to_owned());
        assert_eq!(selected(routing(1, true, 1.0)), [expected(1, "1.0000")]);
        assert_eq!(selected(routing(1, false, 1.0)), [expected(1, "0.3750")]);
        assert_eq!(
            selected(routing(3, true, 2.0)),
            [
                expected(0, "0.2857"),
                expected(1, "0.8571"),
                expected(3, "0.8571")
            ]
        );
    }
}
