//! Runs graphs with ONNX Runtime: sessions, key-value cache memory and ortolan's custom operators.
//! Only this layer handles tensors, and only this layer has unsafe code (except memory mapping of files).

mod adapters;
mod decoder;
mod device;
mod device_cache;
mod encoder;
mod kv;
mod library;
pub mod operators;
mod past_present;
mod session;
mod stage;

pub use decoder::Decoder;
pub use device::{Device, DeviceChoice, DeviceOptions};
pub use encoder::Encoder;
pub use kv::KvCache;
pub use library::{LibraryError, disable_telemetry, environment};
pub use past_present::PastPresent;
pub use session::SessionOptions;

use ort::session::SessionOutputs;

use crate::engine::{Rows, RunError};
use crate::graph::Embeddings;
use crate::token::TokenId;

/// Failure to load or run a model in ONNX Runtime.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// An error that ONNX Runtime reports.
    #[error("ONNX Runtime: {0}")]
    Runtime(#[from] ort::Error),
    /// The key-value cache cannot be allocated.
    #[error("cannot allocate {bytes} bytes for the key-value cache")]
    CacheMemory {
        /// Requested size; `usize::MAX` if the size is out of range.
        bytes: usize,
    },
    /// The graph has no output of this name.
    #[error("output not found: the session has no \"{name}\"")]
    MissingOutput {
        /// Name of the missing output.
        name: String,
    },
    /// The number of elements in an output differs from the number that the model's configuration implies.
    #[error("the output \"{name}\" has {found} elements, expected {expected}")]
    OutputSize {
        /// Name of the output.
        name: String,
        /// Number of elements that the graph returned.
        found: usize,
        /// Number of elements that the configuration implies.
        expected: usize,
    },
}

impl From<ort::Error<ort::session::builder::SessionBuilder>> for RuntimeError {
    fn from(error: ort::Error<ort::session::builder::SessionBuilder>) -> Self {
        RuntimeError::Runtime(error.into())
    }
}

/// Appends the embedding of each token to `values`, `[tokens, hidden]`.
fn append_embedding_rows(
    embeddings: &Embeddings,
    tokens: &[TokenId],
    values: &mut Vec<f32>,
) -> Result<(), RunError> {
    let rows = tokens.iter().map(|token| token.row());
    embeddings
        .read(rows, values)
        .map_err(|row| RunError(format!("token {row} has no row in the embedding matrix")))
}

/// Appends the first `requested` rows of the output `name` to `into`. `rows` is the number of rows including padding.
fn append_output_rows(
    outputs: &SessionOutputs<'_>,
    name: &str,
    [requested, rows]: [usize; 2],
    into: &mut Rows,
) -> Result<(), RuntimeError> {
    let (_, values) = outputs[name].try_extract_tensor::<f32>()?;
    let added = into.add(requested);
    let width = added.len() / requested.max(1);
    if requested > 0 && values.len() != rows * width {
        return Err(RuntimeError::OutputSize {
            name: name.to_owned(),
            found: values.len(),
            expected: rows * width,
        });
    }
    added.copy_from_slice(&values[..added.len()]);
    Ok(())
}

fn no_hidden_states() -> RunError {
    RunError("hidden states are not supported: this exported graph has no such output".to_owned())
}

/// Checks that `bytes` has the `expected` size of a cache block.
fn check_block_size(expected: usize, bytes: &[u8]) -> Result<(), RunError> {
    let found = bytes.len();
    match found == expected {
        true => Ok(()),
        false => Err(RunError(format!(
            "invalid cache block: {found} bytes, expected {expected}"
        ))),
    }
}
