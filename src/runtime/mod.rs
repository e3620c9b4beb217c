//! ONNX Runtime: the session that computes a graph, the cache's memory, and ortolan's own operators.
//! The only floor that knows tensors, and the only one with unsafe code (but for mapping files).

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
pub use library::{LibraryError, environment, forbid_telemetry};
pub use past_present::PastPresent;
pub use session::SessionOptions;

use ort::session::SessionOutputs;

use crate::engine::{Rows, RunError};
use crate::graph::Embeddings;
use crate::token::TokenId;

/// Why the runtime refused.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// ONNX Runtime's own words.
    #[error("ONNX Runtime: {0}")]
    Runtime(#[from] ort::Error),
    /// The cache does not fit into memory.
    #[error("no memory for a key-value cache of {bytes} bytes")]
    CacheMemory {
        /// What was asked for.
        bytes: usize,
    },
    /// A graph lacks an output.
    #[error("the session gives no \"{name}\"")]
    NoOutput {
        /// Its name.
        name: String,
    },
    /// An output of a graph that others made is not what was said of it.
    #[error("the output \"{name}\" has {found} numbers, not {wanted}")]
    Output {
        /// Its name.
        name: String,
        /// Its numbers.
        found: usize,
        /// As many as were expected.
        wanted: usize,
    },
}

impl From<ort::Error<ort::session::builder::SessionBuilder>> for RuntimeError {
    fn from(error: ort::Error<ort::session::builder::SessionBuilder>) -> Self {
        RuntimeError::Runtime(error.into())
    }
}

/// Puts the tokens' rows of the embedding matrix behind `values`.
fn read_rows(
    embeddings: &Embeddings,
    tokens: &[TokenId],
    values: &mut Vec<f32>,
) -> Result<(), RunError> {
    let rows = tokens.iter().map(|token| token.row());
    embeddings
        .read(rows, values)
        .map_err(|row| RunError(format!("token {row} has no row in the embedding matrix")))
}

/// Puts the first `wanted` rows of an output with `rows` of them behind those that `into` has.
fn add_rows(
    outputs: &SessionOutputs<'_>,
    name: &str,
    [wanted, rows]: [usize; 2],
    into: &mut Rows,
) -> Result<(), RuntimeError> {
    let (_, values) = outputs[name].try_extract_tensor::<f32>()?;
    let added = into.add(wanted);
    let width = added.len() / wanted.max(1);
    if wanted > 0 && values.len() != rows * width {
        return Err(RuntimeError::Output {
            name: name.to_owned(),
            found: values.len(),
            wanted: rows * width,
        });
    }
    added.copy_from_slice(&values[..added.len()]);
    Ok(())
}

fn no_hidden_states() -> RunError {
    RunError("what this export computes before its logits is not known".to_owned())
}

/// Whether there are as many bytes as a block of the cache has.
fn check_block(wanted: usize, bytes: &[u8]) -> Result<(), RunError> {
    let found = bytes.len();
    match found == wanted {
        true => Ok(()),
        false => Err(RunError(format!(
            "a block has {wanted} bytes here, not {found}"
        ))),
    }
}
