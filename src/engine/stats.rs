//! What the engine tells about itself: written by the worker after every step, read by anybody.

use std::time::Duration;

use super::sequence::SequenceId;

/// The state after the last step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Stats {
    /// A free slot is `None`.
    pub slots: Vec<Option<SlotStats>>,
    /// Sequences that wait for a slot or for blocks.
    pub waiting: usize,
    /// The cache.
    pub blocks: BlockStats,
    /// What happened since the start.
    pub counters: Counters,
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

/// The blocks of the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockStats {
    /// All.
    pub total: usize,
    /// Held by running sequences.
    pub held: usize,
    /// Held by nobody, kept for what is in them.
    pub idle: usize,
    /// Contents that were forgotten to make room.
    pub evictions: u64,
}

impl BlockStats {
    /// Blocks with nothing in them.
    pub fn free(&self) -> usize {
        self.total - self.held - self.idle
    }
}

/// What happened since the start.
#[derive(Debug, Clone, PartialEq)]
pub struct Counters {
    /// Sequences that ended by themselves.
    pub completed: u64,
    /// Sequences whose client left.
    pub cancelled: u64,
    /// Sequences whose deadline passed.
    pub expired: u64,
    /// Sequences whose step failed.
    pub failed: u64,
    /// Times that a sequence yielded its blocks to an older one.
    pub preemptions: u64,
    /// Times that a full context lost its older half.
    pub context_shifts: u64,
    /// Prompt tokens that were computed.
    pub prompt_tokens: u64,
    /// Sequences of whose prompt the cache held a part.
    pub prefix_hits: u64,
    /// Prompt tokens that the cache held.
    pub cached_tokens: u64,
    /// Tokens computed once more, after a preemption or a context shift.
    pub recomputed_tokens: u64,
    /// Most tokens that a sequence had in the cache.
    pub longest_sequence: u64,
    /// Sequences in steps, summed over all steps.
    pub step_sequences: u64,
    /// Times that draft tokens were verified.
    pub guesses: u64,
    /// Tokens that were computed in case that they come next.
    pub guessed_tokens: u64,
    /// Those of them that came.
    pub rightly_guessed_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// Prompt tokens that ended sequences had computed.
    pub ended_prompt_tokens: u64,
    /// Tokens that ended sequences generated after their first.
    pub ended_generated_tokens: u64,
    /// Seconds that prompts took, summed over ended sequences.
    pub prompt_seconds: f64,
    /// Seconds from the first token to the last, summed over ended sequences.
    pub decode_seconds: f64,
    /// Tokens of each step.
    pub step_tokens: Histogram,
    /// Seconds that each step took.
    pub step_seconds: Histogram,
    /// Seconds from submission to the first step.
    pub queue_wait_seconds: Histogram,
    /// Seconds from submission to the first token.
    pub first_token_seconds: Histogram,
    /// Mean seconds between a sequence's tokens.
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
            guesses: 0,
            cancelled: 0,
            expired: 0,
            failed: 0,
            preemptions: 0,
            context_shifts: 0,
            prompt_tokens: 0,
            prefix_hits: 0,
            cached_tokens: 0,
            recomputed_tokens: 0,
            guessed_tokens: 0,
            rightly_guessed_tokens: 0,
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

/// Upper bounds of a histogram's buckets, rising.
type Bounds = [f64; 16];

const SECOND_BOUNDS: Bounds = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
    600.0,
];

const TOKEN_BOUNDS: Bounds = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0,
    16384.0, 65536.0,
];

/// How often values fell between bounds.
#[derive(Debug, Clone, PartialEq)]
pub struct Histogram {
    bounds: &'static Bounds,
    /// The last is for values above all bounds.
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

    /// Counts a value.
    pub(super) fn add(&mut self, value: f64) {
        self.counts[self.bounds.partition_point(|bound| *bound < value)] += 1;
        self.sum += value;
    }

    /// Counts a duration, in seconds.
    pub(super) fn add_duration(&mut self, duration: Duration) {
        self.add(duration.as_secs_f64());
    }

    /// For each upper bound the number of values up to it; the last bound is infinity.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> {
        let bounds = self.bounds.iter().copied().chain([f64::INFINITY]);
        bounds.zip(self.counts.iter().scan(0, |sum, count| {
            *sum += count;
            Some(*sum)
        }))
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum.
    pub fn sum(&self) -> f64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_is_within_it() {
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
