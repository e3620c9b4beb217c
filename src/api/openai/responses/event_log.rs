//! Numbers the events of a response stream and collects them until they are sent.

use crate::api::error::{Error, Surface};
use crate::api::types;

pub(super) use types::ResponseItemEventType as ItemEventType;
pub(super) use types::ResponsePartEventType as PartEventType;
pub(super) use types::ResponseStateEventType as StateEventType;

/// The events of a response that have not been sent yet.
#[derive(Default)]
pub(super) struct EventLog {
    next_sequence_number: u64,
    pending: Vec<types::ResponsesEvent>,
}

/// The id of an item and the index of the item in the output.
#[derive(Clone)]
pub(super) struct ItemLocation {
    pub item_id: String,
    pub output_index: u64,
}

impl EventLog {
    /// Removes and returns the pending events.
    pub(super) fn take(&mut self) -> Vec<types::ResponsesEvent> {
        std::mem::take(&mut self.pending)
    }

    /// Adds an event with the new state of the response.
    pub(super) fn state(&mut self, type_: StateEventType, response: types::ResponseObject) {
        self.push(|sequence_number| types::ResponseStateEvent {
            type_,
            sequence_number,
            response,
        });
    }

    /// Adds an event: an item starts or ends.
    pub(super) fn item(
        &mut self,
        type_: ItemEventType,
        output_index: u64,
        item: types::ResponseItem,
    ) {
        self.push(|sequence_number| types::ResponseItemEvent {
            type_,
            sequence_number,
            output_index,
            item,
        });
    }

    /// Adds an event: the only content part of an item starts or ends.
    pub(super) fn part(
        &mut self,
        type_: PartEventType,
        location: ItemLocation,
        part: types::ResponseOutputPart,
    ) {
        self.push(|sequence_number| types::ResponsePartEvent {
            type_,
            sequence_number,
            item_id: location.item_id,
            output_index: location.output_index,
            content_index: 0,
            part,
        });
    }

    /// Adds a text delta.
    pub(super) fn text(
        &mut self,
        location: ItemLocation,
        delta: String,
        logprobs: Vec<types::TokenLogprob>,
    ) {
        self.push(|sequence_number| types::ResponseTextDelta {
            type_: types::ResponseTextDeltaType::ResponseOutputTextDelta,
            sequence_number,
            item_id: location.item_id,
            output_index: location.output_index,
            content_index: 0,
            delta,
            logprobs,
        });
    }

    /// Adds the complete text of a content part.
    pub(super) fn text_done(
        &mut self,
        location: ItemLocation,
        text: String,
        logprobs: Vec<types::TokenLogprob>,
    ) {
        self.push(|sequence_number| types::ResponseTextDone {
            type_: types::ResponseTextDoneType::ResponseOutputTextDone,
            sequence_number,
            item_id: location.item_id,
            output_index: location.output_index,
            content_index: 0,
            text,
            logprobs,
        });
    }

    /// Adds a reasoning delta.
    pub(super) fn reasoning(&mut self, location: ItemLocation, delta: String) {
        self.push(|sequence_number| types::ResponseThoughtDelta {
            type_: types::ResponseThoughtDeltaType::ResponseReasoningTextDelta,
            sequence_number,
            item_id: location.item_id,
            output_index: location.output_index,
            content_index: 0,
            delta,
        });
    }

    /// Adds the complete reasoning text.
    pub(super) fn reasoning_done(&mut self, location: ItemLocation, text: String) {
        self.push(|sequence_number| types::ResponseThoughtDone {
            type_: types::ResponseThoughtDoneType::ResponseReasoningTextDone,
            sequence_number,
            item_id: location.item_id,
            output_index: location.output_index,
            content_index: 0,
            text,
        });
    }

    /// Adds a delta of a tool call's arguments.
    pub(super) fn arguments(&mut self, location: ItemLocation, delta: String) {
        self.push(|sequence_number| types::ResponseArgumentsDelta {
            type_: types::ResponseArgumentsDeltaType::ResponseFunctionCallArgumentsDelta,
            sequence_number,
            item_id: location.item_id,
            output_index: location.output_index,
            delta,
        });
    }

    /// Adds the complete arguments of a tool call.
    pub(super) fn arguments_done(
        &mut self,
        location: ItemLocation,
        name: String,
        arguments: String,
    ) {
        self.push(|sequence_number| types::ResponseArgumentsDone {
            type_: types::ResponseArgumentsDoneType::ResponseFunctionCallArgumentsDone,
            sequence_number,
            item_id: location.item_id,
            output_index: location.output_index,
            name,
            arguments,
        });
    }

    /// Adds an error event.
    pub(super) fn error(&mut self, error: &Error) {
        let detail = error.openai_error(Surface::OpenAi);
        self.push(|sequence_number| types::ResponseErrorEvent {
            type_: types::ResponseErrorEventType::Error,
            sequence_number,
            code: detail.code.as_str().map(str::to_owned),
            message: detail.message,
            param: detail.param,
        });
    }

    fn push<E: Into<types::ResponsesEvent>>(&mut self, event: impl FnOnce(u64) -> E) {
        self.pending.push(event(self.next_sequence_number).into());
        self.next_sequence_number += 1;
    }
}
