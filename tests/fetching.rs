//! The program from outside, when its model is elsewhere: what it refuses, and that it listens while it fetches.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod common;
#[path = "common/program.rs"]
mod program;
#[path = "common/running.rs"]
mod running;

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, mpsc};

use program::{listening, ortolan, refused};
use running::Running;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned};

#[test]
fn a_model_that_cannot_be_fetched_is_refused_before_anybody_is_asked() {
    let nowhere = "http://127.0.0.1:1/wren.gguf";
    for (options, code, cause) in [
        (&[][..], 2, "--model <FILE>"),
        (&["-hff", "wren.gguf"], 2, "--hf-repo"),
        (&["-mu", nowhere, "-hf", "ada/birds"], 2, "--hf-repo"),
        (&["-mu", "wren.gguf"], 1, "wren.gguf is no address"),
        (&["-hf", "birds"], 1, "\"birds\" is no repository"),
        (
            &["-hf", "ada/birds:Q8_0", "-hff", "wren.gguf"],
            1,
            "says \"Q8_0\" already",
        ),
        (&["-mu", nowhere, "--offline"], 1, "--offline asks nobody"),
        (&["-mu", nowhere, "-np", "0"], 1, "at least one slot"),
        (
            &["-mu", nowhere, "--chat-template", "{{"],
            1,
            "the chat template is not valid",
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let mut command = ortolan();
        command.env("LLAMA_CACHE", folder.path()).args(options);
        let (found, message) = refused(command);
        assert_eq!(found, Some(code), "{options:?}: {message}");
        assert!(message.contains(cause), "{options:?}: {message}");
    }
}

/// Answers one question for a file over TLS: the first half, and when `go_on` is heard, the other.
fn give_file(
    listener: &TcpListener,
    made: &rcgen::CertifiedKey<rcgen::KeyPair>,
    go_on: &mpsc::Receiver<()>,
) {
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key);
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
    let (half, other) = file.split_at(file.len() / 2);
    stream.write_all(half).unwrap();
    go_on.recv().unwrap();
    stream.write_all(other).unwrap();
    stream.flush().unwrap();
}

#[test]
fn a_model_is_fetched_while_it_listens() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let trusted = folder.path().join("trusted");
    fs::write(&trusted, made.cert.pem()).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let url = format!("https://{address}/wren.gguf");
    let place = format!("url/127.0.0.1#{}/wren.gguf", address.port());
    let (go_on, gone_on) = mpsc::channel();
    let giving = std::thread::spawn(move || give_file(&listener, &made, &gone_on));
    let program = |options: &[&str]| {
        let mut command = ortolan();
        command.args(["--model-url", &url]).args(options);
        command
            .env("SSL_CERT_FILE", &trusted)
            .env("LLAMA_CACHE", folder.path());
        listening(command)
    };

    let (mut fetching, address) = program(&[]);
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
    go_on.send(()).unwrap();
    giving.join().unwrap();
    fetching.says("the model is fetched");
    fetching.says("the model is ready");
    let said: Vec<String> = fetching
        .output
        .by_ref()
        .take_while(|line| !line.contains("chat at"))
        .collect();
    assert!(said[0].trim_end().ends_with(&place), "{said:?}");
    drop(fetching);

    // Nobody is there to be asked any more.
    for options in [&[][..], &["--offline"]] {
        let (mut program, _) = program(options);
        let line = program.says("the model is ready");
        assert!(line.contains(&place), "{line}");
    }
}

#[cfg(unix)]
#[test]
fn a_stop_does_not_wait_for_a_model() {
    let folder = tempfile::tempdir().unwrap();
    // It listens and never answers.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut command = ortolan();
    command.args([
        "-mu",
        &format!("http://{}/wren.gguf", listener.local_addr().unwrap()),
    ]);
    command.env("LLAMA_CACHE", folder.path());
    let mut program = Running::start(&mut command);
    program.says("fetching the model");
    let _asked = listener.accept().unwrap();
    assert_eq!(program.stop().code, Some(0));
}

/// A wrong name, a token that is missing: nobody waits for what another attempt does not change.
#[test]
fn a_model_that_is_not_there_ends_the_program_with_the_address_and_the_cause() {
    for (answer, cause) in [
        ("404 Not Found", "is not there (404)"),
        ("401 Unauthorized", "may not be read (401)"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/wren.gguf", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = [0; 4096];
                let _ = stream.read(&mut head).unwrap();
                write!(stream, "HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n").unwrap();
            }
        });
        let mut command = ortolan();
        command
            .args(["--model-url", &url])
            .env("LLAMA_CACHE", folder.path());
        let ended = Running::start(&mut command).end();
        assert_eq!(ended.code, Some(1), "{}", ended.errors);
        let message = ended.errors.lines().last().unwrap();
        assert!(
            message.starts_with("error: the model cannot be fetched: ") && message.contains(&url),
            "{message}"
        );
        assert!(message.contains(cause), "{message}");
    }
}
