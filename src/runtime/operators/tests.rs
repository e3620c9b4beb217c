//! Paged attention compared with a reference in f64, and tests of batch invariance.

mod encoder_attention;
mod invalid;
mod low_rank;
mod matmul;
mod panics;
mod reference;
mod session;

use half::f16;
use proptest::prelude::*;

use super::attention::*;
use super::attention_inputs::*;
use super::batch::BatchIndices;
use super::norm::{QueryKeyNorms, RowNorm};
use super::parallel::{OperatorError, ParallelFor};
use super::rotary::{Pairing, Rotary};
use super::simd::Instructions;
use reference::{expected_key, reference};

/// Configuration of an attention node. [`noise`] derives tensor values from `seed`, the sequence and the position.
#[derive(Debug, Clone)]
struct Node {
    shape: AttentionShape,
    rotary: Option<(Pairing, usize)>,
    has_norms: bool,
    softcap: Option<f32>,
    window: Option<usize>,
    packed: bool,
    seed: u64,
}

/// New tokens of one sequence. The number `sequence` is part of the seed of the tokens' values.
#[derive(Debug, Clone)]
struct Chunk {
    sequence: u64,
    past: usize,
    tokens: usize,
    blocks: Vec<i32>,
}

/// Key and value caches; elements that no token was written to are NaN.
#[derive(Debug, Clone)]
struct Caches {
    keys: Vec<f16>,
    values: Vec<f16>,
}

impl Caches {
    /// Returns the bits of all elements. Tests compare bits, because NaN is unequal to itself.
    fn bits(&self) -> Vec<u16> {
        self.keys
            .iter()
            .chain(&self.values)
            .map(|half| half.to_bits())
            .collect()
    }
}

/// Input tensors of a step, except the caches.
struct Tensors {
    query: Vec<f32>,
    key_value: Option<(Vec<f32>, Vec<f32>)>,
    cumulative: Vec<i32>,
    past: Vec<i32>,
    table: Vec<i32>,
    blocks_per_sequence: usize,
    slots: Option<Vec<i32>>,
    cosines: Vec<f32>,
    sines: Vec<f32>,
    query_gain: Vec<f32>,
    key_gain: Vec<f32>,
}

const POSITIONS: usize = 512;
const QUERY: u64 = 0;
const KEY: u64 = 1;
const VALUE: u64 = 2;
const NORM_EPSILON: f32 = 1e-2;

/// Returns a pseudorandom number from -1 to 1 that depends only on `key`.
fn noise(key: [u64; 5]) -> f32 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for part in key {
        state = (state ^ part).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 29;
    }
    (state >> 40) as f32 / (1 << 23) as f32 - 1.0
}

impl Node {
    /// Returns the query, key or value of a token in one head; `kind` is [`QUERY`], [`KEY`] or [`VALUE`].
    fn row(&self, kind: u64, chunk: &Chunk, position: usize, head: usize) -> Vec<f32> {
        let width = self.shape.head_size as u64;
        let key = |element| {
            [
                self.seed * 3 + kind,
                chunk.sequence,
                position as u64,
                head as u64,
                element,
            ]
        };
        // Large queries cause large differences between the softmax weights.
        let scale = if kind == QUERY { 4.0 } else { 1.0 };
        (0..width)
            .map(|element| noise(key(element)) * scale)
            .collect()
    }

    /// Returns caches with pseudorandom keys and values for the past tokens of all chunks.
    fn caches(&self, chunks: &[Chunk]) -> Caches {
        let elements = self.shape.blocks
            * self.shape.block_tokens
            * self.shape.kv_heads
            * self.shape.head_size;
        let mut caches = Caches {
            keys: vec![f16::NAN; elements],
            values: vec![f16::NAN; elements],
        };
        for chunk in chunks {
            for position in 0..chunk.past {
                for head in 0..self.shape.kv_heads {
                    let start = self.cache_index(chunk, position, head);
                    let halves = |kind| {
                        self.row(kind, chunk, position, head)
                            .into_iter()
                            .map(f16::from_f32)
                    };
                    caches.keys[start..]
                        .iter_mut()
                        .zip(halves(KEY))
                        .for_each(|(to, from)| *to = from);
                    caches.values[start..]
                        .iter_mut()
                        .zip(halves(VALUE))
                        .for_each(|(to, from)| *to = from);
                }
            }
        }
        caches
    }

    /// Returns the index of the first element of a position's key/value head in the caches.
    fn cache_index(&self, chunk: &Chunk, position: usize, head: usize) -> usize {
        let block = chunk.blocks[position / self.shape.block_tokens] as usize;
        let slot = block * self.shape.block_tokens + position % self.shape.block_tokens;
        (slot * self.shape.kv_heads + head) * self.shape.head_size
    }

    fn tensors(&self, chunks: &[Chunk]) -> Tensors {
        let tokens = || {
            chunks
                .iter()
                .flat_map(|c| (c.past..c.past + c.tokens).map(move |position| (c, position)))
        };
        let rows = |kind, heads| {
            move |(chunk, position): (&Chunk, usize)| {
                (0..heads)
                    .flat_map(|head| self.row(kind, chunk, position, head))
                    .collect::<Vec<f32>>()
            }
        };
        let (query, key, value) = (
            rows(QUERY, self.shape.heads),
            rows(KEY, self.shape.kv_heads),
            rows(VALUE, self.shape.kv_heads),
        );
        let (query, key_value) = if self.packed {
            (
                tokens()
                    .flat_map(|token| [query(token), key(token), value(token)].concat())
                    .collect(),
                None,
            )
        } else {
            (
                tokens().flat_map(query).collect(),
                Some((
                    tokens().flat_map(key).collect(),
                    tokens().flat_map(value).collect(),
                )),
            )
        };
        let mut cumulative = vec![0];
        for chunk in chunks {
            cumulative.push(cumulative[cumulative.len() - 1] + chunk.tokens as i32);
        }
        let blocks_per_sequence = chunks
            .iter()
            .map(|chunk| chunk.blocks.len())
            .max()
            .unwrap_or(0);
        let mut table = Vec::new();
        for chunk in chunks {
            table.extend(&chunk.blocks);
            table.resize(table.len() + blocks_per_sequence - chunk.blocks.len(), -1);
        }
        let slots = tokens().map(|(chunk, position)| {
            (self.cache_index(chunk, position, 0) / self.shape.kv_heads / self.shape.head_size)
                as i32
        });
        let pairs = self.rotary.map_or(1, |(_, pairs)| pairs);
        let angle = |index: usize| {
            (index / pairs) as f64 * 10_000_f64.powf(-((index % pairs) as f64) / pairs as f64)
        };
        Tensors {
            query,
            key_value,
            cumulative,
            past: chunks.iter().map(|chunk| chunk.past as i32).collect(),
            table,
            blocks_per_sequence,
            slots: self.seed.is_multiple_of(2).then(|| slots.collect()),
            cosines: (0..POSITIONS * pairs)
                .map(|index| angle(index).cos() as f32)
                .collect(),
            sines: (0..POSITIONS * pairs)
                .map(|index| angle(index).sin() as f32)
                .collect(),
            query_gain: self.gain(QUERY),
            key_gain: self.gain(KEY),
        }
    }

    fn inputs<'a>(&self, tensors: &'a Tensors) -> AttentionInputs<'a> {
        AttentionInputs {
            query: &tensors.query,
            key_value: tensors
                .key_value
                .as_ref()
                .map(|(key, value)| (&key[..], &value[..])),
            batch: BatchIndices {
                cumulative_sequence_length: &tensors.cumulative,
                past_seqlens: &tensors.past,
                block_table: &tensors.table,
                blocks_per_sequence: tensors.blocks_per_sequence,
                slot_mapping: tensors.slots.as_deref(),
            },
            rotary: self.rotary.map(|(pairing, pairs)| Rotary {
                cosines: &tensors.cosines,
                sines: &tensors.sines,
                pairs,
                pairing,
            }),
            norms: self.has_norms.then_some(QueryKeyNorms {
                query: RowNorm {
                    gain: &tensors.query_gain,
                    epsilon: NORM_EPSILON,
                },
                key: RowNorm {
                    gain: &tensors.key_gain,
                    epsilon: NORM_EPSILON,
                },
            }),
            scoring: Scoring {
                scale: self.scale(),
                softcap: self.softcap,
                window: self.window,
            },
        }
    }

    /// Returns the norm weights of queries or keys.
    fn gain(&self, kind: u64) -> Vec<f32> {
        let elements = 0..self.shape.head_size as u64;
        elements
            .map(|element| 1.0 + 0.5 * noise([self.seed, kind, 5, 5, element]))
            .collect()
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_size as f32).sqrt()
    }

    fn run(
        &self,
        chunks: &[Chunk],
        caches: &mut Caches,
        instructions: Instructions,
        parallel: ParallelFor,
    ) -> Vec<f32> {
        let tensors = self.tensors(chunks);
        let tokens: usize = chunks.iter().map(|chunk| chunk.tokens).sum();
        let mut output = vec![f32::NAN; tokens * self.shape.heads * self.shape.head_size];
        let caches = AttentionCaches {
            keys: &mut caches.keys,
            values: &mut caches.values,
        };
        attend(
            self.shape,
            &self.inputs(&tensors),
            caches,
            &mut output,
            instructions,
            parallel,
        )
        .unwrap();
        output
    }
}

fn one_thread(count: usize, call: &(dyn Fn(usize) + Sync)) -> Result<(), OperatorError> {
    (0..count).for_each(call);
    Ok(())
}

fn three_threads(count: usize, call: &(dyn Fn(usize) + Sync)) -> Result<(), OperatorError> {
    std::thread::scope(|scope| {
        for thread in 0..3 {
            scope.spawn(move || (thread..count).step_by(3).for_each(call));
        }
    });
    Ok(())
}

/// Assigns cache blocks in pseudorandom order to sequences of the given lengths.
fn assign_blocks(shape: AttentionShape, lengths: &[usize], seed: u64) -> Vec<Vec<i32>> {
    let mut blocks: Vec<i32> = (0..shape.blocks as i32).collect();
    blocks.sort_by_key(|&block| noise([seed, block as u64, 7, 7, 7]).to_bits());
    lengths
        .iter()
        .map(|length| blocks.split_off(blocks.len() - length.div_ceil(shape.block_tokens)))
        .collect()
}

fn nodes() -> impl Strategy<Value = Node> {
    let head_size = prop::sample::select(vec![16_usize, 32, 64, 80, 128, 256]);
    let block_tokens = prop::sample::select(vec![16_usize, 32]);
    let pairing = prop::sample::select(vec![Pairing::Halves, Pairing::Adjacent]);
    (
        head_size,
        block_tokens,
        1..=8_usize,
        1..=2_usize,
        any::<bool>(),
        any::<u32>(),
        pairing,
        0..=4_usize,
        (
            any::<bool>(),
            prop::option::of(0.5..4.0_f32),
            prop::option::of(1..100_usize),
        ),
    )
        .prop_map(
            |(
                head_size,
                block_tokens,
                ratio,
                kv_heads,
                packed,
                seed,
                pairing,
                rotated_quarters,
                (has_norms, softcap, window),
            )| Node {
                shape: AttentionShape {
                    heads: ratio * kv_heads,
                    kv_heads,
                    head_size,
                    blocks: 40,
                    block_tokens,
                },
                rotary: (rotated_quarters > 0)
                    .then_some((pairing, head_size / 8 * rotated_quarters)),
                has_norms,
                softcap,
                window,
                packed,
                seed: u64::from(seed),
            },
        )
}

/// Numbers of past and new tokens of some sequences: decode and prefill, with and without past tokens.
fn lengths() -> impl Strategy<Value = Vec<(usize, usize)>> {
    prop::collection::vec(
        (
            prop_oneof![Just(0), 0..150_usize],
            prop_oneof![Just(1), 1..40_usize],
        ),
        1..4,
    )
}

fn chunks(node: &Node, lengths: &[(usize, usize)]) -> Vec<Chunk> {
    let totals: Vec<usize> = lengths.iter().map(|(past, tokens)| past + tokens).collect();
    let tables = assign_blocks(node.shape, &totals, node.seed);
    let chunks = lengths.iter().zip(tables).enumerate();
    chunks
        .map(|(sequence, (&(past, tokens), blocks))| Chunk {
            sequence: sequence as u64,
            past,
            tokens,
            blocks,
        })
        .collect()
}

/// Returns the largest difference of two elements, relative to the largest value in the row of `right`.
fn max_difference(node: &Node, left: &[f32], right: &[f32]) -> f32 {
    let rows = left
        .chunks_exact(node.shape.head_size)
        .zip(right.chunks_exact(node.shape.head_size));
    rows.map(|(left, right)| {
        let largest = right
            .iter()
            .fold(0.0_f32, |largest, x| largest.max(x.abs()));
        let difference = left
            .iter()
            .zip(right)
            .map(|(left, right)| (left - right).abs());
        difference.fold(
            0.0_f32,
            |max, x| if x > max || x.is_nan() { x } else { max },
        ) / largest
    })
    .fold(0.0, |max, x| if x > max || x.is_nan() { x } else { max })
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn attention_matches_the_reference(node in nodes(), lengths in lengths()) {
        let chunks = chunks(&node, &lengths);
        let mut caches = node.caches(&chunks);
        let before = caches.clone();
        let output = node.run(&chunks, &mut caches, Instructions::detect(), &one_thread);

        let expected = reference(&node, &chunks, &caches);
        prop_assert!(max_difference(&node, &output, &expected) < 1e-3);
        for chunk in &chunks {
            for head in 0..node.shape.kv_heads {
                for position in 0..chunk.past + chunk.tokens {
                    let start = node.cache_index(chunk, position, head);
                    let range = start..start + node.shape.head_size;
                    if position < chunk.past {
                        prop_assert_eq!(&caches.keys[range.clone()], &before.keys[range.clone()]);
                        prop_assert_eq!(&caches.values[range.clone()], &before.values[range]);
                        continue;
                    }
                    let key = expected_key(&node, chunk, position, head);
                    for (written, expected) in caches.keys[range.clone()].iter().zip(key) {
                        prop_assert!((f64::from(*written) - expected).abs() < 1e-3);
                    }
                    let value = node.row(VALUE, chunk, position, head);
                    for (written, expected) in caches.values[range].iter().zip(value) {
                        prop_assert_eq!(*written, f16::from_f32(expected));
                    }
                }
            }
        }
    }

    #[test]
    fn the_portable_implementation_matches_the_detected_one(node in nodes(), lengths in lengths()) {
        let chunks = chunks(&node, &lengths);
        let mut caches = node.caches(&chunks);
        let detected = node.run(&chunks, &mut caches.clone(), Instructions::detect(), &one_thread);
        let portable = node.run(&chunks, &mut caches, Instructions::portable(), &one_thread);
        prop_assert!(max_difference(&node, &portable, &detected) < 1e-3);
    }

    #[test]
    fn results_do_not_depend_on_batch_chunks_threads_or_blocks(
        node in nodes(),
        prompt in 1..150_usize,
        cuts in prop::collection::vec(0..150_usize, 0..4),
        other_lengths in lengths(),
    ) {
        // The prompt runs alone, in one chunk, on one thread, in the first blocks.
        let blocks = (0..prompt.div_ceil(node.shape.block_tokens) as i32).collect();
        let prompt_chunk = Chunk { sequence: 99, past: 0, tokens: prompt, blocks };
        let mut caches = node.caches(std::slice::from_ref(&prompt_chunk));
        let expected = node.run(&[prompt_chunk], &mut caches, Instructions::detect(), &one_thread);

        // The prompt runs with other sequences, in several chunks, on three threads, in arbitrary blocks.
        let mut ends: Vec<usize> = cuts.into_iter().filter(|&cut| 0 < cut && cut < prompt).collect();
        ends.push(prompt);
        ends.sort_unstable();
        ends.dedup();
        let mut totals: Vec<usize> = other_lengths.iter().map(|(past, tokens)| past + tokens).collect();
        totals.push(prompt);
        let mut tables = assign_blocks(node.shape, &totals, node.seed);
        let blocks_of_prompt = tables.pop().unwrap();
        let others = other_lengths.iter().zip(tables).enumerate();
        let others: Vec<Chunk> = others.map(|(sequence, (&(past, tokens), blocks))| {
            Chunk { sequence: sequence as u64, past, tokens, blocks }
        }).collect();
        let mut caches = node.caches(&others);
        let mut output = Vec::new();
        let mut past = 0;
        for end in ends {
            let chunk = Chunk { sequence: 99, past, tokens: end - past, blocks: blocks_of_prompt.clone() };
            let chunk_elements = chunk.tokens * node.shape.heads * node.shape.head_size;
            let mut batch = others.clone();
            batch.push(chunk);
            let all = node.run(&batch, &mut caches, Instructions::detect(), &three_threads);
            output.extend_from_slice(&all[all.len() - chunk_elements..]);
            past = end;
        }
        prop_assert_eq!(bits(&output), bits(&expected));
    }
}

/// Returns a small node, with a decode chunk of one sequence and a prefill chunk of another sequence.
fn small() -> (Node, Vec<Chunk>) {
    let shape = AttentionShape {
        heads: 4,
        kv_heads: 2,
        head_size: 16,
        blocks: 4,
        block_tokens: 16,
    };
    let node = Node {
        shape,
        rotary: Some((Pairing::Halves, 8)),
        has_norms: false,
        softcap: None,
        window: None,
        packed: false,
        seed: 0,
    };
    let chunk = |sequence, past, tokens, blocks: &[i32]| Chunk {
        sequence,
        past,
        tokens,
        blocks: blocks.to_vec(),
    };
    (node, vec![chunk(0, 20, 1, &[2, 0]), chunk(1, 0, 3, &[3])])
}

#[test]
fn a_token_with_slot_minus_one_is_not_written() {
    let (node, chunks) = small();
    let mut caches = node.caches(&chunks);
    node.run(&chunks, &mut caches, Instructions::detect(), &one_thread);
    let before = caches.clone();

    let mut tensors = node.tensors(&chunks);
    tensors.slots.as_mut().unwrap().fill(-1);
    tensors.key_value.as_mut().unwrap().0.fill(5.0);
    let mut output = vec![f32::NAN; 4 * 64];
    let attention_caches = AttentionCaches {
        keys: &mut caches.keys,
        values: &mut caches.values,
    };
    attend(
        node.shape,
        &node.inputs(&tensors),
        attention_caches,
        &mut output,
        Instructions::detect(),
        &one_thread,
    )
    .unwrap();
    assert_eq!(caches.bits(), before.bits());
    assert!(max_difference(&node, &output, &reference(&node, &chunks, &caches)) < 1e-3);
}

#[test]
fn an_empty_batch_has_an_empty_output() {
    let (node, _) = small();
    let mut caches = node.caches(&[]);
    assert!(
        node.run(&[], &mut caches, Instructions::detect(), &three_threads)
            .is_empty()
    );
}
