//! A model that follows a script: it calls one tool, and answers when the tool's result holds an expected text. It is an
//! ordinary GGUF file with a chat template, so that clients with long prompts get the same tool call every time, without a
//! large model.
//!
//! The model is a Markov chain over tokens: one layer without effect, an embedding that is one-hot in the token's state, and an
//! output matrix that gives the successor of each state a large logit. A script's pieces are user-defined tokens, so that the
//! tokenizer cuts a script as the model writes it. The chat template chooses the first state by its last token, the
//! generation prompt.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::common::gguf::{self, F32, Tensor, Value};
use crate::common::tiny::byte_level_names;

/// Width of the residual stream: the most states a script has, that of all other tokens among them.
const HIDDEN: usize = 64;
const HEAD: usize = 8;
const FEED_FORWARD: usize = 32;
/// Tokens. The prompts of coding agents have 30 to 80 KB, and each byte is a token.
const CONTEXT: u32 = 262_144;

const END: &str = "<|end|>";
// Generation prompts: without tools; before the call; after a result with the expected text; after any other result.
const PLAIN: &str = "<|plain|>";
const CALL: &str = "<|call|>";
const FOUND: &str = "<|found|>";
const LOST: &str = "<|lost|>";
const CONTROLS: [&str; 8] = [
    END,
    PLAIN,
    CALL,
    FOUND,
    LOST,
    "<|system|>",
    "<|user|>",
    "<|tool|>",
];

/// Chooses `FOUND` only if the conversation also holds the question and the call: a client may lose them.
const TEMPLATE: &str = r#"{%- set state = namespace(next='<|plain|>', asked=false, called=false) %}
{%- if tools %}
{%- set state.next = '<|call|>' %}
<|system|>{% for tool in tools %}{{ tool | tojson }}
{% endfor %}<|end|>
{%- endif %}
{%- for message in messages %}
<|{{ message.role }}|>{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- set state.called = state.asked %}
{%- endfor %}<|end|>
{%- if message.role == 'user' %}{% set state.asked = true %}{% endif %}
{%- if message.role == 'tool' %}
{%- set state.next = '<|found|>' if state.called and EXPECTED in message.content else '<|lost|>' %}
{%- endif %}
{%- endfor %}
{{- state.next }}"#;

/// What the model writes.
pub(crate) struct Script {
    /// The tool it calls.
    pub(crate) tool: &'static str,
    /// Names and values of the call's arguments, in the order of the tool's schema.
    pub(crate) arguments: Vec<(&'static str, &'static str)>,
    /// What the tool's result must hold.
    pub(crate) expected: &'static str,
    /// What it answers then.
    pub(crate) answer: &'static str,
}

/// What it answers where no tool is declared.
pub(crate) const PLAIN_ANSWER: &str = "A short title";
/// What it answers to a result without the expected text, or to one without its call.
const LOST_ANSWER: &str = "The conversation was lost";

impl Script {
    /// Writes the model into `folder`.
    pub(crate) fn write(&self, folder: &Path) -> PathBuf {
        let chains = [
            (PLAIN, vec![PLAIN_ANSWER.to_owned()]),
            (CALL, self.call()),
            (FOUND, vec![self.answer.to_owned()]),
            (LOST, vec![LOST_ANSWER.to_owned()]),
        ];
        let chains = chains.map(|(start, pieces)| {
            let start = std::iter::once(start.to_owned());
            let ended = pieces.into_iter().chain([END.to_owned()]);
            start.chain(ended).collect::<Vec<_>>()
        });
        let pieces = chains.iter().flat_map(|chain| &chain[1..chain.len() - 1]);
        let tokens: Vec<String> = byte_level_names()
            .into_iter()
            .chain(CONTROLS.map(str::to_owned))
            .chain(pieces.clone().cloned())
            .collect();
        let kinds = [
            vec![1; 256],
            vec![3; CONTROLS.len()],
            vec![4; pieces.count()],
        ]
        .concat();
        let end = Value::U32(256);
        let header = [
            ("general.architecture", Value::Text("llama")),
            ("llama.block_count", Value::U32(1)),
            ("llama.context_length", Value::U32(CONTEXT)),
            ("llama.embedding_length", Value::U32(HIDDEN as u32)),
            ("llama.feed_forward_length", Value::U32(FEED_FORWARD as u32)),
            ("llama.attention.head_count", Value::U32(1)),
            ("llama.attention.head_count_kv", Value::U32(1)),
            ("llama.attention.key_length", Value::U32(HEAD as u32)),
            ("llama.attention.value_length", Value::U32(HEAD as u32)),
            // Attention has no effect, so the smallest window is enough.
            ("llama.attention.sliding_window", Value::U32(32)),
            ("llama.attention.layer_norm_rms_epsilon", Value::F32(1e-5)),
            ("llama.rope.dimension_count", Value::U32(HEAD as u32)),
            ("llama.rope.freq_base", Value::F32(10_000.0)),
            ("tokenizer.ggml.model", Value::Text("gpt2")),
            ("tokenizer.ggml.pre", Value::Text("smollm")),
            ("tokenizer.ggml.tokens", Value::Texts(tokens.clone())),
            ("tokenizer.ggml.token_type", Value::I32s(kinds)),
            ("tokenizer.ggml.merges", Value::Texts(Vec::new())),
            ("tokenizer.ggml.eos_token_id", end.clone()),
            ("tokenizer.ggml.bos_token_id", end),
            ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
            (
                "tokenizer.chat_template",
                Value::Text(&TEMPLATE.replace("EXPECTED", &Json::from(self.expected).to_string())),
            ),
        ];
        let path = folder.join("scripted.gguf");
        gguf::write(&path, &header, &tensors(&tokens, &chains));
        path
    }

    /// The call in the format of Hermes, in pieces that are all different.
    fn call(&self) -> Vec<String> {
        let mut pieces = vec![
            "<tool_call>".to_owned(),
            "\n{\"name\": \"".to_owned(),
            self.tool.to_owned(),
        ];
        let mut before = "\", \"arguments\": {";
        for (name, value) in &self.arguments {
            let value = Json::from(*value).to_string();
            pieces.push(format!("{before}\"{name}\": \""));
            pieces.push(value.trim_matches('"').to_owned());
            before = "\", ";
        }
        pieces.push("\"}}\n</tool_call>".to_owned());
        pieces
    }
}

/// The tensors of a model that continues each chain.
fn tensors(tokens: &[String], chains: &[Vec<String>]) -> Vec<Tensor> {
    let ids: HashMap<&str, usize> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (&**token, id))
        .collect();
    let zeros = || vec![0.0; tokens.len() * HIDDEN];
    let (mut embedding, mut output) = (zeros(), zeros());
    let mut states = vec![0; tokens.len()];
    // After all other tokens the text ends. Where a grammar does not allow the end, the shortest JSON is most probable.
    for (token, logit) in [
        (END, 12.0),
        ("\"", 10.0),
        ("}", 8.0),
        ("]", 6.0),
        ("0", 4.0),
    ] {
        output[ids[token] * HIDDEN] = logit;
    }
    let pairs = chains.iter().flat_map(|chain| chain.windows(2));
    for (state, pair) in (1..).zip(pairs) {
        let (token, successor) = (ids[&*pair[0]], ids[&*pair[1]]);
        assert_eq!(
            states[token], 0,
            "the piece {:?} has two successors",
            pair[0]
        );
        states[token] = state;
        output[successor * HIDDEN + state] = 10.0;
    }
    for (token, state) in states.into_iter().enumerate() {
        embedding[token * HIDDEN + state] = 1.0;
    }
    let ones = vec![1.0; HIDDEN];
    let matrix = |rows, columns, weights| (vec![rows, columns], weights);
    let none = |rows: usize, columns| matrix(rows, columns, vec![0.0; rows * columns]);
    [
        ("token_embd", matrix(HIDDEN, tokens.len(), embedding)),
        ("output", matrix(HIDDEN, tokens.len(), output)),
        ("output_norm", (vec![HIDDEN], ones.clone())),
        ("blk.0.attn_norm", (vec![HIDDEN], ones.clone())),
        ("blk.0.attn_q", none(HIDDEN, HEAD)),
        ("blk.0.attn_k", none(HIDDEN, HEAD)),
        ("blk.0.attn_v", none(HIDDEN, HEAD)),
        ("blk.0.attn_output", none(HEAD, HIDDEN)),
        ("blk.0.ffn_norm", (vec![HIDDEN], ones)),
        ("blk.0.ffn_gate", none(HIDDEN, FEED_FORWARD)),
        ("blk.0.ffn_up", none(HIDDEN, FEED_FORWARD)),
        ("blk.0.ffn_down", none(FEED_FORWARD, HIDDEN)),
    ]
    .map(|(name, (shape, weights))| Tensor {
        name: format!("{name}.weight"),
        shape: shape.iter().map(|size| *size as u64).collect(),
        kind: F32,
        bytes: weights.into_iter().flat_map(f32::to_le_bytes).collect(),
    })
    .to_vec()
}
