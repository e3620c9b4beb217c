//! `generation_settings`: the effective value of every generation option.

use serde_json::{Map, Value};

use super::bias::bias_json;
use crate::api::options::{RequestDefaults, or_minus_one, to_f32};
use crate::api::sampling::{MIROSTAT_ETA, MIROSTAT_TAU};
use crate::api::types;
use crate::model::{
    AdapterState, ContextOverflow, GenerateOptions, GrammarSource, LineLimits, ModelDetails,
    ProgressEvents, PromptPiece, RequestOwner,
};
use crate::sampling::{Distribution, MirostatVersion, SamplingParameters};

/// Returns the settings as the untyped object `params`, which repeats them: client generators do not support a schema
/// that contains itself.
pub(super) fn params(settings: &types::GenerationSettings) -> Map<String, Value> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// Returns the settings of a request. `seed` is the seed that the generation uses; without `seed`, the requested seed
/// is returned.
pub(super) fn settings(
    details: &ModelDetails,
    options: &GenerateOptions,
    seed: Option<u32>,
) -> types::GenerationSettings {
    let SamplingParameters {
        seed: requested_seed,
        ref chain,
        temperature,
        temperature_range,
        temperature_exponent,
        top_k,
        top_p,
        min_p,
        tail_free_z,
        typical_p,
        top_n_sigma,
        xtc,
        min_keep,
        mirostat,
        ref penalties,
        ref dry,
        logprobs,
    } = options.sampling;
    let penalty_prompt = options.penalty_prompt.iter().flatten();
    let token = |piece: &PromptPiece| match piece {
        PromptPiece::Token(token) => Some(token.0),
        PromptPiece::Text(_) => None,
    };
    let (mut grammar, mut regex, mut lark) = Default::default();
    let mut json_schema = None;
    match options.grammar.clone() {
        None => {}
        Some(GrammarSource::Gbnf(text)) => grammar = text,
        Some(GrammarSource::JsonSchema {
            schema: Value::Object(schema),
            ..
        }) => json_schema = Some(schema),
        Some(GrammarSource::JsonSchema { .. } | GrammarSource::ToolCalls(_)) => {}
        Some(GrammarSource::Regex(text)) => regex = text,
        Some(GrammarSource::Lark(text)) => lark = text,
    }
    types::GenerationSettings {
        n_ctx: details.context_tokens as u64,
        model: details.name.clone(),
        n_predict: or_minus_one(options.max_tokens),
        n_keep: match options.context_overflow {
            ContextOverflow::Shift { keep } => or_minus_one(keep),
            ContextOverflow::Stop => 0,
        },
        stream: options.stream,
        stop: options.stop.clone(),
        seed: seed.or(requested_seed).map_or(-1, i64::from),
        seed_cur: seed.or(requested_seed).map_or(-1, i64::from),
        n_indent: or_minus_one(Some(options.lines.min_indent)),
        t_max_predict_ms: options
            .lines
            .time_limit
            .map_or(0, |time| time.as_millis() as i64),
        params: Map::new(),
        temperature,
        dynatemp_range: temperature_range,
        dynatemp_exponent: temperature_exponent,
        top_k: or_minus_one(top_k).max(0),
        top_p,
        min_p,
        min_keep: or_minus_one(Some(min_keep)),
        tfs_z: tail_free_z,
        typical_p,
        repeat_penalty: penalties.repeat_penalty,
        repeat_last_n: or_minus_one(penalties.last_n),
        penalize_nl: penalties.penalize_newline,
        presence_penalty: penalties.presence_penalty,
        frequency_penalty: penalties.frequency_penalty,
        penalty_prompt_tokens: penalty_prompt.filter_map(token).collect(),
        use_penalty_prompt_tokens: options.penalty_prompt.is_some(),
        mirostat: mirostat.map_or(0, |mirostat| match mirostat.version {
            MirostatVersion::One => 1,
            MirostatVersion::Two => 2,
        }),
        mirostat_tau: mirostat.map_or(MIROSTAT_TAU, |mirostat| mirostat.tau),
        mirostat_eta: mirostat.map_or(MIROSTAT_ETA, |mirostat| mirostat.eta),
        xtc_probability: xtc.probability,
        xtc_threshold: xtc.threshold,
        top_n_sigma,
        dry_multiplier: dry.multiplier,
        dry_base: dry.base,
        dry_allowed_length: or_minus_one(Some(dry.allowed_length)),
        dry_penalty_last_n: or_minus_one(dry.last_n),
        dry_sequence_breakers: dry.breakers.clone(),
        ignore_eos: options.ignore_eos,
        logit_bias: options.logit_bias.iter().map(bias_json).collect(),
        n_probs: or_minus_one(Some(logprobs.map_or(0, |wanted| wanted.top))),
        post_sampling_probs: logprobs
            .is_some_and(|wanted| wanted.distribution == Distribution::Chain),
        grammar,
        json_schema,
        regex,
        lark,
        lora: types::LoraScales(options.adapters.iter().flatten().map(scale_json).collect()),
        samplers: chain.iter().map(|stage| stage.name().to_owned()).collect(),
    }
}

fn scale_json((adapter, scale): &(usize, f32)) -> types::LoraScale {
    types::LoraScale {
        id: *adapter as u64,
        scale: f64::from(*scale),
    }
}

/// Returns the settings of a request that sets no options.
pub(super) fn default_settings(
    details: &ModelDetails,
    max_tokens: Option<usize>,
    defaults: &RequestDefaults,
    adapters: &[AdapterState],
) -> types::GenerationSettings {
    let native = SamplingParameters::native();
    let scales = adapters.iter().map(|adapter| adapter.scale);
    let active_scales = scales.enumerate().filter(|(_, scale)| *scale != 0.0);
    let options = GenerateOptions {
        max_tokens,
        stop: Vec::new(),
        ignore_eos: false,
        sampling: SamplingParameters {
            temperature: defaults.temperature.map_or(native.temperature, to_f32),
            seed: defaults.seed,
            ..native
        },
        logit_bias: Vec::new(),
        grammar: None,
        tools: None,
        penalty_prompt: None,
        slot: None,
        context_overflow: ContextOverflow::Shift { keep: Some(0) },
        reject_oversized_prompt: false,
        read_cache: false,
        cache_salt: None,
        adapters: Some(active_scales.collect()),
        priority: 0,
        timeout: None,
        echo: false,
        stream: false,
        lines: LineLimits::default(),
        progress: ProgressEvents::default(),
        owner: RequestOwner::default(),
    };
    settings(details, &options, None)
}
