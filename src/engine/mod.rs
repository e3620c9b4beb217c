//! The engine with continuous batching: each step computes tokens of all running sequences in one batch.
//!
//! One thread ([`worker`]) owns the runner, the cache and the sequences; all other code holds an [`EngineHandle`]. A
//! step is *receive → plan → run → sample → commit → deliver*. The engine does not handle HTTP, text or tensors. The
//! model is behind the trait [`ModelRunner`], so that tests can run the engine without a model.

mod adapters;
mod budget;
mod context_shift;
mod handle;
mod output_checks;
mod pooling;
mod prompt_logprobs;
mod request;
mod runner;
mod scheduler;
mod sequence;
mod sequence_id;
mod sequence_sampler;
mod slot_actions;
mod speculative;
mod stats;
mod step;
mod step_controller;
mod warm_up;
mod worker;

use std::time::Duration;

pub use adapters::AdapterScales;
pub use handle::{EngineHandle, Reservation, SequenceEvents, SlotError, SubmitError, start};
pub use pooling::Pooling;
pub use request::{ContextOverflow, PrefixCacheOptions, SequenceRequest, StopDecision, StopRule};
pub use runner::{ModelRunner, Outputs, Rows, RunError};
pub use sequence::{Clock, EndReason, PrefillProgress, SequenceEvent, SequenceReport};
pub use sequence_id::SequenceId;
pub use slot_actions::{MAX_SLOT_ACTIONS, SavedSequence};
pub use stats::{BlockStats, Counters, Histogram, SlotStats, Stats};
pub use step::{Chunk, StepPlan, WantedRows};
pub use warm_up::WarmUp;

pub use crate::cache::{BlockCopy, BlockId, CacheNamespace};

/// Upper limit of [`EngineOptions::step_tokens`]: activations take memory for every token of a step.
pub const MAX_STEP_TOKENS: usize = 1 << 16;
/// Upper limit of the running and waiting sequences together.
pub const MAX_SEQUENCES: usize = 1 << 20;

/// The limits of the engine: slots, queue, step size and time, and cache size.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineOptions {
    /// Number of slots: sequences that run at the same time.
    pub parallel: usize,
    /// Maximum number of sequences that wait for a slot.
    pub queue: usize,
    /// Maximum number of tokens in a step.
    pub step_tokens: usize,
    /// Maximum number of tokens of one sequence in a step (its chunk).
    pub batch_tokens: usize,
    /// Maximum step time while sequences decode; the step controller sizes prefill chunks for it. `prefill_share` may
    /// extend the limit.
    pub step_duration: Duration,
    /// Minimum share of the time for prefill while sequences decode: greater than 0 and less than 1.
    pub prefill_share: f64,
    /// Whether each prompt must be computed in a single step, as encoders require: their tokens attend to later tokens.
    pub whole_prompts: bool,
    /// Maximum number of tokens of a sequence, prompt and generated tokens together.
    pub context_tokens: usize,
    /// Number of blocks in the KV cache.
    pub blocks: usize,
    /// Number of tokens per block.
    pub block_tokens: usize,
}

impl EngineOptions {
    /// Number of blocks with which every slot can fill its context.
    pub fn blocks_for_all(parallel: usize, context_tokens: usize, block_tokens: usize) -> usize {
        parallel * context_tokens.div_ceil(block_tokens)
    }

    /// Checks that each limit is valid and that the limits are compatible.
    ///
    /// # Errors
    /// If a limit is invalid, with a message that names the limit.
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
            return Err(
                "the number of slots, the context size and the block size must be at least 1"
                    .to_owned(),
            );
        }
        if batch_tokens == 0 || step_duration.is_zero() {
            return Err("the batch size and the step time must be greater than 0".to_owned());
        }
        if !(prefill_share > 0.0 && prefill_share < 1.0) {
            return Err(format!(
                "invalid prefill share {prefill_share}: it must be greater than 0 and less than 1"
            ));
        }
        if step_tokens > MAX_STEP_TOKENS {
            return Err(format!(
                "a step of {step_tokens} tokens is larger than the maximum of {MAX_STEP_TOKENS}"
            ));
        }
        if parallel.saturating_add(queue) > MAX_SEQUENCES {
            return Err(format!(
                "{parallel} slots and a queue of {queue} exceed the maximum of {MAX_SEQUENCES} sequences"
            ));
        }
        if step_tokens < parallel {
            return Err(format!(
                "a step of {step_tokens} tokens is too small for {parallel} slots: each slot needs one token"
            ));
        }
        let min_blocks = context_tokens.div_ceil(block_tokens);
        if blocks < min_blocks {
            return Err(format!(
                "the cache holds {} tokens, fewer than one context of {context_tokens} tokens",
                blocks * block_tokens
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
