//! `normalizer` and `pre_tokenizer` of a `tokenizer.json` → the steps before the model.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Value, json};
use tokenizers::SplitDelimiterBehavior;

use super::steps::part;
use super::{kind, unsupported};
use crate::text::expression::Expression;
use crate::text::tokenizer::{Charsmap, Evening, Front, TokenizerError, WordStep};

/// Most steps of either kind; the longest known sequences have 6.
const MOST_STEPS: usize = 32;
/// How many times as long a text may become before it is cut into words.
const MOST_GROWTH: usize = 256;

/// A part that has a regular expression in it.
#[derive(Deserialize)]
struct WithExpression {
    pattern: Wanted,
    /// Of a `Replace`.
    #[serde(default)]
    content: String,
    /// Of a `Split`.
    #[serde(default = "isolated")]
    behavior: SplitDelimiterBehavior,
    #[serde(default)]
    invert: bool,
}

/// SentencePiece's table, in Base64.
#[derive(Deserialize)]
struct Precompiled {
    precompiled_charsmap: String,
}

#[derive(Deserialize)]
enum Wanted {
    String(String),
    Regex(String),
}

fn isolated() -> SplitDelimiterBehavior {
    SplitDelimiterBehavior::Isolated
}

/// The steps that both parts say.
pub(super) fn front(even: Option<&Value>, words: Option<&Value>) -> Result<Front, TokenizerError> {
    let mut steps = Vec::new();
    let mut growth = 1_usize;
    for step in flat(even, "normalizers")? {
        let evening = evening(step)?;
        growth = growth.saturating_mul(match &evening {
            Evening::Clusters(charsmap) => charsmap.growth(),
            _ => growth_of(step)?,
        });
        steps.push(evening);
    }
    if growth > MOST_GROWTH {
        return Err(TokenizerError::Json(format!(
            "the normalizer may make a text {growth} times as long; {MOST_GROWTH} is the most"
        )));
    }
    let words = flat(words, "pretokenizers")?.into_iter();
    Ok(Front {
        even: steps,
        words: words.map(word_step).collect::<Result<_, _>>()?,
    })
}

/// The parts of sequences in sequences, one after the other.
fn flat<'a>(part: Option<&'a Value>, key: &str) -> Result<Vec<&'a Value>, TokenizerError> {
    let mut found = Vec::new();
    let mut open: Vec<&Value> = part.into_iter().collect();
    while let Some(part) = open.pop() {
        match part.get(key).and_then(Value::as_array) {
            Some(parts) if kind(part) == "Sequence" => open.extend(parts.iter().rev()),
            _ => found.push(part),
        }
        if found.len() > MOST_STEPS {
            let problem = format!("there are more than {MOST_STEPS} {key}");
            return Err(TokenizerError::Json(problem));
        }
    }
    Ok(found)
}

/// How many times as long a text may become with this step.
fn growth_of(step: &Value) -> Result<usize, TokenizerError> {
    Ok(match kind(step) {
        "Replace" => {
            let replace: WithExpression = part(step)?;
            match replace.pattern {
                Wanted::String(text) => replace.content.len().div_ceil(text.len().max(1)).max(1),
                Wanted::Regex(_) => replace.content.len() + 1,
            }
        }
        // The longest that a character comes apart into (U+FDFA).
        "NFKC" | "NFKD" => 11,
        "NFC" | "NFD" => 3,
        "ByteLevel" => 2,
        _ => 1,
    })
}

fn evening(step: &Value) -> Result<Evening, TokenizerError> {
    match kind(step) {
        "Replace" => {
            let replace: WithExpression = part(step)?;
            match replace.pattern {
                Wanted::String(_) => part(step).map(Evening::Crate),
                Wanted::Regex(expression) => Ok(Evening::Replace {
                    expression: Expression::new(&expression)?,
                    content: replace.content,
                }),
            }
        }
        "BertNormalizer" | "ByteLevel" | "Lowercase" | "NFC" | "NFD" | "NFKC" | "NFKD" | "Nmt"
        | "Prepend" | "Strip" | "StripAccents" => part(step).map(Evening::Crate),
        // The crate reads its table without a look at where that ends.
        "Precompiled" => {
            let step: Precompiled = part(step)?;
            let table = STANDARD.decode(&step.precompiled_charsmap);
            let table = table.map_err(|error| TokenizerError::Charsmap(error.to_string()))?;
            Ok(Evening::Clusters(Arc::new(Charsmap::new(&table)?)))
        }
        other => Err(unsupported("normalizer", other)),
    }
}

fn word_step(step: &Value) -> Result<WordStep, TokenizerError> {
    match kind(step) {
        "Split" => {
            let split: WithExpression = part(step)?;
            match split.pattern {
                Wanted::String(_) => part(step).map(WordStep::Crate),
                Wanted::Regex(expression) => Ok(WordStep::Split {
                    expression: Expression::new(&expression)?,
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
            part(step).map(WordStep::Crate)
        }
        other => Err(unsupported("pre_tokenizer", other)),
    }
}
