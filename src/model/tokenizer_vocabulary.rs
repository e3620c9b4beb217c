//! Adapts the tokenizer to the grammar compiler's vocabulary interface.

use std::sync::Arc;

use crate::grammar::{GrammarToken, GrammarVocabulary};
use crate::text::{SpecialTokens, Tokenizer};
use crate::token::TokenId;

/// The tokenizer's tokens: control tokens by name, all others as bytes.
pub struct TokenizerVocabulary(pub Arc<Tokenizer>);

impl GrammarVocabulary for TokenizerVocabulary {
    fn size(&self) -> usize {
        self.0.vocabulary_size()
    }

    fn grammar_token(&self, token: TokenId) -> GrammarToken<'_> {
        let bytes = self.0.token_bytes(token).unwrap_or_default();
        match (self.0.is_control(token), std::str::from_utf8(bytes)) {
            (true, Ok(name)) => GrammarToken::Control(name),
            (true, Err(_)) => GrammarToken::Control(""),
            (false, _) => GrammarToken::Text(bytes),
        }
    }

    fn eog_tokens(&self) -> &[TokenId] {
        self.0.eog_tokens()
    }

    fn tokenize(&self, text: &str) -> Vec<TokenId> {
        self.0.encode_continuation(text, SpecialTokens::Literal)
    }
}
