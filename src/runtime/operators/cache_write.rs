//! Writes the new tokens' keys and values to the cache: keys are normalized and rotated, then both are rounded to f16.

use std::ops::Range;

use half::f16;

use super::attention_inputs::{AttentionInputs, AttentionShape, TokenRows};
use super::batch::RaggedBatch;
use super::shared_slice::SharedSlice;
use super::simd::{LANES, Simd, WithSimd};

/// Writes the keys and values of the tokens in `range` to their cache slots.
pub(super) struct WriteToCache<'a> {
    pub(super) shape: AttentionShape,
    pub(super) key: TokenRows<'a>,
    pub(super) value: TokenRows<'a>,
    pub(super) inputs: &'a AttentionInputs<'a>,
    pub(super) batch: &'a RaggedBatch<'a>,
    pub(super) keys: &'a SharedSlice<'a, [f16; LANES]>,
    pub(super) values: &'a SharedSlice<'a, [f16; LANES]>,
    pub(super) range: Range<usize>,
}

impl WithSimd for WriteToCache<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let kv_heads = self.shape.kv_heads;
        let width = self.shape.head_size / LANES;
        let mut key = vec![[0.0; LANES]; width];
        for chunk in &self.batch.sequences {
            let first = self.range.start.max(chunk.first_token);
            let end = self.range.end.min(chunk.first_token + chunk.tokens);
            for token in first..end {
                let Some(slot) = self.batch.slots[token] else {
                    continue;
                };
                let slot_range = slot * kv_heads * width..(slot + 1) * kv_heads * width;
                // SAFETY: no slot occurs twice in a batch, each token is in one range, and the caches are read only
                // after all tokens are written.
                let keys = unsafe { self.keys.slice_mut(slot_range.clone()) };
                // SAFETY: as above.
                let values = unsafe { self.values.slice_mut(slot_range) };
                for head in 0..kv_heads {
                    let head_range = head * width..(head + 1) * width;
                    key.as_flattened_mut()
                        .copy_from_slice(self.key.row(token, head));
                    if let Some(norms) = self.inputs.norms {
                        norms.key.apply(key.as_flattened_mut());
                    }
                    if let Some(rotary) = self.inputs.rotary {
                        rotary.rotate(
                            key.as_flattened_mut(),
                            chunk.past + token - chunk.first_token,
                        );
                    }
                    store_f16(simd, &key, &mut keys[head_range.clone()]);
                    store_f16(
                        simd,
                        self.value.row(token, head).as_chunks().0,
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
