//! The new tokens' way into the cache: their keys rotated, both rounded to f16.

use std::ops::Range;

use half::f16;

use super::attention::{AttentionInputs, AttentionShape, TokenRows};
use super::batch::RaggedBatch;
use super::shared::SharedSlice;
use super::simd::{LANES, Simd, Work};

/// Writes the keys and values of the tokens of `range` to their slots.
pub(super) struct WriteTokens<'a> {
    pub(super) shape: AttentionShape,
    pub(super) key: TokenRows<'a>,
    pub(super) value: TokenRows<'a>,
    pub(super) inputs: &'a AttentionInputs<'a>,
    pub(super) batch: &'a RaggedBatch<'a>,
    pub(super) keys: &'a SharedSlice<'a, [f16; LANES]>,
    pub(super) values: &'a SharedSlice<'a, [f16; LANES]>,
    pub(super) range: Range<usize>,
}

impl Work for WriteTokens<'_> {
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
                let place = slot * kv_heads * width..(slot + 1) * kv_heads * width;
                // SAFETY: no slot comes twice in a batch, each token is in one range, and nobody reads the
                // caches before all are written.
                let keys = unsafe { self.keys.part_mut(place.clone()) };
                // SAFETY: as above.
                let values = unsafe { self.values.part_mut(place) };
                for head in 0..kv_heads {
                    let place = head * width..(head + 1) * width;
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
                    store_f16(simd, &key, &mut keys[place.clone()]);
                    store_f16(
                        simd,
                        self.value.row(token, head).as_chunks().0,
                        &mut values[place],
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
