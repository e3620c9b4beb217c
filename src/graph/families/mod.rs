//! The model families: what a header must say, which tensors there are and how a family differs from
//! the blocks that all share ([`super::decoder`], [`super::encoder`]).

pub(crate) mod bert;
mod llama;

use std::collections::HashSet;

pub use bert::{BertConfig, EncoderShape};

use super::{GraphError, Tensors};
use crate::gguf::{Gguf, Metadata, MetadataError};
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
    /// Llama 1 and 2, SmolLM, TinyLlama: RMS norms, SwiGLU, rotary embedding over interleaved pairs.
    Llama(DecoderShape),
    /// BERT: an encoder, with learnt positions and norms behind each sum.
    Bert(EncoderShape),
}

/// The sizes of a decoder.
#[derive(Debug, Clone, PartialEq)]
pub struct DecoderShape {
    /// Decoder blocks.
    pub layers: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Width of the feed-forward network.
    pub feed_forward: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_size: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Tokens of context the model was trained with.
    pub trained_context: usize,
    /// Added to the mean square in norms.
    pub norm_epsilon: f32,
    /// Values of a head that are rotated.
    pub rotary: usize,
    /// Base of the rotary frequencies.
    pub rotary_base: f32,
    /// Whether pairs are neighbours (`x₀x₁`) or half a head apart.
    pub rotary_interleaved: bool,
    /// Whether the output matrix is the embedding matrix.
    pub tied_output: bool,
}

impl Architecture {
    /// The names of the supported families, as in `general.architecture`.
    pub const SUPPORTED: &[&str] = &["llama", "bert"];

    /// Reads and checks a GGUF file's header: the family, its sizes, and that the file has exactly its tensors.
    pub(super) fn of_gguf(gguf: Gguf) -> Result<(Self, Tensors), GraphError> {
        let architecture = match gguf.metadata().string("general.architecture")? {
            "llama" => Self::Llama(llama::shape(&gguf)?),
            "bert" => Self::Bert(bert::shape(gguf.metadata())?),
            other => return Err(unsupported(other)),
        };
        architecture.with(gguf.into())
    }

    /// Reads and checks a `config.json` with the tensors beside it, as [`Architecture::of_gguf`] a header.
    pub(super) fn of_folder(
        config: &[u8],
        file: Safetensors,
    ) -> Result<(Self, Tensors), GraphError> {
        #[derive(serde::Deserialize)]
        struct Family {
            model_type: String,
        }
        let malformed =
            |error: serde_json::Error| GraphError::Inconsistent(format!("config.json: {error}"));
        let family: Family = serde_json::from_slice(config).map_err(malformed)?;
        if family.model_type != "bert" {
            return Err(unsupported(&family.model_type));
        }
        let config: BertConfig = serde_json::from_slice(config).map_err(malformed)?;
        let tensors = Tensors::renamed(file, bert::standard_name)?;
        Self::Bert(config.shape()?).with(tensors)
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
            Self::Llama(shape) => llama::tensors(shape),
            Self::Bert(shape) => bert::tensors(shape),
        };
        check_tensors(&tensors, self.name(), &wanted)?;
        Ok((self, tensors))
    }

    /// The name in `general.architecture`.
    pub fn name(&self) -> &'static str {
        match self {
            Architecture::Llama(_) => "llama",
            Architecture::Bert(_) => "bert",
        }
    }

    /// The sizes of a decoder, if it is one.
    pub fn decoder(&self) -> Option<&DecoderShape> {
        match self {
            Architecture::Llama(shape) => Some(shape),
            Architecture::Bert(_) => None,
        }
    }

    /// Blocks, one after the other.
    fn layers(&self) -> usize {
        match self {
            Architecture::Llama(shape) => shape.layers,
            Architecture::Bert(shape) => shape.layers,
        }
    }

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        match self {
            Architecture::Llama(shape) => shape.vocabulary,
            Architecture::Bert(shape) => shape.vocabulary,
        }
    }

    /// Numbers of a hidden state.
    pub fn hidden(&self) -> usize {
        match self {
            Architecture::Llama(shape) => shape.hidden,
            Architecture::Bert(shape) => shape.hidden,
        }
    }

    /// Tokens of context the model was trained with.
    pub fn trained_context(&self) -> usize {
        match self {
            Architecture::Llama(shape) => shape.trained_context,
            Architecture::Bert(shape) => shape.trained_context,
        }
    }
}

fn unsupported(found: &str) -> GraphError {
    GraphError::UnsupportedArchitecture {
        found: found.chars().take(64).collect(),
        supported: Architecture::SUPPORTED.join(", "),
    }
}

/// The name of tensor `part` of block `layer`.
pub(crate) fn block(layer: usize, part: &str) -> String {
    format!("blk.{layer}.{part}.weight")
}

/// The sizes that a GGUF header has under a family's name.
#[derive(Clone, Copy)]
struct Sizes<'a> {
    metadata: &'a Metadata,
    family: &'static str,
}

impl Sizes<'_> {
    fn size(&self, key: &str) -> Result<usize, GraphError> {
        let key = format!("{}.{key}", self.family);
        in_range(&key, self.metadata.count(&key)?)
    }

    fn optional(&self, key: &str, default: usize) -> Result<usize, GraphError> {
        match self.size(key) {
            Err(GraphError::Metadata(MetadataError::Missing(_))) => Ok(default),
            other => other,
        }
    }

    fn number(&self, key: &str) -> Result<f32, MetadataError> {
        self.metadata.number(&format!("{}.{key}", self.family))
    }

    /// Tokens of the vocabulary.
    fn vocabulary(&self) -> Result<usize, MetadataError> {
        Ok(self.metadata.strings("tokenizer.ggml.tokens")?.len())
    }
}

/// A size that can be one.
fn in_range(key: &str, value: usize) -> Result<usize, GraphError> {
    match value {
        1..=MAX_SIZE => Ok(value),
        _ => Err(GraphError::Inconsistent(format!("«{key}» is {value}"))),
    }
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
    let known: HashSet<&str> = wanted.iter().map(|(name, _)| name.as_str()).collect();
    match tensors.names().find(|name| !known.contains(name)) {
        None => Ok(()),
        Some(name) => Err(GraphError::Unsupported(format!(
            "the tensor «{name}», which the {family} family does not have,"
        ))),
    }
}
