//! Writes a GGUF file sequentially: first the header, then each tensor's blocks in header order. Callers pass the
//! blocks in pieces, so a tensor need not fit in memory.

use std::io::{self, Write};

use super::quant::TensorType;

/// The GGUF version of written files.
const VERSION: u32 = 3;
/// GGUF's number for the value type `u32`.
const U32: u32 = 4;

/// A key-value pair to write.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum OutputEntry<'a> {
    /// An encoded key-value pair, copied from another file.
    Copied(&'a [u8]),
    /// A key and its value.
    U32(&'a str, u32),
}

/// The name, type and shape of a tensor to write.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputTensor {
    /// The tensor's name.
    pub name: String,
    /// The type of the tensor's blocks.
    pub kind: TensorType,
    /// Size of each dimension in elements; the contiguous dimension is first.
    pub shape: Vec<usize>,
}

impl OutputTensor {
    /// Number of values.
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }

    /// Length of the tensor's data in bytes.
    pub fn bytes(&self) -> usize {
        self.values() / self.kind.block_values() * self.kind.block_bytes()
    }
}

/// Writes a GGUF file to `W`.
#[derive(Debug)]
pub struct GgufWriter<W> {
    out: W,
    alignment: usize,
    /// Lengths in bytes of the tensors that are not started yet, in header order.
    pending: std::vec::IntoIter<usize>,
    /// Bytes of the current tensor that are still to be written.
    remaining_bytes: usize,
    /// Padding bytes to write after the current tensor.
    padding_bytes: usize,
}

impl<W: Write> GgufWriter<W> {
    /// Writes the header. Each tensor starts at a multiple of `alignment` bytes. If `alignment` is not 32, `pairs` must
    /// contain `general.alignment`.
    ///
    /// # Errors
    /// If the underlying writer fails.
    pub fn begin(
        mut out: W,
        pairs: &[OutputEntry<'_>],
        tensors: &[OutputTensor],
        alignment: usize,
    ) -> io::Result<Self> {
        let mut header = b"GGUF".to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((pairs.len() as u64).to_le_bytes());
        for pair in pairs {
            match pair {
                OutputEntry::Copied(bytes) => header.extend_from_slice(bytes),
                OutputEntry::U32(key, number) => {
                    write_string(&mut header, key);
                    header.extend(U32.to_le_bytes());
                    header.extend(number.to_le_bytes());
                }
            }
        }
        let mut offset = 0;
        for tensor in tensors {
            write_string(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            for size in &tensor.shape {
                header.extend((*size as u64).to_le_bytes());
            }
            header.extend(tensor.kind.id().to_le_bytes());
            header.extend((offset as u64).to_le_bytes());
            offset += tensor.bytes().next_multiple_of(alignment);
        }
        header.resize(header.len().next_multiple_of(alignment), 0);
        out.write_all(&header)?;
        let pending: Vec<usize> = tensors.iter().map(OutputTensor::bytes).collect();
        Ok(Self {
            out,
            alignment,
            pending: pending.into_iter(),
            remaining_bytes: 0,
            padding_bytes: 0,
        })
    }

    /// Writes blocks of the current tensor. After a complete tensor, starts the next tensor.
    ///
    /// # Errors
    /// If the underlying writer fails.
    ///
    /// # Panics
    /// If the blocks exceed the current tensor, or all tensors are complete.
    pub fn write_blocks(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.remaining_bytes == 0 {
            self.write_padding()?;
            self.remaining_bytes = self.pending.next().expect("a tensor is unwritten");
            self.padding_bytes =
                self.remaining_bytes.next_multiple_of(self.alignment) - self.remaining_bytes;
        }
        assert!(
            bytes.len() <= self.remaining_bytes,
            "the blocks exceed the tensor"
        );
        self.remaining_bytes -= bytes.len();
        self.out.write_all(bytes)
    }

    /// Completes the file and returns the writer.
    ///
    /// # Errors
    /// If the underlying writer fails.
    ///
    /// # Panics
    /// If a tensor is incomplete.
    pub fn finish(mut self) -> io::Result<W> {
        let is_complete = self.remaining_bytes == 0 && self.pending.len() == 0;
        assert!(is_complete, "every tensor was written");
        self.write_padding()?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn write_padding(&mut self) -> io::Result<()> {
        let zeros = vec![0; std::mem::take(&mut self.padding_bytes)];
        self.out.write_all(&zeros)
    }
}

fn write_string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests;
