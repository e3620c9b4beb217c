//! Bookkeeping of the paged KV cache: block pool, prefix tree and block tables. This module handles only block ids and
//! token ids: [`crate::runtime`] owns the memory, and [`crate::engine`] decides which sequence gets blocks.

mod block_id;
mod pool;
mod prefix;
mod table;

pub use block_id::BlockId;
pub use pool::BlockPool;
pub use prefix::CacheNamespace;
pub use table::{BlockCopy, BlockTable, CachedPrefix};
