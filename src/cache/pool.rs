//! The blocks of the cache: which are free, and how many hold each of the others.
//!
//! Source: Kwon et al., «Efficient Memory Management for Large Language Model Serving with
//! PagedAttention» (2023), section 4.

/// A block's number: its place in the cache's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BlockId(u32);

impl BlockId {
    /// The number.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// All blocks, each with the number of its holders.
#[derive(Debug)]
pub struct BlockPool {
    block_tokens: usize,
    holders: Vec<u32>,
    free: Vec<BlockId>,
}

impl BlockPool {
    /// A pool of `blocks` free blocks for `block_tokens` tokens each.
    ///
    /// # Panics
    /// If `block_tokens` is 0 or there are more blocks than `u32` counts.
    pub fn new(blocks: usize, block_tokens: usize) -> Self {
        assert!(block_tokens > 0, "a block holds at least one token");
        let count = u32::try_from(blocks).expect("block numbers fit u32");
        Self {
            block_tokens,
            holders: vec![0; blocks],
            // The lowest number is taken first.
            free: (0..count).rev().map(BlockId).collect(),
        }
    }

    /// A free block, held once; `None` if there is none.
    pub fn take(&mut self) -> Option<BlockId> {
        let block = self.free.pop()?;
        self.holders[block.index()] = 1;
        Some(block)
    }

    /// Another holder for a held block.
    ///
    /// # Panics
    /// If nobody holds the block.
    pub fn share(&mut self, block: BlockId) {
        let holders = &mut self.holders[block.index()];
        assert!(*holders > 0, "only a held block can be shared");
        *holders += 1;
    }

    /// One holder less; the block is free when it was the last.
    ///
    /// # Panics
    /// If nobody holds the block.
    pub fn release(&mut self, block: BlockId) {
        let holders = &mut self.holders[block.index()];
        assert!(*holders > 0, "only a held block can be released");
        *holders -= 1;
        if *holders == 0 {
            self.free.push(block);
        }
    }

    /// Blocks that nobody holds.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// All blocks.
    pub fn blocks(&self) -> usize {
        self.holders.len()
    }

    /// Tokens a block holds.
    pub fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// Blocks that so many tokens need.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_tokens)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Action {
        Take,
        Share(usize),
        Release(usize),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            Just(Action::Take),
            any::<usize>().prop_map(Action::Share),
            any::<usize>().prop_map(Action::Release),
        ]
    }

    proptest! {
        /// Whatever is done, each block is free or held as often as it was taken and shared.
        #[test]
        fn no_block_is_lost_or_held_twice(blocks in 0usize..12, actions in prop::collection::vec(action(), 0..200)) {
            let mut pool = BlockPool::new(blocks, 4);
            let mut holds: Vec<BlockId> = Vec::new();
            for action in actions {
                match action {
                    Action::Take => match pool.take() {
                        Some(block) => {
                            prop_assert!(!holds.contains(&block));
                            holds.push(block);
                        }
                        None => prop_assert_eq!(pool.free(), 0),
                    },
                    Action::Share(which) if !holds.is_empty() => {
                        let block = holds[which % holds.len()];
                        pool.share(block);
                        holds.push(block);
                    }
                    Action::Release(which) if !holds.is_empty() => {
                        pool.release(holds.swap_remove(which % holds.len()));
                    }
                    Action::Share(_) | Action::Release(_) => {}
                }
                let held: std::collections::HashSet<usize> = holds.iter().map(|block| block.index()).collect();
                prop_assert_eq!(pool.free() + held.len(), blocks);
            }
            for block in holds {
                pool.release(block);
            }
            prop_assert_eq!(pool.free(), blocks);
        }
    }

    #[test]
    #[should_panic(expected = "only a held block can be released")]
    fn a_free_block_cannot_be_released() {
        let mut pool = BlockPool::new(1, 4);
        let block = pool.take().unwrap();
        pool.release(block);
        pool.release(block);
    }
}
