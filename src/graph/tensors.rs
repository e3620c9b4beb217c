//! Access to a model's tensors by GGUF name. The tensors are stored in GGUF files, or in safetensors files, whose
//! tensor names the model family translates.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::GraphError;
use crate::gguf::quant::{NotQuantizable, QuantizeTarget};
use crate::gguf::{Gguf, TensorType};
use crate::safetensors::{FloatType, Safetensors, Tensor as StoredTensor};

/// The tensors of an open model. Clones share the open files.
#[derive(Debug, Clone)]
pub struct Tensors {
    store: Arc<Store>,
    /// The type to which float matrices are quantized for matmuls, if any.
    quantize_to: Option<QuantizeTarget>,
}

#[derive(Debug)]
enum Store {
    Gguf(Arc<Gguf>),
    Safetensors {
        files: Vec<Safetensors>,
        /// GGUF name → index of the file, and the tensor's name in the file.
        names: HashMap<String, (usize, String)>,
        /// Offset added to the weights of norms.
        norm_offset: f32,
    },
    /// Tensors of `base`, except those in `names`, which are taken from `overrides`.
    Overridden {
        base: Tensors,
        overrides: Tensors,
        names: HashSet<String>,
    },
}

/// A tensor in an open file.
#[derive(Debug, Clone)]
pub struct Tensor<'a> {
    /// The type of the blocks in the file.
    pub kind: TensorType,
    /// The type to which the tensor is quantized for matmuls; `None` if matmuls use `kind`.
    pub quantize_to: Option<QuantizeTarget>,
    /// Size of each dimension in elements; the contiguous dimension is first.
    pub shape: Vec<usize>,
    /// The blocks in the file, row by row.
    pub bytes: &'a [u8],
    /// Offset added to each value by [`Tensor::dequantized`].
    pub value_offset: f32,
}

impl<'a> Tensor<'a> {
    /// Number of values in a row (the contiguous dimension).
    pub fn columns(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// Returns all values as floats, row by row, with [`Self::value_offset`] added.
    pub fn dequantized(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.columns() * self.rows()];
        self.kind.dequantize(self.bytes, &mut values);
        values
            .iter_mut()
            .for_each(|value| *value += self.value_offset);
        values
    }

    /// The tensor type that matmuls use.
    pub fn matmul_type(&self) -> TensorType {
        self.quantize_to.map_or(self.kind, TensorType::from)
    }

    /// Returns the blocks that matmuls use, quantized if necessary.
    ///
    /// # Errors
    /// If a value cannot be quantized.
    pub fn matmul_blocks(&self) -> Result<Cow<'_, [u8]>, NotQuantizable> {
        match self.quantize_to {
            None => Ok(Cow::Borrowed(self.bytes)),
            Some(target) => target.requantize(self.kind, self.bytes).map(Cow::Owned),
        }
    }

    /// The bytes of row `row`.
    ///
    /// # Panics
    /// If the row does not exist.
    pub fn row(&self, row: usize) -> &'a [u8] {
        self.blocks(row..row + 1)
    }

    /// Dequantizes the rows `rows` to `values`, row by row. Does not add [`Self::value_offset`].
    ///
    /// # Panics
    /// If `values` has another length, or a row does not exist.
    pub fn read_rows(&self, rows: Range<usize>, values: &mut [f32]) {
        self.kind.dequantize(self.blocks(rows), values);
    }

    /// Returns a matrix that consists of the rows `rows`.
    ///
    /// # Panics
    /// If a row does not exist.
    pub fn slice_rows(&self, rows: Range<usize>) -> Self {
        Self {
            shape: vec![self.columns(), rows.len()],
            bytes: self.blocks(rows),
            ..*self
        }
    }

    fn blocks(&self, rows: Range<usize>) -> &'a [u8] {
        let bytes = self.columns() / self.kind.block_values() * self.kind.block_bytes();
        &self.bytes[rows.start * bytes..rows.end * bytes]
    }
}

impl<'a> From<StoredTensor<'a>> for Tensor<'a> {
    fn from(tensor: StoredTensor<'a>) -> Self {
        Self {
            kind: match tensor.float_type {
                FloatType::F32 => TensorType::F32,
                FloatType::F16 => TensorType::F16,
                FloatType::Bf16 => TensorType::Bf16,
            },
            shape: tensor.shape.iter().rev().copied().collect(),
            quantize_to: None,
            bytes: tensor.bytes,
            value_offset: 0.0,
        }
    }
}

impl From<Arc<Gguf>> for Tensors {
    fn from(gguf: Arc<Gguf>) -> Self {
        Self {
            store: Arc::new(Store::Gguf(gguf)),
            quantize_to: None,
        }
    }
}

impl Tensors {
    /// Returns the tensors of safetensors files. `gguf_name` translates a tensor's name, or returns `None` to ignore
    /// the tensor. `norm_offset` is added to the weights of norms.
    ///
    /// # Errors
    /// If two tensors have the same GGUF name.
    pub(super) fn from_safetensors(
        files: Vec<Safetensors>,
        norm_offset: f32,
        gguf_name: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, GraphError> {
        let mut names = HashMap::new();
        let stored = files.iter().enumerate();
        let stored = stored.flat_map(|(index, file)| file.names().map(move |name| (index, name)));
        for (index, name) in stored {
            let Some(gguf_name) = gguf_name(name) else {
                continue;
            };
            if let Some((_, other)) = names.insert(gguf_name.clone(), (index, name.to_owned())) {
                let problem =
                    format!("the tensors \"{other}\" and \"{name}\" are both \"{gguf_name}\"");
                return Err(GraphError::Inconsistent(problem));
            }
        }
        Ok(Self {
            store: Arc::new(Store::Safetensors {
                files,
                names,
                norm_offset,
            }),
            quantize_to: None,
        })
    }

    /// Returns the same tensors, with float matrices quantized to `target` for matmuls if their rows consist of whole
    /// blocks of `target`.
    pub fn quantized_to(self, target: QuantizeTarget) -> Self {
        Self {
            quantize_to: Some(target),
            ..self
        }
    }

    /// Returns the same tensors, except that the tensors in `names` are taken from `overrides`.
    pub(super) fn with_overrides(&self, overrides: Self, names: HashSet<String>) -> Self {
        Self {
            store: Arc::new(Store::Overridden {
                base: self.clone(),
                overrides,
                names,
            }),
            quantize_to: None,
        }
    }

    /// The tensor with the GGUF name `name`.
    pub fn get(&self, name: &str) -> Option<Tensor<'_>> {
        let tensor = self.stored(name)?;
        let is_float = tensor.kind.quant_format().is_none();
        let can_quantize =
            |target: &QuantizeTarget| is_float && target.can_quantize(name, &tensor.shape);
        Some(Tensor {
            quantize_to: self.quantize_to.filter(can_quantize).or(tensor.quantize_to),
            ..tensor
        })
    }

    fn stored(&self, name: &str) -> Option<Tensor<'_>> {
        match &*self.store {
            Store::Gguf(gguf) => gguf.tensor(name).map(|tensor| Tensor {
                kind: tensor.kind,
                quantize_to: None,
                shape: tensor.shape.clone(),
                bytes: gguf.bytes(tensor),
                value_offset: 0.0,
            }),
            Store::Safetensors {
                files,
                names,
                norm_offset,
            } => {
                let (file, stored_name) = names.get(name)?;
                files[*file].tensor(stored_name).map(|tensor| Tensor {
                    value_offset: if name.ends_with("norm.weight") {
                        *norm_offset
                    } else {
                        0.0
                    },
                    ..Tensor::from(tensor)
                })
            }
            Store::Overridden {
                base,
                overrides,
                names,
            } => match names.contains(name) {
                true => overrides.get(name),
                false => base.get(name),
            },
        }
    }

    /// The GGUF names of all tensors, in arbitrary order.
    pub fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &*self.store {
            Store::Gguf(gguf) => Box::new(gguf.tensors().map(|(name, _)| name)),
            Store::Safetensors { names, .. } => Box::new(names.keys().map(String::as_str)),
            Store::Overridden { base, .. } => base.names(),
        }
    }

    /// All tensors with their GGUF names, in arbitrary order.
    pub fn all(&self) -> impl Iterator<Item = (&str, Tensor<'_>)> {
        self.names()
            .filter_map(|name| self.get(name).map(|tensor| (name, tensor)))
    }

    /// The contents of each file, in a fixed order.
    pub fn contents(&self) -> Vec<&[u8]> {
        match &*self.store {
            Store::Gguf(gguf) => gguf.contents().map(|file| &**file).collect(),
            Store::Safetensors { files, .. } => {
                files.iter().map(|file| &**file.contents()).collect()
            }
            Store::Overridden {
                base, overrides, ..
            } => [base.contents(), overrides.contents()].concat(),
        }
    }

    /// Releases the resident pages of mapped files.
    pub(super) fn release(&self) {
        match &*self.store {
            Store::Gguf(gguf) => gguf.contents().for_each(|file| file.release()),
            Store::Safetensors { files, .. } => {
                files.iter().for_each(|file| file.contents().release());
            }
            Store::Overridden {
                base, overrides, ..
            } => [base, overrides].into_iter().for_each(Self::release),
        }
    }

    /// Total size of all files in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.contents().iter().map(|bytes| bytes.len() as u64).sum()
    }
}
