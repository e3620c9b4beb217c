//! Numbers that cannot be used end their sequence, with the step, and no other one.

use std::collections::VecDeque;

use super::super::chooser::{ChooseError, Chooser};
use super::super::numbers::NumberError;
use super::*;

/// The script, whose numbers are NaN in every row that sees this token.
struct Spoilt {
    script: ScriptedRunner,
    token: TokenId,
    value: f32,
}

impl ModelRunner for Spoilt {
    fn outputs(&self) -> Outputs {
        self.script.outputs()
    }

    fn cheap_rows(&self) -> usize {
        self.script.cheap_rows
    }

    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        self.script.run(plan, outputs)?;
        let spoils = |chunk: &Chunk, end: usize| {
            let places = (0..end).map(|position| self.script.place(chunk, position));
            let mut tokens = places.map(|place| self.script.cache[place]);
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
                if spoils(chunk, end) {
                    row.fill(self.value);
                }
            }
            for end in ends(chunk, chunk.hidden) {
                let row = hidden.next().unwrap();
                if spoils(chunk, end) {
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

const SPOILT: u32 = 95;

fn spoilt_engine(value: f32) -> (EngineHandle, Sender<()>) {
    let options = options();
    let (word, gate) = channel();
    let mut script = ScriptedRunner::new(&options);
    script.gate = Some(gate);
    let runner = Spoilt {
        script,
        token: TokenId(SPOILT),
        value,
    };
    (
        start(Box::new(runner), options, Instant::now).unwrap(),
        word,
    )
}

/// A prompt whose continuation does not come upon the spoilt token.
fn harmless(after: u32) -> Vec<u32> {
    let prompts = (after..90).map(|token| vec![token, token + 1]);
    let is_harmless = |prompt: &Vec<u32>| {
        let (tokens, end) = oracle(prompt, 12, None, WhenFull::Stop);
        !tokens.contains(&SPOILT) && end == EndReason::TokenLimit
    };
    prompts.into_iter().find(is_harmless).unwrap()
}

#[track_caller]
fn check_failed(events: Events, words: &str) {
    let SequenceEvent::Failed(error) = listen(events).1 else {
        panic!("it did not fail");
    };
    let (step, problem) = error.split_once(": ").unwrap();
    assert!(
        step.starts_with("step ") && step[5..].parse::<u64>().unwrap() > 0,
        "{error}"
    );
    assert_eq!(problem, words);
}

#[test]
fn numbers_that_cannot_be_used_end_their_sequence_and_no_other() {
    for (value, words) in [
        (f32::NAN, "the logits contain NaN"),
        (f32::INFINITY, "the logits contain infinity"),
        (f32::NEG_INFINITY, "every logit is minus infinity"),
    ] {
        let (engine, word) = spoilt_engine(value);
        let (before, behind) = (harmless(2), harmless(40));
        let (_, first) = engine.submit(job(&before, 12)).unwrap();
        let (_, spoilt) = engine.submit(job(&[7, SPOILT, 8], 12)).unwrap();
        let (_, last) = engine.submit(job(&behind, 12)).unwrap();
        // All three share the steps from here on.
        drop(word);
        check_failed(spoilt, words);
        check(first, oracle(&before, 12, None, WhenFull::Stop));
        check(last, oracle(&behind, 12, None, WhenFull::Stop));
        let stats = engine.stats();
        assert_eq!((stats.counters.failed, stats.blocks.held), (1, 0));
        // The same prompt fails again, and its blocks serve others.
        let (_, spoilt) = engine.submit(job(&[7, SPOILT, 8], 12)).unwrap();
        check_failed(spoilt, words);
        let (_, events) = engine.submit(job(&before, 12)).unwrap();
        check(events, oracle(&before, 12, None, WhenFull::Stop));
    }
}

#[test]
fn a_failed_sequences_blocks_of_that_step_are_found_by_nobody() {
    let (engine, word) = spoilt_engine(f32::NAN);
    drop(word);
    // A whole block, and no more tokens than a step has.
    let prompt = [7, 8, 9, SPOILT, 10, 11];
    for _ in 0..2 {
        let (_, events) = engine.submit(job(&prompt, 3)).unwrap();
        check_failed(events, "the logits contain NaN");
    }
    assert_eq!(engine.stats().counters.prefix_hits, 0);
}

#[test]
fn embeddings_and_scores_that_are_no_numbers_fail() {
    let (engine, word) = spoilt_engine(f32::NAN);
    drop(word);
    for pooling in [Pooling::Mean, Pooling::Last] {
        let embed = Job {
            embed: Some(pooling),
            ..job(&[7, SPOILT, 8], 0)
        };
        let (_, events) = engine.submit(embed).unwrap();
        check_failed(events, "the hidden states contain NaN or infinity");
    }
    let scored = Job {
        score: Some(2),
        ..job(&[7, SPOILT, 8], 0)
    };
    let (_, events) = engine.submit(scored).unwrap();
    check_failed(events, "the logits contain NaN");
    // A row before the spoilt token can be used.
    let embed = Job {
        embed: Some(Pooling::First),
        ..job(&[7, 8], 0)
    };
    let (_, mut events) = engine.submit(embed).unwrap();
    let embedding = std::iter::from_fn(|| events.blocking_recv())
        .find(|event| matches!(event, SequenceEvent::Embedding(_)));
    assert_eq!(embedding, Some(SequenceEvent::Embedding(vec![7.0, 0.0])));
}

#[test]
fn logits_behind_a_wrong_draft_token_do_not_matter() {
    let choose = |draft: u32| {
        let mut rows = [vec![0.0; VOCABULARY], vec![f32::NAN; VOCABULARY]];
        rows[0][3] = 10.0;
        let chooser = Chooser {
            sampler: &mut job(&[5], 1).sampler,
            constraint: None,
            foreseen: &mut VecDeque::new(),
            guessed: &[TokenId(draft)],
        };
        let chosen = chooser.choose(rows.iter_mut().map(Vec::as_mut_slice).collect());
        chosen.map(|chosen| chosen.choices[0].token.0)
    };
    assert_eq!(choose(4), Ok(3));
    assert_eq!(choose(3), Err(ChooseError::Numbers(NumberError::NanLogit)));
}

#[test]
fn a_warm_up_runs_a_prompt_and_a_token_and_tells_what_fails() {
    let options = options();
    let mut runner = ScriptedRunner::new(&options);
    let mut warm_up = WarmUp {
        token: TokenId(5),
        generates: true,
        embeds: true,
    };
    warm_up.run(&mut runner, &options).unwrap();
    assert_eq!(runner.steps, 2);
    // Another sequence writes the block before it reads it.
    runner.poison = Some(TokenId(5));
    let failed = warm_up.run(&mut runner, &options);
    assert_eq!(failed, Err(RunError("poisoned".to_owned())));
    // A context of one token has no room for a second.
    let short = EngineOptions {
        context_tokens: 1,
        ..options
    };
    runner = ScriptedRunner::new(&short);
    warm_up.generates = false;
    warm_up.run(&mut runner, &short).unwrap();
    assert_eq!(runner.steps, 1);
}
