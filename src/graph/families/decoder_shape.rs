//! The sizes of a decoder and what its layers are made of: read from a header's keys that all families have, with the
//! tensors that follow from it. What a family has of its own is in its file.

use super::{
    Experts, GraphError, Header, OUTPUT, OUTPUT_NORM, TOKEN_EMBEDDING, block, check_heads, in_range,
};
use crate::gguf::Optional;

/// A decoder's sizes, and how its layers differ from llama's.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderShape {
    /// Decoder blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward network.
    pub feed_forward: usize,
    /// What there is in its place, if anything is.
    pub experts: Option<Experts>,
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
    /// Multiplies the rows of the embedding matrix, if anything does.
    pub embedding_scale: Option<f32>,
    /// How positions turn queries and keys.
    pub rotary: Rotary,
    /// Multiplies the products of queries and keys.
    pub score_scale: f32,
    /// Bounds scores: `s` becomes `cap · tanh(s / cap)`.
    pub score_cap: Option<f32>,
    /// Bounds logits likewise.
    pub logit_cap: Option<f32>,
    /// Layers that see only what is near.
    pub local: Option<LocalLayers>,
    /// What the feed-forward network's gate goes through.
    pub activation: Activation,
    /// Whether something is added to queries, keys and values.
    pub biases: bool,
    /// Whether each head's queries and keys are normed before they are turned.
    pub query_key_norms: bool,
    /// Whether what a layer adds to the residual stream is normed before.
    pub post_norms: bool,
    /// Whether queries, keys and values are one tensor in the file, and gate and up are.
    pub fused: bool,
    /// Whether the output matrix is the embedding matrix.
    pub tied_output: bool,
}

/// How a position turns a head's first values, in pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotary {
    /// Values of a head that are turned.
    pub rotated: usize,
    /// Whether pairs are neighbours (`x₀x₁`) or half of the rotated values apart.
    pub interleaved: bool,
    /// Base of the frequencies.
    pub base: f32,
    /// What makes them lower, for a longer context than was trained first.
    pub scaling: RotaryScaling,
    /// Multiplies what was turned.
    pub magnitude: f32,
}

/// How frequencies are made lower.
#[derive(Debug, Clone, PartialEq)]
pub enum RotaryScaling {
    /// They are not.
    None,
    /// All are divided by a factor (Chen et al., 2023, "position interpolation").
    Linear(f32),
    /// The low ones are divided by the factor, the high ones not, those between in part (Peng et al., 2023).
    Yarn {
        /// The divisor of the lowest.
        factor: f32,
        /// Tokens of context before the extension.
        trained: usize,
        /// Turns within that context from which on a frequency stays as it is.
        fast: f32,
        /// Turns up to which it is divided by the whole factor.
        slow: f32,
    },
    /// Each is divided by a number of its own (Llama 3).
    Divided(Vec<f32>),
    /// Each is divided by one number in short contexts and by another in long ones (Ding et al., 2024, "LongRoPE").
    Long {
        /// The divisors up to `trained` tokens of context.
        short: Vec<f32>,
        /// The divisors beyond.
        long: Vec<f32>,
        /// Tokens of context before the extension.
        trained: usize,
    },
}

/// Layers in which a token sees its own place and some before it.
#[derive(Debug, Clone, PartialEq)]
pub struct LocalLayers {
    /// Places that a token sees, its own among them.
    pub window: usize,
    /// Layers whose number, counted from 1, is a multiple of it see all; without it, none does.
    pub all_seeing: Option<usize>,
    /// How positions turn queries and keys in them.
    pub rotary: Rotary,
}

/// What a feed-forward network's gate goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `x · sigmoid(x)`
    Silu = 1,
    /// `x · Φ(x)`, Φ by way of tanh (Hendrycks and Gimpel, 2016, <https://arxiv.org/abs/1606.08415>).
    GeluTanh = 2,
}

impl DecoderShape {
    /// What the keys say that all families have; the rest as llama has it.
    pub(super) fn read(header: &Header<'_>) -> Result<Self, GraphError> {
        let hidden = header.size("embedding_length")?;
        let heads = header.size("attention.head_count")?;
        let head_size = header.optional("attention.key_length", hidden / heads)?;
        let biased = |part: &str| header.tensors.get(&bias(0, part)).is_some();
        let layers = header.size("block_count")?;
        let feed_forward = header.size("feed_forward_length")?;
        let shape = Self {
            layers,
            hidden,
            feed_forward,
            experts: Experts::read(header, layers, feed_forward)?,
            heads,
            kv_heads: header.optional("attention.head_count_kv", heads)?,
            head_size,
            vocabulary: header.vocabulary()?,
            trained_context: header.size("context_length")?,
            norm_epsilon: header.above_zero("attention.layer_norm_rms_epsilon")?,
            embedding_scale: None,
            rotary: Rotary::read(header, head_size)?,
            score_scale: header
                .above_zero_or("attention.scale", 1.0 / (head_size as f32).sqrt())?,
            score_cap: None,
            logit_cap: None,
            local: None,
            activation: Activation::Silu,
            biases: biased("attn_q") || biased("attn_qkv"),
            query_key_norms: false,
            post_norms: false,
            fused: false,
            tied_output: header.tensors.get(OUTPUT).is_none(),
        };
        if !shape.heads.is_multiple_of(shape.kv_heads) {
            return Err(GraphError::Inconsistent(format!(
                "{} query heads cannot share {} key heads evenly",
                shape.heads, shape.kv_heads
            )));
        }
        check_heads(shape.heads, head_size)?;
        if header.optional("attention.value_length", head_size)? != head_size {
            return Err(GraphError::Unsupported(
                "a value head that is not as wide as a key head".to_owned(),
            ));
        }
        Ok(shape)
    }

    /// The window that the header names, if it does and it is narrower than everything.
    pub(super) fn window(header: &Header<'_>) -> Result<Option<usize>, GraphError> {
        let key = header.key("attention.sliding_window");
        match header.metadata.count(&key).optional()? {
            None | Some(0) => Ok(None),
            Some(window) => in_range(&key, window).map(Some),
        }
    }

    /// Lets every layer see only what is near, if the header names a window.
    pub(super) fn with_window(mut self, header: &Header<'_>) -> Result<Self, GraphError> {
        self.local = Self::window(header)?.map(|window| LocalLayers {
            window,
            all_seeing: None,
            rotary: self.rotary.clone(),
        });
        Ok(self)
    }

    /// The layer's own, if it sees only what is near.
    pub fn local(&self, layer: usize) -> Option<&LocalLayers> {
        let local = self.local.as_ref()?;
        let all_seeing = |every: usize| (layer + 1).is_multiple_of(every);
        (!local.all_seeing.is_some_and(all_seeing)).then_some(local)
    }

    /// The tensors of such a model, each with its sizes, contiguous dimension first.
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
            match self.fused {
                true => add("attn_qkv", &[hidden, query + 2 * key]),
                false => {
                    add("attn_q", &[hidden, query]);
                    add("attn_k", &[hidden, key]);
                    add("attn_v", &[hidden, key]);
                }
            }
            match self.fused {
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
            if self.biases {
                let sizes = match self.fused {
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
    /// What the header says of it.
    fn read(header: &Header<'_>, head_size: usize) -> Result<Self, GraphError> {
        let rotated = header.optional("rope.dimension_count", head_size)?;
        if !rotated.is_multiple_of(2) || rotated > head_size {
            return Err(GraphError::Inconsistent(format!(
                "{rotated} values of a head of {head_size} cannot be rotated in pairs"
            )));
        }
        let scaling = RotaryScaling::read(header, rotated / 2)?;
        let magnitude = header.above_zero_or("rope.scaling.attn_factor", 1.0)?;
        Ok(Self {
            rotated,
            interleaved: true,
            base: header.above_zero_or("rope.freq_base", 10_000.0)?,
            magnitude: match scaling {
                RotaryScaling::Yarn { factor, .. } => magnitude * (1.0 + 0.1 * factor.ln()),
                _ => magnitude,
            },
            scaling,
        })
    }

    /// With pairs half of the rotated values apart: as the papers have it, and all but llama's files.
    pub(super) fn in_halves(self) -> Self {
        Self {
            interleaved: false,
            ..self
        }
    }
}

/// The divisors of frequencies in Llama 3's files, and for short and for long contexts.
pub(crate) const ROTARY_DIVISORS: [&str; 3] = [
    "rope_freqs.weight",
    "rope_factors_short.weight",
    "rope_factors_long.weight",
];

impl RotaryScaling {
    fn read(header: &Header<'_>, pairs: usize) -> Result<Self, GraphError> {
        let [divided, short, long] = ROTARY_DIVISORS.map(|name| {
            let values = match header.hub {
                None => header.tensors.get(name)?.dequantised(),
                Some(hub) => hub.divisors(name)?.to_vec(),
            };
            let checked = match values.len() == pairs {
                true => Ok(values),
                false => Err(GraphError::Shape {
                    name: name.to_owned(),
                    found: vec![values.len()],
                    wanted: vec![pairs],
                }),
            };
            Some(
                checked.and_then(|values| match values.iter().all(|value| *value > 0.0) {
                    true => Ok(values),
                    false => Err(GraphError::Inconsistent(format!(
                        "\"{name}\" is to be above 0"
                    ))),
                }),
            )
        });
        // Without the key, the model was trained for the context that it names.
        let trained = || {
            let context = header.size("context_length")?;
            header.optional("rope.scaling.original_context_length", context)
        };
        if let (Some(short), Some(long)) = (short, long) {
            return Ok(Self::Long {
                short: short?,
                long: long?,
                trained: trained()?,
            });
        }
        if let Some(divided) = divided {
            return divided.map(Self::Divided);
        }
        // The older key of the two.
        let older = header.above_zero_or("rope.scale_linear", 1.0)?;
        let factor = header.above_zero_or("rope.scaling.factor", older)?;
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
                trained: trained()?,
                fast: header.above_zero_or("rope.scaling.yarn_beta_fast", 32.0)?,
                slow: header.above_zero_or("rope.scaling.yarn_beta_slow", 1.0)?,
            }),
            Some(other) => Err(GraphError::Unsupported(format!("rope scaling \"{other}\""))),
        }
    }
}

/// The name of what is added to the product with `part` of block `layer`.
pub(crate) fn bias(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}.bias")
}
