//! Unmodified coding agents and tool runners against the program. A scripted model calls a tool, the client runs it and sends
//! the result, and the model answers (`tests/agents/`).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;
#[path = "agents/scripted_model.rs"]
mod scripted_model;

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use program::{listening, ortolan, ready_with};
use running::Running;
use scripted_model::Script;
use tempfile::TempDir;

const NOTE: &str = "A grey heron stands in the river.\n";
const READ_NOTE: &str = "cat note.txt | tee copy.txt";
const QUESTION: &str = "Which bird does note.txt name?";
const ANSWER: &str = "The note names a heron.";

/// A file of the repository.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Writes a scripted model into `folder` and serves it.
fn scripted(folder: &Path, script: &Script) -> (Running, String) {
    let mut command = ortolan();
    command.args([
        "--parallel",
        "2",
        "--ctx-size",
        "262144",
        "--alias",
        "scripted",
        "-m",
    ]);
    command.arg(script.write(folder));
    let (mut server, address) = listening(command);
    server.says("the model is ready");
    (server, address)
}

/// The model reads and copies a note with a shell command.
fn reads_note(tool: &'static str, argument: &'static str) -> Script {
    Script {
        tool,
        arguments: vec![(argument, READ_NOTE)],
        expected: NOTE.trim_end(),
        answer: ANSWER,
    }
}

/// The model asks for the weather in Rome.
fn asks_for_weather() -> Script {
    Script {
        tool: "get_weather",
        arguments: vec![("city", "Rome")],
        expected: "rain in Rome",
        answer: "It rains in Rome.",
    }
}

/// The process group of an agent, which is killed at the end of the test.
struct Group(u32);

impl Drop for Group {
    fn drop(&mut self) {
        let group = format!("-{}", self.0);
        let mut kill = Command::new("kill");
        // It fails if the group has ended, as it should have.
        let _ = kill
            .args(["-KILL", "--", &group])
            .stderr(Stdio::null())
            .status();
    }
}

/// An agent from npm, with a home folder, a project and a server of its own.
struct Agent {
    folder: TempDir,
    command: Command,
    _server: Running,
    address: String,
}

impl Agent {
    fn new(name: &str, script: &Script) -> Self {
        let program = file(".cache/agents/node_modules/.bin").join(name);
        assert!(program.exists(), "run `make test-clients`");
        let folder = tempfile::tempdir().unwrap();
        let (server, address) = scripted(folder.path(), script);
        let project = folder.path().join("project");
        std::fs::create_dir(&project).unwrap();
        std::fs::write(project.join("note.txt"), NOTE).unwrap();
        let mut command = Command::new(program);
        command
            .current_dir(&project)
            .process_group(0)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("HOME", folder.path())
            // Nothing listens on this port: the agent reaches the server and no other host.
            .env("HTTP_PROXY", "http://127.0.0.1:9")
            .env("HTTPS_PROXY", "http://127.0.0.1:9")
            .env("NO_PROXY", "127.0.0.1");
        Self {
            folder,
            command,
            _server: server,
            address,
        }
    }

    /// Writes a settings file, with the server's address in place of `ADDRESS`.
    fn write(&self, name: &str, settings: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, settings.replace("ADDRESS", &self.address)).unwrap();
        path
    }

    /// Runs the agent. The model gives this answer only if it receives what the command printed.
    fn answers(mut self) {
        let program = Running::start(&mut self.command);
        let _group = Group(program.id());
        let ended = program.end();
        let printed = format!("{}{}", ended.output, ended.errors);
        assert_eq!(ended.code, Some(0), "{printed}");
        assert!(ended.output.contains(ANSWER), "{printed}");
        let copy = self.folder.path().join("project/copy.txt");
        assert_eq!(std::fs::read_to_string(copy).unwrap(), NOTE);
    }
}

#[test]
fn claude_code() {
    let mut claude = Agent::new("claude", &reads_note("Bash", "command"));
    claude
        .command
        .env("ANTHROPIC_BASE_URL", &claude.address)
        .env("ANTHROPIC_AUTH_TOKEN", "none")
        .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
        .env("DISABLE_AUTOUPDATER", "1")
        .args([
            "--model",
            "scripted",
            "--allowedTools",
            "Bash",
            "--max-turns",
            "4",
        ])
        .args(["--print", QUESTION]);
    claude.answers();
}

#[test]
fn codex() {
    let mut codex = Agent::new("codex", &reads_note("exec_command", "cmd"));
    let settings = codex.write("config.toml", CODEX);
    codex
        .command
        .env("CODEX_HOME", settings.parent().unwrap())
        // The sandbox needs user namespaces, which containers may not allow.
        .args(["exec", "--sandbox", "danger-full-access"])
        .args(["--skip-git-repo-check", QUESTION]);
    codex.answers();
}

const CODEX: &str = r#"
model = "scripted"
model_provider = "ortolan"

[model_providers.ortolan]
name = "ortolan"
base_url = "ADDRESS/v1"
wire_api = "responses"
"#;

#[test]
fn opencode() {
    let mut opencode = Agent::new("opencode", &reads_note("bash", "command"));
    let settings = opencode.write("opencode.json", OPENCODE);
    opencode
        .command
        .env("OPENCODE_CONFIG", settings)
        .env("OPENCODE_DISABLE_AUTOUPDATE", "1")
        .env("OPENCODE_DISABLE_MODELS_FETCH", "1")
        .args(["run", QUESTION]);
    opencode.answers();
}

const OPENCODE: &str = r#"{
  "autoupdate": false,
  "share": "disabled",
  "model": "ortolan/scripted",
  "provider": {
    "ortolan": {
      "npm": "@ai-sdk/openai-compatible",
      "options": {"baseURL": "ADDRESS/v1", "apiKey": "none"},
      "models": {"scripted": {"limit": {"context": 262144, "output": 4096}}}
    }
  }
}"#;

/// Python with the packages in `.ci/agents_python.txt`.
fn python() -> Command {
    let python = file(".cache/agents_python/bin/python");
    assert!(python.exists(), "run `make test-clients`");
    Command::new(python)
}

/// Runs a script's tests against the model that asks for the weather.
fn check(mut command: Command, script: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (_server, address) = scripted(folder.path(), &asks_for_weather());
    command
        .arg(file("tests/agents").join(script))
        .env("ORTOLAN", address)
        .env("NO_PROXY", "*")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Running::start(&mut command).succeed();
}

#[test]
fn anthropic_tool_runner_for_python() {
    check(python(), "anthropic_tool_runner.py");
}

#[test]
fn anthropic_tool_runner_for_node() {
    let mut node = Command::new("node");
    node.env("NODE_PATH", file(".cache/agents/node_modules"))
        .arg("--test");
    check(node, "anthropic_tool_runner.mjs");
}

#[test]
fn openai_agents() {
    check(python(), "openai_agents.py");
}

#[test]
fn langchain_llama_cpp() {
    check(python(), "langchain_llama_cpp_suite.py");
}

#[test]
fn kvprof_doctor() {
    let (_server, address) = ready_with(&[]);
    let folder = tempfile::tempdir().unwrap();
    let mut doctor = python();
    doctor
        .args(["-m", "kvprof", "doctor", "--upstream", &address])
        .current_dir(folder.path())
        .env("HOME", folder.path());
    let report = Running::start(&mut doctor).succeed();
    // kvprof warns of every build that is not llama.cpp's.
    let warnings = report
        .lines()
        .filter(|line| line.trim().starts_with("WARN"));
    let warnings: Vec<_> = warnings.collect();
    assert!(
        matches!(&*warnings, [build] if build.contains("/props")),
        "{report}"
    );
    assert!(report.contains("/v1/messages/count_tokens"), "{report}");
}
