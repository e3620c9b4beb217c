//! A slot's sequence is written to a file and put back from one. Only the model that computed it, in the same version of this
//! program, takes it back. Files are written, read and hashed on the threads for blocking work.

mod file;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use ring::digest::{Context, SHA256};
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use self::file::{Expected, Header};
use super::load::BLOCK_TOKENS;
use super::slots::Shape;
use super::{Caller, LoadedModel, RequestOwner};
use crate::engine::{MAX_SLOT_ORDERS, PrefixRoot, SavedSequence, SlotError};
use crate::runtime::operators::simd::Instructions;
use crate::token::TokenId;

/// Begins the name of a folder with the files of one key; the key's digest follows.
const KEY_FOLDER: &str = "key-";

/// Why a slot cannot be saved, restored or erased.
#[derive(Debug, thiserror::Error)]
pub enum SavedSlotError {
    /// The engine's reason.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// Nothing records whose sequence it is.
    #[error("the slot's last request is still being answered, or was an embedding: try again")]
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
    /// The folder has as many files as it may have.
    #[error(
        "{0} slots are saved already, the most that --slot-save-max-files allows: save under a name that exists"
    )]
    TooManyFiles(usize),
    /// The folder has no room for the file.
    #[error("the saved slots would take more than {}, which --slot-save-max-bytes allows", ByteSize(*.0).display().iec())]
    TooManyBytes(u64),
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

/// Where slots are saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotFolder {
    /// The folder.
    pub path: PathBuf,
    /// What may be saved in it.
    pub limits: SlotFileLimits,
}

impl SlotFolder {
    /// The folder within this one that has the files of the key with this name.
    pub fn of_key(&self, name: &str) -> PathBuf {
        self.path.join(format!("{}{name}", KEY_FOLDER))
    }
}

/// What may be saved in one folder, or in that of one key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotFileLimits {
    /// Most files.
    pub files: usize,
    /// Most bytes of all files.
    pub bytes: u64,
}

/// Removes what killed servers left in a folder of saved slots.
///
/// # Errors
/// The folder cannot be read.
pub fn remove_slot_parts(folder: &Path) -> io::Result<usize> {
    file::remove_parts(folder)
}

/// Holds each slot for one save, restore or erase at a time, so that copies of sequences take no more memory than the cache.
/// Of all slots' actions, [`MAX_SLOT_ORDERS`] run or wait.
pub(super) struct SlotLocks {
    slots: Vec<Arc<Mutex<()>>>,
    actions: Arc<Semaphore>,
}

/// A slot that is held for an action.
struct LockedSlot {
    _slot: OwnedMutexGuard<()>,
    _action: OwnedSemaphorePermit,
}

impl SlotLocks {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots: (0..slots).map(|_| Arc::default()).collect(),
            actions: Arc::new(Semaphore::new(MAX_SLOT_ORDERS)),
        }
    }

    /// Waits until the slot is free.
    ///
    /// # Errors
    /// There is no such slot, or as many actions run or wait as may.
    async fn lock(&self, slot: usize) -> Result<LockedSlot, SlotError> {
        let lock = self.slots.get(slot).ok_or(SlotError::Unknown(slot))?;
        let action = Arc::clone(&self.actions).try_acquire_owned();
        Ok(LockedSlot {
            _action: action.map_err(|_| SlotError::Busy)?,
            _slot: Arc::clone(lock).lock_owned().await,
        })
    }
}

impl LoadedModel {
    /// Writes what the cache holds of the sequence that a slot ran last, if the caller may see that. The file appears
    /// when it is complete.
    ///
    /// # Errors
    /// Among others, the path's folder has no room for it within `limits`.
    pub async fn save_slot(
        self: &Arc<Self>,
        slot: usize,
        path: PathBuf,
        limits: SlotFileLimits,
        caller: Caller,
    ) -> Result<SlotReport, SavedSlotError> {
        let started = Instant::now();
        let locked = self.slot_locks.lock(slot).await?;
        let saved = self.engine.save_slot(slot).await?;
        let recorded = saved
            .as_ref()
            .and_then(|saved| self.slots.shape(slot, saved.id));
        let is_empty = saved.is_none();
        let is_recorded =
            recorded.is_some() || saved.as_ref().is_none_or(|saved| saved.id.is_none());
        if !is_recorded && !caller.is_operator() {
            return Err(SavedSlotError::StillAnswering);
        }
        let mut saved = saved.unwrap_or_else(|| SavedSequence {
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
        let tokens = saved.tokens.len();
        let model = Arc::clone(self);
        let written = spawn_blocking(move || {
            let _locked = locked;
            let rows = saved.tokens.len() % BLOCK_TOKENS;
            if let Some(last) = saved.blocks.last_mut().filter(|_| rows > 0) {
                file::clear_unused_rows(last, rows, model.source.cache_row_bytes());
            }
            let header = Header {
                model: model.identity(),
                adapters: model.adapters.by_digest(&shape.adapters),
                salt: shape.salt,
                tokens: saved.tokens.iter().map(|token| token.0).collect(),
                blocks: saved.blocks.len(),
                block_bytes: saved.blocks.first().map_or(0, Vec::len),
            };
            file::write(&path, &header, &saved.blocks, limits)
        });
        Ok(SlotReport {
            tokens,
            bytes: written.await.map_err(io::Error::from)??,
            duration: started.elapsed(),
        })
    }

    /// Puts a file's sequence into the owner's part of the cache, as much of its beginning as there is room for, as the
    /// one that a slot ran last.
    ///
    /// # Errors
    /// Among others, the caller may not see the slot's last request.
    pub async fn restore_slot(
        self: &Arc<Self>,
        slot: usize,
        path: PathBuf,
        owner: RequestOwner,
        caller: Caller,
    ) -> Result<SlotReport, SavedSlotError> {
        let started = Instant::now();
        let locked = self.slot_locks.lock(slot).await?;
        self.check_owner(slot, caller)?;
        let model = Arc::clone(self);
        let read = spawn_blocking(move || {
            let read = file::read(&path, &model.expected_slot_file())?;
            Ok::<_, SavedSlotError>((read, locked))
        });
        let ((header, blocks, bytes), _locked) = read.await.map_err(io::Error::from)??;
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
            tokens: header.tokens.into_iter().map(TokenId).collect(),
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
        let _locked = self.slot_locks.lock(slot).await?;
        self.check_owner(slot, caller)?;
        let erased = self.engine.erase_slot(slot).await?;
        self.slots.forget(slot);
        Ok(erased)
    }

    /// Refuses a slot whose last request the caller may not see.
    fn check_owner(&self, slot: usize, caller: Caller) -> Result<(), SavedSlotError> {
        match self.slots.owner(slot) {
            Some(owner) if !caller.may_see(owner.key) => Err(SavedSlotError::AnotherKey),
            _ => Ok(()),
        }
    }

    fn root_of(&self, shape: &Shape) -> PrefixRoot {
        let namespace = shape.owner.cache_namespace;
        self.prefix_root(namespace, shape.salt.as_deref(), &shape.adapters)
    }

    fn expected_slot_file(&self) -> Expected {
        Expected {
            model: self.identity(),
            vocabulary: self.details.vocabulary_size,
            block_bytes: self.source.cache_bytes_per_token() as usize * BLOCK_TOKENS,
            element_bytes: self.source.cache_element_bytes(),
            cache_blocks: self.details.cache_tokens / BLOCK_TOKENS,
        }
    }

    /// What has to be the same for saved keys and values to be of use. The first call reads the whole model.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_action_more_than_may_wait_for_slots_is_refused() {
        let locks = Arc::new(SlotLocks::new(2));
        assert_eq!(locks.lock(2).await.err(), Some(SlotError::Unknown(2)));
        let first = locks.lock(0).await.unwrap();
        let waiting: Vec<_> = (1..MAX_SLOT_ORDERS)
            .map(|_| {
                let locks = Arc::clone(&locks);
                tokio::spawn(async move { locks.lock(0).await.map(drop) })
            })
            .collect();
        tokio::task::yield_now().await;
        // Whichever slot it is for.
        for slot in [0, 1] {
            assert_eq!(locks.lock(slot).await.err(), Some(SlotError::Busy));
        }
        drop(first);
        for action in waiting {
            assert_eq!(action.await.unwrap(), Ok(()));
        }
        assert!(locks.lock(1).await.is_ok());
    }
}
