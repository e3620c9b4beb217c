//! Opens a single GGUF file, validates its whole header, and gives access to tensor bytes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::listing::{HeaderError, HeaderListing};
use super::metadata::Metadata;
use super::quant::TensorType;
use crate::file_bytes::{FileAccess, FileBytes};

/// The contents of an open GGUF file.
#[derive(Debug)]
pub(super) struct GgufFile(FileBytes);

/// The location, type and shape of a tensor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The type of the tensor's blocks.
    pub kind: TensorType,
    /// Size of each dimension in elements; the contiguous dimension is first, so a matrix is `[columns, rows]`.
    pub shape: Vec<usize>,
    /// Index of the shard that contains the tensor; 0 if the model is not split.
    pub(super) file_index: usize,
    start: usize,
    bytes: usize,
}

impl Tensor {
    /// Number of values in a row.
    pub fn columns(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Number of rows (1 for a vector).
    pub fn rows(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Total number of values.
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }
}

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
    /// A tensor's type is not one of [`TensorType`].
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

impl GgufFile {
    /// Maps or reads the file at `path` and parses its header.
    pub(super) fn open(path: &Path, access: FileAccess) -> Result<(Self, Header), GgufError> {
        let open_error = |cause| GgufError::Open {
            path: path.to_owned(),
            cause,
        };
        let bytes = FileBytes::open(path, access).map_err(open_error)?;
        let header = Header::parse(&bytes).map_err(|error| error.with_path(path))?;
        Ok((Self(bytes), header))
    }

    /// The whole file, including the header.
    pub(super) fn contents(&self) -> &FileBytes {
        &self.0
    }

    /// The blocks of `tensor`, which must be a tensor of this file.
    pub(super) fn bytes(&self, tensor: &Tensor) -> &[u8] {
        &self.0[tensor.start..tensor.start + tensor.bytes]
    }

    /// The file's size in bytes.
    pub(super) fn length(&self) -> u64 {
        self.0.len() as u64
    }
}

/// Checks that the file at `path` is a complete GGUF file. Accepts unsupported tensor types. Does not open the other
/// shards of a split model.
///
/// # Errors
/// If the file is malformed, truncated or cannot be opened.
pub fn check(path: &Path) -> Result<(), GgufError> {
    match GgufFile::open(path, FileAccess::Map) {
        Ok(_) | Err(GgufError::UnsupportedType { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// A parsed and validated header.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    pub(super) metadata: Metadata,
    pub(super) tensors: HashMap<String, Tensor>,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let (listing, problem) = HeaderListing::parse(bytes);
        if let Some(problem) = problem {
            return Err(problem);
        }
        let data_offset = listing.data_offset;
        let mut header = Self {
            metadata: Metadata::default(),
            tensors: HashMap::with_capacity(listing.tensors.len()),
        };
        for entry in listing.metadata {
            header.metadata.insert(entry.key, entry.value);
        }
        for info in listing.tensors {
            let (Ok(kind), Some(bytes)) = (info.kind, info.byte_length) else {
                unreachable!("parsing reports unsupported types as an error");
            };
            let tensor = Tensor {
                kind,
                shape: info.shape,
                file_index: 0,
                start: data_offset + info.offset,
                bytes,
            };
            header.tensors.insert(info.name, tensor);
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests;
