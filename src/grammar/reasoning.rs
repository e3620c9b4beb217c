//! Reasoning before the constrained text. The reasoning itself is unconstrained; it ends with the end marker, which is
//! forced after a maximum number of tokens.

use std::sync::Arc;

use super::vocabulary::GrammarVocabulary;
use crate::token::TokenId;

/// Maximum length of a character in UTF-8, in bytes.
const MAX_CHARACTER_BYTES: usize = 4;

/// How the reasoning ends. The generated text begins inside the reasoning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReasoningRule {
    /// The text that ends the reasoning, such as `</think>`.
    pub end_marker: String,
    /// Maximum number of reasoning tokens; `None` for no limit.
    pub max_tokens: Option<usize>,
    /// The tokens forced when `max_tokens` is reached, including the end marker.
    pub closing_tokens: Vec<TokenId>,
    /// The tokens forced between the end marker and the constrained text.
    pub separator_tokens: Vec<TokenId>,
}

/// The state of the reasoning after the tokens accepted so far.
#[derive(Clone)]
pub(super) struct ReasoningState {
    rule: ReasoningRule,
    vocabulary: Arc<dyn GrammarVocabulary>,
    /// Whether a constrained text follows the reasoning.
    is_followed: bool,
    tokens: usize,
    /// The last bytes of the reasoning, just enough to detect the end marker or an incomplete character.
    tail: Vec<u8>,
}

impl ReasoningState {
    pub(super) fn new(
        rule: ReasoningRule,
        vocabulary: Arc<dyn GrammarVocabulary>,
        is_followed: bool,
    ) -> Self {
        Self {
            rule,
            vocabulary,
            is_followed,
            tokens: 0,
            tail: Vec::new(),
        }
    }

    /// If a constrained text follows, masks the end-of-generation tokens and each token that completes the end marker
    /// and continues after it with anything but whitespace.
    pub(super) fn mask(&self, logits: &mut [f32]) {
        if !self.is_followed {
            return;
        }
        let mut forbid = |token: TokenId| {
            if let Some(logit) = logits.get_mut(token.row()) {
                *logit = f32::NEG_INFINITY;
            }
        };
        self.vocabulary
            .eog_tokens()
            .iter()
            .for_each(|token| forbid(*token));
        let end = self.rule.end_marker.as_bytes();
        let matched = (1..end.len())
            .rev()
            .find(|length| self.tail.ends_with(&end[..*length]));
        let Some(missing) = matched.map(|length| &end[length..]) else {
            return;
        };
        for token in (0..self.vocabulary.size() as u32).map(TokenId) {
            if let Some(rest) = self.vocabulary.bytes_or_name(token).strip_prefix(missing)
                && !rest.trim_ascii().is_empty()
            {
                forbid(token);
            }
        }
    }

    /// Accepts a token. If this token ends the reasoning, returns the tokens forced after it.
    pub(super) fn accept(&mut self, token: TokenId) -> Option<Vec<TokenId>> {
        self.tail.extend(self.vocabulary.bytes_or_name(token));
        self.tokens += 1;
        let end = self.rule.end_marker.as_bytes();
        if let Some(position) = memchr::memmem::find(&self.tail, end) {
            let ends_with_marker = position + end.len() == self.tail.len();
            return Some(match self.is_followed && ends_with_marker {
                true => std::mem::take(&mut self.rule.separator_tokens),
                false => Vec::new(),
            });
        }
        let max_tokens = self.rule.max_tokens;
        if max_tokens.is_some_and(|max_tokens| self.tokens >= max_tokens)
            && !ends_within_character(&self.tail)
        {
            return Some(std::mem::take(&mut self.rule.closing_tokens));
        }
        let tail_bytes = end.len().max(MAX_CHARACTER_BYTES);
        let surplus = self.tail.len().saturating_sub(tail_bytes);
        self.tail.drain(..surplus);
        None
    }
}

/// Whether the last UTF-8 character of `bytes` is incomplete. The first character may lack its first bytes.
fn ends_within_character(bytes: &[u8]) -> bool {
    let is_first = |byte: &u8| byte & 0b1100_0000 != 0b1000_0000;
    let first = bytes.iter().position(is_first).unwrap_or(bytes.len());
    match std::str::from_utf8(&bytes[first..]) {
        Ok(_) => false,
        Err(error) => error.error_len().is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::compiler;
    use super::super::{Constraint, GrammarSource, Tokenization};
    use super::*;

    fn ids(text: &str) -> Vec<TokenId> {
        text.bytes().map(|byte| TokenId(byte.into())).collect()
    }

    fn reasoning(end_marker: &str, max_tokens: Option<usize>, regex: Option<&str>) -> Constraint {
        let compiler = compiler();
        let rule = ReasoningRule {
            end_marker: end_marker.to_owned(),
            max_tokens,
            closing_tokens: ids(&format!("\n{end_marker}\n")),
            separator_tokens: ids("\n"),
        };
        let constraint = regex.map(|regex| {
            let regex = GrammarSource::Regex(regex.to_owned());
            compiler.compile(&regex, Tokenization::Any).unwrap()
        });
        compiler.after_reasoning(rule, constraint)
    }

    fn allows(constraint: &mut Constraint, token: TokenId) -> bool {
        let mut logits = vec![0.0; 400];
        constraint.mask(&mut logits).unwrap();
        logits[token.row()] == 0.0
    }

    /// Accepts a text byte by byte. Returns the tokens forced after the text.
    #[track_caller]
    fn accept(constraint: &mut Constraint, text: &str) -> Vec<TokenId> {
        let mut forced = Vec::new();
        for token in ids(text) {
            assert_eq!(forced, [], "before {token:?}");
            assert!(allows(constraint, token), "{token:?}");
            constraint.accept(token).unwrap();
            forced = constraint.take_forced().unwrap();
        }
        forced
    }

    #[test]
    fn the_end_marker_ends_the_reasoning() {
        let mut constraint = reasoning("</t>", None, Some("ab"));
        assert_eq!(accept(&mut constraint, "x<</t</t>"), ids("\n"));
        assert!(!allows(&mut constraint, TokenId(b'x'.into())));
        accept(&mut constraint, "ab");
        assert!(constraint.is_complete());
    }

    #[test]
    fn the_maximum_number_of_tokens_ends_the_reasoning() {
        let mut constraint = reasoning("</t>", Some(3), Some("ab"));
        assert_eq!(accept(&mut constraint, "xyz"), ids("\n</t>\n"));
        accept(&mut constraint, "ab");
        assert!(constraint.is_complete());
        // The reasoning ends after a complete character.
        let mut constraint = reasoning("</t>", Some(3), None);
        assert_eq!(accept(&mut constraint, "xyé"), ids("\n</t>\n"));
        accept(&mut constraint, "anything");
        assert!(!constraint.is_complete());
    }

    #[test]
    fn reasoning_cannot_skip_the_constrained_text() {
        let eog_token = compiler().vocabulary.eog_tokens()[0];
        let may_end = |regex| allows(&mut reasoning("</t>", Some(9), regex), eog_token);
        assert!(may_end(None) && !may_end(Some("ab")));
        // The token "end" completes the marker and continues with two more bytes.
        let mut constraint = reasoning("xe", None, Some("ab"));
        let token = compiler().vocabulary.tokenize("end")[0];
        assert!(allows(&mut constraint, token));
        accept(&mut constraint, "x");
        assert!(!allows(&mut constraint, token));
        assert!(allows(&mut constraint, TokenId(b'e'.into())));
    }
}
