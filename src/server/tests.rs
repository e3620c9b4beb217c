use std::sync::Mutex;
use std::time::Duration;

use poem::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::*;
use crate::api::{self, ApiSettings, BodyRules, Endpoints, MAX_BODY_BYTES};
use crate::model::{ModelState, PreparationPool};

pub(super) fn options() -> ServeOptions {
    ServeOptions {
        host: "127.0.0.1".to_owned(),
        port: 0,
        allowed_origins: vec!["https://app.example".to_owned()],
        allowed_hosts: Vec::new(),
        keys: Arc::default(),
        tls: None,
        connection_limits: ConnectionLimits {
            total: 64,
            per_address: 64,
        },
        idle_timeout: Duration::from_secs(60),
        stop_timeout: Duration::from_secs(60),
    }
}

/// Sends a request on a new connection and returns the whole response.
async fn send(address: SocketAddr, head: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(format!("{head}connection: close\r\n\r\n").as_bytes())
        .await
        .unwrap();
    let mut response = String::new();
    socket.read_to_string(&mut response).await.unwrap();
    response
}

/// Starts a server that responds "hello" until the returned sender is dropped.
async fn hello_server() -> (SocketAddr, oneshot::Sender<()>) {
    let server = Server::bind(options()).await.unwrap();
    let (address, (stop, stopped)) = (server.address(), oneshot::channel());
    let endpoint = poem::endpoint::make_sync(|_| "hello").map_to_response();
    tokio::spawn(server.serve(
        endpoint,
        async { drop(stopped.await) },
        std::future::pending(),
    ));
    (address, stop)
}

#[tokio::test]
async fn only_local_and_allowed_hosts_and_origins_are_accepted() {
    let (address, _stop) = hello_server().await;
    for (head, status) in [
        ("host: localhost:1\r\n", 200),
        ("host: 127.0.0.1\r\n", 200),
        ("host: [::1]:8080\r\n", 200),
        ("host: rebound.example\r\n", 403),
        ("host: localhost.example\r\n", 403),
        ("host: [::1].evil.com\r\n", 403),
        ("host: [localhost]\r\n", 403),
        ("host: 127.0.0.1:1@evil.com\r\n", 403),
        ("host: 127.0.0.1@evil.com\r\n", 403),
        ("host: 127.0.0.1:+80\r\n", 403),
        ("host: localhost:80:80\r\n", 403),
        ("host: 127.0.0.1.evil.com\r\n", 403),
        ("host: .localhost\r\n", 403),
        ("host: localhost\r\norigin: http://localhost:3000\r\n", 200),
        ("host: localhost\r\norigin: https://app.example\r\n", 200),
        ("host: localhost\r\norigin: https://evil.example\r\n", 403),
        ("host: localhost\r\norigin: null\r\n", 403),
    ] {
        let response = send(address, &format!("GET / HTTP/1.1\r\n{head}")).await;
        assert!(
            response.starts_with(&format!("HTTP/1.1 {status} ")),
            "{head} {response}"
        );
    }
}

/// Sends a request with the header lines `head` to a server with these allowed hosts. Returns the status.
async fn status_with_allowed_hosts(hosts: &[&str], head: &str) -> String {
    let server = Server::bind(ServeOptions {
        allowed_hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        ..options()
    });
    let server = server.await.unwrap();
    let address = server.address();
    let endpoint = poem::endpoint::make_sync(|_| "hello").map_to_response();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(
        endpoint,
        async { drop(stopped.await) },
        std::future::pending(),
    ));
    let response = send(address, &format!("GET / HTTP/1.1\r\n{head}")).await;
    drop(stop);
    serving.await.unwrap();
    response[9..12].to_owned()
}

#[tokio::test]
async fn allowed_hosts_are_accepted_as_host_and_as_origin() {
    let named = &["app.example", ".birds.example:8443"][..];
    for (hosts, head, status) in [
        (named, "host: app.example:8080\r\n", "200"),
        (named, "host: localhost\r\n", "200"),
        (named, "host: a.birds.example:8443\r\n", "200"),
        (named, "host: a.birds.example\r\n", "403"),
        (named, "host: rebound.example\r\n", "403"),
        (
            named,
            "host: app.example\r\norigin: https://app.example\r\n",
            "200",
        ),
        (
            named,
            "host: localhost\r\norigin: https://birds.example:8443\r\n",
            "200",
        ),
        (
            named,
            "host: app.example\r\norigin: https://evil.example\r\n",
            "403",
        ),
        (&["*"], "host: any.example\r\n", "200"),
        (
            &["*"],
            "host: any.example\r\norigin: http://any.example\r\n",
            "200",
        ),
        (
            &["*"],
            "host: any.example\r\norigin: http://evil.example\r\n",
            "403",
        ),
        (&["*"], "host: any.example\r\norigin: null\r\n", "403"),
    ] {
        assert_eq!(
            status_with_allowed_hosts(hosts, head).await,
            status,
            "{hosts:?} {head}"
        );
    }
}

#[test]
fn allowed_hosts_restrict_a_server_on_a_public_address() {
    let address = SocketAddr::from(([0, 0, 0, 0], 8080));
    let policy = |hosts: &[&str]| {
        let hosts: Vec<AllowedHost> = hosts.iter().map(|host| host.parse().unwrap()).collect();
        HostOriginPolicy::new(&Scheme::HTTP, "0.0.0.0", address, &[], &hosts)
    };
    assert!(policy(&[]).allows_host("rebound.example") && !policy(&[]).restricts_hosts());
    assert!(policy(&["app.example"]).restricts_hosts());
    for (host, allowed) in [
        ("app.example:8080", true),
        ("localhost:8080", true),
        ("10.0.0.5:8080", true),
        ("[fe80::1]:8080", true),
        ("rebound.example", false),
        ("[rebound.example", false),
    ] {
        assert_eq!(
            policy(&["app.example"]).allows_host(host),
            allowed,
            "{host}"
        );
    }
}

#[tokio::test]
async fn a_request_must_have_exactly_one_allowed_host() {
    let (address, _stop) = hello_server().await;
    for (head, status) in [
        ("GET / HTTP/1.1\r\n", 400),
        (
            "GET / HTTP/1.1\r\nhost: localhost\r\nhost: localhost\r\n",
            400,
        ),
        ("GET / HTTP/1.1\r\nhost:\r\n", 403),
        ("GET / HTTP/1.1\r\nhost: localhost\r\n", 200),
        ("GET / HTTP/1.0\r\n", 400),
        ("GET / HTTP/1.0\r\nhost: localhost\r\n", 200),
        // The host of the request target and the Host header are both checked.
        (
            "GET http://localhost/ HTTP/1.1\r\nhost: evil.example\r\n",
            403,
        ),
        (
            "GET http://evil.example/ HTTP/1.1\r\nhost: localhost\r\n",
            403,
        ),
        ("GET http://localhost/ HTTP/1.1\r\nhost: localhost\r\n", 200),
    ] {
        let response = send(address, head).await;
        assert!(
            response[9..].starts_with(&status.to_string()),
            "{head} {response}"
        );
        if status != 200 {
            assert!(
                response.contains(r#""type":"invalid_request_error""#),
                "{response}"
            );
        }
    }
}

#[test]
fn the_servers_own_origin_is_allowed() {
    let (http, https) = (&Scheme::HTTP, &Scheme::HTTPS);
    for (scheme, port, origin, is_own) in [
        (http, 8080, "http://birds.example:8080", true),
        (http, 8080, "https://birds.example:8080", false),
        (https, 8443, "https://birds.example:8443", true),
        (https, 8443, "http://birds.example:8443", false),
        (https, 8443, "https://birds.example", false),
        (https, 443, "https://birds.example", true),
        (http, 80, "http://birds.example", true),
        (http, 443, "http://birds.example", false),
    ] {
        let address = SocketAddr::from(([10, 0, 0, 1], port));
        let policy = HostOriginPolicy::new(scheme, "birds.example", address, &[], &[]);
        assert_eq!(
            policy.allows_origin(origin),
            is_own,
            "{scheme} {port} {origin}"
        );
    }
}

#[tokio::test]
async fn an_allowed_origin_gets_cors_headers() {
    let (address, _stop) = hello_server().await;
    let head = "host: localhost\r\norigin: https://app.example\r\n";
    let response = send(address, &format!("GET / HTTP/1.1\r\n{head}")).await;
    assert!(
        response.contains("access-control-allow-origin: https://app.example\r\n"),
        "{response}"
    );
    let preflight = format!(
        "OPTIONS / HTTP/1.1\r\n{head}access-control-request-method: POST\r\naccess-control-request-headers: content-type\r\n"
    );
    let response = send(address, &preflight).await;
    assert!(
        response.contains("access-control-allow-methods"),
        "{response}"
    );
    assert!(
        response.contains("access-control-allow-credentials: true\r\n"),
        "{response}"
    );
    assert!(
        !response.contains("hello"),
        "a preflight must not reach the handler: {response}"
    );
}

#[tokio::test]
async fn an_options_request_that_is_not_a_preflight_returns_the_methods() {
    let (address, _stop) = hello_server().await;
    let origin = "origin: https://app.example\r\n";
    let method = "access-control-request-method: POST\r\n";
    for headers in ["", origin, method] {
        let request = format!("OPTIONS /completion HTTP/1.1\r\nhost: localhost\r\n{headers}");
        let response = send(address, &request).await;
        assert!(response.starts_with("HTTP/1.1 200"), "{response}");
        assert!(!response.contains("hello"), "{response}");
        assert!(response.contains("allow: POST, OPTIONS\r\n"), "{response}");
        for header in [
            "access-control-allow-origin: https://app.example",
            "access-control-allow-credentials: true",
            "access-control-allow-methods: POST",
        ] {
            let has_header = response.contains(&format!("{header}\r\n"));
            assert_eq!(has_header, headers == origin, "{response}");
        }
    }
    let nowhere = "OPTIONS /nowhere HTTP/1.1\r\nhost: localhost\r\n";
    let response = send(address, nowhere).await;
    assert!(response.starts_with("HTTP/1.1 404"), "{response}");
    assert!(response.contains("\"not_found_error\""), "{response}");
}

#[tokio::test]
async fn every_response_has_a_request_id() {
    let (address, _stop) = hello_server().await;
    let response = send(
        address,
        "GET / HTTP/1.1\r\nhost: localhost\r\nx-request-id: mine-7\r\n",
    )
    .await;
    assert!(response.contains("x-request-id: mine-7\r\n"), "{response}");
    let response = send(
        address,
        "GET / HTTP/1.1\r\nhost: localhost\r\nx-request-id: a b\r\n",
    )
    .await;
    let id = response
        .split("x-request-id: ")
        .nth(1)
        .unwrap()
        .split('\r')
        .next()
        .unwrap();
    assert_eq!(id.len(), 32, "{response}");
}

/// Sends a message when it is dropped.
pub(super) struct NotifyOnDrop(pub(super) Option<oneshot::Sender<()>>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        let _ = self.0.take().unwrap().send(());
    }
}

#[tokio::test]
async fn a_handler_is_dropped_when_its_client_disconnects() {
    let server = Server::bind(options()).await.unwrap();
    let address = server.address();
    let (start, started) = oneshot::channel();
    let (dropped, was_dropped) = oneshot::channel();
    let signals = Mutex::new(Some((start, NotifyOnDrop(Some(dropped)))));
    let endpoint = poem::endpoint::make(move |_: Request| {
        let signals = signals.lock().unwrap().take();
        async move {
            if let Some((start, _guard)) = signals {
                start.send(()).unwrap();
                std::future::pending::<()>().await;
            }
            "never"
        }
    });
    tokio::spawn(server.serve(
        endpoint.map_to_response(),
        std::future::pending(),
        std::future::pending(),
    ));
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    started.await.unwrap();
    drop(socket);
    was_dropped.await.unwrap();
}

#[tokio::test]
async fn running_requests_finish_after_a_stop() {
    let server = Server::bind(options()).await.unwrap();
    let address = server.address();
    let (start, started) = oneshot::channel();
    let (finish, finished) = oneshot::channel::<()>();
    let signals = Mutex::new(Some((start, finished)));
    let endpoint = poem::endpoint::make(move |_: Request| {
        let signals = signals.lock().unwrap().take();
        async move {
            let (start, finished) = signals.unwrap();
            start.send(()).unwrap();
            finished.await.unwrap();
            "done"
        }
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(
        endpoint.map_to_response(),
        async { drop(stopped.await) },
        std::future::pending(),
    ));
    let response = tokio::spawn(send(address, "GET / HTTP/1.1\r\nhost: localhost\r\n"));
    started.await.unwrap();
    stop.send(()).unwrap();
    // No connection is accepted once the listener is closed.
    while TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    finish.send(()).unwrap();
    assert!(response.await.unwrap().ends_with("done"));
    serving.await.unwrap();
}

#[tokio::test]
async fn a_forced_stop_aborts_running_requests() {
    let server = Server::bind(options()).await.unwrap();
    let address = server.address();
    let (start, started) = oneshot::channel();
    let start = Mutex::new(Some(start));
    let endpoint = poem::endpoint::make(move |_: Request| {
        let start = start.lock().unwrap().take();
        async move {
            start.unwrap().send(()).unwrap();
            std::future::pending::<&str>().await
        }
    });
    let (stop, stopped) = oneshot::channel::<()>();
    let (force_stop, stop_forced) = oneshot::channel::<()>();
    let serving = tokio::spawn(server.serve(
        endpoint.map_to_response(),
        async { drop(stopped.await) },
        async { drop(stop_forced.await) },
    ));
    let client = tokio::spawn(async move {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket
            .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await
            .unwrap();
        let mut response = Vec::new();
        // The connection ends without a response, with or without an error.
        let _ = socket.read_to_end(&mut response).await;
        response
    });
    started.await.unwrap();
    stop.send(()).unwrap();
    force_stop.send(()).unwrap();
    serving.await.unwrap();
    assert_eq!(client.await.unwrap(), b"");
}

#[tokio::test]
async fn a_client_that_reads_nothing_is_disconnected() {
    let server = Server::bind(ServeOptions {
        idle_timeout: Duration::from_millis(50),
        ..options()
    });
    let server = server.await.unwrap();
    let address = server.address();
    let (body_exists, body_dropped) = oneshot::channel::<()>();
    let body_exists = Mutex::new(Some(body_exists));
    // An endless response body; the channel closes when the body is dropped.
    let endpoint = poem::endpoint::make_sync(move |_| {
        let body_exists = body_exists.lock().unwrap().take();
        let chunks = futures_util::stream::repeat_with(move || {
            let _kept = &body_exists;
            Ok::<_, io::Error>(bytes::Bytes::from_static(&[0; 1 << 16]))
        });
        poem::Body::from_bytes_stream(chunks)
    });
    tokio::spawn(server.serve(
        endpoint.map_to_response(),
        std::future::pending(),
        std::future::pending(),
    ));
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket
        .write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        .await
        .unwrap();
    assert!(body_dropped.await.is_err(), "the sender is never used");
    drop(socket);
}

/// Starts a server with all routes, whose model is still loading. Such a server reports an invalid body before it
/// reports that the model is loading.
async fn loading_server() -> SocketAddr {
    let server = Server::bind(options()).await.unwrap();
    let address = server.address();
    let (_, model) = watch::channel(ModelState::Loading { done: 0.0 });
    let preparations = Arc::new(PreparationPool::new(8).unwrap());
    let settings = ApiSettings {
        endpoints: Endpoints {
            slots: true,
            metrics: true,
            embedding: true,
            change_props: true,
            slot_files: None,
        },
        bodies: BodyRules {
            idle_timeout: Duration::from_secs(60),
            strict: false,
        },
        ..ApiSettings::new(model, preparations)
    };
    tokio::spawn(server.serve(
        api::routes(settings),
        std::future::pending(),
        std::future::pending(),
    ));
    address
}

/// Opens a connection and sends the headers of a POST request, with the header lines `lines`.
async fn connection_with(address: SocketAddr, path: &str, lines: &str) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{lines}\r\n\r\n"
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    socket
}

/// Reads a response that has a Content-Length. Returns the status line and headers in lowercase, and the body.
async fn read_response(socket: &mut TcpStream) -> (String, String) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let length = head.split("content-length: ").nth(1);
    let length = length.map_or(0, |rest| rest.split('\r').next().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    socket.read_exact(&mut body).await.unwrap();
    (head, String::from_utf8(body).unwrap())
}

const TOO_MANY_BYTES: usize = MAX_BODY_BYTES + 1;

#[tokio::test(flavor = "multi_thread")]
async fn a_content_length_beyond_the_limit_is_refused_before_the_body_is_sent() {
    let address = loading_server().await;
    for path in ["/completion", "/v1/chat/completions", "/v1/messages"] {
        for lines in [
            format!("expect: 100-continue\r\ncontent-length: {TOO_MANY_BYTES}"),
            format!("content-length: {TOO_MANY_BYTES}"),
            format!("content-length: {}", u64::MAX / 2),
        ] {
            let mut socket = connection_with(address, path, &lines).await;
            let (head, body) = read_response(&mut socket).await;
            assert!(head.starts_with("http/1.1 413 "), "{path} {lines}: {head}");
            assert!(body.contains("longer than 8388608 bytes"), "{body}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_whose_body_is_too_long_gets_the_error_and_can_send_another_request() {
    let address = loading_server().await;
    let lines = format!("content-length: {TOO_MANY_BYTES}");
    let mut socket = connection_with(address, "/tokenize", &lines).await;
    socket.write_all(&vec![b' '; TOO_MANY_BYTES]).await.unwrap();
    let (head, _) = read_response(&mut socket).await;
    assert!(head.starts_with("http/1.1 413 "), "{head}");
    let next = b"GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n";
    socket.write_all(next).await.unwrap();
    let (head, _) = read_response(&mut socket).await;
    assert!(head.starts_with("http/1.1 200 "), "{head}");

    // Without a Content-Length the size is known only after the body was received.
    let mut socket = connection_with(address, "/tokenize", "transfer-encoding: chunked").await;
    let chunk = [&b"100000\r\n"[..], &vec![b' '; 1 << 20], b"\r\n"].concat();
    for _ in 0..9 {
        socket.write_all(&chunk).await.unwrap();
    }
    let (head, _) = read_response(&mut socket).await;
    assert!(head.starts_with("http/1.1 413 "), "{head}");
}

/// Errors before the body is read: unknown path, wrong method, forbidden origin, unsupported compression.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_gets_the_error_response_although_its_body_is_not_read() {
    let address = loading_server().await;
    let length = 4 << 20;
    for (path, lines, status) in [
        ("/nowhere", "accept: */*", "404"),
        ("/health", "accept: */*", "405"),
        ("/tokenize", "origin: https://evil.example", "403"),
        ("/tokenize", "content-encoding: gzip", "415"),
    ] {
        let lines = format!("{lines}\r\ncontent-length: {length}\r\nconnection: close");
        let mut socket = connection_with(address, path, &lines).await;
        socket.write_all(&vec![b' '; length]).await.unwrap();
        let mut response = Vec::new();
        socket.read_to_end(&mut response).await.unwrap();
        assert_eq!(&response[9..12], status.as_bytes(), "{path} {lines}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_expects_100_continue_gets_it() {
    let body = r#"{"content": "Hello"}"#;
    let lines = format!("expect: 100-continue\r\ncontent-length: {}", body.len());
    let mut socket = connection_with(loading_server().await, "/tokenize", &lines).await;
    let (head, _) = read_response(&mut socket).await;
    assert!(head.starts_with("http/1.1 100 "), "{head}");
    socket.write_all(body.as_bytes()).await.unwrap();
    let (head, body) = read_response(&mut socket).await;
    assert!(head.starts_with("http/1.1 503 "), "{head}");
    assert!(body.contains("Loading model"), "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_body_is_refused_with_an_explanation() {
    let address = loading_server().await;
    for (path, coding, status) in [
        ("/tokenize", "content-encoding: gzip", 415),
        ("/slots/0?action=erase", "content-encoding: zstd", 415),
        (
            "/v1/chat/completions",
            "content-encoding: identity, br",
            415,
        ),
        ("/v1/messages", "content-encoding: Deflate", 415),
        ("/tokenize", "content-encoding: identity", 400),
        ("/tokenize", "content-encoding: ", 400),
    ] {
        // The first bytes of a gzip file.
        let lines = format!("{coding}\r\ncontent-length: 2");
        let mut socket = connection_with(address, path, &lines).await;
        socket.write_all(&[0x1f, 0x8b]).await.unwrap();
        let (head, body) = read_response(&mut socket).await;
        assert_eq!(head[9..12], *status.to_string(), "{path} {coding}: {body}");
        let explains = body.contains("send the body without Content-Encoding");
        assert_eq!(explains, status == 415, "{body}");
    }
}

/// Bytes that silent connections send at first: nothing, a part of the headers, the HTTP/2 preface.
const SILENT_BEGINNINGS: [&[u8]; 3] = [
    b"",
    b"GET / HTTP/1.1\r\nhost: loc",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
];

async fn open_silent_connections(address: SocketAddr) -> Vec<TcpStream> {
    let mut sockets = Vec::new();
    for beginning in SILENT_BEGINNINGS {
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(beginning).await.unwrap();
        sockets.push(socket);
    }
    sockets
}

#[tokio::test]
async fn silent_connections_are_closed_with_every_protocol() {
    let idle_timeout = Duration::from_millis(300);
    let server = Server::bind(ServeOptions {
        idle_timeout,
        ..options()
    });
    let server = server.await.unwrap();
    let address = server.address();
    let endpoint = poem::endpoint::make_sync(|_| "hello").map_to_response();
    let never = std::future::pending;
    tokio::spawn(server.serve(endpoint, never(), never()));
    let mut sockets = open_silent_connections(address).await;
    // This connection is silent after a response.
    let mut idle = TcpStream::connect(address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n";
    idle.write_all(request).await.unwrap();
    sockets.push(idle);
    for (number, mut socket) in sockets.into_iter().enumerate() {
        let mut response = Vec::new();
        let end = socket.read_to_end(&mut response);
        let end = tokio::time::timeout(10 * idle_timeout, end).await;
        assert!(end.is_ok(), "connection {number} stays open");
    }
}

/// Parses HTTP/2 frames. Returns their types and lengths.
fn frames(mut bytes: &[u8]) -> Vec<(u8, usize)> {
    let mut frames = Vec::new();
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = bytes {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        frames.push((*kind, length));
        bytes = rest.get(length..).unwrap_or_default();
    }
    frames
}

#[tokio::test]
async fn an_http2_client_gets_a_goaway_even_if_it_receives_no_response() {
    const DATA: u8 = 0;
    const GOAWAY: u8 = 7;
    let idle_timeout = Duration::from_millis(300);
    let server = Server::bind(ServeOptions {
        idle_timeout,
        ..options()
    });
    let server = server.await.unwrap();
    let address = server.address();
    let endpoint = poem::endpoint::make_sync(|_| "hello").map_to_response();
    let never = std::future::pending;
    tokio::spawn(server.serve(endpoint, never(), never()));
    for window in [0, 100] {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let settings = [0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, window];
        let request = b"\0\0\x0e\x01\x05\0\0\0\x01\x82\x84\x86\x41\x09localhost";
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let beginning = [&preface[..], &settings, request].concat();
        socket.write_all(&beginning).await.unwrap();
        let mut response = Vec::new();
        let end = socket.read_to_end(&mut response);
        let end = tokio::time::timeout(Duration::from_secs(10), end).await;
        assert!(end.is_ok(), "a connection with window {window} stays open");
        let frames = frames(&response);
        let data = frames.iter().find(|(kind, _)| *kind == DATA);
        assert_eq!(data.is_some(), window > 0, "{frames:?}");
        assert!(frames.iter().any(|(kind, _)| *kind == GOAWAY), "{frames:?}");
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_for_silent_connections() {
    let (address, stop) = hello_server().await;
    let sockets = open_silent_connections(address).await;
    assert!(
        send(address, "GET / HTTP/1.1\r\nhost: localhost\r\n")
            .await
            .ends_with("hello")
    );
    drop(stop);
    for mut socket in sockets {
        let mut response = Vec::new();
        let end = socket.read_to_end(&mut response);
        assert!(
            tokio::time::timeout(Duration::from_secs(5), end)
                .await
                .is_ok()
        );
    }
}

#[tokio::test]
async fn health_is_served_when_all_connections_are_in_use() {
    let connection_limits = ConnectionLimits {
        total: 2,
        per_address: 2,
    };
    let server = Server::bind(ServeOptions {
        connection_limits,
        ..options()
    });
    let server = server.await.unwrap();
    let address = server.address();
    let endpoint = poem::endpoint::make(|request: Request| async move {
        if request.uri().path() == "/wait" {
            std::future::pending::<()>().await;
        }
        Ok::<_, poem::Error>("hello")
    });
    let never = std::future::pending;
    tokio::spawn(server.serve(endpoint.map_to_response(), never(), never()));
    let status = |response: String| response[9..12].to_owned();
    let head = |path: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n");
    // Silent connections are evicted by new ones.
    let _silent = open_silent_connections(address).await;
    assert_eq!(status(send(address, &head("/")).await), "200");
    let mut waiting = Vec::new();
    for _ in 0..connection_limits.total {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let request = head("/wait") + "\r\n";
        socket.write_all(request.as_bytes()).await.unwrap();
        waiting.push(socket);
    }
    while status(send(address, &head("/")).await) != "429" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(status(send(address, &head("/health")).await), "200");
    drop(waiting);
    while status(send(address, &head("/")).await) != "200" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
