//! Encryption: a certificate and its key, read again when their files change, and the handshake. A certificate is no
//! door: while its files cannot be read, as when one of the two is written, the last pair that fits stays.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};
use tokio_rustls::server::TlsStream;

use super::reloaded::{Reloaded, Source, bytes_of};

/// Why nothing can be encrypted.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file has no certificates.
    #[error("--ssl-cert-file {}: {cause}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// The file has no private key.
    #[error("--ssl-key-file {}: {cause}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        cause: String,
    },
    /// Each can be read, but the certificate is not the key's.
    #[error("--ssl-cert-file {}, --ssl-key-file {}: {cause}", certificate.display(), key.display())]
    Pair {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Why.
        cause: rustls::Error,
    },
}

/// What connections are encrypted with.
pub struct Tls {
    pair: Reloaded<Pair>,
}

#[derive(Debug)]
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

impl Tls {
    /// A chain of certificates, the server's own first, and its private key, both PEM.
    ///
    /// # Errors
    /// A file that cannot be read or has none, or a key of another certificate.
    pub fn new(certificate: PathBuf, key: PathBuf) -> Result<Self, TlsError> {
        let pair = Reloaded::new(Pair { certificate, key })?;
        Ok(Self { pair })
    }

    /// Shakes hands with a client that does its part within `deadline`.
    pub(super) async fn accept(
        &self,
        socket: TcpStream,
        deadline: Duration,
    ) -> io::Result<TlsStream<TcpStream>> {
        let handshake = TlsAcceptor::from(self.pair.last()).accept(socket);
        tokio::time::timeout(deadline, handshake).await?
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Source for Pair {
    type Value = ServerConfig;
    type Error = TlsError;

    const WITHOUT_FILES: &'static str =
        "the certificate that was read before is used until these files can be read again";

    fn files(&self) -> Vec<&Path> {
        vec![&self.certificate, &self.key]
    }

    fn read(&self) -> Result<ServerConfig, TlsError> {
        let no_chain = |cause| TlsError::Certificate {
            path: self.certificate.clone(),
            cause,
        };
        let text = bytes_of(&self.certificate).map_err(no_chain)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let chain = chain.map_err(|error| no_chain(in_words(error)))?;
        if chain.is_empty() {
            return Err(no_chain("there is no certificate in it".to_owned()));
        }
        let no_key = |cause| TlsError::Key {
            path: self.key.clone(),
            cause,
        };
        let text = bytes_of(&self.key).map_err(no_key)?;
        let key = PrivateKeyDer::from_pem_slice(&text).map_err(|error| no_key(in_words(error)))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider has what TLS 1.2 and 1.3 need")
            .with_no_client_auth()
            .with_single_cert(chain, key);
        let mut config = config.map_err(|cause| TlsError::Pair {
            certificate: self.certificate.clone(),
            key: self.key.clone(),
            cause,
        })?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn in_words(error: pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "there is no private key in it that can be read".to_owned(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
