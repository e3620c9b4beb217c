//! The error of reading a vocabulary and building its tokenizer.

use crate::token::TokenId;

/// Why a vocabulary cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenizerError {
    /// The model file names a tokenizer model that no [`super::Algorithm`] implements.
    #[error(
        "the tokenizer model \"{0}\" is not supported, only byte-level BPE (\"gpt2\"), SentencePiece (\"llama\", \"gemma4\", \"t5\") and WordPiece (\"bert\")"
    )]
    UnsupportedModel(String),
    /// The pre-tokenizer is unknown, so texts would be split incorrectly.
    #[error("the pre-tokenizer \"{0}\" is not supported")]
    UnsupportedPre(String),
    /// The vocabulary is empty or too large.
    #[error("the vocabulary has {tokens} tokens; it must have 1 to {max_tokens}")]
    Size {
        /// Number of tokens.
        tokens: usize,
        /// Maximum number of tokens.
        max_tokens: usize,
    },
    /// The lists of tokens and of token kinds differ in length.
    #[error("the vocabulary has {tokens} tokens, but {kinds} token kinds")]
    Kinds {
        /// Number of tokens.
        tokens: usize,
        /// Number of kinds.
        kinds: usize,
    },
    /// The lists of tokens and of scores differ in length.
    #[error("the vocabulary has {tokens} tokens, but {scores} scores")]
    Scores {
        /// Number of tokens.
        tokens: usize,
        /// Number of scores.
        scores: usize,
    },
    /// A score is NaN or, for Unigram, infinite.
    #[error("the score of the token {} is not a finite number", .0.0)]
    Score(TokenId),
    /// A token is so long that encoding would be slow.
    #[error("the token {} has {bytes} bytes; at most {max_bytes} are supported", token.0)]
    TokenTooLong {
        /// The id of the token.
        token: TokenId,
        /// Length of the text of the token in bytes.
        bytes: usize,
        /// Maximum length in bytes.
        max_bytes: usize,
    },
    /// The model file assigns a role to a token id outside the vocabulary.
    #[error("the {role} token is {}, but the vocabulary has {size} tokens", token.0)]
    OutOfRange {
        /// The role, such as "EOS".
        role: &'static str,
        /// The token id.
        token: TokenId,
        /// Number of tokens of the vocabulary.
        size: usize,
    },
    /// Two tokens have the same text.
    #[error("the tokens {} and {} have the same text \"{text}\"", first.0, second.0)]
    DuplicateToken {
        /// The text of both tokens.
        text: String,
        /// The smaller id.
        first: TokenId,
        /// The larger id.
        second: TokenId,
    },
    /// A merge cannot be applied.
    #[error("invalid merge \"{merge}\": {reason}")]
    Merge {
        /// The merge as in the model file.
        merge: String,
        /// Why the merge is invalid.
        reason: &'static str,
    },
    /// A regular expression is invalid, or cannot be matched in linear time.
    #[error("the regular expression \"{expression}\" is not supported: {reason}")]
    Regex {
        /// The first characters of the expression.
        expression: String,
        /// Why the expression is not supported.
        reason: String,
    },
    /// SentencePiece's precompiled normalization table is invalid.
    #[error("invalid precompiled charsmap: {0}")]
    Charsmap(String),
    /// `tokenizer.json` is invalid or contains an unsupported component.
    #[error("tokenizer.json: {0}")]
    Json(String),
    /// The `tokenizers` crate or `aho-corasick` rejected the checked vocabulary.
    #[error("the tokenizer cannot be built: {0}")]
    Build(String),
}
