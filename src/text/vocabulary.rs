//! What a model's file says about its tokens, and what has to hold before a tokenizer can be built on it.

use std::collections::HashSet;

use tokenizers::models::bpe::Vocab;

use super::infill::NamedInfillTokens;
use super::tokenizer::TokenizerError;
use super::tokenizer_json::Steps;
use crate::token::TokenId;

/// Most tokens a vocabulary may have; the largest known ones have 262,144.
pub(super) const MOST_TOKENS: usize = 1 << 21;

/// What a model's files say of its tokens.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// How text becomes tokens.
    pub algorithm: Algorithm,
    /// Every token's spelling; the position is the id.
    pub tokens: Vec<String>,
    /// What each token is, in the order of `tokens`.
    pub kinds: Vec<TokenKind>,
    /// Begins a text.
    pub beginning: Option<TokenId>,
    /// Ends a text.
    pub end: Option<TokenId>,
    /// Ends one side's turn in a conversation.
    pub end_of_turn: Option<TokenId>,
    /// Others after which nothing is generated.
    pub ends: Vec<TokenId>,
    /// Tokens whose names take white space beside them along.
    pub absorbing: Vec<(TokenId, Absorbs)>,
    /// Whether the model wants `beginning` before every prompt.
    pub adds_beginning: bool,
    /// Whether the model wants `end` behind every text that it makes an embedding of.
    pub adds_end: bool,
    /// Stand around a gap that is to be filled.
    pub infill: NamedInfillTokens,
}

/// How text becomes tokens.
#[derive(Debug, Clone)]
pub enum Algorithm {
    /// Pairs of bytes, and then of pairs, become one (`gpt2` in GGUF files).
    ByteLevel {
        /// The name of the rule by which text is cut into words first (`tokenizer.ggml.pre`).
        pre: String,
        /// Pairs of spellings with a space between them, the most urgent first.
        merges: Vec<String>,
    },
    /// Pairs of characters, and then of pairs, become one; what is then no token is spelt in bytes (`gemma4` in GGUF
    /// files).
    CharacterPairs {
        /// As those of [`Algorithm::ByteLevel`].
        merges: Vec<String>,
    },
    /// Neighbours that are a token together become one; what is then no token is spelt in bytes (SentencePiece's BPE;
    /// `llama` in GGUF files).
    ScoredPairs {
        /// Of each token, in the order of `tokens`: the greater, the earlier is it made.
        scores: Vec<f32>,
        /// Whether a text has a space before it.
        space_before: bool,
    },
    /// Of all ways to cut a text the most probable one (SentencePiece's Unigram; `t5` in GGUF files).
    Unigram {
        /// The logarithm of each token's probability, in the order of `tokens`.
        scores: Vec<f32>,
        /// SentencePiece's table of what stands for what.
        charsmap: Option<Vec<u8>>,
        /// What is done to spaces.
        spaces: UnigramSpaces,
    },
    /// Of each word the longest piece, then the longest that goes on with it, which is spelt with `##` before it
    /// (`bert` in GGUF files).
    WordPiece(Normalization),
    /// As a `tokenizer.json` says.
    Steps(Box<Steps>),
}

/// What Unigram does to a text's spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnigramSpaces {
    /// Whether several become one, and those around a text go.
    pub merges: bool,
    /// Whether a text has a space before it.
    pub before: bool,
}

/// The white space beside its name that a token takes along.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Absorbs {
    /// What stands before it.
    pub before: bool,
    /// What stands behind it.
    pub behind: bool,
}

/// How text is made even before WordPiece cuts it (`tokenizers`' `BertNormalizer`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub struct Normalization {
    /// Whether control characters go and all white space becomes a space.
    pub clean_text: bool,
    /// Whether each Chinese character is a word.
    pub handle_chinese_chars: bool,
    /// Whether accents go; as `lowercase`, where nothing is said.
    pub strip_accents: Option<bool>,
    /// Whether capital letters become small ones.
    pub lowercase: bool,
}

impl Default for Normalization {
    /// As the first BERT does it ("uncased"), and llama.cpp for all.
    fn default() -> Self {
        Self {
            clean_text: true,
            handle_chinese_chars: true,
            strip_accents: None,
            lowercase: true,
        }
    }
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
    pub(super) ids: Vocab,
    /// The pairs, the most urgent first; both pieces and their union have an id.
    pub(super) merges: Vec<(String, String)>,
}

impl Vocabulary {
    /// Finds what would make a tokenizer fail or lie later.
    pub(super) fn check(&self) -> Result<Checked, TokenizerError> {
        let size = self.tokens.len();
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
            ("infill repository", self.infill.repository),
            ("infill file", self.infill.file),
        ] {
            if let Some(token) = token.filter(|token| token.row() >= size) {
                return Err(TokenizerError::OutOfRange { role, token, size });
            }
        }
        let others = self.ends.iter().map(|&token| ("end", token));
        let absorbing = self.absorbing.iter().map(|&(token, _)| ("named", token));
        if let Some((role, token)) = others
            .chain(absorbing)
            .find(|(_, token)| token.row() >= size)
        {
            return Err(TokenizerError::OutOfRange { role, token, size });
        }
        let ids = self.ids()?;
        let merges = match &self.algorithm {
            Algorithm::ByteLevel { merges, .. } | Algorithm::CharacterPairs { merges } => {
                pairs(merges, &ids)?
            }
            Algorithm::ScoredPairs { scores, .. } | Algorithm::Unigram { scores, .. } => {
                check_scores(scores, size)?;
                Vec::new()
            }
            Algorithm::WordPiece(_) | Algorithm::Steps(_) => Vec::new(),
        };
        Ok(Checked { ids, merges })
    }

    /// The token of that name.
    pub fn token(&self, name: &str) -> Option<TokenId> {
        let place = self.tokens.iter().position(|token| token == name)?;
        u32::try_from(place).ok().map(TokenId)
    }

    /// How the token is spelt that stands for what the vocabulary cannot spell.
    pub(super) fn unknown(&self) -> Option<&str> {
        let place = self
            .kinds
            .iter()
            .position(|kind| *kind == TokenKind::Unknown);
        place.map(|place| self.tokens[place].as_str())
    }

    fn ids(&self) -> Result<Vocab, TokenizerError> {
        let mut ids = Vocab::with_capacity(self.tokens.len());
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
}

fn check_scores(scores: &[f32], tokens: usize) -> Result<(), TokenizerError> {
    if scores.len() != tokens {
        return Err(TokenizerError::Scores {
            tokens,
            scores: scores.len(),
        });
    }
    let mut numbered = scores.iter().zip(0_u32..);
    match numbered.find(|(score, _)| score.is_nan()) {
        Some((_, id)) => Err(TokenizerError::Score(TokenId(id))),
        None => Ok(()),
    }
}

fn pairs(merges: &[String], ids: &Vocab) -> Result<Vec<(String, String)>, TokenizerError> {
    let refuse = |merge: &str, reason| TokenizerError::Merge {
        merge: merge.to_owned(),
        reason,
    };
    let mut seen = HashSet::with_capacity(merges.len());
    let mut pairs = Vec::with_capacity(merges.len());
    let mut union = String::new();
    for merge in merges {
        let (left, right) = merge
            .split_once(' ')
            .ok_or_else(|| refuse(merge, "it is no pair"))?;
        union.clear();
        union.push_str(left);
        union.push_str(right);
        let [Some(first), Some(second), Some(_)] = [left, right, &union].map(|text| ids.get(text))
        else {
            return Err(refuse(merge, "it names a piece that is no token"));
        };
        if !seen.insert((*first, *second)) {
            return Err(refuse(merge, "it occurs twice"));
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    Ok(pairs)
}
