//! Builds a response from the assistant's output: the items, the events of the stream and the final response object.

use std::pin::pin;
use std::time::SystemTime;

use futures_util::{Stream, StreamExt, stream};

use super::super::response_parts::token_logprobs;
use super::super::unix_seconds;
use super::event_log::{EventLog, PartEventType, StateEventType};
use super::item::{new_id, output_text, reasoning_text};
use super::namespaces::Namespaces;
use super::response::{failure, usage};
use crate::api::assistant::{AssistantEvent, call_id};
use crate::api::error::Error;
use crate::api::timings::{prompt_progress, timings, timings_so_far};
use crate::api::types;
use crate::model::{
    FinishReason, GenerateError, GenerationProgress, GenerationSummary, OutputToken,
};
use crate::text::OutputPart;

use types::ResponseItemStatus as ItemStatus;
use types::ResponseStatus as Status;

/// Builds the response to one request.
pub(super) struct Writer {
    response: types::ResponseObject,
    /// Functions of namespaces: their names in the prompt differ from their names in the response.
    namespaces: Namespaces,
    open: Option<OpenItem>,
    /// Log probabilities of tokens whose text has not been sent yet.
    pending_logprobs: Vec<types::TokenLogprob>,
    events: EventLog,
}

/// The item that is being generated; not yet in the response's output.
enum OpenItem {
    Reasoning {
        id: String,
        text: String,
    },
    Message {
        id: String,
        text: String,
        logprobs: Vec<types::TokenLogprob>,
    },
    Call(types::ResponseFunctionCall),
}

impl Writer {
    pub(super) fn new(response: types::ResponseObject, namespaces: Namespaces) -> Self {
        Self {
            response,
            namespaces,
            open: None,
            pending_logprobs: Vec::new(),
            events: EventLog::default(),
        }
    }

    /// Collects the assistant's events and returns the final response.
    pub(super) async fn response(
        mut self,
        events: impl Stream<Item = Result<AssistantEvent, Error>>,
    ) -> Result<types::ResponseObject, Error> {
        let mut events = pin!(events);
        while let Some(event) = events.next().await {
            match event? {
                AssistantEvent::Parts { parts, tokens } => self.parts(parts, &tokens),
                AssistantEvent::Progress(_) => {}
                AssistantEvent::Finished(summary) => {
                    self.end(&summary);
                    return Ok(self.response);
                }
            }
            // Without a stream, the events are discarded.
            drop(self.events.take());
        }
        Err(GenerateError::Failed("the generation ended without a result".to_owned()).into())
    }

    /// Converts assistant events to response events. Calls `store` with the final response before the last event is
    /// sent.
    pub(super) fn events(
        mut self,
        events: impl Stream<Item = Result<AssistantEvent, Error>> + Send + 'static,
        store: impl FnOnce(&types::ResponseObject) + Send + 'static,
    ) -> impl Stream<Item = types::ResponsesEvent> + Send + 'static {
        self.state(StateEventType::ResponseCreated);
        self.state(StateEventType::ResponseInProgress);
        let first_events = self.events.take();
        let mut store = Some(store);
        let later_events = events.flat_map(move |event| {
            match event {
                Ok(AssistantEvent::Parts { parts, tokens }) => self.parts(parts, &tokens),
                Ok(AssistantEvent::Progress(progress)) => self.progress(&progress),
                Ok(AssistantEvent::Finished(summary)) => {
                    self.end(&summary);
                    store
                        .take()
                        .into_iter()
                        .for_each(|store| store(&self.response));
                }
                Err(error) => self.fail(&error),
            }
            stream::iter(self.events.take())
        });
        stream::iter(first_events).chain(later_events)
    }

    fn parts(&mut self, parts: Vec<OutputPart>, tokens: &[OutputToken]) {
        self.pending_logprobs.extend(token_logprobs(tokens));
        for part in parts {
            match part {
                OutputPart::Reasoning(text) => self.add_reasoning(text),
                OutputPart::Text(text) => self.add_text(text),
                OutputPart::ToolCall { name } => self.start_call(name),
                OutputPart::Arguments(delta) => self.add_arguments(delta),
            }
        }
    }

    fn add_reasoning(&mut self, delta: String) {
        if !matches!(self.open, Some(OpenItem::Reasoning { .. })) {
            let item = reasoning_item(new_id("rs"), ItemStatus::InProgress, Vec::new());
            let id = item.id.clone();
            self.start_item(&id, item.into());
            let part = reasoning_text(String::new());
            self.events
                .part(PartEventType::ResponseContentPartAdded, part.into());
            let text = String::new();
            self.open = Some(OpenItem::Reasoning { id, text });
        }
        if let Some(OpenItem::Reasoning { text, .. }) = &mut self.open {
            text.push_str(&delta);
            self.events.reasoning(delta);
        }
    }

    fn add_text(&mut self, delta: String) {
        if !matches!(self.open, Some(OpenItem::Message { .. })) {
            self.start_message();
        }
        let new = std::mem::take(&mut self.pending_logprobs);
        if let Some(OpenItem::Message { text, logprobs, .. }) = &mut self.open {
            text.push_str(&delta);
            logprobs.extend(new.iter().cloned());
            self.events.text(delta, new);
        }
    }

    fn start_message(&mut self) {
        let item = message_item(new_id("msg"), ItemStatus::InProgress, Vec::new());
        let id = item.id.clone();
        self.start_item(&id, item.into());
        let part = output_text(String::new(), Vec::new());
        self.events
            .part(PartEventType::ResponseContentPartAdded, part.into());
        self.open = Some(OpenItem::Message {
            id,
            text: String::new(),
            logprobs: Vec::new(),
        });
    }

    fn start_call(&mut self, name: String) {
        // The tokens of a tool call have no log probabilities in the response.
        self.pending_logprobs.clear();
        let (namespace, name) = match self.namespaces.get(&name) {
            Some((namespace, name)) => (Some(namespace.clone()), name.clone()),
            None => (None, name),
        };
        let call = types::ResponseFunctionCall {
            id: new_id("fc"),
            type_: types::ResponseFunctionCallType::FunctionCall,
            status: ItemStatus::InProgress,
            call_id: call_id(),
            name,
            namespace,
            arguments: String::new(),
        };
        self.start_item(&call.id, call.clone().into());
        self.open = Some(OpenItem::Call(call));
    }

    fn add_arguments(&mut self, delta: String) {
        self.pending_logprobs.clear();
        if let Some(OpenItem::Call(call)) = &mut self.open {
            call.arguments.push_str(&delta);
            self.events.arguments(delta);
        }
    }

    /// Completes the open item, if any, and starts a new item.
    fn start_item(&mut self, id: &str, item: types::ResponseItem) {
        self.close_item(ItemStatus::Completed);
        let output_index = self.response.output.len() as u64;
        self.events.start_item(id, output_index, item);
    }

    /// Completes the open item and adds it to the response's output.
    fn close_item(&mut self, status: ItemStatus) {
        let item: types::ResponseItem = match self.open.take() {
            None => return,
            Some(OpenItem::Reasoning { id, text }) => {
                let part = reasoning_text(text.clone());
                self.events.reasoning_done(text);
                let done = part.clone().into();
                self.events
                    .part(PartEventType::ResponseContentPartDone, done);
                reasoning_item(id, status, vec![part]).into()
            }
            Some(OpenItem::Message { id, text, logprobs }) => {
                let part = output_text(text.clone(), logprobs.clone());
                self.events.text_done(text, logprobs);
                let done = part.clone().into();
                self.events
                    .part(PartEventType::ResponseContentPartDone, done);
                message_item(id, status, vec![part.into()]).into()
            }
            Some(OpenItem::Call(call)) => {
                let call = types::ResponseFunctionCall { status, ..call };
                let (name, arguments) = (call.name.clone(), call.arguments.clone());
                self.events.arguments_done(name, arguments);
                call.into()
            }
        };
        self.events.end_item(item.clone());
        self.response.output.push(item);
    }

    /// Adds an event: the unfinished response with the prompt progress or the timings so far.
    fn progress(&mut self, progress: &GenerationProgress) {
        self.response.prompt_progress = prompt_progress(progress);
        self.response.timings = match self.response.prompt_progress {
            Some(_) => None,
            None => Some(timings_so_far(progress)),
        };
        self.state(StateEventType::ResponseInProgress);
        self.response.prompt_progress = None;
        self.response.timings = None;
    }

    fn end(&mut self, summary: &GenerationSummary) {
        self.response.timings = Some(timings(summary));
        let is_complete = match summary.reason {
            FinishReason::EndOfText | FinishReason::StopString(_) => true,
            FinishReason::TokenLimit | FinishReason::ContextFull => false,
        };
        // A response without output gets an empty message, and so does a complete response that ends with reasoning.
        let has_no_output = self.open.is_none() && self.response.output.is_empty();
        if has_no_output || (is_complete && matches!(self.open, Some(OpenItem::Reasoning { .. }))) {
            self.start_message();
        }
        self.response.usage = Some(usage(summary));
        if is_complete {
            self.close_item(ItemStatus::Completed);
            self.response.status = Status::Completed;
            self.response.completed_at = Some(unix_seconds(SystemTime::now()));
            self.state(StateEventType::ResponseCompleted);
        } else {
            self.close_item(ItemStatus::Incomplete);
            self.response.status = Status::Incomplete;
            let reason = types::ResponseIncompleteReason::MaxOutputTokens;
            self.response.incomplete_details = Some(types::ResponseIncomplete { reason });
            self.state(StateEventType::ResponseIncomplete);
        }
    }

    fn fail(&mut self, error: &Error) {
        self.events.error(error);
        self.response.status = Status::Failed;
        self.response.error = Some(failure(error));
        self.state(StateEventType::ResponseFailed);
    }

    fn state(&mut self, state: StateEventType) {
        self.events.state(state, self.response.clone());
    }
}

fn reasoning_item(
    id: String,
    status: ItemStatus,
    content: Vec<types::ResponseReasoningText>,
) -> types::ResponseReasoning {
    types::ResponseReasoning {
        id,
        type_: types::ResponseReasoningType::Reasoning,
        status,
        summary: Vec::new(),
        content,
    }
}

fn message_item(
    id: String,
    status: ItemStatus,
    content: Vec<types::ResponsePart>,
) -> types::ResponseMessage {
    types::ResponseMessage {
        id,
        type_: types::ResponseMessageType::Message,
        status,
        role: types::ResponseRole::Assistant,
        content,
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
