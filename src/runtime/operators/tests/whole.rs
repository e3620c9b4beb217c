//! Attention over whole sequences, against its definition in f64.

use super::super::whole::{WholeInputs, attend_whole};
use super::*;

/// Sequences of so many tokens; what their tokens are follows from `seed`, the sequence's number and the place.
struct Batch {
    heads: usize,
    head_size: usize,
    sequences: Vec<usize>,
    seed: u64,
}

impl Batch {
    fn element(&self, which: u64, sequence: usize, token: usize, place: usize) -> f32 {
        let scale = if which == QUERY { 4.0 } else { 1.0 };
        let place = [
            self.seed,
            which,
            sequence as u64,
            token as u64,
            place as u64,
        ];
        noise(place) * scale
    }

    /// `[tokens, heads · head size]`
    fn rows(&self, which: u64) -> Vec<f32> {
        let tokens = self.sequences.iter().enumerate();
        let tokens = tokens.flat_map(|(sequence, tokens)| (0..*tokens).map(move |n| (sequence, n)));
        let width = self.heads * self.head_size;
        tokens
            .flat_map(|(sequence, token)| {
                (0..width).map(move |place| self.element(which, sequence, token, place))
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
        let [query, key, value] = [QUERY, KEY, VALUE].map(|which| self.rows(which));
        let bounds = self.bounds();
        let inputs = WholeInputs {
            heads: self.heads,
            head_size: self.head_size,
            query: &query,
            key: &key,
            value: &value,
            cumulative_sequence_length: &bounds,
            scale: 1.0 / (self.head_size as f32).sqrt(),
        };
        let mut output = vec![f32::NAN; query.len()];
        attend_whole(&inputs, &mut output, instructions, parallel).unwrap();
        output
    }

    fn reference(&self) -> Vec<f32> {
        let row = |which, sequence, token, head: usize| -> Vec<f64> {
            let places = head * self.head_size..(head + 1) * self.head_size;
            let element = |place| f64::from(self.element(which, sequence, token, place));
            places.map(element).collect()
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
    fn whole_sequences_are_attended_to_by_the_definition(
        heads in 1usize..4, groups in 1usize..9, sequences in prop::collection::vec(0usize..150, 0..4),
        seed in any::<u64>(),
    ) {
        let batch = Batch { heads, head_size: groups * 8, sequences, seed };
        let expected = batch.reference();
        for instructions in Instructions::available() {
            let found = batch.run(instructions, &one_thread);
            for (found, expected) in found.iter().zip(&expected) {
                prop_assert!((found - expected).abs() < 2e-5, "{found} {expected}");
            }
        }
    }
}

#[test]
fn a_whole_sequence_has_the_same_bits_in_any_company() {
    let batch = |sequences: &[usize]| Batch {
        heads: 3,
        head_size: 32,
        sequences: sequences.to_vec(),
        seed: 5,
    };
    let alone = batch(&[130]).run(Instructions::detect(), &one_thread);
    let beside = batch(&[130, 7, 65]).run(Instructions::detect(), &three_threads);
    assert_eq!(bits(&beside[..alone.len()]), bits(&alone));
}

#[track_caller]
fn check_refused(change: impl FnOnce(&mut WholeInputs), expected: &str) {
    let rows = [0.0; 64];
    let mut inputs = WholeInputs {
        heads: 2,
        head_size: 16,
        query: &rows,
        key: &rows,
        value: &rows,
        cumulative_sequence_length: &[0, 2],
        scale: 1.0,
    };
    change(&mut inputs);
    let refused = attend_whole(&inputs, &mut [0.0; 64], Instructions::detect(), &one_thread);
    assert_eq!(refused.unwrap_err().to_string(), expected);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    check_refused(
        |inputs| inputs.head_size = 12,
        "query: has heads of 12 elements",
    );
    check_refused(
        |inputs| inputs.key = &[0.0; 32],
        "key: has 32 elements, query 64",
    );
    for bounds in [&[0, 3][..], &[1, 2], &[0, 2, 1], &[]] {
        check_refused(
            |inputs| inputs.cumulative_sequence_length = bounds,
            "cumulative_sequence_length: does not rise from 0 to the 2 tokens of query",
        );
    }
}
