//! The memory of a graph's panels: matrix behind matrix, in pages as large as the system has.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::{MatrixShape, PANEL_ROWS, PanelLayout};
use crate::gguf::quant::Parts;
use crate::graph::Tensor;
use crate::machine::LargePages;

/// What the system is asked for at once; none of it takes memory before something is written there.
const CHUNK_BYTES: usize = 64 << 20;
/// Where matrices begin: at a line of the cache.
const ALIGNMENT: usize = 64;
/// After how much of a matrix the pages of its file are given back.
const PIECE_BYTES: usize = 8 << 20;

/// A matrix in panels.
#[derive(Debug, Clone)]
pub struct Panels {
    /// What they look like.
    pub layout: PanelLayout,
    /// What the matrix is.
    pub shape: MatrixShape,
    chunk: Arc<LargePages>,
    start: usize,
}

impl Panels {
    /// Bytes of all.
    pub fn bytes(&self) -> usize {
        self.layout.bytes(self.shape)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.shape.panels()
    }

    /// Some of them, one after the other.
    ///
    /// # Panics
    /// If there are not so many.
    #[inline(always)]
    pub fn panels(&self, numbers: Range<usize>) -> &[u8] {
        let bytes = self.layout.panel_bytes(self.shape.columns);
        &self.chunk[self.start + numbers.start * bytes..][..numbers.len() * bytes]
    }
}

/// Matrices in panels, as they are made.
#[derive(Debug, Default)]
pub struct PanelStore {
    chunks: Vec<Chunk>,
    matrices: Vec<Place>,
}

#[derive(Debug)]
struct Chunk {
    memory: LargePages,
    used: usize,
}

/// Where a matrix is.
#[derive(Debug)]
struct Place {
    layout: PanelLayout,
    shape: MatrixShape,
    chunk: usize,
    start: usize,
}

impl PanelStore {
    /// Adds the matrices `tensors` (of one width, and multiplied as one type), stacked; with `halves`, panels of the first and of
    /// the second half of all rows follow in turn: there are two equal ones. Answers the matrix's number, or none where the
    /// numbers of the type are floats. `release` is called where what was read of the tensors is not needed any more.
    ///
    /// # Panics
    /// If the system has no memory for them.
    pub fn add(
        &mut self,
        tensors: &[Tensor<'_>],
        halves: bool,
        release: &dyn Fn(),
    ) -> Option<usize> {
        let kind = tensors[0].product_kind();
        let layout = PanelLayout::new(kind.codes()?);
        let blocks: Vec<_> = tensors
            .iter()
            .map(|tensor| tensor.product_blocks().ok())
            .collect::<Option<_>>()?;
        let shape = MatrixShape {
            rows: tensors.iter().map(Tensor::rows).sum(),
            columns: tensors[0].columns(),
            halves,
        };
        let row_bytes = shape.columns / kind.block_values() * kind.block_bytes();
        let row_of = |mut row: usize| {
            for blocks in &blocks {
                let rows = blocks.len() / row_bytes;
                if row < rows {
                    return &blocks[row * row_bytes..(row + 1) * row_bytes];
                }
                row -= rows;
            }
            unreachable!("the rows are counted above")
        };
        let groups = kind.block_values() / layout.group;
        let panel_bytes = layout.panel_bytes(shape.columns);
        let together = (PIECE_BYTES / panel_bytes).max(1);
        let pieces = self.room(layout, shape).chunks_mut(together * panel_bytes);
        for (piece, bytes) in pieces.enumerate() {
            let panels = bytes.par_chunks_exact_mut(panel_bytes);
            panels.enumerate().for_each(|(panel, bytes)| {
                let mut parts = Parts::default();
                for lane in 0..PANEL_ROWS {
                    let Some(row) = shape.row(piece * together + panel, lane) else {
                        continue;
                    };
                    let mut records = bytes.chunks_exact_mut(layout.record_bytes());
                    for block in row_of(row).chunks_exact(kind.block_bytes()) {
                        kind.take_apart(block, &mut parts);
                        let codes = parts.codes.chunks_exact(layout.group);
                        let groups = codes.zip(parts.scales).zip(parts.minimums).take(groups);
                        for (((codes, scale), minimum), record) in groups.zip(&mut records) {
                            layout.write(record, lane, codes, scale, minimum);
                        }
                    }
                }
            });
            release();
        }
        Some(self.matrices.len() - 1)
    }

    /// Zeros for one more matrix.
    fn room(&mut self, layout: PanelLayout, shape: MatrixShape) -> &mut [u8] {
        let bytes = layout.bytes(shape);
        let fits = |chunk: &Chunk| chunk.memory.len() - chunk.used >= bytes;
        if !self.chunks.last().is_some_and(fits) {
            let bytes = bytes.max(CHUNK_BYTES);
            let memory = LargePages::new(bytes)
                .unwrap_or_else(|error| panic!("no memory for {bytes} bytes of weights: {error}"));
            self.chunks.push(Chunk { memory, used: 0 });
        }
        let number = self.chunks.len() - 1;
        let chunk = &mut self.chunks[number];
        let start = chunk.used;
        chunk.used = (start + bytes)
            .next_multiple_of(ALIGNMENT)
            .min(chunk.memory.len());
        self.matrices.push(Place {
            layout,
            shape,
            chunk: number,
            start,
        });
        &mut chunk.memory[start..start + bytes]
    }

    /// All of them, in the order of their numbers.
    pub fn finish(self) -> Arc<[Panels]> {
        let chunks = self.chunks.into_iter();
        let chunks: Vec<_> = chunks.map(|chunk| Arc::new(chunk.memory)).collect();
        let panels = |place: Place| Panels {
            layout: place.layout,
            shape: place.shape,
            chunk: Arc::clone(&chunks[place.chunk]),
            start: place.start,
        };
        self.matrices.into_iter().map(panels).collect()
    }
}
