//! The arithmetic of one tile: scores of a few query rows against up to [`TILE_KEYS`] keys, their
//! exponentials, and the values weighted with them. Which rows and keys these are is `attention`'s matter.
//!
//! A row's sums depend on its own query and keys alone, never on the rows that are computed beside it.

use std::ops::Range;

use super::simd::{Element, LANES, Simd, exp};

/// Keys whose scores share one maximum. Tile `n` of a sequence holds the positions from `n · TILE_KEYS`.
pub(super) const TILE_KEYS: usize = 64;

/// Query rows that share a load of a key, and keys whose sums are under way at once. Twelve sums, three
/// rows and the key that meets them fill AVX2's sixteen registers; one more and sums go to memory.
pub(super) const ROWS_TOGETHER: usize = 3;
const KEYS_TOGETHER: usize = 4;

/// The rows of a tile's keys, or of its values, wherever they lie.
pub(super) struct TileRows<'a, E> {
    pub(super) elements: &'a [[E; LANES]],
    /// Where each row starts in `elements`.
    pub(super) starts: &'a [usize],
    /// Groups of [`LANES`] elements in a row.
    pub(super) width: usize,
}

impl<E> TileRows<'_, E> {
    #[inline(always)]
    pub(super) fn row(&self, key: usize) -> &[[E; LANES]] {
        let start = self.starts[key];
        &self.elements[start..start + self.width]
    }
}

/// What a row saw of a tile before any other tile is taken into account.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peak {
    /// The largest score.
    pub(super) largest: f32,
    /// The sum of the exponentials of all scores less `largest`.
    pub(super) sum: f32,
}

impl Peak {
    /// Of a row that saw nothing.
    pub(super) const NONE: Peak = Peak {
        largest: f32::NEG_INFINITY,
        sum: 0.0,
    };
}

/// `weights[row][key] = queries[row] · keys[key]` for all keys; further entries are left undefined.
///
/// `queries` holds the rows one after the other, `keys.width` groups each.
#[inline(always)]
pub(super) fn score<S: Simd, E: Element>(
    simd: S,
    queries: &[[f32; LANES]],
    keys: &TileRows<E>,
    weights: &mut [[f32; TILE_KEYS]],
) {
    match weights.len() {
        1 => score_rows::<S, E, 1>(simd, queries, keys, weights),
        2 => score_rows::<S, E, 2>(simd, queries, keys, weights),
        _ => score_rows::<S, E, ROWS_TOGETHER>(simd, queries, keys, weights),
    }
}

#[inline(always)]
fn score_rows<S: Simd, E: Element, const ROWS: usize>(
    simd: S,
    queries: &[[f32; LANES]],
    keys: &TileRows<E>,
    weights: &mut [[f32; TILE_KEYS]],
) {
    let width = keys.width;
    let queries: [&[[f32; LANES]]; ROWS] =
        std::array::from_fn(|row| &queries[row * width..][..width]);
    let count = keys.starts.len();
    let mut first = 0;
    while first < count {
        // Past the end the last key stands in; its score lands where nobody looks.
        let rows: [&[[E; LANES]]; KEYS_TOGETHER] =
            std::array::from_fn(|key| keys.row((first + key).min(count - 1)));
        let mut sums = [[simd.splat(0.0); KEYS_TOGETHER]; ROWS];
        for group in 0..width {
            let mut loaded = [simd.splat(0.0); ROWS];
            for row in 0..ROWS {
                loaded[row] = simd.load(&queries[row][group]);
            }
            for key in 0..KEYS_TOGETHER {
                let element = E::load(simd, &rows[key][group]);
                for row in 0..ROWS {
                    sums[row][key] = simd.multiply_add(loaded[row], element, sums[row][key]);
                }
            }
        }
        for row in 0..ROWS {
            weights[row][first..first + KEYS_TOGETHER].copy_from_slice(&simd.sum_lanes(sums[row]));
        }
        first += KEYS_TOGETHER;
    }
}

/// Keeps scores between `-softcap` and `softcap`.
pub(super) fn cap(scores: &mut [f32], softcap: f32) {
    for score in scores {
        *score = softcap * (*score / softcap).tanh();
    }
}

/// Turns the `visible` scores of a row into their exponentials less the largest, the rest into zeros.
#[inline(always)]
pub(super) fn exponentiate<S: Simd>(
    simd: S,
    weights: &mut [f32; TILE_KEYS],
    visible: Range<usize>,
) -> Peak {
    weights[..visible.start].fill(f32::NEG_INFINITY);
    weights[visible.end..].fill(f32::NEG_INFINITY);
    let groups = weights.as_chunks_mut::<LANES>().0;
    let mut largest = simd.splat(f32::NEG_INFINITY);
    for group in groups.iter() {
        largest = simd.max(largest, simd.load(group));
    }
    let mut lanes = [0.0; LANES];
    simd.store(largest, &mut lanes);
    let largest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = simd.splat(0.0);
    for group in groups {
        let weight = exp(simd, simd.subtract(simd.load(group), simd.splat(largest)));
        simd.store(weight, group);
        sum = simd.add(sum, weight);
    }
    let zero = simd.splat(0.0);
    Peak {
        largest,
        sum: simd.sum_lanes([sum, zero, zero, zero])[0],
    }
}

/// `sums[row] += weights[row][key] · values[key]`, key after key.
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
        _ => accumulate_rows::<S, E, ROWS_TOGETHER>(simd, weights, values, keys, sums),
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

/// Takes the `GROUPS` groups from `first` on and returns how many they are.
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
    #[expect(clippy::needless_range_loop, reason = "the second index of `weights` is meant")]
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

/// Takes a tile's result into the result of the tiles before it.
///
/// Only one of the two is scaled, the one with the smaller peak; the order of tiles is part of the result.
#[inline(always)]
pub(super) fn merge<S: Simd>(
    simd: S,
    peak: &mut Peak,
    running: &mut [[f32; LANES]],
    tile_peak: Peak,
    tile: &[[f32; LANES]],
) {
    if tile_peak.sum == 0.0 {
        return; // the row saw nothing of the tile
    }
    let (old, new) = if tile_peak.largest > peak.largest {
        ((peak.largest - tile_peak.largest).exp(), 1.0)
    } else {
        (1.0, (tile_peak.largest - peak.largest).exp())
    };
    peak.largest = if tile_peak.largest > peak.largest {
        tile_peak.largest
    } else {
        peak.largest
    };
    peak.sum = peak.sum * old + tile_peak.sum * new;
    let (old, new) = (simd.splat(old), simd.splat(new));
    for (running, tile) in running.iter_mut().zip(tile) {
        let kept = simd.multiply(simd.load(running), old);
        simd.store(simd.multiply_add(simd.load(tile), new, kept), running);
    }
}
