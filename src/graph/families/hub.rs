//! `config.json` as the hub has it → the keys that GGUF's converter would write, so that a family reads one kind of header;
//! and the hub's names of tensors → GGUF's (`names`).
//!
//! Source: the configurations of `transformers`' models, in its versions 4 and 5.

mod names;

use std::f64::consts::TAU;

use serde::Deserialize;
use serde_json::Value as Json;

use super::GraphError;
use super::decoder_shape::ROTARY_DIVISORS;
use crate::gguf::{Metadata, Value};

pub(super) use names::standard_name;

/// The families of decoders: the hub's `model_type`, and GGUF's name.
const MODEL_TYPES: [(&str, &str); 10] = [
    ("llama", "llama"),
    ("mistral", "llama"),
    ("mixtral", "llama"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("qwen3_moe", "qwen3moe"),
    ("gemma", "gemma"),
    ("gemma2", "gemma2"),
    ("gemma3_text", "gemma3"),
    ("phi3", "phi3"),
];

/// Most values of a head that are rotated: their divisors are reckoned before the tensors are looked at.
const MOST_ROTATED: u64 = 1 << 16;

/// GGUF's name of the family, if it is a decoder of ours.
pub(super) fn family(model_type: &str) -> Option<&'static str> {
    let mut known = MODEL_TYPES.iter();
    known.find_map(|(hub, family)| (*hub == model_type).then_some(*family))
}

/// What `config.json` says, and what GGUF files have as tensors.
pub(super) struct HubHeader {
    pub(super) metadata: Metadata,
    /// Those of [`ROTARY_DIVISORS`] that there are.
    divisors: Vec<(&'static str, Vec<f32>)>,
    /// Whether the output matrix is the embedding matrix, whatever the files have.
    pub(super) tied_output: bool,
}

impl HubHeader {
    /// The divisors of that name.
    pub(super) fn divisors(&self, name: &str) -> Option<&[f32]> {
        let mut divisors = self.divisors.iter();
        divisors.find_map(|(of, values)| (*of == name).then_some(values.as_slice()))
    }
}

#[derive(Deserialize)]
struct Config {
    num_hidden_layers: u64,
    hidden_size: u64,
    intermediate_size: u64,
    num_attention_heads: u64,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    vocab_size: u64,
    max_position_embeddings: u64,
    rms_norm_eps: f64,
    #[serde(alias = "hidden_activation")]
    hidden_act: Option<String>,
    tie_word_embeddings: Option<bool>,
    sliding_window: Option<u64>,
    use_sliding_window: Option<bool>,
    layer_types: Option<Vec<String>>,
    #[serde(alias = "_sliding_window_pattern")]
    sliding_window_pattern: Option<u64>,
    query_pre_attn_scalar: Option<f64>,
    attn_logit_softcapping: Option<f64>,
    final_logit_softcapping: Option<f64>,
    partial_rotary_factor: Option<f64>,
    original_max_position_embeddings: Option<u64>,
    #[serde(alias = "num_experts")]
    num_local_experts: Option<u64>,
    num_experts_per_tok: Option<u64>,
    moe_intermediate_size: Option<u64>,
    norm_topk_prob: Option<bool>,
    decoder_sparse_step: Option<u64>,
    #[serde(default)]
    mlp_only_layers: Vec<u64>,
    rope_theta: Option<f64>,
    rope_local_base_freq: Option<f64>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Ropes>,
}

/// How positions turn queries and keys: of all layers, or of each kind.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ropes {
    Kinds {
        full_attention: Box<Rope>,
        sliding_attention: Box<Rope>,
    },
    All(Box<Rope>),
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Rope {
    rope_theta: Option<f64>,
    rope_type: Option<String>,
    r#type: Option<String>,
    factor: Option<f64>,
    original_max_position_embeddings: Option<u64>,
    partial_rotary_factor: Option<f64>,
    attention_factor: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    short_factor: Option<Vec<f32>>,
    long_factor: Option<Vec<f32>>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
}

/// The header of a model of the family `family`.
///
/// # Errors
/// The configuration is malformed, or says what is not ours.
pub(super) fn header(family: &str, config: &Json) -> Result<HubHeader, GraphError> {
    let malformed = |error| GraphError::Inconsistent(format!("config.json: {error}"));
    // Two spellings of one field at once, as some have them, are one.
    let mut config = config.clone();
    if let Json::Object(fields) = &mut config {
        fields.retain(|_, value| !value.is_null());
        for (other, usual) in [
            ("hidden_activation", "hidden_act"),
            ("_sliding_window_pattern", "sliding_window_pattern"),
            ("num_experts", "num_local_experts"),
        ] {
            if fields.contains_key(other) {
                fields.remove(usual);
            }
        }
    }
    let config = Config::deserialize(config).map_err(malformed)?;
    config.check(family)?;
    config.header(family)
}

impl Config {
    /// Refuses what would compute otherwise.
    fn check(&self, family: &str) -> Result<(), GraphError> {
        let unsupported = |what: String| Err(GraphError::Unsupported(what));
        let gemma = family.starts_with("gemma");
        let usual = match gemma {
            true => ["gelu_pytorch_tanh", "gelu"],
            false => ["silu", "swish"],
        };
        match self.hidden_act.as_deref() {
            // Gemma 1's first files said `gelu` and meant its approximation.
            Some(other) if !usual.contains(&other) => {
                return unsupported(format!("the activation \"{other}\""));
            }
            _ => {}
        }
        if self.use_sliding_window == Some(true) {
            return unsupported("a window in a part of the layers".to_owned());
        }
        if self.decoder_sparse_step.unwrap_or(1) != 1 || !self.mlp_only_layers.is_empty() {
            return unsupported("a mixture of experts in a part of the layers".to_owned());
        }
        let all_seeing = match family {
            "gemma2" => 2,
            "gemma3" => 6,
            _ => return Ok(()),
        };
        let pattern = self.sliding_window_pattern.unwrap_or(all_seeing);
        let as_usual = |(place, kind): (u64, &String)| {
            let sees_all = (place + 1).is_multiple_of(all_seeing);
            (kind == "full_attention") == sees_all
        };
        let mut kinds = (0..).zip(self.layer_types.iter().flatten());
        match pattern == all_seeing && kinds.all(as_usual) {
            true => Ok(()),
            false => unsupported("another order of local and global layers".to_owned()),
        }
    }

    fn header(&self, family: &str) -> Result<HubHeader, GraphError> {
        let none = Rope::default();
        let (rope, local) = match &self.rope_parameters {
            Some(Ropes::All(rope)) => (&**rope, None),
            Some(Ropes::Kinds {
                full_attention,
                sliding_attention,
            }) => (&**full_attention, Some(&**sliding_attention)),
            None => (self.rope_scaling.as_ref().unwrap_or(&none), None),
        };
        let mut keys = Keys {
            family,
            metadata: Metadata::default(),
        };
        keys.count("block_count", Some(self.num_hidden_layers));
        keys.count("embedding_length", Some(self.hidden_size));
        keys.count("feed_forward_length", Some(self.intermediate_size));
        keys.count("attention.head_count", Some(self.num_attention_heads));
        keys.count("attention.head_count_kv", self.num_key_value_heads);
        // Gemma's width is not that of its heads together.
        let head_size = match (self.head_dim, self.num_attention_heads) {
            (Some(size), _) => size,
            (None, _) if family.starts_with("gemma") => 256,
            (None, 0) => 0,
            (None, heads) => self.hidden_size / heads,
        };
        keys.count("attention.key_length", Some(head_size));
        keys.count("vocab_size", Some(self.vocab_size));
        keys.count("context_length", Some(self.max_position_embeddings));
        keys.number("attention.layer_norm_rms_epsilon", Some(self.rms_norm_eps));
        keys.count("attention.sliding_window", self.sliding_window);
        let scale = self.query_pre_attn_scalar.map(|scalar| scalar.powf(-0.5));
        keys.number("attention.scale", scale);
        keys.number("attn_logit_softcapping", self.attn_logit_softcapping);
        keys.number("final_logit_softcapping", self.final_logit_softcapping);
        self.experts(&mut keys);
        let base = rope.rope_theta.or(self.rope_theta);
        keys.number("rope.freq_base", base);
        let local_base = local.and_then(|rope| rope.rope_theta);
        let local_base = local_base.or(self.rope_local_base_freq);
        keys.number("rope.freq_base_swa", local_base);
        let share = rope.partial_rotary_factor.or(self.partial_rotary_factor);
        let rotated = share.map_or(head_size, |share| (head_size as f64 * share) as u64);
        if rotated > MOST_ROTATED {
            return Err(GraphError::Inconsistent(format!(
                "config.json: {rotated} values of a head are rotated; {MOST_ROTATED} is the most"
            )));
        }
        keys.count("rope.dimension_count", Some(rotated));
        let trained = rope
            .original_max_position_embeddings
            .or(self.original_max_position_embeddings)
            .unwrap_or(self.max_position_embeddings);
        keys.count("rope.scaling.original_context_length", Some(trained));
        let context = Context {
            pairs: rotated / 2,
            base: base.unwrap_or(10_000.0),
            trained: trained as f64,
            whole: self.max_position_embeddings as f64,
        };
        let divisors = rope.scaling(&context, &mut keys)?;
        Ok(HubHeader {
            metadata: keys.metadata,
            divisors,
            tied_output: self
                .tie_word_embeddings
                .unwrap_or(family.starts_with("gemma")),
        })
    }
}

impl Config {
    /// Puts the experts' keys to the others, if there are any.
    fn experts(&self, keys: &mut Keys<'_>) {
        if self.num_local_experts.is_none() {
            return;
        }
        keys.count("expert_count", self.num_local_experts);
        keys.count("expert_used_count", self.num_experts_per_tok);
        keys.count("expert_feed_forward_length", self.moe_intermediate_size);
        // Mixtral knows no other way; what Qwen's configurations do not say is that the shares stay as they are.
        let usual = keys.family == "llama";
        let normalised = Value::Bool(self.norm_topk_prob.unwrap_or(usual));
        keys.insert("expert_weights_norm", normalised);
    }
}

/// What a scaling is reckoned from.
struct Context {
    pairs: u64,
    base: f64,
    /// Tokens before the extension.
    trained: f64,
    /// Tokens with it.
    whole: f64,
}

impl Rope {
    /// Puts the scaling's keys to the others, and answers the divisors that there are.
    fn scaling(
        &self,
        context: &Context,
        keys: &mut Keys<'_>,
    ) -> Result<Vec<(&'static str, Vec<f32>)>, GraphError> {
        let [divided, short, long] = ROTARY_DIVISORS;
        let needed = |name: &str, value: Option<f64>| {
            let missing = || {
                GraphError::Inconsistent(format!("config.json: the rope scaling has no \"{name}\""))
            };
            value.ok_or_else(missing)
        };
        let kind = self.rope_type.as_deref().or(self.r#type.as_deref());
        match kind {
            None | Some("default") => Ok(Vec::new()),
            Some("linear") => {
                keys.text("rope.scaling.type", "linear");
                let factor = needed("factor", self.factor)?;
                keys.number("rope.scaling.factor", Some(factor));
                Ok(Vec::new())
            }
            Some("yarn") if self.mscale.is_none() && self.mscale_all_dim.is_none() => {
                let factor = needed("factor", self.factor)?;
                keys.text("rope.scaling.type", "yarn");
                keys.number("rope.scaling.factor", Some(factor));
                keys.number("rope.scaling.yarn_beta_fast", self.beta_fast);
                keys.number("rope.scaling.yarn_beta_slow", self.beta_slow);
                // The key is what the paper's factor is multiplied with.
                let share = self
                    .attention_factor
                    .map(|whole| whole / (1.0 + 0.1 * factor.ln()));
                keys.number("rope.scaling.attn_factor", share);
                Ok(Vec::new())
            }
            Some("llama3") => {
                let factor = needed("factor", self.factor)?;
                let low = needed("low_freq_factor", self.low_freq_factor)?;
                let high = needed("high_freq_factor", self.high_freq_factor)?;
                let divisor = |pair: u64| {
                    let frequency = context.base.powf(-(pair as f64) / context.pairs as f64);
                    let turns = context.trained * frequency / TAU;
                    let share = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                    1.0 / ((1.0 - share) / factor + share)
                };
                let divisors = (0..context.pairs).map(|pair| divisor(pair) as f32);
                Ok(vec![(divided, divisors.collect())])
            }
            Some("longrope") => {
                let extension = self.factor.unwrap_or(context.whole / context.trained);
                let usual = match extension > 1.0 {
                    true => (1.0 + extension.ln() / context.trained.ln()).sqrt(),
                    false => 1.0,
                };
                let magnitude = self.attention_factor.unwrap_or(usual);
                keys.number("rope.scaling.attn_factor", Some(magnitude));
                let lists = [(short, &self.short_factor), (long, &self.long_factor)];
                lists
                    .into_iter()
                    .map(|(name, values)| match values {
                        Some(values) if values.len() as u64 == context.pairs => {
                            Ok((name, values.clone()))
                        }
                        _ => Err(GraphError::Inconsistent(format!(
                            "config.json: the rope scaling is to have {} factors for short and as many for long \
                             contexts",
                            context.pairs
                        ))),
                    })
                    .collect()
            }
            Some(other) => Err(GraphError::Unsupported(format!("rope scaling \"{other}\""))),
        }
    }
}

/// GGUF's keys under a family's name.
struct Keys<'a> {
    family: &'a str,
    metadata: Metadata,
}

impl Keys<'_> {
    fn insert(&mut self, key: &str, value: Value) {
        self.metadata
            .insert(format!("{}.{key}", self.family), value);
    }

    fn count(&mut self, key: &str, value: Option<u64>) {
        if let Some(value) = value {
            self.insert(key, Value::Unsigned(value));
        }
    }

    fn number(&mut self, key: &str, value: Option<f64>) {
        if let Some(value) = value {
            self.insert(key, Value::Float(value));
        }
    }

    fn text(&mut self, key: &str, value: &str) {
        self.insert(key, Value::String(value.to_owned()));
    }
}
