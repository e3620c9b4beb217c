//! Attention over a paged cache, on plain slices: first the new tokens' keys and values go into the cache,
//! then every new token attends to its sequence up to itself. It knows nothing of ONNX Runtime.
//!
//! A token's bits depend on its own sequence up to itself, never on its neighbours in the batch, on how
//! its prompt was cut, on the threads or on where its blocks lie: keys are taken in tiles that begin at
//! position 0, a tile's result is computed for itself, and the tiles' results are merged in order.

use std::cmp::Reverse;
use std::ops::Range;

use half::f16;

use super::batch::{BatchBounds, BatchIndices, RaggedBatch, SequenceChunk};
use super::norm::QueryKeyNorms;
use super::parallel::{OperatorError, ParallelFor, once_each};
use super::piece::{Group, MergeGroup, Piece, PieceContext, ROWS_WITHOUT_CONVERSION};
use super::rotary::Rotary;
use super::shared::SharedSlice;
use super::simd::{Instructions, LANES};
use super::tile::Peak;
use super::write::WriteTokens;
use crate::graph::{HEAD_MULTIPLE, MAX_HEAD_SIZE, MAX_HEADS};

const _: () = assert!(HEAD_MULTIPLE.is_multiple_of(LANES));

/// Query rows, tokens times the heads of a group, that share a tile's conversion from f16. They and the
/// tile stay in the second-level cache.
const GROUP_ROWS: usize = 48;
/// With fewer groups than this, each group's keys are cut into pieces, so that a few cores find work.
const PIECES_WANTED: usize = 24;
/// New tokens whose keys and values one thread writes at a time.
const TOKENS_WRITTEN_TOGETHER: usize = 32;

/// The sizes of heads and cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Query heads: a multiple of `kv_heads`.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Elements of a head: a multiple of eight.
    pub head_size: usize,
    /// Blocks of the cache.
    pub blocks: usize,
    /// Tokens of a block.
    pub block_tokens: usize,
}

/// What is read.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInputs<'a> {
    /// `[tokens, heads · head_size]`; without `key_value`, `[tokens, (heads + 2 · kv_heads) · head_size]`.
    pub query: &'a [f32],
    /// `[tokens, kv_heads · head_size]` each.
    pub key_value: Option<(&'a [f32], &'a [f32])>,
    /// The tokens' sequences.
    pub batch: BatchIndices<'a>,
    /// Norms queries and keys, where given, before they are rotated.
    pub norms: Option<QueryKeyNorms<'a>>,
    /// Rotates queries and keys, where given.
    pub rotary: Option<Rotary<'a>>,
    /// What becomes of the products of queries and keys.
    pub scoring: Scoring,
}

/// How products of queries and keys become scores, and which there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scoring {
    /// Multiplies every product.
    pub scale: f32,
    /// A score `s` becomes `softcap · tanh(s / softcap)`, where given.
    pub softcap: Option<f32>,
    /// Keys that a token sees, its own and those before it; without it, all. At least one.
    pub window: Option<usize>,
}

/// The memory of keys and values, `[blocks, block_tokens, kv_heads, head_size]` each.
#[derive(Debug)]
pub struct AttentionCaches<'a> {
    /// `key_cache`
    pub keys: &'a mut [f16],
    /// `value_cache`
    pub values: &'a mut [f16],
}

/// Writes the new tokens' keys and values into the caches and their attention into `output`,
/// `[tokens, heads · head_size]`.
///
/// # Errors
/// If the inputs do not fit each other; then nothing was written. If `parallel` fails; then anything may
/// have been.
pub fn attend(
    shape: AttentionShape,
    inputs: &AttentionInputs,
    caches: AttentionCaches,
    output: &mut [f32],
    instructions: Instructions,
    parallel: ParallelFor,
) -> Result<(), OperatorError> {
    let checked = Checked::new(shape, inputs, &caches, output)?;
    let batch = &checked.batch;
    let AttentionCaches { keys, values } = caches;
    let keys = SharedSlice::new(keys.as_chunks_mut::<LANES>().0);
    let values = SharedSlice::new(values.as_chunks_mut::<LANES>().0);

    let tokens = batch.slots.len();
    if tokens == 0 {
        return Ok(());
    }
    let write = |range: Range<usize>| {
        let (key, value) = (checked.key, checked.value);
        instructions.run(WriteTokens {
            shape,
            key,
            value,
            inputs,
            batch,
            keys: &keys,
            values: &values,
            range,
        })
    };
    if tokens <= TOKENS_WRITTEN_TOGETHER {
        write(0..tokens);
    } else {
        once_each(
            parallel,
            tokens.div_ceil(TOKENS_WRITTEN_TOGETHER),
            &|index| {
                let first = index * TOKENS_WRITTEN_TOGETHER;
                write(first..tokens.min(first + TOKENS_WRITTEN_TOGETHER));
            },
        )?;
    }

    let plan = Plan::new(shape, &batch.sequences, inputs.scoring.window);
    let width = shape.head_size / LANES;
    let mut partial_sums = vec![[0.0; LANES]; plan.partial_rows * width];
    let mut partial_peaks = vec![Peak::NONE; plan.partial_rows];
    let context = PieceContext {
        shape,
        inputs,
        batch,
        query: checked.query,
        keys: &keys,
        values: &values,
        output: &SharedSlice::new(output.as_chunks_mut::<LANES>().0),
        partial_sums: &SharedSlice::new(&mut partial_sums),
        partial_peaks: &SharedSlice::new(&mut partial_peaks),
    };
    once_each(parallel, plan.pieces.len(), &|index| {
        let piece = &plan.pieces[index];
        context.attend(&plan.groups[piece.group], piece, instructions);
    })?;
    if plan.partial_rows > 0 {
        once_each(parallel, plan.groups.len(), &|index| {
            instructions.run(MergeGroup {
                context: &context,
                group: &plan.groups[index],
            });
        })?;
    }
    Ok(())
}

/// A row for every token and head, somewhere in a tensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenRows<'a> {
    elements: &'a [f32],
    /// Elements from one token to the next.
    stride: usize,
    /// Elements before the first head.
    offset: usize,
    head_size: usize,
}

impl<'a> TokenRows<'a> {
    #[inline(always)]
    pub(super) fn row(&self, token: usize, head: usize) -> &'a [f32] {
        let start = token * self.stride + self.offset + head * self.head_size;
        &self.elements[start..start + self.head_size]
    }
}

/// Inputs that fit each other and the memory they come with.
struct Checked<'a> {
    query: TokenRows<'a>,
    key: TokenRows<'a>,
    value: TokenRows<'a>,
    batch: RaggedBatch<'a>,
}

impl<'a> Checked<'a> {
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
                format!("has {heads} heads for {kv_heads} of keys (at most {MAX_HEADS})"),
            ));
        }
        if head_size == 0 || head_size > MAX_HEAD_SIZE || !head_size.is_multiple_of(HEAD_MULTIPLE) {
            let problem = format!(
                "head size {head_size} is no multiple of {HEAD_MULTIPLE} up to {MAX_HEAD_SIZE}"
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
                format!("has {} elements, not those of its shape", caches.keys.len()),
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
                    "its {} elements are not rows of {stride}",
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
                            format!("is not {tokens} rows of {kv_width} elements"),
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
                    let problem =
                        format!("has {} elements for a head of {head_size}", norm.gain.len());
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
                    "has {} columns for a head of {head_size} elements",
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
        Ok(Checked {
            query: rows(inputs.query, stride, 0),
            key,
            value,
            batch,
        })
    }
}

/// Who computes what. It settles the time that a step takes, never its result.
struct Plan {
    groups: Vec<Group>,
    /// The dearest first.
    pieces: Vec<Piece>,
    /// Rows of all groups that are cut, once for each of their tiles.
    partial_rows: usize,
}

impl Plan {
    fn new(shape: AttentionShape, sequences: &[SequenceChunk], window: Option<usize>) -> Plan {
        let heads_per_group = shape.heads / shape.kv_heads;
        let tokens_together = (GROUP_ROWS / heads_per_group).max(1);
        let mut groups = Vec::new();
        for (sequence, chunk) in sequences.iter().enumerate() {
            for first in (0..chunk.tokens).step_by(tokens_together) {
                let tokens = tokens_together.min(chunk.tokens - first);
                let keys = chunk.past + first + tokens;
                // The first key that the first of the tokens sees.
                let first_key =
                    window.map_or(0, |window| (keys - tokens + 1).saturating_sub(window));
                // Few rows are done as soon as the keys are there: then whole tokens are read, which lie
                // together. Many rows of one KV head keep its part of a tile at hand.
                let rows = tokens * heads_per_group;
                let heads_together = if rows <= ROWS_WITHOUT_CONVERSION {
                    shape.kv_heads
                } else {
                    1
                };
                groups.extend(
                    (0..shape.kv_heads)
                        .step_by(heads_together)
                        .map(|kv_head| Group {
                            sequence,
                            first,
                            tokens,
                            kv_heads: kv_head..kv_head + heads_together,
                            keys: first_key..keys,
                            partials: None,
                        }),
                );
            }
        }
        let pieces_of_each = PIECES_WANTED.div_ceil(groups.len().max(1));
        let mut pieces = Vec::with_capacity(groups.len().max(PIECES_WANTED));
        let mut partial_rows = 0;
        for (index, group) in groups.iter_mut().enumerate() {
            let tiles = group.tiles();
            let tiles_together = tiles.len().div_ceil(pieces_of_each);
            if tiles_together < tiles.len() {
                group.partials = Some(partial_rows);
                partial_rows += tiles.len() * group.kv_heads.len() * group.tokens * heads_per_group;
            }
            let firsts = tiles.clone().step_by(tiles_together);
            pieces.extend(firsts.map(|first| Piece {
                group: index,
                tiles: first..tiles.end.min(first + tiles_together),
            }));
        }
        pieces.sort_by_key(|piece| {
            let group = &groups[piece.group];
            Reverse(group.kv_heads.len() * group.tokens * piece.tiles.len())
        });
        Plan {
            groups,
            pieces,
            partial_rows,
        }
    }
}
