//! The program's command line: error messages and exit codes for invalid files and options, effects of options, and
//! orderly shutdown on a signal.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;
#[path = "common/split.rs"]
mod split;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::process::KillOnDrop;
use program::{listening, ortolan, post, ready, startup_error, with_model, with_runtime};
use running::TIMEOUT;
use wait_timeout::ChildExt;

/// Checks that the program rejects the model file with exit code 1 and a message with the path and this cause.
#[track_caller]
fn check_rejected(model: &Path, cause: &str) {
    let mut command = ortolan();
    command.arg("-m").arg(model);
    let (code, message) = startup_error(command);
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains(&*model.to_string_lossy()), "{message}");
    assert!(message.contains(cause), "{message}");
    assert!(!message.contains("panicked"), "{message}");
}

/// Writes a copy of the default model with modified bytes.
fn modified_model(folder: &Path, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
    let mut bytes = fs::read(common::model()).unwrap();
    change(&mut bytes);
    let path = folder.join("model.gguf");
    fs::write(&path, bytes).unwrap();
    path
}

/// Replaces the first occurrence of `old` with `new`.
fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) {
    assert_eq!(old.len(), new.len());
    let offset = bytes
        .windows(old.len())
        .position(|window| window == old)
        .unwrap();
    bytes[offset..offset + new.len()].copy_from_slice(new);
}

#[test]
fn invalid_model_files_are_rejected_with_path_and_cause() {
    let folder = tempfile::tempdir().unwrap();
    check_rejected(&folder.path().join("missing.gguf"), "No such file");
    check_rejected(
        folder.path(),
        "config.json not found: a model folder must contain it",
    );
    fs::write(folder.path().join("config.json"), "{}").unwrap();
    check_rejected(folder.path(), "model.safetensors: No such file");

    let other = folder.path().join("other.gguf");
    fs::write(&other, "no model at all").unwrap();
    check_rejected(&other, "does not begin with \"GGUF\"");
    fs::write(&other, "").unwrap();
    check_rejected(&other, "the header ends at byte 0");

    let set = split::split(&common::model(), folder.path(), 3);
    check_rejected(&set[1], "it is shard 2 of 3");
    fs::remove_file(&set[1]).unwrap();
    let mut command = ortolan();
    command.arg("-m").arg(&set[0]);
    let (code, message) = startup_error(command);
    assert_eq!(code, Some(1), "{message}");
    assert!(
        message.contains("cannot open") && message.contains("m-00002-of-00003.gguf"),
        "{message}"
    );

    check_rejected(
        &modified_model(folder.path(), |bytes| bytes.truncate(10_000_000)),
        "is truncated",
    );
    check_rejected(
        &modified_model(folder.path(), |bytes| bytes.truncate(1_000)),
        "exceeds the file's size",
    );
    let architecture = |bytes: &mut Vec<u8>| replace(bytes, b"llama", b"mamba");
    check_rejected(
        &modified_model(folder.path(), architecture),
        "the architecture \"mamba\" is not supported; supported: llama",
    );
    let pre = |bytes: &mut Vec<u8>| {
        replace(
            bytes,
            b"tokenizer.ggml.pre\x08\0\0\0\x06\0\0\0\0\0\0\0smollm",
            b"tokenizer.ggml.pre\x08\0\0\0\x06\0\0\0\0\0\0\0smollx",
        )
    };
    check_rejected(&modified_model(folder.path(), pre), "smollx");
    // Tensor info: name, number of dimensions, dimensions, type. Type Q4_1 (3) becomes Q8_1 (9).
    let kind = |bytes: &mut Vec<u8>| {
        let name = bytes
            .windows(17)
            .position(|window| window == b"blk.0.attn_k.weig")
            .unwrap();
        let kind = name + "blk.0.attn_k.weight".len() + 4 + 2 * 8;
        assert_eq!(bytes[kind], 3);
        bytes[kind] = 9;
    };
    check_rejected(
        &modified_model(folder.path(), kind),
        "the type Q8_1 of tensor \"blk.0.attn_k.weight\" is not supported",
    );
}

#[test]
fn invalid_options_are_rejected() {
    for (options, code, cause) in [
        (&["--nonsense"][..], 2, "--nonsense"),
        (&["--mmproj", "x"], 2, "not supported yet"),
        (&["-c", "many"], 2, "many"),
        (&["-np", "0"], 1, "the number of slots"),
        (&["-t", "1025"], 1, "from 1 to 1024"),
        (&["-ub", "65537"], 1, "the maximum of 65536"),
        (
            &["--queue", "1048576"],
            1,
            "the maximum of 1048576 sequences",
        ),
        (
            &["-ub", "2", "-np", "3"],
            1,
            "a step of 2 tokens is too small for 3 slots",
        ),
        (
            &["--cache-tokens", "64"],
            1,
            "fewer than one context of 512 tokens",
        ),
        (&["-n", "-2"], 1, "--n-predict -2: must be at least -1"),
        (&["-c", "1048577"], 1, "the maximum is 1048576"),
        (&["-b", "0"], 1, "the batch size"),
        (&["-to", "0"], 1, "--timeout 0: must be at least 1 second"),
        (&["--request-timeout", "0"], 1, "more than 0 seconds"),
        (
            &["--memory-budget", "1KiB"],
            1,
            "has no room for one context",
        ),
        (&["--host", "192.0.2.1"], 1, "cannot listen on 192.0.2.1:0"),
        (
            &["--path", "/nowhere/wren"],
            1,
            "--path /nowhere/wren: not a folder",
        ),
        (&["--slot-save-path", "/nowhere/wren"], 1, "not a folder"),
        (&["--path-follow-links"], 2, "--path <DIR>"),
        #[cfg(unix)]
        (
            &["--system-prompt-file", "/dev/zero"],
            1,
            "larger than 1048576 bytes",
        ),
        #[cfg(unix)]
        (
            &["--chat-template-file", "/dev/zero"],
            1,
            "larger than 1048576 bytes",
        ),
        #[cfg(unix)]
        (&["--config", "/dev/zero"], 2, "larger than 1048576 bytes"),
        (
            &["--api-key-file", "/nowhere/wren"],
            1,
            "--api-key-file /nowhere/wren",
        ),
        (
            &["--allowed-hosts", "https://app.example"],
            1,
            "--allowed-hosts: invalid host 'https://app.example'",
        ),
        (
            &["--cors-origin", "app.example"],
            1,
            "--cors-origin: invalid origin 'app.example'",
        ),
        (
            &["-ctk", "q8_0"],
            2,
            "invalid value 'q8_0' for '--cache-type-k <TYPE>'",
        ),
        (&["-cram", "512"], 2, "-cram (--cache-ram) is not supported"),
        (
            &["-sm", "none", "-ts", "1,1"],
            1,
            "--split-mode none: cannot be used with --tensor-split",
        ),
        (&["--api-key", ""], 1, "--api-key: a key is empty"),
        (
            &["--operator-key-file", "/nowhere/wren"],
            1,
            "--operator-key-file /nowhere/wren: No such file",
        ),
        (&["--pooling", "max"], 2, "max"),
        (&["--log-format", "yaml"], 2, "yaml"),
        (
            &["-mg", "1", "--device", "cpu"],
            1,
            "--main-gpu 1: device not found",
        ),
        (
            &["-ts", "3,1", "-mg", "2"],
            1,
            "its share in --tensor-split must be greater than 0",
        ),
        (&["--device", "cuda"], 1, "was built without CUDA"),
        (&["--device", "coreml"], 1, "was built without CoreML"),
        (&["-ngl", "many"], 2, "expected a number of layers"),
        (
            &["-ts", "0,0"],
            1,
            "at least one share must be greater than 0",
        ),
        (&["-ts", "1,-1"], 1, "--tensor-split -1"),
        (
            &["-tb", "0"],
            1,
            "--threads-batch 0: must be from 1 to 1024",
        ),
        (
            &["--threads-http", "0"],
            1,
            "--threads-http 0: must be from 1 to 1024",
        ),
        (&["--temp", "nan"], 1, "must be a finite number"),
        (
            &["--seed", "-2"],
            1,
            "--seed -2: must be from -1 to 4294967295",
        ),
        (
            &["--config", "/nowhere/wren"],
            2,
            "--config /nowhere/wren: No such file",
        ),
        (
            &["--chat-template", "wren"],
            1,
            "\"wren\" is neither a Jinja template nor a predefined name: chatglm3, ",
        ),
        (
            &["--chat-template", "llama3", "-np", "0"],
            1,
            "the number of slots",
        ),
        (&["--chat-template", "{{"], 1, "invalid chat template"),
        (
            &["--chat-template-file", "/nowhere/wren"],
            1,
            "--chat-template-file /nowhere/wren: No such file",
        ),
        (
            &[
                "--jinja",
                "--chat-template-file",
                "a",
                "--chat-template",
                "b",
            ],
            2,
            "cannot be used with",
        ),
        (&["--ssl-cert-file", "here"], 2, "--ssl-key-file"),
        (&["--ssl-key-file", "here"], 2, "--ssl-cert-file"),
        (
            &[
                "--ssl-cert-file",
                "/nowhere/c",
                "--ssl-key-file",
                "/nowhere/k",
            ],
            1,
            "--ssl-cert-file /nowhere/c: No such file",
        ),
    ] {
        let mut command = ortolan();
        command.arg("-m").arg(common::model()).args(options);
        let (actual_code, message) = startup_error(command);
        assert_eq!(actual_code, Some(code), "{options:?}: {message}");
        assert!(message.contains(cause), "{options:?}: {message}");
    }
}

#[cfg(unix)]
#[test]
fn a_path_need_not_be_valid_utf8() {
    use std::os::unix::ffi::OsStrExt;
    let mut command = ortolan();
    command
        .arg("-m")
        .arg(std::ffi::OsStr::from_bytes(b"/nowhere/\xff.gguf"));
    let (code, message) = startup_error(command);
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("cannot open /nowhere/"), "{message}");
}

#[test]
fn help_lists_the_options() {
    let output = ortolan().arg("--help").output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    for option in [
        "--model",
        "--ctx-size",
        "--parallel",
        "--port",
        "Batching:",
        "HTTP server:",
    ] {
        assert!(help.contains(option), "{help}");
    }
}

#[cfg(unix)]
#[test]
fn a_signal_stops_the_server_with_exit_code_0() {
    let (program, address) = listening(with_model(ortolan()));
    assert!(address.starts_with("http://127.0.0.1:"), "{address}");
    // The model may still be loading.
    assert_eq!(program.stop().code, Some(0));
}

#[cfg(unix)]
#[test]
fn a_signal_stops_the_server_after_its_log_pipe_was_closed() {
    let mut command = with_model(ortolan());
    let mut process = command
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(process.stderr.take().unwrap()).lines();
    assert!(log.any(|line| line.unwrap().contains("listening")));
    drop(log);
    let kill = Command::new("kill")
        .args(["-TERM", &process.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let status = process.wait_timeout(TIMEOUT).unwrap();
    assert_eq!(status.expect("the server stops").code(), Some(0));
}

/// With telemetry enabled, ONNX Runtime would write a database and a device id to the home folder.
#[test]
fn the_home_folder_stays_empty() {
    let home = tempfile::tempdir().unwrap();
    let mut command = ortolan();
    command.env("HOME", home.path());
    command.env_remove("XDG_CACHE_HOME");
    let (program, _) = ready(command);
    program.stop();
    assert_eq!(fs::read_dir(&home).unwrap().count(), 0);
}

#[test]
fn a_certificate_enables_https() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (folder.path().join("certificate"), folder.path().join("key"));
    fs::write(&certificate, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let mut command = ortolan();
    command.arg("--ssl-cert-file").arg(certificate);
    command.env("LLAMA_ARG_SSL_KEY_FILE", key);
    let (_program, address) = listening(with_model(command));
    assert!(address.starts_with("https://127.0.0.1:"), "{address}");
}

/// Retrying cannot help, so the program must exit instead of listening with `/health` at 500.
#[test]
fn an_invalid_runtime_library_ends_the_program_with_path_and_cause() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.so");
    let text = folder.path().join("text.so");
    fs::write(&text, "no library").unwrap();
    let other = Path::new(if cfg!(target_os = "macos") {
        "/usr/lib/libSystem.B.dylib"
    } else {
        "libm.so.6"
    });
    let missing_url = "http://127.0.0.1:1/wren.gguf";
    for (library, cause) in [
        (&*missing, "cannot"),
        (&*text, "cannot"),
        (folder.path(), "cannot"),
        (other, "does not export `OrtGetApiBase`"),
    ] {
        let mut downloading = with_runtime(library);
        downloading
            .args(["--model-url", missing_url])
            .env("LLAMA_CACHE", folder.path());
        let mut by_environment = Command::new(env!("CARGO_BIN_EXE_ortolan"));
        by_environment
            .args(["--port", "0"])
            .env("ORT_DYLIB_PATH", library);
        let mut on_cpu = with_model(with_runtime(library));
        on_cpu.args(["--device", "cpu", "-ngl", "0"]);
        for command in [
            with_model(with_runtime(library)),
            with_model(by_environment),
            on_cpu,
            downloading,
        ] {
            let (code, message) = startup_error(command);
            assert_eq!(code, Some(1), "{message}");
            let path = library.to_str().unwrap();
            assert!(
                message.contains("cannot load ONNX Runtime from") && message.contains(path),
                "{message}"
            );
            assert!(
                message.contains(cause) && message.contains("--onnxruntime"),
                "{message}"
            );
        }
    }
}

/// The environment variables have llama.cpp's names.
#[test]
fn flags_take_precedence_over_environment_variables() {
    let folder = tempfile::tempdir().unwrap();
    let from_environment = folder.path().join("from-the-environment.gguf");
    let from_flag = folder.path().join("from-the-flag.gguf");
    let mut command = ortolan();
    command.env("LLAMA_ARG_MODEL", &from_environment);
    let (code, message) = startup_error(command);
    assert_eq!(code, Some(1), "{message}");
    assert!(message.contains("from-the-environment.gguf"), "{message}");

    let mut command = ortolan();
    command
        .env("LLAMA_ARG_MODEL", &from_environment)
        .arg("-m")
        .arg(&from_flag);
    let (_, message) = startup_error(command);
    assert!(message.contains("from-the-flag.gguf"), "{message}");

    // A local model needs no model hub.
    let mut command = ortolan();
    command
        .env("HF_ENDPOINT", "nowhere")
        .arg("-m")
        .arg(&from_flag);
    let (_, message) = startup_error(command);
    assert!(message.contains("from-the-flag.gguf"), "{message}");

    let mut command = ortolan();
    command
        .env("LLAMA_ARG_CTX_SIZE", "many")
        .arg("-m")
        .arg(&from_flag);
    let (code, message) = startup_error(command);
    assert_eq!(code, Some(2), "{message}");
    assert!(
        message.contains("--ctx-size") && message.contains("many"),
        "{message}"
    );

    let mut command = ortolan();
    command
        .env("LLAMA_ARG_CONT_BATCHING", "0")
        .env("LLAMA_ARG_NO_ENDPOINT_SLOTS", "1")
        .env("LLAMA_ARG_N_GPU_LAYERS", "99")
        .env("LLAMA_ARG_MAIN_GPU", "1")
        .env("LLAMA_ARG_DEVICE", "cpu")
        .env("LLAMA_ARG_FLASH_ATTN", "auto")
        .arg("-m")
        .arg(&from_flag);
    let (_, message) = startup_error(command);
    assert!(
        message.contains("--n-gpu-layers 99: with --device cpu all layers are on the CPU"),
        "{message}"
    );
    assert!(message.contains("--flash-attn"), "{message}");
    assert!(message.contains("--main-gpu 1"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_slot_can_be_restored_after_the_server_was_killed() {
    use serde_json::json;

    let folder = tempfile::tempdir().unwrap();
    let command = || {
        let mut command = ortolan();
        command.arg("--slot-save-path").arg(folder.path());
        command
    };
    let story =
        "Once upon a time there was a bird that lived in a very small house near the river. ";
    let request = json!({"prompt": story.repeat(4), "n_predict": 16, "temperature": 0, "id_slot": 1, "cache_prompt": true});
    let (program, address) = ready(command());
    let first = post(&address, "/completion", request.clone()).await;
    let saved = post(
        &address,
        "/slots/1?action=save",
        json!({"filename": "story"}),
    )
    .await;
    // The server is killed while it streams.
    let mut endless = request.clone();
    endless["stream"] = true.into();
    endless["n_predict"] = json!(-1);
    let streaming = reqwest::Client::new()
        .post(format!("{address}/completion"))
        .json(&endless);
    let mut streaming = streaming.send().await.unwrap();
    assert!(streaming.chunk().await.unwrap().is_some());
    drop(program);

    let (program, address) = ready(command());
    let restored = post(
        &address,
        "/slots/0?action=restore",
        json!({"filename": "story"}),
    )
    .await;
    assert_eq!(restored["n_restored"], saved["n_saved"]);
    let second = post(&address, "/completion", request).await;
    drop(program);
    assert_eq!(second["content"], first["content"]);
    let evaluated = first["tokens_evaluated"].as_u64().unwrap();
    assert_eq!(second["tokens_cached"], evaluated - 1);
}

/// Performs an action on slot 0; returns the HTTP status and the body.
async fn slot_action(address: &str, action: &str, filename: &str) -> (u16, String) {
    let url = format!("{address}/slots/0?action={action}");
    let body = serde_json::json!({"filename": filename});
    let request = reqwest::Client::new().post(url).json(&body);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn saved_slots_have_limits_and_replace_only_regular_files() {
    let folder = tempfile::tempdir().unwrap();
    for part in ["a.0123456789abcdef.part", ".a.0123456789abcdef.part"] {
        fs::write(folder.path().join(part), "of a killed save").unwrap();
    }
    std::os::unix::fs::symlink("/dev/full", folder.path().join("full")).unwrap();
    let mut command = ortolan();
    command.args([
        "--slot-save-max-files",
        "1",
        "--slot-save-max-bytes",
        "1MiB",
    ]);
    command.arg("--slot-save-path").arg(folder.path());
    let (program, address) = ready(command);
    let names = || {
        let entries = fs::read_dir(folder.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    };
    assert_eq!(
        names(),
        ["full"],
        "partial files of killed saves are removed at start"
    );
    let (status, message) = slot_action(&address, "restore", "a.0123456789abcdef.part").await;
    assert_eq!(status, 400, "{message}");
    for action in ["save", "restore"] {
        let (status, message) = slot_action(&address, action, "full").await;
        assert!(
            status == 400 && message.contains("regular file"),
            "{message}"
        );
    }
    // The file of an empty slot is a few bytes long.
    for _ in 0..2 {
        let (status, message) = slot_action(&address, "save", "a").await;
        assert_eq!(status, 200, "{message}");
    }
    let (status, message) = slot_action(&address, "save", "b").await;
    assert!(
        status == 400 && message.contains("--slot-save-max-files"),
        "{message}"
    );
    // Two blocks of 32 tokens take 1.4 MB.
    let prompt = "a bird ".repeat(20);
    let request = serde_json::json!({"prompt": prompt, "n_predict": 0, "id_slot": 0});
    post(&address, "/completion", request).await;
    let (status, message) = slot_action(&address, "save", "a").await;
    assert!(
        status == 400 && message.contains("--slot-save-max-bytes"),
        "{message}"
    );
    assert_eq!(names(), ["a", "full"]);
    drop(program);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_file_size_limit_fails_the_save_but_not_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("sh");
    // 32 or 64 KiB, depending on the shell's unit.
    command.args(["-c", "ulimit -f 64; exec \"$@\"", "sh"]);
    command.arg(env!("CARGO_BIN_EXE_ortolan"));
    command.args(["--port", "0", "--onnxruntime"]);
    command.arg(common::onnxruntime());
    command.arg("--slot-save-path").arg(folder.path());
    let (mut program, address) = ready(command);
    let request = serde_json::json!({"prompt": "a bird", "n_predict": 0, "id_slot": 0});
    post(&address, "/completion", request).await;
    for _ in 0..2 {
        let (status, message) = slot_action(&address, "save", "a").await;
        assert_eq!(status, 500, "{message}");
        assert!(message.contains("File too large"), "{message}");
        assert!(program.is_running());
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_system_prompt_is_read_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("system.json");
    let named = r#"{"system_prompt": {"prompt": "Q: The capital of Italy? A:", "anti_prompt": "Q:", "assistant_name": "A:"}}"#;
    fs::write(&file, named).unwrap();
    let mut command = ortolan();
    command.arg("-spf").arg(&file);
    let (program, address) = ready(command);
    let props = reqwest::get(format!("{address}/props")).await.unwrap();
    let props: serde_json::Value = props.json().await.unwrap();
    drop(program);
    assert_eq!(props["user_name"], "Q:", "{props}");
    assert_eq!(props["assistant_name"], "A:");
    assert_eq!(props["system_prompt"], "Q: The capital of Italy? A:");

    for (content, cause) in [
        (r#"{"prompt": 1}"#, "expected a string"),
        (r#"{"prompt": "#, "EOF"),
        (r#"{"prompt": "a", "name": "b"}"#, "unknown field `name`"),
    ] {
        fs::write(&file, content).unwrap();
        let mut command = ortolan();
        command
            .args(["--ctx-size", "64", "-m"])
            .arg(common::model());
        command.arg("--system-prompt-file").arg(&file);
        let (code, message) = startup_error(command);
        assert_eq!(code, Some(1), "{message}");
        assert!(
            message.contains("system.json") && message.contains(cause),
            "{message}"
        );
    }
    fs::write(&file, "word ".repeat(80)).unwrap();
    let mut command = ortolan();
    command
        .args(["--ctx-size", "64", "-m"])
        .arg(common::model());
    command.arg("--system-prompt-file").arg(&file);
    let (_, message) = startup_error(command);
    assert!(
        message.contains("leaves no room in the context of 64"),
        "{message}"
    );
}

/// Sends a GET request with an API key; returns the HTTP status and the body.
async fn get_with(key: &str, url: String) -> (u16, String) {
    let request = reqwest::Client::new().get(url).bearer_auth(key);
    let response = request.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn options_take_effect_and_api_keys_are_required() {
    use serde_json::json;

    let folder = tempfile::tempdir().unwrap();
    let keys = folder.path().join("keys");
    fs::write(&keys, "two\n").unwrap();
    fs::write(folder.path().join("index.html"), "mine").unwrap();
    let mut command = ortolan();
    command.args([
        "-a",
        "wren",
        "-n",
        "7",
        "--metrics",
        "--slots-endpoint-disable",
    ]);
    command
        .args(["--api-key", "one", "--api-key-file"])
        .arg(&keys);
    command.args(["--temp", "0", "--seed", "7"]);
    command.arg("--path").arg(folder.path());
    let (program, address) = ready(command);
    let (status, props) = get_with("one", format!("{address}/props")).await;
    let props: serde_json::Value = serde_json::from_str(&props).unwrap();
    let metrics = get_with("two", format!("{address}/metrics")).await;
    let (slots, _) = get_with("two", format!("{address}/slots")).await;
    let (locked, _) = get_with("three", format!("{address}/props")).await;
    let page = get_with("three", format!("{address}/")).await;
    let body = json!({"prompt": "a", "n_predict": 1});
    let request = reqwest::Client::new().post(format!("{address}/completion"));
    let response = request.bearer_auth("one").json(&body).send().await.unwrap();
    let response: serde_json::Value = response.json().await.unwrap();
    drop(program);
    for settings in [
        &props["default_generation_settings"],
        &response["generation_settings"],
    ] {
        assert_eq!(settings["temperature"], 0.0);
        assert_eq!(settings["seed"], 7);
    }
    assert_eq!((status, &props["model"]), (200, &"wren".into()));
    assert_eq!(props["default_generation_settings"]["n_predict"], 7);
    assert_eq!((metrics.0, slots, locked), (200, 501, 401));
    assert!(metrics.1.contains("llamacpp:prompt_tokens_total"));
    assert_eq!(page, (200, "mine".to_owned()));
}

#[test]
fn an_invalid_adapter_is_rejected_with_path_and_cause() {
    let folder = tempfile::tempdir().unwrap();
    let wide = folder.path().join("wide.gguf");
    let weight = ("blk.0.attn_q.weight".to_owned(), [2048, 2048]);
    common::lora::write(&wide, "llama", 4, &[weight], 1);
    let check = |option: &str, path: &Path, cause: &str| {
        let mut command = with_model(ortolan());
        command.arg(option).arg(path);
        let (code, message) = startup_error(command);
        assert_eq!(code, Some(1), "{message}");
        assert!(message.contains(&*path.to_string_lossy()), "{message}");
        assert!(message.contains(cause), "{message}");
    };
    check("--lora", &wide, "has the shape [2048, 4], not [576, 4]");
    check("--lora", &folder.path().join("none"), "No such file");
    check("--lora", folder.path(), "adapter_config.json not found");
    check(
        "--lora",
        &common::model(),
        "\"general.type\" is \"model\", not \"adapter\"",
    );
    let mut command = with_model(ortolan());
    command.arg("--lora-base").arg(common::model());
    let (_, message) = startup_error(command);
    assert!(
        message.contains("a base model for adapters is given, but no adapter"),
        "{message}"
    );
}

/// A pipe buffers some hundred lines. A full pipe must delay neither requests nor the shutdown.
#[cfg(unix)]
#[tokio::test]
async fn a_log_pipe_that_is_not_read_blocks_nothing() {
    let mut command = with_model(ortolan());
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut program = KillOnDrop(command.spawn().unwrap());
    let mut log = BufReader::new(program.0.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "the log ended");
    }
    let event: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = event["address"].as_str().unwrap();
    let client = reqwest::Client::new();
    for number in 0..2000 {
        let request = client.get(format!("{address}/health")).send();
        let response = tokio::time::timeout(TIMEOUT, request).await;
        assert!(
            response.is_ok_and(|response| response.is_ok()),
            "request {number}"
        );
    }
    let id = program.0.id().to_string();
    let kill = Command::new("kill").args(["-TERM", &id]).status();
    assert!(kill.unwrap().success());
    let status = program.0.wait_timeout(TIMEOUT).unwrap();
    assert_eq!(status.map(|status| status.code()), Some(Some(0)));
    drop(log);
}
