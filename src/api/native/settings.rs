//! `generation_settings`: every option as it is used. Options that are not built yet show what they do: nothing.

use serde_json::{Map, Value};

use super::bias::shown_bias;
use crate::api::options::{Defaults, or_minus_one, single};
use crate::api::sampling::{MIROSTAT_ETA, MIROSTAT_TAU};
use crate::api::types;
use crate::model::{
    AdapterState, GenerateOptions, GrammarSource, LineLimits, ModelDetails, ProgressEvents,
    PromptPiece, RequestOwner, WhenFull,
};
use crate::sampling::{Distribution, MirostatVersion, SamplingParameters};

/// The settings once more, as `params`: an object without a schema of its own, because client generators do not take one
/// that contains itself.
pub(super) fn repeated(settings: &types::GenerationSettings) -> Map<String, Value> {
    match serde_json::to_value(settings) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

/// The settings of a request. The seed is the one that was drawn, if the request left it open.
pub(super) fn settings(
    details: &ModelDetails,
    options: &GenerateOptions,
    seed: Option<u32>,
) -> types::GenerationSettings {
    let SamplingParameters {
        seed: given,
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
        exclusion,
        min_keep,
        mirostat,
        ref repetition,
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
        Some(GrammarSource::JsonSchema { .. } | GrammarSource::Calls(_)) => {}
        Some(GrammarSource::Regex(text)) => regex = text,
        Some(GrammarSource::Lark(text)) => lark = text,
    }
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
        seed_cur: seed.or(given).map_or(-1, i64::from),
        n_indent: or_minus_one(Some(options.lines.least_indent)),
        t_max_predict_ms: options.lines.time.map_or(0, |time| time.as_millis() as i64),
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
        repeat_penalty: repetition.repeat_penalty,
        repeat_last_n: or_minus_one(repetition.last_n),
        penalize_nl: repetition.penalize_newline,
        presence_penalty: repetition.presence_penalty,
        frequency_penalty: repetition.frequency_penalty,
        penalty_prompt_tokens: penalty_prompt.filter_map(token).collect(),
        use_penalty_prompt_tokens: options.penalty_prompt.is_some(),
        mirostat: mirostat.map_or(0, |mirostat| match mirostat.version {
            MirostatVersion::One => 1,
            MirostatVersion::Two => 2,
        }),
        mirostat_tau: mirostat.map_or(MIROSTAT_TAU, |mirostat| mirostat.tau),
        mirostat_eta: mirostat.map_or(MIROSTAT_ETA, |mirostat| mirostat.eta),
        xtc_probability: exclusion.probability,
        xtc_threshold: exclusion.threshold,
        top_n_sigma,
        dry_multiplier: dry.multiplier,
        dry_base: dry.base,
        dry_allowed_length: or_minus_one(Some(dry.allowed_length)),
        dry_penalty_last_n: or_minus_one(dry.last_n),
        dry_sequence_breakers: dry.breakers.clone(),
        ignore_eos: options.ignore_end,
        logit_bias: options.logit_bias.iter().map(shown_bias).collect(),
        n_probs: or_minus_one(Some(logprobs.map_or(0, |wanted| wanted.top))),
        post_sampling_probs: logprobs.is_some_and(|wanted| wanted.of == Distribution::Chain),
        grammar,
        json_schema,
        regex,
        lark,
        lora: types::LoraScales(options.adapters.iter().flatten().map(shown_scale).collect()),
        samplers: chain.iter().map(|stage| stage.name().to_owned()).collect(),
    }
}

fn shown_scale((adapter, scale): &(usize, f32)) -> types::LoraScale {
    types::LoraScale {
        id: *adapter as u64,
        scale: f64::from(*scale),
    }
}

/// The settings of a request that sets nothing.
pub(super) fn default_settings(
    details: &ModelDetails,
    max_tokens: Option<usize>,
    defaults: &Defaults,
    adapters: &[AdapterState],
) -> types::GenerationSettings {
    let native = SamplingParameters::native();
    let scales = adapters.iter().map(|adapter| adapter.scale);
    let counting = scales.enumerate().filter(|(_, scale)| *scale != 0.0);
    let options = GenerateOptions {
        max_tokens,
        stop: Vec::new(),
        ignore_end: false,
        sampling: SamplingParameters {
            temperature: defaults.temperature.map_or(native.temperature, single),
            seed: defaults.seed,
            ..native
        },
        logit_bias: Vec::new(),
        grammar: None,
        tools: None,
        penalty_prompt: None,
        slot: None,
        when_full: WhenFull::Shift { keep: Some(0) },
        whole_prompt: false,
        read_cache: false,
        cache_salt: None,
        adapters: Some(counting.collect()),
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
