//! The batching engine: sequences of token ids that share every step.
//!
//! One thread ([`worker`]) owns the runner, the cache and the sequences; everybody else holds an
//! [`EngineHandle`]. A step is *receive → plan → run → sample → commit → deliver*. There is no HTTP
//! here, no text and no tensor; the model is behind the trait [`ModelRunner`], so the engine runs and
//! is tested without one.

mod adapters;
mod budget;
mod chooser;
mod context;
mod guesses;
mod handle;
mod job;
mod numbers;
mod pooling;
mod runner;
mod scheduler;
mod scores;
mod sequence;
mod slot_orders;
mod stats;
mod step;
mod step_controller;
mod warm_up;
mod worker;

use std::time::Duration;

pub use adapters::AdapterScales;
pub use handle::{EngineHandle, Events, Reservation, SlotError, SubmitError, start};
pub use job::{Job, PrefixUse, StopRule, Verdict, WhenFull};
pub use pooling::Pooling;
pub use runner::{ModelRunner, Outputs, Rows, RunError};
pub use sequence::{Clock, EndReason, PrefillProgress, SequenceEvent, SequenceId, SequenceReport};
pub use slot_orders::{MAX_ORDERS as MAX_SLOT_ORDERS, SavedSequence};
pub use stats::{BlockStats, Counters, Histogram, SlotStats, Stats};
pub use step::{Chunk, StepPlan, WantedRows};
pub use warm_up::WarmUp;

pub use crate::cache::{BlockCopy, BlockId, PrefixRoot};

/// Most tokens of a step: what it computes beside them takes memory for each.
pub const MAX_STEP_TOKENS: usize = 1 << 16;
/// Most sequences that run or wait.
pub const MAX_SEQUENCES: usize = 1 << 20;

/// The engine's limits.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineOptions {
    /// Sequences that run at once (slots).
    pub parallel: usize,
    /// Requests that may wait beside them.
    pub queue: usize,
    /// Most tokens of a step.
    pub step_tokens: usize,
    /// Most tokens that one sequence has in a step.
    pub batch_tokens: usize,
    /// How long a step may take while sequences decode: prompts beside them are cut so. Longer where `prefill_share` needs it.
    pub step_duration: Duration,
    /// Share of the time that prompts have at least while sequences decode: greater than 0, less than 1.
    pub prefill_share: f64,
    /// Whether a prompt is computed in one step, or not yet: each token of an encoder sees those behind it.
    pub whole_prompts: bool,
    /// Most tokens of a sequence, prompt and continuation.
    pub context_tokens: usize,
    /// Blocks of the cache.
    pub blocks: usize,
    /// Tokens of a block.
    pub block_tokens: usize,
}

impl EngineOptions {
    /// The blocks that let every slot fill its context.
    pub fn blocks_for_all(parallel: usize, context_tokens: usize, block_tokens: usize) -> usize {
        parallel * context_tokens.div_ceil(block_tokens)
    }

    /// What is wrong with the numbers, if anything is.
    pub fn check(&self) -> Result<(), String> {
        let Self {
            parallel,
            queue,
            step_tokens,
            batch_tokens,
            step_duration,
            prefill_share,
            whole_prompts: _,
            context_tokens,
            blocks,
            block_tokens,
        } = *self;
        if parallel == 0 || context_tokens == 0 || block_tokens == 0 {
            return Err("there is to be at least one slot and one token of context".to_owned());
        }
        if batch_tokens == 0 || step_duration.is_zero() {
            return Err(
                "a sequence is to have at least one token and some time in a step".to_owned(),
            );
        }
        if !(prefill_share > 0.0 && prefill_share < 1.0) {
            return Err(format!(
                "the prefill share {prefill_share} is not greater than 0 and less than 1"
            ));
        }
        if step_tokens > MAX_STEP_TOKENS {
            return Err(format!(
                "a step of {step_tokens} tokens is more than {MAX_STEP_TOKENS}"
            ));
        }
        if parallel.saturating_add(queue) > MAX_SEQUENCES {
            return Err(format!(
                "{parallel} slots and a queue of {queue} are more than {MAX_SEQUENCES} sequences"
            ));
        }
        if step_tokens < parallel {
            return Err(format!(
                "a step of {step_tokens} tokens has no room for one token of each of {parallel} slots"
            ));
        }
        let needed = context_tokens.div_ceil(block_tokens);
        if blocks < needed {
            return Err(format!(
                "the cache has {} tokens, less than the {context_tokens} of one context",
                blocks * block_tokens
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
