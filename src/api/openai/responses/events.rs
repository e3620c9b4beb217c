//! The events of a response: each with its number, and the item that it tells of.

use crate::api::error::{Error, Surface};
use crate::api::types;

pub(super) use types::ResponseItemEventType as OfItem;
pub(super) use types::ResponsePartEventType as OfPart;
pub(super) use types::ResponseStateEventType as OfState;

/// Events that are to be sent.
#[derive(Default)]
pub(super) struct Events {
    /// How many there were.
    told: u64,
    new: Vec<types::ResponsesEvent>,
}

/// An item of the output.
#[derive(Clone)]
pub(super) struct Place {
    /// Its id.
    pub item_id: String,
    /// Its number.
    pub output_index: u64,
}

impl Events {
    /// Those since the last time.
    pub(super) fn take(&mut self) -> Vec<types::ResponsesEvent> {
        std::mem::take(&mut self.new)
    }

    /// How far the response is.
    pub(super) fn state(&mut self, type_: OfState, response: types::ResponseObject) {
        self.tell(|sequence_number| types::ResponseStateEvent {
            type_,
            sequence_number,
            response,
        });
    }

    /// An item begins or ends.
    pub(super) fn item(&mut self, type_: OfItem, output_index: u64, item: types::ResponseItem) {
        self.tell(|sequence_number| types::ResponseItemEvent {
            type_,
            sequence_number,
            output_index,
            item,
        });
    }

    /// The one part of an item begins or ends.
    pub(super) fn part(&mut self, type_: OfPart, place: Place, part: types::ResponseOutputPart) {
        self.tell(|sequence_number| types::ResponsePartEvent {
            type_,
            sequence_number,
            item_id: place.item_id,
            output_index: place.output_index,
            content_index: 0,
            part,
        });
    }

    /// More of a text.
    pub(super) fn text(&mut self, place: Place, delta: String, logprobs: Vec<types::TokenLogprob>) {
        self.tell(|sequence_number| types::ResponseTextDelta {
            type_: types::ResponseTextDeltaType::ResponseOutputTextDelta,
            sequence_number,
            item_id: place.item_id,
            output_index: place.output_index,
            content_index: 0,
            delta,
            logprobs,
        });
    }

    /// All of a text.
    pub(super) fn text_done(
        &mut self,
        place: Place,
        text: String,
        logprobs: Vec<types::TokenLogprob>,
    ) {
        self.tell(|sequence_number| types::ResponseTextDone {
            type_: types::ResponseTextDoneType::ResponseOutputTextDone,
            sequence_number,
            item_id: place.item_id,
            output_index: place.output_index,
            content_index: 0,
            text,
            logprobs,
        });
    }

    /// More of a thought.
    pub(super) fn thought(&mut self, place: Place, delta: String) {
        self.tell(|sequence_number| types::ResponseThoughtDelta {
            type_: types::ResponseThoughtDeltaType::ResponseReasoningTextDelta,
            sequence_number,
            item_id: place.item_id,
            output_index: place.output_index,
            content_index: 0,
            delta,
        });
    }

    /// All of a thought.
    pub(super) fn thought_done(&mut self, place: Place, text: String) {
        self.tell(|sequence_number| types::ResponseThoughtDone {
            type_: types::ResponseThoughtDoneType::ResponseReasoningTextDone,
            sequence_number,
            item_id: place.item_id,
            output_index: place.output_index,
            content_index: 0,
            text,
        });
    }

    /// More of a call's arguments.
    pub(super) fn arguments(&mut self, place: Place, delta: String) {
        self.tell(|sequence_number| types::ResponseArgumentsDelta {
            type_: types::ResponseArgumentsDeltaType::ResponseFunctionCallArgumentsDelta,
            sequence_number,
            item_id: place.item_id,
            output_index: place.output_index,
            delta,
        });
    }

    /// All of a call's arguments.
    pub(super) fn arguments_done(&mut self, place: Place, name: String, arguments: String) {
        self.tell(|sequence_number| types::ResponseArgumentsDone {
            type_: types::ResponseArgumentsDoneType::ResponseFunctionCallArgumentsDone,
            sequence_number,
            item_id: place.item_id,
            output_index: place.output_index,
            name,
            arguments,
        });
    }

    /// What went wrong.
    pub(super) fn error(&mut self, error: &Error) {
        let detail = error.detail(Surface::OpenAi);
        self.tell(|sequence_number| types::ResponseErrorEvent {
            type_: types::ResponseErrorEventType::Error,
            sequence_number,
            code: detail.code.as_str().map(str::to_owned),
            message: detail.message,
            param: detail.param,
        });
    }

    fn tell<E: Into<types::ResponsesEvent>>(&mut self, event: impl FnOnce(u64) -> E) {
        self.new.push(event(self.told).into());
        self.told += 1;
    }
}
