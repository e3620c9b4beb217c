//! Keys and values in the memory of a device that the CPU does not reach: ONNX Runtime copies whatever of them is read or
//! written.

use half::f16;
use ort::memory::{Allocator, MemoryInfo};
use ort::session::{Session, SessionInputValue};
use ort::value::{Shape, Tensor, TensorRef, TensorRefMut};

use super::RuntimeError;
use super::device::Device;
use super::session::{self, SessionOptions};
use crate::graph::onnx::{Attribute, Dimension, ElementType, GraphBuilder};
use crate::graph::{ModelGraph, OperatorMatrices};

/// Most numbers that are copied at once where all are written.
const MOST_NUMBERS_AT_ONCE: usize = 16 << 20;

// Names of the reader's inputs and its output.
const ALL_BLOCKS: &str = "all_blocks";
const WANTED: &str = "wanted";
const BLOCKS: &str = "blocks";

/// Keys and values of some layers, each `[blocks, block_tokens, kv_heads, head_size]` in half precision.
pub(super) struct DeviceCache {
    shape: [usize; 4],
    /// The first layer's keys, its values, the second's keys, …
    tensors: Vec<Tensor<f16>>,
    /// Gives blocks of a tensor. The tensors' memory is of this session, so that they go before it.
    reader: Session,
}

impl DeviceCache {
    /// A cache of zeros in that memory of the device's, for so many layers.
    pub(super) fn new(
        device: Device,
        memory: MemoryInfo<'_>,
        options: &SessionOptions,
        layers: usize,
        shape: [usize; 4],
    ) -> anyhow::Result<Self> {
        let reader = session::build(|_| reader(shape), device, options, Some(1), &|_| ())?;
        let allocator = Allocator::new(&reader, memory)?;
        let tensors = (0..2 * layers).map(|_| Tensor::new(&allocator, shape));
        let cache = Self {
            shape,
            tensors: tensors.collect::<Result<_, _>>()?,
            reader,
        };
        // What is not zeroed may be no number, and no number times nothing is none, either.
        let blocks = shape[0];
        let at_once = (MOST_NUMBERS_AT_ONCE / cache.block_numbers()).clamp(1, blocks.max(1));
        for tensor in &cache.tensors {
            for first in (0..blocks).step_by(at_once) {
                let count = at_once.min(blocks - first);
                let zeros = vec![f16::ZERO; count * cache.block_numbers()];
                cache.fill(tensor, first, count, zeros)?;
            }
        }
        Ok(cache)
    }

    /// Bytes of all layers.
    pub(super) fn bytes(&self) -> usize {
        self.shape[0] * self.block_bytes()
    }

    /// Bytes of a block's keys and values in all layers.
    pub(super) fn block_bytes(&self) -> usize {
        self.tensors.len() * self.block_numbers() * size_of::<f16>()
    }

    /// A block's keys and values of all layers, tensor by tensor.
    pub(super) fn read(&mut self, block: usize) -> Result<Vec<u8>, RuntimeError> {
        let mut read = Vec::with_capacity(self.block_bytes());
        let wanted = [block as i64];
        for tensor in &self.tensors {
            let wanted = TensorRef::from_array_view(([1_usize], &wanted[..]))?;
            let inputs: Vec<(&str, SessionInputValue<'_>)> =
                vec![(ALL_BLOCKS, tensor.into()), (WANTED, wanted.into())];
            let found = self.reader.run(inputs)?;
            let (_, numbers) = found[BLOCKS].try_extract_tensor::<f16>()?;
            read.extend(numbers.iter().flat_map(|number| number.to_ne_bytes()));
        }
        Ok(read)
    }

    /// Writes what [`Self::read`] read, and is as long.
    pub(super) fn write(&mut self, block: usize, read: &[u8]) -> Result<(), RuntimeError> {
        let bytes = self.block_numbers() * size_of::<f16>();
        for (tensor, part) in self.tensors.iter().zip(read.chunks_exact(bytes)) {
            let (numbers, _) = part.as_chunks();
            let numbers = numbers.iter().map(|number| f16::from_ne_bytes(*number));
            self.fill(tensor, block, 1, numbers.collect())?;
        }
        Ok(())
    }

    /// Copies a block's keys and values of all layers over another one's.
    pub(super) fn copy(&mut self, from: usize, to: usize) -> Result<(), RuntimeError> {
        let block = self.read(from)?;
        self.write(to, &block)
    }

    /// The tensors of each layer: keys, values. The operator writes into them.
    pub(super) fn layers(&mut self) -> impl Iterator<Item = [&Tensor<f16>; 2]> {
        let (pairs, _) = self.tensors.as_chunks();
        pairs.iter().map(|[keys, values]| [keys, values])
    }

    fn block_numbers(&self) -> usize {
        let [_, sizes @ ..] = self.shape;
        sizes.iter().product()
    }

    /// The shape of so many blocks.
    fn shape_of(&self, blocks: usize) -> Vec<i64> {
        let [_, sizes @ ..] = self.shape;
        let sizes = std::iter::once(blocks).chain(sizes);
        sizes.map(|size| size as i64).collect()
    }

    /// Writes so many blocks from the block `first` on.
    ///
    /// # Panics
    /// If there are no such blocks.
    fn fill(
        &self,
        tensor: &Tensor<f16>,
        first: usize,
        count: usize,
        numbers: Vec<f16>,
    ) -> Result<(), RuntimeError> {
        assert!(first + count <= self.shape[0], "blocks of the cache");
        let numbers = Tensor::from_array((self.shape_of(count), numbers))?;
        let offset = first * self.block_numbers() * size_of::<f16>();
        let start = tensor.data_ptr().cast_mut().wrapping_byte_add(offset);
        let shape = Shape::new(self.shape_of(count));
        let memory = tensor.memory_info().to_owned();
        // SAFETY: the blocks lie within the tensor, which is there as long as `self` is borrowed; no reference to its content
        // is made here: the runtime copies to it.
        let target = unsafe { TensorRefMut::from_raw(memory, start, shape) }?;
        Ok(numbers.copy_into(target)?)
    }
}

/// The graph that gives blocks of a tensor.
fn reader([_, block_tokens, kv_heads, head_size]: [usize; 4]) -> ModelGraph {
    let shape = |blocks| {
        let sizes = [block_tokens, kv_heads, head_size].map(Dimension::Fixed);
        let [block_tokens, kv_heads, head_size] = sizes;
        [Dimension::Named(blocks), block_tokens, kv_heads, head_size]
    };
    let mut graph = GraphBuilder::default();
    let all = graph.input(ALL_BLOCKS, ElementType::F16, &shape("all"));
    let wanted = graph.input(WANTED, ElementType::I64, &[Dimension::Named("wanted")]);
    let axis = [("axis", Attribute::Int(0))];
    let [blocks] = graph.node("", "Gather", &[Some(&all), Some(&wanted)], [BLOCKS], &axis);
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
    fn blocks_are_zero_until_they_are_written_and_are_copied_whole() {
        // Where `make setup` puts it.
        let library =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/onnxruntime/libonnxruntime");
        let options = SessionOptions::new(library.with_extension(DLL_EXTENSION));
        crate::runtime::environment(&options.library).unwrap();
        // The CPU's memory stands for a device's: the runtime copies from and to either.
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
        let found = [0, 1, 2].map(|block| cache.read(block).unwrap());
        assert_eq!(found, [zeros, written.clone(), written]);
    }
}
