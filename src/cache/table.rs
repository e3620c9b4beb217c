//! The block table of one sequence: reuses the cached prefix, allocates blocks, and caches full blocks for other
//! sequences.

use super::block_id::BlockId;
use super::pool::BlockPool;
use super::prefix::{CacheNamespace, Parent};
use crate::token::TokenId;

/// The blocks of a sequence in token order. Token `t` is in block `t / block_tokens`, at offset `t % block_tokens`.
///
/// ```text
/// blocks   3    7   | 2    9
///          committed|
/// tokens   full full| full 11 tokens
/// ```
///
/// Cached blocks are immutable; extending a shared partial block copies it first (copy-on-write).
#[derive(Debug)]
pub struct BlockTable {
    namespace: CacheNamespace,
    blocks: Vec<BlockId>,
    /// Number of leading blocks that are full and cached.
    committed: usize,
}

/// A block copy (copy-on-write) that the runner executes before it computes the next step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCopy {
    /// The cached partial block, which stays unchanged.
    pub from: BlockId,
    /// The sequence's own block, which the copy overwrites.
    pub to: BlockId,
}

/// The longest cached prefix of a sequence's tokens.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CachedPrefix {
    /// Full blocks, from the first token on.
    blocks: Vec<BlockId>,
    /// The block whose leading tokens continue the prefix, and the number of these tokens.
    partial_block: Option<(BlockId, usize)>,
    /// Number of `blocks` that are evictable: no running sequence references them.
    evictable: usize,
}

impl CachedPrefix {
    /// Looks up the longest cached prefix of `tokens` in `namespace`.
    pub fn find(namespace: CacheNamespace, tokens: &[TokenId], pool: &BlockPool) -> Self {
        let mut prefix = Self::default();
        let mut parent = Parent::Namespace(namespace);
        let mut rest = tokens;
        while let Some((full, after)) = rest.split_at_checked(pool.block_tokens()) {
            let Some(block) = pool.find(parent, full) else {
                break;
            };
            prefix.evictable += usize::from(pool.is_evictable(block));
            prefix.blocks.push(block);
            parent = Parent::Block(block);
            rest = after;
        }
        let next = &rest[..rest.len().min(pool.block_tokens())];
        prefix.partial_block = pool.longest_partial_match(parent, next);
        prefix
    }

    /// Number of cached tokens, including those in the partial block.
    pub fn tokens(&self, block_tokens: usize) -> usize {
        self.blocks.len() * block_tokens + self.partial_block.map_or(0, |(_, tokens)| tokens)
    }

    /// The blocks of the prefix in order, with the partial block last.
    pub fn blocks(&self) -> impl Iterator<Item = BlockId> {
        let partial_block = self.partial_block.map(|(block, _)| block);
        self.blocks.iter().copied().chain(partial_block)
    }

    /// Number of the pool's available blocks that a sequence of `tokens` tokens with this prefix takes: the blocks that
    /// it allocates, and the evictable blocks of the prefix.
    pub fn required_blocks(&self, tokens: usize, pool: &BlockPool) -> usize {
        pool.blocks_for(tokens).saturating_sub(self.blocks.len()) + self.evictable
    }
}

impl BlockTable {
    /// Creates a table without blocks.
    pub fn new(namespace: CacheNamespace) -> Self {
        Self {
            namespace,
            blocks: Vec::new(),
            committed: 0,
        }
    }

    /// Adds the blocks of a cached prefix to an empty table and references them. Look up the prefix after the last
    /// change of the pool. For a partial block, allocates a block for a copy. Returns the number of cached tokens, and
    /// the copy to execute.
    ///
    /// # Panics
    /// If the table is not empty.
    pub fn attach(
        &mut self,
        prefix: CachedPrefix,
        pool: &mut BlockPool,
    ) -> (usize, Option<BlockCopy>) {
        assert!(
            self.blocks.is_empty(),
            "a cached prefix is attached to an empty table"
        );
        let tokens = prefix.blocks.len() * pool.block_tokens();
        prefix
            .blocks
            .iter()
            .for_each(|block| pool.add_reference(*block));
        self.committed = prefix.blocks.len();
        self.blocks = prefix.blocks;
        // The allocation may evict the partial block itself: source and destination are then the same block.
        let copied = prefix
            .partial_block
            .and_then(|(from, count)| pool.allocate().map(|to| (BlockCopy { from, to }, count)));
        match copied {
            Some((copy, count)) => {
                self.blocks.push(copy.to);
                (tokens + count, Some(copy))
            }
            None => (tokens, None),
        }
    }

    /// Allocates blocks until the table has room for `tokens` tokens or the pool has no block left. Returns the table's
    /// capacity in tokens.
    pub fn grow(&mut self, tokens: usize, pool: &mut BlockPool) -> usize {
        while self.blocks.len() < pool.blocks_for(tokens) {
            match pool.allocate() {
                Some(block) => self.blocks.push(block),
                None => break,
            }
        }
        self.blocks.len() * pool.block_tokens()
    }

    /// Caches the blocks that `computed`, the sequence's computed tokens, fill completely. If another sequence has
    /// already cached the same tokens, the table takes that block and releases its own duplicate.
    pub fn commit_full_blocks(&mut self, computed: &[TokenId], pool: &mut BlockPool) {
        let block_tokens = pool.block_tokens();
        let uncommitted = computed.chunks_exact(block_tokens).skip(self.committed);
        for tokens in uncommitted {
            let (parent, own) = (self.parent(self.committed), self.blocks[self.committed]);
            match pool.find(parent, tokens) {
                Some(cached) => {
                    pool.add_reference(cached);
                    pool.release(own);
                    self.blocks[self.committed] = cached;
                }
                None => pool.insert(own, parent, tokens),
            }
            self.committed += 1;
        }
    }

    /// Caches all blocks of `computed`, including a partial last block, then releases all blocks, the last block first.
    pub fn commit_and_release(&mut self, computed: &[TokenId], pool: &mut BlockPool) {
        self.commit_full_blocks(computed, pool);
        let rest = &computed[self.committed * pool.block_tokens()..];
        let parent = self.parent(self.committed);
        let is_cached = |(_, shared)| shared == rest.len();
        let partial_match = || pool.longest_partial_match(parent, rest);
        if !rest.is_empty() && !partial_match().is_some_and(is_cached) {
            pool.insert(self.blocks[self.committed], parent, rest);
        }
        self.release(pool);
    }

    /// Releases all blocks, the last block first.
    pub fn release(&mut self, pool: &mut BlockPool) {
        self.truncate(0, pool);
    }

    /// Keeps the committed blocks that lie within the first `tokens` tokens and releases all other blocks. Returns the
    /// number of kept tokens.
    pub fn truncate(&mut self, tokens: usize, pool: &mut BlockPool) -> usize {
        let kept = (tokens / pool.block_tokens()).min(self.committed);
        for block in self.blocks.drain(kept..).rev() {
            pool.release(block);
        }
        self.committed = kept;
        kept * pool.block_tokens()
    }

    /// The blocks in token order.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// The namespace in which the table's blocks are cached.
    pub fn namespace(&self) -> CacheNamespace {
        self.namespace
    }

    fn parent(&self, index: usize) -> Parent {
        match index.checked_sub(1) {
            None => Parent::Namespace(self.namespace),
            Some(parent) => Parent::Block(self.blocks[parent]),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NAMESPACE: CacheNamespace = CacheNamespace(7);

    fn tokens(numbers: &[u32]) -> Vec<TokenId> {
        numbers.iter().copied().map(TokenId).collect()
    }

    /// Returns the table of a running sequence whose tokens are all computed.
    fn computed_table(text: &[TokenId], pool: &mut BlockPool) -> BlockTable {
        let mut table = BlockTable::new(NAMESPACE);
        let (_, _) = table.attach(CachedPrefix::find(NAMESPACE, text, pool), pool);
        assert!(table.grow(text.len(), pool) >= text.len());
        table.commit_full_blocks(text, pool);
        table
    }

    #[test]
    fn a_running_sequence_caches_its_full_blocks_and_an_ended_one_all_tokens() {
        let mut pool = BlockPool::new(8, 4);
        let text = tokens(&[1, 2, 3, 4, 5, 6]);
        let mut first = computed_table(&text, &mut pool);
        let found = |text: &[u32], pool: &BlockPool| {
            CachedPrefix::find(NAMESPACE, &tokens(text), pool).tokens(4)
        };
        assert_eq!(found(&[1, 2, 3, 4, 5, 6, 7], &pool), 4);
        assert_eq!(found(&[1, 2, 9], &pool), 2);
        first.commit_and_release(&text, &mut pool);
        assert_eq!(found(&[1, 2, 3, 4, 5, 6, 7], &pool), 6);
        assert_eq!(found(&[1, 2, 3, 4, 5, 9], &pool), 5);
        assert_eq!(
            CachedPrefix::find(CacheNamespace(8), &text, &pool),
            CachedPrefix::default(),
            "another namespace has no cached blocks"
        );
        pool.check_when_idle().unwrap();
    }

    #[test]
    fn a_cached_partial_block_is_copied_before_it_is_extended() {
        let mut pool = BlockPool::new(8, 4);
        let text = tokens(&[1, 2, 3, 4, 5, 6]);
        computed_table(&text, &mut pool).commit_and_release(&text, &mut pool);
        let mut table = BlockTable::new(NAMESPACE);
        let longer = tokens(&[1, 2, 3, 4, 5, 9]);
        let prefix = CachedPrefix::find(NAMESPACE, &longer, &pool);
        let (cached, copy) = table.attach(prefix, &mut pool);
        let copy = copy.unwrap();
        assert_eq!((cached, table.blocks()[1]), (5, copy.to));
        assert_ne!(copy.from, copy.to);
        table.release(&mut pool);
        pool.check_when_idle().unwrap();
    }

    #[test]
    fn equal_blocks_are_cached_once() {
        let mut pool = BlockPool::new(8, 4);
        let text = tokens(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut tables: Vec<BlockTable> = (0..2)
            .map(|_| {
                let mut table = BlockTable::new(NAMESPACE);
                assert_eq!(table.grow(8, &mut pool), 8);
                table
            })
            .collect();
        assert_eq!(pool.available(), 4);
        for table in &mut tables {
            table.commit_full_blocks(&text, &mut pool);
        }
        assert_eq!(tables[0].blocks(), tables[1].blocks());
        assert_eq!(pool.available(), 6);
        for table in &mut tables {
            table.release(&mut pool);
        }
        pool.check_when_idle().unwrap();
    }

    #[derive(Debug, Clone)]
    enum Action {
        /// A sequence with these tokens starts.
        Start(Vec<u32>),
        /// A sequence ends. The flag says whether the partial block of the sequence is cached.
        End(usize, bool),
        /// A sequence is truncated to this many tokens.
        Truncate(usize, usize),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            // A vocabulary of two tokens makes shared prefixes likely.
            prop::collection::vec(0u32..2, 1..14).prop_map(Action::Start),
            (any::<usize>(), any::<bool>()).prop_map(|(index, commit)| Action::End(index, commit)),
            (any::<usize>(), 0usize..12)
                .prop_map(|(index, tokens)| Action::Truncate(index, tokens)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// For any order of actions, cached blocks contain the tokens that they are looked up by, and no block is lost.
        #[test]
        fn cached_blocks_contain_the_tokens_they_are_looked_up_by(
            blocks in 4usize..16,
            actions in prop::collection::vec(action(), 0..60),
        ) {
            const BLOCK_TOKENS: usize = 3;
            let mut pool = BlockPool::new(blocks, BLOCK_TOKENS);
            let mut memory = vec![[None; BLOCK_TOKENS]; blocks];
            let mut running: Vec<(Vec<TokenId>, BlockTable)> = Vec::new();
            for action in actions {
                match action {
                    Action::Start(text) => {
                        let text = tokens(&text);
                        let mut table = BlockTable::new(NAMESPACE);
                        let prefix = CachedPrefix::find(NAMESPACE, &text, &pool);
                        if prefix.required_blocks(text.len(), &pool) > pool.available() {
                            continue;
                        }
                        let (cached, copy) = table.attach(prefix, &mut pool);
                        if let Some(BlockCopy { from, to }) = copy {
                            memory[to.index()] = memory[from.index()];
                        }
                        prop_assert!(table.grow(text.len(), &mut pool) >= text.len());
                        for (position, token) in text.iter().enumerate() {
                            let block = table.blocks()[position / BLOCK_TOKENS].index();
                            let offset = position % BLOCK_TOKENS;
                            match position < cached {
                                true => prop_assert_eq!(memory[block][offset], Some(*token)),
                                false => memory[block][offset] = Some(*token),
                            }
                        }
                        table.commit_full_blocks(&text, &mut pool);
                        running.push((text, table));
                    }
                    Action::End(index, commit) if !running.is_empty() => {
                        let (text, mut table) = running.swap_remove(index % running.len());
                        match commit {
                            true => table.commit_and_release(&text, &mut pool),
                            false => table.release(&mut pool),
                        }
                    }
                    Action::Truncate(index, keep) if !running.is_empty() => {
                        let count = running.len();
                        let (text, table) = &mut running[index % count];
                        let kept = table.truncate(keep, &mut pool);
                        text.truncate(kept);
                    }
                    Action::End(..) | Action::Truncate(..) => {}
                }
                for (text, table) in &running {
                    for (position, token) in text.iter().enumerate() {
                        let block = table.blocks()[position / BLOCK_TOKENS].index();
                        prop_assert_eq!(memory[block][position % BLOCK_TOKENS], Some(*token));
                    }
                }
            }
            for (_, mut table) in running {
                table.release(&mut pool);
            }
            prop_assert_eq!(pool.check_when_idle(), Ok(()));
        }
    }
}
