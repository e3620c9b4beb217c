//! From a GGUF file to the ONNX graph that computes it: which tensors a family has, how their blocks
//! become initializers, and the bytes of the `ModelProto`. Running it is [`crate::runtime`]'s.

mod decoder;
pub mod families;
pub mod onnx;
mod rotary;
mod weights;

use std::path::PathBuf;
use std::sync::Arc;

pub use decoder::{DecoderGraph, names};
pub use families::{Architecture, DecoderShape};

use crate::gguf::{Gguf, MetadataError, Tensor};

/// The domain of ortolan's own operators.
pub const ORTOLAN_DOMAIN: &str = "ortolan";

/// Why a file has no graph.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// No family of ours.
    #[error("the architecture «{found}» is not supported; supported: {supported}")]
    UnsupportedArchitecture {
        /// What `general.architecture` says.
        found: String,
        /// What it may say.
        supported: String,
    },
    /// A key is missing or of the wrong type.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The numbers of the header do not fit together.
    #[error("{0}")]
    Inconsistent(String),
    /// A tensor that the family needs is not there.
    #[error("the tensor «{0}» is missing")]
    MissingTensor(String),
    /// A tensor has another shape than the header implies.
    #[error("the tensor «{name}» has the shape {found:?}, not {wanted:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape, contiguous dimension first.
        found: Vec<usize>,
        /// What the header implies.
        wanted: Vec<usize>,
    },
    /// Something that changes the result and that we do not compute.
    #[error("{0} is not supported")]
    Unsupported(String),
}

/// The embedding matrix, read row by row from the mapped file.
#[derive(Debug, Clone)]
pub struct Embeddings {
    file: Arc<Gguf>,
    tensor: Tensor,
}

impl Embeddings {
    /// Values of a row (`hidden`).
    pub fn columns(&self) -> usize {
        self.tensor.columns()
    }

    /// Rows: tokens of the vocabulary.
    pub fn rows(&self) -> usize {
        self.tensor.rows()
    }

    /// Dequantises row `row` to `values` (`[hidden]`).
    ///
    /// # Panics
    /// If there is no such row or `values` has another length.
    pub fn read(&self, row: usize, values: &mut [f32]) {
        let kind = self.tensor.kind;
        let bytes = self.columns() / kind.block_values() * kind.block_bytes();
        let blocks = &self.file.bytes(&self.tensor)[row * bytes..(row + 1) * bytes];
        kind.dequantise(blocks, values);
    }
}

/// The fewest rows with which a product gives a row the same bits as with more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeastRows {
    /// Tokens of a step.
    pub tokens: usize,
    /// Rows of logits, if there are any.
    pub logits: usize,
}

/// A model file whose header was checked: its family is known, every tensor is there in its shape.
#[derive(Debug, Clone)]
pub struct ModelFile {
    /// The path it was opened by.
    pub path: PathBuf,
    /// The open file.
    pub gguf: Arc<Gguf>,
    /// The family and its sizes.
    pub architecture: Architecture,
}

impl ModelFile {
    /// Checks the header of an open file.
    pub fn new(path: PathBuf, gguf: Gguf) -> Result<Self, GraphError> {
        let architecture = Architecture::of(&gguf)?;
        Ok(Self {
            path,
            gguf: Arc::new(gguf),
            architecture,
        })
    }

    /// The embedding matrix.
    pub fn embeddings(&self) -> Embeddings {
        let tensor = self.gguf.tensor(families::TOKEN_EMBEDDING);
        Embeddings {
            file: Arc::clone(&self.gguf),
            tensor: tensor.expect("checked with the architecture").clone(),
        }
    }

    /// Number of the model's weights.
    pub fn parameters(&self) -> u64 {
        self.gguf
            .tensors()
            .map(|(_, tensor)| tensor.values() as u64)
            .sum()
    }

    /// How few rows a step may have without changing a row's bits.
    pub fn least_rows(&self) -> LeastRows {
        let output = match self.architecture.shape().tied_output {
            true => families::TOKEN_EMBEDDING,
            false => families::OUTPUT,
        };
        let outside = [families::TOKEN_EMBEDDING, families::OUTPUT];
        LeastRows {
            tokens: weights::least_rows(
                self.gguf
                    .tensors()
                    .filter(|(name, _)| !outside.contains(name))
                    .map(|(_, tensor)| tensor.kind),
            ),
            logits: weights::least_rows(self.gguf.tensor(output).map(|tensor| tensor.kind)),
        }
    }

    /// The graph for sequences of up to `context_tokens` tokens. `progress` hears the share that is done,
    /// from 0 to 1.
    pub fn decoder_graph(&self, context_tokens: usize, progress: &dyn Fn(f32)) -> DecoderGraph {
        decoder::build(self, context_tokens, progress)
    }
}
