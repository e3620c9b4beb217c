//! Which block holds which tokens: a tree of contents.
//!
//! ```text
//! root ─ block 7 [the first 32 tokens] ─ block 2 [the next 32] ─ block 9 [11 more: an end]
//!                                      └ block 5 [another next 32]
//! ```
//!
//! A content is found by the block before it and by its tokens themselves, so equal is equal and no hash is
//! trusted. The contents after one block are in the order of their tokens: the one that shares most with a
//! given text stands beside the place where that text would be.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::pool::BlockId;
use crate::token::TokenId;

/// Where a chain of blocks begins. Contents of different roots are never found for each other: whatever
/// else shapes the keys and values, or must not be shared, decides the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PrefixRoot(pub u128);

/// What comes before a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Before {
    /// Nothing.
    Root(PrefixRoot),
    /// A full block.
    Block(BlockId),
}

/// What is in a block.
#[derive(Debug, Clone)]
struct Content {
    before: Before,
    tokens: Arc<[TokenId]>,
}

/// The contents that can be found.
#[derive(Debug, Default)]
pub(super) struct PrefixTree {
    after: HashMap<Before, BTreeMap<Arc<[TokenId]>, BlockId>>,
    contents: HashMap<BlockId, Content>,
}

impl PrefixTree {
    /// The block with just these tokens.
    pub(super) fn find(&self, before: Before, tokens: &[TokenId]) -> Option<BlockId> {
        self.after.get(&before)?.get(tokens).copied()
    }

    /// The block whose tokens share most with `tokens` at their beginning, and how many they share: at
    /// least one.
    pub(super) fn closest(&self, before: Before, tokens: &[TokenId]) -> Option<(BlockId, usize)> {
        let after = self.after.get(&before)?;
        let below = (Bound::Unbounded, Bound::Excluded(tokens));
        let above = (Bound::Included(tokens), Bound::Unbounded);
        let neighbours = [
            after.range::<[TokenId], _>(below).next_back(),
            after.range::<[TokenId], _>(above).next(),
        ];
        neighbours
            .into_iter()
            .flatten()
            .map(|(content, block)| (*block, shared(content, tokens)))
            .max_by_key(|(_, count)| *count)
            .filter(|(_, count)| *count > 0)
    }

    /// Enters a content that is not there.
    pub(super) fn enter(&mut self, block: BlockId, before: Before, tokens: &[TokenId]) {
        let tokens: Arc<[TokenId]> = tokens.into();
        let after = self.after.entry(before).or_default();
        let other = after.insert(Arc::clone(&tokens), block);
        debug_assert!(other.is_none(), "a content is entered once");
        self.contents.insert(block, Content { before, tokens });
    }

    /// Whether the block's content can be found.
    pub(super) fn has(&self, block: BlockId) -> bool {
        self.contents.contains_key(&block)
    }

    /// Whether a content comes after the block's.
    pub(super) fn has_followers(&self, block: BlockId) -> bool {
        self.after.contains_key(&Before::Block(block))
    }

    /// Forgets a block's content. Nothing may come after it.
    pub(super) fn forget(&mut self, block: BlockId) {
        debug_assert!(!self.has_followers(block));
        let Some(Content { before, tokens }) = self.contents.remove(&block) else {
            return;
        };
        if let Some(after) = self.after.get_mut(&before) {
            after.remove(&tokens);
            if after.is_empty() {
                self.after.remove(&before);
            }
        }
    }

    /// The block before each block with a content; `None` for those that begin a chain.
    pub(super) fn links(&self) -> impl Iterator<Item = (BlockId, Option<BlockId>)> {
        self.contents
            .iter()
            .map(|(block, content)| match content.before {
                Before::Root(_) => (*block, None),
                Before::Block(before) => (*block, Some(before)),
            })
    }
}

/// How many tokens two texts share at their beginning.
fn shared(left: &[TokenId], right: &[TokenId]) -> usize {
    left.iter()
        .zip(right)
        .take_while(|(left, right)| left == right)
        .count()
}

#[cfg(test)]
mod tests {
    use super::super::BlockPool;
    use super::*;

    fn tokens(numbers: &[u32]) -> Vec<TokenId> {
        numbers.iter().copied().map(TokenId).collect()
    }

    #[test]
    fn the_closest_content_shares_most() {
        let mut pool = BlockPool::new(5, 4);
        let blocks: Vec<BlockId> = (0..5).map(|_| pool.take().unwrap()).collect();
        let root = Before::Root(PrefixRoot(1));
        let mut tree = PrefixTree::default();
        for (block, content) in
            blocks
                .iter()
                .zip([&[1, 2, 3, 4][..], &[1, 2, 7, 7], &[1, 2, 7, 9], &[5]])
        {
            tree.enter(*block, root, &tokens(content));
        }
        #[track_caller]
        fn check(tree: &PrefixTree, before: Before, text: &[u32], found: Option<(BlockId, usize)>) {
            assert_eq!(tree.closest(before, &tokens(text)), found);
        }
        check(&tree, root, &[1, 2, 3, 9], Some((blocks[0], 3)));
        check(&tree, root, &[1, 2, 7, 8], Some((blocks[2], 3)));
        check(&tree, root, &[1, 2, 7, 7, 1], Some((blocks[1], 4)));
        check(&tree, root, &[5, 6], Some((blocks[3], 1)));
        check(&tree, root, &[2], None);
        check(&tree, Before::Root(PrefixRoot(2)), &[1, 2], None);
        check(&tree, Before::Block(blocks[0]), &[1, 2], None);
        assert_eq!(tree.find(root, &tokens(&[1, 2, 3])), None);
        tree.forget(blocks[0]);
        check(&tree, root, &[1, 2, 3, 4], Some((blocks[1], 2)));
    }
}
