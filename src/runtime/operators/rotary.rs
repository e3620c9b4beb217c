//! Rotary position embedding (RoPE) of one row (Su et al., 2021, <https://arxiv.org/abs/2104.09864>).

/// Tables of cosines and sines, `[positions, pairs]`. The first `2 · pairs` elements of a row are rotated.
#[derive(Debug, Clone, Copy)]
pub struct Rotary<'a> {
    /// Cosines of the rotation angles (input `cos_cache`).
    pub cosines: &'a [f32],
    /// Sines of the rotation angles (input `sin_cache`).
    pub sines: &'a [f32],
    /// Number of columns of both tables: the number of element pairs that are rotated.
    pub pairs: usize,
    /// Which elements form a pair.
    pub pairing: Pairing,
}

/// Which elements of a row form a pair that is rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairing {
    /// Elements 0 and `pairs`, 1 and `pairs + 1`, … (GPT-NeoX).
    Halves,
    /// Elements 0 and 1, 2 and 3, … (GPT-J, and llama's weights in GGUF files).
    Adjacent,
}

impl Rotary<'_> {
    /// Number of positions in the tables.
    pub(super) fn positions(&self) -> usize {
        self.cosines.len() / self.pairs.max(1)
    }

    /// Rotates `row`, `[head_size]`, by the angles of `position`.
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
            Pairing::Adjacent => {
                for ([a, b], (cos, sin)) in row.as_chunks_mut::<2>().0.iter_mut().zip(angles) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}
