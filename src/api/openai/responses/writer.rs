//! A response as it is written: its events as they come, and what they come to.

use std::pin::pin;
use std::time::SystemTime;

use futures_util::{Stream, StreamExt, stream};

use super::super::heading::token_logprobs;
use super::super::unix_seconds;
use super::events::{Events, OfItem, OfPart, OfState, Place};
use super::item::{new_id, output_text, reasoning_text};
use super::request::Namespaces;
use super::response::{failure, usage};
use crate::api::answer::{AnswerEvent, call_id};
use crate::api::error::Error;
use crate::api::timings::{prompt_progress, timings, timings_so_far};
use crate::api::types;
use crate::model::{AnswerToken, FinishReason, GenerateError, GenerationProgress, Summary};
use crate::text::AnswerPart;

use types::ResponseItemStatus as ItemStatus;
use types::ResponseStatus as Status;

/// Writes one response.
pub(super) struct Writer {
    response: types::ResponseObject,
    /// Functions that are called by other names than the model's.
    namespaces: Namespaces,
    open: Option<Open>,
    /// Tokens whose text is not told yet.
    pending: Vec<types::TokenLogprob>,
    events: Events,
}

/// The item that is being written, behind those of the response.
enum Open {
    Thought {
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
    /// Of a response that is begun.
    pub(super) fn new(response: types::ResponseObject, namespaces: Namespaces) -> Self {
        Self {
            response,
            namespaces,
            open: None,
            pending: Vec::new(),
            events: Events::default(),
        }
    }

    /// Waits for the end.
    pub(super) async fn whole(
        mut self,
        events: impl Stream<Item = Result<AnswerEvent, Error>>,
    ) -> Result<types::ResponseObject, Error> {
        let mut events = pin!(events);
        while let Some(event) = events.next().await {
            match event? {
                AnswerEvent::Parts { parts, tokens } => self.parts(parts, &tokens),
                AnswerEvent::Progress(_) => {}
                AnswerEvent::Finished(summary) => {
                    self.end(&summary);
                    return Ok(self.response);
                }
            }
            // Nobody waits for them.
            drop(self.events.take());
        }
        Err(GenerateError::Failed("the generation ended without a result".to_owned()).into())
    }

    /// The events as they come; `keep` is shown the response before its end is told.
    pub(super) fn events(
        mut self,
        events: impl Stream<Item = Result<AnswerEvent, Error>> + Send + 'static,
        keep: impl FnOnce(&types::ResponseObject) + Send + 'static,
    ) -> impl Stream<Item = types::ResponsesEvent> + Send + 'static {
        self.state(OfState::ResponseCreated);
        self.state(OfState::ResponseInProgress);
        let begun = self.events.take();
        let mut keep = Some(keep);
        let rest = events.flat_map(move |event| {
            match event {
                Ok(AnswerEvent::Parts { parts, tokens }) => self.parts(parts, &tokens),
                Ok(AnswerEvent::Progress(progress)) => self.progress(&progress),
                Ok(AnswerEvent::Finished(summary)) => {
                    self.end(&summary);
                    keep.take()
                        .into_iter()
                        .for_each(|keep| keep(&self.response));
                }
                Err(error) => self.fail(&error),
            }
            stream::iter(self.events.take())
        });
        stream::iter(begun).chain(rest)
    }

    fn parts(&mut self, parts: Vec<AnswerPart>, tokens: &[AnswerToken]) {
        self.pending.extend(token_logprobs(tokens));
        for part in parts {
            match part {
                AnswerPart::Thought(text) => self.think(text),
                AnswerPart::Text(text) => self.say(text),
                AnswerPart::Call { name } => self.begin_call(name),
                AnswerPart::Arguments(piece) => self.go_on_with_call(piece),
            }
        }
    }

    fn think(&mut self, piece: String) {
        if !matches!(self.open, Some(Open::Thought { .. })) {
            let item = thought(new_id("rs"), ItemStatus::InProgress, Vec::new());
            let id = item.id.clone();
            let place = self.begin(&id, item.into());
            let part = reasoning_text(String::new());
            self.events
                .part(OfPart::ResponseContentPartAdded, place, part.into());
            let text = String::new();
            self.open = Some(Open::Thought { id, text });
        }
        let output_index = self.output_index();
        let Some(Open::Thought { id, text }) = &mut self.open else {
            return;
        };
        text.push_str(&piece);
        let place = Place {
            item_id: id.clone(),
            output_index,
        };
        self.events.thought(place, piece);
    }

    fn say(&mut self, piece: String) {
        if !matches!(self.open, Some(Open::Message { .. })) {
            self.begin_message();
        }
        let new = std::mem::take(&mut self.pending);
        let output_index = self.output_index();
        let Some(Open::Message { id, text, logprobs }) = &mut self.open else {
            return;
        };
        text.push_str(&piece);
        logprobs.extend(new.iter().cloned());
        let place = Place {
            item_id: id.clone(),
            output_index,
        };
        self.events.text(place, piece, new);
    }

    fn begin_message(&mut self) {
        let item = message(new_id("msg"), ItemStatus::InProgress, Vec::new());
        let id = item.id.clone();
        let place = self.begin(&id, item.into());
        let part = output_text(String::new(), Vec::new());
        self.events
            .part(OfPart::ResponseContentPartAdded, place, part.into());
        self.open = Some(Open::Message {
            id,
            text: String::new(),
            logprobs: Vec::new(),
        });
    }

    fn begin_call(&mut self, name: String) {
        // Its tokens are no text.
        self.pending.clear();
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
        self.begin(&call.id, call.clone().into());
        self.open = Some(Open::Call(call));
    }

    fn go_on_with_call(&mut self, piece: String) {
        self.pending.clear();
        let output_index = self.output_index();
        let Some(Open::Call(call)) = &mut self.open else {
            return;
        };
        call.arguments.push_str(&piece);
        let place = Place {
            item_id: call.id.clone(),
            output_index,
        };
        self.events.arguments(place, piece);
    }

    /// An item begins, and what was written before is whole.
    fn begin(&mut self, id: &str, item: types::ResponseItem) -> Place {
        self.close(ItemStatus::Completed);
        let output_index = self.output_index();
        self.events
            .item(OfItem::ResponseOutputItemAdded, output_index, item);
        Place {
            item_id: id.to_owned(),
            output_index,
        }
    }

    /// The item that is being written ends; it is the response's then.
    fn close(&mut self, status: ItemStatus) {
        let output_index = self.output_index();
        let place = |id: &str| Place {
            item_id: id.to_owned(),
            output_index,
        };
        let item: types::ResponseItem = match self.open.take() {
            None => return,
            Some(Open::Thought { id, text }) => {
                let part = reasoning_text(text.clone());
                self.events.thought_done(place(&id), text);
                let done = part.clone().into();
                self.events
                    .part(OfPart::ResponseContentPartDone, place(&id), done);
                thought(id, status, vec![part]).into()
            }
            Some(Open::Message { id, text, logprobs }) => {
                let part = output_text(text.clone(), logprobs.clone());
                self.events.text_done(place(&id), text, logprobs);
                let done = part.clone().into();
                self.events
                    .part(OfPart::ResponseContentPartDone, place(&id), done);
                message(id, status, vec![part.into()]).into()
            }
            Some(Open::Call(call)) => {
                let call = types::ResponseFunctionCall { status, ..call };
                let (name, arguments) = (call.name.clone(), call.arguments.clone());
                self.events.arguments_done(place(&call.id), name, arguments);
                call.into()
            }
        };
        self.events
            .item(OfItem::ResponseOutputItemDone, output_index, item.clone());
        self.response.output.push(item);
    }

    /// A response that is in progress is told again: with how much of the prompt was evaluated, or with the timings so far.
    fn progress(&mut self, progress: &GenerationProgress) {
        self.response.prompt_progress = prompt_progress(progress);
        self.response.timings = match self.response.prompt_progress {
            Some(_) => None,
            None => Some(timings_so_far(progress)),
        };
        self.state(OfState::ResponseInProgress);
        self.response.prompt_progress = None;
        self.response.timings = None;
    }

    fn end(&mut self, summary: &Summary) {
        self.response.timings = Some(timings(summary));
        let is_whole = match summary.reason {
            FinishReason::EndOfText | FinishReason::StopString(_) => true,
            FinishReason::TokenLimit | FinishReason::ContextFull => false,
        };
        // A whole response says something, be it the empty text.
        let silent = self.open.is_none() && self.response.output.is_empty();
        if silent || (is_whole && matches!(self.open, Some(Open::Thought { .. }))) {
            self.begin_message();
        }
        self.response.usage = Some(usage(summary));
        if is_whole {
            self.close(ItemStatus::Completed);
            self.response.status = Status::Completed;
            self.response.completed_at = Some(unix_seconds(SystemTime::now()));
            self.state(OfState::ResponseCompleted);
        } else {
            self.close(ItemStatus::Incomplete);
            self.response.status = Status::Incomplete;
            let reason = types::ResponseIncompleteReason::MaxOutputTokens;
            self.response.incomplete_details = Some(types::ResponseIncomplete { reason });
            self.state(OfState::ResponseIncomplete);
        }
    }

    fn fail(&mut self, error: &Error) {
        self.events.error(error);
        self.response.status = Status::Failed;
        self.response.error = Some(failure(error));
        self.state(OfState::ResponseFailed);
    }

    fn state(&mut self, state: OfState) {
        self.events.state(state, self.response.clone());
    }

    /// The number of the item that is being written.
    fn output_index(&self) -> u64 {
        self.response.output.len() as u64
    }
}

fn thought(
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

fn message(
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
