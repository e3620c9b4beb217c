//! The engine's overhead per step (scheduling, sampling, cache bookkeeping, delivery) with a runner that computes
//! nothing and up to a thousand sequences; and the time to look up a prefix in the cache.
//!
//! `cargo bench --bench engine`

use std::hint::black_box;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ortolan::cache::{BlockPool, BlockTable, CacheNamespace, CachedPrefix};
use ortolan::engine::{
    self, AdapterScales, BlockId, ContextOverflow, EngineOptions, ModelRunner, Outputs,
    PrefixCacheOptions, RunError, SequenceEvent, SequenceRequest, StepPlan, StopDecision, StopRule,
};
use ortolan::sampling::{Sampler, SamplerInputs, SamplingParameters};
use ortolan::token::TokenId;

const BLOCK_TOKENS: usize = 16;
const PROMPT_TOKENS: usize = 64;

/// Number of full decode steps (one token for every slot), and the total time between them.
#[derive(Debug, Clone, Copy, Default)]
struct StepGaps {
    steps: u32,
    time: Duration,
}

/// A runner that outputs zeros and measures the time between full decode steps.
struct ZeroRunner {
    parallel: usize,
    last_step_end: Option<Instant>,
    gaps: Arc<Mutex<StepGaps>>,
}

impl ModelRunner for ZeroRunner {
    fn outputs(&self) -> Outputs {
        Outputs::new(8, 1)
    }

    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        let started_at = Instant::now();
        let is_full = plan.chunks.len() == self.parallel && plan.tokens() == self.parallel;
        if let Some(last_step_end) = self.last_step_end.take().filter(|_| is_full) {
            let mut gaps = self.gaps.lock().unwrap_or_else(PoisonError::into_inner);
            gaps.steps += 1;
            gaps.time += started_at - last_step_end;
        }
        outputs.logits.resize(plan.logit_rows().len()).fill(0.0);
        outputs.hidden.resize(0);
        self.last_step_end = is_full.then(Instant::now);
        Ok(())
    }

    fn read_block(&mut self, _: BlockId) -> Result<Vec<u8>, RunError> {
        Ok(Vec::new())
    }

    fn write_block(&mut self, _: BlockId, _: &[u8]) -> Result<(), RunError> {
        Ok(())
    }
}

/// A stop condition that never holds: generation ends only at the token limit.
struct NeverStop;

impl StopRule for NeverStop {
    fn after_token(&mut self, _: TokenId) -> StopDecision {
        StopDecision::Continue
    }
}

fn request(number: usize, max_tokens: usize) -> SequenceRequest {
    let greedy = SamplingParameters {
        temperature: 0.0,
        ..SamplingParameters::openai()
    };
    SequenceRequest {
        prompt: text(number, PROMPT_TOKENS),
        max_tokens,
        eog_tokens: [].into(),
        sampler: Sampler::new(greedy, 0, SamplerInputs::default()),
        constraint: None,
        stop: Box::new(NeverStop),
        slot: None,
        prefix_cache: PrefixCacheOptions {
            max_reused_tokens: usize::MAX,
            namespace: CacheNamespace(0),
        },
        adapters: AdapterScales::default(),
        context_overflow: ContextOverflow::Stop,
        priority: 0,
        timeout: None,
        pooling: None,
        prompt_logprobs: None,
        report_prefill: false,
    }
}

/// A text whose first token depends on `number`, so that no two texts share a prefix.
fn text(number: usize, tokens: usize) -> Vec<TokenId> {
    let rest = (1..tokens).map(|index| TokenId((number * 31 + index) as u32 % 49_152));
    std::iter::once(TokenId(number as u32))
        .chain(rest)
        .collect()
}

/// The time between `steps` full steps with `parallel` running and `waiting` queued sequences.
fn time_between_steps([parallel, waiting]: [usize; 2], steps: u64) -> Duration {
    /// Largest token limit of a sequence: prompt and generated tokens must fit into the context.
    const MAX_STEPS: u64 = 900;
    let tokens = steps.clamp(100, MAX_STEPS) as usize;
    let context_tokens = 1024;
    let options = EngineOptions {
        parallel,
        queue: waiting,
        step_tokens: 4096.max(parallel),
        batch_tokens: 2048,
        step_duration: Duration::from_secs(1),
        prefill_share: 0.5,
        whole_prompts: false,
        context_tokens,
        blocks: EngineOptions::blocks_for_all(parallel, context_tokens, BLOCK_TOKENS),
        block_tokens: BLOCK_TOKENS,
    };
    let gaps = Arc::default();
    let runner = ZeroRunner {
        parallel,
        last_step_end: None,
        gaps: Arc::clone(&gaps),
    };
    let engine =
        engine::start(Box::new(runner), options, Instant::now).expect("the options are valid");
    let submit = |number| {
        engine
            .submit(request(number, tokens))
            .expect("the queue has room")
            .1
    };
    let all: Vec<_> = (0..parallel + waiting).map(submit).collect();
    // The other sequences stay queued.
    for mut events in all.into_iter().take(parallel) {
        while let Some(event) = events.blocking_recv() {
            if matches!(event, SequenceEvent::Ended { .. }) {
                break;
            }
        }
    }
    engine.stop();
    let StepGaps {
        steps: measured,
        time,
    } = *gaps.lock().unwrap_or_else(PoisonError::into_inner);
    time.mul_f64(steps as f64 / f64::from(measured))
}

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step");
    group.sample_size(10);
    for [parallel, waiting] in [[1, 0], [32, 0], [32, 968], [1000, 0]] {
        let name = format!("{parallel} running, {waiting} queued");
        group.throughput(Throughput::Elements(parallel as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|steps| time_between_steps([parallel, waiting], steps));
        });
    }
    group.finish();
}

fn prefixes(criterion: &mut Criterion) {
    /// Number of cached texts.
    const TEXTS: usize = 100;
    /// Tokens of each cached text.
    const TOKENS: usize = 8192;

    let namespace = CacheNamespace(0);
    let mut pool = BlockPool::new(TEXTS * TOKENS / BLOCK_TOKENS, BLOCK_TOKENS);
    for number in 0..TEXTS {
        let mut table = BlockTable::new(namespace);
        table.grow(TOKENS, &mut pool);
        table.commit_full_blocks(&text(number, TOKENS), &mut pool);
        table.release(&mut pool);
    }
    let mut group = criterion.benchmark_group("prefix lookup");
    for tokens in [64, 1024, TOKENS] {
        let cached = text(TEXTS / 2, tokens);
        group.throughput(Throughput::Elements(tokens as u64));
        group.bench_function(BenchmarkId::new("cached", tokens), |bencher| {
            bencher.iter(|| black_box(CachedPrefix::find(namespace, black_box(&cached), &pool)));
        });
    }
    let uncached = text(TEXTS, 1024);
    group.throughput(Throughput::Elements(1));
    group.bench_function("not cached", |bencher| {
        bencher.iter(|| black_box(CachedPrefix::find(namespace, black_box(&uncached), &pool)));
    });
    group.finish();
}

criterion_group!(benches, steps, prefixes);
criterion_main!(benches);
