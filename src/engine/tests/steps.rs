//! Tests of the chunks of each step, with runners that wait for a message or control the clock.

use std::cell::Cell;
use std::sync::{Arc, Mutex};

use super::*;

/// A runner that reports the sequences of each step, then waits for a message.
struct GatedRunner {
    runner: ScriptedRunner,
    started_steps: Sender<Vec<SequenceId>>,
    gate: Receiver<()>,
}

impl ModelRunner for GatedRunner {
    fn outputs(&self) -> Outputs {
        self.runner.outputs()
    }

    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        let sequences = plan.chunks.iter().map(|chunk| chunk.sequence).collect();
        // At the end of the test the channels are closed, so the step continues.
        let _ = self.started_steps.send(sequences);
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
fn a_cancelled_sequence_is_not_in_the_next_step() {
    let options = options();
    let (started_steps, steps) = channel();
    let (step_gate, gate) = channel();
    let runner = GatedRunner {
        runner: ScriptedRunner::new(&options),
        started_steps,
        gate,
    };
    let engine = start(Box::new(runner), options, Instant::now).unwrap();
    let remaining_prompt = prompt(1, 3);
    let (remaining, remaining_events) = engine.submit(request(&remaining_prompt, 12)).unwrap();
    let (decoding, decoding_events) = engine.submit(endless()).unwrap();
    let (prefilling, prefilling_events) = engine.submit(request(&prompt(2, 39), 1)).unwrap();
    let (_, waiting_events) = engine.submit(request(&prompt(3, 3), 1)).unwrap();
    // Wait until all three slots run: the second sequence decodes, the third computes its prompt.
    while steps.recv().unwrap() != [remaining, decoding, prefilling] || engine.stats().waiting != 1
    {
        step_gate.send(()).unwrap();
    }
    drop((decoding_events, prefilling_events, waiting_events));
    step_gate.send(()).unwrap();
    assert_eq!(steps.recv().unwrap(), [remaining]);
    let stats = engine.stats();
    assert_eq!((stats.counters.cancelled, stats.waiting), (3, 0));
    let slot = stats.slots[0].unwrap();
    assert_eq!(slot.sequence, remaining);
    let tokens = slot.prompt_tokens + slot.generated_tokens;
    assert_eq!(stats.blocks.referenced, tokens.div_ceil(4));
    drop((step_gate, steps));
    check(
        remaining_events,
        oracle(&remaining_prompt, 12, None, ContextOverflow::Stop),
    );
}

/// A runner whose steps take one millisecond, plus two for each token, on a simulated clock. The first step waits until
/// the sender of `gate` is dropped.
struct TimedRunner {
    runner: ScriptedRunner,
    steps: Steps,
    gate: Option<Receiver<()>>,
}

/// For each step: the milliseconds, and the sequence and number of tokens of each chunk.
type Steps = Arc<Mutex<Vec<(u64, Vec<(SequenceId, usize)>)>>>;

thread_local! {
    static ELAPSED: Cell<Duration> = const { Cell::new(Duration::ZERO) };
}

/// Returns the simulated time, which only the steps on the engine's thread advance.
fn simulated_time() -> Instant {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *START.get_or_init(Instant::now) + ELAPSED.get()
}

impl ModelRunner for TimedRunner {
    fn outputs(&self) -> Outputs {
        self.runner.outputs()
    }

    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        if let Some(gate) = self.gate.take() {
            // Receives an error when the sender is dropped.
            let _ = gate.recv();
        }
        let milliseconds = 1 + 2 * plan.tokens() as u64;
        ELAPSED.set(ELAPSED.get() + Duration::from_millis(milliseconds));
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
    let (gate_sender, gate) = channel();
    let runner = TimedRunner {
        runner: ScriptedRunner::new(&options),
        steps: Arc::clone(&steps),
        gate: Some(gate),
    };
    let engine = start(Box::new(runner), options, simulated_time).unwrap();
    (engine, steps, gate_sender)
}

/// Returns a request that ends only when its client disconnects.
fn endless() -> SequenceRequest {
    SequenceRequest {
        eog_tokens: [].into(),
        context_overflow: ContextOverflow::Shift { keep: Some(0) },
        ..request(&[5, 6, 7], usize::MAX)
    }
}

#[test]
fn a_decoding_sequence_waits_at_most_one_short_step() {
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
    let submitted: Vec<SequenceEvents> = (0..2)
        .map(|seed| engine.submit(request(&prompt(seed, 1500), 1)).unwrap().1)
        .collect();
    drop(gate);
    for events in submitted {
        collect(events);
    }
    drop(decoding);
    let steps = steps.lock().unwrap();
    let mixed: Vec<_> = steps
        .iter()
        .filter(|(_, chunks)| chunks.len() > 1)
        .collect();
    assert!(mixed.len() > 20, "two long prompts take many steps");
    assert!(mixed.iter().all(|(milliseconds, _)| *milliseconds <= 101));
    let short = mixed.iter().filter(|(milliseconds, _)| *milliseconds < 90);
    // The rows double from 1 to 32, and the last step has the rest.
    assert!(short.count() < 9, "the budget is used");
    let both = mixed.iter().filter(|(_, chunks)| chunks.len() == 3).count();
    assert!(both > mixed.len() / 2, "both prompts make progress");
}

#[test]
fn the_higher_priority_is_admitted_first() {
    let (engine, steps, gate) = timed_engine(EngineOptions {
        parallel: 1,
        ..options()
    });
    let (busy, mut events) = engine.submit(endless()).unwrap();
    // Wait until the sequence has the slot.
    events.blocking_recv();
    let submitted: Vec<(SequenceId, SequenceEvents)> = [0, 5, 5, -1, 9]
        .into_iter()
        .map(|priority| {
            let prioritized = SequenceRequest {
                priority,
                ..request(&prompt(3, 5), 2)
            };
            engine.submit(prioritized).unwrap()
        })
        .collect();
    drop(events);
    drop(gate);
    let ids: Vec<SequenceId> = submitted.iter().map(|(id, _)| *id).collect();
    for (_, events) in submitted {
        collect(events);
    }
    let mut order: Vec<SequenceId> = Vec::new();
    for (_, chunks) in steps.lock().unwrap().iter() {
        order.extend(chunks.iter().map(|(sequence, _)| *sequence));
    }
    order.dedup();
    assert_eq!(order, [busy, ids[4], ids[1], ids[2], ids[0], ids[3]]);
}

/// Many requests of high priority do not starve a request of default priority.
#[test]
fn a_high_priority_does_not_starve_others() {
    let (engine, steps, gate) = timed_engine(EngineOptions {
        parallel: 1,
        ..options()
    });
    let (_, mut events) = engine.submit(endless()).unwrap();
    // Wait until the sequence has the slot.
    events.blocking_recv();
    let submitted: Vec<(SequenceId, SequenceEvents)> = (0..60)
        .map(|number| {
            let prioritized = SequenceRequest {
                priority: if number == 0 { 0 } else { 1_000_000 },
                ..request(&prompt(3, 5), 2)
            };
            engine.submit(prioritized).unwrap()
        })
        .collect();
    drop(events);
    drop(gate);
    let default_priority = submitted[0].0;
    for (_, events) in submitted {
        collect(events);
    }
    let mut order: Vec<SequenceId> = Vec::new();
    for (_, chunks) in steps.lock().unwrap().iter() {
        order.extend(chunks.iter().map(|(sequence, _)| *sequence));
    }
    order.dedup();
    // It runs after the sequence that had the slot and the 32 sequences that may overtake it.
    assert_eq!(
        order.iter().position(|id| *id == default_priority),
        Some(1 + 32)
    );
}

/// Runs all pooling methods at the same time on the same prompt.
#[test]
fn embeddings_do_not_depend_on_chunks_and_cache() {
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
    // In the second round the prompt is cached. The sequences compete for blocks.
    for _ in 0..2 {
        let submitted = expected.map(|(pooling, expected)| {
            let request = SequenceRequest {
                pooling: Some(pooling),
                ..request(&text, 0)
            };
            (engine.submit(request).unwrap().1, expected)
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
fn prefill_progress_is_reported_for_each_chunk() {
    let engine = engine(options());
    let prompt = prompt(4, 37);
    let reported = || SequenceRequest {
        report_prefill: true,
        ..request(&prompt, 2)
    };
    let progress = |mut events: SequenceEvents| {
        let mut reports = Vec::new();
        while let Some(event) = events.blocking_recv() {
            match event {
                SequenceEvent::Prefill(progress) => reports.push(progress),
                SequenceEvent::Ended { report, .. } => return (reports, report),
                _ => {}
            }
        }
        panic!("the sequence did not end")
    };
    for is_cached in [false, true] {
        let (reports, report) = progress(engine.submit(reported()).unwrap().1);
        assert_eq!(report.cached_tokens > 0, is_cached);
        assert!(reports.iter().all(|progress| progress.prompt_tokens == 37));
        assert!(
            reports
                .iter()
                .all(|progress| progress.cached_tokens == report.cached_tokens)
        );
        let processed: Vec<usize> = reports
            .iter()
            .map(|progress| progress.processed_tokens)
            .collect();
        assert!(
            processed.is_sorted_by(|left, right| left < right),
            "{processed:?}"
        );
        assert!(processed[0] > report.cached_tokens);
        assert_eq!(processed.last(), Some(&37));
    }
    let (_, events) = engine.submit(request(&prompt, 2)).unwrap();
    assert!(progress(events).0.is_empty());
}
