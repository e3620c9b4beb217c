//! A path becomes an open model: a GGUF file, or a folder with a safetensors file in it. What both say is the same.

mod adapter;
mod folder;
mod gguf;

use std::path::Path;

pub(super) use adapter::open as adapter;
pub use gguf::vocabulary;

use crate::engine::Pooling;
use crate::file_bytes::FileAccess;
use crate::graph::ModelFile;
use crate::text::Vocabulary;

/// A model whose headers were read.
pub struct ModelFiles {
    /// The family and the tensors.
    pub file: ModelFile,
    /// Its tokens.
    pub vocabulary: Vocabulary,
    /// How conversations are written, in Jinja.
    pub chat_template: Option<String>,
    /// How embeddings are made.
    pub pooling: Option<Pooling>,
}

impl ModelFiles {
    /// Opens what is at `path`.
    ///
    /// # Errors
    /// What is wrong, with the file's path.
    pub fn open(path: &Path, access: FileAccess) -> anyhow::Result<Self> {
        match path.is_dir() {
            true => folder::open(path, access),
            false => gguf::open(path, access),
        }
    }
}
