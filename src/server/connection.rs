//! One connection. The handler of a request is a part of the connection's own future: when the client
//! leaves, hyper drops it, and what it computes for the client ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use poem::endpoint::BoxEndpoint;
use poem::http::uri::Scheme;
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Endpoint, Request, Response};
use tokio::net::TcpStream;
use tokio_io_timeout::TimeoutStream;

/// How long a client may take to send a request's header.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// Most bytes of a request's header.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Most header fields of a request.
const MAX_HEADERS: usize = 128;

/// Answers the requests of a connection until it ends, or until it is asked to by `graceful`, or until the
/// client takes nothing for `idle`.
pub(super) fn serve(
    socket: TcpStream,
    peer: SocketAddr,
    local: SocketAddr,
    endpoint: Arc<BoxEndpoint<'static, Response>>,
    idle: Duration,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + Send + use<> {
    // Tokens are small and wanted at once.
    let no_delay = socket.set_nodelay(true);
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let endpoint = Arc::clone(&endpoint);
        async move {
            let local = LocalAddr(Addr::socket(local));
            let remote = RemoteAddr(Addr::socket(peer));
            let request = Request::from((request, local, remote, Scheme::HTTP));
            let response = endpoint.get_response(request).await;
            Ok::<_, std::convert::Infallible>(hyper::Response::from(response))
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE.min(idle))
        .max_buf_size(MAX_HEADER_BYTES)
        .max_headers(MAX_HEADERS);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEADER_BYTES as u32);
    // Reading is not limited here: while an answer is computed, a client has nothing to say.
    let mut socket = TimeoutStream::new(socket);
    socket.set_write_timeout(Some(idle));
    let connection = builder
        .serve_connection(TokioIo::new(Box::pin(socket)), answer)
        .into_owned();
    let connection = graceful.watch(connection);
    async move {
        if let Err(error) = no_delay {
            tracing::debug!(%error, %peer, "small packets may be delayed");
        }
        if let Err(error) = connection.await {
            // A client that leaves is no event of ours.
            tracing::debug!(error, %peer, "a connection ended early");
        }
    }
}
