//! The options of the choice of tokens, which both surfaces take under the same names.

use super::error::Error;
use super::options::{count, limit, single};
use super::types;
use crate::sampling::{
    Distribution, Dry, Exclusion, LogprobsWanted, Mirostat, MirostatVersion, Repetition,
    SamplingParameters, Stage,
};

/// Mirostat's defaults, which count only where it is switched on.
pub(super) const MIROSTAT_TAU: f32 = 5.0;
pub(super) const MIROSTAT_ETA: f32 = 0.1;

/// The parameters that a body asks for; what it does not name is the surface's default.
pub(super) fn parameters(
    body: &types::CompletionRequest,
    defaults: SamplingParameters,
) -> Result<SamplingParameters, Error> {
    let number = |given: Option<f64>, default: f32| given.map_or(default, single);
    let top_n_sigma = number(body.top_n_sigma, defaults.top_n_sigma);
    let exclusion = Exclusion {
        probability: number(body.xtc_probability, defaults.exclusion.probability),
        threshold: number(body.xtc_threshold, defaults.exclusion.threshold),
    };
    Ok(SamplingParameters {
        seed: body.seed.and_then(seed),
        chain: match &body.samplers {
            Some(samplers) => chain(samplers)?,
            None => default_chain(top_n_sigma > 0.0, exclusion.probability > 0.0),
        },
        temperature: number(body.temperature, defaults.temperature),
        temperature_range: number(body.dynatemp_range, defaults.temperature_range),
        temperature_exponent: number(body.dynatemp_exponent, defaults.temperature_exponent),
        top_k: match body.top_k {
            Some(top_k) => usize::try_from(top_k).ok().filter(|count| *count > 0),
            None => defaults.top_k,
        },
        top_p: number(body.top_p, defaults.top_p),
        min_p: number(body.min_p, defaults.min_p),
        tail_free_z: number(body.tfs_z, defaults.tail_free_z),
        typical_p: number(body.typical_p, defaults.typical_p),
        top_n_sigma,
        exclusion,
        min_keep: match body.min_keep {
            Some(min_keep) => count("min_keep", min_keep)?,
            None => defaults.min_keep,
        },
        mirostat: mirostat(body),
        repetition: Repetition {
            repeat_penalty: number(body.repeat_penalty, defaults.repetition.repeat_penalty),
            presence_penalty: number(body.presence_penalty, defaults.repetition.presence_penalty),
            frequency_penalty: number(
                body.frequency_penalty,
                defaults.repetition.frequency_penalty,
            ),
            last_n: match body.repeat_last_n {
                Some(last_n) => limit("repeat_last_n", last_n)?,
                None => defaults.repetition.last_n,
            },
            penalize_newline: body
                .penalize_nl
                .unwrap_or(defaults.repetition.penalize_newline),
        },
        dry: Dry {
            multiplier: number(body.dry_multiplier, defaults.dry.multiplier),
            base: number(body.dry_base, defaults.dry.base),
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
            top => Some(LogprobsWanted {
                top,
                of: match body.post_sampling_probs.unwrap_or(false) {
                    true => Distribution::Chain,
                    false => Distribution::Model,
                },
            }),
        },
    })
}

/// The chain of 2024, and where they are switched on the stages that came later, in their places of today.
fn default_chain(top_n_sigma: bool, exclusion: bool) -> Vec<Stage> {
    let mut chain = Stage::CHAIN.to_vec();
    if exclusion {
        chain.insert(chain.len() - 1, Stage::Exclusion);
    }
    if top_n_sigma {
        chain.insert(0, Stage::TopNSigma);
    }
    chain
}

/// A seed of 64 bits as one of 32; -1 draws one.
pub(super) fn seed(seed: i64) -> Option<u32> {
    (seed != -1).then(|| folded(seed))
}

/// The 64 bits of a seed as 32.
pub(super) fn folded(bits: i64) -> u32 {
    // Both halves count.
    u32::try_from(bits).unwrap_or((bits ^ (bits >> 32)) as u32)
}

/// The stages by their names, or by a letter for each. Penalties come before all stages and are none.
fn chain(samplers: &types::Samplers) -> Result<Vec<Stage>, Error> {
    let names: Vec<types::SamplerName> = match samplers {
        types::Samplers::Array(names) => names.clone(),
        types::Samplers::String(letters) => {
            let letters = letters.chars();
            let names = letters.map(|letter| lettered(letter).ok_or(letter));
            names.collect::<Result<_, char>>().map_err(|letter| {
                let message = format!("samplers: '{letter}' is the letter of no stage");
                Error::invalid("samplers", message)
            })?
        }
    };
    let mut stages = Vec::with_capacity(names.len());
    for (number, name) in names.into_iter().enumerate() {
        match stage(name) {
            Some(stage) => stages.push(stage),
            None if stages.is_empty() => {}
            None => {
                let place = format!("samplers.{number}");
                let problem = "it is applied before all other stages: put it first";
                return Err(Error::invalid(
                    &*place,
                    format!("{place}: {name}: {problem}"),
                ));
            }
        }
    }
    Ok(stages)
}

/// The stage of that name; `None` for penalties.
fn stage(name: types::SamplerName) -> Option<Stage> {
    use types::SamplerName as Name;
    Some(match name {
        Name::TopK => Stage::TopK,
        Name::TfsZ => Stage::TailFree,
        Name::TypicalP | Name::TypP => Stage::Typical,
        Name::TopP => Stage::TopP,
        Name::MinP => Stage::MinP,
        Name::Temperature => Stage::Temperature,
        Name::Xtc => Stage::Exclusion,
        Name::TopNSigma => Stage::TopNSigma,
        Name::Infill => Stage::Infill,
        Name::Penalties | Name::Dry => return None,
    })
}

/// What llama.cpp's servers, that of 2024 and today's, call by this letter.
fn lettered(letter: char) -> Option<types::SamplerName> {
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
        tau: body.mirostat_tau.map_or(MIROSTAT_TAU, single),
        eta: body.mirostat_eta.map_or(MIROSTAT_ETA, single),
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
    fn without_options_the_contracts_defaults_hold() {
        let defaults =
            parameters(&read(json!({"prompt": "a"})), SamplingParameters::native()).unwrap();
        assert_eq!(defaults, SamplingParameters::native());
    }

    #[test]
    fn a_chain_that_cannot_be_is_refused() {
        for (samplers, place) in [
            (json!("kq"), "samplers"),
            (json!(["top_k", "penalties"]), "samplers.1"),
            (json!(["dry", "min_p", "dry"]), "samplers.2"),
        ] {
            let body = read(json!({"prompt": "a", "samplers": samplers}));
            let error = parameters(&body, SamplingParameters::native()).unwrap_err();
            let Error::Invalid { param, .. } = error else {
                panic!("{error}")
            };
            assert_eq!(param.as_deref(), Some(place));
        }
    }

    #[test]
    fn every_number_is_a_seed() {
        for (number, expected) in [
            (-1, None),
            (0, Some(0)),
            (4_294_967_295, Some(u32::MAX)),
            (1 << 32, Some(1)),
            (-2, Some(1)),
            (i64::MAX, Some(0x8000_0000)),
        ] {
            assert_eq!(seed(number), expected, "{number}");
        }
    }

    #[test]
    fn what_is_off_is_off() {
        for top_k in [0, -1, -40] {
            let body = read(json!({"prompt": "a", "top_k": top_k}));
            let parameters = parameters(&body, SamplingParameters::native()).unwrap();
            assert_eq!(parameters.top_k, None);
        }
    }

    #[test]
    fn the_chain_is_what_was_asked_for() {
        let chain = |body: Value| {
            parameters(&read(body), SamplingParameters::native())
                .unwrap()
                .chain
        };
        assert_eq!(
            chain(json!({"prompt": "a", "samplers": ["min_p", "top_k", "min_p"]})),
            [Stage::MinP, Stage::TopK, Stage::MinP]
        );
        assert_eq!(chain(json!({"prompt": "a", "samplers": []})), []);
        let today = json!(["penalties", "dry", "typ_p", "temperature"]);
        let expected = [Stage::Typical, Stage::Temperature];
        assert_eq!(chain(json!({"prompt": "a", "samplers": today})), expected);
        assert_eq!(chain(json!({"prompt": "a", "samplers": "edyt"})), expected);
        assert_eq!(
            chain(json!({"prompt": "a", "samplers": "kfypmt"})),
            Stage::CHAIN
        );
        assert_eq!(chain(json!({"prompt": "a", "samplers": ""})), []);
        let later = chain(json!({"prompt": "a", "xtc_probability": 0.5, "top_n_sigma": 1}));
        assert_eq!(later[0], Stage::TopNSigma);
        assert_eq!(later[6..], [Stage::Exclusion, Stage::Temperature]);
    }
}
