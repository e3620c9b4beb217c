//! Reads PEFT's `adapter_config.json`, and translates PEFT's tensor names to GGUF's.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use serde_json::Value as Json;

use super::{LoraPair, unsupported_tensor};
use crate::graph::tensors::Tensor;
use crate::graph::{Architecture, GraphError};
use crate::safetensors::Safetensors;

/// The fields of `adapter_config.json` that affect the adapter's output.
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
    /// Parses the configuration.
    ///
    /// # Errors
    /// If the configuration is malformed or needs an unsupported feature.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, GraphError> {
        let config: Self = serde_json::from_slice(bytes)
            .map_err(|error| GraphError::Inconsistent(format!("adapter_config.json: {error}")))?;
        match config.unsupported_feature() {
            Some(feature) => Err(GraphError::Unsupported(format!(
                "adapter_config.json: {feature}"
            ))),
            None => Ok(config),
        }
    }

    fn unsupported_feature(&self) -> Option<String> {
        let is_set = |value: &Json| {
            !matches!(value, Json::Null | Json::Bool(false)) && *value != serde_json::json!([])
        };
        let features = [
            (self.use_dora, "DoRA (use_dora)"),
            (self.lora_bias, "lora_bias"),
            (is_set(&self.modules_to_save), "modules_to_save"),
            (is_set(&self.layer_replication), "layer_replication"),
            (
                is_set(&self.trainable_token_indices),
                "trainable_token_indices",
            ),
            (
                is_set(&self.alora_invocation_tokens),
                "aLoRA (alora_invocation_tokens)",
            ),
        ];
        let setting = |name: &str, value: &str| Some(format!("the {name} \"{value}\""));
        match (&*self.peft_type, self.bias.as_deref()) {
            ("LORA", None | Some("none")) => {}
            ("LORA", Some(bias)) => return setting("bias", bias),
            (kind, _) => return setting("kind of adapter", kind),
        }
        let is_plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
        let mut patterns = self.alpha_pattern.keys();
        if let Some(pattern) = patterns.find(|pattern| !pattern.chars().all(is_plain)) {
            return setting("alpha_pattern", pattern);
        }
        // Other initialization methods also change the base model's weights.
        match &self.init_lora_weights {
            Json::String(method) if !["gaussian", "eva", "orthogonal"].contains(&&**method) => {
                return setting("init_lora_weights", method);
            }
            _ => {}
        }
        let mut features = features.into_iter();
        features.find_map(|(is_used, name)| is_used.then(|| name.to_owned()))
    }

    /// Returns the LoRA scaling factor of the module `module` with rank `rank`.
    pub(super) fn scaling(&self, module: &str, rank: usize) -> f32 {
        let mut patterns = self.alpha_pattern.iter();
        let matching = patterns.find(|(pattern, _)| {
            let before = module.strip_suffix(pattern.as_str());
            before.is_some_and(|before| before.is_empty() || before.ends_with('.'))
        });
        let alpha = matching.map_or(self.lora_alpha, |(_, alpha)| *alpha);
        match self.use_rslora {
            true => alpha / (rank as f32).sqrt(),
            false => alpha / rank as f32,
        }
    }
}

/// Returns the matrices by the GGUF name of the weight that they change. Inserts PEFT's module name for each GGUF name
/// into `modules`.
pub(super) fn pairs<'a>(
    weights: &'a Safetensors,
    architecture: &Architecture,
    modules: &mut BTreeMap<String, String>,
) -> Result<BTreeMap<String, LoraPair<'a>>, GraphError> {
    let mut pairs: BTreeMap<String, LoraPair<'a>> = BTreeMap::new();
    for name in weights.all_names() {
        let known = name
            .strip_prefix("base_model.model.")
            .and_then(|name| name.strip_suffix(".weight"))
            // Tensor names in older files contain the adapter's name, `default`.
            .map(|name| name.strip_suffix(".default").unwrap_or(name))
            .and_then(|name| name.rsplit_once('.'));
        let tensor = weights.tensor(name);
        let (Some((module, which @ ("lora_A" | "lora_B"))), Some(tensor)) = (known, tensor) else {
            return Err(unsupported_tensor(name));
        };
        let weight = architecture.gguf_name(&format!("{module}.weight"));
        let weight = weight.ok_or_else(|| unsupported_tensor(name))?;
        let other = modules.insert(weight.clone(), module.to_owned());
        if let Some(other) = other.filter(|other| other != module) {
            let problem = format!("\"{other}\" and \"{module}\" are both \"{weight}\"");
            return Err(GraphError::Inconsistent(problem));
        }
        let pair = pairs.entry(weight).or_default();
        let slot = match which {
            "lora_A" => &mut pair.a,
            _ => &mut pair.b,
        };
        *slot = Some(Tensor::from(tensor));
    }
    Ok(pairs)
}
