//! A body of `POST /v1/chat/completions` as a [`GenerateRequest`].

use std::collections::HashMap;

use serde_json::{Value, json};

use super::tools::tool_use;
use crate::api::error::Error;
use crate::api::messages::conversation;
use crate::api::options::{as_completion, count, one_grammar, seconds, single, unless_empty};
use crate::api::prompts::pieces;
use crate::api::sampling;
use crate::api::types;
use crate::model::{
    GenerateOptions, GenerateRequest, GrammarSource, Prompt, PromptPiece, WhenFull,
};
use crate::sampling::{Distribution, LogprobsWanted, SamplingParameters};
use crate::token::TokenId;

impl TryFrom<types::ChatCompletionRequest> for GenerateRequest {
    type Error = Error;

    fn try_from(mut body: types::ChatCompletionRequest) -> Result<Self, Error> {
        let messages = std::mem::take(&mut body.messages);
        let tools = tool_use(&mut body)?;
        let logit_bias = logit_bias(std::mem::take(&mut body.logit_bias))?;
        // What is called as a native option and is something else.
        let own = ["stop", "logit_bias", "seed"].map(|name| (name, Value::Null));
        let mut sampling =
            sampling::parameters(&as_completion(&body, &own)?, SamplingParameters::openai())?;
        sampling.seed = body.seed.and_then(seed);
        let top = count("top_logprobs", body.top_logprobs.unwrap_or(0))?;
        sampling.logprobs = match (body.logprobs.unwrap_or(false), top) {
            (true, top) => Some(LogprobsWanted {
                top,
                of: Distribution::Model,
            }),
            (false, 0) => None,
            (false, _) => {
                let message = "top_logprobs: it needs \"logprobs\": true";
                return Err(Error::invalid("top_logprobs", message));
            }
        };
        let shown = tools.as_ref().map_or(&[][..], |tools| &tools.shown);
        Ok(Self {
            prompt: Prompt::Chat(conversation(messages, shown)?),
            system_prompt: None,
            options: GenerateOptions {
                max_tokens: body
                    .max_completion_tokens
                    .or(body.max_tokens)
                    .map(|tokens| tokens as usize),
                stop: match body.stop {
                    None => Vec::new(),
                    Some(types::StopTexts::String(stop)) => vec![stop],
                    Some(types::StopTexts::Array(stops)) => stops,
                },
                ignore_end: body.ignore_eos.unwrap_or(false),
                sampling,
                logit_bias,
                grammar: one_grammar([
                    body.response_format
                        .map(required_form)
                        .transpose()?
                        .flatten(),
                    unless_empty(body.grammar, GrammarSource::Gbnf),
                    unless_empty(body.regex, GrammarSource::Regex),
                    unless_empty(body.lark, GrammarSource::Lark),
                ])?,
                tools: tools.map(|tools| tools.callable),
                penalty_prompt: body.penalty_prompt.map(pieces),
                slot: None,
                when_full: WhenFull::Stop,
                whole_prompt: true,
                read_cache: body.cache_prompt.unwrap_or(true),
                cache_salt: body.cache_salt,
                priority: body.priority.unwrap_or(0),
                timeout: body.request_timeout.map(seconds),
                stream: body.stream.unwrap_or(false),
            },
        })
    }
}

/// A seed of 64 bits as one of 32; -1 draws one, as on the native surface.
fn seed(seed: i64) -> Option<u32> {
    match (seed, u32::try_from(seed)) {
        (-1, _) => None,
        (_, Ok(seed)) => Some(seed),
        // Both halves count.
        (seed, Err(_)) => Some((seed ^ (seed >> 32)) as u32),
    }
}

fn logit_bias(biases: Option<HashMap<String, f64>>) -> Result<Vec<(PromptPiece, f32)>, Error> {
    let bias = |(token, amount): (String, f64)| match token.parse() {
        Ok(id) => Ok((PromptPiece::Token(TokenId(id)), single(amount))),
        Err(_) => {
            let place = format!("logit_bias.{token}");
            Err(Error::invalid(
                &*place,
                format!("{place}: it is no token id"),
            ))
        }
    };
    biases.into_iter().flatten().map(bias).collect()
}

/// What the text must follow to have a form.
fn required_form(form: types::ResponseFormat) -> Result<Option<GrammarSource>, Error> {
    use types::ResponseFormatType as Type;
    let schema = match (form.type_, form.json_schema) {
        (Type::Text, _) => return Ok(None),
        (Type::JsonObject, _) => json!({ "type": "object" }),
        (Type::JsonSchema, Some(named)) => named.schema.unwrap_or_default().into(),
        (Type::JsonSchema, None) => {
            let message = "response_format.json_schema: it is missing";
            return Err(Error::invalid("response_format.json_schema", message));
        }
    };
    Ok(Some(GrammarSource::JsonSchema(schema)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(body: Value) -> Result<GenerateRequest, Error> {
        crate::api::check("ChatCompletionRequest", &body).unwrap();
        serde_json::from_value::<types::ChatCompletionRequest>(body)
            .unwrap()
            .try_into()
    }

    #[test]
    fn without_options_openais_defaults_hold() {
        let request =
            request(json!({"messages": [{"role": "user", "content": "a"}], "stop": null})).unwrap();
        assert_eq!(request.options.sampling.temperature, 1.0);
        assert_eq!(
            (
                request.options.sampling.top_k,
                request.options.sampling.top_p,
                request.options.sampling.min_p
            ),
            (None, 1.0, 0.0)
        );
        assert_eq!(request.options.sampling.repetition.repeat_penalty, 1.0);
        assert_eq!(
            (request.options.max_tokens, request.options.stop.len()),
            (None, 0)
        );
    }

    #[test]
    fn messages_become_what_templates_know() {
        let request = request(json!({
            "messages": [
                {"role": "developer", "content": "be brief"},
                {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                {"role": "assistant", "content": ""},
            ],
            "max_tokens": 9, "max_completion_tokens": 4, "stop": "x",
        }))
        .unwrap();
        let Prompt::Chat(conversation) = request.prompt else {
            panic!("a conversation was sent")
        };
        let messages: Vec<_> = conversation
            .messages
            .iter()
            .map(|message| (&*message.role, &*message.content))
            .collect();
        assert_eq!(
            messages,
            [("system", "be brief"), ("user", "ab"), ("assistant", "")]
        );
        assert_eq!(
            (request.options.max_tokens, request.options.stop),
            (Some(4), vec!["x".to_owned()])
        );
    }
}
