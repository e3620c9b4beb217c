//! Rotary position embedding of one row (Su et al., 2021, <https://arxiv.org/abs/2104.09864>).

/// The angles' cosines and sines, `[positions, rotated / 2]`, for the first `rotated` elements of a row.
#[derive(Debug, Clone, Copy)]
pub struct Rotary<'a> {
    /// `cos_cache`
    pub cosines: &'a [f32],
    /// `sin_cache`
    pub sines: &'a [f32],
    /// Columns of both: half of the elements that are rotated.
    pub pairs: usize,
    /// Which elements make a pair.
    pub pairing: Pairing,
}

/// Which elements of a row are rotated together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// 0 with `pairs`, 1 with `pairs + 1`, … (GPT-NeoX)
    Halves,
    /// 0 with 1, 2 with 3, … (GPT-J, and llama's weights in GGUF files)
    Neighbours,
}

impl Rotary<'_> {
    /// Positions that the tables hold.
    pub(super) fn positions(&self) -> usize {
        self.cosines.len() / self.pairs.max(1)
    }

    /// Turns `row`, `[head_size]`, to its place at `position`.
    #[inline(always)]
    pub(super) fn rotate(&self, row: &mut [f32], position: usize) {
        let cosines = &self.cosines[position * self.pairs..][..self.pairs];
        let sines = &self.sines[position * self.pairs..][..self.pairs];
        let angles = cosines.iter().zip(sines);
        match self.pairing {
            Pairing::Halves => {
                let (first, second) = row[..2 * self.pairs].split_at_mut(self.pairs);
                for ((a, b), (cos, sin)) in first.iter_mut().zip(second).zip(angles) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
            Pairing::Neighbours => {
                for ([a, b], (cos, sin)) in row.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}
