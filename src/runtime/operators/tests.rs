//! The kernel against a plain reference in f64, and what must not change a row's bits.

mod invalid;
mod low_rank;
mod product;
mod reference;
mod session;
mod whole;

use half::f16;
use proptest::prelude::*;

use super::attention::*;
use super::batch::BatchIndices;
use super::norm::{QueryKeyNorms, RowNorm};
use super::parallel::{OperatorError, ParallelFor};
use super::rotary::{Pairing, Rotary};
use super::simd::Instructions;
use reference::{key_written, reference};

/// A node's sizes and the sequences it may be given: everything else follows from these by `noise`.
#[derive(Debug, Clone)]
struct Node {
    shape: AttentionShape,
    rotary: Option<(Pairing, usize)>,
    normed: bool,
    softcap: Option<f32>,
    window: Option<usize>,
    packed: bool,
    seed: u64,
}

/// New tokens of a sequence, by the number that its content follows from.
#[derive(Debug, Clone)]
struct Chunk {
    sequence: u64,
    past: usize,
    tokens: usize,
    blocks: Vec<i32>,
}

#[derive(Debug, Clone)]
struct Memory {
    keys: Vec<f16>,
    values: Vec<f16>,
}

impl Memory {
    /// What was never written is NaN, which equals nothing: compare these.
    fn bits(&self) -> Vec<u16> {
        self.keys
            .iter()
            .chain(&self.values)
            .map(|half| half.to_bits())
            .collect()
    }
}

/// A step's inputs, as the operator gets them.
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

/// A number in [-1, 1] that looks random and is always the same for the same place.
fn noise(place: [u64; 5]) -> f32 {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for part in place {
        state = (state ^ part).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        state = (state ^ (state >> 31)).wrapping_mul(0x94d0_49bb_1331_11eb);
        state ^= state >> 29;
    }
    (state >> 40) as f32 / (1 << 23) as f32 - 1.0
}

impl Node {
    fn row(&self, which: u64, chunk: &Chunk, position: usize, head: usize) -> Vec<f32> {
        let width = self.shape.head_size as u64;
        let place = |element| {
            [
                self.seed * 3 + which,
                chunk.sequence,
                position as u64,
                head as u64,
                element,
            ]
        };
        // Queries are long enough for some keys to matter much more than others.
        let scale = if which == QUERY { 4.0 } else { 1.0 };
        (0..width)
            .map(|element| noise(place(element)) * scale)
            .collect()
    }

    /// The memory in which all of the past has been computed: any f16 will do.
    fn memory(&self, chunks: &[Chunk]) -> Memory {
        let elements = self.shape.blocks
            * self.shape.block_tokens
            * self.shape.kv_heads
            * self.shape.head_size;
        let mut memory = Memory {
            keys: vec![f16::NAN; elements],
            values: vec![f16::NAN; elements],
        };
        for chunk in chunks {
            for position in 0..chunk.past {
                for head in 0..self.shape.kv_heads {
                    let place = self.place(chunk, position, head);
                    let halves = |which| {
                        self.row(which, chunk, position, head)
                            .into_iter()
                            .map(f16::from_f32)
                    };
                    memory.keys[place..]
                        .iter_mut()
                        .zip(halves(KEY))
                        .for_each(|(to, from)| *to = from);
                    memory.values[place..]
                        .iter_mut()
                        .zip(halves(VALUE))
                        .for_each(|(to, from)| *to = from);
                }
            }
        }
        memory
    }

    /// Where a key starts in the memory.
    fn place(&self, chunk: &Chunk, position: usize, head: usize) -> usize {
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
        let rows = |which, heads| {
            move |(chunk, position): (&Chunk, usize)| {
                (0..heads)
                    .flat_map(|head| self.row(which, chunk, position, head))
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
            (self.place(chunk, position, 0) / self.shape.kv_heads / self.shape.head_size) as i32
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
            norms: self.normed.then_some(QueryKeyNorms {
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

    /// What multiplies the elements of a normed query or key.
    fn gain(&self, which: u64) -> Vec<f32> {
        let elements = 0..self.shape.head_size as u64;
        elements
            .map(|element| 1.0 + 0.5 * noise([self.seed, which, 5, 5, element]))
            .collect()
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.head_size as f32).sqrt()
    }

    fn run(
        &self,
        chunks: &[Chunk],
        memory: &mut Memory,
        instructions: Instructions,
        parallel: ParallelFor,
    ) -> Vec<f32> {
        let tensors = self.tensors(chunks);
        let tokens: usize = chunks.iter().map(|chunk| chunk.tokens).sum();
        let mut output = vec![f32::NAN; tokens * self.shape.heads * self.shape.head_size];
        let caches = AttentionCaches {
            keys: &mut memory.keys,
            values: &mut memory.values,
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

/// The blocks of sequences that have so many tokens each, in a shuffled order, from those that there are.
fn deal_blocks(shape: AttentionShape, lengths: &[usize], seed: u64) -> Vec<Vec<i32>> {
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
    let pairing = prop::sample::select(vec![Pairing::Halves, Pairing::Neighbours]);
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
                (normed, softcap, window),
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
                normed,
                softcap,
                window,
                packed,
                seed: u64::from(seed),
            },
        )
}

/// Past and new tokens of some sequences: single tokens, chunks of prompts, with and without a past.
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
    let tables = deal_blocks(node.shape, &totals, node.seed);
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

/// The largest difference, relative to the largest number of its row.
fn difference(node: &Node, left: &[f32], right: &[f32]) -> f32 {
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
            |sum, x| if x > sum || x.is_nan() { x } else { sum },
        ) / largest
    })
    .fold(
        0.0,
        |worst, x| if x > worst || x.is_nan() { x } else { worst },
    )
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn equals_the_reference(node in nodes(), lengths in lengths()) {
        let chunks = chunks(&node, &lengths);
        let mut memory = node.memory(&chunks);
        let before = memory.clone();
        let output = node.run(&chunks, &mut memory, Instructions::detect(), &one_thread);

        let expected = reference(&node, &chunks, &memory);
        prop_assert!(difference(&node, &output, &expected) < 1e-3);
        for chunk in &chunks {
            for head in 0..node.shape.kv_heads {
                for position in 0..chunk.past + chunk.tokens {
                    let place = node.place(chunk, position, head);
                    let place = place..place + node.shape.head_size;
                    if position < chunk.past {
                        prop_assert_eq!(&memory.keys[place.clone()], &before.keys[place.clone()]);
                        prop_assert_eq!(&memory.values[place.clone()], &before.values[place]);
                        continue;
                    }
                    let key = key_written(&node, chunk, position, head);
                    for (written, expected) in memory.keys[place.clone()].iter().zip(key) {
                        prop_assert!((f64::from(*written) - expected).abs() < 1e-3);
                    }
                    let value = node.row(VALUE, chunk, position, head);
                    for (written, expected) in memory.values[place].iter().zip(value) {
                        prop_assert_eq!(*written, f16::from_f32(expected));
                    }
                }
            }
        }
    }

    #[test]
    fn the_portable_path_agrees(node in nodes(), lengths in lengths()) {
        let chunks = chunks(&node, &lengths);
        let mut memory = node.memory(&chunks);
        let detected = node.run(&chunks, &mut memory.clone(), Instructions::detect(), &one_thread);
        let portable = node.run(&chunks, &mut memory, Instructions::portable(), &one_thread);
        prop_assert!(difference(&node, &portable, &detected) < 1e-3);
    }

    #[test]
    fn neighbours_chunks_threads_and_places_do_not_change_the_bits(
        node in nodes(),
        prompt in 1..150_usize,
        cuts in prop::collection::vec(0..150_usize, 0..4),
        neighbours in lengths(),
    ) {
        // Alone, in one go, on one thread, in the first blocks.
        let blocks = (0..prompt.div_ceil(node.shape.block_tokens) as i32).collect();
        let whole = Chunk { sequence: 99, past: 0, tokens: prompt, blocks };
        let mut memory = node.memory(std::slice::from_ref(&whole));
        let expected = node.run(&[whole], &mut memory, Instructions::detect(), &one_thread);

        // Beside others, in chunks, on three threads, wherever.
        let mut ends: Vec<usize> = cuts.into_iter().filter(|&cut| 0 < cut && cut < prompt).collect();
        ends.push(prompt);
        ends.sort_unstable();
        ends.dedup();
        let mut totals: Vec<usize> = neighbours.iter().map(|(past, tokens)| past + tokens).collect();
        totals.push(prompt);
        let mut tables = deal_blocks(node.shape, &totals, node.seed);
        let own_blocks = tables.pop().unwrap();
        let neighbours: Vec<Chunk> = neighbours.iter().zip(tables).enumerate().map(|(sequence, (&(past, tokens), blocks))| {
            Chunk { sequence: sequence as u64, past, tokens, blocks }
        }).collect();
        let mut memory = node.memory(&neighbours);
        let mut output = Vec::new();
        let mut past = 0;
        for end in ends {
            let own = Chunk { sequence: 99, past, tokens: end - past, blocks: own_blocks.clone() };
            let own_elements = own.tokens * node.shape.heads * node.shape.head_size;
            let mut batch = neighbours.clone();
            batch.push(own);
            let all = node.run(&batch, &mut memory, Instructions::detect(), &three_threads);
            output.extend_from_slice(&all[all.len() - own_elements..]);
            past = end;
        }
        prop_assert_eq!(bits(&output), bits(&expected));
    }
}

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
        normed: false,
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
fn a_slot_of_minus_one_is_not_written() {
    let (node, chunks) = small();
    let mut memory = node.memory(&chunks);
    node.run(&chunks, &mut memory, Instructions::detect(), &one_thread);
    let before = memory.clone();

    let mut tensors = node.tensors(&chunks);
    tensors.slots.as_mut().unwrap().fill(-1);
    tensors.key_value.as_mut().unwrap().0.fill(5.0);
    let mut output = vec![f32::NAN; 4 * 64];
    let caches = AttentionCaches {
        keys: &mut memory.keys,
        values: &mut memory.values,
    };
    attend(
        node.shape,
        &node.inputs(&tensors),
        caches,
        &mut output,
        Instructions::detect(),
        &one_thread,
    )
    .unwrap();
    assert_eq!(memory.bits(), before.bits());
    assert!(difference(&node, &output, &reference(&node, &chunks, &memory)) < 1e-3);
}

#[test]
fn an_empty_batch_is_no_work() {
    let (node, _) = small();
    let mut memory = node.memory(&[]);
    assert!(
        node.run(&[], &mut memory, Instructions::detect(), &three_threads)
            .is_empty()
    );
}
