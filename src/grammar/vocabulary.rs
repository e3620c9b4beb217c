//! The vocabulary as grammars see it: what each token spells, and how the model's tokenizer cuts a text.

use std::collections::HashMap;
use std::sync::Arc;

use llguidance::toktrie::{TokRxInfo, TokTrie, TokenizerEnv};

use crate::token::TokenId;

/// What a token is to a grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling<'a> {
    /// These bytes of text.
    Text(&'a [u8]),
    /// No text: it steers the model, and has a name.
    Control(&'a str),
}

/// A vocabulary that grammars are followed with.
pub trait GrammarVocabulary: Send + Sync {
    /// Tokens there are.
    fn size(&self) -> usize;
    /// What a token of them spells.
    fn spelling(&self, token: TokenId) -> Spelling<'_>;
    /// The tokens that end a text.
    fn ends(&self) -> &[TokenId];
    /// The tokens that the model's tokenizer makes of a text; it may fail to spell it.
    fn tokens(&self, text: &str) -> Vec<TokenId>;
}

impl dyn GrammarVocabulary + '_ {
    /// The tokens by their names or texts; of several with one name, the first.
    pub(super) fn by_name(&self) -> HashMap<&[u8], TokenId> {
        let tokens = (0..self.size() as u32).rev().map(TokenId);
        let named = tokens.map(|token| match self.spelling(token) {
            Spelling::Text(bytes) => (bytes, token),
            Spelling::Control(name) => (name.as_bytes(), token),
        });
        named.collect()
    }
}

/// Whether a text that can only be this one is cut as the model's tokenizer does it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cutting {
    /// Always: what is certain is taken without asking the model.
    Canonical,
    /// Any tokens that spell it will do: some of those that the tokenizer would take may be forbidden.
    Free,
}

/// The vocabulary in the words of llguidance.
pub(super) struct Environment {
    trie: Arc<TokTrie>,
    vocabulary: Arc<dyn GrammarVocabulary>,
    cutting: Cutting,
}

impl Environment {
    /// One for each way to cut, canonical first.
    pub(super) fn both(vocabulary: &Arc<dyn GrammarVocabulary>) -> [Self; 2] {
        let trie = Arc::new(trie(&**vocabulary));
        [Cutting::Canonical, Cutting::Free].map(|cutting| Self {
            trie: Arc::clone(&trie),
            vocabulary: Arc::clone(vocabulary),
            cutting,
        })
    }
}

fn trie(vocabulary: &dyn GrammarVocabulary) -> TokTrie {
    let tokens = (0..vocabulary.size() as u32).map(TokenId);
    let words: Vec<Vec<u8>> = tokens
        .map(|token| match vocabulary.spelling(token) {
            Spelling::Text(bytes) => bytes.to_vec(),
            Spelling::Control(name) => {
                let bracketed = name.starts_with('<') && name.ends_with('>');
                let name = match bracketed && !name.contains(char::is_whitespace) {
                    true => name.to_owned(),
                    false => format!("<control {}>", token.0),
                };
                [&[TokTrie::SPECIAL_TOKEN_MARKER], name.as_bytes()].concat()
            }
        })
        .collect();
    let ends: Vec<u32> = vocabulary.ends().iter().map(|end| end.0).collect();
    let first = ends.first().copied().unwrap_or(u32::MAX);
    let info = TokRxInfo::new(words.len() as u32, first);
    TokTrie::from(&info, &words).with_eos_tokens(&ends)
}

impl TokenizerEnv for Environment {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<u32> {
        let cut = |text: &str| {
            let tokens: Vec<u32> = self.vocabulary.tokens(text).iter().map(|id| id.0).collect();
            // A tokenizer may put a space before a text, or leave out what it cannot spell.
            match self.trie.decode_raw(&tokens) == text.as_bytes() {
                true => tokens,
                false => self.trie.greedy_tokenize(text.as_bytes()),
            }
        };
        self.trie.tokenize_with_greedy_fallback(bytes, cut)
    }

    fn tokenize_is_canonical(&self) -> bool {
        self.cutting == Cutting::Canonical
    }
}
