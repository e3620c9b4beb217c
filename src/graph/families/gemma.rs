//! Gemma 1, 2 and 3: embeddings are scaled, and gates use GELU. Gemma 2 adds post-norms, soft-capping of scores and
//! logits, and a sliding window in every other layer. Gemma 3 has a sliding window with a separate RoPE base in five of
//! six layers, and normalizes queries and keys instead of soft-capping. Norms multiply by `1 + weight`; GGUF files
//! already store `1 + weight`.
//!
//! Source: "Gemma" (2024), "Gemma 2" (2024), "Gemma 3" (2025), technical reports.

use super::decoder_shape::{Activation, RotaryScaling, SlidingWindowLayers};
use super::{DecoderShape, GraphError, Header};
use crate::gguf::Optional;

/// Default RoPE base of sliding-window layers in Gemma 3.
const SLIDING_WINDOW_ROPE_BASE: f32 = 10_000.0;

pub(super) fn gemma1(header: &Header<'_>) -> Result<DecoderShape, GraphError> {
    let shape = DecoderShape::read(header)?;
    if shape.experts.is_some() {
        let feature = "a mixture of experts with GELU gates";
        return Err(GraphError::Unsupported(feature.to_owned()));
    }
    Ok(DecoderShape {
        rotary: shape.rotary.in_halves(),
        embedding_scale: Some((shape.hidden as f32).sqrt()),
        activation: Activation::GeluTanh,
        ..shape
    })
}

pub(super) fn gemma2(header: &Header<'_>) -> Result<DecoderShape, GraphError> {
    /// Number of layers of the 27B model, which uses `hidden / heads` instead of the head size in the scale of scores.
    const LAYERS_OF_27B: usize = 46;
    let shape = gemma1(header)?;
    let window = DecoderShape::read_window(header)?.unwrap_or(4096);
    Ok(DecoderShape {
        post_norms: true,
        score_scale: score_scale(header, &shape, LAYERS_OF_27B),
        score_softcap: Some(header.positive_or("attn_logit_softcapping", 50.0)?),
        logit_softcap: Some(header.positive_or("final_logit_softcapping", 30.0)?),
        sliding_window: Some(SlidingWindowLayers {
            window_tokens: window,
            global_every: Some(2),
            rotary: shape.rotary.clone(),
        }),
        ..shape
    })
}

pub(super) fn gemma3(header: &Header<'_>) -> Result<DecoderShape, GraphError> {
    /// Number of layers of the 27B model, which has the same exception as in Gemma 2.
    const LAYERS_OF_27B: usize = 62;
    let shape = gemma1(header)?;
    let sliding_window = DecoderShape::read_window(header)?.map(|window| {
        let mut rotary = shape.rotary.clone();
        rotary.base = header.positive_or("rope.freq_base_swa", SLIDING_WINDOW_ROPE_BASE)?;
        rotary.scaling = RotaryScaling::None;
        Ok::<_, GraphError>(SlidingWindowLayers {
            window_tokens: window,
            global_every: Some(6),
            rotary,
        })
    });
    let cap = header.key("final_logit_softcapping");
    let logit_softcap = match header.metadata.number(&cap).optional()? {
        None | Some(0.0) => None,
        Some(_) => Some(header.positive("final_logit_softcapping")?),
    };
    Ok(DecoderShape {
        post_norms: true,
        query_key_norms: true,
        score_scale: score_scale(header, &shape, LAYERS_OF_27B),
        logit_softcap,
        sliding_window: sliding_window.transpose()?,
        ..shape
    })
}

/// Returns the scale of attention scores. GGUF files do not contain the scale, so the 27B model is recognized by the
/// number of layers.
fn score_scale(header: &Header<'_>, shape: &DecoderShape, layers_of_27b: usize) -> f32 {
    match header.transformers.is_none() && shape.layers == layers_of_27b {
        true => 1.0 / ((shape.hidden / shape.heads) as f32).sqrt(),
        false => shape.score_scale,
    }
}
