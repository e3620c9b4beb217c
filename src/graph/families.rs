//! The model families: what a header must say, which tensors there are and how a family differs from
//! the decoder block that all share ([`super::decoder`]).

use std::collections::HashSet;

use super::GraphError;
use crate::gguf::{Gguf, MetadataError, Optional};

/// The embedding matrix; also the output matrix where a file has none of its own.
pub(crate) const TOKEN_EMBEDDING: &str = "token_embd.weight";
pub(crate) const OUTPUT_NORM: &str = "output_norm.weight";
pub(crate) const OUTPUT: &str = "output.weight";

/// Largest value of any size in a header: far above every model, far below overflow.
const MAX_SIZE: usize = 1 << 24;

/// A family, with the sizes of one of its models.
#[derive(Debug, Clone, PartialEq)]
pub enum Architecture {
    /// Llama 1 and 2, SmolLM, TinyLlama: RMS norms, SwiGLU, rotary embedding over interleaved pairs.
    Llama(DecoderShape),
}

/// The sizes of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderShape {
    /// Decoder blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward network.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_size: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Tokens of context the model was trained with.
    pub trained_context: usize,
    /// Added to the mean square in norms.
    pub norm_epsilon: f32,
    /// Values of a head that are rotated.
    pub rotary: usize,
    /// Base of the rotary frequencies.
    pub rotary_base: f32,
    /// Whether pairs are neighbours (`x₀x₁`) or half a head apart.
    pub rotary_interleaved: bool,
    /// Whether the output matrix is the embedding matrix.
    pub tied_output: bool,
}

impl Architecture {
    /// The names of the supported families, as in `general.architecture`.
    pub const SUPPORTED: &[&str] = &["llama"];

    /// Reads and checks the header: the family, its sizes, and that the file has exactly its tensors.
    pub fn of(gguf: &Gguf) -> Result<Self, GraphError> {
        match gguf.metadata().string("general.architecture")? {
            "llama" => llama(gguf).map(Architecture::Llama),
            other => Err(GraphError::UnsupportedArchitecture {
                found: other.chars().take(64).collect(),
                supported: Self::SUPPORTED.join(", "),
            }),
        }
    }

    /// The name in `general.architecture`.
    pub fn name(&self) -> &'static str {
        match self {
            Architecture::Llama(_) => "llama",
        }
    }

    /// The sizes.
    pub fn shape(&self) -> &DecoderShape {
        match self {
            Architecture::Llama(shape) => shape,
        }
    }
}

/// The name of tensor `part` of block `layer`.
pub(crate) fn block(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}.weight")
}

fn llama(gguf: &Gguf) -> Result<DecoderShape, GraphError> {
    let metadata = gguf.metadata();
    let size = |key: &str| -> Result<usize, GraphError> {
        let key = format!("llama.{key}");
        match metadata.count(&key)? {
            value @ 1..=MAX_SIZE => Ok(value),
            value => Err(GraphError::Inconsistent(format!("«{key}» is {value}"))),
        }
    };
    let optional = |key: &str, default: usize| match size(key) {
        Err(GraphError::Metadata(MetadataError::Missing(_))) => Ok(default),
        other => other,
    };
    let number = |key: &str| metadata.number(&format!("llama.{key}"));

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

    let (hidden, heads) = (size("embedding_length")?, size("attention.head_count")?);
    let head_size = optional("attention.key_length", hidden / heads)?;
    let shape = DecoderShape {
        layers: size("block_count")?,
        hidden,
        feed_forward: size("feed_forward_length")?,
        heads,
        kv_heads: optional("attention.head_count_kv", heads)?,
        head_size,
        vocabulary: metadata.strings("tokenizer.ggml.tokens")?.len(),
        trained_context: size("context_length")?,
        norm_epsilon: number("attention.layer_norm_rms_epsilon")?,
        rotary: optional("rope.dimension_count", head_size)?,
        rotary_base: number("rope.freq_base").optional()?.unwrap_or(10_000.0),
        rotary_interleaved: true,
        tied_output: gguf.tensor(OUTPUT).is_none(),
    };
    if !shape.heads.is_multiple_of(shape.kv_heads) {
        return Err(GraphError::Inconsistent(format!(
            "{} query heads cannot share {} key heads evenly",
            shape.heads, shape.kv_heads
        )));
    }
    if optional("attention.value_length", head_size)? != head_size {
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
    check_tensors(gguf, &shape)?;
    Ok(shape)
}

/// Every tensor of the family is there in its shape, and no other.
fn check_tensors(gguf: &Gguf, shape: &DecoderShape) -> Result<(), GraphError> {
    let (query, key) = (
        shape.heads * shape.head_size,
        shape.kv_heads * shape.head_size,
    );
    let mut wanted = vec![
        (
            TOKEN_EMBEDDING.to_owned(),
            vec![shape.hidden, shape.vocabulary],
        ),
        (OUTPUT_NORM.to_owned(), vec![shape.hidden]),
    ];
    if !shape.tied_output {
        wanted.push((OUTPUT.to_owned(), vec![shape.hidden, shape.vocabulary]));
    }
    let (tensors, layers) = (gguf.tensors().count(), shape.layers);
    if layers > tensors {
        return Err(GraphError::Inconsistent(format!(
            "the header names {layers} layers and has {tensors} tensors"
        )));
    }
    for layer in 0..layers {
        for (part, sizes) in [
            ("attn_norm", vec![shape.hidden]),
            ("attn_q", vec![shape.hidden, query]),
            ("attn_k", vec![shape.hidden, key]),
            ("attn_v", vec![shape.hidden, key]),
            ("attn_output", vec![query, shape.hidden]),
            ("ffn_norm", vec![shape.hidden]),
            ("ffn_gate", vec![shape.hidden, shape.feed_forward]),
            ("ffn_up", vec![shape.hidden, shape.feed_forward]),
            ("ffn_down", vec![shape.feed_forward, shape.hidden]),
        ] {
            wanted.push((block(layer, part), sizes));
        }
    }
    for (name, sizes) in &wanted {
        let tensor = gguf
            .tensor(name)
            .ok_or_else(|| GraphError::MissingTensor(name.clone()))?;
        if tensor.shape != *sizes {
            return Err(GraphError::Shape {
                name: name.clone(),
                found: tensor.shape.clone(),
                wanted: sizes.clone(),
            });
        }
    }
    let known: HashSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
    match gguf.tensors().find(|(name, _)| !known.contains(name)) {
        None => Ok(()),
        Some((name, _)) => Err(GraphError::Unsupported(format!(
            "the tensor «{name}», which the llama family does not have,"
        ))),
    }
}
