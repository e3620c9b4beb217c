use proptest::prelude::*;

use super::stages::*;
use super::*;

/// Logits of these probabilities.
fn logits(probabilities: &[f64]) -> Vec<f32> {
    probabilities
        .iter()
        .map(|probability| probability.ln() as f32)
        .collect()
}

fn kept(candidates: &Candidates) -> Vec<u32> {
    let mut tokens: Vec<u32> = candidates
        .entries()
        .iter()
        .map(|candidate| candidate.token.0)
        .collect();
    tokens.sort_unstable();
    tokens
}

/// Which tokens a stage leaves of four with the probabilities 0.1, 0.4, 0.2, 0.3.
#[track_caller]
fn check(stage: impl FnOnce(&mut Candidates), wanted: &[u32]) {
    let mut candidates = Candidates::default();
    candidates.fill(&logits(&[0.1, 0.4, 0.2, 0.3]));
    stage(&mut candidates);
    assert_eq!(kept(&candidates), wanted);
}

#[test]
fn stages_keep_what_they_are_to_keep() {
    check(|c| top_k(c, 2), &[1, 3]);
    check(|c| top_k(c, 9), &[0, 1, 2, 3]);
    check(|c| top_p(c, 0.69, 0), &[1, 3]);
    check(|c| top_p(c, 0.71, 0), &[1, 2, 3]);
    check(|c| top_p(c, 0.0, 0), &[1]);
    check(|c| top_p(c, 0.0, 3), &[1, 2, 3]);
    check(|c| min_p(c, 0.49, 0), &[1, 2, 3]);
    check(|c| min_p(c, 0.51, 0), &[1, 3]);
    check(|c| min_p(c, 1.0, 0), &[1]);
    check(|c| min_p(c, 1.0, 2), &[1, 3]);
    // The order matters: of the two that top-k leaves, the first has 4/7.
    check(
        |c| {
            top_k(c, 2);
            top_p(c, 0.5, 0);
        },
        &[1],
    );
}

#[test]
fn the_choice_follows_the_distribution() {
    let mut candidates = Candidates::default();
    candidates.fill(&logits(&[0.1, 0.4, 0.2, 0.3]));
    let mut at = |point| choose(&mut candidates, point).map(|token| token.0);
    assert_eq!(
        [
            at(0.0),
            at(0.09),
            at(0.11),
            at(0.49),
            at(0.51),
            at(0.71),
            at(0.999)
        ],
        [0, 0, 1, 1, 2, 3, 3].map(Some)
    );
    // At half the temperature probabilities are squared: 1 : 16 : 4 : 9.
    temperature(&mut candidates, 0.5);
    let mut at = |point: f64| choose(&mut candidates, point / 30.0).map(|token| token.0);
    assert_eq!(
        [at(0.9), at(1.1), at(16.9), at(17.1), at(20.9), at(21.1)],
        [0, 1, 1, 2, 2, 3].map(Some)
    );
}

fn sampler(parameters: SamplingParameters, prompt: &[u32]) -> Sampler {
    let prompt: Vec<TokenId> = prompt.iter().copied().map(TokenId).collect();
    Sampler::new(parameters, 7, &prompt, Vec::new())
}

fn greedy() -> SamplingParameters {
    SamplingParameters {
        temperature: 0.0,
        ..SamplingParameters::openai()
    }
}

#[test]
fn greedy_takes_the_first_of_the_most_probable() {
    let mut sampler = sampler(greedy(), &[]);
    assert_eq!(sampler.sample(&mut [1.0, 3.0, 3.0, -1.0]), TokenId(1));
    assert_eq!(
        sampler.sample(&mut [f32::NAN, f32::NEG_INFINITY, -9.0]),
        TokenId(2)
    );
    assert_eq!(sampler.sample(&mut [f32::NAN; 3]), TokenId(0));
}

#[test]
fn hostile_logits_are_survived() {
    for parameters in [SamplingParameters::native(), SamplingParameters::openai()] {
        let mut sampler = sampler(
            SamplingParameters {
                temperature: 1e-30,
                ..parameters
            },
            &[0],
        );
        for logits in [
            [f32::NAN; 4],
            [f32::INFINITY; 4],
            [f32::NEG_INFINITY; 4],
            [f32::MAX, f32::MIN, 0.0, f32::NAN],
        ] {
            sampler.sample(&mut logits.clone());
        }
        assert_eq!(
            sampler.sample(&mut [0.0, 1.0, 0.5, -3.0]),
            TokenId(1),
            "a temperature near 0 is greedy"
        );
    }
}

#[test]
fn tokens_that_are_never_chosen_are_not() {
    let mut sampler = Sampler::new(greedy(), 0, &[], vec![TokenId(1), TokenId(99)]);
    assert_eq!(sampler.sample(&mut [1.0, 3.0, 2.0]), TokenId(2));
}

/// What a greedy sampler chooses of the logits 2, 1.9, −0.5 after this prompt.
#[track_caller]
fn check_penalty(repetition: Repetition, prompt: &[u32], wanted: u32) {
    let mut sampler = sampler(
        SamplingParameters {
            repetition,
            ..greedy()
        },
        prompt,
    );
    assert_eq!(sampler.sample(&mut [2.0, 1.9, -0.5]), TokenId(wanted));
}

#[test]
fn penalties_count_what_came_before() {
    let off = SamplingParameters::openai().repetition;
    check_penalty(off.clone(), &[0, 0, 0], 0);
    let repeat = Repetition {
        repeat_penalty: 1.1,
        ..off.clone()
    };
    check_penalty(repeat.clone(), &[0], 1);
    check_penalty(repeat.clone(), &[0, 1], 0);
    check_penalty(
        Repetition {
            last_n: Some(2),
            ..repeat.clone()
        },
        &[0, 1, 1],
        0,
    );
    check_penalty(
        Repetition {
            last_n: Some(0),
            ..repeat
        },
        &[0],
        0,
    );
    check_penalty(
        Repetition {
            presence_penalty: 0.2,
            ..off.clone()
        },
        &[0],
        1,
    );
    let frequency = Repetition {
        frequency_penalty: 0.06,
        ..off.clone()
    };
    check_penalty(frequency.clone(), &[0], 0);
    check_penalty(frequency, &[0, 0], 1);
    // A negative logit is multiplied: it does not become more likely.
    let strong = Repetition {
        repeat_penalty: 8.0,
        ..off
    };
    check_penalty(strong, &[0, 1, 2], 0);
}

#[test]
fn a_sampler_remembers_its_own_choices() {
    let repetition = Repetition {
        repeat_penalty: 1.5,
        last_n: Some(1),
        ..SamplingParameters::openai().repetition
    };
    let mut sampler = sampler(
        SamplingParameters {
            repetition,
            ..greedy()
        },
        &[],
    );
    let choices: Vec<u32> = (0..4).map(|_| sampler.sample(&mut [2.0, 1.9]).0).collect();
    assert_eq!(choices, [0, 1, 0, 1]);
}

#[test]
fn draws_are_distributed_as_they_should_be() {
    const DRAWS: u32 = 20_000;
    let probabilities = [0.05, 0.4, 0.2, 0.3, 0.05];
    let mut sampler = sampler(SamplingParameters::openai(), &[]);
    let mut counts = [0u32; 5];
    for _ in 0..DRAWS {
        counts[sampler.sample(&mut logits(&probabilities)).row()] += 1;
    }
    let chi_square: f64 = counts
        .iter()
        .zip(probabilities)
        .map(|(count, probability)| {
            let expected = probability * f64::from(DRAWS);
            (f64::from(*count) - expected).powi(2) / expected
        })
        .sum();
    // The 0.999 quantile with four degrees of freedom.
    assert!(chi_square < 18.47, "{chi_square}");
}

proptest! {
    /// Partial selection keeps what a full sort would.
    #[test]
    fn partial_selection_is_selection(
        logits in prop::collection::vec(-30.0f32..30.0, 1..700),
        count in 1usize..50,
        sum in 0.0f32..1.0,
        share in 0.001f32..1.0,
    ) {
        let mut order: Vec<usize> = (0..logits.len()).collect();
        order.sort_by(|left, right| logits[*right].total_cmp(&logits[*left]).then(left.cmp(right)));
        let oracle = |count: usize| {
            let mut tokens: Vec<u32> = order[..count.min(order.len())].iter().map(|index| *index as u32).collect();
            tokens.sort_unstable();
            tokens
        };
        let filled = || {
            let mut candidates = Candidates::default();
            candidates.fill(&logits);
            candidates
        };

        let mut candidates = filled();
        top_k(&mut candidates, count);
        prop_assert_eq!(kept(&candidates), oracle(count));

        let highest = logits[order[0]];
        let weights: Vec<f64> = order.iter().map(|index| f64::from(logits[*index] - highest).exp()).collect();
        let total: f64 = weights.iter().sum();
        let mut candidates = filled();
        top_p(&mut candidates, sum, 0);
        let reached: f64 = weights[..candidates.entries().len()].iter().sum::<f64>() / total;
        let before = reached - weights[candidates.entries().len() - 1] / total;
        prop_assert_eq!(kept(&candidates), oracle(candidates.entries().len()));
        prop_assert!(reached >= f64::from(sum) - 1e-6 && before <= f64::from(sum) + 1e-6);

        let mut candidates = filled();
        min_p(&mut candidates, share, 0);
        let passing = order.iter().filter(|index| logits[**index] >= highest + share.ln()).count();
        prop_assert_eq!(kept(&candidates), oracle(passing));
    }

    #[test]
    fn the_same_seed_makes_the_same_choices(seed in any::<u32>(), logits in prop::collection::vec(-5.0f32..5.0, 1..200)) {
        let choices = || {
            let mut sampler = Sampler::new(SamplingParameters::native(), seed, &[], Vec::new());
            (0..8).map(|_| sampler.sample(&mut logits.clone())).collect::<Vec<_>>()
        };
        prop_assert_eq!(choices(), choices());
    }
}
