//! Llama 1 and 2, SmolLM, TinyLlama.
//!
//! Source: Touvron et al., «LLaMA» (2023); GGUF's names of keys and tensors.

use super::{DecoderShape, GraphError, OUTPUT, OUTPUT_NORM, Sizes, TOKEN_EMBEDDING, block};
use crate::gguf::{Gguf, Optional};

/// The sizes in a file's header.
pub(super) fn shape(gguf: &Gguf) -> Result<DecoderShape, GraphError> {
    let metadata = gguf.metadata();
    let sizes = Sizes {
        metadata,
        family: "llama",
    };

    match metadata.string("llama.rope.scaling.type").optional()? {
        None | Some("none") => {}
        Some(other) => return Err(GraphError::Unsupported(format!("rope scaling «{other}»"))),
    }
    if metadata
        .count("llama.expert_count")
        .optional()?
        .unwrap_or(0)
        > 0
    {
        return Err(GraphError::Unsupported("a mixture of experts".to_owned()));
    }

    let (hidden, heads) = (
        sizes.size("embedding_length")?,
        sizes.size("attention.head_count")?,
    );
    let head_size = sizes.optional("attention.key_length", hidden / heads)?;
    let shape = DecoderShape {
        layers: sizes.size("block_count")?,
        hidden,
        feed_forward: sizes.size("feed_forward_length")?,
        heads,
        kv_heads: sizes.optional("attention.head_count_kv", heads)?,
        head_size,
        vocabulary: sizes.vocabulary()?,
        trained_context: sizes.size("context_length")?,
        norm_epsilon: sizes.number("attention.layer_norm_rms_epsilon")?,
        rotary: sizes.optional("rope.dimension_count", head_size)?,
        rotary_base: sizes
            .number("rope.freq_base")
            .optional()?
            .unwrap_or(10_000.0),
        rotary_interleaved: true,
        tied_output: gguf.tensor(OUTPUT).is_none(),
    };
    if !shape.heads.is_multiple_of(shape.kv_heads) {
        return Err(GraphError::Inconsistent(format!(
            "{} query heads cannot share {} key heads evenly",
            shape.heads, shape.kv_heads
        )));
    }
    if sizes.optional("attention.value_length", head_size)? != head_size {
        return Err(GraphError::Unsupported(
            "a value head that is not as wide as a key head".to_owned(),
        ));
    }
    if !shape.rotary.is_multiple_of(2) || shape.rotary > shape.head_size {
        return Err(GraphError::Inconsistent(format!(
            "{} values of a head of {} cannot be rotated in pairs",
            shape.rotary, shape.head_size
        )));
    }
    if !(shape.norm_epsilon > 0.0 && shape.rotary_base > 0.0 && shape.rotary_base.is_finite()) {
        return Err(GraphError::Inconsistent(
            "the norm's epsilon and the rotary base are to be above 0".to_owned(),
        ));
    }
    Ok(shape)
}

/// The tensors of such a model, each with its sizes, contiguous dimension first.
pub(super) fn tensors(shape: &DecoderShape) -> Vec<(String, Vec<usize>)> {
    let (query, key) = (
        shape.heads * shape.head_size,
        shape.kv_heads * shape.head_size,
    );
    let mut tensors = vec![
        (
            TOKEN_EMBEDDING.to_owned(),
            vec![shape.hidden, shape.vocabulary],
        ),
        (OUTPUT_NORM.to_owned(), vec![shape.hidden]),
    ];
    if !shape.tied_output {
        tensors.push((OUTPUT.to_owned(), vec![shape.hidden, shape.vocabulary]));
    }
    for layer in 0..shape.layers {
        let parts = [
            ("attn_norm", vec![shape.hidden]),
            ("attn_q", vec![shape.hidden, query]),
            ("attn_k", vec![shape.hidden, key]),
            ("attn_v", vec![shape.hidden, key]),
            ("attn_output", vec![query, shape.hidden]),
            ("ffn_norm", vec![shape.hidden]),
            ("ffn_gate", vec![shape.hidden, shape.feed_forward]),
            ("ffn_up", vec![shape.hidden, shape.feed_forward]),
            ("ffn_down", vec![shape.feed_forward, shape.hidden]),
        ];
        tensors.extend(parts.map(|(part, sizes)| (block(layer, part), sizes)));
    }
    tensors
}
