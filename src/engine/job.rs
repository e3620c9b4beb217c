//! What the engine is asked for: one continuation, in ids.

use std::sync::Arc;
use std::time::Duration;

use super::adapters::AdapterScales;
use super::pooling::Pooling;
use crate::cache::PrefixRoot;
use crate::grammar::Constraint;
use crate::sampling::Sampler;
use crate::token::TokenId;

/// A request for one continuation, in ids.
pub struct Job {
    /// At least one token, and no more than the context has room for if nothing may be dropped.
    pub prompt: Vec<TokenId>,
    /// Most tokens to generate; 0 evaluates the prompt only.
    pub max_tokens: usize,
    /// Tokens that end the generation when chosen; they are not delivered. Sorted.
    pub end_tokens: Arc<[TokenId]>,
    /// Chooses.
    pub sampler: Sampler,
    /// What the continuation must follow.
    pub constraint: Option<Constraint>,
    /// Ends.
    pub stop: Box<dyn StopRule>,
    /// The only slot that will do.
    pub slot: Option<usize>,
    /// What it may find in the cache.
    pub prefix: PrefixUse,
    /// What adapters change of what the model computes of it. Who shares a root is to have the same.
    pub adapters: AdapterScales,
    /// What happens when prompt or continuation outgrow the context.
    pub when_full: WhenFull,
    /// Those of a higher one are admitted first, and yield their blocks last.
    pub priority: i32,
    /// How long it may take from submission to the end.
    pub timeout: Option<Duration>,
    /// How the prompt's hidden states become an embedding, if that is what is wanted.
    pub embed: Option<Pooling>,
    /// Whether it is told how probable the prompt's tokens were, and with how many of the most probable ones beside
    /// each. The cache is not read then: there are no logits in it.
    pub score: Option<usize>,
    /// Whether an event tells of each evaluated part of the prompt.
    pub report_prefill: bool,
}

/// How a sequence uses what others computed. What it computes itself is there for others in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixUse {
    /// How many tokens of its beginning it may find there.
    pub readable: usize,
    /// Only sequences of the same root find each other's blocks.
    pub root: PrefixRoot,
}

/// What happens when a text outgrows its context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenFull {
    /// A longer prompt is refused, a longer continuation ends.
    Stop,
    /// The older half of the text goes, but for its beginning.
    Shift {
        /// Tokens of the prompt that stay; `None` is all.
        keep: Option<usize>,
    },
}

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

impl Job {
    /// The longest prompt that fits: there is room for one token, if one is to be generated.
    pub(super) fn most_prompt_tokens(&self, context_tokens: usize) -> usize {
        context_tokens - usize::from(self.max_tokens > 0)
    }

    /// Whether its prompt fits, or may be cut until it does.
    pub(super) fn fits(&self, context_tokens: usize) -> bool {
        let most = self.most_prompt_tokens(context_tokens);
        match self.when_full {
            WhenFull::Shift { .. } if most > 0 => true,
            WhenFull::Shift { .. } | WhenFull::Stop => self.prompt.len() <= most,
        }
    }
}
