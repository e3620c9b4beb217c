//! Finds the texts of special tokens (control and user-defined tokens) within a text.

use aho_corasick::{AhoCorasick, MatchKind};

use crate::text::tokenizer_error::TokenizerError;
use crate::token::TokenId;

/// Matches the texts of special tokens: the leftmost match first, the longest of several at one position.
pub(super) struct SpecialTokenMatcher {
    pub(super) automaton: AhoCorasick,
    /// The token of each pattern of the automaton.
    pub(super) ids: Vec<TokenId>,
}

impl SpecialTokenMatcher {
    pub(super) fn new<'a>(
        tokens: impl Iterator<Item = (&'a str, TokenId)>,
    ) -> Result<SpecialTokenMatcher, TokenizerError> {
        let (texts, ids): (Vec<_>, Vec<_>) = tokens.unzip();
        let automaton = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(texts)
            .map_err(|error| TokenizerError::Build(error.to_string()))?;
        Ok(SpecialTokenMatcher { automaton, ids })
    }
}
