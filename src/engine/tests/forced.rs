//! Tokens that a constraint leaves no choice about are taken at once: the same text in fewer steps.

use std::sync::{Arc, Mutex};

use super::*;
use crate::grammar::{
    Constraint, Cutting, GrammarCompiler, GrammarSource, GrammarVocabulary, Spelling,
};

/// The script's tokens as printable characters, each a byte.
struct Characters(Vec<u8>);

impl GrammarVocabulary for Characters {
    fn size(&self) -> usize {
        VOCABULARY
    }

    fn spelling(&self, token: TokenId) -> Spelling<'_> {
        match token {
            END => Spelling::Control("<end>"),
            token => Spelling::Text(std::slice::from_ref(&self.0[token.row()])),
        }
    }

    fn ends(&self) -> &[TokenId] {
        &[END]
    }

    fn tokens(&self, text: &str) -> Vec<TokenId> {
        text.bytes()
            .map(|byte| TokenId(u32::from(byte - b' ')))
            .collect()
    }
}

/// A machine that tells how many tokens each step has.
struct Told {
    runner: ScriptedRunner,
    steps: Arc<Mutex<Vec<usize>>>,
}

impl ModelRunner for Told {
    fn outputs(&self) -> Outputs {
        self.runner.outputs()
    }

    fn run(&mut self, plan: &StepPlan, outputs: &mut Outputs) -> Result<(), RunError> {
        self.steps.lock().unwrap().push(plan.tokens());
        self.runner.run(plan, outputs)
    }

    fn read_block(&mut self, block: BlockId) -> Result<Vec<u8>, RunError> {
        self.runner.read_block(block)
    }

    fn write_block(&mut self, block: BlockId, bytes: &[u8]) -> Result<(), RunError> {
        self.runner.write_block(block, bytes)
    }
}

fn constraint(grammar: &str, cutting: Cutting) -> Constraint {
    let characters = Characters((0..VOCABULARY as u8).map(|token| token + b' ').collect());
    let compiler = GrammarCompiler::new(Arc::new(characters)).unwrap();
    compiler
        .compile(&GrammarSource::Gbnf(grammar.to_owned()), cutting)
        .unwrap()
}

/// The text, its end, the tokens of each step, and how many of them were computed twice.
fn run(
    grammar: &str,
    cutting: Cutting,
    changed: impl FnOnce(&mut Job),
) -> (Vec<u32>, EndReason, Vec<usize>, u64) {
    let options = options();
    let steps = Arc::default();
    let runner = Told {
        runner: ScriptedRunner::new(&options),
        steps: Arc::clone(&steps),
    };
    let engine = start(Box::new(runner), options, Instant::now).unwrap();
    let mut job = job(&[7, 8, 9], 1000);
    job.constraint = Some(constraint(grammar, cutting));
    changed(&mut job);
    let (_, events) = engine.submit(job).unwrap();
    let (tokens, end) = listen(events);
    let SequenceEvent::Ended { reason, .. } = end else {
        panic!("{end:?}");
    };
    let recomputed = engine.stats().counters.recomputed_tokens;
    let steps = steps.lock().unwrap().clone();
    (tokens, reason, steps, recomputed)
}

#[test]
fn what_is_certain_takes_no_step_for_each_token() {
    let grammar = r#"root ::= [a-z] "abcdefghij" [a-z] "xyz""#;
    let (text, reason, steps, recomputed) = run(grammar, Cutting::Canonical, |_| ());
    assert_eq!((text.len(), reason), (15, EndReason::Complete));
    // The prompt, then eleven tokens in two steps of at most seven; the last four need no step.
    assert_eq!((steps, recomputed), (vec![3, 7, 4], 0));
    let (alone, reason, steps, _) = run(grammar, Cutting::Free, |_| ());
    assert_eq!(
        (alone, reason, steps.len()),
        (text, EndReason::Complete, 15)
    );
}

#[test]
fn limits_and_stops_hold_within_what_is_certain() {
    let grammar = r#"root ::= "ab"{100}"#;
    type Case = (EndReason, usize, fn(&mut Job));
    let ends: [Case; 4] = [
        (EndReason::TokenLimit, 9, |job| job.max_tokens = 9),
        (EndReason::StopRule, 2, |job| {
            job.stop = Box::new(StopAt(Some(TokenId(66))))
        }),
        (EndReason::ContextFull, 37, |_| ()),
        // The context has 40 tokens: the older half goes in the middle of what is certain, several times.
        (EndReason::Complete, 200, |job| {
            job.when_full = WhenFull::Shift { keep: Some(0) }
        }),
    ];
    for (reason, tokens, changed) in ends {
        let (text, found, steps, _) = run(grammar, Cutting::Canonical, changed);
        assert_eq!((found, text.len()), (reason, tokens));
        assert!(steps.len() < tokens, "{steps:?}");
        let (alone, found, _, _) = run(grammar, Cutting::Free, changed);
        assert_eq!((alone, found), (text, reason));
    }
}

/// Who wants to know how probable each token was waits for each.
#[test]
fn probabilities_are_told_of_every_token() {
    let grammar = r#"root ::= "abcdefghij""#;
    let (_, _, steps, _) = run(grammar, Cutting::Canonical, |job| {
        let wanted = crate::sampling::LogprobsWanted {
            top: 0,
            of: crate::sampling::Distribution::Model,
        };
        let parameters = SamplingParameters {
            logprobs: Some(wanted),
            ..SamplingParameters::openai()
        };
        job.sampler = Sampler::new(parameters, 0, SamplerTokens::default());
    });
    assert_eq!(steps.len(), 10);
}
