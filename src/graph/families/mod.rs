//! Model families: reads a model's dimensions and options from the header and checks the tensors. Families share the
//! graph builders [`super::decoder`] and [`super::encoder`]; options describe the differences.

pub(crate) mod bert;
mod decoder_shape;
mod experts;
mod gemma;
mod llama;
mod phi;
mod qwen;
mod transformers;

use std::collections::HashSet;
use std::sync::Arc;

pub use bert::{BertConfig, EncoderShape};
pub use decoder_shape::{Activation, DecoderShape, Rotary, RotaryScaling, SlidingWindowLayers};
pub(crate) use decoder_shape::{ROTARY_DIVISORS, bias};
pub(crate) use experts::ROUTER;
pub use experts::{ExpertMatrices, Experts, is_expert_tensor};

use serde::Deserialize;
use transformers::TransformersHeader;

use super::{GraphError, HEAD_MULTIPLE, MAX_HEAD_SIZE, MAX_HEADS, Tensors};
use crate::gguf::{Gguf, Metadata, MetadataError, Optional};
use crate::safetensors::Safetensors;

/// The token embedding matrix; also the output matrix of decoders with tied embeddings.
pub(crate) const TOKEN_EMBEDDING: &str = "token_embd.weight";
pub(crate) const OUTPUT_NORM: &str = "output_norm.weight";
pub(crate) const OUTPUT: &str = "output.weight";

/// Maximum of each dimension in a header: far above every known model, and far below integer overflow.
const MAX_SIZE: usize = 1 << 24;

/// A model family, with the dimensions and options of a model.
#[derive(Debug, Clone, PartialEq)]
pub enum Architecture {
    /// A decoder: a text generation model.
    Decoder {
        /// The family's name in `general.architecture`.
        family: &'static str,
        /// The dimensions and the layer options.
        shape: Box<DecoderShape>,
    },
    /// BERT: an encoder with learned position embeddings and post-norms.
    Bert(EncoderShape),
}

/// Reads the shape of a model from the header.
type ReadShape = fn(&Header<'_>) -> Result<DecoderShape, GraphError>;

/// The decoder families, by their names in `general.architecture`.
const DECODERS: [(&str, ReadShape); 8] = [
    ("llama", llama::llama),
    ("qwen2", qwen::qwen2),
    ("qwen3", qwen::qwen3),
    ("qwen3moe", qwen::qwen3),
    ("gemma", gemma::gemma1),
    ("gemma2", gemma::gemma2),
    ("gemma3", gemma::gemma3),
    ("phi3", phi::phi3),
];

impl Architecture {
    /// Reads the architecture from a GGUF header, and checks that the file has exactly the tensors of the architecture.
    pub(super) fn from_gguf(gguf: Gguf) -> Result<(Self, Tensors), GraphError> {
        let gguf = Arc::new(gguf);
        let (metadata, tensors) = (gguf.metadata(), Tensors::from(Arc::clone(&gguf)));
        let name = metadata.string("general.architecture")?;
        let architecture = match DECODERS.iter().find(|(family, _)| *family == name) {
            Some((family, read_shape)) => Self::Decoder {
                family,
                shape: Box::new(read_shape(&Header {
                    metadata,
                    family,
                    tensors: &tensors,
                    transformers: None,
                })?),
            },
            None if name == "bert" => Self::Bert(bert::shape(metadata, &tensors)?),
            None => return Err(unsupported(name)),
        };
        architecture.with_tensors(tensors)
    }

    /// Reads the architecture from the contents of `config.json`, and checks that the safetensors files have exactly
    /// the tensors of the architecture.
    pub(super) fn from_folder(
        config: &[u8],
        files: Vec<Safetensors>,
    ) -> Result<(Self, Tensors), GraphError> {
        let malformed =
            |error: serde_json::Error| GraphError::Inconsistent(format!("config.json: {error}"));
        let config: serde_json::Value = serde_json::from_slice(config).map_err(malformed)?;
        let model_type = config["model_type"].as_str().unwrap_or_default();
        if model_type == "bert" {
            let config = BertConfig::deserialize(&config).map_err(malformed)?;
            let tensors = Tensors::from_safetensors(files, 0.0, bert::gguf_name)?;
            return Self::Bert(config.shape()?).with_tensors(tensors);
        }
        let family = transformers::family(model_type).ok_or_else(|| unsupported(model_type))?;
        let translated = transformers::header(family, &config)?;
        // Gemma's safetensors files contain norm weights minus 1.
        let norm_offset = if family.starts_with("gemma") {
            1.0
        } else {
            0.0
        };
        let tensors = Tensors::from_safetensors(files, norm_offset, |name| {
            transformers::gguf_name(family, translated.tied_output, name)
        })?;
        let header = Header {
            metadata: &translated.metadata,
            family,
            tensors: &tensors,
            transformers: Some(&translated),
        };
        let mut decoders = DECODERS.iter();
        let read_shape =
            decoders.find_map(|(name, read_shape)| (*name == family).then_some(read_shape));
        let read_shape = read_shape.expect("every family in MODEL_TYPES is in DECODERS");
        let shape = Box::new(read_shape(&header)?);
        Self::Decoder { family, shape }.with_tensors(tensors)
    }

    /// Checks that exactly the tensors of the architecture are present.
    fn with_tensors(self, tensors: Tensors) -> Result<(Self, Tensors), GraphError> {
        let (layers, count) = (self.layers(), tensors.names().count());
        // Check before memory is allocated for this number of layers.
        if layers > count {
            return Err(GraphError::Inconsistent(format!(
                "the header declares {layers} layers, but there are only {count} tensors"
            )));
        }
        let expected = match &self {
            Self::Decoder { shape, .. } => shape.tensors(),
            Self::Bert(shape) => bert::tensors(shape),
        };
        check_tensors(&tensors, self.name(), &expected)?;
        Ok((self, tensors))
    }

    /// The name in `general.architecture`.
    pub fn name(&self) -> &'static str {
        match self {
            Architecture::Decoder { family, .. } => family,
            Architecture::Bert(_) => "bert",
        }
    }

    /// Translates a tensor name of Hugging Face transformers to the GGUF name. Returns `None` if the tensor is not
    /// needed, and unknown names unchanged.
    pub(super) fn gguf_name(&self, name: &str) -> Option<String> {
        match self {
            Architecture::Decoder { family, .. } => transformers::gguf_name(family, false, name),
            Architecture::Bert(_) => bert::gguf_name(name),
        }
    }

    /// The shape of a decoder; `None` for encoders.
    pub fn decoder(&self) -> Option<&DecoderShape> {
        match self {
            Architecture::Decoder { shape, .. } => Some(shape),
            Architecture::Bert(_) => None,
        }
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        match self {
            Architecture::Decoder { shape, .. } => shape.layers,
            Architecture::Bert(shape) => shape.layers,
        }
    }

    /// Number of tokens in the vocabulary.
    pub fn vocabulary(&self) -> usize {
        match self {
            Architecture::Decoder { shape, .. } => shape.vocabulary,
            Architecture::Bert(shape) => shape.vocabulary,
        }
    }

    /// Hidden size: the width of the residual stream.
    pub fn hidden(&self) -> usize {
        match self {
            Architecture::Decoder { shape, .. } => shape.hidden,
            Architecture::Bert(shape) => shape.hidden,
        }
    }

    /// Context length in training, in tokens.
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

/// Returns the GGUF name of the weight `part` in layer `layer`.
pub(crate) fn block(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}.weight")
}

/// A model's metadata and tensors, from which the family's shape is read.
struct Header<'a> {
    metadata: &'a Metadata,
    family: &'static str,
    tensors: &'a Tensors,
    /// The translated `config.json`; `None` for GGUF files.
    transformers: Option<&'a TransformersHeader>,
}

impl Header<'_> {
    fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.family)
    }

    /// Reads a dimension. If the header has a value for each layer, all values must be equal.
    fn size(&self, key: &str) -> Result<usize, GraphError> {
        let key = self.key(key);
        check_size(&key, self.metadata.layer_count(&key)?)
    }

    fn size_or(&self, key: &str, default: usize) -> Result<usize, GraphError> {
        match self.size(key) {
            Err(GraphError::Metadata(MetadataError::Missing(_))) => Ok(default),
            other => other,
        }
    }

    /// Reads a finite number greater than 0.
    fn positive(&self, key: &str) -> Result<f32, GraphError> {
        let key = self.key(key);
        match self.metadata.number(&key)? {
            number if number > 0.0 && number.is_finite() => Ok(number),
            other => Err(GraphError::Inconsistent(format!(
                "\"{key}\" is {other}; it must be greater than 0"
            ))),
        }
    }

    fn positive_or(&self, key: &str, default: f32) -> Result<f32, GraphError> {
        match self.positive(key) {
            Err(GraphError::Metadata(MetadataError::Missing(_))) => Ok(default),
            other => other,
        }
    }

    fn flag_or(&self, key: &str, default: bool) -> Result<bool, GraphError> {
        let flag = self.metadata.flag(&self.key(key));
        Ok(flag.optional()?.unwrap_or(default))
    }

    /// Number of tokens in the vocabulary.
    fn vocabulary(&self) -> Result<usize, GraphError> {
        match self.transformers {
            None => Ok(self.metadata.strings("tokenizer.ggml.tokens")?.len()),
            // The token list is in a separate tokenizer file.
            Some(_) => self.size("vocab_size"),
        }
    }
}

/// Checks that the dimension `value` is from 1 to [`MAX_SIZE`].
fn check_size(key: &str, value: usize) -> Result<usize, GraphError> {
    match value {
        1..=MAX_SIZE => Ok(value),
        _ => Err(GraphError::Inconsistent(format!(
            "\"{key}\" is {value}; it must be from 1 to {MAX_SIZE}"
        ))),
    }
}

/// Checks that the attention operator supports the number of heads and the head size.
fn check_heads(heads: usize, head_size: usize) -> Result<(), GraphError> {
    if heads > MAX_HEADS {
        let problem = format!("a number of heads above {MAX_HEADS} ({heads})");
        return Err(GraphError::Unsupported(problem));
    }
    if head_size > MAX_HEAD_SIZE || !head_size.is_multiple_of(HEAD_MULTIPLE) {
        let problem = format!(
            "a head size of {head_size} (it must be a multiple of {HEAD_MULTIPLE}, at most {MAX_HEAD_SIZE})"
        );
        return Err(GraphError::Unsupported(problem));
    }
    Ok(())
}

/// Checks that every expected tensor is present and has the expected shape (contiguous dimension first), and that there
/// are no unknown tensors.
fn check_tensors(
    tensors: &Tensors,
    family: &str,
    expected: &[(String, Vec<usize>)],
) -> Result<(), GraphError> {
    for (name, sizes) in expected {
        let tensor = tensors
            .get(name)
            .ok_or_else(|| GraphError::MissingTensor(name.clone()))?;
        if tensor.shape != *sizes {
            return Err(GraphError::Shape {
                name: name.clone(),
                found: tensor.shape,
                expected: sizes.clone(),
            });
        }
    }
    let known: HashSet<&str> = expected
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
