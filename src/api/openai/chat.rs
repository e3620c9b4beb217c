//! `POST /v1/chat/completions`: the assistant's next message.

use std::time::SystemTime;

use futures_util::{Stream, StreamExt, stream};
use serde_json::json;

use super::unix_seconds;
use crate::api::at_length;
use crate::api::error::Error;
use crate::api::messages::chat_message;
use crate::api::options::{count, limit, one_grammar, seconds, single, unless_empty, unless_zero};
use crate::api::stream::{EventStream, WholeAnswer, WholeOrStream, events, whole};
use crate::api::types;
use crate::model::{
    AnswerToken, FinishReason, GenerateError, GenerateEvent, GenerateLimits, GenerateOptions,
    GenerateRequest, GrammarKind, GrammarSource, LoadedModel, Prompt, Summary, TokenLogprob,
    WhenFull,
};
use crate::sampling::{Distribution, LogprobsWanted, SamplingParameters};

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
    let request = GenerateRequest::try_from(body)?.within(limits);
    let streamed = request.options.stream;
    let generation = at_length(|| model.generate(request)).map_err(in_openais_words)?;
    let heading = Heading::new(&model.details().name);
    if streamed {
        let chunks = heading.chunks(events(generation), usage_wanted);
        return Ok(WholeOrStream::Stream(EventStream::new(chunks, Some(DONE))));
    }
    let answer = whole(events(generation)).await?;
    Ok(WholeOrStream::Whole(heading.completion(answer)))
}

impl TryFrom<types::ChatCompletionRequest> for GenerateRequest {
    type Error = Error;

    fn try_from(body: types::ChatCompletionRequest) -> Result<Self, Error> {
        let mut sampling = SamplingParameters::openai();
        sampling.seed = body.seed;
        if let Some(temperature) = body.temperature {
            sampling.temperature = single(temperature);
        }
        if let Some(top_p) = body.top_p {
            sampling.top_p = single(top_p);
        }
        if let Some(top_k) = body.top_k {
            sampling.top_k = unless_zero("top_k", top_k)?;
        }
        if let Some(min_p) = body.min_p {
            sampling.min_p = single(min_p);
        }
        if let Some(penalty) = body.presence_penalty {
            sampling.repetition.presence_penalty = single(penalty);
        }
        if let Some(penalty) = body.frequency_penalty {
            sampling.repetition.frequency_penalty = single(penalty);
        }
        if let Some(penalty) = body.repeat_penalty {
            sampling.repetition.repeat_penalty = single(penalty);
        }
        if let Some(last_n) = body.repeat_last_n {
            sampling.repetition.last_n = limit("repeat_last_n", last_n)?;
        }
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
        let messages = body.messages.into_iter().map(chat_message).collect();
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
                logit_bias: Vec::new(),
                grammar: one_grammar([
                    body.response_format
                        .map(required_form)
                        .transpose()?
                        .flatten(),
                    unless_empty(body.grammar, GrammarSource::Gbnf),
                    unless_empty(body.regex, GrammarSource::Regex),
                    unless_empty(body.lark, GrammarSource::Lark),
                ])?,
                penalty_prompt: None,
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

    fn completion(self, answer: WholeAnswer) -> types::ChatCompletion {
        let WholeAnswer {
            content,
            tokens,
            summary,
        } = answer;
        types::ChatCompletion {
            id: self.id,
            object: types::ChatCompletionObject::ChatCompletion,
            created: self.created,
            model: self.model,
            system_fingerprint: FINGERPRINT.to_owned(),
            choices: vec![types::ChatChoice {
                index: 0,
                message: types::AssistantMessage {
                    role: types::AssistantMessageRole::Assistant,
                    content,
                    refusal: None,
                },
                logprobs: logprobs(&tokens),
                finish_reason: finish_reason(&summary.reason),
            }],
            usage: usage(&summary),
        }
    }

    /// The role, the text as it comes, the reason of the end, and the usage if it is wanted.
    fn chunks(
        self,
        events: impl Stream<Item = Result<GenerateEvent, Error>> + Send + 'static,
        usage_wanted: bool,
    ) -> impl Stream<Item = Result<types::ChatCompletionChunk, Error>> + Send + 'static {
        let role = types::Delta {
            role: Some(types::DeltaRole::Assistant),
            content: Some(String::new()),
        };
        let first = self.chunk(Some((role, None)), None);
        let rest = events.flat_map(move |event| {
            let chunks = match event {
                Err(error) => vec![Err(error)],
                Ok(GenerateEvent::Text { text, tokens }) => {
                    let delta = types::Delta {
                        role: None,
                        content: Some(text),
                    };
                    let mut chunk = self.chunk(Some((delta, None)), None);
                    for choice in &mut chunk.choices {
                        choice.logprobs = logprobs(&tokens);
                    }
                    vec![Ok(chunk)]
                }
                Ok(GenerateEvent::Finished(summary)) => {
                    let reason = finish_reason(&summary.reason);
                    let last = self.chunk(Some((types::Delta::default(), Some(reason))), None);
                    let usage = usage_wanted.then(|| self.chunk(None, Some(usage(&summary))));
                    [last].into_iter().chain(usage).map(Ok).collect()
                }
            };
            stream::iter(chunks)
        });
        stream::once(async { Ok(first) }).chain(rest)
    }

    fn chunk(
        &self,
        choice: Option<(types::Delta, Option<types::FinishReason>)>,
        usage: Option<types::Usage>,
    ) -> types::ChatCompletionChunk {
        let choice = choice.map(|(delta, finish_reason)| types::ChunkChoice {
            index: 0,
            delta,
            logprobs: None,
            finish_reason,
        });
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

fn usage(summary: &Summary) -> types::Usage {
    types::Usage {
        prompt_tokens: summary.prompt_tokens as u64,
        completion_tokens: summary.generated_tokens as u64,
        total_tokens: (summary.prompt_tokens + summary.generated_tokens) as u64,
        prompt_tokens_details: types::PromptTokensDetails {
            cached_tokens: summary.cached_tokens as u64,
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
            .chunks(events, true)
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
        let answer = Heading::new("tiny").completion(WholeAnswer {
            content: "Hi".to_owned(),
            tokens: Vec::new(),
            summary: summary(),
        });
        crate::api::check("ChatCompletion", &serde_json::to_value(&answer).unwrap()).unwrap();
        assert_eq!(answer.usage.prompt_tokens_details.cached_tokens, 1);
    }
}
