//! The pipeline and the decoder of a `tokenizer.json` whose model is BPE or Unigram. The `tokenizers` crate runs the
//! model.

use std::sync::Arc;

use serde_json::{Value, json};
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::{Model, ModelWrapper};

use super::pre_tokenization::pre_tokenization;
use super::{component_type, missing, parsed, unsupported};
use crate::text::pre_tokenization::METASPACE;
use crate::text::tokenizer_error::TokenizerError;
use crate::text::vocabulary::{Decoder, JsonPipeline};

impl JsonPipeline {
    pub(super) fn new(
        normalizer: Option<&Value>,
        pre_tokenizer: Option<&Value>,
        decoder: Option<&Value>,
        model: ModelWrapper,
    ) -> Result<Self, TokenizerError> {
        let (continuation_normalizer, continuation_pre_tokenizer) = (
            normalizer.map(without_space_prefix),
            pre_tokenizer.map(without_space_prefix),
        );
        Ok(Self {
            text_start: pre_tokenization(normalizer, pre_tokenizer)?,
            continuation: pre_tokenization(
                continuation_normalizer.as_ref(),
                continuation_pre_tokenizer.as_ref(),
            )?,
            continues_after_special_token: pre_tokenizer.is_some_and(|pre_tokenizer| {
                let mut parts = parts(pre_tokenizer, "pretokenizers").into_iter();
                parts.any(|part| part.get("prepend_scheme") == Some(&json!("first")))
            }),
            model: Arc::new(model),
            decoder: read_decoder(decoder, pre_tokenizer)?,
        })
    }
}

/// Reads the BPE or Unigram model. Returns the model and the text of its unknown token.
pub(super) fn model(mut model: Value) -> Result<(ModelWrapper, Option<String>), TokenizerError> {
    // The crate removes these affixes from tokens without checking that the tokens have them.
    for affix in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model
            .get(affix)
            .and_then(Value::as_str)
            .is_some_and(|affix| !affix.is_empty())
        {
            return Err(unsupported("model", &format!("BPE with {affix}")));
        }
    }
    let model_type = component_type(&model).to_owned();
    // The `Deserialize` implementations of the models reject the field `type`.
    if let Some(fields) = model.as_object_mut() {
        fields.remove("type");
    }
    match model_type.as_str() {
        "BPE" => {
            check_merges(&model)?;
            let bpe: BPE = parsed(serde_json::from_value(model))?;
            if bpe.dropout.is_some_and(|dropout| dropout != 0.0) {
                return Err(unsupported("model", "BPE with dropout"));
            }
            let unknown = bpe.unk_token.clone();
            // The model cannot use an added token as its unknown token.
            if let Some(text) = unknown
                .as_ref()
                .filter(|text| bpe.token_to_id(text).is_none())
            {
                return Err(missing(text));
            }
            Ok((bpe.into(), unknown))
        }
        "Unigram" => {
            let id = model.get("unk_id").and_then(Value::as_u64);
            let unknown = id.and_then(|id| {
                let piece = model.get("vocab")?.get(usize::try_from(id).ok()?)?;
                piece.get(0)?.as_str().map(str::to_owned)
            });
            let Some(unknown) = unknown else {
                return Err(unsupported("model", "Unigram without an unknown token"));
            };
            let unigram: Unigram = parsed(serde_json::from_value(model))?;
            Ok((unigram.into(), Some(unknown)))
        }
        other => Err(unsupported("model", other)),
    }
}

/// Checks that no merge produces a text longer than the longest token: the buffer of the crate has only that length.
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
            // Older files write a pair as one string with a space in it.
            other => other
                .as_str()
                .map_or(0, |pair| pair.len().saturating_sub(1)),
        };
        if length > longest {
            let problem = format!("invalid merge {merge}: the result is not a token");
            return Err(TokenizerError::Json(problem));
        }
    }
    Ok(())
}

/// Returns the parts of a sequence, or the component itself if it is not a sequence.
fn parts<'a>(component: &'a Value, key: &str) -> Vec<&'a Value> {
    match component.get(key).and_then(Value::as_array) {
        Some(parts) => parts.iter().collect(),
        None => vec![component],
    }
}

/// Returns the component without the space that it would add before a text.
fn without_space_prefix(component: &Value) -> Value {
    let mut component = component.clone();
    for key in ["normalizers", "pretokenizers"] {
        if let Some(parts) = component.get_mut(key).and_then(Value::as_array_mut) {
            *parts = parts
                .iter()
                .filter(|part| component_type(part) != "Prepend")
                .map(without_space_prefix)
                .collect();
        }
    }
    match component_type(&component) {
        "Prepend" => json!({"type": "Sequence", "normalizers": []}),
        "Metaspace" => {
            component["prepend_scheme"] = json!("never");
            if let Some(fields) = component.as_object_mut() {
                fields.remove("add_prefix_space");
            }
            component
        }
        "ByteLevel" => {
            component["add_prefix_space"] = json!(false);
            component
        }
        _ => component,
    }
}

/// Reads the decoder. Ignores decoders that strip the start of a text, because tokens are decoded independently of
/// their position.
fn read_decoder(
    decoder: Option<&Value>,
    pre_tokenizer: Option<&Value>,
) -> Result<Decoder, TokenizerError> {
    let is_byte_level = |part: &Value| component_type(part) == "ByteLevel";
    let Some(decoder) = decoder else {
        let steps = pre_tokenizer.map(|pre_tokenizer| parts(pre_tokenizer, "pretokenizers"));
        return match steps.unwrap_or_default().into_iter().any(is_byte_level) {
            true => Ok(Decoder::ByteLevel),
            false => Err(unsupported("decoder", "none")),
        };
    };
    let mut found = None;
    for part in parts(decoder, "decoders") {
        let is = |key: &str, value: Value| part.get(key) == Some(&value);
        let step = match component_type(part) {
            "ByteLevel" => Some(Decoder::ByteLevel),
            "Metaspace" if is("replacement", json!(METASPACE)) => Some(Decoder::Metaspace),
            "Replace"
                if is("pattern", json!({"String": METASPACE})) && is("content", json!(" ")) =>
            {
                Some(Decoder::Metaspace)
            }
            "Strip" if is("content", json!(" ")) && is("stop", json!(0)) => None,
            "ByteFallback" | "Fuse" => None,
            other => return Err(unsupported("decoder", other)),
        };
        found = found.or(step);
    }
    found.ok_or_else(|| unsupported("decoder", component_type(decoder)))
}
