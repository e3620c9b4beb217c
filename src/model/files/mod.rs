//! A path becomes an open model: a GGUF file, a folder with safetensors files in it, or a graph that others exported. What
//! all of them say is the same.

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

/// A model whose headers were read.
pub struct ModelFiles<F = ModelFile> {
    /// The family and what computes it.
    pub file: F,
    /// Its tokens.
    pub vocabulary: Vocabulary,
    /// How conversations are written, in Jinja.
    pub chat_template: Option<String>,
    /// How embeddings are made.
    pub pooling: Option<Pooling>,
}

impl ModelFiles {
    /// Opens the tensors at `path`.
    ///
    /// # Errors
    /// What is wrong, with the file's path.
    pub fn open(path: &Path, access: FileAccess) -> anyhow::Result<Self> {
        if let Some(graph) = folder::graph(path)? {
            bail!("{} is a graph already, not tensors", graph.display());
        }
        match path.is_dir() {
            true => folder::open(path, access),
            false => gguf::open(path, access),
        }
    }
}

impl ModelFiles<ModelSource> {
    /// Opens whatever computes a model at `path`.
    ///
    /// # Errors
    /// What is wrong, with the file's path.
    pub fn open_any(path: &Path, access: FileAccess) -> anyhow::Result<Self> {
        if let Some(graph) = folder::graph(path)? {
            return folder::open_graph(graph, access);
        }
        let ModelFiles {
            file,
            vocabulary,
            chat_template,
            pooling,
        } = ModelFiles::open(path, access)?;
        Ok(Self {
            file: ModelSource::Tensors(file),
            vocabulary,
            chat_template,
            pooling,
        })
    }
}
