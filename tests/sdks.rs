//! Unmodified third-party client libraries against the program with the real model; only the server's address is
//! configured (`tests/sdks/`).

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;

use std::process::Command;

use common::file;
use program::ready_with;
use running::Running;

/// Runs a test script against a server with these options.
fn check(mut command: Command, script: &str, options: &[&str]) {
    let (_server, address) = ready_with(options);
    command
        .arg(file("tests/sdks").join(script))
        .env("ORTOLAN", address)
        .env("NO_PROXY", "*")
        .env("PYTHONDONTWRITEBYTECODE", "1")
        // Without this, LiteLLM downloads a list of prices first.
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
    Running::start(&mut command).wait_for_success();
}

/// Python of this virtual environment in `.cache/`.
fn python(environment: &str) -> Command {
    let python = file(".cache").join(environment).join("bin/python");
    assert!(python.exists(), "run `make test-clients`");
    Command::new(python)
}

#[test]
fn openai_for_python() {
    // A short queue, so that some requests are rejected with a retry hint.
    check(
        python("sdks"),
        "openai_sdk.py",
        &["--embedding", "--queue", "2"],
    );
}

#[test]
fn openai_for_node() {
    let modules = file(".cache/node/node_modules");
    assert!(modules.exists(), "run `make test-clients`");
    let mut node = Command::new("node");
    node.env("NODE_PATH", modules).arg("--test");
    check(node, "openai_sdk.cjs", &["--embedding"]);
}

#[test]
fn anthropic_for_python() {
    check(python("sdks"), "anthropic_sdk.py", &[]);
}

#[test]
fn langchain() {
    let mut pytest = python("langchain");
    pytest.args(["-m", "pytest"]);
    check(
        pytest,
        "langchain_suite.py",
        &["--embedding", "--alias", "tiny"],
    );
}

#[test]
fn litellm() {
    let options = [
        "--embedding",
        "--alias",
        "tiny",
        "--strict-model-names",
        "--api-key",
        "secret",
    ];
    check(python("litellm"), "litellm_sdk.py", &options);
}

#[test]
fn instructor() {
    check(python("litellm"), "instructor_sdk.py", &[]);
}

#[test]
fn llm() {
    check(
        python("litellm"),
        "llm_command.py",
        &["--embedding", "--alias", "tiny"],
    );
}
