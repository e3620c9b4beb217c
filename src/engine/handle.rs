//! What everybody else holds of the engine: submit a job, listen to its events, read the numbers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::EngineOptions;
use super::job::Job;
use super::runner::{ModelRunner, RunError};
use super::sequence::{Clock, SequenceEvent, SequenceId};
use super::slot_orders::{MAX_ORDERS, SavedSequence, SlotOrder, SlotTask};
use super::stats::{BlockStats, Stats};
use super::worker::{Message, Submission, Worker};

/// A sequence's events. Dropping it cancels the sequence within one step.
pub type Events = UnboundedReceiver<SequenceEvent>;

/// Why a job was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// As many wait as may.
    #[error("{waiting} requests wait already")]
    QueueFull {
        /// How many.
        waiting: usize,
    },
    /// A sequence of its length cannot be.
    #[error("a prompt of {prompt_tokens} tokens does not fit a context of {context_tokens}")]
    TooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Tokens a sequence may have.
        context_tokens: usize,
    },
    /// No token to begin with.
    #[error("the prompt is empty")]
    Empty,
    /// There is no such slot.
    #[error("there is no slot {0}")]
    UnknownSlot(usize),
    /// The engine stops, or has failed.
    #[error("the engine does not run")]
    Stopped,
}

/// Room for jobs among those that run or wait. What was not used for a job is free again when this is dropped.
#[derive(Debug)]
pub struct Reservation(OwnedSemaphorePermit);

/// Why something could not be done with a slot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// There is no such slot.
    #[error("there is no slot {0}")]
    Unknown(usize),
    /// As many orders wait for their slots as may.
    #[error("{MAX_ORDERS} actions wait for their slots already: try again later")]
    Busy,
    /// The runner could not.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The engine stops, or has failed.
    #[error("the engine does not run")]
    Stopped,
}

/// A handle to the engine's thread; clones share it. When the last one is dropped, the thread ends as
/// soon as nothing runs.
#[derive(Clone)]
pub struct EngineHandle {
    messages: Sender<Message>,
    places: Arc<Semaphore>,
    slot_orders: Arc<Semaphore>,
    stats: Arc<Mutex<Stats>>,
    next: Arc<AtomicU64>,
    options: Arc<EngineOptions>,
    clock: Clock,
}

/// Starts the engine's thread.
///
/// # Errors
/// If the options do not fit together ([`EngineOptions::check`]) or the system has no thread to give.
pub fn start(
    runner: Box<dyn ModelRunner>,
    options: EngineOptions,
    clock: Clock,
) -> Result<EngineHandle, String> {
    options.check()?;
    let (messages, inbox) = std::sync::mpsc::channel();
    let stats = Arc::new(Mutex::new(Stats {
        slots: vec![None; options.parallel],
        blocks: BlockStats {
            total: options.blocks,
            ..BlockStats::default()
        },
        ..Stats::default()
    }));
    let worker = Worker::new(runner, options.clone(), inbox, Arc::clone(&stats), clock);
    std::thread::Builder::new()
        .name("engine".to_owned())
        .spawn(move || worker.run())
        .map_err(|error| format!("cannot start the engine's thread: {error}"))?;
    Ok(EngineHandle {
        messages,
        places: Arc::new(Semaphore::new(options.parallel + options.queue)),
        slot_orders: Arc::new(Semaphore::new(MAX_ORDERS)),
        stats,
        next: Arc::new(AtomicU64::new(0)),
        options: Arc::new(options),
        clock,
    })
}

impl EngineHandle {
    /// Takes room for that many jobs among those that run or wait.
    pub fn reserve(&self, jobs: usize) -> Result<Reservation, SubmitError> {
        let full = SubmitError::QueueFull {
            waiting: self.options.queue,
        };
        let count = u32::try_from(jobs).map_err(|_| full.clone())?;
        let permit = Arc::clone(&self.places).try_acquire_many_owned(count);
        permit.map(Reservation).map_err(|_| full)
    }

    /// Queues a job, if there is room. Its events arrive on the receiver.
    pub fn submit(&self, job: Job) -> Result<(SequenceId, Events), SubmitError> {
        self.check(&job)?;
        self.submit_reserved(job, &mut self.reserve(1)?)
    }

    /// Queues a job in room that was reserved for it.
    pub fn submit_reserved(
        &self,
        job: Job,
        reservation: &mut Reservation,
    ) -> Result<(SequenceId, Events), SubmitError> {
        self.check(&job)?;
        let permit = reservation.0.split(1).ok_or(SubmitError::QueueFull {
            waiting: self.options.queue,
        })?;
        let (events, receiver) = unbounded_channel();
        let id = SequenceId(self.next.fetch_add(1, Ordering::Relaxed));
        let submission = Submission {
            id,
            job,
            submitted: (self.clock)(),
            permit,
            events,
        };
        self.messages
            .send(Message::Submit(Box::new(submission)))
            .map_err(|_| SubmitError::Stopped)?;
        Ok((id, receiver))
    }

    /// Refuses a job that could never run.
    fn check(&self, job: &Job) -> Result<(), SubmitError> {
        let EngineOptions {
            parallel,
            context_tokens,
            ..
        } = *self.options;
        if job.prompt.is_empty() {
            return Err(SubmitError::Empty);
        }
        if !job.fits(context_tokens) {
            return Err(SubmitError::TooLong {
                prompt_tokens: job.prompt.len(),
                context_tokens,
            });
        }
        if let Some(slot) = job.slot.filter(|slot| *slot >= parallel) {
            return Err(SubmitError::UnknownSlot(slot));
        }
        Ok(())
    }

    /// What the cache holds of the sequence that a slot ran last. Waits until the slot runs nothing.
    pub async fn save_slot(&self, slot: usize) -> Result<Option<SavedSequence>, SlotError> {
        let saved = self.order(slot, SlotTask::Save).await?;
        Ok(saved?)
    }

    /// Puts a saved sequence into the cache as the one that a slot ran last. Waits until the slot runs nothing.
    /// Answers how many of its tokens there was room for.
    pub async fn restore_slot(
        &self,
        slot: usize,
        saved: SavedSequence,
    ) -> Result<usize, SlotError> {
        let restored = self.order(slot, |waiting| SlotTask::Restore(saved, waiting));
        Ok(restored.await??)
    }

    /// Forgets what of the cache only the sequence reaches that a slot ran last. Waits until the slot runs nothing.
    /// Answers how many tokens that were.
    pub async fn erase_slot(&self, slot: usize) -> Result<usize, SlotError> {
        self.order(slot, SlotTask::Erase).await
    }

    async fn order<T>(
        &self,
        slot: usize,
        task: impl FnOnce(oneshot::Sender<T>) -> SlotTask,
    ) -> Result<T, SlotError> {
        if slot >= self.options.parallel {
            return Err(SlotError::Unknown(slot));
        }
        let permit = Arc::clone(&self.slot_orders).try_acquire_owned();
        let (waiting, done) = oneshot::channel();
        let order = Message::Slot(SlotOrder {
            slot,
            task: task(waiting),
            _permit: permit.map_err(|_| SlotError::Busy)?,
        });
        self.messages.send(order).map_err(|_| SlotError::Stopped)?;
        done.await.map_err(|_| SlotError::Stopped)
    }

    /// The numbers after the last step.
    pub fn stats(&self) -> Stats {
        self.stats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The engine's limits.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Ends all sequences after the step that runs, and the thread with them.
    pub fn stop(&self) {
        // A worker that is gone has nothing to stop.
        let _ = self.messages.send(Message::Stop);
    }
}
