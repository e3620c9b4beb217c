//! Speculative decoding by prompt lookup. The draft tokens are the tokens after the latest earlier occurrence of the
//! sequence's last n-gram. The step that computes the next token also computes the draft tokens and verifies them, so
//! the text is the same as without drafts.
//!
//! Source: Saxena, "Prompt Lookup Decoding" (2023).

use crate::token::TokenId;

/// Length of the n-gram, in tokens.
const NGRAM_TOKENS: usize = 3;
/// Number of most recent tokens that are searched for the n-gram.
const LOOKUP_WINDOW_TOKENS: usize = 1 << 14;
/// Maximum number of tokens to wait after consecutive drafts without an accepted token.
const MAX_BACKOFF_TOKENS: usize = 32;

/// The draft state of one sequence: rejected drafts make drafting rarer.
#[derive(Debug, Default)]
pub(super) struct PromptLookup {
    /// Number of tokens that drafting paused for after the last rejection; 0 after an acceptance.
    backoff_tokens: usize,
    /// Number of tokens still to wait before the next draft.
    wait_tokens: usize,
}

impl PromptLookup {
    /// Drafts `max_tokens` tokens to follow `tokens`. Drafts none during a pause, or if the last n-gram has no earlier
    /// occurrence.
    pub(super) fn draft(&self, tokens: &[TokenId], max_tokens: usize) -> Vec<TokenId> {
        if self.wait_tokens > 0 || max_tokens == 0 {
            return Vec::new();
        }
        let Some((before, ngram)) = tokens.split_last_chunk::<NGRAM_TOKENS>() else {
            return Vec::new();
        };
        let first = tokens.len().saturating_sub(LOOKUP_WINDOW_TOKENS);
        // Find the latest occurrence before the end: recent text is more likely to repeat.
        let windows = tokens[first..].windows(NGRAM_TOKENS);
        let start = windows
            .rev()
            .skip(1)
            .position(|window| window == ngram)
            .map(|back| before.len() - 1 - back);
        // If fewer than `max_tokens` tokens follow the occurrence, the draft repeats them.
        let continuation = start.map(|start| tokens[start + NGRAM_TOKENS..].iter().cycle());
        continuation
            .into_iter()
            .flatten()
            .take(max_tokens)
            .copied()
            .collect()
    }

    /// Adjusts the backoff after a step in which `accepted` of `drafted` draft tokens were accepted.
    pub(super) fn observe(&mut self, drafted: usize, accepted: usize) {
        self.wait_tokens = self.wait_tokens.saturating_sub(1);
        match (drafted, accepted) {
            (0, _) => {}
            (_, 0) => {
                self.backoff_tokens = (2 * self.backoff_tokens + 1).min(MAX_BACKOFF_TOKENS);
                self.wait_tokens = self.backoff_tokens;
            }
            _ => self.backoff_tokens = 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tokens: &[u32], max_tokens: usize, expected: &[u32]) {
        let tokens: Vec<TokenId> = tokens.iter().copied().map(TokenId).collect();
        let draft = PromptLookup::default().draft(&tokens, max_tokens);
        let draft: Vec<u32> = draft.into_iter().map(|token| token.0).collect();
        assert_eq!(draft, expected);
    }

    #[test]
    fn drafts_the_continuation_of_a_repeated_ngram() {
        check(&[1, 2, 3, 4, 5, 6, 1, 2, 3], 2, &[4, 5]);
        // The latest occurrence counts.
        check(&[1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 5, &[5, 1, 2, 3, 5]);
        check(&[7, 7, 7, 7], 3, &[7, 7, 7]);
        check(&[1, 2, 3, 4, 2, 3], 3, &[]);
        check(&[1, 2, 3], 3, &[]);
        check(&[], 3, &[]);
        check(&[1, 2, 3, 4, 1, 2, 3], 0, &[]);
    }

    #[test]
    fn rejected_drafts_make_drafting_rarer() {
        let tokens = [1, 2, 3, 4, 1, 2, 3].map(TokenId);
        let mut lookup = PromptLookup::default();
        let mut steps = Vec::new();
        for step in 0..16 {
            let drafted = lookup.draft(&tokens, 1).len();
            steps.extend((drafted > 0).then_some(step));
            // Only the draft of step 6 is accepted.
            lookup.observe(drafted, usize::from(step == 6));
        }
        assert_eq!(steps, [0, 2, 6, 7, 9, 13]);
    }
}
