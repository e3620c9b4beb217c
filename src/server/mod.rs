//! Sockets: listening, serving, stopping. What is answered is [`crate::api`]'s; what is refused before
//! anything is answered, and what is logged, is in [`middleware`].

mod connection;
mod keys;
mod middleware;
mod signals;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::server::graceful::GracefulShutdown;
use poem::{Endpoint, EndpointExt, Response};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use keys::Keys;
pub use middleware::Origins;
pub use signals::StopSignals;

/// Most connections at once; more wait in the system's backlog.
const MAX_CONNECTIONS: usize = 1024;

/// How long to wait when the system has no descriptor for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where and how to serve.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// The name or address to listen on.
    pub host: String,
    /// The port; 0 is any.
    pub port: u16,
    /// Origins of web pages that may ask, beside the server's own and localhost's.
    pub origins: Vec<String>,
    /// Who may ask.
    pub keys: Arc<Keys>,
    /// How long a client may take nothing of an answer before it is given up.
    pub idle: Duration,
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
        let listener = TcpListener::bind((options.host.as_str(), options.port)).await?;
        Ok(Self {
            address: listener.local_addr()?,
            listener,
            options,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` is ready. Then nothing new is accepted, and what runs may go on until the
    /// deadline, or until `cut` is ready.
    pub async fn serve(
        self,
        endpoint: impl Endpoint<Output = Response> + 'static,
        stop: impl Future<Output = ()>,
        cut: impl Future<Output = ()>,
    ) {
        let origins = Origins::new(&self.options.host, self.address, &self.options.origins);
        let endpoint = Arc::new(middleware::apply(endpoint, origins, self.options.keys).boxed());
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let graceful = GracefulShutdown::new();
        let mut connections = JoinSet::new();
        tokio::pin!(stop);
        loop {
            // Ended connections are taken off the set as others come.
            while connections.try_join_next().is_some() {}
            let accept = async {
                let place = Arc::clone(&places).acquire_owned().await;
                (place, self.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                () = &mut stop => break,
                accepted = accept => accepted,
            };
            match accepted {
                Ok((socket, peer)) => {
                    let answered = connection::serve(
                        socket,
                        peer,
                        self.address,
                        Arc::clone(&endpoint),
                        self.options.idle,
                        &graceful,
                    );
                    connections.spawn(async move {
                        answered.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(self.listener);
        tokio::select! {
            () = graceful.shutdown() => {}
            () = cut => tracing::warn!("stopping at once"),
            () = tokio::time::sleep(self.options.stop_deadline) => {
                tracing::warn!("the deadline has passed: running answers are cut off");
            }
        }
        connections.shutdown().await;
    }
}

#[cfg(test)]
mod tests;
