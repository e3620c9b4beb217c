//! From a model's files to the ONNX graph that computes it: which tensors a family has, how their blocks
//! become initializers, and the bytes of the `ModelProto`. Running it is [`crate::runtime`]'s.

mod adapter;
mod decoder;
mod encoder;
pub mod families;
pub mod imported;
pub mod names;
pub mod onnx;
pub mod panels;
mod products;
mod rotary;
mod tensors;
mod weighted;
mod weights;

use std::path::PathBuf;
use std::sync::Arc;

pub use adapter::Adapter;
pub use decoder::{AttentionOperator, DecoderPart, handed_over};
pub use families::{
    Activation, Architecture, DecoderShape, EncoderShape, ExpertMatrices, stays_in_file,
};
use onnx::{Dimension, ElementType, Exported, GraphBuilder, Initializer, TensorValues};
use panels::{MatrixShape, PanelLayout, Panels};
pub use products::{GATED, ProductOperator};
pub use tensors::{Tensor, Tensors};
use weighted::WeightedGraph;
pub use weights::Computation;

use crate::gguf::quant::Target;
use crate::gguf::{Gguf, MetadataError};
use crate::safetensors::Safetensors;

/// The domain of ortolan's own operators.
pub const ORTOLAN_DOMAIN: &str = "ortolan";

/// The most heads of an attention operator.
pub const MAX_HEADS: usize = 1024;
/// The longest head of an attention operator, in elements.
pub const MAX_HEAD_SIZE: usize = 1024;
/// A head's elements are a multiple of it: the attention operator computes with vectors of eight.
pub const HEAD_MULTIPLE: usize = 8;

/// Why a file has no graph.
#[derive(Debug, thiserror::Error)]
pub enum GraphError {
    /// No family of ours.
    #[error("the architecture \"{found}\" is not supported; supported: {supported}")]
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
    #[error("the tensor \"{0}\" is missing")]
    MissingTensor(String),
    /// A tensor has another shape than the header implies.
    #[error("the tensor \"{name}\" has the shape {found:?}, not {wanted:?}")]
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
    /// The weights that ONNX Runtime is handed over, by name.
    pub initializers: Vec<Initializer>,
    /// Those that it does not see.
    pub matrices: OperatorMatrices,
    /// Where the files are that others' graphs have their weights in.
    pub weights_folder: Option<PathBuf>,
}

/// Matrices that our operators are given themselves: nodes say their numbers.
#[derive(Debug, Clone, Default)]
pub struct OperatorMatrices {
    /// Those of products.
    pub panels: Arc<[Panels]>,
    /// Of each layer the experts, if it has any: their matrices are read where they lie in the files.
    pub experts: Arc<[ExpertMatrices]>,
}

impl ModelGraph {
    /// The graph as other programs read it, its weights in the file `location` beside its own.
    pub fn exported(&self, location: &str) -> Exported {
        onnx::exported(&self.model, location)
    }
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

    /// Bytes of all rows in the file.
    pub fn bytes(&self) -> u64 {
        embedding_matrix(&self.tensors).bytes.len() as u64
    }

    /// A graph that gives tokens' rows, in single precision: its one weight is all rows, one after the other, in the file
    /// `location` beside its own.
    pub fn exported(&self, location: &str) -> Exported {
        let mut builder = GraphBuilder::default();
        let tokens = [Dimension::Named("tokens")];
        let ids = builder.input(names::INPUT_IDS, ElementType::I64, &tokens);
        let matrix = builder.initializer(Initializer {
            name: families::TOKEN_EMBEDDING.to_owned(),
            shape: vec![self.rows, self.columns],
            // They are written row by row.
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

/// Bytes of a graph's weights.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OperandBytes {
    /// All of them.
    pub all: usize,
    /// Those that the runtime makes a copy of, in an order of its own.
    pub packed: usize,
}

impl OperandBytes {
    fn add_product(&mut self, products: ProductOperator, matrix: &Tensor<'_>) {
        let (kind, columns, rows) = (matrix.product_kind(), matrix.columns(), matrix.rows());
        match (products, kind.codes()) {
            (ProductOperator::Ortolan, Some(codes)) => {
                let shape = MatrixShape {
                    rows,
                    columns,
                    halves: false,
                };
                self.all += PanelLayout::new(codes).bytes(shape);
            }
            _ => {
                let bytes = Computation::from(kind).operand_bytes(columns * rows);
                self.all += bytes;
                self.packed += bytes;
            }
        }
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

impl LeastRows {
    /// Those of products that take one path.
    pub const ANY: Self = Self {
        tokens: 1,
        logits: 1,
    };

    /// Those of a graph that others made of products that we do not choose: a single row is what takes another path.
    pub const OF_IMPORTED: Self = Self {
        tokens: 2,
        logits: 2,
    };
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
    /// What may be added to its products, each with the number that a step names it by.
    adapters: Vec<Adapter>,
}

impl ModelFile {
    /// Checks the header of an open GGUF file.
    pub fn new(path: PathBuf, gguf: Gguf) -> Result<Self, GraphError> {
        let (architecture, tensors) = Architecture::of_gguf(gguf)?;
        Ok(Self {
            path,
            tensors,
            architecture,
            adapters: Vec::new(),
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
            adapters: Vec::new(),
        })
    }

    /// The same, but matrices of floats are multiplied as blocks of `target`.
    pub fn quantised(self, target: Target) -> Self {
        Self {
            tensors: self.tensors.quantised(target),
            ..self
        }
    }

    /// With adapters that were checked against it. Where there is a `base`, the products that they change are those of
    /// its weights.
    ///
    /// # Errors
    /// The base is not of the same sizes.
    pub fn with_adapters(
        mut self,
        adapters: Vec<Adapter>,
        base: Option<&Self>,
    ) -> Result<Self, GraphError> {
        if let Some(base) = base {
            if base.architecture != self.architecture {
                let problem = "its header is not that of the same model".to_owned();
                return Err(GraphError::Inconsistent(problem));
            }
            let changed = adapters.iter().flat_map(Adapter::weights);
            let changed = changed.filter(|weight| self.tensors.get(weight).is_some());
            let changed = changed.map(str::to_owned).collect();
            self.tensors = self.tensors.replaced(base.tensors.clone(), changed);
        }
        self.adapters = adapters;
        Ok(self)
    }

    /// Adapters that a step may name, by numbers from 0.
    pub fn adapters(&self) -> usize {
        self.adapters.len()
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

    /// Bytes of the graph's weights, for sequences of up to `context_tokens` tokens.
    pub fn operand_bytes(&self, products: ProductOperator, context_tokens: usize) -> OperandBytes {
        let tied = self.tensors.get(families::OUTPUT).is_none();
        let mut bytes = OperandBytes::default();
        for (name, tensor) in self.tensors.all() {
            let values = tensor.columns() * tensor.rows();
            let single = values * size_of::<f32>();
            match (&self.architecture, name) {
                // Its rows are read from the file.
                (Architecture::Decoder { .. }, families::TOKEN_EMBEDDING) if tied => {
                    bytes.add_product(products, &tensor);
                }
                (_, families::TOKEN_EMBEDDING) => {}
                (_, name) if stays_in_file(name) => {}
                // It is within the rows of the positions.
                (Architecture::Bert(_), families::bert::TOKEN_TYPES) => {}
                (Architecture::Bert(_), families::bert::POSITION_EMBEDDING) => bytes.all += single,
                // They are within the tables of the positions.
                (_, name) if families::ROTARY_DIVISORS.contains(&name) => {}
                _ if tensor.shape.len() == 1 => bytes.all += single,
                _ => bytes.add_product(products, &tensor),
            }
        }
        if let Architecture::Decoder { shape, .. } = &self.architecture {
            bytes.all += decoder::rotary_numbers(shape, context_tokens) * size_of::<f32>();
        }
        bytes
    }

    /// Bytes of experts' matrices, which stay in the file.
    pub fn expert_bytes(&self) -> u64 {
        let tensors = self.tensors.all();
        let experts = tensors.filter(|(name, _)| stays_in_file(name));
        experts.map(|(_, tensor)| tensor.bytes.len() as u64).sum()
    }

    /// How few rows a step may have without changing a row's bits.
    pub fn least_rows(&self, products: ProductOperator) -> LeastRows {
        if products == ProductOperator::Ortolan {
            return LeastRows::ANY;
        }
        let output = match self.tensors.get(families::OUTPUT) {
            Some(output) => output.product_kind(),
            None => embedding_matrix(&self.tensors).product_kind(),
        };
        let outside = [families::TOKEN_EMBEDDING, families::OUTPUT];
        let inside = self.tensors.all();
        let inside = inside.filter(|(name, _)| !outside.contains(name) && !stays_in_file(name));
        LeastRows {
            tokens: weights::least_rows(inside.map(|(_, tensor)| tensor.product_kind())),
            logits: weights::least_rows([output]),
        }
    }

    /// The graph for sequences of up to `context_tokens` tokens, which has all that it needs of the files, so that what was
    /// looked at of them need not stay in memory. `progress` hears the share that is done, from 0 to 1.
    pub fn graph(
        &self,
        products: ProductOperator,
        context_tokens: usize,
        progress: &dyn Fn(f32),
    ) -> ModelGraph {
        let shape = self.architecture.decoder();
        let all = DecoderPart {
            layers: 0..shape.map_or(0, |shape| shape.layers),
            attention: AttentionOperator::Ortolan,
            products,
        };
        self.part(&all, context_tokens, progress)
    }

    /// The same of a part of a decoder; an encoder is not divided.
    pub fn part(
        &self,
        part: &DecoderPart,
        context_tokens: usize,
        progress: &dyn Fn(f32),
    ) -> ModelGraph {
        let graph = WeightedGraph::new(&self.tensors, &self.adapters, part.products);
        let graph = match &self.architecture {
            Architecture::Decoder { shape, .. } => {
                decoder::build(graph, shape, part, context_tokens, progress)
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
        let of_layer = |layer| ExpertMatrices::new(&self.tensors, experts, layer);
        (0..shape.layers).map(of_layer).collect()
    }
}
