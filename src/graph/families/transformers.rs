//! Translates the `config.json` of Hugging Face transformers to the metadata keys that GGUF converters write, so that
//! families read a single header format. Submodule `tensor_names` translates tensor names.
//!
//! Source: the model configurations of `transformers`, versions 4 and 5.

mod tensor_names;

use std::f64::consts::TAU;

use serde::Deserialize;
use serde_json::Value as Json;

use super::GraphError;
use super::decoder_shape::ROTARY_DIVISORS;
use crate::gguf::{Metadata, Value};

pub(super) use tensor_names::gguf_name;

/// The decoder families: `model_type` in transformers, and `general.architecture` in GGUF.
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

/// Maximum number of rotated elements of a head. Limits memory, because frequency divisors are computed before the
/// tensors are checked.
const MAX_ROTATED_DIMS: u64 = 1 << 16;

/// Returns the GGUF name of the family; `None` if `model_type` is not a supported decoder.
pub(super) fn family(model_type: &str) -> Option<&'static str> {
    let mut known = MODEL_TYPES.iter();
    known.find_map(|(name, family)| (*name == model_type).then_some(*family))
}

/// A translated `config.json`: metadata, and values that GGUF files store as tensors.
pub(super) struct TransformersHeader {
    pub(super) metadata: Metadata,
    /// RoPE frequency divisors, by tensor name in [`ROTARY_DIVISORS`].
    divisors: Vec<(&'static str, Vec<f32>)>,
    /// Whether the embedding matrix is also the output matrix, even if the files contain an output matrix.
    pub(super) tied_output: bool,
}

impl TransformersHeader {
    /// Returns the frequency divisors with the tensor name `name`, if there are any.
    pub(super) fn divisors(&self, name: &str) -> Option<&[f32]> {
        let mut divisors = self.divisors.iter();
        divisors.find_map(|(known, values)| (*known == name).then_some(values.as_slice()))
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
    rope_scaling: Option<RopeConfig>,
    rope_parameters: Option<RopeParameters>,
}

/// RoPE options for each layer type, or for all layers.
#[derive(Deserialize)]
#[serde(untagged)]
enum RopeParameters {
    PerLayerType {
        full_attention: Box<RopeConfig>,
        sliding_attention: Box<RopeConfig>,
    },
    Shared(Box<RopeConfig>),
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RopeConfig {
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

/// Translates `config` to the header of a model of the family `family`.
///
/// # Errors
/// If the configuration is malformed or needs an unsupported feature.
pub(super) fn header(family: &str, config: &Json) -> Result<TransformersHeader, GraphError> {
    let malformed = |error| GraphError::Inconsistent(format!("config.json: {error}"));
    // Some configurations contain both a field and its alias, which serde would reject as a duplicate.
    let mut config = config.clone();
    if let Json::Object(fields) = &mut config {
        fields.retain(|_, value| !value.is_null());
        for (alias, name) in [
            ("hidden_activation", "hidden_act"),
            ("_sliding_window_pattern", "sliding_window_pattern"),
            ("num_experts", "num_local_experts"),
        ] {
            if fields.contains_key(alias) {
                fields.remove(name);
            }
        }
    }
    let config = Config::deserialize(config).map_err(malformed)?;
    config.check(family)?;
    config.header(family)
}

impl Config {
    /// Rejects unsupported features.
    fn check(&self, family: &str) -> Result<(), GraphError> {
        let unsupported = |feature: String| Err(GraphError::Unsupported(feature));
        let gemma = family.starts_with("gemma");
        let supported = match gemma {
            true => ["gelu_pytorch_tanh", "gelu"],
            false => ["silu", "swish"],
        };
        match self.hidden_act.as_deref() {
            // Early Gemma 1 files contain `gelu`, but mean the tanh approximation of GELU.
            Some(other) if !supported.contains(&other) => {
                return unsupported(format!("the activation \"{other}\""));
            }
            _ => {}
        }
        if self.use_sliding_window == Some(true) {
            return unsupported("a sliding window in only some of the layers".to_owned());
        }
        if self.decoder_sparse_step.unwrap_or(1) != 1 || !self.mlp_only_layers.is_empty() {
            return unsupported("a mixture of experts in only some of the layers".to_owned());
        }
        let global_every = match family {
            "gemma2" => 2,
            "gemma3" => 6,
            _ => return Ok(()),
        };
        let pattern = self.sliding_window_pattern.unwrap_or(global_every);
        let is_supported = |(layer, kind): (u64, &String)| {
            let is_global = (layer + 1).is_multiple_of(global_every);
            (kind == "full_attention") == is_global
        };
        let mut kinds = (0..).zip(self.layer_types.iter().flatten());
        match pattern == global_every && kinds.all(is_supported) {
            true => Ok(()),
            false => unsupported("this order of sliding-window and global layers".to_owned()),
        }
    }

    fn header(&self, family: &str) -> Result<TransformersHeader, GraphError> {
        let no_scaling = RopeConfig::default();
        let (rope, sliding_window_rope) = match &self.rope_parameters {
            Some(RopeParameters::Shared(rope)) => (&**rope, None),
            Some(RopeParameters::PerLayerType {
                full_attention,
                sliding_attention,
            }) => (&**full_attention, Some(&**sliding_attention)),
            None => (self.rope_scaling.as_ref().unwrap_or(&no_scaling), None),
        };
        let mut keys = GgufKeys {
            family,
            metadata: Metadata::default(),
        };
        keys.count("block_count", Some(self.num_hidden_layers));
        keys.count("embedding_length", Some(self.hidden_size));
        keys.count("feed_forward_length", Some(self.intermediate_size));
        keys.count("attention.head_count", Some(self.num_attention_heads));
        keys.count("attention.head_count_kv", self.num_key_value_heads);
        // In Gemma, the hidden size is not the head size multiplied by the number of heads.
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
        let sliding_window_base = sliding_window_rope.and_then(|rope| rope.rope_theta);
        let sliding_window_base = sliding_window_base.or(self.rope_local_base_freq);
        keys.number("rope.freq_base_swa", sliding_window_base);
        let fraction = rope.partial_rotary_factor.or(self.partial_rotary_factor);
        let rotated_dims = fraction.map_or(head_size, |part| (head_size as f64 * part) as u64);
        if rotated_dims > MAX_ROTATED_DIMS {
            return Err(GraphError::Inconsistent(format!(
                "config.json: {rotated_dims} rotated values of a head; the maximum is {MAX_ROTATED_DIMS}"
            )));
        }
        keys.count("rope.dimension_count", Some(rotated_dims));
        let original_context = rope
            .original_max_position_embeddings
            .or(self.original_max_position_embeddings)
            .unwrap_or(self.max_position_embeddings);
        keys.count(
            "rope.scaling.original_context_length",
            Some(original_context),
        );
        let scaling = ScalingInputs {
            pairs: rotated_dims / 2,
            base: base.unwrap_or(10_000.0),
            original_context: original_context as f64,
            extended_context: self.max_position_embeddings as f64,
        };
        let divisors = rope.scaling(&scaling, &mut keys)?;
        Ok(TransformersHeader {
            metadata: keys.metadata,
            divisors,
            tied_output: self
                .tie_word_embeddings
                .unwrap_or(family.starts_with("gemma")),
        })
    }
}

impl Config {
    /// Adds the keys of the mixture of experts, if the model has one.
    fn experts(&self, keys: &mut GgufKeys<'_>) {
        if self.num_local_experts.is_none() {
            return;
        }
        keys.count("expert_count", self.num_local_experts);
        keys.count("expert_used_count", self.num_experts_per_tok);
        keys.count("expert_feed_forward_length", self.moe_intermediate_size);
        // Mixtral always normalizes routing weights. Qwen normalizes them only if the configuration says so.
        let default = keys.family == "llama";
        let normalized = Value::Bool(self.norm_topk_prob.unwrap_or(default));
        keys.insert("expert_weights_norm", normalized);
    }
}

/// The model parameters that RoPE scaling depends on.
struct ScalingInputs {
    pairs: u64,
    base: f64,
    /// Context length before RoPE scaling, in tokens.
    original_context: f64,
    /// Context length with RoPE scaling, in tokens.
    extended_context: f64,
}

impl RopeConfig {
    /// Adds the keys of RoPE scaling. Returns the frequency divisors by tensor name.
    fn scaling(
        &self,
        inputs: &ScalingInputs,
        keys: &mut GgufKeys<'_>,
    ) -> Result<Vec<(&'static str, Vec<f32>)>, GraphError> {
        let [per_frequency, short, long] = ROTARY_DIVISORS;
        let required = |name: &str, value: Option<f64>| {
            let missing = || {
                GraphError::Inconsistent(format!("config.json: the RoPE scaling has no \"{name}\""))
            };
            value.ok_or_else(missing)
        };
        let kind = self.rope_type.as_deref().or(self.r#type.as_deref());
        match kind {
            None | Some("default") => Ok(Vec::new()),
            Some("linear") => {
                keys.text("rope.scaling.type", "linear");
                let factor = required("factor", self.factor)?;
                keys.number("rope.scaling.factor", Some(factor));
                Ok(Vec::new())
            }
            Some("yarn") if self.mscale.is_none() && self.mscale_all_dim.is_none() => {
                let factor = required("factor", self.factor)?;
                keys.text("rope.scaling.type", "yarn");
                keys.number("rope.scaling.factor", Some(factor));
                keys.number("rope.scaling.yarn_beta_fast", self.beta_fast);
                keys.number("rope.scaling.yarn_beta_slow", self.beta_slow);
                // In GGUF, the key is a multiplier of YaRN's standard attention factor, `1 + 0.1 · ln(factor)`.
                let multiplier = self
                    .attention_factor
                    .map(|attention_factor| attention_factor / (1.0 + 0.1 * factor.ln()));
                keys.number("rope.scaling.attn_factor", multiplier);
                Ok(Vec::new())
            }
            Some("llama3") => {
                let factor = required("factor", self.factor)?;
                let low = required("low_freq_factor", self.low_freq_factor)?;
                let high = required("high_freq_factor", self.high_freq_factor)?;
                let divisor = |pair: u64| {
                    let frequency = inputs.base.powf(-(pair as f64) / inputs.pairs as f64);
                    let rotations = inputs.original_context * frequency / TAU;
                    let unscaled = ((rotations - low) / (high - low)).clamp(0.0, 1.0);
                    1.0 / ((1.0 - unscaled) / factor + unscaled)
                };
                let divisors = (0..inputs.pairs).map(|pair| divisor(pair) as f32);
                Ok(vec![(per_frequency, divisors.collect())])
            }
            Some("longrope") => {
                let extension = self
                    .factor
                    .unwrap_or(inputs.extended_context / inputs.original_context);
                let default = match extension > 1.0 {
                    true => (1.0 + extension.ln() / inputs.original_context.ln()).sqrt(),
                    false => 1.0,
                };
                let attention_factor = self.attention_factor.unwrap_or(default);
                keys.number("rope.scaling.attn_factor", Some(attention_factor));
                let lists = [(short, &self.short_factor), (long, &self.long_factor)];
                lists
                    .into_iter()
                    .map(|(name, values)| match values {
                        Some(values) if values.len() as u64 == inputs.pairs => {
                            Ok((name, values.clone()))
                        }
                        _ => Err(GraphError::Inconsistent(format!(
                            "config.json: the RoPE scaling must have {} factors each for short and long contexts",
                            inputs.pairs
                        ))),
                    })
                    .collect()
            }
            Some(other) => Err(GraphError::Unsupported(format!(
                "the RoPE scaling \"{other}\""
            ))),
        }
    }
}

/// Builds metadata with GGUF's keys, prefixed by the family's name.
struct GgufKeys<'a> {
    family: &'a str,
    metadata: Metadata,
}

impl GgufKeys<'_> {
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
