//! Writes GGUF files.

use std::path::Path;

/// The type of a tensor of floats.
pub(crate) const F32: u32 = 0;
/// The type of a tensor of half floats.
pub(crate) const F16: u32 = 1;
/// The type of a tensor of blocks of 32 values with 4 bits each.
pub(crate) const Q4_0: u32 = 2;
/// The same with 8 bits each.
pub(crate) const Q8_0: u32 = 8;

/// A value of a file's header.
#[derive(Debug, Clone)]
pub(crate) enum Value<'a> {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'a str),
    Texts(Vec<String>),
    I32(i32),
    I32s(Vec<i32>),
    F32s(Vec<f32>),
}

/// A tensor of a file.
#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Contiguous dimension first.
    pub(crate) shape: Vec<u64>,
    /// [`F32`] or one of the others.
    pub(crate) kind: u32,
    pub(crate) bytes: Vec<u8>,
}

/// Writes a file.
pub(crate) fn write(path: &Path, header: &[(&str, Value<'_>)], tensors: &[Tensor]) {
    std::fs::write(path, bytes(header, tensors)).expect("the folder is there");
}

/// A file's bytes.
pub(crate) fn bytes(header: &[(&str, Value<'_>)], tensors: &[Tensor]) -> Vec<u8> {
    const ALIGNMENT: usize = 32;
    let mut bytes = Vec::new();
    bytes.extend_from_slice(b"GGUF");
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((header.len() as u64).to_le_bytes());
    for (key, value) in header {
        put(&mut bytes, key, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut bytes, &tensor.name);
        bytes.extend((tensor.shape.len() as u32).to_le_bytes());
        let sizes = tensor.shape.iter();
        sizes.for_each(|size| bytes.extend(size.to_le_bytes()));
        bytes.extend(tensor.kind.to_le_bytes());
        bytes.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes.len().next_multiple_of(ALIGNMENT);
    }
    for tensor in tensors {
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        bytes.extend(&tensor.bytes);
    }
    bytes
}

fn put(bytes: &mut Vec<u8>, key: &str, value: &Value<'_>) {
    text(bytes, key);
    let kind = |bytes: &mut Vec<u8>, number: u32| bytes.extend(number.to_le_bytes());
    match value {
        Value::U32(number) => {
            kind(bytes, 4);
            bytes.extend(number.to_le_bytes());
        }
        Value::I32(number) => {
            kind(bytes, 5);
            bytes.extend(number.to_le_bytes());
        }
        Value::F32(number) => {
            kind(bytes, 6);
            bytes.extend(number.to_le_bytes());
        }
        Value::Bool(flag) => {
            kind(bytes, 7);
            bytes.push(u8::from(*flag));
        }
        Value::Text(value) => {
            kind(bytes, 8);
            text(bytes, value);
        }
        Value::Texts(values) => {
            kind(bytes, 9);
            kind(bytes, 8);
            bytes.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| text(bytes, value));
        }
        Value::I32s(values) => {
            kind(bytes, 9);
            kind(bytes, 5);
            bytes.extend((values.len() as u64).to_le_bytes());
            values
                .iter()
                .for_each(|value| bytes.extend(value.to_le_bytes()));
        }
        Value::F32s(values) => {
            kind(bytes, 9);
            kind(bytes, 6);
            bytes.extend((values.len() as u64).to_le_bytes());
            values
                .iter()
                .for_each(|value| bytes.extend(value.to_le_bytes()));
        }
    }
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}
