//! From logits to the next token: penalties, then the stages that narrow the choice, then the draw.
//! Each stage is a function of its own in [`stages`].

pub mod stages;

use std::collections::{HashMap, VecDeque};

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::token::TokenId;
use stages::Candidates;

/// How tokens are chosen.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParameters {
    /// The seed of the random choice; `None` draws one.
    pub seed: Option<u32>,
    /// Logits are divided by it; 0 or less takes the most probable token.
    pub temperature: f32,
    /// Keep the k most probable tokens.
    pub top_k: Option<usize>,
    /// Keep the fewest tokens whose probabilities reach this sum; 1 keeps all.
    pub top_p: f32,
    /// Keep tokens at least this probable, relative to the most probable one; 0 keeps all.
    pub min_p: f32,
    /// The fewest tokens that `top_p` and `min_p` leave.
    pub min_keep: usize,
    /// What happens to tokens that came before.
    pub repetition: Repetition,
}

/// Penalties for tokens that came before.
#[derive(Debug, Clone, PartialEq)]
pub struct Repetition {
    /// Divides positive logits, multiplies negative ones; 1 does nothing.
    pub repeat_penalty: f32,
    /// Taken from the logit once; 0 does nothing.
    pub presence_penalty: f32,
    /// Taken from the logit for each time the token came; 0 does nothing.
    pub frequency_penalty: f32,
    /// How many of the last tokens are looked at, prompt included; `None` is all.
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

    /// The defaults of OpenAI's routes: the model's own distribution.
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

/// Chooses the tokens of one sequence.
pub struct Sampler {
    parameters: SamplingParameters,
    history: History,
    never: Vec<TokenId>,
    random: ChaCha8Rng,
    candidates: Candidates,
}

impl Sampler {
    /// A sampler for a sequence that begins with `prompt`. Tokens in `never` are not chosen.
    pub fn new(
        parameters: SamplingParameters,
        seed: u32,
        prompt: &[TokenId],
        never: Vec<TokenId>,
    ) -> Self {
        Self {
            history: History::new(&parameters.repetition, prompt),
            parameters,
            never,
            random: ChaCha8Rng::seed_from_u64(seed.into()),
            candidates: Candidates::default(),
        }
    }

    /// Chooses the next token by its `logits` (`[vocabulary]`, at least one, overwritten) and remembers
    /// it for the penalties. A logit that is no number counts as impossible.
    pub fn sample(&mut self, logits: &mut [f32]) -> TokenId {
        for token in &self.never {
            if let Some(logit) = logits.get_mut(token.row()) {
                *logit = f32::NEG_INFINITY;
            }
        }
        self.history.penalise(&self.parameters.repetition, logits);
        let token = match self.parameters.temperature > 0.0 {
            false => stages::most_probable(logits),
            true => self.draw(logits),
        };
        self.history.push(token);
        token
    }

    fn draw(&mut self, logits: &[f32]) -> TokenId {
        let Self {
            parameters,
            candidates,
            random,
            ..
        } = self;
        let SamplingParameters {
            temperature,
            top_k,
            top_p,
            min_p,
            min_keep,
            ..
        } = *parameters;
        candidates.fill(logits);
        if let Some(count) = top_k {
            stages::top_k(candidates, count.max(min_keep));
        }
        if top_p < 1.0 {
            stages::top_p(candidates, top_p, min_keep);
        }
        if min_p > 0.0 {
            stages::min_p(candidates, min_p, min_keep);
        }
        stages::temperature(candidates, temperature);
        stages::choose(candidates, random.random::<f64>())
            .unwrap_or_else(|| stages::most_probable(logits))
    }
}

/// The tokens that the penalties look at, counted.
struct History {
    /// The window, oldest first; kept only where it slides.
    window: VecDeque<TokenId>,
    last_n: Option<usize>,
    counts: HashMap<TokenId, u32>,
}

impl History {
    fn new(repetition: &Repetition, prompt: &[TokenId]) -> Self {
        let active = repetition.repeat_penalty != 1.0
            || repetition.presence_penalty != 0.0
            || repetition.frequency_penalty != 0.0;
        let mut history = Self {
            window: VecDeque::new(),
            last_n: match active {
                true => repetition.last_n,
                false => Some(0),
            },
            counts: HashMap::new(),
        };
        let skipped = history
            .last_n
            .map_or(0, |last_n| prompt.len().saturating_sub(last_n));
        prompt[skipped..]
            .iter()
            .for_each(|token| history.push(*token));
        history
    }

    fn push(&mut self, token: TokenId) {
        match self.last_n {
            Some(0) => return,
            None => {}
            Some(last_n) => {
                if self.window.len() == last_n
                    && let Some(oldest) = self.window.pop_front()
                    && let Some(count) = self.counts.get_mut(&oldest)
                {
                    *count -= 1;
                    if *count == 0 {
                        self.counts.remove(&oldest);
                    }
                }
                self.window.push_back(token);
            }
        }
        *self.counts.entry(token).or_insert(0) += 1;
    }

    /// Source: Keskar et al., «CTRL» (2019), section 4.1, for `repeat_penalty`; OpenAI's API reference for
    /// the other two.
    fn penalise(&self, repetition: &Repetition, logits: &mut [f32]) {
        for (token, count) in &self.counts {
            let Some(logit) = logits.get_mut(token.row()) else {
                continue;
            };
            *logit = match *logit <= 0.0 {
                true => *logit * repetition.repeat_penalty,
                false => *logit / repetition.repeat_penalty,
            };
            *logit -= *count as f32 * repetition.frequency_penalty + repetition.presence_penalty;
        }
    }
}

#[cfg(test)]
mod tests;
