//! Fairness between prefill and decode, in a simulation in which a step's time depends only on its rows. Prefill gets
//! its share of the time, and no decoding sequence waits long for its next token.

use proptest::prelude::*;
use tokio::sync::Semaphore;

use super::super::output_checks::InvalidOutputs;
use super::super::scheduler::{Scheduler, StepResult};
use super::super::sequence::Sequence;
use super::super::sequence_sampler::SamplerOutput;
use super::*;
use crate::cache::BlockPool;

/// Maximum time of a step with decoding sequences, as a multiple of the step limit.
const MAX_STEP_LIMITS: f64 = 1.2;
/// Time that all prompts together may take beyond their share, as a multiple of the step limit.
const EXTRA_LIMITS: f64 = 5.0;

/// The time of a step as a function of its number of rows `n`.
#[derive(Debug, Clone, Copy)]
enum Cost {
    /// `fixed + row * n`
    Line { fixed: f64, row: f64 },
    /// `max(fixed, row * n)`
    Hinge { fixed: f64, row: f64 },
    /// [`MEASURED`], scaled by the time of a one-row step.
    Measured { one_row: f64 },
}

/// Measured pairs of the number of rows and the step time relative to a one-row step.
const MEASURED: [(f64, f64); 10] = [
    (1.0, 1.0),
    (2.0, 1.02),
    (4.0, 1.10),
    (8.0, 1.45),
    (16.0, 2.4),
    (32.0, 4.5),
    (64.0, 8.9),
    (128.0, 17.8),
    (256.0, 35.7),
    (1024.0, 143.0),
];

impl Cost {
    /// The time of a step in seconds.
    fn seconds(self, rows: usize) -> f64 {
        let rows = rows as f64;
        match self {
            Self::Line { fixed, row } => fixed + row * rows,
            Self::Hinge { fixed, row } => fixed.max(row * rows),
            Self::Measured { one_row } => {
                let above = MEASURED.partition_point(|(n, _)| *n < rows).max(1);
                let [(n0, t0), (n1, t1)] = [MEASURED[above - 1], MEASURED[above]];
                one_row * (t0 + (t1 - t0) * (rows - n0) / (n1 - n0))
            }
        }
    }
}

/// A simulated model whose step times may drift: they are multiplied by `1 + drift * sin(2π * time / period)`.
#[derive(Debug, Clone, Copy)]
struct SimulatedModel {
    cost: Cost,
    drift: f64,
    period: f64,
}

impl SimulatedModel {
    fn steady(cost: Cost) -> Self {
        Self {
            cost,
            drift: 0.0,
            period: 1.0,
        }
    }

    fn seconds(&self, rows: usize, time: f64) -> f64 {
        let cycles = time / self.period;
        self.cost.seconds(rows) * (1.0 + self.drift * (std::f64::consts::TAU * cycles).sin())
    }

    /// The step limit with `decode_rows` decode rows, as the step controller defines it.
    fn limit(&self, options: &EngineOptions, decode_rows: usize, time: f64) -> f64 {
        let decode = self.seconds(decode_rows, time) / (1.0 - options.prefill_share);
        options.step_duration.as_secs_f64().max(decode)
    }
}

/// A request and its arrival time.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    time: f64,
    prompt_tokens: usize,
    max_tokens: usize,
    prompt_logprobs: bool,
}

impl Arrival {
    fn prompt(prompt_tokens: usize, max_tokens: usize) -> Self {
        Self {
            time: 0.0,
            prompt_tokens,
            max_tokens,
            prompt_logprobs: false,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Step {
    start: f64,
    seconds: f64,
    decode_rows: usize,
    draft_rows: usize,
    /// Whether a prompt was being computed.
    has_prompts: bool,
}

struct SimulationResult {
    steps: Vec<Step>,
    /// Time of each request's first token, in the order of arrival.
    first_tokens: Vec<f64>,
}

/// Simulates steps until each of `arrivals` has its first token or has ended.
fn simulate(
    options: &EngineOptions,
    model: SimulatedModel,
    arrivals: &[Arrival],
    speculative_row_budget: usize,
) -> SimulationResult {
    let start = Instant::now();
    let mut blocks = BlockPool::new(options.blocks, options.block_tokens);
    let mut scheduler = Scheduler::new(options.clone(), speculative_row_budget);
    let permits = Arc::new(Semaphore::new(arrivals.len()));
    let mut outputs = Outputs::new(VOCABULARY, 1);
    outputs.hidden.resize(0);
    let (mut time, mut arrived) = (0.0, 0);
    let mut steps = Vec::new();
    let mut first_tokens = vec![f64::INFINITY; arrivals.len()];
    while first_tokens.iter().any(|first| first.is_infinite()) {
        let at = |time: f64| start + Duration::from_secs_f64(time);
        while let Some(arrival) = arrivals.get(arrived).filter(|next| next.time <= time) {
            let mut prompt = vec![4; arrival.prompt_tokens];
            prompt[0] = 2 + arrived as u32 % 90;
            let request = SequenceRequest {
                eog_tokens: [].into(),
                prefix_cache: PrefixCacheOptions {
                    max_reused_tokens: 0,
                    namespace: CacheNamespace(0),
                },
                prompt_logprobs: arrival.prompt_logprobs.then_some(0),
                ..request(&prompt, arrival.max_tokens)
            };
            let permit = Arc::clone(&permits).try_acquire_owned().unwrap();
            let id = SequenceId(arrived as u64);
            let context = options.context_tokens;
            scheduler.add(Sequence::new(id, request, context, at(time), permit));
            arrived += 1;
        }
        let (plan, _) = scheduler.plan(&mut blocks, at(time));
        let Some(plan) = plan else {
            time = arrivals[arrived].time;
            continue;
        };
        let decoding = |id: SequenceId| first_tokens[id.0 as usize].is_finite();
        let decode_rows = plan.chunks.iter();
        let decode_rows = decode_rows.filter(|chunk| decoding(chunk.sequence));
        let slots = scheduler.slots().flatten();
        let seconds = model.seconds(plan.tokens(), time);
        steps.push(Step {
            start: time,
            seconds,
            decode_rows: decode_rows.count(),
            draft_rows: plan.chunks.iter().map(|chunk| chunk.draft_tokens).sum(),
            has_prompts: slots.into_iter().any(|slot| !decoding(slot.sequence)),
        });
        time += seconds;
        let token = SampledToken {
            token: TokenId(4),
            logprobs: None,
        };
        let targets = scheduler.logprob_targets(&plan, &InvalidOutputs::new());
        let targets = targets
            .iter()
            .map(|(_, _, targets)| targets.tokens.len())
            .sum();
        let samplers = scheduler
            .sequence_samplers(&plan, &InvalidOutputs::new())
            .len();
        let output = |_| {
            Ok(SamplerOutput {
                sampled: vec![token.clone()],
                forced: Vec::new(),
                is_complete: false,
            })
        };
        let result = StepResult {
            invalid: InvalidOutputs::new(),
            prompt_logprobs: vec![token.clone(); targets],
            sampled: (0..samplers).map(output).collect(),
            hidden: &outputs.hidden,
        };
        for (id, event) in scheduler.commit(plan, result, &mut blocks, at(time)) {
            if matches!(event, SequenceEvent::Token(_) | SequenceEvent::Ended { .. }) {
                let first = &mut first_tokens[id.0 as usize];
                *first = first.min(time);
            }
        }
    }
    SimulationResult {
        steps,
        first_tokens,
    }
}

fn fairness_options() -> EngineOptions {
    EngineOptions {
        parallel: 16,
        step_tokens: 512,
        batch_tokens: 512,
        context_tokens: 4000,
        blocks: 16 * 250,
        block_tokens: 16,
        ..options()
    }
}

/// Simulates decoding sequences and prompts that arrive later. Checks the share of prefill and the maximum step time.
fn check_guarantees(
    options: &EngineOptions,
    model: SimulatedModel,
    decoding: &[Arrival],
    prompts: &[Arrival],
) -> Result<(), TestCaseError> {
    // By this time all decoding sequences have their first tokens.
    let warm_up_steps = 4.0 + decoding.len() as f64;
    let prompts_start = decoding
        .iter()
        .map(|arrival| arrival.time)
        .fold(0.0, f64::max)
        + warm_up_steps * model.cost.seconds(512.min(8 * decoding.len()));
    let prompts_later = prompts.iter().map(|prompt| Arrival {
        time: prompts_start + prompt.time,
        ..*prompt
    });
    let arrivals: Vec<Arrival> = decoding.iter().copied().chain(prompts_later).collect();
    let with_decoding = simulate(options, model, &arrivals, 4);
    let steady = SimulatedModel::steady(model.cost);
    let alone: Vec<Arrival> = prompts
        .iter()
        .map(|prompt| Arrival {
            max_tokens: 1,
            ..*prompt
        })
        .collect();
    let alone = simulate(options, steady, &alone, 4);
    let last = |run: &SimulationResult| run.first_tokens.iter().copied().fold(0.0, f64::max);

    let mut max_limit = options.step_duration.as_secs_f64();
    for step in with_decoding
        .steps
        .iter()
        .filter(|step| step.decode_rows > 0)
    {
        let limit = model.limit(options, step.decode_rows, step.start);
        max_limit = max_limit.max(limit);
        prop_assert!(
            step.seconds <= MAX_STEP_LIMITS * limit,
            "{step:?} is longer than {limit} s"
        );
        prop_assert!(
            !step.has_prompts || step.draft_rows == 0,
            "{step:?} has draft rows"
        );
    }
    let elapsed = last(&with_decoding) - prompts_start;
    let slowdown = 1.0 + model.drift.max(0.0);
    let max_elapsed = slowdown * last(&alone) / options.prefill_share + EXTRA_LIMITS * max_limit;
    prop_assert!(
        elapsed <= max_elapsed,
        "the prompts took {elapsed} s, more than {max_elapsed} s"
    );
    Ok(())
}

fn cost() -> impl Strategy<Value = Cost> {
    let fixed = 0.002f64..0.4;
    let line = (fixed.clone(), 0.001f64..0.2);
    let hinge = (fixed.clone(), 0.001f64..0.2);
    prop_oneof![
        line.prop_map(|(fixed, part)| Cost::Line {
            fixed,
            row: fixed * part
        }),
        hinge.prop_map(|(fixed, part)| Cost::Hinge {
            fixed,
            row: fixed * part
        }),
        fixed.prop_map(|one_row| Cost::Measured { one_row }),
    ]
}

fn arrival(tokens: std::ops::Range<usize>) -> impl Strategy<Value = Arrival> {
    let max_tokens = prop_oneof![Just(1usize), 2usize..40, Just(2000)];
    (tokens, max_tokens).prop_map(|(tokens, max_tokens)| Arrival::prompt(tokens, max_tokens))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The guarantees hold for any step costs and any arrivals, with step limits above and below the decode time.
    #[test]
    fn prefill_gets_its_share_and_decoding_its_tokens(
        cost in cost(),
        // As a multiple of the time of a one-row step.
        step_limit in prop_oneof![0.05f64..1.0, 1.0f64..20.0],
        prefill_share in prop_oneof![Just(0.5), 0.5f64..0.85],
        decoding in prop::collection::vec(prop_oneof![5usize..60, Just(2000)], 1..6),
        prompts in prop::collection::vec(arrival(1..700), 1..6),
        drift in prop_oneof![Just(0.0), -0.25f64..0.25],
    ) {
        let options = EngineOptions {
            step_duration: Duration::from_secs_f64(step_limit * cost.seconds(1)),
            prefill_share,
            ..fairness_options()
        };
        let decoding: Vec<Arrival> = decoding.iter().map(|tokens| Arrival::prompt(4, *tokens)).collect();
        let limit = SimulatedModel::steady(cost).limit(&options, decoding.len(), 0.0);
        let model = SimulatedModel { cost, drift, period: 1000.0 * limit };
        check_guarantees(&options, model, &decoding, &prompts)?;
    }
}

/// The step times are those of an 8B model on two cores: decode steps take longer than the step limit.
#[test]
fn a_prompt_beside_decoding_takes_about_twice_as_long_with_a_large_model() {
    let options = EngineOptions {
        step_duration: Duration::from_millis(100),
        ..fairness_options()
    };
    let model = SimulatedModel::steady(Cost::Measured { one_row: 0.3 });
    let alone = simulate(&options, model, &[Arrival::prompt(256, 1)], 1);
    let arrivals = [
        Arrival::prompt(4, 2000),
        Arrival {
            time: 3.0,
            ..Arrival::prompt(256, 1)
        },
    ];
    let with_decoding = simulate(&options, model, &arrivals, 1);
    let factor = (with_decoding.first_tokens[1] - 3.0) / alone.first_tokens[0];
    assert!((1.0..2.2).contains(&factor), "{factor} times");
}

/// Prefill with and without prompt log probabilities shares the same steps.
#[test]
fn prefill_with_prompt_logprobs_gets_its_share() {
    let options = EngineOptions {
        step_duration: Duration::from_millis(20),
        ..fairness_options()
    };
    let model = SimulatedModel::steady(Cost::Measured { one_row: 0.05 });
    let with_logprobs = Arrival {
        prompt_logprobs: true,
        ..Arrival::prompt(400, 0)
    };
    let decoding = [Arrival::prompt(4, 2000); 2];
    check_guarantees(
        &options,
        model,
        &decoding,
        &[Arrival::prompt(300, 1), with_logprobs],
    )
    .unwrap();
}

/// No draft tokens are computed while any sequence is in prefill.
#[test]
fn there_are_no_draft_rows_while_a_prompt_is_computed() {
    let options = fairness_options();
    let model = SimulatedModel::steady(Cost::Measured { one_row: 0.05 });
    let arrivals = [
        Arrival::prompt(40, 2000),
        Arrival {
            time: 3.0,
            ..Arrival::prompt(300, 1)
        },
    ];
    let result = simulate(&options, model, &arrivals, 4);
    assert!(result.steps.iter().any(|step| step.draft_rows > 0));
    let mixed = result
        .steps
        .iter()
        .filter(|step| step.has_prompts && step.decode_rows > 0);
    let mut mixed = mixed.peekable();
    assert!(mixed.peek().is_some());
    assert!(mixed.all(|step| step.draft_rows == 0));
}
