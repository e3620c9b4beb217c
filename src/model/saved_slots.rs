//! Saves, restores and erases slots. Only the same program version, with the same model on the same device, restores a
//! file. Blocking threads read, write and hash the files.

mod file;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytesize::ByteSize;
use ring::digest::{Context, SHA256};
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::task::spawn_blocking;

use self::file::{ExpectedModel, SlotFileHeader};
use super::slots::CacheScope;
use super::{BLOCK_TOKENS, Caller, LoadedModel, RequestOwner};
use crate::engine::{CacheNamespace, MAX_SLOT_ACTIONS, SavedSequence, SlotError};
use crate::runtime::operators::simd::Instructions;
use crate::token::TokenId;

/// Prefix of the folder name for an API key; [`super::KeyId::name`] follows.
const KEY_FOLDER_PREFIX: &str = "key-";

/// Why a slot cannot be saved, restored or erased.
#[derive(Debug, thiserror::Error)]
pub enum SavedSlotError {
    /// The slot does not exist, or the engine cannot perform the action.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// The slot's sequence has no recorded request: the request is still running or computes an embedding.
    #[error(
        "the slot's last request is still running or was an embedding request: try again later"
    )]
    StillRunning,
    /// The slot's sequence belongs to another API key.
    #[error("the slot's last request belongs to another API key")]
    OwnedByAnotherKey,
    /// The file cannot be read or written.
    #[error("{0}")]
    File(#[from] io::Error),
    /// The file is not a complete saved slot.
    #[error("invalid saved slot: {0}")]
    InvalidFile(&'static str),
    /// Another model, device or program version saved the file.
    #[error("the slot was saved by another model or by another version of this program")]
    ModelMismatch,
    /// The file was saved with an adapter that is not loaded.
    #[error("the slot was saved with an adapter that is not loaded")]
    AdapterMissing,
    /// The folder contains the maximum number of files.
    #[error(
        "the limit of {0} saved slots is reached (--slot-save-max-files): save under an existing name"
    )]
    TooManyFiles(usize),
    /// The files would exceed the size limit of the folder.
    #[error("the saved slots would exceed {} (--slot-save-max-bytes)", ByteSize(*.0).display().iec())]
    TooManyBytes(u64),
}

/// Size and duration of a completed save or restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotReport {
    /// Number of tokens that were saved or restored.
    pub tokens: usize,
    /// Size of the file in bytes.
    pub bytes: u64,
    /// Duration of the action.
    pub duration: Duration,
}

/// Folder of saved slots (`--slot-save-path`), with its limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotFolder {
    /// Folder for files of clients without a key and of operators.
    pub path: PathBuf,
    /// Limits of this folder, and of the subfolder of each API key.
    pub limits: SlotFileLimits,
}

impl SlotFolder {
    /// Returns the subfolder for an API key with this [`super::KeyId::name`].
    pub fn of_key(&self, name: &str) -> PathBuf {
        self.path.join(format!("{}{name}", KEY_FOLDER_PREFIX))
    }
}

/// Limits of a folder of saved slots; subfolders do not count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotFileLimits {
    /// Maximum number of files.
    pub max_files: usize,
    /// Maximum total size of all files in bytes.
    pub max_bytes: u64,
}

/// Removes partial files, which a killed server left in a folder of saved slots or its subfolders. Returns their
/// number.
///
/// # Errors
/// If the folder cannot be read.
pub fn remove_partial_slot_files(folder: &Path) -> io::Result<usize> {
    file::remove_parts(folder)
}

/// Locks that allow one save, restore or erase at a time per slot, so that the copies of sequences take no more memory
/// than the cache. Over all slots, at most [`MAX_SLOT_ACTIONS`] actions run or wait.
pub(super) struct SlotLocks {
    slots: Vec<Arc<Mutex<()>>>,
    actions: Arc<Semaphore>,
}

/// Lock of a slot for one action.
struct LockedSlot {
    _slot: OwnedMutexGuard<()>,
    _action: OwnedSemaphorePermit,
}

impl SlotLocks {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots: (0..slots).map(|_| Arc::default()).collect(),
            actions: Arc::new(Semaphore::new(MAX_SLOT_ACTIONS)),
        }
    }

    /// Waits for the slot's running actions and locks the slot.
    ///
    /// # Errors
    /// If the slot does not exist, or too many actions of all slots run or wait.
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
    /// Saves the cached tokens of a slot's last sequence. The file appears under its name when it is complete.
    ///
    /// # Errors
    /// If the caller may not see the sequence, the folder would exceed `limits`, or the file cannot be written.
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
        let recorded_scope = saved
            .as_ref()
            .and_then(|saved| self.slots.cache_scope(slot, saved.id));
        let is_empty = saved.is_none();
        let is_recorded =
            recorded_scope.is_some() || saved.as_ref().is_none_or(|saved| saved.id.is_none());
        if !is_recorded && !caller.is_operator() {
            return Err(SavedSlotError::StillRunning);
        }
        let mut saved = saved.unwrap_or_else(|| SavedSequence {
            id: None,
            namespace: CacheNamespace::default(),
            tokens: Vec::new(),
            blocks: Vec::new(),
        });
        // Embedding requests have no record and use the default scope.
        let default_scope = CacheScope {
            salt: None,
            adapters: self.adapters.default_scales(),
            owner: RequestOwner::default(),
        };
        let scopes = [recorded_scope.unwrap_or_default(), default_scope].into_iter();
        let mut scopes = scopes.filter(|scope| self.namespace_of_scope(scope) == saved.namespace);
        let scope = scopes.next().ok_or(SavedSlotError::StillRunning)?;
        if !is_empty && !caller.may_see(scope.owner.key) {
            return Err(SavedSlotError::OwnedByAnotherKey);
        }
        let tokens = saved.tokens.len();
        let model = Arc::clone(self);
        let write = spawn_blocking(move || {
            let _locked = locked;
            let rows = saved.tokens.len() % BLOCK_TOKENS;
            if let Some(last) = saved.blocks.last_mut().filter(|_| rows > 0) {
                file::clear_unused_rows(last, rows, model.source.cache_row_bytes());
            }
            let header = SlotFileHeader {
                model: model.identity(),
                adapters: model.adapters.scales_by_digest(&scope.adapters),
                salt: scope.salt,
                tokens: saved.tokens.iter().map(|token| token.0).collect(),
                blocks: saved.blocks.len(),
                block_bytes: saved.blocks.first().map_or(0, Vec::len),
            };
            file::write(&path, &header, &saved.blocks, limits)
        });
        Ok(SlotReport {
            tokens,
            bytes: write.await.map_err(io::Error::from)??,
            duration: started.elapsed(),
        })
    }

    /// Restores the sequence of a file as the last sequence of a slot, in the cache namespace of `owner`. Tokens at the
    /// end that do not fit into the cache are dropped.
    ///
    /// # Errors
    /// If the caller may not see the slot's last request, the file is not a saved slot of this model, or the engine
    /// rejects the action.
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
            let read = file::read(&path, &model.expected_model())?;
            Ok::<_, SavedSlotError>((read, locked))
        });
        let ((header, blocks, bytes), _locked) = read.await.map_err(io::Error::from)??;
        let scope = CacheScope {
            adapters: self
                .adapters
                .scales_from_digests(&header.adapters)
                .ok_or(SavedSlotError::AdapterMissing)?,
            salt: header.salt,
            owner,
        };
        let saved = SavedSequence {
            id: None,
            namespace: self.namespace_of_scope(&scope),
            tokens: header.tokens.into_iter().map(TokenId).collect(),
            blocks,
        };
        let tokens = self.engine.restore_slot(slot, saved).await?;
        self.slots.record_restored(slot, scope);
        Ok(SlotReport {
            tokens,
            bytes,
            duration: started.elapsed(),
        })
    }

    /// Erases a slot's last sequence and the cached blocks that no other sequence uses. Returns the number of erased
    /// tokens.
    ///
    /// # Errors
    /// If the caller may not see the slot's last request, or the engine rejects the action.
    pub async fn erase_slot(&self, slot: usize, caller: Caller) -> Result<usize, SavedSlotError> {
        let _locked = self.slot_locks.lock(slot).await?;
        self.check_owner(slot, caller)?;
        let erased = self.engine.erase_slot(slot).await?;
        self.slots.clear(slot);
        Ok(erased)
    }

    /// Checks that the caller may see the slot's last request.
    fn check_owner(&self, slot: usize, caller: Caller) -> Result<(), SavedSlotError> {
        match self.slots.owner(slot) {
            Some(owner) if !caller.may_see(owner.key) => Err(SavedSlotError::OwnedByAnotherKey),
            _ => Ok(()),
        }
    }

    fn namespace_of_scope(&self, scope: &CacheScope) -> CacheNamespace {
        let key = scope.owner.cache_namespace;
        self.cache_namespace_of(key, scope.salt.as_deref(), &scope.adapters)
    }

    fn expected_model(&self) -> ExpectedModel {
        ExpectedModel {
            model: self.identity(),
            vocabulary_size: self.details.vocabulary_size,
            block_bytes: self.source.cache_bytes_per_token() as usize * BLOCK_TOKENS,
            element_bytes: self.source.cache_element_bytes(),
            cache_blocks: self.details.cache_tokens / BLOCK_TOKENS,
        }
    }

    /// Returns a digest of everything that determines keys and values: program version, device, instruction set and
    /// model files. The first call reads the whole model.
    fn identity(&self) -> String {
        let identity = self.identity.get_or_init(|| {
            let mut digest = Context::new(&SHA256);
            // The instruction set affects rounding.
            let instructions = format!("{:?}", Instructions::detect());
            for text in [
                env!("CARGO_PKG_VERSION"),
                &self.details.device,
                &instructions,
            ] {
                digest.update(text.as_bytes());
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
    async fn rejects_a_slot_action_when_the_limit_is_reached() {
        let locks = Arc::new(SlotLocks::new(2));
        assert_eq!(locks.lock(2).await.err(), Some(SlotError::Unknown(2)));
        let first = locks.lock(0).await.unwrap();
        let waiting: Vec<_> = (1..MAX_SLOT_ACTIONS)
            .map(|_| {
                let locks = Arc::clone(&locks);
                tokio::spawn(async move { locks.lock(0).await.map(drop) })
            })
            .collect();
        tokio::task::yield_now().await;
        // The limit applies to all slots together.
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
