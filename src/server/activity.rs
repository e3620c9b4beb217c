//! What a connection does: whether it answers requests or waits for one, and since when. A connection that waits for too
//! long is closed, whatever its protocol.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How long a client may take to send the first byte of its first request, after a handshake if there is one.
const FIRST_BYTE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a client may take to send a request's header, from its first byte.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// How long a connection is kept between requests: longer than the 60 seconds after which usual proxies close theirs.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// The same while the server stops: long enough to send the rest of an answer.
const STOPPING_DEADLINE: Duration = Duration::from_secs(1);

/// What a connection does.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
    /// Wakes [`Activity::expired`].
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Requests whose answers are not sent yet.
    requests: usize,
    /// Whether a part of the next request's header has come.
    reads_header: bool,
    has_answered: bool,
    /// Since when the connection has been in this state without a byte that was sent.
    since: Instant,
    is_evicted: bool,
}

/// A request that is being answered, until this is dropped.
#[derive(Debug)]
pub(super) struct RequestGuard(Arc<Activity>);

impl Activity {
    /// That of a connection that has just begun.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                requests: 0,
                reads_header: false,
                has_answered: false,
                since: Instant::now(),
                is_evicted: false,
            }),
            changed: Notify::new(),
        })
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>) -> RequestGuard {
        self.state().requests += 1;
        RequestGuard(Arc::clone(self))
    }

    /// Since when the connection has answered nothing; `None` if it does.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        (state.requests == 0).then_some(state.since)
    }

    /// The connection is to end, because its place is needed.
    pub(super) fn evict(&self) {
        self.state().is_evicted = true;
        self.changed.notify_one();
    }

    /// The encryption is set up: the first request may come.
    pub(super) fn handshake_done(&self) {
        self.state().since = Instant::now();
        self.changed.notify_one();
    }

    /// Waits until the connection is to be closed: it was evicted, or has been idle for too long. No deadline is longer than
    /// `longest`; once `stopping` is closed all are short.
    pub(super) async fn expired(&self, longest: Duration, mut stopping: watch::Receiver<()>) {
        loop {
            let stops = stopping.has_changed().is_err();
            let deadline = {
                let state = self.state();
                if state.is_evicted {
                    return;
                }
                state.deadline(longest, stops)
            };
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return;
            }
            let passed = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = passed => {}
                () = self.changed.notified() => {}
                _ = stopping.changed(), if !stops => {}
            }
        }
    }

    fn has_read(&self) {
        let mut state = self.state();
        if state.requests == 0 && !state.reads_header {
            state.reads_header = true;
            state.since = Instant::now();
            self.changed.notify_one();
        }
    }

    fn has_written(&self) {
        let mut state = self.state();
        if state.requests == 0 && state.has_answered {
            state.since = Instant::now();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn deadline(&self, longest: Duration, stops: bool) -> Option<Instant> {
        let usual = match (self.reads_header, self.has_answered) {
            (true, _) => HEADER_DEADLINE,
            (false, false) => FIRST_BYTE_DEADLINE,
            (false, true) => KEEP_ALIVE,
        };
        let limit = usual.min(longest);
        let limit = if stops {
            limit.min(STOPPING_DEADLINE)
        } else {
            limit
        };
        (self.requests == 0).then(|| self.since + limit)
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.requests -= 1;
        if state.requests == 0 {
            state.reads_header = false;
            state.has_answered = true;
            state.since = Instant::now();
            self.0.changed.notify_one();
        }
    }
}

/// A socket whose bytes are noticed.
pub(super) struct Watched<S> {
    pub(super) socket: S,
    pub(super) activity: Arc<Activity>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.socket).poll_read(context, buffer));
        if buffer.filled().len() > before {
            self.activity.has_read();
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write(context, bytes));
        self.activity.has_written();
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.socket).poll_write_vectored(context, parts));
        self.activity.has_written();
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long the connection may stay as it is.
    fn allowed(activity: &Activity, longest: Duration, stops: bool) -> Option<Duration> {
        let state = activity.state();
        let deadline = state.deadline(longest, stops);
        deadline.map(|deadline| deadline - state.since)
    }

    #[test]
    fn each_kind_of_waiting_has_its_deadline() {
        let (hour, short) = (Duration::from_secs(3600), Duration::from_secs(3));
        let silent = Activity::new();
        assert_eq!(allowed(&silent, hour, false), Some(FIRST_BYTE_DEADLINE));
        assert_eq!(allowed(&silent, short, false), Some(short));
        assert_eq!(allowed(&silent, hour, true), Some(STOPPING_DEADLINE));
        silent.has_read();
        assert_eq!(allowed(&silent, hour, false), Some(HEADER_DEADLINE));
        let request = silent.begin();
        assert_eq!(allowed(&silent, short, true), None);
        drop(request);
        assert_eq!(allowed(&silent, hour, false), Some(KEEP_ALIVE));
    }

    #[test]
    fn bytes_of_a_header_do_not_extend_its_deadline() {
        let activity = Activity::new();
        activity.has_read();
        let since = activity.idle_since();
        activity.has_read();
        assert_eq!(activity.idle_since(), since);
    }

    #[tokio::test]
    async fn a_connection_expires_when_it_is_idle_evicted_or_the_server_stops() {
        let short = Duration::from_millis(20);
        let (accepting, stopping) = watch::channel(());
        let activity = Activity::new();
        let request = activity.begin();
        let expired = activity.expired(short, stopping.clone());
        tokio::pin!(expired);
        assert!(tokio::time::timeout(5 * short, &mut expired).await.is_err());
        drop(request);
        expired.await;

        let (activity, hour) = (Activity::new(), Duration::from_secs(3600));
        activity.evict();
        activity.expired(hour, stopping.clone()).await;

        let activity = Activity::new();
        let expired = activity.expired(hour, stopping);
        tokio::pin!(expired);
        assert!(tokio::time::timeout(short, &mut expired).await.is_err());
        drop(accepting);
        let soon = 2 * STOPPING_DEADLINE;
        assert!(tokio::time::timeout(soon, &mut expired).await.is_ok());
    }
}
