//! Reads metadata and tensor lists from the headers of model files, whether or not the model is supported.

use std::fs;
use std::path::Path;

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::{Map, Number, Value, json};

use crate::file_bytes::{FileAccess, read_regular_limited};
use crate::gguf::{self, Gguf, HeaderListing, TensorInfo, TensorType};
use crate::graph::imported::ImportedModel;
use crate::safetensors::{FloatType, Safetensors};

/// Maximum number of elements of a metadata array to show.
const MAX_SHOWN_ELEMENTS: usize = 6;
/// Maximum size of a `config.json` in bytes.
const MAX_CONFIG_BYTES: u64 = 1 << 24;

/// Format, size, metadata and tensors of a model's files.
pub(super) struct Contents {
    pub(super) format: String,
    pub(super) files: usize,
    pub(super) bytes: u64,
    pub(super) metadata: Map<String, Value>,
    pub(super) tensors: Vec<TensorEntry>,
}

/// A tensor in the report; JSON objects have the same field names.
#[derive(Serialize)]
pub(super) struct TensorEntry {
    pub(super) name: String,
    /// Dimensions, the contiguous dimension first.
    pub(super) shape: Vec<usize>,
    #[serde(rename = "type")]
    pub(super) kind: String,
    /// `None` for an unknown type.
    pub(super) bytes: Option<u64>,
    #[serde(skip)]
    pub(super) tensor_type: Option<TensorType>,
}

impl TensorEntry {
    /// Number of elements of the tensor.
    pub(super) fn values(&self) -> u64 {
        let sizes = self.shape.iter().map(|size| *size as u64);
        sizes.fold(1, u64::saturating_mul)
    }
}

impl From<TensorInfo> for TensorEntry {
    fn from(tensor: TensorInfo) -> Self {
        let tensor_type = tensor.kind.as_ref().ok().copied();
        Self {
            name: tensor.name,
            shape: tensor.shape,
            kind: match tensor.kind {
                Ok(kind) => kind.name().to_owned(),
                Err(name) => name,
            },
            bytes: tensor.byte_length.map(|bytes| bytes as u64),
            tensor_type,
        }
    }
}

impl Contents {
    /// Reads a GGUF file or a folder with safetensors files.
    ///
    /// # Errors
    /// If no header can be read.
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        match path.is_dir() {
            true => Self::from_folder(path),
            false => Self::from_gguf(path),
        }
    }

    /// Describes an imported graph, without metadata and tensors.
    pub(super) fn from_graph(graph: &ImportedModel) -> Self {
        Self {
            format: "ONNX".to_owned(),
            files: graph.contents().len(),
            bytes: graph.file_bytes(),
            metadata: Map::new(),
            tensors: Vec::new(),
        }
    }

    fn from_gguf(path: &Path) -> anyhow::Result<Self> {
        let (listings, bytes) = match Gguf::open(path, FileAccess::Map) {
            Ok(gguf) => (gguf.listings().collect(), gguf.file_bytes()),
            // If another shard is missing or damaged, only this file is read.
            Err(_) => (vec![HeaderListing::open(path)?], fs::metadata(path)?.len()),
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
                let pairs = listing.metadata.into_iter();
                contents.metadata = pairs.map(|pair| (pair.key, to_json(pair.value))).collect();
            }
            let tensors = listing.tensors.into_iter();
            contents.tensors.extend(tensors.map(TensorEntry::from));
        }
        Ok(contents)
    }

    fn from_folder(folder: &Path) -> anyhow::Result<Self> {
        let mut contents = Self {
            format: "safetensors".to_owned(),
            files: 0,
            bytes: 0,
            metadata: config(folder).unwrap_or_default(),
            tensors: Vec::new(),
        };
        let mut paths: Vec<_> = fs::read_dir(folder)?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| {
                path.extension()
                    .is_some_and(|extension| extension == "safetensors")
            })
            .collect();
        paths.sort();
        for path in paths {
            // Damaged files are skipped here: opening the model reports them.
            if let Ok(file) = Safetensors::open(&path, FileAccess::Map) {
                contents.files += 1;
                contents.bytes += file.contents().len() as u64;
                let names = file.names();
                contents.tensors.extend(names.filter_map(|name| {
                    let tensor = file.tensor(name)?;
                    let kind = match tensor.float_type {
                        FloatType::F32 => TensorType::F32,
                        FloatType::F16 => TensorType::F16,
                        FloatType::Bf16 => TensorType::Bf16,
                    };
                    Some(TensorEntry {
                        name: name.to_owned(),
                        shape: tensor.shape.iter().rev().copied().collect(),
                        kind: kind.name().to_owned(),
                        bytes: Some(tensor.bytes.len() as u64),
                        tensor_type: Some(kind),
                    })
                }));
            }
        }
        contents
            .tensors
            .sort_by(|left, right| left.name.cmp(&right.name));
        if contents.files == 0 && contents.metadata.is_empty() {
            bail!("{}: no model files found", folder.display());
        }
        Ok(contents)
    }

    /// Returns the model family in the metadata, whether or not it is supported.
    pub(super) fn family(&self) -> Option<String> {
        let text_of = |key| self.metadata.get(key)?.as_str().map(str::to_owned);
        text_of("general.architecture").or_else(|| text_of("model_type"))
    }

    /// Returns the total number of tensor elements.
    pub(super) fn parameters(&self) -> u64 {
        let values = self.tensors.iter().map(TensorEntry::values);
        values.fold(0, u64::saturating_add)
    }
}

/// Reads a folder's `config.json` and shortens its long arrays.
fn config(folder: &Path) -> anyhow::Result<Map<String, Value>> {
    let text = read_regular_limited(&folder.join("config.json"), MAX_CONFIG_BYTES)?;
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

/// Converts a metadata value to JSON. A long array becomes an object with its first elements and its length.
fn to_json(value: gguf::Value) -> Value {
    match value {
        gguf::Value::Unsigned(number) => number.into(),
        gguf::Value::Signed(number) => number.into(),
        gguf::Value::Float(number) => self::number(number),
        gguf::Value::Bool(flag) => flag.into(),
        gguf::Value::String(text) => text.into(),
        gguf::Value::Strings(texts) => array(texts.len(), texts.into_iter().map(Value::from)),
        gguf::Value::Array(values) => array(values.len(), values.into_iter().map(to_json)),
    }
}

/// Converts a number to the fewest digits that identify it. Most metadata values were stored in single precision.
fn number(number: f64) -> Value {
    let single = number as f32;
    let number = match f64::from(single) == number {
        true => single.to_string().parse().unwrap_or(number),
        false => number,
    };
    match Number::from_f64(number) {
        Some(number) => Value::Number(number),
        // JSON cannot represent NaN and infinity.
        None => Value::String(number.to_string()),
    }
}

fn array(length: usize, elements: impl IntoIterator<Item = Value>) -> Value {
    let first: Vec<Value> = elements.into_iter().take(MAX_SHOWN_ELEMENTS).collect();
    match first.len() == length {
        true => Value::Array(first),
        false => json!({"length": length, "first": first}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_arrays_are_shortened() {
        let numbers = |count| (0..count).map(gguf::Value::Unsigned).collect();
        let complete = to_json(gguf::Value::Array(numbers(6)));
        assert_eq!(complete, json!([0, 1, 2, 3, 4, 5]));
        let shortened = to_json(gguf::Value::Array(numbers(7)));
        assert_eq!(shortened, json!({"length": 7, "first": [0, 1, 2, 3, 4, 5]}));
    }

    #[test]
    fn numbers_have_the_fewest_digits() {
        assert_eq!(number(f64::from(1e-5_f32)).to_string(), "0.00001");
        assert_eq!(number(0.1).to_string(), "0.1");
        assert_eq!(number(f64::INFINITY), json!("inf"));
    }
}
