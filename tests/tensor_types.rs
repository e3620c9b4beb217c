//! Every tensor type in products: a small model whose matrices are blocks of the type, against the same numbers in single
//! precision, and the bits of a row in any company.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/bare.rs"]
mod bare;
mod common;

use std::path::Path;

use bare::{BLOCK_TOKENS, BLOCKS, logits};
use common::gguf::{self, F32, Tensor, Value};
use half::{bf16, f16};
use ortolan::cache::BlockPool;
use ortolan::file_bytes::FileAccess;
use ortolan::gguf::Gguf;
use ortolan::gguf::quant::{Target, TensorType};
use ortolan::graph::{ModelFile, ProductOperator};
use ortolan::runtime::{Decoder, SessionOptions};
use ortolan::token::TokenId;

const HIDDEN: usize = 256;
const FEED_FORWARD: usize = 512;
const VOCABULARY: usize = 96;
const LAYERS: usize = 2;
const EXPERTS: usize = 4;

/// Attention's matrices: columns and rows.
const ATTENTION: [(&str, usize, usize); 4] = [
    ("attn_q", HIDDEN, HIDDEN),
    ("attn_k", HIDDEN, HIDDEN / 2),
    ("attn_v", HIDDEN, HIDDEN / 2),
    ("attn_output", HIDDEN, HIDDEN),
];

/// Where a block has its scale in half precision, and the factor of its minimums with what it is of the scale where values
/// are to be about 0 on average.
fn scale_places(kind: TensorType) -> (Option<usize>, Option<(usize, f32)>) {
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

/// So many rows of blocks, whose scales lie near each other.
fn blocks(kind: TensorType, columns: usize, rows: usize, state: &mut u32) -> Vec<u8> {
    let count = columns * rows / kind.block_values() * kind.block_bytes();
    let mut byte = || {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 24) as u8
    };
    let mut bytes: Vec<u8> = (0..count).map(|_| byte()).collect();
    let (scale_place, minimum_place) = scale_places(kind);
    for block in bytes.chunks_exact_mut(kind.block_bytes()) {
        let scale = 0.02 * (1.0 + f32::from(byte()) / 255.0);
        let mut put = |place: usize, value: f32| {
            block[place..place + 2].copy_from_slice(&f16::from_f32(value).to_le_bytes());
        };
        if let Some(place) = scale_place {
            put(place, scale);
        }
        if let Some((place, share)) = minimum_place {
            put(place, share * scale);
        }
        let value = scale * (f32::from(byte()) / 127.5 - 1.0);
        match kind {
            TensorType::F32 => block.copy_from_slice(&value.to_le_bytes()),
            TensorType::F16 => block.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
            TensorType::Bf16 => block.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
            TensorType::Q8K => block[..4].copy_from_slice(&scale.to_le_bytes()),
            // Of two bits that say 2 too much, one goes.
            TensorType::Tq2_0 => block[..64]
                .iter_mut()
                .for_each(|four| *four &= !((*four & (*four >> 1) & 0x55) << 1)),
            TensorType::Mxfp4 => block[0] = 120 + block[0] % 4,
            // Its scale's bits are in the upper halves of four bytes: 0x2…, between 0.008 and 0.03.
            TensorType::Iq1M => block[55] = block[55] & 0x0f | 0x20,
            _ => {}
        }
    }
    bytes
}

/// The model with matrices of the type, and the same with their numbers.
struct Pair {
    typed: Vec<Tensor>,
    single: Vec<Tensor>,
}

impl Pair {
    fn new(kind: TensorType) -> Self {
        let (mut pair, gain, mut state) = Self::start(kind);
        pair.matrix(kind, "output.weight", &[HIDDEN, VOCABULARY], &mut state);
        for layer in 0..LAYERS {
            for (part, columns, rows) in ATTENTION.into_iter().chain([
                ("ffn_gate", HIDDEN, FEED_FORWARD),
                ("ffn_up", HIDDEN, FEED_FORWARD),
                ("ffn_down", FEED_FORWARD, HIDDEN),
            ]) {
                let name = format!("blk.{layer}.{part}.weight");
                pair.matrix(kind, &name, &[columns, rows], &mut state);
            }
            pair.norms(layer, gain);
        }
        pair
    }

    /// A mixture whose experts alone are of the type.
    fn of_experts(kind: TensorType) -> Self {
        let (mut pair, gain, mut state) = Self::start(kind);
        // A matrix is about as large as one of the type.
        let plain = |place: usize| ((place * 7919 % 1009) as f32 - 504.0) / 504.0 / gain / 16.0;
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
                pair.matrix(kind, &name(part), &[columns, rows, EXPERTS], &mut state);
            }
            pair.norms(layer, gain);
        }
        pair
    }

    /// What both have, gains that make what is multiplied as large as the numbers need it, and the state of chance.
    fn start(kind: TensorType) -> (Self, f32, u32) {
        let mut pair = Self {
            typed: Vec::new(),
            single: Vec::new(),
        };
        let mut state = 1;
        let mut sample = vec![0.0; HIDDEN * 16];
        kind.dequantise(&blocks(kind, HIDDEN, 16, &mut state), &mut sample);
        let square: f32 = sample.iter().map(|value| value * value).sum();
        let gain = 1.0 / (square / sample.len() as f32 * HIDDEN as f32).sqrt();
        pair.floats("output_norm.weight", &[HIDDEN], |_| gain);
        pair.floats("token_embd.weight", &[HIDDEN, VOCABULARY], |place| {
            ((place * 7919 % 1000) as f32 - 500.0) / 500.0
        });
        (pair, gain, state)
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

    /// A matrix, or a stack of them: contiguous dimension first.
    fn matrix(&mut self, kind: TensorType, name: &str, shape: &[usize], state: &mut u32) {
        let rows = shape[1..].iter().product();
        let bytes = blocks(kind, shape[0], rows, state);
        let mut values = vec![0.0; shape[0] * rows];
        kind.dequantise(&bytes, &mut values);
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

/// Whose products compute.
const PRODUCTS: [ProductOperator; 2] = [ProductOperator::Ortolan, ProductOperator::Contrib];

fn load(file: &ModelFile, products: ProductOperator) -> Decoder {
    let options = SessionOptions {
        products: Some(products),
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
    let product = |left: &[f32], right: &[f32]| -> f64 {
        let both = left.iter().zip(right);
        both.map(|(left, right)| f64::from(*left) * f64::from(*right))
            .sum()
    };
    let of_rows = |(left, right): (&Vec<f32>, &Vec<f32>)| {
        1.0 - product(left, right) / (product(left, left) * product(right, right)).sqrt()
    };
    left.iter().zip(right).map(of_rows).fold(0.0, f64::max)
}

/// Holds the model against the one of single precision, and rows against the same in other company. Answers how far it is.
fn check(kind: TensorType, pair: &Pair, products: ProductOperator, most: f64) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let tokens: Vec<TokenId> = (0..40).map(|place| TokenId(place * 37 % 96)).collect();
    let of = |tensors: &[Tensor], chunks: &[usize]| {
        let mut pool = BlockPool::new(BLOCKS, BLOCK_TOKENS);
        let mut decoder = load(&model_file(folder.path(), tensors), products);
        logits(&mut decoder, &mut pool, &tokens, chunks)
    };
    let whole = of(&pair.typed, &[64]);
    assert!(whole.iter().flatten().all(|logit| logit.is_finite()));
    let distance = distance(&whole, &of(&pair.single, &[64]));
    assert!(distance <= most, "{kind:?}, {products:?}: {distance}");
    for chunks in [&[1][..], &[2], &[3, 1, 9]] {
        assert!(
            whole == of(&pair.typed, chunks),
            "{kind:?}, {products:?} in chunks of {chunks:?}"
        );
    }
    distance
}

#[test]
fn products_are_those_of_the_numbers_and_a_row_has_the_same_bits_in_any_company() {
    for kind in TensorType::ALL {
        // Activations are rounded to eight bits where matrices are quantised.
        let most = if kind.codes().is_some() { 3e-3 } else { 1e-9 };
        for products in PRODUCTS {
            let distance = check(kind, &Pair::new(kind), products, most);
            println!("{}, {products:?}: {distance:.1e}", kind.name());
        }
    }
}

#[test]
fn experts_compute_with_the_numbers_of_every_type_in_single_precision() {
    for kind in TensorType::ALL {
        let ours = ProductOperator::Ortolan;
        check(kind, &Pair::of_experts(kind), ours, 1e-9);
    }
}

#[test]
fn matrices_of_floats_are_quantised_while_a_model_loads() {
    let folder = tempfile::tempdir().unwrap();
    let tokens: Vec<TokenId> = (0..40).map(|place| TokenId(place * 37 % 96)).collect();
    let of = |mut decoder: Decoder| {
        let mut pool = BlockPool::new(BLOCKS, BLOCK_TOKENS);
        logits(&mut decoder, &mut pool, &tokens, &[3, 1, 64])
    };
    for (kind, target) in [
        (TensorType::F32, Target::Q4_0),
        (TensorType::Bf16, Target::Q8_0),
    ] {
        // The embedding matrix is no part of a product here.
        let mut floats = Pair::new(kind).typed;
        // No block has such a scale.
        let odd = "blk.1.attn_output.weight";
        let place = floats.iter().position(|tensor| tensor.name == odd).unwrap();
        floats[place] = tensor(odd, &[HIDDEN, HIDDEN], &[1e9; HIDDEN * HIDDEN]);
        let stays = |name: &str| [odd, "token_embd.weight"].contains(&name);
        let quantised = |float: &Tensor| {
            let shape: Vec<usize> = float.shape.iter().map(|size| *size as usize).collect();
            match target.serves(&float.name, &shape) && !stays(&float.name) {
                true => Tensor {
                    kind: TensorType::from(target).id(),
                    bytes: target.requantise(kind, &float.bytes).unwrap(),
                    ..float.clone()
                },
                false => float.clone(),
            }
        };
        let blocks: Vec<Tensor> = floats.iter().map(quantised).collect();
        for products in PRODUCTS {
            let loaded = model_file(folder.path(), &floats).quantised(target);
            let loaded = of(load(&loaded, products));
            let wanted = model_file(folder.path(), &blocks);
            assert!(loaded == of(load(&wanted, products)));
        }
    }
}
