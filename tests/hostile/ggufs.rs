//! GGUF files: single files, shards, and the metadata of vocabularies and model families.

use std::path::Path;

use ortolan::file_bytes::FileAccess;
use ortolan::gguf::Gguf;
use ortolan::gguf::quant::QuantizeTarget;
use ortolan::graph::{MatmulOperator, ModelFile};
use ortolan::model::load;
use ortolan::text::{InfillInput, SpecialTokens, Tokenizer};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::fuzzer::fuzz;
use super::gguf_files::{self, F32, Q4_0, Q8_0, Tensor, Value};
use super::mutations::{mutated, texts};
use super::{folder, recorded};

/// Memory limit for files of a few kilobytes.
const MAX_BYTES: usize = 32 << 20;

type Pairs = Vec<(String, Value<'static>)>;

fn file(pairs: &[(String, Value<'_>)], tensors: &[Tensor]) -> Vec<u8> {
    let pairs: Vec<(&str, Value<'_>)> = pairs
        .iter()
        .map(|(key, value)| (key.as_str(), value.clone()))
        .collect();
    gguf_files::bytes(&pairs, tensors)
}

/// A precompiled charsmap of SentencePiece that replaces `a` with `b`: a trie of two nodes of 256 units and a leaf.
fn charsmap() -> Vec<i32> {
    let mut units = [0_u32; 512];
    let (label, leaf, offset) = (u32::from(b'a'), 1 << 8, 1 << 10);
    units[usize::from(b'a')] = label | leaf | offset << 8;
    let bytes = units.iter().flat_map(|unit| unit.to_le_bytes());
    let size = (units.len() as u32 * 4).to_le_bytes();
    let bytes = size.into_iter().chain(bytes).chain(*b"b\0");
    bytes.map(i32::from).collect()
}

/// Metadata of a vocabulary with this model and pre-tokenizer.
fn vocabulary(model: &'static str, pre: &'static str) -> Pairs {
    let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
    let special = ["<unk>", "<s>", "</s>", "[UNK]", "[CLS]", "[SEP]"];
    let pieces = [
        "a",
        "b",
        "ab",
        "\u{2581}",
        "\u{2581}a",
        "Ġ",
        "Ġa",
        "\n",
        "<|end|>",
    ];
    let tokens: Vec<String> = special
        .into_iter()
        .chain(pieces)
        .map(str::to_owned)
        .chain(bytes.step_by(16))
        .collect();
    let rows = tokens.len();
    let mut kinds = vec![1; rows];
    kinds[..6].copy_from_slice(&[2, 3, 3, 2, 3, 3]);
    kinds[14] = 4;
    kinds[15..].fill(6);
    let merges = match model {
        "gemma4" => vec!["a b", "\u{2581} a"],
        _ => vec!["a b", "Ġ a"],
    };
    let pairs = [
        ("model", Value::Text(model)),
        ("pre", Value::Text(pre)),
        ("tokens", Value::Texts(tokens)),
        ("token_type", Value::I32s(kinds)),
        (
            "scores",
            Value::F32s((0..rows).map(|row| -(row as f32)).collect()),
        ),
        (
            "merges",
            Value::Texts(merges.into_iter().map(str::to_owned).collect()),
        ),
        ("bos_token_id", Value::U32(1)),
        ("eos_token_id", Value::U32(2)),
        ("unknown_token_id", Value::U32(0)),
        ("add_space_prefix", Value::Bool(true)),
        ("remove_extra_whitespaces", Value::Bool(true)),
        ("precompiled_charsmap", Value::I32s(charsmap())),
    ];
    let with_prefix = |(key, value)| (format!("tokenizer.ggml.{key}"), value);
    pairs.into_iter().map(with_prefix).collect()
}

/// Tensors of the types F32, Q4_0, Q8_0 and Q4_K.
fn tensors() -> Vec<Tensor> {
    let tensor = |(name, kind, bytes): (&str, u32, usize)| Tensor {
        name: name.to_owned(),
        shape: vec![32, 2],
        kind,
        bytes: (0..bytes).map(|byte| byte as u8).collect(),
    };
    let mut tensors: Vec<Tensor> = [("a", F32, 256), ("b", Q4_0, 36), ("c", Q8_0, 68)]
        .map(tensor)
        .into();
    // Q4_K has blocks of 256 values. Changes of the type id turn it into the other types with such blocks.
    tensors.push(Tensor {
        name: "d".to_owned(),
        shape: vec![256, 1],
        kind: 12,
        bytes: vec![7; 144],
    });
    tensors
}

fn open(path: &Path) -> Option<Gguf> {
    Gguf::open(path, FileAccess::Read).ok()
}

/// Dequantizes all tensors, and encodes a text with the vocabulary.
fn read_all(gguf: &Gguf) {
    for (_, tensor) in gguf.tensors() {
        let mut values = vec![0.0; tensor.values()];
        tensor.kind.dequantize(gguf.bytes(tensor), &mut values);
    }
    if let Ok(vocabulary) = load::vocabulary(gguf.metadata())
        && let Ok(tokenizer) = Tokenizer::new(vocabulary)
    {
        let text = " ab <s>a\n日本🙂";
        let ids = tokenizer.encode(text, SpecialTokens::Parse);
        tokenizer.decode(&ids).unwrap();
    }
}

#[test]
fn modified_files_cause_no_panic() {
    let valid = [
        ("gpt2", "llama-bpe"),
        ("llama", "default"),
        ("bert", "x"),
        ("gemma4", "y"),
        ("t5", "z"),
    ];
    let valid = valid.map(|(model, pre)| file(&vocabulary(model, pre), &tensors()));
    let folder = folder();
    let path = folder.path().join("m.gguf");
    fuzz(
        "a GGUF file",
        2000,
        MAX_BYTES,
        mutated(valid.into()),
        |bytes| {
            std::fs::write(&path, bytes).unwrap();
            if let Some(gguf) = open(&path) {
                read_all(&gguf);
                let _ = ModelFile::new(path.clone(), gguf);
            }
        },
    );
}

#[test]
fn modified_shards_cause_no_panic() {
    let shard = |number: u32, tensors: &[Tensor]| {
        let mut pairs = vocabulary("llama", "default");
        pairs.truncate(if number == 0 { 4 } else { 0 });
        let split = [
            ("split.no", number),
            ("split.count", 2),
            ("split.tensors.count", 4),
        ];
        pairs.extend(split.map(|(key, value)| (key.to_owned(), Value::U32(value))));
        file(&pairs, tensors)
    };
    let tensors = tensors();
    let (first, second) = tensors.split_at(2);
    let files = (
        mutated(vec![shard(0, first)]),
        mutated(vec![shard(1, second)]),
    );
    let folder = folder();
    let path = |number| folder.path().join(format!("m-0000{number}-of-00002.gguf"));
    fuzz(
        "a set of GGUF files",
        1000,
        MAX_BYTES,
        files,
        |(first, second)| {
            std::fs::write(path(1), first).unwrap();
            std::fs::write(path(2), second).unwrap();
            if let Some(gguf) = open(&path(1)) {
                read_all(&gguf);
            }
        },
    );
}

/// Metadata of a model, and names and shapes of its tensors.
type Family = (Pairs, Vec<(String, Vec<u64>)>);

/// The small models of `families.json`.
fn families() -> Vec<Family> {
    let recorded = recorded("families.json");
    let small = |model: &&serde_json::Value| model["tensors"].as_array().unwrap().len() < 50;
    let models = recorded.as_array().unwrap().iter().filter(small);
    models
        .map(|model| {
            let pairs = model["header"].as_array().unwrap().iter().map(|pair| {
                let value = &pair[2];
                let value = match pair[1].as_str().unwrap() {
                    "u32" => Value::U32(value.as_u64().unwrap() as u32),
                    "f32" => Value::F32(value.as_f64().unwrap() as f32),
                    "bool" => Value::Bool(value.as_bool().unwrap()),
                    _ => Value::Text(value.as_str().unwrap().to_owned().leak()),
                };
                (pair[0].as_str().unwrap().to_owned(), value)
            });
            let mut pairs: Pairs = pairs.collect();
            let tokens = (0..96).map(|token| format!("token {token}")).collect();
            pairs.push(("tokenizer.ggml.tokens".to_owned(), Value::Texts(tokens)));
            let tensors = model["tensors"].as_array().unwrap().iter().map(|tensor| {
                let shape = serde_json::from_value(tensor[1].clone()).unwrap();
                (tensor[0].as_str().unwrap().to_owned(), shape)
            });
            (pairs, tensors.collect())
        })
        .collect()
}

/// Values that replace metadata values.
fn values() -> impl Strategy<Value = Value<'static>> {
    let numbers = [
        0,
        1,
        2,
        3,
        5,
        8,
        31,
        32,
        33,
        64,
        255,
        4096,
        1 << 20,
        1 << 24,
        u32::MAX,
    ];
    let floats = [
        0.0,
        -1.0,
        1e-30,
        1e30,
        f32::NAN,
        f32::INFINITY,
        f32::MAX,
        10_000.0,
    ];
    prop_oneof![
        6 => select(numbers.to_vec()).prop_map(Value::U32),
        3 => select(floats.to_vec()).prop_map(Value::F32),
        1 => any::<bool>().prop_map(Value::Bool),
        2 => select(vec!["", "llama", "gemma3", "qwen2", "yarn", "linear", "longrope", "none"]).prop_map(Value::Text),
        1 => vec(select(numbers.to_vec()), 0..5).prop_map(|numbers| {
            Value::I32s(numbers.into_iter().map(|number| number as i32).collect())
        }),
    ]
}

#[test]
fn modified_headers_of_model_families_cause_no_panic() {
    let families = families();
    let folder = folder();
    let path = folder.path().join("m.gguf");
    let pairs = vec((any::<Index>(), prop::option::of(values())), 0..4);
    let sizes = [0, 1, 2, 16, 32, 64, 96, 1 << 20].to_vec();
    let shapes = vec((any::<Index>(), any::<Index>(), select(sizes)), 0..2);
    let inputs = (any::<Index>(), pairs, shapes);
    fuzz(
        "the header of a family",
        500,
        MAX_BYTES,
        inputs,
        |(family, changes, shapes)| {
            let (mut pairs, mut tensors) = families[family.index(families.len())].clone();
            for (index, value) in changes {
                let index = index.index(pairs.len());
                match value {
                    Some(value) => pairs[index].1 = value,
                    None => drop(pairs.remove(index)),
                }
            }
            for (index, dimension, size) in shapes {
                let index = index.index(tensors.len());
                let shape = &mut tensors[index].1;
                let dimension = dimension.index(shape.len());
                shape[dimension] = size;
            }
            let tensors = tensors.into_iter().map(|(name, shape)| Tensor {
                bytes: vec![0; (shape.iter().product::<u64>() as usize * 4).min(64 << 10)],
                name,
                shape,
                kind: F32,
            });
            std::fs::write(&path, file(&pairs, &tensors.collect::<Vec<_>>())).unwrap();
            if let Some(gguf) = open(&path)
                && let Ok(model) = ModelFile::new(path.clone(), gguf)
            {
                let model = model.quantized_to(QuantizeTarget::Q8_0);
                for matmul in [MatmulOperator::Ortolan, MatmulOperator::Contrib] {
                    model.graph(matmul, 64, &|_| ());
                }
            }
        },
    );
}

/// Random token lists with random metadata.
#[test]
fn random_vocabularies_cause_no_panic() {
    let tokens = vec("[ab<>é\u{2581}Ġ ]{0,3}", 0..12);
    let kinds = vec(-1..9_i32, 0..12);
    let scores = vec(any::<f32>(), 0..12);
    let merges = vec("[abĠ]{0,2}[ ]{0,2}[abĠ]{0,2}", 0..6);
    let special = vec(
        (
            select(vec!["bos", "eos", "unknown", "eot", "cls"]),
            any::<u8>(),
        ),
        0..3,
    );
    let model = select(vec!["gpt2", "llama", "bert", "gemma4"]);
    let pre = select(vec!["default", "llama-bpe", "qwen2", "superbpe", "gemma4"]);
    let inputs = (
        tokens,
        kinds,
        scores,
        merges,
        special,
        (model, pre),
        texts(),
    );
    let folder = folder();
    let path = folder.path().join("m.gguf");
    fuzz(
        "a vocabulary",
        1000,
        MAX_BYTES,
        inputs,
        |(tokens, mut kinds, mut scores, merges, special, model, text)| {
            let (model, pre) = model;
            // Often make the lists equally long, which random lists rarely are.
            if kinds.len() > 6 {
                kinds.resize(tokens.len(), 1);
                scores.resize(tokens.len(), 0.0);
            }
            let pairs = [
                ("model", Value::Text(model)),
                ("pre", Value::Text(pre)),
                ("tokens", Value::Texts(tokens)),
                ("token_type", Value::I32s(kinds)),
                ("scores", Value::F32s(scores)),
                ("merges", Value::Texts(merges)),
            ];
            let mut pairs: Pairs = pairs
                .into_iter()
                .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value))
                .collect();
            for (role, token) in special {
                let key = format!("tokenizer.ggml.{role}_token_id");
                if pairs.iter().all(|(known, _)| *known != key) {
                    pairs.push((key, Value::U32(token.into())));
                }
            }
            std::fs::write(&path, file(&pairs, &[])).unwrap();
            let gguf = Gguf::open(&path, FileAccess::Read).unwrap();
            if let Ok(vocabulary) = load::vocabulary(gguf.metadata())
                && let Ok(tokenizer) = Tokenizer::new(vocabulary)
            {
                for special in [SpecialTokens::Parse, SpecialTokens::Literal] {
                    let ids = tokenizer.encode(&text, special);
                    tokenizer.decode(&ids).unwrap();
                }
                tokenizer.infill(&InfillInput {
                    prefix: &text,
                    suffix: &text,
                    middle_start: &text,
                    files: vec![(&text, &text)],
                });
            }
        },
    );
}
