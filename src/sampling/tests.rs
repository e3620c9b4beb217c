//! Tests of the sampler: penalties, bias, the sampler chain and the distribution of samples.

use proptest::prelude::*;

use super::*;

fn greedy() -> SamplingParameters {
    SamplingParameters {
        temperature: 0.0,
        ..SamplingParameters::openai()
    }
}

/// Checks the logits after the penalties for `prompt` are applied.
#[track_caller]
fn check(penalties: Penalties, prompt: &[u32], before: &[f32], after: &[f32]) {
    let parameters = SamplingParameters {
        penalties,
        ..greedy()
    };
    let mut logits = before.to_vec();
    Sampler::new(parameters, 0, after_prompt(prompt)).sample(&mut logits);
    assert_eq!(logits, after);
}

fn penalties(repeat: f32, presence: f32, frequency: f32, last_n: Option<usize>) -> Penalties {
    Penalties {
        repeat_penalty: repeat,
        presence_penalty: presence,
        frequency_penalty: frequency,
        last_n,
        penalize_newline: true,
    }
}

fn after_prompt(prompt: &[u32]) -> SamplerInputs {
    SamplerInputs {
        prompt: prompt.iter().copied().map(TokenId).collect(),
        ..SamplerInputs::default()
    }
}

#[test]
fn penalties_lower_the_logits_of_tokens_that_occurred() {
    let logits = [4.0, -4.0, 0.0, 8.0];
    check(
        penalties(2.0, 0.0, 0.0, None),
        &[0, 1, 2, 0],
        &logits,
        &[2.0, -8.0, 0.0, 8.0],
    );
    check(
        penalties(1.0, 0.5, 0.0, None),
        &[0, 0, 1],
        &logits,
        &[3.5, -4.5, 0.0, 8.0],
    );
    check(
        penalties(1.0, 0.0, 0.5, None),
        &[0, 0, 1],
        &logits,
        &[3.0, -4.5, 0.0, 8.0],
    );
    check(
        penalties(2.0, 0.5, 0.25, None),
        &[3, 3],
        &logits,
        &[4.0, -4.0, 0.0, 3.0],
    );
    // A window of two tokens, an empty window, and a token outside the vocabulary.
    check(
        penalties(2.0, 0.0, 0.0, Some(2)),
        &[0, 3, 1],
        &logits,
        &[4.0, -8.0, 0.0, 4.0],
    );
    check(
        penalties(2.0, 9.0, 9.0, Some(0)),
        &[0, 3, 1],
        &logits,
        &logits,
    );
    check(penalties(2.0, 0.0, 0.0, None), &[70_000], &logits, &logits);
}

#[test]
fn a_sampled_token_is_penalized_until_it_leaves_the_window() {
    let parameters = SamplingParameters {
        penalties: penalties(1.0, 2.0, 0.0, Some(2)),
        ..greedy()
    };
    let mut sampler = Sampler::new(parameters, 0, SamplerInputs::default());
    let sampled: Vec<u32> = (0..6)
        .map(|_| sampler.sample(&mut [5.0, 4.0, 3.5]).0)
        .collect();
    assert_eq!(sampled, [0, 1, 2, 0, 1, 2]);
}

#[test]
fn a_bias_of_minus_infinity_excludes_a_token() {
    let mut sampler = Sampler::new(
        greedy(),
        0,
        SamplerInputs {
            logit_bias: vec![
                (TokenId(1), f32::NEG_INFINITY),
                (TokenId(9), f32::NEG_INFINITY),
            ],
            ..SamplerInputs::default()
        },
    );
    assert_eq!(sampler.sample(&mut [1.0, 5.0, 2.0]), TokenId(2));
}

#[test]
fn the_bias_is_added_before_the_penalties() {
    let inputs = SamplerInputs {
        logit_bias: vec![
            (TokenId(0), 3.0),
            (TokenId(1), f32::NEG_INFINITY),
            (TokenId(9), 1.0),
        ],
        ..after_prompt(&[0])
    };
    let parameters = SamplingParameters {
        penalties: penalties(2.0, 0.0, 0.0, None),
        ..greedy()
    };
    let mut logits = [1.0, 5.0, 1.5];
    assert_eq!(
        Sampler::new(parameters, 0, inputs).sample(&mut logits),
        TokenId(0)
    );
    assert_eq!(logits, [2.0, f32::NEG_INFINITY, 1.5]);
}

#[test]
fn newlines_can_be_exempt_from_penalties() {
    let mut parameters = SamplingParameters {
        penalties: penalties(2.0, 1.0, 1.0, None),
        ..greedy()
    };
    parameters.penalties.penalize_newline = false;
    let inputs = SamplerInputs {
        newline: Some(TokenId(1)),
        ..after_prompt(&[0, 1])
    };
    let mut logits = [8.0, 8.0];
    Sampler::new(parameters, 0, inputs).sample(&mut logits);
    assert_eq!(logits, [2.0, 8.0]);
}

#[test]
fn the_chain_applies_the_given_stages_in_order() {
    // After top_k, the first of two tokens has a probability of 0.5/0.9 and reaches top_p alone. If top_p comes first,
    // it keeps two tokens.
    let logits = [0.5_f32, 0.4, 0.1].map(f32::ln);
    let possible = |chain: &[Stage]| {
        let parameters = SamplingParameters {
            chain: chain.to_vec(),
            top_k: Some(2),
            top_p: 0.52,
            temperature: 5.0,
            ..SamplingParameters::openai()
        };
        let mut sampler = Sampler::new(parameters, 3, SamplerInputs::default());
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
    // A high temperature before top_p flattens the distribution, so top_p keeps more tokens.
    assert_eq!(
        possible(&[Stage::Temperature, Stage::TopP]),
        [true, true, false]
    );
    // A stage that is given twice is applied twice: a temperature of 25 in total.
    assert_eq!(
        possible(&[Stage::Temperature, Stage::Temperature]),
        [true, true, true]
    );
}

#[test]
fn xtc_applies_with_the_given_probability() {
    let parameters = SamplingParameters {
        chain: vec![Stage::Xtc],
        xtc: Xtc {
            probability: 0.5,
            threshold: 0.1,
        },
        ..SamplingParameters::openai()
    };
    let mut sampler = Sampler::new(parameters, 5, SamplerInputs::default());
    let logits = [0.98_f32, 0.15, 0.001].map(f32::ln);
    let mut first = 0;
    for _ in 0..2000 {
        first += usize::from(sampler.sample(&mut logits.clone()) == TokenId(0));
    }
    assert!((800..960).contains(&first), "{first}");
}

/// Samples 20,000 times from `probabilities` and compares the counts with `expected` by a chi-square test.
/// `critical_value` is exceeded with a probability of 0.001.
#[track_caller]
fn check_draws(
    parameters: SamplingParameters,
    probabilities: &[f64],
    expected: &[f64],
    critical_value: f64,
) {
    const DRAWS: usize = 20_000;
    let logits: Vec<f32> = probabilities
        .iter()
        .map(|probability| probability.ln() as f32)
        .collect();
    let mut sampler = Sampler::new(parameters, 7, SamplerInputs::default());
    let mut counts = vec![0_usize; probabilities.len()];
    for _ in 0..DRAWS {
        counts[sampler.sample(&mut logits.clone()).row()] += 1;
    }
    let mut chi_square = 0.0;
    for (count, probability) in counts.iter().zip(expected) {
        let expected_count = probability * DRAWS as f64;
        match expected_count > 0.0 {
            true => chi_square += (*count as f64 - expected_count).powi(2) / expected_count,
            false => assert_eq!(*count, 0, "{counts:?}"),
        }
    }
    assert!(chi_square < critical_value, "{counts:?}");
}

#[test]
fn draws_follow_the_distribution() {
    // An empty chain is plain softmax sampling. Four degrees of freedom.
    let shares = [0.05, 0.1, 0.15, 0.3, 0.4];
    let empty_chain = SamplingParameters {
        chain: Vec::new(),
        ..SamplingParameters::openai()
    };
    check_draws(empty_chain, &shares, &shares, 18.5);
    check_draws(SamplingParameters::openai(), &shares, &shares, 18.5);
    // Top-k keeps three tokens, and a temperature of 0.5 squares their probabilities. Two degrees of freedom.
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
    // Three tokens reach the threshold. Half of the time XTC removes the two most probable of them.
    let xtc = SamplingParameters {
        chain: vec![Stage::Xtc],
        xtc: Xtc {
            probability: 0.5,
            threshold: 0.15,
        },
        ..SamplingParameters::openai()
    };
    let remaining = 0.05 + 0.1 + 0.15;
    let expected: Vec<f64> = (0..)
        .zip(shares)
        .map(|(id, share)| share / 2.0 + if id < 3 { share / remaining / 2.0 } else { 0.0 })
        .collect();
    // Slightly above the threshold, so that rounding does not matter.
    let shares = [0.05, 0.1, 0.150_01, 0.3, 0.399_99];
    check_draws(xtc, &shares, &expected, 18.5);
}

#[test]
fn a_seed_always_gives_the_same_tokens() {
    let mut sampler = Sampler::new(SamplingParameters::openai(), 42, SamplerInputs::default());
    let sampled: Vec<u32> = (0..8).map(|_| sampler.sample(&mut [0.0; 1000]).0).collect();
    assert_eq!(sampled, [348, 285, 493, 367, 825, 67, 489, 266]);
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
            Stage::Xtc,
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
                xtc: Xtc {
                    probability: shares[5],
                    threshold: shares[6],
                },
                mirostat,
                penalties: Penalties {
                    penalize_newline: repeat.2,
                    ..penalties(repeat.0[0], repeat.0[1], repeat.0[2], repeat.1)
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

/// Parameters in their usual ranges.
fn usual_parameters() -> impl Strategy<Value = SamplingParameters> {
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
            xtc: Xtc {
                probability: shares[1],
                threshold: shares[2] / 2.0,
            },
            mirostat: any.mirostat.map(|mirostat| Mirostat {
                tau: 10.0 * shares[0],
                eta: 0.1,
                ..mirostat
            }),
            penalties: penalties(1.0 + shares[3], shares[4], shares[0], None),
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
    fn sampling_is_deterministic_for_any_parameters(
        logits in prop::collection::vec(any::<f32>(), 1..500),
        seed in any::<u32>(),
        parameters in any_parameters(),
        prompt in prop::collection::vec(0_u32..600, 0..20),
    ) {
        let sample = || {
            let inputs = SamplerInputs {
                logit_bias: vec![(TokenId(0), f32::NEG_INFINITY)],
                newline: Some(TokenId(1)),
                ..after_prompt(&prompt)
            };
            let mut sampler = Sampler::new(parameters.clone(), seed, inputs);
            [sampler.sample(&mut logits.clone()), sampler.sample(&mut logits.clone())]
        };
        let sampled = sample();
        prop_assert_eq!(sampled, sample());
        prop_assert!(sampled.iter().all(|token| token.row() < logits.len()));
    }

    /// With any chain, a token with a bias of minus infinity is not sampled.
    #[test]
    fn an_excluded_token_is_never_sampled(
        logits in prop::collection::vec(-9.0_f32..9.0, 2..200),
        excluded in prop::collection::vec(0..200u32, 1..150),
        seed in any::<u32>(),
        parameters in usual_parameters(),
    ) {
        let excluded: Vec<TokenId> = excluded.into_iter().map(TokenId).collect();
        let all = (0..logits.len() as u32).all(|token| excluded.contains(&TokenId(token)));
        prop_assume!(!all);
        let inputs = SamplerInputs {
            logit_bias: excluded.iter().map(|token| (*token, f32::NEG_INFINITY)).collect(),
            ..SamplerInputs::default()
        };
        let mut sampler = Sampler::new(parameters, seed, inputs);
        for _ in 0..5 {
            let token = sampler.sample(&mut logits.clone());
            prop_assert!(!excluded.contains(&token), "{:?}", token);
        }
    }

    #[test]
    fn temperature_0_samples_the_most_probable_token(
        logits in prop::collection::vec(-9.0_f32..9.0, 1..500), seed in any::<u32>(),
    ) {
        let token = Sampler::new(greedy(), seed, SamplerInputs::default()).sample(&mut logits.clone());
        prop_assert!(logits.iter().all(|logit| *logit <= logits[token.row()]));
    }
}
