//! A model's tensors by GGUF's names, wherever they are stored: in GGUF files, or in a safetensors file, whose names
//! its family translates.

use std::collections::HashMap;
use std::sync::Arc;

use super::GraphError;
use crate::gguf::{Gguf, TensorType};
use crate::safetensors::{Element, Safetensors};

/// The tensors of an open model.
#[derive(Debug, Clone)]
pub struct Tensors(Arc<Store>);

#[derive(Debug)]
enum Store {
    Gguf(Arc<Gguf>),
    Safetensors {
        file: Safetensors,
        /// From GGUF's names to the file's.
        names: HashMap<String, String>,
    },
}

/// One tensor.
#[derive(Debug, Clone)]
pub struct Tensor<'a> {
    /// The type of its blocks.
    pub kind: TensorType,
    /// Its sizes, contiguous dimension first.
    pub shape: Vec<usize>,
    /// Its blocks.
    pub bytes: &'a [u8],
}

impl Tensor<'_> {
    /// Values of a row: the contiguous dimension.
    pub fn columns(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// Rows of such values.
    pub fn rows(&self) -> usize {
        self.shape.iter().skip(1).product()
    }

    /// All values as floats, row after row.
    pub fn dequantised(&self) -> Vec<f32> {
        let mut values = vec![0.0; self.columns() * self.rows()];
        self.kind.dequantise(self.bytes, &mut values);
        values
    }

    /// The blocks of row `row`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &[u8] {
        let bytes = self.columns() / self.kind.block_values() * self.kind.block_bytes();
        &self.bytes[row * bytes..(row + 1) * bytes]
    }
}

impl From<Arc<Gguf>> for Tensors {
    fn from(gguf: Arc<Gguf>) -> Self {
        Self(Arc::new(Store::Gguf(gguf)))
    }
}

impl Tensors {
    /// The tensors of a safetensors file; `standard` gives the name in GGUF of one that the file names otherwise, and
    /// none for what is not needed.
    ///
    /// # Errors
    /// Two have one name in GGUF.
    pub(super) fn renamed(
        file: Safetensors,
        standard: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, GraphError> {
        let mut names = HashMap::new();
        for name in file.names() {
            let Some(standard) = standard(name) else {
                continue;
            };
            if let Some(other) = names.insert(standard.clone(), name.to_owned()) {
                let problem = format!("the tensors «{other}» and «{name}» are both «{standard}»");
                return Err(GraphError::Inconsistent(problem));
            }
        }
        Ok(Self(Arc::new(Store::Safetensors { file, names })))
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<Tensor<'_>> {
        match &*self.0 {
            Store::Gguf(gguf) => gguf.tensor(name).map(|tensor| Tensor {
                kind: tensor.kind,
                shape: tensor.shape.clone(),
                bytes: gguf.bytes(tensor),
            }),
            Store::Safetensors { file, names } => {
                file.tensor(names.get(name)?).map(|tensor| Tensor {
                    kind: match tensor.element {
                        Element::F32 => TensorType::F32,
                        Element::F16 => TensorType::F16,
                        Element::Bf16 => TensorType::Bf16,
                    },
                    shape: tensor.shape.iter().rev().copied().collect(),
                    bytes: tensor.bytes,
                })
            }
        }
    }

    /// All names, in no order.
    pub fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &*self.0 {
            Store::Gguf(gguf) => Box::new(gguf.tensors().map(|(name, _)| name)),
            Store::Safetensors { names, .. } => Box::new(names.keys().map(String::as_str)),
        }
    }

    /// All tensors with their names, in no order.
    pub fn all(&self) -> impl Iterator<Item = (&str, Tensor<'_>)> {
        self.names()
            .filter_map(|name| self.get(name).map(|tensor| (name, tensor)))
    }

    /// The bytes of each file, in order.
    pub fn contents(&self) -> Vec<&[u8]> {
        match &*self.0 {
            Store::Gguf(gguf) => gguf.contents().collect(),
            Store::Safetensors { file, .. } => vec![file.contents()],
        }
    }

    /// The size of all files in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.contents().iter().map(|bytes| bytes.len() as u64).sum()
    }
}
