//! The options of the choice of tokens: what a request asks for, translated both ways.

use crate::api::error::Error;
use crate::api::options::{count, limit, single, unless_zero};
use crate::api::types;
use crate::model::PromptPiece;
use crate::sampling::{
    Distribution, Dry, Exclusion, LogprobsWanted, Mirostat, MirostatVersion, Repetition,
    SamplingParameters, Stage,
};
use crate::token::TokenId;

/// Mirostat's defaults, which count only where it is switched on.
pub(super) const MIROSTAT_TAU: f32 = 5.0;
pub(super) const MIROSTAT_ETA: f32 = 0.1;

/// The parameters that a body asks for; what it does not name is the contract's default.
pub(super) fn parameters(body: &types::CompletionRequest) -> Result<SamplingParameters, Error> {
    let native = SamplingParameters::native();
    let number = |given: Option<f64>, default: f32| given.map_or(default, single);
    let top_n_sigma = number(body.top_n_sigma, native.top_n_sigma);
    let exclusion = Exclusion {
        probability: number(body.xtc_probability, native.exclusion.probability),
        threshold: number(body.xtc_threshold, native.exclusion.threshold),
    };
    Ok(SamplingParameters {
        seed: body.seed.and_then(|seed| u32::try_from(seed).ok()),
        chain: match body.samplers.as_deref() {
            Some(names) => names.iter().map(|name| stage(*name)).collect(),
            None => default_chain(top_n_sigma > 0.0, exclusion.probability > 0.0),
        },
        temperature: number(body.temperature, native.temperature),
        temperature_range: number(body.dynatemp_range, native.temperature_range),
        temperature_exponent: number(body.dynatemp_exponent, native.temperature_exponent),
        top_k: match body.top_k {
            Some(top_k) => unless_zero("top_k", top_k)?,
            None => native.top_k,
        },
        top_p: number(body.top_p, native.top_p),
        min_p: number(body.min_p, native.min_p),
        tail_free_z: number(body.tfs_z, native.tail_free_z),
        typical_p: number(body.typical_p, native.typical_p),
        top_n_sigma,
        exclusion,
        min_keep: match body.min_keep {
            Some(min_keep) => count("min_keep", min_keep)?,
            None => native.min_keep,
        },
        mirostat: mirostat(body),
        repetition: Repetition {
            repeat_penalty: number(body.repeat_penalty, native.repetition.repeat_penalty),
            presence_penalty: number(body.presence_penalty, native.repetition.presence_penalty),
            frequency_penalty: number(body.frequency_penalty, native.repetition.frequency_penalty),
            last_n: match body.repeat_last_n {
                Some(last_n) => limit("repeat_last_n", last_n)?,
                None => native.repetition.last_n,
            },
            penalize_newline: body
                .penalize_nl
                .unwrap_or(native.repetition.penalize_newline),
        },
        dry: Dry {
            multiplier: number(body.dry_multiplier, native.dry.multiplier),
            base: number(body.dry_base, native.dry.base),
            allowed_length: match body.dry_allowed_length {
                Some(length) => count("dry_allowed_length", length)?,
                None => native.dry.allowed_length,
            },
            last_n: match body.dry_penalty_last_n {
                Some(last_n) => limit("dry_penalty_last_n", last_n)?,
                None => native.dry.last_n,
            },
            breakers: body
                .dry_sequence_breakers
                .clone()
                .unwrap_or(native.dry.breakers),
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

fn stage(name: types::CompletionRequestSamplersItem) -> Stage {
    use types::CompletionRequestSamplersItem as Name;
    match name {
        Name::TopK => Stage::TopK,
        Name::TfsZ => Stage::TailFree,
        Name::TypicalP => Stage::Typical,
        Name::TopP => Stage::TopP,
        Name::MinP => Stage::MinP,
        Name::Temperature => Stage::Temperature,
        Name::Xtc => Stage::Exclusion,
        Name::TopNSigma => Stage::TopNSigma,
    }
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

/// The four forms of a bias: a token id or a text; a number, or `false` for «never».
pub(super) fn logit_bias(
    pairs: Option<Vec<types::LogitBias>>,
) -> Result<Vec<(PromptPiece, f32)>, Error> {
    use types::LogitBiasPart as Part;
    let pair = |(number, pair): (usize, types::LogitBias)| {
        let place = format!("logit_bias.{number}");
        let wrong = |what: &str| Error::invalid(&*place, format!("{place}: {what}"));
        let [target, amount] =
            <[Part; 2]>::try_from(pair.0).map_err(|_| wrong("a pair has two parts"))?;
        let target = match target {
            Part::String(text) => PromptPiece::Text(text),
            Part::Number(id) => {
                token(id).ok_or_else(|| wrong("a token id is a whole number from 0"))?
            }
            Part::Boolean(_) => return Err(wrong("the first part is a token id or a text")),
        };
        let amount = match amount {
            Part::Number(amount) => single(amount),
            Part::Boolean(_) => f32::NEG_INFINITY,
            Part::String(_) => return Err(wrong("the second part is a number or false")),
        };
        Ok((target, amount))
    };
    pairs.into_iter().flatten().enumerate().map(pair).collect()
}

fn token(id: f64) -> Option<PromptPiece> {
    let whole = id.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&id);
    whole.then_some(PromptPiece::Token(TokenId(id as u32)))
}

/// A bias as it is shown.
pub(super) fn shown_bias((target, amount): &(PromptPiece, f32)) -> types::LogitBias {
    use types::LogitBiasPart as Part;
    let target = match target {
        PromptPiece::Text(text) => Part::String(text.clone()),
        PromptPiece::Token(token) => Part::Number(f64::from(token.0)),
    };
    let amount = match amount.is_finite() {
        true => Part::Number(f64::from(*amount)),
        false => Part::Boolean(false),
    };
    types::LogitBias(vec![target, amount])
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
        let defaults = parameters(&read(json!({"prompt": "a"}))).unwrap();
        assert_eq!(defaults, SamplingParameters::native());
    }

    #[test]
    fn the_chain_is_what_was_asked_for() {
        let chain = |body: Value| parameters(&read(body)).unwrap().chain;
        assert_eq!(
            chain(json!({"prompt": "a", "samplers": ["min_p", "top_k", "min_p"]})),
            [Stage::MinP, Stage::TopK, Stage::MinP]
        );
        assert_eq!(chain(json!({"prompt": "a", "samplers": []})), []);
        let later = chain(json!({"prompt": "a", "xtc_probability": 0.5, "top_n_sigma": 1}));
        assert_eq!(later[0], Stage::TopNSigma);
        assert_eq!(later[6..], [Stage::Exclusion, Stage::Temperature]);
    }

    #[test]
    fn a_bias_has_four_forms() {
        let read =
            |pairs: Value| logit_bias(read(json!({"prompt": "a", "logit_bias": pairs})).logit_bias);
        let token = |id| PromptPiece::Token(TokenId(id));
        let text = |text: &str| PromptPiece::Text(text.to_owned());
        assert_eq!(
            read(json!([
                [15043, 1.0],
                [15043, false],
                ["Hello", -0.5],
                ["Hello", false]
            ]))
            .unwrap(),
            [
                (token(15043), 1.0),
                (token(15043), f32::NEG_INFINITY),
                (text("Hello"), -0.5),
                (text("Hello"), f32::NEG_INFINITY),
            ]
        );
        for (pair, problem) in [
            (json!([1.5, 1]), "whole number"),
            (json!([-1, 1]), "whole number"),
            (json!([false, 1]), "a token id or a text"),
            (json!([1, "a"]), "a number or false"),
        ] {
            let error = read(json!([[1, 1], pair])).unwrap_err().to_string();
            assert!(
                error.contains(problem) && error.contains("logit_bias.1"),
                "{error}"
            );
        }
        let shown = serde_json::to_value(shown_bias(&(token(7), f32::NEG_INFINITY))).unwrap();
        assert_eq!(shown, json!([7.0, false]));
    }
}
