//! Writes the new tokens' keys and values to the cache: keys are normalized and rotated, then both are rounded to f16.

use std::ops::Range;

use half::f16;

use super::attention_inputs::{AttentionInputs, AttentionShape, TokenRows};
use super::batch::RaggedBatch;
use super::shared_slice::SharedSlice;
use super::simd::{Instructions, LANES, Simd, WithSimd};

/// The new keys and values of a step, and the caches that they are written to.
pub(super) struct CacheWriter<'a> {
    pub(super) shape: AttentionShape,
    pub(super) key: TokenRows<'a>,
    pub(super) value: TokenRows<'a>,
    pub(super) inputs: &'a AttentionInputs<'a>,
    pub(super) batch: &'a RaggedBatch<'a>,
    pub(super) keys: &'a SharedSlice<'a, [f16; LANES]>,
    pub(super) values: &'a SharedSlice<'a, [f16; LANES]>,
}

impl CacheWriter<'_> {
    /// Writes the keys and values of the tokens in `range` to their cache slots.
    ///
    /// # Safety
    /// During the call, no other thread may write a token of `range`, and no thread may read the caches.
    pub(super) unsafe fn write(&self, range: Range<usize>, instructions: Instructions) {
        instructions.run(WriteTokens {
            writer: self,
            range,
        });
    }
}

struct WriteTokens<'a> {
    writer: &'a CacheWriter<'a>,
    range: Range<usize>,
}

impl WithSimd for WriteTokens<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let writer = self.writer;
        let kv_heads = writer.shape.kv_heads;
        let width = writer.shape.head_size / LANES;
        let mut key = vec![[0.0; LANES]; width];
        for chunk in &writer.batch.sequences {
            let first = self.range.start.max(chunk.first_token);
            let end = self.range.end.min(chunk.first_token + chunk.tokens);
            for token in first..end {
                let Some(slot) = writer.batch.slots[token] else {
                    continue;
                };
                let slot_range = slot * kv_heads * width..(slot + 1) * kv_heads * width;
                // SAFETY: no slot occurs twice in a batch. The caller of `write` guarantees that no other thread writes
                // this token or reads the caches.
                let keys = unsafe { writer.keys.slice_mut(slot_range.clone()) };
                // SAFETY: as above.
                let values = unsafe { writer.values.slice_mut(slot_range) };
                for head in 0..kv_heads {
                    let head_range = head * width..(head + 1) * width;
                    key.as_flattened_mut()
                        .copy_from_slice(writer.key.row(token, head));
                    if let Some(norms) = writer.inputs.norms {
                        norms.key.apply(key.as_flattened_mut());
                    }
                    if let Some(rotary) = writer.inputs.rotary {
                        rotary.rotate(
                            key.as_flattened_mut(),
                            chunk.past + token - chunk.first_token,
                        );
                    }
                    store_f16(simd, &key, &mut keys[head_range.clone()]);
                    store_f16(
                        simd,
                        writer.value.row(token, head).as_chunks().0,
                        &mut values[head_range],
                    );
                }
            }
        }
    }
}

#[inline(always)]
fn store_f16<S: Simd>(simd: S, from: &[[f32; LANES]], to: &mut [[f16; LANES]]) {
    for (from, to) in from.iter().zip(to) {
        simd.store_f16(simd.load(from), to);
    }
}
