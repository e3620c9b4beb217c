//! Validates the index tensors of paged attention against each other and against the cache size. A [`RaggedBatch`]
//! contains only valid token, block and slot indices.

use std::ops::Range;

use super::parallel::OperatorError;

/// Index tensors of paged attention before validation.
#[derive(Debug, Clone, Copy)]
pub struct BatchIndices<'a> {
    /// `[sequences + 1]`: index of the first new token of each sequence, then the number of tokens.
    pub cumulative_sequence_length: &'a [i32],
    /// `[sequences]`: number of tokens of each sequence that are already in the cache.
    pub past_seqlens: &'a [i32],
    /// `[sequences, blocks_per_sequence]`; entries past a sequence's length are ignored.
    pub block_table: &'a [i32],
    /// Number of columns of `block_table`.
    pub blocks_per_sequence: usize,
    /// `[tokens]`: cache slot (`block · block_tokens + offset`) of each new token, or -1 for tokens that must not be
    /// written. If absent, slots are derived from `block_table`.
    pub slot_mapping: Option<&'a [i32]>,
}

/// Sizes that bound the indices of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct BatchBounds {
    pub(super) tokens: usize,
    pub(super) blocks: usize,
    pub(super) block_tokens: usize,
    /// Number of positions in the RoPE tables; `None` without RoPE.
    pub(super) positions: Option<usize>,
}

/// A ragged batch in which every index is in range.
#[derive(Debug)]
pub(super) struct RaggedBatch<'a> {
    pub(super) sequences: Vec<SequenceChunk<'a>>,
    /// Cache slot of each token, or `None` for a token that must not be written. No slot occurs twice.
    pub(super) slots: Vec<Option<usize>>,
}

/// The new tokens of one sequence. Token `first_token + n` of the batch has position `past + n`.
#[derive(Debug)]
pub(super) struct SequenceChunk<'a> {
    pub(super) first_token: usize,
    /// At least one.
    pub(super) tokens: usize,
    pub(super) past: usize,
    /// The sequence's blocks, up to the block of the last new token.
    blocks: &'a [i32],
}

impl SequenceChunk<'_> {
    /// Calls `visit` with the cache slot of each position, in order.
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
            // `RaggedBatch::check` rejects negative block indices.
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
                    "has {} entries, expected {} (one more than past_seqlens)",
                    cumulative.len(),
                    count + 1
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
                    "does not ascend from 0 to the {} tokens of query",
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
                    format!(
                        "sequence {sequence} has {} past tokens",
                        past_seqlens[sequence]
                    ),
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
                        "has {} blocks per sequence, sequence {sequence} needs {needed}",
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
                        "sequence {sequence} has block {block}, but the cache has {} blocks",
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
            let problem =
                format!("maps token {token} to slot {mapped}, which contradicts block_table");
            return Err(OperatorError::input("slot_mapping", problem));
        }
    }
    // Slots are written in parallel, so two tokens in one slot would be a data race.
    let mut written: Vec<usize> = slots.iter().flatten().copied().collect();
    written.sort_unstable();
    if let Some(duplicate) = written.windows(2).find(|pair| pair[0] == pair[1]) {
        let problem = format!(
            "two tokens of the batch are written to slot {}",
            duplicate[0]
        );
        return Err(OperatorError::input("block_table", problem));
    }
    Ok(slots)
}
