//! Limits request bodies by a minimum transfer rate, and by a memory budget that all connections share. Body bytes that
//! a handler does not read are drained in the background: if the server closed the connection while the client is still
//! sending, the client would get a connection error instead of the response.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt};
use hyper::body::{Frame, SizeHint};
use poem::Body;
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};

use super::activity::RequestGuard;
use super::connection_limiter::network;

/// Maximum number of bytes drained from a body; a client that sends more is disconnected.
const MAX_DRAINED_BYTES: usize = 64 << 20;
/// Maximum time for draining a body.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// Time added to the time that a body may take at [`MIN_BYTES_PER_SECOND`].
const RATE_GRACE: Duration = Duration::from_secs(10);
/// Minimum average transfer rate of a body, low enough for slow mobile connections.
const MIN_BYTES_PER_SECOND: usize = 16 << 10;

/// Number of bytes at the start of each body that count against [`MAX_SMALL_BODIES_BYTES`]. The other bytes have a
/// separate budget, so large bodies cannot exhaust the budget of small ones.
const SMALL_BODY_BYTES: usize = 64 << 10;
/// Budget for the first [`SMALL_BODY_BYTES`] of all bodies being received or parsed; a client address may use half of
/// it.
const MAX_SMALL_BODIES_BYTES: usize = 16 << 20;
/// Budget for the remaining bytes of all bodies; a client address may use half of it.
const MAX_LARGE_BODIES_BYTES: usize = 64 << 20;

/// The memory budget for request bodies being received or parsed.
#[derive(Debug)]
pub(super) struct BodyBudget {
    usage: Mutex<BudgetUsage>,
    rate_grace: Duration,
}

#[derive(Debug, Default)]
struct BudgetUsage {
    total: BodyBytes,
    by_address: HashMap<IpAddr, BodyBytes>,
}

/// Bytes of bodies, split into the first [`SMALL_BODY_BYTES`] of each body (`small`) and the remaining ones (`large`).
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct BodyBytes {
    small: usize,
    large: usize,
}

impl BodyBudget {
    /// Returns an unused budget. `idle_timeout` caps the grace period of slow bodies.
    pub(super) fn new(idle_timeout: Duration) -> Arc<Self> {
        Arc::new(Self {
            rate_grace: RATE_GRACE.min(idle_timeout),
            usage: Mutex::default(),
        })
    }

    /// Returns a reservation of 0 bytes for a body from `address`. The addresses of an IPv6 /64 network count as one.
    pub(super) fn reservation(self: &Arc<Self>, address: IpAddr) -> BodyReservation {
        BodyReservation {
            budget: Arc::clone(self),
            address: network(address),
            bytes: 0,
        }
    }

    fn usage(&self) -> MutexGuard<'_, BudgetUsage> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes of the budget that one body uses; dropping the reservation releases them.
#[derive(Debug)]
pub(super) struct BodyReservation {
    budget: Arc<BodyBudget>,
    address: IpAddr,
    bytes: usize,
}

impl BodyReservation {
    /// Reserves `bytes` more bytes. Returns `false` and reserves nothing if they exceed the budget.
    fn reserve(&mut self, bytes: usize) -> bool {
        let (old, new) = (BodyBytes::of(self.bytes), BodyBytes::of(self.bytes + bytes));
        let mut usage = self.budget.usage();
        let total = usage.total.replace(old, new);
        let of_address = usage.by_address.get(&self.address).copied();
        let of_address = of_address.unwrap_or_default().replace(old, new);
        let has_room = total.small <= MAX_SMALL_BODIES_BYTES
            && total.large <= MAX_LARGE_BODIES_BYTES
            && of_address.small <= MAX_SMALL_BODIES_BYTES / 2
            && of_address.large <= MAX_LARGE_BODIES_BYTES / 2;
        if has_room {
            usage.total = total;
            usage.by_address.insert(self.address, of_address);
            self.bytes += bytes;
        }
        has_room
    }
}

impl Drop for BodyReservation {
    fn drop(&mut self) {
        let (old, zero) = (BodyBytes::of(self.bytes), BodyBytes::default());
        let mut usage = self.budget.usage();
        usage.total = usage.total.replace(old, zero);
        let Entry::Occupied(mut entry) = usage.by_address.entry(self.address) else {
            return;
        };
        let of_address = entry.get().replace(old, zero);
        match of_address == zero {
            true => drop(entry.remove()),
            false => *entry.get_mut() = of_address,
        }
    }
}

impl BodyBytes {
    /// Splits the size of a body.
    fn of(bytes: usize) -> Self {
        let small = bytes.min(SMALL_BODY_BYTES);
        let large = bytes - small;
        Self { small, large }
    }

    /// Subtracts `old` and adds `new`.
    fn replace(self, old: Self, new: Self) -> Self {
        Self {
            small: self.small + new.small - old.small,
            large: self.large + new.large - old.large,
        }
    }
}

/// Returns a body that enforces the limits and drains unread bytes when it is dropped. If `expects_continue`, the
/// client waits for `100 Continue`, which hyper sends when the body is first read. `idle_timeout` limits pauses while
/// the body is drained.
///
/// Dropping the body's stream releases the reservation, so a reader must keep the stream until it has parsed the bytes.
///
/// The stream ends with [`io::ErrorKind::TimedOut`] if the body arrives too slowly, and with
/// [`io::ErrorKind::QuotaExceeded`] if the budget is exhausted.
pub(super) fn limit(
    body: Body,
    expects_continue: bool,
    idle_timeout: Duration,
    reservation: BodyReservation,
) -> Body {
    Body::from_bytes_stream(LimitedBody {
        chunks: Some(Box::pin(body.into_bytes_stream())),
        is_client_sending: !expects_continue,
        is_over_budget: false,
        idle_timeout,
        rate_limit: None,
        reservation,
    })
}

type Chunks = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

struct LimitedBody {
    /// The unread chunks; `None` at the end of the body.
    chunks: Option<Chunks>,
    /// Whether the client is sending the body: it did not wait for `100 Continue`, or got it.
    is_client_sending: bool,
    is_over_budget: bool,
    idle_timeout: Duration,
    /// Set at the first read.
    rate_limit: Option<RateLimit>,
    reservation: BodyReservation,
}

/// Deadline for the next chunk, computed from the number of bytes received so far.
struct RateLimit {
    started_at: Instant,
    grace: Duration,
    bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

impl RateLimit {
    fn new(grace: Duration) -> Self {
        Self {
            started_at: Instant::now(),
            grace,
            bytes: 0,
            deadline: Box::pin(tokio::time::sleep(grace)),
        }
    }

    fn record_read(&mut self, bytes: usize) {
        self.bytes += bytes;
        let seconds = self.bytes as f64 / MIN_BYTES_PER_SECOND as f64;
        let allowed = self.grace + Duration::from_secs_f64(seconds);
        self.deadline.as_mut().reset(self.started_at + allowed);
    }
}

impl Stream for LimitedBody {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let body = &mut *self;
        body.is_client_sending = true;
        let Some(chunks) = body.chunks.as_mut().filter(|_| !body.is_over_budget) else {
            return Poll::Ready(None);
        };
        let grace = body.reservation.budget.rate_grace;
        let rate_limit = body.rate_limit.get_or_insert_with(|| RateLimit::new(grace));
        match chunks.as_mut().poll_next(context) {
            Poll::Ready(Some(Ok(chunk))) => {
                rate_limit.record_read(chunk.len());
                if body.reservation.reserve(chunk.len()) {
                    return Poll::Ready(Some(Ok(chunk)));
                }
                body.is_over_budget = true;
                let problem = "the memory for request bodies is in use: try again later";
                Poll::Ready(Some(Err(io::Error::new(
                    io::ErrorKind::QuotaExceeded,
                    problem,
                ))))
            }
            Poll::Ready(end) => {
                body.chunks = None;
                Poll::Ready(end)
            }
            Poll::Pending => {
                if rate_limit.deadline.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                body.chunks = None;
                let problem = format!(
                    "the body arrived more slowly than {MIN_BYTES_PER_SECOND} bytes per second"
                );
                Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, problem))))
            }
        }
    }
}

impl Drop for LimitedBody {
    fn drop(&mut self) {
        let Some(chunks) = self.chunks.take().filter(|_| self.is_client_sending) else {
            return;
        };
        // There is no runtime while the program exits.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(tokio::time::timeout(
                DRAIN_TIMEOUT,
                drain(chunks, self.idle_timeout),
            ));
        }
    }
}

/// Reads and discards chunks until the body or its connection ends, or [`MAX_DRAINED_BYTES`] is exceeded.
async fn drain(mut chunks: Chunks, idle_timeout: Duration) {
    let mut bytes = 0;
    while let Ok(Some(Ok(chunk))) = tokio::time::timeout(idle_timeout, chunks.next()).await {
        bytes += chunk.len();
        if bytes > MAX_DRAINED_BYTES {
            break;
        }
    }
}

/// A response body that keeps its request in flight until all bytes are written to the connection.
pub(super) struct ResponseBody<B> {
    body: B,
    request: Arc<RequestGuard>,
}

impl<B> ResponseBody<B> {
    pub(super) fn new(body: B, request: Arc<RequestGuard>) -> Self {
        request.record_response();
        Self { body, request }
    }
}

impl<B: hyper::body::Body<Data = Bytes> + Unpin> hyper::body::Body for ResponseBody<B> {
    type Data = UnsentBytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<UnsentBytes>, B::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            self.request.record_poll(None);
            return Poll::Pending;
        };
        self.request.record_poll(Some(0));
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| frame.map_data(|bytes| UnsentBytes::new(bytes, &self.request)))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A chunk of a response body. It records in the request's guard how many of its bytes are written to the connection.
#[derive(Debug)]
pub(super) struct UnsentBytes {
    bytes: Bytes,
    request: Arc<RequestGuard>,
}

impl UnsentBytes {
    fn new(bytes: Bytes, request: &Arc<RequestGuard>) -> Self {
        request.record_poll(Some(bytes.len()));
        Self {
            bytes,
            request: Arc::clone(request),
        }
    }
}

impl Buf for UnsentBytes {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.request.record_sent(count);
    }
}

impl Drop for UnsentBytes {
    fn drop(&mut self) {
        self.request.record_sent(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http_body_util::{BodyExt, Full};
    use poem::http::Version;

    use super::super::activity::{Activity, STALL_TIMEOUT};
    use super::*;

    const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
    const THIRD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3));
    /// Size of the largest body that an address may send.
    const MAX_BODY_BYTES: usize = MAX_LARGE_BODIES_BYTES / 2 + SMALL_BODY_BYTES;

    fn limited_chunks(
        chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        budget: &Arc<BodyBudget>,
    ) -> impl Stream<Item = io::Result<Bytes>> {
        let body = Body::from_bytes_stream(chunks);
        let hour = Duration::from_secs(3600);
        limit(body, false, hour, budget.reservation(FIRST)).into_bytes_stream()
    }

    #[test]
    fn one_byte_beyond_the_budget_is_refused_and_small_bodies_still_have_room() {
        let budget = BodyBudget::new(RATE_GRACE);
        let mut large = [FIRST, SECOND].map(|address| budget.reservation(address));
        assert!(large.iter_mut().all(|body| body.reserve(MAX_BODY_BYTES)));
        let mut other = budget.reservation(THIRD);
        assert!(other.reserve(SMALL_BODY_BYTES));
        assert!(!other.reserve(1));
        drop(large);
        assert!(other.reserve(1));
        drop(other);
        let usage = budget.usage();
        assert_eq!(usage.total, BodyBytes::default());
        assert!(usage.by_address.is_empty());
    }

    #[test]
    fn an_address_may_use_half_of_the_budget() {
        let budget = BodyBudget::new(RATE_GRACE);
        let mut large = budget.reservation(FIRST);
        assert!(large.reserve(MAX_BODY_BYTES));
        assert!(!large.reserve(1));
        assert!(budget.reservation(SECOND).reserve(MAX_BODY_BYTES));
        drop(large);
        let max_small = MAX_SMALL_BODIES_BYTES / 2 / SMALL_BODY_BYTES;
        let mut small: Vec<_> = (0..=max_small).map(|_| budget.reservation(FIRST)).collect();
        let last = small.pop();
        assert!(small.iter_mut().all(|body| body.reserve(SMALL_BODY_BYTES)));
        assert!(!last.unwrap().reserve(1));
        assert!(budget.reservation(SECOND).reserve(1));
    }

    #[tokio::test]
    async fn a_body_keeps_its_reservation_until_its_stream_is_dropped() {
        let budget = BodyBudget::new(RATE_GRACE);
        let chunk = Ok(Bytes::from(vec![0; 2 * SMALL_BODY_BYTES]));
        let mut chunks = Box::pin(limited_chunks(futures_util::stream::iter([chunk]), &budget));
        while chunks.next().await.is_some() {}
        assert_eq!(budget.usage().total, BodyBytes::of(2 * SMALL_BODY_BYTES));
        drop(chunks);
        assert_eq!(budget.usage().total, BodyBytes::default());
    }

    #[tokio::test]
    async fn the_deadline_of_a_body_is_the_grace_period_plus_the_time_at_the_minimum_rate() {
        let mut rate_limit = RateLimit::new(RATE_GRACE);
        let deadline = |limit: &RateLimit| limit.deadline.deadline() - limit.started_at;
        let second = Duration::from_secs(1);
        for seconds in 1..4 {
            rate_limit.record_read(MIN_BYTES_PER_SECOND);
            assert_eq!(deadline(&rate_limit), RATE_GRACE + seconds * second);
        }
    }

    #[tokio::test]
    async fn a_body_that_stops_arriving_times_out() {
        let budget = BodyBudget::new(Duration::from_millis(10));
        let chunk = futures_util::stream::iter([Ok(Bytes::from_static(b"part"))]);
        let chunks = chunk.chain(futures_util::stream::pending());
        let chunks: Vec<_> = limited_chunks(chunks, &budget).collect().await;
        assert_eq!(chunks.len(), 2);
        let error = chunks[1].as_ref().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_body_beyond_the_budget_is_refused() {
        let budget = BodyBudget::new(RATE_GRACE);
        let mut other = budget.reservation(FIRST);
        assert!(other.reserve(MAX_BODY_BYTES));
        let chunk = |bytes| Ok(Bytes::from(vec![0; bytes]));
        let chunks = futures_util::stream::iter([chunk(SMALL_BODY_BYTES), chunk(1), chunk(1)]);
        let chunks: Vec<_> = limited_chunks(chunks, &budget).collect().await;
        assert_eq!(chunks.len(), 2);
        let error = chunks[1].as_ref().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::QuotaExceeded);
    }

    #[tokio::test]
    async fn a_request_is_in_flight_while_a_byte_of_its_response_is_unsent() {
        let activity = Activity::new();
        let request = activity.begin_request(Version::HTTP_11).unwrap();
        let body = Full::new(Bytes::from_static(b"answer"));
        let mut response = ResponseBody::new(body, request);
        let frame = response.frame().await.unwrap().unwrap();
        let mut bytes = frame.into_data().unwrap();
        drop(response);
        bytes.advance(5);
        activity.record_flush();
        assert_eq!(activity.idle_since(), None);
        activity.age_by(STALL_TIMEOUT);
        assert!(activity.idle_since().is_some());
        bytes.advance(1);
        assert_eq!(activity.idle_since(), None);
        drop(bytes);
        activity.record_flush();
        assert!(activity.idle_since().is_some());
    }
}
