//! A request for one sequence, in token ids: what the model layer submits to the engine.

use std::sync::Arc;
use std::time::Duration;

use super::adapters::AdapterScales;
use super::pooling::Pooling;
use crate::cache::CacheNamespace;
use crate::grammar::Constraint;
use crate::sampling::Sampler;
use crate::token::TokenId;

/// A prompt, and how to continue or embed it.
pub struct SequenceRequest {
    /// The prompt: at least one token. With [`ContextOverflow::Stop`] the prompt must fit the context.
    pub prompt: Vec<TokenId>,
    /// Maximum number of generated tokens; 0 only evaluates the prompt.
    pub max_tokens: usize,
    /// End-of-generation tokens, sorted. They end the sequence and are not delivered.
    pub eog_tokens: Arc<[TokenId]>,
    /// The sampler. Its penalty state already contains the tokens before the first generated one.
    pub sampler: Sampler,
    /// The grammar that the generated tokens must follow; `None` allows all tokens.
    pub constraint: Option<Constraint>,
    /// Decides after every generated token whether generation ends.
    pub stop: Box<dyn StopRule>,
    /// The slot to run in; `None` takes any free slot.
    pub slot: Option<usize>,
    /// Which cached blocks the sequence may reuse.
    pub prefix_cache: PrefixCacheOptions,
    /// The adapter scales. All sequences in a cache namespace must have the same scales.
    pub adapters: AdapterScales,
    /// What happens when the sequence exceeds the context.
    pub context_overflow: ContextOverflow,
    /// Sequences with a higher priority are admitted first and preempted last.
    pub priority: i32,
    /// Maximum time from submission to the end.
    pub timeout: Option<Duration>,
    /// How the prompt's hidden states are pooled into an embedding; `None` returns no embedding.
    pub pooling: Option<Pooling>,
    /// Number of most probable tokens in the log probabilities of the prompt's tokens; `None` returns none. Such a
    /// prompt is computed without reading the cache, which holds no logits.
    pub prompt_logprobs: Option<usize>,
    /// Whether [`super::SequenceEvent::Prefill`] is sent for each evaluated chunk of the prompt.
    pub report_prefill: bool,
}

/// Which cached blocks a sequence may reuse. The blocks of the sequence itself are always cached for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PrefixCacheOptions {
    /// Maximum number of leading prompt tokens that are read from the cache.
    pub max_reused_tokens: usize,
    /// Sequences reuse only blocks of their own namespace.
    pub namespace: CacheNamespace,
}

/// What happens when a sequence exceeds its context.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContextOverflow {
    /// A prompt that exceeds the context is refused. Generation ends when the context is full.
    Stop,
    /// Context shift: drops the older half of the tokens after the kept ones.
    Shift {
        /// Number of leading prompt tokens that are never dropped; `None` keeps the whole prompt.
        keep: Option<usize>,
    },
}

/// Decides after every generated token whether generation ends. The engine passes token ids; the implementation maps
/// them to text.
pub trait StopRule: Send {
    /// Records the next generated token and returns the decision.
    fn after_token(&mut self, token: TokenId) -> StopDecision;
}

/// The decision of a [`StopRule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopDecision {
    /// Generation continues until another condition ends it.
    Continue,
    /// The text ends within a multi-byte character: `max_tokens` may be exceeded to complete the character.
    MidCharacter,
    /// The token completes a stop sequence: generation ends.
    Stop,
}

impl SequenceRequest {
    /// Returns the maximum number of prompt tokens. If the request generates tokens, the prompt leaves room for one.
    pub(super) fn max_prompt_tokens(&self, context_tokens: usize) -> usize {
        context_tokens - usize::from(self.max_tokens > 0)
    }

    /// Returns whether the prompt fits the context or may be truncated to fit.
    pub(super) fn fits(&self, context_tokens: usize) -> bool {
        let max_tokens = self.max_prompt_tokens(context_tokens);
        match self.context_overflow {
            ContextOverflow::Shift { .. } if max_tokens > 0 => true,
            ContextOverflow::Shift { .. } | ContextOverflow::Stop => {
                self.prompt.len() <= max_tokens
            }
        }
    }
}
