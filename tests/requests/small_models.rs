//! Model files of a few kilobytes with sizes, headers and templates that real files have: each answers a request, or is
//! refused when it is read. None becomes ready and then fails at each request.

use serde_json::{Value as Json, json};

use crate::common::gguf::Value;
use crate::common::tiny::{self, Sizes};
use crate::program::{ortolan, post};
use crate::running::Running;

/// What becomes of a file.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    /// The program ends with these words.
    Refused(&'static str),
    /// A conversation of a system prompt and a question is answered; its prompt is this one.
    Served(&'static str),
}
use Outcome::{Refused, Served};

const CHATML: &str = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n";
const USUAL: Outcome = Served(CHATML);

/// Serves the file that `sizes` and `header` make.
async fn check(name: &str, sizes: Sizes, header: &[(&str, Value<'_>)], outcome: Outcome) {
    let folder = tempfile::tempdir().unwrap();
    let path = tiny::model_of_sizes(folder.path(), sizes, header);
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
        (Refused(words), false) => assert!(log.contains(words), "{name}: {log}"),
        (Served(prompt), true) => {
            let address = address.unwrap();
            let body = json!({
                "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who?"}],
                "max_tokens": 2,
            });
            let answer = post(&address, "/v1/chat/completions", body.clone()).await;
            assert_eq!(answer["object"], "chat.completion", "{name}");
            let rendered = post(&address, "/apply-template", body).await;
            assert_eq!(rendered["prompt"], prompt, "{name}");
        }
        (outcome, _) => panic!("{name}: expected {outcome:?}: {log}"),
    }
}

#[tokio::test]
async fn sizes_are_computed_or_refused() {
    let usual = Sizes::default();
    let head = |head_size| Sizes { head_size, ..usual };
    for (name, sizes, outcome) in [
        ("as usual", usual, USUAL),
        // OpenLLaMA 3B.
        (
            "a head size of 100",
            head(100),
            Refused("a head size of 100"),
        ),
        ("a head size of 4", head(4), Refused("a head size of 4")),
        ("a head size of 24", head(24), USUAL),
        (
            "a head size of 1032",
            head(1032),
            Refused("a head size of 1032"),
        ),
        ("an odd head size", head(15), Refused("15")),
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
            "a head for each group",
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
            "heads that cannot be shared",
            Sizes {
                heads: 5,
                kv_heads: 2,
                ..usual
            },
            Refused("share"),
        ),
    ] {
        check(name, sizes, &[], outcome).await;
    }
}

#[tokio::test]
async fn headers_are_read_as_llama_cpp_reads_them() {
    let none = u32::MAX;
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
            Refused("odd"),
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
            Refused("llama.attention.head_count_kv"),
        ),
        (
            "no beginning-of-text token",
            vec![("tokenizer.ggml.bos_token_id", Value::U32(none))],
            USUAL,
        ),
        (
            "no padding token",
            vec![("tokenizer.ggml.padding_token_id", Value::U32(none))],
            USUAL,
        ),
        (
            "an unknown token of -1",
            vec![("tokenizer.ggml.unknown_token_id", Value::I32(-1))],
            USUAL,
        ),
        (
            "an end token beyond the vocabulary",
            vec![("tokenizer.ggml.eot_token_id", Value::U32(none))],
            USUAL,
        ),
        (
            "no layers",
            vec![("llama.block_count", Value::U32(0))],
            Refused("llama.block_count"),
        ),
        (
            "an odd rotation",
            vec![("llama.rope.dimension_count", Value::U32(7))],
            Refused("7"),
        ),
        (
            "a rotation wider than a head",
            vec![("llama.rope.dimension_count", Value::U32(18))],
            Refused("18"),
        ),
    ];
    for (name, header, outcome) in cases {
        check(name, Sizes::default(), &header, outcome).await;
    }
}

#[tokio::test]
async fn templates_show_the_users_text_or_are_refused() {
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
            "no template at all",
            "{% for %}",
            Refused("the chat template"),
        ),
    ];
    for (name, template, outcome) in templates {
        let header = [("tokenizer.chat_template", Value::Text(template))];
        check(name, Sizes::default(), &header, outcome).await;
    }
}
