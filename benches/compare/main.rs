//! Compares ortolan with llama.cpp's server: the same models and the same load over HTTP, alternately on the same
//! machine.
//!
//! `make bench-compare` (`cargo bench --bench compare -- --help`). Absolute figures drift from hour to hour; compare
//! ratios within one run. Writes `benchmarks.md`, `.json` and `.svg`. Linux only.

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
#[command(name = "compare", about = "Compare ortolan with llama.cpp's server")]
struct Options {
    /// Path of llama.cpp's server
    #[arg(long, default_value = ".cache/llama_cpp/bin/llama-server")]
    llama_server: PathBuf,
    /// A GGUF file; repeatable [default: the default model, and its weights as Q4_0]
    #[arg(long = "model", value_name = "FILE")]
    models: Vec<PathBuf>,
    /// Run only this case; repeatable
    #[arg(long = "case", value_name = "CASE")]
    cases: Vec<String>,
    /// Number of measurements for each case
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Output folder for benchmarks.md, .json and .svg
    #[arg(long, default_value = "target/compare")]
    out: PathBuf,
    /// Passed by cargo
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
    let is_selected =
        |case: &Case| options.cases.is_empty() || options.cases.contains(&case.name());
    let cases: Vec<Case> = Case::ALL.into_iter().filter(is_selected).collect();

    let mut results = Results::default();
    for round in 0..options.rounds {
        for case in &cases {
            for model in &models {
                // The programs alternate in running first.
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

/// Starts a program, runs one case with it, and adds the figures to the results.
async fn measure(
    programs: &Programs,
    program: Program,
    model: &Path,
    case: Case,
    round: usize,
    results: &mut Results,
) -> anyhow::Result<()> {
    let name = case.name();
    let stem = model
        .file_stem()
        .context("the model path has no file name")?;
    let model_name = stem.to_string_lossy();
    let server = Server::start(programs, program, model, case.setting()).await?;
    let target = Target::new(&server.address, &model_name);
    let figures = case.run(&target, round).await;
    let figures = figures.with_context(|| format!("{program}, {model_name}, {name}"))?;
    for figure in &figures {
        println!(
            "{}: {name}, {model_name}, {program}: {} {:.3} {}",
            round + 1,
            figure.name,
            figure.value,
            figure.unit.name()
        );
        results.add(
            program,
            [&model_name, &name],
            figure.name,
            figure.unit,
            figure.value,
        );
    }
    let ready = server.ready_after.as_secs_f64();
    let peak = server.peak_mebibytes();
    let this_case = [&*model_name, &*name];
    // The startup time hardly depends on the case: only the size of the cache differs.
    let every_case = [&*model_name, "every case"];
    results.add(program, every_case, "start to ready", Unit::Seconds, ready);
    results.add(program, this_case, "peak memory", Unit::Mebibytes, peak);
    Ok(())
}

/// The default model, and the same weights in the format that llama.cpp computes fastest.
fn default_models() -> anyhow::Result<Vec<PathBuf>> {
    let model = common::model();
    let requantized = Path::new("target/SmolLM2-135M-Instruct.Q4_0.gguf");
    let status = Command::new(env!("CARGO_BIN_EXE_ortolan"))
        .arg("quantize")
        .arg(&model)
        .arg(requantized)
        .args(["q4_0", "--token-embedding-type", "q8_0"])
        .args(["--output-tensor-type", "q8_0", "--force"])
        .status()?;
    ensure!(status.success(), "ortolan quantize exited with {status}");
    Ok(vec![requantized.to_owned(), model])
}

fn report(options: &Options, programs: &Programs, results: &Results) -> anyhow::Result<()> {
    let table = results.table();
    println!("\n{table}");
    let path = |ending: &str| options.out.join(format!("benchmarks.{ending}"));
    results.write_json(&path("json"))?;
    plot::draw(results, &path("svg"))?;
    let [ours, theirs] =
        [Program::Ortolan, Program::LlamaServer].map(|program| programs.version(program));
    let text = format!(
        "# Comparison with llama.cpp's server\n\n\
         Written by `make bench-compare`: both programs alternate on one machine, {} rounds, the same load over HTTP \
         (`benches/load`). A ratio says how many times better ortolan's median is (more tokens, or less time or memory); \
         the range shows the smallest and the largest ratio of a round. Absolute figures are valid only for this machine at \
         this time.\n\n\
         Sampling is greedy, and a small model that continues random words soon repeats itself. With few sequences, \
         ortolan's [speculative decoding](performance.md) gains from that, most in `streams-1`.\n\n\
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
    let info = ort::info();
    let commit = info.split("git-commit-id=").nth(1);
    Ok(commit.map_or(info, |commit| commit.split(',').next().unwrap_or(commit)))
}

/// The processor's name, its cores and its memory.
fn machine() -> anyhow::Result<String> {
    let read = |path: &str, name: &str| {
        let text = std::fs::read_to_string(path)?;
        let line = text.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(':'));
        let (_, value) = value.with_context(|| format!("{path} has no {name}"))?;
        anyhow::Ok(value.trim().to_owned())
    };
    let cores = std::thread::available_parallelism()?;
    Ok(format!(
        "{}, {cores} cores, {} of memory",
        read("/proc/cpuinfo", "model name")?,
        read("/proc/meminfo", "MemTotal")?,
    ))
}
