//! Bidirectional attention compared with a reference in f64.

use super::super::encoder_attention::{EncoderAttentionInputs, attend_bidirectional};
use super::*;

/// A batch of sequences; `sequences` holds the number of tokens of each. [`noise`] derives the values from `seed`.
struct Batch {
    heads: usize,
    head_size: usize,
    sequences: Vec<usize>,
    seed: u64,
}

impl Batch {
    fn element(&self, kind: u64, sequence: usize, token: usize, index: usize) -> f32 {
        let scale = if kind == QUERY { 4.0 } else { 1.0 };
        let key = [self.seed, kind, sequence as u64, token as u64, index as u64];
        noise(key) * scale
    }

    /// Returns queries, keys or values, `[tokens, heads · head_size]`.
    fn rows(&self, kind: u64) -> Vec<f32> {
        let tokens = self.sequences.iter().enumerate();
        let tokens = tokens.flat_map(|(sequence, tokens)| (0..*tokens).map(move |n| (sequence, n)));
        let width = self.heads * self.head_size;
        tokens
            .flat_map(|(sequence, token)| {
                (0..width).map(move |index| self.element(kind, sequence, token, index))
            })
            .collect()
    }

    fn bounds(&self) -> Vec<i32> {
        let mut bounds = vec![0];
        for tokens in &self.sequences {
            bounds.push(bounds[bounds.len() - 1] + *tokens as i32);
        }
        bounds
    }

    fn run(&self, instructions: Instructions, parallel: ParallelFor) -> Vec<f32> {
        let [query, key, value] = [QUERY, KEY, VALUE].map(|kind| self.rows(kind));
        let bounds = self.bounds();
        let inputs = EncoderAttentionInputs {
            heads: self.heads,
            head_size: self.head_size,
            query: &query,
            key: &key,
            value: &value,
            cumulative_sequence_length: &bounds,
            scale: 1.0 / (self.head_size as f32).sqrt(),
        };
        let mut output = vec![f32::NAN; query.len()];
        attend_bidirectional(&inputs, &mut output, instructions, parallel).unwrap();
        output
    }

    fn reference(&self) -> Vec<f32> {
        let row = |kind, sequence, token, head: usize| -> Vec<f64> {
            let indices = head * self.head_size..(head + 1) * self.head_size;
            let element = |index| f64::from(self.element(kind, sequence, token, index));
            indices.map(element).collect()
        };
        let mut output = Vec::new();
        for (sequence, tokens) in self.sequences.iter().enumerate() {
            for token in 0..*tokens {
                for head in 0..self.heads {
                    let query = row(QUERY, sequence, token, head);
                    let weights: Vec<f64> = (0..*tokens)
                        .map(|other| {
                            let key = row(KEY, sequence, other, head);
                            let products = key.iter().zip(&query).map(|(k, q)| k * q);
                            (products.sum::<f64>() / (self.head_size as f64).sqrt()).exp()
                        })
                        .collect();
                    let total: f64 = weights.iter().sum();
                    let mut sums = vec![0.0; self.head_size];
                    for (other, weight) in weights.iter().enumerate() {
                        let value = row(VALUE, sequence, other, head);
                        sums.iter_mut()
                            .zip(value)
                            .for_each(|(sum, value)| *sum += weight / total * value);
                    }
                    output.extend(sums.into_iter().map(|sum| sum as f32));
                }
            }
        }
        output
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn bidirectional_attention_matches_the_reference(
        heads in 1usize..4, groups in 1usize..9, sequences in prop::collection::vec(0usize..150, 0..4),
        seed in any::<u64>(),
    ) {
        let batch = Batch { heads, head_size: groups * 8, sequences, seed };
        let expected = batch.reference();
        for instructions in Instructions::available() {
            let output = batch.run(instructions, &one_thread);
            for (value, expected) in output.iter().zip(&expected) {
                prop_assert!((value - expected).abs() < 2e-5, "{value} {expected}");
            }
        }
    }
}

#[test]
fn results_do_not_depend_on_other_sequences_or_threads() {
    let batch = |sequences: &[usize]| Batch {
        heads: 3,
        head_size: 32,
        sequences: sequences.to_vec(),
        seed: 5,
    };
    let alone = batch(&[130]).run(Instructions::detect(), &one_thread);
    let batched = batch(&[130, 7, 65]).run(Instructions::detect(), &three_threads);
    assert_eq!(bits(&batched[..alone.len()]), bits(&alone));
}

#[track_caller]
fn check_error(change: impl FnOnce(&mut EncoderAttentionInputs), expected: &str) {
    let rows = [0.0; 64];
    let mut inputs = EncoderAttentionInputs {
        heads: 2,
        head_size: 16,
        query: &rows,
        key: &rows,
        value: &rows,
        cumulative_sequence_length: &[0, 2],
        scale: 1.0,
    };
    change(&mut inputs);
    let result = attend_bidirectional(&inputs, &mut [0.0; 64], Instructions::detect(), &one_thread);
    assert_eq!(result.unwrap_err().to_string(), expected);
}

#[test]
fn mismatched_inputs_are_rejected() {
    check_error(
        |inputs| inputs.head_size = 12,
        "query: has heads of 12 elements",
    );
    check_error(
        |inputs| inputs.key = &[0.0; 32],
        "key: has 32 elements, but query has 64",
    );
    for bounds in [&[0, 3][..], &[1, 2], &[0, 2, 1], &[]] {
        check_error(
            |inputs| inputs.cumulative_sequence_length = bounds,
            "cumulative_sequence_length: does not ascend from 0 to the 2 tokens of query",
        );
    }
}
