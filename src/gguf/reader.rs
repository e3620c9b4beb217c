//! Reads a GGUF file's header and lends the tensors' bytes from the mapped file. No bytes make it
//! panic or allocate more than a small multiple of the file's size.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::metadata::{Metadata, Value};
use super::quant::TensorType;
use crate::file_bytes::{FileAccess, FileBytes};

/// Most dimensions of a tensor (ggml's `GGML_MAX_DIMS`).
const MAX_DIMENSIONS: u32 = 4;
/// Most tensors and most key-value pairs of a file.
const MAX_ENTRIES: u64 = 1 << 16;
/// How deep arrays may be nested.
const MAX_ARRAY_DEPTH: usize = 4;
/// Where tensors begin if the file does not say (`general.alignment`).
const DEFAULT_ALIGNMENT: usize = 32;

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
    #[error("{path} is truncated: tensor «{tensor}» ends at byte {end}, the file at {length}")]
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
    #[error("{path}: tensor «{tensor}» has the type {kind}, which is not supported")]
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
    pub(super) fn contents(&self) -> &[u8] {
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

/// What the header says.
#[derive(Debug, PartialEq)]
pub(super) struct Header {
    pub(super) metadata: Metadata,
    pub(super) tensors: HashMap<String, Tensor>,
}

/// An error before the path is known.
#[derive(Debug)]
enum HeaderError {
    Malformed(String),
    Truncated {
        tensor: String,
        end: u64,
        length: u64,
    },
    UnsupportedType {
        tensor: String,
        kind: String,
    },
}

impl HeaderError {
    fn at(self, path: &Path) -> GgufError {
        let path = path.to_owned();
        match self {
            HeaderError::Malformed(reason) => GgufError::Malformed { path, reason },
            HeaderError::Truncated {
                tensor,
                end,
                length,
            } => GgufError::Truncated {
                path,
                tensor,
                end,
                length,
            },
            HeaderError::UnsupportedType { tensor, kind } => {
                GgufError::UnsupportedType { path, tensor, kind }
            }
        }
    }
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut cursor = Cursor { bytes, position: 0 };
        if cursor.take(4)? != b"GGUF" {
            return Err(HeaderError::Malformed(
                "it does not begin with «GGUF»".to_owned(),
            ));
        }
        match cursor.u32()? {
            2 | 3 => {}
            version if matches!(version.swap_bytes(), 1..=3) => {
                return Err(HeaderError::Malformed("it is big-endian".to_owned()));
            }
            version => {
                return Err(HeaderError::Malformed(format!(
                    "its version is {version}; 2 and 3 can be read"
                )));
            }
        }
        let tensor_count = cursor.entries("tensors")?;
        let pair_count = cursor.entries("key-value pairs")?;

        let mut metadata = Metadata::default();
        for _ in 0..pair_count {
            let key = cursor.string()?;
            let kind = cursor.u32()?;
            let value = cursor.value(kind, 0)?;
            if !metadata.insert(key.clone(), value) {
                return Err(cursor.malformed(&format!("the key «{key}» stands twice")));
            }
        }

        let alignment = match metadata.get("general.alignment").map(Value::as_integer) {
            None => DEFAULT_ALIGNMENT,
            Some(Some(bytes @ 1..=65_536)) if bytes & (bytes - 1) == 0 => bytes as usize,
            Some(_) => {
                return Err(HeaderError::Malformed(
                    "general.alignment is not a power of two up to 65,536".to_owned(),
                ));
            }
        };

        let mut tensors = HashMap::new();
        for _ in 0..tensor_count {
            let name = cursor.string()?;
            let tensor = cursor.tensor(&name)?;
            if tensors.insert(name.clone(), tensor).is_some() {
                return Err(cursor.malformed(&format!("the tensor «{name}» stands twice")));
            }
        }

        let data = cursor.position.next_multiple_of(alignment);
        place(&mut tensors, data, alignment, bytes.len())?;
        Ok(Self { metadata, tensors })
    }
}

/// Turns the tensors' offsets into places in the file, each within it.
fn place(
    tensors: &mut HashMap<String, Tensor>,
    data: usize,
    alignment: usize,
    length: usize,
) -> Result<(), HeaderError> {
    let mut cut: Option<(&str, u64)> = None;
    for (name, tensor) in tensors.iter_mut() {
        if !tensor.start.is_multiple_of(alignment) {
            return Err(HeaderError::Malformed(format!(
                "tensor «{name}» does not begin at a multiple of {alignment} bytes"
            )));
        }
        let start = data.checked_add(tensor.start);
        match start.and_then(|start| start.checked_add(tensor.bytes)) {
            Some(end) if end <= length => tensor.start = end - tensor.bytes,
            end => {
                let end = end.map_or(u64::MAX, |end| end as u64);
                if cut.is_none_or(|(_, first)| end < first) {
                    cut = Some((name, end));
                }
            }
        }
    }
    match cut {
        None => Ok(()),
        Some((tensor, end)) => Err(HeaderError::Truncated {
            tensor: tensor.to_owned(),
            end,
            length: length as u64,
        }),
    }
}

/// Reads little-endian words one after the other.
struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    fn malformed(&self, what: &str) -> HeaderError {
        HeaderError::Malformed(format!("{what} (before byte {})", self.position))
    }

    fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], HeaderError> {
        if count > self.remaining() {
            return Err(HeaderError::Malformed(format!(
                "the header ends at byte {}, where {count} more bytes are expected",
                self.bytes.len()
            )));
        }
        let start = self.position;
        self.position += count;
        Ok(&self.bytes[start..self.position])
    }

    fn word<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        Ok(self.take(N)?.try_into().expect("take gives N bytes"))
    }

    fn u32(&mut self) -> Result<u32, HeaderError> {
        self.word().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, HeaderError> {
        self.word().map(u64::from_le_bytes)
    }

    /// A length in bytes or elements, of which each takes at least `least` bytes of what remains.
    fn length(&mut self, least: usize) -> Result<usize, HeaderError> {
        let length = self.u64()?;
        usize::try_from(length)
            .ok()
            .filter(|length| {
                length
                    .checked_mul(least)
                    .is_some_and(|n| n <= self.remaining())
            })
            .ok_or_else(|| self.malformed(&format!("a length of {length} passes the file's end")))
    }

    fn entries(&mut self, what: &str) -> Result<u64, HeaderError> {
        match self.u64()? {
            count if count <= MAX_ENTRIES => Ok(count),
            count => Err(self.malformed(&format!(
                "{count} {what}; at most {MAX_ENTRIES} can be read"
            ))),
        }
    }

    fn string(&mut self) -> Result<String, HeaderError> {
        let length = self.length(1)?;
        Ok(String::from_utf8_lossy(self.take(length)?).into_owned())
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value, HeaderError> {
        Ok(match kind {
            0 => Value::Unsigned(self.word::<1>()?[0].into()),
            1 => Value::Signed((self.word::<1>()?[0] as i8).into()),
            2 => Value::Unsigned(u16::from_le_bytes(self.word()?).into()),
            3 => Value::Signed(i16::from_le_bytes(self.word()?).into()),
            4 => Value::Unsigned(self.u32()?.into()),
            5 => Value::Signed(i32::from_le_bytes(self.word()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.word()?).into()),
            7 => Value::Bool(self.word::<1>()?[0] != 0),
            8 => Value::String(self.string()?),
            9 => return self.array(depth),
            10 => Value::Unsigned(self.u64()?),
            11 => Value::Signed(i64::from_le_bytes(self.word()?)),
            12 => Value::Float(f64::from_le_bytes(self.word()?)),
            other => {
                return Err(self.malformed(&format!("there is no value type number {other}")));
            }
        })
    }

    fn array(&mut self, depth: usize) -> Result<Value, HeaderError> {
        if depth >= MAX_ARRAY_DEPTH {
            return Err(self.malformed(&format!(
                "arrays are nested more than {MAX_ARRAY_DEPTH} deep"
            )));
        }
        let kind = self.u32()?;
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8..=12 => 8,
            other => {
                return Err(self.malformed(&format!("there is no value type number {other}")));
            }
        };
        let length = self.length(least)?;
        if kind == 8 {
            return (0..length)
                .map(|_| self.string())
                .collect::<Result<_, _>>()
                .map(Value::Strings);
        }
        (0..length)
            .map(|_| self.value(kind, depth + 1))
            .collect::<Result<_, _>>()
            .map(Value::Array)
    }

    /// A tensor with `start` still counted from the data's beginning.
    fn tensor(&mut self, name: &str) -> Result<Tensor, HeaderError> {
        let dimensions = self.u32()?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(self.malformed(&format!("tensor «{name}» has {dimensions} dimensions")));
        }
        let shape: Vec<usize> = (0..dimensions)
            .map(|_| {
                self.u64()
                    .map(|size| usize::try_from(size).unwrap_or(usize::MAX))
            })
            .collect::<Result<_, _>>()?;
        let kind =
            TensorType::from_id(self.u32()?).map_err(|kind| HeaderError::UnsupportedType {
                tensor: name.to_owned(),
                kind,
            })?;
        let offset = self.u64()?;

        let columns = shape[0];
        let values = shape
            .iter()
            .try_fold(1usize, |product, size| product.checked_mul(*size))
            .filter(|values| *values > 0);
        if !columns.is_multiple_of(kind.block_values()) {
            return Err(self.malformed(&format!(
                "the rows of tensor «{name}» have {columns} values, no whole number of {} blocks",
                kind.name()
            )));
        }
        let bytes = values
            .map(|values| values / kind.block_values())
            .and_then(|blocks| blocks.checked_mul(kind.block_bytes()));
        match (bytes, usize::try_from(offset)) {
            (Some(bytes), Ok(start)) => Ok(Tensor {
                kind,
                shape,
                file: 0,
                start,
                bytes,
            }),
            _ => Err(self.malformed(&format!(
                "tensor «{name}» has the impossible shape {shape:?} or offset {offset}"
            ))),
        }
    }
}

#[cfg(test)]
mod tests;
