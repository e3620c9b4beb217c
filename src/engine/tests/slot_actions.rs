//! Tests of slot save, restore and erase.

use super::*;

/// Runs a request in a slot to its end. Returns the number of cached prompt tokens.
fn run(engine: &EngineHandle, slot: usize, prompt: &[u32], max_tokens: usize) -> usize {
    let request = SequenceRequest {
        slot: Some(slot),
        ..request(prompt, max_tokens)
    };
    let (_, events) = engine.submit(request).unwrap();
    match collect(events) {
        (_, SequenceEvent::Ended { report, .. }) => report.cached_tokens,
        (_, other) => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_saved_slot_is_restored_in_another_engine() {
    let text = prompt(3, 18);
    let first = engine(options());
    tokio::task::block_in_place(|| run(&first, 1, &text, 0));
    let saved = first.save_slot(1).await.unwrap().unwrap();
    assert!(saved.id.is_some());
    assert_eq!((saved.tokens.len(), saved.blocks.len()), (18, 5));
    assert_eq!(first.save_slot(0).await.unwrap(), None);
    assert_eq!(first.save_slot(3).await, Err(SlotError::Unknown(3)));

    let second = engine(options());
    assert_eq!(second.restore_slot(2, saved.clone()).await, Ok(18));
    let saved_again = second.save_slot(2).await.unwrap().unwrap();
    assert_eq!(saved_again, SavedSequence { id: None, ..saved });
    let cached =
        tokio::task::block_in_place(|| run(&second, 0, &[text.clone(), vec![9]].concat(), 3));
    assert_eq!(cached, 18);
    assert_eq!(second.stats().blocks.referenced, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn restore_is_limited_by_the_available_blocks() {
    let large = engine(options());
    tokio::task::block_in_place(|| run(&large, 0, &prompt(3, 39), 0));
    let saved = large.save_slot(0).await.unwrap().unwrap();
    let small = engine(EngineOptions {
        context_tokens: 16,
        blocks: 4,
        ..options()
    });
    assert_eq!(small.restore_slot(0, saved).await, Ok(16));
}

#[tokio::test(flavor = "multi_thread")]
async fn erase_keeps_the_blocks_that_other_slots_share() {
    let engine = engine(options());
    let prefix = prompt(1, 8);
    let [first, second] = [5, 6].map(|last| [prefix.clone(), vec![last; 6]].concat());
    tokio::task::block_in_place(|| {
        run(&engine, 0, &first, 0);
        run(&engine, 1, &second, 0);
    });
    assert_eq!(engine.erase_slot(0).await, Ok(6));
    assert_eq!(engine.erase_slot(0).await, Ok(0));
    let cached = tokio::task::block_in_place(|| run(&engine, 2, &first, 0));
    assert_eq!(cached, 8);
    let cached = tokio::task::block_in_place(|| run(&engine, 2, &second, 0));
    assert_eq!(cached, 13, "the last token is always computed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_action_waits_until_the_slot_is_free() {
    let (engine, step_gate) = gated_engine(1);
    let (_, mut events) = engine
        .submit(SequenceRequest {
            slot: Some(0),
            ..request(&prompt(2, 9), 5)
        })
        .unwrap();
    let started = events.recv().await;
    assert_eq!(started, Some(SequenceEvent::Started { slot: 0 }));
    let mut erase = std::pin::pin!(engine.erase_slot(0));
    let timed_out = tokio::time::timeout(Duration::from_millis(50), &mut erase);
    assert!(timed_out.await.is_err(), "the slot is not free yet");
    drop(step_gate);
    let (erased, (_, end)) = tokio::join!(erase, async move {
        tokio::task::spawn_blocking(|| collect(events))
            .await
            .unwrap()
    });
    assert!(matches!(end, SequenceEvent::Ended { .. }));
    assert!(erased.unwrap() >= 9);
}
