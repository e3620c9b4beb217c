//! The vocabulary as declared in a model file, and its validation before a tokenizer is built.

use std::collections::HashSet;
use std::sync::Arc;

use tokenizers::ModelWrapper;
use tokenizers::models::bpe::Vocab;

use super::pre_tokenization::PreTokenization;
use super::tokenizer_error::TokenizerError;
use crate::token::TokenId;

/// Maximum number of tokens of a vocabulary; the largest known vocabularies have 262,144.
pub(super) const MAX_VOCABULARY_SIZE: usize = 1 << 21;

/// The tokens of a model, and the algorithm that encodes text with them.
#[derive(Debug, Clone)]
pub struct Vocabulary {
    /// The tokenization algorithm and its data, such as merges or scores.
    pub algorithm: Algorithm,
    /// The text of each token as in the model file; the index is the token id.
    pub tokens: Vec<String>,
    /// The kind of each token, in the order of `tokens`.
    pub kinds: Vec<TokenKind>,
    /// The beginning-of-sequence token.
    pub bos: Option<TokenId>,
    /// The end-of-sequence token.
    pub eos: Option<TokenId>,
    /// The end-of-turn token.
    pub eot: Option<TokenId>,
    /// End-of-generation tokens that the model file declares in addition to `eos` and `eot`.
    pub eog_tokens: Vec<TokenId>,
    /// The special tokens that strip the whitespace next to them, and on which sides.
    pub strip_sides: Vec<(TokenId, StripSides)>,
    /// Whether every prompt must begin with `bos`.
    pub adds_bos: bool,
    /// Whether every text to embed must end with `eos`.
    pub adds_eos: bool,
    /// The fill-in-the-middle tokens that the model file declares.
    pub infill: DeclaredInfillTokens,
}

/// A tokenization algorithm and its data.
#[derive(Debug, Clone)]
pub enum Algorithm {
    /// BPE over bytes (`gpt2` in GGUF files).
    ByteLevelBpe {
        /// The name of the pre-tokenizer (`tokenizer.ggml.pre`).
        pre: String,
        /// Pairs of token texts, separated by a space, in the order of their merge ranks.
        merges: Vec<String>,
    },
    /// BPE over characters with byte fallback (`gemma4` in GGUF files).
    CharacterBpe {
        /// Pairs of token texts, in the same format as in [`Algorithm::ByteLevelBpe`].
        merges: Vec<String>,
    },
    /// SentencePiece's BPE, which merges by score, with byte fallback (`llama` in GGUF files).
    SentencePieceBpe {
        /// The score of each token, in the order of `tokens`. The pair that forms the token with the highest score is
        /// merged first.
        scores: Vec<f32>,
        /// Whether a space is added before a text.
        adds_space_prefix: bool,
    },
    /// SentencePiece's Unigram, which selects the most probable segmentation (`t5` in GGUF files).
    Unigram {
        /// The logarithm of each token's probability, in the order of `tokens`.
        scores: Vec<f32>,
        /// SentencePiece's normalization table (`precompiled_charsmap`).
        charsmap: Option<Vec<u8>>,
        /// How spaces are normalized before the segmentation.
        whitespace: UnigramWhitespace,
    },
    /// WordPiece: greedy longest match; tokens that continue a word begin with `##` (`bert` in GGUF files).
    WordPiece(BertNormalization),
    /// The pipeline that a `tokenizer.json` describes.
    TokenizerJson(Box<JsonPipeline>),
}

/// How Unigram normalizes spaces (`remove_extra_whitespaces` and `add_dummy_prefix` in SentencePiece).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnigramWhitespace {
    /// Whether runs of spaces become one space, and leading and trailing spaces are removed.
    pub removes_extra_spaces: bool,
    /// Whether a space is added before a text.
    pub adds_space_prefix: bool,
}

/// The sides on which a special token strips whitespace from the text next to it (`lstrip`, `rstrip`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StripSides {
    /// Strips the whitespace before the token.
    pub left: bool,
    /// Strips the whitespace after the token.
    pub right: bool,
}

/// The normalizer of WordPiece (`BertNormalizer` of the `tokenizers` crate).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub struct BertNormalization {
    /// Whether control characters are removed and whitespace characters become spaces.
    pub clean_text: bool,
    /// Whether each Chinese character becomes a separate word.
    pub handle_chinese_chars: bool,
    /// Whether accents are removed; `None` means the same as `lowercase`.
    pub strip_accents: Option<bool>,
    /// Whether text is converted to lower case.
    pub lowercase: bool,
}

impl Default for BertNormalization {
    /// Returns the normalization of the uncased BERT models. llama.cpp uses it for all BERT models.
    fn default() -> Self {
        Self {
            clean_text: true,
            handle_chinese_chars: true,
            strip_accents: None,
            lowercase: true,
        }
    }
}

/// The normalizers, pre-tokenizers, model and decoder of a `tokenizer.json`.
#[derive(Debug, Clone)]
pub struct JsonPipeline {
    /// Used at the start of a text.
    pub(super) text_start: PreTokenization,
    /// Used for a text that continues another text: adds no space before it.
    pub(super) continuation: PreTokenization,
    /// Whether `continuation` is used for the text after a special token.
    pub(super) continues_after_special_token: bool,
    pub(super) model: Arc<ModelWrapper>,
    pub(super) decoder: Decoder,
}

/// How tokens are converted back to text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decoder {
    /// Each character of the byte-level alphabet stands for a byte.
    ByteLevel,
    /// [`METASPACE`](super::pre_tokenization::METASPACE) stands for a space.
    Metaspace,
}

/// The infill tokens that a model file declares.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeclaredInfillTokens {
    /// Precedes the text before the gap.
    pub prefix: Option<TokenId>,
    /// Precedes the text after the gap.
    pub suffix: Option<TokenId>,
    /// Precedes the text that fills the gap.
    pub middle: Option<TokenId>,
    /// Precedes the name of a repository.
    pub repository: Option<TokenId>,
    /// Precedes the name of a file.
    pub file: Option<TokenId>,
}

/// The kind of a token (`tokenizer.ggml.token_type` in GGUF files).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// Text in the algorithm's notation, such as GPT-2's byte-level alphabet.
    Normal,
    /// Replaces text that no other token covers.
    Unknown,
    /// Controls the model, and is not part of the generated text.
    Control,
    /// Text that is always encoded as this token.
    UserDefined,
    /// A placeholder for an unused id; decodes to no text.
    Unused,
    /// A single byte, for byte fallback.
    Byte,
}

impl TokenKind {
    /// Whether the token is not part of the generated text.
    pub(super) fn is_control(self) -> bool {
        matches!(self, TokenKind::Control | TokenKind::Unknown)
    }
}

/// The ids and merges of a valid vocabulary.
pub(super) struct CheckedVocabulary {
    /// The id of each token text. Tokens with an empty text are left out.
    pub(super) ids: Vocab,
    /// The merges in the order of their ranks; both parts and their concatenation are tokens.
    pub(super) merges: Vec<(String, String)>,
}

impl Vocabulary {
    /// Checks the invariants on which the tokenizer relies.
    pub(super) fn check(&self) -> Result<CheckedVocabulary, TokenizerError> {
        let size = self.tokens.len();
        if size == 0 || size > MAX_VOCABULARY_SIZE {
            return Err(TokenizerError::Size {
                tokens: size,
                max_tokens: MAX_VOCABULARY_SIZE,
            });
        }
        if self.kinds.len() != size {
            return Err(TokenizerError::Kinds {
                tokens: size,
                kinds: self.kinds.len(),
            });
        }
        for (role, token) in [
            ("BOS", self.bos),
            ("EOS", self.eos),
            ("end-of-turn", self.eot),
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
        let eog_tokens = self.eog_tokens.iter();
        let eog_tokens = eog_tokens.map(|&token| ("end-of-generation", token));
        let stripping = self.strip_sides.iter();
        let stripping = stripping.map(|&(token, _)| ("special", token));
        if let Some((role, token)) = eog_tokens
            .chain(stripping)
            .find(|(_, token)| token.row() >= size)
        {
            return Err(TokenizerError::OutOfRange { role, token, size });
        }
        let ids = self.ids()?;
        let merges = match &self.algorithm {
            Algorithm::ByteLevelBpe { merges, .. } | Algorithm::CharacterBpe { merges } => {
                check_merges(merges, &ids)?
            }
            Algorithm::SentencePieceBpe { scores, .. } | Algorithm::Unigram { scores, .. } => {
                check_scores(scores, size)?;
                Vec::new()
            }
            Algorithm::WordPiece(_) | Algorithm::TokenizerJson(_) => Vec::new(),
        };
        Ok(CheckedVocabulary { ids, merges })
    }

    /// Returns the token with this text.
    pub fn token(&self, text: &str) -> Option<TokenId> {
        let row = self.tokens.iter().position(|token| token == text)?;
        u32::try_from(row).ok().map(TokenId)
    }

    /// The text of the unknown token.
    pub(super) fn unknown_token(&self) -> Option<&str> {
        let row = self
            .kinds
            .iter()
            .position(|kind| *kind == TokenKind::Unknown);
        row.map(|row| self.tokens[row].as_str())
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

fn check_merges(merges: &[String], ids: &Vocab) -> Result<Vec<(String, String)>, TokenizerError> {
    let invalid = |merge: &str, reason| TokenizerError::Merge {
        merge: merge.to_owned(),
        reason,
    };
    let mut seen = HashSet::with_capacity(merges.len());
    let mut pairs = Vec::with_capacity(merges.len());
    let mut merged = String::new();
    for merge in merges {
        let (left, right) = merge
            .split_once(' ')
            .ok_or_else(|| invalid(merge, "it must be two tokens separated by a space"))?;
        merged.clear();
        merged.push_str(left);
        merged.push_str(right);
        let [Some(first), Some(second), Some(_)] = [left, right, &merged].map(|text| ids.get(text))
        else {
            return Err(invalid(merge, "a part or the result is not a token"));
        };
        if !seen.insert((*first, *second)) {
            return Err(invalid(merge, "it is a duplicate"));
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    Ok(pairs)
}
