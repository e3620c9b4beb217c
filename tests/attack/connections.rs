//! Attacks with connections: silent connections, connections with incomplete requests, and many short-lived ones.

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

/// What silent connections send before they stop: nothing, a part of the headers, the HTTP/2 preface, and the preface
/// with a part of the headers.
const BEGINNINGS: [&[u8]; 4] = [
    b"",
    b"GET /health HTTP/1.1\r\nhost: loc",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\0\0\0\0\x01\x82",
];
/// Maximum time until the server closes a silent connection: `--timeout` plus a margin.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum duration of a `/health` request during an attack.
const MAX_HEALTH_DURATION: Duration = Duration::from_secs(2);

/// Opens connections that send one of [`BEGINNINGS`] and then nothing.
pub(crate) async fn open_silent(target: &Target, count: usize) -> Vec<TcpStream> {
    let open = (0..count).map(|number| async move {
        let mut socket = TcpStream::connect(target.host()).await.unwrap();
        // The server may have closed the connection already.
        let _ = socket
            .write_all(BEGINNINGS[number % BEGINNINGS.len()])
            .await;
        socket
    });
    join_all(open).await
}

/// Opens twice as many silent connections as the limit allows. The server must close all of them.
pub(crate) async fn silent(target: &Target) {
    let mut sockets = open_silent(target, 2 * crate::MAX_CONNECTIONS).await;
    let duration = target.health().await;
    assert!(duration < MAX_HEALTH_DURATION, "/health took {duration:?}");
    let closed = sockets.iter_mut().map(is_closed_in_time);
    let closed = join_all(closed).await;
    assert!(
        closed.into_iter().all(|is_closed| is_closed),
        "a silent connection stayed open"
    );
}

/// Whether the server closes the connection within [`CLOSE_TIMEOUT`].
async fn is_closed_in_time(socket: &mut TcpStream) -> bool {
    let mut response = Vec::new();
    tokio::time::timeout(CLOSE_TIMEOUT, socket.read_to_end(&mut response))
        .await
        .is_ok()
}

/// Connections that the client closes right after it has sent a request.
pub(crate) async fn flood(target: &Target) {
    for _ in 0..20 {
        let sockets = open_silent(target, 100).await;
        let requests = sockets.into_iter().map(|mut socket| async move {
            let _ = socket
                .write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
                .await;
        });
        join_all(requests).await;
    }
    assert!(target.health().await < MAX_HEALTH_DURATION);
}

/// Silent connections to a server with TLS; half of them send the beginning of a handshake.
pub(crate) async fn silent_tls(count: usize) {
    let folder = tempfile::tempdir().unwrap();
    let generated = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (certificate, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    std::fs::write(&certificate, generated.cert.pem()).unwrap();
    std::fs::write(&key, generated.signing_key.serialize_pem()).unwrap();
    let max_connections = count.to_string();
    let mut command = program::ortolan();
    command.args([
        "--timeout",
        "5",
        "--max-connections",
        &max_connections,
        "--connections-per-address",
        &max_connections,
    ]);
    command
        .arg("--ssl-cert-file")
        .arg(&certificate)
        .arg("--ssl-key-file")
        .arg(&key);
    let (program, address) = program::ready(command);
    let host = address.split_once("://").unwrap().1;

    let mut roots = RootCertStore::empty();
    roots.add(generated.cert.der().clone()).unwrap();
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
    let started_at = Instant::now();
    let response = health(&connector, host).await.unwrap();
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert!(started_at.elapsed() < MAX_HEALTH_DURATION);
    // These connections are silent after the handshake.
    let encrypted = (0..32).map(|_| connect(&connector, host));
    let mut encrypted: Vec<_> = join_all(encrypted)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    let closed = join_all(silent.iter_mut().map(is_closed_in_time)).await;
    assert!(closed.into_iter().all(|is_closed| is_closed));
    for socket in &mut encrypted {
        let mut rest = Vec::new();
        assert!(
            tokio::time::timeout(CLOSE_TIMEOUT, socket.read_to_end(&mut rest))
                .await
                .is_ok()
        );
    }
    let stop_requested_at = Instant::now();
    assert_eq!(program.stop().code, Some(0));
    assert!(stop_requested_at.elapsed() < crate::MAX_STOP_DURATION);
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
    let mut response = String::new();
    socket.read_to_string(&mut response).await?;
    Ok(response)
}
