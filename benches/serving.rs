//! Server behavior over HTTP: resources while idle, latency of `/health` at full load, time saved by a shared prefix,
//! and time until slots are free after their clients disconnect.
//!
//! `cargo bench --bench serving`, Linux only.

#![expect(clippy::print_stdout, reason = "a bench is read on the terminal")]

#[path = "../tests/common/mod.rs"]
mod common;
mod server;

use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::try_join_all;
use ortolan_client::Client;
use serde_json::{Value, json};
use server::{Program, read_events};

const SHARED_TOKENS: u32 = 1024;
const CLIENTS: u32 = 8;
const ROUNDS: u32 = 5;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = ["--ctx-size", "2048", "--parallel", "8"];
    let program = Program::start(&common::model(), &options).await?;
    idle(&program).await?;
    shared_prefix(&program).await?;
    health_under_load(&program).await?;
    disconnects(&program).await
}

async fn idle(program: &Program) -> anyhow::Result<()> {
    const WATCHED: Duration = Duration::from_secs(10);
    let before = cpu_seconds(program)?;
    tokio::time::sleep(WATCHED).await;
    let share = (cpu_seconds(program)? - before) / WATCHED.as_secs_f64();
    let resident = program.resident_bytes() as f64 / f64::from(1 << 20);
    println!(
        "idle: {:.1} % of a core, {resident:.0} MiB resident",
        100.0 * share
    );
    Ok(())
}

/// CPU time of the process so far, in seconds.
fn cpu_seconds(program: &Program) -> anyhow::Result<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", program.id()))?;
    // The 12th and 13th fields after the name in brackets are user and system time.
    let (_, fields) = stat
        .rsplit_once(')')
        .context("/proc/PID/stat has no name")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / TICKS_PER_SECOND)
}

/// Token ids of a text that depends on `number`.
fn ids(number: u32, count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(move |index| 1000 + (index * 31 + number * 977) % 20_000)
}

/// Time to first token of eight prompts that share a prefix with an earlier one, with the prefix cache and without it.
async fn shared_prefix(program: &Program) -> anyhow::Result<()> {
    let client = program.client();
    let (mut with_cache, mut without_cache) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for (uses_cache, times) in [(true, &mut with_cache), (false, &mut without_cache)] {
            let number = 100 * (2 * round + u32::from(uses_cache));
            let prompt =
                |own: u32| -> Value { ids(number, SHARED_TOKENS).chain(ids(own, 8)).collect() };
            let body = |own: u32| {
                json!({
                    "prompt": prompt(own), "n_predict": 8, "temperature": 0, "ignore_eos": true,
                    "stream": true, "cache_prompt": uses_cache,
                })
            };
            read_events(&client, &body(number + 50), usize::MAX).await?;
            let first_tokens = (0..CLIENTS).map(|own| {
                let (client, body) = (program.client(), body(number + own + 1));
                async move {
                    let start = Instant::now();
                    read_events(&client, &body, 1).await?;
                    anyhow::Ok(start.elapsed())
                }
            });
            times.extend(try_join_all(first_tokens).await?);
        }
    }
    let (with_cache, without_cache) = (median(&mut with_cache), median(&mut without_cache));
    println!(
        "first token of {CLIENTS} prompts that share {SHARED_TOKENS} tokens with an earlier one, median: {with_cache:.0?} \
         with the cache, {without_cache:.0?} without, ratio {:.3}",
        with_cache.as_secs_f64() / without_cache.as_secs_f64()
    );
    Ok(())
}

/// Clients that keep all slots busy until they are aborted.
fn load(program: &Program) -> Vec<tokio::task::JoinHandle<anyhow::Result<()>>> {
    let busy = (0..CLIENTS).map(|number| {
        let client = program.client();
        tokio::spawn(async move {
            for round in 0.. {
                let prompt: Value = ids(1000 + 16 * round + number, 600).collect();
                let body =
                    json!({"prompt": prompt, "n_predict": 40, "ignore_eos": true, "stream": true});
                read_events(&client, &body, usize::MAX).await?;
            }
            Ok(())
        })
    });
    busy.collect()
}

async fn health_under_load(program: &Program) -> anyhow::Result<()> {
    const REQUESTS: usize = 300;
    let busy = load(program);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let client = program.client();
    let mut times = Vec::new();
    for _ in 0..REQUESTS {
        let start = Instant::now();
        client.health(None, None).await?;
        times.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    busy.iter().for_each(tokio::task::JoinHandle::abort);
    let median = median(&mut times);
    println!(
        "/health at full load: median {median:.1?}, 99 % within {:.1?}, at most {:.1?}",
        times[REQUESTS * 99 / 100],
        times[REQUESTS - 1]
    );
    all_idle(&client).await
}

async fn all_idle(client: &Client) -> anyhow::Result<()> {
    while client.health(None, None).await?.slots_processing != Some(0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Eight clients disconnect at once, during prefill or decode.
async fn disconnects(program: &Program) -> anyhow::Result<()> {
    let client = program.client();
    let mut times = Vec::new();
    for round in 0..4 * ROUNDS {
        let busy = load(program);
        tokio::time::sleep(Duration::from_millis(u64::from(400 + 97 * round))).await;
        busy.iter().for_each(tokio::task::JoinHandle::abort);
        let start = Instant::now();
        all_idle(&client).await?;
        times.push(start.elapsed());
    }
    let median = median(&mut times);
    println!(
        "eight clients disconnect: their slots are idle after {median:.0?} (median), {:.0?} at most",
        times[times.len() - 1]
    );
    Ok(())
}

/// Sorts the times and returns their median.
fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}
