//! What the engine tells about itself: written by the worker after every step, read by anybody.

use super::sequence::SequenceId;

/// The state after the last step.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// A free slot is `None`.
    pub slots: Vec<Option<SlotStats>>,
    /// Sequences that wait for a slot.
    pub waiting: usize,
    /// Blocks that no sequence holds.
    pub blocks_free: usize,
    /// Steps that were run.
    pub steps: u64,
    /// Rows of all steps.
    pub step_tokens: u64,
    /// Why the engine no longer runs.
    pub dead: Option<String>,
}

/// The sequence in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotStats {
    /// Which.
    pub sequence: SequenceId,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// Tokens generated so far.
    pub generated_tokens: usize,
}
