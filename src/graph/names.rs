//! Names of the inputs and outputs of graphs.

/// `i64 [tokens]`: tokens, of an exported graph that gives their rows.
pub const INPUT_IDS: &str = "input_ids";
/// `f32 [tokens, hidden]`: rows of the embedding matrix.
pub const INPUTS_EMBEDS: &str = "inputs_embeds";
/// `i64 [tokens]`: the place of each token in its sequence, for models that have learnt what each place is.
pub const POSITIONS: &str = "positions";
/// `i32 [sequences + 1]`: where each sequence's chunk begins among the tokens, and where the last ends.
pub const CUMULATIVE_SEQUENCE_LENGTH: &str = "cumulative_sequence_length";
/// `i32 [sequences]`: tokens of each sequence that are in the cache already.
pub const PAST_SEQLENS: &str = "past_seqlens";
/// `i32 [sequences, blocks]`: each sequence's blocks, in order; rows are filled up with 0.
pub const BLOCK_TABLE: &str = "block_table";
/// `i64 [rows]`: the tokens whose logits are wanted.
pub const LOGIT_ROWS: &str = "logit_rows";
/// `f32 [rows, vocabulary]`.
pub const LOGITS: &str = "logits";
/// `i64 [hidden rows]`: the tokens whose hidden states are wanted.
pub const HIDDEN_ROWS: &str = "hidden_rows";
/// `f32 [hidden rows, hidden]`: after the last norm.
pub const HIDDEN: &str = "hidden";
/// `f32 [tokens, adapters]`: how strong each token's sequence wants each adapter. There only where the model has adapters.
pub const ADAPTER_SCALES: &str = "adapter_scales";

/// `f16 [blocks, block tokens, kv heads, head size]`: a layer's keys, written in place.
pub fn key_cache(layer: usize) -> String {
    format!("key_cache.{layer}")
}

/// As [`key_cache`], for values.
pub fn value_cache(layer: usize) -> String {
    format!("value_cache.{layer}")
}
