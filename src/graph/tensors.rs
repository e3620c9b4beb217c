//! A model's tensors by GGUF's names, wherever they are stored: in GGUF files, or in a safetensors file, whose names
//! its family translates.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;

use super::GraphError;
use crate::gguf::quant::{NotQuantisable, Target};
use crate::gguf::{Gguf, TensorType};
use crate::safetensors::{Element, Safetensors, Tensor as StoredTensor};

/// The tensors of an open model.
#[derive(Debug, Clone)]
pub struct Tensors {
    store: Arc<Store>,
    /// What matrices of floats are multiplied as.
    quantised: Option<Target>,
}

#[derive(Debug)]
enum Store {
    Gguf(Arc<Gguf>),
    Safetensors {
        files: Vec<Safetensors>,
        /// From GGUF's names to the file and the name in it.
        names: HashMap<String, (usize, String)>,
        /// What is to be added to the gains of norms.
        missing_gain: f32,
    },
    /// Some of the tensors are another model's.
    Replaced {
        tensors: Tensors,
        by: Tensors,
        names: HashSet<String>,
    },
}

/// One tensor.
#[derive(Debug, Clone)]
pub struct Tensor<'a> {
    /// The type of its blocks.
    pub kind: TensorType,
    /// What it is to be multiplied as, if not as it is.
    pub quantised: Option<Target>,
    /// Its sizes, contiguous dimension first.
    pub shape: Vec<usize>,
    /// Its blocks.
    pub bytes: &'a [u8],
    /// What is to be added to each value.
    pub added: f32,
}

impl<'a> Tensor<'a> {
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
        values.iter_mut().for_each(|value| *value += self.added);
        values
    }

    /// The type of the blocks that it is multiplied as.
    pub fn product_kind(&self) -> TensorType {
        self.quantised.map_or(self.kind, TensorType::from)
    }

    /// Those blocks.
    ///
    /// # Errors
    /// No blocks of that type stand for its numbers.
    pub fn product_blocks(&self) -> Result<Cow<'_, [u8]>, NotQuantisable> {
        match self.quantised {
            None => Ok(Cow::Borrowed(self.bytes)),
            Some(target) => target.requantise(self.kind, self.bytes).map(Cow::Owned),
        }
    }

    /// The blocks of row `row`.
    ///
    /// # Panics
    /// If there is no such row.
    pub fn row(&self, row: usize) -> &'a [u8] {
        self.blocks(row..row + 1)
    }

    /// Writes the numbers of the rows `rows`, which are to be there, to `values`, one row after the other.
    ///
    /// # Panics
    /// If they are not just as many.
    pub fn read_rows(&self, rows: Range<usize>, values: &mut [f32]) {
        self.kind.dequantise(self.blocks(rows), values);
    }

    /// The matrix of the rows `rows`.
    ///
    /// # Panics
    /// If they are not all there.
    pub fn part(&self, rows: Range<usize>) -> Self {
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
            kind: match tensor.element {
                Element::F32 => TensorType::F32,
                Element::F16 => TensorType::F16,
                Element::Bf16 => TensorType::Bf16,
            },
            shape: tensor.shape.iter().rev().copied().collect(),
            quantised: None,
            bytes: tensor.bytes,
            added: 0.0,
        }
    }
}

impl From<Arc<Gguf>> for Tensors {
    fn from(gguf: Arc<Gguf>) -> Self {
        Self {
            store: Arc::new(Store::Gguf(gguf)),
            quantised: None,
        }
    }
}

impl Tensors {
    /// The tensors of safetensors files; `standard` gives the name in GGUF of one that the files name otherwise, and
    /// none for what is not needed. To the gains of norms `missing_gain` is added.
    ///
    /// # Errors
    /// Two have one name in GGUF.
    pub(super) fn renamed(
        files: Vec<Safetensors>,
        missing_gain: f32,
        standard: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, GraphError> {
        let mut names = HashMap::new();
        let all = files.iter().enumerate();
        let all = all.flat_map(|(place, file)| file.names().map(move |name| (place, name)));
        for (place, name) in all {
            let Some(standard) = standard(name) else {
                continue;
            };
            if let Some((_, other)) = names.insert(standard.clone(), (place, name.to_owned())) {
                let problem =
                    format!("the tensors \"{other}\" and \"{name}\" are both \"{standard}\"");
                return Err(GraphError::Inconsistent(problem));
            }
        }
        Ok(Self {
            store: Arc::new(Store::Safetensors {
                files,
                names,
                missing_gain,
            }),
            quantised: None,
        })
    }

    /// The same, but matrices of floats are multiplied as blocks of `target`, where they are some blocks wide.
    pub fn quantised(self, target: Target) -> Self {
        Self {
            quantised: Some(target),
            ..self
        }
    }

    /// The same, but those of these names are those of `by`.
    pub(super) fn replaced(&self, by: Self, names: HashSet<String>) -> Self {
        Self {
            store: Arc::new(Store::Replaced {
                tensors: self.clone(),
                by,
                names,
            }),
            quantised: None,
        }
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<Tensor<'_>> {
        let tensor = self.stored(name)?;
        let is_float = tensor.kind.codes().is_none();
        let fits = |target: &Target| is_float && target.serves(name, &tensor.shape);
        Some(Tensor {
            quantised: self.quantised.filter(fits).or(tensor.quantised),
            ..tensor
        })
    }

    fn stored(&self, name: &str) -> Option<Tensor<'_>> {
        match &*self.store {
            Store::Gguf(gguf) => gguf.tensor(name).map(|tensor| Tensor {
                kind: tensor.kind,
                quantised: None,
                shape: tensor.shape.clone(),
                bytes: gguf.bytes(tensor),
                added: 0.0,
            }),
            Store::Safetensors {
                files,
                names,
                missing_gain,
            } => {
                let (file, in_file) = names.get(name)?;
                files[*file].tensor(in_file).map(|tensor| Tensor {
                    added: if name.ends_with("norm.weight") {
                        *missing_gain
                    } else {
                        0.0
                    },
                    ..Tensor::from(tensor)
                })
            }
            Store::Replaced { tensors, by, names } => match names.contains(name) {
                true => by.get(name),
                false => tensors.get(name),
            },
        }
    }

    /// All names, in no order.
    pub fn names(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        match &*self.store {
            Store::Gguf(gguf) => Box::new(gguf.tensors().map(|(name, _)| name)),
            Store::Safetensors { names, .. } => Box::new(names.keys().map(String::as_str)),
            Store::Replaced { tensors, .. } => tensors.names(),
        }
    }

    /// All tensors with their names, in no order.
    pub fn all(&self) -> impl Iterator<Item = (&str, Tensor<'_>)> {
        self.names()
            .filter_map(|name| self.get(name).map(|tensor| (name, tensor)))
    }

    /// The bytes of each file, in order.
    pub fn contents(&self) -> Vec<&[u8]> {
        match &*self.store {
            Store::Gguf(gguf) => gguf.contents().map(|file| &**file).collect(),
            Store::Safetensors { files, .. } => {
                files.iter().map(|file| &**file.contents()).collect()
            }
            Store::Replaced { tensors, by, .. } => [tensors.contents(), by.contents()].concat(),
        }
    }

    /// Gives back the memory that what was looked at of mapped files takes.
    pub(super) fn release(&self) {
        match &*self.store {
            Store::Gguf(gguf) => gguf.contents().for_each(|file| file.release()),
            Store::Safetensors { files, .. } => {
                files.iter().for_each(|file| file.contents().release());
            }
            Store::Replaced { tensors, by, .. } => {
                [tensors, by].into_iter().for_each(Self::release)
            }
        }
    }

    /// The size of all files in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.contents().iter().map(|bytes| bytes.len() as u64).sum()
    }
}
