//! Text to token ids and back, by a `tokenizers` pipeline that is made from the model file's own
//! vocabulary.
//!
//! Source: Sennrich et al., «Neural Machine Translation of Rare Words with Subword Units» (2016);
//! Radford et al., «Language Models are Unsupervised Multitask Learners» (2019) for the bytes; the rules
//! that split text into words are named as in llama.cpp (`llama-vocab.cpp`).

use std::collections::{HashMap, HashSet};

use tokenizers::models::bpe::BPE;
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use super::vocabulary::{TokenKind, Vocabulary};
use crate::token::TokenId;

/// Most tokens of a vocabulary: four times the largest in use.
const MAX_TOKENS: usize = 1 << 20;

/// Names of tokens that end a generation, whatever the file says of their kind (llama.cpp's list).
const END_NAMES: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|eom_id|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<EOT>",
    "_<EOT>",
    "<EOS>",
    "</s>",
];

/// Words of Llama 3 and Qwen: contractions, a word with the sign before it, numbers, signs with the
/// line breaks behind them, white space.
const WORDS_OF_LLAMA_3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// The same with each digit by itself.
const WORDS_OF_QWEN_2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Whether the names of control tokens in a text stand for these tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialTokens {
    /// They do.
    Parse,
    /// They are text like any other.
    Literal,
}

/// Why a vocabulary does not serve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// Another kind of vocabulary.
    #[error("vocabularies of the kind «{0}» are not supported; supported: gpt2")]
    UnsupportedModel(String),
    /// A rule for words that we do not know: every text would get wrong tokens.
    #[error("the pre-tokenizer «{found}» is not supported; supported: {supported}")]
    UnsupportedPre {
        /// What the file says.
        found: String,
        /// What it may say.
        supported: String,
    },
    /// The parts do not fit together.
    #[error("{0}")]
    Inconsistent(String),
}

/// An id without a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("token {} is not in the vocabulary", .0.0)]
pub struct UnknownToken(pub TokenId);

/// A model's tokenizer.
pub struct Tokenizer {
    parsing: tokenizers::Tokenizer,
    literal: tokenizers::Tokenizer,
    pieces: Vec<Piece>,
    beginning: Option<TokenId>,
    adds_beginning: bool,
    end_of_generation: Vec<TokenId>,
}

/// What a token stands for.
struct Piece {
    bytes: Box<[u8]>,
    is_control: bool,
}

impl Tokenizer {
    /// Builds the pipeline.
    pub fn new(vocabulary: Vocabulary) -> Result<Self, TokenizerError> {
        check(&vocabulary)?;
        let pieces = pieces(&vocabulary);
        let end_of_generation = end_of_generation(&vocabulary);
        let Vocabulary {
            pre,
            tokens,
            kinds,
            merges,
            beginning,
            adds_beginning,
            ..
        } = vocabulary;

        let model = byte_level_bpe(&pre, &tokens, merges)?;
        let mut parsing = tokenizers::Tokenizer::new(model);
        parsing.with_pre_tokenizer(Some(pre_tokenizer(&pre)?));
        let added = |wanted: TokenKind| -> Vec<AddedToken> {
            tokens
                .iter()
                .zip(&kinds)
                .filter(|(name, kind)| **kind == wanted && !name.is_empty())
                .map(|(name, _)| {
                    AddedToken::from(name.clone(), wanted == TokenKind::Control).normalized(false)
                })
                .collect()
        };
        let refused = |error: tokenizers::Error| TokenizerError::Inconsistent(error.to_string());
        parsing
            .add_tokens(added(TokenKind::UserDefined))
            .map_err(refused)?;
        let mut literal = parsing.clone();
        parsing
            .add_special_tokens(added(TokenKind::Control))
            .map_err(refused)?;
        literal.set_encode_special_tokens(true);
        Ok(Self {
            parsing,
            literal,
            pieces,
            beginning,
            adds_beginning,
            end_of_generation,
        })
    }

    /// The tokens of a text; a beginning-of-text token is never added.
    pub fn encode(&self, text: &str, special: SpecialTokens) -> Vec<TokenId> {
        let pipeline = match special {
            SpecialTokens::Parse => &self.parsing,
            SpecialTokens::Literal => &self.literal,
        };
        let encoding = pipeline
            .encode_fast(text, false)
            .expect("byte-level BPE passes over what has no token");
        encoding.get_ids().iter().copied().map(TokenId).collect()
    }

    /// The bytes that a token stands for in a text: a control token's are its name.
    pub fn token_bytes(&self, token: TokenId) -> Option<&[u8]> {
        self.pieces.get(token.row()).map(|piece| &*piece.bytes)
    }

    /// The text of tokens, control tokens by their names; bytes that are no UTF-8 become U+FFFD.
    pub fn decode(&self, tokens: &[TokenId]) -> Result<String, UnknownToken> {
        let mut bytes = Vec::new();
        for token in tokens {
            bytes.extend_from_slice(self.token_bytes(*token).ok_or(UnknownToken(*token))?);
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary_size(&self) -> usize {
        self.pieces.len()
    }

    /// The beginning-of-text token.
    pub fn beginning(&self) -> Option<TokenId> {
        self.beginning
    }

    /// Whether a text is to begin with it.
    pub fn adds_beginning(&self) -> bool {
        self.adds_beginning
    }

    /// All tokens that end a generation, sorted.
    pub fn end_of_generation(&self) -> &[TokenId] {
        &self.end_of_generation
    }

    /// Whether a token is no text.
    pub fn is_control(&self, token: TokenId) -> bool {
        self.pieces
            .get(token.row())
            .is_some_and(|piece| piece.is_control)
    }
}

/// The parts fit together: as many kinds as tokens, no name twice, ids in range.
fn check(vocabulary: &Vocabulary) -> Result<(), TokenizerError> {
    let Vocabulary { tokens, kinds, .. } = vocabulary;
    if vocabulary.model != "gpt2" {
        return Err(TokenizerError::UnsupportedModel(
            vocabulary.model.chars().take(64).collect(),
        ));
    }
    if tokens.is_empty() || tokens.len() > MAX_TOKENS {
        return Err(TokenizerError::Inconsistent(format!(
            "a vocabulary of {} tokens cannot be used",
            tokens.len()
        )));
    }
    if kinds.len() != tokens.len() {
        return Err(TokenizerError::Inconsistent(format!(
            "{} tokens have {} kinds",
            tokens.len(),
            kinds.len()
        )));
    }
    let mut names = HashSet::with_capacity(tokens.len());
    if let Some(twice) = tokens.iter().find(|name| !names.insert(name.as_str())) {
        return Err(TokenizerError::Inconsistent(format!(
            "two tokens have the name {twice:?}"
        )));
    }
    let named = [vocabulary.beginning, vocabulary.end, vocabulary.end_of_turn];
    match named
        .into_iter()
        .flatten()
        .find(|token| token.row() >= tokens.len())
    {
        None => Ok(()),
        Some(TokenId(id)) => Err(TokenizerError::Inconsistent(format!(
            "the special token {id} is beyond the {} tokens of the vocabulary",
            tokens.len()
        ))),
    }
}

fn byte_level_bpe(
    pre: &str,
    tokens: &[String],
    merges: Vec<String>,
) -> Result<BPE, TokenizerError> {
    let ids: HashMap<&str, u32> = tokens.iter().map(String::as_str).zip(0..).collect();
    let merges = merges
        .into_iter()
        .map(|merge| {
            let pair = merge.split_once(' ').filter(|(left, right)| {
                let whole = format!("{left}{right}");
                [*left, *right, &whole]
                    .iter()
                    .all(|name| ids.contains_key(name))
            });
            pair.map(|(left, right)| (left.to_owned(), right.to_owned()))
                .ok_or_else(|| {
                    TokenizerError::Inconsistent(format!(
                        "the merge {merge:?} does not make a token of two tokens"
                    ))
                })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let vocabulary = tokens
        .iter()
        .cloned()
        .zip(0..)
        .collect::<Vec<(String, u32)>>();
    BPE::builder()
        .vocab_and_merges(
            vocabulary.into_iter().collect::<ahash::AHashMap<_, _>>(),
            merges,
        )
        // Llama 3's vocabulary has whole words that its merges do not reach.
        .ignore_merges(pre == "llama-bpe")
        .build()
        .map_err(|error| TokenizerError::Inconsistent(error.to_string()))
}

/// The rules for words that we know.
const PRE_TOKENIZERS: &[&str] = &["smollm", "gpt-2", "llama-bpe", "qwen2", "default"];

/// The rule with that name, and bytes as characters after it.
fn pre_tokenizer(pre: &str) -> Result<PreTokenizerWrapper, TokenizerError> {
    let split = |pattern: &str, behavior| {
        Split::new(SplitPattern::Regex(pattern.to_owned()), behavior, false)
            .map(PreTokenizerWrapper::Split)
            .map_err(|error| TokenizerError::Inconsistent(error.to_string()))
    };
    let isolated = |pattern| split(pattern, SplitDelimiterBehavior::Isolated);
    // With its own expression the byte level splits words as GPT-2 did.
    let bytes =
        |splits_words| PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, splits_words));
    let steps = match pre {
        "gpt-2" => vec![bytes(true)],
        "smollm" => vec![isolated(r"\p{N}")?, bytes(true)],
        "llama-bpe" => vec![isolated(WORDS_OF_LLAMA_3)?, bytes(false)],
        "qwen2" => vec![isolated(WORDS_OF_QWEN_2)?, bytes(false)],
        "default" => vec![
            isolated(r"[\p{P}\$\+<=>\^~\|]+")?,
            isolated(
                r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
            )?,
            isolated(r"\p{N}+")?,
            isolated(r"[0-9][0-9][0-9]")?,
            bytes(false),
        ],
        other => {
            return Err(TokenizerError::UnsupportedPre {
                found: other.chars().take(64).collect(),
                supported: PRE_TOKENIZERS.join(", "),
            });
        }
    };
    Ok(PreTokenizerWrapper::Sequence(Sequence::new(steps)))
}

/// The character that stands for each byte in the names of a byte-level vocabulary: printable ones for
/// themselves, the others from U+0100 on.
fn byte_names() -> [char; 256] {
    let mut next = 0x100u32;
    std::array::from_fn(|byte| {
        let byte = byte as u8;
        match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).expect("U+0100 to U+0143 are characters")
            }
        }
    })
}

fn pieces(vocabulary: &Vocabulary) -> Vec<Piece> {
    let bytes_of: HashMap<char, u8> = byte_names().into_iter().zip(0..=255).collect();
    vocabulary
        .tokens
        .iter()
        .zip(&vocabulary.kinds)
        .map(|(name, kind)| {
            let in_bytes: Option<Vec<u8>> = match kind {
                TokenKind::Normal | TokenKind::Byte | TokenKind::Unused => {
                    name.chars().map(|c| bytes_of.get(&c).copied()).collect()
                }
                TokenKind::Control | TokenKind::UserDefined | TokenKind::Unknown => None,
            };
            Piece {
                bytes: in_bytes.unwrap_or_else(|| name.as_bytes().to_vec()).into(),
                is_control: matches!(kind, TokenKind::Control | TokenKind::Unknown),
            }
        })
        .collect()
}

fn end_of_generation(vocabulary: &Vocabulary) -> Vec<TokenId> {
    let named = vocabulary
        .tokens
        .iter()
        .zip(0..)
        .filter(|(name, _)| END_NAMES.contains(&name.as_str()))
        .map(|(_, id)| TokenId(id));
    let mut ends: Vec<TokenId> = [vocabulary.end, vocabulary.end_of_turn]
        .into_iter()
        .flatten()
        .chain(named)
        .collect();
    ends.sort_unstable();
    ends.dedup();
    ends
}
