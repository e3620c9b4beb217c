//! Tokens that are recognised by their names in a text.

use aho_corasick::{AhoCorasick, MatchKind};

use super::TokenizerError;
use crate::token::TokenId;

/// Finds the names of tokens in a text: the leftmost first, of those at one place the longest.
pub(super) struct NamedTokens {
    pub(super) automaton: AhoCorasick,
    /// The token of each pattern.
    pub(super) ids: Vec<TokenId>,
}

impl NamedTokens {
    pub(super) fn new<'a>(
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
