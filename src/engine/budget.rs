//! Splits a step's token budget among the sequences.

/// Splits `budget` tokens among sequences, sorted by scheduling priority. Each sequence has `wanted` tokens to compute.
/// Returns the number of tokens for each sequence.
///
/// 1. Each sequence gets one token. If the budget is too small for that, the first sequence gets a token first, then
///    the others by ascending number of wanted tokens.
/// 2. Half of the remaining budget goes to the first sequence that wants more tokens, so that short prompts do not
///    starve a long one.
/// 3. The rest goes to the sequences with the fewest wanted tokens, so that a short prompt does not wait for a long
///    one.
pub(super) fn share(wanted: &[usize], budget: usize) -> Vec<usize> {
    let mut shares = vec![0; wanted.len()];
    let mut left = budget;
    let mut give = |index: usize, max_tokens: usize| {
        let given = (wanted[index] - shares[index]).min(max_tokens);
        shares[index] += given;
        given
    };
    let mut by_need: Vec<usize> = (0..wanted.len()).collect();
    by_need.sort_by_key(|index| wanted[*index]);
    let first = wanted.iter().position(|wanted| *wanted > 0);
    let others = by_need.iter().copied();
    let others = others.filter(|index| Some(*index) != first);
    for index in first.into_iter().chain(others) {
        left -= give(index, left.min(1));
    }
    let prompt = wanted.iter().position(|wanted| *wanted > 1);
    left -= prompt.map_or(0, |prompt| give(prompt, left.div_ceil(2)));
    for index in by_need {
        left -= give(index, left);
    }
    shares
}

/// Splits `budget` tokens among sequences whose tokens must be computed in a single step. The first sequence gets all
/// its tokens even if they exceed the budget. Each later sequence gets all its tokens if they fit, otherwise none.
pub(super) fn share_whole(wanted: &[usize], budget: usize) -> Vec<usize> {
    let mut left = budget;
    let share = |(index, wanted): (usize, &usize)| match index == 0 || *wanted <= left {
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
    fn each_sequence_gets_a_token_and_prompts_share_the_rest() {
        check(&[1, 1, 1], 8, &[1, 1, 1]);
        check(&[1, 500, 1], 64, &[1, 62, 1]);
        check(&[500, 20, 1], 64, &[43, 20, 1]);
        check(&[500, 500], 65, &[64, 1]);
        check(&[500, 500], 2, &[1, 1]);
        check(&[500, 20, 500, 3], 2, &[1, 0, 0, 1]);
        check(&[0, 500, 20], 1, &[0, 1, 0]);
        check(&[0, 500, 20], 0, &[0, 0, 0]);
        check(&[], 8, &[]);
    }

    #[test]
    fn whole_prompts_get_all_their_tokens_or_none() {
        assert_eq!(share_whole(&[5, 4, 2, 1], 8), [5, 0, 2, 1]);
        assert_eq!(share_whole(&[9, 1, 1], 8), [9, 0, 0]);
        assert!(share_whole(&[], 8).is_empty());
    }

    proptest! {
        #[test]
        fn exactly_the_budget_is_spent(
            wanted in prop::collection::vec(0usize..300, 0..20), budget in 0usize..400,
        ) {
            let shares = share(&wanted, budget);
            prop_assert_eq!(shares.iter().sum::<usize>(), budget.min(wanted.iter().sum()));
            for (share, wanted_tokens) in shares.iter().zip(&wanted) {
                let min = usize::from(budget >= wanted.len() && *wanted_tokens > 0);
                prop_assert!((min..=*wanted_tokens).contains(share));
            }
        }
    }
}
