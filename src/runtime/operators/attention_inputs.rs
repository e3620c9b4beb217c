//! The inputs of causal attention over a paged cache.

use half::f16;

use super::batch::BatchIndices;
use super::norm::QueryKeyNorms;
use super::rotary::Rotary;

/// Dimensions of the attention heads and of the key-value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AttentionShape {
    /// Number of query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Number of key/value heads.
    pub kv_heads: usize,
    /// Number of elements of a head, a multiple of eight.
    pub head_size: usize,
    /// Number of cache blocks.
    pub blocks: usize,
    /// Number of tokens per block.
    pub block_tokens: usize,
}

/// The inputs of paged attention, except the caches.
#[derive(Debug, Clone, Copy)]
pub struct AttentionInputs<'a> {
    /// `[tokens, heads · head_size]`. Without `key_value`, packed queries, keys and values:
    /// `[tokens, (heads + 2 · kv_heads) · head_size]`.
    pub query: &'a [f32],
    /// Keys and values, `[tokens, kv_heads · head_size]` each.
    pub key_value: Option<(&'a [f32], &'a [f32])>,
    /// Boundaries and cache blocks of the sequences.
    pub batch: BatchIndices<'a>,
    /// Norms of queries and keys, applied before RoPE; `None` for models without these norms.
    pub norms: Option<QueryKeyNorms<'a>>,
    /// RoPE of queries and keys; `None` for models without RoPE.
    pub rotary: Option<Rotary<'a>>,
    /// Scale, soft cap and sliding window of attention scores.
    pub scoring: Scoring,
}

/// How attention scores are computed from dot products of queries and keys.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scoring {
    /// Factor by which every dot product is multiplied.
    pub scale: f32,
    /// Soft capping: a score `s` becomes `softcap · tanh(s / softcap)`.
    pub softcap: Option<f32>,
    /// Sliding window: number of keys visible to a token, including its own key. At least 1; `None` means all keys.
    pub window: Option<usize>,
}

/// The key and value caches, `[blocks, block_tokens, kv_heads, head_size]` each.
#[derive(Debug)]
pub struct AttentionCaches<'a> {
    /// Key cache, updated in place.
    pub keys: &'a mut [f16],
    /// Value cache, updated in place.
    pub values: &'a mut [f16],
}

/// Strided view of a tensor with one row for each token and head.
#[derive(Debug, Clone, Copy)]
pub(super) struct TokenRows<'a> {
    pub(super) elements: &'a [f32],
    /// Number of elements from one token to the next.
    pub(super) stride: usize,
    /// Number of elements before a token's first head.
    pub(super) offset: usize,
    pub(super) head_size: usize,
}

impl<'a> TokenRows<'a> {
    #[inline(always)]
    pub(super) fn row(&self, token: usize, head: usize) -> &'a [f32] {
        let start = token * self.stride + self.offset + head * self.head_size;
        &self.elements[start..start + self.head_size]
    }
}
