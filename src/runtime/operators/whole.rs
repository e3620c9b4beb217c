//! Attention in which every token of a sequence sees all of the sequence, on plain slices: what an encoder computes.
//! Nothing is kept from one step to the next. It knows nothing of ONNX Runtime.
//!
//! A token's bits depend on its own sequence alone: keys are taken in tiles from the sequence's first token on, and the
//! tiles' results are merged in order.

use std::ops::Range;

use super::parallel::{OperatorError, ParallelFor, once_each};
use super::shared::SharedSlice;
use super::simd::{Instructions, LANES, Simd, Work};
use super::tile::{
    Peak, ROWS_TOGETHER, TILE_KEYS, TileRows, accumulate, exponentiate, merge, score,
};

/// Tokens whose queries of one head are computed by one thread, one after the other.
const TOKENS_TOGETHER: usize = 48;

/// What is read. Rows have `heads · head_size` elements.
#[derive(Debug, Clone, Copy)]
pub struct WholeInputs<'a> {
    /// Heads; queries, keys and values have as many.
    pub heads: usize,
    /// Elements of a head: a multiple of eight.
    pub head_size: usize,
    /// `[tokens, heads · head_size]`
    pub query: &'a [f32],
    /// As the queries.
    pub key: &'a [f32],
    /// As the queries.
    pub value: &'a [f32],
    /// `[sequences + 1]`: where each sequence begins among the tokens, and the end.
    pub cumulative_sequence_length: &'a [i32],
    /// Multiplies every score.
    pub scale: f32,
}

/// Writes the tokens' attention into `output`, `[tokens, heads · head_size]`.
///
/// # Errors
/// If the inputs do not fit each other; then nothing was written. If `parallel` fails.
pub fn attend_whole(
    inputs: &WholeInputs,
    output: &mut [f32],
    instructions: Instructions,
    parallel: ParallelFor,
) -> Result<(), OperatorError> {
    let sequences = checked(inputs, output.len())?;
    let groups: Vec<Group> = sequences
        .iter()
        .flat_map(|sequence| {
            let parts = sequence.clone().step_by(TOKENS_TOGETHER).map(|first| {
                let end = sequence.end.min(first + TOKENS_TOGETHER);
                (sequence.clone(), first..end)
            });
            parts.flat_map(|(sequence, tokens)| {
                (0..inputs.heads).map(move |head| Group {
                    sequence: sequence.clone(),
                    tokens: tokens.clone(),
                    head,
                })
            })
        })
        .collect();
    let output = SharedSlice::new(output.as_chunks_mut::<LANES>().0);
    once_each(parallel, groups.len(), &|index| {
        instructions.run(AttendGroup {
            inputs,
            group: &groups[index],
            output: &output,
        });
    })
}

/// The sequences' tokens, if everything has the size that it has to have.
fn checked(inputs: &WholeInputs, output: usize) -> Result<Vec<Range<usize>>, OperatorError> {
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
            let problem = format!("has {elements} elements, query {}", inputs.query.len());
            return invalid(name, problem);
        }
    }
    let tokens = inputs.query.len() / width;
    let bounds = inputs.cumulative_sequence_length;
    let bounded = bounds.first() == Some(&0)
        && bounds
            .last()
            .is_some_and(|end| *end as i64 == tokens as i64)
        && bounds.is_sorted();
    if !bounded {
        let problem = format!("does not rise from 0 to the {tokens} tokens of query");
        return invalid("cumulative_sequence_length", problem);
    }
    let range = |pair: &[i32]| pair[0] as usize..pair[1] as usize;
    Ok(bounds.windows(2).map(range).collect())
}

/// Some tokens of a sequence, seen by one head.
struct Group {
    sequence: Range<usize>,
    tokens: Range<usize>,
    head: usize,
}

struct AttendGroup<'a> {
    inputs: &'a WholeInputs<'a>,
    group: &'a Group,
    output: &'a SharedSlice<'a, [f32; LANES]>,
}

impl Work for AttendGroup<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Self {
            inputs,
            group,
            output,
        } = self;
        let width = inputs.head_size / LANES;
        // From one token to the next.
        let stride = inputs.heads * width;
        let place = |token: usize| token * stride + group.head * width;
        let [query, key, value] =
            [inputs.query, inputs.key, inputs.value].map(|rows| rows.as_chunks::<LANES>().0);

        let rows = group.tokens.len();
        let scale = simd.splat(inputs.scale);
        let mut queries = vec![[0.0; LANES]; rows * width];
        for (token, row) in group.tokens.clone().zip(queries.chunks_exact_mut(width)) {
            for (from, to) in query[place(token)..][..width].iter().zip(row) {
                simd.store(simd.multiply(simd.load(from), scale), to);
            }
        }
        let mut sums = vec![[0.0; LANES]; rows * width];
        let mut peaks = vec![Peak::NONE; rows];
        for first_key in group.sequence.clone().step_by(TILE_KEYS) {
            let keys = first_key..group.sequence.end.min(first_key + TILE_KEYS);
            let starts: Vec<usize> = keys.map(place).collect();
            let tile = |elements| TileRows {
                elements,
                starts: &starts,
                width,
            };
            let (keys, values) = (tile(key), tile(value));
            for first in (0..rows).step_by(ROWS_TOGETHER) {
                let count = ROWS_TOGETHER.min(rows - first);
                let mut weights = [[0.0; TILE_KEYS]; ROWS_TOGETHER];
                let weights = &mut weights[..count];
                score(simd, &queries[first * width..], &keys, weights);
                let mut tile_peaks = [Peak::NONE; ROWS_TOGETHER];
                for (weights, peak) in weights.iter_mut().zip(&mut tile_peaks) {
                    *peak = exponentiate(simd, weights, 0..starts.len());
                }
                let mut tile_sums = vec![[0.0; LANES]; count * width];
                accumulate(simd, weights, &values, 0..starts.len(), &mut tile_sums);
                for row in 0..count {
                    let own = (first + row) * width..(first + row + 1) * width;
                    let tile = &tile_sums[row * width..(row + 1) * width];
                    let peak = &mut peaks[first + row];
                    merge(simd, peak, &mut sums[own], tile_peaks[row], tile);
                }
            }
        }
        for (row, token) in group.tokens.clone().enumerate() {
            // SAFETY: no other group has this token and this head.
            let to = unsafe { output.part_mut(place(token)..place(token) + width) };
            let share = simd.splat(1.0 / peaks[row].sum);
            for (sum, to) in sums[row * width..(row + 1) * width].iter().zip(to) {
                simd.store(simd.multiply(simd.load(sum), share), to);
            }
        }
    }
}
