//! The attention kernel alone, with the heads of SmolLM2: decode steps by number of rows and context, prefill chunks by
//! number of past tokens. Each call with two threads starts a thread, which costs some tens of microseconds that a
//! session's thread pool does not.

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::one_thread;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use half::f16;
use ortolan::runtime::operators::attention::attend;
use ortolan::runtime::operators::attention_inputs::{
    AttentionCaches, AttentionInputs, AttentionShape, Scoring,
};
use ortolan::runtime::operators::batch::BatchIndices;
use ortolan::runtime::operators::parallel::{OperatorError, ParallelFor};
use ortolan::runtime::operators::rotary::{Pairing, Rotary};
use ortolan::runtime::operators::simd::Instructions;

/// Each of the sequences computes `tokens` new tokens after `past` tokens.
#[derive(Clone, Copy)]
struct Load {
    sequences: usize,
    past: usize,
    tokens: usize,
}

fn two_threads(count: usize, call: &(dyn Fn(usize) + Sync)) -> Result<(), OperatorError> {
    let next = AtomicUsize::new(0);
    let work = || {
        let claim = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|&index| index < count);
        std::iter::from_fn(claim).for_each(call);
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        work();
    });
    Ok(())
}

fn measure(
    criterion: &mut Criterion,
    group: &str,
    name: &str,
    load: Load,
    instructions: Instructions,
) {
    let blocks_per_sequence = (load.past + load.tokens).div_ceil(32);
    let shape = AttentionShape {
        heads: 9,
        kv_heads: 3,
        head_size: 64,
        blocks: blocks_per_sequence * load.sequences,
        block_tokens: 32,
    };
    let tokens = load.sequences * load.tokens;
    let wave = |index: usize| (index as f32 * 0.37).sin();
    let query: Vec<f32> = (0..tokens * (9 + 6) * 64).map(wave).collect();
    let elements = shape.blocks * 32 * 3 * 64;
    let mut keys: Vec<f16> = (0..elements)
        .map(|index| f16::from_f32(wave(index)))
        .collect();
    let mut values = keys.clone();
    let cumulative: Vec<i32> = (0..=load.sequences)
        .map(|index| (index * load.tokens) as i32)
        .collect();
    let past = vec![load.past as i32; load.sequences];
    // The blocks of the sequences alternate, as they do when sequences grow together.
    let table: Vec<i32> = (0..load.sequences)
        .flat_map(|sequence| {
            (0..blocks_per_sequence).map(move |block| (block * load.sequences + sequence) as i32)
        })
        .collect();
    let positions = load.past + load.tokens;
    let cosines = vec![0.8; positions * 32];
    let sines = vec![0.6; positions * 32];
    let inputs = AttentionInputs {
        query: &query,
        key_value: None,
        batch: BatchIndices {
            cumulative_sequence_length: &cumulative,
            past_seqlens: &past,
            block_table: &table,
            blocks_per_sequence,
            slot_mapping: None,
        },
        rotary: Some(Rotary {
            cosines: &cosines,
            sines: &sines,
            pairs: 32,
            pairing: Pairing::Adjacent,
        }),
        norms: None,
        scoring: Scoring {
            scale: 0.125,
            softcap: None,
            window: None,
        },
    };
    let mut output = vec![0.0; tokens * 9 * 64];
    let mut group = criterion.benchmark_group(group);
    for (threads, parallel) in [
        ("1 thread", &one_thread as ParallelFor),
        ("2 threads", &two_threads),
    ] {
        group.bench_function(BenchmarkId::new(name, threads), |bencher| {
            bencher.iter(|| {
                let caches = AttentionCaches {
                    keys: &mut keys,
                    values: &mut values,
                };
                attend(
                    shape,
                    black_box(&inputs),
                    caches,
                    &mut output,
                    instructions,
                    parallel,
                )
                .expect("the inputs are valid");
            });
        });
    }
}

fn decode(criterion: &mut Criterion) {
    for sequences in [1, 16] {
        for context in [128, 1024, 4096] {
            let load = Load {
                sequences,
                past: context - 1,
                tokens: 1,
            };
            let name = format!("{sequences} rows, context {context}");
            measure(criterion, "decode", &name, load, Instructions::detect());
        }
    }
}

fn prefill(criterion: &mut Criterion) {
    for past in [0, 2048] {
        let load = Load {
            sequences: 1,
            past,
            tokens: 512,
        };
        measure(
            criterion,
            "prompt",
            &format!("512 tokens, past {past}"),
            load,
            Instructions::detect(),
        );
    }
    let load = Load {
        sequences: 1,
        past: 0,
        tokens: 512,
    };
    measure(
        criterion,
        "prompt, portable",
        "512 tokens, past 0",
        load,
        Instructions::portable(),
    );
}

criterion_group!(benches, decode, prefill);
criterion_main!(benches);
