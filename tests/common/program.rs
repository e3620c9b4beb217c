//! Runs the program: refused, listening, or ready.

#![allow(dead_code, reason = "every test crate uses a part of it")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common;
use crate::running::Running;

/// The program with the real runtime, on a free port.
pub(crate) fn ortolan() -> Command {
    with_runtime(&common::onnxruntime())
}

/// The same with another runtime.
pub(crate) fn with_runtime(library: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ortolan"));
    command.args(["--port", "0", "--onnxruntime"]).arg(library);
    command
}

/// The same with the default model.
pub(crate) fn with_model(mut command: Command) -> Command {
    command.arg("-m").arg(common::model());
    command
}

/// Runs the program until it ends, which it is to do before it listens.
pub(crate) fn refused(mut command: Command) -> (Option<i32>, String) {
    let mut program = Running::start(&mut command);
    let mut message = String::new();
    for line in program.errors.by_ref() {
        assert!(!line.contains("listening"), "it was not refused: {line}");
        message += &line;
    }
    (program.end().code, message)
}

/// Starts the program and waits until it listens. Answers its address, too.
pub(crate) fn listening(mut command: Command) -> (Running, String) {
    let mut program = Running::start(&mut command);
    let event: Value = serde_json::from_str(&program.says("listening")).unwrap();
    let address = event["address"].as_str().unwrap().to_owned();
    (program, address)
}

/// The same, and waits until it has loaded the default model.
pub(crate) fn ready(mut command: Command) -> (Running, String) {
    command.args(["--ctx-size", "4096", "--parallel", "2"]);
    let (mut program, address) = listening(with_model(command));
    program.says("the model is ready");
    (program, address)
}

/// The same with options.
pub(crate) fn ready_with(options: &[&str]) -> (Running, String) {
    let mut command = ortolan();
    command.args(options);
    ready(command)
}

/// Sends a body to a running program. Answers the JSON.
pub(crate) async fn post(address: &str, path: &str, body: Value) -> Value {
    let request = reqwest::Client::new().post(format!("{address}{path}"));
    let answer = request.json(&body).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    answer.json().await.unwrap()
}
