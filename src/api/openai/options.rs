//! Converts the generation options that all OpenAI routes share, and the errors of the model layer.

use std::collections::HashMap;

use serde_json::Value;

use super::constraint::{Constraint, constraint};
use crate::api::error::Error;
use crate::api::native::bias;
use crate::api::options::{adapter_scales, duration, limit, progress_events, to_f32};
use crate::api::payload::IgnoredFields;
use crate::api::prompts::prompt_pieces;
use crate::api::relaxations;
use crate::api::sampling::{BasicSampling, fold_seed, sampling_parameters};
use crate::api::types::{self, GenerationOptions, Includes, ProgressOptions, SamplerOptions};
use crate::model::{
    ContextOverflow, GenerateError, GenerateOptions, GrammarKind, GrammarSource, LineLimits,
    PromptPiece, Relaxation, RequestOwner, ToolOptions,
};
use crate::sampling::SamplingParameters;
use crate::token::TokenId;

/// The request fields that messages about errors of the model layer name.
#[derive(Debug, Clone)]
pub(super) struct ErrorFields {
    /// The field that constrains the generated text, if any.
    pub constraint: Option<String>,
    /// The field that contains the prompt or the conversation.
    pub prompt: &'static str,
    /// The field with each function's argument schema, by the name that the function has in the prompt.
    pub functions: HashMap<String, String>,
}

impl ErrorFields {
    /// Returns the fields of a request without constraint and functions.
    pub(super) fn with_prompt(prompt: &'static str) -> Self {
        Self {
            constraint: None,
            prompt,
            functions: HashMap::new(),
        }
    }

    /// Reports each relaxed schema constraint as ignored, by the field of the schema and the JSON pointer within it.
    ///
    /// # Errors
    /// If the server runs with `--strict` and a constraint is relaxed.
    pub(super) fn report(
        &self,
        relaxations: &[Relaxation],
        ignored: &mut IgnoredFields,
    ) -> Result<(), Error> {
        relaxations::report(relaxations, ignored, |function| {
            let field = match function {
                Some(function) => self.functions.get(function),
                None => self.constraint.as_ref(),
            };
            field.map_or("tools", String::as_str).to_owned()
        })
    }
}

/// Converts the generation options that all OpenAI routes share, and moves them out of the body. Also returns the
/// fields that error messages name. `format` is a constraint that only the calling route has. The options have no
/// `max_tokens` and no log probabilities, because their fields differ between the routes.
pub(super) fn generate_options<B>(
    body: &mut B,
    prompt: &'static str,
    format: Option<Constraint>,
    tools: Option<ToolOptions>,
) -> Result<(GenerateOptions, ErrorFields), Error>
where
    B: Includes<SamplerOptions> + Includes<GenerationOptions> + Includes<ProgressOptions>,
{
    let mut sampler: SamplerOptions = body.take_part();
    let progress: ProgressOptions = body.take_part();
    let mut options: GenerationOptions = body.take_part();
    let penalty_prompt = sampler.penalty_prompt.take().map(prompt_pieces);
    let basic = BasicSampling {
        seed: options.seed.as_ref().and_then(seed),
        temperature: options.temperature,
        top_k: options.top_k,
        top_p: options.top_p,
        min_p: options.min_p,
        repeat_penalty: repeat_penalty(&options)?,
        repeat_last_n: options.repeat_last_n,
        presence_penalty: options.presence_penalty,
        frequency_penalty: options.frequency_penalty,
        logprobs: None,
    };
    let sampling = sampling_parameters(&basic, sampler, SamplingParameters::openai())?;
    let constraint = constraint(&mut options, format)?;
    if let (Some(Constraint { field, grammar }), Some(_)) = (&constraint, &tools)
        && !matches!(grammar, GrammarSource::JsonSchema { .. })
    {
        let message = format!("{field}: tools and {field} cannot both be set");
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
        ignore_eos: options.ignore_eos.unwrap_or(false),
        sampling,
        logit_bias: logit_bias(options.logit_bias)?,
        grammar,
        tools,
        penalty_prompt,
        slot: limit("id_slot", options.id_slot.unwrap_or(-1))?,
        context_overflow: match options.n_keep {
            Some(keep) => ContextOverflow::Shift {
                keep: limit("n_keep", keep)?,
            },
            None => ContextOverflow::Stop,
        },
        reject_oversized_prompt: true,
        read_cache: options.cache_prompt.unwrap_or(true),
        cache_salt: options.cache_salt,
        adapters: options.lora.map(adapter_scales),
        priority: options.priority.unwrap_or(0),
        timeout: options.request_timeout.map(duration),
        echo: false,
        stream: options.stream.unwrap_or(false),
        lines: LineLimits::default(),
        progress: progress_events(&progress),
        owner: RequestOwner::default(),
    };
    Ok((
        options,
        ErrorFields {
            constraint: field,
            ..ErrorFields::with_prompt(prompt)
        },
    ))
}

/// Converts an error of the model layer so that the message names fields of OpenAI's routes.
pub(super) fn openai_error(error: GenerateError, fields: &ErrorFields) -> Error {
    match (error, &fields.constraint) {
        (
            GenerateError::Grammar {
                kind: GrammarKind::ToolCalls,
                error,
            },
            _,
        ) => Error::invalid("tools", format!("Invalid schema for {error}")),
        (GenerateError::Grammar { kind, error }, Some(field)) => {
            // OpenAI's error messages name only `response_format`, without the path within it.
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

/// Converts a limit of generated tokens; negative numbers are no limit.
pub(super) fn token_limit(tokens: i64) -> Option<usize> {
    usize::try_from(tokens).ok()
}

/// Folds a seed of up to 64 bits into 32 bits; -1 requests a random seed, as on the native surface.
fn seed(seed: &Value) -> Option<u32> {
    let bits = match (seed.as_i64(), seed.as_u64(), seed.as_f64()) {
        (Some(-1), ..) => return None,
        (Some(seed), ..) => seed,
        (_, Some(seed), _) => seed.cast_signed(),
        // Clients may write integers beyond 2^53 as `1e19`.
        (.., Some(seed)) if seed < 0.0 => seed as i64,
        (.., Some(seed)) => (seed as u64).cast_signed(),
        (.., None) => return None,
    };
    Some(fold_seed(bits))
}

/// Returns the repetition penalty, which vLLM calls `repetition_penalty`. Rejects two different values.
fn repeat_penalty(options: &GenerationOptions) -> Result<Option<f64>, Error> {
    match (options.repeat_penalty, options.repetition_penalty) {
        (Some(llama_cpp), Some(vllm)) if llama_cpp != vllm => {
            let message = "repetition_penalty: it is the same option as repeat_penalty, but has a different value";
            Err(Error::invalid("repetition_penalty", message))
        }
        (llama_cpp, vllm) => Ok(llama_cpp.or(vllm)),
    }
}

/// Reads `logit_bias`: an object with token ids or texts as keys, or pairs as on the native surface.
fn logit_bias(biases: Option<types::TokenBiases>) -> Result<Vec<(PromptPiece, f32)>, Error> {
    match biases {
        Some(types::TokenBiases::Map(biases)) => {
            let bias = |(token, amount): (String, f64)| match token.parse() {
                Ok(id) => (PromptPiece::Token(TokenId(id)), to_f32(amount)),
                Err(_) => (PromptPiece::Text(token), to_f32(amount)),
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
    fn folds_seeds_of_64_bits() {
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
    fn reads_biases_as_object_or_pairs() {
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
