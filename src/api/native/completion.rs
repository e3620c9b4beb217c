//! `POST /completion`: the continuation of one prompt, or of several.

use std::sync::Arc;
use std::time::Duration;

use super::bias;
use super::continuation::{AnswerForm, Batch};
use super::props::words;
use crate::api::error::Error;
use crate::api::options::{
    count, limit, one_grammar, progress_events, scales, seconds, unless_empty,
};
use crate::api::payload::Ignored;
use crate::api::preparing::prepare;
use crate::api::prompts::{Prompts, pieces};
use crate::api::sampling;
use crate::api::stream::{EventStream, WholeOrStream};
use crate::api::types;
use crate::model::{
    GenerateLimits, GenerateOptions, GrammarSource, LineLimits, LoadedModel, Preparations,
    RequestOwner, WhenFull,
};
use crate::sampling::SamplingParameters;

/// Continues the prompts.
pub(in crate::api) async fn answer(
    preparations: &Preparations,
    model: Arc<LoadedModel>,
    mut body: types::CompletionRequest,
    limits: &GenerateLimits,
    ignored: &mut Ignored,
) -> Result<WholeOrStream<types::CompletionAnswer>, Error> {
    let system_prompt = body.system_prompt.take().map(words);
    let prompts = match (body.prompt.take(), &system_prompt) {
        (Some(prompts), _) => Prompts::read("prompt", prompts)?,
        // It is set, and computed for those who come.
        (None, Some(_)) => {
            body.n_predict = Some(0);
            Prompts::One(types::Prompt::String(String::new()))
        }
        (None, None) => return Err(Error::invalid("prompt", "prompt: it is required")),
    };
    let form = form(&mut body);
    let options = GenerateOptions::try_from(body)?;
    let stream = options.stream;
    let question = Batch {
        prompts,
        system_prompt,
        options: options.within(limits),
        form,
    };
    let asked = prepare(preparations, ignored, move |ignored, cancel| {
        question.begin(&model, ignored, cancel)
    })
    .await?;
    if stream {
        return Ok(WholeOrStream::Stream(EventStream::native(asked.events())));
    }
    Ok(WholeOrStream::Whole(asked.whole().await?))
}

/// What the answer has; taken out of the body.
pub(super) fn form(body: &mut types::CompletionRequest) -> AnswerForm {
    AnswerForm {
        tokens: body.return_tokens.unwrap_or(false),
        fields: body.response_fields.take().unwrap_or_default(),
        choices: body.n_cmpl.or(body.n).unwrap_or(1),
    }
}

/// The `n_predict` that is until the context is full.
const UNTIL_FULL: i64 = -2;

impl TryFrom<types::CompletionRequest> for GenerateOptions {
    type Error = Error;

    /// How the prompts are to be continued.
    fn try_from(mut body: types::CompletionRequest) -> Result<Self, Error> {
        body.n_probs = body.n_probs.or(body.logprobs);
        let most = body.n_predict.or(body.max_tokens);
        let most = most.or(body.max_completion_tokens).unwrap_or(-1);
        let time = body.t_max_predict_ms.unwrap_or(0);
        let time = u64::try_from(time).ok().filter(|time| *time > 0);
        let sampling = sampling::parameters(&body, SamplingParameters::native())?;
        Ok(Self {
            max_tokens: match most {
                UNTIL_FULL => None,
                most => limit("n_predict", most)?,
            },
            stop: match body.stop {
                None => Vec::new(),
                Some(types::NativeStop::String(stop)) => vec![stop],
                Some(types::NativeStop::Array(stops)) => stops,
            }
            .into_iter()
            .filter(|stop| !stop.is_empty())
            .collect(),
            ignore_end: body.ignore_eos.unwrap_or(false),
            sampling,
            logit_bias: bias::logit_bias(body.logit_bias)?,
            grammar: one_grammar([
                unless_empty(body.grammar, GrammarSource::Gbnf),
                body.json_schema.map(|schema| GrammarSource::JsonSchema {
                    schema: schema.into(),
                    strict: false,
                }),
                unless_empty(body.regex, GrammarSource::Regex),
                unless_empty(body.lark, GrammarSource::Lark),
            ])?,
            tools: None,
            penalty_prompt: body.penalty_prompt.map(pieces),
            slot: limit("id_slot", body.id_slot.unwrap_or(-1))?,
            when_full: match most {
                UNTIL_FULL => WhenFull::Stop,
                _ => WhenFull::Shift {
                    keep: limit("n_keep", body.n_keep.unwrap_or(0))?,
                },
            },
            whole_prompt: false,
            read_cache: body.cache_prompt.unwrap_or(false),
            cache_salt: body.cache_salt,
            adapters: body.lora.map(scales),
            priority: body.priority.unwrap_or(0),
            timeout: body.request_timeout.map(seconds),
            echo: false,
            stream: body.stream.unwrap_or(false),
            lines: LineLimits {
                least_indent: count("n_indent", body.n_indent.unwrap_or(0))?,
                time: time.map(Duration::from_millis),
            },
            progress: progress_events(body.return_progress, body.timings_per_token),
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
        serde_json::from_value::<types::CompletionRequest>(body)
            .unwrap()
            .try_into()
    }

    #[test]
    fn without_options_the_seeds_defaults_hold() {
        let options = options(json!({"prompt": "a"})).unwrap();
        assert_eq!(options.max_tokens, None);
        assert_eq!(options.sampling.temperature, 0.8);
        assert_eq!(options.sampling.top_k, Some(40));
        assert_eq!(options.sampling.repetition.repeat_penalty, 1.1);
        assert_eq!(options.sampling.repetition.last_n, Some(64));
        assert_eq!(
            (options.sampling.seed, options.slot, options.stream),
            (None, None, false)
        );
    }

    #[test]
    fn words_for_absence_become_absence() {
        let options = options(json!({
            "prompt": "a", "n_predict": 0, "seed": -1, "top_k": 0, "repeat_last_n": -1, "id_slot": 2,
            "stop": ["", "b"], "temperature": 1e300,
        }))
        .unwrap();
        assert_eq!(options.max_tokens, Some(0));
        assert_eq!(options.sampling.seed, None);
        assert_eq!(options.sampling.top_k, None);
        assert_eq!(options.sampling.repetition.last_n, None);
        assert_eq!(options.sampling.temperature, f32::MAX);
        assert_eq!(options.slot, Some(2));
        assert_eq!(options.stop, ["b"]);
    }

    #[test]
    fn other_names_count_behind_the_contracts() {
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
    fn a_priority_is_lowered_to_the_callers_limit_also_where_none_is_asked_for() {
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
            assert_eq!(request.within(&limits).options.priority, expected);
        }
    }

    #[test]
    fn a_generation_may_fill_its_context_or_shift_it() {
        let when_full = |n_predict| {
            let options = options(json!({"prompt": "a", "n_predict": n_predict})).unwrap();
            (options.max_tokens, options.when_full)
        };
        assert_eq!(when_full(-2), (None, WhenFull::Stop));
        assert_eq!(when_full(-1), (None, WhenFull::Shift { keep: Some(0) }));
    }

    #[test]
    fn lines_may_end_a_generation() {
        let lines = |body: Value| options(body).unwrap().lines;
        assert_eq!(lines(json!({"prompt": "a"})), LineLimits::default());
        let off = json!({"prompt": "a", "n_indent": 0, "t_max_predict_ms": -1});
        assert_eq!(lines(off), LineLimits::default());
        let on = json!({"prompt": "a", "n_indent": 4, "t_max_predict_ms": 250});
        let expected = LineLimits {
            least_indent: 4,
            time: Some(Duration::from_millis(250)),
        };
        assert_eq!(lines(on), expected);
    }
}
