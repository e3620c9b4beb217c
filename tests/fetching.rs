//! Downloading the model from a URL or a model hub: invalid options, listening during the download, offline use.

#![expect(clippy::unwrap_used, reason = "a failed assumption fails the test")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, mpsc};

use program::{listening, ortolan, startup_error};
use running::Running;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

#[test]
fn invalid_download_options_are_rejected_before_any_request() {
    let nowhere = "http://127.0.0.1:1/wren.gguf";
    for (options, code, cause) in [
        (&[][..], 2, "--model <FILE>"),
        (&["-hff", "wren.gguf"], 2, "--hf-repo"),
        (&["-mu", nowhere, "-hf", "ada/birds"], 2, "--hf-repo"),
        (&["-mu", "wren.gguf"], 1, "invalid URL wren.gguf"),
        (&["-hf", "birds"], 1, "invalid repository \"birds\""),
        (
            &["-hf", "ada/birds:Q8_0", "-hff", "wren.gguf"],
            1,
            "cannot be used with \":Q8_0\" in --hf-repo",
        ),
        (
            &["-mu", nowhere, "--offline"],
            1,
            "--offline forbids downloading",
        ),
        (&["-mu", nowhere, "-np", "0"], 1, "the number of slots"),
        (
            &["-mu", nowhere, "--chat-template", "{{"],
            1,
            "invalid chat template",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = ortolan();
        command.env("LLAMA_CACHE", folder.path()).args(options);
        let (actual_code, message) = startup_error(command);
        assert_eq!(actual_code, Some(code), "{options:?}: {message}");
        assert!(message.contains(cause), "{options:?}: {message}");
    }
}

/// Serves the default model to one HTTPS request: the first half at once, the second half after `resume` gets a
/// message.
fn serve_file(
    listener: &TcpListener,
    certificate: &rcgen::CertifiedKey<rcgen::KeyPair>,
    resume: &mpsc::Receiver<()>,
) {
    let key = PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key);
    let connection = ServerConnection::new(Arc::new(config.unwrap())).unwrap();
    let mut stream = StreamOwned::new(connection, listener.accept().unwrap().0);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    let file = fs::read(common::model()).unwrap();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
        file.len()
    )
    .unwrap();
    let (first_half, second_half) = file.split_at(file.len() / 2);
    stream.write_all(first_half).unwrap();
    resume.recv().unwrap();
    stream.write_all(second_half).unwrap();
    stream.flush().unwrap();
}

#[test]
fn the_server_listens_while_it_downloads_the_model() {
    let folder = tempfile::tempdir().unwrap();
    let certificate = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let trusted = folder.path().join("trusted");
    fs::write(&trusted, certificate.cert.pem()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("https://{address}/wren.gguf");
    let cached_path = format!("url/127.0.0.1#{}/wren.gguf", address.port());
    let (resume, resumed) = mpsc::channel();
    let file_server = std::thread::spawn(move || serve_file(&listener, &certificate, &resumed));
    let program = |options: &[&str]| {
        let mut command = ortolan();
        command.args(["--model-url", &url]).args(options);
        command
            .env("SSL_CERT_FILE", &trusted)
            .env("LLAMA_CACHE", folder.path());
        listening(command)
    };

    let (mut downloading, address) = program(&[]);
    let address = address.strip_prefix("http://").unwrap();
    let mut socket = TcpStream::connect(address).unwrap();
    socket
        .write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
        .unwrap();
    let mut health = String::new();
    socket.read_to_string(&mut health).unwrap();
    assert!(
        health.starts_with("HTTP/1.1 503 ") && health.contains("loading model"),
        "{health}"
    );
    resume.send(()).unwrap();
    file_server.join().unwrap();
    downloading.wait_for_log("the model is downloaded");
    downloading.wait_for_log("the model is ready");
    let lines: Vec<String> = downloading
        .output
        .by_ref()
        .take_while(|line| !line.contains("chat at"))
        .collect();
    assert!(lines[0].trim_end().ends_with(&cached_path), "{lines:?}");
    drop(downloading);

    // The file server is gone: the cached file is used.
    for options in [&[][..], &["--offline"]] {
        let (mut program, _) = program(options);
        let line = program.wait_for_log("the model is ready");
        assert!(line.contains(&cached_path), "{line}");
    }
}

#[cfg(unix)]
#[test]
fn a_signal_stops_the_server_during_a_download() {
    let folder = tempfile::tempdir().unwrap();
    // This file server accepts connections and never responds.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = ortolan();
    command.args([
        "-mu",
        &format!("http://{}/wren.gguf", listener.local_addr().unwrap()),
    ]);
    command.env("LLAMA_CACHE", folder.path());
    let mut program = Running::start(&mut command);
    program.wait_for_log("downloading the model");
    let _connection = listener.accept().unwrap();
    assert_eq!(program.stop().code, Some(0));
}

/// Retrying does not help against a wrong name or a missing token.
#[test]
fn a_failed_download_ends_the_program_with_url_and_cause() {
    for (status_line, cause) in [
        ("404 Not Found", "not found (404)"),
        ("401 Unauthorized", "denied access (401)"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/wren.gguf", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).unwrap();
                write!(
                    stream,
                    "HTTP/1.1 {status_line}\r\ncontent-length: 0\r\n\r\n"
                )
                .unwrap();
            }
        });
        let mut command = ortolan();
        command
            .args(["--model-url", &url])
            .env("LLAMA_CACHE", folder.path());
        let exit = Running::start(&mut command).wait();
        assert_eq!(exit.code, Some(1), "{}", exit.errors);
        let message = exit.errors.lines().last().unwrap();
        assert!(
            message.starts_with("error: cannot download the model: ") && message.contains(&url),
            "{message}"
        );
        assert!(message.contains(cause), "{message}");
    }
}

/// Returns the head of the first request that the program sends to `listener`, which is the proxy and may be the hub.
fn first_request(listener: &TcpListener, options: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let proxy = format!("http://ada:secret@{}", listener.local_addr().unwrap());
    let mut command = ortolan();
    command
        .args(options)
        .env("LLAMA_CACHE", folder.path())
        .env("HTTP_PROXY", &proxy)
        .env("HTTPS_PROXY", &proxy)
        .env_remove("NO_PROXY")
        .env_remove("no_proxy");
    let program = Running::start(&mut command);
    let (socket, _) = listener.accept().unwrap();
    let lines = BufReader::new(&socket).lines().map(Result::unwrap);
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    // While the connection is open, the program sends no further request.
    drop(program);
    head.join("\n")
}

#[test]
fn a_proxy_never_gets_a_token_that_it_could_read() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let credentials = "Basic YWRhOnNlY3JldA==";

    let head = first_request(&listener, &["-mu", "http://files.example/wren.gguf"]);
    assert!(
        head.starts_with("GET http://files.example/wren.gguf HTTP/1.1\n")
            && head.contains(credentials),
        "{head}"
    );

    let file = [
        "-hf",
        "ada/birds",
        "-hff",
        "wren.gguf",
        "--hf-token",
        "mine",
    ];
    let hub = ["--hf-endpoint", "https://hub.example"];
    let head = first_request(&listener, &[&file[..], &hub].concat());
    assert!(
        head.starts_with("CONNECT hub.example:443 HTTP/1.1\n")
            && head.contains(credentials)
            && !head.contains("mine"),
        "{head}"
    );

    // The hub itself gets the request, not the proxy at the same address.
    let hub = ["--hf-endpoint", &format!("http://{address}")];
    let head = first_request(&listener, &[&file[..], &hub].concat());
    assert!(
        head.starts_with("GET /ada/birds/resolve/main/wren.gguf HTTP/1.1\n")
            && head.contains("Bearer mine")
            && !head.contains(credentials),
        "{head}"
    );
}

#[test]
fn only_http_proxies_are_supported() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = ortolan();
    command
        .args(["-mu", "https://files.example/wren.gguf"])
        .env("LLAMA_CACHE", folder.path())
        .env("HTTPS_PROXY", "socks5://127.0.0.1:1")
        .env_remove("NO_PROXY")
        .env_remove("no_proxy");
    let exit = Running::start(&mut command).wait();
    assert_eq!(exit.code, Some(1), "{}", exit.errors);
    let message = exit.errors.lines().last().unwrap();
    assert!(
        message.contains("socks5 proxies are not supported"),
        "{message}"
    );
}
