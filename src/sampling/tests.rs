use proptest::prelude::*;

use super::*;

fn greedy() -> SamplingParameters {
    SamplingParameters {
        temperature: 0.0,
        ..SamplingParameters::openai()
    }
}

/// The logits after the penalties for a prompt.
#[track_caller]
fn check(repetition: Repetition, prompt: &[u32], before: &[f32], after: &[f32]) {
    let prompt: Vec<TokenId> = prompt.iter().copied().map(TokenId).collect();
    let parameters = SamplingParameters {
        repetition,
        ..greedy()
    };
    let mut logits = before.to_vec();
    Sampler::new(parameters, 0, &prompt, Vec::new()).sample(&mut logits);
    assert_eq!(logits, after);
}

fn repetition(repeat: f32, presence: f32, frequency: f32, last_n: Option<usize>) -> Repetition {
    Repetition {
        repeat_penalty: repeat,
        presence_penalty: presence,
        frequency_penalty: frequency,
        last_n,
    }
}

#[test]
fn penalties_are_subtracted_from_what_occurred() {
    let logits = [4.0, -4.0, 0.0, 8.0];
    check(
        repetition(2.0, 0.0, 0.0, None),
        &[0, 1, 2, 0],
        &logits,
        &[2.0, -8.0, 0.0, 8.0],
    );
    check(
        repetition(1.0, 0.5, 0.0, None),
        &[0, 0, 1],
        &logits,
        &[3.5, -4.5, 0.0, 8.0],
    );
    check(
        repetition(1.0, 0.0, 0.5, None),
        &[0, 0, 1],
        &logits,
        &[3.0, -4.5, 0.0, 8.0],
    );
    check(
        repetition(2.0, 0.5, 0.25, None),
        &[3, 3],
        &logits,
        &[4.0, -4.0, 0.0, 3.0],
    );
    // Only the last two count; none; a token beyond the vocabulary.
    check(
        repetition(2.0, 0.0, 0.0, Some(2)),
        &[0, 3, 1],
        &logits,
        &[4.0, -8.0, 0.0, 4.0],
    );
    check(
        repetition(2.0, 9.0, 9.0, Some(0)),
        &[0, 3, 1],
        &logits,
        &logits,
    );
    check(repetition(2.0, 0.0, 0.0, None), &[70_000], &logits, &logits);
}

#[test]
fn what_was_chosen_counts_until_it_leaves_the_window() {
    let parameters = SamplingParameters {
        repetition: repetition(1.0, 2.0, 0.0, Some(2)),
        ..greedy()
    };
    let mut sampler = Sampler::new(parameters, 0, &[], Vec::new());
    let chosen: Vec<u32> = (0..6)
        .map(|_| sampler.sample(&mut [5.0, 4.0, 3.5]).0)
        .collect();
    assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_token_that_is_never_chosen_is_not() {
    let mut sampler = Sampler::new(greedy(), 0, &[], vec![TokenId(1), TokenId(9)]);
    assert_eq!(sampler.sample(&mut [1.0, 5.0, 2.0]), TokenId(2));
}

#[test]
fn the_defaults_are_the_contracts() {
    let native = SamplingParameters::native();
    assert_eq!((native.temperature, native.top_k), (0.8, Some(40)));
    assert_eq!(
        (native.top_p, native.min_p, native.min_keep),
        (0.95, 0.05, 0)
    );
    assert_eq!(native.repetition, repetition(1.1, 0.0, 0.0, Some(64)));
    let openai = SamplingParameters::openai();
    assert_eq!((openai.temperature, openai.top_k), (1.0, None));
    assert_eq!((openai.top_p, openai.min_p), (1.0, 0.0));
    assert!(History::new(&openai.repetition, &[TokenId(1)]).is_none());
}

#[test]
fn draws_follow_the_distribution() {
    const DRAWS: usize = 20_000;
    let shares = [0.05_f64, 0.1, 0.15, 0.3, 0.4];
    let mut sampler = Sampler::new(SamplingParameters::openai(), 7, &[], Vec::new());
    let mut counts = [0_usize; 5];
    for _ in 0..DRAWS {
        let mut logits = shares.map(|share| share.ln() as f32);
        counts[sampler.sample(&mut logits).row()] += 1;
    }
    let chi_square: f64 = counts
        .iter()
        .zip(shares)
        .map(|(&count, share)| {
            let expected = share * DRAWS as f64;
            (count as f64 - expected).powi(2) / expected
        })
        .sum();
    // Four degrees of freedom: beyond 18.5 is one in a thousand.
    assert!(chi_square < 18.5, "{counts:?}");
}

#[test]
fn a_seed_is_the_same_choice_for_ever() {
    let mut sampler = Sampler::new(SamplingParameters::openai(), 42, &[], Vec::new());
    let chosen: Vec<u32> = (0..8).map(|_| sampler.sample(&mut [0.0; 1000]).0).collect();
    assert_eq!(chosen, [348, 285, 493, 367, 825, 67, 489, 266]);
}

proptest! {
    #[test]
    fn any_numbers_give_the_same_token_for_the_same_seed(
        logits in prop::collection::vec(any::<f32>(), 1..500),
        (seed, temperature, top_k) in (any::<u32>(), any::<f32>(), any::<Option<usize>>()),
        (top_p, min_p, min_keep) in (any::<f32>(), any::<f32>(), any::<usize>()),
        (repeat, presence, frequency, last_n) in (any::<f32>(), any::<f32>(), any::<f32>(), any::<Option<usize>>()),
        prompt in prop::collection::vec(0_u32..600, 0..20),
    ) {
        let parameters = SamplingParameters {
            seed: None, temperature, top_k, top_p, min_p, min_keep,
            repetition: repetition(repeat, presence, frequency, last_n),
        };
        let prompt: Vec<TokenId> = prompt.into_iter().map(TokenId).collect();
        let choose = || {
            let mut sampler = Sampler::new(parameters.clone(), seed, &prompt, vec![TokenId(0)]);
            [sampler.sample(&mut logits.clone()), sampler.sample(&mut logits.clone())]
        };
        let chosen = choose();
        prop_assert_eq!(chosen, choose());
        prop_assert!(chosen.iter().all(|token| token.row() < logits.len()));
    }

    #[test]
    fn without_heat_the_choice_is_the_most_probable(
        logits in prop::collection::vec(-9.0_f32..9.0, 1..500), seed in any::<u32>(),
    ) {
        let token = Sampler::new(greedy(), seed, &[], Vec::new()).sample(&mut logits.clone());
        prop_assert!(logits.iter().all(|logit| *logit <= logits[token.row()]));
    }
}
