//! The memory of the key-value cache: allocated once, zeroed by the system page by page as it is first
//! used, written in place by the attention operator.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

use half::f16;
use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::value::{PrimitiveTensorElementType, Shape, TensorRefMut};

use super::RuntimeError;
use crate::engine::BlockId;
use crate::graph::DecoderShape;

/// Alignment of each tensor: a cache line, and the widest vector.
const ALIGNMENT: usize = 64;

/// Numbers that a cache can hold: any bits are one.
pub trait CacheNumber: PrimitiveTensorElementType + Debug + Copy + Send + 'static {}

impl CacheNumber for f16 {}
impl CacheNumber for f32 {}

/// Keys and values of all layers, each `[blocks, block_tokens, kv_heads, head_size]` where our operator reads them, in half
/// precision, and `[blocks, kv_heads, block_tokens, head_size]` where they are gathered.
#[derive(Debug)]
pub struct KvCache<T = f16> {
    shape: [usize; 4],
    /// Layer 0's keys, its values, layer 1's keys, …
    tensors: Vec<Region>,
    element: PhantomData<T>,
}

impl KvCache {
    /// Bytes of a token's keys and values in all layers.
    pub fn bytes_per_token(shape: &DecoderShape) -> u64 {
        let numbers = 2 * shape.layers * shape.kv_heads * shape.head_size;
        (numbers * size_of::<f16>()) as u64
    }

    /// The tensors of each layer: keys, values.
    pub(super) fn layers(&mut self) -> Result<Vec<[TensorRefMut<'_, f16>; 2]>, RuntimeError> {
        let dims = self.shape.map(|size| size as i64);
        let tensor = |region: &Region| {
            let memory = MemoryInfo::new(
                AllocationDevice::CPU,
                0,
                AllocatorType::Device,
                MemoryType::Default,
            )?;
            // SAFETY: the region holds `shape` half-precision numbers (any bits are one), lives as
            // long as `self` is borrowed, and no reference to its content is ever made on our side:
            // the operator reads and writes it through this pointer while the session runs.
            unsafe {
                TensorRefMut::from_raw(memory, region.start.as_ptr().cast(), Shape::new(dims))
            }
        };
        self.tensors
            .chunks_exact(2)
            .map(|pair| Ok([tensor(&pair[0])?, tensor(&pair[1])?]))
            .collect()
    }
}

impl<T: CacheNumber> KvCache<T> {
    /// A cache of that shape for each of `layers` layers.
    pub fn new(layers: usize, shape: [usize; 4]) -> Result<Self, RuntimeError> {
        let bytes = shape
            .iter()
            .try_fold(size_of::<T>(), |product, size| product.checked_mul(*size))
            .filter(|bytes| *bytes > 0 && *bytes < isize::MAX as usize / (2 * layers.max(1)))
            .ok_or(RuntimeError::CacheMemory { bytes: usize::MAX })?;
        let tensors = (0..2 * layers)
            .map(|_| Region::new(bytes))
            .collect::<Option<_>>()
            .ok_or(RuntimeError::CacheMemory {
                bytes: bytes * 2 * layers,
            })?;
        Ok(Self {
            shape,
            tensors,
            element: PhantomData,
        })
    }

    /// Bytes of all layers.
    pub fn bytes(&self) -> usize {
        self.tensors.iter().map(|region| region.layout.size()).sum()
    }

    /// Bytes of a block's keys and values in all layers.
    pub(super) fn block_bytes(&self) -> usize {
        self.tensors.len() * self.layer_block_bytes()
    }

    /// Bytes of a block in one tensor.
    fn layer_block_bytes(&self) -> usize {
        let [_, sizes @ ..] = self.shape;
        sizes.iter().product::<usize>() * size_of::<T>()
    }

    /// A block's keys and values of all layers, tensor by tensor.
    ///
    /// # Panics
    /// If there is no such block.
    pub(super) fn read(&self, block: usize) -> Vec<u8> {
        assert!(block < self.shape[0], "a block of the cache");
        let bytes = self.layer_block_bytes();
        let mut read = Vec::with_capacity(self.block_bytes());
        for region in &self.tensors {
            // SAFETY: the block lies within the region, and nobody writes to it while `self` is borrowed.
            let part = unsafe {
                std::slice::from_raw_parts(region.start.as_ptr().add(block * bytes), bytes)
            };
            read.extend_from_slice(part);
        }
        read
    }

    /// Writes what [`Self::read`] read.
    ///
    /// # Panics
    /// If there is no such block, or the bytes are not as many as a block has.
    pub(super) fn write(&mut self, block: usize, read: &[u8]) {
        assert!(block < self.shape[0], "a block of the cache");
        assert_eq!(read.len(), self.block_bytes(), "the bytes of a block");
        let bytes = self.layer_block_bytes();
        for (region, part) in self.tensors.iter().zip(read.chunks_exact(bytes)) {
            // SAFETY: the block lies within the region, which nobody else reaches while `self` is borrowed
            // mutably; `part` has as many bytes as the block.
            unsafe {
                let start = region.start.as_ptr().add(block * bytes);
                std::ptr::copy_nonoverlapping(part.as_ptr(), start, bytes);
            }
        }
    }

    /// Copies a block's keys and values of all layers over another one's.
    ///
    /// # Panics
    /// If there is no such block.
    pub(super) fn copy(&mut self, from: usize, to: usize) {
        let blocks = self.shape[0];
        assert!(from < blocks && to < blocks, "a block of the cache");
        let bytes = self.layer_block_bytes();
        for region in &self.tensors {
            let start = region.start.as_ptr();
            // SAFETY: both blocks lie within the region, which nobody else reaches while `self` is
            // borrowed mutably; they may be the same one.
            unsafe { std::ptr::copy(start.add(from * bytes), start.add(to * bytes), bytes) };
        }
    }

    /// Keys or values of the first `tokens` tokens that are in `blocks`, `[heads, tokens, head_size]`, behind `values`. The
    /// cache's shape is `[blocks, heads, block_tokens, head_size]`, and `tensor` counts layer 0's keys, its values, layer 1's
    /// keys, …
    ///
    /// # Panics
    /// If there is no such tensor or block, or the blocks are too few.
    pub(super) fn gather(
        &self,
        tensor: usize,
        blocks: &[BlockId],
        tokens: usize,
        values: &mut Vec<T>,
    ) {
        for head in 0..self.shape[1] {
            for (start, count) in self.runs(blocks, head, 0..tokens) {
                let region = self.tensors[tensor].start.cast::<T>();
                // SAFETY: the run lies within the region, any bytes of which are numbers, and nobody writes
                // to it while `self` is borrowed.
                let run = unsafe { std::slice::from_raw_parts(region.as_ptr().add(start), count) };
                values.extend_from_slice(run);
            }
        }
    }

    /// Puts those of the tokens `range` into their places, out of `present`, `[heads, present tokens, head_size]`.
    ///
    /// # Panics
    /// As [`Self::gather`], or if `present` has too few tokens.
    pub(super) fn scatter(
        &mut self,
        tensor: usize,
        blocks: &[BlockId],
        range: Range<usize>,
        present: &[T],
    ) {
        let [_, heads, _, head_size] = self.shape;
        for (head, values) in present.chunks_exact(present.len() / heads).enumerate() {
            let mut values = &values[range.start * head_size..range.end * head_size];
            for (start, count) in self.runs(blocks, head, range.clone()) {
                let run;
                (run, values) = values.split_at(count);
                let region = self.tensors[tensor].start.cast::<T>();
                // SAFETY: the run lies within the region, which nobody else reaches while `self` is borrowed mutably.
                unsafe {
                    std::ptr::copy_nonoverlapping(run.as_ptr(), region.as_ptr().add(start), count);
                }
            }
        }
    }

    /// Where the numbers of a head's tokens `range` lie in a tensor: starts and counts, a run for each block.
    fn runs(
        &self,
        blocks: &[BlockId],
        head: usize,
        range: Range<usize>,
    ) -> impl Iterator<Item = (usize, usize)> + use<T> {
        let [all, heads, block_tokens, head_size] = self.shape;
        let places = range.start / block_tokens..range.end.div_ceil(block_tokens);
        let of_range: Vec<usize> = blocks[places.clone()]
            .iter()
            .map(|block| block.index())
            .collect();
        assert!(
            of_range.iter().all(|block| *block < all),
            "blocks of the cache"
        );
        places.zip(of_range).map(move |(place, block)| {
            let first = range.start.max(place * block_tokens);
            let last = range.end.min((place + 1) * block_tokens);
            let row = (block * heads + head) * block_tokens + first % block_tokens;
            (row * head_size, (last - first) * head_size)
        })
    }
}

/// Zeroed memory that is only ever reached through its pointer.
#[derive(Debug)]
struct Region {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the region owns its memory as a box would; nothing in it depends on a thread.
unsafe impl Send for Region {}

impl Region {
    fn new(bytes: usize) -> Option<Self> {
        let layout = Layout::from_size_align(bytes, ALIGNMENT).ok()?;
        if layout.size() == 0 {
            return None;
        }
        // SAFETY: the layout's size is not 0.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { start, layout })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout, and freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}
