//! Time to first token of a 256-token prompt while another sequence streams, relative to the time without that
//! sequence. Measured with step limits (`--step-ms`) above and below the time of a decode step. Fails if the ratio
//! exceeds 2.2.
//!
//! `make bench-fairness` creates a 1B model with random weights and runs this; or
//! `cargo bench --bench fairness -- --model FILE`. Linux only.

#![expect(clippy::print_stdout, reason = "a bench is read on the terminal")]

#[path = "load/cases.rs"]
mod cases;
#[path = "load/client.rs"]
mod client;
#[path = "../tests/common/mod.rs"]
mod common;
#[allow(dead_code, reason = "other benches use the rest")]
mod server;

use std::path::PathBuf;

use anyhow::ensure;
use cases::{Case, Unit, quantile};
use clap::Parser;
use client::Target;
use server::Program;

/// Largest allowed ratio: 2 follows from the prefill share of one half, the rest allows for a few steps.
const MAX_RATIO: f64 = 2.2;
/// Values of `--step-ms`.
const STEP_LIMITS: [&str; 2] = ["100", "20"];

#[derive(Parser)]
#[command(
    name = "fairness",
    about = "Measure the time to first token while another sequence streams"
)]
struct Options {
    /// A GGUF file
    #[arg(long, default_value = ".cache/models/random-1b.gguf")]
    model: PathBuf,
    /// Number of measurements for each step limit
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let case = Case::PromptBesideStream;
    let setting = case.setting();
    let (slots, context) = (setting.slots.to_string(), setting.context.to_string());
    for step_limit in STEP_LIMITS {
        let server = [
            "--parallel",
            &slots,
            "--ctx-size",
            &context,
            "--step-ms",
            step_limit,
        ];
        let program = Program::start(&options.model, &server).await?;
        let target = Target::new(&program.address, "default");
        let mut times = Vec::new();
        for round in 0..options.rounds {
            for figure in case.run(&target, round).await? {
                println!(
                    "--step-ms {step_limit}: {} {:.3} {}",
                    figure.name,
                    figure.value,
                    figure.unit.name()
                );
                times.extend((figure.unit == Unit::Times).then_some(figure.value));
            }
        }
        let median = quantile(times, 0.5);
        ensure!(
            median <= MAX_RATIO,
            "--step-ms {step_limit}: the first token during a stream takes {median:.2} times as long as without it; the maximum is {MAX_RATIO}"
        );
    }
    Ok(())
}
