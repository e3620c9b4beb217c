//! The handle to the engine: submits requests, returns their events, executes slot actions and reads statistics.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::EngineOptions;
use super::request::SequenceRequest;
use super::runner::{ModelRunner, RunError};
use super::sequence::{Clock, SequenceEvent};
use super::sequence_id::SequenceId;
use super::slot_actions::{MAX_SLOT_ACTIONS, SavedSequence, SlotAction, SlotCommand};
use super::stats::{BlockStats, Stats};
use super::worker::{Message, SubmitMessage, Worker};

/// The events of one sequence. Dropping the receiver cancels the sequence within one step.
pub type SequenceEvents = UnboundedReceiver<SequenceEvent>;

/// Why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full.
    #[error("{waiting} requests wait already")]
    QueueFull {
        /// Number of waiting requests, which is the queue's limit.
        waiting: usize,
    },
    /// The prompt does not fit the context.
    #[error("a prompt of {prompt_tokens} tokens does not fit a context of {context_tokens}")]
    TooLong {
        /// Number of tokens in the prompt.
        prompt_tokens: usize,
        /// Maximum number of tokens of a sequence.
        context_tokens: usize,
    },
    /// The prompt has no tokens.
    #[error("the prompt is empty")]
    Empty,
    /// The slot does not exist.
    #[error("slot not found: {0}")]
    UnknownSlot(usize),
    /// The engine is stopping or its thread has ended.
    #[error("the engine is not running")]
    Stopped,
}

/// Admission permits for a number of requests. Dropping the reservation returns the unused permits.
#[derive(Debug)]
pub struct Reservation(OwnedSemaphorePermit);

/// Why a slot action failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlotError {
    /// The slot does not exist.
    #[error("slot not found: {0}")]
    Unknown(usize),
    /// Too many slot actions are pending.
    #[error("{MAX_SLOT_ACTIONS} actions wait for their slots already: try again later")]
    Busy,
    /// The runner could not read or write a block.
    #[error(transparent)]
    Run(#[from] RunError),
    /// The engine is stopping or its thread has ended.
    #[error("the engine is not running")]
    Stopped,
}

/// A handle to the engine's thread; clones share the thread. The thread ends when all handles are dropped and no
/// sequence is left.
#[derive(Clone)]
pub struct EngineHandle {
    messages: Sender<Message>,
    admission_permits: Arc<Semaphore>,
    slot_action_permits: Arc<Semaphore>,
    stats: Arc<Mutex<Stats>>,
    next_id: Arc<AtomicU64>,
    options: Arc<EngineOptions>,
    clock: Clock,
}

/// Starts the engine's thread.
///
/// # Errors
/// If the options are invalid ([`EngineOptions::check`]), or the operating system cannot create a thread.
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
        admission_permits: Arc::new(Semaphore::new(options.parallel + options.queue)),
        slot_action_permits: Arc::new(Semaphore::new(MAX_SLOT_ACTIONS)),
        stats,
        next_id: Arc::new(AtomicU64::new(0)),
        options: Arc::new(options),
        clock,
    })
}

impl EngineHandle {
    /// Reserves admission permits for `requests` requests. Reserves none if the queue does not have room for all of
    /// them.
    pub fn reserve(&self, requests: usize) -> Result<Reservation, SubmitError> {
        let full = SubmitError::QueueFull {
            waiting: self.options.queue,
        };
        let count = u32::try_from(requests).map_err(|_| full.clone())?;
        let permit = Arc::clone(&self.admission_permits).try_acquire_many_owned(count);
        permit.map(Reservation).map_err(|_| full)
    }

    /// Queues a request if the queue is not full. Returns the id of the sequence and the receiver of its events.
    pub fn submit(
        &self,
        request: SequenceRequest,
    ) -> Result<(SequenceId, SequenceEvents), SubmitError> {
        self.check(&request)?;
        self.submit_reserved(request, &mut self.reserve(1)?)
    }

    /// Queues a request with one of the reserved admission permits.
    pub fn submit_reserved(
        &self,
        request: SequenceRequest,
        reservation: &mut Reservation,
    ) -> Result<(SequenceId, SequenceEvents), SubmitError> {
        self.check(&request)?;
        let permit = reservation.0.split(1).ok_or(SubmitError::QueueFull {
            waiting: self.options.queue,
        })?;
        let (events, receiver) = unbounded_channel();
        let id = SequenceId(self.next_id.fetch_add(1, Ordering::Relaxed));
        let message = SubmitMessage {
            id,
            request,
            submitted: (self.clock)(),
            permit,
            events,
        };
        self.messages
            .send(Message::Submit(Box::new(message)))
            .map_err(|_| SubmitError::Stopped)?;
        Ok((id, receiver))
    }

    /// Returns an error for a request that can never run.
    fn check(&self, request: &SequenceRequest) -> Result<(), SubmitError> {
        let EngineOptions {
            parallel,
            context_tokens,
            ..
        } = *self.options;
        if request.prompt.is_empty() {
            return Err(SubmitError::Empty);
        }
        if !request.fits(context_tokens) {
            return Err(SubmitError::TooLong {
                prompt_tokens: request.prompt.len(),
                context_tokens,
            });
        }
        if let Some(slot) = request.slot.filter(|slot| *slot >= parallel) {
            return Err(SubmitError::UnknownSlot(slot));
        }
        Ok(())
    }

    /// Waits until the slot is free, then reads the cached blocks of the last sequence that ran in the slot. Returns
    /// `None` if the slot has no last sequence.
    pub async fn save_slot(&self, slot: usize) -> Result<Option<SavedSequence>, SlotError> {
        let saved = self.run_slot_action(slot, SlotAction::Save).await?;
        Ok(saved?)
    }

    /// Waits until the slot is free, then writes a saved sequence into the cache and makes it the slot's last sequence.
    /// Returns the number of restored tokens: fewer than saved if too few blocks are available.
    pub async fn restore_slot(
        &self,
        slot: usize,
        saved: SavedSequence,
    ) -> Result<usize, SlotError> {
        let restored = self.run_slot_action(slot, |reply| SlotAction::Restore(saved, reply));
        Ok(restored.await??)
    }

    /// Waits until the slot is free, then erases the cached blocks of its last sequence that no other slot's last
    /// sequence shares. Returns the number of erased tokens.
    pub async fn erase_slot(&self, slot: usize) -> Result<usize, SlotError> {
        self.run_slot_action(slot, SlotAction::Erase).await
    }

    async fn run_slot_action<T>(
        &self,
        slot: usize,
        action: impl FnOnce(oneshot::Sender<T>) -> SlotAction,
    ) -> Result<T, SlotError> {
        if slot >= self.options.parallel {
            return Err(SlotError::Unknown(slot));
        }
        let permit = Arc::clone(&self.slot_action_permits).try_acquire_owned();
        let (reply, result) = oneshot::channel();
        let command = Message::Slot(SlotCommand {
            slot,
            action: action(reply),
            _permit: permit.map_err(|_| SlotError::Busy)?,
        });
        self.messages
            .send(command)
            .map_err(|_| SlotError::Stopped)?;
        result.await.map_err(|_| SlotError::Stopped)
    }

    /// A copy of the statistics after the last step.
    pub fn stats(&self) -> Stats {
        self.stats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The options that the engine was started with.
    pub fn options(&self) -> &EngineOptions {
        &self.options
    }

    /// Ends all sequences and the thread after the current step.
    pub fn stop(&self) {
        // An error means that the thread has already ended.
        let _ = self.messages.send(Message::Stop);
    }
}
