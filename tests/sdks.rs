//! Libraries of others against the program with the real model, as their users have them: only the address is set
//! (`tests/sdks/`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;

use std::path::{Path, PathBuf};
use std::process::Command;

use program::ready_with;
use running::Running;

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Runs a script's tests against a server with these options.
fn check(mut command: Command, script: &str, options: &[&str]) {
    let (_server, address) = ready_with(options);
    command
        .arg(file("tests/sdks").join(script))
        .env("ORTOLAN", address)
        .env("NO_PROXY", "*")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Running::start(&mut command).succeed();
}

fn python() -> Command {
    let python = file(".cache/sdks/bin/python");
    assert!(python.exists(), "run `make test-clients`");
    Command::new(python)
}

#[test]
fn openai_for_python() {
    // Few places, so that some are told to come back.
    check(python(), "openai_sdk.py", &["--embedding", "--queue", "2"]);
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
    check(python(), "anthropic_sdk.py", &[]);
}
