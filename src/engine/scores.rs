//! How probable a prompt's tokens were, each by the logits of the token before it.

use super::step::{Chunk, WantedRows};
use crate::sampling::Choice;
use crate::token::TokenId;

/// Most tokens of a chunk that is scored: each has a row of logits as long as the vocabulary.
pub(super) const MOST_SCORED_TOKENS: usize = 128;

/// What was gathered so far.
#[derive(Debug)]
pub(super) struct Scores {
    top: usize,
    prompt_tokens: usize,
    choices: Vec<Choice>,
}

/// The tokens that a chunk's rows tell the probabilities of, the first row's first.
pub(super) struct Scored {
    /// How many of the most probable tokens are told beside each.
    pub(super) top: usize,
    /// The tokens.
    pub(super) tokens: Vec<TokenId>,
}

impl Scores {
    /// For a prompt of so many tokens, with `top` of the most probable ones beside each.
    pub(super) fn new(top: usize, prompt_tokens: usize) -> Self {
        Self {
            top,
            prompt_tokens,
            choices: Vec::with_capacity(prompt_tokens),
        }
    }

    /// The rows it needs of a chunk that begins after `past` tokens; a chunk behind the prompt has none for it.
    pub(super) fn wanted(&self, past: usize) -> WantedRows {
        match past + 1 < self.prompt_tokens {
            true => WantedRows::All,
            false => WantedRows::None,
        }
    }

    /// What a chunk's rows tell, of a sequence of these tokens.
    pub(super) fn of_chunk(&self, chunk: &Chunk, tokens: &[TokenId]) -> Scored {
        let end = (chunk.past + chunk.tokens.len() + 1).min(self.prompt_tokens);
        let scored = tokens.get(chunk.past + 1..end).unwrap_or_default();
        Scored {
            top: self.top,
            tokens: scored.to_vec(),
        }
    }

    /// Takes those of the next chunk.
    pub(super) fn add(&mut self, choices: impl Iterator<Item = Choice>) {
        self.choices.extend(choices);
    }

    /// Forgets what was gathered: it is computed anew.
    pub(super) fn clear(&mut self) {
        self.choices.clear();
    }

    /// All tokens of the prompt but the first.
    pub(super) fn finish(self) -> Vec<Choice> {
        self.choices
    }
}
