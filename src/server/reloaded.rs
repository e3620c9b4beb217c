//! What is read from files, and read anew when one of them changes; what cannot be read then leaves it as it was.

use std::fmt::{Debug, Display};
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Files and what they say.
pub(super) trait Source {
    type Value: Debug;
    type Error: Display;

    fn files(&self) -> Vec<&Path>;

    fn read(&self) -> Result<Self::Value, Self::Error>;
}

/// What the files of a source say now.
#[derive(Debug)]
pub(super) struct Reloaded<S: Source> {
    source: S,
    read: Mutex<(Vec<Stamp>, Arc<S::Value>)>,
}

/// What tells that a file has changed: its time and its length.
type Stamp = Option<(SystemTime, u64)>;

impl<S: Source> Reloaded<S> {
    pub(super) fn new(source: S) -> Result<Self, S::Error> {
        // The stamps come first: who writes meanwhile is noticed the next time.
        let stamps = stamps(&source);
        let value = Arc::new(source.read()?);
        Ok(Self {
            source,
            read: Mutex::new((stamps, value)),
        })
    }

    pub(super) fn now(&self) -> Arc<S::Value> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.source);
        if read.0 != stamps {
            read.0 = stamps;
            match self.source.read() {
                Ok(value) => read.1 = Arc::new(value),
                Err(error) => tracing::warn!(%error, "what was read before stays in force"),
            }
        }
        Arc::clone(&read.1)
    }
}

fn stamps(source: &impl Source) -> Vec<Stamp> {
    let stamp = |path| {
        let data = fs::metadata(path).ok()?;
        Some((data.modified().ok()?, data.len()))
    };
    source.files().into_iter().map(stamp).collect()
}

/// A file's bytes.
pub(super) fn bytes_of(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if bytes > MAX_FILE_BYTES {
        return Err(format!("{bytes} bytes are more than {MAX_FILE_BYTES}"));
    }
    fs::read(path).map_err(|error| error.to_string())
}
