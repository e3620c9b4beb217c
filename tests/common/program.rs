//! Starts the `ortolan` program and waits until it exits with a startup error, listens, or has loaded its model.

#![allow(dead_code, reason = "every test crate uses some of these helpers")]

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::common;
use crate::running::Running;

/// A command that starts the program with the real runtime on a free port.
pub(crate) fn ortolan() -> Command {
    with_runtime(&common::onnxruntime())
}

/// Like [`ortolan`], with this ONNX Runtime library.
pub(crate) fn with_runtime(library: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ortolan"));
    command.args(["--port", "0", "--onnxruntime"]).arg(library);
    command
}

/// Adds the default model to a command.
pub(crate) fn with_model(mut command: Command) -> Command {
    command.arg("-m").arg(common::model());
    command
}

/// Runs a program that must exit before it listens; returns its exit code and its log.
pub(crate) fn startup_error(mut command: Command) -> (Option<i32>, String) {
    let mut program = Running::start(&mut command);
    let mut message = String::new();
    for line in program.errors.by_ref() {
        assert!(!line.contains("listening"), "the program started: {line}");
        message += &line;
    }
    (program.wait().code, message)
}

/// Starts the program and waits until it listens; also returns its address.
pub(crate) fn listening(mut command: Command) -> (Running, String) {
    let mut program = Running::start(&mut command);
    let event: Value = serde_json::from_str(&program.wait_for_log("listening")).unwrap();
    let address = event["address"].as_str().unwrap().to_owned();
    (program, address)
}

/// Starts the program with the default model and waits until the model is loaded.
pub(crate) fn ready(mut command: Command) -> (Running, String) {
    command.args(["--ctx-size", "4096", "--parallel", "2"]);
    let (mut program, address) = listening(with_model(command));
    program.wait_for_log("the model is ready");
    (program, address)
}

/// Like [`ready`], with these options.
pub(crate) fn ready_with(options: &[&str]) -> (Running, String) {
    let mut command = ortolan();
    command.args(options);
    ready(command)
}

/// Sends a POST request, which must succeed; returns the JSON response.
pub(crate) async fn post(address: &str, path: &str, body: Value) -> Value {
    let request = reqwest::Client::new().post(format!("{address}{path}"));
    let response = request.json(&body).send().await.unwrap();
    assert!(response.status().is_success(), "{response:?}");
    response.json().await.unwrap()
}
