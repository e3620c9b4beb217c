//! Threads that prepare requests. Their priority is lower than the engine's, so that large or malicious requests do not
//! slow down running streams. A bounded number of requests waits for a thread; further requests are rejected. The
//! preparation of a request is cancelled when the client disconnects.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::GenerateError;
use crate::cancel::CancelFlag;
use crate::platform;

/// Maximum number of threads. Each may use up to 100 MB to compile a grammar.
const MAX_THREADS: usize = 8;
/// Minimum number of threads, so that one expensive request does not block all others.
const MIN_THREADS: usize = 2;
/// Niceness relative to the engine's threads. On a contended core, the engine then gets nine tenths of the time.
const NICENESS: i32 = 10;

/// Threads that prepare requests (see the module documentation), with a bounded queue.
#[derive(Debug)]
pub struct PreparationPool {
    threads: ThreadPool,
    /// One permit per thread. Work holds a permit until it ends, even after the client disconnects.
    idle_threads: Arc<Semaphore>,
    /// One permit per request that is prepared or waits.
    permits: Arc<Semaphore>,
    max_waiting: usize,
    stop: CancelFlag,
}

/// Permission to prepare a request. It takes a place in the queue until it is dropped.
#[derive(Debug)]
pub struct PreparationPermit<'a> {
    pool: &'a PreparationPool,
    _permit: OwnedSemaphorePermit,
    /// Whether a part of the request's preparation is done. Such a request is prepared to the end even if the server
    /// stops.
    has_finished_part: AtomicBool,
}

impl PreparationPool {
    /// Starts the threads. At most `max_waiting` requests wait for a thread.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn new(max_waiting: usize) -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let count = (cores / 2).clamp(MIN_THREADS, MAX_THREADS);
        let threads = ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|number| format!("prepare-{number}"))
            .start_handler(|_| {
                if let Err(error) = platform::lower_thread_priority(NICENESS) {
                    tracing::debug!(%error, "cannot lower the priority of preparation threads");
                }
            })
            .build()
            .map_err(io::Error::other)?;
        let max_waiting = max_waiting.min(Semaphore::MAX_PERMITS - count);
        Ok(Self {
            threads,
            idle_threads: Arc::new(Semaphore::new(count)),
            permits: Arc::new(Semaphore::new(count + max_waiting)),
            max_waiting,
            stop: CancelFlag::default(),
        })
    }

    /// Admits a request to the queue.
    ///
    /// # Errors
    /// If the queue is full.
    pub fn admit(&self) -> Result<PreparationPermit<'_>, GenerateError> {
        let full = |_| GenerateError::PreparationQueueFull {
            waiting: self.max_waiting,
        };
        let permit = Arc::clone(&self.permits).try_acquire_owned();
        Ok(PreparationPermit {
            pool: self,
            _permit: permit.map_err(full)?,
            has_finished_part: AtomicBool::new(false),
        })
    }

    /// Cancels the running and later preparations of all requests without a finished part. Requests with a finished
    /// part are prepared to the end.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl PreparationPermit<'_> {
    /// Runs one part of the request's preparation as soon as a thread is free. Dropping the future discards waiting
    /// work and sets the cancel flag of running work.
    ///
    /// # Errors
    /// If the work panics, or the server stops before the request's first part is done.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&CancelFlag) -> T + Send + 'static,
    ) -> Result<T, GenerateError> {
        let PreparationPool {
            threads,
            idle_threads,
            stop,
            ..
        } = self.pool;
        let thread = Arc::clone(idle_threads).acquire_owned().await;
        let cancel = match self.has_finished_part.load(Ordering::Relaxed) {
            true => CancelFlag::default(),
            false => {
                stop.check()?;
                stop.child()
            }
        };
        let _cancelled_with_client = cancel.clone().cancel_on_drop();
        let (send, result) = oneshot::channel();
        let span = tracing::Span::current();
        threads.spawn_fifo(move || {
            let _entered = span.enter();
            let result = catch_unwind(AssertUnwindSafe(|| work(&cancel)));
            drop(thread);
            // The receiver no longer exists if the client disconnected.
            let _ = send.send(result);
        });
        match result.await {
            Ok(Ok(result)) => {
                self.has_finished_part.store(true, Ordering::Relaxed);
                Ok(result)
            }
            Ok(Err(_)) | Err(_) => Err(GenerateError::Failed(
                "request preparation panicked".to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Returns work that sends a message when it starts and occupies a thread until it is cancelled.
    fn run_until_cancelled(started: mpsc::Sender<()>) -> impl FnOnce(&CancelFlag) + Send + 'static {
        move |cancel| {
            started.send(()).unwrap();
            while !cancel.is_cancelled() {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn thread_count(pool: &PreparationPool) -> usize {
        pool.threads.current_num_threads()
    }

    #[tokio::test]
    async fn rejects_a_request_when_the_queue_is_full() {
        let pool = PreparationPool::new(3).unwrap();
        let permits: Vec<_> = (0..thread_count(&pool) + 3)
            .map(|_| pool.admit().unwrap())
            .collect();
        let error = pool.admit().unwrap_err();
        assert!(
            matches!(error, GenerateError::PreparationQueueFull { waiting: 3 }),
            "{error}"
        );
        drop(permits);
        assert!(pool.admit().is_ok());
    }

    #[tokio::test]
    async fn dropping_the_future_cancels_waiting_and_running_work() {
        let pool = PreparationPool::new(3).unwrap();
        let (started, starts) = mpsc::channel();
        let permit = pool.admit().unwrap();
        let running: Vec<_> = (0..thread_count(&pool))
            .map(|_| Box::pin(permit.run(run_until_cancelled(started.clone()))))
            .collect();
        let delay = Duration::from_millis(50);
        let running = futures_util::future::join_all(running);
        let mut running = Box::pin(running);
        assert!(tokio::time::timeout(delay, &mut running).await.is_err());
        let waiting = permit.run(|_| ());
        assert!(tokio::time::timeout(delay, waiting).await.is_err());
        drop(running);
        permit.run(|_| ()).await.unwrap();
        assert_eq!(starts.try_iter().count(), thread_count(&pool));
    }

    #[tokio::test]
    async fn preparation_fails_after_a_panic_or_a_server_stop() {
        let pool = PreparationPool::new(3).unwrap();
        let permit = pool.admit().unwrap();
        let panicked = permit.run(|_| panic!("a defect")).await;
        assert!(matches!(panicked, Err(GenerateError::Failed(_))));
        assert!(permit.run(|cancel| cancel.check()).await.unwrap().is_ok());
        pool.stop();
        let stopped = pool.admit().unwrap();
        let stopped = stopped.run(|_| ()).await;
        assert!(matches!(stopped, Err(GenerateError::Cancelled)));
    }

    #[tokio::test]
    async fn a_request_with_a_finished_part_is_completed_when_the_server_stops() {
        let pool = PreparationPool::new(3).unwrap();
        let (batch, late) = (pool.admit().unwrap(), pool.admit().unwrap());
        batch.run(|_| ()).await.unwrap();
        pool.stop();
        assert!(batch.run(|cancel| cancel.check()).await.unwrap().is_ok());
        let late = late.run(|cancel| cancel.check()).await;
        assert!(matches!(late, Err(GenerateError::Cancelled)));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn preparation_threads_have_a_lower_priority() {
        let pool = PreparationPool::new(3).unwrap();
        let permit = pool.admit().unwrap();
        let niceness = permit.run(|_| {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // Field 19 is the niceness. Field 2, in parentheses, may contain spaces.
            let fields = stat.rsplit_once(')').unwrap().1;
            fields.split_whitespace().nth(16).unwrap().to_owned()
        });
        let own = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let own: i32 = own
            .rsplit_once(')')
            .unwrap()
            .1
            .split_whitespace()
            .nth(16)
            .unwrap()
            .parse()
            .unwrap();
        let expected = (own + NICENESS).min(19).to_string();
        assert_eq!(niceness.await.unwrap(), expected);
    }
}
