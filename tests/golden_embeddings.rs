//! Embeddings of a real encoder against a reference in double precision (`tests/golden/embedding_reference.py`), with
//! weights from its safetensors folder and from GGUF files that are written here.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]
#![expect(clippy::print_stdout, reason = "the measured distances are informative")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::gguf::{self, F16, F32, Q4_0, Q8_0, Tensor, Value};
use futures_util::future::join_all;
use half::f16;
use ortolan::cancel::CancelFlag;
use ortolan::file_bytes::FileAccess;
use ortolan::model::load::{CacheSize, LoadOptions, inspect};
use ortolan::model::{
    AdapterOptions, GenerateError, GenerateLimits, LoadedModel, Pooling, PromptPiece, SystemPrompt,
    TokenizeRequest,
};
use ortolan::runtime::SessionOptions;
use ortolan::safetensors::Safetensors;
use ortolan::text::SpecialTokens;
use ortolan::token::TokenId;
use serde_json::{Value as Json, from_value};

fn load(path: &Path, pooling: Option<Pooling>) -> LoadedModel {
    let options = LoadOptions {
        alias: None,
        context_tokens: None,
        parallel: 4,
        queue: 64,
        step_tokens: 512,
        batch_tokens: 512,
        step_duration: Duration::from_millis(100),
        prefill_share: 0.5,
        cache: CacheSize::AllContexts,
        access: FileAccess::Map,
        lock_memory: false,
        session: SessionOptions::new(common::onnxruntime()),
        quantize: None,
        chat_template: None,
        system_prompt: SystemPrompt::default(),
        pooling,
        adapters: AdapterOptions::default(),
    };
    inspect(path, options).unwrap().load(&|_| ()).unwrap()
}

async fn embedding(model: &LoadedModel, text: &str) -> Result<Vec<f32>, GenerateError> {
    let text = [PromptPiece::Text(text.to_owned())];
    Ok(model
        .embed(&text, &GenerateLimits::NONE, &CancelFlag::default())?
        .finish()
        .await?
        .values)
}

/// The recorded texts, tokens and embeddings with this pooling.
fn cases(pooling: &str) -> Vec<(String, Vec<u32>, Vec<f64>)> {
    let golden = common::golden_embeddings();
    let cases = golden["cases"].as_array().unwrap().iter();
    let parse = |case: &Json| {
        let values = from_value(case.get(pooling)?.clone()).unwrap();
        let tokens = from_value(case["tokens"].clone()).unwrap();
        Some((case["text"].as_str().unwrap().to_owned(), tokens, values))
    };
    cases.filter_map(parse).collect()
}

fn cosine(left: &[f32], right: &[f64]) -> f64 {
    let dot_product = |left: &[f64], right: &[f64]| -> f64 {
        left.iter()
            .zip(right)
            .map(|(left, right)| left * right)
            .sum()
    };
    let left: Vec<f64> = left.iter().copied().map(f64::from).collect();
    dot_product(&left, right) / (dot_product(&left, &left) * dot_product(right, right)).sqrt()
}

/// Compares the model's embeddings with all recorded ones; `max_distance` is the largest allowed `1 - cosine`.
async fn check(model: &LoadedModel, pooling: &str, max_distance: f64) {
    let cases = cases(pooling);
    assert!(cases.len() >= 3, "only {} recorded embeddings", cases.len());
    let mut largest: f64 = 0.0;
    for (text, _, expected) in cases {
        let actual = embedding(model, &text).await.unwrap();
        let distance = 1.0 - cosine(&actual, &expected);
        assert!(distance <= max_distance, "{text:?}: {distance:e}");
        largest = largest.max(distance);
    }
    println!("{pooling}: cosine at least 1 - {largest:e}");
}

#[tokio::test]
async fn texts_have_the_recorded_tokens() {
    let model = load(&common::embedding_model(), None);
    let golden = common::golden_embeddings();
    let cases = golden["cases"].as_array().unwrap();
    assert!(!cases.is_empty());
    for case in cases {
        let request = TokenizeRequest {
            content: vec![PromptPiece::Text(case["text"].as_str().unwrap().to_owned())],
            special: SpecialTokens::Parse,
            add_bos: false,
        };
        let tokens = model.tokenize(&request, &CancelFlag::default()).unwrap();
        let tokens: Vec<u32> = tokens.iter().map(|token| token.0).collect();
        let recorded: Vec<u32> = from_value(case["tokens"].clone()).unwrap();
        assert_eq!(tokens, recorded[1..recorded.len() - 1], "{}", case["name"]);
    }
}

#[tokio::test]
async fn embeddings_of_safetensors_match_the_recorded_ones() {
    let folder = common::embedding_model();
    check(&load(&folder, None), "mean", 1e-9).await;
    check(&load(&folder, Some(Pooling::First)), "cls", 1e-9).await;
    check(&load(&folder, Some(Pooling::Last)), "last", 1e-9).await;
}

#[tokio::test]
async fn embeddings_of_gguf_files_match_the_recorded_ones() {
    let folder = tempfile::tempdir().unwrap();
    check(&load(&write_gguf(folder.path(), F32), None), "mean", 1e-9).await;
    check(&load(&write_gguf(folder.path(), F16), None), "mean", 1e-5).await;
    // Quantization costs this small model some accuracy; the empty text has the largest distance.
    check(&load(&write_gguf(folder.path(), Q8_0), None), "mean", 2e-3).await;
    check(&load(&write_gguf(folder.path(), Q4_0), None), "mean", 0.1).await;
}

/// ONNX Runtime's 4-bit matrix multiplication takes another code path for a single row.
#[tokio::test]
async fn a_single_token_has_the_same_embedding_in_any_batch() {
    let folder = tempfile::tempdir().unwrap();
    let model = load(&write_gguf(folder.path(), Q4_0), None);
    let embed = |token| {
        let token = [PromptPiece::Token(TokenId(token))];
        model
            .embed(&token, &GenerateLimits::NONE, &CancelFlag::default())
            .unwrap()
            .finish()
    };
    let alone = embed(2030).await.unwrap();
    let batched = join_all([2030, 101, 102, 2030].map(embed)).await;
    assert_eq!(batched[0].as_ref().unwrap(), &alone);
    assert_eq!(batched[3].as_ref().unwrap(), &alone);
}

#[tokio::test]
async fn an_embedding_does_not_depend_on_the_batch_composition() {
    let model = load(&common::embedding_model(), None);
    let cases = cases("mean");
    let all = cases.iter().map(|(text, _, _)| embedding(&model, text));
    let batched = join_all(all).await;
    for ((text, _, _), batched) in cases.iter().zip(batched) {
        let alone = embedding(&model, text).await.unwrap();
        let bits = |values: &[f32]| {
            values
                .iter()
                .map(|value| value.to_bits())
                .collect::<Vec<_>>()
        };
        assert_eq!(bits(&batched.unwrap()), bits(&alone), "{text:?}");
    }
}

#[tokio::test]
async fn a_text_longer_than_the_context_is_rejected() {
    let model = load(&common::embedding_model(), None);
    let golden = common::golden_embeddings();
    let cases = golden["cases"].as_array().unwrap();
    let long = cases
        .iter()
        .find(|case| case["tokens"].as_array().unwrap().len() > 512);
    let text = long.unwrap()["text"].as_str().unwrap();
    let error = embedding(&model, text).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the prompt of 796 tokens is too long for the context of 512 tokens"
    );
}

/// Writes the embedding model as llama.cpp's `convert_hf_to_gguf.py` does; the matrices of its layers have the type
/// `kind`.
fn write_gguf(folder: &Path, kind: u32) -> PathBuf {
    let model = common::embedding_model();
    let weights = Safetensors::open(&model.join("model.safetensors"), FileAccess::Map).unwrap();
    let tensors: Vec<Tensor> = weights
        .names()
        .filter(|name| !name.starts_with("pooler."))
        .map(|name| {
            let tensor = weights.tensor(name).unwrap();
            let layer_matrix = tensor.shape.len() == 2 && !name.starts_with("embeddings.");
            let kind = if layer_matrix { kind } else { F32 };
            let floats = tensor.bytes.as_chunks().0.iter().copied();
            let floats: Vec<f32> = floats.map(f32::from_le_bytes).collect();
            let blocks = floats.as_chunks().0.iter();
            let bytes = match kind {
                F32 => tensor.bytes.to_vec(),
                F16 => floats.iter().flat_map(|value| half(*value)).collect(),
                Q4_0 => blocks.flat_map(q4_0_block).collect(),
                Q8_0 => blocks.flat_map(q8_0_block).collect(),
                other => panic!("unsupported tensor type {other}"),
            };
            Tensor {
                name: gguf_name(name),
                shape: tensor.shape.iter().rev().map(|size| *size as u64).collect(),
                kind,
                bytes,
            }
        })
        .collect();
    let tokenizer = std::fs::read(model.join("tokenizer.json")).unwrap();
    let tokenizer: Json = serde_json::from_slice(&tokenizer).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].as_object().unwrap();
    let by_id: BTreeMap<u64, &str> = vocabulary
        .iter()
        .map(|(text, id)| (id.as_u64().unwrap(), text.as_str()))
        .collect();
    let special = |text: &str| ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"].contains(&text);
    let tokens = by_id.values().map(|text| match text.strip_prefix("##") {
        _ if special(text) => (*text).to_owned(),
        Some(rest) if !rest.is_empty() => rest.to_owned(),
        _ => format!("\u{2581}{text}"),
    });
    let kinds = by_id.values().map(|text| if special(text) { 3 } else { 1 });
    let header = [
        ("general.architecture", Value::Text("bert")),
        ("bert.block_count", Value::U32(6)),
        ("bert.context_length", Value::U32(512)),
        ("bert.embedding_length", Value::U32(384)),
        ("bert.feed_forward_length", Value::U32(1536)),
        ("bert.attention.head_count", Value::U32(12)),
        ("bert.attention.layer_norm_epsilon", Value::F32(1e-12)),
        ("bert.attention.causal", Value::Bool(false)),
        ("bert.pooling_type", Value::U32(1)),
        ("tokenizer.ggml.model", Value::Text("bert")),
        ("tokenizer.ggml.token_type_count", Value::U32(2)),
        ("tokenizer.ggml.tokens", Value::Texts(tokens.collect())),
        ("tokenizer.ggml.token_type", Value::I32s(kinds.collect())),
        ("tokenizer.ggml.bos_token_id", Value::U32(101)),
        ("tokenizer.ggml.eos_token_id", Value::U32(102)),
        ("tokenizer.ggml.unknown_token_id", Value::U32(100)),
    ];
    let path = folder.join(format!("all-MiniLM-L6-v2-{kind}.gguf"));
    gguf::write(&path, &header, &tensors);
    path
}

fn half(value: f32) -> [u8; 2] {
    f16::from_f32(value).to_le_bytes()
}

/// ggml's `quantize_row_q4_0_ref`: the value of the largest magnitude has the quant 0 of 16.
fn q4_0_block(block: &[f32; 32]) -> Vec<u8> {
    let largest = block
        .iter()
        .copied()
        .max_by(|a, b| a.abs().total_cmp(&b.abs()))
        .unwrap();
    let scale = largest / -8.0;
    let quant = |value: f32| match scale {
        0.0 => 8,
        scale => (value / scale + 8.5).clamp(0.0, 15.0) as u8,
    };
    let pairs = block[..16].iter().zip(&block[16..]);
    let pairs = pairs.map(|(low, high)| quant(*low) | quant(*high) << 4);
    half(scale).into_iter().chain(pairs).collect()
}

/// ggml's `quantize_row_q8_0_ref`.
fn q8_0_block(block: &[f32; 32]) -> Vec<u8> {
    let scale = block
        .iter()
        .fold(0.0_f32, |max, value| max.max(value.abs()))
        / 127.0;
    let quant = |value: &f32| match scale {
        0.0 => 0,
        scale => (value / scale).round() as i8 as u8,
    };
    half(scale)
        .into_iter()
        .chain(block.iter().map(quant))
        .collect()
}

/// The GGUF name of a Hugging Face tensor.
fn gguf_name(name: &str) -> String {
    [
        ("embeddings.word_embeddings", "token_embd"),
        ("embeddings.position_embeddings", "position_embd"),
        ("embeddings.token_type_embeddings", "token_types"),
        ("embeddings.LayerNorm", "token_embd_norm"),
        ("encoder.layer", "blk"),
        ("attention.self.query", "attn_q"),
        ("attention.self.key", "attn_k"),
        ("attention.self.value", "attn_v"),
        ("attention.output.dense", "attn_output"),
        ("attention.output.LayerNorm", "attn_output_norm"),
        ("intermediate.dense", "ffn_up"),
        ("output.dense", "ffn_down"),
        ("output.LayerNorm", "layer_output_norm"),
    ]
    .into_iter()
    .fold(name.to_owned(), |name, (hub, gguf)| name.replace(hub, gguf))
}
