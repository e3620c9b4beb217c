//! Text to token ids and ids to bytes, for byte-level BPE vocabularies. The algorithm is the crate
//! `tokenizers`'; what text is cut into beforehand is what llama.cpp does (`llama-vocab.cpp`).

use std::collections::BTreeSet;

use aho_corasick::{AhoCorasick, MatchKind};
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    Model, OffsetType, PreTokenizedString, PreTokenizer, PreTokenizerWrapper,
    SplitDelimiterBehavior,
};

use super::infill::InfillTokens;
use super::vocabulary::{TokenKind, Vocabulary};
use crate::token::TokenId;

/// Most bytes that are cut into words at once. The regular expressions' stack and steps grow with the
/// longest word, so a text is parted before, at a place where every rule parts words anyway; only a
/// longer run without such a place is parted where it happens to be.
const PASSAGE_BYTES: usize = 64 * 1024;

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
    /// Another algorithm than byte-level BPE.
    #[error("tokenizers of the kind «{0}» are not supported, only «gpt2» (byte-level BPE)")]
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
    bpe: BPE,
    words: Sequence,
    /// Every token that is recognised by its name.
    named: NamedTokens,
    /// Those of them that are text.
    user_defined: NamedTokens,
    kinds: Vec<TokenKind>,
    spellings: Spellings,
    beginning: Option<TokenId>,
    adds_beginning: bool,
    end_of_generation: Vec<TokenId>,
    infill: Option<InfillTokens>,
}

impl Tokenizer {
    /// Checks the vocabulary and builds all tables.
    pub fn new(mut vocabulary: Vocabulary) -> Result<Tokenizer, TokenizerError> {
        let checked = vocabulary.check()?;
        let rule = WordRule::named(&vocabulary.pre)
            .ok_or_else(|| TokenizerError::UnsupportedPre(vocabulary.pre.clone()))?;

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
            spellings: Spellings::new(&vocabulary),
            words: rule.pre_tokenizer()?,
            bpe: BPE::builder()
                .vocab_and_merges(checked.ids.into_iter().collect::<Vocab>(), checked.merges)
                .ignore_merges(rule.whole_words_first)
                .build()
                .map_err(|error| TokenizerError::Build(error.to_string()))?,
            kinds: vocabulary.kinds,
            beginning: vocabulary.beginning,
            adds_beginning: vocabulary.adds_beginning,
            end_of_generation: ends.into_iter().collect(),
        })
    }

    /// The ids that spell the text. Never adds a beginning-of-text token. Bytes that the vocabulary
    /// cannot spell are left out, as in llama.cpp.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Vec<TokenId> {
        let names = match special {
            SpecialTokens::Parse => &self.named,
            SpecialTokens::Literal => &self.user_defined,
        };
        let mut ids = Vec::new();
        let mut written = 0;
        for found in names.automaton.find_iter(text) {
            self.encode_words(&text[written..found.start()], &mut ids);
            ids.push(names.ids[found.pattern().as_usize()]);
            written = found.end();
        }
        self.encode_words(&text[written..], &mut ids);
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

    fn encode_words(&self, text: &str, ids: &mut Vec<TokenId>) {
        let mut rest = text;
        while !rest.is_empty() {
            let (passage, after) = rest.split_at(passage_end(rest));
            let mut words = PreTokenizedString::from(passage);
            let encoding = self
                .words
                .pre_tokenize(&mut words)
                .and_then(|()| words.tokenize(|word| self.bpe.tokenize(word.get())))
                .and_then(|()| words.into_encoding(None, 0, OffsetType::None))
                .expect("without an unknown token and without dropout, BPE cannot fail");
            ids.extend(encoding.get_ids().iter().map(|&id| TokenId(id)));
            rest = after;
        }
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

/// Where the next passage ends: the text's end, or before a space that follows a word (no rule lets a
/// word contain that place), or, for want of one, anywhere between two characters.
fn passage_end(text: &str) -> usize {
    if text.len() <= PASSAGE_BYTES {
        return text.len();
    }
    let most = text.floor_char_boundary(PASSAGE_BYTES);
    text[..most]
        .rmatch_indices(' ')
        .map(|(space, _)| space)
        .find(|&space| text[..space].ends_with(|before: char| !before.is_whitespace()))
        .unwrap_or(most)
}

/// How text is cut into words before the merges apply, which never cross a word's edge.
struct WordRule {
    /// Applied one after the other: each cuts the words that the one before has left.
    expressions: &'static [&'static str],
    /// Whether a word that is a token is taken as it is, without going through the merges.
    whole_words_first: bool,
}

const GPT2_WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

impl WordRule {
    /// The rule of that name (`llama-vocab.cpp`, `llm_tokenizer_bpe`).
    fn named(pre: &str) -> Option<WordRule> {
        let expressions: &[&str] = match pre {
            "gpt-2" => &[GPT2_WORDS],
            "smollm" => &[r"\p{N}", GPT2_WORDS],
            "llama3" | "llama-v3" | "llama-bpe" => &[
                r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ],
            "qwen2" => &[
                r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
            ],
            "default" => &[
                r"[\p{P}\$\+<=>\^~\|]+",
                GPT2_WORDS,
                r"\p{N}+",
                "[0-9][0-9][0-9]",
            ],
            _ => return None,
        };
        Some(WordRule {
            expressions,
            whole_words_first: matches!(pre, "llama3" | "llama-v3" | "llama-bpe"),
        })
    }

    fn pre_tokenizer(&self) -> Result<Sequence, TokenizerError> {
        let mut steps = self
            .expressions
            .iter()
            .map(|&expression| {
                Split::new(
                    SplitPattern::Regex(expression.to_owned()),
                    SplitDelimiterBehavior::Isolated,
                    false,
                )
                .map(PreTokenizerWrapper::from)
                .map_err(|error| TokenizerError::Build(error.to_string()))
            })
            .collect::<Result<Vec<_>, _>>()?;
        steps.push(ByteLevel::new(false, false, false).into());
        Ok(Sequence::new(steps))
    }
}

/// Finds the names of tokens in a text: the leftmost first, of those at one place the longest.
struct NamedTokens {
    automaton: AhoCorasick,
    /// The token of each pattern.
    ids: Vec<TokenId>,
}

impl NamedTokens {
    fn new<'a>(
        tokens: impl Iterator<Item = (&'a str, TokenId)>,
    ) -> Result<NamedTokens, TokenizerError> {
        let (names, ids): (Vec<_>, Vec<_>) = tokens.unzip();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(names)
            .map_err(|error| TokenizerError::Build(error.to_string()))?;
        Ok(NamedTokens { automaton, ids })
    }
}

/// The bytes of every token, one after the other.
struct Spellings {
    bytes: Vec<u8>,
    /// Where each token's bytes end.
    ends: Vec<usize>,
}

impl Spellings {
    fn new(vocabulary: &Vocabulary) -> Spellings {
        let byte_of = byte_level_alphabet();
        let mut bytes = Vec::new();
        let mut ends = Vec::with_capacity(vocabulary.tokens.len());
        for (text, kind) in vocabulary.tokens.iter().zip(&vocabulary.kinds) {
            match kind {
                TokenKind::Normal => {
                    for character in text.chars() {
                        match byte_of.get(character as usize).copied().flatten() {
                            Some(byte) => bytes.push(byte),
                            // Not in the alphabet: the character can only mean itself.
                            None => bytes
                                .extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes()),
                        }
                    }
                }
                TokenKind::Control | TokenKind::Unknown | TokenKind::UserDefined => {
                    bytes.extend_from_slice(text.as_bytes());
                }
                // In a byte-level vocabulary these stand for nothing.
                TokenKind::Unused | TokenKind::Byte => {}
            }
            ends.push(bytes.len());
        }
        Spellings { bytes, ends }
    }

    fn get(&self, token: TokenId) -> Option<&[u8]> {
        let row = token.row();
        let end = *self.ends.get(row)?;
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]);
        Some(&self.bytes[start..end])
    }
}

/// GPT-2's printable alphabet, from the character's number to the byte: bytes that print stand for
/// themselves, the others follow from 256 on (`encoder.py`, `bytes_to_unicode`).
fn byte_level_alphabet() -> [Option<u8>; 512] {
    let mut byte_of = [None; 512];
    let mut next = 256;
    for byte in 0..=u8::MAX {
        if matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF) {
            byte_of[byte as usize] = Some(byte);
        } else {
            byte_of[next] = Some(byte);
            next += 1;
        }
    }
    byte_of
}

#[cfg(test)]
#[path = "tokenizer_tests.rs"]
pub(super) mod tests;
