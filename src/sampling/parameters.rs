//! How tokens are chosen: the numbers, and their defaults.

use super::logprobs::LogprobsWanted;

/// How tokens are chosen. Any values are fine: what makes no sense counts as off.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParameters {
    /// Where the random numbers begin; `None` wants another beginning each time.
    pub seed: Option<u32>,
    /// The stages, in the order in which they are applied; one may come twice, or not at all.
    pub chain: Vec<Stage>,
    /// Divides the logits; 0 and less always choose the most probable token, without any stage.
    pub temperature: f32,
    /// How far the temperature moves with how sure the model is; 0 is not at all.
    pub temperature_range: f32,
    /// How quickly it moves.
    pub temperature_exponent: f32,
    /// Keep this many of the most probable tokens; `None` is off.
    pub top_k: Option<usize>,
    /// Keep the most probable tokens that have this probability together; 1 is off.
    pub top_p: f32,
    /// Keep tokens with at least this share of the highest probability; 0 is off.
    pub min_p: f32,
    /// Cut the tail where the probabilities' curve has bent so much; 1 is off.
    pub tail_free_z: f32,
    /// Keep the tokens nearest to the expected surprise that have this probability together; 1 is off.
    pub typical_p: f32,
    /// Keep tokens within so many standard deviations of the highest logit; 0 is off.
    pub top_n_sigma: f32,
    /// Now and then leave out the most probable tokens.
    pub exclusion: Exclusion,
    /// Tokens that every stage has to leave.
    pub min_keep: usize,
    /// Holds the surprise of the text at a level, in the place of all stages but the temperature.
    pub mirostat: Option<Mirostat>,
    /// What repeating tokens costs.
    pub repetition: Repetition,
    /// What repeating sequences costs.
    pub dry: Dry,
    /// What is told about each token's probability.
    pub logprobs: Option<LogprobsWanted>,
}

/// A stage of the chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// [`SamplingParameters::top_n_sigma`].
    TopNSigma,
    /// [`SamplingParameters::top_k`].
    TopK,
    /// [`SamplingParameters::tail_free_z`].
    TailFree,
    /// [`SamplingParameters::typical_p`].
    Typical,
    /// [`SamplingParameters::top_p`].
    TopP,
    /// [`SamplingParameters::min_p`].
    MinP,
    /// [`SamplingParameters::exclusion`].
    Exclusion,
    /// [`SamplingParameters::temperature`].
    Temperature,
    /// What llama.cpp's server has for gaps in code: the text ends where it is not sure how it goes on.
    Infill,
}

impl Stage {
    /// The chain of the contract of 2024.
    pub const CHAIN: [Stage; 6] = [
        Stage::TopK,
        Stage::TailFree,
        Stage::Typical,
        Stage::TopP,
        Stage::MinP,
        Stage::Temperature,
    ];

    /// Each stage with its name.
    const NAMES: [(Stage, &str); 9] = [
        (Stage::TopNSigma, "top_n_sigma"),
        (Stage::TopK, "top_k"),
        (Stage::TailFree, "tfs_z"),
        (Stage::Typical, "typical_p"),
        (Stage::TopP, "top_p"),
        (Stage::MinP, "min_p"),
        (Stage::Exclusion, "xtc"),
        (Stage::Temperature, "temperature"),
        (Stage::Infill, "infill"),
    ];

    /// Its name in the contract.
    pub fn name(self) -> &'static str {
        let named = Self::NAMES.iter().find(|(stage, _)| *stage == self);
        named.map_or("", |(_, name)| name)
    }

    /// The stage of that name.
    pub fn named(name: &str) -> Option<Stage> {
        let named = Self::NAMES.iter().find(|(_, known)| *known == name);
        named.map(|(stage, _)| *stage)
    }
}

/// "Exclude top choices" (XTC).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Exclusion {
    /// How often it happens; 0 is never.
    pub probability: f32,
    /// Of the tokens that are at least so probable only the least probable stays; above a half nothing
    /// happens.
    pub threshold: f32,
}

/// Mirostat (Basu et al., Mirostat: A Neural Text Decoding Algorithm, 2021).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mirostat {
    /// Which of the two.
    pub version: MirostatVersion,
    /// The surprise to be held, in bits.
    pub tau: f32,
    /// How fast the limit follows.
    pub eta: f32,
}

/// The two algorithms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirostatVersion {
    /// Estimates the tail's exponent and keeps so many tokens.
    One,
    /// Keeps the tokens that surprise less than the limit.
    Two,
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
    /// Whether line breaks are penalised like any other token.
    pub penalize_newline: bool,
}

/// "Don't repeat yourself" (DRY): what it costs a token to go on with a sequence that occurred.
#[derive(Debug, Clone, PartialEq)]
pub struct Dry {
    /// What going on with a sequence of `allowed_length` tokens takes from the logit; 0 is off.
    pub multiplier: f32,
    /// Multiplies that for each token more.
    pub base: f32,
    /// Shorter sequences may be repeated.
    pub allowed_length: usize,
    /// The tokens looked back at; `None` is all of them.
    pub last_n: Option<usize>,
    /// Texts over which no sequence goes.
    pub breakers: Vec<String>,
}

impl SamplingParameters {
    /// The defaults of the native routes.
    pub fn native() -> Self {
        Self {
            seed: None,
            chain: Stage::CHAIN.to_vec(),
            temperature: 0.8,
            temperature_range: 0.0,
            temperature_exponent: 1.0,
            top_k: Some(40),
            top_p: 0.95,
            min_p: 0.05,
            tail_free_z: 1.0,
            typical_p: 1.0,
            top_n_sigma: 0.0,
            exclusion: Exclusion {
                probability: 0.0,
                threshold: 0.1,
            },
            min_keep: 0,
            mirostat: None,
            repetition: Repetition {
                repeat_penalty: 1.1,
                presence_penalty: 0.0,
                frequency_penalty: 0.0,
                last_n: Some(64),
                penalize_newline: true,
            },
            dry: Dry {
                multiplier: 0.0,
                base: 1.75,
                allowed_length: 2,
                last_n: None,
                breakers: ["\n", ":", "\"", "*"].map(str::to_owned).to_vec(),
            },
            logprobs: None,
        }
    }

    /// The defaults of OpenAI's API: the model's own distribution.
    pub fn openai() -> Self {
        let native = Self::native();
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            repetition: Repetition {
                repeat_penalty: 1.0,
                last_n: None,
                ..native.repetition
            },
            ..native
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_the_contracts() {
        let native = SamplingParameters::native();
        assert_eq!((native.temperature, native.top_k), (0.8, Some(40)));
        assert_eq!(
            (native.top_p, native.min_p, native.min_keep),
            (0.95, 0.05, 0)
        );
        assert_eq!((native.tail_free_z, native.typical_p), (1.0, 1.0));
        assert_eq!(
            (native.repetition.repeat_penalty, native.repetition.last_n),
            (1.1, Some(64))
        );
        let openai = SamplingParameters::openai();
        assert_eq!((openai.temperature, openai.top_k), (1.0, None));
        assert_eq!((openai.top_p, openai.min_p), (1.0, 0.0));
        assert_eq!(openai.repetition.repeat_penalty, 1.0);
        let names = Stage::CHAIN.map(Stage::name);
        assert_eq!(names.map(Stage::named), Stage::CHAIN.map(Some));
        assert_eq!(Stage::named("greedy"), None);
    }
}
