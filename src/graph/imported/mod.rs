//! Imported graphs: ONNX models that other programs have exported for ONNX Runtime. Reads and checks a graph, and
//! prepares it for execution. Replaces `GroupQueryAttention` by ortolan's paged attention (`paged`). If that is not
//! possible, the graph keeps its past/present tensors.

mod inputs;
mod lm_head;
mod nodes;
mod paged;
mod prune;
mod reader;
mod wire;

use std::path::{Path, PathBuf};

use prost::Message;
use prost::bytes::Bytes;

pub use inputs::{ExtraInputs, past_names};

use super::onnx::{ElementType, proto};
use super::{GraphError, HEAD_MULTIPLE, ModelGraph, OperatorMatrices};
use crate::file_bytes::FileAccess;

/// `i64 [batch, past + tokens]`: 1 for tokens to attend to.
pub const ATTENTION_MASK: &str = "attention_mask";
/// `i64 [batch, tokens]`: the position of each token in its sequence.
pub const POSITION_IDS: &str = "position_ids";
/// `bool [1]`: whether past keys and values are used, in graphs with a branch with and a branch without past.
pub const USE_CACHE_BRANCH: &str = "use_cache_branch";
/// `i64`: number of last rows for which logits are computed; 0 means all.
pub const LOGITS_TO_KEEP: &str = "num_logits_to_keep";

/// Operators that quantize a whole tensor with one scale, so that a row's result depends on the other rows.
const PER_TENSOR_SCALE_OPERATORS: [&str; 3] = [
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
];

/// Maximum of each dimension in a model's configuration: far above every known model, and far below integer overflow.
const MAX_SIZE: usize = 1 << 24;
/// Maximum number of heads, and maximum head size.
const MAX_HEAD_SIZE: usize = 1 << 16;
/// Maximum number of layers.
const MAX_LAYERS: usize = 4096;

/// Model parameters from the configuration files in the graph's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportSettings {
    /// The family's name, for display only.
    pub family: String,
    /// Number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// Hidden size: the width of the residual stream.
    pub hidden: usize,
    /// Head size, for graphs that do not specify it.
    pub head_size: Option<usize>,
    /// Context length in training, in tokens.
    pub trained_context: usize,
}

/// The dimensions of an imported decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedShape {
    /// Number of attention layers.
    pub layers: usize,
    /// Number of key/value heads.
    pub kv_heads: usize,
    /// Number of elements in a query, key or value head.
    pub head_size: usize,
    /// Number of tokens in the vocabulary.
    pub vocabulary: usize,
    /// Hidden size: the width of the residual stream.
    pub hidden: usize,
    /// Context length in training, in tokens.
    pub trained_context: usize,
    /// Maximum number of tokens of a sequence, if the graph has a limit.
    pub max_context: Option<usize>,
}

/// How an imported graph stores keys and values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportedAttention {
    /// In the blocks of the paged cache, in half precision.
    Paged,
    /// In past input tensors and present output tensors.
    PastPresent {
        /// The element type of these tensors.
        element: PastElementType,
        /// Whether the graph quantizes whole tensors with one scale, so that results depend on the batch composition.
        has_per_tensor_scales: bool,
        /// Why paged attention cannot be used.
        reason: String,
    },
}

/// The element type of past keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PastElementType {
    /// `FLOAT` in ONNX: 4 bytes.
    F32,
    /// `FLOAT16` in ONNX: 2 bytes.
    F16,
}

/// An imported graph, checked and prepared for execution.
#[derive(Debug)]
pub struct ImportedModel {
    /// The path of the graph's file.
    pub path: PathBuf,
    /// The family's name, for display only.
    pub family: String,
    /// The dimensions of the decoder.
    pub shape: ImportedShape,
    /// How the graph stores keys and values.
    pub attention: ImportedAttention,
    /// The optional inputs that the graph has.
    pub inputs: ExtraInputs,
    /// Whether the graph has an output for hidden states.
    pub has_hidden_output: bool,
    model: Vec<u8>,
    parameters: u64,
    files: Vec<Bytes>,
}

impl ImportedModel {
    /// Reads the graph at `path` and prepares it for execution.
    ///
    /// # Errors
    /// If the graph is malformed or needs an unsupported feature.
    pub fn open(
        path: PathBuf,
        access: FileAccess,
        settings: ImportSettings,
    ) -> Result<Self, GraphError> {
        let reader::GraphFiles { mut model, files } = reader::read(&path, access)?;
        let graph = model.graph.get_or_insert_default();
        let parameters = graph.initializer.iter().map(value_count).sum();
        let inputs = inputs::read_inputs(graph, &settings)?;
        let table_positions = paged::table_positions(graph);
        let has_hidden_output = lm_head::select_output_rows(graph);
        let functions = model.functions.iter().map(|function| &function.node[..]);
        let has_per_tensor_scales = std::iter::once(&graph.node[..])
            .chain(functions)
            .any(|nodes| nodes::has_operator(nodes, &PER_TENSOR_SCALE_OPERATORS));
        let rewritten = match has_per_tensor_scales {
            true => Err("it quantizes all rows of a step with one scale".to_owned()),
            false if !inputs.head_size.is_multiple_of(HEAD_MULTIPLE) => Err(format!(
                "the attention operator does not support a head size of {}",
                inputs.head_size
            )),
            false => paged::to_paged(&model, &inputs.pasts, inputs.element),
        };
        let (attention, max_context) = match rewritten {
            Ok(graph) => {
                model.graph = Some(graph);
                model.opset_import.push(paged::operator_set());
                (ImportedAttention::Paged, table_positions)
            }
            Err(reason) => {
                let attention =
                    past_present_attention(&mut model, &inputs, has_per_tensor_scales, reason)?;
                // The position after the last token must exist, because the padding row uses it.
                let positions = match inputs.extra.positions {
                    true => table_positions,
                    false => Some(table_positions.unwrap_or(settings.trained_context)),
                };
                (
                    attention,
                    positions.map(|positions| positions.saturating_sub(1)),
                )
            }
        };
        let graph = model.graph.get_or_insert_default();
        let has_input = |name: &str| graph.input.iter().any(|input| input.name == name);
        let extra_inputs = ExtraInputs {
            positions: has_input(POSITION_IDS),
            ..inputs.extra
        };
        let trained_context = max_context.unwrap_or(usize::MAX);
        Ok(Self {
            shape: ImportedShape {
                layers: inputs.pasts.len(),
                kv_heads: inputs.kv_heads,
                head_size: inputs.head_size,
                vocabulary: settings.vocabulary,
                hidden: settings.hidden,
                trained_context: settings.trained_context.min(trained_context),
                max_context,
            },
            path,
            family: settings.family,
            attention,
            inputs: extra_inputs,
            has_hidden_output,
            model: model.encode_to_vec(),
            parameters,
            files,
        })
    }

    /// Returns the graph. ONNX Runtime opens the weight files itself.
    pub fn graph(&self) -> ModelGraph {
        ModelGraph {
            model: self.model.clone(),
            initializers: Vec::new(),
            matrices: OperatorMatrices::default(),
            weights_folder: Some(self.folder().to_owned()),
        }
    }

    fn folder(&self) -> &Path {
        let folder = self.path.parent();
        match folder.filter(|folder| !folder.as_os_str().is_empty()) {
            Some(folder) => folder,
            None => Path::new("."),
        }
    }

    /// Approximate number of parameters. For packed quants, the number of bytes is counted.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// The contents of each file: the graph's file, then the weight files.
    pub fn contents(&self) -> Vec<&[u8]> {
        self.files.iter().map(|file| &file[..]).collect()
    }

    /// Total size of all files in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len() as u64).sum()
    }

    /// Size in bytes of a token's keys and values in all layers.
    pub fn cache_bytes_per_token(&self) -> u64 {
        let shape = &self.shape;
        let elements = 2 * shape.layers * shape.kv_heads * shape.head_size;
        (elements * self.cache_element_bytes()) as u64
    }

    /// Size in bytes of a contiguous row of a token's keys or values in a layer: one head in past tensors, all heads in
    /// paged blocks.
    pub fn cache_row_bytes(&self) -> usize {
        let heads = match self.attention {
            ImportedAttention::PastPresent { .. } => 1,
            _ => self.shape.kv_heads,
        };
        heads * self.shape.head_size * self.cache_element_bytes()
    }

    /// Size in bytes of an element of a key or value.
    pub fn cache_element_bytes(&self) -> usize {
        match self.attention {
            ImportedAttention::PastPresent {
                element: PastElementType::F32,
                ..
            } => size_of::<f32>(),
            _ => size_of::<half::f16>(),
        }
    }
}

/// Checks a graph whose attention is not replaced. Returns how the graph stores keys and values.
fn past_present_attention(
    model: &mut proto::Model,
    inputs: &inputs::GraphInputs,
    has_per_tensor_scales: bool,
    reason: String,
) -> Result<ImportedAttention, GraphError> {
    let graph = model.graph.get_or_insert_default();
    if paged::has_sliding_window_cache(graph) {
        let problem = format!("a sliding-window cache without paged attention ({reason})");
        return Err(GraphError::Unsupported(problem));
    }
    inputs::check_present_outputs(graph, inputs.pasts.len())?;
    let element = match inputs.element {
        ElementType::F32 => PastElementType::F32,
        ElementType::F16 => PastElementType::F16,
        _ => {
            let problem = format!("a bfloat16 cache without paged attention ({reason})");
            return Err(GraphError::Unsupported(problem));
        }
    };
    Ok(ImportedAttention::PastPresent {
        element,
        has_per_tensor_scales,
        reason,
    })
}

fn value_count(tensor: &proto::Tensor) -> u64 {
    let mut sizes = tensor.dims.iter().map(|size| u64::try_from(*size).ok());
    let product = sizes.try_fold(1_u64, |product, size| product.checked_mul(size?));
    product.unwrap_or(0)
}
