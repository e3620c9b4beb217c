//! A running generation: converts the engine's sequence events into text events, limits the output size and records the
//! generation in its slot and trace span.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tracing::{Span, field};

use super::request::{
    FinishReason, GenerateError, GenerateEvent, GenerateOptions, GenerationProgress,
    GenerationSummary, GrammarKind, GrammarSource, OutputToken, Relaxation, Timings, TokenLogprob,
};
use super::slots::{SlotRecord, SlotRecords};
use crate::engine::{
    EndReason, PrefillProgress, SequenceEvent, SequenceEvents, SequenceReport, StopDecision,
    StopRule,
};
use crate::sampling::SampledToken;
use crate::text::{OutputParser, TextStream, Tokenizer};
use crate::token::TokenId;

/// Maximum total bytes of the texts and log probabilities of a request's generations. A response that is not streamed
/// stays in memory until the last generation ends.
pub(super) const MAX_OUTPUT_BYTES: usize = 16 << 20;
/// Approximate bytes of a log probability in a response, in addition to the bytes of its token.
const LOGPROB_BYTES: usize = 48;

/// Remaining output bytes. All generations of a request share one budget.
#[derive(Debug, Clone)]
pub(super) struct OutputBudget(Arc<AtomicUsize>);

impl OutputBudget {
    pub(super) fn new(bytes: usize) -> Self {
        Self(Arc::new(AtomicUsize::new(bytes)))
    }

    /// Subtracts the bytes of an event's text and log probabilities.
    fn take(&self, text: &str, tokens: &[OutputToken]) -> Result<(), GenerateError> {
        let logprobs = tokens.iter().filter_map(|token| token.logprobs.as_ref());
        let entries = logprobs.flat_map(|(logprob, top)| std::iter::once(logprob).chain(top));
        let bytes: usize = entries.map(|entry| entry.bytes.len() + LOGPROB_BYTES).sum();
        let bytes = bytes + text.len();
        let order = Ordering::Relaxed;
        let updated = self
            .0
            .fetch_update(order, order, |left| left.checked_sub(bytes));
        match updated {
            Ok(_) => Ok(()),
            Err(_) => Err(GenerateError::OutputTooLarge {
                limit_bytes: MAX_OUTPUT_BYTES,
            }),
        }
    }
}

/// The stop rule of a generation. It decodes the same text as the client's stream, token by token.
pub(super) struct TextStopRule {
    stream: TextStream,
    /// Whether to exceed the token limit to complete a partial character.
    whole_characters: bool,
    /// Time after the first token from which on a line break ends the text.
    line_time_limit: Option<Duration>,
    first_token: Option<Instant>,
}

impl TextStopRule {
    pub(super) fn new(
        stream: TextStream,
        whole_characters: bool,
        line_time_limit: Option<Duration>,
    ) -> Self {
        Self {
            stream,
            whole_characters,
            line_time_limit,
            first_token: None,
        }
    }

    /// Whether the new text contains a line break and the time limit has passed.
    fn ends_at_line_break(&mut self, text: &str) -> bool {
        let Some(time_limit) = self.line_time_limit else {
            return false;
        };
        let first_token = self.first_token.get_or_insert_with(Instant::now);
        text.contains('\n') && first_token.elapsed() > time_limit
    }
}

impl StopRule for TextStopRule {
    fn after_token(&mut self, token: TokenId) -> StopDecision {
        let progress = self.stream.push(token);
        if self.ends_at_line_break(&progress.text) || self.stream.stopped_by_indent() {
            return StopDecision::Stop;
        }
        match progress.stopped_by {
            Some(_) => StopDecision::Stop,
            None if self.whole_characters && self.stream.ends_mid_character() => {
                StopDecision::MidCharacter
            }
            None => StopDecision::Continue,
        }
    }
}

/// A running generation, read as a stream of events. Dropping it cancels the sequence.
pub struct Generation {
    events: SequenceEvents,
    parser: OutputParser,
    tokenizer: Arc<Tokenizer>,
    record: SlotRecord,
    /// Index of the first prompt token to echo; `None` if echo is off or the prompt event was returned.
    echo_start: Option<usize>,
    seed: u32,
    slots: Arc<SlotRecords>,
    slot: usize,
    generated_tokens: usize,
    /// Tokens since the last text event. Their text is held back or empty.
    undelivered: Vec<OutputToken>,
    /// Index of the matched stop string in the request's options.
    stop_string: Option<usize>,
    eog_token: Option<OutputToken>,
    /// Latest prefill progress.
    prefill: PrefillProgress,
    first_token: Option<Instant>,
    /// Event to return before the next engine event is read.
    pending_event: Option<GenerateEvent>,
    output: OutputState,
    /// Schema constraints that the grammar does not enforce.
    relaxations: Vec<Relaxation>,
    budget: OutputBudget,
    span: Span,
}

/// Converts a sampled token, adding the bytes of each token with a log probability.
fn output_token(tokenizer: &Tokenizer, sampled: SampledToken) -> OutputToken {
    let with_bytes = |(token, logprob): (TokenId, f64)| TokenLogprob {
        token,
        bytes: tokenizer.token_bytes(token).unwrap_or_default().to_vec(),
        logprob,
    };
    let SampledToken { token, logprobs } = sampled;
    let logprobs = logprobs.map(|logprobs| {
        let top = logprobs.top.into_iter().map(with_bytes).collect();
        (with_bytes((token, logprobs.token_logprob)), top)
    });
    OutputToken { token, logprobs }
}

/// State of the event stream of a generation.
enum OutputState {
    Streaming(TextStream),
    /// All text was returned; `Finished` is the next event.
    Finishing(GenerationSummary),
    /// The last event or an error was returned.
    Closed,
}

impl Generation {
    pub(super) fn new(
        events: SequenceEvents,
        tokenizer: Arc<Tokenizer>,
        stream: TextStream,
        record: SlotRecord,
        echo_start: Option<usize>,
        seed: u32,
        slots: Arc<SlotRecords>,
    ) -> Self {
        Self {
            events,
            parser: OutputParser::plain_text(),
            tokenizer,
            record,
            echo_start,
            seed,
            slots,
            slot: 0,
            generated_tokens: 0,
            undelivered: Vec::new(),
            stop_string: None,
            eog_token: None,
            prefill: PrefillProgress::default(),
            first_token: None,
            pending_event: None,
            output: OutputState::Streaming(stream),
            relaxations: Vec::new(),
            budget: OutputBudget::new(MAX_OUTPUT_BYTES),
            span: generation_span(),
        }
    }

    /// Sets the output budget, which all generations of the request share.
    pub(super) fn with_output_budget(self, budget: OutputBudget) -> Self {
        Self { budget, ..self }
    }

    /// Sets the schema constraints that the grammar does not enforce.
    pub(super) fn with_relaxations(mut self, relaxations: Vec<Relaxation>) -> Self {
        self.relaxations = relaxations;
        self
    }

    /// Constraints of the request's JSON Schemas that are dropped because the grammar cannot enforce them. Empty for
    /// strict schemas.
    pub fn relaxations(&self) -> &[Relaxation] {
        &self.relaxations
    }

    /// The request's options. Texts in `logit_bias` and `penalty_prompt` are replaced by their tokens.
    pub fn options(&self) -> &Arc<GenerateOptions> {
        &self.record.options
    }

    /// Sets the parser of the generated text.
    pub(super) fn with_parser(self, parser: OutputParser) -> Self {
        Self { parser, ..self }
    }

    /// Takes the parser that finds tool calls and reasoning in the generated text, and leaves a plain text parser.
    pub fn take_parser(&mut self) -> OutputParser {
        std::mem::replace(&mut self.parser, OutputParser::plain_text())
    }

    /// Number of prompt tokens before any truncation.
    pub fn prompt_tokens(&self) -> usize {
        self.record.prompt.len()
    }

    /// Returns the next event; `None` after the last event. Cancel safe: a dropped future loses no event.
    pub async fn next(&mut self) -> Option<Result<GenerateEvent, GenerateError>> {
        let event = self.advance().await?;
        if let Ok(GenerateEvent::Prompt { text, tokens } | GenerateEvent::Text { text, tokens }) =
            &event
            && let Err(error) = self.budget.take(text, tokens)
        {
            self.output = OutputState::Closed;
            self.pending_event = None;
            // The engine cancels the sequence when its receiver is closed.
            self.events.close();
            return Some(Err(error));
        }
        Some(event)
    }

    async fn advance(&mut self) -> Option<Result<GenerateEvent, GenerateError>> {
        if let Some(event) = self.pending_event.take() {
            return Some(Ok(event));
        }
        loop {
            match std::mem::replace(&mut self.output, OutputState::Closed) {
                OutputState::Closed => return None,
                OutputState::Finishing(summary) => {
                    return Some(Ok(GenerateEvent::Finished(summary)));
                }
                // Restored before the await, so that dropping the future does not change the state.
                streaming @ OutputState::Streaming(_) => self.output = streaming,
            }
            let event = self.events.recv().await;
            let OutputState::Streaming(stream) = &mut self.output else {
                continue;
            };
            match event {
                Some(SequenceEvent::Started { slot }) => {
                    self.slot = slot;
                    self.slots.record_start(slot, &self.record);
                    // If log probabilities are requested, the prompt event waits for those of the prompt.
                    if self.record.options.sampling.logprobs.is_none()
                        && let Some(prompt) = self.prompt_event(&[])
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
                Some(SequenceEvent::PromptLogprobs(logprobs)) => {
                    if let Some(prompt) = self.prompt_event(&logprobs) {
                        return Some(Ok(prompt));
                    }
                }
                Some(SequenceEvent::Token(sampled)) => {
                    self.generated_tokens += 1;
                    self.first_token.get_or_insert_with(Instant::now);
                    let progress = stream.push(sampled.token);
                    self.undelivered
                        .push(output_token(&self.tokenizer, sampled));
                    self.stop_string = self.stop_string.or(progress.stopped_by);
                    if !progress.text.is_empty() {
                        return Some(Ok(self.text_event(progress.text)));
                    }
                }
                Some(SequenceEvent::EogToken(sampled)) => {
                    self.eog_token = Some(output_token(&self.tokenizer, sampled));
                }
                // Generations request no embedding.
                Some(SequenceEvent::Embedding(_)) => {}
                Some(SequenceEvent::Ended { reason, report }) => {
                    match self.finish(reason, report) {
                        Ok(text) if text.is_empty() => {}
                        Ok(text) => return Some(Ok(self.text_event(text))),
                        Err(error) => return Some(Err(error)),
                    }
                }
                Some(SequenceEvent::ConstraintFailed(error)) => {
                    self.output = OutputState::Closed;
                    let grammar = self.record.options.grammar.as_ref();
                    let kind = grammar.map_or(GrammarKind::Gbnf, GrammarSource::kind);
                    return Some(Err(GenerateError::ConstraintFailed { kind, error }));
                }
                Some(SequenceEvent::Failed(cause)) => {
                    self.output = OutputState::Closed;
                    return Some(Err(GenerateError::Failed(cause)));
                }
                None => {
                    self.output = OutputState::Closed;
                    let cause = "the engine stopped unexpectedly".to_owned();
                    return Some(Err(GenerateError::Failed(cause)));
                }
            }
        }
    }

    /// Returns the prompt event if it is requested and was not returned yet. `logprobs` has an entry for each prompt
    /// token except the first.
    fn prompt_event(&mut self, logprobs: &[SampledToken]) -> Option<GenerateEvent> {
        let start = self.echo_start.take()?;
        let prompt = &self.record.prompt;
        let prompt_token = |(index, token): (usize, &TokenId)| {
            let with_logprobs = index.checked_sub(1).and_then(|index| logprobs.get(index));
            let without_logprobs = SampledToken {
                token: *token,
                logprobs: None,
            };
            output_token(
                &self.tokenizer,
                with_logprobs.cloned().unwrap_or(without_logprobs),
            )
        };
        let tokens = prompt.iter().enumerate().skip(start).map(prompt_token);
        Some(GenerateEvent::Prompt {
            tokens: tokens.collect(),
            text: self.tokenizer.decode(&prompt[start..]).unwrap_or_default(),
        })
    }

    /// Returns the event for new text. If text progress is enabled, returns a progress event instead and keeps the text
    /// as the pending event.
    fn text_event(&mut self, text: String) -> GenerateEvent {
        if text.contains('\n') {
            self.slots.record_line_break(self.slot, &self.record);
        }
        let text = GenerateEvent::Text {
            text,
            tokens: std::mem::take(&mut self.undelivered),
        };
        if !self.record.options.progress.text {
            return text;
        }
        self.pending_event = Some(text);
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

    /// Sets the summary and returns the remaining text, which was held back.
    fn finish(
        &mut self,
        reason: EndReason,
        report: SequenceReport,
    ) -> Result<String, GenerateError> {
        let OutputState::Streaming(stream) =
            std::mem::replace(&mut self.output, OutputState::Closed)
        else {
            return Ok(String::new());
        };
        let options = &self.record.options;
        let reason = match (reason, self.stop_string) {
            (EndReason::StopRule, Some(stop)) => {
                FinishReason::StopString(options.stop[stop].clone())
            }
            (EndReason::EogToken | EndReason::Complete, _) => FinishReason::EndOfText,
            // Without a stop string, a limit on indentation or time ended the text.
            (EndReason::StopRule, None) | (EndReason::TokenLimit, _) => FinishReason::TokenLimit,
            (EndReason::ContextFull, _) => FinishReason::ContextFull,
            (EndReason::DeadlinePassed, _) => {
                let timeout = options.timeout.unwrap_or_default();
                return Err(GenerateError::DeadlinePassed { timeout });
            }
        };
        self.record_in_span(&report);
        self.slots.record_finish(
            self.slot,
            &self.record,
            self.generated_tokens,
            reason.clone(),
        );
        self.output = OutputState::Finishing(GenerationSummary {
            reason,
            slot: self.slot,
            prompt_tokens: report.prompt_tokens,
            cached_tokens: report.cached_tokens,
            generated_tokens: self.generated_tokens,
            eog_token: self.eog_token.take(),
            reasoning_tokens: 0,
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
        // OpenTelemetry has no unsigned integers.
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

/// Creates the trace span of a generation, with OpenTelemetry's GenAI attribute names where they exist.
fn generation_span() -> Span {
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
    fn the_output_budget_counts_texts_and_log_probabilities() {
        let logprob = |bytes: &[u8]| TokenLogprob {
            token: TokenId(0),
            bytes: bytes.to_vec(),
            logprob: -1.0,
        };
        let token = OutputToken {
            token: TokenId(0),
            logprobs: Some((logprob(b"a"), vec![logprob(b"bc")])),
        };
        let needed = 4 + (1 + LOGPROB_BYTES) + (2 + LOGPROB_BYTES);
        let take = |bytes| OutputBudget::new(bytes).take("text", std::slice::from_ref(&token));
        assert!(take(needed).is_ok());
        assert!(matches!(
            take(needed - 1),
            Err(GenerateError::OutputTooLarge { .. })
        ));
        // Clones share the budget.
        let first = OutputBudget::new(5);
        let second = first.clone();
        assert!(first.take("text", &[]).is_ok());
        assert!(second.take("ab", &[]).is_err());
    }
}
