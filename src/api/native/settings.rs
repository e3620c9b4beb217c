//! `generation_settings`: every option as it is used. Options that are not built yet show what they do: nothing.

use crate::api::options::or_minus_one;
use crate::api::types;
use crate::model::{GenerateOptions, ModelDetails, WhenFull};
use crate::sampling::SamplingParameters;

/// The stages of the sampler, in the order in which they are applied.
const SAMPLERS: [&str; 6] = [
    "top_k",
    "tfs_z",
    "typical_p",
    "top_p",
    "min_p",
    "temperature",
];

/// The settings of a request. The seed is the one that was drawn, if the request left it open.
pub(super) fn settings(
    details: &ModelDetails,
    options: &GenerateOptions,
    seed: Option<u32>,
) -> types::GenerationSettings {
    let SamplingParameters {
        seed: given,
        temperature,
        top_k,
        top_p,
        min_p,
        min_keep,
        ref repetition,
    } = options.sampling;
    types::GenerationSettings {
        n_ctx: details.context_tokens as u64,
        model: details.name.clone(),
        n_predict: or_minus_one(options.max_tokens),
        n_keep: match options.when_full {
            WhenFull::Shift { keep } => or_minus_one(keep),
            WhenFull::Stop => 0,
        },
        stream: options.stream,
        stop: options.stop.clone(),
        seed: seed.or(given).map_or(-1, i64::from),
        temperature,
        dynatemp_range: 0.0,
        dynatemp_exponent: 1.0,
        top_k: or_minus_one(top_k).max(0),
        top_p,
        min_p,
        min_keep: or_minus_one(Some(min_keep)),
        tfs_z: 1.0,
        typical_p: 1.0,
        repeat_penalty: repetition.repeat_penalty,
        repeat_last_n: or_minus_one(repetition.last_n),
        penalize_nl: true,
        presence_penalty: repetition.presence_penalty,
        frequency_penalty: repetition.frequency_penalty,
        penalty_prompt_tokens: Vec::new(),
        use_penalty_prompt_tokens: false,
        mirostat: 0,
        mirostat_tau: 5.0,
        mirostat_eta: 0.1,
        ignore_eos: options.ignore_end,
        logit_bias: Vec::new(),
        n_probs: 0,
        grammar: String::new(),
        samplers: SAMPLERS.map(str::to_owned).to_vec(),
    }
}

/// The settings of a request that sets nothing.
pub(super) fn default_settings(
    details: &ModelDetails,
    max_tokens: Option<usize>,
) -> types::GenerationSettings {
    let options = GenerateOptions {
        max_tokens,
        stop: Vec::new(),
        ignore_end: false,
        sampling: SamplingParameters::native(),
        slot: None,
        when_full: WhenFull::Shift { keep: Some(0) },
        read_cache: false,
        cache_salt: None,
        priority: 0,
        timeout: None,
        stream: false,
    };
    settings(details, &options, None)
}
