//! Tests of prefix caching, preemption, context shift and deadlines.

use super::*;

#[test]
fn cached_prompt_tokens_are_not_recomputed() {
    let engine = engine(options());
    let cached_tokens = |request: SequenceRequest| {
        let before = engine.stats().counters;
        let (_, events) = engine.submit(request).unwrap();
        let (_, end) = collect(events);
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
    let without_reuse = |request: SequenceRequest| SequenceRequest {
        prefix_cache: PrefixCacheOptions {
            max_reused_tokens: 0,
            ..request.prefix_cache
        },
        ..request
    };
    let in_other_namespace = |request: SequenceRequest| SequenceRequest {
        prefix_cache: PrefixCacheOptions {
            namespace: CacheNamespace(1),
            ..request.prefix_cache
        },
        ..request
    };
    let first = prompt(1, 22);
    // A request that reuses no cached blocks still caches its own blocks.
    assert_eq!(cached_tokens(without_reuse(request(&first, 0))), 0);
    assert_eq!(cached_tokens(without_reuse(request(&first, 0))), 0);
    // The request reuses all tokens but the last, whose logits are needed.
    assert_eq!(cached_tokens(request(&first, 1)), 21);
    // A partial block is reused as well.
    let mut second = first[..18].to_vec();
    second.extend(prompt(5, 10));
    assert_eq!(cached_tokens(request(&second, 1)), 18);
    assert_eq!(cached_tokens(in_other_namespace(request(&first, 1))), 0);
    assert_eq!(cached_tokens(in_other_namespace(request(&first, 1))), 21);
}

#[test]
fn generated_tokens_are_cached_for_the_next_turn() {
    let engine = engine(options());
    let first_turn = prompt(3, 10);
    let (_, events) = engine.submit(request(&first_turn, 8)).unwrap();
    let (answer, _) = collect(events);
    let conversation = [&first_turn[..], &answer, &prompt(4, 5)].concat();
    let (_, events) = engine.submit(request(&conversation, 1)).unwrap();
    let (_, end) = collect(events);
    // The last generated token was never computed.
    let cached = first_turn.len() + answer.len() - 1;
    assert!(
        matches!(end, SequenceEvent::Ended { report, .. } if report.cached_tokens == cached),
        "{end:?}, not {cached}"
    );
}

#[test]
fn a_shared_prefix_is_computed_once() {
    let options = EngineOptions {
        parallel: 4,
        ..options()
    };
    let engine = engine(options);
    let shared = prompt(1, 24);
    let prompts: Vec<Vec<u32>> = (0..6)
        .map(|seed| [&shared[..], &prompt(seed, 3)].concat())
        .collect();
    let submitted: Vec<SequenceEvents> = prompts
        .iter()
        .map(|prompt| engine.submit(request(prompt, 4)).unwrap().1)
        .collect();
    for (prompt, events) in prompts.iter().zip(submitted) {
        check(events, oracle(prompt, 4, None, ContextOverflow::Stop));
    }
    let counters = engine.stats().counters;
    assert!(counters.prompt_tokens <= 24 + 6 * 3, "{counters:?}");
}

#[test]
fn preempted_sequences_are_recomputed_and_finish() {
    // The cache has room for one sequence, but not for three.
    let options = EngineOptions {
        blocks: 12,
        ..options()
    };
    let engine = engine(options);
    let prompts: Vec<Vec<u32>> = (0..9).map(|seed| prompt(seed, 12)).collect();
    let submitted: Vec<SequenceEvents> = prompts
        .iter()
        .map(|prompt| engine.submit(request(prompt, 25)).unwrap().1)
        .collect();
    for (prompt, events) in prompts.iter().zip(submitted) {
        check(events, oracle(prompt, 25, None, ContextOverflow::Stop));
    }
    assert!(engine.stats().counters.preemptions > 0);
}

#[test]
fn a_full_context_is_shifted() {
    let engine = engine(options());
    let mut shifts = 0;
    for keep in [Some(0), Some(5), Some(39), None] {
        let context_overflow = ContextOverflow::Shift { keep };
        for seed in 0..4 {
            // One prompt exceeds the context; the other sequence exceeds it while generating.
            for tokens in [61, 30] {
                let prompt = prompt(seed, tokens);
                let shifting = SequenceRequest {
                    context_overflow,
                    ..request(&prompt, 60)
                };
                let (_, events) = engine.submit(shifting).unwrap();
                let expected = oracle(&prompt, 60, None, context_overflow);
                shifts += usize::from(expected.0.len() > 10);
                check(events, expected);
            }
        }
    }
    assert!(shifts > 0, "some sequences exceeded their context");
    assert!(engine.stats().counters.context_shifts > 0);
}

#[test]
fn a_deadline_ends_running_and_waiting_sequences() {
    let engine = engine(options());
    let expired = || SequenceRequest {
        timeout: Some(Duration::from_nanos(1)),
        ..request(&[5, 6], usize::MAX)
    };
    let submitted: Vec<SequenceEvents> = (0..5)
        .map(|_| engine.submit(expired()).unwrap().1)
        .collect();
    for events in submitted {
        let (_, end) = collect(events);
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
