//! Repetition penalties: for tokens that occur in a window of recent tokens, and for tokens that extend a repeated
//! sequence (DRY).

use std::collections::{HashMap, HashSet, VecDeque};

use super::parameters::{Dry, Penalties};
use crate::token::TokenId;

/// The most recent tokens, and how often each of them occurs.
#[derive(Debug)]
pub(super) struct PenaltyWindow {
    window: VecDeque<TokenId>,
    /// Size of the window; `None` is unlimited, and `window` is then unused.
    last_n: Option<usize>,
    occurrences: HashMap<TokenId, u32>,
}

impl PenaltyWindow {
    /// Returns `None` if all penalties are off.
    pub(super) fn new(penalties: &Penalties, prompt: &[TokenId]) -> Option<PenaltyWindow> {
        let off = penalties.repeat_penalty == 1.0
            && penalties.presence_penalty == 0.0
            && penalties.frequency_penalty == 0.0;
        if off || penalties.last_n == Some(0) {
            return None;
        }
        let mut window = PenaltyWindow {
            window: VecDeque::new(),
            last_n: penalties.last_n,
            occurrences: HashMap::new(),
        };
        for &token in last(prompt, penalties.last_n) {
            window.push(token);
        }
        Some(window)
    }

    pub(super) fn push(&mut self, token: TokenId) {
        *self.occurrences.entry(token).or_default() += 1;
        let Some(last_n) = self.last_n else { return };
        self.window.push_back(token);
        if self.window.len() > last_n
            && let Some(oldest) = self.window.pop_front()
            && let Some(count) = self.occurrences.get_mut(&oldest)
        {
            *count -= 1;
            if *count == 0 {
                self.occurrences.remove(&oldest);
            }
        }
    }

    /// Applies the penalties, except to the token `unpenalized`, like llama.cpp's `llama_sampler_penalties`.
    ///
    /// Sources: Keskar et al., "CTRL" (2019), section 4.1, for the repeat penalty; OpenAI's API for the other two.
    pub(super) fn apply(
        &self,
        penalties: &Penalties,
        unpenalized: Option<TokenId>,
        logits: &mut [f32],
    ) {
        for (token, &count) in &self.occurrences {
            let Some(logit) = logits.get_mut(token.row()) else {
                continue;
            };
            if unpenalized == Some(*token) {
                continue;
            }
            if *logit <= 0.0 {
                *logit *= penalties.repeat_penalty;
            } else {
                *logit /= penalties.repeat_penalty;
            }
            *logit -= count as f32 * penalties.frequency_penalty + penalties.presence_penalty;
        }
    }
}

/// Returns the last `count` tokens; `None` returns all.
fn last(tokens: &[TokenId], count: Option<usize>) -> &[TokenId] {
    let count = count.map_or(tokens.len(), |count| count.min(tokens.len()));
    &tokens[tokens.len() - count..]
}

/// The tokenized sequence breakers of DRY: a repetition ends at a breaker.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SequenceBreakers {
    /// Tokens whose text contains a breaker.
    pub tokens: HashSet<TokenId>,
    /// Breakers that consist of several tokens.
    pub sequences: Vec<Vec<TokenId>>,
}

/// The state of DRY: all tokens so far, in which repetitions are searched.
///
/// Source: p-e-w, DRY, text-generation-webui pull request 5677 (2024).
#[derive(Debug)]
pub(super) struct DryState {
    tokens: Vec<TokenId>,
    breakers: SequenceBreakers,
    /// Buffer, `[tokens]`: for each position, the length of the longest suffix of the text that also ends there.
    lengths: Vec<usize>,
}

impl DryState {
    /// Returns `None` if DRY is off.
    pub(super) fn new(dry: &Dry, prompt: &[TokenId], breakers: SequenceBreakers) -> Option<Self> {
        let off = dry.multiplier == 0.0 || dry.base < 1.0 || dry.last_n == Some(0);
        (!off).then(|| Self {
            tokens: prompt.to_vec(),
            breakers,
            lengths: Vec::new(),
        })
    }

    pub(super) fn push(&mut self, token: TokenId) {
        self.tokens.push(token);
    }

    /// Penalizes each token according to the longest repetition that the token would extend.
    pub(super) fn apply(&mut self, dry: &Dry, logits: &mut [f32]) {
        let window = last(&self.tokens, dry.last_n);
        let max_length = self.breakers.tokens_after_last(window);
        if max_length < dry.allowed_length.max(1) {
            return;
        }
        common_suffix_lengths(window, &mut self.lengths);
        let mut longest: HashMap<TokenId, usize> = HashMap::new();
        for (end, &length) in self.lengths.iter().enumerate() {
            let length = length.min(max_length);
            // The token that followed this occurrence. No token follows the end of the text.
            let Some(&next) = window.get(end + 1) else {
                continue;
            };
            if length >= dry.allowed_length.max(1) {
                let longest_length = longest.entry(next).or_default();
                *longest_length = (*longest_length).max(length);
            }
        }
        for (token, length) in longest {
            if let Some(logit) = logits.get_mut(token.row()) {
                let exponent = (length - dry.allowed_length) as f32;
                // Keep the penalty finite if the power overflows.
                *logit -= (dry.multiplier * dry.base.powf(exponent)).min(f32::MAX);
            }
        }
    }
}

impl SequenceBreakers {
    /// Returns the number of tokens after the last breaker; all tokens if `text` has no breaker.
    fn tokens_after_last(&self, text: &[TokenId]) -> usize {
        (0..text.len())
            .find(|distance| {
                let end = text.len() - distance;
                self.tokens.contains(&text[end - 1])
                    || self
                        .sequences
                        .iter()
                        .any(|sequence| text[..end].ends_with(sequence))
            })
            .unwrap_or(text.len())
    }
}

/// Computes for each index the length of the longest suffix of the text that also ends at this index. This is the
/// Z-function of the reversed text.
///
/// Source: Gusfield, "Algorithms on Strings, Trees, and Sequences" (1997), section 1.4.
fn common_suffix_lengths(text: &[TokenId], lengths: &mut Vec<usize>) {
    let count = text.len();
    let at = |index: usize| text[count - 1 - index];
    lengths.clear();
    lengths.resize(count, count);
    // The Z value of `index` in the reversed text is stored at `count - 1 - index`.
    let (mut left, mut right) = (0, 0);
    for index in 1..count {
        let mut length = match index < right {
            true => lengths[count - 1 - (index - left)].min(right - index),
            false => 0,
        };
        while index + length < count && at(length) == at(index + length) {
            length += 1;
        }
        if index + length > right {
            (left, right) = (index, index + length);
        }
        lengths[count - 1 - index] = length;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(numbers: &[u32]) -> Vec<TokenId> {
        numbers.iter().copied().map(TokenId).collect()
    }

    /// Checks the DRY penalties of six tokens after `text`.
    #[track_caller]
    fn check(dry: &Dry, breakers: &[u32], text: &[u32], expected: [f32; 6]) {
        let breakers = SequenceBreakers {
            tokens: tokens(breakers).into_iter().collect(),
            sequences: vec![tokens(&[4, 5])],
        };
        let mut logits = [0.0; 6];
        let mut state = DryState::new(dry, &tokens(text), breakers).unwrap();
        state.apply(dry, &mut logits);
        assert_eq!(logits.map(|logit| 0.0 - logit), expected);
    }

    #[test]
    fn the_dry_penalty_grows_with_the_length_of_the_repetition() {
        let dry = Dry {
            multiplier: 1.0,
            base: 2.0,
            allowed_length: 2,
            last_n: None,
            breakers: Vec::new(),
        };
        let no_penalty = [0.0; 6];
        check(&dry, &[], &[1, 2, 3, 1, 2], [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        check(
            &dry,
            &[],
            &[0, 1, 2, 3, 0, 1, 2],
            [0.0, 0.0, 0.0, 2.0, 0.0, 0.0],
        );
        check(&dry, &[], &[1, 3, 2, 1], no_penalty);
        // Two possible continuations; the longest repetition of each token counts.
        check(
            &dry,
            &[],
            &[0, 1, 2, 3, 1, 2, 4, 1, 2, 3, 0, 1, 2],
            [0.0, 0.0, 0.0, 2.0, 1.0, 0.0],
        );
        check(&dry, &[2], &[1, 2, 3, 1, 2], no_penalty);
        check(&dry, &[1], &[0, 1, 2, 3, 0, 1, 2], no_penalty);
        check(&dry, &[], &[4, 5, 2, 3, 4, 5, 2], no_penalty);
        let short_window = Dry {
            last_n: Some(4),
            ..dry.clone()
        };
        check(&short_window, &[], &[1, 2, 3, 1, 2], no_penalty);
        assert!(
            DryState::new(
                &Dry {
                    multiplier: 0.0,
                    ..dry
                },
                &[],
                SequenceBreakers::default()
            )
            .is_none()
        );
    }

    proptest! {
        #[test]
        fn suffix_lengths_equal_those_of_a_direct_search(text in prop::collection::vec(0u32..3, 0..40)) {
            let text = tokens(&text);
            let mut lengths = Vec::new();
            common_suffix_lengths(&text, &mut lengths);
            for (end, length) in lengths.into_iter().enumerate() {
                let expected = (0..=end)
                    .take_while(|back| text[end - back] == text[text.len() - 1 - back])
                    .count();
                prop_assert_eq!(length, expected);
            }
        }
    }
}
