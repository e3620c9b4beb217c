//! The vocabulary of a grammar compiler, and its adapter to llguidance's token trie and tokenizer interface.

use std::collections::HashMap;
use std::sync::Arc;

use llguidance::toktrie::{TokRxInfo, TokTrie, TokenizerEnv};

use crate::token::TokenId;

/// How a grammar matches a token: by its text or by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrammarToken<'a> {
    /// The bytes of a text token; they need not be complete UTF-8.
    Text(&'a [u8]),
    /// The name of a control token, which has no text.
    Control(&'a str),
}

/// The vocabulary and tokenizer of a [`GrammarCompiler`](super::GrammarCompiler).
pub trait GrammarVocabulary: Send + Sync {
    /// Returns the number of tokens. Token ids are less than this number.
    fn size(&self) -> usize;
    /// Returns the bytes or the name of `token`, which is less than [`Self::size`].
    fn grammar_token(&self, token: TokenId) -> GrammarToken<'_>;
    /// Returns the end-of-generation tokens, which end a complete text.
    fn eog_tokens(&self) -> &[TokenId];
    /// Tokenizes a text. The tokens need not decode to the same text: a tokenizer may prepend a space, for example.
    fn tokenize(&self, text: &str) -> Vec<TokenId>;
}

impl dyn GrammarVocabulary + '_ {
    /// Returns the bytes of a text token, or the name of a control token.
    pub(super) fn bytes_or_name(&self, token: TokenId) -> &[u8] {
        match self.grammar_token(token) {
            GrammarToken::Text(bytes) => bytes,
            GrammarToken::Control(name) => name.as_bytes(),
        }
    }

    /// Maps the name or text of each token to the token; the first of several tokens with the same name wins.
    pub(super) fn by_name(&self) -> HashMap<&[u8], TokenId> {
        let tokens = (0..self.size() as u32).rev().map(TokenId);
        tokens
            .map(|token| (self.bytes_or_name(token), token))
            .collect()
    }
}

/// Which tokenizations a constraint allows where the grammar allows only one continuation of the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tokenization {
    /// Only the tokenizer's own tokenization. Its tokens are forced, without an evaluation of the model.
    Canonical,
    /// All tokens that decode to the text. Needed if logit biases may ban tokens of the canonical tokenization.
    Any,
}

/// Implements llguidance's tokenizer interface for a vocabulary.
pub(super) struct Environment {
    trie: Arc<TokTrie>,
    vocabulary: Arc<dyn GrammarVocabulary>,
    tokenization: Tokenization,
}

impl Environment {
    /// Returns an environment for each [`Tokenization`], `Canonical` first. Both share one token trie.
    pub(super) fn both(vocabulary: &Arc<dyn GrammarVocabulary>) -> [Self; 2] {
        let trie = Arc::new(trie(&**vocabulary));
        [Tokenization::Canonical, Tokenization::Any].map(|tokenization| Self {
            trie: Arc::clone(&trie),
            vocabulary: Arc::clone(vocabulary),
            tokenization,
        })
    }
}

fn trie(vocabulary: &dyn GrammarVocabulary) -> TokTrie {
    let tokens = (0..vocabulary.size() as u32).map(TokenId);
    let token_bytes: Vec<Vec<u8>> = tokens
        .map(|token| match vocabulary.grammar_token(token) {
            GrammarToken::Text(bytes) => bytes.to_vec(),
            GrammarToken::Control(name) => {
                let bracketed = name.starts_with('<') && name.ends_with('>');
                let name = match bracketed && !name.contains(char::is_whitespace) {
                    true => name.to_owned(),
                    false => format!("<control {}>", token.0),
                };
                [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()
            }
        })
        .collect();
    let eog_tokens: Vec<u32> = vocabulary
        .eog_tokens()
        .iter()
        .map(|token| token.0)
        .collect();
    let first_eog_token = eog_tokens.first().copied().unwrap_or(u32::MAX);
    let info = TokRxInfo::new(token_bytes.len() as u32, first_eog_token);
    TokTrie::from(&info, &token_bytes).with_eos_tokens(&eog_tokens)
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        let tokenize = |text: &str| {
            let tokens: Vec<u32> = self
                .vocabulary
                .tokenize(text)
                .iter()
                .map(|id| id.0)
                .collect();
            // The tokens may decode to another text: a tokenizer may prepend a space, or drop characters that it cannot
            // encode.
            match self.trie.decode_raw(&tokens) == text.as_bytes() {
                true => tokens,
                false => self.trie.greedy_tokenize(text.as_bytes()),
            }
        };
        self.trie.tokenize_with_greedy_fallback(bytes, tokenize)
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.tokenization == Tokenization::Canonical
    }
}
