//! `POST /completion`: the continuation of one prompt, or of several.

use super::props::words;
use super::{bias, continuation};
use crate::api::at_length;
use crate::api::error::Error;
use crate::api::options::{limit, one_grammar, scales, seconds, unless_empty};
use crate::api::payload::Ignored;
use crate::api::prompts::{Prompts, pieces};
use crate::api::sampling;
use crate::api::stream::{EventStream, WholeOrStream};
use crate::api::types;
use crate::model::{GenerateLimits, GenerateOptions, GrammarSource, LoadedModel, WhenFull};
use crate::sampling::SamplingParameters;

/// Continues the prompts.
pub(in crate::api) async fn answer(
    model: &LoadedModel,
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
    let options = GenerateOptions::try_from(body)?;
    let stream = options.stream;
    let asked = at_length(|| {
        continuation::begin(model, prompts, system_prompt, &options, limits, ignored)
    })?;
    if stream {
        return Ok(WholeOrStream::Stream(EventStream::native(asked.events())));
    }
    Ok(WholeOrStream::Whole(asked.whole().await?))
}

impl TryFrom<types::CompletionRequest> for GenerateOptions {
    type Error = Error;

    /// How the prompts are to be continued.
    fn try_from(body: types::CompletionRequest) -> Result<Self, Error> {
        let sampling = sampling::parameters(&body, SamplingParameters::native())?;
        Ok(Self {
            max_tokens: limit("n_predict", body.n_predict.unwrap_or(-1))?,
            stop: body
                .stop
                .into_iter()
                .flatten()
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
            when_full: WhenFull::Shift {
                keep: limit("n_keep", body.n_keep.unwrap_or(0))?,
            },
            whole_prompt: false,
            read_cache: body.cache_prompt.unwrap_or(false),
            cache_salt: body.cache_salt,
            adapters: body.lora.map(scales),
            priority: body.priority.unwrap_or(0),
            timeout: body.request_timeout.map(seconds),
            echo: false,
            stream: body.stream.unwrap_or(false),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
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
}
