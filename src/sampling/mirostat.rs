//! Mirostat: keeps the surprise (the negative log probability) of the sampled tokens near a target.
//!
//! Source: Basu et al., "Mirostat: A Neural Text Decoding Algorithm that Directly Controls Perplexity" (2021). Version
//! 2 is in the authors' repository.

use super::parameters::{Mirostat, MirostatVersion};
use super::stages::{self, Candidates};
use crate::token::TokenId;

/// Number of most probable tokens from which version 1 estimates the exponent of the distribution's power law (the
/// paper's *m*).
const ESTIMATION_TOKENS: usize = 100;

/// The maximum surprise of a token, which is adapted after each token.
#[derive(Debug)]
pub(super) struct MirostatState {
    parameters: Mirostat,
    /// In bits (the paper's *µ*).
    max_surprise: f64,
}

impl MirostatState {
    pub(super) fn new(parameters: Mirostat) -> Self {
        Self {
            max_surprise: 2.0 * f64::from(parameters.tau),
            parameters,
        }
    }

    /// Samples a token after the temperature stage and adapts the maximum surprise. `vocabulary` is the vocabulary
    /// size, `uniform` a random number in 0..1.
    pub(super) fn sample(
        &mut self,
        candidates: &mut Candidates,
        vocabulary: usize,
        uniform: f64,
    ) -> TokenId {
        match self.parameters.version {
            MirostatVersion::One => {
                let count = self.kept_tokens(&stages::probabilities(candidates), vocabulary);
                stages::top_k(candidates, count);
            }
            MirostatVersion::Two => stages::keep_at_least(candidates, (-self.max_surprise).exp2()),
        }
        let probabilities = stages::probabilities(candidates);
        let token = stages::draw(candidates, uniform);
        let index = stages::index_of(candidates, token);
        let observed = -probabilities[index].max(f64::MIN_POSITIVE).log2();
        let error = observed - f64::from(self.parameters.tau);
        self.max_surprise -= f64::from(self.parameters.eta) * error;
        token
    }

    /// Returns the number of tokens that version 1 keeps (the paper's equations 5 and 7). `probabilities` are in
    /// descending order.
    fn kept_tokens(&self, probabilities: &[f64], vocabulary: usize) -> usize {
        let (mut products, mut squares) = (0.0, 0.0);
        let pairs = probabilities.windows(2).take(ESTIMATION_TOKENS - 1);
        for (rank, pair) in (1u32..).zip(pairs) {
            if pair[1] <= 0.0 {
                break;
            }
            let distance = (f64::from(rank + 1) / f64::from(rank)).ln();
            products += distance * (pair[0] / pair[1]).ln();
            squares += distance * distance;
        }
        let exponent = products / squares;
        let excess = exponent - 1.0;
        let tokens = vocabulary as f64;
        let count =
            (excess * self.max_surprise.exp2() / (1.0 - tokens.powf(-excess))).powf(1.0 / exponent);
        // Without a valid estimate, keep all tokens.
        match count.is_finite() {
            true => count.round().clamp(1.0, tokens) as usize,
            false => vocabulary,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn filled(probabilities: &[f64]) -> Candidates {
        let logits: Vec<f32> = probabilities
            .iter()
            .map(|probability| probability.ln() as f32)
            .collect();
        let mut candidates = Candidates::default();
        candidates.fill(&logits);
        candidates
    }

    fn version_two(tau: f32, eta: f32) -> MirostatState {
        MirostatState::new(Mirostat {
            version: MirostatVersion::Two,
            tau,
            eta,
        })
    }

    #[test]
    fn version_2_keeps_tokens_below_the_maximum_surprise() {
        // The maximum is two bits: tokens with a probability of at least 1/4 are kept.
        let mut mirostat = version_two(1.0, 0.5);
        let mut candidates = filled(&[0.5, 0.3, 0.2]);
        let token = mirostat.sample(&mut candidates, 3, 0.99);
        let remaining = stages::probabilities(&candidates).len();
        assert_eq!((token, remaining), (TokenId(1), 2));
        // Token 1 has 3/8 of the two kept probabilities: 1.415 bits, 0.415 above the target, times eta = 0.5.
        assert!((mirostat.max_surprise - (2.0 - 0.5 * 0.415_037)).abs() < 1e-5);
    }

    #[test]
    fn the_most_probable_token_is_always_kept() {
        let mut mirostat = version_two(-10.0, 0.1);
        assert_eq!(
            mirostat.sample(&mut filled(&[0.4, 0.6]), 2, 0.5),
            TokenId(1)
        );
    }

    #[test]
    fn version_1_estimates_the_exponent_of_a_power_law() {
        // Zipf's law with the exponent 1.5 over 1,000 tokens.
        let weights: Vec<f64> = (1..=1000).map(|rank| f64::from(rank).powf(-1.5)).collect();
        let sum: f64 = weights.iter().sum();
        let probabilities: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
        let mirostat = MirostatState::new(Mirostat {
            version: MirostatVersion::One,
            tau: 3.0,
            eta: 0.1,
        });
        // (0.5 · 2^6 / (1 - 1000^-0.5))^(1/1.5)
        let expected = (0.5 * 64.0 / (1.0 - 1000f64.powf(-0.5)))
            .powf(1.0 / 1.5)
            .round();
        assert_eq!(
            mirostat.kept_tokens(&probabilities, 1000),
            expected as usize
        );
    }

    #[test]
    fn the_mean_surprise_of_a_long_text_is_tau() {
        let probabilities: Vec<f64> = (1..=200).map(|rank| 1.0 / f64::from(rank)).collect();
        for version in [MirostatVersion::One, MirostatVersion::Two] {
            let mut mirostat = MirostatState::new(Mirostat {
                version,
                tau: 3.0,
                eta: 0.1,
            });
            let mut random = StdRng::seed_from_u64(1);
            let mut bits = 0.0;
            for _ in 0..4000 {
                let before = mirostat.max_surprise;
                mirostat.sample(&mut filled(&probabilities), 200, random.random());
                bits += (before - mirostat.max_surprise) / 0.1 + 3.0;
            }
            assert!(
                (bits / 4000.0 - 3.0).abs() < 0.1,
                "{version:?}: {}",
                bits / 4000.0
            );
        }
    }
}
