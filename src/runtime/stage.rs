//! A part of a decoder: the session of its layers, and their keys and values.

use std::borrow::Cow;
use std::ops::Range;

use ort::memory::{AllocationDevice, AllocatorType, MemoryInfo, MemoryType};
use ort::session::{SessionInputValue, SessionOutputs};

use super::device::Device;
use super::device_cache::DeviceCache;
use super::session::{SessionOptions, Sessions};
use super::{KvCache, RuntimeError};
use crate::graph::{ModelGraph, names};

/// An input of a session, by its name.
pub(super) type Input<'a> = (Cow<'a, str>, SessionInputValue<'a>);

/// The layers of a decoder that are in one session.
pub(super) struct Stage {
    sessions: Sessions,
    cache: Cache,
    cache_names: Vec<[String; 2]>,
}

/// Keys and values where the stage's attention finds them.
enum Cache {
    Host(KvCache),
    Device(DeviceCache),
}

impl Stage {
    /// Sessions on `device` for the graph that `graph` makes, which has the layers `layers`, and a cache of the shape `cache`
    /// for each of them. `progress` hears the share that is done, from 0 to 1.
    pub(super) fn load(
        graph: impl FnOnce(&dyn Fn(f32)) -> ModelGraph,
        device: Device,
        layers: Range<usize>,
        cache: [usize; 4],
        options: &SessionOptions,
        progress: &dyn Fn(f32),
    ) -> anyhow::Result<Self> {
        let sessions = Sessions::build(graph, device, options, progress)?;
        let cache = match device {
            Device::Cpu | Device::CoreMl => Cache::Host(KvCache::new(layers.len(), cache)?),
            Device::Cuda(number) => {
                let memory = MemoryInfo::new(
                    AllocationDevice::CUDA,
                    number.into(),
                    AllocatorType::Device,
                    MemoryType::Default,
                )?;
                let layers = layers.len();
                Cache::Device(DeviceCache::new(device, memory, options, layers, cache)?)
            }
        };
        let names = |layer| [names::key_cache(layer), names::value_cache(layer)];
        Ok(Self {
            cache,
            sessions,
            cache_names: layers.map(names).collect(),
        })
    }

    /// Computes with these inputs, and the keys and values of what is past: in the session for prompts, if there is one and the
    /// step does not only `decode`.
    pub(super) fn run<'a>(
        &'a mut self,
        decodes: bool,
        mut inputs: Vec<Input<'a>>,
    ) -> Result<SessionOutputs<'a>, RuntimeError> {
        let names = self.cache_names.iter();
        let mut add = |[key_name, value_name]: &'a [String; 2], [keys, values]: [_; 2]| {
            inputs.push((key_name.as_str().into(), keys));
            inputs.push((value_name.as_str().into(), values));
        };
        match &mut self.cache {
            Cache::Host(cache) => {
                for (names, pair) in names.zip(cache.layers()?) {
                    add(names, pair.map(SessionInputValue::from));
                }
            }
            Cache::Device(cache) => {
                for (names, pair) in names.zip(cache.layers()) {
                    add(names, pair.map(SessionInputValue::from));
                }
            }
        }
        Ok(self.sessions.for_step(decodes).run(inputs)?)
    }

    /// Bytes of the cache.
    pub(super) fn cache_bytes(&self) -> usize {
        match &self.cache {
            Cache::Host(cache) => cache.bytes(),
            Cache::Device(cache) => cache.bytes(),
        }
    }

    /// Bytes of a block of the cache.
    pub(super) fn block_bytes(&self) -> usize {
        match &self.cache {
            Cache::Host(cache) => cache.block_bytes(),
            Cache::Device(cache) => cache.block_bytes(),
        }
    }

    /// A block of the cache.
    pub(super) fn read(&mut self, block: usize) -> Result<Vec<u8>, RuntimeError> {
        match &mut self.cache {
            Cache::Host(cache) => Ok(cache.read(block)),
            Cache::Device(cache) => cache.read(block),
        }
    }

    /// Writes what [`Self::read`] read, and is as long.
    pub(super) fn write(&mut self, block: usize, read: &[u8]) -> Result<(), RuntimeError> {
        match &mut self.cache {
            Cache::Host(cache) => cache.write(block, read),
            Cache::Device(cache) => cache.write(block, read)?,
        }
        Ok(())
    }

    /// Copies a block of the cache over another.
    pub(super) fn copy(&mut self, from: usize, to: usize) -> Result<(), RuntimeError> {
        match &mut self.cache {
            Cache::Host(cache) => cache.copy(from, to),
            Cache::Device(cache) => cache.copy(from, to)?,
        }
        Ok(())
    }
}
