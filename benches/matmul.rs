//! The matrix multiplication kernel alone on one thread, by tensor type and number of rows. It cycles through more
//! matrices than fit into caches, like the layers of a model. Elements per second are multiplications and additions:
//! two for each weight and row.
//!
//! `cargo bench --bench matmul`

#[path = "../tests/common/mod.rs"]
mod common;

use std::hint::black_box;
use std::sync::Arc;

use common::one_thread;
use common::random::Random;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ortolan::gguf::TensorType;
use ortolan::graph::panels::{PanelStore, Panels};
use ortolan::graph::{Activation, Tensor};
use ortolan::runtime::operators::matmul::{MatmulInputs, QuantizedActivations, multiply};
use ortolan::runtime::operators::norm::RowNorm;
use ortolan::runtime::operators::simd::Instructions;

/// Total size of the matrices of one measurement: more than caches hold.
const BYTES: usize = 96 << 20;

/// Matrices of random blocks.
fn matrices(kind: TensorType, [rows, columns]: [usize; 2], halves: bool) -> Arc<[Panels]> {
    let blocks = rows * columns / kind.block_values();
    let mut random = Random(1);
    // Clearing the second bit keeps half-precision numbers below 2.
    let bytes = (0..blocks * kind.block_bytes()).map(|_| random.byte() & 0xbf);
    let bytes: Vec<u8> = bytes.collect();
    let tensor = Tensor {
        kind,
        quantize_to: None,
        shape: vec![columns, rows],
        bytes: &bytes,
        value_offset: 0.0,
    };
    let mut store = PanelStore::default();
    for _ in 0..BYTES.div_ceil(bytes.len()) {
        store.add(std::slice::from_ref(&tensor), halves, &|| ());
    }
    store.finish()
}

fn matmul(criterion: &mut Criterion) {
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
                .map(|index| (index as f32 * 0.37).sin())
                .collect();
            let mut output = vec![0.0; rows * outputs];
            let mut quantized = QuantizedActivations::default();
            let mut next_matrix = matrices.iter().cycle();
            group.throughput(Throughput::Elements((2 * rows * outputs * columns) as u64));
            group.bench_function(BenchmarkId::from_parameter(rows), |bencher| {
                bencher.iter(|| {
                    let matrix = next_matrix.next().expect("there are matrices");
                    let inputs = MatmulInputs {
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
                        &mut quantized,
                        instructions,
                        &one_thread,
                    )
                    .expect("the inputs are valid");
                });
            });
        }
    }
}

criterion_group!(benches, matmul);
criterion_main!(benches);
