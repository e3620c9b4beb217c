//! Llama 1, 2 and 3, SmolLM, TinyLlama, Mistral: what the other families differ from. Their files have the rows of queries
//! and keys in another order, so that neighbours are rotated together.
//!
//! Source: Touvron et al., "LLaMA" (2023); Jiang et al., "Mistral 7B" (2023), for the window; GGUF's names of keys and
//! tensors.

use super::{DecoderShape, GraphError, Header};

pub(super) fn shape(header: &Header<'_>) -> Result<DecoderShape, GraphError> {
    let shape = DecoderShape::read(header)?;
    let rotary = match header.hub {
        None => shape.rotary,
        // The rows are in the papers' order there.
        Some(_) => shape.rotary.in_halves(),
    };
    DecoderShape { rotary, ..shape }.with_window(header)
}
