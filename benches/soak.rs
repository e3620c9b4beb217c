//! Minutes of mixed load with clients that disconnect at random. Fails if resident memory grows by 1 % after the second
//! minute, or if the server's response to a fixed request has changed afterwards.
//!
//! `make soak`, or `cargo bench --bench soak -- MINUTES` (default 10). Linux only.

#![expect(clippy::print_stdout, reason = "a bench is read on the terminal")]

#[path = "../tests/common/mod.rs"]
mod common;
mod server;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;
use ortolan_client::Client;
use ortolan_client::types;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use server::{Program, read_events};

const CLIENTS: u64 = 12;
/// Memory is compared with its size at this time.
const SETTLED_AFTER: Duration = Duration::from_secs(120);
const MAX_GROWTH: f64 = 0.01;
/// The server's `retry-after` for rejected requests.
const RETRY_AFTER: Duration = Duration::from_secs(1);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let minutes: f64 = std::env::args()
        .filter(|argument| argument != "--bench")
        .nth(1)
        .map_or(Ok(10.0), |minutes| minutes.parse())?;
    let duration = Duration::from_secs_f64(60.0 * minutes);
    // The cache has room for a third of the tokens of eight full contexts.
    let options = [
        "--ctx-size",
        "1024",
        "--parallel",
        "8",
        "--cache-tokens",
        "2752",
        "--queue",
        "2",
    ];
    let program = Program::start(&common::model(), &options).await?;
    let body = json!({"prompt": "The capital of France is", "n_predict": 20, "temperature": 0});
    let text_before = text(&program.client(), &body).await?;

    let counts = Arc::new(Counts::default());
    let start = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let (client, counts) = (program.client(), Arc::clone(&counts));
            tokio::spawn(send_until(client, number, start + duration, counts))
        })
        .collect();
    let mut settled = None;
    while start.elapsed() < duration {
        tokio::time::sleep(Duration::from_secs(10).min(duration)).await;
        let resident = program.resident_bytes();
        if start.elapsed() >= SETTLED_AFTER {
            settled.get_or_insert(resident);
        }
        println!(
            "{:>4.0} s: {:>7.1} MiB resident; {counts}",
            start.elapsed().as_secs_f64(),
            resident as f64 / f64::from(1 << 20)
        );
    }
    for client in clients {
        client.await??;
    }
    ensure!(
        text(&program.client(), &body).await? == text_before,
        "the response to the same request has changed"
    );
    if let Some(settled) = settled {
        let growth = program.resident_bytes() as f64 / settled as f64 - 1.0;
        println!(
            "resident memory grew by {:.2} % after the second minute",
            100.0 * growth
        );
        ensure!(growth < MAX_GROWTH, "resident memory grew too much");
    }
    Ok(())
}

/// Requests by outcome.
#[derive(Default)]
struct Counts {
    completed: AtomicU64,
    canceled: AtomicU64,
    rejected: AtomicU64,
}

impl std::fmt::Display for Counts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        write!(
            formatter,
            "{} completed, {} canceled, {} rejected",
            count(&self.completed),
            count(&self.canceled),
            count(&self.rejected)
        )
    }
}

/// One client: short and long prompts, some with shared prefixes, streamed or not; some requests are canceled.
async fn send_until(
    client: Client,
    number: u64,
    end: Instant,
    counts: Arc<Counts>,
) -> anyhow::Result<()> {
    let mut random = StdRng::seed_from_u64(number);
    while Instant::now() < end {
        let shared = random.random_range(0..3u32) * 200;
        let own = random.random_range(1..200u32);
        let other = random.random_range(0..1000u32);
        let prompt: Value = (0..shared)
            .chain(other..other + own)
            .map(|index| 1000 + index * 31 % 20_000)
            .collect();
        let body = json!({
            "prompt": prompt, "n_predict": random.random_range(0..150), "stream": random.random_bool(0.5),
            "cache_prompt": random.random_bool(0.7), "seed": number,
        });
        let cancel_after = Duration::from_millis(random.random_range(1..4000));
        let response = async {
            match body["stream"] == true {
                true => read_events(&client, &body, usize::MAX).await,
                false => text(&client, &body).await.map(drop),
            }
        };
        let counter = match random.random_bool(0.4) {
            true => match tokio::time::timeout(cancel_after, response).await {
                Err(_) => &counts.canceled,
                Ok(result) => counts.counter(result)?,
            },
            false => counts.counter(response.await)?,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if std::ptr::eq(counter, &counts.rejected) {
            tokio::time::sleep(RETRY_AFTER).await;
        }
    }
    Ok(())
}

impl Counts {
    /// The counter for a result; any error but a full queue (429) fails the run.
    fn counter(&self, result: anyhow::Result<()>) -> anyhow::Result<&AtomicU64> {
        match result {
            Ok(()) => Ok(&self.completed),
            Err(error) if error.to_string().contains("429") => Ok(&self.rejected),
            Err(error) => Err(error),
        }
    }
}

async fn text(client: &Client, body: &Value) -> anyhow::Result<String> {
    let request = serde_json::from_value(body.clone())?;
    match client.completion(&request).await?.into_inner() {
        types::CompletionAnswer::Completion(answer) => Ok(answer.content),
        types::CompletionAnswer::Array(_) | types::CompletionAnswer::SelectedFields(_) => {
            anyhow::bail!("expected one completion for one prompt")
        }
    }
}
