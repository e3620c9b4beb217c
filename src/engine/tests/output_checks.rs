//! Invalid outputs (NaN, infinity) fail the sequence that they belong to and no other sequence.

use std::collections::VecDeque;

use super::super::output_checks::InvalidOutput;
use super::super::sequence_sampler::{SampleError, SequenceSampler};
use super::*;

/// A scripted runner that writes `value` to each row whose context contains `token`.
struct CorruptingRunner {
    script: ScriptedRunner,
    token: TokenId,
    value: f32,
}

impl ModelRunner for CorruptingRunner {
    fn outputs(&self) -> Outputs {
        self.script.outputs()
    }

    fn speculative_row_budget(&self) -> usize {
        self.script.speculative_row_budget
    }

    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        self.script.run(plan, outputs)?;
        let is_corrupted = |chunk: &Chunk, end: usize| {
            let indices = (0..end).map(|position| self.script.cache_index(chunk, position));
            let mut tokens = indices.map(|index| self.script.cache[index]);
            tokens.any(|token| token == Some(self.token.0))
        };
        let ends = |chunk: &Chunk, wanted: WantedRows| {
            let end = chunk.past + chunk.tokens.len();
            end + 1 - wanted.count(chunk.tokens.len())..=end
        };
        let mut logits = outputs.logits.rows_mut();
        let mut hidden = outputs.hidden.rows_mut();
        for chunk in &plan.chunks {
            for end in ends(chunk, chunk.logits) {
                let row = logits.next().unwrap();
                if is_corrupted(chunk, end) {
                    row.fill(self.value);
                }
            }
            for end in ends(chunk, chunk.hidden) {
                let row = hidden.next().unwrap();
                if is_corrupted(chunk, end) {
                    row.fill(self.value);
                }
            }
        }
        Ok(())
    }

    fn read_block(&mut self, block: BlockId) -> Result<Vec<u8>, RunError> {
        self.script.read_block(block)
    }

    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), RunError> {
        self.script.write_block(block, bytes)
    }
}

const CORRUPTING_TOKEN: u32 = 95;

fn corrupting_engine(value: f32) -> (EngineHandle, Sender<()>) {
    let options = options();
    let (step_gate, gate) = channel();
    let mut script = ScriptedRunner::new(&options);
    script.gate = Some(gate);
    let runner = CorruptingRunner {
        script,
        token: TokenId(CORRUPTING_TOKEN),
        value,
    };
    (
        start(Box::new(runner), options, Instant::now).unwrap(),
        step_gate,
    )
}

/// Returns a prompt, starting at token `first` or later, whose output does not contain the corrupting token.
fn unaffected_prompt(first: u32) -> Vec<u32> {
    let prompts = (first..90).map(|token| vec![token, token + 1]);
    let is_unaffected = |prompt: &Vec<u32>| {
        let (tokens, end) = oracle(prompt, 12, None, ContextOverflow::Stop);
        !tokens.contains(&CORRUPTING_TOKEN) && end == EndReason::TokenLimit
    };
    prompts.into_iter().find(is_unaffected).unwrap()
}

#[track_caller]
fn check_failed(events: SequenceEvents, message: &str) {
    let SequenceEvent::Failed(error) = collect(events).1 else {
        panic!("the sequence did not fail");
    };
    let (step, problem) = error.split_once(": ").unwrap();
    assert!(
        step.starts_with("step ") && step[5..].parse::<u64>().unwrap() > 0,
        "{error}"
    );
    assert_eq!(problem, message);
}

#[test]
fn invalid_logits_fail_only_their_sequence() {
    for (value, message) in [
        (f32::NAN, "the logits contain NaN"),
        (f32::INFINITY, "the logits contain infinity"),
        (f32::NEG_INFINITY, "every logit is minus infinity"),
    ] {
        let (engine, step_gate) = corrupting_engine(value);
        let (first_prompt, last_prompt) = (unaffected_prompt(2), unaffected_prompt(40));
        let (_, first) = engine.submit(request(&first_prompt, 12)).unwrap();
        let (_, corrupted) = engine
            .submit(request(&[7, CORRUPTING_TOKEN, 8], 12))
            .unwrap();
        let (_, last) = engine.submit(request(&last_prompt, 12)).unwrap();
        // From here on, the three sequences share the steps.
        drop(step_gate);
        check_failed(corrupted, message);
        check(
            first,
            oracle(&first_prompt, 12, None, ContextOverflow::Stop),
        );
        check(last, oracle(&last_prompt, 12, None, ContextOverflow::Stop));
        let stats = engine.stats();
        assert_eq!((stats.counters.failed, stats.blocks.referenced), (1, 0));
        // The same prompt fails again. The blocks of other sequences are still reusable.
        let (_, corrupted) = engine
            .submit(request(&[7, CORRUPTING_TOKEN, 8], 12))
            .unwrap();
        check_failed(corrupted, message);
        let (_, events) = engine.submit(request(&first_prompt, 12)).unwrap();
        check(
            events,
            oracle(&first_prompt, 12, None, ContextOverflow::Stop),
        );
    }
}

#[test]
fn the_blocks_of_a_failed_step_are_not_cached() {
    let (engine, step_gate) = corrupting_engine(f32::NAN);
    drop(step_gate);
    // More than one block, but no more tokens than one step computes.
    let prompt = [7, 8, 9, CORRUPTING_TOKEN, 10, 11];
    for _ in 0..2 {
        let (_, events) = engine.submit(request(&prompt, 3)).unwrap();
        check_failed(events, "the logits contain NaN");
    }
    assert_eq!(engine.stats().counters.prefix_hits, 0);
}

#[test]
fn invalid_hidden_states_and_prompt_logprobs_fail() {
    let (engine, step_gate) = corrupting_engine(f32::NAN);
    drop(step_gate);
    for pooling in [Pooling::Mean, Pooling::Last] {
        let embedding_request = SequenceRequest {
            pooling: Some(pooling),
            ..request(&[7, CORRUPTING_TOKEN, 8], 0)
        };
        let (_, events) = engine.submit(embedding_request).unwrap();
        check_failed(events, "the hidden states contain NaN or infinity");
    }
    let with_logprobs = SequenceRequest {
        prompt_logprobs: Some(2),
        ..request(&[7, CORRUPTING_TOKEN, 8], 0)
    };
    let (_, events) = engine.submit(with_logprobs).unwrap();
    check_failed(events, "the logits contain NaN");
    // A prompt without the corrupting token succeeds.
    let embedding_request = SequenceRequest {
        pooling: Some(Pooling::First),
        ..request(&[7, 8], 0)
    };
    let (_, mut events) = engine.submit(embedding_request).unwrap();
    let embedding = std::iter::from_fn(|| events.blocking_recv())
        .find(|event| matches!(event, SequenceEvent::Embedding(_)));
    assert_eq!(embedding, Some(SequenceEvent::Embedding(vec![7.0, 0.0])));
}

#[test]
fn logits_after_a_rejected_draft_token_are_not_checked() {
    let sample = |draft: u32| {
        let mut rows = [vec![0.0; VOCABULARY], vec![f32::NAN; VOCABULARY]];
        rows[0][3] = 10.0;
        let sampler = SequenceSampler {
            sampler: &mut request(&[5], 1).sampler,
            constraint: None,
            forced: &mut VecDeque::new(),
            draft: &[TokenId(draft)],
        };
        let output = sampler.sample(rows.iter_mut().map(Vec::as_mut_slice).collect());
        output.map(|output| output.sampled[0].token.0)
    };
    assert_eq!(sample(4), Ok(3));
    assert_eq!(
        sample(3),
        Err(SampleError::InvalidOutput(InvalidOutput::NanLogit))
    );
}

#[test]
fn the_warm_up_runs_prefill_and_decode_and_returns_errors() {
    let options = options();
    let mut runner = ScriptedRunner::new(&options);
    let mut warm_up = WarmUp {
        token: TokenId(5),
        generates: true,
        embeds: true,
    };
    warm_up.run(&mut runner, &options).unwrap();
    assert_eq!(runner.steps, 2);
    // A warm-up step that fails returns the runner's error.
    runner.poison = Some(TokenId(5));
    let failed = warm_up.run(&mut runner, &options);
    assert_eq!(failed, Err(RunError("poisoned".to_owned())));
    // A context of one token has no room for the decode step.
    let short = EngineOptions {
        context_tokens: 1,
        ..options
    };
    runner = ScriptedRunner::new(&short);
    warm_up.generates = false;
    warm_up.run(&mut runner, &short).unwrap();
    assert_eq!(runner.steps, 1);
}
