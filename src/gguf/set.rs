//! A model's file, or the files of the set that it was cut into (llama.cpp's `gguf-split`): the first has the
//! metadata, and each has some of the tensors.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::listing::Listing;
use super::metadata::{Metadata, MetadataError, Optional};
use super::reader::{GgufError, GgufFile, Tensor};
use crate::file_bytes::{FileAccess, FileBytes};

/// Most files of a set.
const MAX_FILES: usize = 1000;

/// A model's files, open: their headers read and checked.
#[derive(Debug)]
pub struct Gguf {
    files: Vec<GgufFile>,
    metadata: Metadata,
    tensors: HashMap<String, Tensor>,
}

impl Gguf {
    /// Maps or reads the file at `path`, and if it is the first of a set, the others beside it; parses their headers.
    pub fn open(path: &Path, access: FileAccess) -> Result<Self, GgufError> {
        let (first, header) = GgufFile::open(path, access)?;
        let place = Place::of(&header.metadata).map_err(|reason| not_in_order(path, reason))?;
        let mut model = Self {
            files: vec![first],
            metadata: header.metadata,
            tensors: header.tensors,
        };
        let Some(place) = place else {
            return Ok(model);
        };
        if place.number != 0 {
            return Err(not_in_order(path, format!("it is {place}; name the first")));
        }
        for number in 1..place.count {
            let other = sibling(path, number, place.count)?;
            model.add(&other, access, Place { number, ..place })?;
        }
        match model.tensors.len() {
            found if found == place.tensors => Ok(model),
            found => {
                let wanted = place.tensors;
                let reason = format!("its files have {found} tensors together, not {wanted}");
                Err(not_in_order(path, reason))
            }
        }
    }

    /// Adds the file at `path`, which is to be that one of the set.
    fn add(&mut self, path: &Path, access: FileAccess, wanted: Place) -> Result<(), GgufError> {
        let (file, header) = GgufFile::open(path, access)?;
        let wrong = |reason| not_in_order(path, reason);
        match Place::of(&header.metadata).map_err(wrong)? {
            Some(found) if found == wanted => {}
            Some(found) => return Err(wrong(format!("it is {found}, not {wanted}"))),
            None => return Err(wrong(format!("it is alone, not {wanted}"))),
        }
        for (name, mut tensor) in header.tensors {
            tensor.file = self.files.len();
            if self.tensors.insert(name.clone(), tensor).is_some() {
                return Err(wrong(format!(
                    "the tensor \"{name}\" is in a file before it, too"
                )));
            }
        }
        self.files.push(file);
        Ok(())
    }

    /// The header's pairs, of a set the first file's.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All tensors, in no order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The tensor's blocks.
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        self.files[tensor.file].bytes(tensor)
    }

    /// The bytes of each file, in order.
    pub fn contents(&self) -> impl Iterator<Item = &FileBytes> {
        self.files.iter().map(GgufFile::contents)
    }

    /// What stands in each file's header, in order.
    pub fn listings(&self) -> impl Iterator<Item = Listing> {
        self.contents().map(|bytes| Listing::of(bytes).0)
    }

    /// The size of all files in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(GgufFile::length).sum()
    }
}

/// What a file says of its set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// Counted from 0.
    number: usize,
    /// Files of the set.
    count: usize,
    /// Tensors of all its files.
    tensors: usize,
}

impl Place {
    /// None: it is no part of a set.
    fn of(metadata: &Metadata) -> Result<Option<Self>, String> {
        let in_words = |error: MetadataError| error.to_string();
        let count = metadata.count("split.count").optional();
        match count.map_err(in_words)? {
            None | Some(0 | 1) => Ok(None),
            Some(count @ 2..=MAX_FILES) => Ok(Some(Self {
                number: metadata.count("split.no").map_err(in_words)?,
                count,
                tensors: metadata.count("split.tensors.count").map_err(in_words)?,
            })),
            Some(count) => Err(format!("a set of {count} files is more than {MAX_FILES}")),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            number,
            count,
            tensors,
        } = self;
        let number = number + 1;
        write!(
            formatter,
            "number {number} of {count} files with {tensors} tensors"
        )
    }
}

/// Where another file of the set is whose first is at `path`.
fn sibling(path: &Path, number: usize, count: usize) -> Result<PathBuf, GgufError> {
    let ending = |number: usize| format!("-{number:05}-of-{count:05}.gguf");
    let name = path.file_name().and_then(|name| name.to_str());
    match name.and_then(|name| name.strip_suffix(&ending(1))) {
        Some(stem) => Ok(path.with_file_name(format!("{stem}{}", ending(number + 1)))),
        None => {
            let reason = format!(
                "its name does not end with {}, so the others are not found",
                ending(1)
            );
            Err(not_in_order(path, reason))
        }
    }
}

fn not_in_order(path: &Path, reason: String) -> GgufError {
    GgufError::Set {
        path: path.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests;
