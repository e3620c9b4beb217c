//! Bookkeeping of the paged KV cache: block pool, prefix tree and block tables. This module handles only block ids and
//! token ids: [`crate::runtime`] owns the memory, and [`crate::engine`] decides which sequence gets blocks.

mod pool;
mod prefix;
mod table;

pub use pool::{BlockId, BlockPool};
pub use prefix::CacheNamespace;
pub use table::{BlockCopy, BlockTable, CachedPrefix};
