//! What it costs a token to have occurred: the tokens that are looked back at, and how often each is among
//! them; and what it costs to go on with a sequence that occurred.

use std::collections::{HashMap, HashSet, VecDeque};

use super::parameters::{Dry, Repetition};
use crate::token::TokenId;

/// The tokens that the penalties look back at, and how often each occurs among them.
#[derive(Debug)]
pub(super) struct History {
    window: VecDeque<TokenId>,
    /// `None`: nothing ever leaves the window.
    last_n: Option<usize>,
    occurrences: HashMap<TokenId, u32>,
}

impl History {
    /// `None` if nothing is to be penalised.
    pub(super) fn new(repetition: &Repetition, prompt: &[TokenId]) -> Option<History> {
        let off = repetition.repeat_penalty == 1.0
            && repetition.presence_penalty == 0.0
            && repetition.frequency_penalty == 0.0;
        if off || repetition.last_n == Some(0) {
            return None;
        }
        let mut history = History {
            window: VecDeque::new(),
            last_n: repetition.last_n,
            occurrences: HashMap::new(),
        };
        for &token in last(prompt, repetition.last_n) {
            history.push(token);
        }
        Some(history)
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

    /// As llama.cpp's `llama_sampler_penalties`; the repetition penalty is from Keskar et al., CTRL,
    /// 2019, section 4.1, the other two are OpenAI's. The token `spared` is left as it is.
    pub(super) fn penalise(
        &self,
        repetition: &Repetition,
        spared: Option<TokenId>,
        logits: &mut [f32],
    ) {
        for (token, &count) in &self.occurrences {
            let Some(logit) = logits.get_mut(token.row()) else {
                continue;
            };
            if spared == Some(*token) {
                continue;
            }
            if *logit <= 0.0 {
                *logit *= repetition.repeat_penalty;
            } else {
                *logit /= repetition.repeat_penalty;
            }
            *logit -= count as f32 * repetition.frequency_penalty + repetition.presence_penalty;
        }
    }
}

/// The last `count` tokens.
fn last(tokens: &[TokenId], count: Option<usize>) -> &[TokenId] {
    let count = count.map_or(tokens.len(), |count| count.min(tokens.len()));
    &tokens[tokens.len() - count..]
}

/// Over these no repeated sequence goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SequenceBreakers {
    /// Tokens whose text has a breaker in it.
    pub tokens: HashSet<TokenId>,
    /// Breakers that take several tokens.
    pub sequences: Vec<Vec<TokenId>>,
}

/// The sequence so far, and what going on with its repetitions costs
/// (p-e-w, DRY, text-generation-webui pull request 5677, 2024).
#[derive(Debug)]
pub(super) struct Repeats {
    tokens: Vec<TokenId>,
    breakers: SequenceBreakers,
    /// `[tokens]`: how long a repetition of the text's end ends at each token; kept for its memory.
    lengths: Vec<usize>,
}

impl Repeats {
    /// `None` if nothing is to be penalised.
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

    /// Takes from each token's logit what the longest repetition costs that it would go on with.
    pub(super) fn penalise(&mut self, dry: &Dry, logits: &mut [f32]) {
        let window = last(&self.tokens, dry.last_n);
        let longest = self.breakers.distance(window);
        if longest < dry.allowed_length.max(1) {
            return;
        }
        ends_like_the_text(window, &mut self.lengths);
        let mut most: HashMap<TokenId, usize> = HashMap::new();
        for (end, &length) in self.lengths.iter().enumerate() {
            let length = length.min(longest);
            // What followed that occurrence; the text's own end is no occurrence.
            let Some(&next) = window.get(end + 1) else {
                continue;
            };
            if length >= dry.allowed_length.max(1) {
                let known = most.entry(next).or_default();
                *known = (*known).max(length);
            }
        }
        for (token, length) in most {
            if let Some(logit) = logits.get_mut(token.row()) {
                let exponent = (length - dry.allowed_length) as f32;
                // A number that is too large to be one is as good as any.
                *logit -= (dry.multiplier * dry.base.powf(exponent)).min(f32::MAX);
            }
        }
    }
}

impl SequenceBreakers {
    /// Tokens after the last breaker of a text.
    fn distance(&self, text: &[TokenId]) -> usize {
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

/// For each place how many tokens up to it are those at the text's end (the Z-function of the text read
/// backwards; Gusfield, Algorithms on Strings, Trees, and Sequences, 1997, section 1.4).
fn ends_like_the_text(text: &[TokenId], lengths: &mut Vec<usize>) {
    let count = text.len();
    let at = |place: usize| text[count - 1 - place];
    lengths.clear();
    lengths.resize(count, count);
    // Backwards: `z(place)` is kept at `count - 1 - place`.
    let (mut left, mut right) = (0, 0);
    for place in 1..count {
        let mut length = match place < right {
            true => lengths[count - 1 - (place - left)].min(right - place),
            false => 0,
        };
        while place + length < count && at(length) == at(place + length) {
            length += 1;
        }
        if place + length > right {
            (left, right) = (place, place + length);
        }
        lengths[count - 1 - place] = length;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tokens(numbers: &[u32]) -> Vec<TokenId> {
        numbers.iter().copied().map(TokenId).collect()
    }

    /// What is taken from each of six logits after a text.
    #[track_caller]
    fn check(dry: &Dry, breakers: &[u32], text: &[u32], taken: [f32; 6]) {
        let breakers = SequenceBreakers {
            tokens: tokens(breakers).into_iter().collect(),
            sequences: vec![tokens(&[4, 5])],
        };
        let mut logits = [0.0; 6];
        let mut repeats = Repeats::new(dry, &tokens(text), breakers).unwrap();
        repeats.penalise(dry, &mut logits);
        assert_eq!(logits.map(|logit| 0.0 - logit), taken);
    }

    #[test]
    fn going_on_with_a_sequence_costs_by_its_length() {
        let dry = Dry {
            multiplier: 1.0,
            base: 2.0,
            allowed_length: 2,
            last_n: None,
            breakers: Vec::new(),
        };
        let nothing = [0.0; 6];
        check(&dry, &[], &[1, 2, 3, 1, 2], [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
        check(
            &dry,
            &[],
            &[0, 1, 2, 3, 0, 1, 2],
            [0.0, 0.0, 0.0, 2.0, 0.0, 0.0],
        );
        check(&dry, &[], &[1, 3, 2, 1], nothing);
        // Two continuations; of one token's the longest counts.
        check(
            &dry,
            &[],
            &[0, 1, 2, 3, 1, 2, 4, 1, 2, 3, 0, 1, 2],
            [0.0, 0.0, 0.0, 2.0, 1.0, 0.0],
        );
        check(&dry, &[2], &[1, 2, 3, 1, 2], nothing);
        check(&dry, &[1], &[0, 1, 2, 3, 0, 1, 2], nothing);
        check(&dry, &[], &[4, 5, 2, 3, 4, 5, 2], nothing);
        let near = Dry {
            last_n: Some(4),
            ..dry.clone()
        };
        check(&near, &[], &[1, 2, 3, 1, 2], nothing);
        assert!(
            Repeats::new(
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
        fn repetitions_are_found_as_by_looking(text in prop::collection::vec(0u32..3, 0..40)) {
            let text = tokens(&text);
            let mut lengths = Vec::new();
            ends_like_the_text(&text, &mut lengths);
            for (end, length) in lengths.into_iter().enumerate() {
                let looked = (0..=end)
                    .take_while(|back| text[end - back] == text[text.len() - 1 - back])
                    .count();
                prop_assert_eq!(length, looked);
            }
        }
    }
}
