//! `GET /slots`: what each slot does, or did last.

use super::settings::{default_settings, repeated, settings};
use crate::api::options::{Defaults, or_minus_one};
use crate::api::types;
use crate::model::{Caller, FinishReason, LoadedModel, ModelDetails, Slot};

/// All slots, each with its request if the caller may see that.
pub(in crate::api) fn slots(
    model: &LoadedModel,
    defaults: &Defaults,
    caller: Caller,
) -> types::Slots {
    let details = model.details();
    let unasked = default_settings(details, None, defaults, &model.adapters());
    let shown = model.slots().into_iter().map(|slot| {
        let slot = visible(slot, caller);
        let prompt = model.detokenize(&slot.prompt).unwrap_or_default();
        show(details, &unasked, &slot, prompt)
    });
    types::Slots(shown.collect())
}

/// The slot as the caller may see it: of another key's request only that it runs.
fn visible(slot: Slot, caller: Caller) -> Slot {
    let owner = slot.options.as_ref().and_then(|options| options.owner.key);
    match caller.may_see(owner) {
        true => slot,
        false => Slot {
            id: slot.id,
            processing: slot.processing,
            task: None,
            options: None,
            seed: None,
            prompt: [].into(),
            generated_tokens: 0,
            has_new_line: false,
            finish: None,
        },
    }
}

/// The slot; `unasked` is what it shows before its first request.
fn show(
    details: &ModelDetails,
    unasked: &types::GenerationSettings,
    slot: &Slot,
    prompt: String,
) -> types::Slot {
    let asked = slot.options.as_deref();
    let options = match asked {
        Some(options) => settings(details, options, slot.seed),
        None => unasked.clone(),
    };
    let left = asked
        .and_then(|options| options.max_tokens)
        .map(|limit| limit.saturating_sub(slot.generated_tokens));
    let stopping_word = match &slot.finish {
        Some(FinishReason::StopString(word)) => word.clone(),
        _ => String::new(),
    };
    let task = slot
        .task
        .map_or(-1, |task| i64::try_from(task).unwrap_or(i64::MAX));
    types::Slot {
        id: slot.id as u64,
        state: u8::from(slot.processing),
        is_processing: slot.processing,
        speculative: false,
        task_id: task,
        id_task: task,
        params: repeated(&options),
        prompt,
        next_token: types::NextToken {
            has_next_token: slot.processing,
            has_new_line: slot.has_new_line,
            n_remain: or_minus_one(left),
            n_decoded: slot.generated_tokens as u64,
            stopped_eos: slot.finish == Some(FinishReason::EndOfText),
            stopped_limit: matches!(
                slot.finish,
                Some(FinishReason::TokenLimit | FinishReason::ContextFull)
            ),
            stopped_word: matches!(slot.finish, Some(FinishReason::StopString(_))),
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
    fn a_slot_shows_its_request_and_fits_the_document() {
        let request: types::CompletionRequest =
            serde_json::from_str(r#"{"prompt": "a", "n_predict": 5, "seed": 3}"#).unwrap();
        let mut slot = Slot {
            id: 1,
            processing: true,
            task: Some(12),
            options: Some(Arc::new(GenerateOptions::try_from(request).unwrap())),
            seed: Some(3),
            prompt: [TokenId(7)].into(),
            generated_tokens: 2,
            has_new_line: true,
            finish: None,
        };
        let unasked = default_settings(&details(), None, &Defaults::default(), &[]);
        let shown = show(&details(), &unasked, &slot, "a".to_owned());
        assert_eq!(
            (
                shown.state,
                shown.task_id,
                shown.seed,
                shown.next_token.n_remain
            ),
            (1, 12, 3, 3)
        );
        assert!(shown.is_processing && shown.next_token.has_new_line);
        assert_eq!(shown.params["n_predict"], 5);
        crate::api::check("Slot", &serde_json::to_value(&shown).unwrap()).unwrap();

        // Nothing but the state is left of a request that the caller may not see.
        slot.finish = Some(FinishReason::StopString("secret".to_owned()));
        let hidden = show(
            &details(),
            &unasked,
            &visible(slot.clone(), Caller::Unknown),
            String::new(),
        );
        let idle = Slot {
            id: 1,
            processing: true,
            task: None,
            options: None,
            seed: None,
            prompt: [].into(),
            generated_tokens: 0,
            has_new_line: false,
            finish: None,
        };
        let expected = show(&details(), &unasked, &idle, String::new());
        assert_eq!(
            serde_json::to_value(&hidden).unwrap(),
            serde_json::to_value(&expected).unwrap()
        );

        slot.options = None;
        slot.task = None;
        slot.processing = false;
        let shown = show(&details(), &unasked, &slot, String::new());
        assert_eq!(
            (
                shown.state,
                shown.task_id,
                shown.seed,
                shown.next_token.n_remain
            ),
            (0, -1, -1, -1)
        );
    }
}
