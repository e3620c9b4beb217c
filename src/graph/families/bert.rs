//! BERT and models with the same architecture: encoders with bidirectional attention.
//!
//! Source: Devlin et al., "BERT" (2018); the tensor names of GGUF and of `BertModel` in `transformers`.

use serde::Deserialize;

use super::{GraphError, Header, TOKEN_EMBEDDING, Tensors, check_heads, check_size};
use crate::gguf::{Metadata, Optional};

/// Learned position embeddings, `[positions, hidden]`.
pub(crate) const POSITION_EMBEDDING: &str = "position_embd.weight";
/// Token type embeddings, `[types, hidden]`; ortolan uses type 0 only.
pub(crate) const TOKEN_TYPES: &str = "token_types.weight";
/// The norm of the sum of all embeddings.
pub(crate) const EMBEDDING_NORM: &str = "token_embd_norm";

/// The dimensions of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct EncoderShape {
    /// Number of layers.
    pub layers: usize,
    /// Hidden size: the width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward network.
    pub feed_forward: usize,
    /// Number of heads, the same for queries, keys and values.
    pub heads: usize,
    /// Number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// Context length in training, in tokens: the number of position embeddings.
    pub trained_context: usize,
    /// Number of token types.
    pub token_types: usize,
    /// Added to the variance in norms.
    pub norm_epsilon: f32,
}

/// The fields of `config.json` that ortolan uses.
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
    /// Returns the encoder's dimensions.
    ///
    /// # Errors
    /// If a dimension is invalid, or a feature is not supported.
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
            layers: check_size("num_hidden_layers", self.num_hidden_layers)?,
            hidden: check_size("hidden_size", self.hidden_size)?,
            feed_forward: check_size("intermediate_size", self.intermediate_size)?,
            heads: check_size("num_attention_heads", self.num_attention_heads)?,
            vocabulary: check_size("vocab_size", self.vocab_size)?,
            trained_context: check_size("max_position_embeddings", self.max_position_embeddings)?,
            token_types: check_size("type_vocab_size", self.type_vocab_size)?,
            norm_epsilon: self.layer_norm_eps,
        }
        .checked()
    }
}

/// Reads the encoder's dimensions from a GGUF header.
pub(super) fn shape(metadata: &Metadata, tensors: &Tensors) -> Result<EncoderShape, GraphError> {
    let header = Header {
        metadata,
        family: "bert",
        tensors,
        transformers: None,
    };
    if metadata.flag("bert.attention.causal").optional()? == Some(true) {
        return Err(GraphError::Unsupported("BERT as a decoder".to_owned()));
    }
    EncoderShape {
        layers: header.size("block_count")?,
        hidden: header.size("embedding_length")?,
        feed_forward: header.size("feed_forward_length")?,
        heads: header.size("attention.head_count")?,
        vocabulary: header.vocabulary()?,
        trained_context: header.size("context_length")?,
        token_types: match metadata
            .count("tokenizer.ggml.token_type_count")
            .optional()?
        {
            Some(types) => check_size("tokenizer.ggml.token_type_count", types)?,
            None => 2,
        },
        norm_epsilon: header.positive("attention.layer_norm_epsilon")?,
    }
    .checked()
}

impl EncoderShape {
    fn checked(self) -> Result<Self, GraphError> {
        let Self { hidden, heads, .. } = self;
        if !hidden.is_multiple_of(heads) {
            let problem = format!(
                "the hidden size {hidden} is not a multiple of the number of heads ({heads})"
            );
            return Err(GraphError::Inconsistent(problem));
        }
        check_heads(heads, hidden / heads)?;
        if !(self.norm_epsilon > 0.0 && self.norm_epsilon.is_finite()) {
            let problem = "the epsilon of norms must be greater than 0".to_owned();
            return Err(GraphError::Inconsistent(problem));
        }
        Ok(self)
    }
}

/// Returns the GGUF name of `part` in layer `layer`, without the suffix `.weight` or `.bias`.
pub(crate) fn part(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}")
}

/// Returns the name and shape (contiguous dimension first) of each of the model's tensors.
pub(super) fn tensors(shape: &EncoderShape) -> Vec<(String, Vec<usize>)> {
    let (hidden, wide) = (shape.hidden, shape.feed_forward);
    let table = |name: &str, rows| (name.to_owned(), vec![hidden, rows]);
    let weight_and_bias = |name: String, weight: Vec<usize>, bias| {
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
    tensors.extend(weight_and_bias(
        EMBEDDING_NORM.to_owned(),
        vec![hidden],
        hidden,
    ));
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
            tensors.extend(weight_and_bias(part(layer, name), weight, bias));
        }
    }
    tensors
}

/// Translates a tensor name of `BertModel` in `transformers` to the GGUF name. Returns `None` for tensors that are not
/// needed to compute embeddings: position ids, pooler and training heads.
pub(super) fn gguf_name(name: &str) -> Option<String> {
    let name = name.strip_prefix("bert.").unwrap_or(name);
    if name == "embeddings.position_ids" || name.starts_with("pooler.") || name.starts_with("cls.")
    {
        return None;
    }
    let known = match name {
        "embeddings.word_embeddings.weight" => Some(TOKEN_EMBEDDING.to_owned()),
        "embeddings.position_embeddings.weight" => Some(POSITION_EMBEDDING.to_owned()),
        "embeddings.token_type_embeddings.weight" => Some(TOKEN_TYPES.to_owned()),
        _ => layer_tensor(name),
    };
    // Unknown names stay unchanged, so that the error message contains them.
    Some(known.unwrap_or_else(|| name.to_owned()))
}

fn layer_tensor(name: &str) -> Option<String> {
    let (module, kind) = name.rsplit_once('.')?;
    if module == "embeddings.LayerNorm" {
        return Some(format!("{EMBEDDING_NORM}.{kind}"));
    }
    let (layer, module) = module.strip_prefix("encoder.layer.")?.split_once('.')?;
    let name = match module {
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
