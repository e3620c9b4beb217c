//! What others make of the document: linters find nothing in it, and the clients that generators write have every
//! operation and work against the program with the real model (`tests/openapi/`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use ortolan::api::document;
use program::ready_with;
use running::Running;
use serde_json::Value;
use tempfile::TempDir;

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A folder with the document as `openapi.json`.
fn folder_with_document() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("openapi.json"), document::JSON).unwrap();
    folder
}

/// A program of Node's that `make test-clients` installs, in a folder.
fn node_tool(name: &str, folder: &Path) -> Command {
    let tool = file(".cache/openapi_node/node_modules/.bin").join(name);
    assert!(tool.exists(), "run `make lint-openapi`");
    let mut command = Command::new(tool);
    command
        .current_dir(folder)
        .env("REDOCLY_TELEMETRY", "off")
        .env("REDOCLY_SUPPRESS_UPDATE_NOTICE", "true");
    command
}

/// The names of the document's operations.
fn operations() -> Vec<&'static str> {
    let paths = document::DOCUMENT["paths"].as_object().unwrap();
    let operations = paths.values().flat_map(|item| item.as_object().unwrap());
    operations
        .map(|(_, operation)| operation["operationId"].as_str().unwrap())
        .collect()
}

#[test]
fn lint_redocly() {
    let folder = folder_with_document();
    let mut command = node_tool("redocly", folder.path());
    command
        .args(["lint", "--format", "json", "--config"])
        .arg(file(".ci/redocly.yaml"))
        .arg("openapi.json");
    let ended = Running::start(&mut command).end();
    let report: Value = serde_json::from_str(&ended.output)
        .unwrap_or_else(|error| panic!("{error}: {}{}", ended.output, ended.errors));
    // Warnings leave its exit status at 0.
    assert_eq!(
        report["problems"].as_array().unwrap().len(),
        0,
        "{report:#}"
    );
    assert_eq!(ended.code, Some(0), "{}", ended.errors);
}

#[test]
fn lint_spectral() {
    let folder = folder_with_document();
    let mut command = node_tool("spectral", folder.path());
    command
        .args(["lint", "--fail-severity", "hint", "--ruleset"])
        .arg(file(".ci/spectral.yaml"))
        .arg("openapi.json");
    Running::start(&mut command).succeed();
}

#[test]
fn openapi_python_client() {
    let bin = file(".cache/openapi_python/bin");
    assert!(bin.exists(), "run `make test-clients`");
    let folder = folder_with_document();
    let mut generator = Command::new(bin.join("openapi-python-client"));
    // It formats what it has written with the ruff beside it.
    let path = std::env::var("PATH").unwrap_or_default();
    generator
        .args(["generate", "--meta", "none", "--path", "openapi.json"])
        .args(["--output-path", "generated"])
        .env("PATH", format!("{}:{path}", bin.display()))
        .current_dir(folder.path());
    Running::start(&mut generator).succeed();
    let (_server, address) = ready_with(&["--embedding"]);
    let mut client = Command::new(bin.join("python"));
    client
        .arg(file("tests/openapi/python_client.py"))
        .env("ORTOLAN", address)
        .env("PACKAGES", folder.path())
        .env("DOCUMENT", folder.path().join("openapi.json"))
        .env("NO_PROXY", "*")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Running::start(&mut client).succeed();
}

#[test]
fn openapi_typescript() {
    let folder = folder_with_document();
    let inside = |name: &str| folder.path().join(name);
    symlink(
        file(".cache/openapi_node/node_modules"),
        inside("node_modules"),
    )
    .unwrap();
    fs::write(inside("package.json"), r#"{"type": "module"}"#).unwrap();
    let mut generator = node_tool("openapi-typescript", folder.path());
    // Without the option a property with a default is one that every request must have.
    generator.args(["openapi.json", "--default-non-nullable", "false"]);
    generator.args(["--output", "generated.d.ts"]);
    Running::start(&mut generator).succeed();
    let wanted = serde_json::to_string(&operations()).unwrap();
    let wanted = format!(
        "import type {{ operations }} from './generated.js'\n\
         export const wanted: (keyof operations)[] = {wanted}\n"
    );
    fs::write(inside("wanted.ts"), wanted).unwrap();
    let client = "typescript_client.ts";
    fs::copy(file("tests/openapi").join(client), inside(client)).unwrap();
    let mut compiler = node_tool("tsc", folder.path());
    compiler.args(["--strict", "--target", "es2022", "--types", "node"]);
    compiler.args(["--module", "nodenext", "--moduleResolution", "nodenext"]);
    compiler.args([client, "generated.d.ts"]);
    Running::start(&mut compiler).succeed();
    let (_server, address) = ready_with(&[]);
    let mut node = Command::new("node");
    node.args(["--test", "typescript_client.js"])
        .env("ORTOLAN", address)
        .current_dir(folder.path());
    Running::start(&mut node).succeed();
}
