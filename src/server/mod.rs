//! Sockets: listening, serving, stopping. What is answered is [`crate::api`]'s; what is refused before
//! anything is answered, and what is logged, is in [`middleware`].

mod activity;
mod body;
mod connection;
mod hosts;
mod keys;
mod log_interval;
mod middleware;
mod places;
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
use connection::Connections;
pub use hosts::AllowedHost;
pub use keys::{KeySources, Keys};
use log_interval::LogInterval;
pub use middleware::Origins;
pub use places::ConnectionLimits;
use places::Places;
pub use signals::StopSignals;
pub use tls::{Tls, TlsError};

/// Connections that the system keeps until they are accepted. Beyond them it drops handshakes, and a client that sends nothing
/// waits for an answer in vain. The system may have a lower limit (`net.core.somaxconn`).
const BACKLOG: u32 = 4096;

/// How long to wait when the system has no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How often that is logged.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(1);

/// Where and how to serve.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The name or address to listen on.
    pub host: String,
    /// The port; 0 is any.
    pub port: u16,
    /// Origins of web pages that may ask, beside the server's own and localhost's.
    pub origins: Vec<String>,
    /// Names that requests may call the server by, beside its own and this machine's.
    pub hosts: Vec<AllowedHost>,
    /// Who may ask.
    pub keys: Arc<Keys>,
    /// What connections are encrypted with; not at all, if there is none.
    pub tls: Option<Arc<Tls>>,
    /// How long a client may take nothing of an answer before it is given up.
    pub idle: Duration,
    /// How many connections there may be.
    pub connections: ConnectionLimits,
    /// How long running answers may go on after a stop is asked for.
    pub stop_deadline: Duration,
}

/// A server that listens and does not answer yet.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    options: ServeOptions,
}

impl Server {
    /// Listens.
    ///
    /// # Errors
    /// The address cannot be had.
    pub async fn bind(options: ServeOptions) -> io::Result<Self> {
        let listener = listen(&options.host, options.port).await?;
        let address = listener.local_addr()?;
        if !address.ip().is_loopback() {
            if options.keys.is_empty() {
                tracing::warn!(%address, "every client is let in (see --api-key-file)");
            }
            if options.hosts.is_empty() {
                tracing::warn!(%address, "every Host header is answered (see --allowed-hosts)");
            }
        }
        Ok(Self {
            address,
            listener,
            options,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where a browser finds it.
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme(), self.address)
    }

    fn scheme(&self) -> Scheme {
        match self.options.tls {
            Some(_) => Scheme::HTTPS,
            None => Scheme::HTTP,
        }
    }

    /// Answers until `stop` is ready. Then nothing new is accepted, and what runs may go on until the
    /// deadline, or until `cut` is ready.
    pub async fn serve(
        self,
        endpoint: impl Endpoint<Output = Response> + 'static,
        stop: impl Future<Output = ()>,
        cut: impl Future<Output = ()>,
    ) {
        let (options, scheme) = (&self.options, self.scheme());
        let origins = Origins::new(
            &scheme,
            &options.host,
            self.address,
            &options.origins,
            &options.hosts,
        );
        let common = Arc::new(Connections {
            endpoint: middleware::apply(endpoint, origins, self.options.keys).boxed(),
            local: self.address,
            tls: self.options.tls,
            idle: self.options.idle,
            bodies: BodyBudget::new(self.options.idle),
        });
        let places = Places::new(self.options.connections);
        let (accepting, stopped) = watch::channel(());
        let mut connections = JoinSet::new();
        let mut failures = LogInterval::new(ACCEPT_LOG_INTERVAL);
        tokio::pin!(stop);
        loop {
            // Ended connections are taken off the set as others come.
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                () = &mut stop => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    let Some(place) = places.admit(peer.ip()) else {
                        tracing::debug!(%peer, "a connection was refused: all are answering");
                        continue;
                    };
                    let common = Arc::clone(&common);
                    connections.spawn(common.serve(socket, peer, place, stopped.clone()));
                }
                Err(error) => {
                    // What the system lacks may be descriptors.
                    places.evict_idle();
                    if let Some(attempts) = failures.count(Instant::now()) {
                        tracing::warn!(%error, attempts, "a connection could not be accepted");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop((self.listener, accepting));
        let ended = async { while connections.join_next().await.is_some() {} };
        tokio::select! {
            () = ended => {}
            () = cut => tracing::warn!("stopping at once"),
            () = tokio::time::sleep(self.options.stop_deadline) => {
                tracing::warn!("the deadline has passed: running answers are cut off");
            }
        }
        connections.shutdown().await;
    }
}

/// Listens on the first address of `host` that can be bound.
async fn listen(host: &str, port: u16) -> io::Result<TcpListener> {
    let mut result = Err(io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        format!("{host} has no address"),
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
    // A restarted server can listen while connections of the previous process are in TIME_WAIT. On Windows, the option would let two servers
    // share a port.
    #[cfg(unix)]
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests;
