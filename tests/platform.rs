//! Threads, CPU affinity and memory of a running server, as the Linux kernel reports them.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::time::Instant;

use ortolan::file_bytes::FileAccess;
use ortolan::gguf::Gguf;
use ortolan::graph::ModelFile;
use ortolan::platform::Cores;
use ortolan::runtime::{Decoder, SessionOptions};
use program::{listening, ortolan, post, ready_with, with_model};
use running::{Running, TIMEOUT};
use serde_json::{Value, json};

/// Content of `/proc/PID/<file>`.
fn proc_file(program: &Running, file: &str) -> String {
    fs::read_to_string(format!("/proc/{}/{file}", program.id())).unwrap()
}

/// Value of the field `name` in `/proc/PID/status`.
fn status(program: &Running, name: &str) -> String {
    let status = proc_file(program, "status");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

/// Number of HTTP threads, and of all other threads.
fn threads(program: &Running) -> (usize, usize) {
    let tasks = fs::read_dir(format!("/proc/{}/task", program.id())).unwrap();
    // A thread that has ended meanwhile has no `comm` file.
    let names: Vec<String> = tasks
        .filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok())
        .collect();
    let http = names.iter().filter(|name| name.trim() == "http").count();
    (http, names.len() - http)
}

#[tokio::test(flavor = "multi_thread")]
async fn thread_options_set_the_number_of_threads() {
    let (single, single_url) = ready_with(&["-t", "1", "--threads-http", "2"]);
    let (several, several_url) = ready_with(&["-t", "2", "-tb", "4", "--threads-http", "5"]);
    assert_eq!((threads(&single).0, threads(&several).0), (2, 5));
    // The calling thread counts as the first of each pool. Threads that loaded the models may not have ended yet.
    let deadline = Instant::now() + TIMEOUT;
    while threads(&several).1 != threads(&single).1 + 1 + 3 {
        assert!(
            Instant::now() < deadline,
            "{:?} {:?}",
            threads(&several),
            threads(&single)
        );
        std::thread::yield_now();
    }
    let body = json!({"prompt": "The capital of France is", "n_predict": 12, "temperature": 0});
    let single_thread = post(&single_url, "/completion", body.clone()).await;
    let several_threads = post(&several_url, "/completion", body).await;
    assert_eq!(several_threads["content"], single_thread["content"]);
}

#[test]
fn load_mode_decides_whether_the_model_file_is_mapped() {
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
            proc_file(&program, "maps").contains(model),
            is_mapped,
            "{options:?}"
        );
    }
}

#[test]
fn mlock_locks_memory_or_logs_why_not() {
    let mut command = ortolan();
    command.arg("--mlock");
    let (mut program, _) = listening(with_model(command));
    let line = program.wait_for_log("the memory of the process");
    let locked = status(&program, "VmLck");
    match line.contains("locked the memory") {
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
fn numa_restricts_the_allowed_cores() {
    let numa = |command: &mut Command| {
        let mut program = Running::start(command);
        let event: Value = serde_json::from_str(&program.wait_for_log("--numa")).unwrap();
        program.wait_for_log("listening");
        (program, event["threads"].as_u64().unwrap())
    };
    // Every host has cores on node 0.
    let node = fs::read_to_string("/sys/devices/system/node/node0/cpulist").unwrap();
    let first_core = node.trim().split(['-', ',']).next().unwrap();
    for strategy in ["numactl", "isolate", "distribute"] {
        let server = ortolan();
        let mut command = Command::new("taskset");
        command
            .args(["--cpu-list", first_core])
            .arg(server.get_program());
        command
            .args(server.get_args())
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
    let allowed = cores(&status(&program, "Cpus_allowed_list"));
    let nodes = fs::read_dir("/sys/devices/system/node").unwrap();
    let is_in_one_node = nodes
        .filter_map(|node| fs::read_to_string(node.unwrap().path().join("cpulist")).ok())
        .any(|node| allowed.is_subset(&cores(&node)));
    assert!(!allowed.is_empty() && is_in_one_node, "{allowed:?}");
}

/// The cores of a list such as `0-3,8`.
fn cores(list: &str) -> BTreeSet<usize> {
    let ranges = list.trim().split(',').filter(|range| !range.is_empty());
    let range_of = |range: &str| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        first.parse::<usize>().unwrap()..=last.parse::<usize>().unwrap()
    };
    ranges.flat_map(range_of).collect()
}

/// Hosts with several NUMA nodes are rare, so the test pins the thread to a core that this process may use.
#[test]
fn session_threads_are_pinned_to_their_cores() {
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
    let before = threads_pinned_to(first);
    let _decoder = Decoder::load(&file, &session, 64, 2, 32, &|_| ()).unwrap();
    assert_eq!(threads_pinned_to(first), before + 1);
}

/// Number of threads of this process that may run on `core` only.
fn threads_pinned_to(core: usize) -> usize {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    // A thread that has ended meanwhile has no `status` file.
    let statuses =
        tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("status")).ok());
    let core_only = format!("Cpus_allowed_list:\t{core}\n");
    statuses
        .filter(|status| status.contains(&core_only))
        .count()
}
