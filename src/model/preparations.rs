//! Where requests are prepared: on a few threads of lower priority than the engine's, so that neither large nor hostile
//! requests slow down streams that run. As many requests may wait for a thread as the engine's queue takes; more are
//! refused. What waits or runs ends with its client.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rayon::{ThreadPool, ThreadPoolBuilder};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::GenerateError;
use crate::cancel::CancelFlag;
use crate::machine;

/// Most threads that prepare requests. A grammar that is compiled takes up to 100 MB.
const MAX_THREADS: usize = 8;
/// Fewest of them, so that one expensive request does not stop all others.
const MIN_THREADS: usize = 2;
/// The niceness of the threads relative to the engine's: the engine's have nine tenths of a core that both want.
const NICENESS: i32 = 10;

/// The threads that prepare requests, and who waits for them.
#[derive(Debug)]
pub struct Preparations {
    threads: ThreadPool,
    /// One for each thread, taken until the work ends, even if its client has left.
    idle_threads: Arc<Semaphore>,
    /// One for each request that is prepared or waits.
    places: Arc<Semaphore>,
    waiting: usize,
    stop: CancelFlag,
}

/// A request that may be prepared.
#[derive(Debug)]
pub struct Admitted<'a> {
    preparations: &'a Preparations,
    _place: OwnedSemaphorePermit,
    /// Whether a part of it is done, so that the request is finished even if the server stops.
    has_begun: AtomicBool,
}

impl Preparations {
    /// Threads for which `waiting` requests may wait.
    ///
    /// # Errors
    /// If the system has no threads to give.
    pub fn new(waiting: usize) -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let count = (cores / 2).clamp(MIN_THREADS, MAX_THREADS);
        let threads = ThreadPoolBuilder::new()
            .num_threads(count)
            .thread_name(|number| format!("prepare-{number}"))
            .start_handler(|_| {
                if let Err(error) = machine::lower_thread_priority(NICENESS) {
                    tracing::debug!(%error, "preparations have the engine's priority");
                }
            })
            .build()
            .map_err(io::Error::other)?;
        let waiting = waiting.min(Semaphore::MAX_PERMITS - count);
        Ok(Self {
            threads,
            idle_threads: Arc::new(Semaphore::new(count)),
            places: Arc::new(Semaphore::new(count + waiting)),
            waiting,
            stop: CancelFlag::default(),
        })
    }

    /// Takes a place for a request.
    ///
    /// # Errors
    /// If as many requests wait as may.
    pub fn admit(&self) -> Result<Admitted<'_>, GenerateError> {
        let full = |_| GenerateError::PreparationsFull {
            waiting: self.waiting,
        };
        let place = Arc::clone(&self.places).try_acquire_owned();
        Ok(Admitted {
            preparations: self,
            _place: place.map_err(full)?,
            has_begun: AtomicBool::new(false),
        })
    }

    /// Cancels the first parts of all preparations, those that begin later included. A request of several parts that has had
    /// one of them is answered: its other parts are done as ever.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl Admitted<'_> {
    /// Does a part of the request's preparation when a thread is free. When the returned future is dropped, work that
    /// has not begun never does, and work that runs is cancelled by its flag.
    ///
    /// # Errors
    /// If the work panicked, or the server stops before the first part is done.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&CancelFlag) -> T + Send + 'static,
    ) -> Result<T, GenerateError> {
        let Preparations {
            threads,
            idle_threads,
            stop,
            ..
        } = self.preparations;
        let thread = Arc::clone(idle_threads).acquire_owned().await;
        let cancel = match self.has_begun.load(Ordering::Relaxed) {
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
            // A client that left needs no result.
            let _ = send.send(result);
        });
        match result.await {
            Ok(Ok(result)) => {
                self.has_begun.store(true, Ordering::Relaxed);
                Ok(result)
            }
            Ok(Err(_)) | Err(_) => Err(GenerateError::Failed(
                "the request's preparation panicked".to_owned(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    /// Work that occupies a thread until it is cancelled; it reports when it has begun.
    fn until_cancelled(begun: mpsc::Sender<()>) -> impl FnOnce(&CancelFlag) + Send + 'static {
        move |cancel| {
            begun.send(()).unwrap();
            while !cancel.is_cancelled() {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn count(preparations: &Preparations) -> usize {
        preparations.threads.current_num_threads()
    }

    #[tokio::test]
    async fn one_request_more_than_may_wait_is_refused() {
        let preparations = Preparations::new(3).unwrap();
        let places: Vec<_> = (0..count(&preparations) + 3)
            .map(|_| preparations.admit().unwrap())
            .collect();
        let refused = preparations.admit().unwrap_err();
        assert!(
            matches!(refused, GenerateError::PreparationsFull { waiting: 3 }),
            "{refused}"
        );
        drop(places);
        assert!(preparations.admit().is_ok());
    }

    #[tokio::test]
    async fn what_waits_or_runs_ends_with_its_client() {
        let preparations = Preparations::new(3).unwrap();
        let (begun, begins) = mpsc::channel();
        let admitted = preparations.admit().unwrap();
        let running: Vec<_> = (0..count(&preparations))
            .map(|_| Box::pin(admitted.run(until_cancelled(begun.clone()))))
            .collect();
        let patience = Duration::from_millis(50);
        let running = futures_util::future::join_all(running);
        let mut running = Box::pin(running);
        assert!(tokio::time::timeout(patience, &mut running).await.is_err());
        let waiting = admitted.run(|_| ());
        assert!(tokio::time::timeout(patience, waiting).await.is_err());
        drop(running);
        admitted.run(|_| ()).await.unwrap();
        assert_eq!(begins.try_iter().count(), count(&preparations));
    }

    #[tokio::test]
    async fn a_panic_and_a_stop_are_errors() {
        let preparations = Preparations::new(3).unwrap();
        let admitted = preparations.admit().unwrap();
        let panicked = admitted.run(|_| panic!("a defect")).await;
        assert!(matches!(panicked, Err(GenerateError::Failed(_))));
        assert!(admitted.run(|cancel| cancel.check()).await.unwrap().is_ok());
        preparations.stop();
        let stopped = preparations.admit().unwrap();
        let stopped = stopped.run(|_| ()).await;
        assert!(matches!(stopped, Err(GenerateError::Cancelled)));
    }

    #[tokio::test]
    async fn a_request_that_has_begun_is_prepared_to_its_end_when_the_server_stops() {
        let preparations = Preparations::new(3).unwrap();
        let (batch, late) = (preparations.admit().unwrap(), preparations.admit().unwrap());
        batch.run(|_| ()).await.unwrap();
        preparations.stop();
        assert!(batch.run(|cancel| cancel.check()).await.unwrap().is_ok());
        let late = late.run(|cancel| cancel.check()).await;
        assert!(matches!(late, Err(GenerateError::Cancelled)));
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn the_threads_have_a_lower_priority() {
        let preparations = Preparations::new(3).unwrap();
        let admitted = preparations.admit().unwrap();
        let niceness = admitted.run(|_| {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            // The 19th field; the second one, in parentheses, may contain spaces.
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
