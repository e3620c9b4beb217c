//! One connection. The handler of a request is a part of the connection's own future: when the client
//! leaves, hyper drops it, and what it computes for the client ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::EXPECT;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::Watcher;
use poem::endpoint::BoxEndpoint;
use poem::http::uri::Scheme;
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Endpoint, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_io_timeout::TimeoutStream;

use super::body;
use super::tls::Tls;

/// How long a client may take for its handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How long a client may take to send a request's header.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// Most bytes of a request's header.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Most header fields of a request.
const MAX_HEADERS: usize = 128;

/// What all connections of a server have in common.
pub(super) struct Connections {
    pub(super) endpoint: BoxEndpoint<'static, Response>,
    /// Where the server listens.
    pub(super) local: SocketAddr,
    /// What they are encrypted with, if they are.
    pub(super) tls: Option<Arc<Tls>>,
    /// How long a client may take nothing of an answer.
    pub(super) idle: Duration,
}

impl Connections {
    /// Serves a connection until it ends, or until it is asked to by `graceful`. One that is not begun yet when
    /// `stop` is ready is given up.
    pub(super) async fn serve(
        self: Arc<Self>,
        socket: TcpStream,
        peer: SocketAddr,
        graceful: Watcher,
        stop: impl Future<Output = ()> + Send,
    ) {
        // Tokens are small and wanted at once.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, %peer, "small packets may be delayed");
        }
        let Some(tls) = &self.tls else {
            return self.answer(socket, peer, Scheme::HTTP, graceful).await;
        };
        let encrypted = tokio::select! {
            encrypted = tls.accept(socket, HANDSHAKE_DEADLINE.min(self.idle)) => encrypted,
            () = stop => return,
        };
        match encrypted {
            Ok(socket) => self.answer(socket, peer, Scheme::HTTPS, graceful).await,
            Err(error) => tracing::debug!(%error, %peer, "a connection could not be encrypted"),
        }
    }

    /// Answers the requests that come on a connection.
    async fn answer(
        self: &Arc<Self>,
        socket: impl AsyncRead + AsyncWrite + Send + 'static,
        peer: SocketAddr,
        scheme: Scheme,
        graceful: Watcher,
    ) {
        let connections = Arc::clone(self);
        let answer = service_fn(move |request: hyper::Request<Incoming>| {
            let (connections, scheme) = (Arc::clone(&connections), scheme.clone());
            async move {
                let local = LocalAddr(Addr::socket(connections.local));
                let remote = RemoteAddr(Addr::socket(peer));
                let waits = request.headers().contains_key(EXPECT);
                let has_body = !request.body().is_end_stream();
                let mut request = Request::from((request, local, remote, scheme));
                if has_body {
                    let body = request.take_body();
                    request.set_body(body::whole(body, waits, connections.idle));
                }
                let response = connections.endpoint.get_response(request).await;
                Ok::<_, std::convert::Infallible>(hyper::Response::from(response))
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_DEADLINE.min(self.idle))
            .max_buf_size(MAX_HEADER_BYTES)
            .max_headers(MAX_HEADERS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_header_list_size(MAX_HEADER_BYTES as u32);
        // Reading is not limited here: while an answer is computed, a client has nothing to say.
        let mut socket = TimeoutStream::new(socket);
        socket.set_write_timeout(Some(self.idle));
        let connection = builder
            .serve_connection(TokioIo::new(Box::pin(socket)), answer)
            .into_owned();
        if let Err(error) = graceful.watch(connection).await {
            // A client that leaves is no event of ours.
            tracing::debug!(error, %peer, "a connection ended early");
        }
    }
}
