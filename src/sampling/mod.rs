//! Choosing the next token from the logits: the sampler of one sequence, with its history and its random
//! numbers. What shapes the choice is in [`parameters`]; the stages themselves are in `stages`.

mod infill;
mod logprobs;
mod mirostat;
pub mod parameters;
mod penalties;
mod stages;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

pub use infill::{InfillTokens, TokenPieces};
pub use logprobs::{Distribution, Logprobs, LogprobsWanted};
pub use parameters::{
    Dry, Exclusion, Mirostat, MirostatVersion, Repetition, SamplingParameters, Stage,
};
pub use penalties::SequenceBreakers;

use crate::token::TokenId;
use mirostat::Surprise;
use penalties::{History, Repeats};
use stages::Candidates;

/// What a sampler is told in token ids.
#[derive(Debug, Clone, Default)]
pub struct SamplerTokens {
    /// The tokens before the first choice, as far as penalties count them.
    pub before: Vec<TokenId>,
    /// What is added to the logits of tokens; minus infinity: never chosen while there are others.
    pub bias: Vec<(TokenId, f32)>,
    /// The line break.
    pub newline: Option<TokenId>,
    /// Over what no repeated sequence goes.
    pub breakers: SequenceBreakers,
    /// What [`Stage::Infill`] needs; without it that stage does nothing.
    pub infill: Option<InfillTokens>,
}

/// A chosen token.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// Which.
    pub token: TokenId,
    /// How probable it was, if that was asked for.
    pub logprobs: Option<Logprobs>,
}

impl Choice {
    /// A token that stands in a text, by the model's logits before it, with `top` of the most probable ones.
    pub fn by_the_model(logits: &[f32], token: TokenId, top: usize) -> Self {
        let logprobs = Logprobs::of_model(logits, token, top, &mut Candidates::default());
        Self {
            token,
            logprobs: Some(logprobs),
        }
    }
}

/// Chooses the tokens of one sequence. Equal parameters, seed, tokens and logits give equal choices.
#[derive(Debug)]
pub struct Sampler {
    parameters: SamplingParameters,
    bias: Vec<(TokenId, f32)>,
    /// The token that no penalty touches.
    spared: Option<TokenId>,
    history: Option<History>,
    repeats: Option<Repeats>,
    surprise: Option<Surprise>,
    infill: Option<InfillTokens>,
    random: ChaCha8Rng,
    /// Kept for its memory.
    candidates: Candidates,
    /// The model's logits, where they are needed after the choice; kept for its memory.
    unchanged: Vec<f32>,
}

impl Sampler {
    /// A sampler before its first choice.
    pub fn new(parameters: SamplingParameters, seed: u32, tokens: SamplerTokens) -> Sampler {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&seed.to_le_bytes());
        let SamplerTokens {
            before,
            bias,
            newline,
            breakers,
            infill,
        } = tokens;
        Sampler {
            history: History::new(&parameters.repetition, &before),
            repeats: Repeats::new(&parameters.dry, &before, breakers),
            surprise: parameters.mirostat.map(Surprise::new),
            infill,
            spared: newline.filter(|_| !parameters.repetition.penalize_newline),
            parameters,
            bias,
            random: ChaCha8Rng::from_seed(key),
            candidates: Candidates::default(),
            unchanged: Vec::new(),
        }
    }

    /// Chooses a token, remembers it for the penalties, and tells how probable it was if that is wanted.
    /// `logits`, one per token of the vocabulary, at least one, are overwritten. `mask` may take tokens out
    /// of the race, after bias and penalties.
    pub fn choose(&mut self, logits: &mut [f32], mask: impl FnOnce(&mut [f32])) -> Choice {
        let wanted = self.parameters.logprobs;
        if wanted.is_some_and(|wanted| wanted.of == Distribution::Model) {
            self.unchanged.clear();
            self.unchanged.extend_from_slice(logits);
        }
        let token = self.sample_masked(logits, mask);
        let candidates = &mut self.candidates;
        let logprobs = wanted.map(|LogprobsWanted { top, of }| match of {
            Distribution::Model => Logprobs::of_model(&self.unchanged, token, top, candidates),
            Distribution::Chain if self.parameters.temperature > 0.0 => {
                Logprobs::of_candidates(candidates, token, top)
            }
            Distribution::Chain => Logprobs::certain(token, top),
        });
        Choice { token, logprobs }
    }

    /// Chooses a token and remembers it for the penalties. `logits`, one per token of the vocabulary,
    /// at least one, are overwritten.
    pub fn sample(&mut self, logits: &mut [f32]) -> TokenId {
        self.sample_masked(logits, |_| ())
    }

    /// Whether choices tell how probable they were.
    pub fn wants_logprobs(&self) -> bool {
        self.parameters.logprobs.is_some()
    }

    /// Takes a token that is certain, as [`Self::choose`] takes the one that it chooses.
    pub fn take(&mut self, token: TokenId, logits: &[f32]) -> Choice {
        self.follow(&[token]);
        let logprobs = self.parameters.logprobs;
        let logprobs = logprobs.map(|LogprobsWanted { top, of }| match of {
            Distribution::Model => Logprobs::of_model(logits, token, top, &mut self.candidates),
            Distribution::Chain => Logprobs::certain(token, top),
        });
        Choice { token, logprobs }
    }

    /// Remembers tokens that were not chosen here but follow in the text.
    pub fn follow(&mut self, tokens: &[TokenId]) {
        for token in tokens {
            if let Some(history) = &mut self.history {
                history.push(*token);
            }
            if let Some(repeats) = &mut self.repeats {
                repeats.push(*token);
            }
        }
    }

    fn sample_masked(&mut self, logits: &mut [f32], mask: impl FnOnce(&mut [f32])) -> TokenId {
        for (token, amount) in &self.bias {
            if let Some(logit) = logits.get_mut(token.row()) {
                *logit += amount;
            }
        }
        if let Some(history) = &self.history {
            history.penalise(&self.parameters.repetition, self.spared, logits);
        }
        if let Some(repeats) = &mut self.repeats {
            repeats.penalise(&self.parameters.dry, logits);
        }
        mask(logits);
        let token = if self.parameters.temperature > 0.0 {
            self.draw(logits)
        } else {
            stages::most_probable(logits)
        };
        self.follow(&[token]);
        token
    }

    fn draw(&mut self, logits: &[f32]) -> TokenId {
        self.candidates.fill(logits);
        if self.surprise.is_some() {
            self.apply(Stage::Temperature);
            let uniform = self.uniform();
            if let Some(surprise) = &mut self.surprise {
                return surprise.choose(&mut self.candidates, logits.len(), uniform);
            }
        }
        for stage in 0..self.parameters.chain.len() {
            match (self.parameters.chain[stage], &self.infill) {
                (Stage::Infill, Some(infill)) => {
                    let may_end = |end: &&TokenId| logits[end.row()] > f32::NEG_INFINITY;
                    let end = infill.ends.iter().find(may_end).copied();
                    infill.apply(&mut self.candidates, end);
                }
                (stage, _) => self.apply(stage),
            }
        }
        let uniform = self.uniform();
        stages::draw(&mut self.candidates, uniform)
    }

    fn apply(&mut self, stage: Stage) {
        // Others see a random number only if this stage is on: it changes no text that does not use it.
        let excludes = stage == Stage::Exclusion
            && self.parameters.exclusion.probability > 0.0
            && self.uniform() < f64::from(self.parameters.exclusion.probability);
        let candidates = &mut self.candidates;
        let parameters = &self.parameters;
        let min_keep = parameters.min_keep;
        match stage {
            Stage::TopNSigma => {
                stages::top_n_sigma(candidates, parameters.top_n_sigma, min_keep);
            }
            Stage::TopK => {
                if let Some(count) = parameters.top_k {
                    stages::top_k(candidates, count.max(min_keep));
                }
            }
            Stage::TailFree => stages::tail_free(candidates, parameters.tail_free_z, min_keep),
            Stage::Typical => stages::typical(candidates, parameters.typical_p, min_keep),
            Stage::TopP => stages::top_p(candidates, parameters.top_p, min_keep),
            Stage::MinP => stages::min_p(candidates, parameters.min_p, min_keep),
            Stage::Exclusion => {
                if excludes {
                    stages::exclude_top(candidates, parameters.exclusion.threshold, min_keep);
                }
            }
            Stage::Temperature => {
                let (middle, range) = (parameters.temperature, parameters.temperature_range);
                let temperature = match range > 0.0 {
                    true => stages::dynamic_temperature(
                        candidates,
                        (middle - range).max(0.0),
                        middle + range,
                        parameters.temperature_exponent,
                    ),
                    false => middle,
                };
                stages::temperature(candidates, temperature);
            }
            Stage::Infill => {}
        }
    }

    /// A number in 0..1: the upper 53 bits are as many as an f64 between 0 and 1 can tell apart.
    fn uniform(&mut self) -> f64 {
        (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
