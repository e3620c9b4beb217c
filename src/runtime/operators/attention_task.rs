//! Computes one attention task: the queries of a few tokens against some tiles of keys and values. `attention` plans
//! the tasks.

use std::cell::RefCell;
use std::ops::Range;

use half::f16;

use super::attention_inputs::{AttentionInputs, AttentionShape, TokenRows};
use super::batch::RaggedBatch;
use super::shared_slice::SharedSlice;
use super::simd::{Element, Instructions, LANES, Simd, WithSimd};
use super::tile::{
    ROWS_PER_STEP, SoftmaxStats, TILE_KEYS, TileRows, accumulate, apply_softcap, exponentiate,
    merge, score,
};

/// Maximum number of query rows that read keys and values as f16. For more rows, a tile is converted to f32 once.
pub(super) const ROWS_WITHOUT_CONVERSION: usize = 2 * ROWS_PER_STEP;

/// Number of [`LANES`]-element f16 groups in a CPU cache line of 64 bytes, which one prefetch loads.
const CACHE_LINE_GROUPS: usize = 64 / LANES / size_of::<f16>();

/// The queries of consecutive new tokens of a sequence for some key/value heads. A row is the query of one token in one
/// query head; the rows of a key/value head share each load of a key.
#[derive(Debug)]
pub(super) struct QueryGroup {
    /// Index of the sequence in the batch.
    pub(super) sequence: usize,
    /// Index of the first token among the sequence's new tokens.
    pub(super) first: usize,
    pub(super) tokens: usize,
    pub(super) kv_heads: Range<usize>,
    /// Positions of the keys that are visible to any of the tokens. Only the last token sees the last key.
    pub(super) keys: Range<usize>,
    /// The group's first row in the buffers of partial results, if the group is split: its tiles are divided among
    /// several tasks. `None` if one task computes all tiles.
    pub(super) first_partial_row: Option<usize>,
}

impl QueryGroup {
    /// Returns the indices of the tiles that contain `keys`.
    pub(super) fn tiles(&self) -> Range<usize> {
        self.keys.start / TILE_KEYS..self.keys.end.div_ceil(TILE_KEYS)
    }
}

/// A unit of work for one thread: some tiles of a group.
#[derive(Debug)]
pub(super) struct AttentionTask {
    /// Index of the group in the plan.
    pub(super) group: usize,
    pub(super) tiles: Range<usize>,
}

/// Inputs and outputs that all tasks share.
pub(super) struct AttentionContext<'a> {
    pub(super) shape: AttentionShape,
    pub(super) inputs: &'a AttentionInputs<'a>,
    pub(super) batch: &'a RaggedBatch<'a>,
    pub(super) query: TokenRows<'a>,
    pub(super) keys: &'a SharedSlice<'a, [f16; LANES]>,
    pub(super) values: &'a SharedSlice<'a, [f16; LANES]>,
    /// `[tokens, heads, width]`, with `width` groups of [`LANES`] elements in a head.
    pub(super) output: &'a SharedSlice<'a, [f32; LANES]>,
    /// Weighted sums of values for each tile of each split group, `[tiles, rows of the group, width]` per group.
    pub(super) partial_sums: &'a SharedSlice<'a, [f32; LANES]>,
    /// Softmax statistics that belong to `partial_sums`.
    pub(super) partial_stats: &'a SharedSlice<'a, SoftmaxStats>,
}

impl AttentionContext<'_> {
    /// Runs a task of `group`. Writes the output of the group's rows, or partial results if the group is split.
    ///
    /// # Safety
    /// During the call, no thread may write to the caches, or access the rows of `group`, the partial results of the
    /// tiles of `task` included.
    pub(super) unsafe fn attend(
        &self,
        group: &QueryGroup,
        task: &AttentionTask,
        instructions: Instructions,
    ) {
        thread_local! {
            static SCRATCH: RefCell<Scratch> = RefCell::default();
        }
        SCRATCH.with_borrow_mut(|scratch| {
            instructions.run(RunTask {
                context: self,
                group,
                tiles: task.tiles.clone(),
                scratch,
            });
        });
    }

    /// If `group` is split, merges its partial results and writes the output of its rows.
    ///
    /// # Safety
    /// All tasks of `group` must have finished. During the call, no other thread may access the rows of `group`.
    pub(super) unsafe fn merge(&self, group: &QueryGroup, instructions: Instructions) {
        instructions.run(MergeTiles {
            context: self,
            group,
        });
    }

    /// Number of [`LANES`]-element groups in a head.
    fn width(&self) -> usize {
        self.shape.head_size / LANES
    }

    /// Number of query heads that share a key/value head.
    fn heads_per_kv_head(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// Number of query rows of a group. Rows are ordered by key/value head, then by token, then by query head.
    fn rows(&self, group: &QueryGroup) -> usize {
        group.kv_heads.len() * self.rows_per_kv_head(group)
    }

    fn rows_per_kv_head(&self, group: &QueryGroup) -> usize {
        group.tokens * self.heads_per_kv_head()
    }

    /// Returns the positions of the keys that are visible to row `row` of a key/value head.
    fn visible(&self, group: &QueryGroup, row: usize) -> Range<usize> {
        let end = group.keys.end - group.tokens + row / self.heads_per_kv_head() + 1;
        let window = self.inputs.scoring.window.unwrap_or(end);
        end.saturating_sub(window)..end
    }

    /// Writes the output: the merged sums divided by the softmax denominators.
    #[inline(always)]
    fn finish<S: Simd>(
        &self,
        simd: S,
        group: &QueryGroup,
        stats: &[SoftmaxStats],
        sums: &[[f32; LANES]],
    ) {
        let (width, heads_per_kv_head) = (self.width(), self.heads_per_kv_head());
        let first_token = self.batch.sequences[group.sequence].first_token + group.first;
        for (token_row, sums) in sums.chunks_exact(heads_per_kv_head * width).enumerate() {
            let (kv_head, token) = (token_row / group.tokens, token_row % group.tokens);
            let first_head = (first_token + token) * self.shape.heads
                + (group.kv_heads.start + kv_head) * heads_per_kv_head;
            // SAFETY: the callers of `attend` and `merge` guarantee that only this thread accesses the group's rows.
            let output = unsafe {
                self.output
                    .slice_mut(first_head * width..(first_head + heads_per_kv_head) * width)
            };
            let stats = &stats[token_row * heads_per_kv_head..];
            for (index, (sum, output)) in sums.iter().zip(output).enumerate() {
                let inverse_sum = simd.splat(1.0 / stats[index / width].sum);
                simd.store(simd.multiply(simd.load(sum), inverse_sum), output);
            }
        }
    }
}

/// A thread's buffers for a task, a few hundred kilobytes for typical head sizes.
#[derive(Default)]
struct Scratch {
    /// `[rows, width]`: queries after norm, RoPE and scaling.
    queries: Vec<[f32; LANES]>,
    /// `[rows, width]`: merged sums of the tiles so far.
    sums: Vec<[f32; LANES]>,
    /// `[rows]`: merged statistics of the tiles so far.
    stats: Vec<SoftmaxStats>,
    /// `[rows, width]`: sums of one tile.
    tile_sums: Vec<[f32; LANES]>,
    /// `[rows]`: statistics of one tile.
    tile_stats: Vec<SoftmaxStats>,
    /// `[TILE_KEYS, width]`: keys of one tile, converted to f32.
    keys: Vec<[f32; LANES]>,
    /// `[TILE_KEYS, width]`: values of one tile, converted to f32.
    values: Vec<[f32; LANES]>,
    /// Indices where the rows of `keys` and `values` start.
    converted_starts: Vec<usize>,
    /// Indices in the caches where the tokens of the current tile start.
    cache_starts: Vec<usize>,
    /// Indices in the caches where the tokens of the next tile start, for prefetching.
    next_starts: Vec<usize>,
}

struct RunTask<'a> {
    context: &'a AttentionContext<'a>,
    group: &'a QueryGroup,
    tiles: Range<usize>,
    scratch: &'a mut Scratch,
}

impl WithSimd for RunTask<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let RunTask {
            context,
            group,
            tiles,
            scratch,
        } = self;
        let (rows, width) = (context.rows(group), context.width());
        load_queries(context, group, &mut scratch.queries);
        scratch.sums.clear();
        scratch.sums.resize(rows * width, [0.0; LANES]);
        scratch.stats.clear();
        scratch.stats.resize(rows, SoftmaxStats::EMPTY);
        let mut upcoming = tiles.clone();
        locate_tile(context, group, upcoming.next(), &mut scratch.next_starts);
        for tile in tiles {
            std::mem::swap(&mut scratch.cache_starts, &mut scratch.next_starts);
            locate_tile(context, group, upcoming.next(), &mut scratch.next_starts);
            attend_tile(simd, context, group, tile, scratch);
            match group.first_partial_row {
                None => {
                    for row in 0..rows {
                        let range = row * width..(row + 1) * width;
                        let tile_stats = scratch.tile_stats[row];
                        let sums = &mut scratch.sums[range.clone()];
                        merge(
                            simd,
                            &mut scratch.stats[row],
                            sums,
                            tile_stats,
                            &scratch.tile_sums[range],
                        );
                    }
                }
                Some(first_row) => {
                    let first = first_row + (tile - group.tiles().start) * rows;
                    // SAFETY: each tile of a group has a separate range, and the caller of `attend` guarantees that
                    // only this thread accesses the partial results of the task's tiles.
                    let sums = unsafe {
                        context
                            .partial_sums
                            .slice_mut(first * width..(first + rows) * width)
                    };
                    sums.copy_from_slice(&scratch.tile_sums);
                    // SAFETY: as above.
                    let stats = unsafe { context.partial_stats.slice_mut(first..first + rows) };
                    stats.copy_from_slice(&scratch.tile_stats);
                }
            }
        }
        if group.first_partial_row.is_none() {
            context.finish(simd, group, &scratch.stats, &scratch.sums);
        }
    }
}

/// Copies the group's queries to `queries`, with norm, RoPE and scaling applied.
#[inline(always)]
fn load_queries(context: &AttentionContext, group: &QueryGroup, queries: &mut Vec<[f32; LANES]>) {
    let (width, heads_per_kv_head) = (context.width(), context.heads_per_kv_head());
    let chunk = &context.batch.sequences[group.sequence];
    queries.resize(context.rows(group) * width, [0.0; LANES]);
    for (row, query) in queries.chunks_exact_mut(width).enumerate() {
        let query = query.as_flattened_mut();
        let token = group.first + row / heads_per_kv_head % group.tokens;
        let kv_head = group.kv_heads.start + row / heads_per_kv_head / group.tokens;
        let head = kv_head * heads_per_kv_head + row % heads_per_kv_head;
        query.copy_from_slice(context.query.row(chunk.first_token + token, head));
        if let Some(norms) = context.inputs.norms {
            norms.query.apply(query);
        }
        if let Some(rotary) = context.inputs.rotary {
            rotary.rotate(query, chunk.past + token);
        }
        query
            .iter_mut()
            .for_each(|element| *element *= context.inputs.scoring.scale);
    }
}

/// Sets `starts` to the indices in the caches where the tokens of `tile` start; `starts` is empty if there is no tile.
#[inline(always)]
fn locate_tile(
    context: &AttentionContext,
    group: &QueryGroup,
    tile: Option<usize>,
    starts: &mut Vec<usize>,
) {
    starts.clear();
    let Some(tile) = tile else { return };
    let positions = tile * TILE_KEYS..group.keys.end.min((tile + 1) * TILE_KEYS);
    let chunk = &context.batch.sequences[group.sequence];
    chunk.slots(positions, context.shape.block_tokens, |slot| {
        starts.push(slot * context.shape.kv_heads * context.width());
    });
}

/// Computes a tile for all rows of the group. Writes the result to `scratch.tile_sums` and `scratch.tile_stats`.
#[inline(always)]
fn attend_tile<S: Simd>(
    simd: S,
    context: &AttentionContext,
    group: &QueryGroup,
    tile: usize,
    scratch: &mut Scratch,
) {
    let (width, rows) = (context.width(), context.rows(group));
    scratch.tile_sums.clear();
    scratch.tile_sums.resize(rows * width, [0.0; LANES]);
    scratch.tile_stats.clear();
    scratch.tile_stats.resize(rows, SoftmaxStats::EMPTY);

    // SAFETY: the caller of `attend` guarantees that no thread writes to the caches.
    let (keys, values) = unsafe {
        (
            context.keys.slice(0..context.keys.len()),
            context.values.slice(0..context.values.len()),
        )
    };
    let heads = group.kv_heads.start * width..group.kv_heads.end * width;
    for &start in &scratch.next_starts {
        for offset in heads.clone().step_by(CACHE_LINE_GROUPS) {
            simd.prefetch(&keys[start + offset]);
            simd.prefetch(&values[start + offset]);
        }
    }

    let rows_per_kv_head = context.rows_per_kv_head(group);
    for (index, kv_head) in group.kv_heads.clone().enumerate() {
        let starts = &scratch.cache_starts;
        let keys = TileRows {
            elements: &keys[kv_head * width..],
            starts,
            width,
        };
        let values = TileRows {
            elements: &values[kv_head * width..],
            starts,
            width,
        };
        let head_rows = index * rows_per_kv_head..(index + 1) * rows_per_kv_head;
        let queries = &scratch.queries[head_rows.start * width..head_rows.end * width];
        let result = TileResult {
            sums: &mut scratch.tile_sums[head_rows.start * width..head_rows.end * width],
            stats: &mut scratch.tile_stats[head_rows],
        };
        if rows_per_kv_head <= ROWS_WITHOUT_CONVERSION {
            attend_rows(simd, context, group, tile, queries, &keys, &values, result);
        } else {
            scratch.converted_starts.clear();
            scratch
                .converted_starts
                .extend((0..starts.len()).map(|key| key * width));
            convert(simd, &keys, &mut scratch.keys);
            convert(simd, &values, &mut scratch.values);
            let starts = &scratch.converted_starts;
            let keys = TileRows {
                elements: &scratch.keys[..],
                starts,
                width,
            };
            let values = TileRows {
                elements: &scratch.values[..],
                starts,
                width,
            };
            attend_rows(simd, context, group, tile, queries, &keys, &values, result);
        }
    }
}

/// Converts the rows of a tile to f32.
#[inline(always)]
fn convert<S: Simd>(simd: S, from: &TileRows<f16>, to: &mut Vec<[f32; LANES]>) {
    to.resize(TILE_KEYS * from.width, [0.0; LANES]);
    for (key, to) in to
        .chunks_exact_mut(from.width)
        .take(from.starts.len())
        .enumerate()
    {
        for (from, to) in from.row(key).iter().zip(to) {
            simd.store(simd.load_f16(from), to);
        }
    }
}

struct TileResult<'a> {
    sums: &'a mut [[f32; LANES]],
    stats: &'a mut [SoftmaxStats],
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "called with both element types")]
fn attend_rows<S: Simd, E: Element>(
    simd: S,
    context: &AttentionContext,
    group: &QueryGroup,
    tile: usize,
    queries: &[[f32; LANES]],
    keys: &TileRows<E>,
    values: &TileRows<E>,
    result: TileResult,
) {
    let TileResult {
        sums: all_sums,
        stats,
    } = result;
    let (width, rows) = (context.width(), stats.len());
    let mut first = 0;
    while first < rows {
        let count = ROWS_PER_STEP.min(rows - first);
        let mut weights = [[0.0; TILE_KEYS]; ROWS_PER_STEP];
        let weights = &mut weights[..count];
        let sums = &mut all_sums[first * width..(first + count) * width];
        score(simd, &queries[first * width..], keys, weights);
        // Both the start and the end of the visible keys ascend from row to row.
        let mut visible: [Range<usize>; ROWS_PER_STEP] = Default::default();
        for row in 0..count {
            let keys_of_row = context.visible(group, first + row);
            let within = |key: usize| key.saturating_sub(tile * TILE_KEYS).min(keys.starts.len());
            visible[row] = within(keys_of_row.start)..within(keys_of_row.end);
            if visible[row].is_empty() {
                continue;
            }
            if let Some(softcap) = context.inputs.scoring.softcap {
                apply_softcap(&mut weights[row][visible[row].clone()], softcap);
            }
            stats[first + row] = exponentiate(simd, &mut weights[row], visible[row].clone());
        }
        // Each row accumulates its keys in order. Keys that are visible to all rows are accumulated for all rows at
        // once.
        let start = visible[count - 1].start;
        let shared = start..visible[0].end.max(start);
        let accumulate_row = |sums: &mut [[f32; LANES]], row: usize, keys: Range<usize>| {
            if !keys.is_empty() {
                let row_sums = &mut sums[row * width..(row + 1) * width];
                accumulate(simd, &weights[row..row + 1], values, keys, row_sums);
            }
        };
        for (row, visible) in visible[..count].iter().enumerate() {
            accumulate_row(sums, row, visible.start..visible.end.min(shared.start));
        }
        if !shared.is_empty() {
            accumulate(simd, weights, values, shared.clone(), sums);
        }
        for (row, visible) in visible[..count].iter().enumerate() {
            accumulate_row(sums, row, visible.start.max(shared.end)..visible.end);
        }
        first += count;
    }
}

/// Merges the partial results of a split group and writes the output.
struct MergeTiles<'a> {
    context: &'a AttentionContext<'a>,
    group: &'a QueryGroup,
}

impl WithSimd for MergeTiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let MergeTiles { context, group } = self;
        let Some(first_row) = group.first_partial_row else {
            return;
        };
        let (rows, width) = (context.rows(group), context.width());
        let mut sums = vec![[0.0; LANES]; rows * width];
        let mut stats = vec![SoftmaxStats::EMPTY; rows];
        for tile in 0..group.tiles().len() {
            let first = first_row + tile * rows;
            // SAFETY: the caller of `merge` guarantees that all tasks have finished, so partial results are not written
            // any more.
            let tile_sums = unsafe {
                context
                    .partial_sums
                    .slice(first * width..(first + rows) * width)
            };
            // SAFETY: as above.
            let tile_stats = unsafe { context.partial_stats.slice(first..first + rows) };
            for row in 0..rows {
                let range = row * width..(row + 1) * width;
                merge(
                    simd,
                    &mut stats[row],
                    &mut sums[range.clone()],
                    tile_stats[row],
                    &tile_sums[range],
                );
            }
        }
        context.finish(simd, group, &stats, &sums);
    }
}
