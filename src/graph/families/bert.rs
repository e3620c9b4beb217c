//! BERT and what has its shape: an encoder, whose tokens see those behind them, too.
//!
//! Source: Devlin et al., "BERT" (2018); the names of `transformers`' `BertModel`, and GGUF's.

use serde::Deserialize;

use super::{GraphError, Header, TOKEN_EMBEDDING, Tensors, check_heads, in_range};
use crate::gguf::{Metadata, Optional};

/// What is added for each position.
pub(crate) const POSITION_EMBEDDING: &str = "position_embd.weight";
/// What is added for the part of the text that a token is in; here all are in the first.
pub(crate) const TOKEN_TYPES: &str = "token_types.weight";
/// The norm of their sum.
pub(crate) const EMBEDDING_NORM: &str = "token_embd_norm";

/// The sizes of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderShape {
    /// Blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward network.
    pub feed_forward: usize,
    /// Heads; queries, keys and values have as many.
    pub heads: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Positions there are.
    pub trained_context: usize,
    /// Parts of a text that tokens can be told to be in.
    pub token_types: usize,
    /// Added to the variance in norms.
    pub norm_epsilon: f32,
}

/// What `config.json` says.
#[derive(Debug, Deserialize)]
pub struct BertConfig {
    num_hidden_layers: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_attention_heads: usize,
    vocab_size: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f32,
    hidden_act: String,
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
}

impl BertConfig {
    /// The sizes.
    ///
    /// # Errors
    /// They cannot be, or it computes otherwise.
    pub fn shape(&self) -> Result<EncoderShape, GraphError> {
        let unsupported = |what| Err(GraphError::Unsupported(what));
        if self.hidden_act != "gelu" {
            return unsupported(format!("the activation \"{}\"", self.hidden_act));
        }
        match self.position_embedding_type.as_deref() {
            None | Some("absolute") => {}
            Some(other) => return unsupported(format!("the position embedding \"{other}\"")),
        }
        if self.is_decoder {
            return unsupported("BERT as a decoder".to_owned());
        }
        EncoderShape {
            layers: in_range("num_hidden_layers", self.num_hidden_layers)?,
            hidden: in_range("hidden_size", self.hidden_size)?,
            feed_forward: in_range("intermediate_size", self.intermediate_size)?,
            heads: in_range("num_attention_heads", self.num_attention_heads)?,
            vocabulary: in_range("vocab_size", self.vocab_size)?,
            trained_context: in_range("max_position_embeddings", self.max_position_embeddings)?,
            token_types: in_range("type_vocab_size", self.type_vocab_size)?,
            norm_epsilon: self.layer_norm_eps,
        }
        .checked()
    }
}

/// The sizes in a GGUF file's header.
pub(super) fn shape(metadata: &Metadata, tensors: &Tensors) -> Result<EncoderShape, GraphError> {
    let sizes = Header {
        metadata,
        family: "bert",
        tensors,
        hub: None,
    };
    if metadata.flag("bert.attention.causal").optional()? == Some(true) {
        return Err(GraphError::Unsupported("BERT as a decoder".to_owned()));
    }
    EncoderShape {
        layers: sizes.size("block_count")?,
        hidden: sizes.size("embedding_length")?,
        feed_forward: sizes.size("feed_forward_length")?,
        heads: sizes.size("attention.head_count")?,
        vocabulary: sizes.vocabulary()?,
        trained_context: sizes.size("context_length")?,
        token_types: match metadata
            .count("tokenizer.ggml.token_type_count")
            .optional()?
        {
            Some(types) => in_range("tokenizer.ggml.token_type_count", types)?,
            None => 2,
        },
        norm_epsilon: sizes.above_zero("attention.layer_norm_epsilon")?,
    }
    .checked()
}

impl EncoderShape {
    fn checked(self) -> Result<Self, GraphError> {
        let Self { hidden, heads, .. } = self;
        if !hidden.is_multiple_of(heads) {
            let problem = format!("a width of {hidden} cannot be shared by {heads} heads");
            return Err(GraphError::Inconsistent(problem));
        }
        check_heads(heads, hidden / heads)?;
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon.is_finite()) {
            let problem = "the norm's epsilon is to be above 0".to_owned();
            return Err(GraphError::Inconsistent(problem));
        }
        Ok(self)
    }
}

/// The name of part `part` of block `layer`, without `.weight` or `.bias`.
pub(crate) fn part(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}")
}

/// The tensors of such a model, each with its sizes, contiguous dimension first.
pub(super) fn tensors(shape: &EncoderShape) -> Vec<(String, Vec<usize>)> {
    let (hidden, wide) = (shape.hidden, shape.feed_forward);
    let table = |name: &str, rows| (name.to_owned(), vec![hidden, rows]);
    let both = |name: String, weight: Vec<usize>, bias| {
        [
            (format!("{name}.weight"), weight),
            (format!("{name}.bias"), vec![bias]),
        ]
    };
    let mut tensors = vec![
        table(TOKEN_EMBEDDING, shape.vocabulary),
        table(POSITION_EMBEDDING, shape.trained_context),
        table(TOKEN_TYPES, shape.token_types),
    ];
    tensors.extend(both(EMBEDDING_NORM.to_owned(), vec![hidden], hidden));
    for layer in 0..shape.layers {
        for (name, weight, bias) in [
            ("attn_q", vec![hidden, hidden], hidden),
            ("attn_k", vec![hidden, hidden], hidden),
            ("attn_v", vec![hidden, hidden], hidden),
            ("attn_output", vec![hidden, hidden], hidden),
            ("attn_output_norm", vec![hidden], hidden),
            ("ffn_up", vec![hidden, wide], wide),
            ("ffn_down", vec![wide, hidden], hidden),
            ("layer_output_norm", vec![hidden], hidden),
        ] {
            tensors.extend(both(part(layer, name), weight, bias));
        }
    }
    tensors
}

/// GGUF's name of a tensor of `transformers`' `BertModel`; none for what embeddings do without: the numbers of the
/// positions, and the head that was trained with it.
pub(super) fn standard_name(name: &str) -> Option<String> {
    let name = name.strip_prefix("bert.").unwrap_or(name);
    if name == "embeddings.position_ids" || name.starts_with("pooler.") || name.starts_with("cls.")
    {
        return None;
    }
    let known = match name {
        "embeddings.word_embeddings.weight" => Some(TOKEN_EMBEDDING.to_owned()),
        "embeddings.position_embeddings.weight" => Some(POSITION_EMBEDDING.to_owned()),
        "embeddings.token_type_embeddings.weight" => Some(TOKEN_TYPES.to_owned()),
        _ => in_a_part(name),
    };
    // What nobody knows keeps its name, so that it is told.
    Some(known.unwrap_or_else(|| name.to_owned()))
}

fn in_a_part(name: &str) -> Option<String> {
    let (of, kind) = name.rsplit_once('.')?;
    if of == "embeddings.LayerNorm" {
        return Some(format!("{EMBEDDING_NORM}.{kind}"));
    }
    let (layer, of) = of.strip_prefix("encoder.layer.")?.split_once('.')?;
    let name = match of {
        "attention.self.query" => "attn_q",
        "attention.self.key" => "attn_k",
        "attention.self.value" => "attn_v",
        "attention.output.dense" => "attn_output",
        "attention.output.LayerNorm" => "attn_output_norm",
        "intermediate.dense" => "ffn_up",
        "output.dense" => "ffn_down",
        "output.LayerNorm" => "layer_output_norm",
        _ => return None,
    };
    Some(format!("{}.{kind}", part(layer.parse().ok()?, name)))
}
