//! Which sequences get how many of the tokens that a step may have.

/// Shares `budget` tokens among sequences that want so many each, in the order of their rank. Each gets one; of a smaller
/// budget, first the first sequence, then those that want least. Half of the rest is for the first that wants more: short
/// prompts do not starve a long one. What remains goes to those that want least: a short prompt does not wait for a long one.
pub(super) fn share(wanted: &[usize], budget: usize) -> Vec<usize> {
    let mut shares = vec![0; wanted.len()];
    let mut left = budget;
    let mut give = |number: usize, most: usize| {
        let given = (wanted[number] - shares[number]).min(most);
        shares[number] += given;
        given
    };
    let mut by_need: Vec<usize> = (0..wanted.len()).collect();
    by_need.sort_by_key(|number| wanted[*number]);
    let front = wanted.iter().position(|wanted| *wanted > 0);
    let behind = by_need.iter().copied();
    let behind = behind.filter(|number| Some(*number) != front);
    for number in front.into_iter().chain(behind) {
        left -= give(number, left.min(1));
    }
    let first = wanted.iter().position(|wanted| *wanted > 1);
    left -= first.map_or(0, |first| give(first, left.div_ceil(2)));
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
        check(&[500, 20, 500, 3], 2, &[1, 0, 0, 1]);
        check(&[0, 500, 20], 1, &[0, 1, 0]);
        check(&[0, 500, 20], 0, &[0, 0, 0]);
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
            wanted in prop::collection::vec(0usize..300, 0..20), budget in 0usize..400,
        ) {
            let shares = share(&wanted, budget);
            prop_assert_eq!(shares.iter().sum::<usize>(), budget.min(wanted.iter().sum()));
            for (share, most) in shares.iter().zip(&wanted) {
                let least = usize::from(budget >= wanted.len() && *most > 0);
                prop_assert!((least..=*most).contains(share));
            }
        }
    }
}
