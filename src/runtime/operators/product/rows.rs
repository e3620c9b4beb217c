//! Rows of floats, rounded to int8 in groups that share a scale.

use super::super::norm::RowNorm;
use super::super::simd::{LANES, Simd, Work};
use crate::graph::panels::{Origin, PanelLayout};

/// Rows that are multiplied together, and whose groups lie beside each other.
pub const ROWS_TOGETHER: usize = 4;

/// The largest code.
const MOST: f32 = 127.0;

/// Memory for rounded rows.
#[derive(Debug, Default)]
pub struct QuantisedRows {
    of_16: Vec<Group<4>>,
    of_32: Vec<Group<8>>,
}

impl QuantisedRows {
    pub(super) fn of_16(&mut self) -> &mut Vec<Group<4>> {
        &mut self.of_16
    }

    pub(super) fn of_32(&mut self) -> &mut Vec<Group<8>> {
        &mut self.of_32
    }
}

/// A group of a row's values, four for each of `V` vectors: `scale · codes`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Group<const V: usize> {
    pub(super) scale: f32,
    /// What makes up for codes that are stored otherwise than they are meant: where the matrix has minimums, the sum of the
    /// group's values; else the sum of its codes times the matrix's zero point.
    pub(super) correction: f32,
    pub(super) codes: [[i8; 4]; V],
}

impl<const V: usize> Default for Group<V> {
    fn default() -> Self {
        Self {
            scale: 0.0,
            correction: 0.0,
            codes: [[0; 4]; V],
        }
    }
}

/// Rounds some rows, no more than [`ROWS_TOGETHER`], whose groups then lie in turn.
pub(super) struct Rounding<'a, const V: usize> {
    /// `[rows, columns]`
    pub(super) x: &'a [f32],
    pub(super) columns: usize,
    pub(super) norm: Option<RowNorm<'a>>,
    pub(super) layout: PanelLayout,
    /// `[groups, rows]`
    pub(super) groups: &'a mut [Group<V>],
}

impl<const V: usize> Work for Rounding<'_, V> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.x.len() / self.columns;
        let origin = self.layout.codes.origin();
        for (row, values) in self.x.chunks_exact(self.columns).enumerate() {
            let scale = match self.norm {
                Some(norm) => simd.splat(norm.scale(simd, values)),
                None => simd.splat(1.0),
            };
            for (place, group) in values.chunks_exact(4 * V).enumerate() {
                let mut loaded = [simd.splat(0.0); 4];
                let loaded = &mut loaded[..V / 2];
                for (index, (loaded, eight)) in
                    loaded.iter_mut().zip(group.as_chunks().0).enumerate()
                {
                    *loaded = simd.load(eight);
                    if let Some(norm) = self.norm {
                        let gains = norm.gain[4 * V * place..].as_chunks::<LANES>().0;
                        let gain = simd.multiply(scale, simd.load(&gains[index]));
                        *loaded = simd.multiply(*loaded, gain);
                    }
                }
                self.groups[place * rows + row] = rounded(simd, loaded, origin);
            }
        }
    }
}

/// A group of the values, `V / 2` vectors.
#[inline(always)]
fn rounded<S: Simd, const V: usize>(simd: S, values: &[S::Vector], origin: Origin) -> Group<V> {
    let mut most = simd.splat(0.0);
    // A number that is none, or infinite, makes this one none, and with it the whole group.
    let mut nothing = simd.splat(0.0);
    for value in values {
        most = simd.max(most, simd.magnitude(*value));
        nothing = simd.multiply_add(*value, simd.splat(0.0), nothing);
    }
    let (mut mosts, mut nothings) = ([0.0; LANES], [0.0; LANES]);
    simd.store(most, &mut mosts);
    simd.store(nothing, &mut nothings);
    let most = mosts.into_iter().fold(0.0, f32::max);
    let nothing: f32 = nothings.into_iter().sum();
    let factor = simd.splat(if most > 0.0 { MOST / most } else { 0.0 });
    let mut group = Group::default();
    for (codes, value) in group.codes.as_chunks_mut::<2>().0.iter_mut().zip(values) {
        let eight = simd.round(simd.multiply(*value, factor));
        codes.as_flattened_mut().copy_from_slice(&eight);
    }
    let ones = [simd.load_bytes(&[1; 4 * LANES]); V];
    let mut sums = [0.0; LANES];
    simd.store(simd.dot_unsigned::<V, V>(&ones, &group.codes), &mut sums);
    group.scale = most / MOST + nothing;
    group.correction = match origin {
        Origin::Minimum => group.scale * sums[0],
        Origin::Zero(zero) => f32::from(zero) * sums[0],
    };
    group
}
