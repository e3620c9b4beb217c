//! Connections that say nothing or only a part of something, and connections that come and go.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::program;
use crate::target::Target;

/// What the connections send before they are silent: nothing, a part of a header, the preface of HTTP/2, and with it a part of
/// a header there.
const BEGINNINGS: [&[u8]; 4] = [
    b"",
    b"GET /health HTTP/1.1\r\nhost: loc",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\0\0\0\0\x01\x82",
];
/// How long the server waits for a silent connection (`--timeout`), and some time to do it.
const CLOSED_AFTER: Duration = Duration::from_secs(10);
/// How soon `/health` is answered in any case.
const HEALTH_TIME: Duration = Duration::from_secs(2);

/// Connections that are silent from their beginnings on.
pub(crate) async fn open_silent(target: &Target, count: usize) -> Vec<TcpStream> {
    let open = (0..count).map(|number| async move {
        let mut socket = TcpStream::connect(target.host()).await.unwrap();
        // The server may have closed it already.
        let _ = socket
            .write_all(BEGINNINGS[number % BEGINNINGS.len()])
            .await;
        socket
    });
    join_all(open).await
}

/// Takes all places twice over. All silent connections are closed in the end.
pub(crate) async fn silent(target: &Target) {
    let mut sockets = open_silent(target, 2 * crate::MAX_CONNECTIONS).await;
    let time = target.health().await;
    assert!(time < HEALTH_TIME, "/health was answered after {time:?}");
    let closed = sockets
        .iter_mut()
        .map(|socket| closed(socket, CLOSED_AFTER));
    let closed = join_all(closed).await;
    assert!(
        closed.into_iter().all(|closed| closed),
        "a silent connection stayed"
    );
}

/// Whether the server closes the connection in time.
async fn closed(socket: &mut TcpStream, patience: Duration) -> bool {
    let mut answer = Vec::new();
    tokio::time::timeout(patience, socket.read_to_end(&mut answer))
        .await
        .is_ok()
}

/// Connections that end as soon as they have begun, or as soon as they have asked.
pub(crate) async fn flood(target: &Target) {
    for _ in 0..20 {
        let sockets = open_silent(target, 100).await;
        let asked = sockets.into_iter().map(|mut socket| async move {
            let _ = socket
                .write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
                .await;
        });
        join_all(asked).await;
    }
    assert!(target.health().await < HEALTH_TIME);
}

/// Silent connections to a server with TLS, some of which have sent the beginning of a handshake.
pub(crate) async fn silent_tls(count: usize) {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let most = count.to_string();
    let mut command = program::ortolan();
    command.args([
        "--timeout",
        "5",
        "--max-connections",
        &most,
        "--connections-per-address",
        &most,
    ]);
    command
        .arg("--ssl-cert-file")
        .arg(&certificate)
        .arg("--ssl-key-file")
        .arg(&key);
    let (program, address) = program::ready(command);
    let host = address.split_once("://").unwrap().1;

    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = TlsConnector::from(Arc::new(config));
    let silent = (0..2 * count).map(|number| async move {
        let mut socket = TcpStream::connect(host).await.unwrap();
        if number % 2 == 0 {
            let _ = socket.write_all(b"\x16\x03\x01\x02\0\x01\0\x01").await;
        }
        socket
    });
    let mut silent = join_all(silent).await;
    let asked = Instant::now();
    let answer = health(&connector, host).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert!(asked.elapsed() < HEALTH_TIME);
    // After their handshakes they are silent, too.
    let shaken = (0..32).map(|_| connect(&connector, host));
    let mut shaken: Vec<_> = join_all(shaken)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let all_closed = join_all(silent.iter_mut().map(|socket| closed(socket, CLOSED_AFTER))).await;
    assert!(all_closed.into_iter().all(|closed| closed));
    for socket in &mut shaken {
        let mut rest = Vec::new();
        assert!(
            tokio::time::timeout(CLOSED_AFTER, socket.read_to_end(&mut rest))
                .await
                .is_ok()
        );
    }
    let asked = Instant::now();
    assert_eq!(program.stop().code, Some(0));
    assert!(asked.elapsed() < crate::STOP_TIME);
}

async fn connect(
    connector: &TlsConnector,
    host: &str,
) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let socket = TcpStream::connect(host).await?;
    connector
        .connect("localhost".try_into().unwrap(), socket)
        .await
}

async fn health(connector: &TlsConnector, host: &str) -> io::Result<String> {
    let mut socket = connect(connector, host).await?;
    let request = b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    socket.write_all(request).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    Ok(answer)
}
