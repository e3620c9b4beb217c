//! Cuts a GGUF file into a set, as llama.cpp's `gguf-split` does.

use std::fs;
use std::path::{Path, PathBuf};

use memchr::memmem;
use ortolan::file_bytes::FileAccess;
use ortolan::gguf::Gguf;

/// Where a tensor's data begin: the default of GGUF.
const ALIGNMENT: usize = 32;

/// Writes the set and answers its files, the first one first.
pub(crate) fn split(model: &Path, folder: &Path, count: usize) -> Vec<PathBuf> {
    let whole = fs::read(model).unwrap();
    let gguf = Gguf::open(model, FileAccess::Map).unwrap();
    // A tensor's line in the header: its name, its shape, its type, and where its data begin.
    let mut tensors: Vec<(usize, &[u8], &[u8])> = gguf
        .tensors()
        .map(|(name, tensor)| {
            let dimensions = tensor.shape.len() as u32;
            let length = (name.len() as u64).to_le_bytes();
            let begin = [&length, name.as_bytes(), &dimensions.to_le_bytes()].concat();
            let place = memmem::find(&whole, &begin).unwrap();
            let end = place + begin.len() + 8 * tensor.shape.len() + 4;
            (place, &whole[place..end], gguf.bytes(tensor))
        })
        .collect();
    tensors.sort();
    let pairs = &whole[24..tensors[0].0];
    let pair_count = u64::from_le_bytes(whole[16..24].try_into().unwrap());
    let each = tensors.len().div_ceil(count);
    let name = |number: usize| folder.join(format!("m-{:05}-of-{count:05}.gguf", number + 1));
    for (number, tensors_of_file) in tensors.chunks(each).enumerate() {
        let (pairs, pair_count) = match number {
            0 => (pairs, pair_count),
            _ => (&[][..], 0),
        };
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend((tensors_of_file.len() as u64).to_le_bytes());
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
        for (_, line, blocks) in tensors_of_file {
            bytes.extend(*line);
            bytes.extend((data.len() as u64).to_le_bytes());
            data.extend(*blocks);
            data.resize(data.len().next_multiple_of(ALIGNMENT), 0);
        }
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(data);
        fs::write(name(number), bytes).unwrap();
    }
    (0..count).map(name).collect()
}
