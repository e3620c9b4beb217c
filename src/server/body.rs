//! The body of a request as the endpoint reads it: at a minimum rate, and within a budget of all connections. What an
//! endpoint leaves unread is read and dropped beside the answer: a client whose connection is closed while it sends sees a
//! broken connection and no answer.

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
use super::places::network;

/// Bytes that are read and dropped. A client that sends more is cut off.
const MAX_DROPPED_BYTES: usize = 64 << 20;
/// How long they are read.
const DROP_DEADLINE: Duration = Duration::from_secs(30);

/// How long a client may take for a body at most, beside [`MIN_BYTES_PER_SECOND`].
const RATE_GRACE: Duration = Duration::from_secs(10);
/// How fast a client sends a body at least, on average: a slow mobile connection does.
const MIN_BYTES_PER_SECOND: usize = 16 << 10;

/// Bytes at the beginning of each body that are taken from the share of small bodies: large ones cannot take it.
const SMALL_BODY_BYTES: usize = 64 << 10;
/// Bytes of the beginnings of all bodies that are being read or parsed; those of one address take at most half.
const MAX_SMALL_BODIES_BYTES: usize = 16 << 20;
/// The same without their beginnings.
const MAX_LARGE_BODIES_BYTES: usize = 64 << 20;

/// What is left for the bodies that are being read or parsed.
#[derive(Debug)]
pub(super) struct BodyBudget {
    taken: Mutex<Taken>,
    rate_grace: Duration,
}

#[derive(Debug, Default)]
struct Taken {
    all: Sizes,
    by_address: HashMap<IpAddr, Sizes>,
}

/// Bytes of the beginnings of bodies, and of their rests.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
struct Sizes {
    small: usize,
    large: usize,
}

impl BodyBudget {
    /// That of a server whose clients may be silent for `idle`.
    pub(super) fn new(idle: Duration) -> Arc<Self> {
        Arc::new(Self {
            rate_grace: RATE_GRACE.min(idle),
            taken: Mutex::default(),
        })
    }

    /// The share of a body from this address, or from its IPv6 network.
    pub(super) fn share(self: &Arc<Self>, address: IpAddr) -> BodyShare {
        BodyShare {
            budget: Arc::clone(self),
            address: network(address),
            bytes: 0,
        }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a body has of the budget, until it is dropped.
#[derive(Debug)]
pub(super) struct BodyShare {
    budget: Arc<BodyBudget>,
    address: IpAddr,
    bytes: usize,
}

impl BodyShare {
    /// Takes the bytes of a part of the body; `false` if there are not as many left.
    fn take(&mut self, bytes: usize) -> bool {
        let (old, new) = (Sizes::of(self.bytes), Sizes::of(self.bytes + bytes));
        let mut taken = self.budget.taken();
        let all = taken.all.changed(old, new);
        let own = taken.by_address.get(&self.address).copied();
        let own = own.unwrap_or_default().changed(old, new);
        let has_room = all.small <= MAX_SMALL_BODIES_BYTES
            && all.large <= MAX_LARGE_BODIES_BYTES
            && own.small <= MAX_SMALL_BODIES_BYTES / 2
            && own.large <= MAX_LARGE_BODIES_BYTES / 2;
        if has_room {
            taken.all = all;
            taken.by_address.insert(self.address, own);
            self.bytes += bytes;
        }
        has_room
    }
}

impl Drop for BodyShare {
    fn drop(&mut self) {
        let (old, none) = (Sizes::of(self.bytes), Sizes::default());
        let mut taken = self.budget.taken();
        taken.all = taken.all.changed(old, none);
        let Entry::Occupied(mut entry) = taken.by_address.entry(self.address) else {
            return;
        };
        let own = entry.get().changed(old, none);
        match own == none {
            true => drop(entry.remove()),
            false => *entry.get_mut() = own,
        }
    }
}

impl Sizes {
    /// Those of a body of as many bytes.
    fn of(bytes: usize) -> Self {
        let small = bytes.min(SMALL_BODY_BYTES);
        let large = bytes - small;
        Self { small, large }
    }

    fn changed(self, old: Self, new: Self) -> Self {
        Self {
            small: self.small + new.small - old.small,
            large: self.large + new.large - old.large,
        }
    }
}

/// The same body within its limits, whose rest is dropped as the module describes. `waits` is whether the client waits for
/// `100 Continue`, which it gets when the body is first read. `idle` is how long it may be silent.
///
/// The share is given back when the body's stream is dropped: its reader keeps the stream until it has parsed the bytes.
///
/// A body that is too slow ends with [`io::ErrorKind::TimedOut`], one that the budget has no room for with
/// [`io::ErrorKind::QuotaExceeded`].
pub(super) fn whole(body: Body, waits: bool, idle: Duration, share: BodyShare) -> Body {
    Body::from_bytes_stream(WholeBody {
        parts: Some(Box::pin(body.into_bytes_stream())),
        is_sent: !waits,
        is_refused: false,
        idle,
        rate: None,
        share,
    })
}

type Parts = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

struct WholeBody {
    /// What was not read; none at the end.
    parts: Option<Parts>,
    /// Whether the client sends, or was told to.
    is_sent: bool,
    /// Whether the budget had no room for it.
    is_refused: bool,
    idle: Duration,
    /// From the first read on.
    rate: Option<Rate>,
    share: BodyShare,
}

/// When the next part has to be there.
struct Rate {
    begun: Instant,
    grace: Duration,
    bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Rate {
    fn new(grace: Duration) -> Self {
        Self {
            begun: Instant::now(),
            grace,
            bytes: 0,
            deadline: Box::pin(tokio::time::sleep(grace)),
        }
    }

    fn has_read(&mut self, bytes: usize) {
        self.bytes += bytes;
        let seconds = self.bytes as f64 / MIN_BYTES_PER_SECOND as f64;
        let allowed = self.grace + Duration::from_secs_f64(seconds);
        self.deadline.as_mut().reset(self.begun + allowed);
    }
}

impl Stream for WholeBody {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let body = &mut *self;
        body.is_sent = true;
        let Some(parts) = body.parts.as_mut().filter(|_| !body.is_refused) else {
            return Poll::Ready(None);
        };
        let grace = body.share.budget.rate_grace;
        let rate = body.rate.get_or_insert_with(|| Rate::new(grace));
        match parts.as_mut().poll_next(context) {
            Poll::Ready(Some(Ok(part))) => {
                rate.has_read(part.len());
                if body.share.take(part.len()) {
                    return Poll::Ready(Some(Ok(part)));
                }
                body.is_refused = true;
                let problem =
                    "the bodies of other requests take all memory for bodies: try again later";
                Poll::Ready(Some(Err(io::Error::new(
                    io::ErrorKind::QuotaExceeded,
                    problem,
                ))))
            }
            Poll::Ready(end) => {
                body.parts = None;
                Poll::Ready(end)
            }
            Poll::Pending => {
                if rate.deadline.as_mut().poll(context).is_pending() {
                    return Poll::Pending;
                }
                body.parts = None;
                let problem = format!(
                    "the body came more slowly than {MIN_BYTES_PER_SECOND} bytes per second"
                );
                Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::TimedOut, problem))))
            }
        }
    }
}

impl Drop for WholeBody {
    fn drop(&mut self) {
        let Some(parts) = self.parts.take().filter(|_| self.is_sent) else {
            return;
        };
        // Without a runtime the program ends.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(tokio::time::timeout(
                DROP_DEADLINE,
                drop_rest(parts, self.idle),
            ));
        }
    }
}

/// Reads until the body or its connection ends, or a limit is reached.
async fn drop_rest(mut parts: Parts, idle: Duration) {
    let mut bytes = 0;
    while let Ok(Some(Ok(part))) = tokio::time::timeout(idle, parts.next()).await {
        bytes += part.len();
        if bytes > MAX_DROPPED_BYTES {
            break;
        }
    }
}

/// The body of an answer, whose request is in flight until the client has taken it.
pub(super) struct AnswerBody<B> {
    body: B,
    request: Arc<RequestGuard>,
}

impl<B> AnswerBody<B> {
    pub(super) fn new(body: B, request: Arc<RequestGuard>) -> Self {
        request.answers();
        Self { body, request }
    }
}

impl<B: hyper::body::Body<Data = Bytes> + Unpin> hyper::body::Body for AnswerBody<B> {
    type Data = Unsent;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Unsent>, B::Error>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) else {
            self.request.has_computed(None);
            return Poll::Pending;
        };
        self.request.has_computed(Some(0));
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| frame.map_data(|bytes| Unsent::new(bytes, &self.request)))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Bytes of an answer that are not written to the connection yet.
#[derive(Debug)]
pub(super) struct Unsent {
    bytes: Bytes,
    request: Arc<RequestGuard>,
}

impl Unsent {
    fn new(bytes: Bytes, request: &Arc<RequestGuard>) -> Self {
        request.has_computed(Some(bytes.len()));
        Self {
            bytes,
            request: Arc::clone(request),
        }
    }
}

impl Buf for Unsent {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.request.has_sent(count);
    }
}

impl Drop for Unsent {
    fn drop(&mut self) {
        self.request.has_sent(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use http_body_util::{BodyExt, Full};
    use poem::http::Version;

    use super::super::activity::{Activity, STALL_DEADLINE};
    use super::*;

    const FIRST: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
    const SECOND: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));
    const THIRD: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 3));
    /// The longest body of which one address has room.
    const HALF: usize = MAX_LARGE_BODIES_BYTES / 2 + SMALL_BODY_BYTES;

    fn body(
        parts: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        budget: &Arc<BodyBudget>,
    ) -> impl Stream<Item = io::Result<Bytes>> {
        let body = Body::from_bytes_stream(parts);
        let hour = Duration::from_secs(3600);
        whole(body, false, hour, budget.share(FIRST)).into_bytes_stream()
    }

    #[test]
    fn one_byte_more_than_the_budget_is_refused_and_small_bodies_still_have_room() {
        let budget = BodyBudget::new(RATE_GRACE);
        let mut large = [FIRST, SECOND].map(|address| budget.share(address));
        assert!(large.iter_mut().all(|share| share.take(HALF)));
        let mut other = budget.share(THIRD);
        assert!(other.take(SMALL_BODY_BYTES));
        assert!(!other.take(1));
        drop(large);
        assert!(other.take(1));
        drop(other);
        let taken = budget.taken();
        assert_eq!(taken.all, Sizes::default());
        assert!(taken.by_address.is_empty());
    }

    #[test]
    fn an_address_takes_half_of_the_budget_at_most() {
        let budget = BodyBudget::new(RATE_GRACE);
        let mut large = budget.share(FIRST);
        assert!(large.take(HALF));
        assert!(!large.take(1));
        assert!(budget.share(SECOND).take(HALF));
        drop(large);
        let small = MAX_SMALL_BODIES_BYTES / 2 / SMALL_BODY_BYTES;
        let mut shares: Vec<_> = (0..=small).map(|_| budget.share(FIRST)).collect();
        let last = shares.pop();
        assert!(shares.iter_mut().all(|share| share.take(SMALL_BODY_BYTES)));
        assert!(!last.unwrap().take(1));
        assert!(budget.share(SECOND).take(1));
    }

    #[tokio::test]
    async fn a_body_has_its_share_until_its_stream_is_dropped() {
        let budget = BodyBudget::new(RATE_GRACE);
        let part = Ok(Bytes::from(vec![0; 2 * SMALL_BODY_BYTES]));
        let mut parts = Box::pin(body(futures_util::stream::iter([part]), &budget));
        while parts.next().await.is_some() {}
        assert_eq!(budget.taken().all, Sizes::of(2 * SMALL_BODY_BYTES));
        drop(parts);
        assert_eq!(budget.taken().all, Sizes::default());
    }

    #[tokio::test]
    async fn the_deadline_of_a_body_is_its_grace_and_the_time_at_the_minimum_rate() {
        let mut rate = Rate::new(RATE_GRACE);
        let deadline = |rate: &Rate| rate.deadline.deadline() - rate.begun;
        let second = Duration::from_secs(1);
        for seconds in 1..4 {
            rate.has_read(MIN_BYTES_PER_SECOND);
            assert_eq!(deadline(&rate), RATE_GRACE + seconds * second);
        }
    }

    #[tokio::test]
    async fn a_body_that_stops_times_out() {
        let budget = BodyBudget::new(Duration::from_millis(10));
        let part = futures_util::stream::iter([Ok(Bytes::from_static(b"part"))]);
        let parts = part.chain(futures_util::stream::pending());
        let parts: Vec<_> = body(parts, &budget).collect().await;
        assert_eq!(parts.len(), 2);
        let late = parts[1].as_ref().unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_body_beyond_the_budget_is_refused() {
        let budget = BodyBudget::new(RATE_GRACE);
        let mut other = budget.share(FIRST);
        assert!(other.take(HALF));
        let part = |bytes| Ok(Bytes::from(vec![0; bytes]));
        let parts = futures_util::stream::iter([part(SMALL_BODY_BYTES), part(1), part(1)]);
        let parts: Vec<_> = body(parts, &budget).collect().await;
        assert_eq!(parts.len(), 2);
        let refused = parts[1].as_ref().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::QuotaExceeded);
    }

    #[tokio::test]
    async fn a_request_is_in_flight_while_a_byte_of_its_answer_is_unsent() {
        let activity = Activity::new();
        let request = activity.begin(Version::HTTP_11).unwrap();
        let body = Full::new(Bytes::from_static(b"answer"));
        let mut answer = AnswerBody::new(body, request);
        let mut bytes = answer.frame().await.unwrap().unwrap().into_data().unwrap();
        drop(answer);
        bytes.advance(5);
        activity.has_flushed();
        assert_eq!(activity.idle_since(), None);
        activity.pass(STALL_DEADLINE);
        assert!(activity.idle_since().is_some());
        bytes.advance(1);
        assert_eq!(activity.idle_since(), None);
        drop(bytes);
        activity.has_flushed();
        assert!(activity.idle_since().is_some());
    }
}
