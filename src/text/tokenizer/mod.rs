//! Text to token ids and ids to bytes. The algorithms are the crate `tokenizers`'.

mod byte_level;
mod character_pairs;
mod charsmap;
mod ends;
mod front;
mod names;
mod pipeline;
mod scored_pairs;
mod spellings;
mod unigram;
mod word_piece;
mod word_rules;

#[cfg(test)]
pub(super) mod tests;

use std::collections::HashMap;
use std::sync::Arc;

pub(super) use charsmap::Charsmap;
pub(super) use front::{Evening, Front, WordStep};
use names::NamedTokens;
use pipeline::{Before, Parting, Pipeline};
use scored_pairs::ScoredPairs;
pub(super) use spellings::byte_named;
use spellings::{Spellings, spell_spaces};

use super::infill::{Gap, GapTokens, InfillTokens};
use super::tokenizer_json::Spelling;
use super::vocabulary::{Absorbs, Algorithm, Checked, TokenKind, Vocabulary};
use crate::cancel::{CancelFlag, Cancelled};
use crate::token::TokenId;

/// Why a vocabulary cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// Another algorithm than those of [`Algorithm`].
    #[error(
        "tokenizers of the kind \"{0}\" are not supported, only byte-level BPE (\"gpt2\"), SentencePiece (\"llama\", \"gemma4\", \"t5\") and WordPiece (\"bert\")"
    )]
    UnsupportedModel(String),
    /// Words would be cut wrongly.
    #[error("the pre-tokenizer \"{0}\" is not supported")]
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
    #[error("the tokens {} and {} are both spelt \"{text}\"", first.0, second.0)]
    DuplicateToken {
        /// The spelling.
        text: String,
        /// Its first id.
        first: TokenId,
        /// Its second id.
        second: TokenId,
    },
    /// A merge that cannot be applied.
    #[error("the merge \"{merge}\" cannot be used: {reason}")]
    Merge {
        /// The pair as it stands in the file.
        merge: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A regular expression that could take long, or is none.
    #[error("the expression \"{expression}\" cannot be used: {reason}")]
    Expression {
        /// Its beginning.
        expression: String,
        /// What is wrong with it.
        reason: String,
    },
    /// SentencePiece's table of what stands for what is none.
    #[error("the precompiled charsmap cannot be used: {0}")]
    Charsmap(String),
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
    absorbing: HashMap<TokenId, Absorbs>,
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
    Pipeline(Box<Pipeline>),
    ScoredPairs(Box<ScoredPairs>),
}

impl Cutter {
    /// Puts the text's ids behind `ids`.
    fn encode(
        &self,
        text: &str,
        before: Before,
        cancel: &CancelFlag,
        ids: &mut Vec<TokenId>,
    ) -> Result<(), Cancelled> {
        match self {
            Cutter::Pipeline(pipeline) => pipeline.encode(text, before, cancel, ids),
            Cutter::ScoredPairs(pairs) => pairs.encode(text, before, cancel, ids),
        }
    }
}

impl Tokenizer {
    /// Checks the vocabulary and builds all tables.
    pub fn new(mut vocabulary: Vocabulary) -> Result<Tokenizer, TokenizerError> {
        let checked = vocabulary.check()?;
        let ends = ends::find(&mut vocabulary, &checked.ids);
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
        let infill = InfillTokens::find(&vocabulary, &checked.ids);
        let (cutter, spellings) =
            rayon::join(|| cutter(&vocabulary, checked), || spellings(&vocabulary));
        Ok(Tokenizer {
            infill,
            named: named(|kind| kind.is_control() || kind == TokenKind::UserDefined)?,
            user_defined: named(|kind| kind == TokenKind::UserDefined)?,
            spellings,
            absorbing: vocabulary.absorbing.iter().copied().collect(),
            cutter: cutter?,
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
        self.encode_behind(text, special, Before::Nothing, &CancelFlag::default())
            .expect("nothing cancels it")
    }

    /// The same until it is cancelled.
    ///
    /// # Errors
    /// It was cancelled.
    pub fn encode_unless(
        &self,
        text: &str,
        special: SpecialTokens,
        cancel: &CancelFlag,
    ) -> Result<Vec<TokenId>, Cancelled> {
        self.encode_behind(text, special, Before::Nothing, cancel)
    }

    /// The ids of a text that goes on with another one: it begins with no more than it says.
    pub fn encode_going_on(&self, text: &str, special: SpecialTokens) -> Vec<TokenId> {
        self.encode_behind(text, special, Before::Text, &CancelFlag::default())
            .expect("nothing cancels it")
    }

    fn encode_behind(
        &self,
        text: &str,
        special: SpecialTokens,
        mut before: Before,
        cancel: &CancelFlag,
    ) -> Result<Vec<TokenId>, Cancelled> {
        let names = match special {
            SpecialTokens::Parse => &self.named,
            SpecialTokens::Literal => &self.user_defined,
        };
        let mut ids = Vec::new();
        let mut written = 0;
        let mut absorbs = Absorbs::default();
        for name in names.automaton.find_iter(text) {
            let token = names.ids[name.pattern().as_usize()];
            let next = self.absorbing.get(&token).copied().unwrap_or_default();
            let between = trimmed(&text[written..name.start()], absorbs.behind, next.before);
            self.cutter.encode(between, before, cancel, &mut ids)?;
            ids.push(token);
            before = Before::NamedToken;
            (written, absorbs) = (name.end(), next);
        }
        let rest = trimmed(&text[written..], absorbs.behind, false);
        self.cutter.encode(rest, before, cancel, &mut ids)?;
        Ok(ids)
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

    /// A gap in tokens; `None` if the model does not know how to fill one.
    pub fn infill(&self, gap: &Gap<'_>) -> Option<GapTokens> {
        let encode = |text: &str| self.encode(text, SpecialTokens::Literal);
        Some(self.infill?.tokens(gap, encode))
    }

    /// Whether other files than the one with the gap are shown with their names.
    pub fn shows_file_names(&self) -> bool {
        self.infill.is_some_and(|tokens| tokens.shows_file_names())
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

fn spellings(vocabulary: &Vocabulary) -> Spellings {
    match &vocabulary.algorithm {
        Algorithm::ByteLevel { .. } => Spellings::new(vocabulary, byte_level::speller(), false),
        Algorithm::CharacterPairs { .. }
        | Algorithm::ScoredPairs { .. }
        | Algorithm::Unigram { .. } => Spellings::new(vocabulary, spell_spaces, false),
        Algorithm::WordPiece(_) => Spellings::new(vocabulary, word_piece::spell, false),
        Algorithm::Steps(steps) => match steps.spelling {
            Spelling::ByteLevel => Spellings::new(vocabulary, byte_level::speller(), false),
            Spelling::Spaces => Spellings::new(vocabulary, spell_spaces, true),
        },
    }
}

fn cutter(vocabulary: &Vocabulary, checked: Checked) -> Result<Cutter, TokenizerError> {
    let pipeline = match &vocabulary.algorithm {
        Algorithm::ByteLevel { pre, .. } => byte_level::pipeline(pre, checked.ids, checked.merges)?,
        Algorithm::CharacterPairs { .. } => character_pairs::pipeline(checked.ids, checked.merges)?,
        Algorithm::ScoredPairs {
            scores,
            space_before,
        } => {
            let pairs = ScoredPairs::new(vocabulary, scores, *space_before)?;
            return Ok(Cutter::ScoredPairs(Box::new(pairs)));
        }
        Algorithm::Unigram {
            scores,
            charsmap,
            spaces,
        } => unigram::pipeline(vocabulary, scores, charsmap.as_deref(), *spaces)?,
        Algorithm::WordPiece(normalization) => {
            let unknown = vocabulary.unknown().unwrap_or("[UNK]");
            word_piece::pipeline(*normalization, checked.ids, unknown)?
        }
        Algorithm::Steps(steps) => Pipeline {
            beginning: steps.beginning.clone(),
            going_on: Some(steps.going_on.clone()),
            goes_on_behind_tokens: steps.goes_on_behind_tokens,
            model: Arc::clone(&steps.model),
            parting: Parting::Spaces,
        },
    };
    Ok(Cutter::Pipeline(Box::new(pipeline)))
}

/// The text without the white space at its beginning, at its end.
fn trimmed(text: &str, at_beginning: bool, at_end: bool) -> &str {
    let text = match at_beginning {
        true => text.trim_start(),
        false => text,
    };
    match at_end {
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
