//! A model file that is made in a moment: two llama layers with weights of no meaning, a token for each byte
//! and some named ones.

use std::path::PathBuf;

const HIDDEN: u64 = 64;
const FEED_FORWARD: u64 = 128;
const LAYERS: u64 = 2;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const NAMED: [&str; 5] = ["<|endoftext|>", "<PRE>", "<SUF>", "<MID>", "<s>"];

/// A value of a file's header.
pub(crate) enum Value<'a> {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(&'a str),
    Texts(Vec<String>),
    I32s(Vec<i32>),
}

/// Writes a model that is trained for 256 tokens into `folder`; `more` is added to its header, in the place of what it
/// has of the same name.
pub(crate) fn model(folder: &std::path::Path, more: &[(&str, Value<'_>)]) -> PathBuf {
    let tokens: Vec<String> = byte_level_names()
        .into_iter()
        .chain(NAMED.map(str::to_owned))
        .collect();
    let vocabulary = tokens.len() as u64;
    let kinds = [vec![1; 256], vec![3; NAMED.len()]].concat();
    let head_size = HIDDEN / u64::from(HEADS);
    let mut header = vec![
        ("general.architecture", Value::Text("llama")),
        ("llama.block_count", Value::U32(LAYERS as u32)),
        ("llama.context_length", Value::U32(256)),
        ("llama.embedding_length", Value::U32(HIDDEN as u32)),
        ("llama.feed_forward_length", Value::U32(FEED_FORWARD as u32)),
        ("llama.attention.head_count", Value::U32(HEADS)),
        ("llama.attention.head_count_kv", Value::U32(KV_HEADS)),
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
    header.retain(|(key, _)| more.iter().all(|(other, _)| other != key));
    let kv = head_size * u64::from(KV_HEADS);
    let mut tensors = vec![
        ("token_embd.weight".to_owned(), vec![HIDDEN, vocabulary]),
        ("output_norm.weight".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        let parts: [(&str, &[u64]); 9] = [
            ("attn_norm", &[HIDDEN]),
            ("attn_q", &[HIDDEN, HIDDEN]),
            ("attn_k", &[HIDDEN, kv]),
            ("attn_v", &[HIDDEN, kv]),
            ("attn_output", &[HIDDEN, HIDDEN]),
            ("ffn_norm", &[HIDDEN]),
            ("ffn_gate", &[HIDDEN, FEED_FORWARD]),
            ("ffn_up", &[HIDDEN, FEED_FORWARD]),
            ("ffn_down", &[FEED_FORWARD, HIDDEN]),
        ];
        let named =
            parts.map(|(part, shape)| (format!("blk.{layer}.{part}.weight"), shape.to_vec()));
        tensors.extend(named);
    }
    let path = folder.join("tiny.gguf");
    let mut bytes = Vec::new();
    bytes.extend_from_slice(b"GGUF");
    bytes.extend(3_u32.to_le_bytes());
    bytes.extend((tensors.len() as u64).to_le_bytes());
    bytes.extend(((header.len() + more.len()) as u64).to_le_bytes());
    for (key, value) in header.drain(..) {
        put(&mut bytes, key, &value);
    }
    for (key, value) in more {
        put(&mut bytes, key, value);
    }
    let mut offset = 0_u64;
    for (name, shape) in &tensors {
        text(&mut bytes, name);
        bytes.extend((shape.len() as u32).to_le_bytes());
        shape
            .iter()
            .for_each(|size| bytes.extend(size.to_le_bytes()));
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        offset += shape.iter().product::<u64>() * 4;
    }
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    let mut state = 1_u32;
    for (name, shape) in &tensors {
        for _ in 0..shape.iter().product::<u64>() {
            // Numerical Recipes' generator: any weights will do, as long as they are the same every time.
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let weight = match name.contains("norm") {
                true => 1.0,
                false => (f64::from(state >> 8) / f64::from(1 << 24) - 0.5) as f32 * 0.5,
            };
            bytes.extend(weight.to_le_bytes());
        }
    }
    std::fs::write(&path, bytes).expect("the folder is there");
    path
}

fn put(bytes: &mut Vec<u8>, key: &str, value: &Value<'_>) {
    text(bytes, key);
    let kind = |bytes: &mut Vec<u8>, number: u32| bytes.extend(number.to_le_bytes());
    match value {
        Value::U32(number) => {
            kind(bytes, 4);
            bytes.extend(number.to_le_bytes());
        }
        Value::F32(number) => {
            kind(bytes, 6);
            bytes.extend(number.to_le_bytes());
        }
        Value::Bool(flag) => {
            kind(bytes, 7);
            bytes.push(u8::from(*flag));
        }
        Value::Text(value) => {
            kind(bytes, 8);
            text(bytes, value);
        }
        Value::Texts(values) => {
            kind(bytes, 9);
            kind(bytes, 8);
            bytes.extend((values.len() as u64).to_le_bytes());
            values.iter().for_each(|value| text(bytes, value));
        }
        Value::I32s(values) => {
            kind(bytes, 9);
            kind(bytes, 5);
            bytes.extend((values.len() as u64).to_le_bytes());
            values
                .iter()
                .for_each(|value| bytes.extend(value.to_le_bytes()));
        }
    }
}

fn text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend_from_slice(text.as_bytes());
}

/// Each byte as GPT-2's byte-level alphabet writes it.
fn byte_level_names() -> Vec<String> {
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
