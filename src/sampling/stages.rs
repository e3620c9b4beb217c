//! The stages of sampling: each narrows or reshapes the candidates, the last one draws. Pure functions;
//! their order is the sampler's business.

use std::cmp::Ordering;

use crate::token::TokenId;

/// Candidates that [`top_p`] puts in order first; it takes four times as many while they do not suffice.
const FIRST_NUCLEUS: usize = 128;
/// Weights that are added up at once by [`draw`].
const BLOCK: usize = 256;

/// A token that may be chosen. Its logit is a number, never infinite upwards.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Candidate {
    pub(super) token: TokenId,
    pub(super) logit: f32,
}

impl Candidate {
    /// The more probable first, of equals the lower id: a total order, so that the choice never depends
    /// on how a sort treats equals.
    fn order(&self, other: &Candidate) -> Ordering {
        other
            .logit
            .total_cmp(&self.logit)
            .then(self.token.cmp(&other.token))
    }
}

/// The tokens still in the race; never none once filled with some.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    entries: Vec<Candidate>,
    /// Whether the entries are in [`Candidate::order`]; else in the order of their ids.
    ordered: bool,
    weights: Vec<f32>,
}

impl Candidates {
    /// Begins anew with every token.
    pub(super) fn fill(&mut self, logits: &[f32]) {
        self.ordered = false;
        self.entries.clear();
        self.entries
            .extend(logits.iter().zip(0_u32..).map(|(&logit, id)| Candidate {
                token: TokenId(id),
                logit: finite_above(logit),
            }));
    }

    /// The logarithm of the sum of all exponentials, in double precision.
    pub(super) fn log_sum(&self) -> f64 {
        let highest = f64::from(self.highest());
        let weights = self.entries.iter();
        let weights = weights.map(|entry| (f64::from(entry.logit) - highest).exp());
        highest + weights.sum::<f64>().ln()
    }

    /// The logit of a token that is still in the race.
    pub(super) fn logit(&self, token: TokenId) -> Option<f32> {
        let entry = self.entries.iter().find(|entry| entry.token == token);
        entry.map(|entry| entry.logit)
    }

    /// The first `count` of those that were put in order.
    pub(super) fn first(&self, count: usize) -> impl Iterator<Item = (TokenId, f32)> {
        let entries = self.entries.iter().take(count);
        entries.map(|entry| (entry.token, entry.logit))
    }

    /// The probabilities of the `count` most probable, which alone stay.
    pub(super) fn probabilities(&mut self, count: usize) -> Vec<(TokenId, f64)> {
        self.keep_first(count);
        let sum = self.log_sum();
        let entries = self.entries.iter();
        let probability = |entry: &Candidate| (entry.token, (f64::from(entry.logit) - sum).exp());
        entries.map(probability).collect()
    }

    /// Begins anew with tokens that are so probable, in proportion to each other.
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

    /// Puts the `count` most probable in order at the front.
    fn order_first(&mut self, count: usize) {
        if self.ordered {
            return;
        }
        if count < self.entries.len() {
            self.entries.select_nth_unstable_by(count, Candidate::order);
        }
        let count = count.min(self.entries.len());
        self.entries[..count].sort_unstable_by(Candidate::order);
    }

    /// Keeps the `count` most probable, in order.
    fn keep_first(&mut self, count: usize) {
        self.order_first(count);
        self.entries.truncate(count);
        self.ordered = true;
    }
}

/// What is no number cannot be chosen; above the highest number there is nothing.
fn finite_above(logit: f32) -> f32 {
    if logit.is_nan() {
        f32::NEG_INFINITY
    } else {
        logit.min(f32::MAX)
    }
}

/// The token with the highest logit, of equals the lowest id.
pub(super) fn most_probable(logits: &[f32]) -> TokenId {
    let mut best = TokenId(0);
    let mut highest = f32::NEG_INFINITY;
    for (&logit, id) in logits.iter().zip(0_u32..) {
        if logit > highest {
            (best, highest) = (TokenId(id), logit);
        }
    }
    best
}

/// Keeps the `count` (at least one) most probable (Fan et al., Hierarchical Neural Story Generation, 2018).
pub(super) fn top_k(candidates: &mut Candidates, count: usize) {
    let count = count.max(1);
    let length = candidates.entries.len();
    if !candidates.ordered && count < length / 4 {
        // Most tokens fall short of the best seen so far: gather at the front those that do not, and
        // thin them out whenever there are twice as many as wanted.
        let entries = &mut candidates.entries;
        let mut kept = 0;
        let mut last: Option<Candidate> = None;
        for index in 0..length {
            let entry = entries[index];
            if last.is_some_and(|last| last.order(&entry).is_lt()) {
                continue;
            }
            entries[kept] = entry;
            kept += 1;
            if kept == 2 * count {
                let (_, nth, _) =
                    entries[..kept].select_nth_unstable_by(count - 1, Candidate::order);
                last = Some(*nth);
                kept = count;
            }
        }
        entries.truncate(kept);
    }
    candidates.keep_first(count);
}

/// Keeps the fewest most probable tokens whose probabilities reach `share` together, at least
/// `min_keep` (Holtzman et al., The Curious Case of Neural Text Degeneration, 2020).
pub(super) fn top_p(candidates: &mut Candidates, share: f32, min_keep: usize) {
    if share.is_nan() || share >= 1.0 {
        return;
    }
    let highest = candidates.highest();
    let weight = |entry: &Candidate| f64::from(weight(entry.logit - highest));
    let wanted = f64::from(share) * candidates.entries.iter().map(weight).sum::<f64>();
    let length = candidates.entries.len();
    let mut ordered = if candidates.ordered {
        length
    } else {
        FIRST_NUCLEUS
    };
    loop {
        candidates.order_first(ordered);
        let mut sum = 0.0;
        let nucleus = candidates.entries[..ordered.min(length)]
            .iter()
            .position(|entry| {
                sum += weight(entry);
                sum >= wanted
            });
        match nucleus {
            Some(last) => return candidates.keep_first((last + 1).max(min_keep)),
            None if ordered >= length => return candidates.keep_first(length),
            None => ordered *= 4,
        }
    }
}

/// Keeps the tokens with at least `share` of the highest probability, at least `min_keep` tokens
/// (Nguyen et al., Turning Up the Heat: Min-p Sampling, 2024).
pub(super) fn min_p(candidates: &mut Candidates, share: f32, min_keep: usize) {
    if share.is_nan() || share <= 0.0 {
        return;
    }
    // Compared as logits; above a share of 1 not even the first would stay.
    let least = candidates.highest() + share.min(1.0).ln();
    keep_where(candidates, min_keep, |entry| entry.logit >= least);
}

/// Keeps the tokens within `count` standard deviations of the highest logit
/// (Tang et al., Top-nσ: Not All Logits Are You Need, 2024). 0 and less are off.
pub(super) fn top_n_sigma(candidates: &mut Candidates, count: f32, min_keep: usize) {
    if count.is_nan() || count <= 0.0 {
        return;
    }
    // Tokens that cannot be chosen say nothing about the others.
    let logits = || {
        let entries = candidates.entries.iter();
        entries
            .map(|entry| f64::from(entry.logit))
            .filter(|logit| *logit > f64::NEG_INFINITY)
    };
    let number = logits().count().max(1) as f64;
    let mean = logits().sum::<f64>() / number;
    let variance = logits().map(|logit| (logit - mean).powi(2)).sum::<f64>() / number;
    let least = f64::from(candidates.highest()) - f64::from(count) * variance.sqrt();
    keep_where(candidates, min_keep, |entry| {
        f64::from(entry.logit) >= least
    });
}

/// Cuts the tail where the curve of the probabilities has bent by the share `z` of all that it bends, at
/// least `min_keep` tokens (Phénix and Egan, Tail Free Sampling, 2019). 1 is off.
pub(super) fn tail_free(candidates: &mut Candidates, z: f32, min_keep: usize) {
    if z.is_nan() || z >= 1.0 || candidates.entries.len() <= 2 {
        return;
    }
    candidates.keep_first(candidates.entries.len());
    let probabilities = probabilities(candidates);
    let slopes: Vec<f64> = probabilities
        .windows(2)
        .map(|pair| pair[0] - pair[1])
        .collect();
    let bends: Vec<f64> = slopes
        .windows(2)
        .map(|pair| (pair[0] - pair[1]).abs())
        .collect();
    let whole: f64 = bends.iter().sum();
    // A curve that hardly bends has no tail: every place counts alike.
    let share = |bend: f64| match whole > 1e-6 {
        true => bend / whole,
        false => 1.0 / bends.len() as f64,
    };
    let mut sum = 0.0;
    let cut = bends.iter().position(|bend| {
        sum += share(*bend);
        sum > f64::from(z)
    });
    if let Some(cut) = cut {
        candidates.keep_first(cut.max(min_keep).max(1));
    }
}

/// Keeps the tokens whose surprise is nearest to the expected one, until they have the probability `share`
/// together, at least `min_keep` (Meister et al., Locally Typical Sampling, 2023). 1 is off.
pub(super) fn typical(candidates: &mut Candidates, share: f32, min_keep: usize) {
    if share.is_nan() || share >= 1.0 {
        return;
    }
    let probabilities = probabilities(candidates);
    let surprise = |probability: f64| match probability > 0.0 {
        true => -probability.ln(),
        false => f64::INFINITY,
    };
    let expected: f64 = probabilities
        .iter()
        .filter(|probability| **probability > 0.0)
        .map(|probability| probability * surprise(*probability))
        .sum();
    let mut by_distance: Vec<(f64, f64, Candidate)> = probabilities
        .iter()
        .zip(&candidates.entries)
        .map(|(probability, entry)| {
            let distance = (surprise(*probability) - expected).abs();
            (distance, *probability, *entry)
        })
        .collect();
    by_distance
        .sort_unstable_by(|left, right| left.0.total_cmp(&right.0).then(left.2.order(&right.2)));
    let mut sum = 0.0;
    let cut = by_distance.iter().position(|(_, probability, _)| {
        sum += probability;
        sum > f64::from(share)
    });
    let count = cut.map_or(by_distance.len(), |cut| (cut + 1).max(min_keep));
    let kept = by_distance.iter().take(count).map(|(_, _, entry)| *entry);
    candidates.entries.clear();
    candidates.entries.extend(kept);
    candidates.ordered = false;
    candidates.keep_first(count);
}

/// If at least two tokens have the probability `threshold`, leaves out all of them but the least probable, as
/// long as `min_keep` stay (p-e-w, XTC, text-generation-webui pull request 6335, 2024).
pub(super) fn exclude_top(candidates: &mut Candidates, threshold: f32, min_keep: usize) {
    if threshold.is_nan() || threshold > 0.5 {
        return;
    }
    candidates.keep_first(candidates.entries.len());
    let probabilities = probabilities(candidates);
    let probable = probabilities
        .iter()
        .take_while(|probability| **probability >= f64::from(threshold))
        .count();
    let left_out = probable.saturating_sub(1);
    if candidates.entries.len() - left_out >= min_keep {
        candidates.entries.drain(..left_out);
    }
}

/// Keeps the tokens of at least this probability, at least one.
pub(super) fn keep_probable(candidates: &mut Candidates, least: f64) {
    candidates.keep_first(candidates.entries.len());
    let probabilities = probabilities(candidates);
    let count = probabilities
        .iter()
        .take_while(|probability| **probability >= least)
        .count();
    candidates.keep_first(count.max(1));
}

/// Keeps the tokens that are as wanted, or the `min_keep` most probable if these are more.
fn keep_where(candidates: &mut Candidates, min_keep: usize, wanted: impl Fn(&Candidate) -> bool) {
    let stay = candidates
        .entries
        .iter()
        .filter(|entry| wanted(entry))
        .count();
    if stay < min_keep.max(1) {
        return candidates.keep_first(min_keep.max(1));
    }
    candidates.entries.retain(|entry| wanted(entry));
}

/// The temperature that fits how sure the model is: `least` where it knows the token, `most` where all are
/// alike (Zhang et al., EDT: Improving Large Language Models' Generation by Entropy-based Dynamic Temperature
/// Sampling, 2024, in the form of koboldcpp).
pub(super) fn dynamic_temperature(
    candidates: &Candidates,
    least: f32,
    most: f32,
    exponent: f32,
) -> f32 {
    if candidates.entries.len() <= 1 {
        return most;
    }
    let probabilities = probabilities(candidates);
    let entropy: f64 = probabilities
        .iter()
        .filter(|probability| **probability > 0.0)
        .map(|probability| -probability * probability.ln())
        .sum();
    let share = entropy / (candidates.entries.len() as f64).ln();
    least + (most - least) * (share as f32).powf(exponent)
}

/// The candidates' probabilities, in their order.
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

/// A token's place among the candidates; the first, if it is none of them.
pub(super) fn place_of(candidates: &Candidates, token: TokenId) -> usize {
    let mut entries = candidates.entries.iter();
    entries.position(|entry| entry.token == token).unwrap_or(0)
}

/// Divides the logits: below 1 what is probable becomes more so (Ackley et al., A Learning Algorithm
/// for Boltzmann Machines, 1985).
pub(super) fn temperature(candidates: &mut Candidates, temperature: f32) {
    // Only distances matter; measured from the highest they cannot overflow upwards.
    let highest = candidates.highest();
    for entry in &mut candidates.entries {
        let distance = entry.logit - highest;
        // -inf divided by +inf, or -inf - -inf, is no number.
        entry.logit = if distance < 0.0 {
            finite_above(distance / temperature)
        } else {
            0.0
        };
    }
}

/// The candidate at that place of the line on which each takes room by its probability.
/// `uniform` is in 0..1.
pub(super) fn draw(candidates: &mut Candidates, uniform: f64) -> TokenId {
    let highest = candidates.highest();
    candidates.weights.clear();
    candidates.weights.extend(
        candidates
            .entries
            .iter()
            .map(|entry| weight(entry.logit - highest)),
    );
    let blocks = || candidates.weights.chunks(BLOCK).map(block_sum);
    let mut place = uniform * blocks().sum::<f64>();
    let mut start = 0;
    for sum in blocks() {
        if place < sum {
            break;
        }
        place -= sum;
        start += BLOCK;
    }
    let mut chosen = None;
    for (entry, &weight) in candidates
        .entries
        .iter()
        .zip(&candidates.weights)
        .skip(start)
    {
        // Rounding may leave the place past the end: the last that can be chosen takes it.
        if weight > 0.0 {
            chosen = Some(entry.token);
            place -= f64::from(weight);
            if place < 0.0 {
                break;
            }
        }
    }
    chosen.unwrap_or_else(|| most_likely(candidates))
}

fn most_likely(candidates: &Candidates) -> TokenId {
    candidates
        .entries
        .iter()
        .min_by(|left, right| left.order(right))
        .map_or(TokenId(0), |entry| entry.token)
}

fn block_sum(weights: &[f32]) -> f64 {
    f64::from(weights.iter().sum::<f32>())
}

/// e to the power of a distance from the highest logit, which is 0 or less.
fn weight(distance: f32) -> f32 {
    // If all are -inf the distance is no number: all are alike.
    if distance.is_nan() {
        1.0
    } else {
        distance.exp()
    }
}

#[cfg(test)]
#[path = "stages_tests.rs"]
mod tests;
