//! The shape of a decoder: dimensions, layer options, and the tensors that follow from them. This module reads the
//! header keys that all families share; each family's module sets the options that differ.

use super::{
    Experts, GraphError, Header, OUTPUT, OUTPUT_NORM, TOKEN_EMBEDDING, block, check_heads,
    check_size,
};
use crate::gguf::Optional;

/// The dimensions of a decoder and the options of its layers.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderShape {
    /// Number of layers.
    pub layers: usize,
    /// Hidden size: the width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward network.
    pub feed_forward: usize,
    /// The mixture of experts that replaces the feed-forward network, if any.
    pub experts: Option<Experts>,
    /// Number of query heads.
    pub heads: usize,
    /// Number of key/value heads.
    pub kv_heads: usize,
    /// Number of elements in a query, key or value head.
    pub head_size: usize,
    /// Number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// Context length in training, in tokens.
    pub trained_context: usize,
    /// Added to the mean square in RMS norms.
    pub norm_epsilon: f32,
    /// Factor of the token embeddings, if any.
    pub embedding_scale: Option<f32>,
    /// The rotary embedding of queries and keys in global layers.
    pub rotary: Rotary,
    /// Factor of attention scores, usually `1 / sqrt(head_size)`.
    pub score_scale: f32,
    /// Soft cap of attention scores: `s` becomes `cap · tanh(s / cap)`.
    pub score_softcap: Option<f32>,
    /// Soft cap of logits, with the same formula.
    pub logit_softcap: Option<f32>,
    /// The layers with sliding-window attention, if there are any.
    pub sliding_window: Option<SlidingWindowLayers>,
    /// The activation of the feed-forward network's gate.
    pub activation: Activation,
    /// Whether the query, key and value projections have biases.
    pub qkv_biases: bool,
    /// Whether the queries and keys of each head are normalized before they are rotated.
    pub query_key_norms: bool,
    /// Whether the outputs of attention and feed-forward network are normalized before they are added to the residual
    /// stream.
    pub post_norms: bool,
    /// Whether the file has one tensor for the query, key and value projections, and one for the gate and up
    /// projections.
    pub fused_projections: bool,
    /// Whether the embedding matrix is also the output matrix.
    pub tied_output: bool,
}

/// A rotary position embedding (RoPE): rotates pairs of elements of a head by an angle that depends on the position.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Number of rotated elements: the first elements of each head.
    pub rotated_dims: usize,
    /// Whether the elements of a pair are adjacent (`x₀x₁`). Otherwise they are `rotated_dims / 2` elements apart.
    pub interleaved: bool,
    /// Base of the frequencies: pair `i` has the frequency `base^(-2i / rotated_dims)` before scaling.
    pub base: f32,
    /// RoPE scaling: how frequencies are reduced to extend the context length.
    pub scaling: RotaryScaling,
    /// Factor of cosines and sines (the attention factor of YaRN and LongRoPE).
    pub attention_factor: f32,
}

/// RoPE scaling: how frequencies are reduced to extend the context length.
#[derive(Debug, Clone, PartialEq)]
pub enum RotaryScaling {
    /// No scaling.
    None,
    /// All frequencies are divided by a factor (Chen et al., 2023, "position interpolation").
    Linear(f32),
    /// Low frequencies are divided by `factor`, high frequencies stay unchanged, and frequencies in between are
    /// interpolated (Peng et al., 2023, "YaRN").
    Yarn {
        /// The divisor of low frequencies.
        factor: f32,
        /// Context length before RoPE scaling, in tokens.
        original_context: usize,
        /// Frequencies with at least this number of full rotations within the original context stay unchanged.
        beta_fast: f32,
        /// Frequencies with at most this number of full rotations within the original context are divided by `factor`.
        beta_slow: f32,
    },
    /// Each frequency has its own divisor (Llama 3).
    PerFrequency(Vec<f32>),
    /// Each frequency has a divisor for short contexts and another for long ones (Ding et al., 2024, "LongRoPE").
    LongRope {
        /// The divisors for contexts up to `original_context` tokens.
        short: Vec<f32>,
        /// The divisors for longer contexts.
        long: Vec<f32>,
        /// Context length before RoPE scaling, in tokens.
        original_context: usize,
    },
}

/// The layers with sliding-window attention, in which a token attends to the last `window_tokens` tokens only.
#[derive(Debug, Clone, PartialEq)]
pub struct SlidingWindowLayers {
    /// Number of tokens in the window, including the current one.
    pub window_tokens: usize,
    /// Every n-th layer, counted from 1, is global (without a window); `None` if no layer is global.
    pub global_every: Option<usize>,
    /// The rotary embedding of sliding-window layers.
    pub rotary: Rotary,
}

/// The activation of a feed-forward network's gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`
    Silu = 1,
    /// `x · Φ(x)`, Φ approximated with tanh (Hendrycks and Gimpel, 2016, <https://arxiv.org/abs/1606.08415>).
    GeluTanh = 2,
}

impl DecoderShape {
    /// Reads the header keys that all families share. Sets the other options as in Llama.
    pub(super) fn read(header: &Header<'_>) -> Result<Self, GraphError> {
        let hidden = header.size("embedding_length")?;
        let heads = header.size("attention.head_count")?;
        let head_size = header.size_or("attention.key_length", hidden / heads)?;
        let biased = |part: &str| header.tensors.get(&bias(0, part)).is_some();
        let layers = header.size("block_count")?;
        let feed_forward = header.size("feed_forward_length")?;
        let shape = Self {
            layers,
            hidden,
            feed_forward,
            experts: Experts::read(header, layers, feed_forward)?,
            heads,
            kv_heads: header.size_or("attention.head_count_kv", heads)?,
            head_size,
            vocabulary: header.vocabulary()?,
            trained_context: header.size("context_length")?,
            norm_epsilon: header.positive("attention.layer_norm_rms_epsilon")?,
            embedding_scale: None,
            rotary: Rotary::read(header, head_size)?,
            score_scale: header.positive_or("attention.scale", 1.0 / (head_size as f32).sqrt())?,
            score_softcap: None,
            logit_softcap: None,
            sliding_window: None,
            activation: Activation::Silu,
            qkv_biases: biased("attn_q") || biased("attn_qkv"),
            query_key_norms: false,
            post_norms: false,
            fused_projections: false,
            tied_output: header.tensors.get(OUTPUT).is_none(),
        };
        if !shape.heads.is_multiple_of(shape.kv_heads) {
            return Err(GraphError::Inconsistent(format!(
                "the number of query heads ({}) is not a multiple of the number of key/value heads ({})",
                shape.heads, shape.kv_heads
            )));
        }
        check_heads(shape.heads, head_size)?;
        if header.size_or("attention.value_length", head_size)? != head_size {
            return Err(GraphError::Unsupported(
                "a value head size that differs from the key head size".to_owned(),
            ));
        }
        Ok(shape)
    }

    /// Reads the sliding window size in tokens; `None` if the key is missing or 0.
    pub(super) fn read_window(header: &Header<'_>) -> Result<Option<usize>, GraphError> {
        let key = header.key("attention.sliding_window");
        match header.metadata.count(&key).optional()? {
            None | Some(0) => Ok(None),
            Some(window) => check_size(&key, window).map(Some),
        }
    }

    /// Sets a sliding window in every layer, if the header has a window size.
    pub(super) fn with_window(mut self, header: &Header<'_>) -> Result<Self, GraphError> {
        self.sliding_window = Self::read_window(header)?.map(|window_tokens| SlidingWindowLayers {
            window_tokens,
            global_every: None,
            rotary: self.rotary.clone(),
        });
        Ok(self)
    }

    /// Returns the sliding-window options of layer `layer`; `None` for global layers.
    pub fn sliding_window_of(&self, layer: usize) -> Option<&SlidingWindowLayers> {
        let sliding_window = self.sliding_window.as_ref()?;
        let is_global = |every: usize| (layer + 1).is_multiple_of(every);
        (!sliding_window.global_every.is_some_and(is_global)).then_some(sliding_window)
    }

    /// Returns the name and shape (contiguous dimension first) of each of the model's tensors.
    pub(super) fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let &Self {
            hidden,
            feed_forward: wide,
            head_size,
            ..
        } = self;
        let (query, key) = (self.heads * head_size, self.kv_heads * head_size);
        let mut tensors = vec![
            (TOKEN_EMBEDDING.to_owned(), vec![hidden, self.vocabulary]),
            (OUTPUT_NORM.to_owned(), vec![hidden]),
        ];
        if !self.tied_output {
            tensors.push((OUTPUT.to_owned(), vec![hidden, self.vocabulary]));
        }
        for layer in 0..self.layers {
            let mut add = |part: &str, sizes: &[usize]| {
                tensors.push((block(layer, part), sizes.to_vec()));
            };
            add("attn_norm", &[hidden]);
            add("attn_output", &[query, hidden]);
            add("ffn_norm", &[hidden]);
            match self.fused_projections {
                true => add("attn_qkv", &[hidden, query + 2 * key]),
                false => {
                    add("attn_q", &[hidden, query]);
                    add("attn_k", &[hidden, key]);
                    add("attn_v", &[hidden, key]);
                }
            }
            match self.fused_projections {
                _ if self.experts.is_some() => {}
                true => {
                    add("ffn_up", &[hidden, 2 * wide]);
                    add("ffn_down", &[wide, hidden]);
                }
                false => {
                    add("ffn_gate", &[hidden, wide]);
                    add("ffn_up", &[hidden, wide]);
                    add("ffn_down", &[wide, hidden]);
                }
            }
            if self.query_key_norms {
                add("attn_q_norm", &[head_size]);
                add("attn_k_norm", &[head_size]);
            }
            if self.post_norms {
                add("post_attention_norm", &[hidden]);
                add("post_ffw_norm", &[hidden]);
            }
            if let Some(experts) = &self.experts {
                tensors.extend(experts.tensors(layer, hidden));
            }
            if self.qkv_biases {
                let sizes = match self.fused_projections {
                    true => vec![("attn_qkv", query + 2 * key)],
                    false => vec![("attn_q", query), ("attn_k", key), ("attn_v", key)],
                };
                let biases = sizes.into_iter();
                tensors.extend(biases.map(|(part, size)| (bias(layer, part), vec![size])));
            }
        }
        tensors
    }
}

impl Rotary {
    /// Reads the rotary embedding from the header.
    fn read(header: &Header<'_>, head_size: usize) -> Result<Self, GraphError> {
        let rotated_dims = header.size_or("rope.dimension_count", head_size)?;
        if !rotated_dims.is_multiple_of(2) || rotated_dims > head_size {
            return Err(GraphError::Inconsistent(format!(
                "{rotated_dims} of {head_size} values of a head cannot be rotated in pairs"
            )));
        }
        let scaling = RotaryScaling::read(header, rotated_dims / 2)?;
        let attention_factor = header.positive_or("rope.scaling.attn_factor", 1.0)?;
        Ok(Self {
            rotated_dims,
            interleaved: true,
            base: header.positive_or("rope.freq_base", 10_000.0)?,
            attention_factor: match scaling {
                RotaryScaling::Yarn { factor, .. } => attention_factor * (1.0 + 0.1 * factor.ln()),
                _ => attention_factor,
            },
            scaling,
        })
    }

    /// Returns the same embedding with pairs that are not adjacent, as in all files except GGUF files of the
    /// architecture `llama`.
    pub(super) fn in_halves(self) -> Self {
        Self {
            interleaved: false,
            ..self
        }
    }
}

/// GGUF names of tensors with frequency divisors: Llama 3's, then LongRoPE's for short and for long contexts.
pub(crate) const ROTARY_DIVISORS: [&str; 3] = [
    "rope_freqs.weight",
    "rope_factors_short.weight",
    "rope_factors_long.weight",
];

impl RotaryScaling {
    fn read(header: &Header<'_>, pairs: usize) -> Result<Self, GraphError> {
        let [divisors, short, long] = ROTARY_DIVISORS.map(|name| {
            let values = match header.transformers {
                None => header.tensors.get(name)?.dequantized(),
                Some(transformers) => transformers.divisors(name)?.to_vec(),
            };
            let checked = match values.len() == pairs {
                true => Ok(values),
                false => Err(GraphError::Shape {
                    name: name.to_owned(),
                    found: vec![values.len()],
                    expected: vec![pairs],
                }),
            };
            Some(
                checked.and_then(|values| match values.iter().all(|value| *value > 0.0) {
                    true => Ok(values),
                    false => Err(GraphError::Inconsistent(format!(
                        "\"{name}\" has a value that is not greater than 0"
                    ))),
                }),
            )
        });
        // If the key is missing, the context length was not extended.
        let original_context = || {
            let context = header.size("context_length")?;
            header.size_or("rope.scaling.original_context_length", context)
        };
        if let (Some(short), Some(long)) = (short, long) {
            return Ok(Self::LongRope {
                short: short?,
                long: long?,
                original_context: original_context()?,
            });
        }
        if let Some(divisors) = divisors {
            return divisors.map(Self::PerFrequency);
        }
        // Older files store the factor at another key.
        let default_factor = header.positive_or("rope.scale_linear", 1.0)?;
        let factor = header.positive_or("rope.scaling.factor", default_factor)?;
        let kind = header
            .metadata
            .string(&header.key("rope.scaling.type"))
            .optional()?;
        match kind {
            None if factor == 1.0 => Ok(Self::None),
            Some("none") => Ok(Self::None),
            None | Some("linear") => Ok(Self::Linear(factor)),
            Some("yarn") => Ok(Self::Yarn {
                factor,
                original_context: original_context()?,
                beta_fast: header.positive_or("rope.scaling.yarn_beta_fast", 32.0)?,
                beta_slow: header.positive_or("rope.scaling.yarn_beta_slow", 1.0)?,
            }),
            Some(other) => Err(GraphError::Unsupported(format!(
                "the RoPE scaling \"{other}\""
            ))),
        }
    }
}

/// Returns the GGUF name of the bias of projection `part` in layer `layer`.
pub(crate) fn bias(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}.bias")
}
