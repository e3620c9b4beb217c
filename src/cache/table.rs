//! The blocks of one sequence, in the order of its tokens: what it can re-use, how it grows, what it makes
//! known to others.

use super::pool::{BlockId, BlockPool};
use super::prefix::{Before, PrefixRoot};
use crate::token::TokenId;

/// Token `t` of the sequence lies in block `t / block_tokens`, at place `t % block_tokens`.
///
/// ```text
/// blocks   3   7   2   9   4
///          known ──▶|
/// tokens   full full|full 11…
/// ```
#[derive(Debug)]
pub struct BlockTable {
    root: PrefixRoot,
    blocks: Vec<BlockId>,
    /// How many of the blocks, from the first on, are full and can be found by others.
    known: usize,
}

/// The beginning of a block that is to be copied into another one before a step computes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockCopy {
    /// From here.
    pub from: BlockId,
    /// To there.
    pub to: BlockId,
}

/// What of a text the cache holds already.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Reuse {
    /// Full blocks, from the text's first token on.
    blocks: Vec<BlockId>,
    /// The block whose first tokens come next, and how many of them.
    begun: Option<(BlockId, usize)>,
    /// Of `blocks`, those that nobody holds.
    idle: usize,
}

impl Reuse {
    /// What the cache holds of `tokens` under `root`.
    pub fn find(root: PrefixRoot, tokens: &[TokenId], pool: &BlockPool) -> Self {
        let mut reuse = Self::default();
        let mut before = Before::Root(root);
        let mut rest = tokens;
        while let Some((full, after)) = rest.split_at_checked(pool.block_tokens()) {
            let Some(block) = pool.find(before, full) else {
                break;
            };
            reuse.idle += usize::from(pool.is_idle(block));
            reuse.blocks.push(block);
            before = Before::Block(block);
            rest = after;
        }
        let next = &rest[..rest.len().min(pool.block_tokens())];
        reuse.begun = pool.closest(before, next);
        reuse
    }

    /// Tokens that need not be computed.
    pub fn tokens(&self, block_tokens: usize) -> usize {
        self.blocks.len() * block_tokens + self.begun.map_or(0, |(_, tokens)| tokens)
    }

    /// The blocks that hold them, in order.
    pub fn blocks(&self) -> impl Iterator<Item = BlockId> {
        let begun = self.begun.map(|(block, _)| block);
        self.blocks.iter().copied().chain(begun)
    }

    /// Blocks to be taken from the pool for a sequence of `tokens` tokens that begins with this: those that
    /// are not shared, and those that are idle and will be no longer.
    pub fn blocks_taken(&self, tokens: usize, pool: &BlockPool) -> usize {
        pool.blocks_for(tokens).saturating_sub(self.blocks.len()) + self.idle
    }
}

impl BlockTable {
    /// No blocks yet.
    pub fn new(root: PrefixRoot) -> Self {
        Self {
            root,
            blocks: Vec::new(),
            known: 0,
        }
    }

    /// Begins with what was found since the pool last changed. Answers how many tokens need not be
    /// computed, and what is to be copied first: a block that others have is never written.
    ///
    /// # Panics
    /// If the table is not empty.
    pub fn begin(&mut self, reuse: Reuse, pool: &mut BlockPool) -> (usize, Option<BlockCopy>) {
        assert!(self.blocks.is_empty(), "a sequence begins once");
        let tokens = reuse.blocks.len() * pool.block_tokens();
        reuse.blocks.iter().for_each(|block| pool.hold(*block));
        self.known = reuse.blocks.len();
        self.blocks = reuse.blocks;
        // The block it is copied from may be the very one that is taken: then it is in its place.
        let copied = reuse
            .begun
            .and_then(|(from, count)| pool.take().map(|to| (BlockCopy { from, to }, count)));
        match copied {
            Some((copy, count)) => {
                self.blocks.push(copy.to);
                (tokens + count, Some(copy))
            }
            None => (tokens, None),
        }
    }

    /// Takes blocks for up to `tokens` tokens, as far as the pool has any. Answers for how many tokens
    /// there is room now.
    pub fn grow(&mut self, tokens: usize, pool: &mut BlockPool) -> usize {
        while self.blocks.len() < pool.blocks_for(tokens) {
            match pool.take() {
                Some(block) => self.blocks.push(block),
                None => break,
            }
        }
        self.blocks.len() * pool.block_tokens()
    }

    /// Makes full blocks known, `computed` being the tokens that are in the cache. Where others have made
    /// the same content known, their block takes the place of this sequence's: the bits are the same.
    pub fn make_known(&mut self, computed: &[TokenId], pool: &mut BlockPool) {
        let block_tokens = pool.block_tokens();
        let unknown = computed.chunks_exact(block_tokens).skip(self.known);
        for tokens in unknown {
            let (before, own) = (self.before(self.known), self.blocks[self.known]);
            match pool.find(before, tokens) {
                Some(theirs) => {
                    pool.hold(theirs);
                    pool.release(own);
                    self.blocks[self.known] = theirs;
                }
                None => pool.enter(own, before, tokens),
            }
            self.known += 1;
        }
    }

    /// Gives all blocks back, the deepest first. `computed` is what is in them: all of it can be found from
    /// now on, also what fills no block.
    pub fn release_known(&mut self, computed: &[TokenId], pool: &mut BlockPool) {
        self.make_known(computed, pool);
        let end = &computed[self.known * pool.block_tokens()..];
        let before = self.before(self.known);
        let is_known = |(_, shared)| shared == end.len();
        if !end.is_empty() && !pool.closest(before, end).is_some_and(is_known) {
            pool.enter(self.blocks[self.known], before, end);
        }
        self.release(pool);
    }

    /// Gives all blocks back, the deepest first.
    pub fn release(&mut self, pool: &mut BlockPool) {
        self.shorten(0, pool);
    }

    /// Keeps the full blocks of the first `tokens` tokens and gives the others back. Answers how many
    /// tokens are kept.
    pub fn shorten(&mut self, tokens: usize, pool: &mut BlockPool) -> usize {
        let kept = (tokens / pool.block_tokens()).min(self.known);
        for block in self.blocks.drain(kept..).rev() {
            pool.release(block);
        }
        self.known = kept;
        kept * pool.block_tokens()
    }

    /// The blocks.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// The root of the chain.
    pub fn root(&self) -> PrefixRoot {
        self.root
    }

    fn before(&self, block: usize) -> Before {
        match block.checked_sub(1) {
            None => Before::Root(self.root),
            Some(before) => Before::Block(self.blocks[before]),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ROOT: PrefixRoot = PrefixRoot(7);

    fn tokens(numbers: &[u32]) -> Vec<TokenId> {
        numbers.iter().copied().map(TokenId).collect()
    }

    /// A sequence with these tokens in the cache.
    fn computed(text: &[TokenId], pool: &mut BlockPool) -> BlockTable {
        let mut table = BlockTable::new(ROOT);
        let (_, _) = table.begin(Reuse::find(ROOT, text, pool), pool);
        assert!(table.grow(text.len(), pool) >= text.len());
        table.make_known(text, pool);
        table
    }

    #[test]
    fn a_running_sequence_shares_its_full_blocks_and_an_ended_one_all() {
        let mut pool = BlockPool::new(8, 4);
        let text = tokens(&[1, 2, 3, 4, 5, 6]);
        let mut first = computed(&text, &mut pool);
        let found =
            |text: &[u32], pool: &BlockPool| Reuse::find(ROOT, &tokens(text), pool).tokens(4);
        assert_eq!(found(&[1, 2, 3, 4, 5, 6, 7], &pool), 4);
        assert_eq!(found(&[1, 2, 9], &pool), 2);
        first.release_known(&text, &mut pool);
        assert_eq!(found(&[1, 2, 3, 4, 5, 6, 7], &pool), 6);
        assert_eq!(found(&[1, 2, 3, 4, 5, 9], &pool), 5);
        assert_eq!(
            Reuse::find(PrefixRoot(8), &text, &pool),
            Reuse::default(),
            "another root finds nothing"
        );
        pool.check_at_rest().unwrap();
    }

    #[test]
    fn what_others_have_is_copied_before_it_is_extended() {
        let mut pool = BlockPool::new(8, 4);
        let text = tokens(&[1, 2, 3, 4, 5, 6]);
        computed(&text, &mut pool).release_known(&text, &mut pool);
        let mut table = BlockTable::new(ROOT);
        let longer = tokens(&[1, 2, 3, 4, 5, 9]);
        let reuse = Reuse::find(ROOT, &longer, &pool);
        let (held, copy) = table.begin(reuse, &mut pool);
        let copy = copy.unwrap();
        assert_eq!((held, table.blocks()[1]), (5, copy.to));
        assert_ne!(copy.from, copy.to);
        table.release(&mut pool);
        pool.check_at_rest().unwrap();
    }

    #[test]
    fn the_same_content_is_kept_once() {
        let mut pool = BlockPool::new(8, 4);
        let text = tokens(&[1, 2, 3, 4, 5, 6, 7, 8]);
        let mut tables: Vec<BlockTable> = (0..2)
            .map(|_| {
                let mut table = BlockTable::new(ROOT);
                assert_eq!(table.grow(8, &mut pool), 8);
                table
            })
            .collect();
        assert_eq!(pool.available(), 4);
        for table in &mut tables {
            table.make_known(&text, &mut pool);
        }
        assert_eq!(tables[0].blocks(), tables[1].blocks());
        assert_eq!(pool.available(), 6);
        for table in &mut tables {
            table.release(&mut pool);
        }
        pool.check_at_rest().unwrap();
    }

    #[derive(Debug, Clone)]
    enum Action {
        /// A sequence with these tokens comes.
        Come(Vec<u32>),
        /// It goes, whole or without its end being known.
        Go(usize, bool),
        /// It forgets what is after so many tokens.
        Shorten(usize, usize),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            // Few tokens, so that beginnings are shared.
            prop::collection::vec(0u32..2, 1..14).prop_map(Action::Come),
            (any::<usize>(), any::<bool>()).prop_map(|(which, known)| Action::Go(which, known)),
            (any::<usize>(), 0usize..12).prop_map(|(which, tokens)| Action::Shorten(which, tokens)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(500))]

        /// Whatever comes and goes: what is found was written there, and no block is lost.
        #[test]
        fn blocks_hold_what_they_are_found_for(
            blocks in 4usize..16,
            actions in prop::collection::vec(action(), 0..60),
        ) {
            const BLOCK_TOKENS: usize = 3;
            let mut pool = BlockPool::new(blocks, BLOCK_TOKENS);
            let mut memory = vec![[None; BLOCK_TOKENS]; blocks];
            let mut running: Vec<(Vec<TokenId>, BlockTable)> = Vec::new();
            for action in actions {
                match action {
                    Action::Come(text) => {
                        let text = tokens(&text);
                        let mut table = BlockTable::new(ROOT);
                        let reuse = Reuse::find(ROOT, &text, &pool);
                        if reuse.blocks_taken(text.len(), &pool) > pool.available() {
                            continue;
                        }
                        let (held, copy) = table.begin(reuse, &mut pool);
                        if let Some(BlockCopy { from, to }) = copy {
                            memory[to.index()] = memory[from.index()];
                        }
                        prop_assert!(table.grow(text.len(), &mut pool) >= text.len());
                        let place = |at: usize| (table.blocks()[at / BLOCK_TOKENS].index(), at % BLOCK_TOKENS);
                        for (at, token) in text.iter().enumerate() {
                            let (block, offset) = place(at);
                            match at < held {
                                true => prop_assert_eq!(memory[block][offset], Some(*token)),
                                false => memory[block][offset] = Some(*token),
                            }
                        }
                        table.make_known(&text, &mut pool);
                        running.push((text, table));
                    }
                    Action::Go(which, known) if !running.is_empty() => {
                        let (text, mut table) = running.swap_remove(which % running.len());
                        match known {
                            true => table.release_known(&text, &mut pool),
                            false => table.release(&mut pool),
                        }
                    }
                    Action::Shorten(which, keep) if !running.is_empty() => {
                        let count = running.len();
                        let (text, table) = &mut running[which % count];
                        let kept = table.shorten(keep, &mut pool);
                        text.truncate(kept);
                    }
                    Action::Go(..) | Action::Shorten(..) => {}
                }
                for (text, table) in &running {
                    for (at, token) in text.iter().enumerate() {
                        let block = table.blocks()[at / BLOCK_TOKENS].index();
                        prop_assert_eq!(memory[block][at % BLOCK_TOKENS], Some(*token));
                    }
                }
            }
            for (_, mut table) in running {
                table.release(&mut pool);
            }
            prop_assert_eq!(pool.check_at_rest(), Ok(()));
        }
    }
}
