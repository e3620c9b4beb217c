//! Sequences that share blocks, yield them, outgrow their context or run out of time.

use super::*;

#[test]
fn what_was_computed_is_not_computed_again() {
    let engine = engine(options());
    let counted = |job: Job| {
        let before = engine.stats().counters;
        let (_, events) = engine.submit(job).unwrap();
        let (_, end) = listen(events);
        let SequenceEvent::Ended { report, .. } = end else {
            panic!("{end:?}")
        };
        let computed = engine.stats().counters.prompt_tokens - before.prompt_tokens;
        assert_eq!(
            computed as usize,
            report.prompt_tokens - report.cached_tokens
        );
        report.cached_tokens
    };
    let unread = |job: Job| Job {
        prefix: PrefixUse {
            readable: 0,
            ..job.prefix
        },
        ..job
    };
    let salted = |job: Job| Job {
        prefix: PrefixUse {
            root: PrefixRoot(1),
            ..job.prefix
        },
        ..job
    };
    let first = prompt(1, 22);
    // Who does not read writes all the same.
    assert_eq!(counted(unread(job(&first, 0))), 0);
    assert_eq!(counted(unread(job(&first, 0))), 0);
    // All but the last token, whose logits are wanted.
    assert_eq!(counted(job(&first, 1)), 21);
    // Half a block is of use, too.
    let mut second = first[..18].to_vec();
    second.extend(prompt(5, 10));
    assert_eq!(counted(job(&second, 1)), 18);
    assert_eq!(counted(salted(job(&first, 1))), 0);
    assert_eq!(counted(salted(job(&first, 1))), 21);
}

#[test]
fn an_answer_is_of_use_to_the_next_question() {
    let engine = engine(options());
    let question = prompt(3, 10);
    let (_, events) = engine.submit(job(&question, 8)).unwrap();
    let (answer, _) = listen(events);
    let conversation = [&question[..], &answer, &prompt(4, 5)].concat();
    let (_, events) = engine.submit(job(&conversation, 1)).unwrap();
    let (_, end) = listen(events);
    // The answer's last token was never fed to the model.
    let known = question.len() + answer.len() - 1;
    assert!(
        matches!(end, SequenceEvent::Ended { report, .. } if report.cached_tokens == known),
        "{end:?}, not {known}"
    );
}

#[test]
fn a_prefix_that_several_share_is_computed_once() {
    let options = EngineOptions {
        parallel: 4,
        ..options()
    };
    let engine = engine(options);
    let shared = prompt(1, 24);
    let jobs: Vec<Vec<u32>> = (0..6)
        .map(|seed| [&shared[..], &prompt(seed, 3)].concat())
        .collect();
    let submitted: Vec<Events> = jobs
        .iter()
        .map(|prompt| engine.submit(job(prompt, 4)).unwrap().1)
        .collect();
    for (prompt, events) in jobs.iter().zip(submitted) {
        check(events, oracle(prompt, 4, None, WhenFull::Stop));
    }
    let counters = engine.stats().counters;
    assert!(counters.prompt_tokens <= 24 + 6 * 3, "{counters:?}");
}

#[test]
fn who_came_last_yields_and_comes_back() {
    // Each fits alone, all three do not.
    let options = EngineOptions {
        blocks: 12,
        ..options()
    };
    let engine = engine(options);
    let prompts: Vec<Vec<u32>> = (0..9).map(|seed| prompt(seed, 12)).collect();
    let submitted: Vec<Events> = prompts
        .iter()
        .map(|prompt| engine.submit(job(prompt, 25)).unwrap().1)
        .collect();
    for (prompt, events) in prompts.iter().zip(submitted) {
        check(events, oracle(prompt, 25, None, WhenFull::Stop));
    }
    assert!(engine.stats().counters.preemptions > 0);
}

#[test]
fn a_full_context_loses_its_older_half() {
    let engine = engine(options());
    let mut shifts = 0;
    for keep in [Some(0), Some(5), Some(39), None] {
        let when_full = WhenFull::Shift { keep };
        for seed in 0..4 {
            // Too long from the beginning, and growing long.
            for tokens in [61, 30] {
                let prompt = prompt(seed, tokens);
                let shifting = Job {
                    when_full,
                    ..job(&prompt, 60)
                };
                let (_, events) = engine.submit(shifting).unwrap();
                let expected = oracle(&prompt, 60, None, when_full);
                shifts += usize::from(expected.0.len() > 10);
                check(events, expected);
            }
        }
    }
    assert!(shifts > 0, "some went beyond their context");
    assert!(engine.stats().counters.context_shifts > 0);
}

#[test]
fn a_deadline_ends_who_runs_and_who_waits() {
    let engine = engine(options());
    let late = || Job {
        timeout: Some(Duration::from_nanos(1)),
        ..job(&[5, 6], usize::MAX)
    };
    let submitted: Vec<Events> = (0..5).map(|_| engine.submit(late()).unwrap().1).collect();
    for events in submitted {
        let (_, end) = listen(events);
        assert!(
            matches!(
                end,
                SequenceEvent::Ended {
                    reason: EndReason::DeadlinePassed,
                    ..
                }
            ),
            "{end:?}"
        );
    }
    assert_eq!(engine.stats().counters.expired, 5);
}
