//! Tests of prompts that are computed in a single step, as encoders require.

use super::*;

/// A runner that reports the number of tokens of each sequence in a step, then waits for a message.
struct Encoder {
    steps: Sender<Vec<usize>>,
    gate: Receiver<()>,
}

impl ModelRunner for Encoder {
    fn outputs(&self) -> Outputs {
        Outputs::new(VOCABULARY, 2)
    }

    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        assert!(plan.chunks.iter().all(|chunk| chunk.past == 0));
        let tokens = plan.chunks.iter().map(|chunk| chunk.tokens.len());
        // At the end of the test the channels are closed, so the step continues.
        let _ = self.steps.send(tokens.collect());
        let _ = self.gate.recv();
        outputs.logits.resize(0);
        let rows = plan.hidden_rows().len();
        outputs.hidden.resize(rows).fill(1.0);
        Ok(())
    }

    fn read_block(&mut self, _: BlockId) -> Result<Vec<u8>, RunError> {
        Err(RunError("there are no blocks".to_owned()))
    }

    fn write_block(&mut self, _: BlockId, _: &[u8]) -> Result<(), RunError> {
        Err(RunError("there are no blocks".to_owned()))
    }
}

#[test]
fn a_prompt_of_any_length_is_computed_in_one_step() {
    let options = EngineOptions {
        whole_prompts: true,
        blocks: EngineOptions::blocks_for_all(3, 40, 4),
        ..options()
    };
    let (steps, started_steps) = channel();
    let (step_gate, gate) = channel();
    let runner = Encoder { steps, gate };
    let engine = start(Box::new(runner), options, Instant::now).unwrap();
    // The first sequence runs alone; the others arrive during its step.
    let events: Vec<SequenceEvents> = [20, 6, 5, 2, 39]
        .into_iter()
        .zip(1..)
        .map(|(tokens, namespace)| {
            let request = SequenceRequest {
                pooling: Some(Pooling::Mean),
                prefix_cache: PrefixCacheOptions {
                    max_reused_tokens: 0,
                    namespace: CacheNamespace(namespace),
                },
                ..request(&prompt(7, tokens), 0)
            };
            let (_, events) = engine.submit(request).unwrap();
            if namespace == 1 {
                assert_eq!(started_steps.recv().unwrap(), [20]);
            }
            events
        })
        .collect();
    let mut expected = vec![vec![6, 2], vec![5], vec![39]];
    while !expected.is_empty() {
        step_gate.send(()).unwrap();
        assert_eq!(started_steps.recv().unwrap(), expected.remove(0));
    }
    drop(step_gate);
    for mut events in events {
        let mut last = None;
        while let Some(event) = events.blocking_recv() {
            last = Some(event);
        }
        assert!(
            matches!(last, Some(SequenceEvent::Ended { .. })),
            "{last:?}"
        );
    }
    let stats = engine.stats();
    assert_eq!(stats.counters.preemptions, 0);
}
