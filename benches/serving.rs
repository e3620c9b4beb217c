//! What a server's users notice, over HTTP: what it takes when nobody asks, how soon `/health` answers when
//! all cores compute, what a shared beginning saves, how soon a slot is free when its client leaves.
//!
//! `cargo bench --bench serving`, Linux only.

#![expect(clippy::print_stdout, reason = "a bench is read on the terminal")]

#[path = "../tests/common/mod.rs"]
mod common;
mod server;

use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::future::try_join_all;
use ortolan::api::client::Client;
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
    shared_beginning(&program).await?;
    health_under_load(&program).await?;
    leaving(&program).await
}

async fn idle(program: &Program) -> anyhow::Result<()> {
    const WATCHED: Duration = Duration::from_secs(10);
    let before = processor_seconds(program)?;
    tokio::time::sleep(WATCHED).await;
    let share = (processor_seconds(program)? - before) / WATCHED.as_secs_f64();
    let resident = program.resident_bytes()? as f64 / f64::from(1 << 20);
    println!(
        "idle: {:.1} % of a core, {resident:.0} MiB resident",
        100.0 * share
    );
    Ok(())
}

/// Seconds of processor time that it took so far.
fn processor_seconds(program: &Program) -> anyhow::Result<f64> {
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", program.id()))?;
    // After the name in brackets: the 12th and 13th are user and system time.
    let (_, fields) = stat.rsplit_once(')').context("stat has a name")?;
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(str::parse::<f64>).sum::<Result<f64, _>>()?;
    Ok(ticks / TICKS_PER_SECOND)
}

/// Token ids, of another text for each number.
fn ids(number: u32, count: u32) -> impl Iterator<Item = u32> {
    (0..count).map(move |place| 1000 + (place * 31 + number * 977) % 20_000)
}

/// Eight that begin alike and come after a first one, with the cache and without it.
async fn shared_beginning(program: &Program) -> anyhow::Result<()> {
    let client = program.client();
    let (mut read, mut unread) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        for (from_cache, times) in [(true, &mut read), (false, &mut unread)] {
            let number = 100 * (2 * round + u32::from(from_cache));
            let prompt =
                |own: u32| -> Value { ids(number, SHARED_TOKENS).chain(ids(own, 8)).collect() };
            let body = |own: u32| {
                json!({
                    "prompt": prompt(own), "n_predict": 8, "temperature": 0, "ignore_eos": true,
                    "stream": true, "cache_prompt": from_cache,
                })
            };
            read_events(&client, &body(number + 50), usize::MAX).await?;
            let asked = (0..CLIENTS).map(|own| {
                let (client, body) = (program.client(), body(number + own + 1));
                async move {
                    let start = Instant::now();
                    read_events(&client, &body, 1).await?;
                    anyhow::Ok(start.elapsed())
                }
            });
            times.extend(try_join_all(asked).await?);
        }
    }
    let (read, unread) = (median(&mut read), median(&mut unread));
    println!(
        "first token of {CLIENTS} prompts that share {SHARED_TOKENS} tokens with an earlier one, median: {read:.0?} \
         with the cache, {unread:.0?} without, ratio {:.3}",
        read.as_secs_f64() / unread.as_secs_f64()
    );
    Ok(())
}

/// Streams and prompts that keep all slots busy until they are dropped.
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
    const ASKED: usize = 300;
    let busy = load(program);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let client = program.client();
    let mut times = Vec::new();
    for _ in 0..ASKED {
        let start = Instant::now();
        client.health(None, None).await?;
        times.push(start.elapsed());
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    busy.iter().for_each(tokio::task::JoinHandle::abort);
    let middle = median(&mut times);
    println!(
        "/health at full load: median {middle:.1?}, 99 % within {:.1?}, at most {:.1?}",
        times[ASKED * 99 / 100],
        times[ASKED - 1]
    );
    all_idle(&client).await
}

async fn all_idle(client: &Client) -> anyhow::Result<()> {
    while client.health(None, None).await?.slots_processing != Some(0) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

/// Eight streams are left at once, in their prompts and in the middle.
async fn leaving(program: &Program) -> anyhow::Result<()> {
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
    let middle = median(&mut times);
    println!(
        "eight clients leave: their slots are idle after {middle:.0?} (median), {:.0?} at most",
        times[times.len() - 1]
    );
    Ok(())
}

/// The median; the times are in order afterwards.
fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}
