//! Builds chat completion responses in OpenAI's format: a single JSON object or a stream of chunks.

use futures_util::stream::select_all;
use futures_util::{Stream, StreamExt, stream};

use super::super::response_parts::{self, ResponseMetadata, token_logprobs, usage};
use crate::api::assistant::{AssistantEvent, AssistantOutput, GeneratedCall, call_id};
use crate::api::error::Error;
use crate::api::timings::{prompt_progress, timings, timings_so_far};
use crate::api::types;
use crate::model::{FinishReason, GenerationSummary, OutputToken};
use crate::text::OutputPart;

/// Builds the response to one request.
#[derive(Clone)]
pub(super) struct ChatWriter(ResponseMetadata);

impl ChatWriter {
    pub(super) fn new(model: &str) -> Self {
        Self(ResponseMetadata::new("chatcmpl", model))
    }

    /// Returns the complete response, with a choice for each output.
    pub(super) fn completion(self, outputs: Vec<AssistantOutput>) -> types::ChatCompletion {
        let summaries: Vec<GenerationSummary> = outputs
            .iter()
            .map(|output| output.summary.clone())
            .collect();
        let choices = (0..).zip(outputs).map(|(index, output)| types::ChatChoice {
            index,
            logprobs: logprobs(&output.tokens),
            finish_reason: finish_reason(&output.summary.reason, !output.calls.is_empty()),
            message: message(output.reasoning, output.content, output.calls),
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

    /// Returns the chunks of all choices: the roles, then content and tool calls, the finish reasons and, if requested,
    /// the usage. The last chunk has the timings of the choice that ended last.
    pub(super) fn chunks(
        self,
        choices: Vec<impl Stream<Item = Result<AssistantEvent, Error>> + Send + 'static>,
        include_usage: bool,
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
        let later_events = select_all(events).flat_map(move |(index, event): (u32, _)| {
            let calls = &mut calls[index as usize];
            let chunks = match event {
                Err(error) => vec![Err(error)],
                Ok(AssistantEvent::Parts { parts, tokens }) => {
                    let choices = chunk_choices(index, parts, &tokens, calls);
                    let chunk = |choice| types::ChatCompletionChunk {
                        timings: timings_of[index as usize].take(),
                        ..self.chunk(Some(choice), None)
                    };
                    choices.into_iter().map(chunk).map(Ok).collect()
                }
                Ok(AssistantEvent::Progress(progress)) => match prompt_progress(&progress) {
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
                Ok(AssistantEvent::Finished(summary)) => {
                    let choice = types::ChunkChoice {
                        finish_reason: Some(finish_reason(&summary.reason, *calls > 0)),
                        ..chunk_choice(index, types::Delta::default())
                    };
                    let timings = timings(&summary);
                    summaries.push(summary);
                    let all_finished = summaries.len() == count;
                    let usage = (all_finished && include_usage)
                        .then(|| self.chunk(None, Some(usage(&summaries))));
                    let end = self.chunk(Some(choice), None);
                    let mut chunks: Vec<_> = [end].into_iter().chain(usage).collect();
                    if all_finished && let Some(last) = chunks.last_mut() {
                        last.timings = Some(timings);
                    }
                    chunks.into_iter().map(Ok).collect()
                }
            };
            stream::iter(chunks)
        });
        stream::iter(roles).chain(later_events)
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

/// Builds a message. A message that has only tool calls has no `content`.
fn message(
    reasoning: String,
    content: String,
    calls: Vec<GeneratedCall>,
) -> types::AssistantMessage {
    let has_only_calls = content.is_empty() && !calls.is_empty();
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
        reasoning_content: (!reasoning.is_empty()).then_some(reasoning),
        content: (!has_only_calls).then_some(content),
        refusal: None,
        tool_calls: calls.collect(),
    }
}

/// Converts an output part to a delta; `calls` counts the tool calls of the message.
fn delta(part: OutputPart, calls: &mut u32) -> types::Delta {
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
        OutputPart::Reasoning(text) => types::Delta {
            reasoning_content: Some(text),
            ..types::Delta::default()
        },
        OutputPart::Text(text) => types::Delta {
            content: Some(text),
            ..types::Delta::default()
        },
        OutputPart::ToolCall { name } => {
            *calls += 1;
            call(*calls - 1, Some(call_id()), Some(name), String::new())
        }
        OutputPart::Arguments(piece) => call(calls.saturating_sub(1), None, None, piece),
    }
}

/// Returns a choice for each part. The first choice contains the log probabilities of all tokens. If there are tokens
/// but no parts yet, returns a choice without text.
fn chunk_choices(
    index: u32,
    parts: Vec<OutputPart>,
    tokens: &[OutputToken],
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

/// Returns the log probabilities of the tokens; `None` if no token has any.
fn logprobs(tokens: &[OutputToken]) -> Option<types::ChoiceLogprobs> {
    let content = token_logprobs(tokens);
    (!content.is_empty()).then_some(types::ChoiceLogprobs {
        content,
        refusal: None,
    })
}

/// Returns the finish reason of a message; `calls` is whether the message has tool calls.
fn finish_reason(reason: &FinishReason, calls: bool) -> types::FinishReason {
    match reason {
        FinishReason::EndOfText if calls => types::FinishReason::ToolCalls,
        reason => response_parts::finish_reason(reason),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{GenerationProgress, Timings};

    fn summary() -> GenerationSummary {
        GenerationSummary {
            reason: FinishReason::TokenLimit,
            slot: 0,
            prompt_tokens: 5,
            cached_tokens: 1,
            generated_tokens: 2,
            eog_token: None,
            reasoning_tokens: 0,
            truncated: false,
            seed: 0,
            timings: Timings::default(),
        }
    }

    #[tokio::test]
    async fn a_stream_has_role_text_finish_reason_and_usage() {
        let text = AssistantEvent::Parts {
            parts: vec![OutputPart::Text("Hi".to_owned())],
            tokens: Vec::new(),
        };
        let events = stream::iter([Ok(text), Ok(AssistantEvent::Finished(summary()))]);
        let chunks: Vec<_> = ChatWriter::new("tiny")
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
    async fn progress_events_become_chunks() {
        let progress = |generated_tokens| {
            Ok(AssistantEvent::Progress(GenerationProgress {
                prompt_tokens: 5,
                cached_tokens: 1,
                processed_tokens: 5,
                generated_tokens,
                timings: Timings::default(),
            }))
        };
        let text = AssistantEvent::Parts {
            parts: vec![OutputPart::Text("Hi".to_owned())],
            tokens: Vec::new(),
        };
        let end = Ok(AssistantEvent::Finished(summary()));
        let events = stream::iter([progress(0), progress(1), Ok(text), end]);
        let chunks = ChatWriter::new("tiny").chunks(vec![events], false);
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
    fn a_complete_response_matches_the_schema() {
        let output = ChatWriter::new("tiny").completion(vec![AssistantOutput {
            reasoning: String::new(),
            content: "Hi".to_owned(),
            calls: Vec::new(),
            tokens: Vec::new(),
            summary: summary(),
        }]);
        crate::api::check("ChatCompletion", &serde_json::to_value(&output).unwrap()).unwrap();
        assert_eq!(output.usage.prompt_tokens_details.cached_tokens, 1);
        assert_eq!(output.timings.unwrap().cache_n, 1);
    }
}
