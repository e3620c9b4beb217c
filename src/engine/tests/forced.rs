//! Forced tokens give the same text in fewer steps.

use std::sync::{Arc, Mutex};

use super::*;
use crate::grammar::{
    Constraint, GrammarCompiler, GrammarSource, GrammarToken, GrammarVocabulary, Tokenization,
};

/// A vocabulary in which each token of the scripted runner is a printable ASCII character.
struct Characters(Vec<u8>);

impl GrammarVocabulary for Characters {
    fn size(&self) -> usize {
        VOCABULARY
    }

    fn grammar_token(&self, token: TokenId) -> GrammarToken<'_> {
        match token {
            END => GrammarToken::Control("<end>"),
            token => GrammarToken::Text(std::slice::from_ref(&self.0[token.row()])),
        }
    }

    fn eog_tokens(&self) -> &[TokenId] {
        &[END]
    }

    fn tokenize(&self, text: &str) -> Vec<TokenId> {
        text.bytes()
            .map(|byte| TokenId(u32::from(byte - b' ')))
            .collect()
    }
}

/// A runner that records the number of tokens of each step.
struct RecordingRunner {
    runner: ScriptedRunner,
    steps: Arc<Mutex<Vec<usize>>>,
}

impl ModelRunner for RecordingRunner {
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

fn constraint(grammar: &str, tokenization: Tokenization) -> Constraint {
    let characters = Characters((0..VOCABULARY as u8).map(|token| token + b' ').collect());
    let compiler = GrammarCompiler::new(Arc::new(characters)).unwrap();
    compiler
        .compile(&GrammarSource::Gbnf(grammar.to_owned()), tokenization)
        .unwrap()
}

/// Generates a text with a grammar. Returns the text, the end reason, the number of tokens of each step, and the number
/// of recomputed tokens.
fn run(
    grammar: &str,
    tokenization: Tokenization,
    change: impl FnOnce(&mut SequenceRequest),
) -> (Vec<u32>, EndReason, Vec<usize>, u64) {
    let options = options();
    let steps = Arc::default();
    let runner = RecordingRunner {
        runner: ScriptedRunner::new(&options),
        steps: Arc::clone(&steps),
    };
    let engine = start(Box::new(runner), options, Instant::now).unwrap();
    let mut request = request(&[7, 8, 9], 1000);
    request.constraint = Some(constraint(grammar, tokenization));
    change(&mut request);
    let (_, events) = engine.submit(request).unwrap();
    let (tokens, end) = collect(events);
    let SequenceEvent::Ended { reason, .. } = end else {
        panic!("{end:?}");
    };
    let recomputed = engine.stats().counters.recomputed_tokens;
    let steps = steps.lock().unwrap().clone();
    (tokens, reason, steps, recomputed)
}

#[test]
fn forced_tokens_take_fewer_steps() {
    let grammar = r#"root ::= [a-z] "abcdefghij" [a-z] "xyz""#;
    let (text, reason, steps, recomputed) = run(grammar, Tokenization::Canonical, |_| ());
    assert_eq!((text.len(), reason), (15, EndReason::Complete));
    // Three steps: the prompt, then eleven tokens in two steps of at most seven tokens. The last four tokens are forced
    // and need no step.
    assert_eq!((steps, recomputed), (vec![3, 7, 4], 0));
    let (one_per_step, reason, steps, _) = run(grammar, Tokenization::Any, |_| ());
    assert_eq!(
        (one_per_step, reason, steps.len()),
        (text, EndReason::Complete, 15)
    );
}

#[test]
fn limits_and_stop_rules_apply_within_forced_tokens() {
    let grammar = r#"root ::= "ab"{100}"#;
    type Case = (EndReason, usize, fn(&mut SequenceRequest));
    let ends: [Case; 4] = [
        (EndReason::TokenLimit, 9, |request| request.max_tokens = 9),
        (EndReason::StopRule, 2, |request| {
            request.stop = Box::new(StopAt(Some(TokenId(66))))
        }),
        (EndReason::ContextFull, 37, |_| ()),
        // The context has 40 tokens, so the context shifts several times within the forced tokens.
        (EndReason::Complete, 200, |request| {
            request.context_overflow = ContextOverflow::Shift { keep: Some(0) }
        }),
    ];
    for (reason, tokens, change) in ends {
        let (text, actual_reason, steps, _) = run(grammar, Tokenization::Canonical, change);
        assert_eq!((actual_reason, text.len()), (reason, tokens));
        assert!(steps.len() < tokens, "{steps:?}");
        let (one_per_step, actual_reason, _, _) = run(grammar, Tokenization::Any, change);
        assert_eq!((one_per_step, actual_reason), (text, reason));
    }
}

/// With log probabilities, each forced token takes a step.
#[test]
fn forced_tokens_with_logprobs_take_a_step_each() {
    let grammar = r#"root ::= "abcdefghij""#;
    let (_, _, steps, _) = run(grammar, Tokenization::Canonical, |request| {
        let logprobs = crate::sampling::LogprobsOptions {
            top: 0,
            distribution: crate::sampling::Distribution::Model,
        };
        let parameters = SamplingParameters {
            logprobs: Some(logprobs),
            ..SamplingParameters::openai()
        };
        request.sampler = Sampler::new(parameters, 0, SamplerInputs::default());
    });
    assert_eq!(steps.len(), 10);
}
