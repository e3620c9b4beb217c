//! The examples in the documentation of llama.cpp's server of 2024, word for word (`tests/clients/`), and our own
//! (`examples/`), each against a server with the real model. Chance has a part in what it says, so the form is
//! checked. Where an answer must not be empty, `min_p` keeps the model from ending at once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "common/browser.rs"]
mod browser;
mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use browser::{ALL_IDLE, browse};
use program::ready_with;
use running::{PATIENCE, Running};
use serde_json::{Value, json};

/// Where the server of 2024 listened.
const PORT: &str = ":8080";
/// A limit for the answers of clients that name none.
const SHORT: [&str; 2] = ["-n", "48"];

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs an example as it stands, but for the port, and answers what it printed.
fn run(program: impl AsRef<OsStr>, example: &str, address: &str) -> String {
    let text = fs::read_to_string(file("tests/clients").join(example)).unwrap();
    assert!(text.contains(PORT), "{text}");
    let (_, port) = address.rsplit_once(':').unwrap();
    let folder = tempfile::tempdir().unwrap();
    let text = text.replace(PORT, &format!(":{port}"));
    fs::write(folder.path().join(example), text).unwrap();
    let mut command = Command::new(program);
    command.arg(example).current_dir(folder.path());
    Running::start(command.env("NO_PROXY", "*")).succeed()
}

/// Asks the server beside a client: GET, or POST with a body.
async fn ask(url: String, body: Option<Value>) -> String {
    let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy();
    let client = client.build().unwrap();
    let request = match body {
        Some(body) => client.post(url).json(&body),
        None => client.get(url),
    };
    let answer = request.send().await.unwrap().error_for_status().unwrap();
    answer.text().await.unwrap()
}

async fn ask_json(url: String, body: Option<Value>) -> Value {
    serde_json::from_str(&ask(url, body).await).unwrap()
}

/// "Testing with CURL".
#[test]
fn curl_asks_for_a_completion() {
    let (_server, address) = ready_with(&[]);
    let printed = run("bash", "completion.sh", &address);
    let answer: Value = serde_json::from_str(&printed).unwrap();
    assert_ne!(answer["content"].as_str().unwrap(), "", "{answer}");
    assert_eq!(answer["stop"], true, "{answer}");
    assert_eq!(
        answer["prompt"], "Building a website can be done in 10 simple steps:",
        "{answer}"
    );
    assert_eq!(
        answer["model"].as_str(),
        common::model().to_str(),
        "{answer}"
    );
    assert_eq!(answer["generation_settings"]["n_predict"], 128, "{answer}");
    let ends = ["stopped_eos", "stopped_limit", "stopped_word"];
    let ends: Vec<_> = ends.iter().filter(|end| answer[*end] == true).collect();
    assert_eq!(ends.len(), 1, "{answer}");
    assert_eq!(answer["stopping_word"], "", "{answer}");
    assert_eq!(answer["truncated"], false, "{answer}");
}

/// "Node JS Test": it does not say that its body is JSON.
#[test]
fn node_asks_for_a_completion() {
    let (_server, address) = ready_with(&SHORT);
    let printed = run("node", "index.js", &address);
    assert!(!printed.trim().is_empty());
    assert_ne!(printed, "undefined\n");
}

/// The requests of `POST /v1/chat/completions`.
#[test]
fn python_and_curl_chat() {
    let (_server, address) = ready_with(&SHORT);
    let python = file(".cache/sdks/bin/python");
    assert!(python.exists(), "run `make test-tools`");
    let printed = run(python, "chat_completion.py", &address);
    assert!(
        printed.starts_with("ChatCompletionMessage(content=")
            && printed.contains("role='assistant'"),
        "{printed}"
    );

    let printed = run("bash", "chat_completion.sh", &address);
    let answer: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(answer["object"], "chat.completion", "{answer}");
    let choice = &answer["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant", "{answer}");
    assert!(choice["message"]["content"].is_string(), "{answer}");
    let end = choice["finish_reason"].as_str().unwrap();
    assert!(["stop", "length"].contains(&end), "{answer}");
    assert!(
        answer["usage"]["completion_tokens"].as_u64().unwrap() <= 48,
        "{answer}"
    );
}

/// The requests of `POST /v1/embeddings`.
#[test]
fn curl_embeds() {
    let (_server, address) = ready_with(&["--embedding"]);
    for (example, count) in [("embeddings.sh", 1), ("embeddings_of_several.sh", 2)] {
        let printed = run("bash", example, &address);
        let answer: Value = serde_json::from_str(&printed).unwrap();
        let data = answer["data"].as_array().unwrap();
        assert_eq!(data.len(), count, "{answer}");
        let wide = |item: &Value| {
            item["embedding"]
                .as_array()
                .is_some_and(|row| row.len() == 576)
        };
        assert!(data.iter().all(wide), "{answer}");
    }
}

/// "Extending or building alternative Web Front End": its page takes the place of ours.
#[tokio::test]
async fn a_page_imports_completion_js() {
    let folder = file("tests/clients");
    let (_server, address) =
        ready_with(&[&["--path", folder.to_str().unwrap()], &SHORT[..]].concat());
    browse(&address, async |page| {
        // The first thing that the example writes replaces all that was in the page.
        let written = "!document.documentElement?.outerHTML.includes('completion.js')
            && document.documentElement?.outerHTML";
        page.until(written).await?;
        page.until(ALL_IDLE).await?;
        let text = page.until_text(written).await?;
        assert_ne!(text, "<html><head></head><body></body></html>");
        Ok(())
    })
    .await;
}

/// "Change system prompt on runtime", at run time and at the start.
#[tokio::test]
async fn the_example_of_a_system_prompt_is_everybodys() {
    let path = file("tests/clients/system_prompt.json");
    let example: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let question = json!({"prompt": " What is a songbird?\nAssistant:", "stop": ["User:"]});
    let mut with_system_prompt = question.clone();
    with_system_prompt["system_prompt"] = example["system_prompt"].clone();
    let at_start = ["-spf", path.to_str().unwrap()];
    for (options, first) in [(&[][..], with_system_prompt), (&at_start, question.clone())] {
        let (_server, address) = ready_with(&[options, &SHORT[..]].concat());
        let answer = ask_json(format!("{address}/completion"), Some(first)).await;
        let evaluated = answer["tokens_evaluated"].as_u64().unwrap();
        assert!(evaluated > 200, "{answer}");
        let answer = ask_json(format!("{address}/completion"), Some(question.clone())).await;
        assert_eq!(answer["tokens_evaluated"], evaluated, "{answer}");

        let props = ask_json(format!("{address}/props"), None).await;
        let prompt = &example["system_prompt"]["prompt"];
        assert_eq!(props["system_prompt"], *prompt, "{props}");
        assert_eq!(props["user_name"], "User:", "{props}");
        assert_eq!(props["assistant_name"], "Assistant:", "{props}");
    }
}

/// A conversation of two lines: each is answered, and the second line is sent with what was answered to the first.
async fn converse(program: &str, example: &str) {
    let (_server, address) = ready_with(&SHORT);
    let mut command = Command::new(program);
    command.arg(file(example)).arg(&address);
    let mut chat = Running::start(command.env("NO_PROXY", "*"));
    chat.say("Hello.\n");
    // It is answered before the next line is said.
    let mut printed = chat.output.next().unwrap();
    chat.say("And now?\n");
    printed += &chat.succeed();

    let slots = ask_json(format!("{address}/slots"), None).await;
    let prompts: Vec<&str> = slots
        .as_array()
        .unwrap()
        .iter()
        .map(|slot| slot["prompt"].as_str().unwrap())
        .filter(|prompt| !prompt.is_empty())
        .collect();
    let [prompt] = prompts[..] else {
        panic!("it has a slot of its own: {slots}")
    };
    let (_, rest) = prompt.split_once("\nPerson: Hello.\nAssistant:").unwrap();
    let first = rest.strip_suffix("\nPerson: And now?\nAssistant:").unwrap();
    assert!(
        printed.starts_with(&format!("{first}\n")) && printed.ends_with('\n'),
        "{prompt}\n\n{printed}"
    );
    assert!(printed.len() > first.len() + 1, "{prompt}\n\n{printed}");
}

#[tokio::test]
async fn a_conversation_with_node() {
    converse("node", "examples/chat.mjs").await;
}

#[tokio::test]
async fn a_conversation_with_bash_curl_and_jq() {
    converse("bash", "examples/chat.sh").await;
}

/// It objects to colons in names, and to a counter that does not end in `_total`; llama.cpp's names have both.
#[tokio::test]
async fn promtool_finds_nothing_wrong_with_the_metrics() {
    let (_server, address) = ready_with(&["--metrics"]);
    let body = json!({"prompt": "A songbird", "n_predict": 8});
    ask(format!("{address}/completion"), Some(body)).await;
    let metrics = ask(format!("{address}/metrics"), None).await;
    let mut promtool = Running::start(Command::new("promtool").args(["check", "metrics"]));
    promtool.say(&metrics);
    let ended = promtool.end();
    let complaints = ended.output + ended.errors.as_str();
    let suffix = "llamacpp:n_tokens_max counter metrics should have \"_total\" suffix";
    let (suffixes, colons): (Vec<&str>, Vec<&str>) =
        complaints.lines().partition(|line| *line == suffix);
    assert_eq!((suffixes.len(), colons.len()), (1, 16), "{complaints}");
    let is_llama_cpps = |line: &&str| {
        let name = line.strip_suffix(" metric names should not contain ':'");
        name.is_some_and(|name| name.starts_with("llamacpp:"))
    };
    assert!(colons.iter().all(is_llama_cpps), "{complaints}");
}
