//! An assistant's answer as it comes: what it thinks and says, and which functions it calls.

use std::pin::pin;

use futures_util::{Stream, StreamExt, stream};

use super::error::Error;
use super::stream::events;
use crate::model::{
    AnswerToken, FinishReason, GenerateError, GenerateEvent, Generation, GenerationProgress,
    Summary,
};
use crate::text::{AnswerPart, AnswerReader, TextEnd};

/// What is new of an answer: any number of `Parts`, one `Finished`; `Progress` anywhere before the last.
pub(super) enum AnswerEvent {
    /// The next parts. Tokens may come without any: it is not yet told what they are.
    Parts {
        /// In their order.
        parts: Vec<AnswerPart>,
        /// The tokens that brought them, and those before that brought nothing.
        tokens: Vec<AnswerToken>,
    },
    /// How far it is, if that was asked for.
    Progress(GenerationProgress),
    /// The end; nothing follows.
    Finished(Summary),
}

/// What becomes of thoughts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ThoughtForm {
    /// They are told as such.
    Apart,
    /// They are a part of what is said, with their marks.
    Text,
}

/// The events of an answer; dropping the stream cancels its generation.
pub(super) fn answer_events(
    mut generation: Generation,
    thoughts: ThoughtForm,
) -> impl Stream<Item = Result<AnswerEvent, Error>> + Send + 'static {
    let reader = generation.take_reader();
    let reader = match thoughts {
        ThoughtForm::Apart => reader,
        ThoughtForm::Text => reader.with_thoughts_as_text(),
    };
    read(events(generation), reader)
}

fn read(
    events: impl Stream<Item = Result<GenerateEvent, Error>> + Send + 'static,
    reader: AnswerReader,
) -> impl Stream<Item = Result<AnswerEvent, Error>> + Send + 'static {
    let mut reader = Some(reader);
    events.flat_map(move |event| {
        let read = match event {
            Err(error) => vec![Err(error)],
            // A conversation is not told again.
            Ok(GenerateEvent::Prompt { .. }) => Vec::new(),
            Ok(GenerateEvent::Text { text, mut tokens }) => {
                let Some(reader) = &mut reader else {
                    return stream::iter(Vec::new());
                };
                let was_thinking = reader.is_thinking();
                let parts = reader.push(&text, tokens.len());
                // The tokens of a thought are counted, not told.
                if was_thinking && reader.thought_tokens() > 0 {
                    tokens.clear();
                }
                vec![Ok(AnswerEvent::Parts { parts, tokens })]
            }
            Ok(GenerateEvent::Progress(progress)) => vec![Ok(AnswerEvent::Progress(progress))],
            Ok(GenerateEvent::Finished(mut summary)) => {
                let reader = reader.take().unwrap_or_else(AnswerReader::of_text);
                summary.thought_tokens = reader.thought_tokens();
                let parts = reader.finish(text_end(&summary.reason));
                let rest = (!parts.is_empty()).then_some(AnswerEvent::Parts {
                    parts,
                    tokens: Vec::new(),
                });
                let end = AnswerEvent::Finished(summary);
                rest.into_iter().chain([end]).map(Ok).collect()
            }
        };
        stream::iter(read)
    })
}

/// What the end of a generation means for text that was held back.
fn text_end(reason: &FinishReason) -> TextEnd {
    match reason {
        FinishReason::EndOfText => TextEnd::Complete,
        FinishReason::StopString(_) => TextEnd::StopString,
        FinishReason::TokenLimit | FinishReason::ContextFull => TextEnd::Cut,
    }
}

/// An answer from its first token to its end.
pub(super) struct Answer {
    /// What it thinks.
    pub thought: String,
    /// What it says.
    pub content: String,
    /// What it calls.
    pub calls: Vec<Call>,
    /// The tokens of all that, but for what is thought.
    pub tokens: Vec<AnswerToken>,
    /// How it ended.
    pub summary: Summary,
}

/// A function with its arguments, as JSON; they break off where the answer was cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Call {
    /// A new one.
    pub id: String,
    /// The function.
    pub name: String,
    /// What it is called with.
    pub arguments: String,
}

/// Waits for the end.
pub(super) async fn whole_answer(
    events: impl Stream<Item = Result<AnswerEvent, Error>>,
) -> Result<Answer, Error> {
    let mut events = pin!(events);
    let (mut thought, mut content) = (String::new(), String::new());
    let (mut calls, mut tokens) = (Vec::<Call>::new(), Vec::new());
    while let Some(event) = events.next().await {
        match event? {
            AnswerEvent::Parts { parts, tokens: own } => {
                tokens.extend(own);
                for part in parts {
                    match part {
                        AnswerPart::Thought(text) => thought.push_str(&text),
                        AnswerPart::Text(text) => content.push_str(&text),
                        AnswerPart::Call { name } => calls.push(Call {
                            id: call_id(),
                            name,
                            arguments: String::new(),
                        }),
                        AnswerPart::Arguments(piece) => {
                            let last = calls.last_mut();
                            last.into_iter()
                                .for_each(|call| call.arguments.push_str(&piece));
                        }
                    }
                }
            }
            AnswerEvent::Progress(_) => {}
            AnswerEvent::Finished(summary) => {
                return Ok(Answer {
                    thought,
                    content,
                    calls,
                    tokens,
                    summary,
                });
            }
        }
    }
    Err(GenerateError::Failed("the generation ended without a result".to_owned()).into())
}

/// An id for a call. Nine letters and digits: Mistral's templates refuse any other.
pub(super) fn call_id() -> String {
    use rand::distr::{Alphanumeric, SampleString};
    Alphanumeric.sample_string(&mut rand::rng(), 9)
}
