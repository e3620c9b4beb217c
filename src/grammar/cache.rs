//! Cache of compiled grammars: agents send the same schemas and tools with every request.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

use super::{Constraint, GrammarError, GrammarSource, Tokenization};
use crate::cancel::CancelFlag;

/// Maximum number of cached grammars.
const MAX_CACHED_GRAMMARS: usize = 64;
/// Maximum size of the cached grammars with their sources, in estimated bytes.
const MAX_CACHED_BYTES: usize = 128 << 20;
/// Time between two checks whether another thread's compilation has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// Everything that a compiled grammar depends on, as JSON with the members of all objects in the order of the request:
/// the grammar generates properties in this order. Keys are compared as a whole, so they cannot collide.
#[derive(PartialEq, Eq)]
pub(super) struct CacheKey(String);

impl CacheKey {
    /// `scope` separates clients that must not share entries.
    pub(super) fn new(
        source: &GrammarSource,
        tokenization: Tokenization,
        scope: u128,
    ) -> Result<Self, GrammarError> {
        let key = serde_json::to_string(&(scope, tokenization == Tokenization::Any, source));
        key.map(Self)
            .map_err(|error| GrammarError::Rejected(error.to_string()))
    }
}

/// The result of a compilation; `None` until it ends. The lock is held during the compilation.
type Compilation = Mutex<Option<Result<Arc<Constraint>, GrammarError>>>;

struct Entry {
    key: CacheKey,
    compilation: Arc<Compilation>,
    /// Estimated bytes of the compiled grammar; 0 until it is compiled.
    compiled_bytes: usize,
}

/// Compiled grammars, from the least to the most recently used. Entries are immutable: each sequence has a deep clone.
#[derive(Default)]
pub(super) struct GrammarCache(Mutex<Vec<Entry>>);

impl GrammarCache {
    /// Returns the cached constraint of `key`, or calls `compile`, which also returns the estimated bytes. Calls with
    /// the same key wait for the first one and get its result, unless it was cancelled. Errors are not cached.
    ///
    /// # Errors
    /// Those of `compile`; [`GrammarError::Cancelled`] if `cancel` is set while the call waits.
    pub(super) fn get_or_compile(
        &self,
        key: CacheKey,
        cancel: &CancelFlag,
        compile: impl FnOnce() -> Result<(Constraint, usize), GrammarError>,
    ) -> Result<Arc<Constraint>, GrammarError> {
        let compilation = self.compilation(key);
        let mut result = loop {
            match compilation.try_lock() {
                Ok(result) => break result,
                Err(TryLockError::Poisoned(error)) => break error.into_inner(),
                Err(TryLockError::WouldBlock) if cancel.is_cancelled() => {
                    return Err(GrammarError::Cancelled);
                }
                Err(TryLockError::WouldBlock) => std::thread::sleep(POLL_INTERVAL),
            }
        };
        if let Some(result) = &*result {
            return result.clone();
        }
        let compiled = compile().map(|(constraint, bytes)| (Arc::new(constraint), bytes));
        let bytes = compiled.as_ref().ok().map(|(_, bytes)| *bytes);
        self.finish(&compilation, bytes);
        let compiled = compiled.map(|(constraint, _)| constraint);
        if !matches!(compiled, Err(GrammarError::Cancelled)) {
            *result = Some(compiled.clone());
        }
        compiled
    }

    /// Returns the compilation of `key`, which becomes the most recently used entry. Creates the entry if necessary.
    fn compilation(&self, key: CacheKey) -> Arc<Compilation> {
        let mut entries = lock(&self.0);
        let entry = match entries.iter().position(|entry| entry.key == key) {
            Some(index) => entries.remove(index),
            None => Entry {
                key,
                compilation: Arc::default(),
                compiled_bytes: 0,
            },
        };
        let compilation = Arc::clone(&entry.compilation);
        entries.push(entry);
        evict(&mut entries);
        compilation
    }

    /// Records the estimated bytes of a compiled grammar; removes the entry if the compilation failed.
    fn finish(&self, compilation: &Arc<Compilation>, bytes: Option<usize>) {
        let mut entries = lock(&self.0);
        let is_finished = |entry: &Entry| Arc::ptr_eq(&entry.compilation, compilation);
        match (entries.iter().position(is_finished), bytes) {
            (None, _) => {}
            (Some(index), Some(bytes)) if bytes <= MAX_CACHED_BYTES => {
                entries[index].compiled_bytes = bytes;
            }
            (Some(index), _) => drop(entries.remove(index)),
        }
        evict(&mut entries);
    }
}

/// Removes the least recently used entries until the limits are met. Their users keep the compiled grammars.
fn evict(entries: &mut Vec<Entry>) {
    let bytes = |entry: &Entry| entry.key.0.len() + entry.compiled_bytes;
    let mut total: usize = entries.iter().map(bytes).sum();
    let mut removed = 0;
    while entries.len() - removed > MAX_CACHED_GRAMMARS || total > MAX_CACHED_BYTES {
        total -= bytes(&entries[removed]);
        removed += 1;
    }
    entries.drain(..removed);
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
