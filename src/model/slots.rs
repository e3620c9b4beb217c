//! Slot records for `/slots` and for saved slots: the request of each slot's last sequence. The engine only knows token
//! sequences. A slot owns no part of the cache.

use std::sync::{Arc, Mutex, PoisonError};

use super::RequestOwner;
use super::request::{FinishReason, GenerateOptions};
use crate::engine::{AdapterScales, SequenceId, Stats};
use crate::token::TokenId;

/// Numbers of slots by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotCounts {
    /// Number of slots without a running sequence.
    pub idle: usize,
    /// Number of slots with a running sequence.
    pub processing: usize,
}

/// State of a slot, which runs one sequence at a time. The fields describe the running or the last sequence.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Slot number, from 0.
    pub id: usize,
    /// Whether a sequence runs in the slot.
    pub is_processing: bool,
    /// Id of the sequence; `None` if the slot has no recorded request.
    pub sequence_id: Option<u64>,
    /// Options of the sequence's request, if known.
    pub options: Option<Arc<GenerateOptions>>,
    /// Seed of the sampler.
    pub seed: Option<u32>,
    /// Prompt tokens of the sequence.
    pub prompt: Arc<[TokenId]>,
    /// Number of generated tokens so far.
    pub generated_tokens: usize,
    /// Whether the generated text contains a line break.
    pub has_new_line: bool,
    /// Why the sequence ended; `None` while it runs.
    pub finish_reason: Option<FinishReason>,
}

/// The last sequence of each slot, indexed by slot number.
#[derive(Debug)]
pub(super) struct SlotRecords(Mutex<Vec<LastRecord>>);

/// What is known about the last sequence of a slot.
#[derive(Debug, Clone)]
enum LastRecord {
    /// No sequence has run in the slot, or it was erased.
    Empty,
    /// The sequence ran for a request.
    Requested(SlotRecord),
    /// The sequence was restored from a file. Its request is unknown.
    Restored(CacheScope),
}

/// What, in addition to tokens, determines a sequence's cache namespace and the callers with access.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct CacheScope {
    pub(super) salt: Option<String>,
    pub(super) adapters: AdapterScales,
    pub(super) owner: RequestOwner,
}

/// A sequence and its request, as last recorded.
#[derive(Debug, Clone)]
pub(super) struct SlotRecord {
    id: SequenceId,
    seed: u32,
    pub(super) options: Arc<GenerateOptions>,
    pub(super) prompt: Arc<[TokenId]>,
    generated_tokens: usize,
    has_new_line: bool,
    finish_reason: Option<FinishReason>,
}

impl SlotRecord {
    pub(super) fn new(
        id: SequenceId,
        options: Arc<GenerateOptions>,
        seed: u32,
        prompt: Arc<[TokenId]>,
    ) -> Self {
        Self {
            id,
            seed,
            options,
            prompt,
            generated_tokens: 0,
            has_new_line: false,
            finish_reason: None,
        }
    }
}

impl SlotRecords {
    pub(super) fn new(slots: usize) -> Self {
        Self(Mutex::new(vec![LastRecord::Empty; slots]))
    }

    pub(super) fn record_start(&self, slot: usize, record: &SlotRecord) {
        self.with(slot, |last| *last = LastRecord::Requested(record.clone()));
    }

    /// Records a restored sequence.
    pub(super) fn record_restored(&self, slot: usize, scope: CacheScope) {
        self.with(slot, |last| *last = LastRecord::Restored(scope));
    }

    /// Removes the record of the slot's last sequence.
    pub(super) fn clear(&self, slot: usize) {
        self.with(slot, |last| *last = LastRecord::Empty);
    }

    /// Returns the cache scope of the slot's last sequence. `sequence` is the expected id, or `None` for a restored
    /// sequence.
    pub(super) fn cache_scope(
        &self,
        slot: usize,
        sequence: Option<SequenceId>,
    ) -> Option<CacheScope> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match (last.get(slot)?, sequence) {
            (LastRecord::Restored(scope), None) => Some(scope.clone()),
            (LastRecord::Requested(record), Some(sequence)) if record.id == sequence => {
                let adapters = record.options.adapters.iter().flatten();
                Some(CacheScope {
                    salt: record.options.cache_salt.clone(),
                    adapters: AdapterScales::new(adapters.copied()),
                    owner: record.options.owner,
                })
            }
            _ => None,
        }
    }

    /// Returns the owner of the slot's last request or restored sequence.
    pub(super) fn owner(&self, slot: usize) -> Option<RequestOwner> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match last.get(slot)? {
            LastRecord::Empty => None,
            LastRecord::Requested(record) => Some(record.options.owner),
            LastRecord::Restored(scope) => Some(scope.owner),
        }
    }

    pub(super) fn record_finish(
        &self,
        slot: usize,
        sequence: &SlotRecord,
        generated_tokens: usize,
        reason: FinishReason,
    ) {
        self.with_record(slot, sequence, |record| {
            record.generated_tokens = generated_tokens;
            record.finish_reason = Some(reason);
        });
    }

    /// Records that the generated text contains a line break.
    pub(super) fn record_line_break(&self, slot: usize, sequence: &SlotRecord) {
        self.with_record(slot, sequence, |record| record.has_new_line = true);
    }

    /// Changes the slot's record of a sequence. Does nothing if the slot has started another sequence, which happens if
    /// a client reads its stream slowly.
    fn with_record(
        &self,
        slot: usize,
        sequence: &SlotRecord,
        change: impl FnOnce(&mut SlotRecord),
    ) {
        self.with(slot, |last| match last {
            LastRecord::Requested(record) if record.id == sequence.id => change(record),
            _ => {}
        });
    }

    /// Returns the state of each slot, combining the records with the engine's statistics.
    pub(super) fn with_stats(&self, stats: &Stats) -> Vec<Slot> {
        let records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stats
            .slots
            .iter()
            .zip(records.iter())
            .enumerate()
            .map(|(id, (running, last))| {
                let record = match last {
                    LastRecord::Requested(record) => Some(record),
                    LastRecord::Empty | LastRecord::Restored(_) => None,
                };
                let record = record
                    .filter(|record| running.is_none_or(|running| running.sequence == record.id));
                Slot {
                    id,
                    is_processing: running.is_some(),
                    sequence_id: running
                        .map(|running| running.sequence.0)
                        .or(record.map(|record| record.id.0)),
                    options: record.map(|record| Arc::clone(&record.options)),
                    seed: record.map(|record| record.seed),
                    prompt: record.map_or_else(Arc::default, |record| Arc::clone(&record.prompt)),
                    generated_tokens: running
                        .map(|running| running.generated_tokens)
                        .or(record.map(|record| record.generated_tokens))
                        .unwrap_or(0),
                    has_new_line: record.is_some_and(|record| record.has_new_line),
                    finish_reason: record
                        .filter(|_| running.is_none())
                        .and_then(|record| record.finish_reason.clone()),
                }
            })
            .collect()
    }

    fn with(&self, slot: usize, change: impl FnOnce(&mut LastRecord)) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(record) = records.get_mut(slot) {
            change(record);
        }
    }
}
