//! Tests of the stages: small distributions with known results, and comparisons with a full sort.

use proptest::prelude::*;

use super::*;

/// Applies a stage to candidates with `probabilities`. Checks the remaining candidates, as pairs of id and probability
/// in the order in which the stage leaves them.
#[track_caller]
fn check(probabilities: &[f32], stage: impl Fn(&mut Candidates), expected: &[(u32, f64)]) {
    let mut candidates = filled(probabilities);
    stage(&mut candidates);
    let remaining = distribution(&candidates);
    assert_eq!(remaining.len(), expected.len(), "{remaining:?}");
    for (actual, expected) in remaining.iter().zip(expected) {
        assert_eq!(actual.0, expected.0);
        assert!(
            (actual.1 - expected.1).abs() < 1e-6,
            "{actual:?}, {expected:?}"
        );
    }
}

fn filled(probabilities: &[f32]) -> Candidates {
    let logits: Vec<f32> = probabilities
        .iter()
        .map(|probability| probability.ln())
        .collect();
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

fn remaining_ids(candidates: &Candidates) -> Vec<u32> {
    let mut ids: Vec<u32> = candidates
        .entries
        .iter()
        .map(|entry| entry.token.0)
        .collect();
    ids.sort_unstable();
    ids
}

#[test]
fn top_k_keeps_the_most_probable_tokens_in_order() {
    check(
        &[0.1, 0.4, 0.2, 0.3],
        |all| top_k(all, 2),
        &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)],
    );
    check(&[0.1, 0.4, 0.2, 0.3], |all| top_k(all, 0), &[(1, 1.0)]);
    check(&[0.25, 0.75], |all| top_k(all, 9), &[(1, 0.75), (0, 0.25)]);
    // Of equally probable tokens, those with lower ids are kept.
    check(&[0.1; 10], |all| top_k(all, 2), &[(0, 0.5), (1, 0.5)]);
}

#[test]
fn top_n_sigma_keeps_tokens_near_the_highest_logit() {
    let mut candidates = Candidates::default();
    // The mean is 2, the standard deviation √((4+1+1+4)/5) = √2; the excluded token does not count.
    candidates.fill(&[0.0, 1.0, 3.0, 4.0, 2.0, f32::NEG_INFINITY]);
    top_n_sigma(&mut candidates, 1.0, 0);
    assert_eq!(remaining_ids(&candidates), [2, 3]);
    let mut candidates = Candidates::default();
    candidates.fill(&[0.0, 1.0, 3.0, 4.0, 2.0]);
    top_n_sigma(&mut candidates, 0.0, 0);
    assert_eq!(candidates.entries.len(), 5);
    top_n_sigma(&mut candidates, 0.1, 3);
    assert_eq!(remaining_ids(&candidates), [2, 3, 4]);
}

#[test]
fn tail_free_cuts_the_tail_by_curvature() {
    // The first differences are 0.1, 0.2, 0.05, 0.05 and the curvatures 0.1, 0.15, 0: the first is 0.4 of the total,
    // the first two are all of it.
    let probabilities = [0.4, 0.3, 0.1, 0.05, 0.0001];
    let sum: f32 = probabilities.iter().sum();
    let normalized = probabilities.map(|probability| probability / sum);
    check(
        &normalized,
        |all| tail_free(all, 1.0, 0),
        &by_rank(&normalized, 5),
    );
    check(
        &normalized,
        |all| tail_free(all, 0.5, 0),
        &by_rank(&normalized, 1),
    );
    check(
        &normalized,
        |all| tail_free(all, 0.5, 3),
        &by_rank(&normalized, 3),
    );
    check(
        &normalized,
        |all| tail_free(all, 0.0, 0),
        &by_rank(&normalized, 1),
    );
    // A straight line has no curvature.
    check(
        &[0.25; 4],
        |all| tail_free(all, 0.4, 0),
        &by_rank(&[0.25; 4], 1),
    );
}

/// Returns the first `count` of `probabilities`, which are in descending order, normalized to a sum of 1.
fn by_rank(probabilities: &[f32], count: usize) -> Vec<(u32, f64)> {
    let sum: f64 = probabilities[..count]
        .iter()
        .map(|probability| f64::from(*probability))
        .sum();
    (0..)
        .zip(&probabilities[..count])
        .map(|(id, probability)| (id, f64::from(*probability) / sum))
        .collect()
}

#[test]
fn typical_keeps_the_tokens_nearest_to_the_entropy() {
    // The entropy is 1.943 bits, the surprises are 1, 2.32, 2.74 and 3.06 bits. The second token is nearest, then the
    // third, then the first.
    let probabilities = [0.5, 0.2, 0.15, 0.12, 0.03];
    let of = |ids: &[u32]| -> Vec<(u32, f64)> {
        let sum: f64 = ids
            .iter()
            .map(|id| f64::from(probabilities[*id as usize]))
            .sum();
        ids.iter()
            .map(|id| (*id, f64::from(probabilities[*id as usize]) / sum))
            .collect()
    };
    check(&probabilities, |all| typical(all, 0.1, 0), &of(&[1]));
    check(&probabilities, |all| typical(all, 0.3, 0), &of(&[1, 2]));
    check(&probabilities, |all| typical(all, 0.4, 0), &of(&[0, 1, 2]));
    check(
        &probabilities,
        |all| typical(all, 0.1, 4),
        &of(&[0, 1, 2, 3]),
    );
    check(
        &[0.25, 0.75],
        |all| typical(all, 1.0, 0),
        &[(0, 0.25), (1, 0.75)],
    );
}

#[test]
fn xtc_keeps_the_least_probable_of_the_top_choices() {
    let probabilities = [0.4, 0.3, 0.2, 0.1];
    check(
        &probabilities,
        |all| xtc(all, 0.15, 0),
        &[(2, 2.0 / 3.0), (3, 1.0 / 3.0)],
    );
    // Nothing is removed if only one token reaches the threshold, or if fewer than `min_keep` would remain.
    check(
        &probabilities,
        |all| xtc(all, 0.35, 0),
        &by_rank(&probabilities, 4),
    );
    check(
        &probabilities,
        |all| xtc(all, 0.6, 0),
        &by_rank(&probabilities, 4),
    );
    check(
        &probabilities,
        |all| xtc(all, 0.15, 3),
        &by_rank(&probabilities, 4),
    );
}

#[test]
fn the_dynamic_temperature_follows_the_entropy() {
    let temperature = |probabilities: &[f32], exponent| {
        dynamic_temperature(&filled(probabilities), 0.5, 1.5, exponent)
    };
    assert!((temperature(&[0.25; 4], 1.0) - 1.5).abs() < 1e-6);
    assert!((temperature(&[1.0, 0.0, 0.0, 0.0], 1.0) - 0.5).abs() < 1e-6);
    // The normalized entropy is 0.5, and 0.25 with the exponent 2.
    assert!((temperature(&[0.5, 0.5, 0.0, 0.0], 1.0) - 1.0).abs() < 1e-6);
    assert!((temperature(&[0.5, 0.5, 0.0, 0.0], 2.0) - 0.75).abs() < 1e-6);
}

#[test]
fn top_p_keeps_the_token_that_reaches_the_sum() {
    let probabilities = [0.1, 0.4, 0.2, 0.3];
    check(
        &probabilities,
        |all| top_p(all, 0.5, 0),
        &[(1, 4.0 / 7.0), (3, 3.0 / 7.0)],
    );
    check(&probabilities, |all| top_p(all, 0.0, 0), &[(1, 1.0)]);
    check(
        &probabilities,
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
fn min_p_is_relative_to_the_highest_probability() {
    let probabilities = [0.1, 0.4, 0.21, 0.29];
    check(
        &probabilities,
        |all| min_p(all, 0.5, 0),
        &[(1, 0.4 / 0.9), (2, 0.21 / 0.9), (3, 0.29 / 0.9)],
    );
    check(&probabilities, |all| min_p(all, 7.0, 0), &[(1, 1.0)]);
    check(
        &probabilities,
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
fn draw_inverts_the_cumulative_distribution() {
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
fn argmax_returns_the_lowest_id_of_equal_logits() {
    assert_eq!(argmax(&[1.0, 3.0, 3.0, 2.0]), TokenId(1));
    assert_eq!(argmax(&[f32::NAN, -1.0, f32::NAN]), TokenId(1));
    assert_eq!(argmax(&[f32::NAN, f32::NAN]), TokenId(0));
}

/// Logits with many ties. Some vectors are shorter and some are longer than the constants of the stages.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(
        (-40_i8..40).prop_map(|level| f32::from(level) / 4.0),
        1..2000,
    )
}

fn sorted(logits: &[f32]) -> Vec<Candidate> {
    let mut all = Candidates::default();
    all.fill(logits);
    all.entries.sort_by(Candidate::order);
    all.entries
}

proptest! {
    #[test]
    fn top_k_equals_a_full_sort(logits in logits(), count in 1_usize..300) {
        let mut candidates = Candidates::default();
        candidates.fill(&logits);
        top_k(&mut candidates, count);
        let mut expected = sorted(&logits);
        expected.truncate(count);
        prop_assert_eq!(candidates.entries, expected);
    }

    #[test]
    fn top_p_equals_a_full_sort(
        logits in logits(), p in 0.0_f32..1.0, min_keep in 0_usize..5, after_top_k in any::<bool>(),
    ) {
        let mut candidates = Candidates::default();
        candidates.fill(&logits);
        let mut expected = sorted(&logits);
        if after_top_k {
            top_k(&mut candidates, 100);
            expected.truncate(100);
        }
        top_p(&mut candidates, p, min_keep);

        let weight = |entry: &Candidate| f64::from(entry.logit).exp();
        let total: f64 = expected.iter().map(weight).sum();
        let kept = candidates.entries.len();
        let before_last: f64 = expected[..kept - 1].iter().map(weight).sum();
        let with_last = before_last + weight(&expected[kept - 1]);
        let target = f64::from(p) * total;
        prop_assert_eq!(&candidates.entries[..], &expected[..kept]);
        prop_assert!(with_last > target * (1.0 - 1e-5));
        prop_assert!(kept <= min_keep || before_last < target * (1.0 + 1e-5));
        prop_assert!(kept >= min_keep.min(expected.len()));
    }

    #[test]
    fn min_p_equals_a_full_sort(logits in logits(), p in 0.01_f32..1.0, min_keep in 0_usize..5) {
        let mut candidates = Candidates::default();
        candidates.fill(&logits);
        min_p(&mut candidates, p, min_keep);
        let expected = sorted(&logits);
        let min_logit = expected[0].logit + p.ln();
        let mut ids: Vec<u32> = expected
            .iter()
            .enumerate()
            .filter(|(index, entry)| entry.logit >= min_logit || *index < min_keep)
            .map(|(_, entry)| entry.token.0)
            .collect();
        ids.sort_unstable();
        prop_assert_eq!(remaining_ids(&candidates), ids);
    }

    #[test]
    fn candidates_remain_and_their_probabilities_sum_to_one(
        logits in prop::collection::vec(any::<f32>(), 1..600),
        count in 0_usize..50,
        (top_p_value, min_p_value, divisor) in (any::<f32>(), any::<f32>(), any::<f32>()),
        uniform in 0.0_f64..1.0,
    ) {
        let mut candidates = Candidates::default();
        candidates.fill(&logits);
        top_k(&mut candidates, count);
        top_p(&mut candidates, top_p_value, 0);
        min_p(&mut candidates, min_p_value, 0);
        prop_assert!(!candidates.entries.is_empty());
        if divisor > 0.0 {
            temperature(&mut candidates, divisor);
        }
        let token = draw(&mut candidates, uniform);
        prop_assert!(remaining_ids(&candidates).contains(&token.0));
        if candidates.highest() > f32::NEG_INFINITY {
            let sum: f64 = distribution(&candidates).iter().map(|(_, probability)| probability).sum();
            prop_assert!((sum - 1.0).abs() < 1e-9);
        }
    }
}
