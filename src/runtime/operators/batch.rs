//! The ragged batch that the operator's index tensors describe, checked against each other and against
//! the cache's size. What passed here names no token, block or slot that does not exist.

use std::ops::Range;

use super::parallel::OperatorError;

/// The index tensors as they came.
#[derive(Debug, Clone, Copy)]
pub struct BatchIndices<'a> {
    /// `[sequences + 1]`: where each sequence's new tokens begin, and the end.
    pub cumulative_sequence_length: &'a [i32],
    /// `[sequences]`: tokens that are in the cache already.
    pub past_seqlens: &'a [i32],
    /// `[sequences, blocks_per_sequence]`; entries past a sequence's length may be anything.
    pub block_table: &'a [i32],
    /// Columns of `block_table`.
    pub blocks_per_sequence: usize,
    /// `[tokens]`: where each new token's key and value go, -1 for nowhere. Absent: where the table says.
    pub slot_mapping: Option<&'a [i32]>,
}

/// What bounds a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchBounds {
    pub(super) tokens: usize,
    pub(super) blocks: usize,
    pub(super) block_tokens: usize,
    /// Positions with a rotary angle; `None` where nothing is rotated.
    pub(super) positions: Option<usize>,
}

/// A ragged batch in which every number is in range.
#[derive(Debug)]
pub(super) struct RaggedBatch<'a> {
    pub(super) sequences: Vec<SequenceChunk<'a>>,
    /// For each token its slot in the cache; no slot comes twice.
    pub(super) slots: Vec<Option<usize>>,
}

/// The new tokens of one sequence. Token `first_token + n` of the batch stands at position `past + n`.
#[derive(Debug)]
pub(super) struct SequenceChunk<'a> {
    pub(super) first_token: usize,
    /// At least one.
    pub(super) tokens: usize,
    pub(super) past: usize,
    /// The block of every `block_tokens` positions, up to the last new token.
    blocks: &'a [i32],
}

impl SequenceChunk<'_> {
    /// Visits the slots of `positions`, all of the sequence, in order.
    #[inline(always)]
    pub(super) fn slots(
        &self,
        positions: Range<usize>,
        block_tokens: usize,
        mut visit: impl FnMut(usize),
    ) {
        let mut remaining = positions.len();
        let mut offset = positions.start % block_tokens;
        for &block in &self.blocks[positions.start / block_tokens..] {
            // The check has seen that no block number is negative.
            let block_start = block as usize * block_tokens;
            let run = remaining.min(block_tokens - offset);
            (offset..offset + run).for_each(|offset| visit(block_start + offset));
            remaining -= run;
            if remaining == 0 {
                break;
            }
            offset = 0;
        }
    }
}

impl<'a> RaggedBatch<'a> {
    pub(super) fn check(
        indices: BatchIndices<'a>,
        bounds: BatchBounds,
    ) -> Result<Self, OperatorError> {
        let BatchIndices {
            cumulative_sequence_length: cumulative,
            past_seqlens,
            ..
        } = indices;
        let invalid = OperatorError::input;
        let count = past_seqlens.len();
        if cumulative.len() != count + 1 {
            return Err(invalid(
                "cumulative_sequence_length",
                format!(
                    "has {} entries for {count} past_seqlens, not one more",
                    cumulative.len()
                ),
            ));
        }
        if cumulative[0] != 0
            || cumulative[count] as i64 != bounds.tokens as i64
            || !cumulative.is_sorted()
        {
            return Err(invalid(
                "cumulative_sequence_length",
                format!(
                    "does not rise from 0 to the {} tokens of query",
                    bounds.tokens
                ),
            ));
        }
        if Some(indices.block_table.len()) != indices.blocks_per_sequence.checked_mul(count) {
            return Err(invalid(
                "block_table",
                format!("does not have one row for each of {count} sequences"),
            ));
        }
        let mut sequences = Vec::with_capacity(count);
        for sequence in 0..count {
            let first_token = cumulative[sequence] as usize;
            let tokens = cumulative[sequence + 1] as usize - first_token;
            if tokens == 0 {
                continue;
            }
            let past = usize::try_from(past_seqlens[sequence]).map_err(|_| {
                invalid(
                    "past_seqlens",
                    format!("sequence {sequence} has {} tokens", past_seqlens[sequence]),
                )
            })?;
            let total = past + tokens;
            if let Some(positions) = bounds.positions
                && total > positions
            {
                return Err(invalid(
                    "cos_cache",
                    format!("has {positions} positions, sequence {sequence} needs {total}"),
                ));
            }
            let row = &indices.block_table[sequence * indices.blocks_per_sequence..]
                [..indices.blocks_per_sequence];
            let needed = total.div_ceil(bounds.block_tokens);
            let blocks = row.get(..needed).ok_or_else(|| {
                invalid(
                    "block_table",
                    format!(
                        "has {} blocks for each sequence, sequence {sequence} needs {needed}",
                        row.len()
                    ),
                )
            })?;
            if let Some(&block) = blocks
                .iter()
                .find(|&&block| block < 0 || block as usize >= bounds.blocks)
            {
                return Err(invalid(
                    "block_table",
                    format!(
                        "sequence {sequence} names block {block} of {}",
                        bounds.blocks
                    ),
                ));
            }
            sequences.push(SequenceChunk {
                first_token,
                tokens,
                past,
                blocks,
            });
        }
        let slots = slots(&sequences, indices.slot_mapping, bounds)?;
        Ok(RaggedBatch { sequences, slots })
    }
}

fn slots(
    sequences: &[SequenceChunk],
    mapping: Option<&[i32]>,
    bounds: BatchBounds,
) -> Result<Vec<Option<usize>>, OperatorError> {
    if let Some(mapping) = mapping
        && mapping.len() != bounds.tokens
    {
        let problem = format!("has {} entries for {} tokens", mapping.len(), bounds.tokens);
        return Err(OperatorError::input("slot_mapping", problem));
    }
    let mut slots = Vec::with_capacity(bounds.tokens);
    for chunk in sequences {
        chunk.slots(
            chunk.past..chunk.past + chunk.tokens,
            bounds.block_tokens,
            |slot| slots.push(Some(slot)),
        );
    }
    for (token, (slot, &mapped)) in slots
        .iter_mut()
        .zip(mapping.unwrap_or_default())
        .enumerate()
    {
        if mapped == -1 {
            *slot = None;
        } else if *slot != usize::try_from(mapped).ok() {
            let problem = format!("sends token {token} to slot {mapped}, against the block table");
            return Err(OperatorError::input("slot_mapping", problem));
        }
    }
    // Slots are written in parallel: two tokens in one would be a race.
    let mut written: Vec<usize> = slots.iter().flatten().copied().collect();
    written.sort_unstable();
    if let Some(twice) = written.windows(2).find(|pair| pair[0] == pair[1]) {
        let problem = format!("two tokens of the batch are written to slot {}", twice[0]);
        return Err(OperatorError::input("block_table", problem));
    }
    Ok(slots)
}
