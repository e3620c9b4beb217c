//! A message as OpenAI's API has it: whole, or in chunks as it comes.

use futures_util::stream::select_all;
use futures_util::{Stream, StreamExt, stream};

use super::super::heading::{self, Heading, token_logprobs, usage};
use crate::api::answer::{Answer, AnswerEvent, Call, call_id};
use crate::api::error::Error;
use crate::api::timings::{prompt_progress, timings, timings_so_far};
use crate::api::types;
use crate::model::{AnswerToken, FinishReason, Summary};
use crate::text::AnswerPart;

/// How the answers to one body are written.
#[derive(Clone)]
pub(super) struct Messages(Heading);

impl Messages {
    pub(super) fn new(model: &str) -> Self {
        Self(Heading::new("chatcmpl", model))
    }

    /// All messages at once.
    pub(super) fn completion(self, answers: Vec<Answer>) -> types::ChatCompletion {
        let summaries: Vec<Summary> = answers
            .iter()
            .map(|answer| answer.summary.clone())
            .collect();
        let choices = (0..).zip(answers).map(|(index, answer)| types::ChatChoice {
            index,
            logprobs: logprobs(&answer.tokens),
            finish_reason: finish_reason(&answer.summary.reason, !answer.calls.is_empty()),
            message: message(answer.thought, answer.content, answer.calls),
        });
        types::ChatCompletion {
            id: self.0.id,
            object: types::ChatCompletionObject::ChatCompletion,
            created: self.0.created,
            model: self.0.model,
            system_fingerprint: self.0.fingerprint,
            choices: choices.collect(),
            usage: usage(&summaries),
            timings: summaries.first().map(timings),
        }
    }

    /// The roles, what is said and called as it comes, the reasons of the ends, and the usage if it is wanted. The last chunk
    /// has the timings of the last choice that ended.
    pub(super) fn chunks(
        self,
        choices: Vec<impl Stream<Item = Result<AnswerEvent, Error>> + Send + 'static>,
        usage_wanted: bool,
    ) -> impl Stream<Item = Result<types::ChatCompletionChunk, Error>> + Send + 'static {
        let count = choices.len();
        let role = types::Delta {
            role: Some(types::DeltaRole::Assistant),
            content: Some(String::new()),
            ..types::Delta::default()
        };
        let roles: Vec<_> = (0..count as u32)
            .map(|index| Ok(self.chunk(Some(chunk_choice(index, role.clone())), None)))
            .collect();
        let choices = (0..).zip(choices);
        let events = choices.map(|(index, events)| events.map(move |event| (index, event)).boxed());
        let mut calls = vec![0; count];
        let mut summaries = Vec::new();
        let mut timings_of = vec![None; count];
        let rest = select_all(events).flat_map(move |(index, event): (u32, _)| {
            let calls = &mut calls[index as usize];
            let chunks = match event {
                Err(error) => vec![Err(error)],
                Ok(AnswerEvent::Parts { parts, tokens }) => {
                    let choices = chunk_choices(index, parts, &tokens, calls);
                    let chunk = |choice| types::ChatCompletionChunk {
                        timings: timings_of[index as usize].take(),
                        ..self.chunk(Some(choice), None)
                    };
                    choices.into_iter().map(chunk).map(Ok).collect()
                }
                Ok(AnswerEvent::Progress(progress)) => match prompt_progress(&progress) {
                    Some(prompt_progress) => {
                        let choice = chunk_choice(index, types::Delta::default());
                        vec![Ok(types::ChatCompletionChunk {
                            prompt_progress: Some(prompt_progress),
                            ..self.chunk(Some(choice), None)
                        })]
                    }
                    None => {
                        timings_of[index as usize] = Some(timings_so_far(&progress));
                        Vec::new()
                    }
                },
                Ok(AnswerEvent::Finished(summary)) => {
                    let choice = types::ChunkChoice {
                        finish_reason: Some(finish_reason(&summary.reason, *calls > 0)),
                        ..chunk_choice(index, types::Delta::default())
                    };
                    let timings = timings(&summary);
                    summaries.push(summary);
                    let all = summaries.len() == count;
                    let usage =
                        (all && usage_wanted).then(|| self.chunk(None, Some(usage(&summaries))));
                    let end = self.chunk(Some(choice), None);
                    let mut chunks: Vec<_> = [end].into_iter().chain(usage).collect();
                    if all && let Some(last) = chunks.last_mut() {
                        last.timings = Some(timings);
                    }
                    chunks.into_iter().map(Ok).collect()
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
            id: self.0.id.clone(),
            object: types::ChatCompletionChunkObject::ChatCompletionChunk,
            created: self.0.created,
            model: self.0.model.clone(),
            system_fingerprint: self.0.fingerprint.clone(),
            choices: choice.into_iter().collect(),
            usage,
            timings: None,
            prompt_progress: None,
        }
    }
}

/// A message as it is sent; what calls and says nothing has no content.
fn message(thought: String, content: String, calls: Vec<Call>) -> types::AssistantMessage {
    let silent = content.is_empty() && !calls.is_empty();
    let calls = calls.into_iter().map(|call| types::ToolCall {
        id: call.id,
        type_: types::ToolCallType::Function,
        function: types::CalledFunction {
            name: call.name,
            arguments: call.arguments,
        },
    });
    types::AssistantMessage {
        role: types::AssistantMessageRole::Assistant,
        reasoning_content: (!thought.is_empty()).then_some(thought),
        content: (!silent).then_some(content),
        refusal: None,
        tool_calls: calls.collect(),
    }
}

/// What a part adds to a message that has so many calls.
fn delta(part: AnswerPart, calls: &mut u32) -> types::Delta {
    let call = |index, id: Option<String>, name, arguments| types::Delta {
        tool_calls: vec![types::ToolCallDelta {
            index,
            type_: id.is_some().then_some(types::ToolCallDeltaType::Function),
            id,
            function: Some(types::CalledFunctionDelta { name, arguments }),
        }],
        ..types::Delta::default()
    };
    match part {
        AnswerPart::Thought(text) => types::Delta {
            reasoning_content: Some(text),
            ..types::Delta::default()
        },
        AnswerPart::Text(text) => types::Delta {
            content: Some(text),
            ..types::Delta::default()
        },
        AnswerPart::Call { name } => {
            *calls += 1;
            call(*calls - 1, Some(call_id()), Some(name), String::new())
        }
        AnswerPart::Arguments(piece) => call(calls.saturating_sub(1), None, None, piece),
    }
}

/// A choice for each part; the first one has the tokens' log-probabilities, also where no part is told yet.
fn chunk_choices(
    index: u32,
    parts: Vec<AnswerPart>,
    tokens: &[AnswerToken],
    calls: &mut u32,
) -> Vec<types::ChunkChoice> {
    let deltas = parts.into_iter().map(|part| delta(part, calls));
    let mut choices: Vec<_> = deltas.map(|delta| chunk_choice(index, delta)).collect();
    let logprobs = logprobs(tokens);
    match (choices.first_mut(), logprobs) {
        (Some(first), logprobs) => first.logprobs = logprobs,
        (None, None) => {}
        (None, logprobs) => choices.push(types::ChunkChoice {
            logprobs,
            ..chunk_choice(index, types::Delta::default())
        }),
    }
    choices
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
    let content = token_logprobs(tokens);
    (!content.is_empty()).then_some(types::ChoiceLogprobs {
        content,
        refusal: None,
    })
}

/// Why a message ended that has, or has no calls.
fn finish_reason(reason: &FinishReason, calls: bool) -> types::FinishReason {
    match reason {
        FinishReason::EndOfText if calls => types::FinishReason::ToolCalls,
        reason => heading::finish_reason(reason),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{GenerationProgress, Timings};

    fn summary() -> Summary {
        Summary {
            reason: FinishReason::TokenLimit,
            slot: 0,
            prompt_tokens: 5,
            cached_tokens: 1,
            generated_tokens: 2,
            end_token: None,
            thought_tokens: 0,
            truncated: false,
            seed: 0,
            timings: Timings::default(),
        }
    }

    #[tokio::test]
    async fn a_stream_has_role_text_reason_and_usage() {
        let text = AnswerEvent::Parts {
            parts: vec![AnswerPart::Text("Hi".to_owned())],
            tokens: Vec::new(),
        };
        let events = stream::iter([Ok(text), Ok(AnswerEvent::Finished(summary()))]);
        let chunks: Vec<_> = Messages::new("tiny")
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
        assert_eq!(values[3]["timings"]["predicted_n"], 2);
        assert!(
            values[..3]
                .iter()
                .all(|value| value.get("timings").is_none())
        );
    }

    #[tokio::test]
    async fn progress_is_told_as_it_is_made() {
        let progress = |generated_tokens| {
            Ok(AnswerEvent::Progress(GenerationProgress {
                prompt_tokens: 5,
                cached_tokens: 1,
                processed_tokens: 5,
                generated_tokens,
                timings: Timings::default(),
            }))
        };
        let text = AnswerEvent::Parts {
            parts: vec![AnswerPart::Text("Hi".to_owned())],
            tokens: Vec::new(),
        };
        let end = Ok(AnswerEvent::Finished(summary()));
        let events = stream::iter([progress(0), progress(1), Ok(text), end]);
        let chunks = Messages::new("tiny").chunks(vec![events], false);
        let chunks = chunks.map(|chunk| serde_json::to_value(chunk.unwrap()).unwrap());
        let values: Vec<_> = chunks.collect().await;
        for value in &values {
            crate::api::check("ChatCompletionEvent", value).unwrap();
        }
        let expected = json!({"total": 5, "cache": 1, "processed": 5, "time_ms": 0});
        assert_eq!(values[1]["prompt_progress"], expected);
        assert_eq!(values[2]["choices"][0]["delta"]["content"], "Hi");
        assert_eq!(values[2]["timings"]["predicted_n"], 1);
        assert_eq!(values[3]["timings"]["predicted_n"], 2);
        assert_eq!(values.len(), 4);
    }

    #[test]
    fn a_whole_answer_fits_the_document() {
        let answer = Messages::new("tiny").completion(vec![Answer {
            thought: String::new(),
            content: "Hi".to_owned(),
            calls: Vec::new(),
            tokens: Vec::new(),
            summary: summary(),
        }]);
        crate::api::check("ChatCompletion", &serde_json::to_value(&answer).unwrap()).unwrap();
        assert_eq!(answer.usage.prompt_tokens_details.cached_tokens, 1);
        assert_eq!(answer.timings.unwrap().cache_n, 1);
    }
}
