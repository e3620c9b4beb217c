//! What one step computes: plain data, made by the scheduler, read by the runner, consumed by
//! `commit` or `fail`.

use super::adapters::AdapterScales;
use super::sequence::SequenceId;
use crate::cache::{BlockCopy, BlockId};
use crate::token::TokenId;

/// A ragged list of chunks, run as one call.
///
/// ```text
/// rows      0 1 2 3 4 5 | 6 | 7 | 8 9 10 11
/// chunks    a prompt    | a decoding sequence's last token | … | the end of another prompt
/// ```
#[derive(Debug, PartialEq)]
pub struct StepPlan {
    /// Blocks to be copied, in this order, before anything is computed.
    pub copies: Vec<BlockCopy>,
    /// At least one; no sequence twice.
    pub chunks: Vec<Chunk>,
}

/// The next tokens of one sequence.
#[derive(Debug, PartialEq)]
pub struct Chunk {
    /// Whose they are.
    pub sequence: SequenceId,
    /// The tokens, at least one. They stand at positions `past..past + tokens.len()`.
    pub tokens: Vec<TokenId>,
    /// How many of them, the last ones, are only guessed: not what comes of one, but whether it was right, is known behind it.
    pub guessed: usize,
    /// Tokens of the sequence that are in the cache already.
    pub past: usize,
    /// The sequence's blocks, with room for `past + tokens.len()` tokens.
    pub blocks: Vec<BlockId>,
    /// Which logits are wanted.
    pub logits: WantedRows,
    /// Which hidden states are wanted.
    pub hidden: WantedRows,
    /// What adapters are to change of it: the same for all chunks of a sequence.
    pub adapters: AdapterScales,
}

/// The rows of a chunk of which something is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WantedRows {
    /// None.
    None,
    /// Those of so many tokens, the last ones.
    Last(usize),
    /// Every token's.
    All,
}

impl WantedRows {
    /// How many rows of a chunk of so many tokens; they are its last.
    pub fn count(self, tokens: usize) -> usize {
        match self {
            Self::None => 0,
            Self::Last(count) => count,
            Self::All => tokens,
        }
    }
}

impl Chunk {
    /// How many of its tokens are the sequence's for certain.
    pub(super) fn certain(&self) -> usize {
        self.tokens.len() - self.guessed
    }
}

impl StepPlan {
    /// Rows of the step.
    pub fn tokens(&self) -> usize {
        self.chunks.iter().map(|chunk| chunk.tokens.len()).sum()
    }

    /// The chunks with logits, each with the number of its first among the rows of logits.
    pub(super) fn chunks_with_logits(&self) -> impl Iterator<Item = (usize, &Chunk)> {
        let chunks = self.chunks.iter().scan(0, |rows, chunk| {
            let first = *rows;
            *rows += chunk.logits.count(chunk.tokens.len());
            Some((first, chunk))
        });
        chunks.filter(|(_, chunk)| chunk.logits != WantedRows::None)
    }

    /// The rows whose logits are wanted, in order.
    pub fn logit_rows(&self) -> Vec<usize> {
        self.rows(|chunk| chunk.logits)
    }

    /// The rows whose hidden states are wanted, in order.
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
