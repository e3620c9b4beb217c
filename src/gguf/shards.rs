//! Opens a GGUF model that consists of one file or of several shards (llama.cpp's `gguf-split`). The first shard
//! contains the metadata; each shard contains some of the tensors.

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::error::GgufError;
use super::listing::HeaderListing;
use super::metadata::{Metadata, MetadataError, Optional};
use super::reader::{GgufFile, Tensor};
use crate::file_bytes::{FileAccess, FileBytes};

/// Maximum number of shards.
const MAX_SHARDS: usize = 1000;

/// A GGUF model: the open files, and their parsed and validated headers.
#[derive(Debug)]
pub struct Gguf {
    files: Vec<GgufFile>,
    metadata: Metadata,
    tensors: HashMap<String, Tensor>,
}

impl Gguf {
    /// Maps or reads the file at `path`. If the file is the first shard of a split model, opens the other shards in the
    /// same folder.
    pub fn open(path: &Path, access: FileAccess) -> Result<Self, GgufError> {
        let (first, header) = GgufFile::open(path, access)?;
        let shard =
            ShardInfo::read(&header.metadata).map_err(|reason| invalid_shard(path, reason))?;
        let mut model = Self {
            files: vec![first],
            metadata: header.metadata,
            tensors: header.tensors,
        };
        let Some(shard) = shard else {
            return Ok(model);
        };
        if shard.index != 0 {
            return Err(invalid_shard(
                path,
                format!("it is {shard}; pass the path of the first shard"),
            ));
        }
        for index in 1..shard.count {
            let other = shard_path(path, index, shard.count)?;
            model.add_shard(&other, access, ShardInfo { index, ..shard })?;
        }
        match model.tensors.len() {
            found if found == shard.total_tensors => Ok(model),
            found => {
                let expected = shard.total_tensors;
                let reason = format!("the shards have {found} tensors in total, not {expected}");
                Err(invalid_shard(path, reason))
            }
        }
    }

    /// Adds the file at `path`, which must be the shard `expected`.
    fn add_shard(
        &mut self,
        path: &Path,
        access: FileAccess,
        expected: ShardInfo,
    ) -> Result<(), GgufError> {
        let (file, header) = GgufFile::open(path, access)?;
        let invalid = |reason| invalid_shard(path, reason);
        match ShardInfo::read(&header.metadata).map_err(invalid)? {
            Some(found) if found == expected => {}
            Some(found) => return Err(invalid(format!("it is {found}, not {expected}"))),
            None => {
                return Err(invalid(format!(
                    "it is not split, but {expected} is expected"
                )));
            }
        }
        for (name, mut tensor) in header.tensors {
            tensor.file_index = self.files.len();
            if self.tensors.insert(name.clone(), tensor).is_some() {
                return Err(invalid(format!(
                    "tensor \"{name}\" is also in an earlier shard"
                )));
            }
        }
        self.files.push(file);
        Ok(())
    }

    /// The metadata of the file, or of the first shard of a split model.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensor named `name`.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        self.tensors.get(name)
    }

    /// All tensors with their names, in arbitrary order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &Tensor)> {
        self.tensors
            .iter()
            .map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// The bytes of the tensor's blocks.
    pub fn bytes(&self, tensor: &Tensor) -> &[u8] {
        self.files[tensor.file_index].bytes(tensor)
    }

    /// The contents of each file, in shard order.
    pub fn contents(&self) -> impl Iterator<Item = &FileBytes> {
        self.files.iter().map(GgufFile::contents)
    }

    /// The parsed header of each file, in shard order.
    pub fn listings(&self) -> impl Iterator<Item = HeaderListing> {
        self.contents().map(|bytes| HeaderListing::parse(bytes).0)
    }

    /// Total size of all files in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.files.iter().map(GgufFile::length).sum()
    }
}

/// The position of a file in a split model, from its `split.*` metadata.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ShardInfo {
    /// Index of the shard, from 0.
    index: usize,
    /// Number of shards.
    count: usize,
    /// Number of tensors in all shards.
    total_tensors: usize,
}

impl ShardInfo {
    /// Reads the shard information; `None` if the model is not split.
    fn read(metadata: &Metadata) -> Result<Option<Self>, String> {
        let to_text = |error: MetadataError| error.to_string();
        let count = metadata.count("split.count").optional();
        match count.map_err(to_text)? {
            None | Some(0 | 1) => Ok(None),
            Some(count @ 2..=MAX_SHARDS) => Ok(Some(Self {
                index: metadata.count("split.no").map_err(to_text)?,
                count,
                total_tensors: metadata.count("split.tensors.count").map_err(to_text)?,
            })),
            Some(count) => Err(format!("{count} shards; the maximum is {MAX_SHARDS}")),
        }
    }
}

impl fmt::Display for ShardInfo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            index,
            count,
            total_tensors,
        } = self;
        let number = index + 1;
        write!(
            formatter,
            "shard {number} of {count} ({total_tensors} tensors in total)"
        )
    }
}

/// Returns the path of shard `index`, counted from 0, of the model whose first shard is at `path`.
fn shard_path(path: &Path, index: usize, count: usize) -> Result<PathBuf, GgufError> {
    let suffix = |number: usize| format!("-{number:05}-of-{count:05}.gguf");
    let name = path.file_name().and_then(|name| name.to_str());
    match name.and_then(|name| name.strip_suffix(&suffix(1))) {
        Some(stem) => Ok(path.with_file_name(format!("{stem}{}", suffix(index + 1)))),
        None => {
            let reason = format!(
                "its name does not end with {}, so the other shards cannot be found",
                suffix(1)
            );
            Err(invalid_shard(path, reason))
        }
    }
}

fn invalid_shard(path: &Path, reason: String) -> GgufError {
    GgufError::InvalidShard {
        path: path.to_owned(),
        reason,
    }
}

#[cfg(test)]
mod tests;
