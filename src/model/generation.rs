//! A running generation: the engine's ids in, whole characters out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tracing::{Span, field};

use super::request::{
    AnswerToken, FinishReason, GenerateError, GenerateEvent, GenerateOptions, GenerationProgress,
    GrammarKind, GrammarSource, Relaxation, Summary, Timings, TokenLogprob,
};
use super::slots::{SlotRecord, SlotRecords};
use crate::engine::{
    EndReason, Events, PrefillProgress, SequenceEvent, SequenceReport, StopRule, Verdict,
};
use crate::sampling::Choice;
use crate::text::{AnswerReader, TextStream, Tokenizer};
use crate::token::TokenId;

/// Most bytes of the texts and log-probabilities that a request's generations give: answers that come in one piece are held
/// in memory until the last generation ends.
pub(super) const MAX_ANSWER_BYTES: usize = 16 << 20;
/// Bytes of a token's log-probability in an answer, beside what the token spells.
const LOGPROB_BYTES: usize = 48;

/// What is left of the bytes that the generations of a request may give together.
#[derive(Debug, Clone)]
pub(super) struct AnswerBudget(Arc<AtomicUsize>);

impl AnswerBudget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Takes the bytes of what is answered next.
    fn take(&self, text: &str, tokens: &[AnswerToken]) -> Result<(), GenerateError> {
        let logprobs = tokens.iter().filter_map(|token| token.logprobs.as_ref());
        let entries = logprobs.flat_map(|(chosen, top)| std::iter::once(chosen).chain(top));
        let bytes: usize = entries.map(|entry| entry.bytes.len() + LOGPROB_BYTES).sum();
        let bytes = bytes + text.len();
        let order = Ordering::Relaxed;
        let taken = self
            .0
            .fetch_update(order, order, |left| left.checked_sub(bytes));
        match taken {
            Ok(_) => Ok(()),
            Err(_) => Err(GenerateError::AnswerTooLarge {
                limit_bytes: MAX_ANSWER_BYTES,
            }),
        }
    }
}

/// The engine's part of a stop: the same text that the client gets, seen token by token.
pub(super) struct TextStop {
    stream: TextStream,
    /// Whether a character that has begun is finished beyond the limit of tokens.
    whole_characters: bool,
    /// How long after the first token a line break ends the text.
    line_time: Option<Duration>,
    first_token: Option<Instant>,
}

impl TextStop {
    pub(super) fn new(
        stream: TextStream,
        whole_characters: bool,
        line_time: Option<Duration>,
    ) -> Self {
        Self {
            stream,
            whole_characters,
            line_time,
            first_token: None,
        }
    }

    /// Whether the text ends because it has a line break now.
    fn ends_with_line(&mut self, text: &str) -> bool {
        let Some(time) = self.line_time else {
            return false;
        };
        let first_token = self.first_token.get_or_insert_with(Instant::now);
        text.contains('\n') && first_token.elapsed() > time
    }
}

impl StopRule for TextStop {
    fn after(&mut self, token: TokenId) -> Verdict {
        let progress = self.stream.push(token);
        if self.ends_with_line(&progress.text) || self.stream.is_dedented() {
            return Verdict::Stop;
        }
        match progress.stopped_by {
            Some(_) => Verdict::Stop,
            None if self.whole_characters && self.stream.mid_character() => Verdict::MidCharacter,
            None => Verdict::Continue,
        }
    }
}

/// The events of one generation. Dropping it cancels the generation.
pub struct Generation {
    events: Events,
    reader: AnswerReader,
    tokenizer: Arc<Tokenizer>,
    record: SlotRecord,
    /// How many tokens before the prompt are not told, until the others are.
    echo: Option<usize>,
    seed: u32,
    slots: Arc<SlotRecords>,
    slot: usize,
    generated_tokens: usize,
    /// Tokens since the last event: their text is not decided, or they have none.
    undelivered: Vec<AnswerToken>,
    /// The stop string that was found.
    stopped_by: Option<usize>,
    end_token: Option<AnswerToken>,
    /// The last report of the prompt's evaluation.
    prefill: PrefillProgress,
    first_token: Option<Instant>,
    /// The event that comes before all others.
    next: Option<GenerateEvent>,
    text: Text,
    /// What the answer is not held to.
    relaxations: Vec<Relaxation>,
    budget: AnswerBudget,
    span: Span,
}

/// The choice with what its tokens spell.
fn answer_token(tokenizer: &Tokenizer, choice: Choice) -> AnswerToken {
    let spelt = |(token, logprob): (TokenId, f64)| TokenLogprob {
        token,
        bytes: tokenizer.token_bytes(token).unwrap_or_default().to_vec(),
        logprob,
    };
    let Choice { token, logprobs } = choice;
    let logprobs = logprobs.map(|logprobs| {
        let top = logprobs.top.into_iter().map(spelt).collect();
        (spelt((token, logprobs.chosen)), top)
    });
    AnswerToken { token, logprobs }
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
        events: Events,
        tokenizer: Arc<Tokenizer>,
        stream: TextStream,
        record: SlotRecord,
        echo: Option<usize>,
        seed: u32,
        slots: Arc<SlotRecords>,
    ) -> Self {
        Self {
            events,
            reader: AnswerReader::of_text(),
            tokenizer,
            record,
            echo,
            seed,
            slots,
            slot: 0,
            generated_tokens: 0,
            undelivered: Vec::new(),
            stopped_by: None,
            end_token: None,
            prefill: PrefillProgress::default(),
            first_token: None,
            next: None,
            text: Text::Flowing(stream),
            relaxations: Vec::new(),
            budget: AnswerBudget::new(MAX_ANSWER_BYTES),
            span: span(),
        }
    }

    /// With what is left for the answers of its request.
    pub(super) fn within_budget(self, budget: AnswerBudget) -> Self {
        Self { budget, ..self }
    }

    /// With the constraints that the answer is not held to.
    pub(super) fn relaxed(mut self, relaxations: Vec<Relaxation>) -> Self {
        self.relaxations = relaxations;
        self
    }

    /// Constraints of the request's JSON Schemas that the answer is not held to, because they cannot be enforced
    /// token by token. None where the schema is strict.
    pub fn relaxations(&self) -> &[Relaxation] {
        &self.relaxations
    }

    /// How it goes on, with texts among the options as their tokens.
    pub fn options(&self) -> &Arc<GenerateOptions> {
        &self.record.options
    }

    /// The same, whose text is read so.
    pub(super) fn read_by(self, reader: AnswerReader) -> Self {
        Self { reader, ..self }
    }

    /// What reads its text, the first time that it is asked for; then, what reads a text that is none of calls or thoughts.
    pub fn take_reader(&mut self) -> AnswerReader {
        std::mem::replace(&mut self.reader, AnswerReader::of_text())
    }

    /// Tokens of the prompt, as far as it was not cut.
    pub fn prompt_tokens(&self) -> usize {
        self.record.prompt.len()
    }

    /// The next event; `None` after the last. May be dropped and called again: nothing is lost.
    pub async fn next(&mut self) -> Option<Result<GenerateEvent, GenerateError>> {
        let event = self.advance().await?;
        if let Ok(GenerateEvent::Prompt { text, tokens } | GenerateEvent::Text { text, tokens }) =
            &event
            && let Err(error) = self.budget.take(text, tokens)
        {
            self.text = Text::Silent;
            self.next = None;
            // The engine ends the sequence.
            self.events.close();
            return Some(Err(error));
        }
        Some(event)
    }

    async fn advance(&mut self) -> Option<Result<GenerateEvent, GenerateError>> {
        if let Some(next) = self.next.take() {
            return Some(Ok(next));
        }
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
                    self.slots.start(slot, &self.record);
                    // With log-probabilities it comes with them.
                    if self.record.options.sampling.logprobs.is_none()
                        && let Some(prompt) = self.prompt(&[])
                    {
                        return Some(Ok(prompt));
                    }
                }
                Some(SequenceEvent::Prefill(progress)) => {
                    self.prefill = progress;
                    if self.record.options.progress.prompt {
                        return Some(Ok(GenerateEvent::Progress(self.progress())));
                    }
                }
                Some(SequenceEvent::Prompt(scores)) => {
                    if let Some(prompt) = self.prompt(&scores) {
                        return Some(Ok(prompt));
                    }
                }
                Some(SequenceEvent::Token(choice)) => {
                    self.generated_tokens += 1;
                    self.first_token.get_or_insert_with(Instant::now);
                    let progress = stream.push(choice.token);
                    self.undelivered.push(answer_token(&self.tokenizer, choice));
                    self.stopped_by = self.stopped_by.or(progress.stopped_by);
                    if !progress.text.is_empty() {
                        return Some(Ok(self.deliver(progress.text)));
                    }
                }
                Some(SequenceEvent::EndToken(choice)) => {
                    self.end_token = Some(answer_token(&self.tokenizer, choice));
                }
                // Nobody asked for one.
                Some(SequenceEvent::Embedding(_)) => {}
                Some(SequenceEvent::Ended { reason, report }) => match self.end(reason, report) {
                    Ok(text) if text.is_empty() => {}
                    Ok(text) => return Some(Ok(self.deliver(text))),
                    Err(error) => return Some(Err(error)),
                },
                Some(SequenceEvent::Unfollowable(error)) => {
                    self.text = Text::Silent;
                    let grammar = self.record.options.grammar.as_ref();
                    let kind = grammar.map_or(GrammarKind::Gbnf, GrammarSource::kind);
                    return Some(Err(GenerateError::Unfollowable { kind, error }));
                }
                Some(SequenceEvent::Failed(cause)) => {
                    self.text = Text::Silent;
                    return Some(Err(GenerateError::Failed(cause)));
                }
                None => {
                    self.text = Text::Silent;
                    let cause = "the engine ended without a word".to_owned();
                    return Some(Err(GenerateError::Failed(cause)));
                }
            }
        }
    }

    /// The prompt with the scores of all of its tokens but the first, if it is to be told and was not yet.
    fn prompt(&mut self, scores: &[Choice]) -> Option<GenerateEvent> {
        let before = self.echo.take()?;
        let prompt = &self.record.prompt;
        let token = |(place, token): (usize, &TokenId)| {
            let score = place.checked_sub(1).and_then(|score| scores.get(score));
            let unscored = Choice {
                token: *token,
                logprobs: None,
            };
            answer_token(&self.tokenizer, score.cloned().unwrap_or(unscored))
        };
        let tokens = prompt.iter().enumerate().skip(before).map(token);
        Some(GenerateEvent::Prompt {
            tokens: tokens.collect(),
            text: self.tokenizer.decode(&prompt[before..]).unwrap_or_default(),
        })
    }

    /// The text, or how far the generation is, if that comes before each text.
    fn deliver(&mut self, text: String) -> GenerateEvent {
        if text.contains('\n') {
            self.slots.line_ended(self.slot, &self.record);
        }
        let text = GenerateEvent::Text {
            text,
            tokens: std::mem::take(&mut self.undelivered),
        };
        if !self.record.options.progress.text {
            return text;
        }
        self.next = Some(text);
        GenerateEvent::Progress(self.progress())
    }

    fn progress(&self) -> GenerationProgress {
        GenerationProgress {
            prompt_tokens: self.prefill.prompt_tokens,
            cached_tokens: self.prefill.cached_tokens,
            processed_tokens: self.prefill.processed_tokens,
            generated_tokens: self.generated_tokens,
            timings: Timings {
                queue_wait: Duration::ZERO,
                prompt: self.prefill.elapsed,
                decode: self
                    .first_token
                    .map_or(Duration::ZERO, |first| first.elapsed()),
            },
        }
    }

    /// Sums up. Answers the text that was held back and is text after all.
    fn end(&mut self, reason: EndReason, report: SequenceReport) -> Result<String, GenerateError> {
        let Text::Flowing(stream) = std::mem::replace(&mut self.text, Text::Silent) else {
            return Ok(String::new());
        };
        let options = &self.record.options;
        let reason = match (reason, self.stopped_by) {
            (EndReason::StopRule, Some(stop)) => {
                FinishReason::StopString(options.stop[stop].clone())
            }
            (EndReason::EndToken | EndReason::Complete, _) => FinishReason::EndOfText,
            // Without a stop string it was one of the limits of lines.
            (EndReason::StopRule, None) | (EndReason::TokenLimit, _) => FinishReason::TokenLimit,
            (EndReason::ContextFull, _) => FinishReason::ContextFull,
            (EndReason::DeadlinePassed, _) => {
                let timeout = options.timeout.unwrap_or_default();
                return Err(GenerateError::DeadlinePassed { timeout });
            }
        };
        self.record_in_span(&report);
        self.slots.finish(
            self.slot,
            &self.record,
            self.generated_tokens,
            reason.clone(),
        );
        self.text = Text::Over(Summary {
            reason,
            slot: self.slot,
            prompt_tokens: report.prompt_tokens,
            cached_tokens: report.cached_tokens,
            generated_tokens: self.generated_tokens,
            end_token: self.end_token.take(),
            thought_tokens: 0,
            truncated: report.truncated,
            seed: self.seed,
            timings: Timings {
                queue_wait: report.queue_wait,
                prompt: report.prompt,
                decode: report.decode,
            },
        });
        Ok(stream.finish())
    }

    fn record_in_span(&self, report: &SequenceReport) {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1000.0;
        // A collector takes no unsigned numbers.
        let count = |tokens: usize| i64::try_from(tokens).unwrap_or(i64::MAX);
        self.span
            .record("gen_ai.usage.input_tokens", count(report.prompt_tokens))
            .record("gen_ai.usage.output_tokens", count(self.generated_tokens))
            .record("cached_tokens", count(report.cached_tokens))
            .record("queue_wait_ms", milliseconds(report.queue_wait))
            .record("prompt_ms", milliseconds(report.prompt))
            .record("decode_ms", milliseconds(report.decode));
    }
}

/// A generation within its request, for traces: OpenTelemetry's names where it has some.
fn span() -> Span {
    tracing::info_span!(
        "generation",
        gen_ai.usage.input_tokens = field::Empty,
        gen_ai.usage.output_tokens = field::Empty,
        cached_tokens = field::Empty,
        queue_wait_ms = field::Empty,
        prompt_ms = field::Empty,
        decode_ms = field::Empty,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_of_an_answer_counts_texts_and_log_probabilities() {
        let logprob = |bytes: &[u8]| TokenLogprob {
            token: TokenId(0),
            bytes: bytes.to_vec(),
            logprob: -1.0,
        };
        let token = AnswerToken {
            token: TokenId(0),
            logprobs: Some((logprob(b"a"), vec![logprob(b"bc")])),
        };
        let exactly = 4 + (1 + LOGPROB_BYTES) + (2 + LOGPROB_BYTES);
        let take = |bytes| AnswerBudget::new(bytes).take("text", std::slice::from_ref(&token));
        assert!(take(exactly).is_ok());
        assert!(matches!(
            take(exactly - 1),
            Err(GenerateError::AnswerTooLarge { .. })
        ));
        // Generations of one request share what is left.
        let first = AnswerBudget::new(5);
        let second = first.clone();
        assert!(first.take("text", &[]).is_ok());
        assert!(second.take("ab", &[]).is_err());
    }
}
