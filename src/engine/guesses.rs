//! What may come next, guessed from the text itself: where its last tokens stood before, what stood behind them. A guess is
//! computed together with the token that is wanted, and its logits decide whether it was right: the text is the same with and
//! without it.
//!
//! Source: Saxena, "Prompt Lookup Decoding" (2023).

use crate::token::TokenId;

/// Tokens that must stand in both places.
const AGREEING: usize = 3;
/// Most tokens that are looked back.
const FARTHEST: usize = 1 << 14;
/// Most tokens that are waited after guesses of which none was right.
const LONGEST_WAIT: usize = 32;

/// Guesses of one sequence: where they are wrong, they become rare.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    /// How many tokens are waited after the next failure; 0 after success.
    patience: usize,
    /// How many tokens are waited still.
    waiting: usize,
}

impl Guesses {
    /// `most` tokens that may come behind `tokens`, or none.
    pub(super) fn behind(&self, tokens: &[TokenId], most: usize) -> Vec<TokenId> {
        if self.waiting > 0 || most == 0 {
            return Vec::new();
        }
        let Some((before, last)) = tokens.split_last_chunk::<AGREEING>() else {
            return Vec::new();
        };
        let first = tokens.len().saturating_sub(FARTHEST);
        // The latest place but the end itself: what is said now is likelier to go on as it did a moment ago.
        let places = tokens[first..].windows(AGREEING);
        let place = places
            .rev()
            .skip(1)
            .position(|window| window == last)
            .map(|back| before.len() - 1 - back);
        // What goes round in less than `most` tokens goes round again.
        let behind = place.map(|place| tokens[place + AGREEING..].iter().cycle());
        behind.into_iter().flatten().take(most).copied().collect()
    }

    /// `right` of `guessed` tokens came, and one more.
    pub(super) fn observe(&mut self, guessed: usize, right: usize) {
        self.waiting = self.waiting.saturating_sub(1);
        match (guessed, right) {
            (0, _) => {}
            (_, 0) => {
                self.patience = (2 * self.patience + 1).min(LONGEST_WAIT);
                self.waiting = self.patience;
            }
            _ => self.patience = 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(tokens: &[u32], most: usize, guessed: &[u32]) {
        let tokens: Vec<TokenId> = tokens.iter().copied().map(TokenId).collect();
        let found = Guesses::default().behind(&tokens, most);
        let found: Vec<u32> = found.into_iter().map(|token| token.0).collect();
        assert_eq!(found, guessed);
    }

    #[test]
    fn what_followed_the_last_tokens_before_is_guessed() {
        check(&[1, 2, 3, 4, 5, 6, 1, 2, 3], 2, &[4, 5]);
        // The latest place.
        check(&[1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], 5, &[5, 1, 2, 3, 5]);
        check(&[7, 7, 7, 7], 3, &[7, 7, 7]);
        check(&[1, 2, 3, 4, 2, 3], 3, &[]);
        check(&[1, 2, 3], 3, &[]);
        check(&[], 3, &[]);
        check(&[1, 2, 3, 4, 1, 2, 3], 0, &[]);
    }

    #[test]
    fn wrong_guesses_make_the_next_ones_rare() {
        let tokens = [1, 2, 3, 4, 1, 2, 3].map(TokenId);
        let mut guesses = Guesses::default();
        let mut steps = Vec::new();
        for step in 0..16 {
            let guessed = guesses.behind(&tokens, 1).len();
            steps.extend((guessed > 0).then_some(step));
            // One is right.
            guesses.observe(guessed, usize::from(step == 6));
        }
        assert_eq!(steps, [0, 2, 6, 7, 9, 13]);
    }
}
