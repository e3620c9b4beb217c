//! The OpenAPI document in third-party tools: linters report no problems; generated clients have every operation and
//! work against the program with the real model (`tests/openapi/`).

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use common::file;
use ortolan::api::document;
use program::ready_with;
use running::Running;
use serde_json::Value;
use tempfile::TempDir;

/// A temporary folder that contains the document as `openapi.json`.
fn folder_with_document() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("openapi.json"), document::JSON).unwrap();
    folder
}

/// A Node program that `make test-clients` installs, with this working directory.
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

/// The operation ids of the document.
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
    let exit = Running::start(&mut command).wait();
    let report: Value = serde_json::from_str(&exit.output)
        .unwrap_or_else(|error| panic!("{error}: {}{}", exit.output, exit.errors));
    // The exit code is 0 even if there are warnings.
    assert_eq!(
        report["problems"].as_array().unwrap().len(),
        0,
        "{report:#}"
    );
    assert_eq!(exit.code, Some(0), "{}", exit.errors);
}

#[test]
fn lint_spectral() {
    let folder = folder_with_document();
    let mut command = node_tool("spectral", folder.path());
    command
        .args(["lint", "--fail-severity", "hint", "--ruleset"])
        .arg(file(".ci/spectral.yaml"))
        .arg("openapi.json");
    Running::start(&mut command).wait_for_success();
}

#[test]
fn openapi_python_client() {
    let bin = file(".cache/openapi_python/bin");
    assert!(bin.exists(), "run `make test-clients`");
    let folder = folder_with_document();
    let mut generator = Command::new(bin.join("openapi-python-client"));
    // The generator formats its output with the ruff of the same environment.
    let path = std::env::var("PATH").unwrap_or_default();
    generator
        .args(["generate", "--meta", "none", "--path", "openapi.json"])
        .args(["--output-path", "generated"])
        .env("PATH", format!("{}:{path}", bin.display()))
        .current_dir(folder.path());
    Running::start(&mut generator).wait_for_success();
    let (_server, address) = ready_with(&["--embedding"]);
    let mut client = Command::new(bin.join("python"));
    client
        .arg(file("tests/openapi/python_client.py"))
        .env("ORTOLAN", address)
        .env("PACKAGES", folder.path())
        .env("DOCUMENT", folder.path().join("openapi.json"))
        .env("NO_PROXY", "*")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Running::start(&mut client).wait_for_success();
}

#[test]
fn openapi_typescript() {
    let folder = folder_with_document();
    let path_of = |name: &str| folder.path().join(name);
    symlink(
        file(".cache/openapi_node/node_modules"),
        path_of("node_modules"),
    )
    .unwrap();
    fs::write(path_of("package.json"), r#"{"type": "module"}"#).unwrap();
    let mut generator = node_tool("openapi-typescript", folder.path());
    // Without this option, properties with a default are required in requests.
    generator.args(["openapi.json", "--default-non-nullable", "false"]);
    generator.args(["--output", "generated.d.ts"]);
    Running::start(&mut generator).wait_for_success();
    let expected = serde_json::to_string(&operations()).unwrap();
    let expected = format!(
        "import type {{ operations }} from './generated.js'\n\
         export const expected: (keyof operations)[] = {expected}\n"
    );
    fs::write(path_of("expected.ts"), expected).unwrap();
    let client = "typescript_client.ts";
    fs::copy(file("tests/openapi").join(client), path_of(client)).unwrap();
    let mut compiler = node_tool("tsc", folder.path());
    compiler.args(["--strict", "--target", "es2022", "--types", "node"]);
    compiler.args(["--module", "nodenext", "--moduleResolution", "nodenext"]);
    compiler.args([client, "generated.d.ts"]);
    Running::start(&mut compiler).wait_for_success();
    let (_server, address) = ready_with(&[]);
    let mut node = Command::new("node");
    node.args(["--test", "typescript_client.js"])
        .env("ORTOLAN", address)
        .current_dir(folder.path());
    Running::start(&mut node).wait_for_success();
}
