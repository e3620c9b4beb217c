//! The body of a request as the endpoint reads it. What an endpoint leaves unread is read and dropped beside the answer: a
//! client whose connection is closed while it sends sees a broken connection and no answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use poem::Body;
use tokio::runtime::Handle;

/// Bytes that are read and dropped. A client that sends more is cut off.
const MAX_DROPPED_BYTES: usize = 64 << 20;

/// The same body, whose rest is dropped as the module describes. `waits` is whether the client waits for
/// `100 Continue`, which it gets when the body is first read. `idle` is how long it may be silent.
pub(super) fn whole(body: Body, waits: bool, idle: Duration) -> Body {
    Body::from_bytes_stream(WholeBody {
        parts: Some(Box::pin(body.into_bytes_stream())),
        is_sent: !waits,
        idle,
    })
}

struct WholeBody {
    /// What was not read; none at the end.
    parts: Option<Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>>,
    /// Whether the client sends, or was told to.
    is_sent: bool,
    idle: Duration,
}

impl Stream for WholeBody {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.is_sent = true;
        let Some(parts) = &mut self.parts else {
            return Poll::Ready(None);
        };
        let part = parts.as_mut().poll_next(context);
        if let Poll::Ready(None | Some(Err(_))) = part {
            self.parts = None;
        }
        part
    }
}

impl Drop for WholeBody {
    fn drop(&mut self) {
        let Some(parts) = self.parts.take().filter(|_| self.is_sent) else {
            return;
        };
        // Without a runtime the program ends.
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(drop_rest(parts, self.idle));
        }
    }
}

/// Reads until the body or its connection ends, or a limit is reached.
async fn drop_rest(
    mut parts: Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>,
    idle: Duration,
) {
    let mut bytes = 0;
    while let Ok(Some(Ok(part))) = tokio::time::timeout(idle, parts.next()).await {
        bytes += part.len();
        if bytes > MAX_DROPPED_BYTES {
            break;
        }
    }
}
