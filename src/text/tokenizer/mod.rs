//! The tokenizer: encodes text to token ids, and decodes token ids to bytes. The `tokenizers` crate runs all tokenizer
//! models except SentencePiece's BPE.

mod byte_level;
mod character_bpe;
mod eog_tokens;
mod pipeline;
mod pre_tokenizer_rules;
mod sentencepiece_bpe;
mod special_tokens;
mod token_table;
mod unigram;
mod word_piece;

#[cfg(test)]
pub(super) mod tests;

use std::collections::HashMap;
use std::sync::Arc;

use pipeline::{Pipeline, Preceding, SegmentBoundary};
use sentencepiece_bpe::SentencePieceBpe;
use special_tokens::SpecialTokenMatcher;
pub(super) use token_table::byte_token_value;
use token_table::{TokenTable, decode_metaspace};

use super::infill::{InfillInput, InfillPrompt, InfillTokens};
use super::tokenizer_error::TokenizerError;
use super::vocabulary::{Algorithm, CheckedVocabulary, Decoder, StripSides, TokenKind, Vocabulary};
use crate::cancel::{CancelFlag, Cancelled};
use crate::token::TokenId;

/// A token id that is outside the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("token {} is not in the vocabulary", .0.0)]
pub struct UnknownToken(pub TokenId);

/// How the texts of control tokens, such as `<|im_end|>`, are encoded when they occur in a text. User-defined tokens
/// are recognized in both cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// As control tokens.
    Parse,
    /// As ordinary text.
    Literal,
}

/// Converts between text and a model's token ids. All threads share one tokenizer.
pub struct Tokenizer {
    encoder: Encoder,
    /// Matches control tokens and user-defined tokens.
    special_tokens: SpecialTokenMatcher,
    /// Matches user-defined tokens only.
    user_defined_tokens: SpecialTokenMatcher,
    strip_sides: HashMap<TokenId, StripSides>,
    kinds: Vec<TokenKind>,
    token_table: TokenTable,
    bos: Option<TokenId>,
    adds_bos: bool,
    eos: Option<TokenId>,
    adds_eos: bool,
    eog_tokens: Vec<TokenId>,
    infill: Option<InfillTokens>,
}

/// Encodes text that contains no special tokens.
enum Encoder {
    Pipeline(Box<Pipeline>),
    SentencePieceBpe(Box<SentencePieceBpe>),
}

impl Encoder {
    /// Appends the token ids of the text to `ids`.
    fn encode(
        &self,
        text: &str,
        preceding: Preceding,
        cancel: &CancelFlag,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), Cancelled> {
        match self {
            Encoder::Pipeline(pipeline) => pipeline.encode(text, preceding, cancel, ids),
            Encoder::SentencePieceBpe(model) => model.encode(text, preceding, cancel, ids),
        }
    }
}

impl Tokenizer {
    /// Checks a vocabulary and builds the tokenizer.
    ///
    /// # Errors
    /// If the vocabulary is inconsistent or not supported.
    pub fn new(mut vocabulary: Vocabulary) -> Result<Tokenizer, TokenizerError> {
        let checked = vocabulary.check()?;
        let eog_tokens = eog_tokens::resolve(&mut vocabulary, &checked.ids);
        let matcher = |is_matched: fn(TokenKind) -> bool| {
            SpecialTokenMatcher::new(
                vocabulary
                    .tokens
                    .iter()
                    .zip(&vocabulary.kinds)
                    .zip(0_u32..)
                    .filter(|((text, kind), _)| is_matched(**kind) && !text.is_empty())
                    .map(|((text, _), id)| (text.as_str(), TokenId(id))),
            )
        };
        let infill = InfillTokens::find(&vocabulary, &checked.ids);
        let (encoder, token_table) = rayon::join(
            || build_encoder(&vocabulary, checked),
            || build_token_table(&vocabulary),
        );
        Ok(Tokenizer {
            infill,
            special_tokens: matcher(|kind| kind.is_control() || kind == TokenKind::UserDefined)?,
            user_defined_tokens: matcher(|kind| kind == TokenKind::UserDefined)?,
            token_table,
            strip_sides: vocabulary.strip_sides.iter().copied().collect(),
            encoder: encoder?,
            kinds: vocabulary.kinds,
            bos: vocabulary.bos,
            adds_bos: vocabulary.adds_bos,
            eos: vocabulary.eos,
            adds_eos: vocabulary.adds_eos,
            eog_tokens: eog_tokens.into_iter().collect(),
        })
    }

    /// Encodes a text, without adding a BOS token. Bytes without a token are left out, as in llama.cpp. Most
    /// vocabularies that add a space before a text also add a space after each special token.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Vec<TokenId> {
        self.encode_after(text, special, Preceding::Nothing, &CancelFlag::default())
            .expect("the flag is never set")
    }

    /// Like [`Tokenizer::encode`], but stops when `cancel` is set.
    ///
    /// # Errors
    /// If `cancel` was set.
    pub fn encode_cancellable(
        &self,
        text: &str,
        special: SpecialTokens,
        cancel: &CancelFlag,
    ) -> Result<Vec<TokenId>, Cancelled> {
        self.encode_after(text, special, Preceding::Nothing, cancel)
    }

    /// Encodes a text that continues another text: no space is added before it.
    pub fn encode_continuation(&self, text: &str, special: SpecialTokens) -> Vec<TokenId> {
        self.encode_after(text, special, Preceding::Text, &CancelFlag::default())
            .expect("the flag is never set")
    }

    fn encode_after(
        &self,
        text: &str,
        special: SpecialTokens,
        mut preceding: Preceding,
        cancel: &CancelFlag,
    ) -> Result<Vec<TokenId>, Cancelled> {
        let matcher = match special {
            SpecialTokens::Parse => &self.special_tokens,
            SpecialTokens::Literal => &self.user_defined_tokens,
        };
        let mut ids = Vec::new();
        let mut encoded_bytes = 0;
        let mut strip = StripSides::default();
        for found in matcher.automaton.find_iter(text) {
            let token = matcher.ids[found.pattern().as_usize()];
            let next_strip = self.strip_sides.get(&token).copied().unwrap_or_default();
            let between = trimmed(
                &text[encoded_bytes..found.start()],
                strip.right,
                next_strip.left,
            );
            self.encoder.encode(between, preceding, cancel, &mut ids)?;
            ids.push(token);
            preceding = Preceding::SpecialToken;
            (encoded_bytes, strip) = (found.end(), next_strip);
        }
        let rest = trimmed(&text[encoded_bytes..], strip.right, false);
        self.encoder.encode(rest, preceding, cancel, &mut ids)?;
        Ok(ids)
    }

    /// The bytes of a token; often only part of a character. The bytes of a control token are its text, such as
    /// `<|im_end|>`. `None` if the token is not in the vocabulary.
    pub fn token_bytes(&self, token: TokenId) -> Option<&[u8]> {
        self.token_table.get(token)
    }

    /// Decodes tokens, including control tokens, to text. Bytes that are not valid UTF-8 become U+FFFD.
    ///
    /// # Errors
    /// If a token is not in the vocabulary.
    pub fn decode(&self, tokens: &[TokenId]) -> Result<String, UnknownToken> {
        let mut bytes = Vec::new();
        for &token in tokens {
            bytes.extend_from_slice(self.token_bytes(token).ok_or(UnknownToken(token))?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Encodes an infill prompt; `None` if the vocabulary lacks fill-in-the-middle tokens.
    pub fn infill(&self, input: &InfillInput<'_>) -> Option<InfillPrompt> {
        let encode = |text: &str| self.encode(text, SpecialTokens::Literal);
        Some(self.infill?.prompt(input, encode))
    }

    /// Whether an infill prompt includes the names of the other files.
    pub fn shows_file_names(&self) -> bool {
        self.infill.is_some_and(|tokens| tokens.shows_file_names())
    }

    /// Number of tokens of the vocabulary.
    pub fn vocabulary_size(&self) -> usize {
        self.kinds.len()
    }

    /// The BOS (beginning-of-sequence) token.
    pub fn bos(&self) -> Option<TokenId> {
        self.bos
    }

    /// Whether every prompt must begin with the BOS token.
    pub fn adds_bos(&self) -> bool {
        self.adds_bos
    }

    /// The EOS token, if every text to embed must end with it.
    pub fn added_eos(&self) -> Option<TokenId> {
        self.eos.filter(|_| self.adds_eos)
    }

    /// The EOG (end-of-generation) tokens, in ascending order.
    pub fn eog_tokens(&self) -> &[TokenId] {
        &self.eog_tokens
    }

    /// Whether the token is a control token, which is not part of the generated text.
    pub fn is_control(&self, token: TokenId) -> bool {
        self.kinds
            .get(token.row())
            .is_some_and(|kind| kind.is_control())
    }
}

fn build_token_table(vocabulary: &Vocabulary) -> TokenTable {
    match &vocabulary.algorithm {
        Algorithm::ByteLevelBpe { .. } => {
            TokenTable::new(vocabulary, byte_level::piece_decoder(), false)
        }
        Algorithm::CharacterBpe { .. }
        | Algorithm::SentencePieceBpe { .. }
        | Algorithm::Unigram { .. } => TokenTable::new(vocabulary, decode_metaspace, false),
        Algorithm::WordPiece(_) => TokenTable::new(vocabulary, word_piece::decode_piece, false),
        Algorithm::TokenizerJson(json) => match json.decoder {
            Decoder::ByteLevel => TokenTable::new(vocabulary, byte_level::piece_decoder(), false),
            Decoder::Metaspace => TokenTable::new(vocabulary, decode_metaspace, true),
        },
    }
}

fn build_encoder(
    vocabulary: &Vocabulary,
    checked: CheckedVocabulary,
) -> Result<Encoder, TokenizerError> {
    let pipeline = match &vocabulary.algorithm {
        Algorithm::ByteLevelBpe { pre, .. } => {
            byte_level::pipeline(pre, checked.ids, checked.merges)?
        }
        Algorithm::CharacterBpe { .. } => character_bpe::pipeline(checked.ids, checked.merges)?,
        Algorithm::SentencePieceBpe {
            scores,
            adds_space_prefix,
        } => {
            let model = SentencePieceBpe::new(vocabulary, scores, *adds_space_prefix)?;
            return Ok(Encoder::SentencePieceBpe(Box::new(model)));
        }
        Algorithm::Unigram {
            scores,
            charsmap,
            whitespace,
        } => unigram::pipeline(vocabulary, scores, charsmap.as_deref(), *whitespace)?,
        Algorithm::WordPiece(normalization) => {
            let unknown = vocabulary.unknown_token().unwrap_or("[UNK]");
            word_piece::pipeline(*normalization, checked.ids, unknown)?
        }
        Algorithm::TokenizerJson(json) => Pipeline {
            text_start: json.text_start.clone(),
            continuation: Some(json.continuation.clone()),
            continues_after_special_token: json.continues_after_special_token,
            model: Arc::clone(&json.model),
            boundary: SegmentBoundary::Space,
        },
    };
    Ok(Encoder::Pipeline(Box::new(pipeline)))
}

/// Removes the whitespace at the start or the end of the text, or both.
fn trimmed(text: &str, trims_start: bool, trims_end: bool) -> &str {
    let text = match trims_start {
        true => text.trim_start(),
        false => text,
    };
    match trims_end {
        true => text.trim_end(),
        false => text,
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Tokenizer")
            .field("vocabulary_size", &self.vocabulary_size())
            .finish_non_exhaustive()
    }
}
