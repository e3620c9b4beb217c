//! Serves the requests of one connection. The connection's future owns the request handlers: when the client
//! disconnects, hyper drops them, which cancels their work.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::{Body as _, Incoming};
use hyper::header::{CONNECTION, EXPECT, HeaderValue};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use poem::endpoint::BoxEndpoint;
use poem::http::uri::Scheme;
use poem::web::{LocalAddr, RemoteAddr};
use poem::{Addr, Endpoint, Request, Response};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio_io_timeout::TimeoutStream;

use super::activity::MonitoredSocket;
use super::body::{self, BodyBudget, ResponseBody};
use super::connection_limiter::ConnectionPermit;
use super::tls::Tls;
use crate::api::Error;

/// Maximum duration of the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection stays open after the server announced its end (GOAWAY in HTTP/2), for requests that are
/// already on their way.
const GOAWAY_TIMEOUT: Duration = Duration::from_secs(1);
/// Maximum size in bytes of a request's headers.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Maximum number of header fields of a request.
const MAX_HEADERS: usize = 128;
/// Maximum number of concurrent requests on an HTTP/2 connection.
const MAX_STREAMS: u32 = 128;
/// The paths that are served on a health-only connection, see [`ConnectionPermit::health_only`].
const HEALTH_PATHS: [&str; 2] = ["/health", "/v1/health"];

/// Serves accepted connections; all connections of a server share one handler.
pub(super) struct ConnectionHandler {
    pub(super) endpoint: BoxEndpoint<'static, Response>,
    /// The address that the server listens on.
    pub(super) local: SocketAddr,
    /// Certificate and private key; `None` serves plain HTTP.
    pub(super) tls: Option<Arc<Tls>>,
    /// How long a connection may be stalled; also caps every other timeout of a connection.
    pub(super) idle_timeout: Duration,
    pub(super) body_budget: Arc<BodyBudget>,
}

impl ConnectionHandler {
    /// Serves a connection until it ends, expires, or is evicted. Once the sender of `stopping` is dropped, the
    /// connection ends after its requests in flight.
    pub(super) async fn serve(
        self: Arc<Self>,
        socket: TcpStream,
        peer: SocketAddr,
        permit: ConnectionPermit,
        stopping: watch::Receiver<()>,
    ) {
        // Each streamed token is a small packet, which must not wait for more data.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, %peer, "cannot set TCP_NODELAY: small packets may be delayed");
        }
        let Some(tls) = &self.tls else {
            return self
                .serve_requests(socket, peer, Scheme::HTTP, &permit, stopping)
                .await;
        };
        let handshake = tokio::select! {
            handshake = tls.accept(socket, HANDSHAKE_TIMEOUT.min(self.idle_timeout)) => handshake,
            () = permit.activity.expired(self.idle_timeout, stopping.clone()) => return,
        };
        match handshake {
            Ok(socket) => {
                permit.activity.record_handshake();
                self.serve_requests(socket, peer, Scheme::HTTPS, &permit, stopping)
                    .await;
            }
            Err(error) => tracing::debug!(%error, %peer, "TLS handshake failed"),
        }
    }

    async fn serve_requests(
        self: &Arc<Self>,
        socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: SocketAddr,
        scheme: Scheme,
        permit: &ConnectionPermit,
        mut stopping: watch::Receiver<()>,
    ) {
        let handler = Arc::clone(self);
        let (activity, health_only) = (Arc::clone(&permit.activity), permit.health_only);
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let (handler, scheme) = (Arc::clone(&handler), scheme.clone());
            let request_guard = activity.begin_request(request.version());
            async move {
                let Some(request_guard) = request_guard else {
                    return std::future::pending().await;
                };
                let local = LocalAddr(Addr::socket(handler.local));
                let remote = RemoteAddr(Addr::socket(peer));
                let expects_continue = request.headers().contains_key(EXPECT);
                let has_body = !request.body().is_end_stream();
                let is_refused = health_only && !HEALTH_PATHS.contains(&request.uri().path());
                let mut request = Request::from((request, local, remote, scheme));
                if has_body {
                    let body = request.take_body();
                    let reservation = handler.body_budget.reservation(peer.ip());
                    let timeout = handler.idle_timeout;
                    request.set_body(body::limit(body, expects_continue, timeout, reservation));
                }
                let mut response = match is_refused {
                    true => {
                        let problem = "too many connections: try again later".to_owned();
                        Error::TooManyRequests(problem).response_for_path(request.uri().path())
                    }
                    false => handler.endpoint.get_response(request).await,
                };
                if health_only {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                let response = hyper::Response::from(response)
                    .map(|body| ResponseBody::new(body, request_guard));
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // `activity` enforces the timeouts of both protocols.
            .header_read_timeout(None)
            .max_buf_size(MAX_HEADER_BYTES)
            .max_headers(MAX_HEADERS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_BYTES as u32);
        // Reads have no timeout here: a client sends nothing while it waits for its response.
        let mut socket = TimeoutStream::new(MonitoredSocket {
            socket,
            activity: Arc::clone(&permit.activity),
        });
        socket.set_write_timeout(Some(self.idle_timeout));
        let connection = builder
            .serve_connection(TokioIo::new(Box::pin(socket)), service)
            .into_owned();
        let expired = permit.activity.expired(self.idle_timeout, stopping.clone());
        tokio::pin!(connection, expired);
        let stop_requested = async { drop(stopping.changed().await) };
        let result = tokio::select! {
            result = &mut connection => Some(result),
            () = &mut expired => None,
            () = stop_requested => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    result = &mut connection => Some(result),
                    () = &mut expired => None,
                }
            }
        };
        match result {
            // A client that disconnects is not a server error.
            Some(Err(error)) => tracing::debug!(error, %peer, "connection ended with an error"),
            Some(Ok(())) => {}
            None => {
                tracing::debug!(%peer, "closing an idle connection");
                if !permit.activity.is_evicted() {
                    connection.as_mut().graceful_shutdown();
                    // Requests that the client has sent in the meantime are still served.
                    let expired_again = async {
                        tokio::time::sleep(GOAWAY_TIMEOUT).await;
                        permit.activity.expired(self.idle_timeout, stopping).await;
                    };
                    tokio::select! {
                        // The connection is closed in either case, so an error is ignored.
                        _ = connection => {}
                        () = expired_again => {}
                    }
                }
            }
        }
    }
}
