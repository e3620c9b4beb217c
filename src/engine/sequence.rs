//! One sequence: the tokens wanted, the tokens computed, and when it ends.

use std::cmp::Reverse;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use super::chooser::{Chooser, Chosen};
use super::context;
use super::guesses::Guesses;
use super::job::{Job, Verdict, WhenFull};
use super::pooling::Pool;
use super::scores::{MOST_SCORED_TOKENS, Scored, Scores};
use super::step::{Chunk, WantedRows};
use crate::cache::{BlockCopy, BlockPool, BlockTable, Reuse};
use crate::grammar::GrammarError;
use crate::sampling::Choice;
use crate::token::TokenId;

/// The number of a sequence, never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(pub u64);

/// Tells the time. The engine has no clock of its own, so that tests decide what time it is.
pub type Clock = fn() -> Instant;

/// Tokens beyond the limit that may finish a character: one for each byte after the first of four.
const FINISHING_TOKENS: usize = 3;

/// What happens to a sequence, in this order: `Started`, `Prefill`, `Prompt`, tokens, `EndToken`, one of the last three. After a preemption it
/// is `Started` once more, and goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum SequenceEvent {
    /// It got a slot; its first chunk is in this step.
    Started {
        /// The slot.
        slot: usize,
    },
    /// A part of the prompt was evaluated, if [`Job::report_prefill`] asks for it.
    Prefill(PrefillProgress),
    /// How probable the prompt's tokens were, but for the first, if that was asked for.
    Prompt(Vec<Choice>),
    /// A token was generated.
    Token(Choice),
    /// An end token was chosen; told to those who want to know how probable tokens were.
    EndToken(Choice),
    /// The prompt's embedding, `[hidden]`.
    Embedding(Vec<f32>),
    /// The end.
    Ended {
        /// Why.
        reason: EndReason,
        /// What it was.
        report: SequenceReport,
    },
    /// A step failed, or the engine stops.
    Failed(String),
    /// No token follows that the constraint and the other options allow, or finding it takes too much.
    Unfollowable(GrammarError),
}

/// How much of a prompt was evaluated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PrefillProgress {
    /// Tokens of the prompt, without what was cut from it.
    pub prompt_tokens: usize,
    /// Of these, the ones that the cache held when it started.
    pub cached_tokens: usize,
    /// Of these, the ones that the cache holds now.
    pub processed_tokens: usize,
    /// Since its first step.
    pub elapsed: Duration,
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
    /// The constraint allows nothing more.
    Complete,
    /// The context is full.
    ContextFull,
    /// `timeout` has passed.
    DeadlinePassed,
}

/// A sequence's life in numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SequenceReport {
    /// Tokens of the prompt, without what was cut from it.
    pub prompt_tokens: usize,
    /// Of these, the ones that the cache held when it started.
    pub cached_tokens: usize,
    /// Whether a part of prompt or continuation was dropped.
    pub truncated: bool,
    /// From submission to the first step.
    pub queue_wait: Duration,
    /// From there to the first token, or to the end of the prompt if there is none.
    pub prompt: Duration,
    /// From the first token to the end.
    pub decode: Duration,
}

/// Which sequence comes first: one that was promoted, then the higher priority, then the earlier arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    promoted: Reverse<bool>,
    priority: Reverse<i32>,
    arrival: SequenceId,
}

/// What came of a [`Chosen`].
pub(super) struct Pushed {
    /// What is to be delivered.
    pub(super) delivered: Vec<Choice>,
    /// The end token with its log-probabilities, if they are wanted.
    pub(super) end_token: Option<Choice>,
    /// How often the older half of the text was dropped.
    pub(super) shifts: u64,
    /// Why the sequence ends, if it does.
    pub(super) end: Option<EndReason>,
}

/// A sequence in the scheduler's care.
pub(super) struct Sequence {
    pub(super) id: SequenceId,
    pub(super) job: Job,
    /// Whether it ranks before all priorities: it waited while many others were started.
    pub(super) promoted: bool,
    /// The prompt, then what was generated, but for what was dropped: the tokens wanted.
    pub(super) tokens: Vec<TokenId>,
    /// How many of `tokens` are in the cache: the tokens computed.
    pub(super) computed: usize,
    pub(super) table: BlockTable,
    prompt_tokens: usize,
    generated: usize,
    /// Tokens that are certain to come next.
    foreseen: VecDeque<TokenId>,
    guesses: Guesses,
    /// Tokens that may come next, for this step.
    guessed: Vec<TokenId>,
    /// Tokens of the last choice: until they are computed, the sequence only waits for its next token.
    uncomputed_choices: usize,
    /// Tokens that stay when the context is full; `None` if nothing may be dropped.
    keep: Option<usize>,
    pool: Option<Pool>,
    /// Until they are delivered.
    scores: Option<Scores>,
    truncated: bool,
    submitted: Instant,
    /// When it started, and how many tokens of its prompt the cache held.
    started: Option<(Instant, usize)>,
    /// Whether it has been in a step since it was last admitted.
    joined: bool,
    prompt_done: Option<Instant>,
    /// Held until the sequence ends: its place among those that may run or wait.
    _permit: OwnedSemaphorePermit,
}

impl Sequence {
    /// A sequence for a job, its prompt cut if it is too long and may be.
    pub(super) fn new(
        id: SequenceId,
        mut job: Job,
        context_tokens: usize,
        submitted: Instant,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let mut tokens = std::mem::take(&mut job.prompt);
        let pool = job.embed.map(Pool::new);
        let whole = tokens.len();
        let keep = match job.when_full {
            WhenFull::Stop => None,
            WhenFull::Shift { keep } => Some(context::kept(keep, whole, context_tokens)),
        };
        if let Some(keep) = keep.filter(|_| whole > job.most_prompt_tokens(context_tokens)) {
            context::cut(&mut tokens, keep, context_tokens);
        }
        Self {
            id,
            table: BlockTable::new(job.prefix.root),
            prompt_tokens: tokens.len(),
            scores: job.score.map(|top| Scores::new(top, tokens.len())),
            truncated: tokens.len() < whole,
            tokens,
            computed: 0,
            generated: 0,
            foreseen: VecDeque::new(),
            guesses: Guesses::default(),
            guessed: Vec::new(),
            uncomputed_choices: 0,
            keep,
            pool,
            job,
            promoted: false,
            submitted,
            started: None,
            joined: false,
            prompt_done: None,
            _permit: permit,
        }
    }

    pub(super) fn rank(&self) -> Rank {
        Rank {
            promoted: Reverse(self.promoted),
            priority: Reverse(self.job.priority),
            arrival: self.id,
        }
    }

    /// Guesses up to `most` tokens that may come next: none where it would be of no use.
    pub(super) fn guess(&mut self, most: usize, context_tokens: usize) {
        // Behind all of them there is one more, and room.
        let room = context_tokens.saturating_sub(self.tokens.len() + 2);
        let left = self.job.max_tokens.saturating_sub(self.generated + 1);
        let most = match self.is_decoding() && self.job.constraint.is_none() {
            true => most.min(room).min(left),
            false => 0,
        };
        self.guessed = self.guesses.behind(&self.tokens, most);
    }

    /// Tokens that its next chunk may have: those wanted, and those guessed.
    pub(super) fn computable(&self) -> usize {
        self.wanted() + self.guessed.len()
    }

    /// So many of them.
    pub(super) fn next_tokens(&self, count: usize) -> impl Iterator<Item = TokenId> {
        let wanted = self.tokens[self.computed..].iter();
        wanted.chain(&self.guessed).copied().take(count)
    }

    /// What chooses its next tokens behind a chunk.
    pub(super) fn chooser<'a>(&'a mut self, chunk: &'a Chunk) -> Chooser<'a> {
        Chooser {
            guessed: &chunk.tokens[chunk.certain()..],
            sampler: &mut self.job.sampler,
            constraint: self.job.constraint.as_mut(),
            foreseen: &mut self.foreseen,
        }
    }

    /// Tokens still to be computed before the next one can be chosen.
    pub(super) fn wanted(&self) -> usize {
        self.tokens.len() - self.computed
    }

    /// Whether its prompt is through and it only waits for its next token.
    pub(super) fn is_decoding(&self) -> bool {
        self.prompt_done.is_some() && self.wanted() <= self.uncomputed_choices
    }

    /// Whether it has been in a step since it was last admitted.
    pub(super) fn has_joined(&self) -> bool {
        self.joined
    }

    pub(super) fn prompt_tokens(&self) -> usize {
        self.prompt_tokens
    }

    pub(super) fn generated(&self) -> usize {
        self.generated
    }

    pub(super) fn has_expired(&self, now: Instant) -> bool {
        let age = now.saturating_duration_since(self.submitted);
        self.job.timeout.is_some_and(|timeout| age >= timeout)
    }

    /// The tokens that it may find in the cache: all but the last, whose logits are wanted. One that
    /// may read little finds its own again after a preemption.
    pub(super) fn findable(&self) -> &[TokenId] {
        let readable = match (&self.pool, self.started) {
            _ if self.scores.is_some() => 0,
            (Some(pool), _) if pool.needs_all() => 0,
            (_, Some(_)) => usize::MAX,
            (_, None) => self.job.prefix.readable,
        };
        &self.tokens[..readable.min(self.tokens.len() - 1)]
    }

    /// Most tokens of its next chunk.
    pub(super) fn chunk_limit(&self) -> usize {
        match self.scores {
            Some(_) => MOST_SCORED_TOKENS,
            None => usize::MAX,
        }
    }

    /// Whether log-probabilities of its prompt are still to be computed.
    pub(super) fn is_scored(&self) -> bool {
        self.scores.is_some()
    }

    /// Which logits of its next chunk are wanted, which ends with so many guesses.
    pub(super) fn logits_wanted(&self, chunk_is_last: bool, guessed: usize) -> WantedRows {
        let scores = self.scores.as_ref();
        let scored = scores.map_or(WantedRows::None, |scores| scores.wanted(self.computed));
        match scored {
            WantedRows::None if chunk_is_last && self.job.max_tokens > 0 => {
                WantedRows::Last(1 + guessed)
            }
            wanted => wanted,
        }
    }

    /// Whether its next token is chosen behind a chunk.
    pub(super) fn chooses_behind(&self, chunk: &Chunk) -> bool {
        self.job.max_tokens > 0 && chunk.past + chunk.certain() == self.tokens.len()
    }

    /// The tokens of the prompt that a chunk's logits tell the probabilities of.
    pub(super) fn scored(&self, chunk: &Chunk) -> Option<Scored> {
        let scores = self.scores.as_ref()?;
        Some(scores.of_chunk(chunk, &self.tokens))
    }

    /// Takes the scores of the chunk that was computed.
    pub(super) fn score(&mut self, choices: impl Iterator<Item = Choice>) {
        if let Some(scores) = &mut self.scores {
            scores.add(choices);
        }
    }

    /// How probable the prompt's tokens were, once they are all known; told once.
    pub(super) fn take_scores(&mut self) -> Option<Vec<Choice>> {
        self.scores.take().map(Scores::finish)
    }

    /// Which hidden states of its next chunk are wanted.
    pub(super) fn hidden_wanted(&self, chunk_is_last: bool) -> WantedRows {
        let pool = self.pool.as_ref();
        pool.map_or(WantedRows::None, |pool| pool.wanted(chunk_is_last))
    }

    /// Takes the hidden states of the chunk that was computed.
    pub(super) fn pool<'a>(&mut self, rows: impl Iterator<Item = &'a [f32]>) {
        if let Some(pool) = &mut self.pool {
            pool.add(rows);
        }
    }

    /// The prompt's embedding, if that is what is wanted.
    pub(super) fn embedding(&self) -> Option<Vec<f32>> {
        self.pool.as_ref().map(Pool::finish)
    }

    /// Takes what was found in the cache. Answers what is to be copied first.
    pub(super) fn begin(&mut self, reuse: Reuse, pool: &mut BlockPool) -> Option<BlockCopy> {
        let (computed, copy) = self.table.begin(reuse, pool);
        self.computed = computed;
        self.joined = false;
        if let Some(pool) = &mut self.pool {
            pool.clear();
        }
        if let Some(scores) = &mut self.scores {
            scores.clear();
        }
        copy
    }

    /// Its first chunk since it was admitted is in this step. Answers how long it waited and what the
    /// cache held, the first time.
    pub(super) fn join(&mut self, now: Instant) -> Option<(Duration, usize)> {
        self.joined = true;
        if self.started.is_some() {
            return None;
        }
        self.started = Some((now, self.computed));
        Some((now.saturating_duration_since(self.submitted), self.computed))
    }

    /// Marks the prompt's end: the first token, or the end of a prompt that is only evaluated. Answers how
    /// long it took since submission, the first time.
    pub(super) fn prompt_ends(&mut self, now: Instant) -> Option<Duration> {
        if self.prompt_done.is_some() {
            return None;
        }
        self.prompt_done = Some(now);
        Some(now.saturating_duration_since(self.submitted))
    }

    /// How much of the prompt is evaluated, if that is to be reported and the prompt was not evaluated before.
    pub(super) fn prefill_progress(&self, now: Instant) -> Option<PrefillProgress> {
        let (started, cached_tokens) = self.started?;
        let is_reported = self.job.report_prefill && self.prompt_done.is_none();
        is_reported.then(|| PrefillProgress {
            prompt_tokens: self.prompt_tokens,
            cached_tokens,
            processed_tokens: self.computed.min(self.prompt_tokens),
            elapsed: now.saturating_duration_since(started),
        })
    }

    /// So many more tokens are in the cache.
    pub(super) fn advance(&mut self, tokens: usize, pool: &mut BlockPool) {
        self.computed += tokens;
        self.table.make_known(&self.tokens[..self.computed], pool);
    }

    /// Takes the chosen tokens, up to one that ends the sequence; `guessed` were.
    pub(super) fn push(
        &mut self,
        chosen: Chosen,
        guessed: usize,
        context_tokens: usize,
        pool: &mut BlockPool,
    ) -> Pushed {
        let right = chosen.guessed_rightly();
        self.guesses.observe(guessed, right);
        let Chosen {
            choices,
            certain,
            complete,
        } = chosen;
        let mut pushed = Pushed {
            delivered: Vec::with_capacity(choices.len() + certain.len()),
            end_token: None,
            shifts: 0,
            end: None,
        };
        self.uncomputed_choices = 0;
        let certain = certain.into_iter().map(|token| Choice {
            token,
            logprobs: None,
        });
        let mut choices = choices.into_iter().chain(certain).peekable();
        while let (Some(choice), None) = (choices.next(), pushed.end) {
            if self.job.end_tokens.binary_search(&choice.token).is_ok() {
                pushed.end = Some(EndReason::EndToken);
                pushed.end_token = Some(choice).filter(|choice| choice.logprobs.is_some());
                break;
            }
            let last = complete && choices.peek().is_none();
            pushed.end = self.push_token(choice.token, last, context_tokens);
            pushed.delivered.push(choice);
            if pushed.end.is_none() && self.tokens.len() >= context_tokens {
                self.shift(pool);
                pushed.shifts += 1;
            }
        }
        // What was guessed rightly is in the cache; of the last choice that is never said.
        let known = match pushed.end {
            Some(EndReason::EndToken) => pushed.delivered.len(),
            _ => pushed.delivered.len().saturating_sub(1),
        };
        self.advance(right.min(known), pool);
        pushed
    }

    /// Takes one token. Answers why the sequence ends with it, if it does.
    fn push_token(
        &mut self,
        token: TokenId,
        last: bool,
        context_tokens: usize,
    ) -> Option<EndReason> {
        self.tokens.push(token);
        self.generated += 1;
        self.uncomputed_choices += 1;
        let limit = match self.job.stop.after(token) {
            Verdict::Stop => return Some(EndReason::StopRule),
            Verdict::Continue => self.job.max_tokens,
            Verdict::MidCharacter => self.job.max_tokens.saturating_add(FINISHING_TOKENS),
        };
        match self.tokens.len() >= context_tokens {
            _ if last => Some(EndReason::Complete),
            _ if self.generated >= limit => Some(EndReason::TokenLimit),
            true if self.keep.is_none() => {
                self.truncated = true;
                Some(EndReason::ContextFull)
            }
            _ => None,
        }
    }

    /// Drops the older half of the text, but for its beginning; the rest is to be computed anew.
    fn shift(&mut self, pool: &mut BlockPool) {
        let Some(keep) = self.keep else { return };
        self.computed = self.table.shorten(keep, pool);
        context::shift(&mut self.tokens, keep);
        self.truncated = true;
    }

    /// Gives its blocks back; what is in them can be found by others, and by itself when it comes back.
    pub(super) fn release(&mut self, pool: &mut BlockPool) {
        self.table
            .release_known(&self.tokens[..self.computed], pool);
        self.computed = 0;
    }

    /// Gives its blocks back, of which only those can be found that could be before: a step was to write
    /// into them and did not.
    pub(super) fn abandon(&mut self, pool: &mut BlockPool) {
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
