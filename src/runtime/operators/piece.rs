//! One thread's share of an attention: the queries of a few tokens and KV heads against some of their keys. Who computes which piece is `attention`'s matter.

use std::cell::RefCell;
use std::ops::Range;

use half::f16;

use super::attention::{AttentionInputs, AttentionShape, TokenRows};
use super::batch::RaggedBatch;
use super::shared::SharedSlice;
use super::simd::{Element, Instructions, LANES, Simd, Work};
use super::tile::{
    Peak, ROWS_TOGETHER, TILE_KEYS, TileRows, accumulate, cap, exponentiate, merge, score,
};

/// Up to so many query rows read keys and values as f16; with more it is worth converting a tile once.
pub(super) const ROWS_WITHOUT_CONVERSION: usize = 2 * ROWS_TOGETHER;

/// Bytes that a prefetch brings.
const CACHE_LINE: usize = 64;

/// Consecutive tokens of a sequence and some KV heads. The queries of a KV head share every key of it that
/// is loaded.
#[derive(Debug)]
pub(super) struct Group {
    /// Its place among the batch's sequences.
    pub(super) sequence: usize,
    /// The first token's place among the sequence's new ones.
    pub(super) first: usize,
    pub(super) tokens: usize,
    pub(super) kv_heads: Range<usize>,
    /// Keys that any of the tokens sees; the last one sees the last.
    pub(super) keys: Range<usize>,
    /// Where the results of its tiles wait to be merged, if it is cut into pieces.
    pub(super) partials: Option<usize>,
}

impl Group {
    pub(super) fn tiles(&self) -> Range<usize> {
        self.keys.start / TILE_KEYS..self.keys.end.div_ceil(TILE_KEYS)
    }
}

/// Some tiles of a group.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) group: usize,
    pub(super) tiles: Range<usize>,
}

/// What all pieces read and write.
pub(super) struct PieceContext<'a> {
    pub(super) shape: AttentionShape,
    pub(super) inputs: &'a AttentionInputs<'a>,
    pub(super) batch: &'a RaggedBatch<'a>,
    pub(super) query: TokenRows<'a>,
    pub(super) keys: &'a SharedSlice<'a, [f16; LANES]>,
    pub(super) values: &'a SharedSlice<'a, [f16; LANES]>,
    /// `[tokens, heads, width]`
    pub(super) output: &'a SharedSlice<'a, [f32; LANES]>,
    /// `[partial rows, width]`; a group's tile by tile, each with all of the group's rows.
    pub(super) partial_sums: &'a SharedSlice<'a, [f32; LANES]>,
    pub(super) partial_peaks: &'a SharedSlice<'a, Peak>,
}

impl PieceContext<'_> {
    /// Writes the output of the group's rows, or what is to be merged into it.
    pub(super) fn attend(&self, group: &Group, piece: &Piece, instructions: Instructions) {
        thread_local! {
            static SCRATCH: RefCell<Scratch> = RefCell::default();
        }
        SCRATCH.with_borrow_mut(|scratch| {
            instructions.run(AttendPiece {
                context: self,
                group,
                tiles: piece.tiles.clone(),
                scratch,
            });
        });
    }

    fn width(&self) -> usize {
        self.shape.head_size / LANES
    }

    fn heads_per_group(&self) -> usize {
        self.shape.heads / self.shape.kv_heads
    }

    /// Rows go by KV head, then by token, then by query head.
    fn rows(&self, group: &Group) -> usize {
        group.kv_heads.len() * self.rows_per_kv_head(group)
    }

    fn rows_per_kv_head(&self, group: &Group) -> usize {
        group.tokens * self.heads_per_group()
    }

    /// Keys of the sequence that a row of a KV head sees.
    fn visible(&self, group: &Group, row: usize) -> Range<usize> {
        let end = group.keys.end - group.tokens + row / self.heads_per_group() + 1;
        let window = self.inputs.scoring.window.unwrap_or(end);
        end.saturating_sub(window)..end
    }

    /// Divides the merged sums by their weights.
    #[inline(always)]
    fn finish<S: Simd>(&self, simd: S, group: &Group, peaks: &[Peak], sums: &[[f32; LANES]]) {
        let (width, heads_per_group) = (self.width(), self.heads_per_group());
        let first_token = self.batch.sequences[group.sequence].first_token + group.first;
        for (token_row, sums) in sums.chunks_exact(heads_per_group * width).enumerate() {
            let (kv_head, token) = (token_row / group.tokens, token_row % group.tokens);
            let first_head = (first_token + token) * self.shape.heads
                + (group.kv_heads.start + kv_head) * heads_per_group;
            // SAFETY: these tokens' heads belong to this group alone, and one thread finishes a group.
            let output = unsafe {
                self.output
                    .part_mut(first_head * width..(first_head + heads_per_group) * width)
            };
            let peaks = &peaks[token_row * heads_per_group..];
            for (index, (sum, output)) in sums.iter().zip(output).enumerate() {
                let share = simd.splat(1.0 / peaks[index / width].sum);
                simd.store(simd.multiply(simd.load(sum), share), output);
            }
        }
    }
}

/// A thread's memory for a piece: some hundred kilobytes with the usual heads.
#[derive(Default)]
struct Scratch {
    /// `[rows, width]`: rotated and scaled.
    queries: Vec<[f32; LANES]>,
    /// `[rows, width]`: of the tiles so far.
    sums: Vec<[f32; LANES]>,
    /// `[rows]`
    peaks: Vec<Peak>,
    /// `[rows, width]`: of one tile.
    tile_sums: Vec<[f32; LANES]>,
    /// `[rows]`
    tile_peaks: Vec<Peak>,
    /// `[TILE_KEYS, width]`
    keys: Vec<[f32; LANES]>,
    /// `[TILE_KEYS, width]`
    values: Vec<[f32; LANES]>,
    /// Where the rows of `keys` and `values` start.
    starts: Vec<usize>,
    /// Where the tile's tokens start in the caches.
    cache_starts: Vec<usize>,
    /// The same of the next tile.
    next_starts: Vec<usize>,
}

struct AttendPiece<'a> {
    context: &'a PieceContext<'a>,
    group: &'a Group,
    tiles: Range<usize>,
    scratch: &'a mut Scratch,
}

impl Work for AttendPiece<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let AttendPiece {
            context,
            group,
            tiles,
            scratch,
        } = self;
        let (rows, width) = (context.rows(group), context.width());
        load_queries(context, group, &mut scratch.queries);
        scratch.sums.clear();
        scratch.sums.resize(rows * width, [0.0; LANES]);
        scratch.peaks.clear();
        scratch.peaks.resize(rows, Peak::NONE);
        let mut upcoming = tiles.clone();
        find_tile(context, group, upcoming.next(), &mut scratch.next_starts);
        for tile in tiles {
            std::mem::swap(&mut scratch.cache_starts, &mut scratch.next_starts);
            find_tile(context, group, upcoming.next(), &mut scratch.next_starts);
            attend_tile(simd, context, group, tile, scratch);
            match group.partials {
                None => {
                    for row in 0..rows {
                        let range = row * width..(row + 1) * width;
                        let tile_peak = scratch.tile_peaks[row];
                        let sums = &mut scratch.sums[range.clone()];
                        merge(
                            simd,
                            &mut scratch.peaks[row],
                            sums,
                            tile_peak,
                            &scratch.tile_sums[range],
                        );
                    }
                }
                Some(first_row) => {
                    let first = first_row + (tile - group.tiles().start) * rows;
                    // SAFETY: each tile of a group has its own part, and one thread computes a tile.
                    let sums = unsafe {
                        context
                            .partial_sums
                            .part_mut(first * width..(first + rows) * width)
                    };
                    sums.copy_from_slice(&scratch.tile_sums);
                    // SAFETY: as above.
                    let peaks = unsafe { context.partial_peaks.part_mut(first..first + rows) };
                    peaks.copy_from_slice(&scratch.tile_peaks);
                }
            }
        }
        if group.partials.is_none() {
            context.finish(simd, group, &scratch.peaks, &scratch.sums);
        }
    }
}

#[inline(always)]
fn load_queries(context: &PieceContext, group: &Group, queries: &mut Vec<[f32; LANES]>) {
    let (width, heads_per_group) = (context.width(), context.heads_per_group());
    let chunk = &context.batch.sequences[group.sequence];
    queries.resize(context.rows(group) * width, [0.0; LANES]);
    for (row, query) in queries.chunks_exact_mut(width).enumerate() {
        let query = query.as_flattened_mut();
        let token = group.first + row / heads_per_group % group.tokens;
        let kv_head = group.kv_heads.start + row / heads_per_group / group.tokens;
        let head = kv_head * heads_per_group + row % heads_per_group;
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

/// Where the tile's tokens start in the caches; of no tile, nothing.
#[inline(always)]
fn find_tile(context: &PieceContext, group: &Group, tile: Option<usize>, starts: &mut Vec<usize>) {
    starts.clear();
    let Some(tile) = tile else { return };
    let positions = tile * TILE_KEYS..group.keys.end.min((tile + 1) * TILE_KEYS);
    let chunk = &context.batch.sequences[group.sequence];
    chunk.slots(positions, context.shape.block_tokens, |slot| {
        starts.push(slot * context.shape.kv_heads * context.width());
    });
}

/// Leaves the tile's result for every row in `scratch.tile_sums` and `scratch.tile_peaks`.
#[inline(always)]
fn attend_tile<S: Simd>(
    simd: S,
    context: &PieceContext,
    group: &Group,
    tile: usize,
    scratch: &mut Scratch,
) {
    let (width, rows) = (context.width(), context.rows(group));
    scratch.tile_sums.clear();
    scratch.tile_sums.resize(rows * width, [0.0; LANES]);
    scratch.tile_peaks.clear();
    scratch.tile_peaks.resize(rows, Peak::NONE);

    // SAFETY: the caches are written only before any piece begins.
    let (keys, values) = unsafe {
        (
            context.keys.part(0..context.keys.len()),
            context.values.part(0..context.values.len()),
        )
    };
    let heads = group.kv_heads.start * width..group.kv_heads.end * width;
    for &start in &scratch.next_starts {
        for place in heads.clone().step_by(CACHE_LINE / LANES / size_of::<f16>()) {
            simd.prefetch(&keys[start + place]);
            simd.prefetch(&values[start + place]);
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
        let own = index * rows_per_kv_head..(index + 1) * rows_per_kv_head;
        let queries = &scratch.queries[own.start * width..own.end * width];
        let result = TileResult {
            sums: &mut scratch.tile_sums[own.start * width..own.end * width],
            peaks: &mut scratch.tile_peaks[own],
        };
        if rows_per_kv_head <= ROWS_WITHOUT_CONVERSION {
            attend_rows(simd, context, group, tile, queries, &keys, &values, result);
        } else {
            scratch.starts.clear();
            scratch
                .starts
                .extend((0..starts.len()).map(|key| key * width));
            convert(simd, &keys, &mut scratch.keys);
            convert(simd, &values, &mut scratch.values);
            let starts = &scratch.starts;
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
    peaks: &'a mut [Peak],
}

#[inline(always)]
#[expect(clippy::too_many_arguments, reason = "the same for both kinds of elements")]
fn attend_rows<S: Simd, E: Element>(
    simd: S,
    context: &PieceContext,
    group: &Group,
    tile: usize,
    queries: &[[f32; LANES]],
    keys: &TileRows<E>,
    values: &TileRows<E>,
    result: TileResult,
) {
    let TileResult {
        sums: all_sums,
        peaks,
    } = result;
    let (width, rows) = (context.width(), peaks.len());
    let mut first = 0;
    while first < rows {
        let count = ROWS_TOGETHER.min(rows - first);
        let mut weights = [[0.0; TILE_KEYS]; ROWS_TOGETHER];
        let weights = &mut weights[..count];
        let sums = &mut all_sums[first * width..(first + count) * width];
        score(simd, &queries[first * width..], keys, weights);
        // What is seen moves on from row to row, both its beginning and its end.
        let mut visible: [Range<usize>; ROWS_TOGETHER] = Default::default();
        for row in 0..count {
            let seen = context.visible(group, first + row);
            let within = |key: usize| key.saturating_sub(tile * TILE_KEYS).min(keys.starts.len());
            visible[row] = within(seen.start)..within(seen.end);
            if visible[row].is_empty() {
                continue;
            }
            if let Some(softcap) = context.inputs.scoring.softcap {
                cap(&mut weights[row][visible[row].clone()], softcap);
            }
            peaks[first + row] = exponentiate(simd, &mut weights[row], visible[row].clone());
        }
        // Each row takes its keys in order, those together that all see.
        let start = visible[count - 1].start;
        let shared = start..visible[0].end.max(start);
        let alone = |sums: &mut [[f32; LANES]], row: usize, keys: Range<usize>| {
            if !keys.is_empty() {
                let own = &mut sums[row * width..(row + 1) * width];
                accumulate(simd, &weights[row..row + 1], values, keys, own);
            }
        };
        for (row, seen) in visible[..count].iter().enumerate() {
            alone(sums, row, seen.start..seen.end.min(shared.start));
        }
        if !shared.is_empty() {
            accumulate(simd, weights, values, shared.clone(), sums);
        }
        for (row, seen) in visible[..count].iter().enumerate() {
            alone(sums, row, seen.start.max(shared.end)..seen.end);
        }
        first += count;
    }
}

/// Merges the results of a group's tiles, if it was cut into pieces.
pub(super) struct MergeGroup<'a> {
    pub(super) context: &'a PieceContext<'a>,
    pub(super) group: &'a Group,
}

impl Work for MergeGroup<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let MergeGroup { context, group } = self;
        let Some(first_row) = group.partials else {
            return;
        };
        let (rows, width) = (context.rows(group), context.width());
        let mut sums = vec![[0.0; LANES]; rows * width];
        let mut peaks = vec![Peak::NONE; rows];
        for tile in 0..group.tiles().len() {
            let first = first_row + tile * rows;
            // SAFETY: the pieces are complete, so nobody writes partial results.
            let tile_sums = unsafe {
                context
                    .partial_sums
                    .part(first * width..(first + rows) * width)
            };
            // SAFETY: as above.
            let tile_peaks = unsafe { context.partial_peaks.part(first..first + rows) };
            for row in 0..rows {
                let range = row * width..(row + 1) * width;
                merge(
                    simd,
                    &mut peaks[row],
                    &mut sums[range.clone()],
                    tile_peaks[row],
                    &tile_sums[range],
                );
            }
        }
        context.finish(simd, group, &peaks, &sums);
    }
}
