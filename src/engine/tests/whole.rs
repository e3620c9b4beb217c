//! Prompts that are computed whole, as an encoder's are.

use super::*;

/// A machine that tells how many tokens each sequence has in a step, before it waits for a word.
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
        // At the end of the test nobody listens, and the gate stays open.
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
fn a_prompt_is_computed_in_one_step_however_long_it_is() {
    let options = EngineOptions {
        whole_prompts: true,
        blocks: EngineOptions::blocks_for_all(3, 40, 4),
        ..options()
    };
    let (steps, began) = channel();
    let (word, gate) = channel();
    let runner = Encoder { steps, gate };
    let engine = start(Box::new(runner), options, Instant::now).unwrap();
    // The first one runs alone; the others come while it does.
    let events: Vec<Events> = [20, 6, 5, 2, 39]
        .into_iter()
        .zip(1..)
        .map(|(tokens, root)| {
            let job = Job {
                embed: Some(Pooling::Mean),
                prefix: PrefixUse {
                    readable: 0,
                    root: PrefixRoot(root),
                },
                ..job(&prompt(7, tokens), 0)
            };
            let (_, events) = engine.submit(job).unwrap();
            if root == 1 {
                assert_eq!(began.recv().unwrap(), [20]);
            }
            events
        })
        .collect();
    let mut expected = vec![vec![6, 2], vec![5], vec![39]];
    while !expected.is_empty() {
        word.send(()).unwrap();
        assert_eq!(began.recv().unwrap(), expected.remove(0));
    }
    drop(word);
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
