//! The body of a request as the endpoint reads it: at a minimum rate, and within a budget of all connections. What an
//! endpoint leaves unread is read and dropped beside the answer: a client whose connection is closed while it sends sees a
//! broken connection and no answer.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use hyper::body::{Frame, SizeHint};
use poem::Body;
use tokio::runtime::Handle;
use tokio::time::{Instant, Sleep};

use super::activity::RequestGuard;

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
/// Bytes of the beginnings of all bodies whose requests are not answered yet.
const MAX_SMALL_BODIES_BYTES: usize = 16 << 20;
/// Bytes of all bodies whose requests are not answered yet, without their beginnings.
const MAX_LARGE_BODIES_BYTES: usize = 64 << 20;

/// What is left for bodies whose requests are not answered yet.
#[derive(Debug)]
pub(super) struct BodyBudget {
    small: AtomicUsize,
    large: AtomicUsize,
    rate_grace: Duration,
}

impl BodyBudget {
    /// That of a server whose clients may be silent for `idle`.
    pub(super) fn new(idle: Duration) -> Arc<Self> {
        Arc::new(Self {
            rate_grace: RATE_GRACE.min(idle),
            small: AtomicUsize::new(MAX_SMALL_BODIES_BYTES),
            large: AtomicUsize::new(MAX_LARGE_BODIES_BYTES),
        })
    }
}

/// A request that is being answered: it has a part of the budget until its body and its answer are gone.
#[derive(Debug)]
pub(super) struct InFlight {
    _activity: RequestGuard,
    budget: Arc<BodyBudget>,
    taken: AtomicUsize,
}

impl InFlight {
    pub(super) fn new(activity: RequestGuard, budget: Arc<BodyBudget>) -> Arc<Self> {
        Arc::new(Self {
            _activity: activity,
            budget,
            taken: AtomicUsize::new(0),
        })
    }

    /// Takes the bytes of a part of the body; `false` if there are not as many left. The body's one reader calls it.
    fn take(&self, bytes: usize) -> bool {
        let before = self.taken.load(Ordering::Relaxed);
        let ((small, large), (old_small, old_large)) = (shares(before + bytes), shares(before));
        let (small, large) = (small - old_small, large - old_large);
        if !take(&self.budget.small, small) {
            return false;
        }
        if !take(&self.budget.large, large) {
            self.budget.small.fetch_add(small, Ordering::Relaxed);
            return false;
        }
        self.taken.store(before + bytes, Ordering::Relaxed);
        true
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let (small, large) = shares(*self.taken.get_mut());
        self.budget.small.fetch_add(small, Ordering::Relaxed);
        self.budget.large.fetch_add(large, Ordering::Relaxed);
    }
}

/// The bytes of a body's beginning, and those after it.
fn shares(bytes: usize) -> (usize, usize) {
    let small = bytes.min(SMALL_BODY_BYTES);
    (small, bytes - small)
}

fn take(left: &AtomicUsize, bytes: usize) -> bool {
    let order = Ordering::Relaxed;
    left.fetch_update(order, order, |left| left.checked_sub(bytes))
        .is_ok()
}

/// The same body within its limits, whose rest is dropped as the module describes. `waits` is whether the client waits for
/// `100 Continue`, which it gets when the body is first read. `idle` is how long it may be silent.
///
/// A body that is too slow ends with [`io::ErrorKind::TimedOut`], one that the budget has no room for with
/// [`io::ErrorKind::QuotaExceeded`].
pub(super) fn whole(body: Body, waits: bool, idle: Duration, request: Arc<InFlight>) -> Body {
    Body::from_bytes_stream(WholeBody {
        parts: Some(Box::pin(body.into_bytes_stream())),
        is_sent: !waits,
        is_refused: false,
        idle,
        rate: None,
        request,
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
    request: Arc<InFlight>,
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
        let grace = body.request.budget.rate_grace;
        let rate = body.rate.get_or_insert_with(|| Rate::new(grace));
        match parts.as_mut().poll_next(context) {
            Poll::Ready(Some(Ok(part))) => {
                rate.has_read(part.len());
                if body.request.take(part.len()) {
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
            let dropped = drop_rest(parts, self.idle, Arc::clone(&self.request));
            runtime.spawn(tokio::time::timeout(DROP_DEADLINE, dropped));
        }
    }
}

/// Reads until the body or its connection ends, or a limit is reached.
async fn drop_rest(mut parts: Parts, idle: Duration, request: Arc<InFlight>) {
    let mut bytes = 0;
    while let Ok(Some(Ok(part))) = tokio::time::timeout(idle, parts.next()).await {
        bytes += part.len();
        if bytes > MAX_DROPPED_BYTES {
            break;
        }
    }
    drop(request);
}

/// The body of an answer, whose request is in flight until it is sent.
pub(super) struct AnswerBody<B> {
    pub(super) body: B,
    pub(super) _request: Arc<InFlight>,
}

impl<B: hyper::body::Body + Unpin> hyper::body::Body for AnswerBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::super::activity::Activity;
    use super::*;

    fn request(budget: &Arc<BodyBudget>) -> Arc<InFlight> {
        InFlight::new(Activity::new().begin(), Arc::clone(budget))
    }

    fn body(
        parts: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
        budget: &Arc<BodyBudget>,
    ) -> impl Stream<Item = io::Result<Bytes>> {
        let body = Body::from_bytes_stream(parts);
        let hour = Duration::from_secs(3600);
        whole(body, false, hour, request(budget)).into_bytes_stream()
    }

    #[test]
    fn one_byte_more_than_the_budget_is_refused_and_small_bodies_still_have_room() {
        let budget = BodyBudget::new(RATE_GRACE);
        let (large, other) = (request(&budget), request(&budget));
        assert!(large.take(MAX_LARGE_BODIES_BYTES + SMALL_BODY_BYTES));
        assert!(other.take(SMALL_BODY_BYTES));
        assert!(!other.take(1));
        drop(large);
        assert!(other.take(1));
        drop(other);
        assert_eq!(budget.small.load(Ordering::Relaxed), MAX_SMALL_BODIES_BYTES);
        assert_eq!(budget.large.load(Ordering::Relaxed), MAX_LARGE_BODIES_BYTES);
    }

    #[tokio::test]
    async fn a_body_below_the_minimum_rate_times_out() {
        let pause = Duration::from_millis(20);
        let budget = BodyBudget::new(3 * pause);
        // Twice the minimum rate for ten times the grace, then a tenth of it.
        for (bytes, kind) in [
            (MIN_BYTES_PER_SECOND / 25, None),
            (MIN_BYTES_PER_SECOND / 500, Some(io::ErrorKind::TimedOut)),
        ] {
            let parts = futures_util::stream::unfold(0, move |number| async move {
                tokio::time::sleep(pause).await;
                (number < 30).then(|| (Ok(Bytes::from(vec![0; bytes])), number + 1))
            });
            let parts: Vec<_> = body(parts, &budget).collect().await;
            let error = parts.iter().find_map(|part| part.as_ref().err());
            assert_eq!(error.map(io::Error::kind), kind, "{bytes}");
        }
    }

    #[tokio::test]
    async fn a_body_beyond_the_budget_is_refused() {
        let budget = BodyBudget::new(RATE_GRACE);
        let other = request(&budget);
        assert!(other.take(MAX_LARGE_BODIES_BYTES + SMALL_BODY_BYTES));
        let part = |bytes| Ok(Bytes::from(vec![0; bytes]));
        let parts = futures_util::stream::iter([part(SMALL_BODY_BYTES), part(1), part(1)]);
        let parts: Vec<_> = body(parts, &budget).collect().await;
        assert_eq!(parts.len(), 2);
        let refused = parts[1].as_ref().unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::QuotaExceeded);
    }
}
