//! Reads safetensors files: names, shapes and bytes of tensors. The `safetensors` crate parses and validates the
//! header; this module gives access to tensors of floats only.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, SafeTensors};

use crate::file_bytes::{FileAccess, FileBytes};

#[cfg(test)]
mod tests;

/// Maximum number of dimensions of a tensor, as in GGUF files.
const MAX_DIMENSIONS: usize = 4;

/// Size in bytes of the header length field at the start of the file.
const LENGTH_BYTES: usize = 8;

/// Why a safetensors file cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SafetensorsError {
    /// The file cannot be opened or mapped.
    #[error("cannot open {path}: {cause}")]
    Open {
        /// The file's path.
        path: PathBuf,
        /// The operating system's error.
        cause: std::io::Error,
    },
    /// The header is malformed, or does not match the file's size.
    #[error("{path} is not a valid safetensors file: {reason}")]
    Malformed {
        /// The file's path.
        path: PathBuf,
        /// What is wrong with the header.
        reason: String,
    },
}

/// The floating-point type of a tensor's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FloatType {
    /// IEEE 754 single precision, 4 bytes.
    F32,
    /// IEEE 754 half precision, 2 bytes.
    F16,
    /// bfloat16: the upper 2 bytes of an `f32`.
    Bf16,
}

/// A tensor of floats in an open file.
#[derive(Debug, Clone, Copy)]
pub struct Tensor<'a> {
    /// The type of the values.
    pub float_type: FloatType,
    /// Size of each dimension in elements; the contiguous dimension is last.
    pub shape: &'a [usize],
    /// The values in row-major order, little-endian.
    pub bytes: &'a [u8],
}

/// An open safetensors file with a validated header.
#[derive(Debug)]
pub struct Safetensors {
    bytes: FileBytes,
    tensors: HashMap<String, TensorLocation>,
}

/// The type, shape and byte range of a tensor. `float_type` is `None` for unusable types, such as integers.
#[derive(Debug)]
struct TensorLocation {
    float_type: Option<FloatType>,
    shape: Vec<usize>,
    byte_range: Range<usize>,
}

impl Safetensors {
    /// Maps or reads the file at `path` and parses its header.
    pub fn open(path: &Path, access: FileAccess) -> Result<Self, SafetensorsError> {
        let bytes = FileBytes::open(path, access).map_err(|cause| SafetensorsError::Open {
            path: path.to_owned(),
            cause,
        })?;
        let tensors = tensor_locations(&bytes).map_err(|reason| SafetensorsError::Malformed {
            path: path.to_owned(),
            reason,
        })?;
        Ok(Self { bytes, tensors })
    }

    /// The names of all tensors of floats, in arbitrary order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let floats = |(name, location): (_, &TensorLocation)| location.float_type.map(|_| name);
        self.tensors.iter().filter_map(floats).map(String::as_str)
    }

    /// The names of all tensors, in arbitrary order.
    pub fn all_names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Returns the tensor named `name`; `None` if the file has no such tensor or its values are not floats.
    pub fn tensor(&self, name: &str) -> Option<Tensor<'_>> {
        let location = self.tensors.get(name)?;
        Some(Tensor {
            float_type: location.float_type?,
            shape: &location.shape,
            bytes: &self.bytes[location.byte_range.clone()],
        })
    }

    /// The whole file, including the header.
    pub fn contents(&self) -> &FileBytes {
        &self.bytes
    }
}

fn tensor_locations(bytes: &[u8]) -> Result<HashMap<String, TensorLocation>, String> {
    let (header, metadata) =
        SafeTensors::read_metadata(bytes).map_err(|error| error.to_string())?;
    let data_offset = LENGTH_BYTES + header;
    let mut locations = HashMap::new();
    for (name, tensor) in metadata.tensors() {
        if tensor.shape.len() > MAX_DIMENSIONS {
            let found = tensor.shape.len();
            return Err(format!(
                "tensor \"{name}\" has {found} dimensions; the maximum is {MAX_DIMENSIONS}"
            ));
        }
        let (start, end) = tensor.data_offsets;
        let location = TensorLocation {
            float_type: match tensor.dtype {
                Dtype::F32 => Some(FloatType::F32),
                Dtype::F16 => Some(FloatType::F16),
                Dtype::BF16 => Some(FloatType::Bf16),
                _ => None,
            },
            shape: tensor.shape.clone(),
            byte_range: data_offset + start..data_offset + end,
        };
        locations.insert(name, location);
    }
    Ok(locations)
}
