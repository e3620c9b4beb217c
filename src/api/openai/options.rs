//! What the routes that generate all take, as the layers below have it.

use std::collections::HashMap;

use serde::Serialize;
use serde_json::Value;

use super::constraint::{Constraint, constraint};
use crate::api::error::Error;
use crate::api::native::bias;
use crate::api::options::{as_completion, limit, progress_events, scales, seconds, single};
use crate::api::payload::Ignored;
use crate::api::prompts::pieces;
use crate::api::sampling;
use crate::api::types;
use crate::model::{
    GenerateError, GenerateOptions, GrammarKind, GrammarSource, LineLimits, PromptPiece,
    Relaxation, RequestOwner, ToolUse, WhenFull,
};
use crate::sampling::SamplingParameters;
use crate::token::TokenId;

/// The fields of a body that errors of the layers below are about.
#[derive(Debug, Clone)]
pub(super) struct Fields {
    /// The field of what the text must follow.
    pub constraint: Option<String>,
    /// The field of the prompt or the conversation.
    pub prompt: &'static str,
    /// The field of the schema of each function's arguments, by the name that the model is shown.
    pub functions: HashMap<String, String>,
}

impl Fields {
    /// Those of a body that neither constrains a text nor declares functions.
    pub(super) fn of_prompt(prompt: &'static str) -> Self {
        Self {
            constraint: None,
            prompt,
            functions: HashMap::new(),
        }
    }

    /// Reports each constraint that the answer is not held to, by the field of its schema and its JSON pointer there.
    ///
    /// # Errors
    /// If fields without effect are refused.
    pub(super) fn report(
        &self,
        relaxations: &[Relaxation],
        ignored: &mut Ignored,
    ) -> Result<(), Error> {
        for Relaxation { function, pointer } in relaxations {
            let field = match function {
                Some(function) => self.functions.get(function),
                None => self.constraint.as_ref(),
            };
            let field = field.map_or("tools", String::as_str);
            ignored.report(format!("{field}{pointer}"))?;
        }
        Ok(())
    }
}

/// The options of a body that has those of the schema `GenerationOptions`, and the fields that errors name. The names in
/// `own` are another thing's there than `/completion`'s. `form` is a constraint that only this route takes.
pub(super) fn generate_options(
    body: &impl Serialize,
    own: &[&str],
    prompt: &'static str,
    form: Option<Constraint>,
    tools: Option<ToolUse>,
) -> Result<(GenerateOptions, Fields), Error> {
    let own = ["stop", "logit_bias", "logprobs", "seed", "json_schema"]
        .iter()
        .chain(own);
    let own: Vec<(&str, Value)> = own.map(|name| (*name, Value::Null)).collect();
    let mut native = as_completion(body, &own)?;
    let mut options: types::GenerationOptions = serde_json::to_value(body)
        .and_then(serde_json::from_value)
        .map_err(|error| Error::Invalid {
            param: None,
            message: format!("the body is not understood: {error}"),
        })?;
    native.repeat_penalty = repeat_penalty(&options)?;
    let mut sampling = sampling::parameters(&native, SamplingParameters::openai())?;
    sampling.seed = options.seed.as_ref().and_then(seed);
    let constraint = constraint(&mut options, form)?;
    if let (Some(Constraint { field, grammar }), Some(_)) = (&constraint, &tools)
        && !matches!(grammar, GrammarSource::JsonSchema { .. })
    {
        let message = format!("{field}: a text cannot follow both tools and {field}");
        return Err(Error::invalid(field, message));
    }
    let (field, grammar) = match constraint {
        Some(Constraint { field, grammar }) => (Some(field), Some(grammar)),
        None => (None, None),
    };
    let stop = match options.stop {
        None => Vec::new(),
        Some(types::StopTexts::String(stop)) => vec![stop],
        Some(types::StopTexts::Array(stops)) => stops,
    };
    let options = GenerateOptions {
        max_tokens: None,
        stop: stop.into_iter().filter(|stop| !stop.is_empty()).collect(),
        ignore_end: options.ignore_eos.unwrap_or(false),
        sampling,
        logit_bias: logit_bias(options.logit_bias)?,
        grammar,
        tools,
        penalty_prompt: native.penalty_prompt.map(pieces),
        slot: limit("id_slot", options.id_slot.unwrap_or(-1))?,
        when_full: match options.n_keep {
            Some(keep) => WhenFull::Shift {
                keep: limit("n_keep", keep)?,
            },
            None => WhenFull::Stop,
        },
        whole_prompt: true,
        read_cache: options.cache_prompt.unwrap_or(true),
        cache_salt: options.cache_salt,
        adapters: native.lora.map(scales),
        priority: options.priority.unwrap_or(0),
        timeout: options.request_timeout.map(seconds),
        echo: false,
        stream: options.stream.unwrap_or(false),
        lines: LineLimits::default(),
        progress: progress_events(native.return_progress, native.timings_per_token),
        owner: RequestOwner::default(),
    };
    Ok((
        options,
        Fields {
            constraint: field,
            ..Fields::of_prompt(prompt)
        },
    ))
}

/// An error of the layers below, which name no fields of these routes.
pub(super) fn in_openais_words(error: GenerateError, fields: &Fields) -> Error {
    match (error, &fields.constraint) {
        (
            GenerateError::Grammar {
                kind: GrammarKind::Calls,
                error,
            },
            _,
        ) => Error::invalid("tools", format!("Invalid schema for {error}")),
        (GenerateError::Grammar { kind, error }, Some(field)) => {
            // OpenAI's errors name the format as a whole.
            let field = match field.split('.').next() {
                Some("response_format") => "response_format",
                _ => field.as_str(),
            };
            let message = match kind {
                GrammarKind::JsonSchema => format!("Invalid schema for {field}: {error}"),
                _ => format!("Failed to parse {field}: {error}"),
            };
            Error::invalid(field, message)
        }
        (error @ GenerateError::Template(_), _) => Error::invalid(fields.prompt, error.to_string()),
        (other, _) => other.into(),
    }
}

/// A limit of tokens, of which negative ones are none.
pub(super) fn most_tokens(tokens: i64) -> Option<usize> {
    usize::try_from(tokens).ok()
}

/// A seed of up to 64 bits as one of 32; -1 draws one, as on the native surface.
fn seed(seed: &Value) -> Option<u32> {
    let bits = match (seed.as_i64(), seed.as_u64(), seed.as_f64()) {
        (Some(-1), ..) => return None,
        (Some(seed), ..) => seed,
        (_, Some(seed), _) => seed.cast_signed(),
        // Beyond 2^53 a client may write an integer as `1e19`.
        (.., Some(seed)) if seed < 0.0 => seed as i64,
        (.., Some(seed)) => (seed as u64).cast_signed(),
        (.., None) => return None,
    };
    Some(sampling::folded(bits))
}

/// The penalty of repetition, which vLLM calls by another name.
fn repeat_penalty(options: &types::GenerationOptions) -> Result<Option<f64>, Error> {
    match (options.repeat_penalty, options.repetition_penalty) {
        (Some(own), Some(peers)) if own != peers => {
            let message =
                "repetition_penalty: it differs from repeat_penalty, which is the same option";
            Err(Error::invalid("repetition_penalty", message))
        }
        (own, peers) => Ok(own.or(peers)),
    }
}

/// Biases by token id or text, or in the native form of pairs.
fn logit_bias(biases: Option<types::TokenBiases>) -> Result<Vec<(PromptPiece, f32)>, Error> {
    match biases {
        Some(types::TokenBiases::Map(biases)) => {
            let bias = |(token, amount): (String, f64)| match token.parse() {
                Ok(id) => (PromptPiece::Token(TokenId(id)), single(amount)),
                Err(_) => (PromptPiece::Text(token), single(amount)),
            };
            Ok(biases.0.into_iter().map(bias).collect())
        }
        Some(types::TokenBiases::Pairs(pairs)) => {
            bias::logit_bias(Some(types::LogitBiases::Array(pairs.0)))
        }
        None => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_seed_of_64_bits_is_folded() {
        for (given, used) in [
            (json!(7), Some(7)),
            (json!(-1), None),
            (json!(u32::MAX), Some(u32::MAX)),
            (json!(u64::MAX), Some(0)),
            (json!(i64::MIN), Some(0x8000_0000)),
            (json!(-7), Some(6)),
        ] {
            assert_eq!(seed(&given), used, "{given}");
        }
        assert_ne!(seed(&json!(1_u64 << 63)), seed(&json!(1_u64 << 62)));
    }

    #[test]
    fn a_bias_has_two_forms() {
        let token = |id| PromptPiece::Token(TokenId(id));
        let text = |text: &str| PromptPiece::Text(text.to_owned());
        let read = |biases| logit_bias(serde_json::from_value(biases).unwrap()).unwrap();
        assert_eq!(read(json!({"7": -100})), [(token(7), -100.0)]);
        assert_eq!(read(json!({"a": 1})), [(text("a"), 1.0)]);
        assert_eq!(
            read(json!([[7, false], ["a", 1]])),
            [(token(7), f32::NEG_INFINITY), (text("a"), 1.0)]
        );
    }
}
