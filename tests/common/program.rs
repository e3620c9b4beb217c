//! Runs the program and reads what it says.

#![allow(dead_code, reason = "every test crate uses a part of it")]

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::common;

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

/// Runs the program until it ends, which it is to do before it listens.
pub(crate) fn refused(mut command: Command) -> (Option<i32>, String) {
    let mut process = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut message = String::new();
    for line in BufReader::new(process.stderr.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains("listening") {
            process.kill().unwrap();
            process.wait().unwrap();
            panic!("it was not refused: {line}");
        }
        message += &line;
    }
    (process.wait().unwrap().code(), message)
}

/// Starts the program on a free port and reads its log until a line with `wanted`. Answers the process,
/// that line and the rest of the log.
pub(crate) fn start_with(
    mut command: Command,
    wanted: &str,
) -> (Child, String, impl Iterator<Item = String>) {
    let mut process = command
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap())
        .lines()
        .map(|line| line.unwrap());
    let line = log.find(|line| line.contains(wanted)).unwrap();
    (process, line, log)
}

/// Starts the program with the default model.
pub(crate) fn start(
    mut command: Command,
    wanted: &str,
) -> (Child, String, impl Iterator<Item = String>) {
    command.arg("-m").arg(common::model());
    start_with(command, wanted)
}

/// Sends a body to a running program. Answers the JSON.
pub(crate) async fn post(address: &str, path: &str, body: serde_json::Value) -> serde_json::Value {
    let request = reqwest::Client::new().post(format!("{address}{path}"));
    let answer = request.json(&body).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    answer.json().await.unwrap()
}

/// Starts the program and waits until it is ready. Answers its process and address.
pub(crate) fn ready(mut command: Command) -> (Child, String) {
    command.args(["--ctx-size", "1024", "--parallel", "2"]);
    let (process, line, mut log) = start(command, "listening");
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    log.find(|line| line.contains("the model is ready"))
        .unwrap();
    std::thread::spawn(move || log.for_each(drop));
    (process, event["address"].as_str().unwrap().to_owned())
}
