//! Host memory of the key-value cache. It is allocated once, and the operating system zeroes each page on first use.
//! Paged attention reads and writes the cache in place. For graphs with past/present tensors, keys and values are
//! gathered before a run and scattered after it.

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

/// Alignment of each tensor in bytes: a CPU cache line, and the widest SIMD vector. [`CacheElement`] relies on it.
const ALIGNMENT: usize = 64;

/// An element type of the cache.
///
/// # Safety
/// Every bit pattern must be a valid value, and the alignment must be at most 64 bytes.
pub unsafe trait CacheElement:
    PrimitiveTensorElementType + Debug + Copy + Send + 'static
{
}

// SAFETY: every bit pattern is a valid `f16`, which is aligned to 2 bytes.
unsafe impl CacheElement for f16 {}
// SAFETY: every bit pattern is a valid `f32`, which is aligned to 4 bytes.
unsafe impl CacheElement for f32 {}

/// Keys and values of all layers. A tensor is f16 `[blocks, block_tokens, kv_heads, head_size]` for paged attention,
/// and `[blocks, kv_heads, block_tokens, head_size]` for graphs with past/present tensors.
#[derive(Debug)]
pub struct KvCache<T = f16> {
    shape: [usize; 4],
    /// Keys of layer 0, values of layer 0, keys of layer 1, …
    tensors: Vec<Region>,
    element: PhantomData<T>,
}

impl KvCache {
    /// Size of one token's keys and values in all layers, in bytes.
    pub fn bytes_per_token(shape: &DecoderShape) -> u64 {
        let elements = 2 * shape.layers * shape.kv_heads * shape.head_size;
        (elements * size_of::<f16>()) as u64
    }

    /// Returns the key and value tensors of each layer.
    pub(super) fn layers(&mut self) -> Result<Vec<[TensorRefMut<'_, f16>; 2]>, RuntimeError> {
        let dims = self.shape.map(|size| size as i64);
        let tensor = |region: &Region| {
            let memory = MemoryInfo::new(
                AllocationDevice::CPU,
                0,
                AllocatorType::Device,
                MemoryType::Default,
            )?;
            // SAFETY: the region holds the number of f16 values that `shape` implies, every bit pattern is valid,
            // and the region lives while `self` is borrowed. No Rust reference to its contents is created while the
            // session runs: the operator accesses the contents through this pointer.
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

impl<T: CacheElement> KvCache<T> {
    /// Allocates a key and a value tensor of `shape` for each of `layers` layers.
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

    /// Size of the whole cache in bytes.
    pub fn bytes(&self) -> usize {
        self.tensors.iter().map(|region| region.layout.size()).sum()
    }

    /// Size of a block's keys and values in all layers, in bytes.
    pub(super) fn block_bytes(&self) -> usize {
        self.tensors.len() * self.layer_block_bytes()
    }

    /// Size of a block in one tensor, in bytes.
    fn layer_block_bytes(&self) -> usize {
        let [_, sizes @ ..] = self.shape;
        sizes.iter().product::<usize>() * size_of::<T>()
    }

    /// Returns the bytes of a block in all layers, in the order of `tensors`.
    ///
    /// # Panics
    /// If the block index is out of range.
    pub(super) fn read(&self, block: usize) -> Vec<u8> {
        assert!(block < self.shape[0], "block index out of range");
        let bytes = self.layer_block_bytes();
        let mut read = Vec::with_capacity(self.block_bytes());
        for region in &self.tensors {
            // SAFETY: the block lies within the region, which is not written while `self` is borrowed.
            let part = unsafe {
                std::slice::from_raw_parts(region.start.as_ptr().add(block * bytes), bytes)
            };
            read.extend_from_slice(part);
        }
        read
    }

    /// Writes a block. `data` has the format of [`Self::read`].
    ///
    /// # Panics
    /// If the block index is out of range, or if the length of `data` is not [`Self::block_bytes`].
    pub(super) fn write(&mut self, block: usize, data: &[u8]) {
        assert!(block < self.shape[0], "block index out of range");
        assert_eq!(data.len(), self.block_bytes(), "data is one block");
        let bytes = self.layer_block_bytes();
        for (region, part) in self.tensors.iter().zip(data.chunks_exact(bytes)) {
            // SAFETY: the block lies within the region, which is not accessed elsewhere while `self` is borrowed
            // mutably. `part` is as long as the block.
            unsafe {
                let start = region.start.as_ptr().add(block * bytes);
                std::ptr::copy_nonoverlapping(part.as_ptr(), start, bytes);
            }
        }
    }

    /// Copies the contents of block `from` to block `to` in all layers.
    ///
    /// # Panics
    /// If a block index is out of range.
    pub(super) fn copy(&mut self, from: usize, to: usize) {
        let blocks = self.shape[0];
        assert!(from < blocks && to < blocks, "block index out of range");
        let bytes = self.layer_block_bytes();
        for region in &self.tensors {
            let start = region.start.as_ptr();
            // SAFETY: both blocks lie within the region, which is not accessed elsewhere while `self` is borrowed
            // mutably. `copy` allows `from` and `to` to be the same block.
            unsafe { std::ptr::copy(start.add(from * bytes), start.add(to * bytes), bytes) };
        }
    }

    /// Appends the first `tokens` tokens in a sequence's `blocks` to `values`, as `[heads, tokens, head_size]`. The
    /// cache must have the shape `[blocks, heads, block_tokens, head_size]`. Tensor `2n` holds the keys of layer `n`,
    /// tensor `2n + 1` the values.
    ///
    /// # Panics
    /// If `tensor` or a block index is out of range, or if `blocks` have room for fewer than `tokens` tokens.
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
                // SAFETY: the run lies within the region, whose bytes are valid `T` values, and which is not written
                // while `self` is borrowed.
                let run = unsafe { std::slice::from_raw_parts(region.as_ptr().add(start), count) };
                values.extend_from_slice(run);
            }
        }
    }

    /// Copies the tokens in `range` from `present`, `[heads, present tokens, head_size]`, to a sequence's `blocks`. For
    /// `tensor` see [`Self::gather`].
    ///
    /// # Panics
    /// As [`Self::gather`], and if `present` has fewer than `range.end` tokens.
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
                // SAFETY: the run lies within the region, which is not accessed elsewhere while `self` is borrowed
                // mutably.
                unsafe {
                    std::ptr::copy_nonoverlapping(run.as_ptr(), region.as_ptr().add(start), count);
                }
            }
        }
    }

    /// Returns where a tensor stores the tokens in `range` for one head: for each block, the index of the first element
    /// and the number of elements.
    fn runs(
        &self,
        blocks: &[BlockId],
        head: usize,
        range: Range<usize>,
    ) -> impl Iterator<Item = (usize, usize)> + use<T> {
        let [block_count, heads, block_tokens, head_size] = self.shape;
        assert!(head < heads, "head index out of range");
        let indices = range.start / block_tokens..range.end.div_ceil(block_tokens);
        let range_blocks: Vec<usize> = blocks[indices.clone()]
            .iter()
            .map(|block| block.index())
            .collect();
        assert!(
            range_blocks.iter().all(|block| *block < block_count),
            "block index out of range"
        );
        indices.zip(range_blocks).map(move |(index, block)| {
            let first = range.start.max(index * block_tokens);
            let end = range.end.min((index + 1) * block_tokens);
            let row = (block * heads + head) * block_tokens + first % block_tokens;
            (row * head_size, (end - first) * head_size)
        })
    }
}

/// Zero-initialized memory that is accessed only through a raw pointer.
#[derive(Debug)]
struct Region {
    start: NonNull<u8>,
    layout: Layout,
}

// SAFETY: the region owns its memory, as a `Box` does, and is not tied to a thread.
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
        // SAFETY: the memory was allocated in `new` with this layout and is freed only here.
        unsafe { dealloc(self.start.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::BlockPool;

    #[test]
    #[should_panic(expected = "head index out of range")]
    fn present_values_of_more_heads_than_the_cache_has_are_not_written() {
        let mut cache = KvCache::<f32>::new(1, [1, 8, 1, 1]).unwrap();
        let block = BlockPool::new(1, 1).allocate().unwrap();
        cache.scatter(0, &[block], 0..1, &[0.0; 9]);
    }
}
