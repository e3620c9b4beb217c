//! Builds message responses in Anthropic's format: a single JSON object or a stream of events.

use futures_util::{Stream, StreamExt, stream};
use serde_json::{Map, Value};

use crate::api::assistant::{AssistantEvent, AssistantOutput, call_id};
use crate::api::error::Error;
use crate::api::types;
use crate::model::{FinishReason, GenerationSummary};
use crate::text::OutputPart;

/// Builds the response to one request.
pub(super) struct MessageWriter {
    id: String,
    model: String,
    prompt_tokens: usize,
    /// Whether thinking blocks have no text, as the request asked.
    omits_thinking: bool,
}

/// The content block that is being streamed.
struct OpenBlock {
    index: u32,
    kind: types::MessageBlockType,
}

/// The state of a message stream between events.
#[derive(Default)]
struct StreamState {
    /// Number of content blocks started so far.
    blocks: u32,
    open: Option<OpenBlock>,
    has_tool_calls: bool,
    omits_thinking: bool,
}

impl MessageWriter {
    pub(super) fn new(model: &str, prompt_tokens: usize, omits_thinking: bool) -> Self {
        Self {
            id: format!("msg_{:032x}", rand::random::<u128>()),
            model: model.to_owned(),
            prompt_tokens,
            omits_thinking,
        }
    }

    /// Returns the complete message.
    pub(super) fn message(self, output: AssistantOutput) -> types::Message {
        let AssistantOutput {
            reasoning,
            content,
            calls,
            summary,
            ..
        } = output;
        let (reason, sequence) = stop_reason(&summary, !calls.is_empty());
        let thinking = (!reasoning.is_empty()).then(|| {
            thinking_block(match self.omits_thinking {
                true => String::new(),
                false => reasoning,
            })
        });
        let text = (!content.is_empty() || calls.is_empty()).then(|| text_block(content));
        let calls = calls.into_iter().map(|call| types::MessageBlock {
            // Arguments cut off by the token limit are not valid JSON; an empty object replaces them.
            input: Some(serde_json::from_str(&call.arguments).unwrap_or_default()),
            ..tool_use_block(call.id, call.name)
        });
        types::Message {
            content: thinking.into_iter().chain(text).chain(calls).collect(),
            stop_reason: Some(reason),
            stop_sequence: sequence,
            usage: usage(&summary),
            ..self.empty()
        }
    }

    /// Returns the message before its first content block.
    fn empty(self) -> types::Message {
        types::Message {
            id: self.id,
            type_: types::MessageType::Message,
            role: types::MessageRole::Assistant,
            model: self.model,
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            usage: types::MessageUsage {
                input_tokens: self.prompt_tokens as u64,
                cache_creation_input_tokens: 0,
                cache_read_input_tokens: 0,
                output_tokens: 0,
            },
        }
    }

    /// Converts assistant events to message events: the start, the content blocks with their deltas, and the end.
    pub(super) fn events(
        self,
        events: impl Stream<Item = Result<AssistantEvent, Error>> + Send + 'static,
    ) -> impl Stream<Item = Result<types::MessagesEvent, Error>> + Send + 'static {
        let omits_thinking = self.omits_thinking;
        let start = types::MessageStart {
            type_: types::MessageStartType::MessageStart,
            message: self.empty(),
        };
        let mut state = StreamState {
            omits_thinking,
            ..StreamState::default()
        };
        let later_events = events.flat_map(move |event| {
            let events = match event {
                Err(error) => vec![Err(error)],
                Ok(AssistantEvent::Parts { parts, .. }) => {
                    let events = parts.into_iter().flat_map(|part| state.part(part));
                    events.map(Ok).collect()
                }
                Ok(AssistantEvent::Progress(_)) => Vec::new(),
                Ok(AssistantEvent::Finished(summary)) => {
                    state.end(&summary).into_iter().map(Ok).collect()
                }
            };
            stream::iter(events)
        });
        stream::iter([Ok(start.into())]).chain(later_events)
    }
}

impl StreamState {
    fn part(&mut self, part: OutputPart) -> Vec<types::MessagesEvent> {
        use types::{BlockDeltaType as Delta, MessageBlockType as Kind};
        let mut events = Vec::new();
        let open = self.open.as_ref().map(|open| open.kind);
        let empty_delta = types::BlockDelta {
            type_: Delta::InputJsonDelta,
            text: None,
            thinking: None,
            partial_json: None,
        };
        let delta = match part {
            OutputPart::Reasoning(thinking) => {
                if open != Some(Kind::Thinking) {
                    self.start_block(thinking_block(String::new()), &mut events);
                }
                if self.omits_thinking {
                    return events;
                }
                types::BlockDelta {
                    type_: Delta::ThinkingDelta,
                    thinking: Some(thinking),
                    ..empty_delta
                }
            }
            OutputPart::Text(text) => {
                if open != Some(Kind::Text) {
                    self.start_block(text_block(String::new()), &mut events);
                }
                types::BlockDelta {
                    type_: Delta::TextDelta,
                    text: Some(text),
                    ..empty_delta
                }
            }
            OutputPart::ToolCall { name } => {
                self.has_tool_calls = true;
                self.start_block(tool_use_block(call_id(), name), &mut events);
                types::BlockDelta {
                    partial_json: Some(String::new()),
                    ..empty_delta
                }
            }
            OutputPart::Arguments(delta_json) => types::BlockDelta {
                partial_json: Some(delta_json),
                ..empty_delta
            },
        };
        let index = self.open.as_ref().map_or(0, |open| open.index);
        let delta = types::ContentBlockDelta {
            type_: types::ContentBlockDeltaType::ContentBlockDelta,
            index,
            delta,
        };
        events.push(delta.into());
        events
    }

    fn start_block(&mut self, block: types::MessageBlock, events: &mut Vec<types::MessagesEvent>) {
        self.stop_block(events);
        let index = self.blocks;
        self.blocks += 1;
        self.open = Some(OpenBlock {
            index,
            kind: block.type_,
        });
        let start = types::ContentBlockStart {
            type_: types::ContentBlockStartType::ContentBlockStart,
            index,
            content_block: block,
        };
        events.push(start.into());
    }

    fn stop_block(&mut self, events: &mut Vec<types::MessagesEvent>) {
        let stop = self
            .open
            .take()
            .map(|OpenBlock { index, .. }| types::ContentBlockStop {
                type_: types::ContentBlockStopType::ContentBlockStop,
                index,
            });
        events.extend(stop.map(Into::into));
    }

    fn end(&mut self, summary: &GenerationSummary) -> Vec<types::MessagesEvent> {
        let mut events = Vec::new();
        self.stop_block(&mut events);
        let (stop_reason, stop_sequence) = stop_reason(summary, self.has_tool_calls);
        let delta = types::MessageDelta {
            type_: types::MessageDeltaType::MessageDelta,
            delta: types::MessageEnd {
                stop_reason,
                stop_sequence,
            },
            usage: usage(summary),
        };
        let stop = types::MessageStop {
            type_: types::MessageStopType::MessageStop,
        };
        events.extend([delta.into(), stop.into()]);
        events
    }
}

/// Returns a thinking block with an empty signature: this server does not sign or verify thinking.
fn thinking_block(thinking: String) -> types::MessageBlock {
    types::MessageBlock {
        type_: types::MessageBlockType::Thinking,
        thinking: Some(thinking),
        signature: Some(String::new()),
        text: None,
        id: None,
        name: None,
        input: None,
    }
}

fn text_block(text: String) -> types::MessageBlock {
    types::MessageBlock {
        type_: types::MessageBlockType::Text,
        thinking: None,
        signature: None,
        text: Some(text),
        id: None,
        name: None,
        input: None,
    }
}

fn tool_use_block(id: String, name: String) -> types::MessageBlock {
    types::MessageBlock {
        type_: types::MessageBlockType::ToolUse,
        thinking: None,
        signature: None,
        text: None,
        id: Some(id),
        name: Some(name),
        input: Some(Map::<String, Value>::new()),
    }
}

/// Returns the stop reason and, if a stop sequence ended the message, that sequence.
fn stop_reason(
    summary: &GenerationSummary,
    has_tool_calls: bool,
) -> (types::StopReason, Option<String>) {
    match &summary.reason {
        FinishReason::EndOfText if has_tool_calls => (types::StopReason::ToolUse, None),
        FinishReason::EndOfText => (types::StopReason::EndTurn, None),
        FinishReason::StopString(text) => (types::StopReason::StopSequence, Some(text.clone())),
        FinishReason::TokenLimit | FinishReason::ContextFull => {
            (types::StopReason::MaxTokens, None)
        }
    }
}

fn usage(summary: &GenerationSummary) -> types::MessageUsage {
    types::MessageUsage {
        input_tokens: (summary.prompt_tokens - summary.cached_tokens) as u64,
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: summary.cached_tokens as u64,
        output_tokens: summary.generated_tokens as u64,
    }
}
