//! ONNX Runtime: the session that computes a graph, the cache's memory, and ortolan's own operators.
//! The only floor that knows tensors, and the only one with unsafe code (but for mapping files).

mod adapters;
mod decoder;
mod encoder;
mod kv;
mod library;
pub mod operators;
mod session;

pub use decoder::Decoder;
pub use encoder::Encoder;
pub use kv::KvCache;
pub use library::{LibraryError, environment};
pub use session::SessionOptions;

use crate::engine::RunError;
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
