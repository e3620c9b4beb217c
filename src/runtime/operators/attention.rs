//! Causal attention over a paged cache, on plain slices and independent of ONNX Runtime. First the keys and values of
//! new tokens are written to the cache. Then each new token attends to its sequence, up to and including itself.
//!
//! The result is batch-invariant: it does not depend on other sequences, on the chunking of the prompt, on the number
//! of threads or on block indices. Positions are divided into fixed tiles, the result of each tile is computed
//! independently, and the results are merged in tile order.

use std::cmp::Reverse;
use std::ops::Range;

use super::attention_inputs::{AttentionCaches, AttentionInputs, AttentionShape, TokenRows};
use super::attention_task::{AttentionContext, AttentionTask, QueryGroup, ROWS_WITHOUT_CONVERSION};
use super::batch::{BatchBounds, RaggedBatch, SequenceChunk};
use super::cache_write::CacheWriter;
use super::parallel::{OperatorError, ParallelFor, for_each_index};
use super::shared_slice::SharedSlice;
use super::simd::{Instructions, LANES};
use super::tile::SoftmaxStats;
use crate::graph::{HEAD_MULTIPLE, MAX_HEAD_SIZE, MAX_HEADS};

const _: () = assert!(HEAD_MULTIPLE.is_multiple_of(LANES));

/// Target number of query rows (tokens times query heads) that share each conversion of a tile from f16. The rows and
/// the tile fit into the L2 cache.
const GROUP_ROWS: usize = 48;
/// If a step has fewer groups than this, the tiles of each group are split into several tasks, to keep more cores busy.
const MIN_TASKS: usize = 24;
/// Number of new tokens whose keys and values one task writes to the cache.
const TOKENS_PER_WRITE: usize = 32;

/// Writes the keys and values of the new tokens to the caches, and the attention of the new tokens to `output`,
/// `[tokens, heads · head_size]`.
///
/// # Errors
/// If the inputs do not match each other (nothing is written), or if `parallel` fails (caches and output are
/// unspecified).
pub fn attend(
    shape: AttentionShape,
    inputs: &AttentionInputs,
    caches: AttentionCaches,
    output: &mut [f32],
    instructions: Instructions,
    parallel: ParallelFor,
) -> Result<(), OperatorError> {
    let checked = CheckedInputs::new(shape, inputs, &caches, output)?;
    let batch = &checked.batch;
    let AttentionCaches { keys, values } = caches;
    let keys = SharedSlice::new(keys.as_chunks_mut::<LANES>().0);
    let values = SharedSlice::new(values.as_chunks_mut::<LANES>().0);

    let tokens = batch.slots.len();
    if tokens == 0 {
        return Ok(());
    }
    let writer = CacheWriter {
        shape,
        key: checked.key,
        value: checked.value,
        inputs,
        batch,
        keys: &keys,
        values: &values,
    };
    // SAFETY: the calls below have disjoint ranges, and the caches are read only after all calls have returned.
    let write = |range: Range<usize>| unsafe { writer.write(range, instructions) };
    if tokens <= TOKENS_PER_WRITE {
        write(0..tokens);
    } else {
        for_each_index(parallel, tokens.div_ceil(TOKENS_PER_WRITE), &|index| {
            let first = index * TOKENS_PER_WRITE;
            write(first..tokens.min(first + TOKENS_PER_WRITE));
        })?;
    }

    let plan = AttentionPlan::new(shape, &batch.sequences, inputs.scoring.window);
    let width = shape.head_size / LANES;
    let mut partial_sums = vec![[0.0; LANES]; plan.partial_rows * width];
    let mut partial_stats = vec![SoftmaxStats::EMPTY; plan.partial_rows];
    let context = AttentionContext {
        shape,
        inputs,
        batch,
        query: checked.query,
        keys: &keys,
        values: &values,
        output: &SharedSlice::new(output.as_chunks_mut::<LANES>().0),
        partial_sums: &SharedSlice::new(&mut partial_sums),
        partial_stats: &SharedSlice::new(&mut partial_stats),
    };
    for_each_index(parallel, plan.tasks.len(), &|index| {
        let task = &plan.tasks[index];
        // SAFETY: no index occurs twice, the plan's tasks are disjoint, and all tokens were written to the caches.
        unsafe { context.attend(&plan.groups[task.group], task, instructions) };
    })?;
    if plan.partial_rows > 0 {
        for_each_index(parallel, plan.groups.len(), &|index| {
            // SAFETY: no index occurs twice, and all tasks have finished.
            unsafe { context.merge(&plan.groups[index], instructions) };
        })?;
    }
    Ok(())
}

/// Inputs that have been checked against each other, the caches and the output.
struct CheckedInputs<'a> {
    query: TokenRows<'a>,
    key: TokenRows<'a>,
    value: TokenRows<'a>,
    batch: RaggedBatch<'a>,
}

impl<'a> CheckedInputs<'a> {
    fn new(
        shape: AttentionShape,
        inputs: &AttentionInputs<'a>,
        caches: &AttentionCaches,
        output: &[f32],
    ) -> Result<Self, OperatorError> {
        let invalid = OperatorError::input;
        let AttentionShape {
            heads,
            kv_heads,
            head_size,
            blocks,
            block_tokens,
        } = shape;
        if heads == 0 || heads > MAX_HEADS || kv_heads == 0 || !heads.is_multiple_of(kv_heads) {
            return Err(invalid(
                "query",
                format!(
                    "has {heads} heads, expected a multiple of {kv_heads} key/value heads up to {MAX_HEADS}"
                ),
            ));
        }
        if head_size == 0 || head_size > MAX_HEAD_SIZE || !head_size.is_multiple_of(HEAD_MULTIPLE) {
            let problem = format!(
                "head size {head_size} is not a multiple of {HEAD_MULTIPLE} up to {MAX_HEAD_SIZE}"
            );
            return Err(invalid("key_cache", problem));
        }
        let kv_width = kv_heads * head_size;
        let cache_elements = blocks
            .checked_mul(block_tokens)
            .and_then(|slots| slots.checked_mul(kv_width));
        if block_tokens == 0 || cache_elements != Some(caches.keys.len()) {
            return Err(invalid(
                "key_cache",
                format!(
                    "has {} elements, which do not match its shape",
                    caches.keys.len()
                ),
            ));
        }
        if caches.values.len() != caches.keys.len() {
            return Err(invalid(
                "value_cache",
                "does not have the shape of key_cache".into(),
            ));
        }
        let query_width = heads * head_size;
        let stride = query_width
            + if inputs.key_value.is_some() {
                0
            } else {
                2 * kv_width
            };
        let tokens = inputs.query.len() / stride;
        if inputs.query.len() != tokens * stride {
            return Err(invalid(
                "query",
                format!(
                    "has {} elements, not a multiple of the row size {stride}",
                    inputs.query.len()
                ),
            ));
        }
        if output.len() != tokens * query_width {
            return Err(invalid(
                "output",
                format!("has {} elements for {tokens} tokens", output.len()),
            ));
        }
        let rows = |elements, stride, offset| TokenRows {
            elements,
            stride,
            offset,
            head_size,
        };
        let (key, value) = match inputs.key_value {
            None => (
                rows(inputs.query, stride, query_width),
                rows(inputs.query, stride, query_width + kv_width),
            ),
            Some((key, value)) => {
                for (name, tensor) in [("key", key), ("value", value)] {
                    if tensor.len() != tokens * kv_width {
                        return Err(invalid(
                            name,
                            format!("does not have {tokens} rows of {kv_width} elements"),
                        ));
                    }
                }
                (rows(key, kv_width, 0), rows(value, kv_width, 0))
            }
        };
        if inputs.scoring.window == Some(0) {
            return Err(invalid("local_window_size", "is 0".into()));
        }
        if let Some(norms) = inputs.norms {
            for (name, norm) in [("q_norm_weight", norms.query), ("k_norm_weight", norms.key)] {
                if norm.gain.len() != head_size {
                    let problem = format!(
                        "has {} elements, the head size is {head_size}",
                        norm.gain.len()
                    );
                    return Err(invalid(name, problem));
                }
            }
        }
        if let Some(rotary) = inputs.rotary {
            if rotary.pairs == 0
                || rotary.pairs > head_size / 2
                || !rotary.cosines.len().is_multiple_of(rotary.pairs)
            {
                let problem = format!(
                    "has {} columns, which do not match the head size {head_size}",
                    rotary.pairs
                );
                return Err(invalid("cos_cache", problem));
            }
            if rotary.sines.len() != rotary.cosines.len() {
                return Err(invalid(
                    "sin_cache",
                    "does not have the shape of cos_cache".into(),
                ));
            }
        }
        let positions = inputs.rotary.map(|rotary| rotary.positions());
        let batch = RaggedBatch::check(
            inputs.batch,
            BatchBounds {
                tokens,
                blocks,
                block_tokens,
                positions,
            },
        )?;
        Ok(CheckedInputs {
            query: rows(inputs.query, stride, 0),
            key,
            value,
            batch,
        })
    }
}

/// Division of a step's attention into tasks. The division affects the duration of a step, but not the result.
struct AttentionPlan {
    groups: Vec<QueryGroup>,
    /// Sorted by descending cost.
    tasks: Vec<AttentionTask>,
    /// Number of rows in the buffers of partial results: one for each tile and query row of all split groups (see
    /// [`QueryGroup::first_partial_row`]).
    partial_rows: usize,
}

impl AttentionPlan {
    fn new(
        shape: AttentionShape,
        sequences: &[SequenceChunk],
        window: Option<usize>,
    ) -> AttentionPlan {
        let heads_per_kv_head = shape.heads / shape.kv_heads;
        let tokens_per_group = (GROUP_ROWS / heads_per_kv_head).max(1);
        let mut groups = Vec::new();
        for (sequence, chunk) in sequences.iter().enumerate() {
            for first in (0..chunk.tokens).step_by(tokens_per_group) {
                let tokens = tokens_per_group.min(chunk.tokens - first);
                let keys = chunk.past + first + tokens;
                // The first key that is visible to the group's first token.
                let first_key =
                    window.map_or(0, |window| (keys - tokens + 1).saturating_sub(window));
                // With few query rows, loading keys dominates, so a group has all key/value heads, whose keys are
                // contiguous. With many rows, a group has one key/value head, whose keys stay in the CPU cache.
                let rows = tokens * heads_per_kv_head;
                let kv_heads_per_group = if rows <= ROWS_WITHOUT_CONVERSION {
                    shape.kv_heads
                } else {
                    1
                };
                groups.extend(
                    (0..shape.kv_heads)
                        .step_by(kv_heads_per_group)
                        .map(|kv_head| QueryGroup {
                            sequence,
                            first,
                            tokens,
                            kv_heads: kv_head..kv_head + kv_heads_per_group,
                            keys: first_key..keys,
                            first_partial_row: None,
                        }),
                );
            }
        }
        let tasks_per_group = MIN_TASKS.div_ceil(groups.len().max(1));
        let mut tasks = Vec::with_capacity(groups.len().max(MIN_TASKS));
        let mut partial_rows = 0;
        for (index, group) in groups.iter_mut().enumerate() {
            let tiles = group.tiles();
            let tiles_per_task = tiles.len().div_ceil(tasks_per_group);
            if tiles_per_task < tiles.len() {
                group.first_partial_row = Some(partial_rows);
                partial_rows +=
                    tiles.len() * group.kv_heads.len() * group.tokens * heads_per_kv_head;
            }
            let first_tiles = tiles.clone().step_by(tiles_per_task);
            tasks.extend(first_tiles.map(|first| AttentionTask {
                group: index,
                tiles: first..tiles.end.min(first + tiles_per_task),
            }));
        }
        tasks.sort_by_key(|task| {
            let group = &groups[task.group];
            Reverse(group.kv_heads.len() * group.tokens * task.tiles.len())
        });
        AttentionPlan {
            groups,
            tasks,
            partial_rows,
        }
    }
}
