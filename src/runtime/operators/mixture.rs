//! A mixture of experts on plain slices: each row goes through the feed-forward networks that its scores choose, and what
//! they give is added by its shares. It knows nothing of ONNX Runtime.
//!
//! A row's bits depend on that row alone: each number is one sum over a matrix's columns in their order, and experts are
//! added in theirs. Matrices stay in the model's file; some rows at a time become numbers, where they are multiplied.
//!
//! Source: Jiang et al., "Mixtral of Experts" (2024), section 2.1.

use std::ops::Range;

use super::parallel::{OperatorError, ParallelFor, once_each};
use super::shared::SharedSlice;
use super::simd::{Instructions, LANES, Simd, Work};
use crate::graph::{ExpertMatrices, Tensor};

/// Rows of a matrix that are multiplied with a row of the input at once.
const ROWS_TOGETHER: usize = 4;
/// Rows of a matrix that are one thread's at a time.
const ROWS_OF_A_TASK: usize = 16;

/// How rows are given to experts.
#[derive(Debug, Clone, Copy)]
pub struct Routing {
    /// Experts that a row goes through: at least one, and no more than there are.
    pub used: usize,
    /// Whether their shares are brought to a sum of 1.
    pub normalised: bool,
    /// Multiplies the shares.
    pub scale: f32,
}

impl Routing {
    /// The experts that a row with these scores goes through, in their order, and their shares: the softmax of the scores.
    /// Of equal scores the first is higher.
    fn choose(&self, scores: &[f32]) -> Vec<(usize, f32)> {
        let mut chosen: Vec<usize> = (0..scores.len()).collect();
        chosen.sort_by(|left, right| scores[*right].total_cmp(&scores[*left]));
        let most = scores[chosen[0]];
        chosen.truncate(self.used);
        chosen.sort_unstable();
        let exponential = |score: &f32| (score - most).exp();
        let whole: f32 = match self.normalised {
            true => chosen
                .iter()
                .map(|expert| exponential(&scores[*expert]))
                .sum(),
            false => scores.iter().map(exponential).sum(),
        };
        let share = |expert| (expert, exponential(&scores[expert]) / whole * self.scale);
        chosen.into_iter().map(share).collect()
    }
}

/// What is read.
#[derive(Debug, Clone, Copy)]
pub struct MixtureInputs<'a> {
    /// `[tokens, hidden]`
    pub rows: &'a [f32],
    /// `[tokens, experts]`
    pub scores: &'a [f32],
    /// Columns of `rows`.
    pub hidden: usize,
}

/// A row that an expert has to compute.
struct Share {
    expert: usize,
    row: usize,
    share: f32,
}

/// All that an expert has to compute, and its matrices.
struct Run<'a> {
    shares: &'a [Share],
    /// The number of its first share among all experts'.
    first: usize,
    gate: Tensor<'a>,
    up: Tensor<'a>,
    down: Tensor<'a>,
}

impl<'a> Run<'a> {
    /// Those of all experts that have any, in their order.
    fn all(shares: &'a [Share], experts: &'a ExpertMatrices) -> Vec<Self> {
        let mut first = 0;
        let run = |shares: &'a [Share]| {
            let expert = shares[0].expert;
            let run = Self {
                shares,
                first,
                gate: experts.gate(expert),
                up: experts.up(expert),
                down: experts.down(expert),
            };
            first += shares.len();
            run
        };
        shares
            .chunk_by(|left, right| left.expert == right.expert)
            .map(run)
            .collect()
    }
}

/// Writes what the experts give of each row into `output`, `[tokens, hidden]`.
///
/// # Errors
/// If the inputs do not fit each other; then nothing was written. If `parallel` fails.
pub fn mix(
    inputs: &MixtureInputs,
    experts: &ExpertMatrices,
    routing: Routing,
    output: &mut [f32],
    instructions: Instructions,
    parallel: ParallelFor,
) -> Result<(), OperatorError> {
    check(inputs, experts, routing, output.len())?;
    output.fill(0.0);
    let shares = shares(inputs, experts.count(), routing);
    let runs = Run::all(&shares, experts);
    let wide = experts.feed_forward();
    let mut gated = vec![0.0; shares.len() * wide];
    let gated_shared = SharedSlice::new(&mut gated);
    let tasks_of_run = wide.div_ceil(ROWS_OF_A_TASK);
    once_each(parallel, runs.len() * tasks_of_run, &|index| {
        let first = index % tasks_of_run * ROWS_OF_A_TASK;
        instructions.run(Gate {
            inputs,
            run: &runs[index / tasks_of_run],
            places: first..wide.min(first + ROWS_OF_A_TASK),
            gated: &gated_shared,
        });
    })?;
    let hidden = inputs.hidden;
    let output = SharedSlice::new(output);
    once_each(parallel, hidden.div_ceil(ROWS_OF_A_TASK), &|index| {
        let first = index * ROWS_OF_A_TASK;
        instructions.run(Down {
            runs: &runs,
            wide,
            gated: &gated,
            places: first..hidden.min(first + ROWS_OF_A_TASK),
            hidden,
            output: &output,
        });
    })
}

fn check(
    inputs: &MixtureInputs,
    experts: &ExpertMatrices,
    routing: Routing,
    output: usize,
) -> Result<(), OperatorError> {
    let (rows, count) = (inputs.rows.len(), experts.count());
    let invalid = |input, problem: String| Err(OperatorError::input(input, problem));
    let hidden = experts.gate(0).columns();
    if inputs.hidden != hidden || !rows.is_multiple_of(hidden) || output != rows {
        let problem = format!("has rows of {} elements, experts {hidden}", inputs.hidden);
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
    if !(1..=count).contains(&routing.used) {
        return invalid("router_probs", format!("k is {} of {count}", routing.used));
    }
    Ok(())
}

/// What each expert has to compute, one expert's shares after the other's. Nothing for a row of zeros, which stays one: a
/// row that fills a step up is one in every layer.
fn shares(inputs: &MixtureInputs, experts: usize, routing: Routing) -> Vec<Share> {
    let rows = inputs.rows.chunks_exact(inputs.hidden);
    let rows = rows.zip(inputs.scores.chunks_exact(experts)).enumerate();
    let mut shares: Vec<Share> = rows
        .filter(|(_, (row, _))| row.iter().any(|value| *value != 0.0))
        .flat_map(|(row, (_, scores))| {
            let chosen = routing.choose(scores).into_iter();
            chosen.map(move |(expert, share)| Share { expert, row, share })
        })
        .collect();
    shares.sort_by_key(|share| share.expert);
    shares
}

/// The places `places` of what an expert's rows are before its last matrix: `silu(gate) · up`.
struct Gate<'a> {
    inputs: &'a MixtureInputs<'a>,
    run: &'a Run<'a>,
    places: Range<usize>,
    /// `[shares, feed forward]`
    gated: &'a SharedSlice<'a, f32>,
}

impl Work for Gate<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Run {
            shares,
            first,
            gate: gate_matrix,
            up: up_matrix,
            ..
        } = self.run;
        let (hidden, wide) = (self.inputs.hidden, gate_matrix.rows());
        let mut matrices = vec![0.0; 2 * ROWS_TOGETHER * hidden];
        for place in self.places.clone().step_by(ROWS_TOGETHER) {
            let end = self.places.end.min(place + ROWS_TOGETHER);
            let (gate, up) = matrices.split_at_mut(ROWS_TOGETHER * hidden);
            let values = (end - place) * hidden;
            gate_matrix.read_rows(place..end, &mut gate[..values]);
            up_matrix.read_rows(place..end, &mut up[..values]);
            for (number, Share { row, .. }) in (*first..).zip(*shares) {
                let row = &self.inputs.rows[row * hidden..(row + 1) * hidden];
                let [gates, ups] = products(simd, &matrices, row);
                let to = number * wide;
                // SAFETY: only this task has these places of its expert's rows.
                let to = unsafe { self.gated.part_mut(to + place..to + end) };
                for ((to, gate), up) in to.iter_mut().zip(gates).zip(ups) {
                    *to = gate / (1.0 + (-gate).exp()) * up;
                }
            }
        }
    }
}

/// The places `places` of the result of all rows.
struct Down<'a> {
    runs: &'a [Run<'a>],
    /// Width of an expert.
    wide: usize,
    /// `[shares, feed forward]`
    gated: &'a [f32],
    places: Range<usize>,
    hidden: usize,
    /// `[tokens, hidden]`
    output: &'a SharedSlice<'a, f32>,
}

impl Work for Down<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let wide = self.wide;
        let mut down = vec![0.0; ROWS_TOGETHER * wide];
        for run in self.runs {
            let gated = &self.gated[run.first * wide..];
            for place in self.places.clone().step_by(ROWS_TOGETHER) {
                let end = self.places.end.min(place + ROWS_TOGETHER);
                run.down
                    .read_rows(place..end, &mut down[..(end - place) * wide]);
                for (Share { row, share, .. }, gated) in
                    run.shares.iter().zip(gated.chunks_exact(wide))
                {
                    let to = row * self.hidden;
                    // SAFETY: only this task has these places of the rows.
                    let to = unsafe { self.output.part_mut(to + place..to + end) };
                    let [products] = products(simd, &down, gated);
                    for (to, product) in to.iter_mut().zip(products) {
                        *to += share * product;
                    }
                }
            }
        }
    }
}

/// The products of a row with the rows of `matrices`, `[N, ROWS_TOGETHER, columns]`.
#[inline(always)]
fn products<S: Simd, const N: usize>(
    simd: S,
    matrices: &[f32],
    row: &[f32],
) -> [[f32; ROWS_TOGETHER]; N] {
    let columns = row.len();
    let (groups, rest) = row.as_chunks::<LANES>();
    let rows: [[&[f32]; ROWS_TOGETHER]; N] = std::array::from_fn(|matrix| {
        std::array::from_fn(|row| {
            let first = (matrix * ROWS_TOGETHER + row) * columns;
            &matrices[first..first + columns]
        })
    });
    let matrices = rows.map(|rows| rows.map(|row| &row.as_chunks::<LANES>().0[..groups.len()]));
    let mut sums = [[simd.splat(0.0); ROWS_TOGETHER]; N];
    for (place, group) in groups.iter().enumerate() {
        let group = simd.load(group);
        for (sums, rows) in sums.iter_mut().zip(&matrices) {
            for (sum, row) in sums.iter_mut().zip(rows) {
                *sum = simd.multiply_add(simd.load(&row[place]), group, *sum);
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
    fn a_row_goes_through_the_experts_with_the_highest_scores() {
        let routing = |used, normalised, scale| Routing {
            used,
            normalised,
            scale,
        };
        let third = 3.0_f32.ln();
        let scores = [0.0, third, 0.0, third];
        let chosen = |routing: Routing| -> Vec<(usize, String)> {
            let chosen = routing.choose(&scores).into_iter();
            chosen
                .map(|(expert, share)| (expert, format!("{share:.4}")))
                .collect()
        };
        let is = |expert, share: &str| (expert, share.to_owned());
        assert_eq!(chosen(routing(1, true, 1.0)), [is(1, "1.0000")]);
        assert_eq!(chosen(routing(1, false, 1.0)), [is(1, "0.3750")]);
        assert_eq!(
            chosen(routing(3, true, 2.0)),
            [is(0, "0.2857"), is(1, "0.8571"), is(3, "0.8571")]
        );
    }
}
