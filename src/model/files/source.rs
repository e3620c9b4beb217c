//! What computes a model: tensors, of which a graph is made here, or a graph that others exported.

use std::path::Path;

use super::super::Attention;
use crate::graph::ModelFile;
use crate::graph::imported::{ImportedAttention, ImportedModel};
use crate::runtime::{Device, KvCache};

/// An open model.
pub enum ModelSource {
    /// The tensors of a family.
    Tensors(ModelFile),
    /// A graph as it was exported.
    Imported(ImportedModel),
}

impl ModelSource {
    /// The path for errors.
    pub fn path(&self) -> &Path {
        match self {
            Self::Tensors(file) => &file.path,
            Self::Imported(model) => &model.path,
        }
    }

    /// The family's name.
    pub fn family(&self) -> &str {
        match self {
            Self::Tensors(file) => file.architecture.name(),
            Self::Imported(model) => &model.family,
        }
    }

    /// Whether it goes on with texts.
    pub fn generates(&self) -> bool {
        match self {
            Self::Tensors(file) => file.architecture.decoder().is_some(),
            Self::Imported(_) => true,
        }
    }

    /// Whether it gives hidden states.
    pub fn embeds(&self) -> bool {
        match self {
            Self::Tensors(_) => true,
            Self::Imported(model) => model.gives_hidden,
        }
    }

    /// How it reads what is past.
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

    /// Tokens of the vocabulary.
    pub fn vocabulary(&self) -> usize {
        match self {
            Self::Tensors(file) => file.architecture.vocabulary(),
            Self::Imported(model) => model.shape.vocabulary,
        }
    }

    /// Numbers of a hidden state.
    pub fn hidden(&self) -> usize {
        match self {
            Self::Tensors(file) => file.architecture.hidden(),
            Self::Imported(model) => model.shape.hidden,
        }
    }

    /// Tokens of context the model was trained with.
    pub fn trained_context(&self) -> usize {
        match self {
            Self::Tensors(file) => file.architecture.trained_context(),
            Self::Imported(model) => model.shape.trained_context,
        }
    }

    /// Tokens that a context can have at all, if there is a limit.
    pub fn longest_context(&self) -> Option<usize> {
        match self {
            // An encoder has learnt what each place is, and knows no other.
            Self::Tensors(file) if !self.generates() => Some(file.architecture.trained_context()),
            Self::Tensors(_) => None,
            Self::Imported(model) => model.shape.longest_context,
        }
    }

    /// Bytes of a token's keys and values in all layers; 0 where none are kept.
    pub fn cache_bytes_per_token(&self) -> u64 {
        match self {
            Self::Tensors(file) => {
                let shape = file.architecture.decoder();
                shape.map_or(0, KvCache::bytes_per_token)
            }
            Self::Imported(model) => model.cache_bytes_per_token(),
        }
    }

    /// Bytes of a token's row of keys or values: rows of a block's tokens follow each other.
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

    /// Bytes of a number of a key or value.
    pub fn cache_element_bytes(&self) -> usize {
        match self {
            Self::Tensors(_) => size_of::<half::f16>(),
            Self::Imported(model) => model.cache_element_bytes(),
        }
    }

    /// Bytes that the weights take at least, for sequences of up to `context_tokens` tokens.
    pub fn weight_bytes(&self, context_tokens: usize) -> u64 {
        match self {
            Self::Tensors(file) => {
                let weights = file.operand_bytes(Device::Cpu.products(), context_tokens);
                weights.all as u64 + file.expert_bytes()
            }
            Self::Imported(model) => model.file_bytes(),
        }
    }

    /// Number of the model's weights.
    pub fn parameters(&self) -> u64 {
        match self {
            Self::Tensors(file) => file.parameters(),
            Self::Imported(model) => model.parameters(),
        }
    }

    /// The bytes of each file, in order.
    pub fn contents(&self) -> Vec<&[u8]> {
        match self {
            Self::Tensors(file) => file.tensors.contents(),
            Self::Imported(model) => model.contents(),
        }
    }

    /// The size of all files in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.contents().iter().map(|bytes| bytes.len() as u64).sum()
    }
}
