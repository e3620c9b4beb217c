//! What a model's file says about its tokens, and what has to hold before a tokenizer can be built on it.

use std::collections::{HashMap, HashSet};

use super::infill::NamedInfillTokens;
use super::tokenizer::TokenizerError;
use crate::token::TokenId;

/// Most tokens a vocabulary may have; the largest known ones have 262,144.
const MOST_TOKENS: usize = 1 << 21;

/// The tokenizer section of a model's file, as it stands there.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// The kind of tokenizer (`tokenizer.ggml.model`).
    pub model: String,
    /// The name of the rule by which text is cut into words first (`tokenizer.ggml.pre`).
    pub pre: String,
    /// Every token's spelling; the position is the id.
    pub tokens: Vec<String>,
    /// What each token is, in the order of `tokens`.
    pub kinds: Vec<TokenKind>,
    /// Pairs of spellings with a space between them, the most urgent first.
    pub merges: Vec<String>,
    /// Begins a text.
    pub beginning: Option<TokenId>,
    /// Ends a text.
    pub end: Option<TokenId>,
    /// Ends one side's turn in a conversation.
    pub end_of_turn: Option<TokenId>,
    /// Whether the model wants `beginning` before every prompt.
    pub adds_beginning: bool,
    /// Stand around a gap that is to be filled.
    pub infill: NamedInfillTokens,
}

/// What a token is for (GGUF's `tokenizer.ggml.token_type`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text in the byte-level alphabet.
    Normal,
    /// Stands for what the vocabulary cannot spell.
    Unknown,
    /// Steers the model and is no text.
    Control,
    /// Text taken as one token wherever it occurs.
    UserDefined,
    /// Fills the table.
    Unused,
    /// One byte.
    Byte,
}

impl TokenKind {
    /// Whether the token steers the model rather than standing for text.
    pub(super) fn is_control(self) -> bool {
        matches!(self, TokenKind::Control | TokenKind::Unknown)
    }
}

/// A vocabulary's spellings and merges after they were found consistent.
pub(super) struct Checked {
    /// The id of every spelling. Tokens without one are left out.
    pub(super) ids: HashMap<String, u32>,
    /// The pairs, the most urgent first; both pieces and their union have an id.
    pub(super) merges: Vec<(String, String)>,
}

impl Vocabulary {
    /// Finds what would make a tokenizer fail or lie later.
    pub(super) fn check(&self) -> Result<Checked, TokenizerError> {
        let size = self.tokens.len();
        if self.model != "gpt2" {
            return Err(TokenizerError::UnsupportedModel(self.model.clone()));
        }
        if size == 0 || size > MOST_TOKENS {
            return Err(TokenizerError::Size {
                tokens: size,
                most: MOST_TOKENS,
            });
        }
        if self.kinds.len() != size {
            return Err(TokenizerError::Kinds {
                tokens: size,
                kinds: self.kinds.len(),
            });
        }
        for (role, token) in [
            ("beginning", self.beginning),
            ("end", self.end),
            ("end-of-turn", self.end_of_turn),
            ("infill prefix", self.infill.prefix),
            ("infill suffix", self.infill.suffix),
            ("infill middle", self.infill.middle),
        ] {
            if let Some(token) = token.filter(|token| token.row() >= size) {
                return Err(TokenizerError::OutOfRange { role, token, size });
            }
        }
        let ids = self.ids()?;
        let merges = self.merges(&ids)?;
        Ok(Checked { ids, merges })
    }

    fn ids(&self) -> Result<HashMap<String, u32>, TokenizerError> {
        let mut ids = HashMap::with_capacity(self.tokens.len());
        for (text, id) in self.tokens.iter().zip(0_u32..) {
            if text.is_empty() {
                continue;
            }
            if let Some(first) = ids.insert(text.clone(), id) {
                return Err(TokenizerError::DuplicateToken {
                    text: text.clone(),
                    first: TokenId(first),
                    second: TokenId(id),
                });
            }
        }
        Ok(ids)
    }

    fn merges(&self, ids: &HashMap<String, u32>) -> Result<Vec<(String, String)>, TokenizerError> {
        let refuse = |merge: &str, reason| TokenizerError::Merge {
            merge: merge.to_owned(),
            reason,
        };
        let mut seen = HashSet::with_capacity(self.merges.len());
        let mut pairs = Vec::with_capacity(self.merges.len());
        let mut union = String::new();
        for merge in &self.merges {
            let (left, right) = merge
                .split_once(' ')
                .ok_or_else(|| refuse(merge, "it is no pair"))?;
            union.clear();
            union.push_str(left);
            union.push_str(right);
            if ![left, right, &union]
                .iter()
                .all(|&text| ids.contains_key(text))
            {
                return Err(refuse(merge, "it names a piece that is no token"));
            }
            if !seen.insert(merge.as_str()) {
                return Err(refuse(merge, "it occurs twice"));
            }
            pairs.push((left.to_owned(), right.to_owned()));
        }
        Ok(pairs)
    }
}
