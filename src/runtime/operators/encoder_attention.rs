//! Bidirectional attention of encoders, on plain slices, without a cache and independent of ONNX Runtime.
//!
//! The result is batch-invariant: a token's result depends only on its own sequence. Keys are processed in tiles that
//! start at the sequence's first token, and the tiles' results are merged in order.

use std::ops::Range;

use super::parallel::{OperatorError, ParallelFor, for_each_index};
use super::shared_slice::SharedSlice;
use super::simd::{Instructions, LANES, Simd, WithSimd};
use super::tile::{
    ROWS_PER_STEP, SoftmaxStats, TILE_KEYS, TileRows, accumulate, exponentiate, merge, score,
};

/// Maximum number of tokens in a task.
const TOKENS_PER_TASK: usize = 48;

/// The inputs of bidirectional attention.
#[derive(Debug, Clone, Copy)]
pub struct EncoderAttentionInputs<'a> {
    /// Number of heads, the same for queries, keys and values.
    pub heads: usize,
    /// Number of elements of a head, a multiple of eight.
    pub head_size: usize,
    /// Queries, `[tokens, heads · head_size]`.
    pub query: &'a [f32],
    /// Keys, `[tokens, heads · head_size]`.
    pub key: &'a [f32],
    /// Values, `[tokens, heads · head_size]`.
    pub value: &'a [f32],
    /// `[sequences + 1]`: index of the first token of each sequence, then the number of tokens.
    pub cumulative_sequence_length: &'a [i32],
    /// Factor by which every dot product of a query and a key is multiplied.
    pub scale: f32,
}

/// Writes the attention of all tokens to `output`, `[tokens, heads · head_size]`.
///
/// # Errors
/// If the inputs do not match each other (nothing is written), or if `parallel` fails.
pub fn attend_bidirectional(
    inputs: &EncoderAttentionInputs,
    output: &mut [f32],
    instructions: Instructions,
    parallel: ParallelFor,
) -> Result<(), OperatorError> {
    let sequences = check_inputs(inputs, output.len())?;
    let tasks: Vec<QueryTask> = sequences
        .iter()
        .flat_map(|sequence| {
            let token_ranges = sequence.clone().step_by(TOKENS_PER_TASK).map(|first| {
                let end = sequence.end.min(first + TOKENS_PER_TASK);
                (sequence.clone(), first..end)
            });
            token_ranges.flat_map(|(sequence, tokens)| {
                (0..inputs.heads).map(move |head| QueryTask {
                    sequence: sequence.clone(),
                    tokens: tokens.clone(),
                    head,
                })
            })
        })
        .collect();
    let output = SharedSlice::new(output.as_chunks_mut::<LANES>().0);
    for_each_index(parallel, tasks.len(), &|index| {
        instructions.run(RunTask {
            inputs,
            task: &tasks[index],
            output: &output,
        });
    })
}

/// Checks the lengths of the inputs and returns the token range of each sequence.
fn check_inputs(
    inputs: &EncoderAttentionInputs,
    output: usize,
) -> Result<Vec<Range<usize>>, OperatorError> {
    let invalid = |input, problem: String| Err(OperatorError::input(input, problem));
    let width = inputs.heads * inputs.head_size;
    if inputs.head_size == 0 || !inputs.head_size.is_multiple_of(LANES) || width == 0 {
        let problem = format!("has heads of {} elements", inputs.head_size);
        return invalid("query", problem);
    }
    for (name, elements) in [
        ("key", inputs.key.len()),
        ("value", inputs.value.len()),
        ("output", output),
    ] {
        if elements != inputs.query.len() || !elements.is_multiple_of(width) {
            let problem = format!(
                "has {elements} elements, but query has {}",
                inputs.query.len()
            );
            return invalid(name, problem);
        }
    }
    let tokens = inputs.query.len() / width;
    let bounds = inputs.cumulative_sequence_length;
    let is_valid = bounds.first() == Some(&0)
        && bounds
            .last()
            .is_some_and(|end| *end as i64 == tokens as i64)
        && bounds.is_sorted();
    if !is_valid {
        let problem = format!("does not ascend from 0 to the {tokens} tokens of query");
        return invalid("cumulative_sequence_length", problem);
    }
    let range = |pair: &[i32]| pair[0] as usize..pair[1] as usize;
    Ok(bounds.windows(2).map(range).collect())
}

/// A unit of work for one thread: the queries of consecutive tokens of a sequence in one head.
struct QueryTask {
    sequence: Range<usize>,
    tokens: Range<usize>,
    head: usize,
}

struct RunTask<'a> {
    inputs: &'a EncoderAttentionInputs<'a>,
    task: &'a QueryTask,
    output: &'a SharedSlice<'a, [f32; LANES]>,
}

impl WithSimd for RunTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self {
            inputs,
            task,
            output,
        } = self;
        let width = inputs.head_size / LANES;
        // Number of groups from one token to the next.
        let stride = inputs.heads * width;
        let row_start = |token: usize| token * stride + task.head * width;
        let [query, key, value] =
            [inputs.query, inputs.key, inputs.value].map(|rows| rows.as_chunks::<LANES>().0);

        let rows = task.tokens.len();
        let scale = simd.splat(inputs.scale);
        let mut queries = vec![[0.0; LANES]; rows * width];
        for (token, row) in task.tokens.clone().zip(queries.chunks_exact_mut(width)) {
            for (from, to) in query[row_start(token)..][..width].iter().zip(row) {
                simd.store(simd.multiply(simd.load(from), scale), to);
            }
        }
        let mut sums = vec![[0.0; LANES]; rows * width];
        let mut stats = vec![SoftmaxStats::EMPTY; rows];
        for first_key in task.sequence.clone().step_by(TILE_KEYS) {
            let keys = first_key..task.sequence.end.min(first_key + TILE_KEYS);
            let starts: Vec<usize> = keys.map(row_start).collect();
            let tile = |elements| TileRows {
                elements,
                starts: &starts,
                width,
            };
            let (keys, values) = (tile(key), tile(value));
            for first in (0..rows).step_by(ROWS_PER_STEP) {
                let count = ROWS_PER_STEP.min(rows - first);
                let mut weights = [[0.0; TILE_KEYS]; ROWS_PER_STEP];
                let weights = &mut weights[..count];
                score(simd, &queries[first * width..], &keys, weights);
                let mut tile_stats = [SoftmaxStats::EMPTY; ROWS_PER_STEP];
                for (weights, stats) in weights.iter_mut().zip(&mut tile_stats) {
                    *stats = exponentiate(simd, weights, 0..starts.len());
                }
                let mut tile_sums = vec![[0.0; LANES]; count * width];
                accumulate(simd, weights, &values, 0..starts.len(), &mut tile_sums);
                for row in 0..count {
                    let range = (first + row) * width..(first + row + 1) * width;
                    let tile = &tile_sums[row * width..(row + 1) * width];
                    let stats = &mut stats[first + row];
                    merge(simd, stats, &mut sums[range], tile_stats[row], tile);
                }
            }
        }
        for (row, token) in task.tokens.clone().enumerate() {
            // SAFETY: no other task writes this head of this token.
            let to = unsafe { output.slice_mut(row_start(token)..row_start(token) + width) };
            let inverse_sum = simd.splat(1.0 / stats[row].sum);
            for (sum, to) in sums[row * width..(row + 1) * width].iter().zip(to) {
                simd.store(simd.multiply(simd.load(sum), inverse_sum), to);
            }
        }
    }
}
