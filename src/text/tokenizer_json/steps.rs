//! The steps of a `tokenizer.json` that are taken as the crate `tokenizers` reads them, and what tokens then stand for,
//! which its decoder says.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::{Model, ModelWrapper};

use super::front::front;
use super::{kind, missing, read, unsupported};
use crate::text::tokenizer::{Front, TokenizerError};

/// Stands for a space.
const SPACE: &str = "\u{2581}";

/// How text becomes tokens, as a `tokenizer.json` says it.
#[derive(Debug, Clone)]
pub struct Steps {
    /// Those of a text with nothing before it.
    pub(in crate::text) beginning: Front,
    /// Those of a text that goes on with another one: no space is put before it.
    pub(in crate::text) going_on: Front,
    /// Whether a text behind a named token goes on with it.
    pub(in crate::text) goes_on_behind_tokens: bool,
    /// Makes tokens of words.
    pub(in crate::text) model: Arc<ModelWrapper>,
    /// What tokens stand for.
    pub(in crate::text) spelling: Spelling,
}

/// What tokens stand for in text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::text) enum Spelling {
    /// Bytes in an alphabet of their own.
    ByteLevel,
    /// Text whose spaces are spelt otherwise.
    Spaces,
}

impl Steps {
    pub(super) fn read(
        normalizer: Option<&Value>,
        words: Option<&Value>,
        decoder: Option<&Value>,
        model: ModelWrapper,
    ) -> Result<Self, TokenizerError> {
        let (plain_normalizer, plain_words) = (
            normalizer.map(without_space_before),
            words.map(without_space_before),
        );
        Ok(Self {
            beginning: front(normalizer, words)?,
            going_on: front(plain_normalizer.as_ref(), plain_words.as_ref())?,
            goes_on_behind_tokens: words.is_some_and(|words| {
                let mut parts = parts(words, "pretokenizers").into_iter();
                parts.any(|part| part.get("prepend_scheme") == Some(&json!("first")))
            }),
            model: Arc::new(model),
            spelling: spelling(decoder, words)?,
        })
    }
}

/// The model of these kinds, and how what it cannot spell is spelt.
pub(super) fn model(mut model: Value) -> Result<(ModelWrapper, Option<String>), TokenizerError> {
    // They would be cut off pieces that may be shorter.
    for affix in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model
            .get(affix)
            .and_then(Value::as_str)
            .is_some_and(|affix| !affix.is_empty())
        {
            return Err(unsupported("model", &format!("BPE with {affix}")));
        }
    }
    let kind = kind(&model).to_owned();
    // The models themselves do not read which they are.
    if let Some(fields) = model.as_object_mut() {
        fields.remove("type");
    }
    match kind.as_str() {
        "BPE" => {
            check_merges(&model)?;
            let bpe: BPE = read(serde_json::from_value(model))?;
            if bpe.dropout.is_some_and(|dropout| dropout != 0.0) {
                return Err(unsupported("model", "BPE with dropout"));
            }
            let unknown = bpe.unk_token.clone();
            // One that was added is none of the model's.
            if let Some(name) = unknown
                .as_ref()
                .filter(|name| bpe.token_to_id(name).is_none())
            {
                return Err(missing(name));
            }
            Ok((bpe.into(), unknown))
        }
        "Unigram" => {
            let place = model.get("unk_id").and_then(Value::as_u64);
            let unknown = place.and_then(|place| {
                let piece = model.get("vocab")?.get(usize::try_from(place).ok()?)?;
                piece.get(0)?.as_str().map(str::to_owned)
            });
            let Some(unknown) = unknown else {
                return Err(unsupported(
                    "model",
                    "Unigram without a token for what it cannot spell",
                ));
            };
            let unigram: Unigram = read(serde_json::from_value(model))?;
            Ok((unigram.into(), Some(unknown)))
        }
        other => Err(unsupported("model", other)),
    }
}

/// Whether no merge makes more than the longest token, which the crate has room for.
fn check_merges(model: &Value) -> Result<(), TokenizerError> {
    let tokens = model.get("vocab").and_then(Value::as_object);
    let longest = tokens.into_iter().flat_map(|tokens| tokens.keys());
    let longest = longest.map(String::len).max().unwrap_or(0);
    let merges = model.get("merges").and_then(Value::as_array);
    for merge in merges.into_iter().flatten() {
        let length = match merge {
            Value::Array(pieces) => {
                let pieces = pieces.iter().filter_map(Value::as_str);
                pieces.map(str::len).sum()
            }
            // Older files have a space between both.
            other => other
                .as_str()
                .map_or(0, |pair| pair.len().saturating_sub(1)),
        };
        if length > longest {
            let problem = format!("the merge {merge} makes no token");
            return Err(TokenizerError::Json(problem));
        }
    }
    Ok(())
}

pub(super) fn part<T: DeserializeOwned>(part: &Value) -> Result<T, TokenizerError> {
    read(serde_json::from_value(part.clone()))
}

/// A part, or the parts that it is a sequence of.
fn parts<'a>(part: &'a Value, key: &str) -> Vec<&'a Value> {
    match part.get(key).and_then(Value::as_array) {
        Some(parts) => parts.iter().collect(),
        None => vec![part],
    }
}

/// The part as it is for a text that goes on with another one.
fn without_space_before(part: &Value) -> Value {
    let mut part = part.clone();
    for key in ["normalizers", "pretokenizers"] {
        if let Some(parts) = part.get_mut(key).and_then(Value::as_array_mut) {
            *parts = parts
                .iter()
                .filter(|part| kind(part) != "Prepend")
                .map(without_space_before)
                .collect();
        }
    }
    match kind(&part) {
        "Prepend" => json!({"type": "Sequence", "normalizers": []}),
        "Metaspace" => {
            part["prepend_scheme"] = json!("never");
            if let Some(fields) = part.as_object_mut() {
                fields.remove("add_prefix_space");
            }
            part
        }
        "ByteLevel" => {
            part["add_prefix_space"] = json!(false);
            part
        }
        _ => part,
    }
}

/// What the decoder makes of tokens. What it does to the beginning of a text is left to who has one.
fn spelling(decoder: Option<&Value>, words: Option<&Value>) -> Result<Spelling, TokenizerError> {
    let is_byte_level = |part: &Value| kind(part) == "ByteLevel";
    let Some(decoder) = decoder else {
        let words = words.map(|words| parts(words, "pretokenizers"));
        return match words.unwrap_or_default().into_iter().any(is_byte_level) {
            true => Ok(Spelling::ByteLevel),
            false => Err(unsupported("decoder", "none")),
        };
    };
    let mut found = None;
    for part in parts(decoder, "decoders") {
        let is = |key: &str, value: Value| part.get(key) == Some(&value);
        let step = match kind(part) {
            "ByteLevel" => Some(Spelling::ByteLevel),
            "Metaspace" if is("replacement", json!(SPACE)) => Some(Spelling::Spaces),
            "Replace" if is("pattern", json!({"String": SPACE})) && is("content", json!(" ")) => {
                Some(Spelling::Spaces)
            }
            "Strip" if is("content", json!(" ")) && is("stop", json!(0)) => None,
            "ByteFallback" | "Fuse" => None,
            other => return Err(unsupported("decoder", other)),
        };
        found = found.or(step);
    }
    found.ok_or_else(|| unsupported("decoder", kind(decoder)))
}
