//! Fill in the middle: the tokens between which a model expects what comes before a gap and what comes after it.
//!
//! Source: Bavarian et al., «Efficient Training of Language Models to Fill in the Middle» (2022), section 3
//! (PSM); the names are those by which llama.cpp recognises the tokens.

use tokenizers::models::bpe::Vocab;

use super::vocabulary::Vocabulary;
use crate::token::TokenId;

const PREFIX_NAMES: [&str; 7] = [
    "<|fim_prefix|>",
    "<fim-prefix>",
    "<fim_prefix>",
    "<｜fim▁begin｜>",
    "<PRE>",
    "▁<PRE>",
    "<|code_prefix|>",
];
const SUFFIX_NAMES: [&str; 7] = [
    "<|fim_suffix|>",
    "<fim-suffix>",
    "<fim_suffix>",
    "<｜fim▁hole｜>",
    "<SUF>",
    "▁<SUF>",
    "<|code_suffix|>",
];
const MIDDLE_NAMES: [&str; 7] = [
    "<|fim_middle|>",
    "<fim-middle>",
    "<fim_middle>",
    "<｜fim▁end｜>",
    "<MID>",
    "▁<MID>",
    "<|code_middle|>",
];

/// What a model's file says of the three tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NamedInfillTokens {
    /// Comes before the text before the gap.
    pub prefix: Option<TokenId>,
    /// Comes before the text after the gap.
    pub suffix: Option<TokenId>,
    /// Comes before what fills the gap.
    pub middle: Option<TokenId>,
}

/// The three tokens of a model that fills gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InfillTokens {
    prefix: TokenId,
    suffix: TokenId,
    middle: TokenId,
}

impl InfillTokens {
    /// The tokens that the file names, else those with a known name; `None` if one of the three is missing.
    pub(super) fn find(vocabulary: &Vocabulary, ids: &Vocab) -> Option<Self> {
        let find = |given: Option<TokenId>, names: &[&str]| {
            let known = || names.iter().find_map(|name| ids.get(*name));
            given.or_else(|| known().copied().map(TokenId))
        };
        let NamedInfillTokens {
            prefix,
            suffix,
            middle,
        } = vocabulary.infill;
        Some(Self {
            prefix: find(prefix, &PREFIX_NAMES)?,
            suffix: find(suffix, &SUFFIX_NAMES)?,
            middle: find(middle, &MIDDLE_NAMES)?,
        })
    }

    /// The prompt whose continuation fills the gap.
    pub(super) fn prompt(&self, prefix: &[TokenId], suffix: &[TokenId]) -> Vec<TokenId> {
        let parts: [&[TokenId]; 5] = [
            &[self.prefix],
            prefix,
            &[self.suffix],
            suffix,
            &[self.middle],
        ];
        parts.concat()
    }
}
