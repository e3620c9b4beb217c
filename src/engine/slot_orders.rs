//! What can be done with a slot's last sequence beside running it: keep what the cache holds of it elsewhere, put
//! it back, or forget it.

use std::collections::HashSet;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::runner::{ModelRunner, RunError};
use super::sequence::SequenceId;
use crate::cache::{BlockId, BlockPool, BlockTable, PrefixRoot, Reuse};
use crate::token::TokenId;

/// A sequence with what the cache holds of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedSequence {
    /// Its number; `None` if it was restored.
    pub id: Option<SequenceId>,
    /// Whose content it is.
    pub root: PrefixRoot,
    /// The tokens whose keys and values are there.
    pub tokens: Vec<TokenId>,
    /// The runner's bytes of each of their blocks, in order.
    pub blocks: Vec<Vec<u8>>,
}

/// Most orders that wait for their slots: one to be restored holds the content of a cache.
pub const MAX_ORDERS: usize = 8;

/// Something to be done as soon as the slot runs nothing.
pub(super) struct SlotOrder {
    pub(super) slot: usize,
    pub(super) task: SlotTask,
    /// Its place among [`MAX_ORDERS`].
    pub(super) _permit: OwnedSemaphorePermit,
}

impl SlotOrder {
    /// Whether nobody waits for the result any more.
    pub(super) fn is_abandoned(&self) -> bool {
        match &self.task {
            SlotTask::Save(waiting) => waiting.is_closed(),
            SlotTask::Restore(_, waiting) => waiting.is_closed(),
            SlotTask::Erase(waiting) => waiting.is_closed(),
        }
    }
}

/// What, and who waits for it.
pub(super) enum SlotTask {
    /// Answers the sequence; `None` if the slot has run none.
    Save(oneshot::Sender<Result<Option<SavedSequence>, RunError>>),
    /// Answers how many tokens there was room for.
    Restore(SavedSequence, oneshot::Sender<Result<usize, RunError>>),
    /// Answers how many tokens were forgotten.
    Erase(oneshot::Sender<usize>),
}

/// The sequence that a slot ran last, as far as it was computed.
#[derive(Debug, Clone)]
pub(super) struct LastSequence {
    pub(super) id: Option<SequenceId>,
    pub(super) root: PrefixRoot,
    pub(super) tokens: Vec<TokenId>,
}

/// What the cache still holds of a sequence.
pub(super) fn save(
    last: &LastSequence,
    runner: &mut dyn ModelRunner,
    pool: &BlockPool,
) -> Result<SavedSequence, RunError> {
    let reuse = Reuse::find(last.root, &last.tokens, pool);
    let count = reuse.tokens(pool.block_tokens());
    let blocks = reuse.blocks().map(|block| runner.read_block(block));
    Ok(SavedSequence {
        id: last.id,
        root: last.root,
        tokens: last.tokens[..count].to_vec(),
        blocks: blocks.collect::<Result<_, _>>()?,
    })
}

/// Puts a sequence into the cache, as much of its beginning as there is room for, and lets go of it: it can be found.
pub(super) fn restore(
    mut saved: SavedSequence,
    runner: &mut dyn ModelRunner,
    pool: &mut BlockPool,
) -> Result<LastSequence, RunError> {
    let tokens = &mut saved.tokens;
    tokens.truncate(saved.blocks.len() * pool.block_tokens());
    let mut reuse = Reuse::find(saved.root, tokens, pool);
    while reuse.blocks_taken(tokens.len(), pool) > pool.available() {
        tokens.truncate((tokens.len() - 1) / pool.block_tokens() * pool.block_tokens());
        reuse = Reuse::find(saved.root, tokens, pool);
    }
    let mut table = BlockTable::new(saved.root);
    // A block that is to be copied is written instead.
    let (held, _) = table.begin(reuse, pool);
    table.grow(tokens.len(), pool);
    let full = held / pool.block_tokens();
    let mut missing = table.blocks().iter().zip(&saved.blocks).skip(full);
    let written = missing.try_for_each(|(block, bytes)| runner.write_block(*block, bytes));
    match written {
        Ok(()) => table.release_known(tokens, pool),
        Err(_) => table.release(pool),
    }
    written.map(|()| LastSequence {
        id: None,
        root: saved.root,
        tokens: saved.tokens,
    })
}

/// Forgets the blocks that only this sequence reaches. Answers how many tokens were in them.
pub(super) fn erase<'a>(
    last: &LastSequence,
    others: impl Iterator<Item = &'a LastSequence>,
    pool: &mut BlockPool,
) -> usize {
    let reached = |sequence: &LastSequence| {
        let reuse = Reuse::find(sequence.root, &sequence.tokens, pool);
        reuse.blocks().collect::<Vec<BlockId>>()
    };
    let kept: HashSet<BlockId> = others.flat_map(reached).collect();
    let own = reached(last);
    let mut left = Reuse::find(last.root, &last.tokens, pool).tokens(pool.block_tokens());
    let mut erased = 0;
    for (index, block) in own.into_iter().enumerate().rev() {
        if kept.contains(&block) || !pool.forget(block) {
            break;
        }
        let before = index * pool.block_tokens();
        erased += left - before;
        left = before;
    }
    erased
}
