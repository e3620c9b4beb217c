//! A pipeline stage of a decoder: consecutive layers that run in one session, with their key-value cache.

use std::borrow::Cow;
use std::ops::Range;

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{SessionInputValue, SessionOutputs};

use super::device::Device;
use super::device_cache::DeviceCache;
use super::session::{SessionOptions, Sessions};
use super::{KvCache, RuntimeError};
use crate::graph::{ModelGraph, names};

/// Name and value of a session input.
pub(super) type SessionInput<'a> = (Cow<'a, str>, SessionInputValue<'a>);

/// Consecutive decoder layers in one session (or two, see [`Sessions`]).
pub(super) struct Stage {
    sessions: Sessions,
    cache: Cache,
    /// Session inputs of each layer's key cache and value cache.
    cache_names: Vec<[String; 2]>,
}

/// Key-value cache of a stage, in the memory of the device that computes attention.
enum Cache {
    Host(KvCache),
    Device(DeviceCache),
}

impl Stage {
    /// Calls `graph` to build the graph of `layers`, and creates the sessions and the cache on `device`. Each cache
    /// tensor has `cache_shape`. `progress` receives the completed fraction, from 0 to 1.
    pub(super) fn load(
        graph: impl FnOnce(&dyn Fn(f32)) -> ModelGraph,
        device: Device,
        layers: Range<usize>,
        cache_shape: [usize; 4],
        options: &SessionOptions,
        progress: &dyn Fn(f32),
    ) -> anyhow::Result<Self> {
        let sessions = Sessions::build(graph, device, options, progress)?;
        let cache = match device {
            Device::Cpu | Device::CoreMl => Cache::Host(KvCache::new(layers.len(), cache_shape)?),
            Device::Cuda(number) => {
                let memory = MemoryInfo::new(
                    AllocationDevice::CUDA,
                    number.into(),
                    AllocatorType::Device,
                    MemoryType::Default,
                )?;
                let cache = DeviceCache::new(device, memory, options, layers.len(), cache_shape)?;
                Cache::Device(cache)
            }
        };
        let names = |layer| [names::key_cache(layer), names::value_cache(layer)];
        Ok(Self {
            cache,
            sessions,
            cache_names: layers.map(names).collect(),
        })
    }

    /// Runs a step with `inputs` and the key-value cache. `decode_only` is true if the step has no prefill chunk.
    pub(super) fn run<'a>(
        &'a mut self,
        decode_only: bool,
        mut inputs: Vec<SessionInput<'a>>,
    ) -> Result<SessionOutputs<'a>, RuntimeError> {
        let layers = match &mut self.cache {
            Cache::Host(cache) => cache.layers()?,
            Cache::Device(cache) => cache.layers(),
        };
        for ([key_name, value_name], [keys, values]) in self.cache_names.iter().zip(layers) {
            inputs.push((key_name.as_str().into(), keys.into()));
            inputs.push((value_name.as_str().into(), values.into()));
        }
        Ok(self.sessions.for_step(decode_only).run(inputs)?)
    }

    /// Size of the cache in bytes.
    pub(super) fn cache_bytes(&self) -> usize {
        match &self.cache {
            Cache::Host(cache) => cache.bytes(),
            Cache::Device(cache) => cache.bytes(),
        }
    }

    /// Size of a cache block in all layers of the stage, in bytes.
    pub(super) fn block_bytes(&self) -> usize {
        match &self.cache {
            Cache::Host(cache) => cache.block_bytes(),
            Cache::Device(cache) => cache.block_bytes(),
        }
    }

    /// Returns the bytes of a cache block in all layers of the stage.
    pub(super) fn read(&mut self, block: usize) -> Result<Vec<u8>, RuntimeError> {
        match &mut self.cache {
            Cache::Host(cache) => Ok(cache.read(block)),
            Cache::Device(cache) => cache.read(block),
        }
    }

    /// Writes a cache block. `bytes` has the format of [`Self::read`] and the length [`Self::block_bytes`].
    pub(super) fn write(&mut self, block: usize, bytes: &[u8]) -> Result<(), RuntimeError> {
        match &mut self.cache {
            Cache::Host(cache) => cache.write(block, bytes),
            Cache::Device(cache) => cache.write(block, bytes)?,
        }
        Ok(())
    }

    /// Copies the contents of cache block `from` to block `to`.
    pub(super) fn copy(&mut self, from: usize, to: usize) -> Result<(), RuntimeError> {
        match &mut self.cache {
            Cache::Host(cache) => cache.copy(from, to),
            Cache::Device(cache) => cache.copy(from, to)?,
        }
        Ok(())
    }
}
