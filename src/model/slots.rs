//! What the slots are doing: the engine knows sequences, the requests behind them are remembered here.

use std::sync::{Arc, Mutex, PoisonError};

use super::request::{FinishReason, GenerateRequest};
use crate::engine::{SequenceId, Stats};

/// How many slots do what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotCounts {
    /// Free.
    pub idle: usize,
    /// Running a sequence.
    pub processing: usize,
}

/// A slot with the request that it runs, or ran last.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Its number, from 0.
    pub id: usize,
    /// Whether it runs one.
    pub processing: bool,
    /// The number of the running or last sequence.
    pub task: Option<u64>,
    /// Its request.
    pub request: Option<Arc<GenerateRequest>>,
    /// Tokens of its prompt.
    pub prompt_tokens: usize,
    /// Tokens it generated so far.
    pub generated_tokens: usize,
    /// Why it ended, if it did.
    pub finish: Option<FinishReason>,
}

/// The last request of each slot.
#[derive(Debug)]
pub(super) struct SlotRecords(Mutex<Vec<Option<Record>>>);

#[derive(Debug, Clone)]
struct Record {
    task: SequenceId,
    request: Arc<GenerateRequest>,
    prompt_tokens: usize,
    generated_tokens: usize,
    finish: Option<FinishReason>,
}

impl SlotRecords {
    pub(super) fn new(slots: usize) -> Self {
        Self(Mutex::new(vec![None; slots]))
    }

    pub(super) fn start(
        &self,
        slot: usize,
        task: SequenceId,
        request: &Arc<GenerateRequest>,
        prompt_tokens: usize,
    ) {
        self.with(slot, |record| {
            *record = Some(Record {
                task,
                request: Arc::clone(request),
                prompt_tokens,
                generated_tokens: 0,
                finish: None,
            });
        });
    }

    pub(super) fn finish(
        &self,
        slot: usize,
        task: SequenceId,
        generated_tokens: usize,
        reason: FinishReason,
    ) {
        self.with(slot, |record| {
            // A listener that reads slowly may tell of a slot that runs another sequence by now.
            if let Some(record) = record.as_mut().filter(|record| record.task == task) {
                record.generated_tokens = generated_tokens;
                record.finish = Some(reason);
            }
        });
    }

    /// The slots as the engine's numbers and the records together show them.
    pub(super) fn join(&self, stats: &Stats) -> Vec<Slot> {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stats
            .slots
            .iter()
            .zip(records.iter())
            .enumerate()
            .map(|(id, (running, record))| {
                let record = record
                    .as_ref()
                    .filter(|record| running.is_none_or(|running| running.sequence == record.task));
                Slot {
                    id,
                    processing: running.is_some(),
                    task: running
                        .map(|running| running.sequence.0)
                        .or(record.map(|record| record.task.0)),
                    request: record.map(|record| Arc::clone(&record.request)),
                    prompt_tokens: running
                        .map(|running| running.prompt_tokens)
                        .or(record.map(|record| record.prompt_tokens))
                        .unwrap_or(0),
                    generated_tokens: running
                        .map(|running| running.generated_tokens)
                        .or(record.map(|record| record.generated_tokens))
                        .unwrap_or(0),
                    finish: record
                        .filter(|_| running.is_none())
                        .and_then(|record| record.finish.clone()),
                }
            })
            .collect()
    }

    fn with(&self, slot: usize, change: impl FnOnce(&mut Option<Record>)) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get_mut(slot) {
            change(record);
        }
    }
}
