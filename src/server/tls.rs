//! TLS handshakes, and the certificate and private key, which are reloaded when their files change. If the files are
//! unreadable or do not match, for example while one of them is being replaced, the last valid pair is used.

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

use super::reloaded::{FileSource, Reloaded, read_file};

/// Why the certificate and its private key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate file cannot be read or has no certificate.
    #[error("--ssl-cert-file {}: {cause}", path.display())]
    Certificate {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with the file.
        cause: String,
    },
    /// The key file cannot be read or has no private key.
    #[error("--ssl-key-file {}: {cause}", path.display())]
    Key {
        /// The path of the file.
        path: PathBuf,
        /// What is wrong with the file.
        cause: String,
    },
    /// Certificate and private key are readable but cannot be used together.
    #[error("--ssl-cert-file {}, --ssl-key-file {}: {cause}", certificate.display(), key.display())]
    Pair {
        /// The path of the certificate file.
        certificate: PathBuf,
        /// The path of the key file.
        key: PathBuf,
        /// Why the certificate and the key cannot be used together.
        cause: rustls::Error,
    },
}

/// The certificate and private key of a server.
pub struct Tls {
    config: Reloaded<CertificateFiles>,
}

#[derive(Debug)]
struct CertificateFiles {
    certificate: PathBuf,
    key: PathBuf,
}

impl Tls {
    /// Reads a certificate chain that begins with the server's certificate, and the private key of that certificate.
    /// Both files are in PEM format.
    ///
    /// # Errors
    /// If a file cannot be read, lacks the certificate or key, or if the key does not belong to the certificate.
    pub fn new(certificate: PathBuf, key: PathBuf) -> Result<Self, TlsError> {
        let config = Reloaded::new(CertificateFiles { certificate, key })?;
        Ok(Self { config })
    }

    /// Performs the handshake with a client within `timeout`.
    pub(super) async fn accept(
        &self,
        socket: TcpStream,
        timeout: Duration,
    ) -> io::Result<TlsStream<TcpStream>> {
        let handshake = TlsAcceptor::from(self.config.last_value()).accept(socket);
        tokio::time::timeout(timeout, handshake).await?
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl FileSource for CertificateFiles {
    type Value = ServerConfig;
    type Error = TlsError;

    const UNREADABLE_MESSAGE: &'static str =
        "cannot reload the TLS certificate: the previous one is used until its files are valid";

    fn files(&self) -> Vec<&Path> {
        vec![&self.certificate, &self.key]
    }

    fn read(&self) -> Result<ServerConfig, TlsError> {
        let certificate_error = |cause| TlsError::Certificate {
            path: self.certificate.clone(),
            cause,
        };
        let text = read_file(&self.certificate).map_err(certificate_error)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        let chain = chain.map_err(|error| certificate_error(pem_problem(error)))?;
        if chain.is_empty() {
            return Err(certificate_error(
                "no certificate found in the file".to_owned(),
            ));
        }
        let key_error = |cause| TlsError::Key {
            path: self.key.clone(),
            cause,
        };
        let text = read_file(&self.key).map_err(key_error)?;
        let key =
            PrivateKeyDer::from_pem_slice(&text).map_err(|error| key_error(pem_problem(error)))?;
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("the provider supports TLS 1.2 and 1.3")
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

fn pem_problem(error: pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "no readable private key found in the file".to_owned(),
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
