//! Reads `normalizer` and `pre_tokenizer` of a `tokenizer.json`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::SplitDelimiterBehavior;

use super::{component, component_type, unsupported};
use crate::text::charsmap::Charsmap;
use crate::text::linear_regex::LinearRegex;
use crate::text::pre_tokenization::{NormalizerStep, PreTokenization, PreTokenizerStep};
use crate::text::tokenizer_error::TokenizerError;

/// Maximum number of normalizers, and of pre-tokenizers; the longest known sequences have six.
const MAX_STEPS: usize = 32;
/// Maximum factor by which all normalizers together may lengthen a text.
const MAX_GROWTH_FACTOR: usize = 256;

/// A `Replace` normalizer or a `Split` pre-tokenizer.
#[derive(Deserialize)]
struct PatternStep {
    pattern: Pattern,
    /// The replacement of a `Replace`.
    #[serde(default)]
    content: String,
    /// The behavior of a `Split`.
    #[serde(default = "isolated")]
    behavior: SplitDelimiterBehavior,
    #[serde(default)]
    invert: bool,
}

/// SentencePiece's normalization table, in Base64.
#[derive(Deserialize)]
struct Precompiled {
    precompiled_charsmap: String,
}

#[derive(Deserialize)]
enum Pattern {
    String(String),
    Regex(String),
}

fn isolated() -> SplitDelimiterBehavior {
    SplitDelimiterBehavior::Isolated
}

/// Reads the `normalizer` and `pre_tokenizer` components.
pub(super) fn pre_tokenization(
    normalizer: Option<&Value>,
    pre_tokenizer: Option<&Value>,
) -> Result<PreTokenization, TokenizerError> {
    let mut normalizers = Vec::new();
    let mut growth_factor = 1_usize;
    for step in flattened(normalizer, "normalizers")? {
        let normalizer = normalizer_step(step)?;
        growth_factor = growth_factor.saturating_mul(match &normalizer {
            NormalizerStep::Precompiled(charsmap) => charsmap.growth_factor(),
            _ => step_growth_factor(step)?,
        });
        normalizers.push(normalizer);
    }
    if growth_factor > MAX_GROWTH_FACTOR {
        return Err(TokenizerError::Json(format!(
            "the normalizer may lengthen a text by a factor of {growth_factor}; at most {MAX_GROWTH_FACTOR} is supported"
        )));
    }
    let pre_tokenizers = flattened(pre_tokenizer, "pretokenizers")?.into_iter();
    Ok(PreTokenization {
        normalizers,
        pre_tokenizers: pre_tokenizers
            .map(pre_tokenizer_step)
            .collect::<Result<_, _>>()?,
    })
}

/// Returns the components of nested `Sequence`s, in order.
fn flattened<'a>(
    component: Option<&'a Value>,
    key: &str,
) -> Result<Vec<&'a Value>, TokenizerError> {
    let mut steps = Vec::new();
    let mut stack: Vec<&Value> = component.into_iter().collect();
    while let Some(component) = stack.pop() {
        match component.get(key).and_then(Value::as_array) {
            Some(parts) if component_type(component) == "Sequence" => {
                stack.extend(parts.iter().rev());
            }
            _ => steps.push(component),
        }
        if steps.len() > MAX_STEPS {
            let problem = format!("there are more than {MAX_STEPS} {key}");
            return Err(TokenizerError::Json(problem));
        }
    }
    Ok(steps)
}

/// Returns the maximum factor by which a normalizer lengthens a text.
fn step_growth_factor(step: &Value) -> Result<usize, TokenizerError> {
    Ok(match component_type(step) {
        "Replace" => {
            let replace: PatternStep = component(step)?;
            match replace.pattern {
                Pattern::String(text) => replace.content.len().div_ceil(text.len().max(1)).max(1),
                Pattern::Regex(_) => replace.content.len() + 1,
            }
        }
        // The factor of the longest decomposition (U+FDFA).
        "NFKC" | "NFKD" => 11,
        "NFC" | "NFD" => 3,
        "ByteLevel" => 2,
        _ => 1,
    })
}

fn normalizer_step(step: &Value) -> Result<NormalizerStep, TokenizerError> {
    match component_type(step) {
        "Replace" => {
            let replace: PatternStep = component(step)?;
            match replace.pattern {
                Pattern::String(_) => component(step).map(NormalizerStep::Crate),
                Pattern::Regex(expression) => Ok(NormalizerStep::Replace {
                    regex: LinearRegex::new(&expression)?,
                    content: replace.content,
                }),
            }
        }
        "BertNormalizer" | "ByteLevel" | "Lowercase" | "NFC" | "NFD" | "NFKC" | "NFKD" | "Nmt"
        | "Prepend" | "Strip" | "StripAccents" => component(step).map(NormalizerStep::Crate),
        // The `Precompiled` of the crate does not check indexes into the table.
        "Precompiled" => {
            let step: Precompiled = component(step)?;
            let table = STANDARD.decode(&step.precompiled_charsmap);
            let table = table.map_err(|error| TokenizerError::Charsmap(error.to_string()))?;
            Ok(NormalizerStep::Precompiled(Arc::new(Charsmap::new(
                &table,
            )?)))
        }
        other => Err(unsupported("normalizer", other)),
    }
}

fn pre_tokenizer_step(step: &Value) -> Result<PreTokenizerStep, TokenizerError> {
    match component_type(step) {
        "Split" => {
            let split: PatternStep = component(step)?;
            match split.pattern {
                Pattern::String(_) => component(step).map(PreTokenizerStep::Crate),
                Pattern::Regex(expression) => Ok(PreTokenizerStep::Split {
                    regex: LinearRegex::new(&expression)?,
                    behavior: split.behavior,
                    invert: split.invert,
                }),
            }
        }
        "FixedLength" if step.get("length") == Some(&json!(0)) => {
            Err(unsupported("pre_tokenizer", "FixedLength of 0"))
        }
        "BertPreTokenizer" | "ByteLevel" | "Delimiter" | "Digits" | "FixedLength" | "Metaspace"
        | "Punctuation" | "UnicodeScripts" | "Whitespace" | "WhitespaceSplit" => {
            component(step).map(PreTokenizerStep::Crate)
        }
        other => Err(unsupported("pre_tokenizer", other)),
    }
}
