//! Saves, restores and erases slots: the cached blocks of the last sequence that ran in the slot.

use std::collections::HashSet;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::runner::{ModelRunner, RunError};
use super::sequence_id::SequenceId;
use crate::cache::{BlockId, BlockPool, BlockTable, CacheNamespace, CachedPrefix};
use crate::token::TokenId;

/// A sequence with the contents of its cached blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SavedSequence {
    /// The id of the sequence; `None` if the sequence was restored and has not run since.
    pub id: Option<SequenceId>,
    /// The cache namespace of the blocks.
    pub namespace: CacheNamespace,
    /// The tokens whose keys and values are in the blocks.
    pub tokens: Vec<TokenId>,
    /// The bytes of each block as the runner reads and writes them, in token order.
    pub blocks: Vec<Vec<u8>>,
}

/// Maximum number of pending slot actions. Each pending restore may hold the contents of a whole cache in memory.
pub const MAX_SLOT_ACTIONS: usize = 8;

/// An action that is executed as soon as its slot is free.
pub(super) struct SlotCommand {
    pub(super) slot: usize,
    pub(super) action: SlotAction,
    /// One of [`MAX_SLOT_ACTIONS`] permits, held until the action is executed.
    pub(super) _permit: OwnedSemaphorePermit,
}

impl SlotCommand {
    /// Returns whether the caller no longer waits for the result.
    pub(super) fn is_abandoned(&self) -> bool {
        match &self.action {
            SlotAction::Save(reply) => reply.is_closed(),
            SlotAction::Restore(_, reply) => reply.is_closed(),
            SlotAction::Erase(reply) => reply.is_closed(),
        }
    }
}

/// An action, and the channel for the result.
pub(super) enum SlotAction {
    /// Sends the sequence; `None` if no sequence has run in the slot.
    Save(oneshot::Sender<Result<Option<SavedSequence>, RunError>>),
    /// Sends the number of restored tokens: fewer than saved if too few blocks are available.
    Restore(SavedSequence, oneshot::Sender<Result<usize, RunError>>),
    /// Sends the number of erased tokens.
    Erase(oneshot::Sender<usize>),
}

/// The last sequence that ran in a slot or was restored to it, with its computed tokens.
#[derive(Debug, Clone)]
pub(super) struct LastSequence {
    pub(super) id: Option<SequenceId>,
    pub(super) namespace: CacheNamespace,
    pub(super) tokens: Vec<TokenId>,
}

/// Reads the blocks of a sequence that are still cached.
pub(super) fn save(
    last: &LastSequence,
    runner: &mut dyn ModelRunner,
    pool: &BlockPool,
) -> Result<SavedSequence, RunError> {
    let cached = CachedPrefix::find(last.namespace, &last.tokens, pool);
    let count = cached.tokens(pool.block_tokens());
    let blocks = cached.blocks().map(|block| runner.read_block(block));
    Ok(SavedSequence {
        id: last.id,
        namespace: last.namespace,
        tokens: last.tokens[..count].to_vec(),
        blocks: blocks.collect::<Result<_, _>>()?,
    })
}

/// Writes a saved sequence into the cache and releases its blocks, which stay cached. If too few blocks are available,
/// only the leading tokens are restored.
pub(super) fn restore(
    mut saved: SavedSequence,
    runner: &mut dyn ModelRunner,
    pool: &mut BlockPool,
) -> Result<LastSequence, RunError> {
    let tokens = &mut saved.tokens;
    tokens.truncate(saved.blocks.len() * pool.block_tokens());
    let mut cached = CachedPrefix::find(saved.namespace, tokens, pool);
    while cached.required_blocks(tokens.len(), pool) > pool.available() {
        tokens.truncate((tokens.len() - 1) / pool.block_tokens() * pool.block_tokens());
        cached = CachedPrefix::find(saved.namespace, tokens, pool);
    }
    let mut table = BlockTable::new(saved.namespace);
    // The partial block is written below instead of being copied.
    let (cached_tokens, _) = table.attach(cached, pool);
    table.grow(tokens.len(), pool);
    let full_blocks = cached_tokens / pool.block_tokens();
    let mut missing = table.blocks().iter().zip(&saved.blocks).skip(full_blocks);
    let written = missing.try_for_each(|(block, bytes)| runner.write_block(*block, bytes));
    match written {
        Ok(()) => table.commit_and_release(tokens, pool),
        Err(_) => table.release(pool),
    }
    written.map(|()| LastSequence {
        id: None,
        namespace: saved.namespace,
        tokens: saved.tokens,
    })
}

/// Erases the cached blocks of `last` that the sequences in `others` do not share. Returns the number of erased tokens.
pub(super) fn erase<'a>(
    last: &LastSequence,
    others: impl Iterator<Item = &'a LastSequence>,
    pool: &mut BlockPool,
) -> usize {
    let blocks_of = |sequence: &LastSequence| {
        let cached = CachedPrefix::find(sequence.namespace, &sequence.tokens, pool);
        cached.blocks().collect::<Vec<BlockId>>()
    };
    let shared: HashSet<BlockId> = others.flat_map(blocks_of).collect();
    let own = blocks_of(last);
    let cached = CachedPrefix::find(last.namespace, &last.tokens, pool);
    let mut remaining = cached.tokens(pool.block_tokens());
    let mut erased = 0;
    for (index, block) in own.into_iter().enumerate().rev() {
        if shared.contains(&block) || !pool.erase(block) {
            break;
        }
        let before = index * pool.block_tokens();
        erased += remaining - before;
        remaining = before;
    }
    erased
}
