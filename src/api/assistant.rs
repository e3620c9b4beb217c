//! The assistant's output for chat routes: generated text divided into reasoning, content and tool calls, either as a
//! stream of events or collected into one value.

use std::pin::pin;

use futures_util::{Stream, StreamExt, stream};

use super::error::Error;
use super::stream::generation_events;
use crate::model::{
    FinishReason, GenerateError, GenerateEvent, Generation, GenerationProgress, GenerationSummary,
    OutputToken,
};
use crate::text::{OutputEnd, OutputParser, OutputPart};

/// An event of a chat generation. A stream has any number of `Parts` and `Progress` events; the last event is
/// `Finished` or an error.
pub(super) enum AssistantEvent {
    /// New output. `parts` is empty while the parser cannot yet tell reasoning, content and tool calls apart.
    Parts {
        parts: Vec<OutputPart>,
        /// The new tokens, except reasoning tokens.
        tokens: Vec<OutputToken>,
    },
    /// Progress and timings, if the request asked for them.
    Progress(GenerationProgress),
    /// The generation ended.
    Finished(GenerationSummary),
}

/// How a response contains reasoning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ReasoningForm {
    /// Separately from the content.
    Separate,
    /// Within the content, between the model's reasoning markers, such as `<think>`.
    InText,
}

/// Parses the events of a chat generation. Dropping the returned stream cancels the generation.
pub(super) fn assistant_events(
    mut generation: Generation,
    reasoning_form: ReasoningForm,
) -> impl Stream<Item = Result<AssistantEvent, Error>> + Send + 'static {
    let parser = generation.take_parser();
    let parser = match reasoning_form {
        ReasoningForm::Separate => parser,
        ReasoningForm::InText => parser.without_reasoning(),
    };
    parse_events(generation_events(generation), parser)
}

fn parse_events(
    events: impl Stream<Item = Result<GenerateEvent, Error>> + Send + 'static,
    parser: OutputParser,
) -> impl Stream<Item = Result<AssistantEvent, Error>> + Send + 'static {
    let mut parser = Some(parser);
    events.flat_map(move |event| {
        let new_events = match event {
            Err(error) => vec![Err(error)],
            // Chat routes do not echo the prompt.
            Ok(GenerateEvent::Prompt { .. }) => Vec::new(),
            Ok(GenerateEvent::Text { text, mut tokens }) => {
                let Some(parser) = &mut parser else {
                    return stream::iter(Vec::new());
                };
                let was_thinking = parser.is_reasoning();
                let parts = parser.push(&text, tokens.len());
                // Reasoning tokens are counted, but the response has no log probabilities for them.
                if was_thinking && parser.reasoning_tokens() > 0 {
                    tokens.clear();
                }
                vec![Ok(AssistantEvent::Parts { parts, tokens })]
            }
            Ok(GenerateEvent::Progress(progress)) => vec![Ok(AssistantEvent::Progress(progress))],
            Ok(GenerateEvent::Finished(mut summary)) => {
                let parser = parser.take().unwrap_or_else(OutputParser::plain_text);
                summary.reasoning_tokens = parser.reasoning_tokens();
                let parts = parser.finish(text_end(&summary.reason));
                let rest = (!parts.is_empty()).then_some(AssistantEvent::Parts {
                    parts,
                    tokens: Vec::new(),
                });
                let end = AssistantEvent::Finished(summary);
                rest.into_iter().chain([end]).map(Ok).collect()
            }
        };
        stream::iter(new_events)
    })
}

/// Returns how the parser treats text that it still holds back when the generation ends.
fn text_end(reason: &FinishReason) -> OutputEnd {
    match reason {
        FinishReason::EndOfText => OutputEnd::Complete,
        FinishReason::StopString(_) => OutputEnd::StopString,
        FinishReason::TokenLimit | FinishReason::ContextFull => OutputEnd::Truncated,
    }
}

/// The complete output of a chat generation.
pub(super) struct AssistantOutput {
    pub reasoning: String,
    pub content: String,
    pub calls: Vec<GeneratedCall>,
    /// Tokens of the content and of the tool calls, except reasoning tokens.
    pub tokens: Vec<OutputToken>,
    pub summary: GenerationSummary,
}

/// A tool call that the model generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GeneratedCall {
    /// Random id from [`call_id`].
    pub id: String,
    pub name: String,
    /// JSON text of the arguments; incomplete if the generation reached a limit.
    pub arguments: String,
}

/// Collects the events of a chat generation until it ends.
pub(super) async fn collect_output(
    events: impl Stream<Item = Result<AssistantEvent, Error>>,
) -> Result<AssistantOutput, Error> {
    let mut events = pin!(events);
    let (mut reasoning, mut content) = (String::new(), String::new());
    let (mut calls, mut tokens) = (Vec::<GeneratedCall>::new(), Vec::new());
    while let Some(event) = events.next().await {
        match event? {
            AssistantEvent::Parts {
                parts,
                tokens: new_tokens,
            } => {
                tokens.extend(new_tokens);
                for part in parts {
                    match part {
                        OutputPart::Reasoning(text) => reasoning.push_str(&text),
                        OutputPart::Text(text) => content.push_str(&text),
                        OutputPart::ToolCall { name } => calls.push(GeneratedCall {
                            id: call_id(),
                            name,
                            arguments: String::new(),
                        }),
                        OutputPart::Arguments(piece) => {
                            let last = calls.last_mut();
                            last.into_iter()
                                .for_each(|call| call.arguments.push_str(&piece));
                        }
                    }
                }
            }
            AssistantEvent::Progress(_) => {}
            AssistantEvent::Finished(summary) => {
                return Ok(AssistantOutput {
                    reasoning,
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

/// Returns a random tool call id of nine letters and digits, the only form that Mistral's chat templates accept.
pub(super) fn call_id() -> String {
    use rand::distr::{Alphanumeric, SampleString};
    Alphanumeric.sample_string(&mut rand::rng(), 9)
}
