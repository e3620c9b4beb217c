//! Load for any server with OpenAI's API: `cargo bench --bench load -- http://127.0.0.1:8080 --case streams-16`.

#![expect(clippy::print_stdout, reason = "a bench is read on the terminal")]

mod cases;
mod client;

use anyhow::Context;
use cases::Case;
use clap::Parser;
use client::Target;

#[derive(Parser)]
#[command(name = "load", about = "Measure a server with OpenAI's API")]
struct Options {
    /// The server, as http://127.0.0.1:8080
    address: String,
    /// The model that requests name
    #[arg(long, default_value = "default")]
    model: String,
    /// Only this case; repeatable. It needs as many slots, of as many tokens, as it says
    #[arg(long = "case", value_name = "CASE")]
    cases: Vec<String>,
    /// How often
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// As cargo calls it
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    let target = Target::new(&options.address, &options.model);
    for name in &options.cases {
        let known = Case::ALL.iter().any(|case| case.name() == *name);
        let names = Case::ALL.map(Case::name).join(", ");
        known
            .then_some(())
            .with_context(|| format!("--case \"{name}\" not found; the cases are {names}"))?;
    }
    let wanted = |case: &Case| options.cases.is_empty() || options.cases.contains(&case.name());
    for case in Case::ALL.into_iter().filter(wanted) {
        let setting = case.setting();
        println!(
            "{}: {} slots of {} tokens",
            case.name(),
            setting.slots,
            setting.context
        );
        for round in 0..options.rounds {
            let figures = case.run(&target, round).await?;
            let words: Vec<String> = figures
                .iter()
                .map(|figure| format!("{} {:.3} {}", figure.name, figure.value, figure.unit.name()))
                .collect();
            println!("  {}", words.join(", "));
        }
    }
    Ok(())
}
