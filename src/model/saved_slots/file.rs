//! The file of a saved slot: a line that begins it, a line of JSON that describes it, the blocks' bytes, and a digest of all
//! that. The digest finds damage, not malice: every size in the file is checked against the file's length and the model.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use ring::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use serde::{Deserialize, Serialize};

use super::{SavedSlotError, SlotFileLimits};
use crate::atomic_file::{self, AtomicFile};
use crate::file_bytes::open_regular;
use crate::model::load::BLOCK_TOKENS;

/// Begins every such file.
const MAGIC: &str = "ortolan slot 1\n";

/// Most bytes of the line of JSON: a context of a million tokens fits.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// Held while the files of a folder are counted and one is added.
static WRITING: Mutex<()> = Mutex::new(());

/// What the file says of itself.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Header {
    /// A digest of the model and of what computes it, in hexadecimal digits.
    pub(super) model: String,
    /// Only requests of the same salt find it.
    pub(super) salt: Option<String>,
    /// Digests of the adapters that shaped it, with their scales.
    #[serde(default)]
    pub(super) adapters: Vec<(String, f32)>,
    pub(super) tokens: Vec<u32>,
    pub(super) blocks: usize,
    pub(super) block_bytes: usize,
}

/// What a file must agree with to be restored.
#[derive(Debug, Clone)]
pub(super) struct Expected {
    /// As in [`Header::model`].
    pub(super) model: String,
    /// Tokens of the vocabulary.
    pub(super) vocabulary: usize,
    /// Bytes of a block's keys and values.
    pub(super) block_bytes: usize,
    /// Bytes of a number of a block: 2 or 4.
    pub(super) element_bytes: usize,
    /// Blocks of the cache; what follows them in a file is checked and dropped.
    pub(super) cache_blocks: usize,
}

/// Sets the rows behind the first `rows` of a block to zeros. They are of earlier requests of other clients, and may be NaN,
/// with which the file could not be restored.
pub(super) fn clear_unused_rows(block: &mut [u8], rows: usize, row_bytes: usize) {
    for run in block.chunks_exact_mut(BLOCK_TOKENS * row_bytes) {
        run[rows * row_bytes..].fill(0);
    }
}

/// Writes a file that appears under its name when it is complete. Answers its length in bytes.
///
/// # Errors
/// The folder would have more files or bytes than `limits`, or the operating system's error.
pub(super) fn write(
    path: &Path,
    header: &Header,
    blocks: &[Vec<u8>],
    limits: SlotFileLimits,
) -> Result<u64, SavedSlotError> {
    let line = serde_json::to_vec(header).map_err(io::Error::from)?;
    let parts = [MAGIC.as_bytes(), &line, b"\n"].into_iter();
    let parts = parts.chain(blocks.iter().map(Vec::as_slice));
    let length =
        parts.clone().map(|part| part.len() as u64).sum::<u64>() + SHA256_OUTPUT_LEN as u64;
    let _writing = WRITING.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = path.parent().unwrap_or(Path::new("."));
    // That of a key is made when it is first needed.
    fs::create_dir_all(folder)?;
    check_limits(folder, path.file_name(), length, limits)?;
    let mut file = AtomicFile::create(path)?;
    let mut digest = Context::new(&SHA256);
    for part in parts {
        digest.update(part);
        file.write_all(part)?;
    }
    file.write_all(digest.finish().as_ref())?;
    file.finish()?;
    Ok(length)
}

/// Checks that the folder has room for a file of `length` bytes. The file `name`, which is replaced, does not count.
fn check_limits(
    folder: &Path,
    name: Option<&OsStr>,
    length: u64,
    limits: SlotFileLimits,
) -> Result<(), SavedSlotError> {
    let (mut files, mut bytes) = (1, length);
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_file() && Some(&*entry.file_name()) != name {
            files += 1;
            bytes = bytes.saturating_add(entry.metadata()?.len());
        }
    }
    if files > limits.files {
        return Err(SavedSlotError::TooManyFiles(limits.files));
    }
    if bytes > limits.bytes {
        return Err(SavedSlotError::TooManyBytes(limits.bytes));
    }
    Ok(())
}

/// Removes parts of files that killed servers left in a folder and in the folders within it.
///
/// # Errors
/// A folder cannot be read.
pub(super) fn remove_parts(folder: &Path) -> io::Result<usize> {
    let mut removed = atomic_file::remove_parts(folder, |_| true)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            removed += atomic_file::remove_parts(&entry.path(), |_| true)?;
        }
    }
    Ok(removed)
}

/// Reads a file: its header, as many of its blocks as the cache has, and its length in bytes.
///
/// # Errors
/// It is not a saved slot of this model, is damaged, or says what cannot be.
pub(super) fn read(
    path: &Path,
    expected: &Expected,
) -> Result<(Header, Vec<Vec<u8>>, u64), SavedSlotError> {
    let (file, length) = open_regular(path)?;
    let mut file = BufReader::new(file);
    let mut magic = [0; MAGIC.len()];
    let begins = file.read_exact(&mut magic);
    if begins.is_err() || magic != MAGIC.as_bytes() {
        return Err(SavedSlotError::NoSlot("it does not begin like one"));
    }
    let mut line = Vec::new();
    file.by_ref()
        .take(MAX_HEADER_BYTES)
        .read_until(b'\n', &mut line)?;
    let header: Header = serde_json::from_slice(&line)
        .map_err(|_| SavedSlotError::NoSlot("it does not say what it is"))?;
    check(&header, expected, length, (magic.len() + line.len()) as u64)?;
    let mut digest = Context::new(&SHA256);
    digest.update(&magic);
    digest.update(&line);
    let mut blocks = Vec::new();
    for number in 0..header.blocks {
        let mut block = Vec::new();
        block
            .try_reserve_exact(header.block_bytes)
            .map_err(io::Error::from)?;
        let mut part = file.by_ref().take(header.block_bytes as u64);
        if part.read_to_end(&mut block)? != header.block_bytes {
            return Err(SavedSlotError::NoSlot("it was shortened while it was read"));
        }
        digest.update(&block);
        if !is_finite(&block, expected.element_bytes) {
            return Err(SavedSlotError::NoSlot("a number in it is NaN or infinite"));
        }
        if number < expected.cache_blocks {
            blocks.push(block);
        }
    }
    let mut recorded = [0; SHA256_OUTPUT_LEN];
    file.read_exact(&mut recorded)?;
    match digest.finish().as_ref() == recorded {
        true => Ok((header, blocks, length)),
        false => Err(SavedSlotError::NoSlot("it was damaged")),
    }
}

/// Checks what the file says of itself before anything is made of it. `head` is the number of bytes before its blocks.
fn check(
    header: &Header,
    expected: &Expected,
    length: u64,
    head: u64,
) -> Result<(), SavedSlotError> {
    let vocabulary = expected.vocabulary;
    let is_foreign = |token: &u32| usize::try_from(*token).is_ok_and(|row| row >= vocabulary);
    if header.model != expected.model || header.tokens.iter().any(is_foreign) {
        return Err(SavedSlotError::AnotherModel);
    }
    let wanted = (header.blocks as u64)
        .checked_mul(header.block_bytes as u64)
        .and_then(|content| content.checked_add(head + SHA256_OUTPUT_LEN as u64));
    if wanted != Some(length) {
        return Err(SavedSlotError::NoSlot("it is not as long as it says"));
    }
    if header.blocks > 0 && header.block_bytes != expected.block_bytes {
        return Err(SavedSlotError::NoSlot("its blocks have another size"));
    }
    if header.blocks != header.tokens.len().div_ceil(BLOCK_TOKENS) {
        return Err(SavedSlotError::NoSlot(
            "it has another number of blocks than its tokens need",
        ));
    }
    Ok(())
}

/// Whether all numbers of a block are finite; they are little-endian, in half or single precision.
fn is_finite(block: &[u8], element_bytes: usize) -> bool {
    match element_bytes {
        4 => {
            let (numbers, _) = block.as_chunks();
            numbers
                .iter()
                .all(|bytes| f32::from_le_bytes(*bytes).is_finite())
        }
        _ => {
            let (numbers, _) = block.as_chunks();
            let mut numbers = numbers.iter();
            numbers.all(|bytes| half::f16::from_le_bytes(*bytes).is_finite())
        }
    }
}

#[cfg(test)]
mod tests;
