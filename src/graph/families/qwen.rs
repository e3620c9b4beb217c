//! Qwen 2 and 3: Qwen 2 has biases in the query, key and value projections; Qwen 3 normalizes queries and keys instead.
//!
//! Source: "Qwen2 Technical Report" (2024), "Qwen3 Technical Report" (2025).

use super::{DecoderShape, GraphError, Header};

pub(super) fn qwen2(header: &Header<'_>) -> Result<DecoderShape, GraphError> {
    let shape = DecoderShape::read(header)?;
    Ok(DecoderShape {
        rotary: shape.rotary.in_halves(),
        qkv_biases: true,
        ..shape
    })
}

pub(super) fn qwen3(header: &Header<'_>) -> Result<DecoderShape, GraphError> {
    let shape = DecoderShape::read(header)?;
    Ok(DecoderShape {
        rotary: shape.rotary.in_halves(),
        query_key_norms: true,
        ..shape
    })
}
