//! `POST /v1/chat/completions`: the assistant's next message.

use std::collections::HashMap;
use std::time::SystemTime;

use futures_util::future::try_join_all;
use futures_util::stream::select_all;
use futures_util::{Stream, StreamExt, stream};
use serde_json::{Value, json};

use super::unix_seconds;
use crate::api::at_length;
use crate::api::error::Error;
use crate::api::messages::chat_message;
use crate::api::options::{as_completion, count, one_grammar, seconds, single, unless_empty};
use crate::api::prompts::pieces;
use crate::api::sampling;
use crate::api::stream::{EventStream, WholeAnswer, WholeOrStream, events, whole};
use crate::api::types;
use crate::model::{
    AnswerToken, FinishReason, GenerateError, GenerateEvent, GenerateLimits, GenerateOptions,
    GenerateRequest, GrammarKind, GrammarSource, LoadedModel, Prompt, PromptPiece, Summary,
    TokenLogprob, WhenFull,
};
use crate::sampling::{Distribution, LogprobsWanted, SamplingParameters};
use crate::token::TokenId;

/// The word after the last event of a stream.
const DONE: &str = "[DONE]";

/// Which program answered.
const FINGERPRINT: &str = concat!("ortolan-", env!("CARGO_PKG_VERSION"));

/// Writes the next message.
pub(in crate::api) async fn answer(
    model: &LoadedModel,
    body: types::ChatCompletionRequest,
    limits: &GenerateLimits,
) -> Result<WholeOrStream<types::ChatCompletion>, Error> {
    let usage_wanted = body
        .stream_options
        .as_ref()
        .and_then(|options| options.include_usage)
        .unwrap_or(false);
    let choices = body.n.unwrap_or(1);
    let places = model.places();
    if choices as usize > places {
        let problem =
            format!("{choices} messages are more than the {places} requests that may run or wait");
        return Err(Error::invalid("n", format!("n: {problem}")));
    }
    let request = GenerateRequest::try_from(body)?.within(limits);
    let streamed = request.options.stream;
    let begin = |choice: u32| {
        let mut request = request.clone();
        let seed = &mut request.options.sampling.seed;
        *seed = seed.map(|seed| seed.wrapping_add(choice));
        model
            .generate(request)
            .map(events)
            .map_err(in_openais_words)
    };
    let begun = at_length(|| (0..choices).map(begin).collect::<Result<Vec<_>, Error>>())?;
    let heading = Heading::new(&model.details().name);
    if streamed {
        let chunks = heading.chunks(begun, usage_wanted);
        return Ok(WholeOrStream::Stream(EventStream::new(chunks, Some(DONE))));
    }
    let answers = try_join_all(begun.into_iter().map(whole)).await?;
    Ok(WholeOrStream::Whole(heading.completion(answers)))
}

impl TryFrom<types::ChatCompletionRequest> for GenerateRequest {
    type Error = Error;

    fn try_from(mut body: types::ChatCompletionRequest) -> Result<Self, Error> {
        let messages = std::mem::take(&mut body.messages);
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
        let messages = messages.into_iter().map(chat_message).collect();
        Ok(Self {
            prompt: Prompt::Chat(messages),
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

/// A schema comes by another name here.
fn in_openais_words(error: GenerateError) -> Error {
    match error {
        GenerateError::Grammar {
            kind: GrammarKind::JsonSchema,
            error,
        } => Error::invalid(
            "response_format",
            format!("Invalid schema for response_format: {error}"),
        ),
        other => other.into(),
    }
}

/// What every part of an answer begins with.
#[derive(Clone)]
struct Heading {
    id: String,
    created: u64,
    model: String,
}

impl Heading {
    fn new(model: &str) -> Self {
        Self {
            id: format!("chatcmpl-{:032x}", rand::random::<u128>()),
            created: unix_seconds(SystemTime::now()),
            model: model.to_owned(),
        }
    }

    fn completion(self, answers: Vec<WholeAnswer>) -> types::ChatCompletion {
        let summaries: Vec<Summary> = answers
            .iter()
            .map(|answer| answer.summary.clone())
            .collect();
        let choices = (0..).zip(answers).map(|(index, answer)| types::ChatChoice {
            index,
            message: types::AssistantMessage {
                role: types::AssistantMessageRole::Assistant,
                content: answer.content,
                refusal: None,
            },
            logprobs: logprobs(&answer.tokens),
            finish_reason: finish_reason(&answer.summary.reason),
        });
        types::ChatCompletion {
            id: self.id,
            object: types::ChatCompletionObject::ChatCompletion,
            created: self.created,
            model: self.model,
            system_fingerprint: FINGERPRINT.to_owned(),
            choices: choices.collect(),
            usage: usage(&summaries),
        }
    }

    /// The roles, the texts as they come, the reasons of the ends, and the usage if it is wanted.
    fn chunks(
        self,
        choices: Vec<impl Stream<Item = Result<GenerateEvent, Error>> + Send + 'static>,
        usage_wanted: bool,
    ) -> impl Stream<Item = Result<types::ChatCompletionChunk, Error>> + Send + 'static {
        let count = choices.len();
        let role = types::Delta {
            role: Some(types::DeltaRole::Assistant),
            content: Some(String::new()),
        };
        let roles: Vec<_> = (0..count as u32)
            .map(|index| Ok(self.chunk(Some(chunk_choice(index, role.clone())), None)))
            .collect();
        let choices = (0..).zip(choices);
        let events = choices.map(|(index, events)| events.map(move |event| (index, event)).boxed());
        let mut summaries = Vec::new();
        let rest = select_all(events).flat_map(move |(index, event)| {
            let chunks = match event {
                Err(error) => vec![Err(error)],
                Ok(GenerateEvent::Text { text, tokens }) => {
                    let delta = types::Delta {
                        role: None,
                        content: Some(text),
                    };
                    let choice = types::ChunkChoice {
                        logprobs: logprobs(&tokens),
                        ..chunk_choice(index, delta)
                    };
                    vec![Ok(self.chunk(Some(choice), None))]
                }
                Ok(GenerateEvent::Finished(summary)) => {
                    let choice = types::ChunkChoice {
                        finish_reason: Some(finish_reason(&summary.reason)),
                        ..chunk_choice(index, types::Delta::default())
                    };
                    summaries.push(summary);
                    let all = usage_wanted && summaries.len() == count;
                    let usage = all.then(|| self.chunk(None, Some(usage(&summaries))));
                    let last = self.chunk(Some(choice), None);
                    [last].into_iter().chain(usage).map(Ok).collect()
                }
            };
            stream::iter(chunks)
        });
        stream::iter(roles).chain(rest)
    }

    fn chunk(
        &self,
        choice: Option<types::ChunkChoice>,
        usage: Option<types::Usage>,
    ) -> types::ChatCompletionChunk {
        types::ChatCompletionChunk {
            id: self.id.clone(),
            object: types::ChatCompletionChunkObject::ChatCompletionChunk,
            created: self.created,
            model: self.model.clone(),
            system_fingerprint: FINGERPRINT.to_owned(),
            choices: choice.into_iter().collect(),
            usage,
        }
    }
}

fn chunk_choice(index: u32, delta: types::Delta) -> types::ChunkChoice {
    types::ChunkChoice {
        index,
        delta,
        logprobs: None,
        finish_reason: None,
    }
}

/// The tokens' log-probabilities, if they were asked for.
fn logprobs(tokens: &[AnswerToken]) -> Option<types::ChoiceLogprobs> {
    /// JSON has no infinity: what was impossible is as good as that.
    const IMPOSSIBLE: f64 = -9999.0;
    let text = |token: &TokenLogprob| String::from_utf8_lossy(&token.bytes).into_owned();
    let logprob = |token: &TokenLogprob| token.logprob.clamp(IMPOSSIBLE, 0.0);
    let content: Vec<types::TokenLogprob> = tokens
        .iter()
        .filter_map(|token| token.logprobs.as_ref())
        .map(|(chosen, top)| {
            let top = top.iter().map(|token| types::TopLogprob {
                token: text(token),
                logprob: logprob(token),
                bytes: token.bytes.clone(),
            });
            types::TokenLogprob {
                token: text(chosen),
                logprob: logprob(chosen),
                bytes: chosen.bytes.clone(),
                top_logprobs: top.collect(),
            }
        })
        .collect();
    (!content.is_empty()).then_some(types::ChoiceLogprobs {
        content,
        refusal: None,
    })
}

fn finish_reason(reason: &FinishReason) -> types::FinishReason {
    match reason {
        FinishReason::EndOfText | FinishReason::StopString(_) => types::FinishReason::Stop,
        FinishReason::TokenLimit | FinishReason::ContextFull => types::FinishReason::Length,
    }
}

/// What all choices took together. They have one prompt, which the one computed that found the least of it in the cache.
fn usage(summaries: &[Summary]) -> types::Usage {
    let prompt_tokens = summaries.first().map_or(0, |summary| summary.prompt_tokens);
    let cached_tokens = summaries.iter().map(|summary| summary.cached_tokens).min();
    let completion_tokens: usize = summaries
        .iter()
        .map(|summary| summary.generated_tokens)
        .sum();
    types::Usage {
        prompt_tokens: prompt_tokens as u64,
        completion_tokens: completion_tokens as u64,
        total_tokens: (prompt_tokens + completion_tokens) as u64,
        prompt_tokens_details: types::PromptTokensDetails {
            cached_tokens: cached_tokens.unwrap_or(0) as u64,
        },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::model::Timings;

    fn request(body: Value) -> Result<GenerateRequest, Error> {
        crate::api::check("ChatCompletionRequest", &body).unwrap();
        serde_json::from_value::<types::ChatCompletionRequest>(body)
            .unwrap()
            .try_into()
    }

    fn summary() -> Summary {
        Summary {
            reason: FinishReason::TokenLimit,
            slot: 0,
            prompt_tokens: 5,
            cached_tokens: 1,
            generated_tokens: 2,
            truncated: false,
            seed: 0,
            timings: Timings::default(),
        }
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
        let Prompt::Chat(messages) = request.prompt else {
            panic!("a conversation was sent")
        };
        let messages: Vec<_> = messages
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

    #[tokio::test]
    async fn a_stream_has_role_text_reason_and_usage() {
        let text = GenerateEvent::Text {
            text: "Hi".to_owned(),
            tokens: Vec::new(),
        };
        let events = stream::iter([Ok(text), Ok(GenerateEvent::Finished(summary()))]);
        let chunks: Vec<_> = Heading::new("tiny")
            .chunks(vec![events], true)
            .map(Result::unwrap)
            .collect()
            .await;
        let values: Vec<_> = chunks
            .iter()
            .map(|chunk| serde_json::to_value(chunk).unwrap())
            .collect();
        for value in &values {
            crate::api::check("ChatCompletionEvent", value).unwrap();
        }
        assert_eq!(
            values[0]["choices"][0]["delta"],
            json!({"role": "assistant", "content": ""})
        );
        assert_eq!(values[1]["choices"][0]["delta"], json!({"content": "Hi"}));
        assert_eq!(
            values[2]["choices"][0],
            json!({"index": 0, "delta": {}, "logprobs": null, "finish_reason": "length"})
        );
        assert_eq!(values[3]["choices"], json!([]));
        assert_eq!(values[3]["usage"]["total_tokens"], 7);
    }

    #[test]
    fn a_whole_answer_fits_the_document() {
        let answer = Heading::new("tiny").completion(vec![WholeAnswer {
            content: "Hi".to_owned(),
            tokens: Vec::new(),
            summary: summary(),
        }]);
        crate::api::check("ChatCompletion", &serde_json::to_value(&answer).unwrap()).unwrap();
        assert_eq!(answer.usage.prompt_tokens_details.cached_tokens, 1);
    }
}
