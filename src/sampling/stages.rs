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
    let stay = candidates
        .entries
        .iter()
        .filter(|entry| entry.logit >= least)
        .count();
    if stay < min_keep {
        return candidates.keep_first(min_keep);
    }
    candidates.entries.retain(|entry| entry.logit >= least);
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
