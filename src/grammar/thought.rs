//! A thought before what a text must follow: free until its end mark, and no longer than it may be.

use std::sync::Arc;

use super::vocabulary::{GrammarVocabulary, Spelling};
use crate::token::TokenId;

/// Bytes of the longest characters.
const CHARACTER_BYTES_MAX: usize = 4;

/// How a thought ends. The text begins within it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ThoughtRule {
    /// The mark that ends it.
    pub end: String,
    /// Most tokens of it; without it, as many as the model likes.
    pub most_tokens: Option<usize>,
    /// The tokens that end it then.
    pub closing: Vec<TokenId>,
    /// The tokens between its end mark and a text that must follow something.
    pub gap: Vec<TokenId>,
}

/// How far a thought is.
#[derive(Clone)]
pub(super) struct Thought {
    rule: ThoughtRule,
    vocabulary: Arc<dyn GrammarVocabulary>,
    /// Whether something must follow the thought.
    awaited: bool,
    tokens: usize,
    /// The last bytes, no more than tell a mark or a character.
    tail: Vec<u8>,
}

impl Thought {
    pub(super) fn new(
        rule: ThoughtRule,
        vocabulary: Arc<dyn GrammarVocabulary>,
        awaited: bool,
    ) -> Self {
        Self {
            rule,
            vocabulary,
            awaited,
            tokens: 0,
            tail: Vec::new(),
        }
    }

    /// Takes those tokens out of the race that a thought cannot go on with: where something must follow it, none ends the
    /// text, and none spells more than white space behind the end mark.
    pub(super) fn mask(&self, logits: &mut [f32]) {
        if !self.awaited {
            return;
        }
        let mut never = |token: TokenId| {
            if let Some(logit) = logits.get_mut(token.row()) {
                *logit = f32::NEG_INFINITY;
            }
        };
        self.vocabulary.ends().iter().for_each(|end| never(*end));
        let end = self.rule.end.as_bytes();
        let begun = (1..end.len())
            .rev()
            .find(|length| self.tail.ends_with(&end[..*length]));
        let Some(missing) = begun.map(|length| &end[length..]) else {
            return;
        };
        for token in (0..self.vocabulary.size() as u32).map(TokenId) {
            if let Some(rest) = self.bytes(token).strip_prefix(missing)
                && !rest.trim_ascii().is_empty()
            {
                never(token);
            }
        }
    }

    /// Takes a token. If the thought is over with it, tells what is certain to come next.
    pub(super) fn accept(&mut self, token: TokenId) -> Option<Vec<TokenId>> {
        let bytes = self.bytes(token).to_vec();
        self.tail.extend(bytes);
        self.tokens += 1;
        let end = self.rule.end.as_bytes();
        if let Some(place) = memchr::memmem::find(&self.tail, end) {
            let bare = place + end.len() == self.tail.len();
            return Some(match self.awaited && bare {
                true => std::mem::take(&mut self.rule.gap),
                false => Vec::new(),
            });
        }
        let enough = self.rule.most_tokens;
        if enough.is_some_and(|most| self.tokens >= most) && !ends_within_character(&self.tail) {
            return Some(std::mem::take(&mut self.rule.closing));
        }
        let kept = end.len().max(CHARACTER_BYTES_MAX);
        let surplus = self.tail.len().saturating_sub(kept);
        self.tail.drain(..surplus);
        None
    }

    fn bytes(&self, token: TokenId) -> &[u8] {
        match self.vocabulary.spelling(token) {
            Spelling::Text(bytes) => bytes,
            Spelling::Control(name) => name.as_bytes(),
        }
    }
}

/// Whether the last character lacks bytes; the first one may, too.
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
    use super::super::{Constraint, Cutting, GrammarSource};
    use super::*;

    fn ids(text: &str) -> Vec<TokenId> {
        text.bytes().map(|byte| TokenId(byte.into())).collect()
    }

    fn thinking(end: &str, most_tokens: Option<usize>, answer: Option<&str>) -> Constraint {
        let compiler = compiler();
        let rule = ThoughtRule {
            end: end.to_owned(),
            most_tokens,
            closing: ids(&format!("\n{end}\n")),
            gap: ids("\n"),
        };
        let answer = answer.map(|regex| {
            let regex = GrammarSource::Regex(regex.to_owned());
            compiler.compile(&regex, Cutting::Free).unwrap()
        });
        compiler.after_thought(rule, answer)
    }

    fn allows(constraint: &mut Constraint, token: TokenId) -> bool {
        let mut logits = vec![0.0; 400];
        constraint.mask(&mut logits).unwrap();
        logits[token.row()] == 0.0
    }

    /// Takes a text byte by byte, and tells what is certain after it.
    #[track_caller]
    fn take(constraint: &mut Constraint, text: &str) -> Vec<TokenId> {
        let mut certain = Vec::new();
        for token in ids(text) {
            assert_eq!(certain, [], "before {token:?}");
            assert!(allows(constraint, token), "{token:?}");
            constraint.accept(token).unwrap();
            certain = constraint.take_forced().unwrap();
        }
        certain
    }

    #[test]
    fn a_thought_ends_by_itself() {
        let mut constraint = thinking("</t>", None, Some("ab"));
        assert_eq!(take(&mut constraint, "x<</t</t>"), ids("\n"));
        assert!(!allows(&mut constraint, TokenId(b'x'.into())));
        take(&mut constraint, "ab");
        assert!(constraint.is_complete());
    }

    #[test]
    fn a_thought_ends_when_it_is_enough() {
        let mut constraint = thinking("</t>", Some(3), Some("ab"));
        assert_eq!(take(&mut constraint, "xyz"), ids("\n</t>\n"));
        take(&mut constraint, "ab");
        assert!(constraint.is_complete());
        // A character is finished.
        let mut constraint = thinking("</t>", Some(3), None);
        assert_eq!(take(&mut constraint, "xyé"), ids("\n</t>\n"));
        take(&mut constraint, "anything");
        assert!(!constraint.is_complete());
    }

    #[test]
    fn what_must_come_behind_a_thought_comes() {
        let end = compiler().vocabulary.ends()[0];
        let ends = |answer| allows(&mut thinking("</t>", Some(9), answer), end);
        assert!(ends(None) && !ends(Some("ab")));
        // "end" would take two bytes of the answer with it.
        let mut constraint = thinking("xe", None, Some("ab"));
        let word = compiler().vocabulary.tokens("end")[0];
        assert!(allows(&mut constraint, word));
        take(&mut constraint, "x");
        assert!(!allows(&mut constraint, word));
        assert!(allows(&mut constraint, TokenId(b'e'.into())));
    }
}
