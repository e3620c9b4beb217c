//! From a model's files to the ONNX graph that computes it: which tensors a family has, how their blocks
//! become initializers, and the bytes of the `ModelProto`. Running it is [`crate::runtime`]'s.

mod decoder;
mod encoder;
pub mod families;
pub mod names;
pub mod onnx;
mod rotary;
mod tensors;
mod weighted;
mod weights;

use std::path::PathBuf;

pub use families::{Architecture, DecoderShape, EncoderShape};
use onnx::Initializer;
pub use tensors::{Tensor, Tensors};

use crate::gguf::{Gguf, MetadataError};
use crate::safetensors::Safetensors;

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

/// What a session is made of.
#[derive(Debug)]
pub struct ModelGraph {
    /// The `ModelProto`.
    pub model: Vec<u8>,
    /// The weights, to be handed over by name.
    pub initializers: Vec<Initializer>,
}

/// The embedding matrix, read row by row from the mapped file.
#[derive(Debug, Clone)]
pub struct Embeddings {
    tensors: Tensors,
    columns: usize,
    rows: usize,
}

impl Embeddings {
    /// Values of a row (`hidden`).
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Rows: tokens of the vocabulary.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Dequantises the rows `rows`, one after the other, behind `values`.
    ///
    /// # Errors
    /// The first row that does not exist.
    pub fn read(
        &self,
        rows: impl Iterator<Item = usize>,
        values: &mut Vec<f32>,
    ) -> Result<(), usize> {
        let matrix = embedding_matrix(&self.tensors);
        for row in rows {
            if row >= self.rows {
                return Err(row);
            }
            let start = values.len();
            values.resize(start + self.columns, 0.0);
            matrix
                .kind
                .dequantise(matrix.row(row), &mut values[start..]);
        }
        Ok(())
    }
}

fn embedding_matrix(tensors: &Tensors) -> Tensor<'_> {
    let matrix = tensors.get(families::TOKEN_EMBEDDING);
    matrix.expect("checked with the architecture")
}

/// The fewest rows with which a product gives a row the same bits as with more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LeastRows {
    /// Tokens of a step.
    pub tokens: usize,
    /// Rows of logits, if there are any.
    pub logits: usize,
}

/// A model's files after their headers were checked: the family is known, every tensor is there in its shape.
#[derive(Debug, Clone)]
pub struct ModelFile {
    /// The path it was opened by.
    pub path: PathBuf,
    /// The tensors, in the open files.
    pub tensors: Tensors,
    /// The family and its sizes.
    pub architecture: Architecture,
}

impl ModelFile {
    /// Checks the header of an open GGUF file.
    pub fn new(path: PathBuf, gguf: Gguf) -> Result<Self, GraphError> {
        let (architecture, tensors) = Architecture::of_gguf(gguf)?;
        Ok(Self {
            path,
            tensors,
            architecture,
        })
    }

    /// Checks a `config.json` and the headers of the files with weights beside it.
    pub fn from_folder(
        path: PathBuf,
        config: &[u8],
        weights: Vec<Safetensors>,
    ) -> Result<Self, GraphError> {
        let (architecture, tensors) = Architecture::of_folder(config, weights)?;
        Ok(Self {
            path,
            tensors,
            architecture,
        })
    }

    /// The embedding matrix.
    pub fn embeddings(&self) -> Embeddings {
        let matrix = embedding_matrix(&self.tensors);
        Embeddings {
            columns: matrix.columns(),
            rows: matrix.rows(),
            tensors: self.tensors.clone(),
        }
    }

    /// Number of the model's weights.
    pub fn parameters(&self) -> u64 {
        let values = |(_, tensor): (_, Tensor<'_>)| tensor.columns() as u64 * tensor.rows() as u64;
        self.tensors.all().map(values).sum()
    }

    /// How few rows a step may have without changing a row's bits.
    pub fn least_rows(&self) -> LeastRows {
        let output = match self.tensors.get(families::OUTPUT) {
            Some(output) => output.kind,
            None => embedding_matrix(&self.tensors).kind,
        };
        let outside = [families::TOKEN_EMBEDDING, families::OUTPUT];
        let inside = self.tensors.all();
        let inside = inside.filter(|(name, _)| !outside.contains(name));
        LeastRows {
            tokens: weights::least_rows(inside.map(|(_, tensor)| tensor.kind)),
            logits: weights::least_rows([output]),
        }
    }

    /// The graph for sequences of up to `context_tokens` tokens. `progress` hears the share that is done,
    /// from 0 to 1.
    pub fn graph(&self, context_tokens: usize, progress: &dyn Fn(f32)) -> ModelGraph {
        let builder = match &self.architecture {
            Architecture::Decoder { shape, .. } => {
                decoder::build(&self.tensors, shape, context_tokens, progress)
            }
            Architecture::Bert(shape) => encoder::build(&self.tensors, shape, progress),
        };
        let (model, initializers) = builder.finish(self.architecture.name());
        ModelGraph {
            model,
            initializers,
        }
    }
}
