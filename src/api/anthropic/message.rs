//! A message as Anthropic's API has it: whole, or in events as it comes.

use futures_util::{Stream, StreamExt, stream};
use serde_json::{Map, Value};

use crate::api::answer::{Answer, AnswerEvent, call_id};
use crate::api::error::Error;
use crate::api::types;
use crate::model::{FinishReason, Summary};
use crate::text::AnswerPart;

/// What a message begins with.
pub(super) struct Heading {
    id: String,
    model: String,
    prompt_tokens: usize,
    /// Whether the block of a thought is empty.
    hides_thought: bool,
}

/// The block of a stream that was begun last.
struct Block {
    index: u32,
    kind: types::MessageBlockType,
}

/// How far a stream is.
#[derive(Default)]
struct Progress {
    blocks: u32,
    open: Option<Block>,
    called: bool,
    hides_thought: bool,
}

impl Heading {
    /// For a prompt of so many tokens.
    pub(super) fn new(model: &str, prompt_tokens: usize, hides_thought: bool) -> Self {
        Self {
            id: format!("msg_{:032x}", rand::random::<u128>()),
            model: model.to_owned(),
            prompt_tokens,
            hides_thought,
        }
    }

    /// All of it at once.
    pub(super) fn message(self, answer: Answer) -> types::Message {
        let Answer {
            thought,
            content,
            calls,
            summary,
            ..
        } = answer;
        let (reason, sequence) = stop(&summary, !calls.is_empty());
        let thought = (!thought.is_empty()).then(|| {
            thought_block(match self.hides_thought {
                true => String::new(),
                false => thought,
            })
        });
        let text = (!content.is_empty() || calls.is_empty()).then(|| text_block(content));
        let calls = calls.into_iter().map(|call| types::MessageBlock {
            // What was cut is no JSON; a call without any would be none.
            input: Some(serde_json::from_str(&call.arguments).unwrap_or_default()),
            ..call_block(call.id, call.name)
        });
        types::Message {
            content: thought.into_iter().chain(text).chain(calls).collect(),
            stop_reason: Some(reason),
            stop_sequence: sequence,
            usage: usage(&summary),
            ..self.empty()
        }
    }

    /// A message of which nothing was said yet.
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

    /// Its beginning, blocks and pieces of them as they come, its end.
    pub(super) fn events(
        self,
        events: impl Stream<Item = Result<AnswerEvent, Error>> + Send + 'static,
    ) -> impl Stream<Item = Result<types::MessagesEvent, Error>> + Send + 'static {
        let hides_thought = self.hides_thought;
        let start = types::MessageStart {
            type_: types::MessageStartType::MessageStart,
            message: self.empty(),
        };
        let mut progress = Progress {
            hides_thought,
            ..Progress::default()
        };
        let rest = events.flat_map(move |event| {
            let events = match event {
                Err(error) => vec![Err(error)],
                Ok(AnswerEvent::Parts { parts, .. }) => {
                    let events = parts.into_iter().flat_map(|part| progress.part(part));
                    events.map(Ok).collect()
                }
                Ok(AnswerEvent::Progress(_)) => Vec::new(),
                Ok(AnswerEvent::Finished(summary)) => {
                    progress.end(&summary).into_iter().map(Ok).collect()
                }
            };
            stream::iter(events)
        });
        stream::iter([Ok(start.into())]).chain(rest)
    }
}

impl Progress {
    fn part(&mut self, part: AnswerPart) -> Vec<types::MessagesEvent> {
        use types::{BlockDeltaType as Delta, MessageBlockType as Kind};
        let mut events = Vec::new();
        let open = self.open.as_ref().map(|open| open.kind);
        let nothing = types::BlockDelta {
            type_: Delta::InputJsonDelta,
            text: None,
            thinking: None,
            partial_json: None,
        };
        let delta = match part {
            AnswerPart::Thought(thought) => {
                if open != Some(Kind::Thinking) {
                    self.begin(thought_block(String::new()), &mut events);
                }
                if self.hides_thought {
                    return events;
                }
                types::BlockDelta {
                    type_: Delta::ThinkingDelta,
                    thinking: Some(thought),
                    ..nothing
                }
            }
            AnswerPart::Text(text) => {
                if open != Some(Kind::Text) {
                    self.begin(text_block(String::new()), &mut events);
                }
                types::BlockDelta {
                    type_: Delta::TextDelta,
                    text: Some(text),
                    ..nothing
                }
            }
            AnswerPart::Call { name } => {
                self.called = true;
                self.begin(call_block(call_id(), name), &mut events);
                types::BlockDelta {
                    partial_json: Some(String::new()),
                    ..nothing
                }
            }
            AnswerPart::Arguments(piece) => types::BlockDelta {
                partial_json: Some(piece),
                ..nothing
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

    fn begin(&mut self, block: types::MessageBlock, events: &mut Vec<types::MessagesEvent>) {
        self.stop_block(events);
        let index = self.blocks;
        self.blocks += 1;
        self.open = Some(Block {
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
            .map(|Block { index, .. }| types::ContentBlockStop {
                type_: types::ContentBlockStopType::ContentBlockStop,
                index,
            });
        events.extend(stop.map(Into::into));
    }

    fn end(&mut self, summary: &Summary) -> Vec<types::MessagesEvent> {
        let mut events = Vec::new();
        self.stop_block(&mut events);
        let (stop_reason, stop_sequence) = stop(summary, self.called);
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

/// A thought; nothing says whose it is but the server that it comes from.
fn thought_block(thought: String) -> types::MessageBlock {
    types::MessageBlock {
        type_: types::MessageBlockType::Thinking,
        thinking: Some(thought),
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

fn call_block(id: String, name: String) -> types::MessageBlock {
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

/// Why a message ended, and by which text.
fn stop(summary: &Summary, called: bool) -> (types::StopReason, Option<String>) {
    match &summary.reason {
        FinishReason::EndOfText if called => (types::StopReason::ToolUse, None),
        FinishReason::EndOfText => (types::StopReason::EndTurn, None),
        FinishReason::StopString(text) => (types::StopReason::StopSequence, Some(text.clone())),
        FinishReason::TokenLimit | FinishReason::ContextFull => {
            (types::StopReason::MaxTokens, None)
        }
    }
}

fn usage(summary: &Summary) -> types::MessageUsage {
    types::MessageUsage {
        input_tokens: (summary.prompt_tokens - summary.cached_tokens) as u64,
        cache_creation_input_tokens: 0,
        cache_read_input_tokens: summary.cached_tokens as u64,
        output_tokens: summary.generated_tokens as u64,
    }
}
