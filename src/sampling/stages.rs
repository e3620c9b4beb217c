//! The stages of the sampler chain: pure functions that narrow or reshape the candidates, and the final draw. The
//! sampler decides the order of the stages.

use std::cmp::Ordering;

use crate::token::TokenId;

/// Number of candidates that [`top_p`] sorts first. While their probabilities do not reach the sum `p`, [`top_p`] sorts
/// four times as many.
const INITIAL_NUCLEUS: usize = 128;
/// Number of weights that [`draw`] sums in single precision at a time.
const SUM_BLOCK: usize = 256;

/// A token that may be sampled. Its logit is neither NaN nor positive infinity.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) token: TokenId,
    pub(super) logit: f32,
}

impl Candidate {
    /// Orders by descending logit, then by ascending id. The total order makes results independent of the sort
    /// algorithm.
    fn order(&self, other: &Candidate) -> Ordering {
        other
            .logit
            .total_cmp(&self.logit)
            .then(self.token.cmp(&other.token))
    }
}

/// The candidates that the previous stages have kept. Every stage keeps at least one candidate.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    entries: Vec<Candidate>,
    /// Whether the entries are sorted by [`Candidate::order`]; otherwise they are in id order.
    ordered: bool,
    weights: Vec<f32>,
}

impl Candidates {
    /// Replaces the candidates with all tokens of the vocabulary. `logits` has one value per token.
    pub(super) fn fill(&mut self, logits: &[f32]) {
        self.ordered = false;
        self.entries.clear();
        self.entries
            .extend(logits.iter().zip(0_u32..).map(|(&logit, id)| Candidate {
                token: TokenId(id),
                logit: finite_above(logit),
            }));
    }

    /// Returns the log-sum-exp of the logits, in double precision.
    pub(super) fn log_sum(&self) -> f64 {
        let highest = f64::from(self.highest());
        let weights = self.entries.iter();
        let weights = weights.map(|entry| (f64::from(entry.logit) - highest).exp());
        highest + weights.sum::<f64>().ln()
    }

    /// Returns the logit of a token; `None` if the token is not a candidate.
    pub(super) fn logit(&self, token: TokenId) -> Option<f32> {
        let entry = self.entries.iter().find(|entry| entry.token == token);
        entry.map(|entry| entry.logit)
    }

    /// Iterates over the first `count` candidates, which must be sorted.
    pub(super) fn first(&self, count: usize) -> impl Iterator<Item = (TokenId, f32)> {
        let entries = self.entries.iter().take(count);
        entries.map(|entry| (entry.token, entry.logit))
    }

    /// Keeps the `count` most probable candidates and returns their probabilities.
    pub(super) fn probabilities(&mut self, count: usize) -> Vec<(TokenId, f64)> {
        self.keep_first(count);
        let sum = self.log_sum();
        let entries = self.entries.iter();
        let probability = |entry: &Candidate| (entry.token, (f64::from(entry.logit) - sum).exp());
        entries.map(probability).collect()
    }

    /// Replaces the candidates with the tokens in `weighted`. Their probabilities are proportional to the weights.
    pub(super) fn replace(&mut self, weighted: Vec<(TokenId, f64)>) {
        self.entries.clear();
        self.entries
            .extend(weighted.into_iter().map(|(token, weight)| Candidate {
                token,
                logit: finite_above(weight.ln() as f32),
            }));
        self.entries.sort_unstable_by(Candidate::order);
        self.ordered = true;
    }

    fn highest(&self) -> f32 {
        if self.ordered {
            return self
                .entries
                .first()
                .map_or(f32::NEG_INFINITY, |first| first.logit);
        }
        self.entries
            .iter()
            .fold(f32::NEG_INFINITY, |highest, entry| highest.max(entry.logit))
    }

    /// Moves the `count` most probable candidates to the front, in order.
    fn sort_first(&mut self, count: usize) {
        if self.ordered {
            return;
        }
        if count < self.entries.len() {
            self.entries.select_nth_unstable_by(count, Candidate::order);
        }
        let count = count.min(self.entries.len());
        self.entries[..count].sort_unstable_by(Candidate::order);
    }

    /// Keeps the `count` most probable candidates, sorted.
    fn keep_first(&mut self, count: usize) {
        self.sort_first(count);
        self.entries.truncate(count);
        self.ordered = true;
    }
}

/// Replaces NaN with minus infinity, so that the token is never sampled, and positive infinity with the largest finite
/// number.
fn finite_above(logit: f32) -> f32 {
    if logit.is_nan() {
        f32::NEG_INFINITY
    } else {
        logit.min(f32::MAX)
    }
}

/// Returns the token with the highest logit; the lowest id if several logits are equal.
pub(super) fn argmax(logits: &[f32]) -> TokenId {
    let mut best = TokenId(0);
    let mut highest = f32::NEG_INFINITY;
    for (&logit, id) in logits.iter().zip(0_u32..) {
        if logit > highest {
            (best, highest) = (TokenId(id), logit);
        }
    }
    best
}

/// Keeps the `count` most probable tokens, at least one (Fan et al., Hierarchical Neural Story Generation, 2018).
pub(super) fn top_k(candidates: &mut Candidates, count: usize) {
    let count = count.max(1);
    let length = candidates.entries.len();
    if !candidates.ordered && count < length / 4 {
        // Collect the tokens that rank above the `count`-th best token so far, and skip all others. Whenever twice as
        // many are collected, keep the best `count` of them.
        let entries = &mut candidates.entries;
        let mut kept = 0;
        let mut threshold: Option<Candidate> = None;
        for index in 0..length {
            let entry = entries[index];
            if threshold.is_some_and(|threshold| threshold.order(&entry).is_lt()) {
                continue;
            }
            entries[kept] = entry;
            kept += 1;
            if kept == 2 * count {
                let (_, nth, _) =
                    entries[..kept].select_nth_unstable_by(count - 1, Candidate::order);
                threshold = Some(*nth);
                kept = count;
            }
        }
        entries.truncate(kept);
    }
    candidates.keep_first(count);
}

/// Keeps the smallest set of most probable tokens whose probabilities reach the sum `p`, at least `min_keep` tokens
/// (Holtzman et al., The Curious Case of Neural Text Degeneration, 2020). 1 is off.
pub(super) fn top_p(candidates: &mut Candidates, p: f32, min_keep: usize) {
    if p.is_nan() || p >= 1.0 {
        return;
    }
    let highest = candidates.highest();
    let weight = |entry: &Candidate| f64::from(weight(entry.logit - highest));
    let target = f64::from(p) * candidates.entries.iter().map(weight).sum::<f64>();
    let length = candidates.entries.len();
    let mut sorted = if candidates.ordered {
        length
    } else {
        INITIAL_NUCLEUS
    };
    loop {
        candidates.sort_first(sorted);
        let mut sum = 0.0;
        let nucleus = candidates.entries[..sorted.min(length)]
            .iter()
            .position(|entry| {
                sum += weight(entry);
                sum >= target
            });
        match nucleus {
            Some(last) => return candidates.keep_first((last + 1).max(min_keep)),
            None if sorted >= length => return candidates.keep_first(length),
            None => sorted *= 4,
        }
    }
}

/// Keeps the tokens with at least `p` times the highest probability, at least `min_keep` tokens
/// (Nguyen et al., Turning Up the Heat: Min-p Sampling, 2024). 0 is off.
pub(super) fn min_p(candidates: &mut Candidates, p: f32, min_keep: usize) {
    if p.is_nan() || p <= 0.0 {
        return;
    }
    // Compares logits instead of probabilities, which is equivalent. Limiting `p` to 1 keeps at least the most probable
    // token.
    let min_logit = candidates.highest() + p.min(1.0).ln();
    keep_where(candidates, min_keep, |entry| entry.logit >= min_logit);
}

/// Keeps the tokens within `count` standard deviations of the highest logit
/// (Tang et al., Top-nσ: Not All Logits Are You Need, 2024). 0 and below is off.
pub(super) fn top_n_sigma(candidates: &mut Candidates, count: f32, min_keep: usize) {
    if count.is_nan() || count <= 0.0 {
        return;
    }
    // Leave out excluded tokens (minus infinity).
    let logits = || {
        let entries = candidates.entries.iter();
        entries
            .map(|entry| f64::from(entry.logit))
            .filter(|logit| *logit > f64::NEG_INFINITY)
    };
    let total = logits().count().max(1) as f64;
    let mean = logits().sum::<f64>() / total;
    let variance = logits().map(|logit| (logit - mean).powi(2)).sum::<f64>() / total;
    let min_logit = f64::from(candidates.highest()) - f64::from(count) * variance.sqrt();
    keep_where(candidates, min_keep, |entry| {
        f64::from(entry.logit) >= min_logit
    });
}

/// Removes the tail of the sorted probabilities, from the position at which the summed absolute second derivative
/// exceeds the share `z` of its total. Keeps at least `min_keep` tokens (Phénix and Egan, Tail Free Sampling, 2019). 1
/// is off.
pub(super) fn tail_free(candidates: &mut Candidates, z: f32, min_keep: usize) {
    if z.is_nan() || z >= 1.0 || candidates.entries.len() <= 2 {
        return;
    }
    candidates.keep_first(candidates.entries.len());
    let probabilities = probabilities(candidates);
    let first_differences: Vec<f64> = probabilities
        .windows(2)
        .map(|pair| pair[0] - pair[1])
        .collect();
    let curvatures: Vec<f64> = first_differences
        .windows(2)
        .map(|pair| (pair[0] - pair[1]).abs())
        .collect();
    let total: f64 = curvatures.iter().sum();
    // An almost straight curve has no tail: give all positions equal shares.
    let share = |curvature: f64| match total > 1e-6 {
        true => curvature / total,
        false => 1.0 / curvatures.len() as f64,
    };
    let mut sum = 0.0;
    let cut = curvatures.iter().position(|curvature| {
        sum += share(*curvature);
        sum > f64::from(z)
    });
    if let Some(cut) = cut {
        candidates.keep_first(cut.max(min_keep).max(1));
    }
}

/// Keeps the tokens whose surprise (negative log probability) is nearest to the entropy, until their probabilities
/// exceed the sum `p`, at least `min_keep` tokens (Meister et al., Locally Typical Sampling, 2023). 1 is off.
pub(super) fn typical(candidates: &mut Candidates, p: f32, min_keep: usize) {
    if p.is_nan() || p >= 1.0 {
        return;
    }
    let probabilities = probabilities(candidates);
    let surprise = |probability: f64| match probability > 0.0 {
        true => -probability.ln(),
        false => f64::INFINITY,
    };
    let entropy: f64 = probabilities
        .iter()
        .filter(|probability| **probability > 0.0)
        .map(|probability| probability * surprise(*probability))
        .sum();
    let mut by_distance: Vec<(f64, f64, Candidate)> = probabilities
        .iter()
        .zip(&candidates.entries)
        .map(|(probability, entry)| {
            let distance = (surprise(*probability) - entropy).abs();
            (distance, *probability, *entry)
        })
        .collect();
    by_distance
        .sort_unstable_by(|left, right| left.0.total_cmp(&right.0).then(left.2.order(&right.2)));
    let mut sum = 0.0;
    let cut = by_distance.iter().position(|(_, probability, _)| {
        sum += probability;
        sum > f64::from(p)
    });
    let count = cut.map_or(by_distance.len(), |cut| (cut + 1).max(min_keep));
    let kept = by_distance.iter().take(count).map(|(_, _, entry)| *entry);
    candidates.entries.clear();
    candidates.entries.extend(kept);
    candidates.ordered = false;
    candidates.keep_first(count);
}

/// Removes all tokens whose probability is at least `threshold`, except the least probable of them. Removes none if
/// fewer than `min_keep` tokens would remain (p-e-w, XTC, text-generation-webui pull request 6335, 2024).
pub(super) fn xtc(candidates: &mut Candidates, threshold: f32, min_keep: usize) {
    if threshold.is_nan() || threshold > 0.5 {
        return;
    }
    candidates.keep_first(candidates.entries.len());
    let probabilities = probabilities(candidates);
    let probable = probabilities
        .iter()
        .take_while(|probability| **probability >= f64::from(threshold))
        .count();
    let removed = probable.saturating_sub(1);
    if candidates.entries.len() - removed >= min_keep {
        candidates.entries.drain(..removed);
    }
}

/// Keeps the tokens whose probability is at least `min_probability`, and always the most probable token.
pub(super) fn keep_at_least(candidates: &mut Candidates, min_probability: f64) {
    candidates.keep_first(candidates.entries.len());
    let probabilities = probabilities(candidates);
    let count = probabilities
        .iter()
        .take_while(|probability| **probability >= min_probability)
        .count();
    candidates.keep_first(count.max(1));
}

/// Keeps the tokens that satisfy `predicate`, or the `min_keep` most probable tokens if these are more.
fn keep_where(
    candidates: &mut Candidates,
    min_keep: usize,
    predicate: impl Fn(&Candidate) -> bool,
) {
    let kept = candidates
        .entries
        .iter()
        .filter(|entry| predicate(entry))
        .count();
    if kept < min_keep.max(1) {
        return candidates.keep_first(min_keep.max(1));
    }
    candidates.entries.retain(|entry| predicate(entry));
}

/// Returns the dynamic temperature: `min` at entropy 0, `max` for a uniform distribution (Zhang et al., EDT: Improving
/// Large Language Models' Generation by Entropy-based Dynamic Temperature Sampling, 2024, in koboldcpp's form).
pub(super) fn dynamic_temperature(
    candidates: &Candidates,
    min: f32,
    max: f32,
    exponent: f32,
) -> f32 {
    if candidates.entries.len() <= 1 {
        return max;
    }
    let probabilities = probabilities(candidates);
    let entropy: f64 = probabilities
        .iter()
        .filter(|probability| **probability > 0.0)
        .map(|probability| -probability * probability.ln())
        .sum();
    let normalized_entropy = entropy / (candidates.entries.len() as f64).ln();
    min + (max - min) * (normalized_entropy as f32).powf(exponent)
}

/// Returns the probabilities of the candidates, in the candidates' order.
pub(super) fn probabilities(candidates: &Candidates) -> Vec<f64> {
    let highest = candidates.highest();
    let weights = candidates.entries.iter();
    let mut weights: Vec<f64> = weights
        .map(|entry| f64::from(weight(entry.logit - highest)))
        .collect();
    let sum: f64 = weights.iter().sum();
    weights.iter_mut().for_each(|weight| *weight /= sum);
    weights
}

/// Returns the index of a token among the candidates; 0 if the token is not a candidate.
pub(super) fn index_of(candidates: &Candidates, token: TokenId) -> usize {
    let mut entries = candidates.entries.iter();
    entries.position(|entry| entry.token == token).unwrap_or(0)
}

/// Divides the logits by the temperature. Values below 1 make probable tokens more probable (Ackley et al., A Learning
/// Algorithm for Boltzmann Machines, 1985).
pub(super) fn temperature(candidates: &mut Candidates, temperature: f32) {
    // Only differences of logits matter. Differences from the highest logit cannot overflow to positive infinity.
    let highest = candidates.highest();
    for entry in &mut candidates.entries {
        let distance = entry.logit - highest;
        // -inf / +inf and -inf - -inf are NaN.
        entry.logit = if distance < 0.0 {
            finite_above(distance / temperature)
        } else {
            0.0
        };
    }
}

/// Samples a candidate according to the probabilities, by inverting the cumulative distribution. `uniform` is in 0..1.
pub(super) fn draw(candidates: &mut Candidates, uniform: f64) -> TokenId {
    let highest = candidates.highest();
    candidates.weights.clear();
    candidates.weights.extend(
        candidates
            .entries
            .iter()
            .map(|entry| weight(entry.logit - highest)),
    );
    let blocks = || candidates.weights.chunks(SUM_BLOCK).map(block_sum);
    let mut position = uniform * blocks().sum::<f64>();
    let mut start = 0;
    for sum in blocks() {
        if position < sum {
            break;
        }
        position -= sum;
        start += SUM_BLOCK;
    }
    let mut sampled = None;
    for (entry, &weight) in candidates
        .entries
        .iter()
        .zip(&candidates.weights)
        .skip(start)
    {
        // Rounding may leave the position past the end: then the last candidate with a positive weight is sampled.
        if weight > 0.0 {
            sampled = Some(entry.token);
            position -= f64::from(weight);
            if position < 0.0 {
                break;
            }
        }
    }
    sampled.unwrap_or_else(|| most_probable_candidate(candidates))
}

fn most_probable_candidate(candidates: &Candidates) -> TokenId {
    candidates
        .entries
        .iter()
        .min_by(|left, right| left.order(right))
        .map_or(TokenId(0), |entry| entry.token)
}

fn block_sum(weights: &[f32]) -> f64 {
    f64::from(weights.iter().sum::<f32>())
}

/// Returns the unnormalized probability of a candidate. `distance` is its logit minus the highest logit, so at most 0.
fn weight(distance: f32) -> f32 {
    // If all logits are -inf, the difference is NaN: all candidates are equally probable.
    if distance.is_nan() {
        1.0
    } else {
        distance.exp()
    }
}

#[cfg(test)]
#[path = "stages_tests.rs"]
mod tests;
