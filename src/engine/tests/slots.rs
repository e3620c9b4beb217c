//! What is done with a slot's last sequence: kept, put back, forgotten.

use super::*;

/// Runs a prompt to its end. Answers how much of it the cache held.
fn run(engine: &EngineHandle, slot: usize, prompt: &[u32], max_tokens: usize) -> usize {
    let job = Job {
        slot: Some(slot),
        ..job(prompt, max_tokens)
    };
    let (_, events) = engine.submit(job).unwrap();
    match listen(events) {
        (_, SequenceEvent::Ended { report, .. }) => report.cached_tokens,
        (_, other) => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_saved_is_found_by_another_engine() {
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
    let again = second.save_slot(2).await.unwrap().unwrap();
    assert_eq!(again, SavedSequence { id: None, ..saved });
    let cached =
        tokio::task::block_in_place(|| run(&second, 0, &[text.clone(), vec![9]].concat(), 3));
    assert_eq!(cached, 18);
    assert_eq!(second.stats().blocks.held, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_is_what_there_is_room_for() {
    let whole = engine(options());
    tokio::task::block_in_place(|| run(&whole, 0, &prompt(3, 39), 0));
    let saved = whole.save_slot(0).await.unwrap().unwrap();
    let small = engine(EngineOptions {
        context_tokens: 16,
        blocks: 4,
        ..options()
    });
    assert_eq!(small.restore_slot(0, saved).await, Ok(16));
}

#[tokio::test(flavor = "multi_thread")]
async fn erased_is_what_no_other_slot_reaches() {
    let engine = engine(options());
    let common = prompt(1, 8);
    let [one, other] = [5, 6].map(|last| [common.clone(), vec![last; 6]].concat());
    tokio::task::block_in_place(|| {
        run(&engine, 0, &one, 0);
        run(&engine, 1, &other, 0);
    });
    assert_eq!(engine.erase_slot(0).await, Ok(6));
    assert_eq!(engine.erase_slot(0).await, Ok(0));
    let cached = tokio::task::block_in_place(|| run(&engine, 2, &one, 0));
    assert_eq!(cached, 8);
    let cached = tokio::task::block_in_place(|| run(&engine, 2, &other, 0));
    assert_eq!(cached, 13, "the last token is computed in any case");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_waits_until_the_slot_is_free() {
    let (engine, word) = engine_in_steps(1);
    let (_, mut events) = engine
        .submit(Job {
            slot: Some(0),
            ..job(&prompt(2, 9), 5)
        })
        .unwrap();
    let started = events.recv().await;
    assert_eq!(started, Some(SequenceEvent::Started { slot: 0 }));
    let mut order = std::pin::pin!(engine.erase_slot(0));
    let early = tokio::time::timeout(Duration::from_millis(50), &mut order);
    assert!(early.await.is_err(), "the slot is not free yet");
    drop(word);
    let (erased, (_, end)) = tokio::join!(order, async move {
        tokio::task::spawn_blocking(|| listen(events))
            .await
            .unwrap()
    });
    assert!(matches!(end, SequenceEvent::Ended { .. }));
    assert!(erased.unwrap() >= 9);
}
