//! The sampling parameters and their defaults.

use super::logprobs::LogprobsOptions;

/// The sampling parameters of a request. Every value is allowed: a meaningless value turns its stage off.
#[derive(Debug, Clone, PartialEq)]
pub struct SamplingParameters {
    /// Seed of the random numbers; `None` draws a new seed for each request.
    pub seed: Option<u32>,
    /// The stages in the order in which they are applied. A stage may be missing or repeated.
    pub chain: Vec<Stage>,
    /// Divides the logits. 0 or less skips the chain and always selects the most probable token (greedy sampling).
    pub temperature: f32,
    /// Dynamic temperature: maximum deviation from `temperature`, depending on the entropy; 0 is off.
    pub temperature_range: f32,
    /// Dynamic temperature: exponent of the normalized entropy.
    pub temperature_exponent: f32,
    /// Keep this many of the most probable tokens; `None` is off.
    pub top_k: Option<usize>,
    /// Keep the most probable tokens until their probabilities reach this sum; 1 is off.
    pub top_p: f32,
    /// Keep tokens with at least this share of the highest probability; 0 is off.
    pub min_p: f32,
    /// Tail-free sampling: remove the tail where the summed second derivative of the sorted probabilities exceeds this
    /// share of its total; 1 is off.
    pub tail_free_z: f32,
    /// Locally typical sampling: keep the tokens whose surprise is nearest to the entropy, until their probabilities
    /// exceed this sum; 1 is off.
    pub typical_p: f32,
    /// Keep tokens within this many standard deviations of the highest logit; 0 is off.
    pub top_n_sigma: f32,
    /// XTC: sometimes removes the most probable tokens.
    pub xtc: Xtc,
    /// Minimum number of tokens that every stage keeps.
    pub min_keep: usize,
    /// Mirostat: keeps the text's mean surprise near a target. Replaces all stages except the temperature.
    pub mirostat: Option<Mirostat>,
    /// Penalties for tokens that occurred before.
    pub penalties: Penalties,
    /// DRY: penalty for tokens that extend a repeated token sequence.
    pub dry: Dry,
    /// Which log probabilities are returned with each token.
    pub logprobs: Option<LogprobsOptions>,
}

/// A stage of the sampler chain, named after the parameter that controls it.
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
    /// [`SamplingParameters::xtc`].
    Xtc,
    /// [`SamplingParameters::temperature`].
    Temperature,
    /// llama.cpp's infill sampler: ends the text if no continuation is probable enough.
    Infill,
}

impl Stage {
    /// The default chain, equal to that of llama.cpp's server in 2024.
    pub const CHAIN: [Stage; 6] = [
        Stage::TopK,
        Stage::TailFree,
        Stage::Typical,
        Stage::TopP,
        Stage::MinP,
        Stage::Temperature,
    ];

    /// The stages and their names in the API.
    const NAMES: [(Stage, &str); 9] = [
        (Stage::TopNSigma, "top_n_sigma"),
        (Stage::TopK, "top_k"),
        (Stage::TailFree, "tfs_z"),
        (Stage::Typical, "typical_p"),
        (Stage::TopP, "top_p"),
        (Stage::MinP, "min_p"),
        (Stage::Xtc, "xtc"),
        (Stage::Temperature, "temperature"),
        (Stage::Infill, "infill"),
    ];

    /// The stage's name in the API.
    pub fn name(self) -> &'static str {
        let named = Self::NAMES.iter().find(|(stage, _)| *stage == self);
        named.map_or("", |(_, name)| name)
    }

    /// Looks up the stage with this name in the API.
    pub fn from_name(name: &str) -> Option<Stage> {
        let named = Self::NAMES.iter().find(|(_, known)| *known == name);
        named.map(|(stage, _)| *stage)
    }
}

/// Parameters of XTC ("exclude top choices"), which removes the most probable tokens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Xtc {
    /// Probability that XTC is applied at a position; 0 is off.
    pub probability: f32,
    /// XTC removes all tokens of at least this probability except the least probable of them. Values above 0.5 turn XTC
    /// off.
    pub threshold: f32,
}

/// Parameters of Mirostat (Basu et al., Mirostat: A Neural Text Decoding Algorithm, 2021).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Mirostat {
    /// The version of the algorithm: how candidates are selected.
    pub version: MirostatVersion,
    /// The target surprise in bits per token.
    pub tau: f32,
    /// The learning rate of the maximum surprise.
    pub eta: f32,
}

/// The two published versions of Mirostat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirostatVersion {
    /// Estimates the exponent of the distribution's power law, and derives the number of tokens to keep.
    One,
    /// Keeps the tokens whose surprise is below the current maximum.
    Two,
}

/// Penalties on the logits of tokens that occur in the prompt or the generated text.
#[derive(Debug, Clone, PartialEq)]
pub struct Penalties {
    /// Divides positive logits and multiplies negative logits; 1 is off.
    pub repeat_penalty: f32,
    /// Subtracted once from the logit; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted from the logit for each occurrence; 0 is off.
    pub frequency_penalty: f32,
    /// Number of most recent tokens, prompt and generated, in which occurrences count; `None` is all.
    pub last_n: Option<usize>,
    /// Whether newlines are penalized like any other token.
    pub penalize_newline: bool,
}

/// Parameters of DRY ("don't repeat yourself"), a penalty on tokens that would extend a repetition of an earlier token
/// sequence.
#[derive(Debug, Clone, PartialEq)]
pub struct Dry {
    /// Subtracted from the logit of a token that extends a repetition of `allowed_length` tokens; 0 is off.
    pub multiplier: f32,
    /// Multiplies the penalty once for each token by which the repetition exceeds `allowed_length`.
    pub base: f32,
    /// Minimum length of a penalized repetition, in tokens.
    pub allowed_length: usize,
    /// Number of most recent tokens that are searched for repetitions; `None` is all.
    pub last_n: Option<usize>,
    /// Sequence breakers: strings that end a repetition.
    pub breakers: Vec<String>,
}

impl SamplingParameters {
    /// Returns the defaults of the native (llama.cpp) endpoints.
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
            xtc: Xtc {
                probability: 0.0,
                threshold: 0.1,
            },
            min_keep: 0,
            mirostat: None,
            penalties: Penalties {
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

    /// Returns the defaults of OpenAI's API, which leave the model's distribution unchanged.
    pub fn openai() -> Self {
        let native = Self::native();
        Self {
            temperature: 1.0,
            top_k: None,
            top_p: 1.0,
            min_p: 0.0,
            penalties: Penalties {
                repeat_penalty: 1.0,
                last_n: None,
                ..native.penalties
            },
            ..native
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_match_the_api_document() {
        let native = SamplingParameters::native();
        assert_eq!((native.temperature, native.top_k), (0.8, Some(40)));
        assert_eq!(
            (native.top_p, native.min_p, native.min_keep),
            (0.95, 0.05, 0)
        );
        assert_eq!((native.tail_free_z, native.typical_p), (1.0, 1.0));
        assert_eq!(
            (native.penalties.repeat_penalty, native.penalties.last_n),
            (1.1, Some(64))
        );
        let openai = SamplingParameters::openai();
        assert_eq!((openai.temperature, openai.top_k), (1.0, None));
        assert_eq!((openai.top_p, openai.min_p), (1.0, 0.0));
        assert_eq!(openai.penalties.repeat_penalty, 1.0);
        let names = Stage::CHAIN.map(Stage::name);
        assert_eq!(names.map(Stage::from_name), Stage::CHAIN.map(Some));
        assert_eq!(Stage::from_name("greedy"), None);
    }
}
