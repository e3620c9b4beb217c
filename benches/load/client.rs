//! A client for streamed completions of any OpenAI-compatible server, which records when tokens arrive.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::StreamExt;
use serde_json::{Value, json};

/// A prompt and the exact number of tokens to generate.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) prompt: String,
    pub(crate) tokens: usize,
}

/// A received completion.
#[derive(Debug)]
pub(crate) struct Completion {
    sent_at: Instant,
    /// Arrival times of the parts of the text.
    arrivals: Vec<Instant>,
    pub(crate) text: String,
    /// Number of prompt tokens, as reported by the server.
    pub(crate) prompt_tokens: u64,
    /// Number of generated tokens, as reported by the server.
    pub(crate) tokens: u64,
}

impl Completion {
    /// Time to first token.
    pub(crate) fn first_token(&self) -> Duration {
        self.arrivals[0] - self.sent_at
    }

    /// Times between consecutive parts of the text.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = Duration> {
        self.arrivals.windows(2).map(|pair| pair[1] - pair[0])
    }
}

/// The measured server.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    http: reqwest::Client,
    /// `http://host:port`
    address: String,
    /// The `model` field of requests.
    model: String,
}

impl Target {
    pub(crate) fn new(address: &str, model: &str) -> Self {
        // A new connection for each request: some servers close idle connections just when they are reused.
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).build();
        Self {
            http: http.expect("the default client configuration is valid"),
            address: address.trim_end_matches('/').to_owned(),
            model: model.to_owned(),
        }
    }

    /// Sends a request and reads the stream to its end.
    ///
    /// # Errors
    /// If the server rejects the request, aborts the stream, or generates fewer tokens than requested.
    pub(crate) async fn complete(&self, request: &Request) -> anyhow::Result<Completion> {
        let sent_at = Instant::now();
        let response = self
            .http
            .post(format!("{}/v1/completions", self.address))
            .json(&json!({
                "model": self.model, "prompt": request.prompt, "max_tokens": request.tokens, "temperature": 0,
                "stream": true, "stream_options": {"include_usage": true},
                // Not part of OpenAI's API, but supported by most servers: all texts have the same length.
                "ignore_eos": true,
            }))
            .send()
            .await?;
        let status = response.status();
        if !status.is_success() {
            bail!("{status}: {}", response.text().await?);
        }
        let mut completion = Completion {
            sent_at,
            arrivals: Vec::with_capacity(request.tokens),
            text: String::new(),
            prompt_tokens: 0,
            tokens: 0,
        };
        let mut unread = Vec::new();
        let mut parts = response.bytes_stream();
        while let Some(part) = parts.next().await {
            unread.extend_from_slice(&part?);
            let complete_bytes = unread
                .iter()
                .rposition(|&byte| byte == b'\n')
                .map_or(0, |end| end + 1);
            let lines: Vec<u8> = unread.drain(..complete_bytes).collect();
            for line in std::str::from_utf8(&lines)?.lines() {
                if let Some(data) = line.strip_prefix("data:").map(str::trim)
                    && data != "[DONE]"
                {
                    completion.add_event(data)?;
                }
            }
        }
        ensure!(
            !completion.arrivals.is_empty(),
            "the stream contains no text"
        );
        let requested = request.tokens as u64;
        let tokens = completion.tokens;
        ensure!(
            tokens >= requested,
            "received {tokens} of {requested} tokens"
        );
        Ok(completion)
    }
}

impl Completion {
    fn add_event(&mut self, event: &str) -> anyhow::Result<()> {
        let event: Value = serde_json::from_str(event).context("an event is not JSON")?;
        if let Some(error) = event.get("error") {
            bail!("the stream was aborted: {error}");
        }
        if let Some(text) = event["choices"][0]["text"].as_str()
            && !text.is_empty()
        {
            self.arrivals.push(Instant::now());
            self.text.push_str(text);
        }
        if let Some(usage) = event.get("usage").filter(|usage| !usage.is_null()) {
            let count = |name: &str| usage[name].as_u64().context("the usage has no token count");
            self.prompt_tokens = count("prompt_tokens")?;
            self.tokens = count("completion_tokens")?;
        }
        Ok(())
    }
}
