//! Phi 3 and 4: the query, key and value projections are one tensor in the file, and so are gate and up. RoPE may
//! rotate only a part of each head, and may have separate frequency divisors for long contexts (LongRoPE).
//!
//! Source: "Phi-3 Technical Report" (2024).

use super::{DecoderShape, GraphError, Header};

pub(super) fn phi3(header: &Header<'_>) -> Result<DecoderShape, GraphError> {
    let shape = DecoderShape::read(header)?;
    DecoderShape {
        rotary: shape.rotary.in_halves(),
        fused_projections: true,
        ..shape
    }
    .with_window(header)
}
