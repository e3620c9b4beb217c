//! Matrix multiplication with every tensor type: a small model with matrices of the type against the same values in
//! single precision, and batch invariance of each row.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

mod common;
#[path = "common/standalone_decoder.rs"]
mod standalone_decoder;

use std::path::Path;

use common::gguf::{self, F32, Tensor, Value};
use common::random::Random;
use half::{bf16, f16};
use ortolan::cache::BlockPool;
use ortolan::file_bytes::FileAccess;
use ortolan::gguf::Gguf;
use ortolan::gguf::quant::{QuantizeTarget, TensorType};
use ortolan::graph::{MatmulOperator, ModelFile};
use ortolan::runtime::{Decoder, SessionOptions};
use ortolan::token::TokenId;
use standalone_decoder::{BLOCK_TOKENS, BLOCKS, logits};

const HIDDEN: usize = 256;
const FEED_FORWARD: usize = 512;
const VOCABULARY: usize = 96;
const LAYERS: usize = 2;
const EXPERTS: usize = 4;

/// Attention matrices: name, columns, rows.
const ATTENTION: [(&str, usize, usize); 4] = [
    ("attn_q", HIDDEN, HIDDEN),
    ("attn_k", HIDDEN, HIDDEN / 2),
    ("attn_v", HIDDEN, HIDDEN / 2),
    ("attn_output", HIDDEN, HIDDEN),
];

/// Offset of the half-precision scale in a block; and offset of the scale of its mins, with its ratio to the block's
/// scale that makes values about 0 on average.
fn scale_offsets(kind: TensorType) -> (Option<usize>, Option<(usize, f32)>) {
    match kind {
        TensorType::Q4_1 => (Some(0), Some((2, -7.5))),
        TensorType::Q5_1 => (Some(0), Some((2, -15.5))),
        TensorType::Q2K => (Some(80), Some((82, 1.5))),
        TensorType::Q4K => (Some(0), Some((2, 7.5))),
        TensorType::Q5K => (Some(0), Some((2, 15.5))),
        TensorType::Q3K => (Some(108), None),
        TensorType::Q6K => (Some(208), None),
        TensorType::Tq1_0 => (Some(52), None),
        TensorType::Tq2_0 => (Some(64), None),
        TensorType::F32 | TensorType::F16 | TensorType::Bf16 => (None, None),
        TensorType::Q8K | TensorType::Mxfp4 | TensorType::Iq1M => (None, None),
        _ => (Some(0), None),
    }
}

/// Random blocks for a matrix of `rows` rows, with scales of similar size.
fn random_blocks(kind: TensorType, columns: usize, rows: usize, random: &mut Random) -> Vec<u8> {
    let count = columns * rows / kind.block_values() * kind.block_bytes();
    let mut byte = || random.byte();
    let mut bytes: Vec<u8> = (0..count).map(|_| byte()).collect();
    let (scale_offset, min_offset) = scale_offsets(kind);
    for block in bytes.chunks_exact_mut(kind.block_bytes()) {
        let scale = 0.02 * (1.0 + f32::from(byte()) / 255.0);
        let mut write = |offset: usize, value: f32| {
            block[offset..offset + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
        };
        if let Some(offset) = scale_offset {
            write(offset, scale);
        }
        if let Some((offset, ratio)) = min_offset {
            write(offset, ratio * scale);
        }
        let value = scale * (f32::from(byte()) / 127.5 - 1.0);
        match kind {
            TensorType::F32 => block.copy_from_slice(&value.to_le_bytes()),
            TensorType::F16 => block.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
            TensorType::Bf16 => block.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
            TensorType::Q8K => block[..4].copy_from_slice(&scale.to_le_bytes()),
            // Ternary quants are pairs of bits with the values 0, 1 and 2: a 3 becomes a 1.
            TensorType::Tq2_0 => block[..64]
                .iter_mut()
                .for_each(|four| *four &= !((*four & (*four >> 1) & 0x55) << 1)),
            TensorType::Mxfp4 => block[0] = 120 + block[0] % 4,
            // The upper halves of four bytes are the half-precision scale. With the most significant half set to 2, the
            // scale is between 0.008 and 0.125.
            TensorType::Iq1M => block[55] = block[55] & 0x0f | 0x20,
            _ => {}
        }
    }
    bytes
}

/// The tensors of a model with matrices of one type, and the same values in single precision.
struct ModelPair {
    typed: Vec<Tensor>,
    single: Vec<Tensor>,
}

impl ModelPair {
    fn new(kind: TensorType) -> Self {
        let (mut pair, gain, mut random) = Self::start(kind);
        pair.matrix(kind, "output.weight", &[HIDDEN, VOCABULARY], &mut random);
        for layer in 0..LAYERS {
            for (part, columns, rows) in ATTENTION.into_iter().chain([
                ("ffn_gate", HIDDEN, FEED_FORWARD),
                ("ffn_up", HIDDEN, FEED_FORWARD),
                ("ffn_down", FEED_FORWARD, HIDDEN),
            ]) {
                let name = format!("blk.{layer}.{part}.weight");
                pair.matrix(kind, &name, &[columns, rows], &mut random);
            }
            pair.norms(layer, gain);
        }
        pair
    }

    /// A mixture of experts; only the expert matrices have the type `kind`.
    fn of_experts(kind: TensorType) -> Self {
        let (mut pair, gain, mut random) = Self::start(kind);
        // Values of about the same magnitude as the dequantized random blocks.
        let plain = |index: usize| ((index * 7919 % 1009) as f32 - 504.0) / 504.0 / gain / 16.0;
        pair.floats("output.weight", &[HIDDEN, VOCABULARY], plain);
        for layer in 0..LAYERS {
            let name = |part: &str| format!("blk.{layer}.{part}.weight");
            for (part, columns, rows) in ATTENTION {
                pair.floats(&name(part), &[columns, rows], plain);
            }
            pair.floats(&name("ffn_gate_inp"), &[HIDDEN, EXPERTS], plain);
            for (part, columns, rows) in [
                ("ffn_gate_exps", HIDDEN, FEED_FORWARD),
                ("ffn_up_exps", HIDDEN, FEED_FORWARD),
                ("ffn_down_exps", FEED_FORWARD, HIDDEN),
            ] {
                pair.matrix(kind, &name(part), &[columns, rows, EXPERTS], &mut random);
            }
            pair.norms(layer, gain);
        }
        pair
    }

    /// The tensors that both kinds of model have, the norm weight that keeps activations at a usual magnitude, and the
    /// random numbers of further matrices.
    fn start(kind: TensorType) -> (Self, f32, Random) {
        let mut pair = Self {
            typed: Vec::new(),
            single: Vec::new(),
        };
        let mut random = Random(1);
        let mut sample = vec![0.0; HIDDEN * 16];
        kind.dequantize(&random_blocks(kind, HIDDEN, 16, &mut random), &mut sample);
        let square: f32 = sample.iter().map(|value| value * value).sum();
        let gain = 1.0 / (square / sample.len() as f32 * HIDDEN as f32).sqrt();
        pair.floats("output_norm.weight", &[HIDDEN], |_| gain);
        pair.floats("token_embd.weight", &[HIDDEN, VOCABULARY], |index| {
            ((index * 7919 % 1000) as f32 - 500.0) / 500.0
        });
        (pair, gain, random)
    }

    fn norms(&mut self, layer: usize, gain: f32) {
        for part in ["attn_norm", "ffn_norm"] {
            self.floats(&format!("blk.{layer}.{part}.weight"), &[HIDDEN], |_| gain);
        }
    }

    fn floats(&mut self, name: &str, shape: &[usize], value: impl Fn(usize) -> f32) {
        let values: Vec<f32> = (0..shape.iter().product()).map(value).collect();
        self.typed.push(tensor(name, shape, &values));
        self.single.push(tensor(name, shape, &values));
    }

    /// Adds a matrix, or a stack of matrices. The shape has the contiguous dimension first.
    fn matrix(&mut self, kind: TensorType, name: &str, shape: &[usize], random: &mut Random) {
        let rows = shape[1..].iter().product();
        let bytes = random_blocks(kind, shape[0], rows, random);
        let mut values = vec![0.0; shape[0] * rows];
        kind.dequantize(&bytes, &mut values);
        self.single.push(tensor(name, shape, &values));
        self.typed.push(Tensor {
            kind: kind.id(),
            bytes,
            ..tensor(name, shape, &[])
        });
    }
}

fn tensor(name: &str, shape: &[usize], values: &[f32]) -> Tensor {
    Tensor {
        name: name.to_owned(),
        shape: shape.iter().map(|size| *size as u64).collect(),
        kind: F32,
        bytes: values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect(),
    }
}

const MATMUL_OPERATORS: [MatmulOperator; 2] = [MatmulOperator::Ortolan, MatmulOperator::Contrib];

fn load(file: &ModelFile, matmul: MatmulOperator) -> Decoder {
    let options = SessionOptions {
        matmul_operator: Some(matmul),
        ..SessionOptions::new(common::onnxruntime())
    };
    Decoder::load(file, &options, 64, BLOCKS, BLOCK_TOKENS, &|_| ()).unwrap()
}

fn model_file(folder: &Path, tensors: &[Tensor]) -> ModelFile {
    let tokens = (0..VOCABULARY)
        .map(|token| format!("token {token}"))
        .collect();
    let mut header = vec![
        ("general.architecture", Value::Text("llama")),
        ("llama.block_count", Value::U32(LAYERS as u32)),
        ("llama.context_length", Value::U32(64)),
        ("llama.embedding_length", Value::U32(HIDDEN as u32)),
        ("llama.feed_forward_length", Value::U32(FEED_FORWARD as u32)),
        ("llama.attention.head_count", Value::U32(8)),
        ("llama.attention.head_count_kv", Value::U32(4)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("tokenizer.ggml.tokens", Value::Texts(tokens)),
    ];
    if tensors.iter().any(|tensor| tensor.name.contains("_exps")) {
        header.push(("llama.expert_count", Value::U32(EXPERTS as u32)));
        header.push(("llama.expert_used_count", Value::U32(2)));
    }
    let path = folder.join("model.gguf");
    gguf::write(&path, &header, tensors);
    let gguf = Gguf::open(&path, FileAccess::Map).unwrap();
    ModelFile::new(path, gguf).unwrap()
}

/// The largest `1 - cosine` of two rows.
fn distance(left: &[Vec<f32>], right: &[Vec<f32>]) -> f64 {
    let dot_product = |left: &[f32], right: &[f32]| -> f64 {
        let pairs = left.iter().zip(right);
        pairs
            .map(|(left, right)| f64::from(*left) * f64::from(*right))
            .sum()
    };
    let row_distance = |(left, right): (&Vec<f32>, &Vec<f32>)| {
        1.0 - dot_product(left, right)
            / (dot_product(left, left) * dot_product(right, right)).sqrt()
    };
    assert_eq!(left.len(), right.len());
    left.iter().zip(right).fold(0.0, |max, rows| {
        let distance = row_distance(rows);
        assert!(distance.is_finite());
        distance.max(max)
    })
}

/// Compares the model with the single-precision one and checks that chunk sizes change no bit. Returns the distance,
/// which is at most `max_distance`.
fn check(kind: TensorType, pair: &ModelPair, matmul: MatmulOperator, max_distance: f64) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let tokens: Vec<TokenId> = (0..40).map(|index| TokenId(index * 37 % 96)).collect();
    let compute = |tensors: &[Tensor], chunks: &[usize]| {
        let mut pool = BlockPool::new(BLOCKS, BLOCK_TOKENS);
        let mut decoder = load(&model_file(folder.path(), tensors), matmul);
        logits(&mut decoder, &mut pool, &tokens, chunks)
    };
    let whole = compute(&pair.typed, &[64]);
    assert!(whole.iter().flatten().all(|logit| logit.is_finite()));
    let distance = distance(&whole, &compute(&pair.single, &[64]));
    assert!(distance <= max_distance, "{kind:?}, {matmul:?}: {distance}");
    for chunks in [&[1][..], &[2], &[3, 1, 9]] {
        assert!(
            whole == compute(&pair.typed, chunks),
            "{kind:?}, {matmul:?} in chunks of {chunks:?}"
        );
    }
    distance
}

#[test]
fn matmul_matches_single_precision_and_is_batch_invariant_for_every_type() {
    for kind in TensorType::ALL {
        // Activations are quantized to int8 where matrices are quantized.
        let max_distance = if kind.quant_format().is_some() {
            3e-3
        } else {
            1e-9
        };
        for matmul in MATMUL_OPERATORS {
            let distance = check(kind, &ModelPair::new(kind), matmul, max_distance);
            println!("{}, {matmul:?}: {distance:.1e}", kind.name());
        }
    }
}

#[test]
fn experts_of_every_type_compute_in_single_precision() {
    for kind in TensorType::ALL {
        let matmul = MatmulOperator::Ortolan;
        check(kind, &ModelPair::of_experts(kind), matmul, 1e-9);
    }
}

#[test]
fn float_matrices_are_quantized_when_the_model_is_loaded() {
    let folder = tempfile::tempdir().unwrap();
    let tokens: Vec<TokenId> = (0..40).map(|index| TokenId(index * 37 % 96)).collect();
    let compute = |mut decoder: Decoder| {
        let mut pool = BlockPool::new(BLOCKS, BLOCK_TOKENS);
        logits(&mut decoder, &mut pool, &tokens, &[3, 1, 64])
    };
    for (kind, target) in [
        (TensorType::F32, QuantizeTarget::Q4_0),
        (TensorType::Bf16, QuantizeTarget::Q8_0),
    ] {
        // The embedding matrix is not multiplied in this model.
        let mut floats = ModelPair::new(kind).typed;
        // These values exceed the range of a half-precision scale.
        let unquantizable = "blk.1.attn_output.weight";
        let index = floats
            .iter()
            .position(|tensor| tensor.name == unquantizable)
            .unwrap();
        floats[index] = tensor(unquantizable, &[HIDDEN, HIDDEN], &[1e9; HIDDEN * HIDDEN]);
        let stays_float = |name: &str| [unquantizable, "token_embd.weight"].contains(&name);
        let quantize = |float: &Tensor| {
            let shape: Vec<usize> = float.shape.iter().map(|size| *size as usize).collect();
            match target.can_quantize(&float.name, &shape) && !stays_float(&float.name) {
                true => Tensor {
                    kind: TensorType::from(target).id(),
                    bytes: target.requantize(kind, &float.bytes).unwrap(),
                    ..float.clone()
                },
                false => float.clone(),
            }
        };
        let quantized: Vec<Tensor> = floats.iter().map(quantize).collect();
        for matmul in MATMUL_OPERATORS {
            let actual = model_file(folder.path(), &floats).quantized_to(target);
            let actual = compute(load(&actual, matmul));
            let expected = model_file(folder.path(), &quantized);
            assert!(actual == compute(load(&expected, matmul)));
        }
    }
}
