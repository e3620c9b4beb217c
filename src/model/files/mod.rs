//! Opens models in all supported formats: a GGUF file, a folder with safetensors files, or an exported ONNX graph.

mod adapter;
mod folder;
mod gguf;
mod source;

use std::path::Path;

pub(super) use adapter::open as adapter;
use anyhow::bail;
pub use gguf::vocabulary;
pub use source::ModelSource;

use crate::engine::Pooling;
use crate::file_bytes::FileAccess;
use crate::graph::ModelFile;
use crate::text::Vocabulary;

/// A model whose file headers are read and valid. Weights are not converted yet.
pub struct OpenedModel<F = ModelFile> {
    /// Tensors, or an imported graph.
    pub file: F,
    /// Vocabulary for the tokenizer.
    pub vocabulary: Vocabulary,
    /// Jinja source of the chat template, if the files contain one.
    pub chat_template: Option<String>,
    /// Pooling of embeddings, if the files specify it.
    pub pooling: Option<Pooling>,
}

impl OpenedModel {
    /// Opens a GGUF file or a folder with safetensors files.
    ///
    /// # Errors
    /// If a file is invalid, or the path is an exported graph. The message has the path.
    pub fn open(path: &Path, access: FileAccess) -> anyhow::Result<Self> {
        if let Some(graph) = folder::graph(path)? {
            bail!(
                "{} is an exported graph; a GGUF file or a safetensors folder is required",
                graph.display()
            );
        }
        match path.is_dir() {
            true => folder::open(path, access),
            false => gguf::open(path, access),
        }
    }
}

impl OpenedModel<ModelSource> {
    /// Opens a model of any supported format.
    ///
    /// # Errors
    /// If a file is invalid. The message has the path.
    pub fn open_any(path: &Path, access: FileAccess) -> anyhow::Result<Self> {
        if let Some(graph) = folder::graph(path)? {
            return folder::open_graph(graph, access);
        }
        let OpenedModel {
            file,
            vocabulary,
            chat_template,
            pooling,
        } = OpenedModel::open(path, access)?;
        Ok(Self {
            file: ModelSource::Tensors(file),
            vocabulary,
            chat_template,
            pooling,
        })
    }
}
