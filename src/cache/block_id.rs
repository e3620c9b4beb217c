//! Identifies a block in the pool, the prefix tree and the block tables.

/// Index of a block in the KV cache's memory, less than [`super::BlockPool::blocks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(pub(super) u32);

impl BlockId {
    /// The index as a `usize`, for indexing memory and tables.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}
