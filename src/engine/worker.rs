//! The engine's thread. It owns the runner, the cache and the sequences, runs the step loop and delivers the events.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rayon::prelude::*;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use super::EngineOptions;
use super::output_checks::{InvalidOutputs, check_hidden, check_logits};
use super::prompt_logprobs::LogprobTargets;
use super::request::SequenceRequest;
use super::runner::{ModelRunner, Outputs};
use super::scheduler::{OutgoingEvent, Scheduler, StepResult};
use super::sequence::{Clock, Sequence, SequenceEvent};
use super::sequence_id::SequenceId;
use super::sequence_sampler::{SampleError, SamplerOutput, SequenceSampler};
use super::slot_actions::{self, SlotAction, SlotCommand};
use super::stats::{BlockStats, Stats};
use super::step::StepPlan;
use crate::cache::BlockPool;
use crate::sampling::SampledToken;
use crate::token::TokenId;

/// Error message of the sequences that are unfinished when the engine stops.
const STOPPING: &str = "the server is stopping";

/// A message from an [`super::EngineHandle`].
pub(super) enum Message {
    Submit(Box<SubmitMessage>),
    Slot(SlotCommand),
    Stop,
}

pub(super) struct SubmitMessage {
    pub(super) id: SequenceId,
    pub(super) request: SequenceRequest,
    pub(super) submitted: Instant,
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) events: UnboundedSender<SequenceEvent>,
}

pub(super) struct Worker {
    runner: Box<dyn ModelRunner>,
    outputs: Outputs,
    scheduler: Scheduler,
    blocks: BlockPool,
    context_tokens: usize,
    inbox: Receiver<Message>,
    /// Commands that wait until their slot is free.
    slot_commands: Vec<SlotCommand>,
    event_senders: HashMap<SequenceId, UnboundedSender<SequenceEvent>>,
    stats: Arc<Mutex<Stats>>,
    clock: Clock,
}

impl Worker {
    pub(super) fn new(
        runner: Box<dyn ModelRunner>,
        options: EngineOptions,
        inbox: Receiver<Message>,
        stats: Arc<Mutex<Stats>>,
        clock: Clock,
    ) -> Self {
        Self {
            outputs: runner.outputs(),
            blocks: BlockPool::new(options.blocks, options.block_tokens),
            context_tokens: options.context_tokens,
            scheduler: Scheduler::new(options, runner.speculative_row_budget()),
            runner,
            inbox,
            slot_commands: Vec::new(),
            event_senders: HashMap::new(),
            stats,
            clock,
        }
    }

    /// Runs steps until a stop message arrives, or all handles are dropped and no sequence is left.
    pub(super) fn run(mut self) {
        let death_guard = EngineDeathGuard(Arc::clone(&self.stats));
        while self.receive().is_continue() {
            self.step();
        }
        for (_, events) in self.event_senders.drain() {
            // An error means that the client has disconnected.
            let _ = events.send(SequenceEvent::Failed(STOPPING.to_owned()));
        }
        drop(death_guard);
    }

    fn step(&mut self) {
        let (plan, events) = self.scheduler.plan(&mut self.blocks, (self.clock)());
        self.publish_stats();
        self.deliver(events);
        let Some(plan) = plan else { return };
        let tokens = plan.tokens();
        let events = match self.runner.run(&plan, &mut self.outputs) {
            Ok(()) => {
                let invalid = self.check_outputs(&plan);
                // Compute prompt log probabilities before sampling, which overwrites the logits.
                let prompt_logprobs = self.prompt_logprobs(&plan, &invalid);
                let sampled = self.sample(&plan, &invalid);
                let now = (self.clock)();
                let result = StepResult {
                    invalid,
                    prompt_logprobs,
                    sampled,
                    hidden: &self.outputs.hidden,
                };
                self.scheduler.commit(plan, result, &mut self.blocks, now)
            }
            Err(error) => {
                tracing::error!(%error, tokens, "a step failed; its sequences end");
                self.scheduler.fail(plan, &error, &mut self.blocks)
            }
        };
        self.publish_stats();
        self.deliver(events);
    }

    /// Handles the messages that have arrived and cancels sequences of disconnected clients. Waits for a message only
    /// while no sequence runs or waits.
    fn receive(&mut self) -> ControlFlow<()> {
        // The last step may have freed slots.
        self.run_slot_commands();
        loop {
            let message = match self.scheduler.is_idle() {
                true => {
                    self.check_block_pool();
                    self.inbox.recv().map_err(|_| TryRecvError::Disconnected)
                }
                false => self.inbox.try_recv(),
            };
            match message {
                Ok(Message::Submit(message)) => self.add(*message),
                Ok(Message::Slot(command)) => {
                    self.slot_commands.push(command);
                    self.run_slot_commands();
                }
                Ok(Message::Stop) => return ControlFlow::Break(()),
                Err(TryRecvError::Empty) => break,
                // All handles are dropped: finish the remaining sequences, then end.
                Err(TryRecvError::Disconnected) if self.scheduler.is_idle() => {
                    return ControlFlow::Break(());
                }
                Err(TryRecvError::Disconnected) => break,
            }
        }
        self.cancel_disconnected();
        ControlFlow::Continue(())
    }

    fn add(&mut self, message: SubmitMessage) {
        let SubmitMessage {
            id,
            request,
            submitted,
            permit,
            events,
        } = message;
        self.event_senders.insert(id, events);
        let sequence = Sequence::new(id, request, self.context_tokens, submitted, permit);
        self.scheduler.add(sequence);
    }

    /// Executes the commands whose slots are free.
    fn run_slot_commands(&mut self) {
        self.slot_commands.retain(|command| !command.is_abandoned());
        let is_ready =
            |command: &mut SlotCommand| self.scheduler.last_sequence(command.slot).is_some();
        let ready: Vec<SlotCommand> = self.slot_commands.extract_if(.., is_ready).collect();
        if ready.is_empty() {
            return;
        }
        ready
            .into_iter()
            .for_each(|command| self.run_slot_command(command));
        self.publish_stats();
    }

    /// Executes a command. The caller may have disconnected, so errors of sending the result are ignored.
    fn run_slot_command(&mut self, SlotCommand { slot, action, .. }: SlotCommand) {
        let Some(last_sequence) = self.scheduler.last_sequence(slot) else {
            return;
        };
        let (runner, blocks) = (&mut *self.runner, &mut self.blocks);
        match action {
            SlotAction::Save(reply) => {
                let saved = last_sequence.as_ref();
                let saved = saved.map(|last| slot_actions::save(last, runner, blocks));
                let _ = reply.send(saved.transpose());
            }
            SlotAction::Restore(saved, reply) => {
                let restored = slot_actions::restore(saved, runner, blocks);
                let count = restored.as_ref().map(|last| last.tokens.len());
                let _ = reply.send(count.map_err(Clone::clone));
                *last_sequence = restored.ok();
            }
            SlotAction::Erase(reply) => {
                let erased = last_sequence.take().map(|last| {
                    let others = self.scheduler.last_sequences();
                    slot_actions::erase(&last, others, blocks)
                });
                let _ = reply.send(erased.unwrap_or(0));
            }
        }
    }

    /// Checks that no block is referenced while no sequence runs.
    fn check_block_pool(&self) {
        if let Err(error) = self.blocks.check_when_idle() {
            tracing::error!(
                error,
                "the block pool of the KV cache is inconsistent; this is a bug in ortolan"
            );
            debug_assert!(false, "{error}");
        }
    }

    fn cancel_disconnected(&mut self) {
        let disconnected: Vec<SequenceId> = self
            .event_senders
            .iter()
            .filter(|(_, events)| events.is_closed())
            .map(|(id, _)| *id)
            .collect();
        if disconnected.is_empty() {
            return;
        }
        for id in disconnected {
            self.event_senders.remove(&id);
            self.scheduler.cancel(id, &mut self.blocks);
        }
        self.publish_stats();
    }

    /// Checks the hidden states, and the logits for prompt log probabilities. Sampling checks the other logits itself,
    /// because logits after a rejected draft token are not used.
    fn check_outputs(&self, plan: &StepPlan) -> InvalidOutputs {
        let logits: Vec<&[f32]> = self.outputs.logits.rows().collect();
        let targets = self.scheduler.logprob_targets(plan, &InvalidOutputs::new());
        let targets = targets.iter().filter_map(|(id, first, targets)| {
            let mut rows = logits[*first..][..targets.tokens.len()].iter();
            let error = rows.find_map(|row| check_logits(row).err())?;
            Some((*id, error))
        });
        let mut hidden = self.outputs.hidden.rows();
        let chunks = plan.chunks.iter().filter_map(|chunk| {
            let rows = chunk.hidden.count(chunk.tokens.len());
            let checked: Vec<_> = hidden.by_ref().take(rows).map(check_hidden).collect();
            let error = checked.into_iter().find_map(Result::err)?;
            Some((chunk.sequence, error))
        });
        targets.chain(chunks).collect()
    }

    /// Computes the log probabilities of prompt tokens, in parallel.
    fn prompt_logprobs(&self, plan: &StepPlan, invalid: &InvalidOutputs) -> Vec<SampledToken> {
        let targets = self.scheduler.logprob_targets(plan, invalid);
        if targets.is_empty() {
            return Vec::new();
        }
        let rows: Vec<&[f32]> = self.outputs.logits.rows().collect();
        let tokens = targets
            .iter()
            .flat_map(|(_, first, LogprobTargets { top, tokens })| {
                let rows = rows[*first..].iter().zip(tokens);
                rows.map(|(row, token)| (*row, *token, *top))
            });
        let tokens: Vec<(&[f32], TokenId, usize)> = tokens.collect();
        let logprobs = |(row, token, top)| SampledToken::from_model_logits(row, token, top);
        tokens.into_par_iter().map(logprobs).collect()
    }

    /// Samples the next tokens of each sequence, in parallel.
    fn sample(
        &mut self,
        plan: &StepPlan,
        invalid: &InvalidOutputs,
    ) -> Vec<Result<SamplerOutput, SampleError>> {
        let samplers = self.scheduler.sequence_samplers(plan, invalid);
        let mut rows: Vec<_> = self.outputs.logits.rows_mut().map(Some).collect();
        let samplers = samplers.into_iter().map(|(range, sampler)| {
            let rows = rows[range].iter_mut().filter_map(Option::take);
            (sampler, rows.collect())
        });
        let samplers: Vec<(SequenceSampler<'_>, Vec<&mut [f32]>)> = samplers.collect();
        let sample = |(sampler, rows): (SequenceSampler<'_>, Vec<&mut [f32]>)| sampler.sample(rows);
        match samplers.len() {
            // Waking other threads does not pay off for a single sequence.
            1 => samplers.into_iter().map(sample).collect(),
            _ => samplers.into_par_iter().map(sample).collect(),
        }
    }

    fn deliver(&mut self, events: Vec<OutgoingEvent>) {
        for (id, event) in events {
            let is_last = matches!(
                event,
                SequenceEvent::Ended { .. }
                    | SequenceEvent::Failed(_)
                    | SequenceEvent::ConstraintFailed(_)
            );
            if let Some(events) = self.event_senders.get(&id) {
                // The next `receive` notices a disconnected client.
                let _ = events.send(event);
            }
            if is_last {
                self.event_senders.remove(&id);
            }
        }
    }

    fn publish_stats(&mut self) {
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.slots.clear();
        stats.slots.extend(self.scheduler.slots());
        stats.waiting = self.scheduler.waiting();
        stats.blocks = BlockStats {
            total: self.blocks.blocks(),
            referenced: self.blocks.blocks() - self.blocks.available(),
            evictable: self.blocks.evictable(),
            evictions: self.blocks.evictions(),
        };
        stats.counters.clone_from(self.scheduler.counters());
    }
}

/// Records in the statistics that the thread has ended, also after a panic.
struct EngineDeathGuard(Arc<Mutex<Stats>>);

impl Drop for EngineDeathGuard {
    fn drop(&mut self) {
        let reason = match std::thread::panicking() {
            true => "the engine's thread panicked",
            false => STOPPING,
        };
        let mut stats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stats.death_reason = Some(reason.to_owned());
        stats.slots.iter_mut().for_each(|slot| *slot = None);
        stats.waiting = 0;
    }
}
