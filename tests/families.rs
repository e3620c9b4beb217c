//! Every decoder family against logits recorded from an independent implementation (`tests/golden/families.py`): models
//! of two to seven layers whose weights follow a formula, written here as GGUF files and as safetensors folders.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

#[path = "families/adapters.rs"]
mod adapters;
mod common;
#[path = "families/devices.rs"]
mod devices;
#[path = "common/standalone_decoder.rs"]
mod standalone_decoder;

use std::path::{Path, PathBuf};

use ::safetensors::tensor::{Dtype, TensorView};
use common::gguf::{self, F32, Tensor, Value};
use ortolan::cache::BlockPool;
use ortolan::file_bytes::FileAccess;
use ortolan::gguf::Gguf;
use ortolan::graph::{GraphError, ModelFile};
use ortolan::runtime::{Decoder, SessionOptions};
use ortolan::safetensors::Safetensors;
use ortolan::token::TokenId;
use serde_json::{Value as Json, json};
use standalone_decoder::{BLOCK_TOKENS, BLOCKS, logits};

/// Largest allowed absolute difference of logits. The server keeps keys and values in half precision; the recorded
/// logits were computed in single precision.
const MAX_DIFFERENCE: f32 = 0.02;

/// The model descriptions and logits of `families.json`.
fn recorded() -> Vec<Json> {
    match common::recorded("families.json") {
        Json::Array(models) => models,
        other => panic!("families.json must contain a list, not {other}"),
    }
}

/// The values of a tensor: outputs of SplitMix64, seeded with the FNV-1a hash of the tensor's name and scaled by its
/// kind.
fn weights(name: &str, shape: &[u64]) -> Vec<f32> {
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    let mut state = name.bytes().fold(0xcbf2_9ce4_8422_2325, hash);
    let mut output = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15_u64);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) >> 40) as f64 / f64::from(1 << 24) - 0.5
    };
    let value = |centered: f64| match name {
        _ if name.contains("norm") => 1.0 + centered * 0.5,
        _ if name.ends_with("bias") => centered * 0.4,
        "token_embd.weight" => centered * 2.0,
        _ => centered * (12.0 / shape[0] as f64).sqrt(),
    };
    let values = 0..shape.iter().product::<u64>();
    values.map(|_| value(output()) as f32).collect()
}

/// The metadata of a recorded model, and its tensors in single precision.
fn gguf_parts(model: &Json) -> (Vec<(&str, Value<'_>)>, Vec<Tensor>) {
    let pairs = model["header"].as_array().unwrap().iter();
    let mut header: Vec<(&str, Value<'_>)> = pairs
        .map(|pair| {
            let value = &pair[2];
            let value = match pair[1].as_str().unwrap() {
                "u32" => Value::U32(value.as_u64().unwrap() as u32),
                "f32" => Value::F32(value.as_f64().unwrap() as f32),
                "bool" => Value::Bool(value.as_bool().unwrap()),
                "string" => Value::Text(value.as_str().unwrap()),
                other => panic!("unknown metadata type {other}"),
            };
            (pair[0].as_str().unwrap(), value)
        })
        .collect();
    let tokens = (0..96).map(|token| format!("token {token}")).collect();
    header.push(("tokenizer.ggml.tokens", Value::Texts(tokens)));
    let tensors = model["tensors"].as_array().unwrap().iter();
    let tensors = tensors.map(|tensor| {
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
    });
    (header, tensors.collect())
}

/// Writes a recorded model as a GGUF file.
fn write(folder: &Path, model: &Json) -> PathBuf {
    let path = folder.join("model.gguf");
    let (header, tensors) = gguf_parts(model);
    gguf::write(&path, &header, &tensors);
    path
}

/// A tensor in Hugging Face's naming: name, shape and values.
type HubTensor = (String, Vec<usize>, Vec<f32>);

/// The Hugging Face tensors for a GGUF tensor of stacked expert matrices: one tensor for each expert, or `stacked` as
/// transformers 5 stores them, with gate and up in one tensor.
fn hub_experts(name: &str, shape: &[u64], family: &str, stacked: bool) -> Vec<HubTensor> {
    let [_, layer, part, _] = name.split('.').collect::<Vec<_>>()[..] else {
        panic!("{name}")
    };
    let [columns, rows, experts] = [0, 1, 2].map(|axis| shape[axis] as usize);
    let values = weights(name, shape);
    let matrices = values.chunks_exact(columns * rows);
    let name_of = |part: &str| format!("model.layers.{layer}.mlp.experts.{part}");
    match (part, stacked) {
        ("ffn_up_exps", true) => Vec::new(), // part of the gate tensor
        ("ffn_gate_exps", true) => {
            let up = weights(&name.replace("gate", "up"), shape);
            let both = matrices.zip(up.chunks_exact(columns * rows));
            let both = both.flat_map(|(gate, up)| [gate, up].concat()).collect();
            vec![(
                name_of("gate_up_proj"),
                vec![experts, 2 * rows, columns],
                both,
            )]
        }
        (_, true) => vec![(name_of("down_proj"), vec![experts, rows, columns], values)],
        (_, false) => {
            let (module, part) = match (family, part) {
                ("llama", "ffn_gate_exps") => ("block_sparse_moe", "w1"),
                ("llama", "ffn_up_exps") => ("block_sparse_moe", "w3"),
                ("llama", _) => ("block_sparse_moe", "w2"),
                (_, "ffn_gate_exps") => ("mlp", "gate_proj"),
                (_, "ffn_up_exps") => ("mlp", "up_proj"),
                _ => ("mlp", "down_proj"),
            };
            let expert_tensor = |(expert, matrix): (usize, &[f32])| {
                let name = format!("model.layers.{layer}.{module}.experts.{expert}.{part}.weight");
                (name, vec![rows, columns], matrix.to_vec())
            };
            matrices.enumerate().map(expert_tensor).collect()
        }
    }
}

/// The Hugging Face name of a GGUF tensor.
fn hub_name(name: &str, family: &str, stacked: bool) -> String {
    let has_post_norms = matches!(family, "gemma2" | "gemma3");
    let Some((layer, rest)) = name
        .strip_prefix("blk.")
        .and_then(|rest| rest.split_once('.'))
    else {
        return match name {
            "token_embd.weight" => "model.embed_tokens.weight",
            "output_norm.weight" => "model.norm.weight",
            "output.weight" => "lm_head.weight",
            other => panic!("unknown tensor {other}"),
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
        "ffn_norm" if has_post_norms => "pre_feedforward_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "post_ffw_norm" => "post_feedforward_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" if family == "phi3" => "mlp.gate_up_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        "ffn_gate_inp" if family == "llama" && !stacked => "block_sparse_moe.gate",
        "ffn_gate_inp" => "mlp.gate",
        other => panic!("unknown tensor part {other}"),
    };
    format!("model.layers.{layer}.{part}.{kind}")
}

/// Reorders the rows of each head: GGUF stores rotary pairs in adjacent rows, Hugging Face in the two halves of a head.
fn adjacent_to_half_pairs(values: &[f32], columns: usize, head_size: usize) -> Vec<f32> {
    let row = |row: usize| &values[row * columns..(row + 1) * columns];
    let rows = 0..values.len() / columns;
    rows.flat_map(|index| {
        let (head, index_in_head) = (index / head_size, index % head_size);
        let (half, pair) = (
            index_in_head / (head_size / 2),
            index_in_head % (head_size / 2),
        );
        row(head * head_size + 2 * pair + half).to_vec()
    })
    .collect()
}

/// Opens a recorded model as a folder of two safetensors files with this `config.json`; see [`hub_experts`] for
/// `stacked`.
fn open_folder(
    folder: &Path,
    model: &Json,
    config: &Json,
    stacked: bool,
) -> Result<ModelFile, GraphError> {
    let header = |key: &str| {
        let pairs = model["header"].as_array().unwrap().iter();
        let mut matching = pairs.filter(|pair| pair[0].as_str().unwrap().ends_with(key));
        matching.next().map(|pair| pair[2].clone())
    };
    let family = header("general.architecture").unwrap();
    let family = family.as_str().unwrap();
    let head_size = header("rope.dimension_count").map_or(0, |size| size.as_u64().unwrap());
    let mut tensors: Vec<HubTensor> = Vec::new();
    for tensor in model["tensors"].as_array().unwrap() {
        let name = tensor[0].as_str().unwrap();
        if name.starts_with("rope_") {
            continue; // computed from the configuration
        }
        let mut shape: Vec<u64> = serde_json::from_value(tensor[1].clone()).unwrap();
        if name.contains("_exps") {
            tensors.extend(hub_experts(name, &shape, family, stacked));
            continue;
        }
        let mut values = weights(name, &shape);
        if family == "llama" && (name.contains("attn_q.") || name.contains("attn_k.")) {
            values = adjacent_to_half_pairs(&values, shape[0] as usize, head_size as usize);
        }
        if family.starts_with("gemma") && name.contains("norm") {
            values.iter_mut().for_each(|value| *value -= 1.0);
        }
        shape.reverse();
        let shape: Vec<usize> = shape.into_iter().map(|size| size as usize).collect();
        tensors.push((hub_name(name, family, stacked), shape, values));
    }
    let tensors: Vec<(String, Vec<usize>, Vec<u8>)> = tensors
        .into_iter()
        .map(|(name, shape, values)| {
            let bytes = values.into_iter().flat_map(f32::to_le_bytes);
            (name, shape, bytes.collect())
        })
        .collect();
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

/// Compares a model's logits with the recorded ones, and checks that chunk sizes do not change them.
fn check(file: &ModelFile, model: &Json) {
    let name = model["name"].as_str().unwrap();
    let options = SessionOptions::new(common::onnxruntime());
    let context = model["context"].as_u64().unwrap() as usize;
    let mut decoder =
        Decoder::load(file, &options, context, BLOCKS, BLOCK_TOKENS, &|_| ()).unwrap();
    let mut pool = BlockPool::new(BLOCKS, BLOCK_TOKENS);
    let tokens: Vec<TokenId> = serde_json::from_value(model["tokens"].clone()).unwrap();
    let whole = logits(&mut decoder, &mut pool, &tokens, &[context]);
    let mut difference: f32 = 0.0;
    for (position, expected) in model["logits"].as_object().unwrap() {
        let expected: Vec<f32> = serde_json::from_value(expected.clone()).unwrap();
        let actual = &whole[position.parse::<usize>().unwrap()];
        assert_eq!(actual.len(), expected.len());
        for (left, right) in actual.iter().zip(&expected) {
            assert!(left.is_finite(), "{name}");
            difference = difference.max((left - right).abs());
        }
    }
    assert!(difference <= MAX_DIFFERENCE, "{name}: {difference}");
    let chunked = logits(&mut decoder, &mut pool, &tokens, &[1, 9, 3]);
    assert!(whole == chunked, "{name} in chunks");
}

#[test]
fn logits_match_an_independent_implementation() {
    let mut families = Vec::new();
    for model in recorded() {
        let folder = tempfile::tempdir().unwrap();
        let file = open(&write(folder.path(), &model)).unwrap();
        families.push(file.architecture.name());
        check(&file, &model);
    }
    families.dedup();
    let expected = [
        "llama", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3", "llama", "qwen3moe",
    ];
    assert_eq!(families, expected);
}

#[test]
fn a_hugging_face_folder_computes_the_same_with_either_configuration_format() {
    for model in recorded() {
        for (config, stacked) in [("config", true), ("hub_config", false)] {
            let folder = tempfile::tempdir().unwrap();
            let file = open_folder(folder.path(), &model, &model[config], stacked).unwrap();
            check(&file, &model);
        }
    }
}

#[test]
fn unsupported_and_invalid_configurations_are_rejected() {
    let model = recorded().swap_remove(0);
    let error = |key: &str, value: Json| {
        let mut config = model["config"].clone();
        config[key] = value;
        let folder = tempfile::tempdir().unwrap();
        let opened = open_folder(folder.path(), &model, &config, false);
        opened.unwrap_err().to_string()
    };
    assert_eq!(
        error("hidden_act", "relu".into()),
        "the activation \"relu\" is not supported"
    );
    assert_eq!(
        error(
            "rope_parameters",
            json!({"rope_type": "dynamic", "factor": 2.0})
        ),
        "the RoPE scaling \"dynamic\" is not supported"
    );
    assert_eq!(
        error("rope_parameters", json!({"rope_type": "linear"})),
        "config.json: the RoPE scaling has no \"factor\""
    );
    assert_eq!(
        error("num_attention_heads", json!(0)),
        "\"llama.attention.head_count\" is 0; it must be from 1 to 16777216"
    );
    assert_eq!(
        error("head_dim", json!(u32::MAX)),
        "config.json: 4294967295 rotated values of a head; the maximum is 65536"
    );
    assert!(
        error("model_type", "mamba".into())
            .starts_with("the architecture \"mamba\" is not supported")
    );
    assert!(error("vocab_size", json!("many")).starts_with("config.json: invalid type"));
}

/// The recorded model with this name.
fn model(name: &str) -> Json {
    let mut models = recorded().into_iter();
    models.find(|model| model["name"] == name).unwrap()
}

/// Modifies a recorded model, writes it as a GGUF file and opens it.
fn open_modified(
    model: &Json,
    change: impl Fn(&mut Vec<(&str, Value<'_>)>, &mut Vec<Tensor>),
) -> Result<ModelFile, GraphError> {
    let folder = tempfile::tempdir().unwrap();
    let (mut header, mut tensors) = gguf_parts(model);
    change(&mut header, &mut tensors);
    let path = folder.path().join("model.gguf");
    gguf::write(&path, &header, &tensors);
    open(&path)
}

/// Splits stacked expert matrices into one tensor for each expert, as older files store them.
fn unstack_experts(tensors: &mut Vec<Tensor>) {
    let all = std::mem::take(tensors).into_iter();
    *tensors = all
        .flat_map(|tensor| match tensor.name.split_once("_exps") {
            None => vec![tensor],
            Some((part, kind)) => (0..tensor.shape[2] as usize)
                .map(|expert| {
                    let bytes = tensor.bytes.len() / tensor.shape[2] as usize;
                    Tensor {
                        name: format!("{part}.{expert}{kind}"),
                        shape: tensor.shape[..2].to_vec(),
                        kind: tensor.kind,
                        bytes: tensor.bytes[expert * bytes..(expert + 1) * bytes].to_vec(),
                    }
                })
                .collect(),
        })
        .collect();
}

#[test]
fn experts_in_separate_tensors_compute_the_same() {
    let model = model("mixtral");
    check(
        &open_modified(&model, |_, tensors| unstack_experts(tensors)).unwrap(),
        &model,
    );
}

#[test]
fn an_invalid_mixture_of_experts_is_rejected() {
    let mixtral = model("mixtral");
    let with = |key: &'static str, value: u32| {
        let opened = open_modified(&mixtral, |header, _| {
            header.retain(|(known, _)| *known != key);
            header.push((key, Value::U32(value)));
        });
        opened.unwrap_err().to_string()
    };
    assert_eq!(
        with("llama.expert_used_count", 5),
        "5 experts per token are more than the 4 experts"
    );
    assert_eq!(
        with("llama.expert_used_count", 0),
        "\"llama.expert_used_count\" is 0; it must be from 1 to 16777216"
    );
    assert_eq!(
        with("llama.expert_count", 5),
        "the tensor \"blk.0.ffn_gate_inp.weight\" has the shape [64, 4], not [64, 5]"
    );
    assert_eq!(
        with("llama.expert_count", 0),
        "the tensor \"blk.0.ffn_gate.weight\" is missing"
    );
    assert_eq!(
        with("llama.expert_gating_func", 2),
        "the expert gating function 2 is not supported"
    );
    assert_eq!(
        with("llama.expert_feed_forward_length", 32),
        "the tensor \"blk.0.ffn_gate_exps.weight\" has the shape [64, 96, 4], not [64, 32, 4]"
    );
    let without = |part: &str| {
        let opened = open_modified(&mixtral, |_, tensors| {
            tensors.retain(|tensor| !tensor.name.contains(part));
        });
        opened.unwrap_err().to_string()
    };
    assert_eq!(
        without("1.ffn_down_exps"),
        "the tensor \"blk.1.ffn_down_exps.weight\" is missing"
    );
    assert_eq!(
        without("ffn_gate_inp"),
        "the tensor \"blk.0.ffn_gate_inp.weight\" is missing"
    );
    let many = open_modified(&mixtral, |header, tensors| {
        unstack_experts(tensors);
        header.retain(|(key, _)| *key != "llama.expert_count");
        header.push(("llama.expert_count", Value::U32(1 << 24)));
    });
    let message = "the header declares 2 layers of 16777216 experts, but there are only ";
    assert!(many.unwrap_err().to_string().starts_with(message));
}

#[test]
fn expert_settings_of_a_configuration_are_applied_or_rejected() {
    let qwen = model("qwen3moe");
    let opened = |key: &str, value: Json| {
        let mut config = qwen["hub_config"].clone();
        config[key] = value;
        let folder = tempfile::tempdir().unwrap();
        open_folder(folder.path(), &qwen, &config, false)
    };
    let experts = opened("norm_topk_prob", Json::Null).unwrap();
    let experts = experts.architecture.decoder().unwrap().experts.clone();
    assert!(!experts.unwrap().normalized);
    for (key, value) in [
        ("mlp_only_layers", json!([1])),
        ("decoder_sparse_step", 2.into()),
    ] {
        assert_eq!(
            opened(key, value).unwrap_err().to_string(),
            "a mixture of experts in only some of the layers is not supported"
        );
    }
}
