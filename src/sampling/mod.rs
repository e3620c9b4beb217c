//! Samples the tokens of one sequence: applies logit bias and penalties, then the sampler chain. The sampling
//! parameters are in [`parameters`], the stages of the chain in `stages`.

mod infill;
mod logprobs;
mod mirostat;
pub mod parameters;
mod penalties;
mod stages;

use rand::rngs::ChaCha8Rng;
use rand::{Rng, SeedableRng};

pub use infill::{InfillVocabulary, TokenPieces};
pub use logprobs::{Distribution, Logprobs, LogprobsOptions};
pub use parameters::{Dry, Mirostat, MirostatVersion, Penalties, SamplingParameters, Stage, Xtc};
pub use penalties::SequenceBreakers;

use crate::token::TokenId;
use mirostat::MirostatState;
use penalties::{DryState, PenaltyWindow};
use stages::Candidates;

/// The inputs of a sampler that depend on the prompt and the tokenizer.
#[derive(Debug, Clone, Default)]
pub struct SamplerInputs {
    /// The tokens before the first sampled token, which the penalties count as well.
    pub prompt: Vec<TokenId>,
    /// Pairs of a token and the value to add to its logit. Minus infinity excludes the token, unless no other token is
    /// possible.
    pub logit_bias: Vec<(TokenId, f32)>,
    /// The newline token, for [`Penalties::penalize_newline`].
    pub newline: Option<TokenId>,
    /// The tokens at which a repetition ends for DRY.
    pub dry_breakers: SequenceBreakers,
    /// The vocabulary for [`Stage::Infill`]; `None` turns that stage off.
    pub infill: Option<InfillVocabulary>,
}

/// A sampled token, or a prompt token with its log probabilities.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledToken {
    /// The token's id.
    pub token: TokenId,
    /// The log probabilities at the token's position, if requested.
    pub logprobs: Option<Logprobs>,
}

impl SampledToken {
    /// Returns a prompt token with its log probabilities. `logits` are the model's logits at the position before the
    /// token; `top` is the number of most probable tokens to include.
    pub fn from_model_logits(logits: &[f32], token: TokenId, top: usize) -> Self {
        let logprobs = Logprobs::from_logits(logits, token, top, &mut Candidates::default());
        Self {
            token,
            logprobs: Some(logprobs),
        }
    }
}

/// Samples the tokens of one sequence. Equal parameters, seed, inputs and logits give equal tokens.
#[derive(Debug)]
pub struct Sampler {
    parameters: SamplingParameters,
    logit_bias: Vec<(TokenId, f32)>,
    /// The newline token, if it is exempt from the penalties.
    unpenalized: Option<TokenId>,
    penalty_window: Option<PenaltyWindow>,
    dry: Option<DryState>,
    mirostat: Option<MirostatState>,
    infill: Option<InfillVocabulary>,
    random: ChaCha8Rng,
    /// Buffer that is reused for every token.
    candidates: Candidates,
    /// Copy of the model's logits for [`Distribution::Model`], because sampling overwrites the logits.
    model_logits: Vec<f32>,
}

impl Sampler {
    /// Creates a sampler. `seed` determines all random numbers.
    pub fn new(parameters: SamplingParameters, seed: u32, inputs: SamplerInputs) -> Sampler {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&seed.to_le_bytes());
        let SamplerInputs {
            prompt,
            logit_bias,
            newline,
            dry_breakers,
            infill,
        } = inputs;
        Sampler {
            penalty_window: PenaltyWindow::new(&parameters.penalties, &prompt),
            dry: DryState::new(&parameters.dry, &prompt, dry_breakers),
            mirostat: parameters.mirostat.map(MirostatState::new),
            infill,
            unpenalized: newline.filter(|_| !parameters.penalties.penalize_newline),
            parameters,
            logit_bias,
            random: ChaCha8Rng::from_seed(key),
            candidates: Candidates::default(),
            model_logits: Vec::new(),
        }
    }

    /// Samples a token, adds it to the penalty state, and returns its log probabilities if the parameters request them.
    /// Overwrites `logits`, `[vocabulary]`, which must not be empty. `mask` runs after bias and penalties and may
    /// exclude tokens by setting their logits to minus infinity.
    pub fn sample_with_logprobs(
        &mut self,
        logits: &mut [f32],
        mask: impl FnOnce(&mut [f32]),
    ) -> SampledToken {
        let options = self.parameters.logprobs;
        if options.is_some_and(|options| options.distribution == Distribution::Model) {
            self.model_logits.clear();
            self.model_logits.extend_from_slice(logits);
        }
        let token = self.sample_masked(logits, mask);
        let candidates = &mut self.candidates;
        let logprobs = options.map(|LogprobsOptions { top, distribution }| match distribution {
            Distribution::Model => {
                Logprobs::from_logits(&self.model_logits, token, top, candidates)
            }
            Distribution::Chain if self.parameters.temperature > 0.0 => {
                Logprobs::from_candidates(candidates, token, top)
            }
            Distribution::Chain => Logprobs::single_candidate(token, top),
        });
        SampledToken { token, logprobs }
    }

    /// Samples a token and adds it to the penalty state. Overwrites `logits`, `[vocabulary]`, which must not be empty.
    pub fn sample(&mut self, logits: &mut [f32]) -> TokenId {
        self.sample_masked(logits, |_| ())
    }

    /// Returns whether sampled tokens have log probabilities.
    pub fn returns_logprobs(&self) -> bool {
        self.parameters.logprobs.is_some()
    }

    /// Adds a forced token to the penalty state instead of sampling a token. Returns log probabilities like
    /// [`Self::sample_with_logprobs`].
    pub fn accept_forced(&mut self, token: TokenId, logits: &[f32]) -> SampledToken {
        self.accept(&[token]);
        let logprobs = self.parameters.logprobs;
        let logprobs = logprobs.map(|LogprobsOptions { top, distribution }| match distribution {
            Distribution::Model => Logprobs::from_logits(logits, token, top, &mut self.candidates),
            Distribution::Chain => Logprobs::single_candidate(token, top),
        });
        SampledToken { token, logprobs }
    }

    /// Adds tokens to the penalty state.
    pub fn accept(&mut self, tokens: &[TokenId]) {
        for token in tokens {
            if let Some(window) = &mut self.penalty_window {
                window.push(*token);
            }
            if let Some(dry) = &mut self.dry {
                dry.push(*token);
            }
        }
    }

    fn sample_masked(&mut self, logits: &mut [f32], mask: impl FnOnce(&mut [f32])) -> TokenId {
        for (token, bias) in &self.logit_bias {
            if let Some(logit) = logits.get_mut(token.row()) {
                *logit += bias;
            }
        }
        if let Some(window) = &self.penalty_window {
            window.apply(&self.parameters.penalties, self.unpenalized, logits);
        }
        if let Some(dry) = &mut self.dry {
            dry.apply(&self.parameters.dry, logits);
        }
        mask(logits);
        let token = if self.parameters.temperature > 0.0 {
            self.draw(logits)
        } else {
            stages::argmax(logits)
        };
        self.accept(&[token]);
        token
    }

    fn draw(&mut self, logits: &[f32]) -> TokenId {
        self.candidates.fill(logits);
        if self.mirostat.is_some() {
            self.apply(Stage::Temperature);
            let uniform = self.uniform();
            if let Some(mirostat) = &mut self.mirostat {
                return mirostat.sample(&mut self.candidates, logits.len(), uniform);
            }
        }
        for index in 0..self.parameters.chain.len() {
            match (self.parameters.chain[index], &self.infill) {
                (Stage::Infill, Some(infill)) => {
                    let is_allowed = |token: &&TokenId| logits[token.row()] > f32::NEG_INFINITY;
                    let eog_token = infill.eog_tokens.iter().find(is_allowed).copied();
                    infill.apply(&mut self.candidates, eog_token);
                }
                (stage, _) => self.apply(stage),
            }
        }
        let uniform = self.uniform();
        stages::draw(&mut self.candidates, uniform)
    }

    fn apply(&mut self, stage: Stage) {
        // Draw a random number only if XTC is on, so that a seed gives the same text as without the stage.
        let xtc_applies = stage == Stage::Xtc
            && self.parameters.xtc.probability > 0.0
            && self.uniform() < f64::from(self.parameters.xtc.probability);
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
            Stage::Xtc => {
                if xtc_applies {
                    stages::xtc(candidates, parameters.xtc.threshold, min_keep);
                }
            }
            Stage::Temperature => {
                let (center, range) = (parameters.temperature, parameters.temperature_range);
                let temperature = match range > 0.0 {
                    true => stages::dynamic_temperature(
                        candidates,
                        (center - range).max(0.0),
                        center + range,
                        parameters.temperature_exponent,
                    ),
                    false => center,
                };
                stages::temperature(candidates, temperature);
            }
            Stage::Infill => {}
        }
    }

    /// Returns a uniformly distributed number in 0..1, made of the upper 53 bits of a random `u64`: the precision of an
    /// `f64`.
    fn uniform(&mut self) -> f64 {
        (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests;
