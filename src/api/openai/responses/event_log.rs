//! Numbers the events of a response stream and collects them until they are sent.

use crate::api::error::{Error, Surface};
use crate::api::types;

pub(super) use types::ResponsePartEventType as PartEventType;
pub(super) use types::ResponseStateEventType as StateEventType;

/// The events of a response that have not been sent yet.
#[derive(Default)]
pub(super) struct EventLog {
    next_sequence_number: u64,
    /// The item that started last: events of parts, texts and arguments belong to it.
    item: ItemLocation,
    pending: Vec<types::ResponsesEvent>,
}

/// The id of an item and the index of the item in the output.
#[derive(Clone, Default)]
struct ItemLocation {
    item_id: String,
    output_index: u64,
}

impl EventLog {
    /// Removes and returns the pending events.
    pub(super) fn take(&mut self) -> Vec<types::ResponsesEvent> {
        std::mem::take(&mut self.pending)
    }

    /// Adds an event with the new state of the response.
    pub(super) fn state(&mut self, type_: StateEventType, response: types::ResponseObject) {
        self.push(|sequence_number, _| types::ResponseStateEvent {
            type_,
            sequence_number,
            response,
        });
    }

    /// Adds an event: an item starts.
    pub(super) fn start_item(
        &mut self,
        item_id: &str,
        output_index: u64,
        item: types::ResponseItem,
    ) {
        self.item = ItemLocation {
            item_id: item_id.to_owned(),
            output_index,
        };
        self.item(types::ResponseItemEventType::ResponseOutputItemAdded, item);
    }

    /// Adds an event: the item that started last ends.
    pub(super) fn end_item(&mut self, item: types::ResponseItem) {
        self.item(types::ResponseItemEventType::ResponseOutputItemDone, item);
    }

    fn item(&mut self, type_: types::ResponseItemEventType, item: types::ResponseItem) {
        self.push(|sequence_number, location| types::ResponseItemEvent {
            type_,
            sequence_number,
            output_index: location.output_index,
            item,
        });
    }

    /// Adds an event: the only content part of the item starts or ends.
    pub(super) fn part(&mut self, type_: PartEventType, part: types::ResponseOutputPart) {
        self.push(|sequence_number, location| types::ResponsePartEvent {
            type_,
            sequence_number,
            item_id: location.item_id,
            output_index: location.output_index,
            content_index: 0,
            part,
        });
    }

    /// Adds a text delta.
    pub(super) fn text(&mut self, delta: String, logprobs: Vec<types::TokenLogprob>) {
        self.push(|sequence_number, location| types::ResponseTextDelta {
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
    pub(super) fn text_done(&mut self, text: String, logprobs: Vec<types::TokenLogprob>) {
        self.push(|sequence_number, location| types::ResponseTextDone {
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
    pub(super) fn reasoning(&mut self, delta: String) {
        self.push(|sequence_number, location| types::ResponseThoughtDelta {
            type_: types::ResponseThoughtDeltaType::ResponseReasoningTextDelta,
            sequence_number,
            item_id: location.item_id,
            output_index: location.output_index,
            content_index: 0,
            delta,
        });
    }

    /// Adds the complete reasoning text.
    pub(super) fn reasoning_done(&mut self, text: String) {
        self.push(|sequence_number, location| types::ResponseThoughtDone {
            type_: types::ResponseThoughtDoneType::ResponseReasoningTextDone,
            sequence_number,
            item_id: location.item_id,
            output_index: location.output_index,
            content_index: 0,
            text,
        });
    }

    /// Adds a delta of a tool call's arguments.
    pub(super) fn arguments(&mut self, delta: String) {
        self.push(|sequence_number, location| types::ResponseArgumentsDelta {
            type_: types::ResponseArgumentsDeltaType::ResponseFunctionCallArgumentsDelta,
            sequence_number,
            item_id: location.item_id,
            output_index: location.output_index,
            delta,
        });
    }

    /// Adds the complete arguments of a tool call.
    pub(super) fn arguments_done(&mut self, name: String, arguments: String) {
        self.push(|sequence_number, location| types::ResponseArgumentsDone {
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
        self.push(|sequence_number, _| types::ResponseErrorEvent {
            type_: types::ResponseErrorEventType::Error,
            sequence_number,
            code: detail.code.as_str().map(str::to_owned),
            message: detail.message,
            param: detail.param,
        });
    }

    fn push<E: Into<types::ResponsesEvent>>(&mut self, event: impl FnOnce(u64, ItemLocation) -> E) {
        let event = event(self.next_sequence_number, self.item.clone());
        self.pending.push(event.into());
        self.next_sequence_number += 1;
    }
}
