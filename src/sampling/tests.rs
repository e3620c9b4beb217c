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
    let parameters = SamplingParameters {
        repetition,
        ..greedy()
    };
    let mut logits = before.to_vec();
    Sampler::new(parameters, 0, after_prompt(prompt)).sample(&mut logits);
    assert_eq!(logits, after);
}

fn repetition(repeat: f32, presence: f32, frequency: f32, last_n: Option<usize>) -> Repetition {
    Repetition {
        repeat_penalty: repeat,
        presence_penalty: presence,
        frequency_penalty: frequency,
        last_n,
        penalize_newline: true,
    }
}

fn after_prompt(prompt: &[u32]) -> SamplerTokens {
    SamplerTokens {
        before: prompt.iter().copied().map(TokenId).collect(),
        ..SamplerTokens::default()
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
    let mut sampler = Sampler::new(parameters, 0, SamplerTokens::default());
    let chosen: Vec<u32> = (0..6)
        .map(|_| sampler.sample(&mut [5.0, 4.0, 3.5]).0)
        .collect();
    assert_eq!(chosen, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_token_that_is_never_chosen_is_not() {
    let mut sampler = Sampler::new(
        greedy(),
        0,
        SamplerTokens {
            bias: vec![
                (TokenId(1), f32::NEG_INFINITY),
                (TokenId(9), f32::NEG_INFINITY),
            ],
            ..SamplerTokens::default()
        },
    );
    assert_eq!(sampler.sample(&mut [1.0, 5.0, 2.0]), TokenId(2));
}

#[test]
fn a_bias_is_added_before_anything_else() {
    let tokens = SamplerTokens {
        bias: vec![
            (TokenId(0), 3.0),
            (TokenId(1), f32::NEG_INFINITY),
            (TokenId(9), 1.0),
        ],
        ..after_prompt(&[0])
    };
    let parameters = SamplingParameters {
        repetition: repetition(2.0, 0.0, 0.0, None),
        ..greedy()
    };
    let mut logits = [1.0, 5.0, 1.5];
    assert_eq!(
        Sampler::new(parameters, 0, tokens).sample(&mut logits),
        TokenId(0)
    );
    assert_eq!(logits, [2.0, f32::NEG_INFINITY, 1.5]);
}

#[test]
fn line_breaks_can_be_spared() {
    let mut parameters = SamplingParameters {
        repetition: repetition(2.0, 1.0, 1.0, None),
        ..greedy()
    };
    parameters.repetition.penalize_newline = false;
    let tokens = SamplerTokens {
        newline: Some(TokenId(1)),
        ..after_prompt(&[0, 1])
    };
    let mut logits = [8.0, 8.0];
    Sampler::new(parameters, 0, tokens).sample(&mut logits);
    assert_eq!(logits, [2.0, 8.0]);
}

#[test]
fn the_chain_has_the_order_and_the_stages_that_were_asked_for() {
    // With top_k first two tokens share 0.9; with top_p first only one is left.
    let logits = [0.5_f32, 0.4, 0.1].map(f32::ln);
    let possible = |chain: &[Stage]| {
        let parameters = SamplingParameters {
            chain: chain.to_vec(),
            top_k: Some(2),
            top_p: 0.52,
            temperature: 5.0,
            ..SamplingParameters::openai()
        };
        let mut sampler = Sampler::new(parameters, 3, SamplerTokens::default());
        let mut seen = [0; 3];
        for _ in 0..300 {
            seen[sampler.sample(&mut logits.clone()).row()] += 1;
        }
        seen.map(|count| count > 0)
    };
    assert_eq!(possible(&[Stage::TopK, Stage::TopP]), [true, false, false]);
    assert_eq!(possible(&[Stage::TopP, Stage::TopK]), [true, true, false]);
    assert_eq!(possible(&[Stage::TopK]), [true, true, false]);
    assert_eq!(possible(&[]), [true, true, true]);
    // A temperature that comes first makes them alike, so more are needed to reach the share.
    assert_eq!(
        possible(&[Stage::Temperature, Stage::TopP]),
        [true, true, false]
    );
    // Twice is twice: a third of 25 brings all nearer still.
    assert_eq!(
        possible(&[Stage::Temperature, Stage::Temperature]),
        [true, true, true]
    );
}

#[test]
fn top_choices_are_left_out_as_often_as_asked_for() {
    let parameters = SamplingParameters {
        chain: vec![Stage::Exclusion],
        exclusion: Exclusion {
            probability: 0.5,
            threshold: 0.1,
        },
        ..SamplingParameters::openai()
    };
    let mut sampler = Sampler::new(parameters, 5, SamplerTokens::default());
    let logits = [0.98_f32, 0.15, 0.001].map(f32::ln);
    let mut first = 0;
    for _ in 0..2000 {
        first += usize::from(sampler.sample(&mut logits.clone()) == TokenId(0));
    }
    assert!((800..960).contains(&first), "{first}");
}

/// Draws 20,000 times from logits of these shares and compares with what is expected. `beyond` is what the
/// sum of squares exceeds once in a thousand times.
#[track_caller]
fn check_draws(parameters: SamplingParameters, shares: &[f64], expected: &[f64], beyond: f64) {
    const DRAWS: usize = 20_000;
    let logits: Vec<f32> = shares.iter().map(|share| share.ln() as f32).collect();
    let mut sampler = Sampler::new(parameters, 7, SamplerTokens::default());
    let mut counts = vec![0_usize; shares.len()];
    for _ in 0..DRAWS {
        counts[sampler.sample(&mut logits.clone()).row()] += 1;
    }
    let mut chi_square = 0.0;
    for (count, share) in counts.iter().zip(expected) {
        let wanted = share * DRAWS as f64;
        match wanted > 0.0 {
            true => chi_square += (*count as f64 - wanted).powi(2) / wanted,
            false => assert_eq!(*count, 0, "{counts:?}"),
        }
    }
    assert!(chi_square < beyond, "{counts:?}");
}

#[test]
fn draws_follow_the_distribution() {
    // A chain of nothing is plain softmax sampling. Four degrees of freedom.
    let shares = [0.05, 0.1, 0.15, 0.3, 0.4];
    let nothing = SamplingParameters {
        chain: Vec::new(),
        ..SamplingParameters::openai()
    };
    check_draws(nothing, &shares, &shares, 18.5);
    check_draws(SamplingParameters::openai(), &shares, &shares, 18.5);
    // Three stay, and a temperature of a half squares them. Two degrees of freedom.
    let chain = SamplingParameters {
        top_k: Some(3),
        temperature: 0.5,
        ..SamplingParameters::openai()
    };
    let squares = 0.15 * 0.15 + 0.3 * 0.3 + 0.4 * 0.4;
    let expected = [
        0.0,
        0.0,
        0.15 * 0.15 / squares,
        0.3 * 0.3 / squares,
        0.4 * 0.4 / squares,
    ];
    check_draws(chain, &shares, &expected, 13.8);
    // Half of the time the two most probable of three are left out: then the third and the others stay.
    let exclusion = SamplingParameters {
        chain: vec![Stage::Exclusion],
        exclusion: Exclusion {
            probability: 0.5,
            threshold: 0.15,
        },
        ..SamplingParameters::openai()
    };
    let left = 0.05 + 0.1 + 0.15;
    let expected: Vec<f64> = (0..)
        .zip(shares)
        .map(|(place, share)| share / 2.0 + if place < 3 { share / left / 2.0 } else { 0.0 })
        .collect();
    // The third is at the threshold to the bit of a float or not: a little above it is within.
    let shares = [0.05, 0.1, 0.150_01, 0.3, 0.399_99];
    check_draws(exclusion, &shares, &expected, 18.5);
}

#[test]
fn a_seed_is_the_same_choice_for_ever() {
    let mut sampler = Sampler::new(SamplingParameters::openai(), 42, SamplerTokens::default());
    let chosen: Vec<u32> = (0..8).map(|_| sampler.sample(&mut [0.0; 1000]).0).collect();
    assert_eq!(chosen, [348, 285, 493, 367, 825, 67, 489, 266]);
}

fn any_parameters() -> impl Strategy<Value = SamplingParameters> {
    let stage = (0..8usize).prop_map(|number| {
        [
            Stage::TopNSigma,
            Stage::TopK,
            Stage::TailFree,
            Stage::Typical,
            Stage::TopP,
            Stage::MinP,
            Stage::Exclusion,
            Stage::Temperature,
        ][number]
    });
    let mirostat =
        (any::<bool>(), any::<f32>(), any::<f32>()).prop_map(|(one, tau, eta)| Mirostat {
            version: match one {
                true => MirostatVersion::One,
                false => MirostatVersion::Two,
            },
            tau,
            eta,
        });
    let dry = (
        any::<f32>(),
        any::<f32>(),
        0..5usize,
        any::<Option<usize>>(),
    );
    (
        prop::collection::vec(stage, 0..9),
        any::<[f32; 3]>(),
        (any::<Option<usize>>(), any::<usize>()),
        any::<[f32; 7]>(),
        prop::option::weighted(0.3, mirostat),
        (any::<[f32; 3]>(), any::<Option<usize>>(), any::<bool>()),
        dry,
    )
        .prop_map(
            |(chain, temperature, counts, shares, mirostat, repeat, dry)| SamplingParameters {
                seed: None,
                chain,
                temperature: temperature[0],
                temperature_range: temperature[1],
                temperature_exponent: temperature[2],
                top_k: counts.0,
                min_keep: counts.1,
                top_p: shares[0],
                min_p: shares[1],
                tail_free_z: shares[2],
                typical_p: shares[3],
                top_n_sigma: shares[4],
                exclusion: Exclusion {
                    probability: shares[5],
                    threshold: shares[6],
                },
                mirostat,
                repetition: Repetition {
                    penalize_newline: repeat.2,
                    ..repetition(repeat.0[0], repeat.0[1], repeat.0[2], repeat.1)
                },
                dry: Dry {
                    multiplier: dry.0,
                    base: dry.1,
                    allowed_length: dry.2,
                    last_n: dry.3,
                    breakers: Vec::new(),
                },
                logprobs: None,
            },
        )
}

/// Parameters as people set them.
fn sensible_parameters() -> impl Strategy<Value = SamplingParameters> {
    let shares = prop::collection::vec(0.01f32..1.0, 5);
    (any_parameters(), shares, 0.1f32..3.0, 0usize..20).prop_map(
        |(any, shares, temperature, count)| SamplingParameters {
            temperature,
            temperature_range: shares[0],
            temperature_exponent: 1.0,
            top_k: Some(count),
            min_keep: 0,
            top_p: shares[1],
            min_p: shares[2],
            tail_free_z: shares[3],
            typical_p: shares[4],
            top_n_sigma: 10.0 * shares[0],
            exclusion: Exclusion {
                probability: shares[1],
                threshold: shares[2] / 2.0,
            },
            mirostat: any.mirostat.map(|mirostat| Mirostat {
                tau: 10.0 * shares[0],
                eta: 0.1,
                ..mirostat
            }),
            repetition: repetition(1.0 + shares[3], shares[4], shares[0], None),
            dry: Dry {
                multiplier: shares[2],
                base: 1.75,
                ..any.dry
            },
            ..any
        },
    )
}

proptest! {
    #[test]
    fn any_numbers_give_the_same_token_for_the_same_seed(
        logits in prop::collection::vec(any::<f32>(), 1..500),
        seed in any::<u32>(),
        parameters in any_parameters(),
        prompt in prop::collection::vec(0_u32..600, 0..20),
    ) {
        let choose = || {
            let tokens = SamplerTokens {
                bias: vec![(TokenId(0), f32::NEG_INFINITY)],
                newline: Some(TokenId(1)),
                ..after_prompt(&prompt)
            };
            let mut sampler = Sampler::new(parameters.clone(), seed, tokens);
            [sampler.sample(&mut logits.clone()), sampler.sample(&mut logits.clone())]
        };
        let chosen = choose();
        prop_assert_eq!(chosen, choose());
        prop_assert!(chosen.iter().all(|token| token.row() < logits.len()));
    }

    /// Whatever the chain does, what may not be chosen is not, and the draw is from what is left.
    #[test]
    fn a_token_that_is_forbidden_is_never_chosen(
        logits in prop::collection::vec(-9.0_f32..9.0, 2..200),
        forbidden in prop::collection::vec(0..200u32, 1..150),
        seed in any::<u32>(),
        parameters in sensible_parameters(),
    ) {
        let forbidden: Vec<TokenId> = forbidden.into_iter().map(TokenId).collect();
        let all = (0..logits.len() as u32).all(|token| forbidden.contains(&TokenId(token)));
        prop_assume!(!all);
        let tokens = SamplerTokens {
            bias: forbidden.iter().map(|token| (*token, f32::NEG_INFINITY)).collect(),
            ..SamplerTokens::default()
        };
        let mut sampler = Sampler::new(parameters, seed, tokens);
        for _ in 0..5 {
            let token = sampler.sample(&mut logits.clone());
            prop_assert!(!forbidden.contains(&token), "{:?}", token);
        }
    }

    #[test]
    fn without_heat_the_choice_is_the_most_probable(
        logits in prop::collection::vec(-9.0_f32..9.0, 1..500), seed in any::<u32>(),
    ) {
        let token = Sampler::new(greedy(), seed, SamplerTokens::default()).sample(&mut logits.clone());
        prop_assert!(logits.iter().all(|logit| *logit <= logits[token.row()]));
    }
}
