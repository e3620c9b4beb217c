use std::fs;
use std::net::SocketAddr;
use std::sync::Mutex;

use poem::EndpointExt;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as Encrypted;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::*;
use crate::server::reloaded::tests::SHORT;
use crate::server::tests::{Dropped, options};
use crate::server::{ServeOptions, Server};

/// Shorter than any deadline of the server in these tests.
const AT_ONCE: Duration = Duration::from_secs(8);

/// A folder with the files `certificate` and `key`.
struct Pairs(TempDir);

impl Pairs {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn certificate(&self) -> PathBuf {
        self.0.path().join("certificate")
    }

    fn key(&self) -> PathBuf {
        self.0.path().join("key")
    }

    /// Writes a new pair, for localhost and `name`.
    fn write(&self, name: &str) -> CertificateDer<'static> {
        let names = vec!["localhost".to_owned(), name.to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        fs::write(self.certificate(), made.cert.pem()).unwrap();
        fs::write(self.key(), made.signing_key.serialize_pem()).unwrap();
        made.cert.der().clone()
    }

    fn read(&self) -> Result<Tls, TlsError> {
        Tls::new(self.certificate(), self.key())
    }

    /// The pair, whose files are looked at often.
    fn watched(&self) -> Tls {
        let pair = Pair {
            certificate: self.certificate(),
            key: self.key(),
        };
        Tls {
            pair: Reloaded::with_interval(pair, SHORT).unwrap(),
        }
    }
}

/// Waits until the files of a pair were looked at, several times.
async fn looked_at() {
    tokio::time::sleep(10 * SHORT).await;
}

/// The same as [`connect`], as soon as the server shows that certificate.
async fn connect_soon(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
) -> Encrypted<TcpStream> {
    let connected = async {
        loop {
            if let Ok(socket) = connect(address, trusted, "http/1.1").await {
                return socket;
            }
            tokio::time::sleep(SHORT).await;
        }
    };
    let connected = tokio::time::timeout(AT_ONCE, connected).await;
    connected.expect("the new certificate is not shown")
}

/// A server with the pair, that answers with the scheme of what it was asked.
async fn serve(pairs: &Pairs, idle: Duration) -> (SocketAddr, impl Future<Output = ()>) {
    let server = Server::bind(ServeOptions {
        tls: Some(Arc::new(pairs.watched())),
        idle,
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

/// A connection of one who trusts this certificate alone.
async fn connect(
    address: SocketAddr,
    trusted: &CertificateDer<'static>,
    protocol: &str,
) -> io::Result<Encrypted<TcpStream>> {
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

/// Asks on a connection that stays open.
async fn ask(socket: &mut Encrypted<TcpStream>) -> String {
    socket
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    while !answer.contains("\r\n\r\nhttp") {
        let mut part = [0; 1024];
        let bytes = socket.read(&mut part).await.unwrap();
        assert!(bytes > 0, "the connection ended after {answer:?}");
        answer += std::str::from_utf8(&part[..bytes]).unwrap();
    }
    answer
}

#[tokio::test]
async fn requests_are_answered_in_both_protocols() {
    let pairs = Pairs::new();
    let certificate = pairs.write("first");
    let (address, _end) = serve(&pairs, Duration::from_secs(60)).await;

    let mut socket = connect(address, &certificate, "http/1.1").await.unwrap();
    let answer = ask(&mut socket).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nhttps"), "{answer}");

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
    assert_eq!(frame[3], 4, "the server's settings come first");
}

#[tokio::test]
async fn a_new_pair_is_shown_to_new_connections() {
    let pairs = Pairs::new();
    let first = pairs.write("first");
    let (address, _end) = serve(&pairs, Duration::from_secs(60)).await;
    let mut before = connect(address, &first, "http/1.1").await.unwrap();
    ask(&mut before).await;

    let second = pairs.write("the second");
    let mut after = connect_soon(address, &second).await;
    ask(&mut after).await;
    connect(address, &first, "http/1.1").await.unwrap_err();
    ask(&mut before).await;
}

#[tokio::test]
async fn a_new_pair_that_is_none_changes_nothing() {
    let pairs = Pairs::new();
    let certificate = pairs.write("first");
    let (address, _end) = serve(&pairs, Duration::from_secs(60)).await;
    let good = fs::read(pairs.certificate()).unwrap();
    let other = Pairs::new();
    other.write("of somebody else");

    fs::write(pairs.certificate(), "no certificate").unwrap();
    looked_at().await;
    connect(address, &certificate, "http/1.1").await.unwrap();
    fs::copy(other.certificate(), pairs.certificate()).unwrap();
    looked_at().await;
    connect(address, &certificate, "http/1.1").await.unwrap();
    fs::remove_file(pairs.key()).unwrap();
    looked_at().await;
    connect(address, &certificate, "http/1.1").await.unwrap();
    fs::write(pairs.certificate(), good).unwrap();
    looked_at().await;
    connect(address, &certificate, "http/1.1").await.unwrap();
    // And what is one is taken again.
    let third = pairs.write("the third name");
    connect_soon(address, &third).await;
}

#[tokio::test]
async fn who_does_not_encrypt_is_refused_at_once() {
    let pairs = Pairs::new();
    pairs.write("first");
    let (address, _end) = serve(&pairs, Duration::from_secs(60)).await;
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    // The connection ends, orderly or not.
    let refused = tokio::time::timeout(AT_ONCE, socket.read_to_end(&mut answer));
    let _ = refused.await.expect("the handshake's limit is longer");
    assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
}

#[tokio::test]
async fn who_is_silent_keeps_nobody_waiting() {
    let pairs = Pairs::new();
    let certificate = pairs.write("first");
    let (address, end) = serve(&pairs, Duration::from_secs(60)).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut socket = connect(address, &certificate, "http/1.1").await.unwrap();
    ask(&mut socket).await;
    drop(socket);
    // A stop gives up the handshake.
    let ended = tokio::time::timeout(AT_ONCE, end);
    ended.await.expect("the handshake's limit is longer");
    assert!(!matches!(silent.read(&mut [0]).await, Ok(1..)));
}

#[tokio::test]
async fn a_handshake_has_a_limit() {
    let pairs = Pairs::new();
    pairs.write("first");
    let (address, _end) = serve(&pairs, Duration::from_millis(50)).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    assert!(!matches!(silent.read(&mut [0]).await, Ok(1..)));
}

#[tokio::test]
async fn a_handler_ends_when_its_client_leaves() {
    let pairs = Pairs::new();
    let certificate = pairs.write("first");
    let server = Server::bind(ServeOptions {
        tls: Some(Arc::new(pairs.read().unwrap())),
        ..options()
    });
    let server = server.await.unwrap();
    let address = server.address();
    let (began, begun) = oneshot::channel();
    let (dropped, was_dropped) = oneshot::channel();
    let signals = Mutex::new(Some((began, Dropped(Some(dropped)))));
    let endpoint = poem::endpoint::make(move |_| {
        let signals = signals.lock().unwrap().take();
        async move {
            let (began, _guard) = signals.unwrap();
            began.send(()).unwrap();
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
    begun.await.unwrap();
    // Without a word of TLS, as when a process is killed.
    drop(socket);
    was_dropped.await.unwrap();
}

#[test]
fn what_is_wrong_is_said_with_the_file() {
    let pairs = Pairs::new();
    let check = |cause: &str| {
        let message = pairs.read().unwrap_err().to_string();
        assert!(message.contains(cause), "{message}");
        let option = cause.starts_with("key").then_some("--ssl-key-file");
        assert!(message.contains(option.unwrap_or("--ssl-cert-file")));
    };
    check("certificate: No such file");
    pairs.write("first");
    let other = Pairs::new();
    other.write("second");
    fs::copy(other.certificate(), pairs.certificate()).unwrap();
    check("key: keys may not be consistent");
    fs::write(pairs.key(), "-----BEGIN NOTHING-----").unwrap();
    check("key: ");
    fs::write(pairs.key(), "").unwrap();
    check("key: there is no private key in it");
    fs::copy(pairs.certificate(), pairs.key()).unwrap();
    check("key: there is no private key in it");
    fs::write(pairs.certificate(), "").unwrap();
    check("certificate: there is no certificate in it");
    fs::write(pairs.certificate(), vec![b'x'; (1 << 20) + 1]).unwrap();
    check("certificate: it has more than 1048576 bytes");
}
