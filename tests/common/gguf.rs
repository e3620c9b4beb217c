//! Writes GGUF files.

use std::path::Path;

/// Tensor type ids of ggml.
pub(crate) const F32: u32 = 0;
pub(crate) const F16: u32 = 1;
pub(crate) const Q4_0: u32 = 2;
pub(crate) const Q8_0: u32 = 8;

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

#[derive(Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    /// Contiguous dimension first.
    pub(crate) shape: Vec<u64>,
    /// Tensor type, such as [`F32`].
    pub(crate) kind: u32,
    pub(crate) bytes: Vec<u8>,
}

/// Writes a GGUF file with this metadata and these tensors.
pub(crate) fn write(path: &Path, header: &[(&str, Value<'_>)], tensors: &[Tensor]) {
    std::fs::write(path, bytes(header, tensors)).expect("the folder exists");
}

/// The bytes of a GGUF file with this metadata and these tensors.
pub(crate) fn bytes(header: &[(&str, Value<'_>)], tensors: &[Tensor]) -> Vec<u8> {
    const ALIGNMENT: usize = 32;
    let mut bytes = Vec::new();
    bytes.extend_from_slice(b"GGUF");
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend((header.len() as u64).to_le_bytes());
    for (key, value) in header {
        append_pair(&mut bytes, key, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        append_string(&mut bytes, &tensor.name);
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

fn append_pair(bytes: &mut Vec<u8>, key: &str, value: &Value<'_>) {
    append_string(bytes, key);
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
            append_string(bytes, value);
        }
        Value::Texts(values) => {
            kind(bytes, 9);
            kind(bytes, 8);
            bytes.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| append_string(bytes, value));
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

fn append_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}
