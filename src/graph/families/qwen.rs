//! Qwen 2 and 3: the first adds biases to queries, keys and values, the second norms queries and keys instead.
//!
//! Source: "Qwen2 Technical Report" (2024), "Qwen3 Technical Report" (2025).

use super::{DecoderShape, GraphError, Header};

pub(super) fn second(header: &Header<'_>) -> Result<DecoderShape, GraphError> {
    let shape = DecoderShape::read(header)?;
    Ok(DecoderShape {
        rotary: shape.rotary.in_halves(),
        biases: true,
        ..shape
    })
}

pub(super) fn third(header: &Header<'_>) -> Result<DecoderShape, GraphError> {
    let shape = DecoderShape::read(header)?;
    Ok(DecoderShape {
        rotary: shape.rotary.in_halves(),
        query_key_norms: true,
        ..shape
    })
}
