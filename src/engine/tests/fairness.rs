//! Prompts beside streams on scripted machines, whose steps take a time that only depends on their rows: prompts have their
//! share, and no stream waits long for its next token.

use proptest::prelude::*;
use tokio::sync::Semaphore;

use super::super::chooser::Chosen;
use super::super::scheduler::{Computed, Scheduler};
use super::super::sequence::Sequence;
use super::super::worker::Unusable;
use super::*;
use crate::cache::BlockPool;

/// Most that a step beside a stream may take, in limits.
const LONGEST_STEP: f64 = 1.2;
/// What all prompts together may wait for in addition to their share of the time, in limits.
const EXTRA_LIMITS: f64 = 5.0;

/// What a step of so many rows costs.
#[derive(Debug, Clone, Copy)]
enum Cost {
    /// `fixed + row * n`
    Line { fixed: f64, row: f64 },
    /// `max(fixed, row * n)`
    Hinge { fixed: f64, row: f64 },
    /// As [`MEASURED`].
    Measured { one_row: f64 },
}

/// Rows, and the time of a step of them in that of a step of one row.
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
    /// In seconds.
    fn of(self, rows: usize) -> f64 {
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

/// A machine whose costs may change: they are multiplied by `1 + drift * sin(2π * time / period)`.
#[derive(Debug, Clone, Copy)]
struct Machine {
    cost: Cost,
    drift: f64,
    period: f64,
}

impl Machine {
    fn steady(cost: Cost) -> Self {
        Self {
            cost,
            drift: 0.0,
            period: 1.0,
        }
    }

    fn seconds(&self, rows: usize, time: f64) -> f64 {
        let turns = time / self.period;
        self.cost.of(rows) * (1.0 + self.drift * (std::f64::consts::TAU * turns).sin())
    }

    /// The longest that a step beside `decode_rows` is to take.
    fn limit(&self, options: &EngineOptions, decode_rows: usize, time: f64) -> f64 {
        let decode = self.seconds(decode_rows, time) / (1.0 - options.prefill_share);
        options.step_duration.as_secs_f64().max(decode)
    }
}

/// A job of so many tokens that comes at a time.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    time: f64,
    prompt_tokens: usize,
    max_tokens: usize,
    scored: bool,
}

impl Arrival {
    fn prompt(prompt_tokens: usize, max_tokens: usize) -> Self {
        Self {
            time: 0.0,
            prompt_tokens,
            max_tokens,
            scored: false,
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Step {
    start: f64,
    seconds: f64,
    decode_rows: usize,
    draft_rows: usize,
    /// Whether a prompt waited.
    prompts: bool,
}

struct Run {
    steps: Vec<Step>,
    /// When each had its first token, in the order of their arrival.
    first_tokens: Vec<f64>,
}

/// Runs until all of `arrivals` have their first tokens, or have ended.
fn run(options: &EngineOptions, machine: Machine, arrivals: &[Arrival], cheap_rows: usize) -> Run {
    let start = Instant::now();
    let mut blocks = BlockPool::new(options.blocks, options.block_tokens);
    let mut scheduler = Scheduler::new(options.clone(), cheap_rows);
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
            let job = Job {
                end_tokens: [].into(),
                prefix: PrefixUse {
                    readable: 0,
                    root: PrefixRoot(0),
                },
                score: arrival.scored.then_some(0),
                ..job(&prompt, arrival.max_tokens)
            };
            let permit = Arc::clone(&permits).try_acquire_owned().unwrap();
            let id = SequenceId(arrived as u64);
            let context = options.context_tokens;
            scheduler.add(Sequence::new(id, job, context, at(time), permit));
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
        let seconds = machine.seconds(plan.tokens(), time);
        steps.push(Step {
            start: time,
            seconds,
            decode_rows: decode_rows.count(),
            draft_rows: plan.chunks.iter().map(|chunk| chunk.guessed).sum(),
            prompts: slots.into_iter().any(|slot| !decoding(slot.sequence)),
        });
        time += seconds;
        let one = Choice {
            token: TokenId(4),
            logprobs: None,
        };
        let scored = scheduler.scored(&plan, &Unusable::new());
        let scored = scored
            .iter()
            .map(|(_, _, scored)| scored.tokens.len())
            .sum();
        let choosers = scheduler.choosers(&plan, &Unusable::new()).len();
        let chosen = |_| {
            Ok(Chosen {
                choices: vec![one.clone()],
                certain: Vec::new(),
                complete: false,
            })
        };
        let computed = Computed {
            unusable: Unusable::new(),
            scored: vec![one.clone(); scored],
            sampled: (0..choosers).map(chosen).collect(),
            hidden: &outputs.hidden,
        };
        for (id, event) in scheduler.commit(plan, computed, &mut blocks, at(time)) {
            if matches!(event, SequenceEvent::Token(_) | SequenceEvent::Ended { .. }) {
                let first = &mut first_tokens[id.0 as usize];
                *first = first.min(time);
            }
        }
    }
    Run {
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

/// Streams that run, then prompts that come: both promises hold.
fn check_promises(
    options: &EngineOptions,
    machine: Machine,
    streams: &[Arrival],
    prompts: &[Arrival],
) -> Result<(), TestCaseError> {
    // By then all streams have their first tokens.
    let warm = 4.0 + streams.len() as f64;
    let come = streams.iter().map(|stream| stream.time).fold(0.0, f64::max)
        + warm * machine.cost.of(512.min(8 * streams.len()));
    let late = prompts.iter().map(|prompt| Arrival {
        time: come + prompt.time,
        ..*prompt
    });
    let arrivals: Vec<Arrival> = streams.iter().copied().chain(late).collect();
    let run_beside = run(options, machine, &arrivals, 4);
    let dearest = Machine::steady(machine.cost);
    let alone: Vec<Arrival> = prompts
        .iter()
        .map(|prompt| Arrival {
            max_tokens: 1,
            ..*prompt
        })
        .collect();
    let alone = run(options, dearest, &alone, 4);
    let last = |run: &Run| run.first_tokens.iter().copied().fold(0.0, f64::max);

    let mut longest = options.step_duration.as_secs_f64();
    for step in run_beside.steps.iter().filter(|step| step.decode_rows > 0) {
        let limit = machine.limit(options, step.decode_rows, step.start);
        longest = longest.max(limit);
        prop_assert!(
            step.seconds <= LONGEST_STEP * limit,
            "{step:?} is longer than {limit} s"
        );
        prop_assert!(
            !step.prompts || step.draft_rows == 0,
            "{step:?} has draft rows"
        );
    }
    let took = last(&run_beside) - come;
    let slower = 1.0 + machine.drift.max(0.0);
    let most = slower * last(&alone) / options.prefill_share + EXTRA_LIMITS * longest;
    prop_assert!(took <= most, "prompts took {took} s, more than {most} s");
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
    let becomes_stream = prop_oneof![Just(1usize), 2usize..40, Just(2000)];
    (tokens, becomes_stream).prop_map(|(tokens, max_tokens)| Arrival::prompt(tokens, max_tokens))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever a step costs, however many streams run, join and leave, and whether the step limit is above or below the time
    /// of a step that only decodes.
    #[test]
    fn prompts_have_their_share_and_streams_their_tokens(
        cost in cost(),
        // In steps of one row.
        step_limit in prop_oneof![0.05f64..1.0, 1.0f64..20.0],
        prefill_share in prop_oneof![Just(0.5), 0.5f64..0.85],
        streams in prop::collection::vec(prop_oneof![5usize..60, Just(2000)], 1..6),
        prompts in prop::collection::vec(arrival(1..700), 1..6),
        drift in prop_oneof![Just(0.0), -0.25f64..0.25],
    ) {
        let options = EngineOptions {
            step_duration: Duration::from_secs_f64(step_limit * cost.of(1)),
            prefill_share,
            ..fairness_options()
        };
        let streams: Vec<Arrival> = streams.iter().map(|tokens| Arrival::prompt(4, *tokens)).collect();
        let limit = Machine::steady(cost).limit(&options, streams.len(), 0.0);
        let machine = Machine { cost, drift, period: 1000.0 * limit };
        check_promises(&options, machine, &streams, &prompts)?;
    }
}

/// A model of 8B parameters on two cores, whose decode steps take longer than the step limit.
#[test]
fn a_prompt_beside_a_stream_of_a_large_model_takes_about_twice_its_time() {
    let options = EngineOptions {
        step_duration: Duration::from_millis(100),
        ..fairness_options()
    };
    let machine = Machine::steady(Cost::Measured { one_row: 0.3 });
    let alone = run(&options, machine, &[Arrival::prompt(256, 1)], 1);
    let arrivals = [
        Arrival::prompt(4, 2000),
        Arrival {
            time: 3.0,
            ..Arrival::prompt(256, 1)
        },
    ];
    let beside = run(&options, machine, &arrivals, 1);
    let times = (beside.first_tokens[1] - 3.0) / alone.first_tokens[0];
    assert!((1.0..2.2).contains(&times), "{times} times");
}

/// A row of a prompt whose log-probabilities are wanted costs more than one of a prompt; still neither is beyond the limit.
#[test]
fn prompts_that_are_scored_have_their_share_too() {
    let options = EngineOptions {
        step_duration: Duration::from_millis(20),
        ..fairness_options()
    };
    let machine = Machine::steady(Cost::Measured { one_row: 0.05 });
    let scored = Arrival {
        scored: true,
        ..Arrival::prompt(400, 0)
    };
    let streams = [Arrival::prompt(4, 2000); 2];
    check_promises(
        &options,
        machine,
        &streams,
        &[Arrival::prompt(300, 1), scored],
    )
    .unwrap();
}

/// Streams that repeat themselves have draft rows, which make room for prompts.
#[test]
fn draft_rows_make_room_for_prompts() {
    let options = fairness_options();
    let machine = Machine::steady(Cost::Measured { one_row: 0.05 });
    let arrivals = [
        Arrival::prompt(40, 2000),
        Arrival {
            time: 3.0,
            ..Arrival::prompt(300, 1)
        },
    ];
    let run = run(&options, machine, &arrivals, 4);
    assert!(run.steps.iter().any(|step| step.draft_rows > 0));
    let beside = run
        .steps
        .iter()
        .filter(|step| step.prompts && step.decode_rows > 0);
    let mut beside = beside.peekable();
    assert!(beside.peek().is_some());
    assert!(beside.all(|step| step.draft_rows == 0));
}
