//! What stands in the files themselves, as far as it can be read, whatever it means.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::{Map, Number, Value, json};

use crate::file_bytes::{FileAccess, read_regular_limited};
use crate::gguf::{self, Gguf, ListedTensor, Listing, TensorType};
use crate::graph::imported::ImportedModel;
use crate::safetensors::{Element, Safetensors};

/// Elements of an array that are shown.
const SHOWN_ELEMENTS: usize = 6;
/// Most bytes of a `config.json`.
const MOST_CONFIG_BYTES: u64 = 1 << 24;

/// What the files hold.
pub(super) struct Contents {
    pub(super) format: String,
    pub(super) files: usize,
    pub(super) bytes: u64,
    pub(super) metadata: Map<String, Value>,
    pub(super) tensors: Vec<TensorLine>,
}

/// A tensor as it is shown.
#[derive(Serialize)]
pub(super) struct TensorLine {
    pub(super) name: String,
    /// The contiguous dimension first.
    pub(super) shape: Vec<usize>,
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// Where the type is known.
    pub(super) bytes: Option<u64>,
    #[serde(skip)]
    pub(super) known: Option<TensorType>,
}

impl TensorLine {
    pub(super) fn values(&self) -> u64 {
        let sizes = self.shape.iter().map(|size| *size as u64);
        sizes.fold(1, u64::saturating_mul)
    }
}

impl From<ListedTensor> for TensorLine {
    fn from(tensor: ListedTensor) -> Self {
        let known = tensor.kind.as_ref().ok().copied();
        Self {
            name: tensor.name,
            shape: tensor.shape,
            kind: match tensor.kind {
                Ok(kind) => kind.name().to_owned(),
                Err(name) => name,
            },
            bytes: tensor.bytes.map(|bytes| bytes as u64),
            known,
        }
    }
}

impl Contents {
    /// Reads what is at `path`.
    ///
    /// # Errors
    /// Nothing can be read.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        match path.is_dir() {
            true => Self::of_folder(path),
            false => Self::of_gguf(path),
        }
    }

    /// What is in the files of a graph that others exported.
    pub(super) fn of_graph(graph: &ImportedModel) -> Self {
        Self {
            format: "ONNX".to_owned(),
            files: graph.contents().len(),
            bytes: graph.file_bytes(),
            metadata: Map::new(),
            tensors: Vec::new(),
        }
    }

    fn of_gguf(path: &Path) -> anyhow::Result<Self> {
        let (listings, bytes) = match Gguf::open(path, FileAccess::Map) {
            Ok(gguf) => (gguf.listings().collect(), gguf.file_bytes()),
            // Of a set that is not whole this file alone.
            Err(_) => (vec![Listing::open(path)?], fs::metadata(path)?.len()),
        };
        let mut contents = Self {
            format: format!("GGUF {}", listings[0].version),
            files: listings.len(),
            bytes,
            metadata: Map::new(),
            tensors: Vec::new(),
        };
        for (number, listing) in listings.into_iter().enumerate() {
            if number == 0 {
                let pairs = listing.pairs.into_iter();
                contents.metadata = pairs.map(|pair| (pair.key, shown(pair.value))).collect();
            }
            let tensors = listing.tensors.into_iter();
            contents.tensors.extend(tensors.map(TensorLine::from));
        }
        Ok(contents)
    }

    fn of_folder(folder: &Path) -> anyhow::Result<Self> {
        let mut contents = Self {
            format: "safetensors".to_owned(),
            files: 0,
            bytes: 0,
            metadata: config(folder).unwrap_or_default(),
            tensors: Vec::new(),
        };
        let mut paths: Vec<_> = fs::read_dir(folder)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|end| end == "safetensors"))
            .collect();
        paths.sort();
        for path in paths {
            // What is wrong with it is told by whoever opens the model.
            if let Ok(file) = Safetensors::open(&path, FileAccess::Map) {
                contents.files += 1;
                contents.bytes += file.contents().len() as u64;
                let names = file.names();
                contents.tensors.extend(names.filter_map(|name| {
                    let tensor = file.tensor(name)?;
                    let kind = match tensor.element {
                        Element::F32 => TensorType::F32,
                        Element::F16 => TensorType::F16,
                        Element::Bf16 => TensorType::Bf16,
                    };
                    Some(TensorLine {
                        name: name.to_owned(),
                        shape: tensor.shape.iter().rev().copied().collect(),
                        kind: kind.name().to_owned(),
                        bytes: Some(tensor.bytes.len() as u64),
                        known: Some(kind),
                    })
                }));
            }
        }
        contents
            .tensors
            .sort_by(|left, right| left.name.cmp(&right.name));
        if contents.files == 0 && contents.metadata.is_empty() {
            bail!("{}: there is no model's file in it", folder.display());
        }
        Ok(contents)
    }

    /// The family that the files name, whether it is one of ours or not.
    pub(super) fn family(&self) -> Option<String> {
        let named = |key| self.metadata.get(key)?.as_str().map(str::to_owned);
        named("general.architecture").or_else(|| named("model_type"))
    }

    /// Values of all tensors.
    pub(super) fn parameters(&self) -> u64 {
        let values = self.tensors.iter().map(TensorLine::values);
        values.fold(0, u64::saturating_add)
    }
}

/// What a folder's `config.json` says.
fn config(folder: &Path) -> anyhow::Result<Map<String, Value>> {
    let text = read_regular_limited(&folder.join("config.json"), MOST_CONFIG_BYTES)?;
    let config: Map<String, Value> = serde_json::from_slice(&text).context("config.json")?;
    let pairs = config.into_iter();
    Ok(pairs.map(|(key, value)| (key, shortened(value))).collect())
}

fn shortened(value: Value) -> Value {
    match value {
        Value::Array(elements) => array(elements.len(), elements),
        other => other,
    }
}

/// A value of a header, a long array by its first elements and its length.
fn shown(value: gguf::Value) -> Value {
    match value {
        gguf::Value::Unsigned(number) => number.into(),
        gguf::Value::Signed(number) => number.into(),
        gguf::Value::Float(number) => self::number(number),
        gguf::Value::Bool(flag) => flag.into(),
        gguf::Value::String(text) => text.into(),
        gguf::Value::Strings(texts) => array(texts.len(), texts.into_iter().map(Value::from)),
        gguf::Value::Array(values) => array(values.len(), values.into_iter().map(shown)),
    }
}

/// A number with as few digits as tell it from others: most were single precision.
fn number(number: f64) -> Value {
    let single = number as f32;
    let number = match f64::from(single) == number {
        true => single.to_string().parse().unwrap_or(number),
        false => number,
    };
    match Number::from_f64(number) {
        Some(number) => Value::Number(number),
        // Not finite.
        None => Value::String(number.to_string()),
    }
}

fn array(length: usize, elements: impl IntoIterator<Item = Value>) -> Value {
    let first: Vec<Value> = elements.into_iter().take(SHOWN_ELEMENTS).collect();
    match first.len() == length {
        true => Value::Array(first),
        false => json!({"length": length, "first": first}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_arrays_are_told_by_their_beginning_and_length() {
        let numbers = |count| (0..count).map(gguf::Value::Unsigned).collect();
        let whole = shown(gguf::Value::Array(numbers(6)));
        assert_eq!(whole, json!([0, 1, 2, 3, 4, 5]));
        let shortened = shown(gguf::Value::Array(numbers(7)));
        assert_eq!(shortened, json!({"length": 7, "first": [0, 1, 2, 3, 4, 5]}));
    }

    #[test]
    fn numbers_have_as_few_digits_as_they_need() {
        assert_eq!(number(f64::from(1e-5_f32)).to_string(), "0.00001");
        assert_eq!(number(0.1).to_string(), "0.1");
        assert_eq!(number(f64::INFINITY), json!("inf"));
    }
}
