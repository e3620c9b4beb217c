//! Tests of the log probabilities of prompt tokens.

use super::*;

fn request_with_logprobs(prompt: &[u32], max_tokens: usize) -> SequenceRequest {
    SequenceRequest {
        prompt_logprobs: Some(2),
        ..request(prompt, max_tokens)
    }
}

/// Returns the prompt's log probabilities and the generated tokens.
fn collect_with_logprobs(mut events: SequenceEvents) -> (Vec<SampledToken>, Vec<u32>) {
    let mut logprobs = None;
    loop {
        match events.blocking_recv() {
            Some(SequenceEvent::Started { .. }) => {}
            Some(SequenceEvent::PromptLogprobs(tokens)) => {
                assert!(logprobs.replace(tokens).is_none(), "the event is sent once");
                let (tokens, _) = collect(events);
                return (logprobs.unwrap_or_default(), tokens);
            }
            other => panic!("{other:?} before the prompt's log probabilities"),
        }
    }
}

#[track_caller]
fn check_logprobs(prompt_logprobs: &[SampledToken], prompt: &[u32]) {
    assert_eq!(prompt_logprobs.len(), prompt.len() - 1);
    for (position, token) in (1..).zip(prompt_logprobs) {
        assert_eq!(token.token.0, prompt[position]);
        let expected = next_token(&prompt[..position]);
        let logprobs = token.logprobs.as_ref().unwrap();
        assert_eq!(logprobs.top[0].0.0, expected, "at {position}");
        assert_eq!(logprobs.top.len(), 2);
        let is_expected = prompt[position] == expected;
        assert_eq!(logprobs.token_logprob > -1.0, is_expected, "at {position}");
    }
}

#[test]
fn every_prompt_token_but_the_first_has_logprobs() {
    let engine = engine(options());
    let (mut probable, improbable) = (vec![5, 6], prompt(3, 30));
    for _ in 0..10 {
        probable.push(next_token(&probable));
    }
    for prompt in [&probable[..], &improbable, &[7, 8], &improbable] {
        for max_tokens in [0, 4] {
            let (_, events) = engine
                .submit(request_with_logprobs(prompt, max_tokens))
                .unwrap();
            let (logprobs, tokens) = collect_with_logprobs(events);
            check_logprobs(&logprobs, prompt);
            let (expected, _) = oracle(prompt, max_tokens, None, ContextOverflow::Stop);
            assert_eq!(tokens, expected);
        }
    }
    // A prompt of one token has no log probabilities.
    let (_, events) = engine.submit(request_with_logprobs(&[9], 2)).unwrap();
    assert_eq!(collect_with_logprobs(events).0, []);
}

#[test]
fn preemption_does_not_change_prompt_logprobs() {
    let few_blocks = EngineOptions {
        blocks: 12,
        ..options()
    };
    let engine = engine(few_blocks);
    let prompts: Vec<Vec<u32>> = (0..8).map(|number| prompt(number, 24)).collect();
    let events: Vec<SequenceEvents> = prompts
        .iter()
        .map(|prompt| engine.submit(request_with_logprobs(prompt, 10)).unwrap().1)
        .collect();
    for (prompt, events) in prompts.iter().zip(events) {
        let (logprobs, tokens) = collect_with_logprobs(events);
        check_logprobs(&logprobs, prompt);
        let (expected, _) = oracle(prompt, 10, None, ContextOverflow::Stop);
        assert_eq!(tokens, expected);
    }
    assert!(engine.stats().counters.preemptions > 0);
}
