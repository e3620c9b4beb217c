//! The attacked server, and the witness that reads streams during an attack.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::common::process::memory_bytes;

/// Maximum time between two tokens of the witness's stream.
const MAX_GAP: Duration = Duration::from_secs(1);
/// Tokens of each of the witness's streams; they fit in the context of a slot.
const WITNESS_TOKENS: usize = 1500;
/// Maximum duration of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(120);

/// A client of the attacked server.
#[derive(Clone)]
pub(crate) struct Target {
    http: reqwest::Client,
    /// `http://host:port`
    pub(crate) url: String,
    process_id: u32,
}

/// What the witness received until the attack ended.
#[derive(Default)]
struct Received {
    /// The text of each stream, in order; the last one may be cut off.
    texts: Vec<String>,
    tokens: usize,
    /// The longest time between two tokens of a stream.
    longest_gap: Duration,
}

impl Target {
    pub(crate) fn new(url: &str, process_id: u32) -> Self {
        // One connection per request: the server closes idle connections when it reaches its limit.
        let http = reqwest::Client::builder().pool_max_idle_per_host(0);
        Self {
            http: http.timeout(REQUEST_TIMEOUT).build().unwrap(),
            url: url.to_owned(),
            process_id,
        }
    }

    /// `host:port`
    pub(crate) fn host(&self) -> &str {
        self.url.split_once("://").unwrap().1
    }

    pub(crate) async fn post(
        &self,
        path: &str,
        body: &Value,
    ) -> reqwest::Result<reqwest::Response> {
        let request = self.http.post(format!("{}{path}", self.url));
        request.json(body).send().await
    }

    /// Sends a request and returns the status and the size in bytes of the response; `None` if the connection was
    /// closed.
    pub(crate) async fn send(&self, path: &str, body: &Value) -> Option<(u16, usize)> {
        let response = self.post(path, body).await.ok()?;
        let status = response.status().as_u16();
        Some((status, response.bytes().await.ok()?.len()))
    }

    /// Sends a `/health` request, which must succeed, and returns its duration.
    pub(crate) async fn health(&self) -> Duration {
        let started_at = Instant::now();
        let response = self.http.get(format!("{}/health", self.url)).send().await;
        assert_eq!(response.unwrap().status(), 200);
        started_at.elapsed()
    }

    pub(crate) fn resident_bytes(&self) -> u64 {
        memory_bytes(self.process_id, "VmRSS:")
    }

    pub(crate) async fn warm_up(&self) {
        let prompts: Vec<String> = (0..4).map(|number| "bird ".repeat(400 + number)).collect();
        for body in [
            json!({"prompt": prompts, "n_predict": 8}),
            json!({"prompt": "a", "n_predict": 4, "regex": "[a-z]{1,3}"}),
            json!({"prompt": "a", "n_predict": 4, "json_schema": {"type": "integer"}}),
        ] {
            assert_eq!(self.send("/completion", &body).await.unwrap().0, 200);
        }
    }

    /// Runs an attack while a witness reads streams; checks the gaps and the texts of the streams.
    pub(crate) async fn run_with_witness(&self, name: &str, attack: impl Future<Output = ()>) {
        let (stop, stopped) = oneshot::channel();
        let (begin, begun) = oneshot::channel();
        let witness = self.clone();
        let witness = tokio::spawn(async move { witness.watch(begin, stopped).await });
        begun.await.unwrap();
        let start = Instant::now();
        attack.await;
        let attack_duration = start.elapsed();
        drop(stop);
        let Received {
            texts,
            tokens,
            longest_gap,
        } = witness.await.unwrap();
        println!(
            "{name}: {attack_duration:.1?}, the witness read {tokens} tokens, longest gap {longest_gap:.1?}, {} MiB resident",
            self.resident_bytes() >> 20
        );
        assert!(longest_gap < MAX_GAP, "{name}: a gap of {longest_gap:?}");
        // Without the attack, the server generates the same text. It must be a few tokens longer than the counted
        // events, because an event may have several tokens.
        let tokens = (tokens + 4).min(WITNESS_TOKENS);
        let response = self.post("/completion", &witness_body(tokens, false)).await;
        let response: Value = response.unwrap().json().await.unwrap();
        let expected = response["content"].as_str().unwrap();
        for text in texts {
            assert!(
                expected.starts_with(&text),
                "{name}: {text:?} is not the beginning of {expected:?}"
            );
        }
    }

    /// Reads streams sequentially until `stopped`. Signals `begin` at the first token.
    async fn watch(
        &self,
        begin: oneshot::Sender<()>,
        mut stopped: oneshot::Receiver<()>,
    ) -> Received {
        let mut begin = Some(begin);
        let mut received = Received::default();
        loop {
            let body = witness_body(WITNESS_TOKENS, true);
            let response = self.post("/completion", &body).await.unwrap();
            if response.status() == 429 {
                // The attack fills the queue.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
            assert_eq!(response.status(), 200);
            let (mut body, mut unread) = (response.bytes_stream(), Vec::new());
            let mut last_token_at = None;
            received.texts.push(String::new());
            while let Some(bytes) = tokio::select! {
                _ = &mut stopped => return received,
                bytes = body.next() => bytes,
            } {
                unread.extend_from_slice(&bytes.unwrap());
                while let Some(end) = unread.windows(2).position(|pair| pair == b"\n\n") {
                    let event: Vec<u8> = unread.drain(..end + 2).collect();
                    let Some(data) = event.strip_prefix(b"data: ") else {
                        continue;
                    };
                    let event: Value = serde_json::from_slice(data).unwrap();
                    let content = event["content"].as_str();
                    let content = content.unwrap_or_else(|| panic!("{event}"));
                    received.texts.last_mut().unwrap().push_str(content);
                    received.tokens += 1;
                    let now = Instant::now();
                    if let Some(last) = last_token_at.replace(now) {
                        received.longest_gap = received.longest_gap.max(now - last);
                    }
                    if let Some(begin) = begin.take() {
                        begin.send(()).unwrap();
                    }
                }
            }
        }
    }
}

fn witness_body(tokens: usize, stream: bool) -> Value {
    json!({
        "prompt": "Once upon a time, there was a small songbird", "n_predict": tokens, "temperature": 0,
        "repeat_penalty": 1, "ignore_eos": true, "stream": stream,
    })
}
