//! Where the tests find the real runtime and the real model.

#![allow(dead_code, reason = "every test crate uses a part of it")]

pub(crate) mod gguf;
pub(crate) mod lora;
pub(crate) mod tiny;

use std::path::PathBuf;

/// The file in the folder that `make setup` fills.
///
/// # Panics
/// If it is not there: nothing that needs it is skipped.
fn fetched(name: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join(".cache")
        .join(name);
    assert!(
        path.exists(),
        "{} is missing: run `make setup`",
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
    fetched(name)
}

/// The default model.
pub(crate) fn model() -> PathBuf {
    fetched("models/SmolLM2-135M-Instruct.Q4_1.gguf")
}

/// A model with a SentencePiece vocabulary.
pub(crate) fn gemma() -> PathBuf {
    fetched("models/gemma-3-270m.Q4_K_M.gguf")
}

/// The folder of the model of embeddings.
pub(crate) fn embedding_model() -> PathBuf {
    fetched("models/all-MiniLM-L6-v2")
}

/// What an independent implementation recorded of the default model.
pub(crate) fn golden() -> serde_json::Value {
    recorded("smollm2-135m-instruct-q4_1.json")
}

/// The same of the model with a SentencePiece vocabulary.
pub(crate) fn golden_gemma() -> serde_json::Value {
    recorded("gemma3-270m-q4_k_m.json")
}

/// What an independent implementation recorded of the model of embeddings.
pub(crate) fn golden_embeddings() -> serde_json::Value {
    recorded("all-minilm-l6-v2.json")
}

/// What is in the file of that name in `tests/golden/`.
pub(crate) fn recorded(name: &str) -> serde_json::Value {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).expect("what was recorded is JSON")
}
