//! What a connection does: it answers requests or waits for one, and since when. A connection that waits for too long is
//! closed, whatever its protocol.
//!
//! A request is in flight until the last byte of its answer was flushed. Its answer is blocked while the client has to
//! take bytes of it, and not while the server computes them. A connection is stalled while all its answers are blocked.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use poem::http::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// How long a client may take to send the first byte of its first request, after a handshake if there is one.
const FIRST_BYTE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a client may take to send a request's header, from its first byte.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// How long a connection is kept between requests: longer than the 60 seconds after which usual proxies close theirs.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// How long a client may take no byte of its answers while its place is needed or the server stops: the system passes
/// the bytes for a slow client on in large portions.
pub(super) const STALL_DEADLINE: Duration = Duration::from_secs(30);
/// How long an idle connection is kept while the server stops.
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
    /// Requests in flight.
    requests: usize,
    /// Those of them whose answers are blocked.
    blocked: usize,
    /// Whether the last bytes of an answer were written and are not flushed yet.
    is_unflushed: bool,
    /// Whether a part of the next request's header has come.
    reads_header: bool,
    has_answered: bool,
    /// Whether bytes between requests need not begin a request.
    is_http2: bool,
    /// Since when the connection has been idle or stalled: the last time that a request ended, the client took a byte of
    /// an answer, or an answer became blocked.
    since: Instant,
    is_evicted: bool,
}

/// A request in flight, until this is dropped.
#[derive(Debug)]
pub(super) struct RequestGuard {
    activity: Arc<Activity>,
    answer: Mutex<Answer>,
}

/// How far the answer to a request is.
#[derive(Debug)]
struct Answer {
    /// Whether the server computes what comes next.
    is_computed: bool,
    /// Bytes that wait for the client.
    unsent: usize,
}

impl Answer {
    fn is_blocked(&self) -> bool {
        !self.is_computed || self.unsent > 0
    }
}

impl Activity {
    /// That of a connection that has just begun.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                requests: 0,
                blocked: 0,
                is_unflushed: false,
                reads_header: false,
                has_answered: false,
                is_http2: false,
                since: Instant::now(),
                is_evicted: false,
            }),
            changed: Notify::new(),
        })
    }

    /// A request has come; `None` if the connection was evicted: it ends without an answer.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> Option<Arc<RequestGuard>> {
        let mut state = self.state();
        if state.is_evicted {
            return None;
        }
        state.requests += 1;
        state.is_http2 = version == Version::HTTP_2;
        drop(state);
        Some(Arc::new(RequestGuard {
            activity: Arc::clone(self),
            answer: Mutex::new(Answer {
                is_computed: true,
                unsent: 0,
            }),
        }))
    }

    /// Since when the connection could have given its place to another one; `None` if it cannot.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.state().idle_since()
    }

    /// Ends the connection, because its place is needed; `false` if it has begun to answer.
    pub(super) fn evict(&self) -> bool {
        let mut state = self.state();
        state.is_evicted |= state.idle_since().is_some();
        self.changed.notify_one();
        state.is_evicted
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.state().is_evicted
    }

    /// The encryption is set up: the first request may come.
    pub(super) fn handshake_done(&self) {
        self.state().since = Instant::now();
        self.changed.notify_one();
    }

    /// Waits until the connection is to be closed: it was evicted, or has been idle or stalled for too long. No deadline is
    /// longer than `longest`; once `stopping` is closed all are short.
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
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return;
            }
            // An answer that becomes blocked does not wake this: its deadline is not before the next look.
            let next = deadline.unwrap_or(now + State::stall_limit(longest, stops));
            tokio::select! {
                () = tokio::time::sleep_until(next) => {}
                () = self.changed.notified() => {}
                _ = stopping.changed(), if !stops => {}
            }
        }
    }

    fn has_read(&self) {
        let mut state = self.state();
        let may_begin_request = !(state.is_http2 && state.has_answered);
        if state.requests == 0 && !state.reads_header && may_begin_request {
            state.reads_header = true;
            state.since = Instant::now();
            self.changed.notify_one();
        }
    }

    pub(super) fn has_flushed(&self) {
        let mut state = self.state();
        if state.is_unflushed {
            state.is_unflushed = false;
            state.since = Instant::now();
            self.changed.notify_one();
        }
    }

    /// As if the connection had been in its state for longer.
    #[cfg(test)]
    pub(super) fn pass(&self, time: Duration) {
        self.state().since -= time;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.requests == 0 && !self.is_unflushed
    }

    fn is_stalled(&self) -> bool {
        !self.is_idle() && self.blocked == self.requests
    }

    fn idle_since(&self) -> Option<Instant> {
        let stalled_long = self.is_stalled() && self.since.elapsed() >= STALL_DEADLINE;
        (self.is_idle() || stalled_long).then_some(self.since)
    }

    fn deadline(&self, longest: Duration, stops: bool) -> Option<Instant> {
        if !self.is_idle() {
            let limit = Self::stall_limit(longest, stops);
            return self.is_stalled().then(|| self.since + limit);
        }
        let usual = match (self.reads_header, self.has_answered) {
            _ if stops => STOPPING_DEADLINE,
            (true, _) => HEADER_DEADLINE,
            (false, false) => FIRST_BYTE_DEADLINE,
            (false, true) => KEEP_ALIVE,
        };
        Some(self.since + usual.min(longest))
    }

    /// How long the connection may be stalled.
    fn stall_limit(longest: Duration, stops: bool) -> Duration {
        match stops {
            true => longest.min(STALL_DEADLINE),
            false => longest,
        }
    }
}

impl RequestGuard {
    /// The next part of the answer was asked for: these bytes of it are to be sent, or `None` as it is still computed.
    pub(super) fn has_computed(&self, bytes: Option<usize>) {
        self.update(|answer| {
            answer.is_computed = bytes.is_none();
            answer.unsent += bytes.unwrap_or_default();
            false
        });
    }

    /// The server has an answer whose first part can be asked for.
    pub(super) fn answers(&self) {
        self.has_computed(Some(0));
    }

    /// Bytes of the answer were written, or given up.
    pub(super) fn has_sent(&self, bytes: usize) {
        self.update(|answer| {
            answer.unsent -= bytes;
            bytes > 0
        });
    }

    /// Changes the answer; `change` returns whether the client took a part of it.
    fn update(&self, change: impl FnOnce(&mut Answer) -> bool) {
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        let before = answer.is_blocked();
        let is_taken = change(&mut answer);
        let after = answer.is_blocked();
        let mut state = self.activity.state();
        state.blocked = state.blocked + usize::from(after) - usize::from(before);
        if is_taken || before != after {
            state.since = Instant::now();
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let answer = self.answer.get_mut();
        let is_blocked = answer.unwrap_or_else(PoisonError::into_inner).is_blocked();
        let mut state = self.activity.state();
        state.requests -= 1;
        state.blocked -= usize::from(is_blocked);
        state.since = Instant::now();
        if state.requests == 0 {
            state.is_unflushed = true;
            state.reads_header = false;
            state.has_answered = true;
            self.activity.changed.notify_one();
        }
    }
}

/// A socket whose reads and flushes are noticed.
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
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.socket).poll_flush(context));
        self.activity.has_flushed();
        Poll::Ready(flushed)
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
        let request = silent.begin(Version::HTTP_11);
        assert_eq!(allowed(&silent, short, true), None);
        drop(request);
        silent.has_flushed();
        assert_eq!(allowed(&silent, hour, false), Some(KEEP_ALIVE));
    }

    #[tokio::test]
    async fn an_answer_that_the_client_does_not_take_ends_the_connection() {
        let (_accepting, stopping) = watch::channel(());
        let timeout = 2 * STALL_DEADLINE;
        for is_computed in [false, true] {
            let activity = Activity::new();
            let request = activity.begin(Version::HTTP_2).unwrap();
            request.has_computed(Some(8));
            if is_computed {
                request.has_computed(None);
            }
            activity.pass(STALL_DEADLINE);
            request.has_sent(7);
            assert_eq!(activity.idle_since(), None);
            assert_eq!(allowed(&activity, timeout, false), Some(timeout));
            assert_eq!(allowed(&activity, timeout, true), Some(STALL_DEADLINE));
            activity.pass(STALL_DEADLINE);
            assert!(activity.idle_since().is_some());
            activity.pass(STALL_DEADLINE);
            activity.expired(timeout, stopping.clone()).await;
        }
    }

    #[tokio::test]
    async fn a_pause_of_the_server_never_ends_the_connection() {
        let (_accepting, stopping) = watch::channel(());
        let activity = Activity::new();
        let (first, second) = (
            activity.begin(Version::HTTP_2).unwrap(),
            activity.begin(Version::HTTP_2).unwrap(),
        );
        // The client takes nothing of one answer while the other one is computed.
        first.has_computed(Some(8));
        second.has_computed(Some(8));
        second.has_sent(8);
        second.has_computed(None);
        activity.pass(10 * STALL_DEADLINE);
        let short = Duration::from_millis(5);
        let expired = activity.expired(short, stopping);
        assert!(tokio::time::timeout(10 * short, expired).await.is_err());
        assert_eq!(activity.idle_since(), None);
        assert!(!activity.evict() && !activity.is_evicted());
    }

    #[test]
    fn an_answer_is_in_flight_until_it_is_flushed() {
        let activity = Activity::new();
        let request = activity.begin(Version::HTTP_11).unwrap();
        request.has_computed(Some(8));
        let unsent = Arc::clone(&request);
        drop(request);
        assert_eq!(activity.idle_since(), None);
        unsent.has_sent(8);
        drop(unsent);
        assert_eq!(activity.idle_since(), None);
        activity.has_flushed();
        assert!(activity.idle_since().is_some());
    }

    #[test]
    fn frames_between_requests_change_no_deadline_of_http2() {
        let (activity, hour) = (Activity::new(), Duration::from_secs(3600));
        drop(activity.begin(Version::HTTP_2));
        activity.has_flushed();
        activity.pass(KEEP_ALIVE / 2);
        let since = activity.idle_since();
        // A PING and its answer.
        activity.has_read();
        activity.has_flushed();
        assert_eq!(activity.idle_since(), since);
        assert_eq!(allowed(&activity, hour, false), Some(KEEP_ALIVE));
    }

    #[test]
    fn a_connection_is_either_evicted_or_answers() {
        let activity = Activity::new();
        let request = activity.begin(Version::HTTP_11);
        assert!(request.is_some() && !activity.evict());
        drop(request);
        activity.has_flushed();
        assert!(activity.evict());
        assert!(activity.begin(Version::HTTP_11).is_none());
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
        let request = activity.begin(Version::HTTP_11);
        let expired = activity.expired(short, stopping.clone());
        tokio::pin!(expired);
        assert!(tokio::time::timeout(5 * short, &mut expired).await.is_err());
        drop(request);
        activity.has_flushed();
        expired.await;

        let (activity, hour) = (Activity::new(), Duration::from_secs(3600));
        assert!(activity.evict());
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
