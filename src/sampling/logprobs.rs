//! How probable a chosen token was, and which were the most probable.

use super::stages::{self, Candidates};
use crate::token::TokenId;

/// What is to be told about each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogprobsWanted {
    /// How many of the most probable tokens.
    pub top: usize,
    /// By whose probabilities.
    pub of: Distribution,
}

/// Whose probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// The model's: softmax of its logits, before bias, penalties and stages.
    Model,
    /// Those that the token was drawn by: of the candidates that the chain left.
    Chain,
}

/// Natural logarithms of probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// The chosen token's; minus infinity if it had none.
    pub chosen: f64,
    /// The most probable tokens, in order.
    pub top: Vec<(TokenId, f64)>,
}

impl Logprobs {
    /// Of a token by the model's logits, one per token of the vocabulary.
    pub(super) fn of_model(
        logits: &[f32],
        chosen: TokenId,
        top: usize,
        candidates: &mut Candidates,
    ) -> Self {
        candidates.fill(logits);
        Self::of_candidates(candidates, chosen, top)
    }

    /// Of a token by the candidates that it was drawn from. Sums in double precision.
    pub(super) fn of_candidates(candidates: &mut Candidates, chosen: TokenId, top: usize) -> Self {
        let norm = candidates.log_sum();
        let of = |logit: f32| f64::from(logit) - norm;
        let chosen = candidates.logit(chosen).map_or(f64::NEG_INFINITY, of);
        if top > 0 {
            stages::top_k(candidates, top);
        }
        let first = candidates.first(top);
        Self {
            chosen,
            top: first.map(|(token, logit)| (token, of(logit))).collect(),
        }
    }

    /// Of a token that was the only choice.
    pub(super) fn certain(chosen: TokenId, top: usize) -> Self {
        Self {
            chosen: 0.0,
            top: std::iter::once((chosen, 0.0)).take(top).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::{Sampler, SamplerTokens, SamplingParameters, Stage};

    fn ask(parameters: SamplingParameters, logits: &[f32]) -> (TokenId, Logprobs) {
        let tokens = SamplerTokens {
            bias: vec![(TokenId(0), f32::NEG_INFINITY)],
            ..SamplerTokens::default()
        };
        let mut sampler = Sampler::new(parameters, 1, tokens);
        let choice = sampler.choose(&mut logits.to_vec(), |_| ());
        (choice.token, choice.logprobs.unwrap())
    }

    fn wanted(top: usize, of: Distribution, chain: &[Stage]) -> SamplingParameters {
        SamplingParameters {
            logprobs: Some(LogprobsWanted { top, of }),
            chain: chain.to_vec(),
            temperature: 2.0,
            top_k: Some(2),
            ..SamplingParameters::openai()
        }
    }

    #[track_caller]
    fn check(found: &[(TokenId, f64)], expected: &[(u32, f64)]) {
        assert_eq!(found.len(), expected.len(), "{found:?}");
        for ((token, logprob), (id, share)) in found.iter().zip(expected) {
            assert_eq!(token.0, *id);
            assert!(
                (logprob.exp() - share).abs() < 1e-6,
                "{found:?}, not {expected:?}"
            );
        }
    }

    #[test]
    fn the_models_probabilities_know_no_bias_and_no_stage() {
        let logits = [0.5_f32, 0.3, 0.15, 0.05].map(|share| share.ln() + 7.0);
        let (token, logprobs) = ask(wanted(3, Distribution::Model, &Stage::CHAIN), &logits);
        assert_ne!(token, TokenId(0), "it was forbidden");
        check(&logprobs.top, &[(0, 0.5), (1, 0.3), (2, 0.15)]);
        let share = [0.5, 0.3, 0.15, 0.05][token.row()];
        check(&[(token, logprobs.chosen)], &[(token.0, share)]);
    }

    #[test]
    fn the_chains_probabilities_are_those_of_the_draw() {
        let logits = [0.5_f32, 0.36, 0.09, 0.05].map(f32::ln);
        let chain = [Stage::TopK, Stage::Temperature];
        // Without the first the others are 0.36, 0.09; their roots are as 2 to 1.
        let (_, logprobs) = ask(wanted(3, Distribution::Chain, &chain), &logits);
        check(&logprobs.top, &[(1, 2.0 / 3.0), (2, 1.0 / 3.0)]);
        let greedy = SamplingParameters {
            temperature: 0.0,
            ..wanted(3, Distribution::Chain, &chain)
        };
        let (token, logprobs) = ask(greedy, &logits);
        check(&logprobs.top, &[(token.0, 1.0)]);
    }

    #[test]
    fn sums_are_exact_over_a_large_vocabulary() {
        let mut logits = vec![-10.0_f32; 262_144];
        logits[5] = 3.0;
        let (_, logprobs) = ask(wanted(1, Distribution::Model, &[]), &logits);
        let exact = 3.0 - (3f64.exp() + 262_143.0 * (-10f64).exp()).ln();
        assert!((logprobs.top[0].1 - exact).abs() < 1e-12, "{logprobs:?}");
    }
}
