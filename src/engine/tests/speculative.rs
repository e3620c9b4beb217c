//! Speculative decoding gives the same text in fewer steps.

use super::*;

/// Returns the counters of an engine that generates the same repeating text for `sequences` sequences.
fn repeating_text_counters(speculative_row_budget: usize, sequences: usize) -> Counters {
    let (engine, step_gate) = gated_engine(speculative_row_budget);
    let prompt = [REPEATING, 2, 3];
    let submit = |_| engine.submit(request(&prompt, 30)).unwrap().1;
    let events: Vec<SequenceEvents> = (0..sequences).map(submit).collect();
    drop(step_gate);
    for events in events {
        check(events, oracle(&prompt, 30, None, ContextOverflow::Stop));
    }
    // One more sequence ensures that the statistics include all sequences above.
    collect(engine.submit(request(&[5], 1)).unwrap().1);
    engine.stats().counters
}

#[test]
fn a_repeating_text_takes_fewer_steps() {
    let without = repeating_text_counters(1, 1);
    assert_eq!(without.draft_tokens, 0);
    let with = repeating_text_counters(4, 1);
    assert!(with.accepted_draft_tokens >= 8, "{with:?}");
    assert!(with.accepted_draft_tokens < with.draft_tokens);
    let saved = without.step_tokens.count() - with.step_tokens.count();
    assert_eq!(saved, with.accepted_draft_tokens);

    // Three sequences leave no rows for draft tokens until two of them have ended.
    let with = repeating_text_counters(4, 3);
    assert!(with.draft_tokens < 6, "{with:?}");
}
