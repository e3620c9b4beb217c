//! Opens a single GGUF file, validates its whole header, and gives access to tensor bytes.

use std::collections::HashMap;
use std::path::Path;

use super::error::GgufError;
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
