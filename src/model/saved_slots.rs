//! A slot's sequence in a file: a line that begins it, a line of JSON that says what it is, the blocks' bytes, and
//! a digest of all that. Only the model that computed it, in the same version of this program, takes it back.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use ring::digest::{Context, SHA256};
use serde::{Deserialize, Serialize};

use super::slots::Shape;
use super::{Caller, LoadedModel, RequestOwner};
use crate::engine::{PrefixRoot, SavedSequence, SlotError};
use crate::runtime::operators::simd::Instructions;
use crate::token::TokenId;

/// Begins every such file.
const MAGIC: &str = "ortolan slot 1\n";

/// Most bytes of the line that says what it is: a context of a million tokens fits.
const MAX_HEADER_BYTES: u64 = 16 << 20;

/// Most bytes of a block.
const MAX_BLOCK_BYTES: usize = 1 << 30;

/// Why a slot cannot be saved, restored or erased.
#[derive(Debug, thiserror::Error)]
pub enum SavedSlotError {
    /// The engine's reason.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// Whose it is cannot be said yet.
    #[error("the slot's last request is still being answered: try again")]
    StillAnswering,
    /// The slot's sequence is another key's.
    #[error("the slot ran another key's request last")]
    AnotherKey,
    /// Reading or writing failed.
    #[error("{0}")]
    File(#[from] io::Error),
    /// The file is no saved slot, or not a whole one.
    #[error("this is no saved slot: {0}")]
    NoSlot(&'static str),
    /// It was computed by another model.
    #[error("it was saved by another model, or by another version of this program")]
    AnotherModel,
    /// It was computed with an adapter that this model does not have.
    #[error("it was saved with an adapter that is not here")]
    AnotherAdapter,
}

/// What was done with a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotReport {
    /// Tokens of the sequence.
    pub tokens: usize,
    /// Bytes of the file.
    pub bytes: u64,
    /// What it took.
    pub duration: Duration,
}

/// What the file says of itself.
#[derive(Debug, Serialize, Deserialize)]
struct Header {
    /// A digest of the model and of what computes it, in hexadecimal digits.
    model: String,
    /// Only requests of the same salt find it.
    salt: Option<String>,
    /// Digests of the adapters that shaped it, with their scales.
    #[serde(default)]
    adapters: Vec<(String, f32)>,
    tokens: Vec<u32>,
    blocks: usize,
    block_bytes: usize,
}

impl LoadedModel {
    /// Writes what the cache holds of the sequence that a slot ran last, if the caller may see that. The file appears
    /// when it is whole.
    pub async fn save_slot(
        &self,
        slot: usize,
        path: &Path,
        caller: Caller,
    ) -> Result<SlotReport, SavedSlotError> {
        let started = Instant::now();
        let saved = self.engine.save_slot(slot).await?;
        let recorded = saved
            .as_ref()
            .and_then(|saved| self.slots.shape(slot, saved.id));
        let is_empty = saved.is_none();
        let saved = saved.unwrap_or_else(|| SavedSequence {
            id: None,
            root: PrefixRoot::default(),
            tokens: Vec::new(),
            blocks: Vec::new(),
        });
        // Of an embedding there is no record.
        let usual = Shape {
            salt: None,
            adapters: self.adapters.set(),
            owner: RequestOwner::default(),
        };
        let shapes = [recorded.unwrap_or_default(), usual].into_iter();
        let mut shapes = shapes.filter(|shape| self.root_of(shape) == saved.root);
        let shape = shapes.next().ok_or(SavedSlotError::StillAnswering)?;
        if !is_empty && !caller.may_see(shape.owner.key) {
            return Err(SavedSlotError::AnotherKey);
        }
        let header = Header {
            model: self.identity(),
            adapters: self.adapters.by_digest(&shape.adapters),
            salt: shape.salt,
            tokens: saved.tokens.iter().map(|token| token.0).collect(),
            blocks: saved.blocks.len(),
            block_bytes: saved.blocks.first().map_or(0, Vec::len),
        };
        let bytes = tokio::task::block_in_place(|| write(path, &header, &saved.blocks))?;
        Ok(SlotReport {
            tokens: saved.tokens.len(),
            bytes,
            duration: started.elapsed(),
        })
    }

    /// Puts a file's sequence into the owner's part of the cache, as much of its beginning as there is room for, as the
    /// one that a slot ran last.
    pub async fn restore_slot(
        &self,
        slot: usize,
        path: &Path,
        owner: RequestOwner,
    ) -> Result<SlotReport, SavedSlotError> {
        let started = Instant::now();
        let identity = self.identity();
        let (header, blocks, bytes) = tokio::task::block_in_place(|| read(path, &identity))?;
        let vocabulary = self.details.vocabulary_size;
        let tokens: Vec<TokenId> = header.tokens.into_iter().map(TokenId).collect();
        if tokens.iter().any(|token| token.row() >= vocabulary) {
            return Err(SavedSlotError::AnotherModel);
        }
        let shape = Shape {
            adapters: self
                .adapters
                .of_digests(&header.adapters)
                .ok_or(SavedSlotError::AnotherAdapter)?,
            salt: header.salt,
            owner,
        };
        let saved = SavedSequence {
            id: None,
            root: self.root_of(&shape),
            tokens,
            blocks,
        };
        let tokens = self.engine.restore_slot(slot, saved).await?;
        self.slots.restored(slot, shape);
        Ok(SlotReport {
            tokens,
            bytes,
            duration: started.elapsed(),
        })
    }

    /// Forgets the sequence that a slot ran last, and what of the cache only it reaches. Answers how many tokens that
    /// were.
    ///
    /// # Errors
    /// Among others, the caller may not see the slot's last request.
    pub async fn erase_slot(&self, slot: usize, caller: Caller) -> Result<usize, SavedSlotError> {
        let owner = self.slots.owner(slot);
        if owner.is_some_and(|owner| !caller.may_see(owner.key)) {
            return Err(SavedSlotError::AnotherKey);
        }
        let erased = self.engine.erase_slot(slot).await?;
        self.slots.forget(slot);
        Ok(erased)
    }

    fn root_of(&self, shape: &Shape) -> PrefixRoot {
        let namespace = shape.owner.cache_namespace;
        self.prefix_root(namespace, shape.salt.as_deref(), &shape.adapters)
    }

    /// What has to be the same for saved keys and values to be of use.
    fn identity(&self) -> String {
        let identity = self.identity.get_or_init(|| {
            let mut digest = Context::new(&SHA256);
            // Another processor's instructions round otherwise.
            let instructions = format!("{:?}", Instructions::detect());
            for word in [
                env!("CARGO_PKG_VERSION"),
                &self.details.device,
                &instructions,
            ] {
                digest.update(word.as_bytes());
                digest.update(&[0]);
            }
            let contents = self.source.contents();
            contents.iter().for_each(|part| digest.update(part));
            hexadecimal(digest.finish().as_ref())
        });
        identity.clone()
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes beside the path and renames, so that nobody finds half a file.
fn write(path: &Path, header: &Header, blocks: &[Vec<u8>]) -> io::Result<u64> {
    let beside = path.with_added_extension(format!("{:016x}.part", rand::random::<u64>()));
    let written = write_whole(&beside, header, blocks)
        .and_then(|bytes| fs::rename(&beside, path).map(|()| bytes));
    if written.is_err() {
        // What is left is of no use; that it cannot be removed either changes nothing.
        let _ = fs::remove_file(&beside);
    }
    written
}

fn write_whole(path: &Path, header: &Header, blocks: &[Vec<u8>]) -> io::Result<u64> {
    let mut file = BufWriter::new(File::create_new(path)?);
    let mut digest = Context::new(&SHA256);
    let mut length = 0;
    let mut put = |bytes: &[u8]| {
        digest.update(bytes);
        length += bytes.len() as u64;
        file.write_all(bytes)
    };
    put(MAGIC.as_bytes())?;
    put(&serde_json::to_vec(header)?)?;
    put(b"\n")?;
    for block in blocks {
        put(block)?;
    }
    let digest = digest.finish();
    file.write_all(digest.as_ref())?;
    file.into_inner()
        .map_err(io::IntoInnerError::into_error)?
        .sync_all()?;
    Ok(length + digest.as_ref().len() as u64)
}

fn read(path: &Path, model: &str) -> Result<(Header, Vec<Vec<u8>>, u64), SavedSlotError> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
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
    if header.model != model {
        return Err(SavedSlotError::AnotherModel);
    }
    let head = (magic.len() + line.len()) as u64;
    let content = (header.blocks as u64).checked_mul(header.block_bytes as u64);
    let wanted = content.and_then(|content| content.checked_add(head + 32));
    if header.block_bytes > MAX_BLOCK_BYTES || wanted != Some(length) {
        return Err(SavedSlotError::NoSlot("it is not as long as it says"));
    }
    let mut digest = Context::new(&SHA256);
    digest.update(&magic);
    digest.update(&line);
    let mut blocks = Vec::with_capacity(header.blocks);
    for _ in 0..header.blocks {
        let mut block = vec![0; header.block_bytes];
        file.read_exact(&mut block)?;
        digest.update(&block);
        blocks.push(block);
    }
    let mut told = [0; 32];
    file.read_exact(&mut told)?;
    match digest.finish().as_ref() == told {
        true => Ok((header, blocks, length)),
        false => Err(SavedSlotError::NoSlot("it was damaged")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(blocks: usize) -> Header {
        Header {
            model: "m".to_owned(),
            salt: Some("s".to_owned()),
            adapters: Vec::new(),
            tokens: vec![1, 2, 3],
            blocks,
            block_bytes: 4,
        }
    }

    #[test]
    fn what_is_no_saved_slot_is_refused_with_its_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("slot");
        let blocks = [vec![1, 2, 3, 4], vec![5, 6, 7, 8]];
        let bytes = write(&path, &header(2), &blocks).unwrap();
        let (read_header, read_blocks, length) = read(&path, "m").unwrap();
        assert_eq!(
            (read_header.tokens, read_header.salt.as_deref()),
            (vec![1, 2, 3], Some("s"))
        );
        assert_eq!((read_blocks, length), (blocks.to_vec(), bytes));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        #[track_caller]
        fn check(path: &Path, model: &str, change: impl FnOnce(&mut Vec<u8>), expected: &str) {
            let whole = fs::read(path).unwrap();
            let mut bytes = whole.clone();
            change(&mut bytes);
            fs::write(path, bytes).unwrap();
            let error = read(path, model).expect_err("it was taken").to_string();
            assert!(error.contains(expected), "{error}");
            fs::write(path, whole).unwrap();
        }
        check(&path, "other", |_| (), "another model");
        check(&path, "m", Vec::clear, "does not begin");
        check(&path, "m", |bytes| bytes.truncate(20), "does not say");
        check(
            &path,
            "m",
            |bytes| {
                bytes.pop();
            },
            "not as long",
        );
        check(&path, "m", |bytes| bytes.push(0), "not as long");
        let damage = |bytes: &mut Vec<u8>| {
            let place = bytes.len() - 34;
            bytes[place] ^= 1;
        };
        check(&path, "m", damage, "was damaged");
    }
}
