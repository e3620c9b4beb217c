//! Programs that run beside a test: what they print is awaited with bounded patience, and they end with it.

#![allow(dead_code, reason = "every test crate uses a part of it")]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use wait_timeout::ChildExt;

/// The longest that a test waits for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);

/// A program that is killed when it is dropped.
pub(crate) struct Running {
    process: Child,
    pub(crate) output: Lines,
    pub(crate) errors: Lines,
}

/// How a program ended, and what it had printed that nobody had read.
pub(crate) struct Ended {
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
            .unwrap_or_else(|error| panic!("{:?} does not start: {error}", command.get_program()));
        let output = Lines::of(process.stdout.take().unwrap());
        let errors = Lines::of(process.stderr.take().unwrap());
        Self {
            process,
            output,
            errors,
        }
    }

    /// The system's number of it.
    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Waits for a line of its log.
    ///
    /// # Panics
    /// If it ends without it.
    pub(crate) fn says(&mut self, words: &str) -> String {
        let line = self.errors.find(|line| line.contains(words));
        line.unwrap_or_else(|| panic!("it ended and did not say \"{words}\""))
    }

    /// Whether it goes on.
    pub(crate) fn runs(&mut self) -> bool {
        self.process.try_wait().unwrap().is_none()
    }

    /// Asks it to end, as Ctrl-C does, and waits until it has.
    pub(crate) fn stop(self) -> Ended {
        let asked = Command::new("kill")
            .args(["-TERM", &self.id().to_string()])
            .status();
        assert!(asked.unwrap().success());
        self.end()
    }

    /// Writes to its standard input.
    pub(crate) fn say(&mut self, text: &str) {
        let input = self.process.stdin.as_mut().unwrap();
        input.write_all(text.as_bytes()).unwrap();
    }

    /// Closes its standard input and waits until it ends by itself.
    pub(crate) fn end(mut self) -> Ended {
        drop(self.process.stdin.take());
        let output = self.output.by_ref().collect();
        let errors = self.errors.by_ref().collect();
        let status = self.process.wait_timeout(PATIENCE).unwrap();
        Ended {
            code: status.expect("it closed its output and goes on").code(),
            output,
            errors,
        }
    }

    /// The same for a program that is to end with success: what it printed.
    pub(crate) fn succeed(self) -> String {
        let ended = self.end();
        assert_eq!(ended.code, Some(0), "{}{}", ended.output, ended.errors);
        ended.output
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The lines that a program prints, with their ends. They are read even if nobody wants them, so that the program
/// never waits for a reader.
pub(crate) struct Lines {
    lines: Receiver<String>,
    deadline: Instant,
}

impl Lines {
    fn of(output: impl Read + Send + 'static) -> Self {
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
        let deadline = Instant::now() + PATIENCE;
        Self { lines, deadline }
    }
}

impl Iterator for Lines {
    type Item = String;

    /// # Panics
    /// If the program prints nothing until the patience, which begins with the program, is over.
    fn next(&mut self) -> Option<String> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("it printed nothing more in {PATIENCE:?}"),
        }
    }
}
