//! Tokens per second of the default model, through the engine, with our products and with the runtime's: prompts and decoding
//! with 1, 8 and 16 sequences, sixteen together against one after another, and the share of the machine's memory
//! bandwidth that a single stream reaches.
//!
//! `cargo bench --bench throughput` (or `make bench`). Absolute figures drift from hour to hour; compare
//! only what one run prints.

#![expect(clippy::print_stdout, reason = "a bench is read on the terminal")]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ortolan::cancel::CancelFlag;
use ortolan::graph::ProductOperator;
use ortolan::model::load::{CacheSize, FileAccess, LoadOptions, SessionOptions, inspect};
use ortolan::model::{
    AdapterOptions, GenerateEvent, GenerateOptions, GenerateRequest, LineLimits, LoadedModel,
    ProgressEvents, Prompt, PromptPiece, RequestOwner, Summary, WhenFull,
};
use ortolan::sampling::SamplingParameters;

const ROUNDS: usize = 3;
const PROMPT_TOKENS: usize = 512;
const DECODED_TOKENS: usize = 48;

fn main() -> anyhow::Result<()> {
    for products in [ProductOperator::Contrib, ProductOperator::Ortolan] {
        println!("products: {products:?}");
        measure_products(products)?;
    }
    Ok(())
}

fn measure_products(products: ProductOperator) -> anyhow::Result<()> {
    let started = Instant::now();
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
            products: Some(products),
            ..SessionOptions::new(common::onnxruntime())
        },
        quantize: None,
        chat_template: None,
        pooling: None,
        adapters: AdapterOptions::default(),
        system_prompt: ortolan::model::SystemPrompt::default(),
    };
    let model = inspect(&common::model(), options)?.load(&|_| ())?;
    println!("loaded in {:.2} s", started.elapsed().as_secs_f64());
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(measure(&model));
    Ok(())
}

async fn measure(model: &LoadedModel) {
    let bandwidth = memory_bandwidth();
    println!("memory read {:.1} GB/s", bandwidth / 1e9);
    together(model, 2, 8, 8).await; // warm
    for sequences in [1, 8, 16] {
        let prompt = best(|| async {
            let (elapsed, _) = together(model, sequences, PROMPT_TOKENS, 0).await;
            (sequences * PROMPT_TOKENS) as f64 / elapsed.as_secs_f64()
        })
        .await;
        let decode = best(|| async {
            let (_, summaries) = together(model, sequences, 8, DECODED_TOKENS).await;
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
        let (at_once, _) = together(model, 16, 8, DECODED_TOKENS).await;
        let mut in_turn = Duration::ZERO;
        for number in 0..16 {
            let start = Instant::now();
            generate(model, number, 8, DECODED_TOKENS).await;
            in_turn += start.elapsed();
        }
        ratios.push(at_once.as_secs_f64() / in_turn.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    println!(
        "sixteen together take {:.2} of the time that they take in turn",
        ratios[ROUNDS / 2]
    );
}

/// The best of some rounds: what else runs on the machine only ever takes away.
async fn best<F: Future<Output = f64>>(mut round: impl FnMut() -> F) -> f64 {
    let mut best = 0.0f64;
    for _ in 0..ROUNDS {
        best = best.max(round().await);
    }
    best
}

async fn together(
    model: &LoadedModel,
    sequences: usize,
    prompt: usize,
    tokens: usize,
) -> (Duration, Vec<Summary>) {
    let start = Instant::now();
    let summaries =
        join_all((0..sequences).map(|number| generate(model, number, prompt, tokens))).await;
    (start.elapsed(), summaries)
}

/// One generation of just so many tokens, of a prompt that no other one shares.
async fn generate(
    model: &LoadedModel,
    number: usize,
    prompt_tokens: usize,
    max_tokens: usize,
) -> Summary {
    let prompt = (0..prompt_tokens)
        .map(|place| {
            PromptPiece::Token(ortolan::token::TokenId(
                1000 + ((place * 31 + number * 977) % 20_000) as u32,
            ))
        })
        .collect();
    let request = GenerateRequest {
        prompt: Prompt::Pieces(prompt),
        system_prompt: None,
        options: GenerateOptions {
            max_tokens: Some(max_tokens),
            stop: Vec::new(),
            ignore_end: true,
            sampling: SamplingParameters {
                temperature: 0.0,
                ..SamplingParameters::openai()
            },
            logit_bias: Vec::new(),
            grammar: None,
            tools: None,
            penalty_prompt: None,
            slot: None,
            when_full: WhenFull::Stop,
            whole_prompt: true,
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
    let mut generation = generation.expect("the request is in order");
    while let Some(event) = generation.next().await {
        if let GenerateEvent::Finished(summary) = event.expect("the engine runs") {
            return summary;
        }
    }
    unreachable!("a generation ends with its summary")
}

/// Bytes per second that all cores together read from memory.
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
                .map(|reader| reader.join().expect("it only reads"))
                .sum()
        });
        std::hint::black_box(sum);
        best = best.max(BYTES as f64 / start.elapsed().as_secs_f64());
    }
    best
}
