//! Reads and writes GGUF files: header metadata, tensor locations, quantization and dequantization of tensor blocks.
//! [`crate::graph`] interprets the contents for each model architecture.
//!
//! Source: the GGUF specification (ggml repository, `docs/gguf.md`), versions 2 and 3.

mod error;
mod listing;
mod metadata;
pub mod quant;
mod reader;
mod shards;
mod writer;

pub use error::GgufError;
pub use listing::{HeaderListing, MetadataEntry, TensorInfo};
pub use metadata::{Metadata, MetadataError, Optional, Value};
pub use quant::TensorType;
pub use reader::{Tensor, check};
pub use shards::Gguf;
pub use writer::{GgufWriter, OutputEntry, OutputTensor};
