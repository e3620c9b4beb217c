//! Log probabilities of a sampled token and of the most probable tokens at its position.

use super::stages::{self, Candidates};
use crate::token::TokenId;

/// Which log probabilities are returned with each token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogprobsOptions {
    /// Number of most probable tokens to return at each position.
    pub top: usize,
    /// The distribution that the log probabilities describe.
    pub distribution: Distribution,
}

/// A distribution over the vocabulary at one position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// The model's distribution: softmax of its logits, before bias, penalties and stages.
    Model,
    /// The distribution that the token was sampled from: the candidates after the sampler chain.
    Chain,
}

/// Log probabilities (natural logarithm) at one position.
#[derive(Debug, Clone, PartialEq)]
pub struct Logprobs {
    /// Log probability of the token; minus infinity if its probability is 0.
    pub token_logprob: f64,
    /// The most probable tokens and their log probabilities, in descending order.
    pub top: Vec<(TokenId, f64)>,
}

impl Logprobs {
    /// Computes log probabilities of the model's distribution from `logits`, `[vocabulary]`. Overwrites `candidates`.
    pub(super) fn from_logits(
        logits: &[f32],
        token: TokenId,
        top: usize,
        candidates: &mut Candidates,
    ) -> Self {
        candidates.fill(logits);
        Self::from_candidates(candidates, token, top)
    }

    /// Computes log probabilities of the candidates that the token was sampled from. Sums in double precision.
    pub(super) fn from_candidates(candidates: &mut Candidates, token: TokenId, top: usize) -> Self {
        let norm = candidates.log_sum();
        let logprob = |logit: f32| f64::from(logit) - norm;
        let token_logprob = candidates.logit(token).map_or(f64::NEG_INFINITY, logprob);
        if top > 0 {
            stages::top_k(candidates, top);
        }
        let first = candidates.first(top);
        Self {
            token_logprob,
            top: first
                .map(|(token, logit)| (token, logprob(logit)))
                .collect(),
        }
    }

    /// Returns the log probability 0 (probability 1) for a token that was the only candidate.
    pub(super) fn single_candidate(token: TokenId, top: usize) -> Self {
        Self {
            token_logprob: 0.0,
            top: std::iter::once((token, 0.0)).take(top).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampling::{Sampler, SamplerInputs, SamplingParameters, Stage};

    fn sample(parameters: SamplingParameters, logits: &[f32]) -> (TokenId, Logprobs) {
        let inputs = SamplerInputs {
            logit_bias: vec![(TokenId(0), f32::NEG_INFINITY)],
            ..SamplerInputs::default()
        };
        let mut sampler = Sampler::new(parameters, 1, inputs);
        let sampled = sampler.sample_with_logprobs(&mut logits.to_vec(), |_| ());
        (sampled.token, sampled.logprobs.unwrap())
    }

    fn parameters(top: usize, distribution: Distribution, chain: &[Stage]) -> SamplingParameters {
        SamplingParameters {
            logprobs: Some(LogprobsOptions { top, distribution }),
            chain: chain.to_vec(),
            temperature: 2.0,
            top_k: Some(2),
            ..SamplingParameters::openai()
        }
    }

    #[track_caller]
    fn check(logprobs: &[(TokenId, f64)], expected: &[(u32, f64)]) {
        assert_eq!(logprobs.len(), expected.len(), "{logprobs:?}");
        for ((token, logprob), (id, probability)) in logprobs.iter().zip(expected) {
            assert_eq!(token.0, *id);
            assert!(
                (logprob.exp() - probability).abs() < 1e-6,
                "{logprobs:?}, not {expected:?}"
            );
        }
    }

    #[test]
    fn model_probabilities_ignore_bias_and_stages() {
        let logits = [0.5_f32, 0.3, 0.15, 0.05].map(|probability| probability.ln() + 7.0);
        let (token, logprobs) = sample(parameters(3, Distribution::Model, &Stage::CHAIN), &logits);
        assert_ne!(token, TokenId(0), "the bias excludes token 0");
        check(&logprobs.top, &[(0, 0.5), (1, 0.3), (2, 0.15)]);
        let probability = [0.5, 0.3, 0.15, 0.05][token.row()];
        check(
            &[(token, logprobs.token_logprob)],
            &[(token.0, probability)],
        );
    }

    #[test]
    fn chain_probabilities_are_those_after_the_stages() {
        let logits = [0.5_f32, 0.36, 0.09, 0.05].map(f32::ln);
        let chain = [Stage::TopK, Stage::Temperature];
        // Without token 0, top_k leaves 0.36 and 0.09. At temperature 2 their ratio is the square root of 4: 2 to 1.
        let (_, logprobs) = sample(parameters(3, Distribution::Chain, &chain), &logits);
        check(&logprobs.top, &[(1, 2.0 / 3.0), (2, 1.0 / 3.0)]);
        let greedy = SamplingParameters {
            temperature: 0.0,
            ..parameters(3, Distribution::Chain, &chain)
        };
        let (token, logprobs) = sample(greedy, &logits);
        check(&logprobs.top, &[(token.0, 1.0)]);
    }

    #[test]
    fn sums_are_precise_for_a_large_vocabulary() {
        let mut logits = vec![-10.0_f32; 262_144];
        logits[5] = 3.0;
        let (_, logprobs) = sample(parameters(1, Distribution::Model, &[]), &logits);
        let exact = 3.0 - (3f64.exp() + 262_143.0 * (-10f64).exp()).ln();
        assert!((logprobs.top[0].1 - exact).abs() < 1e-12, "{logprobs:?}");
    }
}
