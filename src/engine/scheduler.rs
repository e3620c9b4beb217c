//! Decides what each step computes. Pure: no thread, no channel, no clock of its own.
//!
//! A sequence has tokens wanted and tokens computed; a step closes the gap within a budget of tokens.
//! There is no prefill and no decode: a sequence that generates wants one token, a new one its whole
//! prompt. Those that want least come first, so a long prompt never holds up a running stream.

use std::collections::VecDeque;
use std::time::Instant;

use super::EngineOptions;
use super::runner::RunError;
use super::sequence::{EndReason, Sequence, SequenceEvent, SequenceId};
use super::stats::SlotStats;
use super::step::{Chunk, LogitRows, StepPlan};
use crate::cache::BlockPool;
use crate::sampling::Sampler;
use crate::token::TokenId;

/// The waiting and the running sequences.
pub(super) struct Scheduler {
    options: EngineOptions,
    waiting: VecDeque<Sequence>,
    slots: Vec<Option<Sequence>>,
    /// The slots that run, in the order in which they were filled.
    order: Vec<usize>,
}

/// An event and whose it is.
pub(super) type Delivery = (SequenceId, SequenceEvent);

impl Scheduler {
    pub(super) fn new(options: EngineOptions) -> Self {
        Self {
            slots: (0..options.parallel).map(|_| None).collect(),
            waiting: VecDeque::new(),
            order: Vec::new(),
            options,
        }
    }

    /// Queues a sequence.
    pub(super) fn add(&mut self, sequence: Sequence) {
        self.waiting.push_back(sequence);
    }

    /// Forgets a sequence, wherever it is, and frees its blocks.
    pub(super) fn cancel(&mut self, id: SequenceId, blocks: &mut BlockPool) {
        self.waiting.retain(|sequence| sequence.id != id);
        if let Some(slot) = self.slot_of(id) {
            self.vacate(slot, blocks);
        }
    }

    /// Fills free slots, then plans the next step. `None` if there is nothing to compute. The events
    /// tell which sequences started.
    pub(super) fn plan(
        &mut self,
        blocks: &mut BlockPool,
        now: Instant,
    ) -> (Option<StepPlan>, Vec<Delivery>) {
        let events = self.admit(blocks, now);
        let mut budget = self.options.step_tokens;
        let mut turns: Vec<usize> = self.order.clone();
        // Stable: first come, first served among those that want the same.
        turns.sort_by_key(|slot| self.running(*slot).wanted() > 1);
        let mut chunks = Vec::with_capacity(turns.len());
        for slot in turns {
            if budget == 0 {
                break;
            }
            let sequence = self.slots[slot].as_mut().expect("slots in order are taken");
            let count = sequence.wanted().min(budget);
            let (past, end) = (sequence.computed, sequence.computed + count);
            assert!(
                sequence.table.grow(end, blocks),
                "admission reserved the blocks of every running sequence"
            );
            budget -= count;
            chunks.push(Chunk {
                sequence: sequence.id,
                tokens: sequence.tokens[past..end].to_vec(),
                past,
                blocks: sequence.table.blocks().to_vec(),
                logits: match end == sequence.tokens.len() && sequence.job.max_tokens > 0 {
                    true => LogitRows::Last,
                    false => LogitRows::None,
                },
            });
        }
        ((!chunks.is_empty()).then_some(StepPlan { chunks }), events)
    }

    /// The sampler of a sequence in the plan.
    pub(super) fn sampler(&mut self, id: SequenceId) -> &mut Sampler {
        let slot = self.slot_of(id).expect("planned sequences run");
        let sequence = self.slots[slot].as_mut().expect("the slot was found by it");
        &mut sequence.job.sampler
    }

    /// Enters what a step computed: `sampled` has a token for every chunk that wanted logits.
    pub(super) fn commit(
        &mut self,
        plan: StepPlan,
        sampled: Vec<TokenId>,
        blocks: &mut BlockPool,
        now: Instant,
    ) -> Vec<Delivery> {
        let mut sampled = sampled.into_iter();
        let mut events = Vec::new();
        for chunk in plan.chunks {
            let slot = self.slot_of(chunk.sequence).expect("planned sequences run");
            let sequence = self.slots[slot].as_mut().expect("the slot was found by it");
            sequence.computed += chunk.tokens.len();
            let end = match chunk.logits {
                LogitRows::None if sequence.wanted() > 0 => continue,
                LogitRows::None => {
                    sequence.prompt_ends(now);
                    Some(EndReason::TokenLimit)
                }
                LogitRows::Last | LogitRows::All => {
                    let token = sampled.next().expect("every chunk's token was chosen");
                    sequence.prompt_ends(now);
                    let (delivered, end) = sequence.push(token, self.options.context_tokens);
                    events
                        .extend(delivered.map(|token| (sequence.id, SequenceEvent::Token(token))));
                    end
                }
            };
            if let Some(reason) = end {
                let durations = sequence.durations(now);
                events.push((sequence.id, SequenceEvent::Ended { reason, durations }));
                self.vacate(slot, blocks);
            }
        }
        events
    }

    /// Ends the plan's sequences: the step that was to compute them failed.
    pub(super) fn fail(
        &mut self,
        plan: StepPlan,
        error: &RunError,
        blocks: &mut BlockPool,
    ) -> Vec<Delivery> {
        plan.chunks
            .into_iter()
            .map(|chunk| {
                self.cancel(chunk.sequence, blocks);
                (chunk.sequence, SequenceEvent::Failed(error.to_string()))
            })
            .collect()
    }

    /// Whether nothing runs or waits.
    pub(super) fn is_idle(&self) -> bool {
        self.order.is_empty() && self.waiting.is_empty()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// What each slot does; `None` for a free one.
    pub(super) fn slots(&self) -> impl Iterator<Item = Option<SlotStats>> {
        self.slots.iter().map(|slot| {
            slot.as_ref().map(|sequence| SlotStats {
                sequence: sequence.id,
                prompt_tokens: sequence.prompt_tokens(),
                generated_tokens: sequence.generated(),
            })
        })
    }

    /// First come, first served; only one that insists on a taken slot is passed over. The first that
    /// finds too few blocks makes all behind it wait: otherwise small ones would starve it.
    fn admit(&mut self, blocks: &BlockPool, now: Instant) -> Vec<Delivery> {
        let mut events = Vec::new();
        let mut next = 0;
        while next < self.waiting.len() && self.order.len() < self.slots.len() {
            let slot = match self.waiting[next].job.slot {
                Some(slot) => Some(slot).filter(|slot| self.slots[*slot].is_none()),
                None => self.slots.iter().position(Option::is_none),
            };
            let Some(slot) = slot else {
                next += 1;
                continue;
            };
            let needed = self.reservation(&self.waiting[next], blocks);
            let reserved: usize = self
                .order
                .iter()
                .map(|slot| self.reservation(self.running(*slot), blocks))
                .sum();
            if reserved + needed > blocks.blocks() {
                break;
            }
            let mut sequence = self.waiting.remove(next).expect("next is within the queue");
            sequence.start(now);
            events.push((sequence.id, SequenceEvent::Started { slot }));
            self.slots[slot] = Some(sequence);
            self.order.push(slot);
        }
        events
    }

    /// Blocks that a sequence may come to need.
    fn reservation(&self, sequence: &Sequence, blocks: &BlockPool) -> usize {
        blocks.blocks_for(sequence.most_tokens(self.options.context_tokens))
    }

    fn running(&self, slot: usize) -> &Sequence {
        self.slots[slot].as_ref().expect("slots in order are taken")
    }

    fn slot_of(&self, id: SequenceId) -> Option<usize> {
        self.order
            .iter()
            .copied()
            .find(|slot| self.running(*slot).id == id)
    }

    fn vacate(&mut self, slot: usize, blocks: &mut BlockPool) {
        self.order.retain(|running| *running != slot);
        if let Some(mut sequence) = self.slots[slot].take() {
            sequence.table.release(blocks);
        }
    }
}
