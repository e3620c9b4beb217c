//! Log probabilities of prompt tokens. The logits of a token give the log probability of the next token.

use super::step::{Chunk, WantedRows};
use crate::sampling::SampledToken;
use crate::token::TokenId;

/// Maximum number of tokens in a chunk with log probabilities: the model returns a row of logits for each of them.
pub(super) const MAX_LOGPROB_CHUNK_TOKENS: usize = 128;

/// The log probabilities of one prompt that were computed so far.
#[derive(Debug)]
pub(super) struct PromptLogprobs {
    top: usize,
    prompt_tokens: usize,
    tokens: Vec<SampledToken>,
}

/// The prompt tokens whose log probabilities the first rows of a chunk's logits give, in the order of the rows.
pub(super) struct LogprobTargets {
    /// Number of most probable tokens to return with each token.
    pub(super) top: usize,
    pub(super) tokens: Vec<TokenId>,
}

impl PromptLogprobs {
    /// Collects log probabilities for a prompt of `prompt_tokens` tokens. `top` is the number of most probable tokens
    /// to return at each position.
    pub(super) fn new(top: usize, prompt_tokens: usize) -> Self {
        Self {
            top,
            prompt_tokens,
            tokens: Vec::with_capacity(prompt_tokens),
        }
    }

    /// Returns which rows of logits the runner must return for a chunk after `past` tokens: none for a chunk after the
    /// prompt.
    pub(super) fn wanted_rows(&self, past: usize) -> WantedRows {
        match past + 1 < self.prompt_tokens {
            true => WantedRows::All,
            false => WantedRows::None,
        }
    }

    /// Returns the targets of a chunk. `tokens` are all tokens of the sequence.
    pub(super) fn targets(&self, chunk: &Chunk, tokens: &[TokenId]) -> LogprobTargets {
        let end = (chunk.past + chunk.tokens.len() + 1).min(self.prompt_tokens);
        let targets = tokens.get(chunk.past + 1..end).unwrap_or_default();
        LogprobTargets {
            top: self.top,
            tokens: targets.to_vec(),
        }
    }

    /// Adds the log probabilities of the next chunk.
    pub(super) fn add(&mut self, tokens: impl Iterator<Item = SampledToken>) {
        self.tokens.extend(tokens);
    }

    /// Drops the log probabilities before the prompt is recomputed.
    pub(super) fn clear(&mut self) {
        self.tokens.clear();
    }

    /// Returns the log probabilities of all prompt tokens except the first.
    pub(super) fn finish(self) -> Vec<SampledToken> {
        self.tokens
    }
}
