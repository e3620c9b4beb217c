//! Parses a GGUF header in file order, up to the first malformed entry. For any input, the parser does not panic, and
//! allocates at most a small multiple of the file's size.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use super::error::GgufError;
use super::metadata::Value;
use super::quant::TensorType;
use crate::file_bytes::{FileAccess, FileBytes};

/// Maximum number of dimensions of a tensor (ggml's `GGML_MAX_DIMS`).
const MAX_DIMENSIONS: u32 = 4;
/// Maximum number of tensors, and of key-value pairs, in a file.
const MAX_ENTRIES: u64 = 1 << 16;
/// Maximum total number of array elements in a file. In memory, an element takes up to 32 times its size in the file.
/// The largest known tokenizers have a tenth of this number of elements.
const MAX_ARRAY_ELEMENTS: usize = 1 << 24;
/// Maximum nesting depth of arrays.
const MAX_ARRAY_DEPTH: usize = 4;
/// Alignment of tensor data in bytes, unless [`ALIGNMENT_KEY`] is set.
pub(super) const DEFAULT_ALIGNMENT: usize = 32;
/// The metadata key of the alignment of tensor data in bytes.
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";

/// A parsed header with entries in file order. If the header is malformed, the listing ends before the malformed entry.
#[derive(Debug, Default)]
pub struct HeaderListing {
    /// The GGUF version: 2 or 3.
    pub version: u32,
    /// The key-value pairs.
    pub metadata: Vec<MetadataEntry>,
    /// The header entries of the tensors.
    pub tensors: Vec<TensorInfo>,
    /// Alignment of tensor data in bytes.
    pub alignment: usize,
    /// Byte offset of the tensor data section in the file.
    pub(super) data_offset: usize,
}

/// A key-value pair of the header.
#[derive(Debug)]
pub struct MetadataEntry {
    /// The key; invalid UTF-8 is replaced by U+FFFD.
    pub key: String,
    /// The value, with integers and floats widened to 64 bits.
    pub value: Value,
    /// The byte range of the entry in the file: key, value type and value.
    pub byte_range: Range<usize>,
}

/// A tensor's entry in the header.
#[derive(Debug)]
pub struct TensorInfo {
    /// The name; invalid UTF-8 is replaced by U+FFFD.
    pub name: String,
    /// The tensor type, or the name of an unsupported type.
    pub kind: Result<TensorType, String>,
    /// Size of each dimension in elements; the contiguous dimension is first.
    pub shape: Vec<usize>,
    /// Length of the tensor's data in bytes; `None` if the type is not supported.
    pub byte_length: Option<usize>,
    /// Byte offset relative to the start of the tensor data section.
    pub(super) offset: usize,
}

/// A header error. [`Self::with_path`] adds the file's path.
#[derive(Debug)]
pub(super) enum HeaderError {
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
    pub(super) fn with_path(self, path: &Path) -> GgufError {
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

impl HeaderListing {
    /// Parses the header of the file at `path`. Does not open the other shards of a split model.
    ///
    /// # Errors
    /// If the file cannot be opened, or no entry of the header is readable.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let bytes = FileBytes::open(path, FileAccess::Map);
        let bytes = bytes.map_err(|cause| GgufError::Open {
            path: path.to_owned(),
            cause,
        })?;
        match Self::parse(&bytes) {
            (
                Self {
                    metadata, tensors, ..
                },
                Some(error),
            ) if metadata.is_empty() && tensors.is_empty() => Err(error.with_path(path)),
            (listing, _) => Ok(listing),
        }
    }

    /// Parses the header at the start of `bytes`. The error, if any, says why the listing is incomplete, or why the
    /// file cannot be used.
    pub(super) fn parse(bytes: &[u8]) -> (Self, Option<HeaderError>) {
        let mut listing = Self::default();
        let mut unsupported = None;
        let read = listing.read(bytes, &mut unsupported);
        (listing, unsupported.or(read.err()))
    }

    fn read(
        &mut self,
        bytes: &[u8],
        unsupported: &mut Option<HeaderError>,
    ) -> Result<(), HeaderError> {
        let mut cursor = Cursor {
            bytes,
            position: 0,
            array_elements: 0,
        };
        if cursor.take(4)? != b"GGUF" {
            return Err(HeaderError::Malformed(
                "it does not begin with \"GGUF\"".to_owned(),
            ));
        }
        self.version = cursor.version()?;
        let tensor_count = cursor.entry_count("tensors")?;
        let pair_count = cursor.entry_count("key-value pairs")?;

        let mut seen = HashSet::new();
        for _ in 0..pair_count {
            let start = cursor.position;
            let key = cursor.string()?;
            let kind = cursor.u32()?;
            let value = cursor.value(kind, 0)?;
            if !seen.insert(key.clone()) {
                return Err(cursor.malformed(&format!("duplicate key \"{key}\"")));
            }
            let byte_range = start..cursor.position;
            self.metadata.push(MetadataEntry {
                key,
                value,
                byte_range,
            });
        }
        self.alignment = self.declared_alignment()?;

        seen.clear();
        for _ in 0..tensor_count {
            let tensor = cursor.tensor()?;
            let name = &tensor.name;
            if let (Err(kind), None) = (&tensor.kind, &unsupported) {
                *unsupported = Some(HeaderError::UnsupportedType {
                    tensor: name.clone(),
                    kind: kind.clone(),
                });
            }
            if !seen.insert(name.clone()) {
                return Err(cursor.malformed(&format!("duplicate tensor \"{name}\"")));
            }
            self.tensors.push(tensor);
        }
        self.data_offset = cursor.position.next_multiple_of(self.alignment);
        self.check_tensor_ranges(bytes.len())
    }

    fn declared_alignment(&self) -> Result<usize, HeaderError> {
        let declared = self
            .metadata
            .iter()
            .find(|entry| entry.key == ALIGNMENT_KEY);
        match declared.map(|entry| entry.value.as_integer()) {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(Some(bytes @ 1..=65_536)) if bytes & (bytes - 1) == 0 => Ok(bytes as usize),
            Some(_) => Err(HeaderError::Malformed(
                "general.alignment is not a power of two up to 65536".to_owned(),
            )),
        }
    }

    /// Checks that each tensor is aligned and lies within the file of `length` bytes. Unsupported types have an unknown
    /// size, which counts as 0.
    fn check_tensor_ranges(&self, length: usize) -> Result<(), HeaderError> {
        let mut truncated: Option<(&str, u64)> = None;
        for TensorInfo {
            name,
            byte_length,
            offset,
            ..
        } in &self.tensors
        {
            if !offset.is_multiple_of(self.alignment) {
                return Err(HeaderError::Malformed(format!(
                    "tensor \"{name}\" does not start at a multiple of {} bytes",
                    self.alignment
                )));
            }
            let start = self.data_offset.checked_add(*offset);
            let end = start.and_then(|start| start.checked_add(byte_length.unwrap_or(0)));
            if end.is_some_and(|end| end <= length) {
                continue;
            }
            let end = end.map_or(u64::MAX, |end| end as u64);
            if truncated.is_none_or(|(_, first)| end < first) {
                truncated = Some((name, end));
            }
        }
        match truncated {
            None => Ok(()),
            Some((tensor, end)) => Err(HeaderError::Truncated {
                tensor: tensor.to_owned(),
                end,
                length: length as u64,
            }),
        }
    }
}

/// Reads consecutive little-endian values.
struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    /// Total number of array elements, limited to [`MAX_ARRAY_ELEMENTS`].
    array_elements: usize,
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
                "the header ends at byte {}, but {count} more bytes are expected",
                self.bytes.len()
            )));
        }
        let start = self.position;
        self.position += count;
        Ok(&self.bytes[start..self.position])
    }

    fn version(&mut self) -> Result<u32, HeaderError> {
        match self.u32()? {
            version @ (2 | 3) => Ok(version),
            version if matches!(version.swap_bytes(), 1..=3) => Err(HeaderError::Malformed(
                "big-endian files are not supported".to_owned(),
            )),
            version => Err(HeaderError::Malformed(format!(
                "version {version} is not supported; supported versions: 2 and 3"
            ))),
        }
    }

    fn word<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        Ok(self.take(N)?.try_into().expect("take returns N bytes"))
    }

    fn u32(&mut self) -> Result<u32, HeaderError> {
        self.word().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, HeaderError> {
        self.word().map(u64::from_le_bytes)
    }

    /// Reads a number of elements. Fails if this number of elements, of at least `min_element_bytes` bytes each,
    /// exceeds the remaining bytes.
    fn length(&mut self, min_element_bytes: usize) -> Result<usize, HeaderError> {
        let length = self.u64()?;
        usize::try_from(length)
            .ok()
            .filter(|length| {
                length
                    .checked_mul(min_element_bytes)
                    .is_some_and(|n| n <= self.remaining())
            })
            .ok_or_else(|| self.malformed(&format!("a length of {length} exceeds the file's size")))
    }

    fn entry_count(&mut self, kind: &str) -> Result<u64, HeaderError> {
        match self.u64()? {
            count if count <= MAX_ENTRIES => Ok(count),
            count => Err(self.malformed(&format!("{count} {kind}; the maximum is {MAX_ENTRIES}"))),
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
                return Err(self.malformed(&format!("unknown value type {other}")));
            }
        })
    }

    fn array(&mut self, depth: usize) -> Result<Value, HeaderError> {
        if depth >= MAX_ARRAY_DEPTH {
            return Err(self.malformed(&format!(
                "arrays are nested more than {MAX_ARRAY_DEPTH} levels deep"
            )));
        }
        let kind = self.u32()?;
        let min_element_bytes = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8..=12 => 8,
            other => {
                return Err(self.malformed(&format!("unknown value type {other}")));
            }
        };
        let length = self.length(min_element_bytes)?;
        self.array_elements = self.array_elements.saturating_add(length);
        if self.array_elements > MAX_ARRAY_ELEMENTS {
            return Err(self.malformed(&format!(
                "arrays with more than {MAX_ARRAY_ELEMENTS} elements"
            )));
        }
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

    /// Reads the header entry of a tensor.
    fn tensor(&mut self) -> Result<TensorInfo, HeaderError> {
        let name = self.string()?;
        let dimensions = self.u32()?;
        if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
            return Err(self.malformed(&format!("tensor \"{name}\" has {dimensions} dimensions")));
        }
        let shape: Vec<usize> = (0..dimensions)
            .map(|_| {
                self.u64()
                    .map(|size| usize::try_from(size).unwrap_or(usize::MAX))
            })
            .collect::<Result<_, _>>()?;
        let kind = TensorType::from_id(self.u32()?);
        let offset = self.u64()?;

        let columns = shape[0];
        if let Ok(kind) = kind
            && !columns.is_multiple_of(kind.block_values())
        {
            return Err(self.malformed(&format!(
                "the rows of tensor \"{name}\" have {columns} values, which is not a whole number of {} blocks",
                kind.name()
            )));
        }
        let values = shape
            .iter()
            .try_fold(1usize, |product, size| product.checked_mul(*size))
            .filter(|values| *values > 0);
        // The size of unsupported types is unknown. One byte per value still detects overflow.
        let (block_values, block_bytes) = match kind {
            Ok(kind) => (kind.block_values(), kind.block_bytes()),
            Err(_) => (1, 1),
        };
        let byte_length =
            values.and_then(|values| (values / block_values).checked_mul(block_bytes));
        match (byte_length, usize::try_from(offset)) {
            (Some(byte_length), Ok(offset)) => Ok(TensorInfo {
                byte_length: kind.is_ok().then_some(byte_length),
                name,
                kind,
                shape,
                offset,
            }),
            _ => Err(self.malformed(&format!(
                "tensor \"{name}\" has the invalid shape {shape:?} or offset {offset}"
            ))),
        }
    }
}
