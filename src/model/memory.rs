//! Estimates the memory that a loaded model takes.

use super::BLOCK_TOKENS;
use crate::engine::EngineOptions;
use crate::graph::ModelFile;
use crate::runtime::{Device, KvCache};

/// Estimated memory of a loaded model, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Weights of the graph, which excludes the input embedding matrix and the expert matrices.
    pub weight_bytes: u64,
    /// Approximate size of the copy of the weights that the runtime packs for its matrix multiplications.
    pub packed_weight_bytes: u64,
    /// Embedding matrix. It stays in the memory-mapped file, so only the rows in use take memory.
    pub embedding_bytes: u64,
    /// Expert matrices (mixture of experts), which also stay in the memory-mapped file.
    pub expert_bytes: u64,
    /// Keys and values of a token in all layers; 0 for encoders.
    pub cache_bytes_per_token: u64,
    /// Key-value cache for the full context of every slot.
    pub cache_bytes: u64,
}

impl MemoryEstimate {
    /// Estimates the memory of `file` with a cache for `parallel` contexts of `context_tokens` tokens each.
    pub fn new(file: &ModelFile, context_tokens: usize, parallel: usize) -> Self {
        let weights = file.weight_bytes(Device::Cpu.matmul_operator(), context_tokens);
        let decoder = file.architecture.decoder();
        // An encoder has no cache.
        let cache_bytes_per_token = decoder.map_or(0, KvCache::bytes_per_token);
        // Padding rows of a batch write their keys and values to one extra block.
        let blocks = EngineOptions::blocks_for_all(parallel, context_tokens, BLOCK_TOKENS) + 1;
        Self {
            weight_bytes: weights.total as u64,
            packed_weight_bytes: weights.repacked as u64,
            embedding_bytes: file.embeddings().bytes(),
            expert_bytes: file.expert_bytes(),
            cache_bytes_per_token,
            cache_bytes: cache_bytes_per_token.saturating_mul((blocks * BLOCK_TOKENS) as u64),
        }
    }

    /// Sum of all parts, including mapped matrices that may not be resident.
    pub fn total_bytes(&self) -> u64 {
        let mapped = [self.embedding_bytes, self.expert_bytes];
        let allocated = [
            self.weight_bytes,
            self.packed_weight_bytes,
            self.cache_bytes,
        ];
        allocated
            .into_iter()
            .chain(mapped)
            .fold(0, u64::saturating_add)
    }
}
