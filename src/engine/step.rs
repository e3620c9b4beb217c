//! The plan of one step: plain data that the scheduler creates, the runner executes, and `Scheduler::commit` or
//! `Scheduler::fail` consumes.

use super::adapters::AdapterScales;
use super::sequence_id::SequenceId;
use crate::cache::{BlockCopy, BlockId};
use crate::token::TokenId;

/// A ragged batch of chunks that the model computes in one call.
///
/// ```text
/// rows      0 1 2 3 4 5 | 6             | 7             | 8 9 10 11
/// chunks    a prompt    | a decode row  | a decode row  | the end of another prompt
/// ```
#[derive(Debug, PartialEq)]
pub struct StepPlan {
    /// Blocks to copy, in this order, before the step computes anything.
    pub copies: Vec<BlockCopy>,
    /// At least one chunk; at most one of each sequence.
    pub chunks: Vec<Chunk>,
}

/// Consecutive tokens of one sequence to compute in a step.
#[derive(Debug, PartialEq)]
pub struct Chunk {
    /// The sequence that the tokens belong to.
    pub sequence: SequenceId,
    /// At least one token, at the positions `past..past + tokens.len()`.
    pub tokens: Vec<TokenId>,
    /// Number of draft tokens at the end of `tokens`. The logits of the row before a draft token decide whether the
    /// token is accepted.
    pub draft_tokens: usize,
    /// Number of the sequence's tokens that are already in the cache.
    pub past: usize,
    /// The sequence's block table, with room for `past + tokens.len()` tokens.
    pub blocks: Vec<BlockId>,
    /// The rows of logits to return.
    pub logits: WantedRows,
    /// The rows of hidden states to return.
    pub hidden: WantedRows,
    /// The adapter scales, the same for all chunks of a sequence.
    pub adapters: AdapterScales,
}

/// The rows of a chunk for which the runner returns logits or hidden states.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedRows {
    /// No row.
    None,
    /// The given number of last rows.
    Last(usize),
    /// Every row.
    All,
}

impl WantedRows {
    /// Number of wanted rows of a chunk of `tokens` tokens: always the last rows.
    pub fn count(self, tokens: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last(count) => count,
            Self::All => tokens,
        }
    }
}

impl Chunk {
    /// Number of tokens before the draft tokens.
    pub(super) fn non_draft_tokens(&self) -> usize {
        self.tokens.len() - self.draft_tokens
    }
}

impl StepPlan {
    /// Number of tokens in the step, which is its number of rows.
    pub fn tokens(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.tokens.len()).sum()
    }

    /// Iterates over the chunks that return logits, each with the index of its first row among the returned logits.
    pub(super) fn chunks_with_logits(&self) -> impl Iterator<Item = (usize, &Chunk)> {
        let chunks = self.chunks.iter().scan(0, |rows, chunk| {
            let first = *rows;
            *rows += chunk.logits.count(chunk.tokens.len());
            Some((first, chunk))
        });
        chunks.filter(|(_, chunk)| chunk.logits != WantedRows::None)
    }

    /// Indices of the rows whose logits are returned, in order.
    pub fn logit_rows(&self) -> Vec<usize> {
        self.rows(|chunk| chunk.logits)
    }

    /// Indices of the rows whose hidden states are returned, in order.
    pub fn hidden_rows(&self) -> Vec<usize> {
        self.rows(|chunk| chunk.hidden)
    }

    fn rows(&self, wanted: impl Fn(&Chunk) -> WantedRows) -> Vec<usize> {
        let mut rows = Vec::new();
        let mut start = 0;
        for chunk in &self.chunks {
            let end = start + chunk.tokens.len();
            let count = wanted(chunk).count(chunk.tokens.len());
            rows.extend(end - count..end);
            start = end;
        }
        rows
    }
}
