//! Llama 1, 2 and 3, SmolLM, TinyLlama and Mistral: the baseline of all families. In their GGUF files, the rows of
//! query and key weights are reordered so that RoPE rotates adjacent rows together.
//!
//! Source: Touvron et al., "LLaMA" (2023); Jiang et al., "Mistral 7B" (2023), for the sliding window; GGUF's key and
//! tensor names.

use super::{DecoderShape, GraphError, Header};

pub(super) fn llama(header: &Header<'_>) -> Result<DecoderShape, GraphError> {
    let shape = DecoderShape::read(header)?;
    let rotary = match header.transformers {
        None => shape.rotary,
        // Safetensors files contain the rows in the original order.
        Some(_) => shape.rotary.in_halves(),
    };
    DecoderShape { rotary, ..shape }.with_window(header)
}
