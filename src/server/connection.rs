//! One connection. The handler of a request is a part of the connection's own future: when the client
//! leaves, hyper drops it, and what it computes for the client ends.

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

use super::activity::Watched;
use super::body::{self, AnswerBody, BodyBudget};
use super::places::Place;
use super::tls::Tls;
use crate::api::Error;

/// How long a client may take for its handshake.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// How long an idle client may take to close its connection after it was asked to (GOAWAY of HTTP/2).
const GOAWAY_DEADLINE: Duration = Duration::from_secs(1);
/// Most bytes of a request's header.
const MAX_HEADER_BYTES: usize = 64 << 10;
/// Most header fields of a request.
const MAX_HEADERS: usize = 128;
/// Most requests at once on a connection of HTTP/2.
const MAX_STREAMS: u32 = 128;
/// What is answered on a connection beyond the limits.
const HEALTH_PATHS: [&str; 2] = ["/health", "/v1/health"];

/// What all connections of a server have in common.
pub(super) struct Connections {
    pub(super) endpoint: BoxEndpoint<'static, Response>,
    /// Where the server listens.
    pub(super) local: SocketAddr,
    /// What they are encrypted with, if they are.
    pub(super) tls: Option<Arc<Tls>>,
    /// How long a client may take nothing of an answer, and the longest that a connection may be idle.
    pub(super) idle: Duration,
    pub(super) bodies: Arc<BodyBudget>,
}

impl Connections {
    /// Serves a connection until it ends, is idle or stalled for too long, or loses its place. Once `stopping` is closed,
    /// it ends after what it answers.
    pub(super) async fn serve(
        self: Arc<Self>,
        socket: TcpStream,
        peer: SocketAddr,
        place: Place,
        stopping: watch::Receiver<()>,
    ) {
        // Tokens are small and wanted at once.
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(%error, %peer, "small packets may be delayed");
        }
        let Some(tls) = &self.tls else {
            return self
                .answer(socket, peer, Scheme::HTTP, &place, stopping)
                .await;
        };
        let encrypted = tokio::select! {
            encrypted = tls.accept(socket, HANDSHAKE_DEADLINE.min(self.idle)) => encrypted,
            () = place.activity.expired(self.idle, stopping.clone()) => return,
        };
        match encrypted {
            Ok(socket) => {
                place.activity.handshake_done();
                self.answer(socket, peer, Scheme::HTTPS, &place, stopping)
                    .await;
            }
            Err(error) => tracing::debug!(%error, %peer, "a connection could not be encrypted"),
        }
    }

    /// Answers the requests that come on a connection.
    async fn answer(
        self: &Arc<Self>,
        socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        peer: SocketAddr,
        scheme: Scheme,
        place: &Place,
        mut stopping: watch::Receiver<()>,
    ) {
        let connections = Arc::clone(self);
        let (activity, reserved) = (Arc::clone(&place.activity), place.reserved);
        let answer = service_fn(move |request: hyper::Request<Incoming>| {
            let (connections, scheme) = (Arc::clone(&connections), scheme.clone());
            let begun = activity.begin(request.version());
            async move {
                let Some(in_flight) = begun else {
                    return std::future::pending().await;
                };
                let local = LocalAddr(Addr::socket(connections.local));
                let remote = RemoteAddr(Addr::socket(peer));
                let waits = request.headers().contains_key(EXPECT);
                let has_body = !request.body().is_end_stream();
                let is_refused = reserved && !HEALTH_PATHS.contains(&request.uri().path());
                let mut request = Request::from((request, local, remote, scheme));
                if has_body {
                    let body = request.take_body();
                    let share = connections.bodies.share(peer.ip());
                    request.set_body(body::whole(body, waits, connections.idle, share));
                }
                let mut response = match is_refused {
                    true => {
                        let problem = "too many connections: try again later".to_owned();
                        Error::Busy(problem).answer_at(request.uri().path())
                    }
                    false => connections.endpoint.get_response(request).await,
                };
                if reserved {
                    let close = HeaderValue::from_static("close");
                    response.headers_mut().insert(CONNECTION, close);
                }
                let response =
                    hyper::Response::from(response).map(|body| AnswerBody::new(body, in_flight));
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            // The deadlines of `activity` hold for all protocols.
            .header_read_timeout(None)
            .max_buf_size(MAX_HEADER_BYTES)
            .max_headers(MAX_HEADERS);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(MAX_STREAMS)
            .max_header_list_size(MAX_HEADER_BYTES as u32);
        // Reading is not limited here: while an answer is computed, a client has nothing to say.
        let mut socket = TimeoutStream::new(Watched {
            socket,
            activity: Arc::clone(&place.activity),
        });
        socket.set_write_timeout(Some(self.idle));
        let connection = builder
            .serve_connection(TokioIo::new(Box::pin(socket)), answer)
            .into_owned();
        let expired = place.activity.expired(self.idle, stopping.clone());
        tokio::pin!(connection, expired);
        let stops = async { drop(stopping.changed().await) };
        let ended = tokio::select! {
            ended = &mut connection => Some(ended),
            () = &mut expired => None,
            () = stops => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = &mut connection => Some(ended),
                    () = &mut expired => None,
                }
            }
        };
        match ended {
            // A client that leaves is no event of ours.
            Some(Err(error)) => tracing::debug!(error, %peer, "a connection ended early"),
            Some(Ok(())) => {}
            None => {
                tracing::debug!(%peer, "an idle connection was closed");
                if !place.activity.is_evicted() {
                    connection.as_mut().graceful_shutdown();
                    // A request that the client sent meanwhile is answered.
                    let expired_again = async {
                        tokio::time::sleep(GOAWAY_DEADLINE).await;
                        place.activity.expired(self.idle, stopping).await;
                    };
                    tokio::select! {
                        // An error is of no use here: the connection is closed anyway.
                        _ = connection => {}
                        () = expired_again => {}
                    }
                }
            }
        }
    }
}
