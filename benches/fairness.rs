//! How much later a prompt of 256 tokens has its first token beside one stream than alone, with a model of which a decode
//! step takes less than `--step-ms`, and more. Fails where it is more than 2.2 times as long.
//!
//! `make bench-fairness`, which makes a model of 1B parameters with random weights; or
//! `cargo bench --bench fairness -- --model FILE`. Linux only.

#![expect(clippy::print_stdout, reason = "a bench is read on the terminal")]

#[path = "load/cases.rs"]
mod cases;
#[path = "load/client.rs"]
mod client;
#[allow(dead_code, reason = "other benches use more of it")]
mod server;

use std::path::PathBuf;

use anyhow::ensure;
use cases::{Case, Unit, quantile};
use clap::Parser;
use client::Target;
use server::Program;

/// Most times that the first token may take beside a stream: twice by the prefill share, and a few steps.
const MOST_TIMES: f64 = 2.2;
/// Values of `--step-ms`.
const STEP_LIMITS: [&str; 2] = ["100", "20"];

#[derive(Parser)]
#[command(name = "fairness", about = "Measure prompts beside a stream")]
struct Options {
    /// A GGUF file
    #[arg(long, default_value = ".cache/models/random-1b.gguf")]
    model: PathBuf,
    /// How often each step limit is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// As cargo calls it
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
            median <= MOST_TIMES,
            "--step-ms {step_limit}: the first token beside a stream takes {median:.2} times, more than {MOST_TIMES}"
        );
    }
    Ok(())
}
