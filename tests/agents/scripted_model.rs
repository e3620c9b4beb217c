//! Writes a GGUF model that follows a script: it calls one tool and answers when the tool's result contains an expected
//! text. Agents with long prompts thus get the same tool call every time, without a large model.
//!
//! The model is a Markov chain over tokens: one layer without effect, an embedding that is the one-hot vector of the
//! token's state, and an output matrix that gives the successor of each state a large logit. Each text of a script is a
//! user-defined token, so the tokenizer encodes the script to the tokens that the model generates. The chat template
//! selects the first state with the generation prompt, which is one token.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::common::gguf::{self, F32, Tensor, Value};
use crate::common::tiny::byte_level_tokens;

/// Width of the residual stream, which limits the number of states. State 0 belongs to all tokens outside the script.
const HIDDEN: usize = 64;
const HEAD: usize = 8;
const FEED_FORWARD: usize = 32;
/// Context in tokens. Prompts of coding agents have 30 to 80 KB, and each byte is a token.
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

/// Selects `FOUND` only if the conversation also contains the question and the call, which a client may lose.
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

/// The tool call and the answer of a scripted model.
pub(crate) struct Script {
    /// Name of the tool that the model calls.
    pub(crate) tool: &'static str,
    /// Names and values of the arguments, in the order of the tool's schema.
    pub(crate) arguments: Vec<(&'static str, &'static str)>,
    /// Text that the tool's result must contain.
    pub(crate) expected: &'static str,
    /// The model's answer to such a result.
    pub(crate) answer: &'static str,
}

/// The answer to a request without tools.
pub(crate) const PLAIN_ANSWER: &str = "A short title";
/// The answer to a result without the expected text, or without its call.
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
            let with_end = pieces.into_iter().chain([END.to_owned()]);
            start.chain(with_end).collect::<Vec<_>>()
        });
        let pieces = chains.iter().flat_map(|chain| &chain[1..chain.len() - 1]);
        let tokens: Vec<String> = byte_level_tokens()
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
            // Attention has no effect, so the smallest sliding window is enough.
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

    /// The tool call in Hermes format, as a sequence of distinct tokens.
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

/// The tensors of a model that generates each chain from its first token.
fn tensors(tokens: &[String], chains: &[Vec<String>]) -> Vec<Tensor> {
    let ids: HashMap<&str, usize> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (&**token, id))
        .collect();
    let zeros = || vec![0.0; tokens.len() * HIDDEN];
    let (mut embedding, mut output) = (zeros(), zeros());
    let mut states = vec![0; tokens.len()];
    // After any token outside the script, the end is most probable; where a grammar forbids it, the shortest JSON is.
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
    let zero_matrix = |rows: usize, columns| matrix(rows, columns, vec![0.0; rows * columns]);
    [
        ("token_embd", matrix(HIDDEN, tokens.len(), embedding)),
        ("output", matrix(HIDDEN, tokens.len(), output)),
        ("output_norm", (vec![HIDDEN], ones.clone())),
        ("blk.0.attn_norm", (vec![HIDDEN], ones.clone())),
        ("blk.0.attn_q", zero_matrix(HIDDEN, HEAD)),
        ("blk.0.attn_k", zero_matrix(HIDDEN, HEAD)),
        ("blk.0.attn_v", zero_matrix(HIDDEN, HEAD)),
        ("blk.0.attn_output", zero_matrix(HEAD, HIDDEN)),
        ("blk.0.ffn_norm", (vec![HIDDEN], ones)),
        ("blk.0.ffn_gate", zero_matrix(HIDDEN, FEED_FORWARD)),
        ("blk.0.ffn_up", zero_matrix(HIDDEN, FEED_FORWARD)),
        ("blk.0.ffn_down", zero_matrix(FEED_FORWARD, HIDDEN)),
    ]
    .map(|(name, (shape, weights))| Tensor {
        name: format!("{name}.weight"),
        shape: shape.iter().map(|size| *size as u64).collect(),
        kind: F32,
        bytes: weights.into_iter().flat_map(f32::to_le_bytes).collect(),
    })
    .to_vec()
}
