//! The block pool of the KV cache: reference counts, free blocks, and evictable blocks whose contents stay cached.
//!
//! ```text
//! free ──allocate──▶ referenced ──release──▶ evictable: no references, contents cached
//!   ▲                 │     ▲                  │
//!   └─────release─────┘     └──add_reference───┤
//!       (not cached)                           └──allocate──▶ referenced, old contents evicted (LRU first)
//! ```
//!
//! A sequence that references a block also references the blocks of all earlier tokens, and releases its last block
//! first. A block therefore becomes evictable after its children in the prefix tree. So the least recently used
//! evictable block never has children and can be evicted alone.
//!
//! Source: Kwon et al., "Efficient Memory Management for Large Language Model Serving with
//! PagedAttention" (2023), section 4.

use std::collections::BTreeMap;

use super::block_id::BlockId;
use super::prefix::{Parent, PrefixTree};
use crate::token::TokenId;

/// Tracks the state of every block, and keeps the prefix tree of the cached blocks.
#[derive(Debug)]
pub struct BlockPool {
    block_tokens: usize,
    states: Vec<State>,
    free: Vec<BlockId>,
    /// Evictable blocks, keyed by the value of `eviction_clock` when the block became evictable. The first block is the
    /// least recently used.
    evictable: BTreeMap<u64, BlockId>,
    /// Logical clock: counts how often any block became evictable.
    eviction_clock: u64,
    tree: PrefixTree,
    evictions: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Free,
    Referenced { references: u32 },
    Evictable { since: u64 },
}

impl BlockPool {
    /// Creates a pool of `blocks` free blocks, each with room for `block_tokens` tokens.
    ///
    /// # Panics
    /// If `block_tokens` is 0 or `blocks` exceeds `u32::MAX`.
    pub fn new(blocks: usize, block_tokens: usize) -> Self {
        assert!(block_tokens > 0, "a block holds at least one token");
        let count = u32::try_from(blocks).expect("block indices fit u32");
        Self {
            block_tokens,
            states: vec![State::Free; blocks],
            // Reversed, because `allocate` pops from the end: the lowest index is allocated first.
            free: (0..count).rev().map(BlockId).collect(),
            evictable: BTreeMap::new(),
            eviction_clock: 0,
            tree: PrefixTree::default(),
            evictions: 0,
        }
    }

    /// Allocates a block with one reference. If no block is free, evicts the least recently used evictable block.
    /// Returns `None` if all blocks are referenced.
    pub fn allocate(&mut self) -> Option<BlockId> {
        let block = match self.free.pop() {
            Some(block) => block,
            None => {
                let (_, block) = self.evictable.pop_first()?;
                self.tree.remove(block);
                self.evictions += 1;
                block
            }
        };
        self.states[block.index()] = State::Referenced { references: 1 };
        Some(block)
    }

    /// Adds a reference to a referenced or evictable block.
    ///
    /// # Panics
    /// If the block is free.
    pub fn add_reference(&mut self, block: BlockId) {
        let state = &mut self.states[block.index()];
        match state {
            State::Referenced { references } => *references += 1,
            State::Evictable { since } => {
                self.evictable.remove(since);
                *state = State::Referenced { references: 1 };
            }
            State::Free => panic!("a free block cannot be referenced"),
        }
    }

    /// Removes a reference. A block without references becomes evictable if it is cached, otherwise free.
    ///
    /// # Panics
    /// If the block has no reference.
    pub fn release(&mut self, block: BlockId) {
        let state = &mut self.states[block.index()];
        match state {
            State::Referenced { references: 1 } if self.tree.contains(block) => {
                *state = State::Evictable {
                    since: self.eviction_clock,
                };
                self.evictable.insert(self.eviction_clock, block);
                self.eviction_clock += 1;
            }
            State::Referenced { references: 1 } => {
                *state = State::Free;
                self.free.push(block);
            }
            State::Referenced { references } => *references -= 1,
            State::Free | State::Evictable { .. } => {
                panic!("only a referenced block can be released")
            }
        }
    }

    /// Returns whether the block has no references and is cached.
    pub(super) fn is_evictable(&self, block: BlockId) -> bool {
        matches!(self.states[block.index()], State::Evictable { .. })
    }

    /// Looks up the cached block that follows `parent` and holds exactly `tokens`.
    pub(super) fn find(&self, parent: Parent, tokens: &[TokenId]) -> Option<BlockId> {
        self.tree.find(parent, tokens)
    }

    /// Looks up the cached block after `parent` that shares the most leading tokens with `tokens`. Returns the block
    /// and the number of shared tokens, at least 1.
    pub(super) fn longest_partial_match(
        &self,
        parent: Parent,
        tokens: &[TokenId],
    ) -> Option<(BlockId, usize)> {
        self.tree.longest_partial_match(parent, tokens)
    }

    /// Adds a referenced block to the prefix tree: the block follows `parent` and holds `tokens`. The block must not be
    /// written afterwards.
    ///
    /// # Panics
    /// If the block has no reference.
    pub(super) fn insert(&mut self, block: BlockId, parent: Parent, tokens: &[TokenId]) {
        assert!(
            matches!(self.states[block.index()], State::Referenced { .. }),
            "only a referenced block has contents"
        );
        self.tree.insert(block, parent, tokens);
    }

    /// Frees an evictable block without children and drops its cached contents. Leaves any other block unchanged and
    /// returns `false`.
    pub fn erase(&mut self, block: BlockId) -> bool {
        let state = &mut self.states[block.index()];
        let State::Evictable { since } = *state else {
            return false;
        };
        if self.tree.has_children(block) {
            return false;
        }
        self.evictable.remove(&since);
        self.tree.remove(block);
        *state = State::Free;
        self.free.push(block);
        true
    }

    /// Number of blocks that can be allocated: free and evictable ones.
    pub fn available(&self) -> usize {
        self.free.len() + self.evictable.len()
    }

    /// Number of evictable blocks.
    pub fn evictable(&self) -> usize {
        self.evictable.len()
    }

    /// Total number of blocks: free, referenced and evictable.
    pub fn blocks(&self) -> usize {
        self.states.len()
    }

    /// Number of blocks that [`Self::allocate`] has evicted so far.
    pub fn evictions(&self) -> u64 {
        self.evictions
    }

    /// Number of tokens per block.
    pub fn block_tokens(&self) -> usize {
        self.block_tokens
    }

    /// Number of blocks needed for `tokens` tokens.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_tokens)
    }

    /// Checks the pool's consistency while no sequence runs: every block is free or evictable, and the parent of each
    /// cached block is cached and became evictable later.
    ///
    /// # Errors
    /// If a check fails, with a description of the inconsistency.
    pub fn check_when_idle(&self) -> Result<(), String> {
        if self.available() != self.blocks() {
            return Err(format!(
                "{} free and {} evictable blocks are not all {} blocks",
                self.free.len(),
                self.evictable.len(),
                self.blocks()
            ));
        }
        for block in &self.free {
            if self.states[block.index()] != State::Free || self.tree.contains(*block) {
                return Err(format!("block {} is not free", block.0));
            }
        }
        for (since, block) in &self.evictable {
            if self.states[block.index()] != (State::Evictable { since: *since }) {
                return Err(format!("block {} is not evictable since {since}", block.0));
            }
        }
        for (block, parent) in self.tree.parents() {
            let since = |block: BlockId| match self.states[block.index()] {
                State::Evictable { since } => Some(since),
                State::Free | State::Referenced { .. } => None,
            };
            if since(block).is_none() || parent.is_some_and(|parent| since(parent) <= since(block))
            {
                return Err(format!("block {} outlives its parent", block.0));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "only a referenced block can be released")]
    fn a_free_block_cannot_be_released() {
        let mut pool = BlockPool::new(1, 4);
        let block = pool.allocate().unwrap();
        pool.release(block);
        pool.release(block);
    }

    #[test]
    fn the_least_recently_used_block_is_evicted_first() {
        let namespace = Parent::Namespace(super::super::CacheNamespace(0));
        let contents = |number| vec![TokenId(number)];
        let mut pool = BlockPool::new(3, 1);
        let blocks: Vec<BlockId> = (0..3).map(|_| pool.allocate().unwrap()).collect();
        for (number, block) in (0..).zip(&blocks) {
            pool.insert(*block, namespace, &contents(number));
        }
        blocks.iter().for_each(|block| pool.release(*block));
        assert_eq!(
            (
                pool.available(),
                pool.evictable(),
                pool.allocate().is_some()
            ),
            (3, 3, true)
        );
        assert_eq!(pool.find(namespace, &contents(0)), None);
        // A block that was used again is evicted last.
        pool.add_reference(blocks[1]);
        pool.release(blocks[1]);
        assert_eq!(pool.allocate(), Some(blocks[2]));
        assert_eq!(pool.find(namespace, &contents(1)), Some(blocks[1]));
        assert_eq!(pool.evictions(), 2);
    }
}
