//! What is in each step: machines that wait for a word, or on which only steps take time.

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use super::*;

/// A machine whose every step waits for a word, after it has told whose chunks it is about to compute.
struct Gated {
    runner: ScriptedRunner,
    begins: Sender<Vec<SequenceId>>,
    gate: Receiver<()>,
}

impl ModelRunner for Gated {
    fn outputs(&self) -> Outputs {
        self.runner.outputs()
    }

    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        let sequences = plan.chunks.iter().map(|chunk| chunk.sequence).collect();
        // At the end of the test nobody listens, and the gate stays open.
        let _ = self.begins.send(sequences);
        let _ = self.gate.recv();
        self.runner.run(plan, outputs)
    }

    fn read_block(&mut self, block: BlockId) -> Result<Vec<u8>, RunError> {
        self.runner.read_block(block)
    }

    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), RunError> {
        self.runner.write_block(block, bytes)
    }
}

#[test]
fn who_leaves_is_gone_in_the_next_step() {
    let options = options();
    let (begins, began) = channel();
    let (go, gate) = channel();
    let runner = Gated {
        runner: ScriptedRunner::new(&options),
        begins,
        gate,
    };
    let engine = start(Box::new(runner), options, Instant::now).unwrap();
    let neighbour_prompt = prompt(1, 3);
    let (neighbour, neighbour_events) = engine.submit(job(&neighbour_prompt, 12)).unwrap();
    let (decoding, decoding_events) = engine.submit(endless()).unwrap();
    let (in_prompt, in_prompt_events) = engine.submit(job(&prompt(2, 39), 1)).unwrap();
    let (_, waiting_events) = engine.submit(job(&prompt(3, 3), 1)).unwrap();
    // All three slots run, the second one has a token, the third one is in its prompt.
    while began.recv().unwrap() != [neighbour, decoding, in_prompt] || engine.stats().waiting != 1 {
        go.send(()).unwrap();
    }
    drop((decoding_events, in_prompt_events, waiting_events));
    go.send(()).unwrap();
    assert_eq!(began.recv().unwrap(), [neighbour]);
    let stats = engine.stats();
    assert_eq!((stats.counters.cancelled, stats.waiting), (3, 0));
    let left = stats.slots[0].unwrap();
    assert_eq!(left.sequence, neighbour);
    let tokens = left.prompt_tokens + left.generated_tokens;
    assert_eq!(stats.blocks.held, tokens.div_ceil(4));
    drop((go, began));
    check(
        neighbour_events,
        oracle(&neighbour_prompt, 12, None, WhenFull::Stop),
    );
}

/// A machine on which a step takes a millisecond and two for each token, by a clock that only it moves. Its
/// first step begins when the gate is opened.
struct Timed {
    runner: ScriptedRunner,
    steps: Steps,
    gate: Option<Receiver<()>>,
}

/// Of each step: its milliseconds, and whose chunks of how many tokens it had.
type Steps = Arc<Mutex<Vec<(u64, Vec<(SequenceId, usize)>)>>>;

thread_local! {
    static PASSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// The engine's thread sees the time pass, others see it stand.
fn machine_time() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now) + PASSED.get()
}

impl ModelRunner for Timed {
    fn outputs(&self) -> Outputs {
        self.runner.outputs()
    }

    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        if let Some(gate) = self.gate.take() {
            // It is opened by being dropped.
            let _ = gate.recv();
        }
        let milliseconds = 1 + 2 * plan.tokens() as u64;
        PASSED.set(PASSED.get() + Duration::from_millis(milliseconds));
        let chunks = plan
            .chunks
            .iter()
            .map(|chunk| (chunk.sequence, chunk.tokens.len()));
        let mut steps = self.steps.lock().unwrap();
        steps.push((milliseconds, chunks.collect()));
        self.runner.run(plan, outputs)
    }

    fn read_block(&mut self, block: BlockId) -> Result<Vec<u8>, RunError> {
        self.runner.read_block(block)
    }

    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), RunError> {
        self.runner.write_block(block, bytes)
    }
}

fn timed_engine(options: EngineOptions) -> (EngineHandle, Steps, Sender<()>) {
    let steps = Steps::default();
    let (closed, gate) = channel();
    let runner = Timed {
        runner: ScriptedRunner::new(&options),
        steps: Arc::clone(&steps),
        gate: Some(gate),
    };
    let engine = start(Box::new(runner), options, machine_time).unwrap();
    (engine, steps, closed)
}

/// A job that only its client's leaving ends.
fn endless() -> Job {
    Job {
        end_tokens: [].into(),
        when_full: WhenFull::Shift { keep: Some(0) },
        ..job(&[5, 6, 7], usize::MAX)
    }
}

#[test]
fn who_waits_for_a_token_waits_one_short_step() {
    let (engine, steps, gate) = timed_engine(EngineOptions {
        step_tokens: 600,
        batch_tokens: 600,
        step_duration: Duration::from_millis(100),
        context_tokens: 2000,
        blocks: 3000,
        ..options()
    });
    let (_, mut decoding) = engine.submit(endless()).unwrap();
    assert!(matches!(
        decoding.blocking_recv(),
        Some(SequenceEvent::Started { .. })
    ));
    let submitted: Vec<Events> = (0..2)
        .map(|seed| engine.submit(job(&prompt(seed, 1500), 1)).unwrap().1)
        .collect();
    drop(gate);
    for events in submitted {
        listen(events);
    }
    drop(decoding);
    let steps = steps.lock().unwrap();
    let beside: Vec<_> = steps
        .iter()
        .filter(|(_, chunks)| chunks.len() > 1)
        .collect();
    assert!(beside.len() > 20, "two long prompts take many steps");
    assert!(beside.iter().all(|(milliseconds, _)| *milliseconds <= 101));
    let quick = beside.iter().filter(|(milliseconds, _)| *milliseconds < 90);
    // Rows double from one to 32, and the last step has what is left.
    assert!(quick.count() < 9, "the budget is used");
    let both = beside
        .iter()
        .filter(|(_, chunks)| chunks.len() == 3)
        .count();
    assert!(both > beside.len() / 2, "no prompt stands still");
}

#[test]
fn the_higher_priority_is_admitted_first() {
    let (engine, steps, gate) = timed_engine(EngineOptions {
        parallel: 1,
        ..options()
    });
    let (busy, mut events) = engine.submit(endless()).unwrap();
    // It has the slot.
    events.blocking_recv();
    let submitted: Vec<(SequenceId, Events)> = [0, 5, 5, -1, 9]
        .into_iter()
        .map(|priority| {
            let ranked = Job {
                priority,
                ..job(&prompt(3, 5), 2)
            };
            engine.submit(ranked).unwrap()
        })
        .collect();
    drop(events);
    drop(gate);
    let ids: Vec<SequenceId> = submitted.iter().map(|(id, _)| *id).collect();
    for (_, events) in submitted {
        listen(events);
    }
    let mut order: Vec<SequenceId> = Vec::new();
    for (_, chunks) in steps.lock().unwrap().iter() {
        order.extend(chunks.iter().map(|(sequence, _)| *sequence));
    }
    order.dedup();
    assert_eq!(order, [busy, ids[4], ids[1], ids[2], ids[0], ids[3]]);
}

/// Requests of a high priority that come without end do not keep one of the usual priority from its turn.
#[test]
fn a_high_priority_makes_others_wait_but_not_for_ever() {
    let (engine, steps, gate) = timed_engine(EngineOptions {
        parallel: 1,
        ..options()
    });
    let (_, mut events) = engine.submit(endless()).unwrap();
    // It has the slot.
    events.blocking_recv();
    let submitted: Vec<(SequenceId, Events)> = (0..60)
        .map(|number| {
            let ranked = Job {
                priority: if number == 0 { 0 } else { 1_000_000 },
                ..job(&prompt(3, 5), 2)
            };
            engine.submit(ranked).unwrap()
        })
        .collect();
    drop(events);
    drop(gate);
    let usual = submitted[0].0;
    for (_, events) in submitted {
        listen(events);
    }
    let mut order: Vec<SequenceId> = Vec::new();
    for (_, chunks) in steps.lock().unwrap().iter() {
        order.extend(chunks.iter().map(|(sequence, _)| *sequence));
    }
    order.dedup();
    // Behind the one that had the slot and those that may overtake it.
    assert_eq!(order.iter().position(|id| *id == usual), Some(1 + 32));
}

/// The embedding of a prompt beside others, by each kind of pooling.
#[test]
fn hidden_states_become_one_embedding_whatever_the_chunks_and_the_cache() {
    let tight = EngineOptions {
        blocks: 12,
        ..options()
    };
    let engine = engine(tight);
    let text = prompt(5, 30);
    let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
    let tokens: Vec<f32> = text.iter().map(|token| *token as f32).collect();
    let positions: Vec<f32> = (0..30).map(|position| position as f32).collect();
    let expected = [
        (Pooling::Mean, [mean(&tokens), mean(&positions)]),
        (Pooling::First, [tokens[0], 0.0]),
        (Pooling::Last, [tokens[29], 29.0]),
    ];
    // The second time the cache holds the prompt; beside them others want the same blocks.
    for _ in 0..2 {
        let submitted = expected.map(|(pooling, expected)| {
            let job = Job {
                embed: Some(pooling),
                ..job(&text, 0)
            };
            (engine.submit(job).unwrap().1, expected)
        });
        for (mut events, expected) in submitted {
            let mut embedding = None;
            while let Some(event) = events.blocking_recv() {
                match event {
                    SequenceEvent::Embedding(values) => embedding = Some(values),
                    SequenceEvent::Ended { reason, .. } => {
                        assert_eq!(reason, EndReason::TokenLimit)
                    }
                    SequenceEvent::Started { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            assert_eq!(embedding.unwrap(), expected);
        }
    }
    assert!(engine.stats().counters.prefix_hits > 0);
}

#[test]
fn the_evaluation_of_a_prompt_is_reported_part_by_part() {
    let engine = engine(options());
    let prompt = prompt(4, 37);
    let reported = || Job {
        report_prefill: true,
        ..job(&prompt, 2)
    };
    let parts = |mut events: Events| {
        let mut parts = Vec::new();
        while let Some(event) = events.blocking_recv() {
            match event {
                SequenceEvent::Prefill(part) => parts.push(part),
                SequenceEvent::Ended { report, .. } => return (parts, report),
                _ => {}
            }
        }
        panic!("it never ended")
    };
    for is_cached in [false, true] {
        let (parts, report) = parts(engine.submit(reported()).unwrap().1);
        assert_eq!(report.cached_tokens > 0, is_cached);
        assert!(parts.iter().all(|part| part.prompt_tokens == 37));
        assert!(
            parts
                .iter()
                .all(|part| part.cached_tokens == report.cached_tokens)
        );
        let processed: Vec<usize> = parts.iter().map(|part| part.processed_tokens).collect();
        assert!(
            processed.is_sorted_by(|left, right| left < right),
            "{processed:?}"
        );
        assert!(processed[0] > report.cached_tokens);
        assert_eq!(processed.last(), Some(&37));
    }
    let (_, events) = engine.submit(job(&prompt, 2)).unwrap();
    assert!(parts(events).0.is_empty());
}
