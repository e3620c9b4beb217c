//! The memory that a model takes once it is loaded.

use super::load::BLOCK_TOKENS;
use crate::engine::EngineOptions;
use crate::graph::ModelFile;
use crate::runtime::{Device, KvCache};

/// Bytes of memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryNeed {
    /// The graph's weights.
    pub weights: u64,
    /// About what the runtime's packed copy of them takes.
    pub packed: u64,
    /// The rows of the embedding matrix, which stay in the file: what of them is used is in memory.
    pub embeddings: u64,
    /// Experts' matrices, which stay in the file as well.
    pub experts: u64,
    /// Keys and values of a token.
    pub cache_per_token: u64,
    /// Keys and values of all contexts.
    pub cache: u64,
}

impl MemoryNeed {
    /// What `file` takes with `parallel` contexts of `context_tokens` tokens each.
    pub fn new(file: &ModelFile, context_tokens: usize, parallel: usize) -> Self {
        let weights = file.operand_bytes(Device::Cpu.products(), context_tokens);
        let decoder = file.architecture.decoder();
        // An encoder keeps nothing.
        let cache_per_token = decoder.map_or(0, KvCache::bytes_per_token);
        // One block belongs to nobody.
        let blocks = EngineOptions::blocks_for_all(parallel, context_tokens, BLOCK_TOKENS) + 1;
        Self {
            weights: weights.all as u64,
            packed: weights.packed as u64,
            embeddings: file.embeddings().bytes(),
            experts: file.expert_bytes(),
            cache_per_token,
            cache: cache_per_token.saturating_mul((blocks * BLOCK_TOKENS) as u64),
        }
    }

    /// The sum.
    pub fn total(&self) -> u64 {
        let files = [self.embeddings, self.experts];
        let parts = [self.weights, self.packed, self.cache];
        parts.into_iter().chain(files).fold(0, u64::saturating_add)
    }
}
