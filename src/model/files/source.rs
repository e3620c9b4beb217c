//! Where a model's graph comes from: built by this program from tensors, or exported by another program.

use std::path::Path;

use super::super::Attention;
use crate::graph::ModelFile;
use crate::graph::imported::{ImportedAttention, ImportedModel};
use crate::runtime::{Device, KvCache};

/// The files of an opened model.
pub enum ModelSource {
    /// Tensors of a supported model family, for which this program builds the graph.
    Tensors(ModelFile),
    /// An ONNX graph that another program exported.
    Imported(ImportedModel),
}

impl ModelSource {
    /// Path of the model, for error messages.
    pub fn path(&self) -> &Path {
        match self {
            Self::Tensors(file) => &file.path,
            Self::Imported(model) => &model.path,
        }
    }

    /// Name of the model family.
    pub fn family(&self) -> &str {
        match self {
            Self::Tensors(file) => file.architecture.name(),
            Self::Imported(model) => &model.family,
        }
    }

    /// Whether the model generates text; `false` for encoders.
    pub fn generates(&self) -> bool {
        match self {
            Self::Tensors(file) => file.architecture.decoder().is_some(),
            Self::Imported(_) => true,
        }
    }

    /// Whether the model outputs hidden states, which embeddings need.
    pub fn embeds(&self) -> bool {
        match self {
            Self::Tensors(_) => true,
            Self::Imported(model) => model.has_hidden_output,
        }
    }

    /// How attention accesses cached keys and values.
    pub fn attention(&self) -> Attention {
        match self {
            Self::Tensors(_) if !self.generates() => Attention::Packed,
            Self::Tensors(_) => Attention::Paged,
            Self::Imported(model) => match model.attention {
                ImportedAttention::Paged => Attention::Paged,
                ImportedAttention::PastPresent { .. } => Attention::PastPresent,
            },
        }
    }

    /// Vocabulary size in tokens.
    pub fn vocabulary_size(&self) -> usize {
        match self {
            Self::Tensors(file) => file.architecture.vocabulary(),
            Self::Imported(model) => model.shape.vocabulary,
        }
    }

    /// Dimension of a hidden state.
    pub fn hidden_size(&self) -> usize {
        match self {
            Self::Tensors(file) => file.architecture.hidden(),
            Self::Imported(model) => model.shape.hidden,
        }
    }

    /// Context length in tokens that the model was trained with.
    pub fn trained_context_tokens(&self) -> usize {
        match self {
            Self::Tensors(file) => file.architecture.trained_context(),
            Self::Imported(model) => model.shape.trained_context,
        }
    }

    /// Maximum context length in tokens; `None` without a limit.
    pub fn max_context_tokens(&self) -> Option<usize> {
        match self {
            // An encoder has no position embeddings beyond its trained context.
            Self::Tensors(file) if !self.generates() => Some(file.architecture.trained_context()),
            Self::Tensors(_) => None,
            Self::Imported(model) => model.shape.max_context,
        }
    }

    /// Bytes of a token's keys and values in all layers; 0 for encoders.
    pub fn cache_bytes_per_token(&self) -> u64 {
        match self {
            Self::Tensors(file) => {
                let shape = file.architecture.decoder();
                shape.map_or(0, KvCache::bytes_per_token)
            }
            Self::Imported(model) => model.cache_bytes_per_token(),
        }
    }

    /// Bytes of the keys of a token in a layer; the values take as many. The rows of a block's tokens are contiguous.
    pub fn cache_row_bytes(&self) -> usize {
        match self {
            Self::Tensors(file) => {
                let shape = file.architecture.decoder();
                shape.map_or(0, |shape| shape.kv_heads * shape.head_size)
                    * self.cache_element_bytes()
            }
            Self::Imported(model) => model.cache_row_bytes(),
        }
    }

    /// Bytes of a key or value element.
    pub fn cache_element_bytes(&self) -> usize {
        match self {
            Self::Tensors(_) => size_of::<half::f16>(),
            Self::Imported(model) => model.cache_element_bytes(),
        }
    }

    /// Minimum memory of the weights in bytes, for sequences of up to `context_tokens` tokens.
    pub fn weight_bytes(&self, context_tokens: usize) -> u64 {
        match self {
            Self::Tensors(file) => {
                let weights = file.weight_bytes(Device::Cpu.matmul_operator(), context_tokens);
                weights.total as u64 + file.expert_bytes()
            }
            Self::Imported(model) => model.file_bytes(),
        }
    }

    /// Number of weights.
    pub fn parameters(&self) -> u64 {
        match self {
            Self::Tensors(file) => file.parameters(),
            Self::Imported(model) => model.parameters(),
        }
    }

    /// Contents of the model files, in a fixed order.
    pub fn contents(&self) -> Vec<&[u8]> {
        match self {
            Self::Tensors(file) => file.tensors.contents(),
            Self::Imported(model) => model.contents(),
        }
    }

    /// Total size of the model files in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.contents().iter().map(|bytes| bytes.len() as u64).sum()
    }
}
