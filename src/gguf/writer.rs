//! Writes a GGUF file: the header at once, then each tensor's blocks in the header's order, so that nothing has to be in
//! memory but what is written next.

use std::io::{self, Write};

use super::quant::TensorType;

/// The version that is written.
const VERSION: u32 = 3;
/// The number of `u32` among the value types.
const U32: u32 = 4;

/// A key-value pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum WrittenPair<'a> {
    /// All of its bytes in another file.
    Copied(&'a [u8]),
    /// A number.
    U32(&'a str, u32),
}

/// A tensor that is going to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenTensor {
    /// Its name.
    pub name: String,
    /// The type of its blocks.
    pub kind: TensorType,
    /// Values along each dimension, the contiguous one first.
    pub shape: Vec<usize>,
}

impl WrittenTensor {
    /// Values.
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }

    /// Bytes of its blocks.
    pub fn bytes(&self) -> usize {
        self.values() / self.kind.block_values() * self.kind.block_bytes()
    }
}

/// A file that is being written.
#[derive(Debug)]
pub struct GgufWriter<W> {
    out: W,
    alignment: usize,
    /// Bytes that each tensor still lacks, the next one first.
    missing: std::vec::IntoIter<usize>,
    /// Of the one that was begun.
    left: usize,
    /// Behind the last one that is whole.
    padding: usize,
}

impl<W: Write> GgufWriter<W> {
    /// Writes the header. Data begin at multiples of `alignment` bytes, which the pairs name if it is not
    /// the usual one.
    ///
    /// # Errors
    /// The writer's.
    pub fn begin(
        mut out: W,
        pairs: &[WrittenPair<'_>],
        tensors: &[WrittenTensor],
        alignment: usize,
    ) -> io::Result<Self> {
        let mut header = b"GGUF".to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((pairs.len() as u64).to_le_bytes());
        for pair in pairs {
            match pair {
                WrittenPair::Copied(bytes) => header.extend_from_slice(bytes),
                WrittenPair::U32(key, number) => {
                    put_text(&mut header, key);
                    header.extend(U32.to_le_bytes());
                    header.extend(number.to_le_bytes());
                }
            }
        }
        let mut offset = 0;
        for tensor in tensors {
            put_text(&mut header, &tensor.name);
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
        let missing: Vec<usize> = tensors.iter().map(WrittenTensor::bytes).collect();
        Ok(Self {
            out,
            alignment,
            missing: missing.into_iter(),
            left: 0,
            padding: 0,
        })
    }

    /// Writes the next blocks of the tensor that is not whole yet.
    ///
    /// # Errors
    /// The writer's.
    ///
    /// # Panics
    /// If they are more than it lacks.
    pub fn blocks(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.left == 0 {
            self.pad()?;
            self.left = self.missing.next().expect("a tensor lacks its blocks");
            self.padding = self.left.next_multiple_of(self.alignment) - self.left;
        }
        assert!(bytes.len() <= self.left, "blocks of one tensor");
        self.left -= bytes.len();
        self.out.write_all(bytes)
    }

    /// Ends the file.
    ///
    /// # Errors
    /// The writer's.
    ///
    /// # Panics
    /// If a tensor is not whole.
    pub fn finish(mut self) -> io::Result<W> {
        let is_whole = self.left == 0 && self.missing.len() == 0;
        assert!(is_whole, "every tensor was written");
        self.pad()?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn pad(&mut self) -> io::Result<()> {
        let zeros = vec![0; std::mem::take(&mut self.padding)];
        self.out.write_all(&zeros)
    }
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests;
