//! `GET /slots`: the current or last request of each slot.

use super::settings::{default_settings, params, settings};
use crate::api::options::{RequestDefaults, or_minus_one};
use crate::api::types;
use crate::model::{Caller, FinishReason, LoadedModel, ModelDetails, Slot};

/// Handles `GET /slots`. Hides the requests that the caller may not see.
pub(in crate::api) fn slots(
    model: &LoadedModel,
    defaults: &RequestDefaults,
    caller: Caller,
) -> types::Slots {
    let details = model.details();
    let default_options = default_settings(details, None, defaults, &model.adapters());
    let slots = model.slots().into_iter().map(|slot| {
        let slot = redacted(slot, caller);
        let prompt = model.detokenize(&slot.prompt).unwrap_or_default();
        slot_json(details, &default_options, &slot, prompt)
    });
    types::Slots(slots.collect())
}

/// Returns the part of a slot that the caller may see. For a request of another key, only `id` and `is_processing`
/// remain.
fn redacted(slot: Slot, caller: Caller) -> Slot {
    let owner = slot.options.as_ref().and_then(|options| options.owner.key);
    match caller.may_see(owner) {
        true => slot,
        false => Slot {
            id: slot.id,
            is_processing: slot.is_processing,
            sequence_id: None,
            options: None,
            seed: None,
            prompt: [].into(),
            generated_tokens: 0,
            has_new_line: false,
            finish_reason: None,
        },
    }
}

/// Returns the JSON of a slot. `default_options` are the options of a slot that has not run a request.
fn slot_json(
    details: &ModelDetails,
    default_options: &types::GenerationSettings,
    slot: &Slot,
    prompt: String,
) -> types::Slot {
    let request_options = slot.options.as_deref();
    let options = match request_options {
        Some(options) => settings(details, options, slot.seed),
        None => default_options.clone(),
    };
    let remaining_tokens = request_options
        .and_then(|options| options.max_tokens)
        .map(|limit| limit.saturating_sub(slot.generated_tokens));
    let stopping_word = match &slot.finish_reason {
        Some(FinishReason::StopString(stop_string)) => stop_string.clone(),
        _ => String::new(),
    };
    let task = slot
        .sequence_id
        .map_or(-1, |task| i64::try_from(task).unwrap_or(i64::MAX));
    types::Slot {
        id: slot.id as u64,
        state: u8::from(slot.is_processing),
        is_processing: slot.is_processing,
        speculative: false,
        task_id: task,
        id_task: task,
        params: params(&options),
        prompt,
        next_token: types::NextToken {
            has_next_token: slot.is_processing,
            has_new_line: slot.has_new_line,
            n_remain: or_minus_one(remaining_tokens),
            n_decoded: slot.generated_tokens as u64,
            stopped_eos: slot.finish_reason == Some(FinishReason::EndOfText),
            stopped_limit: matches!(
                slot.finish_reason,
                Some(FinishReason::TokenLimit | FinishReason::ContextFull)
            ),
            stopped_word: matches!(slot.finish_reason, Some(FinishReason::StopString(_))),
            stopping_word,
        },
        n_ctx: options.n_ctx,
        model: options.model,
        n_predict: options.n_predict,
        n_keep: options.n_keep,
        stream: options.stream,
        stop: options.stop,
        seed: options.seed,
        seed_cur: options.seed_cur,
        n_indent: options.n_indent,
        t_max_predict_ms: options.t_max_predict_ms,
        temperature: options.temperature,
        dynatemp_range: options.dynatemp_range,
        dynatemp_exponent: options.dynatemp_exponent,
        top_k: options.top_k,
        top_p: options.top_p,
        min_p: options.min_p,
        min_keep: options.min_keep,
        tfs_z: options.tfs_z,
        typical_p: options.typical_p,
        repeat_penalty: options.repeat_penalty,
        repeat_last_n: options.repeat_last_n,
        penalize_nl: options.penalize_nl,
        presence_penalty: options.presence_penalty,
        frequency_penalty: options.frequency_penalty,
        penalty_prompt_tokens: options.penalty_prompt_tokens,
        use_penalty_prompt_tokens: options.use_penalty_prompt_tokens,
        mirostat: options.mirostat,
        mirostat_tau: options.mirostat_tau,
        mirostat_eta: options.mirostat_eta,
        xtc_probability: options.xtc_probability,
        xtc_threshold: options.xtc_threshold,
        top_n_sigma: options.top_n_sigma,
        dry_multiplier: options.dry_multiplier,
        dry_base: options.dry_base,
        dry_allowed_length: options.dry_allowed_length,
        dry_penalty_last_n: options.dry_penalty_last_n,
        dry_sequence_breakers: options.dry_sequence_breakers,
        ignore_eos: options.ignore_eos,
        logit_bias: options.logit_bias,
        n_probs: options.n_probs,
        post_sampling_probs: options.post_sampling_probs,
        grammar: options.grammar,
        json_schema: options.json_schema,
        regex: options.regex,
        lark: options.lark,
        samplers: options.samplers,
        lora: options.lora,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::api::tests::details;
    use crate::model::GenerateOptions;
    use crate::token::TokenId;

    #[test]
    fn a_slot_shows_its_request_unless_it_is_hidden() {
        let request: types::CompletionOptions =
            serde_json::from_str(r#"{"prompt": "a", "n_predict": 5, "seed": 3}"#).unwrap();
        let mut slot = Slot {
            id: 1,
            is_processing: true,
            sequence_id: Some(12),
            options: Some(Arc::new(GenerateOptions::try_from(request).unwrap())),
            seed: Some(3),
            prompt: [TokenId(7)].into(),
            generated_tokens: 2,
            has_new_line: true,
            finish_reason: None,
        };
        let default_options = default_settings(&details(), None, &RequestDefaults::default(), &[]);
        let json = slot_json(&details(), &default_options, &slot, "a".to_owned());
        assert_eq!(
            (
                json.state,
                json.task_id,
                json.seed,
                json.next_token.n_remain
            ),
            (1, 12, 3, 3)
        );
        assert!(json.is_processing && json.next_token.has_new_line);
        assert_eq!(json.params["n_predict"], 5);
        crate::api::check("Slot", &serde_json::to_value(&json).unwrap()).unwrap();

        // For a hidden request, only `is_processing` is visible.
        slot.finish_reason = Some(FinishReason::StopString("secret".to_owned()));
        let hidden = slot_json(
            &details(),
            &default_options,
            &redacted(slot.clone(), Caller::Unknown),
            String::new(),
        );
        let idle = Slot {
            id: 1,
            is_processing: true,
            sequence_id: None,
            options: None,
            seed: None,
            prompt: [].into(),
            generated_tokens: 0,
            has_new_line: false,
            finish_reason: None,
        };
        let expected = slot_json(&details(), &default_options, &idle, String::new());
        assert_eq!(
            serde_json::to_value(&hidden).unwrap(),
            serde_json::to_value(&expected).unwrap()
        );

        slot.options = None;
        slot.sequence_id = None;
        slot.is_processing = false;
        let json = slot_json(&details(), &default_options, &slot, String::new());
        assert_eq!(
            (
                json.state,
                json.task_id,
                json.seed,
                json.next_token.n_remain
            ),
            (0, -1, -1, -1)
        );
    }
}
