//! Every family of decoders against an independent implementation: models of two to seven layers whose weights follow a
//! formula, written as GGUF files here, and the logits that were recorded of them (`tests/golden/families.py`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "families/adapters.rs"]
mod adapters;
#[path = "common/bare.rs"]
mod bare;
mod common;

use std::path::{Path, PathBuf};

use ::safetensors::tensor::{Dtype, TensorView};
use bare::{BLOCK_TOKENS, BLOCKS, logits};
use common::gguf::{self, F32, Tensor, Value};
use ortolan::cache::BlockPool;
use ortolan::file_bytes::FileAccess;
use ortolan::gguf::Gguf;
use ortolan::graph::{GraphError, ModelFile};
use ortolan::runtime::{Decoder, SessionOptions};
use ortolan::safetensors::Safetensors;
use ortolan::token::TokenId;
use serde_json::{Value as Json, json};

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

/// The hub's name of a decoder's tensor.
fn hub_name(name: &str, family: &str) -> String {
    let newer = matches!(family, "gemma2" | "gemma3");
    let Some((layer, rest)) = name
        .strip_prefix("blk.")
        .and_then(|rest| rest.split_once('.'))
    else {
        return match name {
            "token_embd.weight" => "model.embed_tokens.weight",
            "output_norm.weight" => "model.norm.weight",
            "output.weight" => "lm_head.weight",
            other => panic!("the tensor {other}"),
        }
        .to_owned();
    };
    let (part, kind) = rest.split_once('.').unwrap();
    let part = match part {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_qkv" => "self_attn.qkv_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "post_attention_norm" => "post_attention_layernorm",
        "ffn_norm" if newer => "pre_feedforward_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "post_ffw_norm" => "post_feedforward_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" if family == "phi3" => "mlp.gate_up_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        other => panic!("the part {other}"),
    };
    format!("model.layers.{layer}.{part}.{kind}")
}

/// Rows as the papers have them, where GGUF's files have neighbours that are rotated together.
fn in_halves(values: &[f32], columns: usize, head_size: usize) -> Vec<f32> {
    let row = |row: usize| &values[row * columns..(row + 1) * columns];
    let rows = 0..values.len() / columns;
    rows.flat_map(|place| {
        let (head, within) = (place / head_size, place % head_size);
        let (half, pair) = (within / (head_size / 2), within % (head_size / 2));
        row(head * head_size + 2 * pair + half).to_vec()
    })
    .collect()
}

/// Opens the same model in safetensors, in two files, with this `config.json`.
fn open_folder(folder: &Path, model: &Json, config: &Json) -> Result<ModelFile, GraphError> {
    let header = |key: &str| {
        let pairs = model["header"].as_array().unwrap().iter();
        let mut found = pairs.filter(|pair| pair[0].as_str().unwrap().ends_with(key));
        found.next().map(|pair| pair[2].clone())
    };
    let family = header("general.architecture").unwrap();
    let family = family.as_str().unwrap();
    let head_size = header("rope.dimension_count").map_or(0, |size| size.as_u64().unwrap());
    let mut tensors = Vec::new();
    for tensor in model["tensors"].as_array().unwrap() {
        let name = tensor[0].as_str().unwrap();
        if name.starts_with("rope_") {
            continue; // they follow from the configuration
        }
        let mut shape: Vec<u64> = serde_json::from_value(tensor[1].clone()).unwrap();
        let mut values = weights(name, &shape);
        if family == "llama" && (name.contains("attn_q.") || name.contains("attn_k.")) {
            values = in_halves(&values, shape[0] as usize, head_size as usize);
        }
        if family.starts_with("gemma") && name.contains("norm") {
            values.iter_mut().for_each(|value| *value -= 1.0);
        }
        shape.reverse();
        let shape: Vec<usize> = shape.into_iter().map(|size| size as usize).collect();
        let bytes: Vec<u8> = values.into_iter().flat_map(f32::to_le_bytes).collect();
        tensors.push((hub_name(name, family), shape, bytes));
    }
    let (upper, lower) = tensors.split_at(tensors.len() / 2);
    let files = [("a.safetensors", upper), ("b.safetensors", lower)];
    let files = files.map(|(name, tensors)| {
        let views = tensors.iter().map(|(name, shape, bytes)| {
            let view = TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap();
            (name.as_str(), view)
        });
        let path = folder.join(name);
        ::safetensors::serialize_to_file(views, None, &path).unwrap();
        Safetensors::open(&path, FileAccess::Map).unwrap()
    });
    let config = config.to_string();
    ModelFile::from_folder(folder.to_owned(), config.as_bytes(), files.into())
}

fn open(path: &Path) -> Result<ModelFile, GraphError> {
    ModelFile::new(path.to_owned(), Gguf::open(path, FileAccess::Map).unwrap())
}

/// Holds a model's logits against the recorded ones, however the tokens are cut into chunks.
fn check(file: &ModelFile, model: &Json) {
    let name = model["name"].as_str().unwrap();
    let options = SessionOptions::new(common::onnxruntime());
    let context = model["context"].as_u64().unwrap() as usize;
    let mut decoder =
        Decoder::load(file, &options, context, BLOCKS, BLOCK_TOKENS, &|_| ()).unwrap();
    let mut pool = BlockPool::new(BLOCKS, BLOCK_TOKENS);
    let tokens: Vec<TokenId> = serde_json::from_value(model["tokens"].clone()).unwrap();
    let whole = logits(&mut decoder, &mut pool, &tokens, &[context]);
    let mut most: f32 = 0.0;
    for (position, wanted) in model["logits"].as_object().unwrap() {
        let wanted: Vec<f32> = serde_json::from_value(wanted.clone()).unwrap();
        let found = &whole[position.parse::<usize>().unwrap()];
        assert_eq!(found.len(), wanted.len());
        for (left, right) in found.iter().zip(&wanted) {
            assert!(left.is_finite(), "{name}");
            most = most.max((left - right).abs());
        }
    }
    assert!(most <= MOST_DIFFERENCE, "{name}: {most}");
    let cut = logits(&mut decoder, &mut pool, &tokens, &[1, 9, 3]);
    assert!(whole == cut, "{name} in chunks");
}

/// The recorded models without a mixture of experts.
fn plain() -> impl Iterator<Item = Json> {
    let mut models = recorded();
    models.retain(|model| model["config"].get("num_experts_per_tok").is_none());
    models.into_iter()
}

#[test]
fn the_logits_are_those_of_an_independent_implementation() {
    let mut families = Vec::new();
    for model in plain() {
        let folder = tempfile::tempdir().unwrap();
        let file = open(&write(folder.path(), &model)).unwrap();
        families.push(file.architecture.name());
        check(&file, &model);
    }
    families.dedup();
    let wanted = [
        "llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3",
    ];
    assert_eq!(families, wanted);
}

#[test]
fn a_folder_of_the_hub_computes_the_same_in_either_spelling_of_its_configuration() {
    for model in plain() {
        for config in ["config", "hub_config"] {
            let folder = tempfile::tempdir().unwrap();
            let file = open_folder(folder.path(), &model, &model[config]).unwrap();
            check(&file, &model);
        }
    }
}

#[test]
fn what_a_configuration_says_and_is_not_computed_is_refused() {
    let model = plain().next().unwrap();
    let refused = |key: &str, value: Json| {
        let mut config = model["config"].clone();
        config[key] = value;
        let folder = tempfile::tempdir().unwrap();
        let refused = open_folder(folder.path(), &model, &config);
        refused.unwrap_err().to_string()
    };
    assert_eq!(
        refused("hidden_act", "relu".into()),
        "the activation «relu» is not supported"
    );
    assert_eq!(
        refused(
            "rope_parameters",
            json!({"rope_type": "dynamic", "factor": 2.0})
        ),
        "rope scaling «dynamic» is not supported"
    );
    assert_eq!(
        refused("rope_parameters", json!({"rope_type": "linear"})),
        "config.json: the rope scaling has no «factor»"
    );
    assert_eq!(
        refused("num_attention_heads", json!(0)),
        "«llama.attention.head_count» is 0"
    );
    assert!(
        refused("model_type", "mamba".into())
            .starts_with("the architecture «mamba» is not supported")
    );
    assert!(refused("vocab_size", json!("many")).starts_with("config.json: invalid type"));
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
