//! The stage that llama.cpp's server has for gaps in code: it ends the text early where the model is not sure how it goes on.
//!
//! Source: llama.cpp, `llama_sampler_init_infill`: its documentation in `llama.h`.

use std::sync::Arc;

use super::stages::Candidates;
use crate::token::TokenId;

/// Candidates that are looked at, the most probable ones: each is compared with each.
const MOST_CANDIDATES: usize = 256;
/// A text token that is less probable is left out.
const LEAST_PROBABILITY: f64 = 0.2;
/// Text tokens together are at least so many times as probable as the end times the number of candidates, else it ends.
const END_WEIGHT: f64 = 3.0;

/// What tokens spell.
pub trait TokenPieces: Send + Sync {
    /// The bytes of a token; none of one that is no text.
    fn bytes(&self, token: TokenId) -> &[u8];
}

/// What the stage is told of the vocabulary.
#[derive(Clone)]
pub struct InfillTokens {
    /// The tokens that end a text.
    pub ends: Arc<[TokenId]>,
    /// What the others spell.
    pub pieces: Arc<dyn TokenPieces>,
}

impl std::fmt::Debug for InfillTokens {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("InfillTokens")
            .field("ends", &self.ends)
            .finish_non_exhaustive()
    }
}

impl InfillTokens {
    /// Narrows the candidates. `end` is what ends the text where nothing is probable enough, if it may end.
    pub(super) fn apply(&self, candidates: &mut Candidates, end: Option<TokenId>) {
        let is_end = |token: &TokenId| self.ends.contains(token);
        let mut weighted = candidates.probabilities(MOST_CANDIDATES);
        let count = weighted.len() as f64;
        let sum_of = |ends: bool| {
            let part = weighted.iter().filter(|(token, _)| is_end(token) == ends);
            part.map(|(_, weight)| weight).sum::<f64>()
        };
        let (end_sum, text_sum) = (sum_of(true), sum_of(false));
        if end_sum > 0.0 && END_WEIGHT * end_sum * count > text_sum {
            weighted.retain(|(token, _)| is_end(token));
            return candidates.replace(weighted);
        }
        self.merge_prefixes(&mut weighted);
        weighted.retain(|(_, weight)| *weight > 0.0);
        let most_probable = weighted
            .iter()
            .copied()
            .max_by(|(_, left), (_, right)| left.total_cmp(right));
        weighted.retain(|(token, weight)| is_end(token) || *weight >= LEAST_PROBABILITY);
        let texts = weighted.iter().filter(|(token, _)| !is_end(token)).count();
        if texts == 0 {
            let last = end.map(|end| (end, 1.0)).or(most_probable);
            return candidates.replace(last.into_iter().collect());
        }
        let sum: f64 = weighted.iter().map(|(_, weight)| weight).sum();
        let least = sum / (texts + 1) as f64;
        weighted.retain(|(token, weight)| is_end(token) || *weight >= least);
        candidates.replace(weighted);
    }

    /// Of a token that begins as another one does, the more probable gets the probability of both.
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

    /// Token 0 is the end; `words` are the others. Tells the tokens that are left, in their order.
    #[track_caller]
    fn check(words: &[&'static str], weights: &[f32], end: Option<u32>, expected: &[u32]) {
        let words = [&[""][..], words].concat();
        let tokens = InfillTokens {
            ends: [TokenId(0)].into(),
            pieces: Arc::new(Words(words)),
        };
        let logits: Vec<f32> = weights.iter().map(|weight| weight.ln()).collect();
        let mut candidates = Candidates::default();
        candidates.fill(&logits);
        tokens.apply(&mut candidates, end.map(TokenId));
        let left: Vec<u32> = candidates.first(9).map(|(token, _)| token.0).collect();
        assert_eq!(left, expected);
    }

    #[test]
    fn the_text_ends_where_the_end_is_probable() {
        check(&["a", "b"], &[0.2, 0.5, 0.3], Some(0), &[0]);
        check(&["a", "b"], &[0.05, 0.55, 0.4], Some(0), &[1, 2, 0]);
    }

    #[test]
    fn the_text_ends_where_nothing_is_probable_enough() {
        let words = ["a", "b", "c", "d", "e", "f"];
        let weights = [0.0, 0.17, 0.16, 0.17, 0.16, 0.18, 0.16];
        check(&words, &weights, Some(0), &[0]);
        // It may not end here.
        check(&words, &weights, None, &[5]);
    }

    #[test]
    fn tokens_that_begin_alike_count_together() {
        let words = ["re", "return", "ret", "x", "y", "z"];
        let weights = [0.0, 0.17, 0.18, 0.17, 0.16, 0.16, 0.16];
        check(&words, &weights, Some(0), &[2]);
    }

    #[test]
    fn what_is_much_less_probable_than_the_rest_is_left_out() {
        check(&["a", "b", "c"], &[0.0, 0.45, 0.33, 0.22], Some(0), &[1, 2]);
    }
}
