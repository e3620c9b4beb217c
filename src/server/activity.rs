//! Tracks whether a connection is serving requests, idle or stalled, and since when. A connection that is idle or
//! stalled for too long expires. The same rules apply to HTTP/1.1 and HTTP/2.
//!
//! A request is in flight until the last byte of its response is flushed. A response is blocked unless the server is
//! computing its next bytes and all earlier bytes are written. A connection is stalled while the responses to all its
//! requests in flight are blocked.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use poem::http::Version;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

/// Maximum time from accepting a connection, or from the end of the TLS handshake, to the first byte of the first
/// request.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum time from the first byte of a request to the end of its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection may be idle between requests. This is longer than the 60 seconds after which common proxies
/// close idle connections, so that the proxy closes first.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(75);
/// How long a connection must be stalled before it can be evicted, or before a stopping server closes it. For a slow
/// client, the operating system accepts bytes in large portions, so long pauses between two writes are normal.
pub(super) const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an idle connection is kept open while the server is stopping.
const STOPPING_IDLE_TIMEOUT: Duration = Duration::from_secs(1);

/// State of one connection, shared by its socket, its request guards and the connection limiter.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
    /// Wakes [`Activity::expired`].
    changed: Notify,
}

#[derive(Debug)]
struct State {
    requests_in_flight: usize,
    /// How many of the requests in flight have a blocked response.
    blocked_responses: usize,
    /// Whether the last bytes of a response are written but not flushed yet.
    is_unflushed: bool,
    /// Whether some bytes of the next request's headers have arrived.
    is_reading_header: bool,
    has_served_request: bool,
    /// With HTTP/2, bytes that arrive between requests may be control frames such as PING.
    is_http2: bool,
    /// Start of the current timeout: the last progress of the connection, for example the first byte of a request or a
    /// written byte of a response.
    waiting_since: Instant,
    is_evicted: bool,
}

/// Keeps a request in flight until the last reference is dropped.
#[derive(Debug)]
pub(super) struct RequestGuard {
    activity: Arc<Activity>,
    response: Mutex<ResponseState>,
}

#[derive(Debug)]
struct ResponseState {
    /// Whether the server is still computing the next bytes.
    is_computing: bool,
    /// Number of bytes that hyper got from the body but has not written to the socket.
    unsent_bytes: usize,
}

impl ResponseState {
    fn is_blocked(&self) -> bool {
        !self.is_computing || self.unsent_bytes > 0
    }
}

impl Activity {
    /// Creates the state of a connection that was just accepted.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                requests_in_flight: 0,
                blocked_responses: 0,
                is_unflushed: false,
                is_reading_header: false,
                has_served_request: false,
                is_http2: false,
                waiting_since: Instant::now(),
                is_evicted: false,
            }),
            changed: Notify::new(),
        })
    }

    /// Records a new request. Returns `None` if the connection was evicted and must end without a response.
    pub(super) fn begin_request(self: &Arc<Self>, version: Version) -> Option<Arc<RequestGuard>> {
        let mut state = self.state();
        if state.is_evicted {
            return None;
        }
        state.requests_in_flight += 1;
        state.is_http2 = version == Version::HTTP_2;
        drop(state);
        Some(Arc::new(RequestGuard {
            activity: Arc::clone(self),
            response: Mutex::new(ResponseState {
                is_computing: true,
                unsent_bytes: 0,
            }),
        }))
    }

    /// Returns the time since which the connection has been idle, or stalled for at least [`STALL_TIMEOUT`]; `None` if
    /// the connection cannot be evicted.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.state().idle_since()
    }

    /// Marks the connection as evicted, so that [`Activity::expired`] completes. Returns `false` if the connection
    /// cannot be evicted because it is serving a request.
    pub(super) fn evict(&self) -> bool {
        let mut state = self.state();
        state.is_evicted |= state.idle_since().is_some();
        self.changed.notify_one();
        state.is_evicted
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.state().is_evicted
    }

    /// Records the end of the TLS handshake: the first request is expected from now on.
    pub(super) fn record_handshake(&self) {
        self.state().waiting_since = Instant::now();
        self.changed.notify_one();
    }

    /// Waits until the connection must be closed: it was evicted, or has been idle or stalled for too long.
    /// `max_timeout` caps every timeout. Shorter timeouts apply once the sender of `stopping` is dropped.
    pub(super) async fn expired(&self, max_timeout: Duration, mut stopping: watch::Receiver<()>) {
        loop {
            let is_stopping = stopping.has_changed().is_err();
            let deadline = {
                let state = self.state();
                if state.is_evicted {
                    return;
                }
                state.deadline(max_timeout, is_stopping)
            };
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return;
            }
            // A response that becomes blocked does not wake this loop, but its deadline is never before `next_check`.
            let next_check =
                deadline.unwrap_or(now + State::stall_timeout(max_timeout, is_stopping));
            tokio::select! {
                () = tokio::time::sleep_until(next_check) => {}
                () = self.changed.notified() => {}
                _ = stopping.changed(), if !is_stopping => {}
            }
        }
    }

    fn record_read(&self) {
        let mut state = self.state();
        let may_begin_request = !(state.is_http2 && state.has_served_request);
        if state.requests_in_flight == 0 && !state.is_reading_header && may_begin_request {
            state.is_reading_header = true;
            state.waiting_since = Instant::now();
            self.changed.notify_one();
        }
    }

    pub(super) fn record_flush(&self) {
        let mut state = self.state();
        if state.is_unflushed {
            state.is_unflushed = false;
            state.waiting_since = Instant::now();
            self.changed.notify_one();
        }
    }

    /// Moves `waiting_since` back by `time`, as if that time had passed.
    #[cfg(test)]
    pub(super) fn age_by(&self, time: Duration) {
        self.state().waiting_since -= time;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_idle(&self) -> bool {
        self.requests_in_flight == 0 && !self.is_unflushed
    }

    fn is_stalled(&self) -> bool {
        !self.is_idle() && self.blocked_responses == self.requests_in_flight
    }

    fn idle_since(&self) -> Option<Instant> {
        let stall_expired = self.is_stalled() && self.waiting_since.elapsed() >= STALL_TIMEOUT;
        (self.is_idle() || stall_expired).then_some(self.waiting_since)
    }

    /// Returns the time at which the connection expires if its state does not change; `None` while it makes progress.
    fn deadline(&self, max_timeout: Duration, is_stopping: bool) -> Option<Instant> {
        if !self.is_idle() {
            let timeout = Self::stall_timeout(max_timeout, is_stopping);
            return self.is_stalled().then(|| self.waiting_since + timeout);
        }
        let timeout = match (self.is_reading_header, self.has_served_request) {
            _ if is_stopping => STOPPING_IDLE_TIMEOUT,
            (true, _) => HEADER_TIMEOUT,
            (false, false) => FIRST_BYTE_TIMEOUT,
            (false, true) => KEEP_ALIVE_TIMEOUT,
        };
        Some(self.waiting_since + timeout.min(max_timeout))
    }

    /// Returns how long the connection may be stalled.
    fn stall_timeout(max_timeout: Duration, is_stopping: bool) -> Duration {
        match is_stopping {
            true => max_timeout.min(STALL_TIMEOUT),
            false => max_timeout,
        }
    }
}

impl RequestGuard {
    /// Records that hyper polled the response's body. The poll returned `bytes` bytes, or was pending (`None`).
    pub(super) fn record_poll(&self, bytes: Option<usize>) {
        self.update(|response| {
            response.is_computing = bytes.is_none();
            response.unsent_bytes += bytes.unwrap_or_default();
            false
        });
    }

    /// Records that the handler returned the response, whose body hyper polls next.
    pub(super) fn record_response(&self) {
        self.record_poll(Some(0));
    }

    /// Records that `bytes` bytes of the response were written to the socket or discarded.
    pub(super) fn record_sent(&self, bytes: usize) {
        self.update(|response| {
            response.unsent_bytes -= bytes;
            bytes > 0
        });
    }

    /// Changes the response's state; `change` returns whether bytes were sent.
    fn update(&self, change: impl FnOnce(&mut ResponseState) -> bool) {
        let mut response = self.response.lock().unwrap_or_else(PoisonError::into_inner);
        let was_blocked = response.is_blocked();
        let has_sent = change(&mut response);
        let is_blocked = response.is_blocked();
        let mut state = self.activity.state();
        state.blocked_responses =
            state.blocked_responses + usize::from(is_blocked) - usize::from(was_blocked);
        if has_sent || was_blocked != is_blocked {
            state.waiting_since = Instant::now();
        }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        let response = self.response.get_mut();
        let is_blocked = response
            .unwrap_or_else(PoisonError::into_inner)
            .is_blocked();
        let mut state = self.activity.state();
        state.requests_in_flight -= 1;
        state.blocked_responses -= usize::from(is_blocked);
        state.waiting_since = Instant::now();
        if state.requests_in_flight == 0 {
            state.is_unflushed = true;
            state.is_reading_header = false;
            state.has_served_request = true;
            self.activity.changed.notify_one();
        }
    }
}

/// A socket that records reads and flushes in the connection's [`Activity`].
pub(super) struct MonitoredSocket<S> {
    pub(super) socket: S,
    pub(super) activity: Arc<Activity>,
}

impl<S: AsyncRead + Unpin> AsyncRead for MonitoredSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled_before = buffer.filled().len();
        let read = ready!(Pin::new(&mut self.socket).poll_read(context, buffer));
        if buffer.filled().len() > filled_before {
            self.activity.record_read();
        }
        Poll::Ready(read)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for MonitoredSocket<S> {
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
        self.activity.record_flush();
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the timeout that applies to the connection in its current state.
    fn timeout(activity: &Activity, max_timeout: Duration, is_stopping: bool) -> Option<Duration> {
        let state = activity.state();
        let deadline = state.deadline(max_timeout, is_stopping);
        deadline.map(|deadline| deadline - state.waiting_since)
    }

    #[test]
    fn each_state_of_a_connection_has_its_own_timeout() {
        let (hour, short) = (Duration::from_secs(3600), Duration::from_secs(3));
        let silent = Activity::new();
        assert_eq!(timeout(&silent, hour, false), Some(FIRST_BYTE_TIMEOUT));
        assert_eq!(timeout(&silent, short, false), Some(short));
        assert_eq!(timeout(&silent, hour, true), Some(STOPPING_IDLE_TIMEOUT));
        silent.record_read();
        assert_eq!(timeout(&silent, hour, false), Some(HEADER_TIMEOUT));
        let request = silent.begin_request(Version::HTTP_11);
        assert_eq!(timeout(&silent, short, true), None);
        drop(request);
        silent.record_flush();
        assert_eq!(timeout(&silent, hour, false), Some(KEEP_ALIVE_TIMEOUT));
    }

    #[tokio::test]
    async fn a_connection_expires_when_its_client_receives_nothing() {
        let (_accepting, stopping) = watch::channel(());
        let max_timeout = 2 * STALL_TIMEOUT;
        for is_computing in [false, true] {
            let activity = Activity::new();
            let request = activity.begin_request(Version::HTTP_2).unwrap();
            request.record_poll(Some(8));
            if is_computing {
                request.record_poll(None);
            }
            activity.age_by(STALL_TIMEOUT);
            request.record_sent(7);
            assert_eq!(activity.idle_since(), None);
            assert_eq!(timeout(&activity, max_timeout, false), Some(max_timeout));
            assert_eq!(timeout(&activity, max_timeout, true), Some(STALL_TIMEOUT));
            activity.age_by(STALL_TIMEOUT);
            assert!(activity.idle_since().is_some());
            activity.age_by(STALL_TIMEOUT);
            activity.expired(max_timeout, stopping.clone()).await;
        }
    }

    #[tokio::test]
    async fn a_connection_does_not_expire_while_the_server_computes_a_response() {
        let (_accepting, stopping) = watch::channel(());
        let activity = Activity::new();
        let (first, second) = (
            activity.begin_request(Version::HTTP_2).unwrap(),
            activity.begin_request(Version::HTTP_2).unwrap(),
        );
        // The first response is blocked while the second one is computed.
        first.record_poll(Some(8));
        second.record_poll(Some(8));
        second.record_sent(8);
        second.record_poll(None);
        activity.age_by(10 * STALL_TIMEOUT);
        let short = Duration::from_millis(5);
        let expired = activity.expired(short, stopping);
        assert!(tokio::time::timeout(10 * short, expired).await.is_err());
        assert_eq!(activity.idle_since(), None);
        assert!(!activity.evict() && !activity.is_evicted());
    }

    #[test]
    fn a_request_is_in_flight_until_its_response_is_flushed() {
        let activity = Activity::new();
        let request = activity.begin_request(Version::HTTP_11).unwrap();
        request.record_poll(Some(8));
        let guard_of_unsent_bytes = Arc::clone(&request);
        drop(request);
        assert_eq!(activity.idle_since(), None);
        guard_of_unsent_bytes.record_sent(8);
        drop(guard_of_unsent_bytes);
        assert_eq!(activity.idle_since(), None);
        activity.record_flush();
        assert!(activity.idle_since().is_some());
    }

    #[test]
    fn http2_frames_between_requests_do_not_change_the_deadline() {
        let (activity, hour) = (Activity::new(), Duration::from_secs(3600));
        drop(activity.begin_request(Version::HTTP_2));
        activity.record_flush();
        activity.age_by(KEEP_ALIVE_TIMEOUT / 2);
        let idle_since = activity.idle_since();
        // A PING and its acknowledgement.
        activity.record_read();
        activity.record_flush();
        assert_eq!(activity.idle_since(), idle_since);
        assert_eq!(timeout(&activity, hour, false), Some(KEEP_ALIVE_TIMEOUT));
    }

    #[test]
    fn an_evicted_connection_serves_no_request_and_a_serving_connection_is_not_evicted() {
        let activity = Activity::new();
        let request = activity.begin_request(Version::HTTP_11);
        assert!(request.is_some() && !activity.evict());
        drop(request);
        activity.record_flush();
        assert!(activity.evict());
        assert!(activity.begin_request(Version::HTTP_11).is_none());
    }

    #[test]
    fn further_header_bytes_do_not_extend_the_deadline() {
        let activity = Activity::new();
        activity.record_read();
        let idle_since = activity.idle_since();
        activity.record_read();
        assert_eq!(activity.idle_since(), idle_since);
    }

    #[tokio::test]
    async fn a_connection_expires_when_idle_or_evicted_or_when_the_server_stops() {
        let short = Duration::from_millis(20);
        let (accepting, stopping) = watch::channel(());
        let activity = Activity::new();
        let request = activity.begin_request(Version::HTTP_11);
        let expired = activity.expired(short, stopping.clone());
        tokio::pin!(expired);
        assert!(tokio::time::timeout(5 * short, &mut expired).await.is_err());
        drop(request);
        activity.record_flush();
        expired.await;

        let (activity, hour) = (Activity::new(), Duration::from_secs(3600));
        assert!(activity.evict());
        activity.expired(hour, stopping.clone()).await;

        let activity = Activity::new();
        let expired = activity.expired(hour, stopping);
        tokio::pin!(expired);
        assert!(tokio::time::timeout(short, &mut expired).await.is_err());
        drop(accepting);
        let soon = 2 * STOPPING_IDLE_TIMEOUT;
        assert!(tokio::time::timeout(soon, &mut expired).await.is_ok());
    }
}
