//! Builds the ONNX graph of a model from the model's files: reads the tensors, converts them to initializers and packed
//! weights, and encodes the `ModelProto`. [`crate::runtime`] runs the graph.

mod adapter;
mod decoder;
mod encoder;
pub mod families;
pub mod imported;
mod matmul;
pub mod names;
pub mod onnx;
pub mod panels;
mod rotary;
mod tensors;
mod weighted;
mod weights;

use std::path::PathBuf;
use std::sync::Arc;

pub use adapter::Adapter;
pub use decoder::{AttentionOperator, DecoderStage, residual_name};
pub use families::{
    Activation, Architecture, DecoderShape, EncoderShape, ExpertMatrices, is_expert_tensor,
};
pub use matmul::GATED;
use onnx::{Dimension, ElementType, ExportedGraph, GraphBuilder, Initializer, TensorValues};
use panels::{MatrixShape, PanelLayout, Panels};
pub use tensors::{Tensor, Tensors};
pub use weighted::MatmulOperator;
use weighted::WeightedGraph;
pub use weights::MatmulKind;

use crate::gguf::quant::QuantizeTarget;
use crate::gguf::{Gguf, MetadataError};
use crate::safetensors::Safetensors;

/// The domain of ortolan's own operators.
pub const ORTOLAN_DOMAIN: &str = "ortolan";

/// Maximum number of heads of an attention operator.
pub const MAX_HEADS: usize = 1024;
/// Maximum head size of an attention operator, in elements.
pub const MAX_HEAD_SIZE: usize = 1024;
/// The head size must be a multiple of this number, because the attention operator uses vectors of eight elements.
pub const HEAD_MULTIPLE: usize = 8;

/// Why a graph cannot be built from a model's files.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// The model family is not supported.
    #[error("the architecture \"{found}\" is not supported; supported: {supported}")]
    UnsupportedArchitecture {
        /// The architecture or model type in the file.
        found: String,
        /// The supported architectures, comma-separated.
        supported: String,
    },
    /// A metadata key is missing or has the wrong type.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// Values in the header or configuration are invalid or contradict each other.
    #[error("{0}")]
    Inconsistent(String),
    /// A tensor of the model family is missing.
    #[error("the tensor \"{0}\" is missing")]
    MissingTensor(String),
    /// A tensor's shape differs from the one that the header implies.
    #[error("the tensor \"{name}\" has the shape {found:?}, not {expected:?}")]
    Shape {
        /// The tensor's name.
        name: String,
        /// The shape in the file, contiguous dimension first.
        found: Vec<usize>,
        /// The shape that the header implies, contiguous dimension first.
        expected: Vec<usize>,
    },
    /// The model needs a feature that is not implemented.
    #[error("{0} is not supported")]
    Unsupported(String),
}

/// An ONNX graph and its weights, from which an ONNX Runtime session is created.
#[derive(Debug)]
pub struct ModelGraph {
    /// The bytes of the `ModelProto`.
    pub model: Vec<u8>,
    /// The weights that ONNX Runtime receives separately, by name.
    pub initializers: Vec<Initializer>,
    /// The weights that only ortolan's operators read.
    pub matrices: OperatorMatrices,
    /// The folder with the external data of an imported graph; `None` for other graphs.
    pub weights_folder: Option<PathBuf>,
}

/// Matrices that ortolan's operators read directly. Nodes refer to matrices by index.
#[derive(Debug, Clone, Default)]
pub struct OperatorMatrices {
    /// The packed weights of `MatMulPanels` nodes.
    pub panels: Arc<[Panels]>,
    /// The experts of each layer; empty without a mixture of experts. Expert matrices stay in the open files.
    pub experts: Arc<[ExpertMatrices]>,
}

impl ModelGraph {
    /// Converts the graph to a form that other programs can load, with the weights as external data in the file
    /// `location`.
    pub fn exported(&self, location: &str) -> ExportedGraph {
        onnx::exported(&self.model, location)
    }
}

/// The token embedding matrix, read row by row from the model's file.
#[derive(Debug, Clone)]
pub struct Embeddings {
    tensors: Tensors,
    columns: usize,
    rows: usize,
}

impl Embeddings {
    /// Number of values in a row (the hidden size).
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Number of rows (the vocabulary size).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Size of the matrix in the file, in bytes.
    pub fn bytes(&self) -> u64 {
        embedding_matrix(&self.tensors).bytes.len() as u64
    }

    /// Builds a graph that looks up embeddings in single precision. The only weight is the embedding matrix, as
    /// external data in the file `location`.
    pub fn exported(&self, location: &str) -> ExportedGraph {
        let mut builder = GraphBuilder::default();
        let tokens = [Dimension::Named("tokens")];
        let ids = builder.input(names::INPUT_IDS, ElementType::I64, &tokens);
        let matrix = builder.initializer(Initializer {
            name: families::TOKEN_EMBEDDING.to_owned(),
            shape: vec![self.rows, self.columns],
            // The caller writes the values to the external file, row by row.
            values: TensorValues::F32(Vec::new()),
        });
        let [rows] = builder.node(
            "",
            "Gather",
            &[Some(&matrix), Some(&ids)],
            [names::INPUTS_EMBEDS],
            &[("axis", onnx::Attribute::Int(0))],
        );
        let shape = [tokens[0], Dimension::Fixed(self.columns)];
        builder.output(&rows, ElementType::F32, &shape);
        let (model, _) = builder.finish("embeddings");
        onnx::exported(&model, location)
    }

    /// Dequantizes the rows `rows` and appends them to `values`.
    ///
    /// # Errors
    /// If a row does not exist, with the index of the first such row.
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
                .dequantize(matrix.row(row), &mut values[start..]);
        }
        Ok(())
    }
}

fn embedding_matrix(tensors: &Tensors) -> Tensor<'_> {
    let matrix = tensors.get(families::TOKEN_EMBEDDING);
    matrix.expect("the presence of every tensor was checked with the architecture")
}

/// Memory for the weights of a graph, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WeightBytes {
    /// All weights.
    pub total: usize,
    /// The part of `total` that ONNX Runtime also copies to its own packed layout.
    pub repacked: usize,
}

impl WeightBytes {
    fn add_matmul(&mut self, operator: MatmulOperator, matrix: &Tensor<'_>) {
        let (kind, columns, rows) = (matrix.matmul_type(), matrix.columns(), matrix.rows());
        match (operator, kind.quant_format()) {
            (MatmulOperator::Ortolan, Some(format)) => {
                let shape = MatrixShape {
                    rows,
                    columns,
                    interleaved_halves: false,
                };
                self.total += PanelLayout::new(format).bytes(shape);
            }
            _ => {
                let bytes = MatmulKind::from(kind).weight_bytes(columns * rows);
                self.total += bytes;
                self.repacked += bytes;
            }
        }
    }
}

/// Minimum batch sizes for batch-invariant results: at or above them, a row's result does not depend on the number of
/// rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MinRows {
    /// Minimum number of tokens in a step.
    pub tokens: usize,
    /// Minimum number of logit rows in a step that computes logits.
    pub logits: usize,
}

impl MinRows {
    /// For matmuls whose results never depend on the number of rows.
    pub const ONE: Self = Self {
        tokens: 1,
        logits: 1,
    };

    /// For imported graphs, whose matmul kernels may treat a single row differently.
    pub const IMPORTED: Self = Self {
        tokens: 2,
        logits: 2,
    };
}

/// The open files of a model with a supported architecture. Every tensor is present and has the expected shape.
#[derive(Debug, Clone)]
pub struct ModelFile {
    /// The path that the model was opened from.
    pub path: PathBuf,
    /// The tensors in the open files.
    pub tensors: Tensors,
    /// The model family, with the model's dimensions and options.
    pub architecture: Architecture,
    /// LoRA adapters, in the order of the columns of [`names::ADAPTER_SCALES`].
    adapters: Vec<Adapter>,
}

impl ModelFile {
    /// Opens a model from a GGUF file: checks the header and the tensors.
    pub fn new(path: PathBuf, gguf: Gguf) -> Result<Self, GraphError> {
        let (architecture, tensors) = Architecture::from_gguf(gguf)?;
        Ok(Self {
            path,
            tensors,
            architecture,
            adapters: Vec::new(),
        })
    }

    /// Opens a model from the contents of `config.json` and the safetensors files of the same folder: checks the
    /// configuration and the tensors.
    pub fn from_folder(
        path: PathBuf,
        config: &[u8],
        weights: Vec<Safetensors>,
    ) -> Result<Self, GraphError> {
        let (architecture, tensors) = Architecture::from_folder(config, weights)?;
        Ok(Self {
            path,
            tensors,
            architecture,
            adapters: Vec::new(),
        })
    }

    /// Returns the same model, with float matrices quantized to `target` for matmuls.
    pub fn quantized_to(self, target: QuantizeTarget) -> Self {
        Self {
            tensors: self.tensors.quantized_to(target),
            ..self
        }
    }

    /// Sets the adapters, which must have been read for this model. With `base`, takes the weights that adapters change
    /// from the base model.
    ///
    /// # Errors
    /// If the base model has another architecture.
    pub fn with_adapters(
        mut self,
        adapters: Vec<Adapter>,
        base: Option<&Self>,
    ) -> Result<Self, GraphError> {
        if let Some(base) = base {
            if base.architecture != self.architecture {
                let problem = "the base model has a different architecture".to_owned();
                return Err(GraphError::Inconsistent(problem));
            }
            let changed = adapters.iter().flat_map(Adapter::weights);
            let changed = changed.filter(|weight| self.tensors.get(weight).is_some());
            let changed = changed.map(str::to_owned).collect();
            self.tensors = self.tensors.with_overrides(base.tensors.clone(), changed);
        }
        self.adapters = adapters;
        Ok(self)
    }

    /// Number of adapters.
    pub fn adapter_count(&self) -> usize {
        self.adapters.len()
    }

    /// The token embedding matrix.
    pub fn embeddings(&self) -> Embeddings {
        let matrix = embedding_matrix(&self.tensors);
        Embeddings {
            columns: matrix.columns(),
            rows: matrix.rows(),
            tensors: self.tensors.clone(),
        }
    }

    /// Number of parameters: the values of all tensors.
    pub fn parameters(&self) -> u64 {
        let values = |(_, tensor): (_, Tensor<'_>)| tensor.columns() as u64 * tensor.rows() as u64;
        self.tensors.all().map(values).sum()
    }

    /// Returns the memory for the graph's weights, including rotary tables for sequences of up to `context_tokens`
    /// tokens.
    pub fn weight_bytes(&self, operator: MatmulOperator, context_tokens: usize) -> WeightBytes {
        let tied = self.tensors.get(families::OUTPUT).is_none();
        let mut bytes = WeightBytes::default();
        for (name, tensor) in self.tensors.all() {
            let values = tensor.columns() * tensor.rows();
            let f32_bytes = values * size_of::<f32>();
            match (&self.architecture, name) {
                // Embeddings are read from the file. Only a tied output matrix is copied.
                (Architecture::Decoder { .. }, families::TOKEN_EMBEDDING) if tied => {
                    bytes.add_matmul(operator, &tensor);
                }
                (_, families::TOKEN_EMBEDDING) => {}
                (_, name) if is_expert_tensor(name) => {}
                // Token type embeddings are added to the position embeddings.
                (Architecture::Bert(_), families::bert::TOKEN_TYPES) => {}
                (Architecture::Bert(_), families::bert::POSITION_EMBEDDING) => {
                    bytes.total += f32_bytes
                }
                // Frequency divisors become part of the rotary tables.
                (_, name) if families::ROTARY_DIVISORS.contains(&name) => {}
                _ if tensor.shape.len() == 1 => bytes.total += f32_bytes,
                _ => bytes.add_matmul(operator, &tensor),
            }
        }
        if let Architecture::Decoder { shape, .. } = &self.architecture {
            bytes.total += decoder::rotary_table_values(shape, context_tokens) * size_of::<f32>();
        }
        bytes
    }

    /// Size in bytes of the expert matrices, which are not copied: operators read them from the open files.
    pub fn expert_bytes(&self) -> u64 {
        let tensors = self.tensors.all();
        let experts = tensors.filter(|(name, _)| is_expert_tensor(name));
        experts.map(|(_, tensor)| tensor.bytes.len() as u64).sum()
    }

    /// Returns the minimum batch sizes for batch-invariant results with `operator`.
    pub fn min_rows(&self, operator: MatmulOperator) -> MinRows {
        if operator == MatmulOperator::Ortolan {
            return MinRows::ONE;
        }
        let output = match self.tensors.get(families::OUTPUT) {
            Some(output) => output.matmul_type(),
            None => embedding_matrix(&self.tensors).matmul_type(),
        };
        let excluded = [families::TOKEN_EMBEDDING, families::OUTPUT];
        let matrices = self.tensors.all();
        let matrices =
            matrices.filter(|(name, _)| !excluded.contains(name) && !is_expert_tensor(name));
        MinRows {
            tokens: weights::min_rows(matrices.map(|(_, tensor)| tensor.matmul_type())),
            logits: weights::min_rows([output]),
        }
    }

    /// Builds the graph of the whole model, for sequences of up to `context_tokens` tokens. Copies all weights except
    /// token embeddings and expert matrices, and releases the files' pages. `progress` receives the completed fraction,
    /// from 0 to 1.
    pub fn graph(
        &self,
        operator: MatmulOperator,
        context_tokens: usize,
        progress: &dyn Fn(f32),
    ) -> ModelGraph {
        let shape = self.architecture.decoder();
        let whole = DecoderStage {
            layers: 0..shape.map_or(0, |shape| shape.layers),
            attention: AttentionOperator::Ortolan,
            matmul: operator,
        };
        self.stage_graph(&whole, context_tokens, progress)
    }

    /// Builds the graph of a stage of a decoder. For an encoder, always builds the whole graph.
    pub fn stage_graph(
        &self,
        stage: &DecoderStage,
        context_tokens: usize,
        progress: &dyn Fn(f32),
    ) -> ModelGraph {
        let graph = WeightedGraph::new(&self.tensors, &self.adapters, stage.matmul);
        let graph = match &self.architecture {
            Architecture::Decoder { shape, .. } => {
                decoder::build(graph, shape, stage, context_tokens, progress)
            }
            Architecture::Bert(shape) => encoder::build(graph, shape, progress),
        };
        self.tensors.release();
        let (model, initializers, panels) = graph.finish(self.architecture.name());
        ModelGraph {
            model,
            initializers,
            matrices: OperatorMatrices {
                panels,
                experts: self.experts(),
            },
            weights_folder: None,
        }
    }

    fn experts(&self) -> Arc<[ExpertMatrices]> {
        let shape = self.architecture.decoder();
        let Some((shape, experts)) = shape.and_then(|shape| Some((shape, shape.experts.as_ref()?)))
        else {
            return Arc::default();
        };
        let matrices = |layer| ExpertMatrices::new(&self.tensors, experts, layer);
        (0..shape.layers).map(matrices).collect()
    }
}
