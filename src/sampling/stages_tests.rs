use proptest::prelude::*;

use super::*;

/// Fills in the logarithms of `probabilities`, applies the stage and compares what is left, in the
/// stage's own order, as (id, probability).
#[track_caller]
fn check(probabilities: &[f32], stage: impl Fn(&mut Candidates), expected: &[(u32, f64)]) {
    let mut candidates = filled(probabilities);
    stage(&mut candidates);
    let left = distribution(&candidates);
    assert_eq!(left.len(), expected.len(), "{left:?}");
    for (left, expected) in left.iter().zip(expected) {
        assert_eq!(left.0, expected.0);
        assert!((left.1 - expected.1).abs() < 1e-6, "{left:?}, {expected:?}");
    }
}

fn filled(probabilities: &[f32]) -> Candidates {
    let logits: Vec<f32> = probabilities.iter().map(|share| share.ln()).collect();
    let mut candidates = Candidates::default();
    candidates.fill(&logits);
    candidates
}

fn distribution(candidates: &Candidates) -> Vec<(u32, f64)> {
    let highest = candidates.highest();
    let weights = candidates
        .entries
        .iter()
        .map(|entry| (entry.token.0, f64::from(entry.logit - highest).exp()));
    let sum: f64 = weights.clone().map(|(_, weight)| weight).sum();
    weights.map(|(id, weight)| (id, weight / sum)).collect()
}

fn left(candidates: &Candidates) -> Vec<u32> {
    let mut ids: Vec<u32> = candidates
        .entries
        .iter()
        .map(|entry| entry.token.0)
        .collect();
    ids.sort_unstable();
    ids
}

#[test]
fn top_k_keeps_the_first_in_order() {
    check(
        &[0.1, 0.4, 0.2, 0.3],
        |all| top_k(all, 2),
        &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)],
    );
    check(&[0.1, 0.4, 0.2, 0.3], |all| top_k(all, 0), &[(1, 1.0)]);
    check(&[0.25, 0.75], |all| top_k(all, 9), &[(1, 0.75), (0, 0.25)]);
    // Of equals the lower ids stay.
    check(&[0.1; 10], |all| top_k(all, 2), &[(0, 0.5), (1, 0.5)]);
}

#[test]
fn top_n_sigma_keeps_what_is_near_the_highest_logit() {
    let mut candidates = Candidates::default();
    // Their mean is 2, their standard deviation √((4+1+1+4)/5) = √2; what is impossible does not count.
    candidates.fill(&[0.0, 1.0, 3.0, 4.0, 2.0, f32::NEG_INFINITY]);
    top_n_sigma(&mut candidates, 1.0, 0);
    assert_eq!(left(&candidates), [2, 3]);
    let mut candidates = Candidates::default();
    candidates.fill(&[0.0, 1.0, 3.0, 4.0, 2.0]);
    top_n_sigma(&mut candidates, 0.0, 0);
    assert_eq!(candidates.entries.len(), 5);
    top_n_sigma(&mut candidates, 0.1, 3);
    assert_eq!(left(&candidates), [2, 3, 4]);
}

#[test]
fn tail_free_cuts_where_the_curve_has_bent() {
    // Slopes 0.1, 0.2, 0.05, 0.05: bends 0.1, 0.15, 0, of which the first has 0.4, both all.
    let shares = [0.4, 0.3, 0.1, 0.05, 0.0001];
    let sum: f32 = shares.iter().sum();
    let whole = shares.map(|share| share / sum);
    check(&whole, |all| tail_free(all, 1.0, 0), &by_rank(&whole, 5));
    check(&whole, |all| tail_free(all, 0.5, 0), &by_rank(&whole, 1));
    check(&whole, |all| tail_free(all, 0.5, 3), &by_rank(&whole, 3));
    check(&whole, |all| tail_free(all, 0.0, 0), &by_rank(&whole, 1));
    // A straight line bends nowhere.
    check(
        &[0.25; 4],
        |all| tail_free(all, 0.4, 0),
        &by_rank(&[0.25; 4], 1),
    );
}

/// The first `count` of shares that fall, as they are after the others are gone.
fn by_rank(shares: &[f32], count: usize) -> Vec<(u32, f64)> {
    let sum: f64 = shares[..count].iter().map(|share| f64::from(*share)).sum();
    (0..)
        .zip(&shares[..count])
        .map(|(id, share)| (id, f64::from(*share) / sum))
        .collect()
}

#[test]
fn typical_keeps_the_expected_surprise() {
    // Entropy 1.943 bits. Surprises 1, 2.32, 2.74, 3.06 bits: the nearest is the second, then the third, then
    // the first.
    let shares = [0.5, 0.2, 0.15, 0.12, 0.03];
    let of = |ids: &[u32]| -> Vec<(u32, f64)> {
        let sum: f64 = ids.iter().map(|id| f64::from(shares[*id as usize])).sum();
        ids.iter()
            .map(|id| (*id, f64::from(shares[*id as usize]) / sum))
            .collect()
    };
    check(&shares, |all| typical(all, 0.1, 0), &of(&[1]));
    check(&shares, |all| typical(all, 0.3, 0), &of(&[1, 2]));
    check(&shares, |all| typical(all, 0.4, 0), &of(&[0, 1, 2]));
    check(&shares, |all| typical(all, 0.1, 4), &of(&[0, 1, 2, 3]));
    check(
        &[0.25, 0.75],
        |all| typical(all, 1.0, 0),
        &[(0, 0.25), (1, 0.75)],
    );
}

#[test]
fn the_least_probable_of_the_top_choices_stays() {
    let shares = [0.4, 0.3, 0.2, 0.1];
    check(
        &shares,
        |all| exclude_top(all, 0.15, 0),
        &[(2, 2.0 / 3.0), (3, 1.0 / 3.0)],
    );
    // One alone is no choice; nor may too few be left.
    check(
        &shares,
        |all| exclude_top(all, 0.35, 0),
        &by_rank(&shares, 4),
    );
    check(
        &shares,
        |all| exclude_top(all, 0.6, 0),
        &by_rank(&shares, 4),
    );
    check(
        &shares,
        |all| exclude_top(all, 0.15, 3),
        &by_rank(&shares, 4),
    );
}

#[test]
fn the_temperature_follows_how_sure_the_model_is() {
    let temperature =
        |shares: &[f32], exponent| dynamic_temperature(&filled(shares), 0.5, 1.5, exponent);
    assert!((temperature(&[0.25; 4], 1.0) - 1.5).abs() < 1e-6);
    assert!((temperature(&[1.0, 0.0, 0.0, 0.0], 1.0) - 0.5).abs() < 1e-6);
    // Half of the entropy that four could have, and a quarter of the way with the exponent 2.
    assert!((temperature(&[0.5, 0.5, 0.0, 0.0], 1.0) - 1.0).abs() < 1e-6);
    assert!((temperature(&[0.5, 0.5, 0.0, 0.0], 2.0) - 0.75).abs() < 1e-6);
}

#[test]
fn top_p_keeps_the_token_that_crosses_the_line() {
    let shares = [0.1, 0.4, 0.2, 0.3];
    check(
        &shares,
        |all| top_p(all, 0.5, 0),
        &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)],
    );
    check(&shares, |all| top_p(all, 0.0, 0), &[(1, 1.0)]);
    check(
        &shares,
        |all| top_p(all, 0.0, 2),
        &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)],
    );
    check(
        &[0.25, 0.75],
        |all| top_p(all, 1.0, 0),
        &[(0, 0.25), (1, 0.75)],
    );
    check(
        &[0.25, 0.75],
        |all| top_p(all, f32::NAN, 0),
        &[(0, 0.25), (1, 0.75)],
    );
}

#[test]
fn min_p_measures_by_the_highest() {
    let shares = [0.1, 0.4, 0.21, 0.29];
    check(
        &shares,
        |all| min_p(all, 0.5, 0),
        &[(1, 0.4 / 0.9), (2, 0.21 / 0.9), (3, 0.29 / 0.9)],
    );
    check(&shares, |all| min_p(all, 7.0, 0), &[(1, 1.0)]);
    check(
        &shares,
        |all| min_p(all, 1.0, 2),
        &[(1, 0.4 / 0.69), (3, 0.29 / 0.69)],
    );
    check(
        &[0.25, 0.75],
        |all| min_p(all, 0.0, 0),
        &[(0, 0.25), (1, 0.75)],
    );
}

#[test]
fn temperature_raises_probabilities_to_a_power() {
    check(
        &[0.2, 0.8],
        |all| temperature(all, 0.5),
        &[(0, 0.04 / 0.68), (1, 0.64 / 0.68)],
    );
    check(
        &[0.2, 0.8],
        |all| temperature(all, f32::INFINITY),
        &[(0, 0.5), (1, 0.5)],
    );
    check(
        &[0.2, 0.8],
        |all| temperature(all, f32::MIN_POSITIVE),
        &[(0, 0.0), (1, 1.0)],
    );
}

#[test]
fn each_takes_room_by_its_probability() {
    for (uniform, expected) in [
        (0.0, 0),
        (0.09, 0),
        (0.11, 1),
        (0.49, 1),
        (0.51, 2),
        (0.999, 2),
    ] {
        let mut candidates = filled(&[0.1, 0.4, 0.5]);
        assert_eq!(
            draw(&mut candidates, uniform),
            TokenId(expected),
            "{uniform}"
        );
    }
}

#[test]
fn the_most_probable_is_the_first_of_equals() {
    assert_eq!(most_probable(&[1.0, 3.0, 3.0, 2.0]), TokenId(1));
    assert_eq!(most_probable(&[f32::NAN, -1.0, f32::NAN]), TokenId(1));
    assert_eq!(most_probable(&[f32::NAN, f32::NAN]), TokenId(0));
}

/// Logits with many ties, in numbers around the stages' own constants.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(
        (-40_i8..40).prop_map(|level| f32::from(level) / 4.0),
        1..2000,
    )
}

fn in_order(logits: &[f32]) -> Vec<Candidate> {
    let mut all = Candidates::default();
    all.fill(logits);
    all.entries.sort_by(Candidate::order);
    all.entries
}

proptest! {
    #[test]
    fn top_k_keeps_what_a_full_sort_puts_first(logits in logits(), count in 1_usize..300) {
        let mut candidates = Candidates::default();
        candidates.fill(&logits);
        top_k(&mut candidates, count);
        let mut expected = in_order(&logits);
        expected.truncate(count);
        prop_assert_eq!(candidates.entries, expected);
    }

    #[test]
    fn top_p_keeps_what_a_full_sort_says(
        logits in logits(), share in 0.0_f32..1.0, min_keep in 0_usize..5, after_top_k in any::<bool>(),
    ) {
        let mut candidates = Candidates::default();
        candidates.fill(&logits);
        let mut expected = in_order(&logits);
        if after_top_k {
            top_k(&mut candidates, 100);
            expected.truncate(100);
        }
        top_p(&mut candidates, share, min_keep);

        let weight = |entry: &Candidate| f64::from(entry.logit).exp();
        let total: f64 = expected.iter().map(weight).sum();
        let kept = candidates.entries.len();
        let before_last: f64 = expected[..kept - 1].iter().map(weight).sum();
        let with_last = before_last + weight(&expected[kept - 1]);
        let line = f64::from(share) * total;
        prop_assert_eq!(&candidates.entries[..], &expected[..kept]);
        prop_assert!(with_last > line * (1.0 - 1e-5));
        prop_assert!(kept <= min_keep || before_last < line * (1.0 + 1e-5));
        prop_assert!(kept >= min_keep.min(expected.len()));
    }

    #[test]
    fn min_p_keeps_what_a_full_sort_says(logits in logits(), share in 0.01_f32..1.0, min_keep in 0_usize..5) {
        let mut candidates = Candidates::default();
        candidates.fill(&logits);
        min_p(&mut candidates, share, min_keep);
        let expected = in_order(&logits);
        let least = expected[0].logit + share.ln();
        let mut ids: Vec<u32> = expected
            .iter()
            .enumerate()
            .filter(|(place, entry)| entry.logit >= least || *place < min_keep)
            .map(|(_, entry)| entry.token.0)
            .collect();
        ids.sort_unstable();
        prop_assert_eq!(left(&candidates), ids);
    }

    #[test]
    fn no_stage_leaves_nothing_and_probabilities_sum_to_one(
        logits in prop::collection::vec(any::<f32>(), 1..600),
        count in 0_usize..50,
        (top, min, heat) in (any::<f32>(), any::<f32>(), any::<f32>()),
        uniform in 0.0_f64..1.0,
    ) {
        let mut candidates = Candidates::default();
        candidates.fill(&logits);
        top_k(&mut candidates, count);
        top_p(&mut candidates, top, 0);
        min_p(&mut candidates, min, 0);
        prop_assert!(!candidates.entries.is_empty());
        if heat > 0.0 {
            temperature(&mut candidates, heat);
        }
        let token = draw(&mut candidates, uniform);
        prop_assert!(left(&candidates).contains(&token.0));
        if candidates.highest() > f32::NEG_INFINITY {
            let sum: f64 = distribution(&candidates).iter().map(|(_, share)| share).sum();
            prop_assert!((sum - 1.0).abs() < 1e-9);
        }
    }
}
