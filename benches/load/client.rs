//! One streamed completion, as any server with OpenAI's API answers it, and when its tokens came.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use futures_util::StreamExt;
use serde_json::{Value, json};

/// What is asked for: the prompt is `prompt`, and just so many tokens follow it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) prompt: String,
    pub(crate) tokens: usize,
}

/// What came.
#[derive(Debug)]
pub(crate) struct Answer {
    /// When the request was sent.
    sent: Instant,
    /// When each part of the text came.
    arrivals: Vec<Instant>,
    /// The text.
    pub(crate) text: String,
    /// Of the prompt, as the server counts.
    pub(crate) prompt_tokens: u64,
    /// Of the text, as the server counts.
    pub(crate) tokens: u64,
}

impl Answer {
    /// From sending to the first text.
    pub(crate) fn first_token(&self) -> Duration {
        self.arrivals[0] - self.sent
    }

    /// Between one text and the next.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = Duration> {
        self.arrivals.windows(2).map(|pair| pair[1] - pair[0])
    }
}

/// A server by its address.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    http: reqwest::Client,
    /// `http://host:port`
    address: String,
    /// The model that requests name.
    model: String,
}

impl Target {
    /// The server at `address`, asked for `model`.
    pub(crate) fn new(address: &str, model: &str) -> Self {
        // A connection for each request: some servers close those that are idle just when they are used again.
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).build();
        Self {
            http: http.expect("the client needs nothing that may be missing"),
            address: address.trim_end_matches('/').to_owned(),
            model: model.to_owned(),
        }
    }

    /// The answer to `request`, read to its end.
    ///
    /// # Errors
    /// The server refused, broke off, or gave fewer tokens than it was asked for.
    pub(crate) async fn complete(&self, request: &Request) -> anyhow::Result<Answer> {
        let sent = Instant::now();
        let response = self
            .http
            .post(format!("{}/v1/completions", self.address))
            .json(&json!({
                "model": self.model, "prompt": request.prompt, "max_tokens": request.tokens, "temperature": 0,
                "stream": true, "stream_options": {"include_usage": true},
                // Not OpenAI's, but most servers' word: texts of one length can be compared.
                "ignore_eos": true,
            }))
            .send()
            .await?;
        let status = response.status();
        if !status.is_success() {
            bail!("{status}: {}", response.text().await?);
        }
        let mut answer = Answer {
            sent,
            arrivals: Vec::with_capacity(request.tokens),
            text: String::new(),
            prompt_tokens: 0,
            tokens: 0,
        };
        let mut unread = Vec::new();
        let mut parts = response.bytes_stream();
        while let Some(part) = parts.next().await {
            unread.extend_from_slice(&part?);
            let whole = unread
                .iter()
                .rposition(|&byte| byte == b'\n')
                .map_or(0, |end| end + 1);
            let lines: Vec<u8> = unread.drain(..whole).collect();
            for line in std::str::from_utf8(&lines)?.lines() {
                if let Some(data) = line.strip_prefix("data:").map(str::trim)
                    && data != "[DONE]"
                {
                    answer.take(data)?;
                }
            }
        }
        ensure!(!answer.arrivals.is_empty(), "the stream had no text");
        let wanted = request.tokens as u64;
        let tokens = answer.tokens;
        ensure!(tokens >= wanted, "{tokens} of {wanted} tokens came");
        Ok(answer)
    }
}

impl Answer {
    fn take(&mut self, event: &str) -> anyhow::Result<()> {
        let event: Value = serde_json::from_str(event).context("an event is JSON")?;
        if let Some(error) = event.get("error") {
            bail!("the stream broke off: {error}");
        }
        if let Some(text) = event["choices"][0]["text"].as_str()
            && !text.is_empty()
        {
            self.arrivals.push(Instant::now());
            self.text.push_str(text);
        }
        if let Some(usage) = event.get("usage").filter(|usage| !usage.is_null()) {
            let count = |name: &str| usage[name].as_u64().context("a count of tokens");
            self.prompt_tokens = count("prompt_tokens")?;
            self.tokens = count("completion_tokens")?;
        }
        Ok(())
    }
}
