use std::fs;
use std::net::SocketAddr;
use std::sync::Mutex;

use poem::EndpointExt;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;
use crate::server::reloaded::tests::SHORT_INTERVAL;
use crate::server::tests::{NotifyOnDrop, options};
use crate::server::{ServeOptions, Server};

/// Shorter than every timeout of the server in these tests.
const SHORT_TIMEOUT: Duration = Duration::from_secs(8);

/// A folder with the files `certificate` and `key`.
struct CertificateFolder(TempDir);

impl CertificateFolder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn certificate(&self) -> PathBuf {
        self.0.path().join("certificate")
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("key")
    }

    /// Writes a new certificate for localhost and `name`, and its private key.
    fn write(&self, name: &str) -> CertificateDer<'static> {
        let names = vec!["localhost".to_owned(), name.to_owned()];
        let generated = rcgen::generate_simple_self_signed(names).unwrap();
        fs::write(self.certificate(), generated.cert.pem()).unwrap();
        fs::write(self.key(), generated.signing_key.serialize_pem()).unwrap();
        generated.cert.der().clone()
    }

    fn read(&self) -> Result<Tls, TlsError> {
        Tls::new(self.certificate(), self.key())
    }

    /// Like [`Self::read`], but checks the files for changes every [`SHORT_INTERVAL`].
    fn read_with_short_interval(&self) -> Tls {
        let files = CertificateFiles {
            certificate: self.certificate(),
            key: self.key(),
        };
        Tls {
            config: Reloaded::with_interval(files, SHORT_INTERVAL).unwrap(),
        }
    }
}

/// Waits until the files were checked several times.
async fn wait_for_checks() {
    tokio::time::sleep(10 * SHORT_INTERVAL).await;
}

/// Connects as soon as the server uses the trusted certificate.
async fn connect_eventually(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
) -> ClientStream<TcpStream> {
    let connected = async {
        loop {
            if let Ok(socket) = connect(address, trusted, "http/1.1").await {
                return socket;
            }
            tokio::time::sleep(SHORT_INTERVAL).await;
        }
    };
    let connected = tokio::time::timeout(SHORT_TIMEOUT, connected).await;
    connected.expect("the server does not use the new certificate")
}

/// Starts a server with the certificate of `folder`; its responses are the scheme of the request. The returned future
/// stops the server.
async fn serve(
    folder: &CertificateFolder,
    idle_timeout: Duration,
) -> (SocketAddr, impl Future<Output = ()>) {
    let server = Server::bind(ServeOptions {
        tls: Some(Arc::new(folder.read_with_short_interval())),
        idle_timeout,
        ..options()
    });
    let server = server.await.unwrap();
    let (address, (stop, stopped)) = (server.address(), oneshot::channel::<()>());
    let endpoint = poem::endpoint::make_sync(|request| request.scheme().to_string());
    let serving = tokio::spawn(server.serve(
        endpoint.map_to_response(),
        async { drop(stopped.await) },
        std::future::pending(),
    ));
    let end = async {
        drop(stop);
        serving.await.unwrap();
    };
    (address, end)
}

/// Connects as a client that trusts only this certificate.
async fn connect(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    protocol: &str,
) -> io::Result<ClientStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = config.with_no_client_auth();
    config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
    let socket = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config))
        .connect("localhost".try_into().unwrap(), socket)
        .await
}

/// Sends a request on a connection that stays open and returns the response.
async fn send(socket: &mut ClientStream<TcpStream>) -> String {
    socket
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut response = String::new();
    while !response.contains("\r\n\r\nhttp") {
        let mut chunk = [0; 1024];
        let bytes = socket.read(&mut chunk).await.unwrap();
        assert!(bytes > 0, "the connection ended after {response:?}");
        response += std::str::from_utf8(&chunk[..bytes]).unwrap();
    }
    response
}

#[tokio::test]
async fn requests_are_served_with_http1_and_http2() {
    let folder = CertificateFolder::new();
    let certificate = folder.write("first");
    let (address, _end) = serve(&folder, Duration::from_secs(60)).await;

    let mut socket = connect(address, &certificate, "http/1.1").await.unwrap();
    let response = send(&mut socket).await;
    assert!(response.starts_with("HTTP/1.1 200 OK\r\n"), "{response}");
    assert!(response.ends_with("\r\n\r\nhttps"), "{response}");

    let mut socket = connect(address, &certificate, "h2").await.unwrap();
    assert_eq!(socket.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (preface, no_settings) = (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        [0, 0, 0, 4, 0, 0, 0, 0, 0],
    );
    socket.write_all(preface).await.unwrap();
    socket.write_all(&no_settings).await.unwrap();
    let mut frame = [0; 9];
    socket.read_exact(&mut frame).await.unwrap();
    assert_eq!(frame[3], 4, "the first frame is the server's SETTINGS");
}

#[tokio::test]
async fn new_connections_get_a_new_certificate() {
    let folder = CertificateFolder::new();
    let first = folder.write("first");
    let (address, _end) = serve(&folder, Duration::from_secs(60)).await;
    let mut before = connect(address, &first, "http/1.1").await.unwrap();
    send(&mut before).await;

    let second = folder.write("the second");
    let mut after = connect_eventually(address, &second).await;
    send(&mut after).await;
    connect(address, &first, "http/1.1").await.unwrap_err();
    send(&mut before).await;
}

#[tokio::test]
async fn an_invalid_certificate_or_key_keeps_the_previous_pair() {
    let folder = CertificateFolder::new();
    let certificate = folder.write("first");
    let (address, _end) = serve(&folder, Duration::from_secs(60)).await;
    let good = fs::read(folder.certificate()).unwrap();
    let other = CertificateFolder::new();
    other.write("another name");

    fs::write(folder.certificate(), "no certificate").unwrap();
    wait_for_checks().await;
    connect(address, &certificate, "http/1.1").await.unwrap();
    fs::copy(other.certificate(), folder.certificate()).unwrap();
    wait_for_checks().await;
    connect(address, &certificate, "http/1.1").await.unwrap();
    fs::remove_file(folder.key()).unwrap();
    wait_for_checks().await;
    connect(address, &certificate, "http/1.1").await.unwrap();
    fs::write(folder.certificate(), good).unwrap();
    wait_for_checks().await;
    connect(address, &certificate, "http/1.1").await.unwrap();
    // A valid pair is loaded again.
    let third = folder.write("the third name");
    connect_eventually(address, &third).await;
}

#[tokio::test]
async fn a_client_without_tls_is_refused_immediately() {
    let folder = CertificateFolder::new();
    folder.write("first");
    let (address, _end) = serve(&folder, Duration::from_secs(60)).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut response = Vec::new();
    // The connection ends with or without an error.
    let refused = tokio::time::timeout(SHORT_TIMEOUT, socket.read_to_end(&mut response));
    let _ = refused.await.expect("the handshake timeout is longer");
    assert!(!response.starts_with(b"HTTP"), "{response:?}");
}

#[tokio::test]
async fn a_silent_client_delays_neither_other_clients_nor_a_stop() {
    let folder = CertificateFolder::new();
    let certificate = folder.write("first");
    let (address, end) = serve(&folder, Duration::from_secs(60)).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut socket = connect(address, &certificate, "http/1.1").await.unwrap();
    send(&mut socket).await;
    drop(socket);
    // A stop aborts the handshake.
    let ended = tokio::time::timeout(SHORT_TIMEOUT, end);
    ended.await.expect("the handshake timeout is longer");
    assert!(!matches!(silent.read(&mut [0]).await, Ok(1..)));
}

#[tokio::test]
async fn a_handshake_has_a_timeout() {
    let folder = CertificateFolder::new();
    folder.write("first");
    let (address, _end) = serve(&folder, Duration::from_millis(50)).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    assert!(!matches!(silent.read(&mut [0]).await, Ok(1..)));
}

#[tokio::test]
async fn a_handler_is_dropped_when_its_client_disconnects() {
    let folder = CertificateFolder::new();
    let certificate = folder.write("first");
    let server = Server::bind(ServeOptions {
        tls: Some(Arc::new(folder.read().unwrap())),
        ..options()
    });
    let server = server.await.unwrap();
    let address = server.address();
    let (start, started) = oneshot::channel();
    let (dropped, was_dropped) = oneshot::channel();
    let signals = Mutex::new(Some((start, NotifyOnDrop(Some(dropped)))));
    let endpoint = poem::endpoint::make(move |_| {
        let signals = signals.lock().unwrap().take();
        async move {
            let (start, _guard) = signals.unwrap();
            start.send(()).unwrap();
            std::future::pending::<&str>().await
        }
    });
    tokio::spawn(server.serve(
        endpoint.map_to_response(),
        std::future::pending(),
        std::future::pending(),
    ));
    let mut socket = connect(address, &certificate, "http/1.1").await.unwrap();
    socket
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    started.await.unwrap();
    // Without a TLS close_notify, as when the client's process is killed.
    drop(socket);
    was_dropped.await.unwrap();
}

#[test]
fn errors_name_the_file_and_its_option() {
    let folder = CertificateFolder::new();
    let check = |cause: &str| {
        let message = folder.read().unwrap_err().to_string();
        assert!(message.contains(cause), "{message}");
        let option = cause.starts_with("key").then_some("--ssl-key-file");
        assert!(message.contains(option.unwrap_or("--ssl-cert-file")));
    };
    check("certificate: No such file");
    folder.write("first");
    let other = CertificateFolder::new();
    other.write("second");
    fs::copy(other.certificate(), folder.certificate()).unwrap();
    check("key: keys may not be consistent");
    fs::write(folder.key(), "-----BEGIN NOTHING-----").unwrap();
    check("key: ");
    fs::write(folder.key(), "").unwrap();
    check("key: no readable private key found");
    fs::copy(folder.certificate(), folder.key()).unwrap();
    check("key: no readable private key found");
    fs::write(folder.certificate(), "").unwrap();
    check("certificate: no certificate found");
    fs::write(folder.certificate(), vec![b'x'; (1 << 20) + 1]).unwrap();
    check("certificate: the file is larger than 1048576 bytes");
}
