//! The prefix tree of cached blocks: maps token prefixes to the blocks that hold their keys and values.
//!
//! ```text
//! namespace ─ block 7 [the first 32 tokens] ─ block 2 [the next 32] ─ block 9 [11 more: a partial block]
//!                                           └ block 5 [another next 32]
//! ```
//!
//! A cached block is looked up by its parent and its token ids. The token ids themselves are compared, not a hash of
//! them. The children of a block are sorted by their token ids, so the longest partial match is adjacent to the
//! position at which the looked-up tokens would be inserted.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::block_id::BlockId;
use crate::token::TokenId;

/// Identifies one prefix tree; sequences share cached blocks only within a namespace. The namespace is derived from the
/// inputs other than tokens that change keys and values (adapters) or forbid sharing (cache salt).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct CacheNamespace(pub u128);

/// The parent of a cached block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Parent {
    /// The block holds the first tokens of sequences in this namespace.
    Namespace(CacheNamespace),
    /// The block follows this full block.
    Block(BlockId),
}

/// The position of a cached block in the tree, and the tokens whose keys and values the block holds.
#[derive(Debug, Clone)]
struct CachedBlock {
    parent: Parent,
    tokens: Arc<[TokenId]>,
}

/// All cached blocks, indexed by parent and by block id.
#[derive(Debug, Default)]
pub(super) struct PrefixTree {
    children: HashMap<Parent, BTreeMap<Arc<[TokenId]>, BlockId>>,
    blocks: HashMap<BlockId, CachedBlock>,
}

impl PrefixTree {
    /// Looks up the block that follows `parent` and holds exactly `tokens`.
    pub(super) fn find(&self, parent: Parent, tokens: &[TokenId]) -> Option<BlockId> {
        self.children.get(&parent)?.get(tokens).copied()
    }

    /// Looks up the block after `parent` that shares the most leading tokens with `tokens`. Returns the block and the
    /// number of shared tokens, at least 1.
    pub(super) fn longest_partial_match(
        &self,
        parent: Parent,
        tokens: &[TokenId],
    ) -> Option<(BlockId, usize)> {
        let children = self.children.get(&parent)?;
        let below = (Bound::Unbounded, Bound::Excluded(tokens));
        let above = (Bound::Included(tokens), Bound::Unbounded);
        let neighbors = [
            children.range::<[TokenId], _>(below).next_back(),
            children.range::<[TokenId], _>(above).next(),
        ];
        neighbors
            .into_iter()
            .flatten()
            .map(|(child, block)| (*block, shared_prefix_tokens(child, tokens)))
            .max_by_key(|(_, count)| *count)
            .filter(|(_, count)| *count > 0)
    }

    /// Inserts a block. No other block may have the same parent and tokens.
    pub(super) fn insert(&mut self, block: BlockId, parent: Parent, tokens: &[TokenId]) {
        let tokens: Arc<[TokenId]> = tokens.into();
        let children = self.children.entry(parent).or_default();
        let other = children.insert(Arc::clone(&tokens), block);
        debug_assert!(other.is_none(), "the tokens are cached already");
        self.blocks.insert(block, CachedBlock { parent, tokens });
    }

    /// Returns whether the block is cached.
    pub(super) fn contains(&self, block: BlockId) -> bool {
        self.blocks.contains_key(&block)
    }

    /// Returns whether a cached block has this block as its parent.
    pub(super) fn has_children(&self, block: BlockId) -> bool {
        self.children.contains_key(&Parent::Block(block))
    }

    /// Removes a block, which must not have children.
    pub(super) fn remove(&mut self, block: BlockId) {
        debug_assert!(!self.has_children(block));
        let Some(CachedBlock { parent, tokens }) = self.blocks.remove(&block) else {
            return;
        };
        if let Some(children) = self.children.get_mut(&parent) {
            children.remove(&tokens);
            if children.is_empty() {
                self.children.remove(&parent);
            }
        }
    }

    /// Iterates over the cached blocks with their parent blocks. The parent is `None` for a block that holds the first
    /// tokens of a namespace.
    pub(super) fn parents(&self) -> impl Iterator<Item = (BlockId, Option<BlockId>)> {
        self.blocks
            .iter()
            .map(|(block, cached)| match cached.parent {
                Parent::Namespace(_) => (*block, None),
                Parent::Block(parent) => (*block, Some(parent)),
            })
    }
}

/// Returns the length of the common prefix, in tokens.
fn shared_prefix_tokens(left: &[TokenId], right: &[TokenId]) -> usize {
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
    fn the_longest_partial_match_shares_the_most_tokens() {
        let mut pool = BlockPool::new(5, 4);
        let blocks: Vec<BlockId> = (0..5).map(|_| pool.allocate().unwrap()).collect();
        let namespace = Parent::Namespace(CacheNamespace(1));
        let mut tree = PrefixTree::default();
        for (block, contents) in
            blocks
                .iter()
                .zip([&[1, 2, 3, 4][..], &[1, 2, 7, 7], &[1, 2, 7, 9], &[5]])
        {
            tree.insert(*block, namespace, &tokens(contents));
        }
        #[track_caller]
        fn check(
            tree: &PrefixTree,
            parent: Parent,
            text: &[u32],
            expected: Option<(BlockId, usize)>,
        ) {
            assert_eq!(tree.longest_partial_match(parent, &tokens(text)), expected);
        }
        check(&tree, namespace, &[1, 2, 3, 9], Some((blocks[0], 3)));
        check(&tree, namespace, &[1, 2, 7, 8], Some((blocks[2], 3)));
        check(&tree, namespace, &[1, 2, 7, 7, 1], Some((blocks[1], 4)));
        check(&tree, namespace, &[5, 6], Some((blocks[3], 1)));
        check(&tree, namespace, &[2], None);
        check(&tree, Parent::Namespace(CacheNamespace(2)), &[1, 2], None);
        check(&tree, Parent::Block(blocks[0]), &[1, 2], None);
        assert_eq!(tree.find(namespace, &tokens(&[1, 2, 3])), None);
        tree.remove(blocks[0]);
        check(&tree, namespace, &[1, 2, 3, 4], Some((blocks[1], 2)));
    }
}
