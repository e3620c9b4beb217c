//! Converts the sampling options that native and OpenAI routes share to [`SamplingParameters`].

use super::error::Error;
use super::options::{count, limit, to_f32};
use super::types;
use crate::sampling::{
    Distribution, Dry, LogprobsOptions, Mirostat, MirostatVersion, Penalties, SamplingParameters,
    Stage, Xtc,
};

/// Defaults of `mirostat_tau` and `mirostat_eta`.
pub(super) const MIROSTAT_TAU: f32 = 5.0;
pub(super) const MIROSTAT_ETA: f32 = 0.1;

/// Sampling options of the native and the OpenAI routes that are not in the schema `SamplerOptions`, because their
/// defaults and bounds differ.
#[derive(Debug, Default)]
pub(super) struct BasicSampling {
    pub seed: Option<u32>,
    pub temperature: Option<f64>,
    pub top_k: Option<i64>,
    pub top_p: Option<f64>,
    pub min_p: Option<f64>,
    pub repeat_penalty: Option<f64>,
    pub repeat_last_n: Option<i64>,
    pub presence_penalty: Option<f64>,
    pub frequency_penalty: Option<f64>,
    pub logprobs: Option<LogprobsOptions>,
}

/// Converts the sampling options of a request, except `penalty_prompt`. Missing fields have the values of `defaults`.
pub(super) fn sampling_parameters(
    basic: &BasicSampling,
    options: types::SamplerOptions,
    defaults: SamplingParameters,
) -> Result<SamplingParameters, Error> {
    let or_default = |value: Option<f64>, default: f32| value.map_or(default, to_f32);
    let mirostat = mirostat(&options);
    let top_n_sigma = or_default(options.top_n_sigma, defaults.top_n_sigma);
    let xtc = Xtc {
        probability: or_default(options.xtc_probability, defaults.xtc.probability),
        threshold: or_default(options.xtc_threshold, defaults.xtc.threshold),
    };
    let penalties = defaults.penalties;
    Ok(SamplingParameters {
        seed: basic.seed,
        chain: match options.samplers {
            Some(samplers) => chain(samplers)?,
            None => default_chain(top_n_sigma > 0.0, xtc.probability > 0.0),
        },
        temperature: or_default(basic.temperature, defaults.temperature),
        temperature_range: or_default(options.dynatemp_range, defaults.temperature_range),
        temperature_exponent: or_default(options.dynatemp_exponent, defaults.temperature_exponent),
        top_k: match basic.top_k {
            Some(top_k) => usize::try_from(top_k).ok().filter(|count| *count > 0),
            None => defaults.top_k,
        },
        top_p: or_default(basic.top_p, defaults.top_p),
        min_p: or_default(basic.min_p, defaults.min_p),
        tail_free_z: or_default(options.tfs_z, defaults.tail_free_z),
        typical_p: or_default(options.typical_p, defaults.typical_p),
        top_n_sigma,
        xtc,
        min_keep: match options.min_keep {
            Some(min_keep) => count("min_keep", min_keep)?,
            None => defaults.min_keep,
        },
        mirostat,
        penalties: Penalties {
            repeat_penalty: or_default(basic.repeat_penalty, penalties.repeat_penalty),
            presence_penalty: or_default(basic.presence_penalty, penalties.presence_penalty),
            frequency_penalty: or_default(basic.frequency_penalty, penalties.frequency_penalty),
            last_n: match basic.repeat_last_n {
                Some(last_n) => limit("repeat_last_n", last_n)?,
                None => penalties.last_n,
            },
            penalize_newline: options.penalize_nl.unwrap_or(penalties.penalize_newline),
        },
        dry: Dry {
            multiplier: or_default(options.dry_multiplier, defaults.dry.multiplier),
            base: or_default(options.dry_base, defaults.dry.base),
            allowed_length: match options.dry_allowed_length {
                Some(length) => count("dry_allowed_length", length)?,
                None => defaults.dry.allowed_length,
            },
            last_n: match options.dry_penalty_last_n {
                Some(last_n) => limit("dry_penalty_last_n", last_n)?,
                None => defaults.dry.last_n,
            },
            breakers: options
                .dry_sequence_breakers
                .unwrap_or(defaults.dry.breakers),
        },
        logprobs: basic.logprobs,
    })
}

/// Converts `n_probs` and `post_sampling_probs`.
pub(super) fn token_probabilities(
    n_probs: Option<i64>,
    post_sampling_probs: Option<bool>,
) -> Result<Option<LogprobsOptions>, Error> {
    let top = count("n_probs", n_probs.unwrap_or(0))?;
    Ok((top > 0).then_some(LogprobsOptions {
        top,
        distribution: match post_sampling_probs.unwrap_or(false) {
            true => Distribution::Chain,
            false => Distribution::Model,
        },
    }))
}

/// Returns the default sampler chain of llama.cpp of 2024. Newer stages are inserted if they are enabled, at the
/// position that they have in today's llama.cpp.
fn default_chain(top_n_sigma: bool, xtc: bool) -> Vec<Stage> {
    let mut chain = Stage::CHAIN.to_vec();
    if xtc {
        chain.insert(chain.len() - 1, Stage::Xtc);
    }
    if top_n_sigma {
        chain.insert(0, Stage::TopNSigma);
    }
    chain
}

/// Folds a 64-bit seed into 32 bits; -1 requests a random seed.
pub(super) fn seed(seed: i64) -> Option<u32> {
    (seed != -1).then(|| fold_seed(seed))
}

/// Folds 64 bits into 32 bits. Numbers that fit in 32 bits do not change.
pub(super) fn fold_seed(bits: i64) -> u32 {
    // The exclusive or combines both halves.
    u32::try_from(bits).unwrap_or((bits ^ (bits >> 32)) as u32)
}

/// Reads `samplers`: an array of names, or a string with one letter for each sampler. Penalties are not stages of the
/// chain: they are always applied first.
fn chain(samplers: types::Samplers) -> Result<Vec<Stage>, Error> {
    let names: Vec<types::SamplerName> = match samplers {
        types::Samplers::Array(names) => names,
        types::Samplers::String(letters) => {
            let letters = letters.chars();
            let names = letters.map(|letter| sampler_of_letter(letter).ok_or(letter));
            names.collect::<Result<_, char>>().map_err(|letter| {
                let message = format!("samplers: unknown sampler letter '{letter}'");
                Error::invalid("samplers", message)
            })?
        }
    };
    let mut stages = Vec::with_capacity(names.len());
    for (index, name) in names.into_iter().enumerate() {
        match stage(name) {
            Some(stage) => stages.push(stage),
            None if stages.is_empty() => {}
            None => {
                let path = format!("samplers.{index}");
                let problem = "it is always applied before the other samplers: put it first";
                return Err(Error::invalid(&*path, format!("{path}: {name}: {problem}")));
            }
        }
    }
    Ok(stages)
}

/// Returns the chain stage of a sampler; `None` for penalties.
fn stage(name: types::SamplerName) -> Option<Stage> {
    use types::SamplerName as Name;
    Some(match name {
        Name::TopK => Stage::TopK,
        Name::TfsZ => Stage::TailFree,
        Name::TypicalP | Name::TypP => Stage::Typical,
        Name::TopP => Stage::TopP,
        Name::MinP => Stage::MinP,
        Name::Temperature => Stage::Temperature,
        Name::Xtc => Stage::Xtc,
        Name::TopNSigma => Stage::TopNSigma,
        Name::Infill => Stage::Infill,
        Name::Penalties | Name::Dry => return None,
    })
}

/// Returns the sampler that a letter denotes in llama.cpp's server, of 2024 or of today.
fn sampler_of_letter(letter: char) -> Option<types::SamplerName> {
    use types::SamplerName as Name;
    Some(match letter {
        'k' => Name::TopK,
        'f' => Name::TfsZ,
        'y' => Name::TypicalP,
        'p' => Name::TopP,
        'm' => Name::MinP,
        't' => Name::Temperature,
        'x' => Name::Xtc,
        's' => Name::TopNSigma,
        'i' => Name::Infill,
        'e' => Name::Penalties,
        'd' => Name::Dry,
        _ => return None,
    })
}

fn mirostat(options: &types::SamplerOptions) -> Option<Mirostat> {
    let version = match options.mirostat {
        Some(1) => MirostatVersion::One,
        Some(2) => MirostatVersion::Two,
        _ => return None,
    };
    Some(Mirostat {
        version,
        tau: options.mirostat_tau.map_or(MIROSTAT_TAU, to_f32),
        eta: options.mirostat_eta.map_or(MIROSTAT_ETA, to_f32),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(options: Value) -> Result<SamplingParameters, Error> {
        let options = serde_json::from_value(options).unwrap();
        let basic = BasicSampling::default();
        sampling_parameters(&basic, options, SamplingParameters::native())
    }

    #[test]
    fn missing_options_have_their_default_values() {
        assert_eq!(read(json!({})).unwrap(), SamplingParameters::native());
    }

    #[test]
    fn rejects_an_invalid_sampler_chain() {
        for (samplers, path) in [
            (json!("kq"), "samplers"),
            (json!(["top_k", "penalties"]), "samplers.1"),
            (json!(["dry", "min_p", "dry"]), "samplers.2"),
        ] {
            let error = read(json!({"samplers": samplers})).unwrap_err();
            let Error::Invalid { param, .. } = error else {
                panic!("{error}")
            };
            assert_eq!(param.as_deref(), Some(path));
        }
    }

    #[test]
    fn folds_seeds_of_64_bits() {
        for (value, expected) in [
            (-1, None),
            (0, Some(0)),
            (4_294_967_295, Some(u32::MAX)),
            (1 << 32, Some(1)),
            (-2, Some(1)),
            (i64::MAX, Some(0x8000_0000)),
        ] {
            assert_eq!(seed(value), expected, "{value}");
        }
    }

    #[test]
    fn top_k_of_0_or_less_is_disabled() {
        for top_k in [0, -1, -40] {
            let basic = BasicSampling {
                top_k: Some(top_k),
                ..BasicSampling::default()
            };
            let options = types::SamplerOptions::default();
            let parameters = sampling_parameters(&basic, options, SamplingParameters::native());
            assert_eq!(parameters.unwrap().top_k, None);
        }
    }

    #[test]
    fn the_sampler_chain_follows_the_request() {
        let chain = |options: Value| read(options).unwrap().chain;
        assert_eq!(
            chain(json!({"samplers": ["min_p", "top_k", "min_p"]})),
            [Stage::MinP, Stage::TopK, Stage::MinP]
        );
        assert_eq!(chain(json!({"samplers": []})), []);
        let names = json!(["penalties", "dry", "typ_p", "temperature"]);
        let expected = [Stage::Typical, Stage::Temperature];
        assert_eq!(chain(json!({"samplers": names})), expected);
        assert_eq!(chain(json!({"samplers": "edyt"})), expected);
        assert_eq!(chain(json!({"samplers": "kfypmt"})), Stage::CHAIN);
        assert_eq!(chain(json!({"samplers": ""})), []);
        let with_newer_stages = chain(json!({"xtc_probability": 0.5, "top_n_sigma": 1}));
        assert_eq!(with_newer_stages[0], Stage::TopNSigma);
        assert_eq!(with_newer_stages[6..], [Stage::Xtc, Stage::Temperature]);
    }
}
