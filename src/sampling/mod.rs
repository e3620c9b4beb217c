//! Choosing the next token from the logits: the parameters, and the sampler that holds one sequence's
//! history and random numbers. The stages themselves are in `stages`.

mod stages;

use std::collections::{HashMap, VecDeque};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

use crate::token::TokenId;
use stages::Candidates;

/// How tokens are chosen. Any values are fine: what makes no sense counts as off.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParameters {
    /// Where the random numbers begin; `None` wants another beginning each time.
    pub seed: Option<u32>,
    /// Divides the logits; 0 and less always choose the most probable token.
    pub temperature: f32,
    /// Keep this many of the most probable tokens; `None` is off.
    pub top_k: Option<usize>,
    /// Keep the most probable tokens that have this probability together; 1 is off.
    pub top_p: f32,
    /// Keep tokens with at least this share of the highest probability; 0 is off.
    pub min_p: f32,
    /// Tokens that every stage has to leave.
    pub min_keep: usize,
    /// What repeating costs.
    pub repetition: Repetition,
}

/// What it costs a token to have occurred.
#[derive(Debug, Clone, PartialEq)]
pub struct Repetition {
    /// Divides the logit (multiplies it below 0); 1 is off.
    pub repeat_penalty: f32,
    /// Taken from the logit once.
    pub presence_penalty: f32,
    /// Taken from the logit for each occurrence.
    pub frequency_penalty: f32,
    /// The tokens looked back at, prompt and answer together; `None` is all of them.
    pub last_n: Option<usize>,
}

impl SamplingParameters {
    /// The defaults of the native routes.
    pub fn native() -> Self {
        Self {
            seed: None,
            temperature: 0.8,
            top_k: Some(40),
            top_p: 0.95,
            min_p: 0.05,
            min_keep: 0,
            repetition: Repetition {
                repeat_penalty: 1.1,
                presence_penalty: 0.0,
                frequency_penalty: 0.0,
                last_n: Some(64),
            },
        }
    }

    /// The defaults of OpenAI's API: the model's own distribution.
    pub fn openai() -> Self {
        Self {
            seed: None,
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            min_keep: 0,
            repetition: Repetition {
                repeat_penalty: 1.0,
                presence_penalty: 0.0,
                frequency_penalty: 0.0,
                last_n: None,
            },
        }
    }
}

/// Chooses the tokens of one sequence. Equal parameters, seed, prompt and logits give equal choices.
#[derive(Debug)]
pub struct Sampler {
    parameters: SamplingParameters,
    never: Vec<TokenId>,
    history: Option<History>,
    random: ChaCha8Rng,
    /// Kept for its memory.
    candidates: Candidates,
}

impl Sampler {
    /// `prompt` counts for the penalties; tokens of `never` are not chosen while there are others.
    pub fn new(
        parameters: SamplingParameters,
        seed: u32,
        prompt: &[TokenId],
        never: Vec<TokenId>,
    ) -> Sampler {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&seed.to_le_bytes());
        Sampler {
            history: History::new(&parameters.repetition, prompt),
            parameters,
            never,
            random: ChaCha8Rng::from_seed(key),
            candidates: Candidates::default(),
        }
    }

    /// Chooses a token and remembers it for the penalties. `logits`, one per token of the vocabulary,
    /// at least one, are overwritten.
    pub fn sample(&mut self, logits: &mut [f32]) -> TokenId {
        if let Some(history) = &self.history {
            history.penalise(&self.parameters.repetition, logits);
        }
        for token in &self.never {
            if let Some(logit) = logits.get_mut(token.row()) {
                *logit = f32::NEG_INFINITY;
            }
        }
        let token = if self.parameters.temperature > 0.0 {
            self.draw(logits)
        } else {
            stages::most_probable(logits)
        };
        if let Some(history) = &mut self.history {
            history.push(token);
        }
        token
    }

    fn draw(&mut self, logits: &[f32]) -> TokenId {
        let SamplingParameters {
            temperature,
            top_k,
            top_p,
            min_p,
            min_keep,
            ..
        } = self.parameters;
        let candidates = &mut self.candidates;
        candidates.fill(logits);
        if let Some(count) = top_k {
            stages::top_k(candidates, count.max(min_keep));
        }
        stages::top_p(candidates, top_p, min_keep);
        stages::min_p(candidates, min_p, min_keep);
        stages::temperature(candidates, temperature);
        // The upper 53 bits are as many as an f64 between 0 and 1 can tell apart.
        let uniform = (self.random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        stages::draw(candidates, uniform)
    }
}

/// The tokens that the penalties look back at, and how often each occurs among them.
#[derive(Debug)]
struct History {
    window: VecDeque<TokenId>,
    /// `None`: nothing ever leaves the window.
    last_n: Option<usize>,
    occurrences: HashMap<TokenId, u32>,
}

impl History {
    /// `None` if nothing is to be penalised.
    fn new(repetition: &Repetition, prompt: &[TokenId]) -> Option<History> {
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
        let seen = repetition
            .last_n
            .map_or(prompt.len(), |last_n| last_n.min(prompt.len()));
        for &token in &prompt[prompt.len() - seen..] {
            history.push(token);
        }
        Some(history)
    }

    fn push(&mut self, token: TokenId) {
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
    /// 2019, section 4.1, the other two are OpenAI's.
    fn penalise(&self, repetition: &Repetition, logits: &mut [f32]) {
        for (token, &count) in &self.occurrences {
            let Some(logit) = logits.get_mut(token.row()) else {
                continue;
            };
            if *logit <= 0.0 {
                *logit *= repetition.repeat_penalty;
            } else {
                *logit /= repetition.repeat_penalty;
            }
            *logit -= count as f32 * repetition.frequency_penalty + repetition.presence_penalty;
        }
    }
}

#[cfg(test)]
mod tests;
