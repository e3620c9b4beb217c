//! Whatever a model's files and a conversation say: an answer or an error, and never a panic, memory without a bound or
//! time without one. What is altered is valid to begin with. `make fuzz` tries a million cases of each kind.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod changes;
#[path = "../common/gguf.rs"]
#[expect(dead_code, reason = "every test crate uses a part of it")]
mod gguf_files;
mod guard;

mod configurations;
mod exports;
mod ggufs;
mod grammars;
mod safetensors_files;
mod templates;
mod tokenizers;

use serde_json::Value;
use tempfile::TempDir;

/// What is in the file of that name in `tests/golden/`.
fn recorded(name: &str) -> Value {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

/// A folder for many files, in memory where the system has such a place.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}
