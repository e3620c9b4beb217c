//! Decides what each step computes. Pure: no thread, no channel, no clock of its own.
//!
//! A sequence has tokens wanted and tokens computed; a step closes the gap within a budget of tokens.
//! A sequence that generates wants one token and always gets it; prompts share the rows that the step-time
//! controller leaves beside those. Who ranks first is admitted first and keeps its blocks longest; who ranks
//! last yields them when there are too few, waits, and is computed anew.

use std::collections::{BTreeMap, HashMap};
use std::ops::{Bound, Range};
use std::time::Instant;

use super::EngineOptions;
use super::budget::{share, share_whole};
use super::chooser::{ChooseError, Chooser, Chosen};
use super::numbers::NumberError;
use super::runner::{Rows, RunError};
use super::scores::Scored;
use super::sequence::{EndReason, Rank, Sequence, SequenceEvent, SequenceId};
use super::slot_orders::LastSequence;
use super::stats::{Counters, SlotStats};
use super::step::{Chunk, StepPlan};
use super::step_controller::{PrefillKind, StepController, StepRows};
use super::worker::Unusable;
use crate::cache::{BlockCopy, BlockPool, Reuse};
use crate::sampling::Choice;

/// Sequences that are admitted before the one that has waited longest, in a row. Then that one is promoted: a high
/// priority makes others wait, but not for ever.
const MAX_OVERTAKING: usize = 32;

/// The waiting and the running sequences.
pub(super) struct Scheduler {
    options: EngineOptions,
    /// Rows that a step computes in about the time of one.
    cheap_rows: usize,
    waiting: BTreeMap<Rank, Sequence>,
    slots: Vec<Option<Sequence>>,
    /// The slots that run.
    running: HashMap<SequenceId, usize>,
    /// What each slot ran last.
    last: Vec<Option<LastSequence>>,
    controller: StepController,
    planned: Option<Instant>,
    /// Steps that were planned so far.
    steps: u64,
    /// Sequences that were admitted since the one that had waited longest was.
    overtaking: usize,
    counters: Counters,
}

/// What a step computed.
pub(super) struct Computed<'a> {
    /// The sequences that fail; nothing else is told of them.
    pub(super) unusable: Unusable,
    /// How probable the tokens were that logits were to tell of, chunk by chunk.
    pub(super) scored: Vec<Choice>,
    /// A token for every chunk that one is chosen behind, or why there can be none.
    pub(super) sampled: Vec<Result<Chosen, ChooseError>>,
    /// The hidden states that chunks wanted.
    pub(super) hidden: &'a Rows,
}

/// An event and whose it is.
pub(super) type Delivery = (SequenceId, SequenceEvent);

impl Scheduler {
    pub(super) fn new(options: EngineOptions, cheap_rows: usize) -> Self {
        Self {
            cheap_rows,
            slots: (0..options.parallel).map(|_| None).collect(),
            last: vec![None; options.parallel],
            waiting: BTreeMap::new(),
            running: HashMap::new(),
            controller: StepController::new(options.step_duration, options.prefill_share),
            planned: None,
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

    /// Forgets a sequence whose client left, wherever it is, and frees its blocks.
    pub(super) fn cancel(&mut self, id: SequenceId, blocks: &mut BlockPool) {
        if self.remove(id, blocks).is_some() {
            self.counters.cancelled += 1;
        }
    }

    /// Ends what is past its deadline, fills free slots, then plans the next step. `None` if there is
    /// nothing to compute. The events tell which sequences ended and which started.
    pub(super) fn plan(
        &mut self,
        blocks: &mut BlockPool,
        now: Instant,
    ) -> (Option<StepPlan>, Vec<Delivery>) {
        let mut events = self.expire(blocks, now);
        let copies = self.admit(blocks);
        let mut slots = self.running_slots();
        let mut chunks = Vec::with_capacity(slots.len());
        while chunks.is_empty() && !slots.is_empty() {
            // Where all that decode were preempted, prompts that were to wait for them go on.
            self.guess(&slots);
            let mut shares = self.shares(&slots).into_iter();
            let mut place = 0;
            while let (Some(&slot), Some(share)) = (slots.get(place), shares.next()) {
                place += 1;
                if share == 0 {
                    continue;
                }
                let mut count = self.make_room(slot, share, blocks);
                while count == 0 && slots.len() > place {
                    // The last one yields.
                    let last = slots.pop().expect("there are some behind this one");
                    self.preempt(last, blocks);
                    count = self.make_room(slot, share, blocks);
                }
                if count == 0 {
                    // In the end this one itself.
                    slots.pop();
                    self.preempt(slot, blocks);
                    break;
                }
                events.extend(self.join(slot, now));
                chunks.push(self.chunk(slot, count));
            }
        }
        self.planned = Some(now);
        self.steps += u64::from(!chunks.is_empty());
        let plan = (!chunks.is_empty()).then_some(StepPlan { copies, chunks });
        (plan, events)
    }

    /// The tokens whose probabilities the plan's logits tell, each sequence's with the number of its first row.
    pub(super) fn scored(
        &self,
        plan: &StepPlan,
        unusable: &Unusable,
    ) -> Vec<(SequenceId, usize, Scored)> {
        let chunks = plan.chunks_with_logits();
        let chunks = chunks.filter(|(_, chunk)| !unusable.contains_key(&chunk.sequence));
        let scored = chunks.filter_map(|(row, chunk)| {
            let sequence = self.running(self.running[&chunk.sequence]);
            Some((chunk.sequence, row, sequence.scored(chunk)?))
        });
        scored.collect()
    }

    /// What chooses for the plan's chunks behind which a token is chosen, in their order, each with the numbers of its
    /// rows.
    pub(super) fn choosers<'a>(
        &'a mut self,
        plan: &'a StepPlan,
        unusable: &Unusable,
    ) -> Vec<(Range<usize>, Chooser<'a>)> {
        let mut sequences: Vec<_> = self.slots.iter_mut().map(Option::as_mut).collect();
        let chunks = plan.chunks_with_logits();
        let chunks = chunks.filter(|(_, chunk)| !unusable.contains_key(&chunk.sequence));
        let choosers = chunks.filter_map(|(row, chunk)| {
            let sequence = sequences[self.running[&chunk.sequence]].take()?;
            let end = row + chunk.logits.count(chunk.tokens.len());
            sequence
                .chooses_behind(chunk)
                .then(|| (end - 1 - chunk.guessed..end, sequence.chooser(chunk)))
        });
        choosers.collect()
    }

    /// Enters what a step computed.
    pub(super) fn commit(
        &mut self,
        plan: StepPlan,
        computed: Computed<'_>,
        blocks: &mut BlockPool,
        now: Instant,
    ) -> Vec<Delivery> {
        self.measure(&plan, now);
        let context_tokens = self.options.context_tokens;
        let mut scored = computed.scored.into_iter();
        let mut sampled = computed.sampled.into_iter();
        let mut hidden = computed.hidden.rows();
        let mut events = Vec::with_capacity(plan.chunks.len());
        for chunk in plan.chunks {
            let id = chunk.sequence;
            let rows = chunk.hidden.count(chunk.tokens.len());
            if let Some(error) = computed.unusable.get(&id) {
                hidden.by_ref().take(rows).for_each(drop);
                events.push(self.fail_with_numbers(id, *error, blocks));
                continue;
            }
            let slot = self.running[&id];
            let sequence = self.slots[slot].as_mut().expect("the slot runs");
            let scores = sequence
                .scored(&chunk)
                .map_or(0, |scored| scored.tokens.len());
            sequence.score(scored.by_ref().take(scores));
            let chosen = sequence
                .chooses_behind(&chunk)
                .then(|| sampled.next().expect("every chunk's token was chosen"));
            if let Some(Err(ChooseError::Numbers(error))) = chosen {
                // Before what was computed can be found by others.
                hidden.by_ref().take(rows).for_each(drop);
                events.push(self.fail_with_numbers(id, error, blocks));
                continue;
            }
            sequence.advance(chunk.certain(), blocks);
            let prefill = sequence.prefill_progress(now);
            events.extend(prefill.map(|progress| (id, SequenceEvent::Prefill(progress))));
            let tokens = sequence.computed as u64;
            self.counters.longest_sequence = self.counters.longest_sequence.max(tokens);
            sequence.pool(hidden.by_ref().take(rows));
            if sequence.wanted() > 0 {
                continue;
            }
            let scores = sequence.take_scores();
            events.extend(scores.map(|scores| (id, SequenceEvent::Prompt(scores))));
            let (end, first_token) = match sequence.job.max_tokens {
                0 => {
                    let embedding = sequence.embedding();
                    events.extend(embedding.map(|values| (id, SequenceEvent::Embedding(values))));
                    (Some(EndReason::TokenLimit), sequence.prompt_ends(now))
                }
                _ => {
                    let chosen = match chosen.expect("a token is chosen behind the last chunk") {
                        Ok(chosen) => chosen,
                        Err(ChooseError::Numbers(_)) => unreachable!("it failed above"),
                        Err(ChooseError::Grammar(error)) => {
                            self.remove(id, blocks);
                            self.counters.failed += 1;
                            events.push((id, SequenceEvent::Unfollowable(error)));
                            continue;
                        }
                    };
                    let first_token = sequence.prompt_ends(now);
                    self.counters.guesses += u64::from(chunk.guessed > 0);
                    self.counters.guessed_tokens += chunk.guessed as u64;
                    self.counters.rightly_guessed_tokens += chosen.guessed_rightly() as u64;
                    let pushed = sequence.push(chosen, chunk.guessed, context_tokens, blocks);
                    self.counters.generated_tokens += pushed.delivered.len() as u64;
                    self.counters.context_shifts += pushed.shifts;
                    let token = |choice| (id, SequenceEvent::Token(choice));
                    events.extend(pushed.delivered.into_iter().map(token));
                    let end_token = |choice| (id, SequenceEvent::EndToken(choice));
                    events.extend(pushed.end_token.map(end_token));
                    (pushed.end, first_token)
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

    /// Ends the plan's sequences: the step that was to compute them failed.
    pub(super) fn fail(
        &mut self,
        plan: StepPlan,
        error: &RunError,
        blocks: &mut BlockPool,
    ) -> Vec<Delivery> {
        let mut events = Vec::new();
        for chunk in plan.chunks {
            events.push(self.fail_sequence(chunk.sequence, error.to_string(), blocks));
        }
        // What the step was to copy for sequences that only waited is not there: they are admitted once more.
        let waiting = self.running_slots().into_iter();
        let waiting: Vec<usize> = waiting
            .filter(|slot| !self.running(*slot).has_joined())
            .collect();
        for slot in waiting {
            self.requeue(slot, blocks);
        }
        events
    }

    /// What a slot ran last; nothing while it runs something.
    pub(super) fn last(&mut self, slot: usize) -> Option<&mut Option<LastSequence>> {
        match self.slots[slot] {
            Some(_) => None,
            None => Some(&mut self.last[slot]),
        }
    }

    /// What the slots ran last.
    pub(super) fn all_last(&self) -> impl Iterator<Item = &LastSequence> {
        self.last.iter().flatten()
    }

    /// Whether nothing runs or waits.
    pub(super) fn is_idle(&self) -> bool {
        self.running.is_empty() && self.waiting.is_empty()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
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

    fn expire(&mut self, blocks: &mut BlockPool, now: Instant) -> Vec<Delivery> {
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

    /// Fills free slots with those that rank first. The first that finds too few blocks makes all behind it
    /// wait: otherwise small ones would starve it. Passed over are one that insists on a taken slot, and
    /// one whose prompt another one is computing: it has its slot for certain, and waits for what it will
    /// find. Answers what is to be copied, in this order.
    fn admit(&mut self, blocks: &mut BlockPool) -> Vec<BlockCopy> {
        let mut copies = Vec::new();
        let mut promised = 0;
        let mut after = Bound::Unbounded;
        while self.running.len() + promised < self.slots.len() {
            let rest = (after, Bound::Unbounded);
            let Some((rank, sequence)) = self.waiting.range(rest).next() else {
                break;
            };
            let rank = *rank;
            after = Bound::Excluded(rank);
            let Some(slot) = self.free_slot(sequence.job.slot) else {
                continue;
            };
            let reuse = Reuse::find(sequence.table.root(), sequence.findable(), blocks);
            if self.is_under_way(sequence, reuse.tokens(blocks.block_tokens())) {
                promised += 1;
                continue;
            }
            let tokens = (sequence.tokens.len() + 1).min(self.options.context_tokens);
            // Those that run will need another block each before long.
            let needed = reuse.blocks_taken(tokens, blocks) + self.running.len();
            if needed > blocks.available() {
                break;
            }
            let mut sequence = self.waiting.remove(&rank).expect("it was just found");
            self.count_overtaking(sequence.id);
            copies.extend(sequence.begin(reuse, blocks));
            self.running.insert(sequence.id, slot);
            self.slots[slot] = Some(sequence);
        }
        copies
    }

    /// Counts that a sequence is admitted before others that have waited longer, and promotes one of these in time.
    fn count_overtaking(&mut self, admitted: SequenceId) {
        let waiting = self.waiting.values();
        let longest = waiting
            .filter(|sequence| !sequence.promoted)
            .map(|sequence| sequence.id);
        match longest.min().filter(|longest| *longest < admitted) {
            None => self.overtaking = 0,
            Some(_) if self.overtaking + 1 < MAX_OVERTAKING => self.overtaking += 1,
            Some(longest) => {
                self.overtaking = 0;
                let found = self
                    .waiting
                    .values()
                    .find(|sequence| sequence.id == longest);
                let rank = found.map(Sequence::rank);
                if let Some(mut sequence) = rank.and_then(|rank| self.waiting.remove(&rank)) {
                    sequence.promoted = true;
                    self.add(sequence);
                }
            }
        }
    }

    fn free_slot(&self, wanted: Option<usize>) -> Option<usize> {
        match wanted {
            Some(slot) => Some(slot).filter(|slot| self.slots[*slot].is_none()),
            None => self.slots.iter().position(Option::is_none),
        }
    }

    /// Whether a running sequence is computing full blocks that this one will find, beyond the `found`
    /// tokens that it finds already.
    fn is_under_way(&self, sequence: &Sequence, found: usize) -> bool {
        let block_tokens = self.options.block_tokens;
        let findable = sequence.findable();
        self.slots.iter().flatten().any(|other| {
            // What is found already need not be compared.
            let same_root = other.table.root() == sequence.table.root();
            if !same_root || other.tokens.len() <= found || findable.len() <= found {
                return false;
            }
            let shared = findable
                .iter()
                .zip(&other.tokens)
                .take_while(|(left, right)| left == right)
                .count();
            let shared = shared / block_tokens * block_tokens;
            shared > found && other.computed < shared
        })
    }

    /// The running slots, those that rank first first.
    fn running_slots(&self) -> Vec<usize> {
        let mut slots: Vec<usize> = self.running.values().copied().collect();
        slots.sort_by_cached_key(|slot| self.running(*slot).rank());
        slots
    }

    /// Guesses what may come next, as far as it costs next to nothing and no prompt wants the rows.
    fn guess(&mut self, slots: &[usize]) {
        let prompts = slots.iter().any(|slot| !self.running(*slot).is_decoding());
        let rows = match prompts {
            true => 0,
            false => self.cheap_rows / slots.len().max(1),
        };
        for slot in slots {
            let sequence = self.slots[*slot].as_mut().expect("the slot runs");
            sequence.guess(rows.saturating_sub(1), self.options.context_tokens);
        }
    }

    /// How many tokens each of the running sequences gets in the next step. Each that decodes gets its next one; beside them
    /// the controller limits prefill rows: prompts, what is recomputed, and all but the first of forced tokens.
    fn shares(&mut self, slots: &[usize]) -> Vec<usize> {
        let running = |slot: &usize| self.running(*slot);
        let most = self.options.step_tokens;
        if self.options.whole_prompts {
            let wanted: Vec<usize> = slots.iter().map(|slot| running(slot).wanted()).collect();
            return share_whole(&wanted, most);
        }
        let computable = |sequence: &Sequence| {
            let most = self.options.batch_tokens.min(sequence.chunk_limit());
            sequence.computable().min(most)
        };
        let decode_rows = slots
            .iter()
            .filter(|slot| running(slot).is_decoding())
            .count();
        // Nobody waits for another one's rows.
        let free = decode_rows == 0 || slots.len() == 1;
        let has_prefill = |slot: &usize| {
            let sequence = running(slot);
            !sequence.is_decoding() || sequence.wanted() > 1
        };
        if free || !slots.iter().any(has_prefill) {
            let wanted: Vec<usize> = slots.iter().map(|slot| computable(running(slot))).collect();
            return share(&wanted, most);
        }
        let scored = slots.iter().any(|slot| running(slot).is_scored());
        let kind = match scored {
            true => PrefillKind::Scored,
            false => PrefillKind::Plain,
        };
        // Prompts first: what decodes goes on in any case.
        let mut order: Vec<usize> = (0..slots.len()).collect();
        order.sort_by_key(|place| running(&slots[*place]).is_decoding());
        let wanted = order.iter().map(|place| {
            let sequence = running(&slots[*place]);
            let most = computable(sequence).min(sequence.wanted());
            most - usize::from(sequence.is_decoding())
        });
        let wanted: Vec<usize> = wanted.collect();
        let mut shares: Vec<usize> = slots
            .iter()
            .map(|slot| usize::from(running(slot).is_decoding()))
            .collect();
        let max_rows = most.saturating_sub(decode_rows);
        let rows = self.controller.prefill_rows(decode_rows, kind, max_rows);
        for (place, rows) in order.into_iter().zip(share(&wanted, rows)) {
            shares[place] += rows;
        }
        shares
    }

    /// Takes blocks for up to `share` more tokens of a sequence. Answers for how many there is room.
    fn make_room(&mut self, slot: usize, share: usize, blocks: &mut BlockPool) -> usize {
        let sequence = self.slots[slot].as_mut().expect("the slot runs");
        let room = sequence.table.grow(sequence.computed + share, blocks);
        share.min(room - sequence.computed)
    }

    /// Sends a sequence back to the queue to make room for others. It will be computed anew; its client only sees it pause.
    fn preempt(&mut self, slot: usize, blocks: &mut BlockPool) {
        self.requeue(slot, blocks);
        self.counters.preemptions += 1;
    }

    fn requeue(&mut self, slot: usize, blocks: &mut BlockPool) {
        let mut sequence = self.slots[slot].take().expect("the slot runs");
        self.running.remove(&sequence.id);
        match sequence.has_joined() {
            true => sequence.release(blocks),
            // What is to be copied for it is not there yet.
            false => sequence.abandon(blocks),
        }
        self.waiting.insert(sequence.rank(), sequence);
    }

    fn join(&mut self, slot: usize, now: Instant) -> Option<Delivery> {
        let sequence = self.slots[slot].as_mut().expect("the slot runs");
        if sequence.has_joined() {
            return None;
        }
        if let Some((queue_wait, cached_tokens)) = sequence.join(now) {
            self.counters.queue_wait_seconds.add_duration(queue_wait);
            self.counters.prefix_hits += u64::from(cached_tokens > 0);
            self.counters.cached_tokens += cached_tokens as u64;
        }
        Some((sequence.id, SequenceEvent::Started { slot }))
    }

    fn chunk(&self, slot: usize, count: usize) -> Chunk {
        let sequence = self.running(slot);
        let guessed = count.saturating_sub(sequence.wanted());
        let last = count >= sequence.wanted();
        Chunk {
            sequence: sequence.id,
            tokens: sequence.next_tokens(count).collect(),
            guessed,
            past: sequence.computed,
            blocks: sequence.table.blocks().to_vec(),
            logits: sequence.logits_wanted(last, guessed),
            hidden: sequence.hidden_wanted(last),
            adapters: sequence.job.adapters.clone(),
        }
    }

    /// Counts what a step computed, before it is entered.
    fn measure(&mut self, plan: &StepPlan, now: Instant) {
        let mut rows = StepRows {
            decode: 0,
            prefill: 0,
            draft: 0,
        };
        for chunk in &plan.chunks {
            let sequence = self.running(self.running[&chunk.sequence]);
            let (count, decoding) = (chunk.certain(), sequence.is_decoding());
            let in_prompt = sequence.generated() == 0;
            rows.decode += usize::from(decoding);
            rows.prefill += count - usize::from(decoding);
            rows.draft += chunk.guessed;
            match in_prompt {
                true => self.counters.prompt_tokens += count as u64,
                false if decoding => {}
                false => self.counters.recomputed_tokens += count as u64,
            }
        }
        self.counters.step_sequences += plan.chunks.len() as u64;
        self.counters.step_tokens.add(plan.tokens() as f64);
        if let Some(planned) = self.planned {
            let elapsed = now.saturating_duration_since(planned);
            self.counters.step_seconds.add_duration(elapsed);
            self.controller.observe(rows, elapsed);
        }
    }

    /// Ends a sequence, wherever it is.
    fn end(
        &mut self,
        id: SequenceId,
        reason: EndReason,
        blocks: &mut BlockPool,
        now: Instant,
    ) -> Option<Delivery> {
        let sequence = self.remove(id, blocks)?;
        let report = sequence.report(now);
        let counters = &mut self.counters;
        match reason {
            EndReason::DeadlinePassed => counters.expired += 1,
            EndReason::EndToken
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

    /// Takes a sequence out, wherever it is; its blocks are given back.
    fn remove(&mut self, id: SequenceId, blocks: &mut BlockPool) -> Option<Sequence> {
        let Some(slot) = self.running.remove(&id) else {
            let rank = self.waiting.values().find(|sequence| sequence.id == id)?;
            return self.waiting.remove(&rank.rank());
        };
        let mut sequence = self.slots[slot].take()?;
        self.last[slot] = Some(LastSequence {
            id: Some(sequence.id),
            root: sequence.table.root(),
            tokens: sequence.tokens[..sequence.computed].to_vec(),
        });
        sequence.release(blocks);
        Some(sequence)
    }

    /// Ends a planned sequence; of what this step computed for it nothing can be found.
    fn fail_sequence(&mut self, id: SequenceId, error: String, blocks: &mut BlockPool) -> Delivery {
        self.planned_sequence(id).abandon(blocks);
        self.remove(id, blocks);
        self.counters.failed += 1;
        (id, SequenceEvent::Failed(error))
    }

    fn fail_with_numbers(
        &mut self,
        id: SequenceId,
        error: NumberError,
        blocks: &mut BlockPool,
    ) -> Delivery {
        let step = self.steps;
        tracing::error!(%error, step, "what a step computed cannot be used; its sequence ends");
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
