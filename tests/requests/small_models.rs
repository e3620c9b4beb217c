//! Tiny models with the sizes, metadata and templates of real files. Each is either rejected at load or serves
//! requests: no model becomes ready and then fails every request. NaN logits fail only the affected request.

use serde_json::{Value as Json, json};

use crate::common::gguf::{Tensor, Value};
use crate::common::tiny::{self, Sizes};
use crate::program::{listening, ortolan, post, startup_error};
use crate::running::Running;

/// Expected result of serving a model file.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// The program exits with an error that contains this text.
    Rejected(&'static str),
    /// A chat completion succeeds; its rendered prompt is this text.
    Served(&'static str),
}
use Outcome::{Rejected, Served};

const CHATML: &str = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n";
const USUAL: Outcome = Served(CHATML);

/// Serves a model with these dimensions and metadata, and checks the outcome.
async fn check(name: &str, sizes: Sizes, header: &[(&str, Value<'_>)], outcome: Outcome) {
    let folder = tempfile::tempdir().unwrap();
    let path = tiny::model_with_sizes(folder.path(), sizes, header);
    let mut program = Running::start(ortolan().arg("-m").arg(path));
    let mut address = None;
    let mut log = String::new();
    for line in program.errors.by_ref() {
        if line.contains("listening") {
            let event: Json = serde_json::from_str(&line).unwrap();
            address = event["address"].as_str().map(str::to_owned);
        }
        log += &line;
        if line.contains("the model is ready") {
            break;
        }
    }
    match (outcome, log.contains("the model is ready")) {
        (Rejected(error), false) => assert!(log.contains(error), "{name}: {log}"),
        (Served(prompt), true) => {
            let address = address.unwrap();
            let body = json!({
                "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}],
                "max_tokens": 2,
            });
            let response = post(&address, "/v1/chat/completions", body.clone()).await;
            assert_eq!(response["object"], "chat.completion", "{name}");
            let rendered = post(&address, "/apply-template", body).await;
            assert_eq!(rendered["prompt"], prompt, "{name}");
        }
        (outcome, _) => panic!("{name}: expected {outcome:?}: {log}"),
    }
}

#[tokio::test]
async fn model_sizes_are_supported_or_rejected() {
    let usual = Sizes::default();
    let head = |head_size| Sizes { head_size, ..usual };
    for (name, sizes, outcome) in [
        ("as usual", usual, USUAL),
        // OpenLLaMA 3B.
        (
            "a head size of 100",
            head(100),
            Rejected("a head size of 100"),
        ),
        ("a head size of 4", head(4), Rejected("a head size of 4")),
        ("a head size of 24", head(24), USUAL),
        (
            "a head size of 1032",
            head(1032),
            Rejected("a head size of 1032"),
        ),
        ("an odd head size", head(15), Rejected("15")),
        (
            "an odd width",
            Sizes {
                hidden: 61,
                ..usual
            },
            USUAL,
        ),
        (
            "an odd feed-forward width",
            Sizes {
                feed_forward: 77,
                ..usual
            },
            USUAL,
        ),
        (
            "a key/value head for each query head",
            Sizes {
                heads: 3,
                kv_heads: 3,
                ..usual
            },
            USUAL,
        ),
        (
            "one key head",
            Sizes {
                heads: 5,
                kv_heads: 1,
                ..usual
            },
            USUAL,
        ),
        (
            "query heads that are not a multiple of key/value heads",
            Sizes {
                heads: 5,
                kv_heads: 2,
                ..usual
            },
            Rejected("is not a multiple"),
        ),
    ] {
        check(name, sizes, &[], outcome).await;
    }
}

#[tokio::test]
async fn metadata_is_read_as_llama_cpp_reads_it() {
    let no_token = u32::MAX;
    let yarn = || ("llama.rope.scaling.type", Value::Text("yarn"));
    let factor = || ("llama.rope.scaling.factor", Value::F32(2.0));
    let cases = [
        (
            "YaRN without the original context",
            vec![yarn(), factor()],
            USUAL,
        ),
        (
            "scaling of an unknown type",
            vec![("llama.rope.scaling.type", Value::Text("odd"))],
            Rejected("odd"),
        ),
        (
            "key heads for each layer",
            vec![("llama.attention.head_count_kv", Value::I32s(vec![2, 2]))],
            USUAL,
        ),
        (
            "heads for each layer",
            vec![("llama.attention.head_count", Value::I32s(vec![4, 4]))],
            USUAL,
        ),
        (
            "widths for each layer",
            vec![("llama.feed_forward_length", Value::I32s(vec![128, 128]))],
            USUAL,
        ),
        (
            "layers with different key heads",
            vec![("llama.attention.head_count_kv", Value::I32s(vec![2, 4]))],
            Rejected("llama.attention.head_count_kv"),
        ),
        (
            "no beginning-of-text token",
            vec![("tokenizer.ggml.bos_token_id", Value::U32(no_token))],
            USUAL,
        ),
        (
            "no padding token",
            vec![("tokenizer.ggml.padding_token_id", Value::U32(no_token))],
            USUAL,
        ),
        (
            "an unknown token of -1",
            vec![("tokenizer.ggml.unknown_token_id", Value::I32(-1))],
            USUAL,
        ),
        (
            "an end token beyond the vocabulary",
            vec![("tokenizer.ggml.eot_token_id", Value::U32(no_token))],
            USUAL,
        ),
        (
            "no layers",
            vec![("llama.block_count", Value::U32(0))],
            Rejected("llama.block_count"),
        ),
        (
            "an odd rotation",
            vec![("llama.rope.dimension_count", Value::U32(7))],
            Rejected("7"),
        ),
        (
            "a rotation wider than a head",
            vec![("llama.rope.dimension_count", Value::U32(18))],
            Rejected("18"),
        ),
    ];
    for (name, header, outcome) in cases {
        check(name, Sizes::default(), &header, outcome).await;
    }
}

#[tokio::test]
async fn templates_render_the_users_text_or_are_rejected() {
    const PROMPT: Outcome = Served("[system]Be brief.[user]Who?");
    let templates = [
        (
            "strings",
            "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}",
            PROMPT,
        ),
        (
            "parts",
            "{% for m in messages %}[{{ m.role }}]{% for part in m['content'] %}\
             {% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}",
            PROMPT,
        ),
        (
            "generation blocks",
            "{% for m in messages %}[{{ m.role }}]{%- generation -%}{{ m.content }}{%- endgeneration -%}{% endfor %}",
            PROMPT,
        ),
        (
            "methods and filters of Python",
            "{% for m in messages %}{{ '[%s]' % m.role }}{{ (m | tojson(sort_keys=true, separators=(',', ':')) \
             | fromjson).content.removeprefix('x').rsplit('~', 1)[-1].partition('~')[0] }}{% endfor %}",
            PROMPT,
        ),
        (
            "an invalid template",
            "{% for %}",
            Rejected("invalid chat template"),
        ),
    ];
    for (name, template, outcome) in templates {
        let header = [("tokenizer.chat_template", Value::Text(template))];
        check(name, Sizes::default(), &header, outcome).await;
    }
}

/// Removes the last row of a matrix, or the last value of a vector.
fn shorten(tensor: &mut Tensor) {
    let size = tensor.shape.last_mut().unwrap();
    let kept = tensor.bytes.len() / *size as usize * (*size as usize - 1);
    *size -= 1;
    tensor.bytes.truncate(kept);
}

#[test]
fn a_tensor_with_the_wrong_size_is_rejected() {
    let mut names = Vec::new();
    let folder = tempfile::tempdir().unwrap();
    tiny::changed_model(folder.path(), Sizes::default(), &[], |tensors| {
        names.extend(tensors.iter().map(|tensor| tensor.name.clone()));
    });
    names.retain(|name| !name.starts_with("blk.1."));
    assert_eq!(names.len(), 11);
    for name in names {
        let folder = tempfile::tempdir().unwrap();
        let path = tiny::changed_model(folder.path(), Sizes::default(), &[], |tensors| {
            let tensor = tensors.iter_mut().find(|tensor| tensor.name == name);
            shorten(tensor.unwrap());
        });
        let mut command = ortolan();
        command.arg("-m").arg(path);
        let (code, message) = startup_error(command);
        assert_eq!(code, Some(1), "{name}");
        assert!(message.contains(&name), "{name}: {message}");
    }
}

/// The output dimensions of a graph are only known after its first step.
#[test]
fn an_imported_graph_with_wrong_output_sizes_does_not_become_ready() {
    let golden =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/exports/genai");
    for (pointer, size, error) in [
        ("/model/vocab_size", 301, "elements, expected 602"),
        ("/model/decoder/hidden_size", 65, "elements, expected 65"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(&golden).unwrap() {
            let entry = entry.unwrap();
            std::fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        let path = folder.path().join("genai_config.json");
        let mut config: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        *config.pointer_mut(pointer).unwrap() = json!(size);
        std::fs::write(&path, config.to_string()).unwrap();
        let mut program = Running::start(ortolan().arg("-m").arg(folder.path()));
        let log: String = program.errors.by_ref().collect();
        assert!(!log.contains("the model is ready"), "{pointer}: {log}");
        let has_failed = log.contains("the warm-up step failed") && log.contains(error);
        assert!(has_failed, "{pointer}: {log}");
        assert_eq!(program.wait().code, Some(1));
    }
}

/// The byte whose token has an embedding of NaN.
const NAN_BYTE: u8 = b'%';

/// Serves a model whose logits are NaN for texts with [`NAN_BYTE`].
fn serve_model_with_nan(folder: &std::path::Path) -> (Running, String) {
    let path = tiny::changed_model(folder, Sizes::default(), &[], |tensors| {
        let embeddings = tensors
            .iter_mut()
            .find(|tensor| tensor.name == "token_embd.weight");
        let embeddings = embeddings.unwrap();
        let output = Tensor {
            name: "output.weight".to_owned(),
            ..embeddings.clone()
        };
        let row = embeddings.shape[0] as usize * size_of::<f32>();
        // The token id of a byte is the byte's value.
        let nan_row = &mut embeddings.bytes[row * usize::from(NAN_BYTE)..][..row];
        for number in nan_row.chunks_exact_mut(size_of::<f32>()) {
            number.copy_from_slice(&f32::NAN.to_le_bytes());
        }
        tensors.push(output);
    });
    let mut command = ortolan();
    command
        .arg("-m")
        .arg(path)
        .args(["--parallel", "3", "--embedding"]);
    let (mut program, address) = listening(command);
    program.wait_for_log("the model is ready");
    (program, address)
}

/// Sends a POST request; returns the HTTP status and the body.
async fn send(address: &str, path: &str, body: Json) -> (u16, String) {
    let request = reqwest::Client::new().post(format!("{address}{path}"));
    let response = request.json(&body).send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test]
async fn nan_logits_fail_only_the_affected_request() {
    let folder = tempfile::tempdir().unwrap();
    let (_program, address) = serve_model_with_nan(folder.path());
    let usual = |n_predict: usize| json!({"prompt": "abcabc", "n_predict": n_predict, "temperature": 0, "logit_bias": [[NAN_BYTE, false]]});
    let alone = post(&address, "/completion", usual(100)).await["content"].clone();
    let chat = |stream: bool| json!({"messages": [{"role": "user", "content": "5 % of it"}], "max_tokens": 4, "stream": stream});
    let bodies = [
        (
            "/completion",
            json!({"prompt": "5 % of it", "n_predict": 4}),
        ),
        (
            "/v1/completions",
            json!({"prompt": "5 % of it", "max_tokens": 4}),
        ),
        ("/v1/chat/completions", chat(false)),
        (
            "/v1/messages",
            json!({"model": "tiny", "messages": [{"role": "user", "content": "5 % of it"}], "max_tokens": 4}),
        ),
        (
            "/v1/responses",
            json!({"input": "5 % of it", "max_output_tokens": 4}),
        ),
        ("/v1/embeddings", json!({"input": "5 % of it"})),
    ];
    for (path, body) in bodies {
        // Both requests share steps, in which the affected one fails.
        let (other, (status, text)) = tokio::join!(
            post(&address, "/completion", usual(100)),
            send(&address, path, body)
        );
        assert_eq!(other["content"], alone, "concurrently with {path}");
        assert_eq!(status, 500, "{path}: {text}");
        let names_the_step = text.contains("the computation failed: step ");
        assert!(names_the_step && text.contains("NaN"), "{path}: {text}");
    }
    let (status, events) = send(&address, "/v1/chat/completions", chat(true)).await;
    assert!(
        events.contains("the computation failed: step "),
        "{status}: {events}"
    );
    assert!(
        events.contains("error") && !events.contains("finish_reason\":\"stop"),
        "{events}"
    );
    // NaN logits also fail requests that only score their prompt.
    let echo = json!({"prompt": "5 % of it", "max_tokens": 0, "echo": true, "logprobs": 1});
    let (status, text) = send(&address, "/v1/completions", echo).await;
    assert_eq!(status, 500, "{text}");
    assert_eq!(
        post(&address, "/completion", usual(100)).await["content"],
        alone
    );
}
