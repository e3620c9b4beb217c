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
