//! Measures any OpenAI-compatible server: `cargo bench --bench load -- http://127.0.0.1:8080 --case streams-16`.

#![expect(clippy::print_stdout, reason = "a bench is read on the terminal")]

mod cases;
mod client;
#[path = "../../tests/common/mod.rs"]
mod common;

use anyhow::Context;
use cases::Case;
use clap::Parser;
use client::Target;

#[derive(Parser)]
#[command(name = "load", about = "Measure an OpenAI-compatible server")]
struct Options {
    /// Address of the server, such as http://127.0.0.1:8080
    address: String,
    /// The `model` field of requests
    #[arg(long, default_value = "default")]
    model: String,
    /// Run only this case; repeatable. The server needs the slots and the context that the case prints
    #[arg(long = "case", value_name = "CASE")]
    cases: Vec<String>,
    /// Number of measurements for each case
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Passed by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let target = Target::new(&options.address, &options.model);
    for name in &options.cases {
        let exists = Case::ALL.iter().any(|case| case.name() == *name);
        let names = Case::ALL.map(Case::name).join(", ");
        exists
            .then_some(())
            .with_context(|| format!("--case \"{name}\" not found; the cases are {names}"))?;
    }
    let is_selected =
        |case: &Case| options.cases.is_empty() || options.cases.contains(&case.name());
    for case in Case::ALL.into_iter().filter(is_selected) {
        let setting = case.setting();
        println!(
            "{}: {} slots of {} tokens",
            case.name(),
            setting.slots,
            setting.context
        );
        for round in 0..options.rounds {
            let figures = case.run(&target, round).await?;
            let results: Vec<String> = figures
                .iter()
                .map(|figure| format!("{} {:.3} {}", figure.name, figure.value, figure.unit.name()))
                .collect();
            println!("  {}", results.join(", "));
        }
    }
    Ok(())
}
