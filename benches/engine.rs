//! What a step costs beside the model: planned, chosen, entered, delivered, with sequences by the hundred and a runner that
//! computes nothing; and what the cache takes to find the beginning of a text.
//!
//! `cargo bench --bench engine`

use std::hint::black_box;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ortolan::cache::{BlockPool, BlockTable, PrefixRoot, Reuse};
use ortolan::engine::{
    self, AdapterScales, BlockId, EngineOptions, Job, ModelRunner, Outputs, PrefixUse, RunError,
    SequenceEvent, StepPlan, StopRule, Verdict, WhenFull,
};
use ortolan::sampling::{Sampler, SamplerTokens, SamplingParameters};
use ortolan::token::TokenId;

const BLOCK_TOKENS: usize = 16;
const PROMPT_TOKENS: usize = 64;

/// Steps in which every sequence that may run has one token, and the time between them.
#[derive(Debug, Clone, Copy, Default)]
struct Between {
    steps: u32,
    time: Duration,
}

/// Answers zeros, and tells how long it was not asked.
struct Idle {
    parallel: usize,
    left: Option<Instant>,
    between: Arc<Mutex<Between>>,
}

impl ModelRunner for Idle {
    fn outputs(&self) -> Outputs {
        Outputs::new(8, 1)
    }

    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        let entered = Instant::now();
        let full = plan.chunks.len() == self.parallel && plan.tokens() == self.parallel;
        if let Some(left) = self.left.take().filter(|_| full) {
            let mut between = self.between.lock().unwrap_or_else(PoisonError::into_inner);
            between.steps += 1;
            between.time += entered - left;
        }
        outputs.logits.resize(plan.logit_rows().len()).fill(0.0);
        outputs.hidden.resize(0);
        self.left = full.then(Instant::now);
        Ok(())
    }

    fn read_block(&mut self, _: BlockId) -> Result<Vec<u8>, RunError> {
        Ok(Vec::new())
    }

    fn write_block(&mut self, _: BlockId, _: &[u8]) -> Result<(), RunError> {
        Ok(())
    }
}

/// Nothing ends but by its length.
struct Never;

impl StopRule for Never {
    fn after(&mut self, _: TokenId) -> Verdict {
        Verdict::Continue
    }
}

fn job(number: usize, max_tokens: usize) -> Job {
    let greedy = SamplingParameters {
        temperature: 0.0,
        ..SamplingParameters::openai()
    };
    Job {
        prompt: text(number, PROMPT_TOKENS),
        max_tokens,
        end_tokens: [].into(),
        sampler: Sampler::new(greedy, 0, SamplerTokens::default()),
        constraint: None,
        stop: Box::new(Never),
        slot: None,
        prefix: PrefixUse {
            readable: usize::MAX,
            root: PrefixRoot(0),
        },
        adapters: AdapterScales::default(),
        when_full: WhenFull::Stop,
        priority: 0,
        timeout: None,
        embed: None,
        score: None,
        report_prefill: false,
    }
}

/// Tokens that no other text begins with.
fn text(number: usize, tokens: usize) -> Vec<TokenId> {
    let rest = (1..tokens).map(|place| TokenId((number * 31 + place) as u32 % 49_152));
    std::iter::once(TokenId(number as u32))
        .chain(rest)
        .collect()
}

/// The time between `steps` full steps with so many sequences that run, and so many that wait.
fn between_steps([parallel, waiting]: [usize; 2], steps: u64) -> Duration {
    /// Less than a context's.
    const MOST_STEPS: u64 = 900;
    let tokens = steps.clamp(100, MOST_STEPS) as usize;
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
    let between = Arc::default();
    let runner = Idle {
        parallel,
        left: None,
        between: Arc::clone(&between),
    };
    let engine = engine::start(Box::new(runner), options, Instant::now).expect("they fit");
    let submit = |number| engine.submit(job(number, tokens)).expect("there is room").1;
    let all: Vec<_> = (0..parallel + waiting).map(submit).collect();
    // Those behind them wait until the end.
    for mut events in all.into_iter().take(parallel) {
        while let Some(event) = events.blocking_recv() {
            if matches!(event, SequenceEvent::Ended { .. }) {
                break;
            }
        }
    }
    engine.stop();
    let Between { steps: seen, time } = *between.lock().unwrap_or_else(PoisonError::into_inner);
    time.mul_f64(steps as f64 / f64::from(seen))
}

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step");
    group.sample_size(10);
    for [parallel, waiting] in [[1, 0], [32, 0], [32, 968], [1000, 0]] {
        let name = format!("{parallel} run, {waiting} wait");
        group.throughput(Throughput::Elements(parallel as u64));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|steps| between_steps([parallel, waiting], steps));
        });
    }
    group.finish();
}

fn prefixes(criterion: &mut Criterion) {
    /// Texts that the cache knows.
    const TEXTS: usize = 100;
    /// Tokens of each.
    const TOKENS: usize = 8192;

    let root = PrefixRoot(0);
    let mut pool = BlockPool::new(TEXTS * TOKENS / BLOCK_TOKENS, BLOCK_TOKENS);
    for number in 0..TEXTS {
        let mut table = BlockTable::new(root);
        table.grow(TOKENS, &mut pool);
        table.make_known(&text(number, TOKENS), &mut pool);
        table.release(&mut pool);
    }
    let mut group = criterion.benchmark_group("prefix lookup");
    for tokens in [64, 1024, TOKENS] {
        let known = text(TEXTS / 2, tokens);
        group.throughput(Throughput::Elements(tokens as u64));
        group.bench_function(BenchmarkId::new("known", tokens), |bencher| {
            bencher.iter(|| black_box(Reuse::find(root, black_box(&known), &pool)));
        });
    }
    let unknown = text(TEXTS, 1024);
    group.throughput(Throughput::Elements(1));
    group.bench_function("unknown", |bencher| {
        bencher.iter(|| black_box(Reuse::find(root, black_box(&unknown), &pool)));
    });
    group.finish();
}

criterion_group!(benches, steps, prefixes);
criterion_main!(benches);
