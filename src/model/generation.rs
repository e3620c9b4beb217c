//! A running generation: the engine's ids in, whole characters out.

use std::sync::Arc;

use super::request::{
    FinishReason, GenerateError, GenerateEvent, GenerateRequest, Summary, Timings,
};
use super::slots::SlotRecords;
use crate::engine::{Durations, EndReason, Events, SequenceEvent, SequenceId, StopRule, Verdict};
use crate::text::TextStream;
use crate::token::TokenId;

/// The engine's part of a stop: the same text that the client gets, seen token by token.
pub(super) struct TextStop(TextStream);

impl TextStop {
    pub(super) fn new(stream: TextStream) -> Self {
        Self(stream)
    }
}

impl StopRule for TextStop {
    fn after(&mut self, token: TokenId) -> Verdict {
        match self.0.push(token).stopped_by {
            Some(_) => Verdict::Stop,
            None if self.0.mid_character() => Verdict::MidCharacter,
            None => Verdict::Continue,
        }
    }
}

/// The events of one generation. Dropping it cancels the generation.
pub struct Generation {
    task: SequenceId,
    events: Events,
    request: Arc<GenerateRequest>,
    prompt_tokens: usize,
    seed: u32,
    slots: Arc<SlotRecords>,
    slot: usize,
    generated_tokens: usize,
    /// Tokens since the last event: their text is not decided, or they have none.
    undelivered: Vec<TokenId>,
    /// The stop string that was found.
    stopped_by: Option<usize>,
    text: Text,
}

/// How far the text is.
enum Text {
    Flowing(TextStream),
    /// The last text was delivered; this is still to be said.
    Over(Summary),
    /// Everything was said.
    Silent,
}

impl Generation {
    pub(super) fn new(
        task: SequenceId,
        events: Events,
        stream: TextStream,
        request: Arc<GenerateRequest>,
        prompt_tokens: usize,
        seed: u32,
        slots: Arc<SlotRecords>,
    ) -> Self {
        Self {
            task,
            events,
            request,
            prompt_tokens,
            seed,
            slots,
            slot: 0,
            generated_tokens: 0,
            undelivered: Vec::new(),
            stopped_by: None,
            text: Text::Flowing(stream),
        }
    }

    /// Tokens of the prompt.
    pub fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    /// The seed that is used.
    pub fn seed(&self) -> u32 {
        self.seed
    }

    /// The next event; `None` after the last. May be dropped and called again: nothing is lost.
    pub async fn next(&mut self) -> Option<Result<GenerateEvent, GenerateError>> {
        loop {
            match std::mem::replace(&mut self.text, Text::Silent) {
                Text::Silent => return None,
                Text::Over(summary) => return Some(Ok(GenerateEvent::Finished(summary))),
                // Put back before waiting, so that a dropped future leaves everything as it was.
                flowing @ Text::Flowing(_) => self.text = flowing,
            }
            let event = self.events.recv().await;
            let Text::Flowing(stream) = &mut self.text else {
                continue;
            };
            match event {
                Some(SequenceEvent::Started { slot }) => {
                    self.slot = slot;
                    self.slots
                        .start(slot, self.task, &self.request, self.prompt_tokens);
                }
                Some(SequenceEvent::Token(token)) => {
                    self.generated_tokens += 1;
                    self.undelivered.push(token);
                    let progress = stream.push(token);
                    self.stopped_by = self.stopped_by.or(progress.stopped_by);
                    if !progress.text.is_empty() {
                        return Some(Ok(self.deliver(progress.text)));
                    }
                }
                Some(SequenceEvent::Ended { reason, durations }) => {
                    if let Some(text) = self.end(reason, durations) {
                        return Some(Ok(self.deliver(text)));
                    }
                }
                Some(SequenceEvent::Failed(cause)) => return Some(Err(self.fail(cause))),
                None => {
                    let cause = "the engine ended without a word".to_owned();
                    return Some(Err(self.fail(cause)));
                }
            }
        }
    }

    fn deliver(&mut self, text: String) -> GenerateEvent {
        GenerateEvent::Text {
            text,
            tokens: std::mem::take(&mut self.undelivered),
        }
    }

    fn fail(&mut self, cause: String) -> GenerateError {
        self.text = Text::Silent;
        GenerateError::Failed(cause)
    }

    /// Sums up. Answers the text that was held back and is text after all.
    fn end(&mut self, reason: EndReason, durations: Durations) -> Option<String> {
        let Text::Flowing(stream) = std::mem::replace(&mut self.text, Text::Silent) else {
            return None;
        };
        let reason = match (reason, self.stopped_by) {
            (EndReason::StopRule, Some(stop)) => {
                FinishReason::StopString(self.request.stop[stop].clone())
            }
            (EndReason::EndToken | EndReason::StopRule, _) => FinishReason::EndOfText,
            (EndReason::TokenLimit, _) => FinishReason::TokenLimit,
            (EndReason::ContextFull, _) => FinishReason::ContextFull,
        };
        self.slots
            .finish(self.slot, self.task, self.generated_tokens, reason.clone());
        self.text = Text::Over(Summary {
            reason,
            slot: self.slot,
            prompt_tokens: self.prompt_tokens,
            cached_tokens: 0,
            generated_tokens: self.generated_tokens,
            seed: self.seed,
            timings: Timings {
                queue_wait: durations.queue_wait,
                prompt: durations.prompt,
                decode: durations.decode,
            },
        });
        Some(stream.finish()).filter(|text| !text.is_empty())
    }
}
