//! Names of graph inputs and outputs. The comments describe type, shape and contents.

/// `i64 [tokens]`: token ids, in an exported embedding graph.
pub const INPUT_IDS: &str = "input_ids";
/// `f32 [tokens, hidden]`: token embeddings.
pub const INPUTS_EMBEDS: &str = "inputs_embeds";
/// `i64 [tokens]`: the position of each token in its sequence, for models with learned position embeddings.
pub const POSITIONS: &str = "positions";
/// `i32 [sequences + 1]`: the index of each sequence's first token in the batch, then the total number of tokens.
pub const CUMULATIVE_SEQUENCE_LENGTH: &str = "cumulative_sequence_length";
/// `i32 [sequences]`: number of cached tokens of each sequence.
pub const PAST_SEQLENS: &str = "past_seqlens";
/// `i32 [sequences, blocks]`: the indices of each sequence's cache blocks, in order; rows are padded with 0.
pub const BLOCK_TABLE: &str = "block_table";
/// `i64 [rows]`: indices of the tokens whose logits are computed.
pub const LOGIT_ROWS: &str = "logit_rows";
/// `f32 [rows, vocabulary]`: logits of the tokens in [`LOGIT_ROWS`].
pub const LOGITS: &str = "logits";
/// `i64 [hidden rows]`: indices of the tokens whose hidden states are returned.
pub const HIDDEN_ROWS: &str = "hidden_rows";
/// `f32 [hidden rows, hidden]`: hidden states of the tokens in [`HIDDEN_ROWS`], after the final norm.
pub const HIDDEN: &str = "hidden";
/// `f32 [tokens, adapters]`: adapter scales of each token's sequence. Only present if the model has adapters.
pub const ADAPTER_SCALES: &str = "adapter_scales";

/// Returns the name of a layer's key cache, `f16 [blocks, block tokens, kv heads, head size]`, which is updated in
/// place.
pub fn key_cache(layer: usize) -> String {
    format!("key_cache.{layer}")
}

/// Returns the name of a layer's value cache, which has the type and shape of [`key_cache`].
pub fn value_cache(layer: usize) -> String {
    format!("value_cache.{layer}")
}
