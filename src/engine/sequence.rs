//! One sequence: the tokens wanted, the tokens computed, and when it ends.

use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use crate::cache::BlockTable;
use crate::sampling::Sampler;
use crate::token::TokenId;

/// The number of a sequence, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

/// Tells the time. The engine has no clock of its own, so that tests decide what time it is.
pub type Clock = fn() -> Instant;

/// Tokens beyond the limit that may finish a character: one for each byte after the first of four.
const FINISHING_TOKENS: usize = 3;

/// Decides after every token whether the text so far ends the generation. It reaches the engine as a
/// predicate over ids; what the ids mean is the caller's.
pub trait StopRule: Send {
    /// The verdict after one more token.
    fn after(&mut self, token: TokenId) -> Verdict;
}

/// What a [`StopRule`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing speaks against going on, or against ending.
    Continue,
    /// A character has begun and is not whole: a limit of tokens is exceeded to finish it.
    MidCharacter,
    /// This token completes a stop.
    Stop,
}

/// A request for one continuation, in ids.
pub struct Job {
    /// At least one token, fewer than the context has room for.
    pub prompt: Vec<TokenId>,
    /// Most tokens to generate; 0 evaluates the prompt only.
    pub max_tokens: usize,
    /// Tokens that end the generation when chosen; they are not delivered. Sorted.
    pub end_tokens: std::sync::Arc<[TokenId]>,
    /// Chooses.
    pub sampler: Sampler,
    /// Ends.
    pub stop: Box<dyn StopRule>,
    /// The only slot that will do.
    pub slot: Option<usize>,
}

/// What happens to a sequence, in this order: `Started`, tokens, one of the last two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SequenceEvent {
    /// It got a slot; its first chunk is in this step.
    Started {
        /// The slot.
        slot: usize,
    },
    /// A token was generated.
    Token(TokenId),
    /// The end.
    Ended {
        /// Why.
        reason: EndReason,
        /// How long it took.
        durations: Durations,
    },
    /// A step failed, or the engine stops.
    Failed(String),
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// An end token was chosen.
    EndToken,
    /// The stop rule said so, after the last token delivered.
    StopRule,
    /// `max_tokens`.
    TokenLimit,
    /// The context is full.
    ContextFull,
}

/// The parts of a sequence's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Durations {
    /// From submission to the first step.
    pub queue_wait: Duration,
    /// From there to the first token, or to the end of the prompt if there is none.
    pub prompt: Duration,
    /// From the first token to the end.
    pub decode: Duration,
}

/// A sequence in the scheduler's care.
pub(super) struct Sequence {
    pub(super) id: SequenceId,
    pub(super) job: Job,
    /// The prompt, then what was generated: the tokens wanted.
    pub(super) tokens: Vec<TokenId>,
    /// How many of `tokens` are in the cache: the tokens computed.
    pub(super) computed: usize,
    pub(super) table: BlockTable,
    prompt_tokens: usize,
    submitted: Instant,
    started: Option<Instant>,
    prompt_done: Option<Instant>,
    /// Held until the sequence ends: its place among those that may run or wait.
    _permit: OwnedSemaphorePermit,
}

impl Sequence {
    pub(super) fn new(
        id: SequenceId,
        mut job: Job,
        submitted: Instant,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let tokens = std::mem::take(&mut job.prompt);
        Self {
            id,
            job,
            prompt_tokens: tokens.len(),
            tokens,
            computed: 0,
            table: BlockTable::default(),
            submitted,
            started: None,
            prompt_done: None,
            _permit: permit,
        }
    }

    /// Tokens still to be computed before the next one can be chosen.
    pub(super) fn wanted(&self) -> usize {
        self.tokens.len() - self.computed
    }

    pub(super) fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    pub(super) fn generated(&self) -> usize {
        self.tokens.len() - self.prompt_tokens
    }

    /// The most tokens it will ever have.
    pub(super) fn most_tokens(&self, context_tokens: usize) -> usize {
        let most = match self.job.max_tokens {
            0 => 0,
            some => some.saturating_add(FINISHING_TOKENS),
        };
        self.prompt_tokens.saturating_add(most).min(context_tokens)
    }

    pub(super) fn start(&mut self, now: Instant) {
        self.started.get_or_insert(now);
    }

    /// Marks the prompt's end: the first token, or the end of a prompt that is only evaluated.
    pub(super) fn prompt_ends(&mut self, now: Instant) {
        self.prompt_done.get_or_insert(now);
    }

    /// Takes the chosen token. Answers what to deliver, and why the sequence ends if it does.
    pub(super) fn push(
        &mut self,
        token: TokenId,
        context_tokens: usize,
    ) -> (Option<TokenId>, Option<EndReason>) {
        if self.job.end_tokens.binary_search(&token).is_ok() {
            return (None, Some(EndReason::EndToken));
        }
        self.tokens.push(token);
        let end = match self.job.stop.after(token) {
            Verdict::Stop => Some(EndReason::StopRule),
            _ if self.tokens.len() >= context_tokens => Some(EndReason::ContextFull),
            Verdict::Continue if self.generated() >= self.job.max_tokens => {
                Some(EndReason::TokenLimit)
            }
            Verdict::MidCharacter
                if self.generated() >= self.job.max_tokens.saturating_add(FINISHING_TOKENS) =>
            {
                Some(EndReason::TokenLimit)
            }
            Verdict::Continue | Verdict::MidCharacter => None,
        };
        (Some(token), end)
    }

    pub(super) fn durations(&self, now: Instant) -> Durations {
        let started = self.started.unwrap_or(now);
        let prompt_done = self.prompt_done.unwrap_or(now);
        Durations {
            queue_wait: started.saturating_duration_since(self.submitted),
            prompt: prompt_done.saturating_duration_since(started),
            decode: now.saturating_duration_since(prompt_done),
        }
    }
}
