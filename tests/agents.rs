//! Unmodified coding agents and tool runners against the program. A scripted model calls a tool, the client runs the
//! tool and sends its result, and the model answers (`tests/agents/`).

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

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

use common::file;
use program::{listening, ortolan, ready_with};
use running::Running;
use scripted_model::Script;
use tempfile::TempDir;

const NOTE: &str = "A grey heron stands in the river.\n";
const READ_NOTE: &str = "cat note.txt | tee copy.txt";
const QUESTION: &str = "Which bird does note.txt name?";
const ANSWER: &str = "The note names a heron.";

/// Writes a scripted model into `folder` and serves it.
fn serve_script(folder: &Path, script: &Script) -> (Running, String) {
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
    server.wait_for_log("the model is ready");
    (server, address)
}

/// A script whose model reads and copies a note with a shell command.
fn read_note_script(tool: &'static str, argument: &'static str) -> Script {
    Script {
        tool,
        arguments: vec![(argument, READ_NOTE)],
        expected: NOTE.trim_end(),
        answer: ANSWER,
    }
}

/// A script whose model calls `get_weather` for Rome.
fn weather_script() -> Script {
    Script {
        tool: "get_weather",
        arguments: vec![("city", "Rome")],
        expected: "rain in Rome",
        answer: "It rains in Rome.",
    }
}

/// An agent's process group; it is killed on drop.
struct ProcessGroup(u32);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        let group = format!("-{}", self.0);
        let mut kill = Command::new("kill");
        // `kill` fails if the group has exited, which is the normal case.
        let _ = kill
            .args(["-KILL", "--", &group])
            .stderr(Stdio::null())
            .status();
    }
}

/// An agent installed from npm, with its own home folder, project and server.
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
        let (server, address) = serve_script(folder.path(), script);
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
            // Nothing listens on this port, so the agent can reach only the server.
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

    /// Runs the agent and checks its answer. The model answers this way only if it receives the command's output.
    fn check_answer(mut self) {
        let program = Running::start(&mut self.command);
        let _group = ProcessGroup(program.id());
        let exit = program.wait();
        let printed = format!("{}{}", exit.output, exit.errors);
        assert_eq!(exit.code, Some(0), "{printed}");
        assert!(exit.output.contains(ANSWER), "{printed}");
        let copy = self.folder.path().join("project/copy.txt");
        assert_eq!(std::fs::read_to_string(copy).unwrap(), NOTE);
    }
}

#[test]
fn claude_code() {
    let mut claude = Agent::new("claude", &read_note_script("Bash", "command"));
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
    claude.check_answer();
}

#[test]
fn codex() {
    let mut codex = Agent::new("codex", &read_note_script("exec_command", "cmd"));
    let settings = codex.write("config.toml", CODEX);
    codex
        .command
        .env("CODEX_HOME", settings.parent().unwrap())
        // The sandbox needs user namespaces, which containers may not allow.
        .args(["exec", "--sandbox", "danger-full-access"])
        .args(["--skip-git-repo-check", QUESTION]);
    codex.check_answer();
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
    let mut opencode = Agent::new("opencode", &read_note_script("bash", "command"));
    let settings = opencode.write("opencode.json", OPENCODE);
    opencode
        .command
        .env("OPENCODE_CONFIG", settings)
        .env("OPENCODE_DISABLE_AUTOUPDATE", "1")
        .env("OPENCODE_DISABLE_MODELS_FETCH", "1")
        .args(["run", QUESTION]);
    opencode.check_answer();
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

/// A command that runs Python in the virtual environment of `.ci/agents_python.txt`.
fn python() -> Command {
    let python = file(".cache/agents_python/bin/python");
    assert!(python.exists(), "run `make test-clients`");
    Command::new(python)
}

/// Runs a test script against the model of [`weather_script`].
fn check(mut command: Command, script: &str) {
    let folder = tempfile::tempdir().unwrap();
    let (_server, address) = serve_script(folder.path(), &weather_script());
    command
        .arg(file("tests/agents").join(script))
        .env("ORTOLAN", address)
        .env("NO_PROXY", "*")
        .env("PYTHONDONTWRITEBYTECODE", "1");
    Running::start(&mut command).wait_for_success();
}

#[test]
fn anthropic_tool_runner_python() {
    check(python(), "anthropic_tool_runner.py");
}

#[test]
fn anthropic_tool_runner_node() {
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
    let report = Running::start(&mut doctor).wait_for_success();
    // kvprof warns about the build of every server other than llama.cpp.
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
