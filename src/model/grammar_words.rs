//! The tokenizer as grammars see it.

use std::sync::Arc;

use crate::grammar::{GrammarVocabulary, Spelling};
use crate::text::{SpecialTokens, Tokenizer};
use crate::token::TokenId;

/// The vocabulary of a tokenizer, and its way to cut texts.
pub struct GrammarWords(pub Arc<Tokenizer>);

impl GrammarVocabulary for GrammarWords {
    fn size(&self) -> usize {
        self.0.vocabulary_size()
    }

    fn spelling(&self, token: TokenId) -> Spelling<'_> {
        let bytes = self.0.token_bytes(token).unwrap_or_default();
        match (self.0.is_control(token), std::str::from_utf8(bytes)) {
            (true, Ok(name)) => Spelling::Control(name),
            (true, Err(_)) => Spelling::Control(""),
            (false, _) => Spelling::Text(bytes),
        }
    }

    fn ends(&self) -> &[TokenId] {
        self.0.end_of_generation()
    }

    fn tokens(&self, text: &str) -> Vec<TokenId> {
        self.0.encode_going_on(text, SpecialTokens::Literal)
    }
}
