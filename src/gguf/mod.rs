//! GGUF files: the header's key-value pairs, the tensors' places, and what their blocks stand for.
//! Nothing here knows what a model is; [`crate::graph`] does.
//!
//! Source: the GGUF specification (ggml repository, `docs/gguf.md`), versions 2 and 3.

mod listing;
mod metadata;
pub mod quant;
mod reader;
mod set;
mod writer;

pub use listing::{ListedPair, ListedTensor, Listing};
pub use metadata::{Metadata, MetadataError, Optional, Value};
pub use quant::TensorType;
pub use reader::{GgufError, Tensor, check};
pub use set::Gguf;
pub use writer::{GgufWriter, WrittenPair, WrittenTensor};
