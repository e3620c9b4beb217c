//! Text to token ids and ids to bytes. The algorithms are the crate `tokenizers`'.

mod byte_level;
mod names;
mod pipeline;
mod scored_pairs;
mod spellings;
mod word_piece;
mod word_rules;

#[cfg(test)]
pub(super) mod tests;

use std::collections::BTreeSet;

use names::NamedTokens;
use pipeline::Pipeline;
use scored_pairs::ScoredPairs;
use spellings::{Spellings, spell_spaces};

use super::infill::InfillTokens;
use super::vocabulary::{Algorithm, TokenKind, Vocabulary};
use crate::token::TokenId;

/// Names by which llama.cpp recognises that a token ends the generation, whatever the file says.
const END_NAMES: [&str; 32] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "<|fim_pad|>",
    "<fim-pad>",
    "<fim_pad>",
    "<PAD>",
    "[PAD]",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
    "<|file_sep|>",
];

/// Why a vocabulary cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// Another algorithm than those of [`Algorithm`].
    #[error(
        "tokenizers of the kind «{0}» are not supported, only byte-level BPE («gpt2»), SentencePiece («llama») and WordPiece («bert»)"
    )]
    UnsupportedModel(String),
    /// Words would be cut wrongly.
    #[error("the pre-tokenizer «{0}» is not supported")]
    UnsupportedPre(String),
    /// None, or beyond all reason.
    #[error("the vocabulary has {tokens} tokens; there have to be 1 to {most}")]
    Size {
        /// Tokens there are.
        tokens: usize,
        /// Most there may be.
        most: usize,
    },
    /// Two lists disagree.
    #[error("the vocabulary has {tokens} tokens, but kinds for {kinds}")]
    Kinds {
        /// Tokens there are.
        tokens: usize,
        /// Kinds there are.
        kinds: usize,
    },
    /// The same of scores.
    #[error("the vocabulary has {tokens} tokens, but scores for {scores}")]
    Scores {
        /// Tokens there are.
        tokens: usize,
        /// Scores there are.
        scores: usize,
    },
    /// A score that is none.
    #[error("the score of the token {} is not a number", .0.0)]
    Score(TokenId),
    /// Text would be cut too slowly.
    #[error("the token {} has {bytes} bytes; it may have {most}", token.0)]
    LongPiece {
        /// The token.
        token: TokenId,
        /// Bytes it has.
        bytes: usize,
        /// Most it may have.
        most: usize,
    },
    /// A named token that does not exist.
    #[error("the {role} token is {}, the vocabulary has {size} tokens", token.0)]
    OutOfRange {
        /// What it is for.
        role: &'static str,
        /// The token.
        token: TokenId,
        /// Tokens there are.
        size: usize,
    },
    /// One spelling for two ids.
    #[error("the tokens {} and {} are both spelt «{text}»", first.0, second.0)]
    DuplicateToken {
        /// The spelling.
        text: String,
        /// Its first id.
        first: TokenId,
        /// Its second id.
        second: TokenId,
    },
    /// A merge that cannot be applied.
    #[error("the merge «{merge}» cannot be used: {reason}")]
    Merge {
        /// The pair as it stands in the file.
        merge: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// `tokenizer.json` is none, or says what is not ours.
    #[error("tokenizer.json: {0}")]
    Json(String),
    /// A library refused what was checked here.
    #[error("the tokenizer cannot be built: {0}")]
    Build(String),
}

/// An id beyond the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("token {} is not in the vocabulary", .0.0)]
pub struct UnknownToken(pub TokenId);

/// What the names of control tokens in a text are. User-defined tokens are recognised in both cases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// The tokens themselves.
    Parse,
    /// Text like any other.
    Literal,
}

/// Translates between text and a model's token ids. Shared by all threads.
pub struct Tokenizer {
    cutter: Cutter,
    /// Every token that is recognised by its name.
    named: NamedTokens,
    /// Those of them that are text.
    user_defined: NamedTokens,
    kinds: Vec<TokenKind>,
    spellings: Spellings,
    beginning: Option<TokenId>,
    adds_beginning: bool,
    end: Option<TokenId>,
    adds_end: bool,
    end_of_generation: Vec<TokenId>,
    infill: Option<InfillTokens>,
}

/// Cuts a text in which nothing is a named token.
enum Cutter {
    Pipeline(Pipeline),
    ScoredPairs(ScoredPairs),
}

impl Cutter {
    /// Puts the text's ids behind `ids`.
    fn encode(&self, text: &str, goes_on: bool, ids: &mut Vec<TokenId>) {
        match self {
            Cutter::Pipeline(pipeline) => pipeline.encode(text, ids),
            Cutter::ScoredPairs(pairs) => pairs.encode(text, goes_on, ids),
        }
    }
}

impl Tokenizer {
    /// Checks the vocabulary and builds all tables.
    pub fn new(mut vocabulary: Vocabulary) -> Result<Tokenizer, TokenizerError> {
        let checked = vocabulary.check()?;
        let mut ends: BTreeSet<TokenId> = [vocabulary.end, vocabulary.end_of_turn]
            .into_iter()
            .flatten()
            .collect();
        for name in END_NAMES {
            if let Some(&id) = checked.ids.get(name) {
                // A file that calls it text is mistaken; llama.cpp overrides it too.
                vocabulary.kinds[id as usize] = TokenKind::Control;
                ends.insert(TokenId(id));
            }
        }
        let named = |wanted: fn(TokenKind) -> bool| {
            NamedTokens::new(
                vocabulary
                    .tokens
                    .iter()
                    .zip(&vocabulary.kinds)
                    .zip(0_u32..)
                    .filter(|((name, kind), _)| wanted(**kind) && !name.is_empty())
                    .map(|((name, _), id)| (name.as_str(), TokenId(id))),
            )
        };
        Ok(Tokenizer {
            infill: InfillTokens::find(&vocabulary, &checked.ids),
            named: named(|kind| kind.is_control() || kind == TokenKind::UserDefined)?,
            user_defined: named(|kind| kind == TokenKind::UserDefined)?,
            spellings: match &vocabulary.algorithm {
                Algorithm::ByteLevel { .. } => Spellings::new(&vocabulary, byte_level::speller()),
                Algorithm::ScoredPairs { .. } => Spellings::new(&vocabulary, spell_spaces),
                Algorithm::WordPiece(_) => Spellings::new(&vocabulary, word_piece::spell),
            },
            cutter: match &vocabulary.algorithm {
                Algorithm::ByteLevel { pre, .. } => {
                    Cutter::Pipeline(byte_level::pipeline(pre, checked.ids, checked.merges)?)
                }
                Algorithm::ScoredPairs {
                    scores,
                    space_before,
                } => Cutter::ScoredPairs(ScoredPairs::new(&vocabulary, scores, *space_before)?),
                Algorithm::WordPiece(normalization) => {
                    let unknown = vocabulary.unknown().unwrap_or("[UNK]");
                    let pipeline = word_piece::pipeline(*normalization, checked.ids, unknown)?;
                    Cutter::Pipeline(pipeline)
                }
            },
            kinds: vocabulary.kinds,
            beginning: vocabulary.beginning,
            adds_beginning: vocabulary.adds_beginning,
            end: vocabulary.end,
            adds_end: vocabulary.adds_end,
            end_of_generation: ends.into_iter().collect(),
        })
    }

    /// The ids that spell the text. Never adds a beginning-of-text token. Bytes that the vocabulary
    /// cannot spell are left out, as in llama.cpp. Where the vocabulary has a space before a text, it has one behind
    /// each named token, too.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Vec<TokenId> {
        self.encode_after(text, special, false)
    }

    /// The ids of a text that goes on with another one: it begins with no more than it says, and nothing in it is a
    /// special token.
    pub fn encode_going_on(&self, text: &str) -> Vec<TokenId> {
        self.encode_after(text, SpecialTokens::Literal, true)
    }

    fn encode_after(&self, text: &str, special: SpecialTokens, goes_on: bool) -> Vec<TokenId> {
        let names = match special {
            SpecialTokens::Parse => &self.named,
            SpecialTokens::Literal => &self.user_defined,
        };
        let mut ids = Vec::new();
        let mut written = 0;
        for found in names.automaton.find_iter(text) {
            self.cutter.encode(
                &text[written..found.start()],
                goes_on && written == 0,
                &mut ids,
            );
            ids.push(names.ids[found.pattern().as_usize()]);
            written = found.end();
        }
        self.cutter
            .encode(&text[written..], goes_on && written == 0, &mut ids);
        ids
    }

    /// The bytes a token stands for in text, often a part of a character; of a control token, its name.
    pub fn token_bytes(&self, token: TokenId) -> Option<&[u8]> {
        self.spellings.get(token)
    }

    /// The text that the tokens spell, control tokens by their names. What is no UTF-8 becomes U+FFFD.
    pub fn decode(&self, tokens: &[TokenId]) -> Result<String, UnknownToken> {
        let mut bytes = Vec::new();
        for &token in tokens {
            bytes.extend_from_slice(self.token_bytes(token).ok_or(UnknownToken(token))?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// The prompt whose continuation fills the gap between two texts, in which nothing is a special token.
    /// `None` if the model does not know how.
    pub fn infill(&self, prefix: &str, suffix: &str) -> Option<Vec<TokenId>> {
        let tokens = self.infill?;
        let encode = |text| self.encode(text, SpecialTokens::Literal);
        Some(tokens.prompt(&encode(prefix), &encode(suffix)))
    }

    /// Tokens there are.
    pub fn vocabulary_size(&self) -> usize {
        self.kinds.len()
    }

    /// The token that begins a text.
    pub fn beginning(&self) -> Option<TokenId> {
        self.beginning
    }

    /// Whether the model wants that token before every prompt.
    pub fn adds_beginning(&self) -> bool {
        self.adds_beginning
    }

    /// The token that the model wants behind every text that it makes an embedding of.
    pub fn added_end(&self) -> Option<TokenId> {
        self.end.filter(|_| self.adds_end)
    }

    /// The tokens after which nothing is generated, in ascending order.
    pub fn end_of_generation(&self) -> &[TokenId] {
        &self.end_of_generation
    }

    /// Whether the token steers the model and is no text.
    pub fn is_control(&self, token: TokenId) -> bool {
        self.kinds
            .get(token.row())
            .is_some_and(|kind| kind.is_control())
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
