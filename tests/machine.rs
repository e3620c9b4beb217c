//! What the program asks of the machine, as the machine sees it: threads, cores, memory.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;

use std::fs;
use std::process::Command;
use std::time::Instant;

use ortolan::file_bytes::FileAccess;
use ortolan::gguf::Gguf;
use ortolan::graph::ModelFile;
use ortolan::machine::Cores;
use ortolan::runtime::{Decoder, SessionOptions};
use program::{listening, ortolan, post, ready_with, with_model};
use running::{PATIENCE, Running};
use serde_json::{Value, json};

/// A file of the kernel about a program.
fn told(program: &Running, file: &str) -> String {
    fs::read_to_string(format!("/proc/{}/{file}", program.id())).unwrap()
}

/// A line of `/proc/PID/status`.
fn status(program: &Running, name: &str) -> String {
    let status = told(program, "status");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

/// How many threads it has to serve, and how many others.
fn threads(program: &Running) -> (usize, usize) {
    let tasks = fs::read_dir(format!("/proc/{}/task", program.id())).unwrap();
    // One that ends meanwhile has no name any more.
    let names: Vec<String> = tasks
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .collect();
    let http = names.iter().filter(|name| name.trim() == "http").count();
    (http, names.len() - http)
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_as_many_threads_as_were_asked_for() {
    let (alone, first) = ready_with(&["-t", "1", "--threads-http", "2"]);
    let (several, second) = ready_with(&["-t", "2", "-tb", "4", "--threads-http", "5"]);
    assert_eq!((threads(&alone).0, threads(&several).0), (2, 5));
    // A thread of each pool is the one that asks. The threads that loaded the models may be about to end.
    let deadline = Instant::now() + PATIENCE;
    while threads(&several).1 != threads(&alone).1 + 1 + 3 {
        assert!(
            Instant::now() < deadline,
            "{:?} {:?}",
            threads(&several),
            threads(&alone)
        );
        std::thread::yield_now();
    }
    let question = json!({"prompt": "The capital of France is", "n_predict": 12, "temperature": 0});
    let answer = post(&first, "/completion", question.clone()).await;
    let same = post(&second, "/completion", question).await;
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
        let (program, _) = ready_with(options);
        assert_eq!(
            told(&program, "maps").contains(model),
            is_mapped,
            "{options:?}"
        );
    }
}

#[test]
fn memory_is_locked_or_the_log_says_why_not() {
    let mut command = ortolan();
    command.arg("--mlock");
    let (mut program, _) = listening(with_model(command));
    let line = program.says("the program's memory");
    let locked = status(&program, "VmLck");
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
    let numa = |command: &mut Command| {
        let mut program = Running::start(command);
        let event: Value = serde_json::from_str(&program.says("--numa")).unwrap();
        program.says("listening");
        (program, event["threads"].as_u64().unwrap())
    };
    // The first node, which has cores on every machine.
    let node = fs::read_to_string("/sys/devices/system/node/node0/cpulist").unwrap();
    let first_core = node.trim().split(['-', ',']).next().unwrap();
    for strategy in ["numactl", "isolate", "distribute"] {
        let alone = ortolan();
        let mut command = Command::new("taskset");
        command
            .args(["--cpu-list", first_core])
            .arg(alone.get_program());
        command
            .args(alone.get_args())
            .args(["--numa", strategy, "-m"])
            .arg(common::model());
        let (program, threads) = numa(&mut command);
        assert_eq!(threads, 1, "{strategy}");
        assert_eq!(status(&program, "Cpus_allowed_list"), first_core);
    }
    let mut command = ortolan();
    command
        .args(["--numa", "isolate", "-t", "3", "-m"])
        .arg(common::model());
    let (program, threads) = numa(&mut command);
    assert_eq!(threads, 3);
    let allowed = status(&program, "Cpus_allowed_list");
    assert!(allowed.len() <= node.trim().len(), "{allowed} of {node}");
}

/// Machines of several nodes are rare: the places are this process's cores, whatever node they are on.
#[test]
fn threads_of_a_session_are_where_they_were_placed() {
    let folder = tempfile::tempdir().unwrap();
    let cores = fs::read_to_string("/proc/thread-self/status").unwrap();
    let cores = cores
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let first: usize = cores
        .unwrap()
        .trim()
        .split(['-', ','])
        .next()
        .unwrap()
        .parse()
        .unwrap();
    let session = SessionOptions {
        threads: Some(2),
        thread_cores: vec![Cores([first].into())],
        ..SessionOptions::new(common::onnxruntime())
    };
    let gguf = Gguf::open(&common::tiny::model(folder.path(), &[]), FileAccess::Map).unwrap();
    let file = ModelFile::new(folder.path().to_owned(), gguf).unwrap();
    let before = placed_on(first);
    let _decoder = Decoder::load(&file, &session, 64, 2, 32, &|_| ()).unwrap();
    assert_eq!(placed_on(first), before + 1);
}

/// How many threads of this process may be on that core alone.
fn placed_on(core: usize) -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    // One that ends meanwhile has no file any more.
    let statuses =
        tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    let alone = format!("Cpus_allowed_list:\t{core}\n");
    statuses.filter(|status| status.contains(&alone)).count()
}
