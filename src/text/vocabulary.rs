//! A vocabulary as a model file describes it.

use crate::token::TokenId;

/// Everything a tokenizer is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vocabulary {
    /// The kind of vocabulary (`tokenizer.ggml.model`): `gpt2` is byte-level BPE.
    pub model: String,
    /// The name of the rule that splits text into words (`tokenizer.ggml.pre`).
    pub pre: String,
    /// The tokens' names, by id.
    pub tokens: Vec<String>,
    /// Their kinds, by id.
    pub kinds: Vec<TokenKind>,
    /// Pairs of names, separated by a space, in the order in which they are merged.
    pub merges: Vec<String>,
    /// The beginning-of-text token.
    pub beginning: Option<TokenId>,
    /// The end-of-text token.
    pub end: Option<TokenId>,
    /// The end-of-turn token.
    pub end_of_turn: Option<TokenId>,
    /// Whether a text is to begin with `beginning`.
    pub adds_beginning: bool,
}

/// What a token is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenKind {
    /// A piece of text.
    Normal,
    /// Stands for what has no token.
    Unknown,
    /// Steers the model; it is no text.
    Control,
    /// Recognised in text before anything else is.
    UserDefined,
    /// Never used.
    Unused,
    /// A single byte.
    Byte,
}
