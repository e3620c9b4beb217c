//! PEFT's `adapter_config.json` and its names of tensors.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value as Json;

use super::{Pair, unknown};
use crate::graph::tensors::Tensor;
use crate::graph::{Architecture, GraphError};
use crate::safetensors::Safetensors;

/// Of the configuration what changes the result.
#[derive(Deserialize)]
pub(super) struct Config {
    peft_type: String,
    lora_alpha: f32,
    #[serde(default)]
    use_rslora: bool,
    #[serde(default)]
    alpha_pattern: HashMap<String, f32>,
    #[serde(default)]
    use_dora: bool,
    #[serde(default)]
    lora_bias: bool,
    bias: Option<String>,
    #[serde(default)]
    modules_to_save: Json,
    #[serde(default)]
    layer_replication: Json,
    #[serde(default)]
    trainable_token_indices: Json,
    #[serde(default)]
    alora_invocation_tokens: Json,
    #[serde(default)]
    init_lora_weights: Json,
}

impl Config {
    /// Reads it.
    ///
    /// # Errors
    /// It is malformed, or says what is not computed.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, GraphError> {
        let config: Self = serde_json::from_slice(bytes)
            .map_err(|error| GraphError::Inconsistent(format!("adapter_config.json: {error}")))?;
        match config.refused() {
            Some(what) => Err(GraphError::Unsupported(format!(
                "adapter_config.json: {what}"
            ))),
            None => Ok(config),
        }
    }

    fn refused(&self) -> Option<String> {
        let says = |value: &Json| {
            !matches!(value, Json::Null | Json::Bool(false)) && *value != serde_json::json!([])
        };
        let named = [
            (self.use_dora, "DoRA (use_dora)"),
            (self.lora_bias, "lora_bias"),
            (says(&self.modules_to_save), "modules_to_save"),
            (says(&self.layer_replication), "layer_replication"),
            (
                says(&self.trainable_token_indices),
                "trainable_token_indices",
            ),
            (
                says(&self.alora_invocation_tokens),
                "aLoRA (alora_invocation_tokens)",
            ),
        ];
        let other = |what: &str, value: &str| Some(format!("the {what} \"{value}\""));
        match (&*self.peft_type, self.bias.as_deref()) {
            ("LORA", None | Some("none")) => {}
            ("LORA", Some(bias)) => return other("bias", bias),
            (kind, _) => return other("kind of adapter", kind),
        }
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
        let mut patterns = self.alpha_pattern.keys();
        if let Some(pattern) = patterns.find(|pattern| !pattern.chars().all(is_plain)) {
            return other("alpha_pattern", pattern);
        }
        // The others take something out of the model's own weights.
        match &self.init_lora_weights {
            Json::String(way) if !["gaussian", "eva", "orthogonal"].contains(&&**way) => {
                return other("init_lora_weights", way);
            }
            _ => {}
        }
        let mut named = named.into_iter();
        named.find_map(|(said, what)| said.then(|| what.to_owned()))
    }

    /// What the branch of a module of that rank is multiplied with.
    pub(super) fn factor(&self, module: &str, rank: usize) -> f32 {
        let mut patterns = self.alpha_pattern.iter();
        let own = patterns.find(|(pattern, _)| {
            let before = module.strip_suffix(pattern.as_str());
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        });
        let alpha = own.map_or(self.lora_alpha, |(_, alpha)| *alpha);
        match self.use_rslora {
            true => alpha / (rank as f32).sqrt(),
            false => alpha / rank as f32,
        }
    }
}

/// The tensors by the weights whose products they change. `modules` hears PEFT's name of each weight.
pub(super) fn pairs<'a>(
    weights: &'a Safetensors,
    architecture: &Architecture,
    modules: &mut BTreeMap<String, String>,
) -> Result<BTreeMap<String, Pair<'a>>, GraphError> {
    let mut pairs: BTreeMap<String, Pair<'a>> = BTreeMap::new();
    for name in weights.all_names() {
        let known = name
            .strip_prefix("base_model.model.")
            .and_then(|name| name.strip_suffix(".weight"))
            // Older files name the adapter.
            .map(|name| name.strip_suffix(".default").unwrap_or(name))
            .and_then(|name| name.rsplit_once('.'));
        let tensor = weights.tensor(name);
        let (Some((module, which @ ("lora_A" | "lora_B"))), Some(tensor)) = (known, tensor) else {
            return Err(unknown(name));
        };
        let weight = architecture.standard_name(&format!("{module}.weight"));
        let weight = weight.ok_or_else(|| unknown(name))?;
        let other = modules.insert(weight.clone(), module.to_owned());
        if let Some(other) = other.filter(|other| other != module) {
            let problem = format!("\"{other}\" and \"{module}\" are both \"{weight}\"");
            return Err(GraphError::Inconsistent(problem));
        }
        let pair = pairs.entry(weight).or_default();
        let place = match which {
            "lora_A" => &mut pair.down,
            _ => &mut pair.up,
        };
        *place = Some(Tensor::from(tensor));
    }
    Ok(pairs)
}
