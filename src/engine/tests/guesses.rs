//! Tokens that are guessed: fewer steps for the same text.

use super::*;

/// The numbers of an engine with so many cheap rows that said a singsong to so many listeners.
fn sung(cheap_rows: usize, listeners: usize) -> Counters {
    let (engine, word) = engine_in_steps(cheap_rows);
    let prompt = [SINGSONG, 2, 3];
    let submit = |_| engine.submit(job(&prompt, 30)).unwrap().1;
    let events: Vec<Events> = (0..listeners).map(submit).collect();
    drop(word);
    for events in events {
        check(events, oracle(&prompt, 30, None, WhenFull::Stop));
    }
    // Their numbers are there before another one ends.
    listen(engine.submit(job(&[5], 1)).unwrap().1);
    engine.stats().counters
}

#[test]
fn a_text_that_repeats_itself_takes_fewer_steps() {
    let without = sung(1, 1);
    assert_eq!(without.guessed_tokens, 0);
    let with = sung(4, 1);
    assert!(with.rightly_guessed_tokens >= 8, "{with:?}");
    assert!(with.rightly_guessed_tokens < with.guessed_tokens);
    let saved = without.step_tokens.count() - with.step_tokens.count();
    assert_eq!(saved, with.rightly_guessed_tokens);

    // Three have no rows to spare, but for the last at its end.
    let with = sung(4, 3);
    assert!(with.guessed_tokens < 6, "{with:?}");
}
