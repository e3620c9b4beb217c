//! Packs a graph's matrices and owns their memory, in huge pages if the system offers them.

use std::ops::Range;
use std::sync::Arc;

use rayon::prelude::*;

use super::{MatrixShape, PANEL_ROWS, PanelLayout};
use crate::gguf::quant::DecodedBlock;
use crate::graph::Tensor;
use crate::platform::HugePages;

/// Minimum size of a memory allocation in bytes. An allocation uses physical memory only after it is written.
const CHUNK_BYTES: usize = 64 << 20;
/// Alignment of matrices in bytes: a cache line.
const ALIGNMENT: usize = 64;
/// Number of bytes to pack before the source file's pages are released.
const PIECE_BYTES: usize = 8 << 20;

/// A packed matrix, which shares ownership of its memory.
#[derive(Debug, Clone)]
pub struct Panels {
    /// The layout of the panels.
    pub layout: PanelLayout,
    /// The dimensions and the row order.
    pub shape: MatrixShape,
    chunk: Arc<HugePages>,
    start: usize,
}

impl Panels {
    /// Size of the packed matrix in bytes.
    pub fn bytes(&self) -> usize {
        self.layout.bytes(self.shape)
    }

    /// Number of panels.
    pub fn count(&self) -> usize {
        self.shape.panels()
    }

    /// The bytes of the panels with the indices `range`, which are contiguous.
    ///
    /// # Panics
    /// If a panel does not exist.
    #[inline(always)]
    pub fn panels(&self, range: Range<usize>) -> &[u8] {
        let bytes = self.layout.panel_bytes(self.shape.columns);
        &self.chunk[self.start + range.start * bytes..][..range.len() * bytes]
    }
}

/// Packs matrices and owns their memory.
#[derive(Debug, Default)]
pub struct PanelStore {
    chunks: Vec<Chunk>,
    matrices: Vec<MatrixLocation>,
}

#[derive(Debug)]
struct Chunk {
    memory: HugePages,
    used: usize,
}

/// The location of a packed matrix: its chunk and its offset in the chunk.
#[derive(Debug)]
struct MatrixLocation {
    layout: PanelLayout,
    shape: MatrixShape,
    chunk: usize,
    start: usize,
}

impl PanelStore {
    /// Packs the stacked matrices `tensors`, which must have the same width and matmul type. With `interleaved_halves`,
    /// panels of the first and of the second half of the rows alternate; the number of rows must be even. Returns the
    /// matrix's index; `None` if the values are floats or cannot be quantized. Calls `release` after each piece, when
    /// the tensors' pages are no longer needed.
    ///
    /// # Panics
    /// If the system has no memory for the packed matrix.
    pub fn add(
        &mut self,
        tensors: &[Tensor<'_>],
        interleaved_halves: bool,
        release: &dyn Fn(),
    ) -> Option<usize> {
        let kind = tensors[0].matmul_type();
        let layout = PanelLayout::new(kind.quant_format()?);
        let blocks: Vec<_> = tensors
            .iter()
            .map(|tensor| tensor.matmul_blocks().ok())
            .collect::<Option<_>>()?;
        let shape = MatrixShape {
            rows: tensors.iter().map(Tensor::rows).sum(),
            columns: tensors[0].columns(),
            interleaved_halves,
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
        let groups = kind.block_values() / layout.group_size;
        let panel_bytes = layout.panel_bytes(shape.columns);
        let panels_per_piece = (PIECE_BYTES / panel_bytes).max(1);
        let pieces = self
            .allocate(layout, shape)
            .chunks_mut(panels_per_piece * panel_bytes);
        for (piece, bytes) in pieces.enumerate() {
            let panels = bytes.par_chunks_exact_mut(panel_bytes);
            panels.enumerate().for_each(|(panel, bytes)| {
                let mut decoded = DecodedBlock::default();
                for lane in 0..PANEL_ROWS {
                    let Some(row) = shape.row(piece * panels_per_piece + panel, lane) else {
                        continue;
                    };
                    let mut records = bytes.chunks_exact_mut(layout.record_bytes());
                    for block in row_of(row).chunks_exact(kind.block_bytes()) {
                        kind.decode_block(block, &mut decoded);
                        let quants = decoded.quants.chunks_exact(layout.group_size);
                        let groups = quants.zip(decoded.scales).zip(decoded.mins).take(groups);
                        for (((quants, scale), min), record) in groups.zip(&mut records) {
                            layout.write(record, lane, quants, scale, min);
                        }
                    }
                }
            });
            release();
        }
        Some(self.matrices.len() - 1)
    }

    /// Allocates zeroed memory for another matrix.
    fn allocate(&mut self, layout: PanelLayout, shape: MatrixShape) -> &mut [u8] {
        let bytes = layout.bytes(shape);
        let fits = |chunk: &Chunk| chunk.memory.len() - chunk.used >= bytes;
        if !self.chunks.last().is_some_and(fits) {
            let bytes = bytes.max(CHUNK_BYTES);
            let memory = HugePages::new(bytes).unwrap_or_else(|error| {
                panic!("cannot allocate {bytes} bytes for weights: {error}")
            });
            self.chunks.push(Chunk { memory, used: 0 });
        }
        let index = self.chunks.len() - 1;
        let chunk = &mut self.chunks[index];
        let start = chunk.used;
        chunk.used = (start + bytes)
            .next_multiple_of(ALIGNMENT)
            .min(chunk.memory.len());
        self.matrices.push(MatrixLocation {
            layout,
            shape,
            chunk: index,
            start,
        });
        &mut chunk.memory[start..start + bytes]
    }

    /// All packed matrices, by index.
    pub fn finish(self) -> Arc<[Panels]> {
        let chunks = self.chunks.into_iter();
        let chunks: Vec<_> = chunks.map(|chunk| Arc::new(chunk.memory)).collect();
        let panels = |location: MatrixLocation| Panels {
            layout: location.layout,
            shape: location.shape,
            chunk: Arc::clone(&chunks[location.chunk]),
            start: location.start,
        };
        self.matrices.into_iter().map(panels).collect()
    }
}
