//! Key-value cache in device memory. The CPU cannot access this memory, so ONNX Runtime copies blocks from and to the
//! host.

use half::f16;
use ort::memory::{Allocator, MemoryInfo};
use ort::session::{Session, SessionInputValue};
use ort::value::{Shape, Tensor, TensorRef, TensorRefMut};

use super::RuntimeError;
use super::device::Device;
use super::session::{self, SessionOptions};
use crate::graph::onnx::{Attribute, Dimension, ElementType, GraphBuilder};
use crate::graph::{ModelGraph, OperatorMatrices};

/// Maximum number of elements per copy while the cache is filled with zeros.
const MAX_ELEMENTS_PER_COPY: usize = 16 << 20;

// Names of the inputs and the output of the block reader graph.
const ALL_BLOCKS: &str = "all_blocks";
const BLOCK_INDICES: &str = "wanted";
const BLOCKS: &str = "blocks";

/// Key and value tensors of some layers, each f16 `[blocks, block_tokens, kv_heads, head_size]`.
pub(super) struct DeviceCache {
    shape: [usize; 4],
    /// Keys of the first layer, values of the first layer, keys of the second layer, …
    tensors: Vec<Tensor<f16>>,
    /// Session that reads blocks of a tensor. The session owns the memory of `tensors` and must be dropped later.
    block_reader: Session,
}

impl DeviceCache {
    /// Allocates a zeroed cache for `layers` layers in the `memory` of `device`. Each tensor has `shape`.
    pub(super) fn new(
        device: Device,
        memory: MemoryInfo<'_>,
        options: &SessionOptions,
        layers: usize,
        shape: [usize; 4],
    ) -> anyhow::Result<Self> {
        let graph = |_: &dyn Fn(f32)| block_reader(shape);
        let block_reader = session::build(graph, device, options, Some(1), &|_| ())?;
        let allocator = Allocator::new(&block_reader, memory)?;
        let tensors = (0..2 * layers).map(|_| Tensor::new(&allocator, shape));
        let mut cache = Self {
            shape,
            tensors: tensors.collect::<Result<_, _>>()?,
            block_reader,
        };
        // Uninitialized memory may hold NaN, and attention multiplies unused values by 0: 0 · NaN is NaN.
        let blocks = shape[0];
        let blocks_per_copy =
            (MAX_ELEMENTS_PER_COPY / cache.block_elements()).clamp(1, blocks.max(1));
        for tensor in 0..cache.tensors.len() {
            for first in (0..blocks).step_by(blocks_per_copy) {
                let count = blocks_per_copy.min(blocks - first);
                let zeros = vec![f16::ZERO; count * cache.block_elements()];
                cache.fill(tensor, first, count, zeros)?;
            }
        }
        Ok(cache)
    }

    /// Size of the whole cache in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.shape[0] * self.block_bytes()
    }

    /// Size of a block's keys and values in all layers, in bytes.
    pub(super) fn block_bytes(&self) -> usize {
        self.tensors.len() * self.block_elements() * size_of::<f16>()
    }

    /// Returns the bytes of a block in all layers, in the order of `tensors`.
    pub(super) fn read(&mut self, block: usize) -> Result<Vec<u8>, RuntimeError> {
        let mut read = Vec::with_capacity(self.block_bytes());
        let index = [block as i64];
        for tensor in &self.tensors {
            let indices = TensorRef::from_array_view(([1_usize], &index[..]))?;
            let inputs: Vec<(&str, SessionInputValue<'_>)> =
                vec![(ALL_BLOCKS, tensor.into()), (BLOCK_INDICES, indices.into())];
            let outputs = self.block_reader.run(inputs)?;
            let (_, elements) = outputs[BLOCKS].try_extract_tensor::<f16>()?;
            read.extend(elements.iter().flat_map(|element| element.to_ne_bytes()));
        }
        Ok(read)
    }

    /// Writes a block. `bytes` has the format of [`Self::read`] and the length [`Self::block_bytes`].
    pub(super) fn write(&mut self, block: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        let tensor_block_bytes = self.block_elements() * size_of::<f16>();
        for (tensor, part) in bytes.chunks_exact(tensor_block_bytes).enumerate() {
            let (elements, _) = part.as_chunks();
            let elements = elements.iter().map(|element| f16::from_ne_bytes(*element));
            self.fill(tensor, block, 1, elements.collect())?;
        }
        Ok(())
    }

    /// Copies the contents of block `from` to block `to` in all layers.
    pub(super) fn copy(&mut self, from: usize, to: usize) -> Result<(), RuntimeError> {
        let block = self.read(from)?;
        self.write(to, &block)
    }

    /// Returns the key and value tensors of each layer, to which the attention operator writes.
    pub(super) fn layers(&mut self) -> Vec<[TensorRefMut<'_, f16>; 2]> {
        let (pairs, _) = self.tensors.as_chunks_mut::<2>();
        let views = pairs
            .iter_mut()
            .map(|pair| pair.each_mut().map(Tensor::view_mut));
        views.collect()
    }

    /// Number of elements of a block in one tensor.
    fn block_elements(&self) -> usize {
        let [_, sizes @ ..] = self.shape;
        sizes.iter().product()
    }

    /// Returns the shape of a tensor with `blocks` blocks.
    fn blocks_shape(&self, blocks: usize) -> Vec<i64> {
        let [_, sizes @ ..] = self.shape;
        let sizes = std::iter::once(blocks).chain(sizes);
        sizes.map(|size| size as i64).collect()
    }

    /// Writes `count` blocks of the tensor with index `tensor`, starting at block `first`.
    ///
    /// # Panics
    /// If `tensor` or a block index is out of range.
    fn fill(
        &mut self,
        tensor: usize,
        first: usize,
        count: usize,
        elements: Vec<f16>,
    ) -> Result<(), RuntimeError> {
        let end = first.checked_add(count);
        assert!(
            end.is_some_and(|end| end <= self.shape[0]),
            "block index out of range"
        );
        let elements = Tensor::from_array((self.blocks_shape(count), elements))?;
        let offset = first * self.block_elements() * size_of::<f16>();
        let shape = Shape::new(self.blocks_shape(count));
        let tensor = &mut self.tensors[tensor];
        let start = tensor.data_ptr_mut().wrapping_byte_add(offset);
        let memory = tensor.memory_info().to_owned();
        // SAFETY: the blocks lie within the tensor, which is borrowed mutably. No Rust reference to the contents of the
        // tensor is created: ONNX Runtime writes them.
        let target = unsafe { TensorRefMut::from_raw(memory, start, shape) }?;
        Ok(elements.copy_into(target)?)
    }
}

/// Builds a graph that gathers blocks of a cache tensor by index.
fn block_reader([_, block_tokens, kv_heads, head_size]: [usize; 4]) -> ModelGraph {
    let shape = |blocks| {
        let sizes = [block_tokens, kv_heads, head_size].map(Dimension::Fixed);
        let [block_tokens, kv_heads, head_size] = sizes;
        [Dimension::Named(blocks), block_tokens, kv_heads, head_size]
    };
    let mut graph = GraphBuilder::default();
    let all = graph.input(ALL_BLOCKS, ElementType::F16, &shape("all"));
    let indices = graph.input(
        BLOCK_INDICES,
        ElementType::I64,
        &[Dimension::Named("wanted")],
    );
    let axis = [("axis", Attribute::Int(0))];
    let [blocks] = graph.node("", "Gather", &[Some(&all), Some(&indices)], [BLOCKS], &axis);
    graph.output(&blocks, ElementType::F16, &shape("wanted"));
    let (model, initializers) = graph.finish("reader");
    ModelGraph {
        model,
        initializers,
        matrices: OperatorMatrices::default(),
        weights_folder: None,
    }
}

#[cfg(test)]
mod tests {
    use std::env::consts::DLL_EXTENSION;
    use std::path::Path;

    use ort::memory::{AllocationDevice, AllocatorType, MemoryType};

    use super::*;

    #[test]
    fn blocks_are_zeroed_then_written_and_copied() {
        // `make setup` installs the library in this folder.
        let library =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/onnxruntime/libonnxruntime");
        let options = SessionOptions::new(library.with_extension(DLL_EXTENSION));
        crate::runtime::environment(&options.library).unwrap();
        // CPU memory stands in for device memory: ONNX Runtime copies from and to both.
        let memory = MemoryInfo::new(
            AllocationDevice::CPU,
            0,
            AllocatorType::Device,
            MemoryType::Default,
        );
        let shape = [3, 16, 2, 8];
        let mut cache = DeviceCache::new(Device::Cpu, memory.unwrap(), &options, 2, shape).unwrap();
        assert_eq!(cache.block_bytes(), 2 * 2 * 16 * 2 * 8 * 2);
        assert_eq!(cache.bytes(), 3 * cache.block_bytes());
        let zeros = vec![0; cache.block_bytes()];
        for block in 0..3 {
            assert_eq!(cache.read(block).unwrap(), zeros);
        }
        let written: Vec<u8> = (0..cache.block_bytes()).map(|byte| byte as u8).collect();
        cache.write(1, &written).unwrap();
        cache.copy(1, 2).unwrap();
        let blocks = [0, 1, 2].map(|block| cache.read(block).unwrap());
        assert_eq!(blocks, [zeros, written.clone(), written]);
    }
}
