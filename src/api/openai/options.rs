//! What the routes that generate all take, as the floors below have it.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;

use crate::api::error::Error;
use crate::api::options::{as_completion, one_grammar, scales, seconds, single, unless_empty};
use crate::api::prompts::pieces;
use crate::api::sampling;
use crate::api::types;
use crate::model::{
    GenerateError, GenerateOptions, GrammarKind, GrammarSource, PromptPiece, WhenFull,
};
use crate::sampling::SamplingParameters;
use crate::token::TokenId;

/// The options of a body that has those of the schema `GenerationOptions`; the names in `own` are another thing's there
/// than `/completion`'s.
pub(super) fn generate_options(
    body: &impl Serialize,
    own: &[&str],
) -> Result<GenerateOptions, Error> {
    let own = ["stop", "logit_bias", "seed"].iter().chain(own);
    let own: Vec<(&str, Value)> = own.map(|name| (*name, Value::Null)).collect();
    let native = as_completion(body, &own)?;
    let mut sampling = sampling::parameters(&native, SamplingParameters::openai())?;
    let options: types::GenerationOptions = serde_json::to_value(body)
        .and_then(serde_json::from_value)
        .map_err(|error| Error::Invalid {
            param: None,
            message: format!("the body is not understood: {error}"),
        })?;
    sampling.seed = options.seed.and_then(seed);
    Ok(GenerateOptions {
        max_tokens: None,
        stop: match options.stop {
            None => Vec::new(),
            Some(types::StopTexts::String(stop)) => vec![stop],
            Some(types::StopTexts::Array(stops)) => stops,
        },
        ignore_end: options.ignore_eos.unwrap_or(false),
        sampling,
        logit_bias: logit_bias(options.logit_bias)?,
        grammar: one_grammar([
            unless_empty(options.grammar, GrammarSource::Gbnf),
            unless_empty(options.regex, GrammarSource::Regex),
            unless_empty(options.lark, GrammarSource::Lark),
        ])?,
        tools: None,
        penalty_prompt: native.penalty_prompt.map(pieces),
        slot: None,
        when_full: WhenFull::Stop,
        whole_prompt: true,
        read_cache: options.cache_prompt.unwrap_or(true),
        cache_salt: options.cache_salt,
        adapters: native.lora.map(scales),
        priority: options.priority.unwrap_or(0),
        timeout: options.request_timeout.map(seconds),
        echo: false,
        stream: options.stream.unwrap_or(false),
    })
}

/// An error about a schema, which comes by other names here: that of a form is at `form`.
pub(super) fn in_openais_words(error: GenerateError, form: &str) -> Error {
    match error {
        GenerateError::Grammar {
            kind: GrammarKind::JsonSchema,
            error,
        } => Error::invalid(form, format!("Invalid schema for response_format: {error}")),
        GenerateError::Grammar {
            kind: GrammarKind::Calls,
            error,
        } => Error::invalid("tools", format!("Invalid schema for {error}")),
        other => other.into(),
    }
}

/// The same options for another one of several answers to choose from: it has the next seed.
pub(super) fn for_choice(mut options: GenerateOptions, choice: u32) -> GenerateOptions {
    let seed = &mut options.sampling.seed;
    *seed = seed.map(|seed| seed.wrapping_add(choice));
    options
}

/// A seed of 64 bits as one of 32; -1 draws one, as on the native surface.
fn seed(seed: i64) -> Option<u32> {
    match (seed, u32::try_from(seed)) {
        (-1, _) => None,
        (_, Ok(seed)) => Some(seed),
        // Both halves count.
        (seed, Err(_)) => Some((seed ^ (seed >> 32)) as u32),
    }
}

fn logit_bias(biases: Option<HashMap<String, f64>>) -> Result<Vec<(PromptPiece, f32)>, Error> {
    let bias = |(token, amount): (String, f64)| match token.parse() {
        Ok(id) => Ok((PromptPiece::Token(TokenId(id)), single(amount))),
        Err(_) => {
            let place = format!("logit_bias.{token}");
            Err(Error::invalid(
                &*place,
                format!("{place}: it is no token id"),
            ))
        }
    };
    biases.into_iter().flatten().map(bias).collect()
}
