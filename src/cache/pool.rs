//! The blocks of the cache: how many hold each, which are free, and which are kept for their content.
//!
//! ```text
//! free ──take──▶ held ──release──▶ idle: nobody holds it, its content can be found
//!   ▲              │ ▲               │
//!   └──release─────┘ └─────hold──────┤
//!      (no content)      (a reader)  └──take──▶ held, its content forgotten: the idle the longest first
//! ```
//!
//! Whoever holds a block holds all blocks before it in its chain, and lets go of the deepest first. So a
//! block's followers are never idle for a shorter time than the block itself, and the one that is idle the
//! longest has nothing after it.
//!
//! Source: Kwon et al., "Efficient Memory Management for Large Language Model Serving with
//! PagedAttention" (2023), section 4.

use std::collections::BTreeMap;

use super::prefix::{Before, PrefixTree};
use crate::token::TokenId;

/// A block's number: its place in the cache's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
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
    states: Vec<State>,
    free: Vec<BlockId>,
    /// By the time since which they are idle.
    idle: BTreeMap<u64, BlockId>,
    /// Blocks that became idle so far: a clock.
    idle_clock: u64,
    tree: PrefixTree,
    evictions: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Held { holders: u32 },
    Idle { since: u64 },
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
            states: vec![State::Free; blocks],
            // The lowest number is taken first.
            free: (0..count).rev().map(BlockId).collect(),
            idle: BTreeMap::new(),
            idle_clock: 0,
            tree: PrefixTree::default(),
            evictions: 0,
        }
    }

    /// A block that nobody holds, held once from now on; `None` if there is none. If only idle ones are
    /// left, the content of the one that is idle the longest is forgotten.
    pub fn take(&mut self) -> Option<BlockId> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => {
                let (_, block) = self.idle.pop_first()?;
                self.tree.forget(block);
                self.evictions += 1;
                block
            }
        };
        self.states[block.index()] = State::Held { holders: 1 };
        Some(block)
    }

    /// Another holder for a held or idle block.
    ///
    /// # Panics
    /// If the block is free.
    pub fn hold(&mut self, block: BlockId) {
        let state = &mut self.states[block.index()];
        match state {
            State::Held { holders } => *holders += 1,
            State::Idle { since } => {
                self.idle.remove(since);
                *state = State::Held { holders: 1 };
            }
            State::Free => panic!("a free block has nothing to hold"),
        }
    }

    /// One holder less. After the last one the block is idle if its content can be found, free if not.
    ///
    /// # Panics
    /// If nobody holds the block.
    pub fn release(&mut self, block: BlockId) {
        let state = &mut self.states[block.index()];
        match state {
            State::Held { holders: 1 } if self.tree.has(block) => {
                *state = State::Idle {
                    since: self.idle_clock,
                };
                self.idle.insert(self.idle_clock, block);
                self.idle_clock += 1;
            }
            State::Held { holders: 1 } => {
                *state = State::Free;
                self.free.push(block);
            }
            State::Held { holders } => *holders -= 1,
            State::Free | State::Idle { .. } => panic!("only a held block can be released"),
        }
    }

    /// Whether nobody holds the block and its content can be found.
    pub(super) fn is_idle(&self, block: BlockId) -> bool {
        matches!(self.states[block.index()], State::Idle { .. })
    }

    /// The block that holds just these tokens after `before`.
    pub(super) fn find(&self, before: Before, tokens: &[TokenId]) -> Option<BlockId> {
        self.tree.find(before, tokens)
    }

    /// The block after `before` that shares most with `tokens` at their beginning, and how many.
    pub(super) fn closest(&self, before: Before, tokens: &[TokenId]) -> Option<(BlockId, usize)> {
        self.tree.closest(before, tokens)
    }

    /// Makes the content of a held block known. It must not be written any more.
    ///
    /// # Panics
    /// If nobody holds the block.
    pub(super) fn enter(&mut self, block: BlockId, before: Before, tokens: &[TokenId]) {
        assert!(
            matches!(self.states[block.index()], State::Held { .. }),
            "only a held block has a content"
        );
        self.tree.enter(block, before, tokens);
    }

    /// Forgets what is in a block that nobody holds and that nothing comes after. Answers whether it is such a block.
    pub fn forget(&mut self, block: BlockId) -> bool {
        let state = &mut self.states[block.index()];
        let State::Idle { since } = *state else {
            return false;
        };
        if self.tree.has_followers(block) {
            return false;
        }
        self.idle.remove(&since);
        self.tree.forget(block);
        *state = State::Free;
        self.free.push(block);
        true
    }

    /// Blocks that can be taken: free ones, and idle ones.
    pub fn available(&self) -> usize {
        self.free.len() + self.idle.len()
    }

    /// Blocks that nobody holds and that are kept for their content.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// All blocks.
    pub fn blocks(&self) -> usize {
        self.states.len()
    }

    /// Contents that were forgotten to make room.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Tokens a block holds.
    pub fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// Blocks that so many tokens need.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_tokens)
    }

    /// Holds the pool against itself, for when nothing runs: every block is either free or idle, and what
    /// can be found hangs together.
    ///
    /// # Errors
    /// What does not add up.
    pub fn check_at_rest(&self) -> Result<(), String> {
        if self.available() != self.blocks() {
            return Err(format!(
                "{} free and {} idle blocks are not all {}",
                self.free.len(),
                self.idle.len(),
                self.blocks()
            ));
        }
        for block in &self.free {
            if self.states[block.index()] != State::Free || self.tree.has(*block) {
                return Err(format!("block {} is not free", block.0));
            }
        }
        for (since, block) in &self.idle {
            if self.states[block.index()] != (State::Idle { since: *since }) {
                return Err(format!("block {} is not idle since {since}", block.0));
            }
        }
        for (block, before) in self.tree.links() {
            let since = |block: BlockId| match self.states[block.index()] {
                State::Idle { since } => Some(since),
                State::Free | State::Held { .. } => None,
            };
            if since(block).is_none() || before.is_some_and(|before| since(before) <= since(block))
            {
                return Err(format!("block {} outlives what comes before it", block.0));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "only a held block can be released")]
    fn a_free_block_cannot_be_released() {
        let mut pool = BlockPool::new(1, 4);
        let block = pool.take().unwrap();
        pool.release(block);
        pool.release(block);
    }

    #[test]
    fn what_is_idle_the_longest_goes_first() {
        let root = Before::Root(super::super::PrefixRoot(0));
        let content = |number| vec![TokenId(number)];
        let mut pool = BlockPool::new(3, 1);
        let blocks: Vec<BlockId> = (0..3).map(|_| pool.take().unwrap()).collect();
        for (number, block) in (0..).zip(&blocks) {
            pool.enter(*block, root, &content(number));
        }
        blocks.iter().for_each(|block| pool.release(*block));
        assert_eq!(
            (pool.available(), pool.idle(), pool.take().is_some()),
            (3, 3, true)
        );
        assert_eq!(pool.find(root, &content(0)), None);
        // Who is read again is the last to go.
        pool.hold(blocks[1]);
        pool.release(blocks[1]);
        assert_eq!(pool.take(), Some(blocks[2]));
        assert_eq!(pool.find(root, &content(1)), Some(blocks[1]));
        assert_eq!(pool.evictions(), 2);
    }
}
