//! Opens a GGUF file whose whole header is in order, and lends the tensors' bytes from the mapped file.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::listing::{HeaderError, Listing};
use super::metadata::Metadata;
use super::quant::TensorType;
use crate::file_bytes::{FileAccess, FileBytes};

/// An open file.
#[derive(Debug)]
pub(super) struct GgufFile(FileBytes);

/// Where a tensor's blocks lie and how to read them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// How its blocks are read.
    pub kind: TensorType,
    /// Values along each dimension, the contiguous one first: a matrix is `[columns, rows]`.
    pub shape: Vec<usize>,
    /// Which of the model's files it is in, from 0.
    pub(super) file: usize,
    start: usize,
    bytes: usize,
}

impl Tensor {
    /// Values of a row.
    pub fn columns(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Number of rows (1 for a vector).
    pub fn rows(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Number of values.
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The operating system refused.
    #[error("cannot open {path}: {cause}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The header is not one.
    #[error("{path} is not a GGUF file that can be read: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and at which byte.
        reason: String,
    },
    /// The header promises more than there is.
    #[error("{path} is truncated: tensor \"{tensor}\" ends at byte {end}, the file at {length}")]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The first tensor that is cut.
        tensor: String,
        /// Where it would end.
        end: u64,
        /// Where the file ends.
        length: u64,
    },
    /// It is cut into several files, and they do not fit together.
    #[error("{path} is not a file of a set in order: {reason}")]
    Set {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// A tensor's type is not one of [`TensorType`].
    #[error("{path}: tensor \"{tensor}\" has the type {kind}, which is not supported")]
    UnsupportedType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The type's name.
        kind: String,
    },
}

impl GgufFile {
    /// Maps or reads the file at `path` and parses its header.
    pub(super) fn open(path: &Path, access: FileAccess) -> Result<(Self, Header), GgufError> {
        let failed = |cause| GgufError::Open {
            path: path.to_owned(),
            cause,
        };
        let bytes = FileBytes::open(path, access).map_err(failed)?;
        let header = Header::parse(&bytes).map_err(|error| error.at(path))?;
        Ok((Self(bytes), header))
    }

    /// All of its bytes.
    pub(super) fn contents(&self) -> &FileBytes {
        &self.0
    }

    /// The blocks of one of its tensors.
    pub(super) fn bytes(&self, tensor: &Tensor) -> &[u8] {
        &self.0[tensor.start..tensor.start + tensor.bytes]
    }

    /// The file's size in bytes.
    pub(super) fn length(&self) -> u64 {
        self.0.len() as u64
    }
}

/// Checks that the file at `path`, alone if it is one of a set, is a complete GGUF file, whatever the types of its tensors.
///
/// # Errors
/// What is wrong with it.
pub fn check(path: &Path) -> Result<(), GgufError> {
    match GgufFile::open(path, FileAccess::Map) {
        Ok(_) | Err(GgufError::UnsupportedType { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What the header says.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    pub(super) metadata: Metadata,
    pub(super) tensors: HashMap<String, Tensor>,
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let (listing, problem) = Listing::of(bytes);
        if let Some(problem) = problem {
            return Err(problem);
        }
        let data = listing.data;
        let mut header = Self {
            metadata: Metadata::default(),
            tensors: HashMap::with_capacity(listing.tensors.len()),
        };
        for pair in listing.pairs {
            header.metadata.insert(pair.key, pair.value);
        }
        for listed in listing.tensors {
            let (Ok(kind), Some(bytes)) = (listed.kind, listed.bytes) else {
                unreachable!("of another type it would be a problem");
            };
            let tensor = Tensor {
                kind,
                shape: listed.shape,
                file: 0,
                start: data + listed.offset,
                bytes,
            };
            header.tensors.insert(listed.name, tensor);
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests;
