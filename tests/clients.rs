//! The verbatim examples of llama.cpp's server documentation of 2024 (`tests/clients/`) and our own (`examples/`), each
//! against a server with the real model. The generated text is random, so mostly the form of responses is checked.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

#[path = "common/browser.rs"]
mod browser;
mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;

use std::ffi::OsStr;
use std::fs;
use std::process::Command;

use browser::{ALL_IDLE, browse};
use common::file;
use program::ready_with;
use running::{Running, TIMEOUT};
use serde_json::{Value, json};

/// Port that the examples use; each test replaces it with the port of its server.
const PORT: &str = ":8080";
/// Default token limit for examples that set none.
const MAX_TOKENS: [&str; 2] = ["-n", "48"];

/// Runs an example with only its port replaced; returns its standard output.
fn run(program: impl AsRef<OsStr>, example: &str, address: &str) -> String {
    let text = fs::read_to_string(file("tests/clients").join(example)).unwrap();
    assert!(text.contains(PORT), "{text}");
    let (_, port) = address.rsplit_once(':').unwrap();
    let folder = tempfile::tempdir().unwrap();
    let text = text.replace(PORT, &format!(":{port}"));
    fs::write(folder.path().join(example), text).unwrap();
    let mut command = Command::new(program);
    command.arg(example).current_dir(folder.path());
    Running::start(command.env("NO_PROXY", "*")).wait_for_success()
}

/// Sends a GET request, or a POST request if there is a body; returns the response body.
async fn send(url: String, body: Option<Value>) -> String {
    let client = reqwest::Client::builder().timeout(TIMEOUT).no_proxy();
    let client = client.build().unwrap();
    let request = match body {
        Some(body) => client.post(url).json(&body),
        None => client.get(url),
    };
    let response = request.send().await.unwrap().error_for_status().unwrap();
    response.text().await.unwrap()
}

async fn send_json(url: String, body: Option<Value>) -> Value {
    serde_json::from_str(&send(url, body).await).unwrap()
}

/// The example "Testing with CURL".
#[test]
fn curl_completion() {
    let (_server, address) = ready_with(&[]);
    let printed = run("bash", "completion.sh", &address);
    let response: Value = serde_json::from_str(&printed).unwrap();
    assert_ne!(response["content"].as_str().unwrap(), "", "{response}");
    assert_eq!(response["stop"], true, "{response}");
    assert_eq!(
        response["prompt"], "Building a website can be done in 10 simple steps:",
        "{response}"
    );
    assert_eq!(
        response["model"].as_str(),
        common::model().to_str(),
        "{response}"
    );
    assert_eq!(
        response["generation_settings"]["n_predict"], 128,
        "{response}"
    );
    let flags = ["stopped_eos", "stopped_limit", "stopped_word"];
    let flags: Vec<_> = flags
        .iter()
        .filter(|flag| response[*flag] == true)
        .collect();
    assert_eq!(flags.len(), 1, "{response}");
    assert_eq!(response["stopping_word"], "", "{response}");
    assert_eq!(response["truncated"], false, "{response}");
}

/// The example "Node JS Test", which sends JSON without a content type.
#[test]
fn node_completion() {
    let (_server, address) = ready_with(&MAX_TOKENS);
    let printed = run("node", "index.js", &address);
    assert!(!printed.trim().is_empty());
    assert_ne!(printed, "undefined\n");
}

/// The examples of the section `POST /v1/chat/completions`.
#[test]
fn python_and_curl_chat_completion() {
    let (_server, address) = ready_with(&MAX_TOKENS);
    let python = file(".cache/sdks/bin/python");
    assert!(python.exists(), "run `make test-tools`");
    let printed = run(python, "chat_completion.py", &address);
    assert!(
        printed.starts_with("ChatCompletionMessage(content=")
            && printed.contains("role='assistant'"),
        "{printed}"
    );

    let printed = run("bash", "chat_completion.sh", &address);
    let response: Value = serde_json::from_str(&printed).unwrap();
    assert_eq!(response["object"], "chat.completion", "{response}");
    let choice = &response["choices"][0];
    assert_eq!(choice["message"]["role"], "assistant", "{response}");
    assert!(choice["message"]["content"].is_string(), "{response}");
    let finish_reason = choice["finish_reason"].as_str().unwrap();
    assert!(["stop", "length"].contains(&finish_reason), "{response}");
    assert!(
        response["usage"]["completion_tokens"].as_u64().unwrap() <= 48,
        "{response}"
    );
}

/// The examples of the section `POST /v1/embeddings`.
#[test]
fn curl_embeddings() {
    let (_server, address) = ready_with(&["--embedding"]);
    for (example, count) in [("embeddings.sh", 1), ("embeddings_of_several.sh", 2)] {
        let printed = run("bash", example, &address);
        let response: Value = serde_json::from_str(&printed).unwrap();
        let data = response["data"].as_array().unwrap();
        assert_eq!(data.len(), count, "{response}");
        let has_576_values = |item: &Value| {
            item["embedding"]
                .as_array()
                .is_some_and(|row| row.len() == 576)
        };
        assert!(data.iter().all(has_576_values), "{response}");
    }
}

/// The example "Extending or building alternative Web Front End": its page replaces the built-in one.
#[tokio::test]
async fn a_custom_page_imports_completion_js() {
    let folder = file("tests/clients");
    let (_server, address) =
        ready_with(&[&["--path", folder.to_str().unwrap()], &MAX_TOKENS[..]].concat());
    browse(&address, async |page| {
        // The example's first write replaces the whole page.
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

/// The example "Change system prompt on runtime", with the prompt set by a request and with the prompt set at startup.
#[tokio::test]
async fn the_example_system_prompt_applies_to_all_requests() {
    let path = file("tests/clients/system_prompt.json");
    let example: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    let body = json!({"prompt": " What is a songbird?\nAssistant:", "stop": ["User:"]});
    let mut with_system_prompt = body.clone();
    with_system_prompt["system_prompt"] = example["system_prompt"].clone();
    let at_start = ["-spf", path.to_str().unwrap()];
    for (options, first) in [(&[][..], with_system_prompt), (&at_start, body.clone())] {
        let (_server, address) = ready_with(&[options, &MAX_TOKENS[..]].concat());
        let response = send_json(format!("{address}/completion"), Some(first)).await;
        let evaluated = response["tokens_evaluated"].as_u64().unwrap();
        assert!(evaluated > 200, "{response}");
        let response = send_json(format!("{address}/completion"), Some(body.clone())).await;
        assert_eq!(response["tokens_evaluated"], evaluated, "{response}");

        let props = send_json(format!("{address}/props"), None).await;
        let prompt = &example["system_prompt"]["prompt"];
        assert_eq!(props["system_prompt"], *prompt, "{props}");
        assert_eq!(props["user_name"], "User:", "{props}");
        assert_eq!(props["assistant_name"], "Assistant:", "{props}");
    }
}

/// Runs a chat example with two input lines and checks that the second request contains the first response.
async fn check_chat_example(program: &str, example: &str) {
    let (_server, address) = ready_with(&MAX_TOKENS);
    let mut command = Command::new(program);
    command.arg(file(example)).arg(&address);
    let mut chat = Running::start(command.env("NO_PROXY", "*"));
    chat.write_stdin("Hello.\n");
    // The first response arrives before the next line is sent.
    let mut printed = chat.output.next().unwrap();
    chat.write_stdin("And now?\n");
    printed += &chat.wait_for_success();

    let slots = send_json(format!("{address}/slots"), None).await;
    let prompts: Vec<&str> = slots
        .as_array()
        .unwrap()
        .iter()
        .map(|slot| slot["prompt"].as_str().unwrap())
        .filter(|prompt| !prompt.is_empty())
        .collect();
    let [prompt] = prompts[..] else {
        panic!("the conversation does not use exactly one slot: {slots}")
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
async fn chat_example_for_node() {
    check_chat_example("node", "examples/chat.mjs").await;
}

#[tokio::test]
async fn chat_example_for_bash_curl_and_jq() {
    check_chat_example("bash", "examples/chat.sh").await;
}

/// promtool complains about colons in names and about counters without the suffix `_total`; llama.cpp's names have
/// both.
#[tokio::test]
async fn promtool_accepts_all_but_llama_cpps_metric_names() {
    let (_server, address) = ready_with(&["--metrics"]);
    let body = json!({"prompt": "A songbird", "n_predict": 8});
    send(format!("{address}/completion"), Some(body)).await;
    let metrics = send(format!("{address}/metrics"), None).await;
    let mut promtool = Running::start(Command::new("promtool").args(["check", "metrics"]));
    promtool.write_stdin(&metrics);
    let exit = promtool.wait();
    let complaints = exit.output + exit.errors.as_str();
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
