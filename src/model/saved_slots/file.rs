//! File format of a saved slot: a magic line, a JSON header line, the bytes of the cache blocks, and a SHA-256 digest
//! of all of these. The digest detects damage but not manipulation, so each size is checked against the file length and
//! the model.

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
use crate::model::BLOCK_TOKENS;

/// First line of the file: format name and version.
const MAGIC: &str = "ortolan slot 1\n";

/// Maximum length of the header line. The tokens of a million-token context fit.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// Held while a folder's files are counted and a file is added.
static WRITE_LOCK: Mutex<()> = Mutex::new(());

/// Header line of the file, as JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct SlotFileHeader {
    /// Hexadecimal digest of model, device, instruction set and program version.
    pub(super) model: String,
    /// Cache salt of the sequence.
    pub(super) salt: Option<String>,
    /// Digest and scale of each active adapter.
    #[serde(default)]
    pub(super) adapters: Vec<(String, f32)>,
    pub(super) tokens: Vec<u32>,
    pub(super) blocks: usize,
    pub(super) block_bytes: usize,
}

/// Properties of the loaded model that a file must match.
#[derive(Debug, Clone)]
pub(super) struct ExpectedModel {
    /// Required value of [`SlotFileHeader::model`].
    pub(super) model: String,
    /// Vocabulary size in tokens.
    pub(super) vocabulary_size: usize,
    /// Bytes of the keys and values of a block, all layers together.
    pub(super) block_bytes: usize,
    /// Bytes of a key or value element: 2 or 4.
    pub(super) element_bytes: usize,
    /// Capacity of the cache in blocks. Blocks of a file beyond it are checked and dropped.
    pub(super) cache_blocks: usize,
}

/// Zeroes the rows of a partial block after the first `rows`. They contain data of other clients, or NaN, which
/// [`read`] rejects.
pub(super) fn clear_unused_rows(block: &mut [u8], rows: usize, row_bytes: usize) {
    for matrix in block.chunks_exact_mut(BLOCK_TOKENS * row_bytes) {
        matrix[rows * row_bytes..].fill(0);
    }
}

/// Writes a file that appears under its name when it is complete. Returns its length in bytes.
///
/// # Errors
/// If the folder would exceed `limits`, or a file operation fails.
pub(super) fn write(
    path: &Path,
    header: &SlotFileHeader,
    blocks: &[Vec<u8>],
    limits: SlotFileLimits,
) -> Result<u64, SavedSlotError> {
    let line = serde_json::to_vec(header).map_err(io::Error::from)?;
    let parts = [MAGIC.as_bytes(), &line, b"\n"].into_iter();
    let parts = parts.chain(blocks.iter().map(Vec::as_slice));
    let length =
        parts.clone().map(|part| part.len() as u64).sum::<u64>() + SHA256_OUTPUT_LEN as u64;
    let _lock = WRITE_LOCK.lock().unwrap_or_else(PoisonError::into_inner);
    let folder = path.parent().unwrap_or(Path::new("."));
    // The folder of an API key is created with its first file.
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

/// Checks that the folder stays within the limits after a file of `length` bytes is added. An existing file `name` does
/// not count, because it is replaced.
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
    if files > limits.max_files {
        return Err(SavedSlotError::TooManyFiles(limits.max_files));
    }
    if bytes > limits.max_bytes {
        return Err(SavedSlotError::TooManyBytes(limits.max_bytes));
    }
    Ok(())
}

/// Removes partial files of killed servers from a folder and its subfolders. Returns their number.
///
/// # Errors
/// If a folder cannot be read.
pub(super) fn remove_parts(folder: &Path) -> io::Result<usize> {
    let mut removed = atomic_file::remove_stale_part_files(folder, |_| true)?;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            removed += atomic_file::remove_stale_part_files(&entry.path(), |_| true)?;
        }
    }
    Ok(removed)
}

/// Reads a file. Returns the header, the blocks that fit into the cache, and the file length in bytes.
///
/// # Errors
/// If the file cannot be read, is damaged or inconsistent, or does not belong to this model.
pub(super) fn read(
    path: &Path,
    expected: &ExpectedModel,
) -> Result<(SlotFileHeader, Vec<Vec<u8>>, u64), SavedSlotError> {
    let (file, length) = open_regular(path)?;
    let mut file = BufReader::new(file);
    let mut magic = [0; MAGIC.len()];
    let magic_read = file.read_exact(&mut magic);
    if magic_read.is_err() || magic != MAGIC.as_bytes() {
        return Err(SavedSlotError::InvalidFile(
            "the first line is not 'ortolan slot 1'",
        ));
    }
    let mut line = Vec::new();
    file.by_ref()
        .take(MAX_HEADER_BYTES)
        .read_until(b'\n', &mut line)?;
    let header: SlotFileHeader = serde_json::from_slice(&line)
        .map_err(|_| SavedSlotError::InvalidFile("the header is not valid JSON"))?;
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
            return Err(SavedSlotError::InvalidFile(
                "the file was truncated while it was read",
            ));
        }
        digest.update(&block);
        if !is_finite(&block, expected.element_bytes) {
            return Err(SavedSlotError::InvalidFile(
                "a key or value is NaN or infinite",
            ));
        }
        if number < expected.cache_blocks {
            blocks.push(block);
        }
    }
    let mut stored_digest = [0; SHA256_OUTPUT_LEN];
    file.read_exact(&mut stored_digest)?;
    match digest.finish().as_ref() == stored_digest {
        true => Ok((header, blocks, length)),
        false => Err(SavedSlotError::InvalidFile(
            "the digest does not match: the file is damaged",
        )),
    }
}

/// Checks the header before any block is read. `length` is the file's length, `header_end` the offset of the first
/// block, both in bytes.
fn check(
    header: &SlotFileHeader,
    expected: &ExpectedModel,
    length: u64,
    header_end: u64,
) -> Result<(), SavedSlotError> {
    let vocabulary_size = expected.vocabulary_size;
    let is_unknown = |token: &u32| usize::try_from(*token).is_ok_and(|row| row >= vocabulary_size);
    if header.model != expected.model || header.tokens.iter().any(is_unknown) {
        return Err(SavedSlotError::ModelMismatch);
    }
    let expected_length = (header.blocks as u64)
        .checked_mul(header.block_bytes as u64)
        .and_then(|content| content.checked_add(header_end + SHA256_OUTPUT_LEN as u64));
    if expected_length != Some(length) {
        return Err(SavedSlotError::InvalidFile(
            "the file length does not match the header",
        ));
    }
    if header.blocks > 0 && header.block_bytes != expected.block_bytes {
        return Err(SavedSlotError::InvalidFile(
            "the block size does not match the model",
        ));
    }
    if header.blocks != header.tokens.len().div_ceil(BLOCK_TOKENS) {
        return Err(SavedSlotError::InvalidFile(
            "the number of blocks does not match the number of tokens",
        ));
    }
    Ok(())
}

/// Whether all elements of a block are finite. Elements are little-endian: f16 if `element_bytes` is 2, f32 if 4.
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
