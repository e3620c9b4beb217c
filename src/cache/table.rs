//! The blocks of one sequence, in the order of its tokens.

use super::pool::{BlockId, BlockPool};

/// Token `t` of the sequence lies in block `t / block_tokens`, at place `t % block_tokens`.
#[derive(Debug, Default)]
pub struct BlockTable(Vec<BlockId>);

impl BlockTable {
    /// Takes blocks until there is room for `tokens` tokens. False if the pool has too few: then
    /// nothing was taken.
    #[must_use]
    pub fn grow(&mut self, tokens: usize, pool: &mut BlockPool) -> bool {
        let missing = pool.blocks_for(tokens).saturating_sub(self.0.len());
        if missing > pool.free() {
            return false;
        }
        self.0.extend((0..missing).map_while(|_| pool.take()));
        true
    }

    /// Gives all blocks back.
    pub fn release(&mut self, pool: &mut BlockPool) {
        self.0.drain(..).for_each(|block| pool.release(block));
    }

    /// The blocks.
    pub fn blocks(&self) -> &[BlockId] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_grows_whole_or_not_at_all() {
        let mut pool = BlockPool::new(3, 4);
        let mut table = BlockTable::default();
        assert!(table.grow(5, &mut pool));
        assert_eq!((table.blocks().len(), pool.free()), (2, 1));
        assert!(table.grow(8, &mut pool), "there is room already");
        assert!(!table.grow(13, &mut pool));
        assert_eq!((table.blocks().len(), pool.free()), (2, 1));
        table.release(&mut pool);
        assert_eq!((table.blocks().len(), pool.free()), (0, 3));
    }
}
