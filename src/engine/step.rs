//! What one step computes: plain data, made by the scheduler, read by the runner, consumed by
//! `commit` or `fail`.

use super::sequence::SequenceId;
use crate::cache::{BlockCopy, BlockId};
use crate::token::TokenId;

/// A ragged list of chunks, run as one call.
///
/// ```text
/// rows      0 1 2 3 4 5 | 6 | 7 | 8 9 10 11
/// chunks    a prompt    | a decoding sequence's last token | … | the end of another prompt
/// ```
#[derive(Debug, PartialEq, Eq)]
pub struct StepPlan {
    /// Blocks to be copied, in this order, before anything is computed.
    pub copies: Vec<BlockCopy>,
    /// At least one; no sequence twice.
    pub chunks: Vec<Chunk>,
}

/// The next tokens of one sequence.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk {
    /// Whose they are.
    pub sequence: SequenceId,
    /// The tokens, at least one. They stand at positions `past..past + tokens.len()`.
    pub tokens: Vec<TokenId>,
    /// Tokens of the sequence that are in the cache already.
    pub past: usize,
    /// The sequence's blocks, with room for `past + tokens.len()` tokens.
    pub blocks: Vec<BlockId>,
    /// Which logits are wanted.
    pub logits: LogitRows,
}

/// The rows of a chunk whose logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogitRows {
    /// None: the prompt goes on, or nothing is to be generated.
    None,
    /// The last token's: the next one is to be chosen.
    Last,
    /// Every token's (scoring).
    All,
}

impl StepPlan {
    /// Rows of the step.
    pub fn tokens(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.tokens.len()).sum()
    }

    /// The rows whose logits are wanted, in order.
    pub fn logit_rows(&self) -> Vec<usize> {
        let mut rows = Vec::new();
        let mut start = 0;
        for chunk in &self.chunks {
            let end = start + chunk.tokens.len();
            match chunk.logits {
                LogitRows::None => {}
                LogitRows::Last => rows.push(end - 1),
                LogitRows::All => rows.extend(start..end),
            }
            start = end;
        }
        rows
    }
}
