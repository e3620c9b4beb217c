//! Phi 3 and 4: queries, keys and values are one tensor in the file, gate and up another; a part of each head is rotated,
//! by divisors of its own in long contexts.
//!
//! Source: "Phi-3 Technical Report" (2024).

use super::{DecoderShape, GraphError, Header};

pub(super) fn third(header: &Header<'_>) -> Result<DecoderShape, GraphError> {
    let shape = DecoderShape::read(header)?;
    DecoderShape {
        rotary: shape.rotary.in_halves(),
        fused: true,
        ..shape
    }
    .with_window(header)
}
