//! Writes LoRA adapters with random values in llama.cpp's GGUF format.

#![allow(dead_code, reason = "every test crate uses some of these helpers")]

use std::path::Path;

use super::gguf::{self, F32, Tensor, Value};
use super::random::Random;

/// Writes an adapter of this rank for `weights` (name, `[columns, rows]`). Its `alpha` is twice the rank.
pub(crate) fn write(
    path: &Path,
    architecture: &str,
    rank: u64,
    weights: &[(String, [u64; 2])],
    seed: u32,
) {
    let mut random = Random(seed);
    let mut values = |count: u64, size: f32| {
        let value = |_| (random.uniform() - 0.5) * size;
        (0..count).map(value).flat_map(f32::to_le_bytes).collect()
    };
    let mut tensors = Vec::new();
    for (weight, [columns, rows]) in weights {
        for (suffix, shape) in [("lora_a", [*columns, rank]), ("lora_b", [rank, *rows])] {
            tensors.push(Tensor {
                name: format!("{weight}.{suffix}"),
                shape: shape.to_vec(),
                kind: F32,
                bytes: values(shape[0] * shape[1], (12.0 / shape[0] as f32).sqrt()),
            });
        }
    }
    let header = [
        ("general.architecture", Value::Text(architecture)),
        ("general.type", Value::Text("adapter")),
        ("adapter.type", Value::Text("lora")),
        ("adapter.lora.alpha", Value::F32(2.0 * rank as f32)),
    ];
    gguf::write(path, &header, &tensors);
}
