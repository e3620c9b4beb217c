//! Safetensors files: the names, shapes and places of tensors, and their bytes from the mapped file. The header is
//! read and checked by the crate `safetensors`; what of it can be computed with is decided here.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};

use crate::file_bytes::{FileAccess, FileBytes};

#[cfg(test)]
mod tests;

/// Most dimensions of a tensor, as in GGUF files.
const MAX_DIMENSIONS: usize = 4;

/// Bytes before the header: its length.
const LENGTH_BYTES: usize = 8;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    /// The operating system refused.
    #[error("cannot open {path}: {cause}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: std::io::Error,
    },
    /// The header is not one, or does not fit the file.
    #[error("{path} is not a safetensors file that can be read: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What a tensor's values are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// Single precision.
    F32,
    /// Half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
}

/// One tensor.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// What its values are.
    pub element: Element,
    /// Its sizes, contiguous dimension last.
    pub shape: &'a [usize],
    /// Its values, little-endian.
    pub bytes: &'a [u8],
}

/// An open file: its header read and checked.
#[derive(Debug)]
pub struct Safetensors {
    bytes: FileBytes,
    tensors: HashMap<String, Place>,
}

/// Where a tensor lies and what it is; without an element what cannot be computed with (integers, say).
#[derive(Debug)]
struct Place {
    element: Option<Element>,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

impl Safetensors {
    /// Maps or reads the file at `path` and reads its header.
    pub fn open(path: &Path, access: FileAccess) -> Result<Self, SafetensorsError> {
        let bytes = FileBytes::open(path, access).map_err(|cause| SafetensorsError::Open {
            path: path.to_owned(),
            cause,
        })?;
        let tensors = places(&bytes).map_err(|reason| SafetensorsError::Malformed {
            path: path.to_owned(),
            reason,
        })?;
        Ok(Self { bytes, tensors })
    }

    /// The names of the tensors that [`Safetensors::tensor`] gives, in no order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let given = |(name, place): (_, &Place)| place.element.map(|_| name);
        self.tensors.iter().filter_map(given).map(String::as_str)
    }

    /// The names of all tensors, in no order.
    pub fn all_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The tensor of that name, if its values are floats.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let place = self.tensors.get(name)?;
        Some(Tensor {
            element: place.element?,
            shape: &place.shape,
            bytes: &self.bytes[place.bytes.clone()],
        })
    }

    /// All of the file's bytes.
    pub fn contents(&self) -> &FileBytes {
        &self.bytes
    }
}

fn places(bytes: &[u8]) -> Result<HashMap<String, Place>, String> {
    let (header, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let data = LENGTH_BYTES + header;
    let mut places = HashMap::new();
    for (name, tensor) in metadata.tensors() {
        if tensor.shape.len() > MAX_DIMENSIONS {
            let found = tensor.shape.len();
            return Err(format!(
                "tensor \"{name}\" has {found} dimensions; {MAX_DIMENSIONS} are the most"
            ));
        }
        let (start, end) = tensor.data_offsets;
        let place = Place {
            element: match tensor.dtype {
                Dtype::F32 => Some(Element::F32),
                Dtype::F16 => Some(Element::F16),
                Dtype::BF16 => Some(Element::Bf16),
                _ => None,
            },
            shape: tensor.shape.clone(),
            bytes: data + start..data + end,
        };
        places.insert(name, place);
    }
    Ok(places)
}
