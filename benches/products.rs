//! The product kernel alone, on one thread, with SmolLM2's sizes and one of the K types: by type and rows. The matrices come from
//! memory in turn, as a model's layers do; what is told per second are multiplications and additions, two of each weight and row.
//!
//! `cargo bench --bench products`

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ortolan::gguf::TensorType;
use ortolan::graph::panels::{PanelStore, Panels};
use ortolan::graph::{Activation, Tensor};
use ortolan::runtime::operators::norm::RowNorm;
use ortolan::runtime::operators::parallel::OperatorError;
use ortolan::runtime::operators::product::{ProductInputs, QuantisedRows, multiply};
use ortolan::runtime::operators::simd::Instructions;

/// All matrices of a measurement together: more than caches hold.
const BYTES: usize = 96 << 20;

fn one_thread(count: usize, call: &(dyn Fn(usize) + Sync)) -> Result<(), OperatorError> {
    (0..count).for_each(call);
    Ok(())
}

/// Matrices of random blocks.
fn matrices(kind: TensorType, [rows, columns]: [usize; 2], halves: bool) -> Arc<[Panels]> {
    let blocks = rows * columns / kind.block_values();
    let mut state = 1_u32;
    let bytes: Vec<u8> = (0..blocks * kind.block_bytes())
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // The second bit of a half-precision number keeps it below 2.
            (state >> 24) as u8 & 0xbf
        })
        .collect();
    let tensor = Tensor {
        kind,
        quantised: None,
        shape: vec![columns, rows],
        bytes: &bytes,
        added: 0.0,
    };
    let mut store = PanelStore::default();
    for _ in 0..BYTES.div_ceil(bytes.len()) {
        store.add(std::slice::from_ref(&tensor), halves, &|| ());
    }
    store.finish()
}

fn products(criterion: &mut Criterion) {
    let silu = Some(Activation::Silu);
    for (name, kind, sizes, gated) in [
        ("gate and up, Q4_0", TensorType::Q4_0, [3072, 576], silu),
        ("gate and up, Q4_1", TensorType::Q4_1, [3072, 576], silu),
        ("down, Q4_0", TensorType::Q4_0, [576, 1536], None),
        ("logits, Q8_0", TensorType::Q8_0, [49_152, 576], None),
        ("4096 x 1024, Q4_K", TensorType::Q4K, [4096, 1024], None),
        ("4096 x 1024, Q6_K", TensorType::Q6K, [4096, 1024], None),
    ] {
        let matrices = matrices(kind, sizes, gated.is_some());
        let [outputs, columns] = sizes;
        let gain = vec![0.5; columns];
        let mut group = criterion.benchmark_group(name);
        for rows in [1, 4, 16, 128] {
            let x: Vec<f32> = (0..rows * columns)
                .map(|place| (place as f32 * 0.37).sin())
                .collect();
            let mut output = vec![0.0; rows * outputs];
            let mut rounded = QuantisedRows::default();
            let mut turn = matrices.iter().cycle();
            group.throughput(Throughput::Elements((2 * rows * outputs * columns) as u64));
            group.bench_function(BenchmarkId::from_parameter(rows), |bencher| {
                bencher.iter(|| {
                    let matrix = turn.next().expect("there is one");
                    let inputs = ProductInputs {
                        x: &x,
                        matrix,
                        norm: Some(RowNorm {
                            gain: &gain,
                            epsilon: 1e-5,
                        }),
                        bias: None,
                        gated,
                        residual: None,
                    };
                    let output = &mut output[..rows * inputs.width()];
                    let instructions = Instructions::detect();
                    multiply(
                        black_box(&inputs),
                        output,
                        &mut rounded,
                        instructions,
                        &one_thread,
                    )
                    .expect("the load is well-formed");
                });
            });
        }
    }
}

criterion_group!(benches, products);
criterion_main!(benches);
