//! ortolan beside llama.cpp's server: the same models, the same load over HTTP, in turn on the same machine.
//!
//! `make bench-compare` (`cargo bench --bench compare -- --help`). Absolute figures drift from hour to hour, so what counts is
//! the ratio within one run. Writes `benchmarks.md`, `.json` and `.svg`. Linux only.

#![expect(clippy::print_stdout, reason = "a bench is read on the terminal")]

#[path = "../load/cases.rs"]
mod cases;
#[path = "../load/client.rs"]
mod client;
#[path = "../../tests/common/mod.rs"]
mod common;
mod plot;
mod results;
mod servers;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use cases::{Case, Unit};
use clap::Parser;
use client::Target;
use ortolan::runtime::environment;
use results::Results;
use servers::{Program, Programs, Server};

#[derive(Parser)]
#[command(name = "compare", about = "Measure ortolan beside llama.cpp's server")]
struct Options {
    /// llama.cpp's server
    #[arg(long, default_value = ".cache/llama_cpp/bin/llama-server")]
    llama_server: PathBuf,
    /// A GGUF file; repeatable [default: the default model, and its weights as Q4_0]
    #[arg(long = "model", value_name = "FILE")]
    models: Vec<PathBuf>,
    /// Only this case; repeatable
    #[arg(long = "case", value_name = "CASE")]
    cases: Vec<String>,
    /// How often each is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The folder for benchmarks.md, .json and .svg
    #[arg(long, default_value = "target/compare")]
    out: PathBuf,
    /// As cargo calls it
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    std::fs::create_dir_all(&options.out)?;
    let programs = Programs {
        llama_server: options.llama_server.clone(),
    };
    let models = match options.models.is_empty() {
        true => default_models()?,
        false => options.models.clone(),
    };
    for name in &options.cases {
        let names = Case::ALL.map(Case::name);
        ensure!(
            names.contains(name),
            "--case \"{name}\" not found; the cases are {names:?}"
        );
    }
    let chosen = |case: &Case| options.cases.is_empty() || options.cases.contains(&case.name());
    let cases: Vec<Case> = Case::ALL.into_iter().filter(chosen).collect();

    let mut results = Results::default();
    for round in 0..options.rounds {
        for case in &cases {
            for model in &models {
                // In turn, and each first as often.
                let mut order = [Program::Ortolan, Program::LlamaServer];
                order.rotate_left(round % 2);
                for program in order {
                    measure(&programs, program, model, *case, round, &mut results).await?;
                }
            }
        }
    }
    report(&options, &programs, &results)
}

/// One case with one program, from its start to its end.
async fn measure(
    programs: &Programs,
    program: Program,
    model: &Path,
    case: Case,
    round: usize,
    results: &mut Results,
) -> anyhow::Result<()> {
    let name = case.name();
    let stem = model.file_stem().context("a model is a file")?;
    let of_model = stem.to_string_lossy();
    let server = Server::start(programs, program, model, case.setting()).await?;
    let target = Target::new(&server.address, &of_model);
    let figures = case.run(&target, round).await;
    let figures = figures.with_context(|| format!("{program}, {of_model}, {name}"))?;
    for figure in &figures {
        println!(
            "{}: {name}, {of_model}, {program}: {} {:.3} {}",
            round + 1,
            figure.name,
            figure.value,
            figure.unit.name()
        );
        results.add(
            program,
            [&of_model, &name],
            figure.name,
            figure.unit,
            figure.value,
        );
    }
    let ready = server.ready_after.as_secs_f64();
    let peak = server.peak_mebibytes()?;
    let of_case = [&*of_model, &*name];
    // The same in all of them, but for the size of the cache.
    let of_all = [&*of_model, "every case"];
    results.add(program, of_all, "start to ready", Unit::Seconds, ready);
    results.add(program, of_case, "peak memory", Unit::Mebibytes, peak);
    Ok(())
}

/// The default model, and the same weights in llama.cpp's best format.
fn default_models() -> anyhow::Result<Vec<PathBuf>> {
    let model = common::model();
    let requantised = Path::new("target/SmolLM2-135M-Instruct.Q4_0.gguf");
    let status = Command::new(env!("CARGO_BIN_EXE_ortolan"))
        .arg("quantize")
        .arg(&model)
        .arg(requantised)
        .args(["q4_0", "--token-embedding-type", "q8_0"])
        .args(["--output-tensor-type", "q8_0", "--force"])
        .status()?;
    ensure!(status.success(), "quantising ended with {status}");
    Ok(vec![requantised.to_owned(), model])
}

fn report(options: &Options, programs: &Programs, results: &Results) -> anyhow::Result<()> {
    let table = results.table();
    println!("\n{table}");
    let path = |ending: &str| options.out.join(format!("benchmarks.{ending}"));
    results.write_json(&path("json"))?;
    plot::draw(results, &path("svg"))?;
    let [ours, theirs] = [Program::Ortolan, Program::LlamaServer].map(|of| programs.version(of));
    let text = format!(
        "# Beside llama.cpp's server\n\n\
         Written by `make bench-compare`: both programs in turn on one machine, {} rounds, the same load over HTTP \
         (`benches/load`). A ratio says how many times better ortolan's median is, more tokens or less time or memory; \
         beside it the least and the greatest of the rounds'. Absolute figures hold for this machine in this hour.\n\n\
         Answers are greedy, and what so small a model says to words in any order soon repeats itself: where few sequences \
         run, ortolan's [guesses](performance.md) gain by that, most in `streams-1`.\n\n\
         - machine: {}\n\
         - ortolan {}, ONNX Runtime of the commit {}\n\
         - llama-server {}\n\n\
         ![How many times better](benchmarks.svg)\n\n{table}",
        options.rounds,
        machine()?,
        ours?,
        onnxruntime()?,
        theirs?,
    );
    std::fs::write(path("md"), text)?;
    println!("written to {}", options.out.display());
    Ok(())
}

/// The commit that ONNX Runtime was built from.
fn onnxruntime() -> anyhow::Result<&'static str> {
    environment(&common::onnxruntime())?;
    let told = ort::info();
    let commit = told.split("git-commit-id=").nth(1);
    Ok(commit.map_or(told, |commit| commit.split(',').next().unwrap_or(commit)))
}

/// The processor's name, its cores and its memory.
fn machine() -> anyhow::Result<String> {
    let read = |path: &str, name: &str| {
        let text = std::fs::read_to_string(path)?;
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        let (_, value) = value.with_context(|| format!("{path} says {name}"))?;
        anyhow::Ok(value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism()?;
    Ok(format!(
        "{}, {cores} cores, {} of memory",
        read("/proc/cpuinfo", "model name")?,
        read("/proc/meminfo", "MemTotal")?,
    ))
}
