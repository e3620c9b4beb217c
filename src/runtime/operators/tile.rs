//! The arithmetic of one attention tile: scores of a few query rows against up to [`TILE_KEYS`] keys, the softmax terms
//! of the scores, and the weighted sums of values. Tiles are merged as in online softmax (Milakov and Gimelshein, 2018,
//! <https://arxiv.org/abs/1805.02867>). The callers select rows and keys.
//!
//! A row's sums depend only on its own query and keys, not on the other rows in the call.

use std::ops::Range;

use super::simd::{Element, LANES, Simd, exp};

/// Number of keys in a tile. A row's scores in a tile share one maximum. Tile `n` of a sequence starts at position
/// `n · TILE_KEYS`.
pub(super) const TILE_KEYS: usize = 64;

/// Number of query rows that share each load of a key. With four keys at a time, twelve sums, three query vectors and
/// one key vector fill AVX2's sixteen registers; with larger values, sums would spill to memory.
pub(super) const ROWS_PER_STEP: usize = 3;
/// Number of keys whose dot products are computed at a time.
const KEYS_PER_STEP: usize = 4;

/// The key rows or value rows of a tile.
pub(super) struct TileRows<'a, E> {
    pub(super) elements: &'a [[E; LANES]],
    /// Index in `elements` of the start of each row.
    pub(super) starts: &'a [usize],
    /// Number of [`LANES`]-element groups in a row.
    pub(super) width: usize,
}

impl<E> TileRows<'_, E> {
    #[inline(always)]
    pub(super) fn row(&self, key: usize) -> &[[E; LANES]] {
        let start = self.starts[key];
        &self.elements[start..start + self.width]
    }
}

/// Softmax statistics of a row over one or several tiles.
#[derive(Debug, Clone, Copy)]
pub(super) struct SoftmaxStats {
    /// The largest score.
    pub(super) max: f32,
    /// The sum of `exp(score - max)` over all scores.
    pub(super) sum: f32,
}

impl SoftmaxStats {
    /// Statistics of a row without visible keys.
    pub(super) const EMPTY: SoftmaxStats = SoftmaxStats {
        max: f32::NEG_INFINITY,
        sum: 0.0,
    };
}

/// Computes `scores[row][key] = queries[row] · keys[key]` for all keys of the tile; other entries are unspecified.
///
/// `queries` holds consecutive rows of `keys.width` groups.
#[inline(always)]
pub(super) fn score<S: Simd, E: Element>(
    simd: S,
    queries: &[[f32; LANES]],
    keys: &TileRows<E>,
    scores: &mut [[f32; TILE_KEYS]],
) {
    match scores.len() {
        1 => score_rows::<S, E, 1>(simd, queries, keys, scores),
        2 => score_rows::<S, E, 2>(simd, queries, keys, scores),
        _ => score_rows::<S, E, ROWS_PER_STEP>(simd, queries, keys, scores),
    }
}

#[inline(always)]
fn score_rows<S: Simd, E: Element, const ROWS: usize>(
    simd: S,
    queries: &[[f32; LANES]],
    keys: &TileRows<E>,
    scores: &mut [[f32; TILE_KEYS]],
) {
    let width = keys.width;
    let queries: [&[[f32; LANES]]; ROWS] =
        std::array::from_fn(|row| &queries[row * width..][..width]);
    let count = keys.starts.len();
    let mut first = 0;
    while first < count {
        // Past the end, the last key is repeated; the extra scores are written to unspecified entries.
        let rows: [&[[E; LANES]]; KEYS_PER_STEP] =
            std::array::from_fn(|key| keys.row((first + key).min(count - 1)));
        let mut sums = [[simd.splat(0.0); KEYS_PER_STEP]; ROWS];
        for group in 0..width {
            let mut loaded = [simd.splat(0.0); ROWS];
            for row in 0..ROWS {
                loaded[row] = simd.load(&queries[row][group]);
            }
            for key in 0..KEYS_PER_STEP {
                let element = E::load(simd, &rows[key][group]);
                for row in 0..ROWS {
                    sums[row][key] = simd.multiply_add(loaded[row], element, sums[row][key]);
                }
            }
        }
        for row in 0..ROWS {
            scores[row][first..first + KEYS_PER_STEP].copy_from_slice(&simd.sum_lanes(sums[row]));
        }
        first += KEYS_PER_STEP;
    }
}

/// Applies soft capping: maps scores to the range from `-softcap` to `softcap`.
pub(super) fn apply_softcap(scores: &mut [f32], softcap: f32) {
    for score in scores {
        *score = softcap * (*score / softcap).tanh();
    }
}

/// Replaces each visible score of a row by `exp(score - max)` and each other score by 0. Returns the row's statistics.
#[inline(always)]
pub(super) fn exponentiate<S: Simd>(
    simd: S,
    weights: &mut [f32; TILE_KEYS],
    visible: Range<usize>,
) -> SoftmaxStats {
    weights[..visible.start].fill(f32::NEG_INFINITY);
    weights[visible.end..].fill(f32::NEG_INFINITY);
    let groups = weights.as_chunks_mut::<LANES>().0;
    let mut max = simd.splat(f32::NEG_INFINITY);
    for group in groups.iter() {
        max = simd.max(max, simd.load(group));
    }
    let mut lanes = [0.0; LANES];
    simd.store(max, &mut lanes);
    let max = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = simd.splat(0.0);
    for group in groups {
        let weight = exp(simd, simd.subtract(simd.load(group), simd.splat(max)));
        simd.store(weight, group);
        sum = simd.add(sum, weight);
    }
    let zero = simd.splat(0.0);
    SoftmaxStats {
        max,
        sum: simd.sum_lanes([sum, zero, zero, zero])[0],
    }
}

/// Computes `sums[row] += weights[row][key] · values[key]` for each of `keys`, in order.
#[inline(always)]
pub(super) fn accumulate<S: Simd, E: Element>(
    simd: S,
    weights: &[[f32; TILE_KEYS]],
    values: &TileRows<E>,
    keys: Range<usize>,
    sums: &mut [[f32; LANES]],
) {
    match weights.len() {
        1 => accumulate_rows::<S, E, 1>(simd, weights, values, keys, sums),
        2 => accumulate_rows::<S, E, 2>(simd, weights, values, keys, sums),
        _ => accumulate_rows::<S, E, ROWS_PER_STEP>(simd, weights, values, keys, sums),
    }
}

#[inline(always)]
fn accumulate_rows<S: Simd, E: Element, const ROWS: usize>(
    simd: S,
    weights: &[[f32; TILE_KEYS]],
    values: &TileRows<E>,
    keys: Range<usize>,
    sums: &mut [[f32; LANES]],
) {
    let mut group = 0;
    while group < values.width {
        group += match values.width - group {
            4.. => {
                accumulate_groups::<S, E, ROWS, 4>(simd, weights, values, keys.clone(), group, sums)
            }
            2.. => {
                accumulate_groups::<S, E, ROWS, 2>(simd, weights, values, keys.clone(), group, sums)
            }
            _ => {
                accumulate_groups::<S, E, ROWS, 1>(simd, weights, values, keys.clone(), group, sums)
            }
        };
    }
}

/// As [`accumulate`], but only for `GROUPS` element groups of each row, from group `first` on. Returns `GROUPS`.
#[inline(always)]
fn accumulate_groups<S: Simd, E: Element, const ROWS: usize, const GROUPS: usize>(
    simd: S,
    weights: &[[f32; TILE_KEYS]],
    values: &TileRows<E>,
    keys: Range<usize>,
    first: usize,
    sums: &mut [[f32; LANES]],
) -> usize {
    let width = values.width;
    let weights: &[[f32; TILE_KEYS]; ROWS] = weights
        .first_chunk()
        .expect("one row of weights for each row of sums");
    let mut running = [[simd.splat(0.0); GROUPS]; ROWS];
    for row in 0..ROWS {
        for group in 0..GROUPS {
            running[row][group] = simd.load(&sums[row * width + first + group]);
        }
    }
    #[expect(clippy::needless_range_loop, reason = "`key` is the second index of `weights`")]
    for key in keys.start..keys.end.min(TILE_KEYS) {
        let value = &values.row(key)[first..first + GROUPS];
        let mut weight = [simd.splat(0.0); ROWS];
        for row in 0..ROWS {
            weight[row] = simd.splat(weights[row][key]);
        }
        for group in 0..GROUPS {
            let element = E::load(simd, &value[group]);
            for row in 0..ROWS {
                running[row][group] = simd.multiply_add(weight[row], element, running[row][group]);
            }
        }
    }
    for row in 0..ROWS {
        for group in 0..GROUPS {
            simd.store(running[row][group], &mut sums[row * width + first + group]);
        }
    }
    GROUPS
}

/// Merges a tile's result into the result of the preceding tiles.
///
/// Only the result with the smaller maximum is scaled. The order of merging affects the rounding of the result.
#[inline(always)]
pub(super) fn merge<S: Simd>(
    simd: S,
    stats: &mut SoftmaxStats,
    running: &mut [[f32; LANES]],
    tile_stats: SoftmaxStats,
    tile: &[[f32; LANES]],
) {
    if tile_stats.sum == 0.0 {
        return; // no key of the tile is visible to the row
    }
    let (old, new) = if tile_stats.max > stats.max {
        ((stats.max - tile_stats.max).exp(), 1.0)
    } else {
        (1.0, (tile_stats.max - stats.max).exp())
    };
    stats.max = if tile_stats.max > stats.max {
        tile_stats.max
    } else {
        stats.max
    };
    stats.sum = stats.sum * old + tile_stats.sum * new;
    let (old, new) = (simd.splat(old), simd.splat(new));
    for (running, tile) in running.iter_mut().zip(tile) {
        let scaled = simd.multiply(simd.load(running), old);
        simd.store(simd.multiply_add(simd.load(tile), new, scaled), running);
    }
}
