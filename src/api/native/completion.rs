//! `POST /completion`: generates completions of one or more prompts.

use std::sync::Arc;
use std::time::Duration;

use super::batch::{CompletionBatch, ResponseOptions};
use super::bias;
use super::props::read_system_prompt;
use crate::api::error::Error;
use crate::api::options::{
    adapter_scales, count, duration, limit, non_empty_grammar, progress_events, single_grammar,
};
use crate::api::payload::IgnoredFields;
use crate::api::prepare::prepare;
use crate::api::prompts::{Prompts, prompt_pieces};
use crate::api::sampling::{BasicSampling, sampling_parameters, seed, token_probabilities};
use crate::api::stream::{EventStream, JsonOrStream};
use crate::api::types::{self, Includes};
use crate::model::{
    ContextOverflow, GenerateLimits, GenerateOptions, GrammarSource, LineLimits, LoadedModel,
    PreparationPool, RequestOwner,
};
use crate::sampling::SamplingParameters;

/// Handles `POST /completion`.
pub(in crate::api) async fn handle(
    preparations: &PreparationPool,
    model: Arc<LoadedModel>,
    mut body: types::CompletionRequest,
    limits: &GenerateLimits,
    ignored: &mut IgnoredFields,
) -> Result<JsonOrStream<types::CompletionAnswer>, Error> {
    let mut options: types::CompletionOptions = body.take_part();
    let stream = body.stream.unwrap_or(false);
    let system_prompt = options.system_prompt.take().map(read_system_prompt);
    let prompts = match (body.prompt, &system_prompt) {
        (Some(prompts), _) => Prompts::read("prompt", prompts)?,
        // A request without a prompt only sets the system prompt and computes the cache blocks of the system prompt.
        (None, Some(_)) => {
            options.n_predict = Some(0);
            Prompts::One(types::Prompt::String(String::new()))
        }
        (None, None) => return Err(Error::invalid("prompt", "prompt: it is required")),
    };
    let response_options = response_options(&mut options);
    let options = GenerateOptions {
        stream,
        ..GenerateOptions::try_from(options)?
    };
    let batch = CompletionBatch {
        prompts,
        system_prompt,
        options: options.with_limits(limits),
        response_options,
    };
    let completions = prepare(preparations, ignored, move |ignored, cancel| {
        batch.start(&model, ignored, cancel)
    })
    .await?;
    if stream {
        return Ok(JsonOrStream::Stream(EventStream::native(
            completions.events(),
        )));
    }
    Ok(JsonOrStream::Json(completions.response().await?))
}

/// Takes the response options out of the options of a request.
pub(super) fn response_options(options: &mut types::CompletionOptions) -> ResponseOptions {
    ResponseOptions {
        return_tokens: options.return_tokens.unwrap_or(false),
        fields: options.response_fields.take().unwrap_or_default(),
        choices: options.n_cmpl.or(options.n).unwrap_or(1),
    }
}

/// The value of `n_predict` that generates until the context is full, without a context shift.
const UNTIL_FULL: i64 = -2;

impl TryFrom<types::CompletionOptions> for GenerateOptions {
    type Error = Error;

    /// Converts the generation options of `POST /completion` and `POST /infill`, except `stream`.
    fn try_from(mut body: types::CompletionOptions) -> Result<Self, Error> {
        let mut sampler: types::SamplerOptions = body.take_part();
        let progress: types::ProgressOptions = body.take_part();
        let max_tokens = body.n_predict.or(body.max_tokens);
        let max_tokens = max_tokens.or(body.max_completion_tokens).unwrap_or(-1);
        let time_ms = body.t_max_predict_ms.unwrap_or(0);
        let time_ms = u64::try_from(time_ms).ok().filter(|time_ms| *time_ms > 0);
        let penalty_prompt = sampler.penalty_prompt.take().map(prompt_pieces);
        let basic = BasicSampling {
            seed: body.seed.and_then(seed),
            temperature: body.temperature,
            top_k: body.top_k,
            top_p: body.top_p,
            min_p: body.min_p,
            repeat_penalty: body.repeat_penalty,
            repeat_last_n: body.repeat_last_n,
            presence_penalty: body.presence_penalty,
            frequency_penalty: body.frequency_penalty,
            logprobs: token_probabilities(
                body.n_probs.or(body.logprobs),
                body.post_sampling_probs,
            )?,
        };
        let sampling = sampling_parameters(&basic, sampler, SamplingParameters::native())?;
        Ok(Self {
            max_tokens: match max_tokens {
                UNTIL_FULL => None,
                max_tokens => limit("n_predict", max_tokens)?,
            },
            stop: match body.stop {
                None => Vec::new(),
                Some(types::NativeStop::String(stop)) => vec![stop],
                Some(types::NativeStop::Array(stops)) => stops,
            }
            .into_iter()
            .filter(|stop| !stop.is_empty())
            .collect(),
            ignore_eos: body.ignore_eos.unwrap_or(false),
            sampling,
            logit_bias: bias::logit_bias(body.logit_bias)?,
            grammar: single_grammar([
                non_empty_grammar(body.grammar, GrammarSource::Gbnf),
                body.json_schema.map(|schema| GrammarSource::JsonSchema {
                    schema: schema.into(),
                    strict: false,
                }),
                non_empty_grammar(body.regex, GrammarSource::Regex),
                non_empty_grammar(body.lark, GrammarSource::Lark),
            ])?,
            tools: None,
            penalty_prompt,
            slot: limit("id_slot", body.id_slot.unwrap_or(-1))?,
            context_overflow: match max_tokens {
                UNTIL_FULL => ContextOverflow::Stop,
                _ => ContextOverflow::Shift {
                    keep: limit("n_keep", body.n_keep.unwrap_or(0))?,
                },
            },
            reject_oversized_prompt: false,
            read_cache: body.cache_prompt.unwrap_or(false),
            cache_salt: body.cache_salt,
            adapters: body.lora.map(adapter_scales),
            priority: body.priority.unwrap_or(0),
            timeout: body.request_timeout.map(duration),
            echo: false,
            stream: false,
            lines: LineLimits {
                min_indent: count("n_indent", body.n_indent.unwrap_or(0))?,
                time_limit: time_ms.map(Duration::from_millis),
            },
            progress: progress_events(&progress),
            owner: RequestOwner::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::{GenerateRequest, Prompt};

    fn options(body: Value) -> Result<GenerateOptions, Error> {
        serde_json::from_value::<types::CompletionOptions>(body)
            .unwrap()
            .try_into()
    }

    #[test]
    fn missing_options_have_llama_cpps_defaults() {
        let options = options(json!({"prompt": "a"})).unwrap();
        assert_eq!(options.max_tokens, None);
        assert_eq!(options.sampling.temperature, 0.8);
        assert_eq!(options.sampling.top_k, Some(40));
        assert_eq!(options.sampling.penalties.repeat_penalty, 1.1);
        assert_eq!(options.sampling.penalties.last_n, Some(64));
        assert_eq!(
            (options.sampling.seed, options.slot, options.stream),
            (None, None, false)
        );
    }

    #[test]
    fn neutral_values_disable_options() {
        let options = options(json!({
            "prompt": "a", "n_predict": 0, "seed": -1, "top_k": 0, "repeat_last_n": -1, "id_slot": 2,
            "stop": ["", "b"], "temperature": 1e300,
        }))
        .unwrap();
        assert_eq!(options.max_tokens, Some(0));
        assert_eq!(options.sampling.seed, None);
        assert_eq!(options.sampling.top_k, None);
        assert_eq!(options.sampling.penalties.last_n, None);
        assert_eq!(options.sampling.temperature, f32::MAX);
        assert_eq!(options.slot, Some(2));
        assert_eq!(options.stop, ["b"]);
    }

    #[test]
    fn aliases_are_used_only_without_the_main_name() {
        let limit = |body: Value| options(body).unwrap().max_tokens;
        let all =
            json!({"prompt": "a", "n_predict": 1, "max_tokens": 2, "max_completion_tokens": 3});
        assert_eq!(limit(all), Some(1));
        assert_eq!(
            limit(json!({"prompt": "a", "max_tokens": 2, "max_completion_tokens": 3})),
            Some(2)
        );
        assert_eq!(
            limit(json!({"prompt": "a", "max_completion_tokens": 3})),
            Some(3)
        );
        let top = |body: Value| {
            options(body)
                .unwrap()
                .sampling
                .logprobs
                .map(|wanted| wanted.top)
        };
        assert_eq!(top(json!({"prompt": "a", "logprobs": 2})), Some(2));
        assert_eq!(
            top(json!({"prompt": "a", "n_probs": 3, "logprobs": 2})),
            Some(3)
        );
        let stop = options(json!({"prompt": "a", "stop": "b"})).unwrap().stop;
        assert_eq!(stop, ["b"]);
    }

    #[test]
    fn the_priority_is_limited_even_if_the_request_has_none() {
        for (body, max_priority, expected) in [
            (json!({"prompt": "a", "priority": 5}), 3, 3),
            (json!({"prompt": "a", "priority": -5}), 3, -5),
            (json!({"prompt": "a"}), -1, -1),
        ] {
            let request = GenerateRequest {
                prompt: Prompt::Pieces(Vec::new()),
                system_prompt: None,
                options: options(body).unwrap(),
            };
            let limits = GenerateLimits {
                max_priority,
                ..GenerateLimits::NONE
            };
            assert_eq!(request.with_limits(&limits).options.priority, expected);
        }
    }

    #[test]
    fn n_predict_selects_stop_or_context_shift() {
        let context_overflow = |n_predict| {
            let options = options(json!({"prompt": "a", "n_predict": n_predict})).unwrap();
            (options.max_tokens, options.context_overflow)
        };
        assert_eq!(context_overflow(-2), (None, ContextOverflow::Stop));
        assert_eq!(
            context_overflow(-1),
            (None, ContextOverflow::Shift { keep: Some(0) })
        );
    }

    #[test]
    fn n_indent_and_t_max_predict_ms_set_line_limits() {
        let lines = |body: Value| options(body).unwrap().lines;
        assert_eq!(lines(json!({"prompt": "a"})), LineLimits::default());
        let off = json!({"prompt": "a", "n_indent": 0, "t_max_predict_ms": -1});
        assert_eq!(lines(off), LineLimits::default());
        let on = json!({"prompt": "a", "n_indent": 4, "t_max_predict_ms": 250});
        let expected = LineLimits {
            min_indent: 4,
            time_limit: Some(Duration::from_millis(250)),
        };
        assert_eq!(lines(on), expected);
    }
}
