//! What the program asks of the machine, as the machine sees it: threads, cores, memory.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/program.rs"]
mod program;

use std::fs;
use std::process::{Child, Command};

use program::{ortolan, post, ready, start, start_with};
use serde_json::{Value, json};

/// Ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    /// A file of the kernel about it.
    fn told(&self, file: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{file}", self.0.id())).unwrap()
    }

    /// A line of `/proc/PID/status`.
    fn status(&self, name: &str) -> String {
        let status = self.told("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim_start_matches(':').trim().to_owned()
    }

    /// The names of its threads.
    fn threads(&self) -> Vec<String> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.0.id())).unwrap();
        // One that ends meanwhile has no name any more.
        tasks
            .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
            .map(|name| name.trim().to_owned())
            .collect()
    }

    /// How many of its threads have that name.
    fn named(&self, name: &str) -> usize {
        self.threads()
            .iter()
            .filter(|thread| *thread == name)
            .count()
    }
}

/// The program with the default model, ready, and its address.
fn with(options: &[&str]) -> (Running, String) {
    let mut command = ortolan();
    command.args(options);
    let (process, address) = ready(command);
    (Running(process), address)
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_as_many_threads_as_were_asked_for() {
    let question = json!({"prompt": "The capital of France is", "n_predict": 12, "temperature": 0});
    let (alone, address) = with(&["-t", "1", "--threads-http", "2"]);
    let http = alone.named("http");
    let others = alone.threads().len() - http;
    assert_eq!(http, 2);
    let answer = post(&address, "/completion", question.clone()).await;
    drop(alone);

    // A thread of each pool is the one that asks.
    let (several, address) = with(&["-t", "2", "-tb", "4", "--threads-http", "5"]);
    let http = several.named("http");
    assert_eq!((http, several.threads().len() - http), (5, others + 1 + 3));
    let same = post(&address, "/completion", question).await;
    assert_eq!(same["content"], answer["content"]);
}

#[test]
fn a_file_is_mapped_or_read() {
    let model = common::model();
    let model = model.file_name().unwrap().to_str().unwrap();
    for (options, is_mapped) in [
        (&[][..], true),
        (&["--no-mmap"], false),
        (&["--load-mode", "none"], false),
        (&["--load-mode", "auto"], true),
    ] {
        let (program, _) = with(options);
        assert_eq!(
            program.told("maps").contains(model),
            is_mapped,
            "{options:?}"
        );
    }
}

#[test]
fn memory_is_locked_or_the_log_says_why_not() {
    let mut command = ortolan();
    command.arg("--mlock");
    let (process, line, _log) = start(command, "the program's memory");
    let program = Running(process);
    let locked = program.status("VmLck");
    match line.contains("stays") {
        true => {
            let kilobytes: u64 = locked.strip_suffix(" kB").unwrap().parse().unwrap();
            assert!(kilobytes > 100_000, "{locked}");
        }
        false => assert!(
            line.contains("ulimit -l") && locked == "0 kB",
            "{line} {locked}"
        ),
    }
}

#[test]
fn threads_are_where_they_were_asked_for() {
    let threads = |line: &str| -> u64 {
        let event: Value = serde_json::from_str(line).unwrap();
        event["threads"].as_u64().unwrap()
    };
    // The first node, which has cores on every machine.
    let node = fs::read_to_string("/sys/devices/system/node/node0/cpulist").unwrap();
    let first_core = node.trim().split(['-', ',']).next().unwrap();
    let placed = |strategy: &str| {
        let alone = ortolan();
        let mut command = Command::new("taskset");
        command
            .args(["--cpu-list", first_core])
            .arg(alone.get_program());
        command
            .args(alone.get_args())
            .args(["--numa", strategy, "-m"])
            .arg(common::model());
        let (process, line, _log) = start_with(command, "--numa");
        (Running(process), threads(&line))
    };
    for strategy in ["numactl", "isolate", "distribute"] {
        let (program, threads) = placed(strategy);
        assert_eq!(threads, 1, "{strategy}");
        assert_eq!(program.status("Cpus_allowed_list"), first_core);
    }
    let mut command = ortolan();
    command.args(["--numa", "isolate", "-t", "3"]);
    let (process, line, _log) = start(command, "--numa");
    let program = Running(process);
    assert_eq!(threads(&line), 3);
    let allowed = program.status("Cpus_allowed_list");
    assert!(allowed.len() <= node.trim().len(), "{allowed} of {node}");
}
