//! Writes a tiny GGUF model: two llama layers with random weights, one token per byte, and some special tokens.

use std::path::PathBuf;

use super::gguf::{self, F32, Tensor, Value};
use super::random::Random;

const LAYERS: u64 = 2;
const SPECIAL_TOKENS: [&str; 5] = ["<|endoftext|>", "<PRE>", "<SUF>", "<MID>", "<s>"];

/// Dimensions of a tiny model.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sizes {
    /// Width of the residual stream.
    pub(crate) hidden: u64,
    /// Width of the feed-forward network.
    pub(crate) feed_forward: u64,
    /// Number of query heads.
    pub(crate) heads: u32,
    /// Number of key/value heads.
    pub(crate) kv_heads: u32,
    /// Elements per head.
    pub(crate) head_size: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            hidden: 64,
            feed_forward: 128,
            heads: 4,
            kv_heads: 2,
            head_size: 16,
        }
    }
}

/// Writes a model with a context of 256 tokens into `folder`. `more` adds or replaces metadata; `llama.expert_count` in
/// it makes the model a mixture of experts.
pub(crate) fn model(folder: &std::path::Path, more: &[(&str, Value<'_>)]) -> PathBuf {
    model_with_sizes(folder, Sizes::default(), more)
}

/// Like [`model`], with these sizes.
pub(crate) fn model_with_sizes(
    folder: &std::path::Path,
    sizes: Sizes,
    more: &[(&str, Value<'_>)],
) -> PathBuf {
    changed_model(folder, sizes, more, |_| ())
}

/// Like [`model_with_sizes`], with tensors modified by `change`.
pub(crate) fn changed_model(
    folder: &std::path::Path,
    sizes: Sizes,
    more: &[(&str, Value<'_>)],
    change: impl FnOnce(&mut Vec<Tensor>),
) -> PathBuf {
    let Sizes {
        hidden,
        feed_forward,
        heads,
        kv_heads,
        head_size,
    } = sizes;
    let tokens: Vec<String> = byte_level_tokens()
        .into_iter()
        .chain(SPECIAL_TOKENS.map(str::to_owned))
        .collect();
    let vocabulary = tokens.len() as u64;
    let kinds = [vec![1; 256], vec![3; SPECIAL_TOKENS.len()]].concat();
    let mut header = vec![
        ("general.architecture", Value::Text("llama")),
        ("llama.block_count", Value::U32(LAYERS as u32)),
        ("llama.context_length", Value::U32(256)),
        ("llama.embedding_length", Value::U32(hidden as u32)),
        ("llama.feed_forward_length", Value::U32(feed_forward as u32)),
        ("llama.attention.head_count", Value::U32(heads)),
        ("llama.attention.head_count_kv", Value::U32(kv_heads)),
        ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
        ("llama.rope.dimension_count", Value::U32(head_size as u32)),
        ("llama.rope.freq_base", Value::F32(10_000.0)),
        ("tokenizer.ggml.model", Value::Text("gpt2")),
        ("tokenizer.ggml.pre", Value::Text("smollm")),
        ("tokenizer.ggml.tokens", Value::Texts(tokens)),
        ("tokenizer.ggml.token_type", Value::I32s(kinds)),
        ("tokenizer.ggml.merges", Value::Texts(Vec::new())),
        ("tokenizer.ggml.eos_token_id", Value::U32(256)),
        ("tokenizer.ggml.bos_token_id", Value::U32(260)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
    ];
    if head_size * u64::from(heads) != hidden {
        let lengths = ["llama.attention.key_length", "llama.attention.value_length"];
        header.extend(lengths.map(|key| (key, Value::U32(head_size as u32))));
    }
    header.retain(|(key, _)| more.iter().all(|(other, _)| other != key));
    let query = head_size * u64::from(heads);
    let kv = head_size * u64::from(kv_heads);
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), vec![hidden, vocabulary]),
        ("output_norm.weight".to_owned(), vec![hidden]),
    ];
    for layer in 0..LAYERS {
        let parts: [(&str, &[u64]); 9] = [
            ("attn_norm", &[hidden]),
            ("attn_q", &[hidden, query]),
            ("attn_k", &[hidden, kv]),
            ("attn_v", &[hidden, kv]),
            ("attn_output", &[query, hidden]),
            ("ffn_norm", &[hidden]),
            ("ffn_gate", &[hidden, feed_forward]),
            ("ffn_up", &[hidden, feed_forward]),
            ("ffn_down", &[feed_forward, hidden]),
        ];
        let layer_tensors =
            parts.map(|(part, shape)| (format!("blk.{layer}.{part}.weight"), shape.to_vec()));
        tensors.extend(layer_tensors);
    }
    let experts = more.iter().find_map(|(key, value)| match value {
        Value::U32(count) if *key == "llama.expert_count" => Some(u64::from(*count)),
        _ => None,
    });
    if let Some(experts) = experts {
        for (name, shape) in &mut tensors {
            if name.contains("ffn_") && shape.len() == 2 {
                *name = name.replace(".weight", "_exps.weight");
                shape.push(experts);
            }
        }
        let router = |layer| format!("blk.{layer}.ffn_gate_inp.weight");
        tensors.extend((0..LAYERS).map(|layer| (router(layer), vec![hidden, experts])));
    }
    let path = folder.join("tiny.gguf");
    header.extend(more.iter().map(|(key, value)| (*key, value.clone())));
    let mut random = Random(1);
    let mut weights = |name: &str, shape: &[u64]| {
        let mut weight = || {
            let uniform = random.uniform();
            match name.contains("norm") {
                true => 1.0,
                false => (uniform - 0.5) * 0.5,
            }
        };
        let values = (0..shape.iter().product::<u64>()).map(|_| weight());
        values.flat_map(f32::to_le_bytes).collect()
    };
    let mut tensors: Vec<Tensor> = tensors
        .into_iter()
        .map(|(name, shape)| Tensor {
            bytes: weights(&name, &shape),
            name,
            shape,
            kind: F32,
        })
        .collect();
    change(&mut tensors);
    gguf::write(&path, &header, &tensors);
    path
}

/// The token text of each byte in GPT-2's byte-level alphabet.
pub(crate) fn byte_level_tokens() -> Vec<String> {
    let mut next = 256_u32;
    let name = |byte: u8| {
        let printable = matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
        let number = match printable {
            true => u32::from(byte),
            false => {
                next += 1;
                next - 1
            }
        };
        char::from_u32(number)
            .expect("below the surrogates")
            .to_string()
    };
    (0..=u8::MAX).map(name).collect()
}
