//! Paths of the real ONNX Runtime library, the real models, and the recorded reference data; files and processes of
//! tests.

#![allow(dead_code, reason = "every test crate uses some of these helpers")]

pub(crate) mod gguf;
pub(crate) mod lora;
pub(crate) mod process;
pub(crate) mod random;
pub(crate) mod tiny;

use std::path::{Path, PathBuf};

use ortolan::runtime::operators::parallel::OperatorError;

/// Path of a file in the repository.
pub(crate) fn file(path: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Path of a file in `.cache/`, which `make setup-tests` fills.
///
/// # Panics
/// If the file is missing: tests that need it fail instead of being skipped.
fn cached_file(name: &str) -> PathBuf {
    let path = file(".cache").join(name);
    assert!(
        path.exists(),
        "{} not found: run `make setup-tests`",
        path.display()
    );
    path
}

/// ONNX Runtime's shared library.
pub(crate) fn onnxruntime() -> PathBuf {
    let name = match std::env::consts::OS {
        "macos" => "onnxruntime/libonnxruntime.dylib",
        _ => "onnxruntime/libonnxruntime.so",
    };
    cached_file(name)
}

/// The default model.
pub(crate) fn model() -> PathBuf {
    cached_file("models/SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// A model with a SentencePiece vocabulary.
pub(crate) fn gemma() -> PathBuf {
    cached_file("models/gemma-3-270m.Q4_K_M.gguf")
}

/// The folder of the embedding model.
pub(crate) fn embedding_model() -> PathBuf {
    cached_file("models/all-MiniLM-L6-v2")
}

/// Reference results for the default model, recorded with llama.cpp.
pub(crate) fn golden() -> serde_json::Value {
    recorded("smollm2-135m-instruct-q4_1.json")
}

/// Reference results for the model with a SentencePiece vocabulary, recorded with llama.cpp.
pub(crate) fn golden_gemma() -> serde_json::Value {
    recorded("gemma3-270m-q4_k_m.json")
}

/// Reference embeddings, recorded with an independent implementation.
pub(crate) fn golden_embeddings() -> serde_json::Value {
    recorded("all-minilm-l6-v2.json")
}

/// Reads a JSON file in `tests/golden/`.
pub(crate) fn recorded(name: &str) -> serde_json::Value {
    let path = file("tests/golden").join(name);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("recorded reference data is JSON")
}

/// Calls an operator's loop body on the current thread.
pub(crate) fn one_thread(count: usize, call: &(dyn Fn(usize) + Sync)) -> Result<(), OperatorError> {
    (0..count).for_each(call);
    Ok(())
}
