//! The infill sampler of llama.cpp for fill-in-the-middle. It ends the text early if no continuation is probable
//! enough.
//!
//! Source: llama.cpp, documentation of `llama_sampler_init_infill` in `llama.h`.

use std::sync::Arc;

use super::stages::Candidates;
use crate::token::TokenId;

/// Number of most probable candidates that are kept; limited because each candidate is compared with every other.
const MAX_CANDIDATES: usize = 256;
/// Text tokens below this probability are removed.
const MIN_PROBABILITY: f64 = 0.2;
/// The text ends if this factor, times the number of candidates, times the probability of all EOG tokens, exceeds the
/// probability of all text tokens.
const EOG_WEIGHT: f64 = 3.0;

/// Maps tokens to their text.
pub trait TokenPieces: Send + Sync {
    /// Returns the bytes of a token's text; empty for a control token.
    fn bytes(&self, token: TokenId) -> &[u8];
}

/// The parts of the vocabulary that the infill stage needs.
#[derive(Clone)]
pub struct InfillVocabulary {
    /// The end-of-generation tokens.
    pub eog_tokens: Arc<[TokenId]>,
    /// The text of each token.
    pub pieces: Arc<dyn TokenPieces>,
}

impl std::fmt::Debug for InfillVocabulary {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("InfillVocabulary")
            .field("eog_tokens", &self.eog_tokens)
            .finish_non_exhaustive()
    }
}

impl InfillVocabulary {
    /// Narrows the candidates to probable text tokens, or to the EOG tokens if the text should end. If no text token is
    /// probable enough, `eog_token` becomes the only candidate. `None` means that the text may not end: the most
    /// probable token becomes the only candidate.
    pub(super) fn apply(&self, candidates: &mut Candidates, eog_token: Option<TokenId>) {
        let is_eog = |token: &TokenId| self.eog_tokens.contains(token);
        let mut weighted = candidates.probabilities(MAX_CANDIDATES);
        let count = weighted.len() as f64;
        let sum_of = |eog: bool| {
            let part = weighted.iter().filter(|(token, _)| is_eog(token) == eog);
            part.map(|(_, weight)| weight).sum::<f64>()
        };
        let (eog_sum, text_sum) = (sum_of(true), sum_of(false));
        if eog_sum > 0.0 && EOG_WEIGHT * eog_sum * count > text_sum {
            weighted.retain(|(token, _)| is_eog(token));
            return candidates.replace(weighted);
        }
        self.merge_prefixes(&mut weighted);
        weighted.retain(|(_, weight)| *weight > 0.0);
        let most_probable = weighted
            .iter()
            .copied()
            .max_by(|(_, left), (_, right)| left.total_cmp(right));
        weighted.retain(|(token, weight)| is_eog(token) || *weight >= MIN_PROBABILITY);
        let texts = weighted.iter().filter(|(token, _)| !is_eog(token)).count();
        if texts == 0 {
            let only = eog_token.map(|token| (token, 1.0)).or(most_probable);
            return candidates.replace(only.into_iter().collect());
        }
        let sum: f64 = weighted.iter().map(|(_, weight)| weight).sum();
        let min_weight = sum / (texts + 1) as f64;
        weighted.retain(|(token, weight)| is_eog(token) || *weight >= min_weight);
        candidates.replace(weighted);
    }

    /// Merges two tokens if the text of one is a prefix of the text of the other: the more probable token gets the sum
    /// of both probabilities.
    fn merge_prefixes(&self, weighted: &mut [(TokenId, f64)]) {
        for short in 0..weighted.len() {
            for long in 0..weighted.len() {
                let [(one, _), (other, _)] = [weighted[short], weighted[long]];
                let (one, other) = (self.pieces.bytes(one), self.pieces.bytes(other));
                if short == long || one.is_empty() || !other.starts_with(one) {
                    continue;
                }
                let (kept, merged) = match weighted[long].1 > weighted[short].1 {
                    true => (long, short),
                    false => (short, long),
                };
                weighted[kept].1 += std::mem::take(&mut weighted[merged].1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Words(Vec<&'static str>);

    impl TokenPieces for Words {
        fn bytes(&self, token: TokenId) -> &[u8] {
            self.0[token.row()].as_bytes()
        }
    }

    /// Checks the remaining tokens, in descending order. Token 0 is the EOG token; `words` are the text tokens.
    #[track_caller]
    fn check(words: &[&'static str], weights: &[f32], eog_token: Option<u32>, expected: &[u32]) {
        let words = [&[""][..], words].concat();
        let vocabulary = InfillVocabulary {
            eog_tokens: [TokenId(0)].into(),
            pieces: Arc::new(Words(words)),
        };
        let logits: Vec<f32> = weights.iter().map(|weight| weight.ln()).collect();
        let mut candidates = Candidates::default();
        candidates.fill(&logits);
        vocabulary.apply(&mut candidates, eog_token.map(TokenId));
        let remaining: Vec<u32> = candidates.first(9).map(|(token, _)| token.0).collect();
        assert_eq!(remaining, expected);
    }

    #[test]
    fn the_text_ends_if_the_eog_token_is_probable() {
        check(&["a", "b"], &[0.2, 0.5, 0.3], Some(0), &[0]);
        check(&["a", "b"], &[0.05, 0.55, 0.4], Some(0), &[1, 2, 0]);
    }

    #[test]
    fn the_text_ends_if_no_text_token_is_probable_enough() {
        let words = ["a", "b", "c", "d", "e", "f"];
        let weights = [0.0, 0.17, 0.16, 0.17, 0.16, 0.18, 0.16];
        check(&words, &weights, Some(0), &[0]);
        // The text may not end here.
        check(&words, &weights, None, &[5]);
    }

    #[test]
    fn tokens_with_a_common_prefix_are_merged() {
        let words = ["re", "return", "ret", "x", "y", "z"];
        let weights = [0.0, 0.17, 0.18, 0.17, 0.16, 0.16, 0.16];
        check(&words, &weights, Some(0), &[2]);
    }

    #[test]
    fn tokens_much_less_probable_than_the_others_are_removed() {
        check(&["a", "b", "c"], &[0.0, 0.45, 0.33, 0.22], Some(0), &[1, 2]);
    }
}
