//! What stands in a GGUF file's header, in its order, as far as it can be read. No bytes make it panic or allocate more
//! than a small multiple of their number.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use super::metadata::Value;
use super::quant::TensorType;
use super::reader::GgufError;
use crate::file_bytes::{FileAccess, FileBytes};

/// Most dimensions of a tensor (ggml's `GGML_MAX_DIMS`).
const MAX_DIMENSIONS: u32 = 4;
/// Most tensors and most key-value pairs of a file.
const MAX_ENTRIES: u64 = 1 << 16;
/// Most elements of all arrays of a file: in memory each takes up to 32 times the bytes that it takes in the file. The largest
/// known tokenizers have a tenth.
const MAX_ARRAY_ELEMENTS: usize = 1 << 24;
/// How deep arrays may be nested.
const MAX_ARRAY_DEPTH: usize = 4;
/// Where tensors begin if the file does not say ([`ALIGNMENT_KEY`]).
pub(super) const DEFAULT_ALIGNMENT: usize = 32;
/// Says where tensors begin.
pub(super) const ALIGNMENT_KEY: &str = "general.alignment";

/// A header as it stands in its file.
#[derive(Debug, Default)]
pub struct Listing {
    /// The format's version.
    pub version: u32,
    /// The key-value pairs.
    pub pairs: Vec<ListedPair>,
    /// The tensors.
    pub tensors: Vec<ListedTensor>,
    /// Tensors begin at multiples of so many bytes.
    pub alignment: usize,
    /// Where the tensors' data begin.
    pub(super) data: usize,
}

/// A key-value pair.
#[derive(Debug)]
pub struct ListedPair {
    /// The key; what is no UTF-8 was replaced.
    pub key: String,
    /// The value.
    pub value: Value,
    /// The bytes of all of it in its file.
    pub place: Range<usize>,
}

/// A tensor.
#[derive(Debug)]
pub struct ListedTensor {
    /// Its name; what is no UTF-8 was replaced.
    pub name: String,
    /// The type of its blocks; the error is the name of one that is not supported.
    pub kind: Result<TensorType, String>,
    /// Values along each dimension, the contiguous one first.
    pub shape: Vec<usize>,
    /// Bytes of its blocks, if the type is known.
    pub bytes: Option<usize>,
    /// Counted from where all data begin.
    pub(super) offset: usize,
}

/// An error before the path is known.
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
    pub(super) fn at(self, path: &Path) -> GgufError {
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

impl Listing {
    /// What can be read of the header of the file at `path`, alone if it is one of a set.
    ///
    /// # Errors
    /// Nothing can.
    pub fn open(path: &Path) -> Result<Self, GgufError> {
        let bytes = FileBytes::open(path, FileAccess::Map);
        let bytes = bytes.map_err(|cause| GgufError::Open {
            path: path.to_owned(),
            cause,
        })?;
        match Self::of(&bytes) {
            (Self { pairs, tensors, .. }, Some(problem))
                if pairs.is_empty() && tensors.is_empty() =>
            {
                Err(problem.at(path))
            }
            (listing, _) => Ok(listing),
        }
    }

    /// What can be read of these bytes of a file, and why that is not all, or not enough to compute with.
    pub(super) fn of(bytes: &[u8]) -> (Self, Option<HeaderError>) {
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
        let tensor_count = cursor.entries("tensors")?;
        let pair_count = cursor.entries("key-value pairs")?;

        let mut seen = HashSet::new();
        for _ in 0..pair_count {
            let start = cursor.position;
            let key = cursor.string()?;
            let kind = cursor.u32()?;
            let value = cursor.value(kind, 0)?;
            if !seen.insert(key.clone()) {
                return Err(cursor.malformed(&format!("the key \"{key}\" stands twice")));
            }
            let place = start..cursor.position;
            self.pairs.push(ListedPair { key, value, place });
        }
        self.alignment = self.said_alignment()?;

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
                return Err(cursor.malformed(&format!("the tensor \"{name}\" stands twice")));
            }
            self.tensors.push(tensor);
        }
        self.data = cursor.position.next_multiple_of(self.alignment);
        self.check_places(bytes.len())
    }

    fn said_alignment(&self) -> Result<usize, HeaderError> {
        let said = self.pairs.iter().find(|pair| pair.key == ALIGNMENT_KEY);
        match said.map(|pair| pair.value.as_integer()) {
            None => Ok(DEFAULT_ALIGNMENT),
            Some(Some(bytes @ 1..=65_536)) if bytes & (bytes - 1) == 0 => Ok(bytes as usize),
            Some(_) => Err(HeaderError::Malformed(
                "general.alignment is not a power of two up to 65,536".to_owned(),
            )),
        }
    }

    /// Each tensor whose size is known lies within the file, which has so many bytes.
    fn check_places(&self, length: usize) -> Result<(), HeaderError> {
        let mut cut: Option<(&str, u64)> = None;
        for ListedTensor {
            name,
            bytes,
            offset,
            ..
        } in &self.tensors
        {
            if !offset.is_multiple_of(self.alignment) {
                return Err(HeaderError::Malformed(format!(
                    "tensor \"{name}\" does not begin at a multiple of {} bytes",
                    self.alignment
                )));
            }
            let start = self.data.checked_add(*offset);
            let end = start.and_then(|start| start.checked_add(bytes.unwrap_or(0)));
            if end.is_some_and(|end| end <= length) {
                continue;
            }
            let end = end.map_or(u64::MAX, |end| end as u64);
            if cut.is_none_or(|(_, first)| end < first) {
                cut = Some((name, end));
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
}

/// Reads little-endian words one after the other.
struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
    /// Of the arrays so far.
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
                "the header ends at byte {}, where {count} more bytes are expected",
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
            version if matches!(version.swap_bytes(), 1..=3) => {
                Err(HeaderError::Malformed("it is big-endian".to_owned()))
            }
            version => Err(HeaderError::Malformed(format!(
                "its version is {version}; 2 and 3 can be read"
            ))),
        }
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

    /// A tensor's line.
    fn tensor(&mut self) -> Result<ListedTensor, HeaderError> {
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
                "the rows of tensor \"{name}\" have {columns} values, no whole number of {} blocks",
                kind.name()
            )));
        }
        let values = shape
            .iter()
            .try_fold(1usize, |product, size| product.checked_mul(*size))
            .filter(|values| *values > 0);
        // Of an unknown type, as if a value were a byte: what is checked is that they can be counted.
        let (block_values, block_bytes) = match kind {
            Ok(kind) => (kind.block_values(), kind.block_bytes()),
            Err(_) => (1, 1),
        };
        let bytes = values.and_then(|values| (values / block_values).checked_mul(block_bytes));
        match (bytes, usize::try_from(offset)) {
            (Some(bytes), Ok(offset)) => Ok(ListedTensor {
                bytes: kind.is_ok().then_some(bytes),
                name,
                kind,
                shape,
                offset,
            }),
            _ => Err(self.malformed(&format!(
                "tensor \"{name}\" has the impossible shape {shape:?} or offset {offset}"
            ))),
        }
    }
}
