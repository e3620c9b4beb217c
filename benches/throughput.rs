//! Tokens per second of the default model through the engine, with our matrix multiplication and with ONNX Runtime's:
//! prefill and decode with 1, 8 and 16 sequences, sixteen concurrent sequences compared with sequential ones, and the
//! share of the memory bandwidth that a single stream uses.
//!
//! `cargo bench --bench throughput` (or `make bench`). Absolute figures drift from hour to hour; compare
//! only figures of one run.

#![expect(clippy::print_stdout, reason = "a bench is read on the terminal")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ortolan::cancel::CancelFlag;
use ortolan::file_bytes::FileAccess;
use ortolan::graph::MatmulOperator;
use ortolan::model::load::{CacheSize, LoadOptions, inspect};
use ortolan::model::{
    AdapterOptions, ContextOverflow, GenerateEvent, GenerateOptions, GenerateRequest,
    GenerationSummary, LineLimits, LoadedModel, ProgressEvents, Prompt, PromptPiece, RequestOwner,
};
use ortolan::runtime::SessionOptions;
use ortolan::sampling::SamplingParameters;

const ROUNDS: usize = 3;
const PROMPT_TOKENS: usize = 512;
const DECODED_TOKENS: usize = 48;

fn main() -> anyhow::Result<()> {
    for matmul in [MatmulOperator::Contrib, MatmulOperator::Ortolan] {
        println!("matmul: {matmul:?}");
        measure_matmul(matmul)?;
    }
    Ok(())
}

fn measure_matmul(matmul: MatmulOperator) -> anyhow::Result<()> {
    let started_at = Instant::now();
    let options = LoadOptions {
        alias: None,
        context_tokens: Some(1024),
        parallel: 16,
        queue: 16,
        step_tokens: 512,
        batch_tokens: 512,
        step_duration: Duration::from_millis(100),
        prefill_share: 0.5,
        cache: CacheSize::AllContexts,
        access: FileAccess::Map,
        lock_memory: false,
        session: SessionOptions {
            matmul_operator: Some(matmul),
            ..SessionOptions::new(common::onnxruntime())
        },
        quantize: None,
        chat_template: None,
        pooling: None,
        adapters: AdapterOptions::default(),
        system_prompt: ortolan::model::SystemPrompt::default(),
    };
    let model = inspect(&common::model(), options)?.load(&|_| ())?;
    println!("loaded in {:.2} s", started_at.elapsed().as_secs_f64());
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(measure(&model));
    Ok(())
}

async fn measure(model: &LoadedModel) {
    let bandwidth = memory_bandwidth();
    println!("memory read {:.1} GB/s", bandwidth / 1e9);
    run_concurrently(model, 2, 8, 8).await; // warm-up
    for sequences in [1, 8, 16] {
        let prompt = best(|| async {
            let (elapsed, _) = run_concurrently(model, sequences, PROMPT_TOKENS, 0).await;
            (sequences * PROMPT_TOKENS) as f64 / elapsed.as_secs_f64()
        })
        .await;
        let decode = best(|| async {
            let (_, summaries) = run_concurrently(model, sequences, 8, DECODED_TOKENS).await;
            let slowest = summaries.iter().map(|summary| summary.timings.decode).max();
            let tokens: usize = summaries
                .iter()
                .map(|summary| summary.generated_tokens - 1)
                .sum();
            tokens as f64 / slowest.unwrap_or_default().as_secs_f64()
        })
        .await;
        print!("{sequences:>2} sequences: prompt {prompt:>6.0} tok/s, decode {decode:>6.1} tok/s");
        match sequences {
            1 => {
                let share = decode * model.details().file_bytes as f64 / bandwidth;
                println!(", {:.0} % of the memory bandwidth", 100.0 * share);
            }
            _ => println!(),
        }
    }
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let (concurrent, _) = run_concurrently(model, 16, 8, DECODED_TOKENS).await;
        let mut sequential = Duration::ZERO;
        for number in 0..16 {
            let start = Instant::now();
            generate(model, number, 8, DECODED_TOKENS).await;
            sequential += start.elapsed();
        }
        ratios.push(concurrent.as_secs_f64() / sequential.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "sixteen concurrent sequences take {:.2} of the time of sixteen sequential ones",
        ratios[ROUNDS / 2]
    );
}

/// The best of several rounds: other load on the machine can only reduce the result.
async fn best<F: Future<Output = f64>>(mut round: impl FnMut() -> F) -> f64 {
    let mut best = 0.0f64;
    for _ in 0..ROUNDS {
        best = best.max(round().await);
    }
    best
}

async fn run_concurrently(
    model: &LoadedModel,
    sequences: usize,
    prompt: usize,
    tokens: usize,
) -> (Duration, Vec<GenerationSummary>) {
    let start = Instant::now();
    let summaries =
        join_all((0..sequences).map(|number| generate(model, number, prompt, tokens))).await;
    (start.elapsed(), summaries)
}

/// Generates exactly `max_tokens` tokens for a prompt that shares no prefix with those of other numbers.
async fn generate(
    model: &LoadedModel,
    number: usize,
    prompt_tokens: usize,
    max_tokens: usize,
) -> GenerationSummary {
    let prompt = (0..prompt_tokens)
        .map(|index| {
            PromptPiece::Token(ortolan::token::TokenId(
                1000 + ((index * 31 + number * 977) % 20_000) as u32,
            ))
        })
        .collect();
    let request = GenerateRequest {
        prompt: Prompt::Pieces(prompt),
        system_prompt: None,
        options: GenerateOptions {
            max_tokens: Some(max_tokens),
            stop: Vec::new(),
            ignore_eos: true,
            sampling: SamplingParameters {
                temperature: 0.0,
                ..SamplingParameters::openai()
            },
            logit_bias: Vec::new(),
            grammar: None,
            tools: None,
            penalty_prompt: None,
            slot: None,
            context_overflow: ContextOverflow::Stop,
            reject_oversized_prompt: true,
            read_cache: false,
            cache_salt: None,
            adapters: None,
            priority: 0,
            timeout: None,
            echo: false,
            stream: false,
            lines: LineLimits::default(),
            progress: ProgressEvents::default(),
            owner: RequestOwner::default(),
        },
    };
    let generation = model.generate(request, &CancelFlag::default());
    let mut generation = generation.expect("the request is valid");
    while let Some(event) = generation.next().await {
        if let GenerateEvent::Finished(summary) = event.expect("the engine runs") {
            return summary;
        }
    }
    unreachable!("a generation ends with its summary")
}

/// Memory bandwidth in bytes per second: reads by all cores together.
fn memory_bandwidth() -> f64 {
    const BYTES: usize = 256 << 20;
    let words = vec![1u64; BYTES / size_of::<u64>()];
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut best = 0.0f64;
    for _ in 0..5 {
        let start = Instant::now();
        let sum: u64 = std::thread::scope(|scope| {
            let readers: Vec<_> = words
                .chunks(words.len().div_ceil(cores))
                .map(|part| scope.spawn(move || part.iter().fold(0u64, |sum, word| sum ^ word)))
                .collect();
            readers
                .into_iter()
                .map(|reader| reader.join().expect("the reader does not panic"))
                .sum()
        });
        std::hint::black_box(sum);
        best = best.max(BYTES as f64 / start.elapsed().as_secs_f64());
    }
    best
}
