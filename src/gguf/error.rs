//! The error of opening a GGUF file or a shard.

use std::path::PathBuf;

/// Why a GGUF file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file cannot be opened or mapped.
    #[error("cannot open {path}: {cause}")]
    Open {
        /// The file's path.
        path: PathBuf,
        /// The operating system's error.
        cause: std::io::Error,
    },
    /// The header is malformed.
    #[error("{path} is not a valid GGUF file: {reason}")]
    Malformed {
        /// The file's path.
        path: PathBuf,
        /// What is wrong with the header, with the byte offset if known.
        reason: String,
    },
    /// A tensor extends past the end of the file.
    #[error(
        "{path} is truncated: tensor \"{tensor}\" ends at byte {end}, but the file has {length} bytes"
    )]
    Truncated {
        /// The file's path.
        path: PathBuf,
        /// The tensor. If several extend past the end of the file, the tensor that ends first.
        tensor: String,
        /// The byte offset at which the tensor would end.
        end: u64,
        /// The file's length in bytes.
        length: u64,
    },
    /// The shards of a split model are inconsistent.
    #[error("{path} is not a valid shard of a split model: {reason}")]
    InvalidShard {
        /// The file's path.
        path: PathBuf,
        /// What is inconsistent.
        reason: String,
    },
    /// A tensor's type is not one of [`super::TensorType`].
    #[error("{path}: the type {kind} of tensor \"{tensor}\" is not supported")]
    UnsupportedType {
        /// The file's path.
        path: PathBuf,
        /// The tensor's name.
        tensor: String,
        /// The type's name in ggml.
        kind: String,
    },
}
