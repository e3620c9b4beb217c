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

/// Converts the sampling options of a request. Missing fields have the values of `defaults`.
pub(super) fn sampling_parameters(
    body: &types::CompletionRequest,
    defaults: SamplingParameters,
) -> Result<SamplingParameters, Error> {
    let or_default = |value: Option<f64>, default: f32| value.map_or(default, to_f32);
    let top_n_sigma = or_default(body.top_n_sigma, defaults.top_n_sigma);
    let xtc = Xtc {
        probability: or_default(body.xtc_probability, defaults.xtc.probability),
        threshold: or_default(body.xtc_threshold, defaults.xtc.threshold),
    };
    Ok(SamplingParameters {
        seed: body.seed.and_then(seed),
        chain: match &body.samplers {
            Some(samplers) => chain(samplers)?,
            None => default_chain(top_n_sigma > 0.0, xtc.probability > 0.0),
        },
        temperature: or_default(body.temperature, defaults.temperature),
        temperature_range: or_default(body.dynatemp_range, defaults.temperature_range),
        temperature_exponent: or_default(body.dynatemp_exponent, defaults.temperature_exponent),
        top_k: match body.top_k {
            Some(top_k) => usize::try_from(top_k).ok().filter(|count| *count > 0),
            None => defaults.top_k,
        },
        top_p: or_default(body.top_p, defaults.top_p),
        min_p: or_default(body.min_p, defaults.min_p),
        tail_free_z: or_default(body.tfs_z, defaults.tail_free_z),
        typical_p: or_default(body.typical_p, defaults.typical_p),
        top_n_sigma,
        xtc,
        min_keep: match body.min_keep {
            Some(min_keep) => count("min_keep", min_keep)?,
            None => defaults.min_keep,
        },
        mirostat: mirostat(body),
        penalties: Penalties {
            repeat_penalty: or_default(body.repeat_penalty, defaults.penalties.repeat_penalty),
            presence_penalty: or_default(
                body.presence_penalty,
                defaults.penalties.presence_penalty,
            ),
            frequency_penalty: or_default(
                body.frequency_penalty,
                defaults.penalties.frequency_penalty,
            ),
            last_n: match body.repeat_last_n {
                Some(last_n) => limit("repeat_last_n", last_n)?,
                None => defaults.penalties.last_n,
            },
            penalize_newline: body
                .penalize_nl
                .unwrap_or(defaults.penalties.penalize_newline),
        },
        dry: Dry {
            multiplier: or_default(body.dry_multiplier, defaults.dry.multiplier),
            base: or_default(body.dry_base, defaults.dry.base),
            allowed_length: match body.dry_allowed_length {
                Some(length) => count("dry_allowed_length", length)?,
                None => defaults.dry.allowed_length,
            },
            last_n: match body.dry_penalty_last_n {
                Some(last_n) => limit("dry_penalty_last_n", last_n)?,
                None => defaults.dry.last_n,
            },
            breakers: body
                .dry_sequence_breakers
                .clone()
                .unwrap_or(defaults.dry.breakers),
        },
        logprobs: match count("n_probs", body.n_probs.unwrap_or(0))? {
            0 => None,
            top => Some(LogprobsOptions {
                top,
                distribution: match body.post_sampling_probs.unwrap_or(false) {
                    true => Distribution::Chain,
                    false => Distribution::Model,
                },
            }),
        },
    })
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
fn chain(samplers: &types::Samplers) -> Result<Vec<Stage>, Error> {
    let names: Vec<types::SamplerName> = match samplers {
        types::Samplers::Array(names) => names.clone(),
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

fn mirostat(body: &types::CompletionRequest) -> Option<Mirostat> {
    let version = match body.mirostat {
        Some(1) => MirostatVersion::One,
        Some(2) => MirostatVersion::Two,
        _ => return None,
    };
    Some(Mirostat {
        version,
        tau: body.mirostat_tau.map_or(MIROSTAT_TAU, to_f32),
        eta: body.mirostat_eta.map_or(MIROSTAT_ETA, to_f32),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(body: Value) -> types::CompletionRequest {
        serde_json::from_value(body).unwrap()
    }

    #[test]
    fn missing_options_have_their_default_values() {
        let defaults =
            sampling_parameters(&read(json!({"prompt": "a"})), SamplingParameters::native())
                .unwrap();
        assert_eq!(defaults, SamplingParameters::native());
    }

    #[test]
    fn rejects_an_invalid_sampler_chain() {
        for (samplers, path) in [
            (json!("kq"), "samplers"),
            (json!(["top_k", "penalties"]), "samplers.1"),
            (json!(["dry", "min_p", "dry"]), "samplers.2"),
        ] {
            let body = read(json!({"prompt": "a", "samplers": samplers}));
            let error = sampling_parameters(&body, SamplingParameters::native()).unwrap_err();
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
            let body = read(json!({"prompt": "a", "top_k": top_k}));
            let parameters = sampling_parameters(&body, SamplingParameters::native()).unwrap();
            assert_eq!(parameters.top_k, None);
        }
    }

    #[test]
    fn the_sampler_chain_follows_the_request() {
        let chain = |body: Value| {
            sampling_parameters(&read(body), SamplingParameters::native())
                .unwrap()
                .chain
        };
        assert_eq!(
            chain(json!({"prompt": "a", "samplers": ["min_p", "top_k", "min_p"]})),
            [Stage::MinP, Stage::TopK, Stage::MinP]
        );
        assert_eq!(chain(json!({"prompt": "a", "samplers": []})), []);
        let names = json!(["penalties", "dry", "typ_p", "temperature"]);
        let expected = [Stage::Typical, Stage::Temperature];
        assert_eq!(chain(json!({"prompt": "a", "samplers": names})), expected);
        assert_eq!(chain(json!({"prompt": "a", "samplers": "edyt"})), expected);
        assert_eq!(
            chain(json!({"prompt": "a", "samplers": "kfypmt"})),
            Stage::CHAIN
        );
        assert_eq!(chain(json!({"prompt": "a", "samplers": ""})), []);
        let with_newer_stages =
            chain(json!({"prompt": "a", "xtc_probability": 0.5, "top_n_sigma": 1}));
        assert_eq!(with_newer_stages[0], Stage::TopNSigma);
        assert_eq!(with_newer_stages[6..], [Stage::Xtc, Stage::Temperature]);
    }
}
