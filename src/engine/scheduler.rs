//! The scheduler decides what each step computes. It has no thread, channel or clock; callers pass the current time.
//!
//! A step computes more tokens of the running sequences, within a token budget. Each decoding sequence gets its next
//! token in every step. The remaining rows that the step controller allows are for prefill. Sequences are admitted by
//! scheduling priority (`Rank`). When blocks run out, the sequence with the lowest scheduling priority is preempted:
//! the sequence returns to the queue and is recomputed later.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, Range};
use std::time::Instant;

use super::EngineOptions;
use super::budget::{share, share_whole};
use super::output_checks::{InvalidOutput, InvalidOutputs};
use super::prompt_logprobs::LogprobTargets;
use super::runner::{Rows, RunError};
use super::sequence::{EndReason, Rank, Sequence, SequenceEvent};
use super::sequence_id::SequenceId;
use super::sequence_sampler::{SampleError, SamplerOutput, SequenceSampler};
use super::slot_actions::LastSequence;
use super::stats::{Counters, SlotStats};
use super::step::{Chunk, StepPlan};
use super::step_controller::{PrefillKind, StepController, StepRows};
use crate::cache::{BlockCopy, BlockPool, CachedPrefix};
use crate::sampling::SampledToken;

/// Number of consecutive admissions that may overtake the sequence that has waited longest. That sequence is then
/// promoted, so that high priorities cannot starve it.
const MAX_OVERTAKING: usize = 32;

/// Holds the waiting and running sequences, plans steps and applies their results.
pub(super) struct Scheduler {
    options: EngineOptions,
    /// See [`super::ModelRunner::speculative_row_budget`].
    speculative_row_budget: usize,
    waiting: BTreeMap<Rank, Sequence>,
    slots: Vec<Option<Sequence>>,
    /// The slot of each running sequence.
    running: HashMap<SequenceId, usize>,
    /// The sequence that each slot ran last.
    last_sequences: Vec<Option<LastSequence>>,
    controller: StepController,
    planned_at: Option<Instant>,
    /// Number of steps planned so far.
    steps: u64,
    /// Number of consecutive admissions that overtook the sequence that has waited longest.
    overtaking: usize,
    counters: Counters,
}

/// The results of a step, which [`Scheduler::commit`] applies.
pub(super) struct StepResult<'a> {
    /// The sequences with invalid outputs. They fail and have no other results here.
    pub(super) invalid: InvalidOutputs,
    /// Log probabilities of the prompt tokens that [`Scheduler::logprob_targets`] returned, in the same order.
    pub(super) prompt_logprobs: Vec<SampledToken>,
    /// The outputs of the samplers that [`Scheduler::sequence_samplers`] returned, in the same order.
    pub(super) sampled: Vec<Result<SamplerOutput, SampleError>>,
    /// The rows of hidden states that the plan requested.
    pub(super) hidden: &'a Rows,
}

/// An event and the sequence whose client receives it.
pub(super) type OutgoingEvent = (SequenceId, SequenceEvent);

impl Scheduler {
    pub(super) fn new(options: EngineOptions, speculative_row_budget: usize) -> Self {
        Self {
            speculative_row_budget,
            slots: (0..options.parallel).map(|_| None).collect(),
            last_sequences: vec![None; options.parallel],
            waiting: BTreeMap::new(),
            running: HashMap::new(),
            controller: StepController::new(options.step_duration, options.prefill_share),
            planned_at: None,
            steps: 0,
            overtaking: 0,
            counters: Counters::default(),
            options,
        }
    }

    /// Queues a sequence.
    pub(super) fn add(&mut self, sequence: Sequence) {
        self.waiting.insert(sequence.rank(), sequence);
    }

    /// Removes a running or waiting sequence whose client disconnected, and releases its blocks.
    pub(super) fn cancel(&mut self, id: SequenceId, blocks: &mut BlockPool) {
        if self.remove(id, blocks).is_some() {
            self.counters.cancelled += 1;
        }
    }

    /// Ends sequences past their deadline, fills free slots, then plans the next step. The plan is `None` if there is
    /// nothing to compute. Returns the plan, and the events of sequences that ended or started.
    pub(super) fn plan(
        &mut self,
        blocks: &mut BlockPool,
        now: Instant,
    ) -> (Option<StepPlan>, Vec<OutgoingEvent>) {
        let mut events = self.expire(blocks, now);
        let copies = self.admit(blocks);
        let mut slots = self.running_slots();
        let mut chunks = Vec::with_capacity(slots.len());
        while chunks.is_empty() && !slots.is_empty() {
            // Repeat if all sequences with a share were preempted: the remaining sequences get the step.
            self.update_drafts(&slots);
            let mut shares = self.shares(&slots).into_iter();
            let mut index = 0;
            while let (Some(&slot), Some(share)) = (slots.get(index), shares.next()) {
                index += 1;
                if share == 0 {
                    continue;
                }
                let mut count = self.grow_blocks(slot, share, blocks);
                while count == 0 && slots.len() > index {
                    // Preempt the sequence with the lowest scheduling priority.
                    let last = slots.pop().expect("a later slot remains");
                    self.preempt(last, blocks);
                    count = self.grow_blocks(slot, share, blocks);
                }
                if count == 0 {
                    // No other sequence is left to preempt.
                    slots.pop();
                    self.preempt(slot, blocks);
                    break;
                }
                events.extend(self.mark_running(slot, now));
                chunks.push(self.chunk(slot, count));
            }
        }
        self.planned_at = Some(now);
        self.steps += u64::from(!chunks.is_empty());
        let plan = (!chunks.is_empty()).then_some(StepPlan { copies, chunks });
        (plan, events)
    }

    /// Returns, for each chunk with prompt log probabilities, the sequence, the index of the first row of its logits,
    /// and the prompt tokens whose log probabilities the rows give. Leaves out the sequences in `invalid`.
    pub(super) fn logprob_targets(
        &self,
        plan: &StepPlan,
        invalid: &InvalidOutputs,
    ) -> Vec<(SequenceId, usize, LogprobTargets)> {
        let chunks = plan.chunks_with_logits();
        let chunks = chunks.filter(|(_, chunk)| !invalid.contains_key(&chunk.sequence));
        let targets = chunks.filter_map(|(row, chunk)| {
            let sequence = self.running(self.running[&chunk.sequence]);
            Some((chunk.sequence, row, sequence.logprob_targets(chunk)?))
        });
        targets.collect()
    }

    /// Returns, for each chunk that ends with sampling a token, the range of the rows of logits to sample from, and the
    /// sampler of the sequence. Leaves out the sequences in `invalid`.
    pub(super) fn sequence_samplers<'a>(
        &'a mut self,
        plan: &'a StepPlan,
        invalid: &InvalidOutputs,
    ) -> Vec<(Range<usize>, SequenceSampler<'a>)> {
        let mut sequences: Vec<_> = self.slots.iter_mut().map(Option::as_mut).collect();
        let chunks = plan.chunks_with_logits();
        let chunks = chunks.filter(|(_, chunk)| !invalid.contains_key(&chunk.sequence));
        let samplers = chunks.filter_map(|(row, chunk)| {
            let sequence = sequences[self.running[&chunk.sequence]].take()?;
            let end = row + chunk.logits.count(chunk.tokens.len());
            sequence.samples_after(chunk).then(|| {
                (
                    end - 1 - chunk.draft_tokens..end,
                    sequence.sequence_sampler(chunk),
                )
            })
        });
        samplers.collect()
    }

    /// Applies the results of a step: caches computed blocks, appends sampled tokens and ends finished sequences.
    /// Returns the events to deliver.
    pub(super) fn commit(
        &mut self,
        plan: StepPlan,
        result: StepResult<'_>,
        blocks: &mut BlockPool,
        now: Instant,
    ) -> Vec<OutgoingEvent> {
        self.measure(&plan, now);
        let context_tokens = self.options.context_tokens;
        let mut prompt_logprobs = result.prompt_logprobs.into_iter();
        let mut sampled = result.sampled.into_iter();
        let mut hidden = result.hidden.rows();
        let mut events = Vec::with_capacity(plan.chunks.len());
        for chunk in plan.chunks {
            let id = chunk.sequence;
            let rows = chunk.hidden.count(chunk.tokens.len());
            if let Some(error) = result.invalid.get(&id) {
                hidden.by_ref().take(rows).for_each(drop);
                events.push(self.fail_invalid_output(id, *error, blocks));
                continue;
            }
            let slot = self.running[&id];
            let sequence = self.slots[slot].as_mut().expect("the slot runs");
            let targets = sequence
                .logprob_targets(&chunk)
                .map_or(0, |targets| targets.tokens.len());
            sequence.add_prompt_logprobs(prompt_logprobs.by_ref().take(targets));
            let output = sequence
                .samples_after(&chunk)
                .then(|| sampled.next().expect("each such chunk has an output"));
            if let Some(Err(SampleError::InvalidOutput(error))) = output {
                // Fail the sequence before `advance` caches the blocks of this step for other sequences.
                hidden.by_ref().take(rows).for_each(drop);
                events.push(self.fail_invalid_output(id, error, blocks));
                continue;
            }
            sequence.advance(chunk.non_draft_tokens(), blocks);
            let prefill = sequence.prefill_progress(now);
            events.extend(prefill.map(|progress| (id, SequenceEvent::Prefill(progress))));
            let tokens = sequence.computed as u64;
            self.counters.longest_sequence = self.counters.longest_sequence.max(tokens);
            sequence.add_hidden_states(hidden.by_ref().take(rows));
            if sequence.uncomputed_tokens() > 0 {
                continue;
            }
            let logprobs = sequence.take_prompt_logprobs();
            events.extend(logprobs.map(|tokens| (id, SequenceEvent::PromptLogprobs(tokens))));
            let (end, first_token) = match sequence.request.max_tokens {
                0 => {
                    let embedding = sequence.embedding();
                    events.extend(embedding.map(|values| (id, SequenceEvent::Embedding(values))));
                    (Some(EndReason::TokenLimit), sequence.finish_prompt(now))
                }
                _ => {
                    let output = match output.expect("the last chunk has an output") {
                        Ok(output) => output,
                        Err(SampleError::InvalidOutput(_)) => unreachable!("handled above"),
                        Err(SampleError::Grammar(error)) => {
                            self.remove(id, blocks);
                            self.counters.failed += 1;
                            events.push((id, SequenceEvent::ConstraintFailed(error)));
                            continue;
                        }
                    };
                    let first_token = sequence.finish_prompt(now);
                    self.counters.draft_verifications += u64::from(chunk.draft_tokens > 0);
                    self.counters.draft_tokens += chunk.draft_tokens as u64;
                    self.counters.accepted_draft_tokens += output.accepted_draft_tokens() as u64;
                    let appended =
                        sequence.append(output, chunk.draft_tokens, context_tokens, blocks);
                    self.counters.generated_tokens += appended.delivered.len() as u64;
                    self.counters.context_shifts += appended.shifts;
                    let token = |token| (id, SequenceEvent::Token(token));
                    events.extend(appended.delivered.into_iter().map(token));
                    let eog_token = |token| (id, SequenceEvent::EogToken(token));
                    events.extend(appended.eog_token.map(eog_token));
                    (appended.end, first_token)
                }
            };
            if let Some(duration) = first_token {
                self.counters.first_token_seconds.add_duration(duration);
            }
            if let Some(reason) = end {
                events.extend(self.end(id, reason, blocks, now));
            }
        }
        events
    }

    /// Fails all sequences of a plan whose step failed. Returns the events to deliver.
    pub(super) fn fail(
        &mut self,
        plan: StepPlan,
        error: &RunError,
        blocks: &mut BlockPool,
    ) -> Vec<OutgoingEvent> {
        let mut events = Vec::new();
        for chunk in plan.chunks {
            events.push(self.fail_sequence(chunk.sequence, error.to_string(), blocks));
        }
        // Sequences that were admitted but had no chunk in the failed step lack their block copies: admit them again
        // later.
        let not_started = self.running_slots().into_iter();
        let not_started: Vec<usize> = not_started
            .filter(|slot| !self.running(*slot).has_run())
            .collect();
        for slot in not_started {
            self.requeue(slot, blocks);
        }
        events
    }

    /// Returns the last sequence that ran in a slot; the outer `None` means that the slot is in use.
    pub(super) fn last_sequence(&mut self, slot: usize) -> Option<&mut Option<LastSequence>> {
        match self.slots[slot] {
            Some(_) => None,
            None => Some(&mut self.last_sequences[slot]),
        }
    }

    /// Iterates over the last sequences of all slots.
    pub(super) fn last_sequences(&self) -> impl Iterator<Item = &LastSequence> {
        self.last_sequences.iter().flatten()
    }

    /// Returns whether no sequence runs or waits.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The sequence in each slot; `None` is a free slot.
    pub(super) fn slots(&self) -> impl Iterator<Item = Option<SlotStats>> {
        self.slots.iter().map(|slot| {
            slot.as_ref().map(|sequence| SlotStats {
                sequence: sequence.id,
                prompt_tokens: sequence.prompt_tokens(),
                generated_tokens: sequence.generated(),
            })
        })
    }

    fn expire(&mut self, blocks: &mut BlockPool, now: Instant) -> Vec<OutgoingEvent> {
        let running = self.slots.iter().flatten();
        let expired: Vec<SequenceId> = running
            .chain(self.waiting.values())
            .filter(|sequence| sequence.has_expired(now))
            .map(|sequence| sequence.id)
            .collect();
        expired
            .into_iter()
            .filter_map(|id| self.end(id, EndReason::DeadlinePassed, blocks, now))
            .collect()
    }

    /// Admits waiting sequences to free slots by scheduling priority. Returns the block copies, in the order of
    /// execution.
    ///
    /// If a sequence needs more blocks than are available, all later sequences wait as well, because small sequences
    /// could otherwise starve a large one. A sequence is skipped if its requested slot is in use, or while a running
    /// sequence is computing the prefix that both share. In the second case a free slot stays reserved for the skipped
    /// sequence.
    fn admit(&mut self, blocks: &mut BlockPool) -> Vec<BlockCopy> {
        let mut copies = Vec::new();
        let mut reserved_slots = 0;
        let mut start = Bound::Unbounded;
        while self.running.len() + reserved_slots < self.slots.len() {
            let range = (start, Bound::Unbounded);
            let Some((rank, sequence)) = self.waiting.range(range).next() else {
                break;
            };
            let rank = *rank;
            start = Bound::Excluded(rank);
            let Some(slot) = self.free_slot(sequence.request.slot) else {
                continue;
            };
            let cached = CachedPrefix::find(
                sequence.table.namespace(),
                sequence.reusable_tokens(),
                blocks,
            );
            if self.is_being_computed(sequence, cached.tokens(blocks.block_tokens())) {
                reserved_slots += 1;
                continue;
            }
            let tokens = (sequence.tokens.len() + 1).min(self.options.context_tokens);
            // Reserve a block for each running sequence, which will need another one soon.
            let needed = cached.required_blocks(tokens, blocks) + self.running.len();
            if needed > blocks.available() {
                break;
            }
            let mut sequence = self.waiting.remove(&rank).expect("the sequence is waiting");
            self.count_overtaking(sequence.id);
            copies.extend(sequence.admit(cached, blocks));
            self.running.insert(sequence.id, slot);
            self.slots[slot] = Some(sequence);
        }
        copies
    }

    /// Counts an admission if it overtakes the sequence that has waited longest. After [`MAX_OVERTAKING`] of them,
    /// promotes the overtaken sequence.
    fn count_overtaking(&mut self, admitted: SequenceId) {
        let waiting = self.waiting.values();
        let oldest = waiting
            .filter(|sequence| !sequence.promoted)
            .map(|sequence| sequence.id);
        match oldest.min().filter(|oldest| *oldest < admitted) {
            None => self.overtaking = 0,
            Some(_) if self.overtaking + 1 < MAX_OVERTAKING => self.overtaking += 1,
            Some(oldest) => {
                self.overtaking = 0;
                let found = self.waiting.values().find(|sequence| sequence.id == oldest);
                let rank = found.map(Sequence::rank);
                if let Some(mut sequence) = rank.and_then(|rank| self.waiting.remove(&rank)) {
                    sequence.promoted = true;
                    self.add(sequence);
                }
            }
        }
    }

    fn free_slot(&self, requested: Option<usize>) -> Option<usize> {
        match requested {
            Some(slot) => Some(slot).filter(|slot| self.slots[*slot].is_none()),
            None => self.slots.iter().position(Option::is_none),
        }
    }

    /// Returns whether a running sequence is computing full blocks of this sequence's prefix that are not cached yet.
    /// The first `cached_tokens` tokens of the prefix are cached.
    fn is_being_computed(&self, sequence: &Sequence, cached_tokens: usize) -> bool {
        let block_tokens = self.options.block_tokens;
        let reusable_tokens = sequence.reusable_tokens();
        self.slots.iter().flatten().any(|other| {
            // Skip the comparison if the other sequence cannot share more than the cached tokens.
            let same_namespace = other.table.namespace() == sequence.table.namespace();
            if !same_namespace
                || other.tokens.len() <= cached_tokens
                || reusable_tokens.len() <= cached_tokens
            {
                return false;
            }
            let shared = reusable_tokens
                .iter()
                .zip(&other.tokens)
                .take_while(|(left, right)| left == right)
                .count();
            let shared = shared / block_tokens * block_tokens;
            shared > cached_tokens && other.computed < shared
        })
    }

    /// Returns the slots in use, sorted by the scheduling priority of their sequences.
    fn running_slots(&self) -> Vec<usize> {
        let mut slots: Vec<usize> = self.running.values().copied().collect();
        slots.sort_by_cached_key(|slot| self.running(*slot).rank());
        slots
    }

    /// Drafts tokens for the rows that are left of the speculative row budget. Drafts none while any sequence is in
    /// prefill.
    fn update_drafts(&mut self, slots: &[usize]) {
        let has_prefill = slots.iter().any(|slot| !self.running(*slot).is_decoding());
        let rows = match has_prefill {
            true => 0,
            false => self.speculative_row_budget / slots.len().max(1),
        };
        for slot in slots {
            let sequence = self.slots[*slot].as_mut().expect("the slot runs");
            sequence.update_draft(rows.saturating_sub(1), self.options.context_tokens);
        }
    }

    /// Returns the number of tokens that each running sequence gets in the next step. A decoding sequence always gets
    /// its next token. The step controller limits the prefill rows: prompts, recomputed tokens, and forced tokens after
    /// the first.
    fn shares(&mut self, slots: &[usize]) -> Vec<usize> {
        let running = |slot: &usize| self.running(*slot);
        let step_tokens = self.options.step_tokens;
        if self.options.whole_prompts {
            let wanted: Vec<usize> = slots
                .iter()
                .map(|slot| running(slot).uncomputed_tokens())
                .collect();
            return share_whole(&wanted, step_tokens);
        }
        let chunk_tokens = |sequence: &Sequence| {
            let max_tokens = self.options.batch_tokens.min(sequence.max_chunk_tokens());
            sequence.computable_tokens().min(max_tokens)
        };
        let decode_rows = slots
            .iter()
            .filter(|slot| running(slot).is_decoding())
            .count();
        // There is no limit if no decoding sequence would wait for the prefill of another sequence.
        let is_unlimited = decode_rows == 0 || slots.len() == 1;
        let has_prefill = |slot: &usize| {
            let sequence = running(slot);
            !sequence.is_decoding() || sequence.uncomputed_tokens() > 1
        };
        if is_unlimited || !slots.iter().any(has_prefill) {
            let wanted: Vec<usize> = slots
                .iter()
                .map(|slot| chunk_tokens(running(slot)))
                .collect();
            return share(&wanted, step_tokens);
        }
        let with_logprobs = slots
            .iter()
            .any(|slot| running(slot).wants_prompt_logprobs());
        let kind = match with_logprobs {
            true => PrefillKind::WithLogprobs,
            false => PrefillKind::Plain,
        };
        // Prompts come first: `shares` already has a row for each decoding sequence.
        let mut order: Vec<usize> = (0..slots.len()).collect();
        order.sort_by_key(|index| running(&slots[*index]).is_decoding());
        let wanted = order.iter().map(|index| {
            let sequence = running(&slots[*index]);
            let max_tokens = chunk_tokens(sequence).min(sequence.uncomputed_tokens());
            max_tokens - usize::from(sequence.is_decoding())
        });
        let wanted: Vec<usize> = wanted.collect();
        let mut shares: Vec<usize> = slots
            .iter()
            .map(|slot| usize::from(running(slot).is_decoding()))
            .collect();
        let max_rows = step_tokens.saturating_sub(decode_rows);
        let rows = self.controller.prefill_rows(decode_rows, kind, max_rows);
        for (index, rows) in order.into_iter().zip(share(&wanted, rows)) {
            shares[index] += rows;
        }
        shares
    }

    /// Allocates blocks for up to `share` more tokens of a sequence. Returns the number of tokens that fit.
    fn grow_blocks(&mut self, slot: usize, share: usize, blocks: &mut BlockPool) -> usize {
        let sequence = self.slots[slot].as_mut().expect("the slot runs");
        let room = sequence.table.grow(sequence.computed + share, blocks);
        share.min(room - sequence.computed)
    }

    /// Returns a running sequence to the queue to free its blocks. The sequence is recomputed later; its client only
    /// sees a pause.
    fn preempt(&mut self, slot: usize, blocks: &mut BlockPool) {
        self.requeue(slot, blocks);
        self.counters.preemptions += 1;
    }

    fn requeue(&mut self, slot: usize, blocks: &mut BlockPool) {
        let mut sequence = self.slots[slot].take().expect("the slot runs");
        self.running.remove(&sequence.id);
        match sequence.has_run() {
            true => sequence.release(blocks),
            // The block copy was not executed, so the contents of the new block are not valid.
            false => sequence.release_uncommitted(blocks),
        }
        self.waiting.insert(sequence.rank(), sequence);
    }

    fn mark_running(&mut self, slot: usize, now: Instant) -> Option<OutgoingEvent> {
        let sequence = self.slots[slot].as_mut().expect("the slot runs");
        if sequence.has_run() {
            return None;
        }
        if let Some((queue_wait, cached_tokens)) = sequence.mark_running(now) {
            self.counters.queue_wait_seconds.add_duration(queue_wait);
            self.counters.prefix_hits += u64::from(cached_tokens > 0);
            self.counters.cached_tokens += cached_tokens as u64;
        }
        Some((sequence.id, SequenceEvent::Started { slot }))
    }

    fn chunk(&self, slot: usize, count: usize) -> Chunk {
        let sequence = self.running(slot);
        let draft_tokens = count.saturating_sub(sequence.uncomputed_tokens());
        let is_last = count >= sequence.uncomputed_tokens();
        Chunk {
            sequence: sequence.id,
            tokens: sequence.next_tokens(count).collect(),
            draft_tokens,
            past: sequence.computed,
            blocks: sequence.table.blocks().to_vec(),
            logits: sequence.wanted_logits(is_last, draft_tokens),
            hidden: sequence.wanted_hidden_states(is_last),
            adapters: sequence.request.adapters.clone(),
        }
    }

    /// Updates the counters and the step controller after a step, before the results of the step are applied.
    fn measure(&mut self, plan: &StepPlan, now: Instant) {
        let mut rows = StepRows {
            decode: 0,
            prefill: 0,
            draft: 0,
        };
        for chunk in &plan.chunks {
            let sequence = self.running(self.running[&chunk.sequence]);
            let (count, decoding) = (chunk.non_draft_tokens(), sequence.is_decoding());
            let in_prompt = sequence.generated() == 0;
            rows.decode += usize::from(decoding);
            rows.prefill += count - usize::from(decoding);
            rows.draft += chunk.draft_tokens;
            match in_prompt {
                true => self.counters.prompt_tokens += count as u64,
                false if decoding => {}
                false => self.counters.recomputed_tokens += count as u64,
            }
        }
        self.counters.step_sequences += plan.chunks.len() as u64;
        self.counters.step_tokens.add(plan.tokens() as f64);
        if let Some(planned_at) = self.planned_at {
            let elapsed = now.saturating_duration_since(planned_at);
            self.counters.step_seconds.add_duration(elapsed);
            self.controller.observe(rows, elapsed);
        }
    }

    /// Ends a running or waiting sequence and updates the counters. Returns the event to deliver.
    fn end(
        &mut self,
        id: SequenceId,
        reason: EndReason,
        blocks: &mut BlockPool,
        now: Instant,
    ) -> Option<OutgoingEvent> {
        let sequence = self.remove(id, blocks)?;
        let report = sequence.report(now);
        let counters = &mut self.counters;
        match reason {
            EndReason::DeadlinePassed => counters.expired += 1,
            EndReason::EogToken
            | EndReason::StopRule
            | EndReason::TokenLimit
            | EndReason::Complete
            | EndReason::ContextFull => counters.completed += 1,
        }
        counters.prompt_seconds += report.prompt.as_secs_f64();
        counters.decode_seconds += report.decode.as_secs_f64();
        counters
            .sequence_seconds
            .add_duration(report.queue_wait + report.prompt + report.decode);
        let intervals = sequence.generated().saturating_sub(1);
        let computed = report.prompt_tokens.saturating_sub(report.cached_tokens);
        counters.ended_prompt_tokens += computed as u64;
        counters.ended_generated_tokens += intervals as u64;
        if intervals > 0 {
            let mean = report.decode.as_secs_f64() / intervals as f64;
            counters.token_interval_seconds.add(mean);
        }
        Some((id, SequenceEvent::Ended { reason, report }))
    }

    /// Removes a running or waiting sequence and releases its blocks.
    fn remove(&mut self, id: SequenceId, blocks: &mut BlockPool) -> Option<Sequence> {
        let Some(slot) = self.running.remove(&id) else {
            let sequence = self.waiting.values().find(|sequence| sequence.id == id)?;
            return self.waiting.remove(&sequence.rank());
        };
        let mut sequence = self.slots[slot].take()?;
        self.last_sequences[slot] = Some(LastSequence {
            id: Some(sequence.id),
            namespace: sequence.table.namespace(),
            tokens: sequence.tokens[..sequence.computed].to_vec(),
        });
        sequence.release(blocks);
        Some(sequence)
    }

    /// Fails a sequence of the plan. The tokens that the step was to compute are not cached.
    fn fail_sequence(
        &mut self,
        id: SequenceId,
        error: String,
        blocks: &mut BlockPool,
    ) -> OutgoingEvent {
        self.planned_sequence(id).release_uncommitted(blocks);
        self.remove(id, blocks);
        self.counters.failed += 1;
        (id, SequenceEvent::Failed(error))
    }

    fn fail_invalid_output(
        &mut self,
        id: SequenceId,
        error: InvalidOutput,
        blocks: &mut BlockPool,
    ) -> OutgoingEvent {
        let step = self.steps;
        tracing::error!(%error, step, "invalid outputs of a step; the sequence ends");
        self.fail_sequence(id, format!("step {step}: {error}"), blocks)
    }

    fn running(&self, slot: usize) -> &Sequence {
        self.slots[slot].as_ref().expect("the slot runs")
    }

    fn planned_sequence(&mut self, id: SequenceId) -> &mut Sequence {
        let slot = self.running[&id];
        self.slots[slot].as_mut().expect("planned sequences run")
    }
}
