//! One waiting or running sequence: its tokens, the number of computed tokens, its blocks and its end conditions.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::context_shift;
use super::pooling::PoolingState;
use super::prompt_logprobs::{LogprobTargets, MAX_LOGPROB_CHUNK_TOKENS, PromptLogprobs};
use super::request::{ContextOverflow, SequenceRequest, StopDecision};
use super::sequence_id::SequenceId;
use super::sequence_sampler::{SamplerOutput, SequenceSampler};
use super::speculative::PromptLookup;
use super::step::{Chunk, WantedRows};
use crate::cache::{BlockCopy, BlockPool, BlockTable, CachedPrefix};
use crate::grammar::GrammarError;
use crate::sampling::SampledToken;
use crate::token::TokenId;

/// Returns the current time. The engine has no clock of its own, so that tests control the time.
pub type Clock = fn() -> Instant;

/// Number of tokens by which `max_tokens` may be exceeded to complete a character: a UTF-8 character has up to three
/// bytes after its first.
const MAX_CHARACTER_COMPLETION_TOKENS: usize = 3;

/// An event of a sequence. Events arrive in the order of the variants, and one of `Ended`, `Failed` and
/// `ConstraintFailed` is the last. After a preemption, `Started` is sent again and the sequence continues.
#[derive(Debug, Clone, PartialEq)]
pub enum SequenceEvent {
    /// The sequence runs in a slot and its first chunk is in the current step.
    Started {
        /// Index of the slot.
        slot: usize,
    },
    /// A chunk of the prompt was evaluated; sent if [`SequenceRequest::report_prefill`] is set.
    Prefill(PrefillProgress),
    /// Log probabilities of all prompt tokens but the first; sent if [`SequenceRequest::prompt_logprobs`] is set.
    PromptLogprobs(Vec<SampledToken>),
    /// A token was generated.
    Token(SampledToken),
    /// An end-of-generation token was sampled; sent only with log probabilities.
    EogToken(SampledToken),
    /// The prompt's embedding, `[hidden]`.
    Embedding(Vec<f32>),
    /// The sequence ended.
    Ended {
        /// Why the sequence ended.
        reason: EndReason,
        /// Token counts and times of the sequence.
        report: SequenceReport,
    },
    /// A step failed or the engine is stopping; the string is the error message.
    Failed(String),
    /// The constraint and the other options allow no token, or finding an allowed token exceeds a limit.
    ConstraintFailed(GrammarError),
}

/// How much of a prompt is evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrefillProgress {
    /// Number of prompt tokens after truncation.
    pub prompt_tokens: usize,
    /// Number of prompt tokens that were cached when the sequence started.
    pub cached_tokens: usize,
    /// Number of prompt tokens that are computed or were cached.
    pub processed_tokens: usize,
    /// Time since the first step.
    pub elapsed: Duration,
}

/// Why a sequence ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndReason {
    /// An end-of-generation token was sampled.
    EogToken,
    /// The stop rule ended the sequence after the last delivered token.
    StopRule,
    /// `max_tokens` tokens were generated.
    TokenLimit,
    /// The constraint allows no further token.
    Complete,
    /// The context is full.
    ContextFull,
    /// The request's `timeout` has passed.
    DeadlinePassed,
}

/// Token counts and times of an ended sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SequenceReport {
    /// Number of prompt tokens after truncation.
    pub prompt_tokens: usize,
    /// Number of prompt tokens that were cached when the sequence started.
    pub cached_tokens: usize,
    /// Whether tokens of the prompt or the generated text were dropped.
    pub truncated: bool,
    /// Time from submission to the first step.
    pub queue_wait: Duration,
    /// Time from the first step to the first token, or to the end of a prompt that is only evaluated.
    pub prompt: Duration,
    /// Time from the first token to the end.
    pub decode: Duration,
}

/// Scheduling priority; the smallest value is scheduled first. Promoted sequences come first, then higher request
/// priority, then earlier arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    promoted: Reverse<bool>,
    priority: Reverse<i32>,
    arrival: SequenceId,
}

/// The effects of appending a [`SamplerOutput`].
pub(super) struct AppendResult {
    /// Tokens to deliver to the client.
    pub(super) delivered: Vec<SampledToken>,
    /// The end-of-generation token, only with log probabilities.
    pub(super) eog_token: Option<SampledToken>,
    /// Number of context shifts.
    pub(super) shifts: u64,
    /// Why the sequence ends; `None` if it continues.
    pub(super) end: Option<EndReason>,
}

/// A waiting or running sequence.
pub(super) struct Sequence {
    pub(super) id: SequenceId,
    pub(super) request: SequenceRequest,
    /// Whether the sequence is scheduled before sequences of any request priority, because many have overtaken it.
    pub(super) promoted: bool,
    /// The prompt and the generated tokens, without dropped tokens.
    pub(super) tokens: Vec<TokenId>,
    /// Number of leading `tokens` whose keys and values are in the cache.
    pub(super) computed: usize,
    pub(super) table: BlockTable,
    prompt_tokens: usize,
    generated: usize,
    /// Forced tokens that the sampler has not returned yet.
    forced: VecDeque<TokenId>,
    prompt_lookup: PromptLookup,
    /// Draft tokens of the next step.
    draft: Vec<TokenId>,
    /// Number of tokens that the last step appended. The sequence is decoding while at most this many tokens are
    /// uncomputed.
    last_appended_tokens: usize,
    /// Number of leading tokens that a context shift keeps; `None` without context shift.
    keep_tokens: Option<usize>,
    pooling: Option<PoolingState>,
    /// `None` if not requested or already delivered.
    prompt_logprobs: Option<PromptLogprobs>,
    truncated: bool,
    submitted: Instant,
    /// Time of the first step, and the number of prompt tokens that were cached.
    started: Option<(Instant, usize)>,
    /// Whether the sequence was in a step since its last admission.
    has_run: bool,
    prompt_done: Option<Instant>,
    /// The admission permit, held until the sequence ends.
    _permit: OwnedSemaphorePermit,
}

impl Sequence {
    /// Creates a waiting sequence. Truncates a prompt that exceeds the context if the request allows context shifts.
    pub(super) fn new(
        id: SequenceId,
        mut request: SequenceRequest,
        context_tokens: usize,
        submitted: Instant,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let mut tokens = std::mem::take(&mut request.prompt);
        let pooling = request.pooling.map(PoolingState::new);
        let original_tokens = tokens.len();
        let keep_tokens = match request.context_overflow {
            ContextOverflow::Stop => None,
            ContextOverflow::Shift { keep } => Some(context_shift::kept_tokens(
                keep,
                original_tokens,
                context_tokens,
            )),
        };
        let max_prompt_tokens = request.max_prompt_tokens(context_tokens);
        if let Some(keep) = keep_tokens.filter(|_| original_tokens > max_prompt_tokens) {
            context_shift::truncate_prompt(&mut tokens, keep, context_tokens);
        }
        Self {
            id,
            table: BlockTable::new(request.prefix_cache.namespace),
            prompt_tokens: tokens.len(),
            prompt_logprobs: request
                .prompt_logprobs
                .map(|top| PromptLogprobs::new(top, tokens.len())),
            truncated: tokens.len() < original_tokens,
            tokens,
            computed: 0,
            generated: 0,
            forced: VecDeque::new(),
            prompt_lookup: PromptLookup::default(),
            draft: Vec::new(),
            last_appended_tokens: 0,
            keep_tokens,
            pooling,
            request,
            promoted: false,
            submitted,
            started: None,
            has_run: false,
            prompt_done: None,
            _permit: permit,
        }
    }

    pub(super) fn rank(&self) -> Rank {
        Rank {
            promoted: Reverse(self.promoted),
            priority: Reverse(self.request.priority),
            arrival: self.id,
        }
    }

    /// Drafts up to `max_tokens` tokens for the next step. Drafts none during prefill or with a constraint.
    pub(super) fn update_draft(&mut self, max_tokens: usize, context_tokens: usize) {
        // After the draft, the context must have room for the sampled token and one more.
        let room = context_tokens.saturating_sub(self.tokens.len() + 2);
        let remaining = self.request.max_tokens.saturating_sub(self.generated + 1);
        let max_tokens = match self.is_decoding() && self.request.constraint.is_none() {
            true => max_tokens.min(room).min(remaining),
            false => 0,
        };
        self.draft = self.prompt_lookup.draft(&self.tokens, max_tokens);
    }

    /// Number of tokens that the next chunk may have: uncomputed and draft tokens.
    pub(super) fn computable_tokens(&self) -> usize {
        self.uncomputed_tokens() + self.draft.len()
    }

    /// Iterates over the first `count` uncomputed and draft tokens.
    pub(super) fn next_tokens(&self, count: usize) -> impl Iterator<Item = TokenId> {
        let uncomputed = self.tokens[self.computed..].iter();
        uncomputed.chain(&self.draft).copied().take(count)
    }

    /// Returns the sampler for the tokens after a chunk.
    pub(super) fn sequence_sampler<'a>(&'a mut self, chunk: &'a Chunk) -> SequenceSampler<'a> {
        SequenceSampler {
            draft: &chunk.tokens[chunk.non_draft_tokens()..],
            sampler: &mut self.request.sampler,
            constraint: self.request.constraint.as_mut(),
            forced: &mut self.forced,
        }
    }

    /// Number of tokens to compute before the next token can be sampled.
    pub(super) fn uncomputed_tokens(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Returns whether the prompt is computed and only the last appended tokens remain to be computed.
    pub(super) fn is_decoding(&self) -> bool {
        self.prompt_done.is_some() && self.uncomputed_tokens() <= self.last_appended_tokens
    }

    /// Returns whether the sequence was in a step since its last admission.
    pub(super) fn has_run(&self) -> bool {
        self.has_run
    }

    pub(super) fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    pub(super) fn generated(&self) -> usize {
        self.generated
    }

    pub(super) fn has_expired(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.submitted);
        self.request.timeout.is_some_and(|timeout| age >= timeout)
    }

    /// The leading tokens that may be read from the cache: never the last token, whose outputs are needed. After a
    /// preemption, `max_reused_tokens` no longer applies, so that the sequence reuses its own blocks.
    pub(super) fn reusable_tokens(&self) -> &[TokenId] {
        let max_reused_tokens = match (&self.pooling, self.started) {
            _ if self.prompt_logprobs.is_some() => 0,
            (Some(pooling), _) if pooling.needs_all_tokens() => 0,
            (_, Some(_)) => usize::MAX,
            (_, None) => self.request.prefix_cache.max_reused_tokens,
        };
        &self.tokens[..max_reused_tokens.min(self.tokens.len() - 1)]
    }

    /// Maximum number of tokens in the next chunk.
    pub(super) fn max_chunk_tokens(&self) -> usize {
        match self.prompt_logprobs {
            Some(_) => MAX_LOGPROB_CHUNK_TOKENS,
            None => usize::MAX,
        }
    }

    /// Returns whether log probabilities of the prompt remain to be computed.
    pub(super) fn wants_prompt_logprobs(&self) -> bool {
        self.prompt_logprobs.is_some()
    }

    /// Returns which rows of logits the runner must return for the next chunk. The chunk ends with `draft_tokens` draft
    /// tokens.
    pub(super) fn wanted_logits(&self, chunk_is_last: bool, draft_tokens: usize) -> WantedRows {
        let logprobs = self.prompt_logprobs.as_ref();
        let for_logprobs = logprobs.map_or(WantedRows::None, |logprobs| {
            logprobs.wanted_rows(self.computed)
        });
        match for_logprobs {
            WantedRows::None if chunk_is_last && self.request.max_tokens > 0 => {
                WantedRows::Last(1 + draft_tokens)
            }
            wanted => wanted,
        }
    }

    /// Returns whether a token is sampled after a chunk.
    pub(super) fn samples_after(&self, chunk: &Chunk) -> bool {
        self.request.max_tokens > 0 && chunk.past + chunk.non_draft_tokens() == self.tokens.len()
    }

    /// Returns the prompt tokens whose log probabilities a chunk's logits give; `None` if the request needs none.
    pub(super) fn logprob_targets(&self, chunk: &Chunk) -> Option<LogprobTargets> {
        let logprobs = self.prompt_logprobs.as_ref()?;
        Some(logprobs.targets(chunk, &self.tokens))
    }

    /// Adds the log probabilities of a computed chunk.
    pub(super) fn add_prompt_logprobs(&mut self, tokens: impl Iterator<Item = SampledToken>) {
        if let Some(logprobs) = &mut self.prompt_logprobs {
            logprobs.add(tokens);
        }
    }

    /// Takes the log probabilities of the whole prompt; `None` if they were taken before or not requested.
    pub(super) fn take_prompt_logprobs(&mut self) -> Option<Vec<SampledToken>> {
        self.prompt_logprobs.take().map(PromptLogprobs::finish)
    }

    /// Returns which rows of hidden states the runner must return for the next chunk.
    pub(super) fn wanted_hidden_states(&self, chunk_is_last: bool) -> WantedRows {
        let pooling = self.pooling.as_ref();
        pooling.map_or(WantedRows::None, |pooling| {
            pooling.wanted_rows(chunk_is_last)
        })
    }

    /// Adds the hidden states of a computed chunk.
    pub(super) fn add_hidden_states<'a>(&mut self, rows: impl Iterator<Item = &'a [f32]>) {
        if let Some(pooling) = &mut self.pooling {
            pooling.add(rows);
        }
    }

    /// Returns the embedding of the prompt, if the request has a pooling method.
    pub(super) fn embedding(&self) -> Option<Vec<f32>> {
        self.pooling.as_ref().map(PoolingState::finish)
    }

    /// References the cached prefix when the sequence is admitted. Returns the block copy to execute before the next
    /// step.
    pub(super) fn admit(
        &mut self,
        cached: CachedPrefix,
        pool: &mut BlockPool,
    ) -> Option<BlockCopy> {
        let (computed, copy) = self.table.attach(cached, pool);
        self.computed = computed;
        self.has_run = false;
        if let Some(pooling) = &mut self.pooling {
            pooling.clear();
        }
        if let Some(logprobs) = &mut self.prompt_logprobs {
            logprobs.clear();
        }
        copy
    }

    /// Marks that the sequence is in the next step. The first call returns the queue wait and the number of cached
    /// tokens.
    pub(super) fn mark_running(&mut self, now: Instant) -> Option<(Duration, usize)> {
        self.has_run = true;
        if self.started.is_some() {
            return None;
        }
        self.started = Some((now, self.computed));
        Some((now.saturating_duration_since(self.submitted), self.computed))
    }

    /// Marks that the prompt is computed. The first call returns the time since submission.
    pub(super) fn finish_prompt(&mut self, now: Instant) -> Option<Duration> {
        if self.prompt_done.is_some() {
            return None;
        }
        self.prompt_done = Some(now);
        Some(now.saturating_duration_since(self.submitted))
    }

    /// Returns the prefill progress; `None` if the request does not report it or the prompt is already computed.
    pub(super) fn prefill_progress(&self, now: Instant) -> Option<PrefillProgress> {
        let (started, cached_tokens) = self.started?;
        let is_reported = self.request.report_prefill && self.prompt_done.is_none();
        is_reported.then(|| PrefillProgress {
            prompt_tokens: self.prompt_tokens,
            cached_tokens,
            processed_tokens: self.computed.min(self.prompt_tokens),
            elapsed: now.saturating_duration_since(started),
        })
    }

    /// Adds `tokens` tokens to the computed tokens and caches the blocks that are now full.
    pub(super) fn advance(&mut self, tokens: usize, pool: &mut BlockPool) {
        self.computed += tokens;
        self.table
            .commit_full_blocks(&self.tokens[..self.computed], pool);
    }

    /// Appends the sampled and forced tokens until a token ends the sequence. `draft_tokens` is the number of draft
    /// tokens in the step.
    pub(super) fn append(
        &mut self,
        output: SamplerOutput,
        draft_tokens: usize,
        context_tokens: usize,
        pool: &mut BlockPool,
    ) -> AppendResult {
        let accepted = output.accepted_draft_tokens();
        self.prompt_lookup.observe(draft_tokens, accepted);
        let SamplerOutput {
            sampled,
            forced,
            is_complete,
        } = output;
        let mut result = AppendResult {
            delivered: Vec::with_capacity(sampled.len() + forced.len()),
            eog_token: None,
            shifts: 0,
            end: None,
        };
        self.last_appended_tokens = 0;
        let forced = forced.into_iter().map(|token| SampledToken {
            token,
            logprobs: None,
        });
        let mut tokens = sampled.into_iter().chain(forced).peekable();
        while let (Some(token), None) = (tokens.next(), result.end) {
            if self.request.eog_tokens.binary_search(&token.token).is_ok() {
                result.end = Some(EndReason::EogToken);
                result.eog_token = Some(token).filter(|token| token.logprobs.is_some());
                break;
            }
            let is_last = is_complete && tokens.peek().is_none();
            result.end = self.append_token(token.token, is_last, context_tokens);
            result.delivered.push(token);
            if result.end.is_none() && self.tokens.len() >= context_tokens {
                self.shift(pool);
                result.shifts += 1;
            }
        }
        // Accepted draft tokens are already computed. The last appended token never is.
        let appended = match result.end {
            Some(EndReason::EogToken) => result.delivered.len(),
            _ => result.delivered.len().saturating_sub(1),
        };
        self.advance(accepted.min(appended), pool);
        result
    }

    /// Appends one token. Returns the reason if the token ends the sequence.
    fn append_token(
        &mut self,
        token: TokenId,
        is_last: bool,
        context_tokens: usize,
    ) -> Option<EndReason> {
        self.tokens.push(token);
        self.generated += 1;
        self.last_appended_tokens += 1;
        let limit = match self.request.stop.after_token(token) {
            StopDecision::Stop => return Some(EndReason::StopRule),
            StopDecision::Continue => self.request.max_tokens,
            StopDecision::MidCharacter => self
                .request
                .max_tokens
                .saturating_add(MAX_CHARACTER_COMPLETION_TOKENS),
        };
        match self.tokens.len() >= context_tokens {
            _ if is_last => Some(EndReason::Complete),
            _ if self.generated >= limit => Some(EndReason::TokenLimit),
            true if self.keep_tokens.is_none() => {
                self.truncated = true;
                Some(EndReason::ContextFull)
            }
            _ => None,
        }
    }

    /// Context shift: drops the older half of the tokens after the kept ones. The newer half is recomputed.
    fn shift(&mut self, pool: &mut BlockPool) {
        let Some(keep) = self.keep_tokens else { return };
        self.computed = self.table.truncate(keep, pool);
        context_shift::shift(&mut self.tokens, keep);
        self.truncated = true;
    }

    /// Releases the blocks and caches their contents, for other sequences and for this sequence after a preemption.
    pub(super) fn release(&mut self, pool: &mut BlockPool) {
        self.table
            .commit_and_release(&self.tokens[..self.computed], pool);
        self.computed = 0;
    }

    /// Releases the blocks without caching any that are not cached yet: the step that was to write them failed or did
    /// not run.
    pub(super) fn release_uncommitted(&mut self, pool: &mut BlockPool) {
        self.table.release(pool);
        self.computed = 0;
    }

    pub(super) fn report(&self, now: Instant) -> SequenceReport {
        let (started, cached_tokens) = self.started.unwrap_or((now, 0));
        let prompt_done = self.prompt_done.unwrap_or(now);
        SequenceReport {
            prompt_tokens: self.prompt_tokens,
            cached_tokens,
            truncated: self.truncated,
            queue_wait: started.saturating_duration_since(self.submitted),
            prompt: prompt_done.saturating_duration_since(started),
            decode: now.saturating_duration_since(prompt_done),
        }
    }
}
