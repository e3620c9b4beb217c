//! The model families: what a header must say, which tensors there are and how a family differs from
//! the blocks that all share ([`super::decoder`], [`super::encoder`]).

pub(crate) mod bert;
mod decoder_shape;
mod experts;
mod gemma;
mod hub;
mod llama;
mod phi;
mod qwen;

use std::collections::HashSet;
use std::sync::Arc;

pub use bert::{BertConfig, EncoderShape};
pub use decoder_shape::{Activation, DecoderShape, LocalLayers, Rotary, RotaryScaling};
pub(crate) use decoder_shape::{ROTARY_DIVISORS, bias};
pub(crate) use experts::ROUTER;
pub use experts::{ExpertMatrices, Experts, stays_in_file};

use hub::HubHeader;
use serde::Deserialize;

use super::{GraphError, HEAD_MULTIPLE, MAX_HEAD_SIZE, MAX_HEADS, Tensors};
use crate::gguf::{Gguf, Metadata, MetadataError, Optional};
use crate::safetensors::Safetensors;

/// The embedding matrix; also a decoder's output matrix where a file has none of its own.
pub(crate) const TOKEN_EMBEDDING: &str = "token_embd.weight";
pub(crate) const OUTPUT_NORM: &str = "output_norm.weight";
pub(crate) const OUTPUT: &str = "output.weight";

/// Largest value of any size in a header: far above every model, far below overflow.
const MAX_SIZE: usize = 1 << 24;

/// A family, with the sizes of one of its models.
#[derive(Debug, Clone, PartialEq)]
pub enum Architecture {
    /// Goes on with texts.
    Decoder {
        /// The name in `general.architecture`.
        family: &'static str,
        /// The sizes, and how its layers are made.
        shape: Box<DecoderShape>,
    },
    /// BERT: an encoder, with learnt positions and norms behind each sum.
    Bert(EncoderShape),
}

/// What a family says of one of its models.
type ReadShape = fn(&Header<'_>) -> Result<DecoderShape, GraphError>;

/// The families of decoders, by their names in `general.architecture`.
const DECODERS: [(&str, ReadShape); 8] = [
    ("llama", llama::shape),
    ("qwen2", qwen::second),
    ("qwen3", qwen::third),
    ("qwen3moe", qwen::third),
    ("gemma", gemma::first),
    ("gemma2", gemma::second),
    ("gemma3", gemma::third),
    ("phi3", phi::third),
];

impl Architecture {
    /// Reads and checks a GGUF file's header: the family, its sizes, and that the file has exactly its tensors.
    pub(super) fn of_gguf(gguf: Gguf) -> Result<(Self, Tensors), GraphError> {
        let gguf = Arc::new(gguf);
        let (metadata, tensors) = (gguf.metadata(), Tensors::from(Arc::clone(&gguf)));
        let name = metadata.string("general.architecture")?;
        let architecture = match DECODERS.iter().find(|(family, _)| *family == name) {
            Some((family, shape)) => Self::Decoder {
                family,
                shape: Box::new(shape(&Header {
                    metadata,
                    family,
                    tensors: &tensors,
                    hub: None,
                })?),
            },
            None if name == "bert" => Self::Bert(bert::shape(metadata, &tensors)?),
            None => return Err(unsupported(name)),
        };
        architecture.with(tensors)
    }

    /// Reads and checks a `config.json` with the tensors beside it, as [`Architecture::of_gguf`] a header.
    pub(super) fn of_folder(
        config: &[u8],
        files: Vec<Safetensors>,
    ) -> Result<(Self, Tensors), GraphError> {
        let malformed =
            |error: serde_json::Error| GraphError::Inconsistent(format!("config.json: {error}"));
        let config: serde_json::Value = serde_json::from_slice(config).map_err(malformed)?;
        let model_type = config["model_type"].as_str().unwrap_or_default();
        if model_type == "bert" {
            let config = BertConfig::deserialize(&config).map_err(malformed)?;
            let tensors = Tensors::renamed(files, 0.0, bert::standard_name)?;
            return Self::Bert(config.shape()?).with(tensors);
        }
        let family = hub::family(model_type).ok_or_else(|| unsupported(model_type))?;
        let hub = hub::header(family, &config)?;
        // Gemma's gains are kept less 1.
        let missing_gain = if family.starts_with("gemma") {
            1.0
        } else {
            0.0
        };
        let tensors = Tensors::renamed(files, missing_gain, |name| {
            hub::standard_name(family, hub.tied_output, name)
        })?;
        let header = Header {
            metadata: &hub.metadata,
            family,
            tensors: &tensors,
            hub: Some(&hub),
        };
        let mut decoders = DECODERS.iter();
        let decoder = decoders.find_map(|(of, shape)| (*of == family).then_some(shape));
        let shape = decoder.expect("every family that the hub names is one of ours");
        let shape = Box::new(shape(&header)?);
        Self::Decoder { family, shape }.with(tensors)
    }

    /// This one and its tensors, if all are there.
    fn with(self, tensors: Tensors) -> Result<(Self, Tensors), GraphError> {
        let (layers, count) = (self.layers(), tensors.names().count());
        // A header's number is not to be believed before.
        if layers > count {
            return Err(GraphError::Inconsistent(format!(
                "the header names {layers} layers and has {count} tensors"
            )));
        }
        let wanted = match &self {
            Self::Decoder { shape, .. } => shape.tensors(),
            Self::Bert(shape) => bert::tensors(shape),
        };
        check_tensors(&tensors, self.name(), &wanted)?;
        Ok((self, tensors))
    }

    /// The name in `general.architecture`.
    pub fn name(&self) -> &'static str {
        match self {
            Architecture::Decoder { family, .. } => family,
            Architecture::Bert(_) => "bert",
        }
    }

    /// GGUF's name of a tensor that the hub names so, if it is one that is needed; its own where nobody knows it.
    pub(super) fn standard_name(&self, name: &str) -> Option<String> {
        match self {
            Architecture::Decoder { family, .. } => hub::standard_name(family, false, name),
            Architecture::Bert(_) => bert::standard_name(name),
        }
    }

    /// The sizes of a decoder, if it is one.
    pub fn decoder(&self) -> Option<&DecoderShape> {
        match self {
            Architecture::Decoder { shape, .. } => Some(shape),
            Architecture::Bert(_) => None,
        }
    }

    /// Blocks, one after the other.
    pub fn layers(&self) -> usize {
        match self {
            Architecture::Decoder { shape, .. } => shape.layers,
            Architecture::Bert(shape) => shape.layers,
        }
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        match self {
            Architecture::Decoder { shape, .. } => shape.vocabulary,
            Architecture::Bert(shape) => shape.vocabulary,
        }
    }

    /// Numbers of a hidden state.
    pub fn hidden(&self) -> usize {
        match self {
            Architecture::Decoder { shape, .. } => shape.hidden,
            Architecture::Bert(shape) => shape.hidden,
        }
    }

    /// Tokens of context the model was trained with.
    pub fn trained_context(&self) -> usize {
        match self {
            Architecture::Decoder { shape, .. } => shape.trained_context,
            Architecture::Bert(shape) => shape.trained_context,
        }
    }
}

fn unsupported(found: &str) -> GraphError {
    let decoders = DECODERS.iter().map(|(family, _)| *family);
    GraphError::UnsupportedArchitecture {
        found: found.chars().take(64).collect(),
        supported: decoders.chain(["bert"]).collect::<Vec<_>>().join(", "),
    }
}

/// The name of tensor `part` of block `layer`.
pub(crate) fn block(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}.weight")
}

/// What a header says under a family's name, and the tensors behind it.
struct Header<'a> {
    metadata: &'a Metadata,
    family: &'static str,
    tensors: &'a Tensors,
    /// Of a folder as the hub has it what GGUF has in tensors.
    hub: Option<&'a HubHeader>,
}

impl Header<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.family)
    }

    /// A size; one that the header gives for each layer must be the same for all.
    fn size(&self, key: &str) -> Result<usize, GraphError> {
        let key = self.key(key);
        in_range(&key, self.metadata.layer_count(&key)?)
    }

    fn optional(&self, key: &str, default: usize) -> Result<usize, GraphError> {
        match self.size(key) {
            Err(GraphError::Metadata(MetadataError::Missing(_))) => Ok(default),
            other => other,
        }
    }

    /// A number that makes no sense otherwise.
    fn above_zero(&self, key: &str) -> Result<f32, GraphError> {
        let key = self.key(key);
        match self.metadata.number(&key)? {
            number if number > 0.0 && number.is_finite() => Ok(number),
            other => Err(GraphError::Inconsistent(format!(
                "\"{key}\" is {other}, not above 0"
            ))),
        }
    }

    fn above_zero_or(&self, key: &str, default: f32) -> Result<f32, GraphError> {
        match self.above_zero(key) {
            Err(GraphError::Metadata(MetadataError::Missing(_))) => Ok(default),
            other => other,
        }
    }

    fn flag_or(&self, key: &str, default: bool) -> Result<bool, GraphError> {
        let flag = self.metadata.flag(&self.key(key));
        Ok(flag.optional()?.unwrap_or(default))
    }

    /// Tokens of the vocabulary.
    fn vocabulary(&self) -> Result<usize, GraphError> {
        match self.hub {
            None => Ok(self.metadata.strings("tokenizer.ggml.tokens")?.len()),
            // Its tokenizer is in a file of its own.
            Some(_) => self.size("vocab_size"),
        }
    }
}

/// A size that can be one.
fn in_range(key: &str, value: usize) -> Result<usize, GraphError> {
    match value {
        1..=MAX_SIZE => Ok(value),
        _ => Err(GraphError::Inconsistent(format!("\"{key}\" is {value}"))),
    }
}

/// Heads that the attention operator computes.
fn check_heads(heads: usize, head_size: usize) -> Result<(), GraphError> {
    if heads > MAX_HEADS {
        let problem = format!("more than {MAX_HEADS} heads ({heads})");
        return Err(GraphError::Unsupported(problem));
    }
    if head_size > MAX_HEAD_SIZE || !head_size.is_multiple_of(HEAD_MULTIPLE) {
        let problem = format!(
            "a head size of {head_size} (only multiples of {HEAD_MULTIPLE} up to {MAX_HEAD_SIZE} are)"
        );
        return Err(GraphError::Unsupported(problem));
    }
    Ok(())
}

/// Every tensor of the family is there in its shape (contiguous dimension first), and no other.
fn check_tensors(
    tensors: &Tensors,
    family: &str,
    wanted: &[(String, Vec<usize>)],
) -> Result<(), GraphError> {
    for (name, sizes) in wanted {
        let tensor = tensors
            .get(name)
            .ok_or_else(|| GraphError::MissingTensor(name.clone()))?;
        if tensor.shape != *sizes {
            return Err(GraphError::Shape {
                name: name.clone(),
                found: tensor.shape,
                wanted: sizes.clone(),
            });
        }
    }
    let known: HashSet<&str> = wanted
        .iter()
        .map(|(name, _)| name.as_str())
        .chain(ROTARY_DIVISORS)
        .collect();
    match tensors.names().find(|name| !known.contains(name)) {
        None => Ok(()),
        Some(name) => Err(GraphError::Unsupported(format!(
            "the tensor \"{name}\", which the {family} family does not have,"
        ))),
    }
}
