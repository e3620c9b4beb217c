//! Fuzzing of model files, templates, conversations and grammars: each modified input must give a result or an error,
//! never a panic, and stay within limits of memory and time. `make fuzz` runs a million cases of each kind.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

mod fuzzer;
#[path = "../common/gguf.rs"]
#[expect(dead_code, reason = "every test crate uses some of these helpers")]
mod gguf_files;

mod mutations;

mod configurations;
mod exports;
mod ggufs;
mod grammars;
mod safetensors_files;
mod templates;
mod tokenizers;

use serde_json::Value;
use tempfile::TempDir;

/// Reads a JSON file in `tests/golden/`.
fn recorded(name: &str) -> Value {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    serde_json::from_slice(&std::fs::read(folder.join(name)).unwrap()).unwrap()
}

/// A temporary folder, in memory if the system has `/dev/shm`.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}
