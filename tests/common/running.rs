//! Child processes of a test: waits for their output with a timeout, and kills them when the test ends.

#![allow(dead_code, reason = "every test crate uses some of these helpers")]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use wait_timeout::ChildExt;

use crate::common::process::KillOnDrop;

/// Longest time that a test waits for any event.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(300);

/// A program that is killed when it is dropped.
pub(crate) struct Running {
    process: KillOnDrop,
    pub(crate) output: Lines,
    pub(crate) errors: Lines,
}

/// A program's exit code and the part of its output that was not read before.
pub(crate) struct ExitResult {
    pub(crate) code: Option<i32>,
    pub(crate) output: String,
    pub(crate) errors: String,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {:?}: {error}", command.get_program()));
        let output = Lines::read(process.stdout.take().unwrap());
        let errors = Lines::read(process.stderr.take().unwrap());
        Self {
            process: KillOnDrop(process),
            output,
            errors,
        }
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.process.0.id()
    }

    /// Waits for a log line that contains `text`, and returns it.
    ///
    /// # Panics
    /// If the program exits without logging such a line.
    pub(crate) fn wait_for_log(&mut self, text: &str) -> String {
        let line = self.errors.find(|line| line.contains(text));
        line.unwrap_or_else(|| panic!("the program exited without logging \"{text}\""))
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.process.0.try_wait().unwrap().is_none()
    }

    /// Sends SIGTERM and waits until the program exits.
    pub(crate) fn stop(self) -> ExitResult {
        let kill = Command::new("kill")
            .args(["-TERM", &self.id().to_string()])
            .status();
        assert!(kill.unwrap().success());
        self.wait()
    }

    /// Writes to the program's standard input.
    pub(crate) fn write_stdin(&mut self, text: &str) {
        let input = self.process.0.stdin.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
    }

    /// Closes the program's standard input and waits until it exits.
    pub(crate) fn wait(mut self) -> ExitResult {
        drop(self.process.0.stdin.take());
        let output = self.output.by_ref().collect();
        let errors = self.errors.by_ref().collect();
        let status = self.process.0.wait_timeout(TIMEOUT).unwrap();
        ExitResult {
            code: status
                .expect("the program exits after it closed its output")
                .code(),
            output,
            errors,
        }
    }

    /// Waits until the program exits, which it must do with success; returns its standard output.
    pub(crate) fn wait_for_success(self) -> String {
        let exit = self.wait();
        assert_eq!(exit.code, Some(0), "{}{}", exit.output, exit.errors);
        exit.output
    }
}

/// The lines that a program prints, with their line ends. A thread reads them, so the program never blocks on a full
/// pipe.
pub(crate) struct Lines {
    lines: Receiver<String>,
    deadline: Instant,
}

impl Lines {
    fn read(output: impl Read + Send + 'static) -> Self {
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            let mut output = BufReader::new(output);
            loop {
                let mut line = String::new();
                if output.read_line(&mut line).unwrap() == 0 {
                    return;
                }
                let _ = sender.send(line);
            }
        });
        let deadline = Instant::now() + TIMEOUT;
        Self { lines, deadline }
    }
}

impl Iterator for Lines {
    type Item = String;

    /// # Panics
    /// If [`TIMEOUT`] has passed since the program started.
    fn next(&mut self) -> Option<String> {
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(remaining) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => {
                panic!("the program printed no further line within {TIMEOUT:?}")
            }
        }
    }
}
