//! Mirostat: holds the surprise of a text at a level (Basu et al., Mirostat: A Neural Text Decoding Algorithm
//! that Directly Controls Perplexity, 2021; the second version is in its authors' repository).

use super::parameters::{Mirostat, MirostatVersion};
use super::stages::{self, Candidates};
use crate::token::TokenId;

/// Tokens from which the first version estimates the tail's exponent (the paper's *m*).
const TOKENS_ESTIMATED_FROM: usize = 100;

/// The limit of surprise, which follows the text.
#[derive(Debug)]
pub(super) struct Surprise {
    parameters: Mirostat,
    /// In bits.
    limit: f64,
}

impl Surprise {
    pub(super) fn new(parameters: Mirostat) -> Self {
        Self {
            limit: 2.0 * f64::from(parameters.tau),
            parameters,
        }
    }

    /// Chooses among candidates that the temperature has shaped, and lets the limit follow. `vocabulary` is
    /// how many tokens there are, `uniform` is in 0..1.
    pub(super) fn choose(
        &mut self,
        candidates: &mut Candidates,
        vocabulary: usize,
        uniform: f64,
    ) -> TokenId {
        match self.parameters.version {
            MirostatVersion::One => {
                let count = self.count(&stages::probabilities(candidates), vocabulary);
                stages::top_k(candidates, count);
            }
            MirostatVersion::Two => stages::keep_probable(candidates, (-self.limit).exp2()),
        }
        let probabilities = stages::probabilities(candidates);
        let token = stages::draw(candidates, uniform);
        let place = stages::place_of(candidates, token);
        let observed = -probabilities[place].max(f64::MIN_POSITIVE).log2();
        let error = observed - f64::from(self.parameters.tau);
        self.limit -= f64::from(self.parameters.eta) * error;
        token
    }

    /// How many tokens the first version keeps, by the probabilities in order: the paper's equations 5 and 7.
    fn count(&self, probabilities: &[f64], vocabulary: usize) -> usize {
        let (mut products, mut squares) = (0.0, 0.0);
        let pairs = probabilities.windows(2).take(TOKENS_ESTIMATED_FROM - 1);
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
            (excess * self.limit.exp2() / (1.0 - tokens.powf(-excess))).powf(1.0 / exponent);
        // Where the estimate means nothing, nothing is left out.
        match count.is_finite() {
            true => count.round().clamp(1.0, tokens) as usize,
            false => vocabulary,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(probabilities: &[f64]) -> Candidates {
        let logits: Vec<f32> = probabilities
            .iter()
            .map(|share| share.ln() as f32)
            .collect();
        let mut candidates = Candidates::default();
        candidates.fill(&logits);
        candidates
    }

    fn two(tau: f32, eta: f32) -> Surprise {
        Surprise::new(Mirostat {
            version: MirostatVersion::Two,
            tau,
            eta,
        })
    }

    #[test]
    fn the_second_version_keeps_what_surprises_less_than_the_limit() {
        // The limit is two bits: a quarter and more may be chosen.
        let mut surprise = two(1.0, 0.5);
        let mut candidates = filled(&[0.5, 0.3, 0.2]);
        let token = surprise.choose(&mut candidates, 3, 0.99);
        let left = stages::probabilities(&candidates).len();
        assert_eq!((token, left), (TokenId(1), 2));
        // Of the two it had 3/8: 1.415 bits, 0.415 more than wanted, of which a half counts.
        assert!((surprise.limit - (2.0 - 0.5 * 0.415_037)).abs() < 1e-5);
    }

    #[test]
    fn the_most_probable_stays_however_low_the_limit() {
        let mut surprise = two(-10.0, 0.1);
        assert_eq!(
            surprise.choose(&mut filled(&[0.4, 0.6]), 2, 0.5),
            TokenId(1)
        );
    }

    #[test]
    fn the_first_version_finds_the_exponent_of_a_power_law() {
        // Zipf's law with the exponent 1.5 over 1,000 tokens.
        let weights: Vec<f64> = (1..=1000).map(|rank| f64::from(rank).powf(-1.5)).collect();
        let sum: f64 = weights.iter().sum();
        let probabilities: Vec<f64> = weights.iter().map(|weight| weight / sum).collect();
        let surprise = Surprise::new(Mirostat {
            version: MirostatVersion::One,
            tau: 3.0,
            eta: 0.1,
        });
        // (0.5 · 2^6 / (1 - 1000^-0.5))^(1/1.5)
        let by_hand = (0.5 * 64.0 / (1.0 - 1000f64.powf(-0.5)))
            .powf(1.0 / 1.5)
            .round();
        assert_eq!(surprise.count(&probabilities, 1000), by_hand as usize);
    }

    #[test]
    fn the_surprise_of_a_long_text_is_what_was_asked_for() {
        let probabilities: Vec<f64> = (1..=200).map(|rank| 1.0 / f64::from(rank)).collect();
        for version in [MirostatVersion::One, MirostatVersion::Two] {
            let mut surprise = Surprise::new(Mirostat {
                version,
                tau: 3.0,
                eta: 0.1,
            });
            let mut state = 1u64;
            let mut bits = 0.0;
            for _ in 0..4000 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let uniform = (state >> 11) as f64 / (1u64 << 53) as f64;
                let before = surprise.limit;
                surprise.choose(&mut filled(&probabilities), 200, uniform);
                bits += (before - surprise.limit) / 0.1 + 3.0;
            }
            assert!(
                (bits / 4000.0 - 3.0).abs() < 0.1,
                "{version:?}: {}",
                bits / 4000.0
            );
        }
    }
}
