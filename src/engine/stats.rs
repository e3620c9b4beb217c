//! The engine's statistics: the worker publishes them after every step, other threads read a copy.

use std::time::Duration;

use super::sequence_id::SequenceId;

/// The state of the engine after its last step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// The sequence in each slot; `None` is a free slot.
    pub slots: Vec<Option<SlotStats>>,
    /// Number of sequences that wait for a slot or for blocks.
    pub waiting: usize,
    /// The state of the KV cache.
    pub blocks: BlockStats,
    /// Totals since the start.
    pub counters: Counters,
    /// Why the engine's thread has ended; `None` while it runs.
    pub death_reason: Option<String>,
}

/// The sequence in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotStats {
    /// The sequence's id.
    pub sequence: SequenceId,
    /// Number of prompt tokens of the sequence.
    pub prompt_tokens: usize,
    /// Number of tokens that the sequence has generated so far.
    pub generated_tokens: usize,
}

/// Numbers of KV cache blocks by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockStats {
    /// Number of all blocks.
    pub total: usize,
    /// Blocks that running sequences reference.
    pub referenced: usize,
    /// Blocks without a reference, kept for their cached contents.
    pub evictable: usize,
    /// Number of cached blocks whose contents were evicted.
    pub evictions: u64,
}

impl BlockStats {
    /// Blocks without a reference and without cached contents.
    pub fn free(&self) -> usize {
        self.total - self.referenced - self.evictable
    }
}

/// Totals since the start.
#[derive(Debug, Clone, PartialEq)]
pub struct Counters {
    /// Sequences that ended normally.
    pub completed: u64,
    /// Sequences whose client disconnected.
    pub cancelled: u64,
    /// Sequences whose deadline passed.
    pub expired: u64,
    /// Sequences that a failed step or constraint ended.
    pub failed: u64,
    /// Preemptions: a sequence released its blocks to a sequence of higher scheduling priority.
    pub preemptions: u64,
    /// Context shifts: the older half of a full context was dropped.
    pub context_shifts: u64,
    /// Computed prompt tokens.
    pub prompt_tokens: u64,
    /// Sequences whose prompt was partly cached.
    pub prefix_hits: u64,
    /// Prompt tokens that were read from the cache.
    pub cached_tokens: u64,
    /// Tokens that were recomputed after a preemption or a context shift.
    pub recomputed_tokens: u64,
    /// Largest number of tokens that one sequence had in the KV cache.
    pub longest_sequence: u64,
    /// Sequences per step, summed over all steps.
    pub step_sequences: u64,
    /// Drafts that were verified.
    pub draft_verifications: u64,
    /// Draft tokens that were computed.
    pub draft_tokens: u64,
    /// Draft tokens that were accepted.
    pub accepted_draft_tokens: u64,
    /// Generated tokens.
    pub generated_tokens: u64,
    /// Computed prompt tokens of ended sequences.
    pub ended_prompt_tokens: u64,
    /// Generated tokens of ended sequences, without the first token of each sequence.
    pub ended_generated_tokens: u64,
    /// Prefill time in seconds, summed over ended sequences.
    pub prompt_seconds: f64,
    /// Time from the first token to the end in seconds, summed over ended sequences.
    pub decode_seconds: f64,
    /// Number of tokens per step.
    pub step_tokens: Histogram,
    /// Time per step in seconds.
    pub step_seconds: Histogram,
    /// Seconds from submission to the first step.
    pub queue_wait_seconds: Histogram,
    /// Seconds from submission to the first token.
    pub first_token_seconds: Histogram,
    /// Mean time between the tokens of each ended sequence, in seconds.
    pub token_interval_seconds: Histogram,
    /// Seconds from submission to the end.
    pub sequence_seconds: Histogram,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            completed: 0,
            longest_sequence: 0,
            step_sequences: 0,
            draft_verifications: 0,
            cancelled: 0,
            expired: 0,
            failed: 0,
            preemptions: 0,
            context_shifts: 0,
            prompt_tokens: 0,
            prefix_hits: 0,
            cached_tokens: 0,
            recomputed_tokens: 0,
            draft_tokens: 0,
            accepted_draft_tokens: 0,
            generated_tokens: 0,
            ended_prompt_tokens: 0,
            ended_generated_tokens: 0,
            prompt_seconds: 0.0,
            decode_seconds: 0.0,
            step_tokens: Histogram::new(&TOKEN_BOUNDS),
            step_seconds: Histogram::new(&SECOND_BOUNDS),
            queue_wait_seconds: Histogram::new(&SECOND_BOUNDS),
            first_token_seconds: Histogram::new(&SECOND_BOUNDS),
            token_interval_seconds: Histogram::new(&SECOND_BOUNDS),
            sequence_seconds: Histogram::new(&SECOND_BOUNDS),
        }
    }
}

/// Upper bounds of a histogram's buckets, ascending.
type Bounds = [f64; 16];

const SECOND_BOUNDS: Bounds = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
    600.0,
];

const TOKEN_BOUNDS: Bounds = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0,
    16384.0, 65536.0,
];

/// A histogram: number of values per bucket, and the sum of all values.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    bounds: &'static Bounds,
    /// The last bucket counts the values above all bounds.
    counts: [u64; 17],
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static Bounds) -> Self {
        Self {
            bounds,
            counts: [0; 17],
            sum: 0.0,
        }
    }

    /// Records a value.
    pub(super) fn add(&mut self, value: f64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum += value;
    }

    /// Records a duration in seconds.
    pub(super) fn add_duration(&mut self, duration: Duration) {
        self.add(duration.as_secs_f64());
    }

    /// Iterates over the upper bounds of the buckets, each with the number of values up to the bound. The last bound is
    /// infinity.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        }))
    }

    /// Number of recorded values.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Sum of the recorded values.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_equal_to_a_bound_counts_in_its_bucket() {
        let mut histogram = Histogram::new(&TOKEN_BOUNDS);
        [0.5, 1.0, 3.0, 1e9]
            .into_iter()
            .for_each(|value| histogram.add(value));
        let cumulative: Vec<(f64, u64)> = histogram.cumulative().collect();
        assert_eq!(cumulative[..3], [(1.0, 2), (2.0, 2), (4.0, 3)]);
        assert_eq!(cumulative[15..], [(65536.0, 3), (f64::INFINITY, 4)]);
        assert_eq!((histogram.count(), histogram.sum()), (4, 1e9 + 4.5));
    }
}
