//! The stages of the choice, each a function over the candidates that are left.

use std::cmp::Ordering;

use crate::token::TokenId;

/// Candidates that a first pass of a nucleus looks at; it grows until the sum is reached.
const FIRST_NUCLEUS: usize = 128;

/// The tokens that may be chosen, with their logits. Memory is kept from token to token.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Candidates {
    entries: Vec<Candidate>,
    /// How many entries at the front are in descending order, and above all others.
    sorted: usize,
    /// Probabilities, while a stage needs them.
    weights: Vec<f64>,
}

/// A token that may be chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Candidate {
    /// The token.
    pub token: TokenId,
    /// Its logit, a number that is not −∞.
    pub logit: f32,
}

impl Candidates {
    /// All tokens of the vocabulary that are possible.
    pub fn fill(&mut self, logits: &[f32]) {
        self.entries.clear();
        self.sorted = 0;
        self.entries.extend(
            logits
                .iter()
                .zip(0..)
                .filter(|(logit, _)| **logit > f32::NEG_INFINITY)
                .map(|(logit, id)| Candidate {
                    token: TokenId(id),
                    logit: logit.min(f32::MAX),
                }),
        );
    }

    /// Those that are left, in no particular order.
    pub fn entries(&self) -> &[Candidate] {
        &self.entries
    }

    /// Puts the `count` best at the front, in order: by logit, then by token.
    fn sort_best(&mut self, count: usize) {
        let count = count.min(self.entries.len());
        if count <= self.sorted {
            return;
        }
        let rest = &mut self.entries[self.sorted..];
        let more = count - self.sorted;
        if more < rest.len() {
            rest.select_nth_unstable_by(more - 1, better_first);
        }
        rest[..more].sort_unstable_by(better_first);
        self.sorted = count;
    }

    fn keep_best(&mut self, count: usize) {
        self.sort_best(count);
        self.entries.truncate(count);
    }

    fn highest(&self) -> f32 {
        self.entries
            .iter()
            .map(|candidate| candidate.logit)
            .fold(f32::NEG_INFINITY, f32::max)
    }
}

fn better_first(left: &Candidate, right: &Candidate) -> Ordering {
    right
        .logit
        .total_cmp(&left.logit)
        .then(left.token.cmp(&right.token))
}

/// The token with the highest logit; of equal ones the first. Without any possible token, token 0.
pub fn most_probable(logits: &[f32]) -> TokenId {
    let mut best = (TokenId(0), f32::NEG_INFINITY);
    for (logit, id) in logits.iter().zip(0..) {
        if *logit > best.1 {
            best = (TokenId(id), *logit);
        }
    }
    best.0
}

/// Keeps the `count` most probable candidates.
///
/// Source: Fan et al., «Hierarchical Neural Story Generation» (2018), section 5.4.
pub fn top_k(candidates: &mut Candidates, count: usize) {
    candidates.keep_best(count);
}

/// Keeps the fewest most probable candidates whose probabilities reach `sum`, at least `min_keep`.
///
/// Source: Holtzman et al., «The Curious Case of Neural Text Degeneration» (2020), section 3.1.
pub fn top_p(candidates: &mut Candidates, sum: f32, min_keep: usize) {
    let highest = candidates.highest();
    let weight = |logit: f32| f64::from(logit - highest).exp();
    let total: f64 = candidates
        .entries
        .iter()
        .map(|candidate| weight(candidate.logit))
        .sum();
    let wanted = f64::from(sum) * total;
    let (mut reached, mut kept, mut sorted) = (0.0, 0, FIRST_NUCLEUS);
    while kept < candidates.entries.len() {
        candidates.sort_best(sorted);
        let end = sorted.min(candidates.entries.len());
        for candidate in &candidates.entries[kept..end] {
            reached += weight(candidate.logit);
            kept += 1;
            if reached >= wanted && kept >= min_keep {
                candidates.entries.truncate(kept);
                candidates.sorted = kept;
                return;
            }
        }
        sorted *= 4;
    }
}

/// Keeps candidates that are at least `share` as probable as the most probable one, at least `min_keep`.
///
/// Source: Nguyen et al., «Turning Up the Heat: Min-p Sampling» (2024), section 3.
pub fn min_p(candidates: &mut Candidates, share: f32, min_keep: usize) {
    let least = candidates.highest() + share.ln();
    let passing = candidates
        .entries
        .iter()
        .filter(|candidate| candidate.logit >= least)
        .count();
    if passing < min_keep {
        candidates.keep_best(min_keep);
    } else {
        candidates
            .entries
            .retain(|candidate| candidate.logit >= least);
        candidates.sorted = candidates.sorted.min(candidates.entries.len());
    }
}

/// Divides the logits.
///
/// Source: Ackley et al., «A Learning Algorithm for Boltzmann Machines» (1985), equation 4.
pub fn temperature(candidates: &mut Candidates, temperature: f32) {
    for candidate in &mut candidates.entries {
        candidate.logit /= temperature;
    }
}

/// The candidate at `point` (from 0 to 1) of the cumulative distribution, in the order of the entries;
/// `None` if there are none.
pub fn choose(candidates: &mut Candidates, point: f64) -> Option<TokenId> {
    let highest = candidates.highest();
    let Candidates {
        entries, weights, ..
    } = candidates;
    weights.clear();
    // Temperatures close to 0 may have made logits infinite: equals, then.
    weights.extend(
        entries
            .iter()
            .map(|candidate| match candidate.logit == highest {
                true => 1.0,
                false => f64::from(candidate.logit - highest).exp(),
            }),
    );
    let mut rest = point * weights.iter().sum::<f64>();
    let chosen = weights.iter().position(|weight| {
        rest -= weight;
        rest < 0.0
    });
    // Rounding may leave a rest beyond the last one.
    let chosen = chosen.or_else(|| weights.iter().rposition(|weight| *weight > 0.0))?;
    Some(entries[chosen].token)
}
