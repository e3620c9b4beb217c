//! Gemma 1, 2 and 3: embeddings are scaled up, and gates go through GELU. The second norms what a layer adds, too, caps
//! scores and logits, and lets every other layer see only what is near; the third does so with five of six, which turn
//! positions by a base of their own, and norms queries and keys instead of capping. The 1 that is added to gains is in the
//! files already.
//!
//! Source: "Gemma" (2024), "Gemma 2" (2024), "Gemma 3" (2025), technical reports.

use super::decoder_shape::{Activation, LocalLayers, RotaryScaling};
use super::{DecoderShape, GraphError, Header};
use crate::gguf::Optional;

/// The base of local layers' frequencies in Gemma 3, if a header names none.
const LOCAL_BASE: f32 = 10_000.0;

pub(super) fn first(header: &Header<'_>) -> Result<DecoderShape, GraphError> {
    let shape = DecoderShape::read(header)?;
    if shape.experts.is_some() {
        let what = "a mixture of experts whose gates go through GELU";
        return Err(GraphError::Unsupported(what.to_owned()));
    }
    Ok(DecoderShape {
        rotary: shape.rotary.in_halves(),
        embedding_scale: Some((shape.hidden as f32).sqrt()),
        activation: Activation::GeluTanh,
        ..shape
    })
}

pub(super) fn second(header: &Header<'_>) -> Result<DecoderShape, GraphError> {
    /// What the 27B model has: its scores are scaled by the width, not by the heads'.
    const LARGEST: usize = 46;
    let shape = first(header)?;
    let window = DecoderShape::window(header)?.unwrap_or(4096);
    Ok(DecoderShape {
        post_norms: true,
        score_scale: score_scale(header, &shape, LARGEST),
        score_cap: Some(header.above_zero_or("attn_logit_softcapping", 50.0)?),
        logit_cap: Some(header.above_zero_or("final_logit_softcapping", 30.0)?),
        local: Some(LocalLayers {
            window,
            all_seeing: Some(2),
            rotary: shape.rotary.clone(),
        }),
        ..shape
    })
}

pub(super) fn third(header: &Header<'_>) -> Result<DecoderShape, GraphError> {
    /// As in the second.
    const LARGEST: usize = 62;
    let shape = first(header)?;
    let local = DecoderShape::window(header)?.map(|window| {
        let mut rotary = shape.rotary.clone();
        rotary.base = header.above_zero_or("rope.freq_base_swa", LOCAL_BASE)?;
        rotary.scaling = RotaryScaling::None;
        Ok::<_, GraphError>(LocalLayers {
            window,
            all_seeing: Some(6),
            rotary,
        })
    });
    let cap = header.key("final_logit_softcapping");
    let logit_cap = match header.metadata.number(&cap).optional()? {
        None | Some(0.0) => None,
        Some(_) => Some(header.above_zero("final_logit_softcapping")?),
    };
    Ok(DecoderShape {
        post_norms: true,
        query_key_norms: true,
        score_scale: score_scale(header, &shape, LARGEST),
        logit_cap,
        local: local.transpose()?,
        ..shape
    })
}

/// GGUF files do not say it.
fn score_scale(header: &Header<'_>, shape: &DecoderShape, largest: usize) -> f32 {
    match header.hub.is_none() && shape.layers == largest {
        true => 1.0 / ((shape.hidden / shape.heads) as f32).sqrt(),
        false => shape.score_scale,
    }
}
