//! Splits a GGUF file into shards, as llama.cpp's `gguf-split` does.

use std::fs;
use std::path::{Path, PathBuf};

use memchr::memmem;
use ortolan::file_bytes::FileAccess;
use ortolan::gguf::Gguf;

/// Alignment of tensor data in bytes: GGUF's default.
const ALIGNMENT: usize = 32;

/// Writes the shards and returns their paths in order.
pub(crate) fn split(model: &Path, folder: &Path, count: usize) -> Vec<PathBuf> {
    let whole = fs::read(model).unwrap();
    let gguf = Gguf::open(model, FileAccess::Map).unwrap();
    // For each tensor: offset of its info in the header; the info (name, shape, type) without the data offset; its
    // data.
    let mut tensors: Vec<(usize, &[u8], &[u8])> = gguf
        .tensors()
        .map(|(name, tensor)| {
            let dimensions = tensor.shape.len() as u32;
            let length = (name.len() as u64).to_le_bytes();
            let prefix = [&length, name.as_bytes(), &dimensions.to_le_bytes()].concat();
            let start = memmem::find(&whole, &prefix).unwrap();
            let end = start + prefix.len() + 8 * tensor.shape.len() + 4;
            (start, &whole[start..end], gguf.bytes(tensor))
        })
        .collect();
    tensors.sort();
    let pairs = &whole[24..tensors[0].0];
    let pair_count = u64::from_le_bytes(whole[16..24].try_into().unwrap());
    let tensors_per_shard = tensors.len().div_ceil(count);
    let path = |number: usize| folder.join(format!("m-{:05}-of-{count:05}.gguf", number + 1));
    for (number, shard_tensors) in tensors.chunks(tensors_per_shard).enumerate() {
        let (pairs, pair_count) = match number {
            0 => (pairs, pair_count),
            _ => (&[][..], 0),
        };
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((shard_tensors.len() as u64).to_le_bytes());
        bytes.extend((pair_count + 3).to_le_bytes());
        bytes.extend(pairs);
        for (key, value) in [
            ("split.no", number),
            ("split.count", count),
            ("split.tensors.count", tensors.len()),
        ] {
            bytes.extend((key.len() as u64).to_le_bytes());
            bytes.extend(key.as_bytes());
            bytes.extend(4u32.to_le_bytes());
            bytes.extend((value as u32).to_le_bytes());
        }
        let mut data = Vec::new();
        for (_, info, tensor_data) in shard_tensors {
            bytes.extend(*info);
            bytes.extend((data.len() as u64).to_le_bytes());
            data.extend(*tensor_data);
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(data);
        fs::write(path(number), bytes).unwrap();
    }
    (0..count).map(path).collect()
}
