//! How many tokens a step may have, and who gets them.

use std::time::Duration;

/// Tokens of the first step that is to be short, before any was measured.
const UNMEASURED_TOKENS: f64 = 32.0;

/// How fast the estimate may change from one step to the next.
const MOST_CHANGE: f64 = 2.0;

/// How many tokens a step takes in a given time, from the steps that were measured.
///
/// A step of `n` tokens takes about `a + b·n`. Scaling its tokens by what is missing to the limit comes
/// nearer with every step, whatever `a` and `b` are and however they change.
#[derive(Debug)]
pub(super) struct Pace {
    limit: Duration,
    tokens: f64,
}

impl Pace {
    /// Nothing measured yet.
    pub(super) fn new(limit: Duration) -> Self {
        Self {
            limit,
            tokens: UNMEASURED_TOKENS,
        }
    }

    /// Tokens that a step may have to keep within the limit.
    pub(super) fn tokens(&self) -> usize {
        self.tokens as usize
    }

    /// A step of `tokens` tokens took `elapsed`.
    pub(super) fn observe(&mut self, tokens: usize, elapsed: Duration) {
        let (tokens, in_time) = (tokens as f64, elapsed <= self.limit);
        // A small step that is quick says little about a large one.
        if in_time && tokens < self.tokens / MOST_CHANGE {
            return;
        }
        let fitting = tokens * self.limit.as_secs_f64() / elapsed.as_secs_f64().max(1e-9);
        let slowest = (self.tokens / MOST_CHANGE).max(1.0);
        self.tokens = fitting.clamp(slowest, self.tokens * MOST_CHANGE);
    }
}

/// Shares `budget` tokens among sequences that want so many each, the one that came first first; there is
/// at least a token for each. Everyone gets one, so nobody stands still. Half of the rest is the first's
/// that wants more: a long prompt is not starved by short ones. What is left goes to those that need
/// least: a short prompt does not wait for a long one.
pub(super) fn share(wanted: &[usize], budget: usize) -> Vec<usize> {
    let mut shares: Vec<usize> = wanted.iter().map(|wanted| (*wanted).min(1)).collect();
    let mut left = budget.saturating_sub(shares.iter().sum());
    let mut give = |number: usize, most: usize| {
        let given = (wanted[number] - shares[number]).min(most);
        shares[number] += given;
        given
    };
    let first = wanted.iter().position(|wanted| *wanted > 1);
    left -= first.map_or(0, |first| give(first, left.div_ceil(2)));
    let mut by_need: Vec<usize> = (0..wanted.len()).collect();
    by_need.sort_by_key(|number| wanted[*number]);
    for number in by_need {
        left -= give(number, left);
    }
    shares
}

/// Shares `budget` tokens among sequences that are computed whole or not at all, the one that came first first: it has
/// all it wants, whatever the budget; those behind it, as far as there is room.
pub(super) fn share_whole(wanted: &[usize], budget: usize) -> Vec<usize> {
    let mut left = budget;
    let share = |(number, wanted): (usize, &usize)| match number == 0 || *wanted <= left {
        true => {
            left = left.saturating_sub(*wanted);
            *wanted
        }
        false => 0,
    };
    wanted.iter().enumerate().map(share).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(wanted: &[usize], budget: usize, shares: &[usize]) {
        assert_eq!(share(wanted, budget), shares);
    }

    #[test]
    fn decoding_sequences_come_first_and_no_prompt_stands_still() {
        check(&[1, 1, 1], 8, &[1, 1, 1]);
        check(&[1, 500, 1], 64, &[1, 62, 1]);
        check(&[500, 20, 1], 64, &[43, 20, 1]);
        check(&[500, 500], 65, &[64, 1]);
        check(&[500, 500], 2, &[1, 1]);
        check(&[], 8, &[]);
    }

    #[test]
    fn whole_sequences_have_all_or_nothing() {
        assert_eq!(share_whole(&[5, 4, 2, 1], 8), [5, 0, 2, 1]);
        assert_eq!(share_whole(&[9, 1, 1], 8), [9, 0, 0]);
        assert!(share_whole(&[], 8).is_empty());
    }

    proptest! {
        #[test]
        fn the_budget_is_spent_and_not_overspent(
            wanted in prop::collection::vec(1usize..300, 0..20), spare in 0usize..400,
        ) {
            let budget = wanted.len() + spare;
            let shares = share(&wanted, budget);
            prop_assert_eq!(shares.iter().sum::<usize>(), budget.min(wanted.iter().sum()));
            for (share, wanted) in shares.iter().zip(&wanted) {
                prop_assert!((1..=*wanted).contains(share));
            }
        }

        /// Whatever a step costs, soon none is longer than the limit, and none much shorter.
        #[test]
        fn steps_come_to_take_the_limit(fixed in 0.0f64..0.05, per_token in 0.0001f64..0.01) {
            let limit = Duration::from_millis(100);
            let mut pace = Pace::new(limit);
            let cost = |tokens: usize| Duration::from_secs_f64(fixed + per_token * tokens as f64);
            for _ in 0..40 {
                pace.observe(pace.tokens(), cost(pace.tokens()));
            }
            prop_assert!(cost(pace.tokens()) <= limit.mul_f64(1.01));
            prop_assert!(cost(pace.tokens() + 2) >= limit.mul_f64(0.95));
        }
    }
}
