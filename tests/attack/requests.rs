//! Attacks with requests: small requests that cost much, unfinished bodies, and clients that disconnect.

use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::target::Target;

/// Maximum size of the response to a request of at most 8 MiB.
const MAX_RESPONSE_BYTES: usize = 32 << 20;
/// Maximum memory for unfinished bodies: the server's budget for them, and the bytes in buffers.
const MAX_UNFINISHED_BYTES: u64 = 256 << 20;
/// Declared length of each unfinished body.
const UNFINISHED_BODY_BYTES: usize = 8 << 20;

/// Sends requests concurrently and returns their statuses. The test fails on a status that is not allowed, a large
/// response, or a closed connection.
async fn statuses(
    target: &Target,
    requests: impl IntoIterator<Item = (&'static str, Value)>,
    allowed: &[u16],
) -> Vec<u16> {
    let requests: Vec<_> = requests.into_iter().collect();
    let responses = requests.iter().map(|(path, body)| target.send(path, body));
    let statuses = join_all(responses).await.into_iter().map(|response| {
        let (status, bytes) = response.expect("each request gets a response");
        assert!(allowed.contains(&status), "status {status}");
        assert!(bytes < MAX_RESPONSE_BYTES, "a response of {bytes} bytes");
        status
    });
    statuses.collect()
}

/// Grammars, texts and templates that take long to prepare.
pub(crate) async fn preparations(target: &Target) {
    let regex = json!({"prompt": "a", "n_predict": 1, "regex": "a{1000000000}"});
    let digits = json!({"content": "7".repeat(1 << 20)});
    let questions = "x".repeat(1 << 20);
    let chat = json!({"messages": [{"role": "user", "content": questions}], "max_tokens": 1});
    let requests = std::iter::repeat_n(("/completion", regex), 60)
        .chain(std::iter::repeat_n(("/tokenize", digits), 40))
        .chain(std::iter::repeat_n(("/v1/chat/completions", chat), 20));
    let statuses = statuses(target, requests, &[200, 400, 429]).await;
    assert!(
        statuses.contains(&429),
        "no preparation was refused: {statuses:?}"
    );
}

/// Bodies whose cost is the product of several of their fields.
pub(crate) async fn multiplied_bodies(target: &Target) {
    let texts = (0..1024).map(|number| json!([format!("{number} ").repeat(200), 1.0]));
    let biased: Vec<Value> = texts.collect();
    let ids: Vec<Value> = (0..1000).map(|id| json!([id, 1.0])).collect();
    let prompts = vec!["a"; 12];
    let requests = [
        json!({"prompt": prompts, "n_predict": 1, "logit_bias": biased}),
        json!({"prompt": prompts, "n_predict": 1, "logit_bias": ids}),
        json!({"prompt": "word ".repeat(200), "n_predict": 1, "n_cmpl": 12}),
        json!({"prompt": prompts, "n_predict": 1, "penalty_prompt": "word ".repeat(200_000)}),
        json!({"prompt": prompts, "n_predict": 1, "stop": ["x".repeat(1 << 20)]}),
        json!({"prompt": "a", "n_predict": 200, "n_probs": 5000, "ignore_eos": true}),
    ];
    for request in requests {
        statuses(target, [("/completion", request)], &[200, 400, 413, 429]).await;
    }
    let slots = reqwest::get(format!("{}/slots", target.url)).await.unwrap();
    let bytes = slots.bytes().await.unwrap().len();
    assert!(
        bytes < MAX_RESPONSE_BYTES / 8,
        "the response of /slots has {bytes} bytes"
    );
}

/// Bodies that are almost complete and never finished.
pub(crate) async fn unfinished_bodies(target: &Target) {
    let bytes_before = target.resident_bytes();
    let body_part = vec![b'a'; UNFINISHED_BODY_BYTES - 1024];
    let clients = (0..60).map(|_| async {
        let mut socket = TcpStream::connect(target.host()).await.unwrap();
        let head = format!(
            "POST /completion HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
             content-length: {UNFINISHED_BODY_BYTES}\r\n\r\n{{\"prompt\": \""
        );
        let _ = socket.write_all(head.as_bytes()).await;
        // The server may refuse the body before it is complete.
        let _ = socket.write_all(&body_part).await;
        socket
    });
    let mut sockets = join_all(clients).await;
    let growth_bytes = target.resident_bytes().saturating_sub(bytes_before);
    assert!(
        growth_bytes < MAX_UNFINISHED_BYTES,
        "{} MiB for unfinished bodies",
        growth_bytes >> 20
    );
    // The server still reads a small body.
    let small = json!({"content": "a small text"});
    assert_eq!(target.send("/tokenize", &small).await.unwrap().0, 200);
    let (mut refused, mut status) = (0, [0; 12]);
    for socket in &mut sockets {
        let read = socket.read_exact(&mut status);
        if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(20), read).await {
            match &status {
                b"HTTP/1.1 429" => refused += 1,
                // The server accepted the body, then received nothing of it for `--timeout`.
                b"HTTP/1.1 408" => {}
                other => panic!("{}", String::from_utf8_lossy(other)),
            }
        }
    }
    assert!(refused > 0, "no body was refused");
}

/// Clients that disconnect while they send, before the response and during it.
pub(crate) async fn disconnects(target: &Target) {
    let prompt = "Once upon a time ".repeat(50);
    let body = json!({"prompt": prompt, "n_predict": 400, "stream": true, "ignore_eos": true});
    for round in 0..8_u64 {
        let clients = (0..50_u64).map(|number| {
            let timeout = Duration::from_millis((round * 50 + number) * 7 % 200);
            tokio::time::timeout(timeout, target.send("/completion", &body))
        });
        join_all(clients).await;
    }
    // No slot stays occupied by a client that disconnected.
    let body = json!({"prompt": "a", "n_predict": 1});
    let succeeds = async {
        while target.send("/completion", &body).await.unwrap().0 != 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), succeeds)
        .await
        .unwrap();
}
