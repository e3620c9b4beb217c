//! A graph that somebody else exported for ONNX Runtime: what it is fed with, and the form in which it is run. Where its
//! attention is known it becomes ours (`paged`); otherwise it goes on with past keys and values in tensors of its own.

mod head;
mod inputs;
mod needed;
mod nodes;
mod paged;
mod reader;
mod wire;

use std::path::{Path, PathBuf};

use prost::Message;
use prost::bytes::Bytes;

pub use inputs::{FedInputs, past_names};

use super::onnx::{ElementType, proto};
use super::{GraphError, HEAD_MULTIPLE, ModelGraph, OperatorMatrices};
use crate::file_bytes::FileAccess;

/// `i64 [batch, past + tokens]`: 1 for what is to be seen.
pub const ATTENTION_MASK: &str = "attention_mask";
/// `i64 [batch, tokens]`: the place of each token in its sequence.
pub const POSITION_IDS: &str = "position_ids";
/// `bool [1]`: whether there is a past, in graphs that have a part for either.
pub const USE_CACHE_BRANCH: &str = "use_cache_branch";
/// `i64`: how many of the last rows become logits; 0 is all.
pub const LOGITS_TO_KEEP: &str = "num_logits_to_keep";

/// Operators that find the scale of a whole tensor's values: no row of it is independent of the others.
const SCALING_TENSORS: [&str; 3] = [
    "DynamicQuantizeLinear",
    "DynamicQuantizeMatMul",
    "DynamicQuantizeLSTM",
];

/// Largest size in a model's configuration: far above every model, far below overflow.
const MAX_SIZE: usize = 1 << 24;
/// The same of heads and their sizes.
const MAX_HEAD_SIZE: usize = 1 << 16;
/// Most layers.
const MAX_LAYERS: usize = 4096;

/// What the files beside a graph say of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportSettings {
    /// The family's name, which nothing depends on.
    pub family: String,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Numbers of a hidden state.
    pub hidden: usize,
    /// Numbers of a head, where the graph does not say.
    pub head_size: Option<usize>,
    /// Tokens of context the model was trained with.
    pub trained_context: usize,
}

/// The sizes of an imported decoder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedShape {
    /// Layers with attention.
    pub layers: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Numbers of a head.
    pub head_size: usize,
    /// Tokens of the vocabulary.
    pub vocabulary: usize,
    /// Numbers of a hidden state.
    pub hidden: usize,
    /// Tokens of context the model was trained with.
    pub trained_context: usize,
    /// Tokens that a sequence can have at all, if the graph has a limit.
    pub longest_context: Option<usize>,
}

/// How an imported graph keeps keys and values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImportedAttention {
    /// In the blocks of a cache that the graph reads and writes, in half precision.
    Paged,
    /// In tensors that go in and come out.
    PastPresent {
        /// What their elements are.
        element: PastElement,
        /// Whether the bits of a row depend on those beside it.
        scales_tensors: bool,
        /// Why they are not in blocks.
        reason: String,
    },
}

/// The elements of past keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PastElement {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
}

/// A graph that somebody else exported, read and checked.
#[derive(Debug)]
pub struct ImportedModel {
    /// The graph's file.
    pub path: PathBuf,
    /// The family's name.
    pub family: String,
    /// Its sizes.
    pub shape: ImportedShape,
    /// How it keeps keys and values.
    pub attention: ImportedAttention,
    /// What it takes beside tokens and batch.
    pub inputs: FedInputs,
    /// Whether it gives hidden states.
    pub gives_hidden: bool,
    model: Vec<u8>,
    parameters: u64,
    files: Vec<Bytes>,
}

impl ImportedModel {
    /// Reads the graph at `path` and makes it ready to be run.
    ///
    /// # Errors
    /// What of it cannot be read, or is not known here.
    pub fn open(
        path: PathBuf,
        access: FileAccess,
        settings: ImportSettings,
    ) -> Result<Self, GraphError> {
        let reader::Read { mut model, files } = reader::read(&path, access)?;
        let graph = model.graph.get_or_insert_default();
        let parameters = graph.initializer.iter().map(values).sum();
        let found = inputs::find(graph, &settings)?;
        let table_positions = paged::table_positions(graph);
        let gives_hidden = head::want_rows(graph);
        let functions = model.functions.iter().map(|function| &function.node[..]);
        let scales_tensors = std::iter::once(&graph.node[..])
            .chain(functions)
            .any(|nodes| nodes::has_operator(nodes, &SCALING_TENSORS));
        let rewritten = match scales_tensors {
            true => Err("it quantises all rows of a step with one scale".to_owned()),
            false if !found.head_size.is_multiple_of(HEAD_MULTIPLE) => Err(format!(
                "the attention operator does not support a head size of {}",
                found.head_size
            )),
            false => paged::paged(&model, &found.pasts, found.element),
        };
        let (attention, longest_context) = match rewritten {
            Ok(graph) => {
                model.graph = Some(graph);
                model.opset_import.push(paged::opset());
                (ImportedAttention::Paged, table_positions)
            }
            Err(reason) => {
                let attention = own(&mut model, &found, scales_tensors, reason)?;
                // A row that belongs to nobody stands behind the last token.
                let known = table_positions;
                let positions = match found.fed.positions {
                    true => known,
                    false => Some(known.unwrap_or(settings.trained_context)),
                };
                (
                    attention,
                    positions.map(|positions| positions.saturating_sub(1)),
                )
            }
        };
        let graph = model.graph.get_or_insert_default();
        let takes = |name: &str| graph.input.iter().any(|input| input.name == name);
        let inputs = FedInputs {
            positions: takes(POSITION_IDS),
            ..found.fed
        };
        let trained_context = longest_context.unwrap_or(usize::MAX);
        Ok(Self {
            shape: ImportedShape {
                layers: found.pasts.len(),
                kv_heads: found.kv_heads,
                head_size: found.head_size,
                vocabulary: settings.vocabulary,
                hidden: settings.hidden,
                trained_context: settings.trained_context.min(trained_context),
                longest_context,
            },
            path,
            family: settings.family,
            attention,
            inputs,
            gives_hidden,
            model: model.encode_to_vec(),
            parameters,
            files,
        })
    }

    /// The graph. Its weights are in the files, which the runtime opens itself.
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

    /// About how many weights there are: those in blocks of a few bits count as the bytes they are in.
    pub fn parameters(&self) -> u64 {
        self.parameters
    }

    /// The bytes of each file: the graph's, then those with weights.
    pub fn contents(&self) -> Vec<&[u8]> {
        self.files.iter().map(|file| &file[..]).collect()
    }

    /// The size of all files in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.len() as u64).sum()
    }

    /// Bytes of a token's keys and values in all layers.
    pub fn cache_bytes_per_token(&self) -> u64 {
        let shape = &self.shape;
        let elements = 2 * shape.layers * shape.kv_heads * shape.head_size;
        (elements * self.cache_element_bytes()) as u64
    }

    /// Bytes of a token's row of keys or values: of one head where those of a head follow each other, of all heads elsewhere.
    pub fn cache_row_bytes(&self) -> usize {
        let heads = match self.attention {
            ImportedAttention::PastPresent { .. } => 1,
            _ => self.shape.kv_heads,
        };
        heads * self.shape.head_size * self.cache_element_bytes()
    }

    /// Bytes of a number of a key or value.
    pub fn cache_element_bytes(&self) -> usize {
        match self.attention {
            ImportedAttention::PastPresent {
                element: PastElement::F32,
                ..
            } => size_of::<f32>(),
            _ => size_of::<half::f16>(),
        }
    }
}

/// How a graph that stays as it is keeps keys and values.
fn own(
    model: &mut proto::Model,
    found: &inputs::Found,
    scales_tensors: bool,
    reason: String,
) -> Result<ImportedAttention, GraphError> {
    let graph = model.graph.get_or_insert_default();
    if paged::keeps_windows(graph) {
        let problem = format!("a past that is a window, where {reason},");
        return Err(GraphError::Unsupported(problem));
    }
    inputs::check_presents(graph, found.pasts.len())?;
    let element = match found.element {
        ElementType::F32 => PastElement::F32,
        ElementType::F16 => PastElement::F16,
        _ => {
            let problem = format!("a past in bfloat16, where {reason},");
            return Err(GraphError::Unsupported(problem));
        }
    };
    Ok(ImportedAttention::PastPresent {
        element,
        scales_tensors,
        reason,
    })
}

fn values(tensor: &proto::Tensor) -> u64 {
    let mut sizes = tensor.dims.iter().map(|size| u64::try_from(*size).ok());
    let product = sizes.try_fold(1_u64, |product, size| product.checked_mul(size?));
    product.unwrap_or(0)
}
