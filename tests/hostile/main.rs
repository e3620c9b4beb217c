//! Fuzzing of model files, templates, conversations and grammars: each modified input must give a result or an error,
//! never a panic, and stay within limits of memory and time. `make fuzz` runs a million cases of each kind.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

#[path = "../common/mod.rs"]
mod common;
mod fuzzer;
mod mutations;

mod configurations;
mod exports;
mod ggufs;
mod grammars;
mod safetensors_files;
mod templates;
mod tokenizers;

use common::{gguf as gguf_files, recorded};
use tempfile::TempDir;

/// A temporary folder, in memory if the system has `/dev/shm`.
fn folder() -> TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}
