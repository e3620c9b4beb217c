//! The engine's thread: the one owner of the runner, the cache and the sequences.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use rayon::prelude::*;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::UnboundedSender;

use super::EngineOptions;
use super::chooser::{ChooseError, Chooser, Chosen};
use super::job::Job;
use super::numbers::{NumberError, check_hidden, check_logits};
use super::runner::{ModelRunner, Outputs};
use super::scheduler::{Computed, Delivery, Scheduler};
use super::scores::Scored;
use super::sequence::{Clock, Sequence, SequenceEvent, SequenceId};
use super::slot_orders::{self, SlotOrder, SlotTask};
use super::stats::{BlockStats, Stats};
use super::step::StepPlan;
use crate::cache::BlockPool;
use crate::sampling::Choice;
use crate::token::TokenId;

/// What is told to sequences that a stop cuts off.
const STOPPING: &str = "the server is stopping";

/// What reaches the worker.
pub(super) enum Message {
    Submit(Box<Submission>),
    Slot(SlotOrder),
    Stop,
}

pub(super) struct Submission {
    pub(super) id: SequenceId,
    pub(super) job: Job,
    pub(super) submitted: Instant,
    pub(super) permit: OwnedSemaphorePermit,
    pub(super) events: UnboundedSender<SequenceEvent>,
}

/// Sequences of a step that cannot go on with what it computed, and why.
pub(super) type Unusable = HashMap<SequenceId, NumberError>;

pub(super) struct Worker {
    runner: Box<dyn ModelRunner>,
    outputs: Outputs,
    scheduler: Scheduler,
    blocks: BlockPool,
    context_tokens: usize,
    inbox: Receiver<Message>,
    /// Those whose slots run something.
    orders: Vec<SlotOrder>,
    listeners: HashMap<SequenceId, UnboundedSender<SequenceEvent>>,
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
            scheduler: Scheduler::new(options, runner.cheap_rows()),
            runner,
            inbox,
            orders: Vec::new(),
            listeners: HashMap::new(),
            stats,
            clock,
        }
    }

    /// Steps until a stop is asked for, or nobody is left who could ask for anything.
    pub(super) fn run(mut self) {
        let obituary = Obituary(Arc::clone(&self.stats));
        while self.receive().is_continue() {
            self.step();
        }
        for (_, listener) in self.listeners.drain() {
            // A listener that left needs no news.
            let _ = listener.send(SequenceEvent::Failed(STOPPING.to_owned()));
        }
        drop(obituary);
    }

    fn step(&mut self) {
        let (plan, events) = self.scheduler.plan(&mut self.blocks, (self.clock)());
        self.report();
        self.deliver(events);
        let Some(plan) = plan else { return };
        let tokens = plan.tokens();
        let events = match self.runner.run(&plan, &mut self.outputs) {
            Ok(()) => {
                let unusable = self.unusable(&plan);
                // Choosing overwrites logits.
                let scored = self.score(&plan, &unusable);
                let sampled = self.sample(&plan, &unusable);
                let now = (self.clock)();
                let computed = Computed {
                    unusable,
                    scored,
                    sampled,
                    hidden: &self.outputs.hidden,
                };
                self.scheduler.commit(plan, computed, &mut self.blocks, now)
            }
            Err(error) => {
                tracing::error!(%error, tokens, "a step failed; its sequences end");
                self.scheduler.fail(plan, &error, &mut self.blocks)
            }
        };
        self.report();
        self.deliver(events);
    }

    /// Takes what has arrived, then forgets whose listener left. Waits only if there is nothing to do.
    fn receive(&mut self) -> ControlFlow<()> {
        // The last step may have made their slots free.
        self.follow_orders();
        loop {
            let message = match self.scheduler.is_idle() {
                true => {
                    self.check_the_blocks();
                    self.inbox.recv().map_err(|_| TryRecvError::Disconnected)
                }
                false => self.inbox.try_recv(),
            };
            match message {
                Ok(Message::Submit(submission)) => self.add(*submission),
                Ok(Message::Slot(order)) => {
                    self.orders.push(order);
                    self.follow_orders();
                }
                Ok(Message::Stop) => return ControlFlow::Break(()),
                Err(TryRecvError::Empty) => break,
                // The last handle is gone: finish what runs, then end.
                Err(TryRecvError::Disconnected) if self.scheduler.is_idle() => {
                    return ControlFlow::Break(());
                }
                Err(TryRecvError::Disconnected) => break,
            }
        }
        self.forget_the_departed();
        ControlFlow::Continue(())
    }

    fn add(&mut self, submission: Submission) {
        let Submission {
            id,
            job,
            submitted,
            permit,
            events,
        } = submission;
        self.listeners.insert(id, events);
        let sequence = Sequence::new(id, job, self.context_tokens, submitted, permit);
        self.scheduler.add(sequence);
    }

    /// Does what is to be done with slots that run nothing.
    fn follow_orders(&mut self) {
        self.orders.retain(|order| !order.is_abandoned());
        let free = |order: &mut SlotOrder| self.scheduler.last(order.slot).is_some();
        let orders: Vec<SlotOrder> = self.orders.extract_if(.., free).collect();
        if orders.is_empty() {
            return;
        }
        orders.into_iter().for_each(|order| self.follow(order));
        self.report();
    }

    /// Who gave the order may have left: then nobody is told.
    fn follow(&mut self, SlotOrder { slot, task, .. }: SlotOrder) {
        let Some(place) = self.scheduler.last(slot) else {
            return;
        };
        let (runner, blocks) = (&mut *self.runner, &mut self.blocks);
        match task {
            SlotTask::Save(waiting) => {
                let saved = place.as_ref();
                let saved = saved.map(|last| slot_orders::save(last, runner, blocks));
                let _ = waiting.send(saved.transpose());
            }
            SlotTask::Restore(saved, waiting) => {
                let restored = slot_orders::restore(saved, runner, blocks);
                let count = restored.as_ref().map(|last| last.tokens.len());
                let _ = waiting.send(count.map_err(Clone::clone));
                *place = restored.ok();
            }
            SlotTask::Erase(waiting) => {
                let erased = place.take().map(|last| {
                    let others = self.scheduler.all_last();
                    slot_orders::erase(&last, others, blocks)
                });
                let _ = waiting.send(erased.unwrap_or(0));
            }
        }
    }

    /// Nobody holds a block now, or one was lost.
    fn check_the_blocks(&self) {
        if let Err(error) = self.blocks.check_at_rest() {
            tracing::error!(
                error,
                "the cache's blocks do not add up; this is a defect of the program"
            );
            debug_assert!(false, "{error}");
        }
    }

    fn forget_the_departed(&mut self) {
        let departed: Vec<SequenceId> = self
            .listeners
            .iter()
            .filter(|(_, listener)| listener.is_closed())
            .map(|(id, _)| *id)
            .collect();
        if departed.is_empty() {
            return;
        }
        for id in departed {
            self.listeners.remove(&id);
            self.scheduler.cancel(id, &mut self.blocks);
        }
        self.report();
    }

    /// The sequences whose scores or hidden states cannot be used. Logits by which a token is chosen are checked when it is:
    /// those behind a wrong draft token do not matter.
    fn unusable(&self, plan: &StepPlan) -> Unusable {
        let logits: Vec<&[f32]> = self.outputs.logits.rows().collect();
        let scored = self.scheduler.scored(plan, &Unusable::new());
        let scored = scored.iter().filter_map(|(id, first, scored)| {
            let mut rows = logits[*first..][..scored.tokens.len()].iter();
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
        scored.chain(chunks).collect()
    }

    /// Tells how probable tokens of prompts were, on the machine's cores.
    fn score(&self, plan: &StepPlan, unusable: &Unusable) -> Vec<Choice> {
        let scored = self.scheduler.scored(plan, unusable);
        if scored.is_empty() {
            return Vec::new();
        }
        let rows: Vec<&[f32]> = self.outputs.logits.rows().collect();
        let tokens = scored
            .iter()
            .flat_map(|(_, first, Scored { top, tokens })| {
                let rows = rows[*first..].iter().zip(tokens);
                rows.map(|(row, token)| (*row, *token, *top))
            });
        let tokens: Vec<(&[f32], TokenId, usize)> = tokens.collect();
        let score = |(row, token, top)| Choice::by_the_model(row, token, top);
        tokens.into_par_iter().map(score).collect()
    }

    /// Chooses the next tokens of each sequence, several at once on the machine's cores.
    fn sample(&mut self, plan: &StepPlan, unusable: &Unusable) -> Vec<Result<Chosen, ChooseError>> {
        let choosers = self.scheduler.choosers(plan, unusable);
        let mut rows: Vec<_> = self.outputs.logits.rows_mut().map(Some).collect();
        let choosers = choosers.into_iter().map(|(places, chooser)| {
            let rows = rows[places].iter_mut().filter_map(Option::take);
            (chooser, rows.collect())
        });
        let choosers: Vec<(Chooser<'_>, Vec<&mut [f32]>)> = choosers.collect();
        let choose = |(chooser, rows): (Chooser<'_>, Vec<&mut [f32]>)| chooser.choose(rows);
        match choosers.len() {
            // Not worth waking anybody.
            1 => choosers.into_iter().map(choose).collect(),
            _ => choosers.into_par_iter().map(choose).collect(),
        }
    }

    fn deliver(&mut self, events: Vec<Delivery>) {
        for (id, event) in events {
            let ended = matches!(
                event,
                SequenceEvent::Ended { .. }
                    | SequenceEvent::Failed(_)
                    | SequenceEvent::Unfollowable(_)
            );
            if let Some(listener) = self.listeners.get(&id) {
                // A listener that left is noticed at the next `receive`.
                let _ = listener.send(event);
            }
            if ended {
                self.listeners.remove(&id);
            }
        }
    }

    fn report(&mut self) {
        let mut stats = self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        stats.slots.clear();
        stats.slots.extend(self.scheduler.slots());
        stats.waiting = self.scheduler.waiting();
        stats.blocks = BlockStats {
            total: self.blocks.blocks(),
            held: self.blocks.blocks() - self.blocks.available(),
            idle: self.blocks.idle(),
            evictions: self.blocks.evictions(),
        };
        stats.counters.clone_from(self.scheduler.counters());
    }
}

/// Says in the numbers that the thread has ended, also when it panics.
struct Obituary(Arc<Mutex<Stats>>);

impl Drop for Obituary {
    fn drop(&mut self) {
        let cause = match std::thread::panicking() {
            true => "the engine's thread panicked",
            false => STOPPING,
        };
        let mut stats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        stats.dead = Some(cause.to_owned());
        stats.slots.iter_mut().for_each(|slot| *slot = None);
        stats.waiting = 0;
    }
}
