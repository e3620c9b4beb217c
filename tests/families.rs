//! Every family of decoders against an independent implementation: models of two to seven layers whose weights follow a
//! formula, written as GGUF files here, and the logits that were recorded of them (`tests/golden/families.py`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/bare.rs"]
mod bare;
mod common;

use std::path::{Path, PathBuf};

use bare::{BLOCK_TOKENS, BLOCKS, logits};
use common::gguf::{self, F32, Tensor, Value};
use ortolan::cache::BlockPool;
use ortolan::file_bytes::FileAccess;
use ortolan::gguf::Gguf;
use ortolan::graph::{GraphError, ModelFile};
use ortolan::runtime::{Decoder, SessionOptions};
use ortolan::token::TokenId;
use serde_json::Value as Json;

/// Keys and values are kept in half precision, which is what the recorded logits know nothing of.
const MOST_DIFFERENCE: f32 = 0.02;

/// The recorded models.
fn recorded() -> Vec<Json> {
    match common::recorded("families.json") {
        Json::Array(models) => models,
        other => panic!("a list was recorded, not {other}"),
    }
}

/// The values of a tensor by the formula: outputs of SplitMix64 from the hash of the name on.
fn weights(name: &str, shape: &[u64]) -> Vec<f32> {
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let mut state = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    let mut output = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15_u64);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 40) as f64 / f64::from(1 << 24) - 0.5
    };
    let value = |centred: f64| match name {
        _ if name.contains("norm") => 1.0 + centred * 0.5,
        _ if name.ends_with("bias") => centred * 0.4,
        "token_embd.weight" => centred * 2.0,
        _ => centred * (12.0 / shape[0] as f64).sqrt(),
    };
    let values = 0..shape.iter().product::<u64>();
    values.map(|_| value(output()) as f32).collect()
}

/// Writes the model.
fn write(folder: &Path, model: &Json) -> PathBuf {
    let pairs = model["header"].as_array().unwrap().iter();
    let mut header: Vec<(&str, Value<'_>)> = pairs
        .map(|pair| {
            let value = &pair[2];
            let value = match pair[1].as_str().unwrap() {
                "u32" => Value::U32(value.as_u64().unwrap() as u32),
                "f32" => Value::F32(value.as_f64().unwrap() as f32),
                "bool" => Value::Bool(value.as_bool().unwrap()),
                "string" => Value::Text(value.as_str().unwrap()),
                other => panic!("a value of the type {other}"),
            };
            (pair[0].as_str().unwrap(), value)
        })
        .collect();
    let tokens = (0..96).map(|token| format!("token {token}")).collect();
    header.push(("tokenizer.ggml.tokens", Value::Texts(tokens)));
    let tensors: Vec<Tensor> = model["tensors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tensor| {
            let (name, shape) = (tensor[0].as_str().unwrap(), &tensor[1]);
            let shape: Vec<u64> = serde_json::from_value(shape.clone()).unwrap();
            let values: Vec<f32> = match tensor.get(2) {
                Some(values) => serde_json::from_value(values.clone()).unwrap(),
                None => weights(name, &shape),
            };
            Tensor {
                name: name.to_owned(),
                shape,
                kind: F32,
                bytes: values.into_iter().flat_map(f32::to_le_bytes).collect(),
            }
        })
        .collect();
    let path = folder.join("model.gguf");
    gguf::write(&path, &header, &tensors);
    path
}

fn open(path: &Path) -> Result<ModelFile, GraphError> {
    ModelFile::new(path.to_owned(), Gguf::open(path, FileAccess::Map).unwrap())
}

#[test]
fn the_logits_are_those_of_an_independent_implementation() {
    let options = SessionOptions::new(common::onnxruntime());
    let mut families = Vec::new();
    for model in recorded() {
        let name = model["name"].as_str().unwrap();
        if model["config"].get("num_experts_per_tok").is_some() {
            continue; // refused: see below
        }
        let folder = tempfile::tempdir().unwrap();
        let file = open(&write(folder.path(), &model)).unwrap();
        families.push(file.architecture.name());
        let context = model["context"].as_u64().unwrap() as usize;
        let mut decoder =
            Decoder::load(&file, &options, context, BLOCKS, BLOCK_TOKENS, &|_| ()).unwrap();
        let mut pool = BlockPool::new(BLOCKS, BLOCK_TOKENS);
        let tokens: Vec<TokenId> = serde_json::from_value(model["tokens"].clone()).unwrap();
        let whole = logits(&mut decoder, &mut pool, &tokens, &[context]);
        let mut most: f32 = 0.0;
        for (position, wanted) in model["logits"].as_object().unwrap() {
            let wanted: Vec<f32> = serde_json::from_value(wanted.clone()).unwrap();
            let found = &whole[position.parse::<usize>().unwrap()];
            assert_eq!(found.len(), wanted.len());
            let differences = found
                .iter()
                .zip(&wanted)
                .map(|(left, right)| (left - right).abs());
            most = differences.fold(most, f32::max);
        }
        println!("{name}: {most:.5}");
        assert!(most <= MOST_DIFFERENCE, "{name}: {most}");
        let cut = logits(&mut decoder, &mut pool, &tokens, &[1, 9, 3]);
        assert!(whole == cut, "{name} in chunks");
    }
    families.dedup();
    let wanted = [
        "llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3",
    ];
    assert_eq!(families, wanted);
}

#[test]
fn a_mixture_of_experts_is_refused_by_name() {
    let mut refused = Vec::new();
    for model in recorded() {
        if model["config"].get("num_experts_per_tok").is_none() {
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        refused.push(open(&write(folder.path(), &model)).unwrap_err().to_string());
    }
    assert_eq!(refused[0], "a mixture of experts is not supported");
    assert!(
        refused[1].starts_with("the architecture «qwen3moe» is not supported; supported: llama, ")
    );
}
