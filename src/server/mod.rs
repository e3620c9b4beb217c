//! The HTTP server: listens, accepts connections and stops gracefully. [`crate::api`] handles the requests;
//! [`middleware`] checks access and writes the access log.

mod activity;
mod body;
mod connection;
mod connection_limiter;
mod hosts;
mod keys;
mod log_interval;
mod middleware;
mod reloaded;
mod signals;
mod span;
mod tls;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use poem::http::uri::Scheme;
use poem::{Endpoint, EndpointExt, Response};
use tokio::net::{TcpListener, TcpSocket, lookup_host};
use tokio::sync::watch;
use tokio::task::JoinSet;

use body::BodyBudget;
use connection::ConnectionHandler;
use connection_limiter::ConnectionLimiter;
pub use connection_limiter::ConnectionLimits;
pub use hosts::AllowedHost;
pub use keys::{ApiKeySources, ApiKeys};
use log_interval::LogInterval;
pub use middleware::HostOriginPolicy;
pub use signals::StopSignals;
pub use tls::{Tls, TlsError};

/// Maximum number of established connections that wait for the server to accept them. When this queue is full, the
/// operating system drops handshakes, and clients wait. The system may set a lower limit (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// Pause after a failed accept, for example because file descriptors ran out.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Minimum time between two log lines about failed accepts.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Address, access rules and limits of a server.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Host name or IP address to listen on.
    pub host: String,
    /// Port to listen on; 0 selects a free port.
    pub port: u16,
    /// Origins of web pages that may send requests, besides the server's own and localhost.
    pub allowed_origins: Vec<String>,
    /// Hosts that the `Host` header may name, besides the server's own and this machine's names.
    pub allowed_hosts: Vec<AllowedHost>,
    /// The accepted API keys; if empty, every client has access.
    pub keys: Arc<ApiKeys>,
    /// Certificate and private key; `None` serves plain HTTP.
    pub tls: Option<Arc<Tls>>,
    /// How long a client may receive nothing of a response before its connection is closed.
    pub idle_timeout: Duration,
    /// Maximum numbers of open connections.
    pub connection_limits: ConnectionLimits,
    /// How long running responses may continue after a stop is requested.
    pub stop_timeout: Duration,
}

/// A server that is listening; [`Server::serve`] accepts connections.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    options: ServeOptions,
}

impl Server {
    /// Starts listening.
    ///
    /// # Errors
    /// If the host cannot be resolved, or none of its addresses can be bound.
    pub async fn bind(options: ServeOptions) -> io::Result<Self> {
        let listener = listen(&options.host, options.port).await?;
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            if options.keys.is_empty() {
                tracing::warn!(%address, "no API key is required: every client has access (see --api-key-file)");
            }
            if options.allowed_hosts.is_empty() {
                tracing::warn!(%address, "requests with any Host header are accepted (see --allowed-hosts)");
            }
        }
        Ok(Self {
            address,
            listener,
            options,
        })
    }

    /// The address and port that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The server's URL: scheme, address and port.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme(), self.address)
    }

    fn scheme(&self) -> Scheme {
        match self.options.tls {
            Some(_) => Scheme::HTTPS,
            None => Scheme::HTTP,
        }
    }

    /// Accepts connections until `stop` completes. Running responses may then continue until
    /// [`ServeOptions::stop_timeout`] has passed or `force_stop` completes.
    pub async fn serve(
        self,
        endpoint: impl Endpoint<Output = Response> + 'static,
        stop: impl Future<Output = ()>,
        force_stop: impl Future<Output = ()>,
    ) {
        let (options, scheme) = (&self.options, self.scheme());
        let policy = HostOriginPolicy::new(
            &scheme,
            &options.host,
            self.address,
            &options.allowed_origins,
            &options.allowed_hosts,
        );
        let handler = Arc::new(ConnectionHandler {
            endpoint: middleware::apply(endpoint, policy, self.options.keys).boxed(),
            local: self.address,
            tls: self.options.tls,
            idle_timeout: self.options.idle_timeout,
            body_budget: BodyBudget::new(self.options.idle_timeout),
        });
        let limiter = ConnectionLimiter::new(self.options.connection_limits);
        let (accepting, stopping) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut failures = LogInterval::new(ACCEPT_LOG_INTERVAL);
        tokio::pin!(stop);
        loop {
            // Remove tasks of closed connections from the set.
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    let Some(permit) = limiter.try_acquire(peer.ip()) else {
                        tracing::debug!(%peer, "connection refused: all connections are in use");
                        continue;
                    };
                    let handler = Arc::clone(&handler);
                    connections.spawn(handler.serve(socket, peer, permit, stopping.clone()));
                }
                Err(error) => {
                    // File descriptors may have run out: closing an idle connection frees one.
                    limiter.evict_idle();
                    if let Some(attempts) = failures.count(Instant::now()) {
                        tracing::warn!(%error, attempts, "cannot accept a connection");
                    }
                    tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                }
            }
        }
        drop((self.listener, accepting));
        let all_closed = async { while connections.join_next().await.is_some() {} };
        tokio::select! {
            () = all_closed => {}
            () = force_stop => tracing::warn!("stopping immediately"),
            () = tokio::time::sleep(self.options.stop_timeout) => {
                tracing::warn!("the stop timeout has passed: running responses are aborted");
            }
        }
        connections.shutdown().await;
    }
}

/// Listens on the first address of `host` that can be bound.
async fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut result = Err(io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        format!("no address found for host '{host}'"),
    ));
    for address in lookup_host((host, port)).await? {
        result = listen_at(address);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    // Lets a restarted server listen while connections of the previous process are in TIME_WAIT. On Windows, the option
    // would let two servers share a port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests;
