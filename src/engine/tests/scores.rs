//! How probable a prompt's tokens were, told beside others.

use super::*;

fn scored(prompt: &[u32], max_tokens: usize) -> Job {
    Job {
        score: Some(2),
        ..job(prompt, max_tokens)
    }
}

/// What is told of a prompt, and its continuation.
fn listen_scored(mut events: Events) -> (Vec<Choice>, Vec<u32>) {
    let mut scores = None;
    loop {
        match events.blocking_recv() {
            Some(SequenceEvent::Started { .. }) => {}
            Some(SequenceEvent::Prompt(choices)) => {
                assert!(scores.replace(choices).is_none(), "it is told once");
                let (tokens, _) = listen(events);
                return (scores.unwrap_or_default(), tokens);
            }
            other => panic!("{other:?} before the prompt"),
        }
    }
}

#[track_caller]
fn check_scores(scores: &[Choice], prompt: &[u32]) {
    assert_eq!(scores.len(), prompt.len() - 1);
    for (place, score) in (1..).zip(scores) {
        assert_eq!(score.token.0, prompt[place]);
        let expected = next_token(&prompt[..place]);
        let logprobs = score.logprobs.as_ref().unwrap();
        assert_eq!(logprobs.top[0].0.0, expected, "at {place}");
        assert_eq!(logprobs.top.len(), 2);
        let is_expected = prompt[place] == expected;
        assert_eq!(logprobs.chosen > -1.0, is_expected, "at {place}");
    }
}

#[test]
fn every_token_of_a_prompt_is_told_by_those_before_it() {
    let engine = engine(options());
    let (mut guessed, unlikely) = (vec![5, 6], prompt(3, 30));
    for _ in 0..10 {
        guessed.push(next_token(&guessed));
    }
    for prompt in [&guessed[..], &unlikely, &[7, 8], &unlikely] {
        for max_tokens in [0, 4] {
            let (_, events) = engine.submit(scored(prompt, max_tokens)).unwrap();
            let (scores, tokens) = listen_scored(events);
            check_scores(&scores, prompt);
            let (expected, _) = oracle(prompt, max_tokens, None, WhenFull::Stop);
            assert_eq!(tokens, expected);
        }
    }
    // A single token has none before it.
    let (_, events) = engine.submit(scored(&[9], 2)).unwrap();
    assert_eq!(listen_scored(events).0, []);
}

#[test]
fn scores_are_told_once_and_whole_though_blocks_run_out() {
    let few = EngineOptions {
        blocks: 12,
        ..options()
    };
    let engine = engine(few);
    let prompts: Vec<Vec<u32>> = (0..8).map(|number| prompt(number, 24)).collect();
    let events: Vec<Events> = prompts
        .iter()
        .map(|prompt| engine.submit(scored(prompt, 10)).unwrap().1)
        .collect();
    for (prompt, events) in prompts.iter().zip(events) {
        let (scores, tokens) = listen_scored(events);
        check_scores(&scores, prompt);
        let (expected, _) = oracle(prompt, 10, None, WhenFull::Stop);
        assert_eq!(tokens, expected);
    }
    assert!(engine.stats().counters.preemptions > 0);
}
