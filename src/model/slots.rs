//! What the slots are doing: the engine knows sequences, the requests behind them are remembered here. A
//! slot owns no part of the cache; it remembers the tokens of its last sequence, and how they were asked for.

use std::sync::{Arc, Mutex, PoisonError};

use super::RequestOwner;
use super::request::{FinishReason, GenerateOptions};
use crate::engine::{AdapterScales, SequenceId, Stats};
use crate::token::TokenId;

/// How many slots do what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotCounts {
    /// Free.
    pub idle: usize,
    /// Running a sequence.
    pub processing: usize,
}

/// A slot with the sequence that it runs, or ran last.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Its number, from 0.
    pub id: usize,
    /// Whether it runs one.
    pub processing: bool,
    /// The number of the running or last sequence.
    pub task: Option<u64>,
    /// How it was asked for.
    pub options: Option<Arc<GenerateOptions>>,
    /// The seed of its sampler.
    pub seed: Option<u32>,
    /// Its prompt.
    pub prompt: Arc<[TokenId]>,
    /// Tokens it generated so far.
    pub generated_tokens: usize,
    /// Whether the text that it generated has a line break.
    pub has_new_line: bool,
    /// Why it ended, if it did.
    pub finish: Option<FinishReason>,
}

/// The last sequence of each slot.
#[derive(Debug)]
pub(super) struct SlotRecords(Mutex<Vec<Last>>);

/// What a slot did last.
#[derive(Debug, Clone, Default)]
struct Last {
    /// A sequence that was asked for.
    record: Option<SlotRecord>,
    /// What shaped one that was restored since.
    restored: Option<Shape>,
}

/// What beside its tokens shapes a sequence's content in the cache, or keeps it from other clients.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Shape {
    pub(super) salt: Option<String>,
    pub(super) adapters: AdapterScales,
    pub(super) owner: RequestOwner,
}

/// A sequence as its slot remembers it.
#[derive(Debug, Clone)]
pub(super) struct SlotRecord {
    task: SequenceId,
    seed: u32,
    pub(super) options: Arc<GenerateOptions>,
    pub(super) prompt: Arc<[TokenId]>,
    generated_tokens: usize,
    has_new_line: bool,
    finish: Option<FinishReason>,
}

impl SlotRecord {
    pub(super) fn new(
        task: SequenceId,
        options: Arc<GenerateOptions>,
        seed: u32,
        prompt: Vec<TokenId>,
    ) -> Self {
        Self {
            task,
            seed,
            options,
            prompt: prompt.into(),
            generated_tokens: 0,
            has_new_line: false,
            finish: None,
        }
    }
}

impl SlotRecords {
    pub(super) fn new(slots: usize) -> Self {
        Self(Mutex::new(vec![Last::default(); slots]))
    }

    pub(super) fn start(&self, slot: usize, record: &SlotRecord) {
        self.with(slot, |last| {
            *last = Last {
                record: Some(record.clone()),
                restored: None,
            };
        });
    }

    /// A sequence was restored, whose request is not known.
    pub(super) fn restored(&self, slot: usize, shape: Shape) {
        self.with(slot, |last| {
            *last = Last {
                record: None,
                restored: Some(shape),
            };
        });
    }

    /// What the slot did is to be forgotten.
    pub(super) fn forget(&self, slot: usize) {
        self.with(slot, |last| *last = Last::default());
    }

    /// What shaped the slot's last sequence: that of this number, or the restored one.
    pub(super) fn shape(&self, slot: usize, task: Option<SequenceId>) -> Option<Shape> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = last.get(slot)?;
        match task {
            None => last.restored.clone(),
            Some(task) => {
                let record = last.record.as_ref();
                let record = record.filter(|record| record.task == task)?;
                let adapters = record.options.adapters.iter().flatten();
                Some(Shape {
                    salt: record.options.cache_salt.clone(),
                    adapters: AdapterScales::new(adapters.copied()),
                    owner: record.options.owner,
                })
            }
        }
    }

    /// The key of the slot's last request, or of the caller that restored its sequence since; `None` if it has neither.
    pub(super) fn owner(&self, slot: usize) -> Option<RequestOwner> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let last = last.get(slot)?;
        let asked = last.record.as_ref().map(|record| record.options.owner);
        asked.or(last.restored.as_ref().map(|shape| shape.owner))
    }

    pub(super) fn finish(
        &self,
        slot: usize,
        ended: &SlotRecord,
        generated_tokens: usize,
        reason: FinishReason,
    ) {
        self.with_record(slot, ended, |record| {
            record.generated_tokens = generated_tokens;
            record.finish = Some(reason);
        });
    }

    /// The text of a sequence has a line break.
    pub(super) fn line_ended(&self, slot: usize, sequence: &SlotRecord) {
        self.with_record(slot, sequence, |record| record.has_new_line = true);
    }

    /// Changes the slot's record of a sequence. A listener that reads slowly may refer to a slot that runs another
    /// sequence by now, whose record stays as it is.
    fn with_record(&self, slot: usize, of: &SlotRecord, change: impl FnOnce(&mut SlotRecord)) {
        self.with(slot, |last| {
            let record = last.record.as_mut();
            record.filter(|record| record.task == of.task).map(change);
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
            .map(|(id, (running, last))| {
                let record = last
                    .record
                    .as_ref()
                    .filter(|record| running.is_none_or(|running| running.sequence == record.task));
                Slot {
                    id,
                    processing: running.is_some(),
                    task: running
                        .map(|running| running.sequence.0)
                        .or(record.map(|record| record.task.0)),
                    options: record.map(|record| Arc::clone(&record.options)),
                    seed: record.map(|record| record.seed),
                    prompt: record.map_or_else(Arc::default, |record| Arc::clone(&record.prompt)),
                    generated_tokens: running
                        .map(|running| running.generated_tokens)
                        .or(record.map(|record| record.generated_tokens))
                        .unwrap_or(0),
                    has_new_line: record.is_some_and(|record| record.has_new_line),
                    finish: record
                        .filter(|_| running.is_none())
                        .and_then(|record| record.finish.clone()),
                }
            })
            .collect()
    }

    fn with(&self, slot: usize, change: impl FnOnce(&mut Last)) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get_mut(slot) {
            change(record);
        }
    }
}
